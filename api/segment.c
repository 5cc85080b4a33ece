/*
 * segment.c: POST /v1/segment: for each prompt, or an example picture, how likely each pixel
 * belongs to it. With `detect_model` boxes come first, and masks are 0 outside of them:
 *
 *   begin:  the detector's job, where one is wanted, else the segmenter's
 *   finish: boxes out of it → the segmenter's job (stage 0 → 1)
 *   finish: masks
 */
#include "api/detections.h"

/* Boxes that masks are kept inside of, of all prompts together. */
enum { BOXES_MAX = 100 };

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"prompts", FIELD_STRINGS, .min = 1, .max = MASK_PROMPTS_MAX,
     .help = "what to segment (or query_image)"},
    {"query_image", FIELD_IMAGE, .help = "a picture of what to segment"},
    {"threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "pixels of a higher probability count in area and box; default 0.5"},
    {"detect_model", FIELD_STRING,
     .help = "a detection model that finds boxes first; masks are kept inside of them"},
    {"box_threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "boxes of a higher score are kept; default 0.1, with query_image 0"},
    {NULL},
};

static const struct field reply[] = {
    {"masks", FIELD_ANY, FIELD_REQUIRED,
     .help =
         "[{prompt, width, height, mask (a PNG as data: URL, 8-bit probabilities), area, box}]; "
         "prompt is null with query_image, box where no pixel is above the threshold",
     .schema = "'type': 'array', 'items': {'$ref': '#/components/schemas/Mask'}"},
    {"detect_model", FIELD_STRING,
     .help = "the model that found the boxes; each mask then has boxes: [{score, box}]"},
    {NULL},
};

static enum status fill(struct call *call, struct work *work, const struct form_value *prompts,
                        const struct form_value *example, struct error *err)
{
    size_t n = prompts ? prompts->n : 0;
    work->kind = WORK_PAIR;
    enum status status = work_set_texts(work, n, err);
    for (size_t i = 0; i < n && !status; i++)
        if (!prompts->strings[i].size)
            status = error_set_param(err, STATUS_UNPROCESSABLE, "prompts",
                                     "entry %zu of 'prompts' is empty", i);
        else
            status = call_tokens(call, TASK_SEGMENT, prompts->strings[i], "prompts",
                                 &work->texts[i], err);
    if (!status)
        status = work_set_images(work, example ? 2 : 1, err);
    if (!status)
        status =
            call_pixels(call, form_value(&call->form, "image")->pictures, &work->images[0], err);
    if (!status && example)
        status = call_pixels(call, example->pictures, &work->images[1], err);
    return status;
}

/* The segmenter's job. */
static enum status submit(struct call *call, struct error *err)
{
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_SEGMENT, 1, err);
    if (!job)
        return err->status;
    status = fill(call, &job->works[0], form_value(&call->form, "prompts"),
                  form_value(&call->form, "query_image"), err);
    if (status) {
        job_free(job);
        return status;
    }
    call_submit(call, job);
    return STATUS_OK;
}

/* The detector's job; the segmenter waits as state->mask_lane. */
static enum status begin_with_boxes(struct call *call, const struct form_value *prompts,
                                    const struct form_value *example, struct error *err)
{
    struct lane *segmenter = call->lane;
    struct span name = form_string(&call->form, "detect_model", "");
    if (!name.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "detect_model",
                               "'detect_model' is empty");
    enum status status = call_use_model(call, name.data, TASK_DETECT, err);
    if (status) {
        error_name_param(err, "detect_model");
        return status;
    }
    status = detections_begin(call, TASK_DETECT, prompts ? prompts->strings : NULL,
                              prompts ? prompts->n : 0, example ? example->pictures : NULL,
                              "prompts", err);
    if (!status)
        ((struct detections *)call->state)->mask_lane = segmenter;
    return status;
}

