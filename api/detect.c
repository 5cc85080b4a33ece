/*
 * detect.c: POST /v1/detect: boxes around what texts, or an example picture, name. With
 * `segment_model` each box also gets a mask.
 */
#include "api/detections.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"queries", FIELD_STRINGS, .help = "what to look for (or query_image)"},
    {"query_image", FIELD_IMAGE, .help = "a picture of what to look for"},
    {"threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "boxes of a higher score are given; default 0.1, with query_image 0"},
    {"nms_threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "boxes of one label that overlap a better one by more than this are dropped; default "
             "1 (none), with query_image 0.3"},
    {"max_detections", FIELD_INTEGER, .min = 1, .max = DETECTIONS_MAX,
     .help = "at most so many, the best; default 1000"},
    {NULL},
};

static const struct field reply[] = {
    {"detections", FIELD_ANY, FIELD_REQUIRED,
     .help =
         "[{label, score, box: {xmin, ymin, xmax, ymax}, mask?}], best first; pixels of the "
         "upright picture; label is null with query_image, scores are then relative to the "
         "best; of models that write their boxes (PaliGemma, Qwen2.5-VL) scores are the geometric "
         "mean of the probabilities of the tokens that a box's numbers are written with; mask is "
         "{x, y, width, height, mask, area, box} of the box's part of the picture",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'label': {'type': ['string', 'null']}, "
               "'score': {'type': 'number'}, 'box': {'$ref': '#/components/schemas/Box'}, "
               "'mask': {'$ref': '#/components/schemas/Mask'}}, 'required': ['label', 'score', "
               "'box']}"},
    {"segment_model", FIELD_STRING, .help = "the model that made the masks"},
    {NULL},
};

static enum status begin(struct call *call, struct error *err)
{
    const struct form_value *queries = form_value(&call->form, "queries");
    const struct form_value *example = form_value(&call->form, "query_image");
    if (queries && example)
        return error_set_param(err, STATUS_BAD_REQUEST, "query_image",
                               "give either 'queries' or 'query_image', not both");
    if (!queries && !example)
        return error_set_param(err, STATUS_MISSING_FIELD, "queries",
                               "'queries' (or 'query_image') is missing");
    return detections_begin(call, TASK_DETECT, queries ? queries->strings : NULL,
                            queries ? queries->n : 0, example ? example->pictures : NULL, "queries",
                            err);
}

static enum status put_all(struct call *call, struct error *err)
{
    const struct detections *state = call->state;
    struct json_writer *out = &call->out;
    enum status status = STATUS_OK;
    json_begin_list(out, "detections");
    for (size_t i = 0; i < state->n_found && !status; i++) {
        const struct detection *each = &state->found[i];
        json_begin_object(out, NULL);
        if (state->n_queries)
            json_put_text(out, "label", state->queries[each->query].data,
                          state->queries[each->query].size);
        else
            json_put_null(out, "label");
        status = detection_put(call, each, err);
        json_end_object(out);
    }
    json_end_list(out);
    detections_end(call);
    return status;
}

static enum status finish(struct call *call, struct error *err)
{
    const struct detections *state = call->state;
    const struct form *form = &call->form;
    if (call->stage++ == 0) {
        bool by_example = state->example != NULL, submitted = false;
        const struct detection_options options = {
            .threshold = (float)form_number(form, "threshold", by_example ? 0 : 0.1),
            .nms_threshold = (float)form_number(form, "nms_threshold", by_example ? 0.3 : 1),
            .max = (size_t)form_integer(form, "max_detections", DETECTIONS_DEFAULT),
        };
        enum status status = detections_find(call, &options, err);
        if (!status)
            status = detections_segment(call, &submitted, err);
        if (status || submitted)
            return status;
    } else if (call->job->works[0].error.status) {
        *err = call->job->works[0].error;
        return err->status;
    }
    return put_all(call, err);
}

const struct endpoint endpoint_detect = {
    .method = "POST",
    .path = "/v1/detect",
    .id = "detect",
    .tag = "vision",
    .summary = "Find what texts or an example picture name",
    .body = BODY_FORMS,
    .fields = fields,
    .more_fields = detection_mask_fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'queries': ['a square']}",
    .uses_model = true,
    .task = TASK_DETECT,
    .begin = begin,
    .finish = finish,
};
