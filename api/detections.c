/*
 * detections.c: see detections.h. Selection follows transformers' post_process_object_detection and
 * post_process_image_guided_detection; NMS is off by default for texts, as there.
 */
#include "api/detections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

const struct field detection_mask_fields[] = {
    {"segment_model", FIELD_STRING,
     .help = "a segmentation model that makes a mask for what is in each box"},
    {"mask_threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "pixels of a higher probability count in a mask's area and box; default 0.5"},
    {NULL},
};

/* ---- the detector's job ------------------------------------------------------------------------
 */

static struct detections *state_of(struct call *call)
{
    return call->state;
}

static enum status find_segmenter(struct call *call, struct detections *state, struct error *err)
{
    if (!form_has(&call->form, "segment_model"))
        return STATUS_OK;
    struct span name = form_string(&call->form, "segment_model", "");
    if (!name.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "segment_model",
                               "'segment_model' is empty");
    enum status status = call_use_model(call, name.data, TASK_SEGMENT, err);
    if (status) {
        error_name_param(err, "segment_model");
        return status;
    }
    state->mask_lane = call->lane;
    call->lane = state->lane;
    call->model = state->model;
    return STATUS_OK;
}

static const struct picture *picture_of(const struct call *call)
{
    return form_value(&call->form, "image")->pictures;
}

/* Each query's tokens, to be scored with the picture. */
static enum status ask_pairs(struct call *call, enum task task, struct work *work,
                             const char *param, struct error *err)
{
    const struct detections *state = state_of(call);
    work->kind = WORK_PAIR;
    enum status status = work_set_texts(work, state->n_queries, err);
    for (size_t i = 0; i < state->n_queries && !status; i++)
        status = call_tokens(call, task, state->queries[i], param, &work->texts[i], err);
    return status;
}

enum status detections_begin(struct call *call, enum task task, const struct span *queries,
                             size_t n_queries, const struct picture *example, const char *param,
                             struct error *err)
{
    struct detections *state = arena_zalloc(&call->arena, 1, sizeof *state);
    if (!state)
        return error_no_memory(err, "a request");
    call->state = state;
    state->lane = call->lane;
    state->model = call->model;
    state->queries = queries;
    state->n_queries = n_queries;
    state->example = example;
    bool writes = call->model->traits.box_writing != BOXES_NOT_WRITTEN;
    if (!call->model->architecture->boxes && !writes)
        return error_set_param(err, STATUS_UNPROCESSABLE, "model",
                               "model '%.64s' gives no boxes here", call->model->name);
    if (example && !call->model->traits.pairs_by_example)
        return error_set_param(err, STATUS_UNPROCESSABLE, example->param,
                               "model '%.64s' finds things by text only", call->model->name);
    for (size_t i = 0; i < n_queries; i++)
        if (!queries[i].size)
            return error_set_param(err, STATUS_UNPROCESSABLE, param, "entry %zu of '%s' is empty",
                                   i, param);
    enum status status = find_segmenter(call, state, err);
    if (!status)
        status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, task, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    status = writes ? detections_ask(call, task, work, param, err)
                    : ask_pairs(call, task, work, param, err);
    if (!status)
        status = work_set_images(work, example ? 2 : 1, err);
    if (!status)
        status = call_pixels(call, picture_of(call), &work->images[0], err);
    if (!status && example)
        status = call_pixels(call, example, &work->images[1], err);
    if (status) {
        job_free(job);
        return status;
    }
    state->picture_width = work->images[0].picture_width;
    state->picture_height = work->images[0].picture_height;
    state->seen_width = work->images[0].width;
    state->seen_height = work->images[0].height;
    call_submit(call, job);
    return STATUS_OK;
}

/* ---- boxes -------------------------------------------------------------------------------------
 */

static int by_score(const void *a, const void *b)
{
    const struct detection *x = a, *y = b;
    if (x->score != y->score)
        return (x->score < y->score) - (x->score > y->score);
    return (x->place > y->place) - (x->place < y->place); /* as a stable sort has it */
}

static float overlap(const float a[4], const float b[4])
{
    float width = fminf(a[2], b[2]) - fmaxf(a[0], b[0]);
    float height = fminf(a[3], b[3]) - fmaxf(a[1], b[1]);
    float both = fmaxf(width, 0) * fmaxf(height, 0);
    float sum = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]);
    return both / (sum - both);
}

