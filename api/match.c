/*
 * match.c: POST /v1/match: how likely each text is to describe the picture, by a model trained to
 * tell matching pairs.
 */
#include "api/endpoint.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"texts", FIELD_STRINGS, FIELD_REQUIRED, .help = "the texts to compare it with"},
    {NULL},
};

static const struct field reply[] = {
    {"scores", FIELD_VECTOR, FIELD_REQUIRED, .help = "the probability of a match, per text"},
    {"cosine", FIELD_VECTOR,
     .help = "the cosine of picture and text, per text, where there is one"},
    {NULL},
};

static enum status begin(struct call *call, struct error *err)
{
    const struct form_value *texts = form_value(&call->form, "texts");
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_MATCH, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_PAIR;
    status = work_set_texts(work, texts->n, err);
    for (size_t i = 0; i < texts->n && !status; i++)
        status = call_tokens(call, TASK_MATCH, texts->strings[i], "texts", &work->texts[i], err);
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

static enum status finish(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    const struct model_traits *traits = &call->model->traits;
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    json_begin_list(out, "scores");
    for (size_t i = 0; i < work->n_texts; i++)
        json_put_float(out, NULL, work->outputs[i * traits->n_outputs]);
    json_end_list(out);
    if (traits->match_cosine && traits->n_outputs > 1) {
        json_begin_list(out, "cosine");
        for (size_t i = 0; i < work->n_texts; i++)
            json_put_float(out, NULL, work->outputs[i * traits->n_outputs + 1]);
        json_end_list(out);
    }
    return STATUS_OK;
}

const struct endpoint endpoint_match = {
    .method = "POST",
    .path = "/v1/match",
    .id = "match",
    .tag = "retrieval",
    .summary = "Tell how well texts describe a picture",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'texts': ['a square', 'a dog']}",
    .uses_model = true,
    .task = TASK_MATCH,
    .begin = begin,
    .finish = finish,
};
