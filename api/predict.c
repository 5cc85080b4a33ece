/*
 * predict.c: POST /predict: Immich's machine-learning protocol, for its CLIP tasks, so that an
 * Immich server can use this one as its machine-learning URL.
 *
 * A form with `entries`, {"clip": {"visual" or "textual": {"modelName", "options"}}}, and `image`
 * or `text`. The reply has the vector as Immich stores it, a JSON list inside a string:
 *
 *   {"clip": "[0.1,…]", "imageHeight": 480, "imageWidth": 640}       (sizes of pictures only)
 *
 * Immich names the model: a served one of that name answers (what stands before the last '/' is
 * left away, as there), else the server's default for embeddings, with a warning in the reply.
 */
#include <stdio.h>
#include <string.h>

#include "api/endpoint.h"

static const struct field fields[] = {
    {"entries", FIELD_OBJECT, FIELD_REQUIRED,
     .help = "{\"clip\": {\"visual\": {\"modelName\": …}}} with image, or textual with text"},
    {"image", FIELD_IMAGE, .help = "the picture, of a visual entry"},
    {"text", FIELD_STRING, .help = "the text, of a textual entry"},
    {NULL},
};

static const struct field reply[] = {
    {"clip", FIELD_STRING, FIELD_REQUIRED, .help = "the vector, a JSON list inside a string"},
    {"imageHeight", FIELD_INTEGER, .help = "of the upright picture, in pixels"},
    {"imageWidth", FIELD_INTEGER, .help = "likewise"},
    {NULL},
};

/* The one member of an object; NULL where it has none or several. */
static json_t *only_member(json_t *object, const char **name)
{
    void *first =
        json_is_object(object) && json_object_size(object) == 1 ? json_object_iter(object) : NULL;
    if (!first)
        return NULL;
    *name = json_object_iter_key(first);
    return json_object_iter_value(first);
}

/* Reads `entries`: which side of CLIP, by which model ("" = any). */
static enum status read_entries(struct call *call, bool *is_visual, const char **model,
                                struct error *err)
{
    const char *task, *type;
    json_t *types = only_member(form_json(&call->form, "entries"), &task);
    if (types && strcmp(task, "clip"))
        return error_set_param(err, STATUS_UNSUPPORTED_TASK, "entries",
                               "task '%.64s' is not served here, only 'clip' is (visual, "
                               "textual); give Immich another machine-learning URL for it, or "
                               "switch it off",
                               task);
    json_t *entry = types ? only_member(types, &type) : NULL;
    *is_visual = entry && !strcmp(type, "visual");
    if (!entry || (!*is_visual && strcmp(type, "textual")))
        return error_set_param(err, STATUS_UNPROCESSABLE, "entries",
                               "'entries' must hold one task, 'clip', with one of 'visual' and "
                               "'textual'");
    const json_t *name = json_object_get(entry, "modelName");
    if (!json_is_object(entry) || (name && !json_is_string(name)))
        return error_set_param(err, STATUS_WRONG_TYPE, "entries",
                               "'entries.clip.%s' must be an object with a string modelName", type);
    *model = name ? json_string_value(name) : "";
    return STATUS_OK;
}

static enum status find_model(struct call *call, const char *name, struct error *err)
{
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    struct error unknown;
    enum status status = call_use_model(call, name, TASK_EMBED, &unknown);
    if (status == STATUS_UNKNOWN_MODEL) {
        status = call_use_model(call, NULL, TASK_EMBED, err);
        if (!status)
            call_warn(call, "no model '%.64s' is served; '%.64s' answered", name,
                      call->model->name);
    } else if (status) {
        *err = unknown;
    }
    return status;
}

static enum status begin(struct call *call, struct error *err)
{
    bool is_visual = false;
    const char *name = "";
    enum status status = read_entries(call, &is_visual, &name, err);
    if (status)
        return status;
    const char *input = is_visual ? "image" : "text";
    if (!form_has(&call->form, input))
        return error_set_param(err, STATUS_MISSING_FIELD, input,
                               "'%s' is missing: a %s entry needs it", input,
                               is_visual ? "visual" : "textual");
    if (find_model(call, name, err) || call_admit(call, 1, input, err))
        return err->status;
    struct job *job = call_job(call, TASK_EMBED, 1, err);
    if (!job)
        return err->status;
    struct work *work = &job->works[0];
    work->kind = WORK_ENCODE;
    status = is_visual ? work_set_images(work, 1, err) : work_set_texts(work, 1, err);
    if (!status && is_visual)
        status =
            call_pixels(call, form_value(&call->form, "image")->pictures, &work->images[0], err);
    if (!status && !is_visual)
        status = call_tokens(call, TASK_EMBED, form_string(&call->form, "text", ""), "text",
                             &work->texts[0], err);
    if (status) {
        job_free(job);
        return status;
    }
    if (is_visual) {
        size_t *size = arena_array(&call->arena, 2, sizeof *size);
        if (!size) {
            job_free(job);
            return error_no_memory(err, "the reply");
        }
        size[0] = work->images[0].picture_height;
        size[1] = work->images[0].picture_width;
        call->state = size;
    }
    call_submit(call, job);
    return STATUS_OK;
}

/* The vector as the text of a JSON list. */
static enum status put_vector(struct call *call, const float *vector, size_t n, struct error *err)
{
    enum { NUMBER_BYTES_MAX = 32 };
    struct buffer text;
    struct json_writer writer;
    buffer_init(&text, (n + 1) * NUMBER_BYTES_MAX);
    json_writer_init(&writer, &text);
    json_put_floats(&writer, NULL, vector, n);
    bool fine = !json_writer_failed(&writer);
    if (fine)
        json_put_text(&call->out, "clip", text.data, text.size);
    buffer_release(&text);
    return fine ? STATUS_OK : error_no_memory(err, "an embedding");
}

static enum status finish(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    const size_t *size = call->state, dim = call->model->traits.embed_dim;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    if (size && (work->features[0]->n_rows != 1 || work->features[0]->dim != dim))
        return error_set(err, STATUS_INTERNAL, "model '%.64s' gives no picture embedding",
                         call->model->name);
    enum status status =
        put_vector(call, size ? work->features[0]->rows : work->text_embeddings, dim, err);
    if (!status && size) {
        json_put_integer(&call->out, "imageHeight", (long long)size[0]);
        json_put_integer(&call->out, "imageWidth", (long long)size[1]);
    }
    return status;
}

const struct endpoint endpoint_predict = {
    .method = "POST",
    .path = "/predict",
    .id = "predict",
    .tag = "retrieval",
    .summary = "Immich's machine-learning protocol: CLIP vectors of a picture or a text",
    .body = BODY_JSON | BODY_MULTIPART,
    .fields = fields,
    .reply = reply,
    .example = "{'entries': {'clip': {'textual': {'modelName': 'clip'}}}, 'text': 'a cat'}",
    .begin = begin,
    .finish = finish,
};
