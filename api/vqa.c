/*
 * vqa.c: POST /v1/vqa: a question about a picture. Models that write answer by generation; models
 * with a fixed list of answers (traits.labels) give the likeliest of them.
 *
 * top_k: how many answers to give. A generating model finds them by beam search of that width,
 * unless it samples; then top_k is the sampler's.
 */
#include "api/generation.h"

#include <stdlib.h>
#include <string.h>

enum { ANSWERS_DEFAULT = 5, ANSWERS_MAX = 1000 };

static const struct field fields[] = {
    {"image", FIELD_IMAGE, .help = "the picture (or images)"},
    {"images", FIELD_IMAGES, .help = "several pictures, for models that take them"},
    {"question", FIELD_STRING, FIELD_REQUIRED, .help = "the question"},
    {NULL},
};

static const struct field reply[] = {
    {"answer", FIELD_STRING, FIELD_REQUIRED, .help = "the best answer"},
    {"score", FIELD_NUMBER, FIELD_REQUIRED, .help = "its probability (per token, for generators)"},
    {"answers", FIELD_ANY, FIELD_REQUIRED, .help = "[{answer, score}], best first",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'answer': {'type': 'string'}, 'score': {'type': 'number'}}, "
               "'required': ['answer', 'score']}"},
    {NULL},
};

/* The pictures of `image` or `images`. */
static enum status find_images(struct call *call, const struct form_value **out, struct error *err)
{
    const struct form_value *one = form_value(&call->form, "image");
    const struct form_value *many = form_value(&call->form, "images");
    if (one && many)
        return error_set_param(err, STATUS_BAD_REQUEST, "images",
                               "give either 'image' or 'images', not both");
    if (!one && !many)
        return error_set_param(err, STATUS_MISSING_FIELD, "image", "'image' is missing");
    size_t n = many ? many->n : 1;
    size_t max = call->model->traits.max_images ? call->model->traits.max_images : 1;
    if (n > max)
        return error_set_param(err, STATUS_UNPROCESSABLE, "images",
                               "model '%.64s' takes %zu picture%s a question, not %zu",
                               call->model->name, max, max == 1 ? "" : "s", n);
    *out = many ? many : one;
    return STATUS_OK;
}

static enum status read_answer_count(struct call *call, struct work *work, struct error *err)
{
    long long n = form_integer(&call->form, "top_k", 0);
    if (n <= 0 || work->generation.do_sample)
        return STATUS_OK;
    if (n > GENERATION_BEAMS_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "top_k",
                               "'top_k' answers of a generating model can be at most %d",
                               GENERATION_BEAMS_MAX);
    if (work->generation.num_beams < (size_t)n)
        work->generation.num_beams = (size_t)n;
    work->generation.n = (size_t)n;
    return STATUS_OK;
}

static enum status begin(struct call *call, struct error *err)
{
    const struct form *form = &call->form;
    const struct form_value *images = NULL;
    enum status status = find_images(call, &images, err);
    if (!status)
        status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct span question = form_string(form, "question", "");
    if (!question.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "question", "'question' is empty");

    struct job *job = call_job(call, TASK_VQA, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    status = generation_read(call, work, GENERATION_TOP_K_ANSWERS, err);
    if (call->model->traits.labels) {
        work->kind = WORK_PAIR;
    } else {
        work->kind = WORK_GENERATE;
        if (!status)
            status = read_answer_count(call, work, err);
    }
    if (!status)
        status = work_set_texts(work, 1, err);
    if (!status)
        status = call_prompt(call, TASK_VQA, question, "question", images->n, &work->texts[0], err);
    if (!status)
        status = work_set_images(work, images->n, err);
    for (size_t i = 0; i < images->n && !status; i++)
        status = call_pixels(call, &images->pictures[i], &work->images[i], err);
    if (status) {
        job_free(job);
        return status;
    }
    call_submit(call, job);
    return STATUS_OK;
}

struct answer {
    struct span text;
    float score;
};

static int by_score(const void *a, const void *b)
{
    float x = ((const struct answer *)a)->score, y = ((const struct answer *)b)->score;
    return (x < y) - (x > y);
}

static enum status read_labels(struct call *call, const struct work *work, struct answer **out,
                               size_t *n, struct error *err)
{
    const struct model_traits *traits = &call->model->traits;
    struct answer *answers = arena_array(&call->arena, traits->n_outputs, sizeof *answers);
    if (!answers)
        return error_no_memory(err, "the answers");
    for (size_t i = 0; i < traits->n_outputs; i++)
        answers[i] =
            (struct answer){{traits->labels[i], strlen(traits->labels[i])}, work->outputs[i]};
    qsort(answers, traits->n_outputs, sizeof *answers, by_score);
    size_t want = (size_t)form_integer(&call->form, "top_k", ANSWERS_DEFAULT);
    if (want == 0 || want > ANSWERS_MAX)
        want = ANSWERS_MAX;
    *n = want < traits->n_outputs ? want : traits->n_outputs;
    *out = answers;
    return STATUS_OK;
}

static enum status read_generated(struct call *call, const struct work *work, struct answer **out,
                                  size_t *n, struct error *err)
{
    struct answer *answers = arena_array(&call->arena, work->n_generated, sizeof *answers);
    if (!answers)
        return error_no_memory(err, "the answers");
    enum status status = STATUS_OK;
    for (size_t i = 0; i < work->n_generated && !status; i++)
        status = generation_text(call, work, i, &answers[i].text, &answers[i].score, err);
    *out = answers;
    *n = work->n_generated;
    return status;
}

static enum status finish(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    struct answer *answers = NULL;
    size_t n = 0;
    enum status status = work->kind == WORK_PAIR ? read_labels(call, work, &answers, &n, err)
                                                 : read_generated(call, work, &answers, &n, err);
    if (status)
        return status;
    if (!n)
        return error_set(err, STATUS_INTERNAL, "the model gave no answer");
    if (call->stream.wanted && (status = stream_text(call, 0, answers[0].text, err)))
        return status;
    json_put_text(out, "answer", answers[0].text.data, answers[0].text.size);
    json_put_float(out, "score", answers[0].score);
    json_begin_list(out, "answers");
    for (size_t i = 0; i < n; i++) {
        json_begin_object(out, NULL);
        json_put_text(out, "answer", answers[i].text.data, answers[i].text.size);
        json_put_float(out, "score", answers[i].score);
        json_end_object(out);
    }
    json_end_list(out);
    if (call->stream.wanted) {
        if (work->kind == WORK_GENERATE)
            json_put_string(out, "finish_reason", finish_reason_name(work->generated[0].finish));
        generation_put_usage(out, call->job);
    }
    return STATUS_OK;
}

const struct endpoint endpoint_vqa = {
    .method = "POST",
    .path = "/v1/vqa",
    .id = "vqa",
    .tag = "language",
    .summary = "Answer a question about a picture",
    .body = BODY_FORMS,
    .fields = fields,
    .more_fields = generation_fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'question': 'what colour is it?'}",
    .uses_model = true,
    .task = TASK_VQA,
    .begin = begin,
    .finish = finish,
    .delta = generation_delta,
};
