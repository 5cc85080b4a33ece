/*
 * embeddings.c: POST /v1/embeddings: OpenAI's request and reply, for texts and pictures. Each input
 * stands alone: where one fails, its entry has an error and the others are answered; a request with
 * one input fails as a whole. With `Accept: application/octet-stream` the reply is the vectors
 * themselves, one after another, and headers say what they are; it has no place for an input's
 * error, so the first one fails the request.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/base64.h"
#include "api/embed.h"
#include "api/multipart.h"

static const struct field fields[] = {
    {"input", FIELD_ANY, .help = "a text, a list of texts, or a list of {\"text\"} / {\"image\"}",
     .schema = "'anyOf': [{'type': 'string'}, {'type': 'array', 'minItems': 1, "
               "'items': {'anyOf': [{'type': 'string'}, {'type': 'object', "
               "'properties': {'text': {'type': 'string'}}, 'required': ['text'], "
               "'additionalProperties': false}, {'type': 'object', "
               "'properties': {'image': {'$ref': '#/components/schemas/Picture'}}, "
               "'required': ['image'], 'additionalProperties': false}]}}, {'type': 'null'}]"},
    {"image", FIELD_IMAGES, .help = "pictures, for bodies that carry them as files"},
    {"encoding_format", FIELD_STRING,
     .help = "float, or base64 of little-endian numbers. With Accept: application/octet-stream the "
             "reply is these bytes themselves, and X-Embedding-Shape their [inputs, dimensions]",
     .schema = "'enum': ['float', 'base64', null]"},
    {"dtype", FIELD_STRING, .schema = "'enum': ['f32', 'f16', null]",
     .help = "of the numbers in base64 and octet-stream: f32 or f16"},
    {"dimensions", FIELD_INTEGER, .min = 1, .max = 65536,
     .help = "cut the vectors to this length and normalise them again"},
    {NULL},
};

static const struct field reply[] = {
    {"object", FIELD_STRING, FIELD_REQUIRED, .help = "list", .schema = "'const': 'list'"},
    {"data", FIELD_ANY, FIELD_REQUIRED, .help = "[{object, index, embedding}]",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'object': {'const': 'embedding'}, 'index': {'type': 'integer'}, "
               "'embedding': {'anyOf': [{'type': 'array', 'items': {'type': 'number'}}, "
               "{'type': 'string'}, {'type': 'null'}]}, 'truncated': {'type': 'boolean'}, "
               "'error': {'$ref': '#/components/schemas/Fault'}}, 'required': ['object', "
               "'index', 'embedding']}"},
    {"space", FIELD_STRING, FIELD_REQUIRED, .help = "the embedding space: model@revision"},
    {"usage", FIELD_OBJECT, FIELD_REQUIRED, .help = "{prompt_tokens, total_tokens}",
     .schema = "'$ref': '#/components/schemas/Usage'"},
    {NULL},
};

struct state {
    size_t n;
    struct embed_item *items;
    size_t dimensions;
    bool is_base64, is_bytes, is_half;
};

static enum status read_item(const json_t *value, const char *param, struct embed_item *out,
                             struct error *err)
{
    snprintf(out->param, sizeof out->param, "%s", param);
    if (json_is_integer(value) || json_is_array(value))
        return error_set_param(err, STATUS_UNPROCESSABLE, param,
                               "'%s': token ids are not accepted as input; send the text", param);
    if (json_is_string(value))
        return string_from_json(value, param, &out->text, err);
    if (!json_is_object(value))
        return error_set_param(err, STATUS_WRONG_TYPE, param,
                               "'%s' must be a string or an object with text or image, not %s",
                               param, json_kind(value));
    const json_t *text = json_object_get(value, "text"), *image = json_object_get(value, "image");
    if (json_object_size(value) != 1 || (!text && !image))
        return error_set_param(err, STATUS_WRONG_TYPE, param,
                               "'%s' must hold exactly one of text and image", param);
    out->is_image = image != NULL;
    return image ? picture_from_json(image, param, &out->picture, err)
                 : string_from_json(text, param, &out->text, err);
}

static enum status read_inputs(struct call *call, struct state *state, struct error *err)
{
    const json_t *input = form_json(&call->form, "input");
    const struct form_value *images = form_value(&call->form, "image");
    if (!input && !images)
        return error_set_param(err, STATUS_MISSING_FIELD, "input", "'input' is missing: %s",
                               fields[0].help);
    bool is_list = json_is_array(input);
    size_t n_inputs = is_list ? json_array_size(input) : input ? 1 : 0;
    state->n = n_inputs + (images ? images->n : 0);
    if (!state->n)
        return error_set_param(err, STATUS_UNPROCESSABLE, "input", "'input' must not be empty");
    if (is_list && n_inputs && json_is_integer(json_array_get(input, 0)))
        return error_set_param(err, STATUS_UNPROCESSABLE, "input",
                               "'input': token ids are not accepted as input; send the text");
    enum status status = call_admit(call, state->n, "input", err);
    if (status)
        return status;
    state->items = arena_zalloc(&call->arena, state->n, sizeof *state->items);
    if (!state->items)
        return error_no_memory(err, "the inputs");
    for (size_t i = 0; i < n_inputs && !status; i++) {
        char param[64];
        snprintf(param, sizeof param, is_list ? "input[%zu]" : "input", i);
        status =
            read_item(is_list ? json_array_get(input, i) : input, param, &state->items[i], err);
    }
    for (size_t i = 0; images && i < images->n; i++) {
        struct embed_item *item = &state->items[n_inputs + i];
        item->is_image = true;
        item->picture = images->pictures[i];
        memcpy(item->param, images->pictures[i].param, sizeof item->param);
    }
    return status;
}

/* Whether an Accept header names a type (with a weight above 0). */
static bool accepts(const char *accept, const char *type)
{
    while (accept && *accept) {
        accept += strspn(accept, " \t,");
        size_t size = strcspn(accept, ","), name = strcspn(accept, " \t;,");
        char weight[16];
        if (name == strlen(type) && !strncasecmp(accept, type, name))
            return !header_parameter(accept, size, "q", weight, sizeof weight) ||
                   strtod(weight, NULL) > 0;
        accept += size;
    }
    return false;
}

