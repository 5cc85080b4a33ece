/*
 * segment.c: POST /v1/segment: for each prompt, or an example picture, how likely each pixel
 * belongs to it.
 */
#include "api/endpoint.h"
#include "api/masks.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"prompts", FIELD_STRINGS, .min = 1, .max = MASK_PROMPTS_MAX,
     .help = "what to segment (or query_image)"},
    {"query_image", FIELD_IMAGE, .help = "a picture of what to segment"},
    {"threshold", FIELD_NUMBER, .min = 0, .max = 1,
     .help = "pixels of a higher probability count in area and box; default 0.5"},
    {NULL},
};

static const struct field reply[] = {
    {"masks", FIELD_ANY, FIELD_REQUIRED,
     .help =
         "[{prompt, width, height, mask (a PNG as data: URL, 8-bit probabilities), area, box}]; "
         "prompt is null with query_image, box where no pixel is above the threshold"},
    {"warnings", FIELD_STRINGS, .help = "what was cut or left out"},
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
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_SEGMENT, 1, err);
    if (!job)
        return err->status;
    status = fill(call, &job->works[0], prompts, example, err);
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
    const struct form_value *prompts = form_value(&call->form, "prompts");
    float threshold = (float)form_number(&call->form, "threshold", 0.5);
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    enum status status = STATUS_OK;
    json_begin_list(out, "masks");
    for (size_t i = 0; i < work_pairs(work) && !status; i++) {
        json_begin_object(out, NULL);
        if (prompts)
            json_put_text(out, "prompt", prompts->strings[i].data, prompts->strings[i].size);
        else
            json_put_null(out, "prompt");
        status = mask_put(call, traits, work->outputs + i * traits->n_outputs,
                          work->images[0].picture_width, work->images[0].picture_height, NULL,
                          threshold, err);
        json_end_object(out);
    }
    json_end_list(out);
    return status;
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
    .uses_model = true,
    .task = TASK_SEGMENT,
    .begin = begin,
    .finish = finish,
};
