/*
 * fill.c: POST /v1/fill: the words behind [MASK] in a text about a picture.
 *
 * The model fills one mask a pass, the surest first, and sees that word when it looks at the next
 * (as the model cards do it): finish() submits the text again, with the picture's features, until
 * no mask is left. There are at most as many passes as the model takes tokens.
 */
#include <stdlib.h>
#include <string.h>

#include "api/endpoint.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"text", FIELD_STRING, FIELD_REQUIRED, .help = "a text with [MASK] where words are wanted"},
    {NULL},
};

static const struct field reply[] = {
    {"text", FIELD_STRING, FIELD_REQUIRED, .help = "the text with all masks filled"},
    {"tokens", FIELD_ANY, FIELD_REQUIRED,
     .help = "[{token, score}] of each mask, in the order of the text; score is its probability "
             "when it was filled",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'token': {'type': 'string'}, 'score': {'type': 'number'}}, "
               "'required': ['token', 'score']}"},
    {NULL},
};

struct state {
    float *scores; /* [n_tokens] of the positions that were filled; -1 elsewhere */
};

static enum status begin(struct call *call, struct error *err)
{
    struct span text = form_string(&call->form, "text", "");
    if (!text.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "text", "'text' is empty");
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_FILL, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_PAIR;
    status = work_set_texts(work, 1, err);
    if (!status)
        status = call_tokens(call, TASK_FILL, text, "text", &work->texts[0], err);
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

static enum status make_state(struct call *call, const struct tokens *tokens, struct error *err)
{
    struct state *state = arena_zalloc(&call->arena, 1, sizeof *state);
    if (state)
        state->scores = arena_array(&call->arena, tokens->n, sizeof *state->scores);
    if (!state || !state->scores)
        return error_no_memory(err, "a request");
    for (size_t i = 0; i < tokens->n; i++)
        state->scores[i] = -1;
    call->state = state;
    return STATUS_OK;
}

/* The same picture's features with the text as it is now. */
static enum status look_again(struct call *call, struct work *from, struct error *err)
{
    struct job *job = call_job(call, TASK_FILL, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_PAIR;
    enum status status = work_set_texts(work, 1, err);
    if (!status)
        status = work_set_images(work, 1, err);
    if (status) {
        job_free(job);
        return status;
    }
    work->texts[0] = from->texts[0];
    from->texts[0] = (struct tokens){0};
    work->features[0] = from->features[0];
    from->features[0] = NULL;
    call_submit(call, job);
    return STATUS_OK;
}

/* As people read it: special tokens left out. */
static enum status put_decoded(struct call *call, const char *key, const int32_t *ids, size_t n,
                               struct error *err)
{
    enum { TEXT_BYTES_MAX = 1 << 20 };
    struct buffer text;
    buffer_init(&text, TEXT_BYTES_MAX);
    enum status status = model_detokenize(call->model, TASK_FILL, NULL, ids, n, &text, err);
    if (!status)
        json_put_text(&call->out, key, text.size ? text.data : "", text.size);
    buffer_release(&text);
    return status;
}

static enum status put_reply(struct call *call, const struct tokens *tokens, struct error *err)
{
    const struct state *state = call->state;
    struct json_writer *out = &call->out;
    enum status status = put_decoded(call, "text", tokens->ids, tokens->n, err);
    json_begin_list(out, "tokens");
    for (size_t i = 0; i < tokens->n && !status; i++)
        if (state->scores[i] >= 0) {
            json_begin_object(out, NULL);
            status = put_decoded(call, "token", &tokens->ids[i], 1, err);
            json_put_float(out, "score", state->scores[i]);
            json_end_object(out);
        }
    json_end_list(out);
    return status;
}

static enum status finish(struct call *call, struct error *err)
{
    struct work *work = &call->job->works[0];
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    struct tokens *tokens = &work->texts[0];
    if (!call->state && make_state(call, tokens, err))
        return err->status;
    struct state *state = call->state;
    float position = work->outputs[0];
    if (!(position >= 0)) /* none in what the model takes of the text */
        return error_set_param(err, STATUS_UNPROCESSABLE, "text",
                               tokens->truncated
                                   ? "the first %zu tokens of 'text', which are all that model "
                                     "'%.64s' takes, have no [MASK]"
                                   : "'text' (%zu tokens for model '%.64s') has no [MASK]",
                               tokens->n, call->model->name);
    size_t at = (size_t)position;
    if (at >= tokens->n || state->scores[at] >= 0)
        return error_set(err, STATUS_INTERNAL, "the model filled a place that has no mask");
    int32_t mask = tokens->ids[at];
    tokens->ids[at] = (int32_t)work->outputs[1];
    state->scores[at] = work->outputs[2];
    for (size_t i = 0; i < tokens->n; i++)
        if (tokens->ids[i] == mask && state->scores[i] < 0)
            return look_again(call, work, err);
    return put_reply(call, tokens, err);
}

const struct endpoint endpoint_fill = {
    .method = "POST",
    .path = "/v1/fill",
    .id = "fill",
    .tag = "language",
    .summary = "Fill the masked words of a text about a picture",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'text': 'a [MASK] on a table'}",
    .uses_model = true,
    .task = TASK_FILL,
    .begin = begin,
    .finish = finish,
};