/* Which of the forms of a reply is wanted. */
static enum status read_form(struct call *call, struct state *state, struct error *err)
{
    const char *format = form_string(&call->form, "encoding_format", "float").data;
    const char *dtype = form_string(&call->form, "dtype", "f32").data;
    const char *accept = call->request.accept;
    state->is_bytes =
        accepts(accept, "application/octet-stream") && !accepts(accept, "application/json");
    state->is_base64 = !strcmp(format, "base64");
    state->is_half = !strcmp(dtype, "f16");
    if (!state->is_base64 && strcmp(format, "float"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "encoding_format",
                               "'encoding_format' must be float or base64, not '%.64s'", format);
    if (!state->is_half && strcmp(dtype, "f32"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "dtype",
                               "'dtype' must be f32 or f16, not '%.64s'", dtype);
    if (state->is_half && !state->is_base64 && !state->is_bytes)
        return error_set_param(err, STATUS_UNPROCESSABLE, "dtype",
                               "'dtype' is for encoding_format base64 and for Accept: "
                               "application/octet-stream; numbers in JSON have none");
    return STATUS_OK;
}

static enum status finish(struct call *call, struct error *err);

static enum status begin(struct call *call, struct error *err)
{
    struct state *state = arena_zalloc(&call->arena, 1, sizeof *state);
    if (!state)
        return error_no_memory(err, "the request");
    call->state = state;
    enum status status = read_form(call, state, err);
    if (status)
        return status;
    size_t dim = call->model->traits.embed_dim;
    state->dimensions = (size_t)form_integer(&call->form, "dimensions", (long long)dim);
    if (state->dimensions > dim)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "dimensions",
                               "'dimensions' is %zu; model '%.64s' has %zu", state->dimensions,
                               call->model->name, dim);
    bool submitted;
    status = read_inputs(call, state, err);
    if (!status)
        status = embed_submit(call, state->items, state->n, "input", &submitted, err);
    if (!status && !submitted)
        status = finish(call, err);
    return status;
}

/* The first n numbers, normalised again where that cuts the vector. */
static const float *cut(struct call *call, const float *vector, size_t n, struct error *err)
{
    if (n == call->model->traits.embed_dim)
        return vector;
    float *out = arena_array(&call->arena, n, sizeof *out);
    if (!out) {
        error_no_memory(err, "an embedding");
        return NULL;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)vector[i] * (double)vector[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((double)vector[i] * scale);
    return out;
}

/* The numbers as they go over the wire, and how many bytes that is; NULL: out of memory. */
static const void *wire_bytes(struct call *call, const float *vector, size_t n, size_t *size,
                              struct error *err)
{
    const struct state *state = call->state;
    *size = n * (state->is_half ? sizeof(_Float16) : sizeof *vector);
    if (!state->is_half)
        return vector;
    _Float16 *out = arena_array(&call->arena, n, sizeof *out);
    for (size_t i = 0; i < n && out; i++)
        out[i] = (_Float16)vector[i];
    if (!out)
        error_no_memory(err, "an embedding");
    return out;
}

static enum status put_base64(struct call *call, const float *vector, size_t n, struct error *err)
{
    size_t n_bytes;
    const void *bytes = wire_bytes(call, vector, n, &n_bytes, err);
    if (!bytes)
        return err->status;
    size_t size = base64_encoded_size(n_bytes);
    char *text = arena_alloc(&call->arena, size);
    if (!text)
        return error_no_memory(err, "an embedding");
    base64_encode(bytes, n_bytes, text);
    json_put_text(&call->out, "embedding", text, size);
    return STATUS_OK;
}

static enum status put_item(struct call *call, size_t index, struct error *err)
{
    const struct state *state = call->state;
    struct embed_item *item = &state->items[index];
    struct json_writer *out = &call->out;
    const float *vector = embed_result(call, item);
    if (!vector && state->n == 1) {
        *err = item->error;
        return err->status;
    }
    json_begin_object(out, NULL);
    json_put_string(out, "object", "embedding");
    json_put_integer(out, "index", (long long)index);
    if (!vector) {
        json_put_null(out, "embedding");
        json_put_error(out, "error", &item->error);
    } else {
        vector = cut(call, vector, state->dimensions, err);
        if (!vector)
            return err->status;
        if (!state->is_base64)
            json_put_floats(out, "embedding", vector, state->dimensions);
        else if (put_base64(call, vector, state->dimensions, err))
            return err->status;
        if (embed_text_truncated(call, item))
            json_put_bool(out, "truncated", true);
    }
    json_end_object(out);
    return STATUS_OK;
}

static enum status reply_bytes(struct call *call, struct error *err)
{
    const struct state *state = call->state;
    struct buffer *body = call_reply_buffer(call, "application/octet-stream");
    size_t n_truncated = 0;
    for (size_t i = 0; i < state->n; i++) {
        struct embed_item *item = &state->items[i];
        const float *vector = embed_result(call, item);
        if (!vector) {
            *err = item->error;
            return err->status;
        }
        size_t size;
        const void *bytes = NULL;
        vector = cut(call, vector, state->dimensions, err);
        if (vector)
            bytes = wire_bytes(call, vector, state->dimensions, &size, err);
        if (!bytes)
            return err->status;
        if (!buffer_append(body, bytes, size))
            return error_set(err, STATUS_UNPROCESSABLE,
                             "the reply would be larger than %zu bytes; ask for less at once",
                             api_options(call->api)->max_reply_bytes);
        n_truncated += embed_text_truncated(call, item);
    }
    const char *space = call_space(call);
    if (!space)
        return error_no_memory(err, "the reply");
    struct http_reply *http = &call->reply;
    reply_header(http, "X-Embedding-Shape", "%zu,%zu", state->n, state->dimensions);
    reply_header(http, "X-Embedding-Dtype", "%s", state->is_half ? "f16" : "f32");
    reply_header(http, "X-Embedding-Space", "%s", space);
    if (n_truncated)
        reply_header(http, "X-Embedding-Truncated", "%zu", n_truncated);
    return STATUS_OK;
}

static enum status finish(struct call *call, struct error *err)
{
    const struct state *state = call->state;
    struct json_writer *out = &call->out;
    if (state->is_bytes)
        return reply_bytes(call, err);
    size_t n_tokens = 0;
    json_put_string(out, "object", "list");
    json_begin_list(out, "data");
    for (size_t i = 0; i < state->n; i++) {
        enum status status = put_item(call, i, err);
        if (status)
            return status;
        n_tokens += embed_text_tokens(call, &state->items[i]);
    }
    json_end_list(out);
    const char *space = call_space(call);
    if (!space)
        return error_no_memory(err, "the reply");
    json_put_string(out, "space", space);
    json_begin_object(out, "usage");
    json_put_integer(out, "prompt_tokens", (long long)n_tokens);
    json_put_integer(out, "total_tokens", (long long)n_tokens);
    json_end_object(out);
    return STATUS_OK;
}

const struct endpoint endpoint_embeddings = {
    .method = "POST",
    .path = "/v1/embeddings",
    .id = "embeddings",
    .tag = "retrieval",
    .summary = "Embed texts and pictures (OpenAI's shape)",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .reply_types = {"application/octet-stream"},
    .example = "{'input': ['a square', {'image': '" EXAMPLE_PICTURE "'}]}",
    .uses_model = true,
    .task = TASK_EMBED,
    .begin = begin,
    .finish = finish,
};