/* Drops, of the sorted list, each box that overlaps a better one of its query; returns how many are
 * left. */
static size_t suppress(struct detection *found, size_t n, float threshold)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        bool keep = true;
        for (size_t k = 0; k < kept && keep; k++)
            keep = found[k].query != found[i].query ||
                   !(overlap(found[k].box, found[i].box) > threshold);
        if (keep)
            found[kept++] = found[i];
    }
    return kept;
}

/* Scores by example: 1 for the best, 0 for a tenth of it, which and what is below is dropped. */
static size_t scale(struct detection *found, size_t n)
{
    size_t kept = 0;
    float most = n ? found[0].score + 1e-6f : 0;
    for (size_t i = 0; i < n; i++) {
        float score = (found[i].score - most * 0.1f) / (most * 0.9f);
        if (!(score > 0))
            continue;
        found[kept] = found[i];
        found[kept++].score = fminf(score, 1);
    }
    return kept;
}

/* Each box with the query that it fits best. */
static enum status read_boxes(struct call *call, struct detection **out, size_t *n,
                              struct error *err)
{
    const struct detections *state = state_of(call);
    const struct work *work = &call->job->works[0];
    const struct model *model = call->model;
    size_t n_boxes = model->traits.n_outputs, n_queries = work_pairs(work);
    struct detection *found = arena_array(&call->arena, n_boxes, sizeof *found);
    float *boxes = arena_array(&call->arena, n_boxes, sizeof found->box);
    if (!found || !boxes)
        return error_no_memory(err, "the boxes");
    model->architecture->boxes(model, work->features[0], state->picture_width,
                               state->picture_height, boxes);
    for (size_t i = 0; i < n_boxes; i++) {
        size_t best = 0;
        for (size_t q = 1; q < n_queries; q++)
            if (work->outputs[q * n_boxes + i] > work->outputs[best * n_boxes + i])
                best = q;
        found[i].query = best;
        found[i].place = i;
        found[i].score = 1 / (1 + expf(-work->outputs[best * n_boxes + i]));
        memcpy(found[i].box, boxes + 4 * i, sizeof found[i].box);
    }
    *out = found;
    *n = n_boxes;
    return STATUS_OK;
}

enum status detections_find(struct call *call, const struct detection_options *options,
                            struct error *err)
{
    struct detections *state = state_of(call);
    const struct work *work = &call->job->works[0];
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    struct detection *found = NULL;
    size_t n_boxes = 0, n = 0;
    enum status status = work->kind == WORK_GENERATE
                             ? detections_read_written(call, &found, &n_boxes, err)
                             : read_boxes(call, &found, &n_boxes, err);
    if (status)
        return status;
    for (size_t i = 0; i < n_boxes; i++) {
        /* By example the reference keeps what equals the threshold, but nothing of 0. */
        bool keep = state->example ? found[i].score >= options->threshold && found[i].score > 0
                                   : found[i].score > options->threshold;
        if (options->best_only || keep)
            found[n++] = found[i];
    }
    qsort(found, n, sizeof *found, by_score);
    if (options->best_only && n > 1)
        n = 1;
    if (options->nms_threshold < 1)
        n = suppress(found, n, options->nms_threshold);
    if (state->example)
        n = scale(found, n);
    if (n > options->max) {
        call_warn(call, "%zu boxes were found; the best %zu are kept", n, options->max);
        n = options->max;
    }
    state->found = found;
    state->n_found = n;
    return STATUS_OK;
}

/* ---- masks -------------------------------------------------------------------------------------
 */

