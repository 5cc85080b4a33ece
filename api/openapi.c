/*
 * openapi.c: GET /openapi.json: OpenAPI 3.1 made from the endpoints' own tables.
 */
#include <string.h>

#include "api/endpoints.h"
#include "core/base/size.h"

static void put_string_type(struct json_writer *out, const char *format)
{
    json_put_string(out, "type", "string");
    if (format)
        json_put_string(out, "format", format);
}

static void put_picture_members(struct json_writer *out, bool is_binary)
{
    if (is_binary) {
        put_string_type(out, "binary");
        return;
    }
    json_begin_list(out, "oneOf");
    json_begin_object(out, NULL);
    json_put_string(out, "type", "string");
    json_put_string(out, "description", "base64 or a data: URL");
    json_end_object(out);
    static const char *const keys[] = {"b64", "url"};
    for (size_t i = 0; i < 2; i++) {
        json_begin_object(out, NULL);
        json_put_string(out, "type", "object");
        json_begin_object(out, "properties");
        json_begin_object(out, keys[i]);
        json_put_string(out, "type", "string");
        json_end_object(out);
        json_end_object(out);
        json_begin_list(out, "required");
        json_put_string(out, NULL, keys[i]);
        json_end_list(out);
        json_end_object(out);
    }
    json_end_list(out);
}

static void put_list_of(struct json_writer *out, const char *key, const char *type)
{
    json_begin_object(out, key);
    json_put_string(out, "type", type);
    json_end_object(out);
}

static void put_schema(struct json_writer *out, const char *key, const struct field *field,
                       bool is_binary)
{
    json_begin_object(out, key);
    if (field->help)
        json_put_string(out, "description", field->help);
    switch (field->type) {
    case FIELD_STRING:
        put_string_type(out, NULL);
        break;
    case FIELD_STRINGS:
        json_begin_list(out, "oneOf");
        put_list_of(out, NULL, "string");
        json_begin_object(out, NULL);
        json_put_string(out, "type", "array");
        put_list_of(out, "items", "string");
        json_end_object(out);
        json_end_list(out);
        break;
    case FIELD_INTEGER:
    case FIELD_NUMBER:
        json_put_string(out, "type", field->type == FIELD_INTEGER ? "integer" : "number");
        if (field->min != 0 || field->max != 0) {
            json_put_double(out, "minimum", field->min);
            json_put_double(out, "maximum", field->max);
        }
        break;
    case FIELD_BOOLEAN:
        json_put_string(out, "type", "boolean");
        break;
    case FIELD_IMAGE:
        put_picture_members(out, is_binary);
        break;
    case FIELD_IMAGES:
        json_put_string(out, "type", "array");
        json_begin_object(out, "items");
        put_picture_members(out, is_binary);
        json_end_object(out);
        break;
    case FIELD_OBJECT:
        json_put_string(out, "type", "object");
        break;
    case FIELD_VECTOR:
        json_put_string(out, "type", "array");
        put_list_of(out, "items", "number");
        break;
    case FIELD_ANY:
        break;
    }
    json_end_object(out);
}

static void put_object_schema(struct json_writer *out, const struct field *const *tables, size_t n,
                              bool is_binary)
{
    json_begin_object(out, "schema");
    json_put_string(out, "type", "object");
    json_begin_object(out, "properties");
    for (size_t t = 0; t < n; t++)
        for (const struct field *field = tables[t]; field->name; field++)
            put_schema(out, field->name, field, is_binary);
    json_end_object(out);
    json_begin_list(out, "required");
    for (size_t t = 0; t < n; t++)
        for (const struct field *field = tables[t]; field->name; field++)
            if (field->flags & FIELD_REQUIRED)
                json_put_string(out, NULL, field->name);
    json_end_list(out);
    json_end_object(out);
}

static void put_body(struct json_writer *out, const struct endpoint *endpoint)
{
    const struct field *tables[ENDPOINT_TABLES_MAX];
    size_t n = endpoint_tables(endpoint, tables);
    json_begin_object(out, "requestBody");
    json_put_bool(out, "required", !(endpoint->body & BODY_OPTIONAL));
    json_begin_object(out, "content");
    if (endpoint->body & BODY_JSON) {
        json_begin_object(out, "application/json");
        put_object_schema(out, tables, n, false);
        json_end_object(out);
    }
    if (endpoint->body & BODY_MULTIPART) {
        json_begin_object(out, "multipart/form-data");
        put_object_schema(out, tables, n, true);
        json_end_object(out);
    }
    if (endpoint->body & BODY_IMAGE) {
        static const char *const types[] = {"image/jpeg", "image/png", "image/webp"};
        for (size_t i = 0; i < ARRAY_LENGTH(types); i++) {
            json_begin_object(out, types[i]);
            json_begin_object(out, "schema");
            put_string_type(out, "binary");
            json_end_object(out);
            json_end_object(out);
        }
    }
    json_end_object(out);
    json_end_object(out);
}

