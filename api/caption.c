/*
 * caption.c: POST /v1/caption: a text about a picture, optionally continuing a prompt.
 */
#include "api/generation.h"

static const struct field fields[] = {
    {"image", FIELD_IMAGE, FIELD_REQUIRED, .help = "the picture"},
    {"prompt", FIELD_STRING,
     .help = "the caption's beginning; for a model that converses, an instruction (default: the "
             "setting caption_instruction)"},
    {NULL},
};

static const struct field reply[] = {
    {"caption", FIELD_STRING, FIELD_REQUIRED, .help = "the caption, without the prompt"},
    {"captions", FIELD_ANY, .help = "with n or num_beams above 1: [{caption, score}], best first",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'caption': {'type': 'string'}, 'score': {'type': ['number', "
               "'null']}, 'finish_reason': {'type': 'string'}}, 'required': ['caption']}"},
    {"finish_reason", FIELD_STRING, FIELD_REQUIRED, .help = "stop or length",
     .schema = "'enum': ['stop', 'length']"},
    {NULL},
};

static enum status begin(struct call *call, struct error *err)
{
    const struct form *form = &call->form;
    enum status status = call_admit(call, 1, "image", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_CAPTION, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    const char *instruction =
        call->model->chat ? api_options(call->api)->caption_instruction : NULL;
    instruction = instruction ? instruction : "";
    work->kind = WORK_GENERATE;
    status = generation_read(call, work, GENERATION_TOP_K_SAMPLES, err);
    if (!status)
        status = work_set_texts(work, 1, err);
    if (!status)
        status = call_prompt(call, TASK_CAPTION, form_string(form, "prompt", instruction), "prompt",
                             1, &work->texts[0], err);
    if (!status)
        status = work_set_images(work, 1, err);
    if (!status)
        status = call_pixels(call, form_value(form, "image")->pictures, &work->images[0], err);
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
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    if (!work->n_generated)
        return error_set(err, STATUS_INTERNAL, "the model gave no text");
    bool is_list = work->n_generated > 1 || work->generation.num_beams > 1;
    for (size_t i = 0; i < work->n_generated; i++) {
        struct span text;
        float score;
        enum status status = generation_text(call, work, i, &text, &score, err);
        if (status)
            return status;
        if (i == 0) {
            if (call->stream.wanted && (status = stream_text(call, 0, text, err)))
                return status;
            json_put_text(out, "caption", text.data, text.size);
            json_put_string(out, "finish_reason", finish_reason_name(work->generated[0].finish));
            if (is_list)
                json_begin_list(out, "captions");
        }
        if (is_list) {
            json_begin_object(out, NULL);
            json_put_text(out, "caption", text.data, text.size);
            json_put_float(out, "score", score);
            json_end_object(out);
        }
    }
    if (is_list)
        json_end_list(out);
    if (call->stream.wanted)
        generation_put_usage(out, call->job);
    return STATUS_OK;
}

const struct endpoint endpoint_caption = {
    .method = "POST",
    .path = "/v1/caption",
    .id = "caption",
    .tag = "language",
    .summary = "Describe a picture in words",
    .body = BODY_FORMS,
    .fields = fields,
    .more_fields = generation_fields,
    .reply = reply,
    .example = "{'image': '" EXAMPLE_PICTURE "', 'max_tokens': 20}",
    .uses_model = true,
    .task = TASK_CAPTION,
    .begin = begin,
    .finish = finish,
    .delta = generation_delta,
};
