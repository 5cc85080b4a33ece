/*
 * detections_written.c: detection by models that write their boxes (PaliGemma, Qwen2.5-VL): one
 * prompt for all queries, a greedy text by the runtime's decoding, and the boxes out of it
 * (core/models/written_boxes.h). A box's score is the geometric mean of the probabilities of the
 * tokens that its four numbers are written with: exp of their mean log-probability.
 */
#include "api/detections.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"

enum {
    /* New tokens at most: a PaliGemma's box takes 6 and more, a Qwen's 40. */
    WRITTEN_TOKENS = 1024,
    WRITTEN_TOKENS_ONE = 256, /* of the one box of an expression */
};

static struct box_label *names_of(struct call *call, const struct detections *state)
{
    struct box_label *names = arena_array(&call->arena, state->n_queries, sizeof *names);
    for (size_t i = 0; i < state->n_queries && names; i++)
        names[i] = (struct box_label){state->queries[i].data, state->queries[i].size};
    return names;
}

enum status detections_ask(struct call *call, enum task task, struct work *work, const char *param,
                           struct error *err)
{
    const struct detections *state = call->state;
    struct generation_params params = call->model->generation;
    size_t max = api_options(call->api)->max_tokens;
    params.max_new_tokens = task == TASK_GROUND ? WRITTEN_TOKENS_ONE : WRITTEN_TOKENS;
    if (max && params.max_new_tokens > max)
        params.max_new_tokens = max;
    params.min_length = params.min_new_tokens = 0;
    params.num_beams = params.n = 1;
    params.do_sample = false;
    work->kind = WORK_GENERATE;
    work->generation = params;

    struct box_label *names = names_of(call, state);
    size_t max_bytes = api_options(call->api)->max_text_bytes;
    struct buffer text;
    buffer_init(&text, SIZE_MAX);
    enum status status = names ? STATUS_OK : error_no_memory(err, "a request");
    size_t bytes = 0;
    for (size_t i = 0; i < state->n_queries && !status; i++)
        if (!size_add(bytes, names[i].size, &bytes) || bytes > max_bytes)
            status = error_set_param(err, STATUS_TOO_LONG, param,
                                     "'%s' has more than the %zu bytes of text that are allowed "
                                     "(model '%.64s' is asked for all of it at once)",
                                     param, max_bytes, call->model->name);
    if (!status && !written_boxes_prompt(call->model->traits.box_writing, names, state->n_queries,
                                         task == TASK_GROUND, &text))
        status = error_no_memory(err, "a prompt");
    if (!status)
        status = work_set_texts(work, 1, err);
    if (!status)
        status = call_prompt(call, task, (struct span){text.data, text.size}, param, 1,
                             &work->texts[0], err);
    buffer_release(&text);
    return status;
}

/* Where each token's text ends in the text of all: ends[n]. */
static enum status find_ends(struct call *call, const struct generated *made, struct buffer *text,
                             size_t *ends, struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < made->n && !status; i++) {
        text->size = 0;
        status = tokenizer_decode(call->model->tokenizer, made->ids, i + 1, false, text, err);
        ends[i] = text->size;
    }
    return status;
}

static float score_of(const struct generated *made, const size_t *ends,
                      const struct written_box *box)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < made->n; i++)
        if (ends[i] > box->begin && (i ? ends[i - 1] : 0) < box->end) {
            sum += (double)made->logprobs[i];
            n++;
        }
    return n ? (float)exp(sum / (double)n) : 0;
}

enum status detections_read_written(struct call *call, struct detection **out, size_t *n,
                                    struct error *err)
{
    const struct detections *state = call->state;
    const struct generated *made = &call->job->works[0].generated[0];
    struct box_label *names = names_of(call, state);
    size_t *ends = arena_array(&call->arena, made->n, sizeof *ends);
    if (!names || !ends)
        return error_no_memory(err, "the boxes");
    struct written_box *boxes = NULL;
    size_t n_boxes = 0, n_lost = 0;
    struct buffer text;
    buffer_init(&text, api_options(call->api)->max_reply_bytes);
    enum status status = find_ends(call, made, &text, ends, err);
    if (!status)
        status = written_boxes_read(call->model->traits.box_writing, text.data ? text.data : "",
                                    text.size, state->seen_width, state->seen_height, &call->arena,
                                    &boxes, &n_boxes, err);
    struct detection *found = status ? NULL : arena_array(&call->arena, n_boxes, sizeof *found);
    if (!status && !found)
        status = error_no_memory(err, "the boxes");
    *n = 0;
    for (size_t i = 0; i < n_boxes && !status; i++) {
        size_t query = written_box_name(&boxes[i].label, names, state->n_queries);
        if (query == SIZE_MAX) {
            n_lost++;
            continue;
        }
        struct detection *each = &found[*n];
        *each = (struct detection){.query = query, .place = (*n)++};
        each->score = score_of(made, ends, &boxes[i]);
        for (size_t k = 0; k < 4; k++)
            each->box[k] =
                boxes[i].corners[k] * (float)(k % 2 ? state->picture_height : state->picture_width);
    }
    buffer_release(&text);
    if (status)
        return status;
    if (n_lost)
        call_warn(call, "the model wrote %zu box%s of what was not asked for; %s left out", n_lost,
                  n_lost == 1 ? "" : "es", n_lost == 1 ? "it is" : "they are");
    if (made->finish == FINISH_LENGTH)
        call_warn(call, "the model's text was cut after %zu tokens: there may be more boxes",
                  made->n);
    *out = found;
    return STATUS_OK;
}
