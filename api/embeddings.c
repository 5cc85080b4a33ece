/*
 * embeddings.c: POST /v1/embeddings: OpenAI's request and reply, for texts and pictures. Each input
 * stands alone: where one fails, its entry has an error and the others are answered; a request with
 * one input fails as a whole.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/base64.h"
#include "api/embed.h"

static const struct field fields[] = {
    {"input", FIELD_ANY, .help = "a text, a list of texts, or a list of {\"text\"} / {\"image\"}",
     .schema = "'anyOf': [{'type': 'string'}, {'type': 'array', 'minItems': 1, "
               "'items': {'anyOf': [{'type': 'string'}, {'type': 'object', "
               "'properties': {'text': {'type': 'string'}}, 'required': ['text'], "
               "'additionalProperties': false}, {'type': 'object', "
               "'properties': {'image': {'$ref': '#/components/schemas/Picture'}}, "
               "'required': ['image'], 'additionalProperties': false}]}}, {'type': 'null'}]"},
    {"image", FIELD_IMAGES, .help = "pictures, for bodies that carry them as files"},
    {"encoding_format", FIELD_STRING, .help = "float or base64 (little-endian f32)",
     .schema = "'enum': ['float', 'base64', null]"},
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
    bool is_base64;
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

static enum status finish(struct call *call, struct error *err);

static enum status begin(struct call *call, struct error *err)
{
    struct state *state = arena_zalloc(&call->arena, 1, sizeof *state);
    if (!state)
        return error_no_memory(err, "the request");
    call->state = state;
    const char *format = form_string(&call->form, "encoding_format", "float").data;
    state->is_base64 = !strcmp(format, "base64");
    if (!state->is_base64 && strcmp(format, "float"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "encoding_format",
                               "'encoding_format' must be float or base64, not '%.64s'", format);
    size_t dim = call->model->traits.embed_dim;
    state->dimensions = (size_t)form_integer(&call->form, "dimensions", (long long)dim);
    if (state->dimensions > dim)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "dimensions",
                               "'dimensions' is %zu; model '%.64s' has %zu", state->dimensions,
                               call->model->name, dim);
    bool submitted;
    enum status status = read_inputs(call, state, err);
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

static enum status put_base64(struct call *call, const float *vector, size_t n, struct error *err)
{
    size_t size = base64_encoded_size(n * sizeof *vector);
    char *text = arena_alloc(&call->arena, size);
    if (!text)
        return error_no_memory(err, "an embedding");
    base64_encode(vector, n * sizeof *vector, text);
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

static enum status finish(struct call *call, struct error *err)
{
    const struct state *state = call->state;
    struct json_writer *out = &call->out;
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
    .example = "{'input': ['a square', {'image': '" EXAMPLE_PICTURE "'}]}",
    .uses_model = true,
    .task = TASK_EMBED,
    .begin = begin,
    .finish = finish,
};
