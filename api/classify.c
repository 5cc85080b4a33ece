/*
 * classify.c: POST /v1/classify: zero-shot classification by a dual encoder. Each label is put into
 * the template, embedded as a text (the runtime keeps recent ones), and compared with the picture:
 * softmax(scale · cosine + bias) over the labels, or each label's own sigmoid (DESIGN §5).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/endpoint.h"
#include "core/base/size.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"labels", FIELD_STRINGS, FIELD_REQUIRED, .help = "the labels to choose from"},
    {"template", FIELD_STRING,
     .help = "a sentence with {} where the label goes; default: "
             "'a photo of a {}'"},
    {NULL},
};

static const struct field reply[] = {
    {"labels", FIELD_ANY, FIELD_REQUIRED, .help = "[{label, score}], best first",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'label': {'type': 'string'}, 'score': {'type': 'number'}}, "
               "'required': ['label', 'score']}"},
    {NULL},
};

/* The template with every {} replaced, in the arena. */
static enum status fill_template(struct call *call, struct span template, struct span label,
                                 struct span *out, struct error *err)
{
    struct buffer text;
    buffer_init(&text, api_options(call->api)->max_text_bytes);
    const char *at = template.data, *end = template.data + template.size;
    bool fits = true;
    while (at < end && fits) {
        const char *hole = memmem(at, (size_t)(end - at), "{}", 2);
        fits = buffer_append(&text, at, (size_t)((hole ? hole : end) - at));
        if (hole)
            fits = fits && buffer_append(&text, label.data, label.size);
        at = hole ? hole + 2 : end;
    }
    enum status status = STATUS_OK;
    if (!fits) {
        status = error_set_param(err, STATUS_TOO_LONG, "labels",
                                 "a label in its template is over %zu bytes of text",
                                 api_options(call->api)->max_text_bytes);
    } else {
        out->size = text.size;
        out->data = arena_string(&call->arena, text.data, text.size);
        if (!out->data)
            status = error_no_memory(err, "the labels");
    }
    buffer_release(&text);
    return status;
}

static enum status begin(struct call *call, struct error *err)
{
    const struct form_value *labels = form_value(&call->form, "labels");
    struct span template = form_string(&call->form, "template", "a photo of a {}");
    if (!memmem(template.data, template.size, "{}", 2))
        return error_set_param(err, STATUS_UNPROCESSABLE, "template",
                               "'template' must contain {} where the label goes");
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_CLASSIFY, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_ENCODE;
    status = work_set_texts(work, labels->n, err);
    for (size_t i = 0; i < labels->n && !status; i++) {
        struct span text;
        if (!labels->strings[i].size)
            status = error_set_param(err, STATUS_UNPROCESSABLE, "labels", "label %zu is empty", i);
        if (!status)
            status = fill_template(call, template, labels->strings[i], &text, err);
        if (!status)
            status = call_tokens(call, TASK_CLASSIFY, text, "labels", &work->texts[i], err);
    }
    if (!status)
        status = work_set_images(work, 1, err);
    if (!status)
        status =
            call_pixels(call, form_value(&call->form, "image")->pictures, &work->images[0], err);
    if (status) {
        job_free(job);
        return status;
    }
    call_submit(call, job);
    return STATUS_OK;
}

struct scored {
    struct span label;
    double score; /* the logit first, then the probability */
};

static int by_score(const void *a, const void *b)
{
    double x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    return (x < y) - (x > y);
}

/* Logits, best first, to probabilities in place. */
static void to_probabilities(struct scored *scored, size_t n, bool is_sigmoid)
{
    double best = scored[0].score, sum = 0;
    for (size_t i = 0; i < n; i++) {
        scored[i].score =
            is_sigmoid ? 1 / (1 + exp(-scored[i].score)) : exp(scored[i].score - best);
        sum += scored[i].score;
    }
    for (size_t i = 0; i < n && !is_sigmoid; i++)
        scored[i].score /= sum;
}

static enum status finish(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    const struct model_traits *traits = &call->model->traits;
    const struct form_value *labels = form_value(&call->form, "labels");
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    size_t dim = traits->embed_dim;
    const struct features *features = work->features[0];
    if (features->n_rows != 1 || features->dim != dim)
        return error_set(err, STATUS_INTERNAL, "model '%.64s' gives no picture embedding",
                         call->model->name);
    struct scored *scored = arena_array(&call->arena, labels->n, sizeof *scored);
    if (!scored)
        return error_no_memory(err, "the scores");
    for (size_t i = 0; i < labels->n; i++) {
        const float *text = work->text_embeddings + i * dim;
        double cosine = 0;
        for (size_t k = 0; k < dim; k++)
            cosine += (double)features->rows[k] * (double)text[k];
        scored[i].label = labels->strings[i];
        scored[i].score = (double)traits->logit_scale * cosine + (double)traits->logit_bias;
    }
    qsort(scored, labels->n, sizeof *scored, by_score);
    to_probabilities(scored, labels->n, traits->sigmoid_scores);
    json_begin_list(out, "labels");
    for (size_t i = 0; i < labels->n; i++) {
        json_begin_object(out, NULL);
        json_put_text(out, "label", scored[i].label.data, scored[i].label.size);
        json_put_float(out, "score", (float)scored[i].score);
        json_end_object(out);
    }
    json_end_list(out);
    return STATUS_OK;
}

const struct endpoint endpoint_classify = {
    .method = "POST",
    .path = "/v1/classify",
    .id = "classify",
    .tag = "retrieval",
    .summary = "Choose among labels for a picture",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'labels': ['a square', 'a dog']}",
    .uses_model = true,
    .task = TASK_CLASSIFY,
    .begin = begin,
    .finish = finish,
};