static enum status begin(struct call *call, struct error *err)
{
    const struct form_value *prompts = form_value(&call->form, "prompts");
    const struct form_value *example = form_value(&call->form, "query_image");
    if (prompts && example)
        return error_set_param(err, STATUS_BAD_REQUEST, "query_image",
                               "give either 'prompts' or 'query_image', not both");
    if (!prompts && !example)
        return error_set_param(err, STATUS_MISSING_FIELD, "prompts",
                               "'prompts' (or 'query_image') is missing");
    if (example && !call->model->traits.pairs_by_example)
        return error_set_param(err, STATUS_UNPROCESSABLE, "query_image",
                               "model '%.64s' segments by text only", call->model->name);
    return form_has(&call->form, "detect_model") ? begin_with_boxes(call, prompts, example, err)
                                                 : submit(call, err);
}

/* The pixels that may belong to prompt i: inside of its boxes. */
static struct mask_rect *find_rects(struct call *call, size_t i, size_t *n)
{
    const struct detections *state = call->state;
    struct mask_rect *rects = arena_array(&call->arena, state->n_found, sizeof *rects);
    *n = 0;
    for (size_t k = 0; k < state->n_found && rects; k++)
        if (state->found[k].query == i)
            rects[(*n)++] = detection_pixels(state, &state->found[k]);
    return rects;
}

static void put_boxes(struct call *call, size_t i)
{
    const struct detections *state = call->state;
    json_begin_list(&call->out, "boxes");
    for (size_t k = 0; k < state->n_found; k++)
        if (state->found[k].query == i) {
            json_begin_object(&call->out, NULL);
            detection_put_box(call, &state->found[k]);
            json_end_object(&call->out);
        }
    json_end_list(&call->out);
}

static enum status put_masks(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    const struct detections *boxes = call->state;
    const struct form_value *prompts = form_value(&call->form, "prompts");
    struct json_writer *out = &call->out;
    struct mask mask = {
        .traits = &call->model->traits,
        .logits = work->outputs,
        .picture_width = work->images[0].picture_width,
        .picture_height = work->images[0].picture_height,
        .part = {0, 0, work->images[0].picture_width, work->images[0].picture_height},
        .threshold = (float)form_number(&call->form, "threshold", 0.5),
    };
    enum status status = STATUS_OK;
    json_begin_list(out, "masks");
    for (size_t i = 0; i < work_pairs(work) && !status; i++) {
        if (boxes && !(mask.inside = find_rects(call, i, &mask.n_inside)))
            return error_no_memory(err, "a mask");
        json_begin_object(out, NULL);
        if (prompts)
            json_put_text(out, "prompt", prompts->strings[i].data, prompts->strings[i].size);
        else
            json_put_null(out, "prompt");
        status = mask_put(call, &mask, err);
        if (boxes)
            put_boxes(call, i);
        json_end_object(out);
        mask.logits += mask.traits->n_outputs;
    }
    json_end_list(out);
    if (boxes)
        json_put_string(out, "detect_model", boxes->model->name);
    return status;
}

static enum status finish(struct call *call, struct error *err)
{
    struct detections *boxes = call->state;
    if (call->job->works[0].error.status) {
        *err = call->job->works[0].error;
        return err->status;
    }
    if (!boxes || call->stage++)
        return put_masks(call, err);
    const struct detection_options options = {
        .threshold = (float)form_number(&call->form, "box_threshold", boxes->example ? 0 : 0.1),
        .nms_threshold = boxes->example ? 0.3f : 1,
        .max = BOXES_MAX,
    };
    enum status status = detections_find(call, &options, err);
    call->lane = boxes->mask_lane;
    call->model = lane_model(call->lane);
    return status ? status : submit(call, err);
}

const struct endpoint endpoint_segment = {
    .method = "POST",
    .path = "/v1/segment",
    .id = "segment",
    .tag = "vision",
    .summary = "Segment what texts or an example picture name",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'prompts': ['a square']}",
    .uses_model = true,
    .task = TASK_SEGMENT,
    .begin = begin,
    .finish = finish,
};