static void put_parameters(struct json_writer *out, const struct endpoint *endpoint)
{
    json_begin_list(out, "parameters");
    for (const char *at = endpoint->path; (at = strchr(at, '{'));) {
        const char *end = strchr(at, '}');
        if (!end)
            break;
        json_begin_object(out, NULL);
        json_put_text(out, "name", at + 1, (size_t)(end - at - 1));
        json_put_string(out, "in", "path");
        json_put_bool(out, "required", true);
        put_list_of(out, "schema", "string");
        json_end_object(out);
        at = end;
    }
    if (!endpoint->body) {
        for (const struct field *field = endpoint->fields; field && field->name; field++) {
            json_begin_object(out, NULL);
            json_put_string(out, "name", field->name);
            json_put_string(out, "in", "query");
            json_put_bool(out, "required", field->flags & FIELD_REQUIRED);
            put_schema(out, "schema", field, false);
            json_end_object(out);
        }
    }
    json_end_list(out);
}

/* What a call adds to its reply, whatever the endpoint (api/call.c); inline ones excepted. */
static const struct field added_reply[] = {
    {"warnings", FIELD_STRINGS, .help = "what was cut or left out; absent when nothing was"},
    {"model", FIELD_STRING, .help = "the model that answered"},
    {"timings", FIELD_OBJECT, FIELD_REQUIRED,
     .help = "{queue_ms, preprocess_ms, forward_ms, total_ms, batch_size}"},
    {NULL},
};

static void put_operation(struct json_writer *out, const struct endpoint *endpoint)
{
    char method[8] = "";
    for (size_t i = 0; endpoint->method[i] && i + 1 < sizeof method; i++)
        method[i] = (char)(endpoint->method[i] | 0x20);
    json_begin_object(out, method);
    json_put_string(out, "operationId", endpoint->id);
    json_put_string(out, "summary", endpoint->summary ? endpoint->summary : "");
    json_begin_list(out, "tags");
    json_put_string(out, NULL, endpoint->tag ? endpoint->tag : "process");
    json_end_list(out);
    put_parameters(out, endpoint);
    if (endpoint->body)
        put_body(out, endpoint);
    json_begin_object(out, "responses");
    json_begin_object(out, "200");
    json_put_string(out, "description", "done");
    if (endpoint->reply) {
        json_begin_object(out, "content");
        json_begin_object(out, "application/json");
        const struct field *const tables[] = {endpoint->reply, added_reply};
        put_object_schema(out, tables, endpoint->inline_reply ? 1 : 2, false);
        json_end_object(out);
        if (endpoint->delta) { /* with "stream": true */
            json_begin_object(out, "text/event-stream");
            put_list_of(out, "schema", "string");
            json_end_object(out);
        }
        json_end_object(out);
    }
    json_end_object(out);
    json_begin_object(out, "default");
    json_put_string(out, "$ref", "#/components/responses/Error");
    json_end_object(out);
    json_end_object(out);
    json_end_object(out);
}

static void put_error_component(struct json_writer *out)
{
    static const char *const members[] = {"type", "code", "message"};
    json_begin_object(out, "components");
    json_begin_object(out, "responses");
    json_begin_object(out, "Error");
    json_put_string(out, "description", "what was wrong, where, and what would be accepted");
    json_begin_object(out, "content");
    json_begin_object(out, "application/json");
    json_begin_object(out, "schema");
    json_put_string(out, "type", "object");
    json_begin_object(out, "properties");
    json_begin_object(out, "error");
    json_put_string(out, "type", "object");
    json_begin_object(out, "properties");
    for (size_t i = 0; i < ARRAY_LENGTH(members); i++)
        put_list_of(out, members[i], "string");
    json_begin_object(out, "param");
    json_begin_list(out, "type");
    json_put_string(out, NULL, "string");
    json_put_string(out, NULL, "null");
    json_end_list(out);
    for (int depth = 0; depth < 10; depth++)
        if (depth != 1)
            json_end_object(out);
    json_end_object(out);
}

static enum status openapi(struct call *call, struct error *err)
{
    (void)err;
    const struct api_options *options = api_options(call->api);
    struct json_writer *out = &call->out;
    json_put_string(out, "openapi", "3.1.0");
    json_begin_object(out, "info");
    json_put_string(out, "title", "vlmd");
    json_put_string(out, "version", options->version ? options->version : VLMD_VERSION);
    json_end_object(out);
    json_begin_object(out, "paths");
    const struct endpoint *endpoint;
    for (size_t i = 0; (endpoint = api_endpoint_at(call->api, i)); i++) {
        /* Endpoints of one path belong in one object: written with the first of them. */
        bool seen = false;
        for (size_t k = 0; k < i && !seen; k++)
            seen = !strcmp(api_endpoint_at(call->api, k)->path, endpoint->path);
        if (seen)
            continue;
        json_begin_object(out, endpoint->path);
        const struct endpoint *other;
        for (size_t k = i; (other = api_endpoint_at(call->api, k)); k++)
            if (!strcmp(other->path, endpoint->path))
                put_operation(out, other);
        json_end_object(out);
    }
    json_end_object(out);
    put_error_component(out);
    return STATUS_OK;
}

const struct endpoint endpoint_openapi = {
    .method = "GET",
    .path = "/openapi.json",
    .id = "openapi",
    .tag = "process",
    .summary = "This description",
    .inline_reply = true,
    .is_public = true,
    .begin = openapi,
};
