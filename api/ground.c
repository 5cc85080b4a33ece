/*
 * ground.c: POST /v1/ground: the one box that an expression refers to. With `segment_model` it also
 * gets a mask.
 */
#include "api/detections.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"expression", FIELD_STRING, FIELD_REQUIRED, .help = "what the box is to be around"},
    {NULL},
};

static const struct field reply[] = {
    {"box", FIELD_OBJECT, FIELD_REQUIRED,
     .help = "{xmin, ymin, xmax, ymax} in pixels of the upright picture; null where a model that "
             "writes its boxes wrote none",
     .schema = "'anyOf': [{'$ref': '#/components/schemas/Box'}, {'type': 'null'}]"},
    {"score", FIELD_NUMBER, FIELD_REQUIRED,
     .help = "its probability (per token of its numbers, of models that write); 0 without a box"},
    {"mask", FIELD_OBJECT, .help = "{x, y, width, height, mask, area, box}, with segment_model",
     .schema = "'$ref': '#/components/schemas/Mask'"},
    {"segment_model", FIELD_STRING, .help = "the model that made the mask"},
    {NULL},
};

static enum status begin(struct call *call, struct error *err)
{
    struct span *expression = arena_alloc(&call->arena, sizeof *expression);
    if (!expression)
        return error_no_memory(err, "a request");
    *expression = form_string(&call->form, "expression", "");
    if (!expression->size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "expression", "'expression' is empty");
    return detections_begin(call, TASK_GROUND, expression, 1, NULL, "expression", err);
}

static enum status finish(struct call *call, struct error *err)
{
    const struct detections *state = call->state;
    enum status status = STATUS_OK;
    if (call->stage++ == 0) {
        static const struct detection_options options = {
            .best_only = true, .nms_threshold = 1, .max = 1};
        bool submitted = false;
        status = detections_find(call, &options, err);
        if (!status)
            status = detections_segment(call, &submitted, err);
        if (status || submitted)
            return status;
    } else if (call->job->works[0].error.status) {
        *err = call->job->works[0].error;
        return err->status;
    }
    if (state->n_found) {
        status = detection_put(call, &state->found[0], err);
    } else {
        json_put_float(&call->out, "score", 0);
        json_put_null(&call->out, "box");
    }
    detections_end(call);
    return status;
}

const struct endpoint endpoint_ground = {
    .method = "POST",
    .path = "/v1/ground",
    .id = "ground",
    .tag = "vision",
    .summary = "Find the one thing that an expression refers to",
    .body = BODY_FORMS,
    .fields = fields,
    .more_fields = detection_mask_fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'expression': 'the square on the left'}",
    .uses_model = true,
    .task = TASK_GROUND,
    .begin = begin,
    .finish = finish,
};