enum status detections_segment(struct call *call, bool *submitted, struct error *err)
{
    struct detections *state = state_of(call);
    *submitted = false;
    if (!state->mask_lane || !state->n_found)
        return STATUS_OK;
    call->lane = state->mask_lane;
    call->model = lane_model(call->lane);
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_SEGMENT, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_PAIR;
    state->mask_of = arena_array(&call->arena, state->n_queries, sizeof *state->mask_of);
    size_t n_texts = 0;
    if (!state->mask_of)
        status = error_no_memory(err, "a request");
    for (size_t i = 0; i < state->n_queries && !status; i++)
        state->mask_of[i] = SIZE_MAX;
    for (size_t i = 0; i < state->n_found && state->n_queries && !status; i++)
        if (state->mask_of[state->found[i].query] == SIZE_MAX)
            state->mask_of[state->found[i].query] = n_texts++;
    if (!status && n_texts > MASK_PROMPTS_MAX)
        status = error_set_param(err, STATUS_UNPROCESSABLE, "segment_model",
                                 "boxes of %zu labels were found; masks can be made for %d: raise "
                                 "'threshold' or lower 'max_detections'",
                                 n_texts, MASK_PROMPTS_MAX);
    if (!status)
        status = work_set_texts(work, n_texts, err);
    for (size_t i = 0; i < state->n_queries && !status; i++)
        if (state->mask_of[i] != SIZE_MAX)
            status = call_tokens(call, TASK_SEGMENT, state->queries[i], "queries",
                                 &work->texts[state->mask_of[i]], err);
    if (!status)
        status = work_set_images(work, state->example ? 2 : 1, err);
    if (!status)
        status = call_pixels(call, picture_of(call), &work->images[0], err);
    if (!status && state->example)
        status = call_pixels(call, state->example, &work->images[1], err);
    if (status) {
        job_free(job);
        return status;
    }
    call_submit(call, job);
    *submitted = true;
    return STATUS_OK;
}

static float cut(float x, size_t max)
{
    return fminf(fmaxf(x, 0), (float)max);
}

static void cut_box(const struct detections *state, const struct detection *detection, float out[4])
{
    for (size_t i = 0; i < 4; i++)
        out[i] = cut(detection->box[i], i % 2 ? state->picture_height : state->picture_width);
}

struct mask_rect detection_pixels(const struct detections *state, const struct detection *detection)
{
    float box[4];
    cut_box(state, detection, box);
    size_t x0 = (size_t)floorf(box[0]), x1 = (size_t)ceilf(box[2]);
    size_t y0 = (size_t)floorf(box[1]), y1 = (size_t)ceilf(box[3]);
    x1 = x1 < state->picture_width ? x1 : state->picture_width; /* f32 may round up */
    y1 = y1 < state->picture_height ? y1 : state->picture_height;
    return (struct mask_rect){x0, y0, x1 > x0 ? x1 - x0 : 0, y1 > y0 ? y1 - y0 : 0};
}

void detection_put_box(struct call *call, const struct detection *detection)
{
    float box[4];
    cut_box(state_of(call), detection, box);
    json_put_float(&call->out, "score", detection->score);
    box_put(&call->out, "box", box);
}

enum status detection_put(struct call *call, const struct detection *detection, struct error *err)
{
    struct detections *state = state_of(call);
    struct json_writer *out = &call->out;
    detection_put_box(call, detection);
    if (!state->mask_of)
        return STATUS_OK;
    struct mask mask = {
        .traits = &lane_model(state->mask_lane)->traits,
        .logits = call->job->works[0].outputs,
        .picture_width = state->picture_width,
        .picture_height = state->picture_height,
        .part = detection_pixels(state, detection),
        .threshold = (float)form_number(&call->form, "mask_threshold", 0.5),
    };
    if (!mask.part.width || !mask.part.height) {
        json_put_null(out, "mask");
        return STATUS_OK;
    }
    if (state->n_queries)
        mask.logits += state->mask_of[detection->query] * mask.traits->n_outputs;
    json_begin_object(out, "mask");
    json_put_integer(out, "x", (long long)mask.part.x);
    json_put_integer(out, "y", (long long)mask.part.y);
    enum status status = mask_put(call, &mask, err);
    json_end_object(out);
    return status;
}

void detections_end(struct call *call)
{
    struct detections *state = state_of(call);
    call->lane = state->lane;
    call->model = state->model;
    if (state->mask_lane)
        json_put_string(&call->out, "segment_model", lane_model(state->mask_lane)->name);
}
