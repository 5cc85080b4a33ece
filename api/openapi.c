/*
 * openapi.c: GET /openapi.json: OpenAPI 3.1 made from the endpoints' own tables.
 *
 * A field's type, bounds and help give its schema; what a type cannot tell (the shape inside of a
 * list, a choice of words) is in the field's `schema`, the members of a JSON Schema written with '
 * for ". Shapes that several endpoints share are components, here. tests/http/test_openapi.py has
 * the document validated and every endpoint exercised by it.
 */
#include <string.h>

#include "api/endpoints.h"
#include "core/base/size.h"

/* Who reads a schema decides how a picture and an absent value look. */
enum form_kind { KIND_JSON, KIND_MULTIPART, KIND_QUERY, KIND_REPLY };

/* JSON written with ' for ", so that C strings stay readable; none of ours holds either. */
static void put_json(struct json_writer *out, const char *key, const char *text)
{
    char json[2048];
    size_t size = strlen(text);
    if (size > sizeof json) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < size; i++)
        json[i] = text[i];
    for (char *at = json; (at = memchr(at, '\'', size - (size_t)(at - json)));)
        *at = '"';
    json_put_raw(out, key, json, size);
}

static void put_ref(struct json_writer *out, const char *key, const char *target)
{
    json_begin_object(out, key);
    json_put_string(out, "$ref", target);
    json_end_object(out);
}

/* ---- fields
 * --------------------------------------------------------------------------------------
 */

static void put_type(struct json_writer *out, const char *type, bool or_null)
{
    if (!or_null) {
        json_put_string(out, "type", type);
        return;
    }
    json_begin_list(out, "type");
    json_put_string(out, NULL, type);
    json_put_string(out, NULL, "null");
    json_end_list(out);
}

static void put_picture(struct json_writer *out, const char *key, enum form_kind kind)
{
    if (kind == KIND_MULTIPART)
        put_json(out, key, "{'type': 'string', 'format': 'binary'}");
    else
        put_ref(out, key, "#/components/schemas/Picture");
}

/* One value or a list of them; n_max 0 = the server's bound on items. */
static void put_one_or_list(struct json_writer *out, const struct field *field, enum form_kind kind,
                            size_t max_items, bool or_null)
{
    bool is_picture = field->type == FIELD_IMAGES;
    size_t n_max =
        field->max > 0 && field->max < (double)max_items ? (size_t)field->max : max_items;
    json_begin_list(out, "anyOf");
    if (is_picture)
        put_picture(out, NULL, kind);
    else
        put_json(out, NULL, "{'type': 'string'}");
    json_begin_object(out, NULL);
    json_put_string(out, "type", "array");
    if (is_picture)
        put_picture(out, "items", kind);
    else
        put_json(out, "items", "{'type': 'string'}");
    json_put_integer(out, "minItems", 1);
    json_put_integer(out, "maxItems", (long long)n_max);
    json_end_object(out);
    if (or_null)
        put_json(out, NULL, "{'type': 'null'}");
    json_end_list(out);
}

static void put_field(struct json_writer *out, const char *key, const struct field *field,
                      enum form_kind kind, size_t max_items)
{
    /* A JSON body may say null for what it leaves out. */
    bool or_null = kind == KIND_JSON && !(field->flags & FIELD_REQUIRED);
    json_begin_object(out, key);
    if (field->help)
        json_put_string(out, "description", field->help);
    if (field->schema)
        put_json(out, NULL, field->schema);
    else if (!(field->flags & FIELD_IGNORED)) /* an ignored one may be anything */
        switch (field->type) {
        case FIELD_STRING:
            put_type(out, "string", or_null);
            break;
        case FIELD_STRINGS:
            if (kind == KIND_REPLY)
                put_json(out, NULL, "'type': 'array', 'items': {'type': 'string'}");
            else
                put_one_or_list(out, field, kind, max_items, or_null);
            break;
        case FIELD_INTEGER:
        case FIELD_NUMBER:
            put_type(out, field->type == FIELD_INTEGER ? "integer" : "number", or_null);
            if (field->min != 0 || field->max != 0) {
                json_put_double(out, "minimum", field->min);
                json_put_double(out, "maximum", field->max);
            }
            break;
        case FIELD_BOOLEAN:
            put_type(out, "boolean", or_null);
            break;
        case FIELD_IMAGE:
            if (kind == KIND_MULTIPART) {
                put_json(out, NULL, "'type': 'string', 'format': 'binary'");
                break;
            }
            json_begin_list(out, "anyOf");
            put_picture(out, NULL, kind);
            if (or_null)
                put_json(out, NULL, "{'type': 'null'}");
            json_end_list(out);
            break;
        case FIELD_IMAGES:
            put_one_or_list(out, field, kind, max_items, or_null);
            break;
        case FIELD_OBJECT:
            put_type(out, "object", or_null);
            break;
        case FIELD_VECTOR:
            put_type(out, "array", or_null);
            put_json(out, "items", "{'type': 'number'}");
            break;
        case FIELD_ANY:
            break;
        }
    json_end_object(out);
}

static void put_object_schema(struct json_writer *out, const struct field *const *tables, size_t n,
                              enum form_kind kind, size_t max_items)
{
    bool any_required = false;
    json_begin_object(out, "schema");
    json_put_string(out, "type", "object");
    json_begin_object(out, "properties");
    for (size_t t = 0; t < n; t++)
        for (const struct field *field = tables[t]; field->name; field++) {
            put_field(out, field->name, field, kind, max_items);
            any_required |= field->flags & FIELD_REQUIRED;
        }
    json_end_object(out);
    if (any_required) {
        json_begin_list(out, "required");
        for (size_t t = 0; t < n; t++)
            for (const struct field *field = tables[t]; field->name; field++)
                if (field->flags & FIELD_REQUIRED)
                    json_put_string(out, NULL, field->name);
        json_end_list(out);
    }
    if (kind != KIND_REPLY)
        json_put_bool(out, "additionalProperties", false);
    json_end_object(out);
}

/* ---- requests
 * ------------------------------------------------------------------------------------
 */

static void put_body(struct json_writer *out, const struct endpoint *endpoint, size_t max_items)
{
    const struct field *tables[ENDPOINT_TABLES_MAX];
    size_t n = endpoint_tables(endpoint, tables);
    json_begin_object(out, "requestBody");
    json_put_bool(out, "required", !(endpoint->body & BODY_OPTIONAL));
    json_begin_object(out, "content");
    if (endpoint->body & BODY_JSON) {
        json_begin_object(out, "application/json");
        put_object_schema(out, tables, n, KIND_JSON, max_items);
        if (endpoint->example)
            put_json(out, "example", endpoint->example);
        json_end_object(out);
    }
    if (endpoint->body & BODY_MULTIPART) {
        json_begin_object(out, "multipart/form-data");
        put_object_schema(out, tables, n, KIND_MULTIPART, max_items);
        json_end_object(out);
    }
    if (endpoint->body & BODY_LINES) {
        json_begin_object(out, LINES_TYPE);
        put_json(out, "schema",
                 "{'type': 'string', 'description': 'one item a line, each as in items'}");
        json_end_object(out);
    }
    if (endpoint->body & BODY_IMAGE) {
        static const char *const types[] = {"image/jpeg", "image/png", "image/webp"};
        for (size_t i = 0; i < ARRAY_LENGTH(types); i++) {
            json_begin_object(out, types[i]);
            put_json(out, "schema",
                     "{'type': 'string', 'format': 'binary', 'description': 'the picture itself; "
                     "the other fields are in the query string'}");
            json_end_object(out);
        }
    }
    json_end_object(out);
    json_end_object(out);
}

static void put_parameters(struct json_writer *out, const struct endpoint *endpoint,
                           size_t max_items)
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
        put_json(out, "schema", "{'type': 'string', 'minLength': 1}");
        json_end_object(out);
        at = end;
    }
    if (!endpoint->body) {
        for (const struct field *field = endpoint->fields; field && field->name; field++) {
            json_begin_object(out, NULL);
            json_put_string(out, "name", field->name);
            json_put_string(out, "in", "query");
            json_put_bool(out, "required", field->flags & FIELD_REQUIRED);
            put_field(out, "schema", field, KIND_QUERY, max_items);
            json_end_object(out);
        }
    }
    json_end_list(out);
}

/* ---- replies
 * -------------------------------------------------------------------------------------
 */

static const struct field reply_model[] = {
    {"model", FIELD_STRING, .help = "the model that answered"},
    {NULL},
};

static const struct field reply_common[] = {
    {"warnings", FIELD_STRINGS, .help = "what was cut or left out"},
    {"timings", FIELD_OBJECT, FIELD_REQUIRED, .schema = "'$ref': '#/components/schemas/Timings'"},
    {NULL},
};

static void put_reply_content(struct json_writer *out, const struct endpoint *endpoint,
                              size_t max_items)
{
    json_begin_object(out, "content");
    if (endpoint->reply) {
        const struct field *tables[] = {endpoint->reply, reply_common, reply_model};
        size_t n = endpoint->inline_reply ? 1 : endpoint->uses_model ? 3 : 2;
        json_begin_object(out, "application/json");
        put_object_schema(out, tables, n, KIND_REPLY, max_items);
        json_end_object(out);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(endpoint->reply_types) && endpoint->reply_types[i]; i++) {
        bool is_text = !strncmp(endpoint->reply_types[i], "text/", 5);
        json_begin_object(out, endpoint->reply_types[i]);
        put_json(out, "schema",
                 is_text ? "{'type': 'string'}" : "{'type': 'string', 'format': 'binary'}");
        json_end_object(out);
    }
    if (endpoint->delta) { /* with "stream": true */
        json_begin_object(out, "text/event-stream");
        put_json(out, "schema", "{'type': 'string'}");
        json_end_object(out);
    }
    json_end_object(out);
}

static void put_success(struct json_writer *out, const char *status, const char *description,
                        const struct endpoint *endpoint, size_t max_items)
{
    json_begin_object(out, status);
    json_put_string(out, "description", description);
    put_json(out, "headers", "{'X-Request-Id': {'$ref': '#/components/headers/X-Request-Id'}}");
    put_reply_content(out, endpoint, max_items);
    json_end_object(out);
}

/* The statuses that an endpoint's errors have; `default` stands for the rest. */
static void put_errors(struct json_writer *out, const struct endpoint *endpoint)
{
    bool has_body = endpoint->body, computes = !endpoint->inline_reply;
    bool names = strchr(endpoint->path, '{') || endpoint->uses_model;
    const struct {
        bool applies, is_busy;
        const char *status, *description;
    } rows[] = {
        {true, false, "400", "malformed: JSON, a field's type, an unknown field"},
        {!endpoint->is_public, false, "401", "no key, or a wrong one (where the server has keys)"},
        {names, false, "404", "there is no such model, collection, item or file"},
        {has_body, false, "408", "the body did not arrive in time"},
        {has_body && !(endpoint->body & BODY_OPTIONAL), false, "411", "a body of unknown length"},
        {has_body, false, "413", "the body is larger than the server takes"},
        {has_body, false, "415", "a Content-Type that is not accepted"},
        {computes, false, "422",
         "well-formed, but it cannot be done: a broken picture, a model without the task"},
        {!endpoint->is_public, true, "429", "full, or a key's rate; Retry-After says when"},
        {true, true, "503", "loading, draining, or not ready"},
        {computes, false, "504", "the request's time was over"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        if (!rows[i].applies)
            continue;
        json_begin_object(out, rows[i].status);
        json_put_string(out, "$ref",
                        rows[i].is_busy ? "#/components/responses/Busy"
                                        : "#/components/responses/Error");
        json_put_string(out, "description", rows[i].description);
        json_end_object(out);
    }
    put_ref(out, "default", "#/components/responses/Error");
}

static void put_operation(struct json_writer *out, const struct endpoint *endpoint,
                          size_t max_items)
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
    if (endpoint->is_public) { /* no key, whatever the document says above */
        json_begin_list(out, "security");
        json_end_list(out);
    }
    put_parameters(out, endpoint, max_items);
    if (endpoint->body)
        put_body(out, endpoint, max_items);
    json_begin_object(out, "responses");
    put_success(out, "200", "done", endpoint, max_items);
    if (endpoint->creates)
        put_success(out, "201", "made", endpoint, max_items);
    put_errors(out, endpoint);
    json_end_object(out);
    json_end_object(out);
}

/* ---- what they share
 * -----------------------------------------------------------------------------
 */

static const struct {
    const char *name, *schema;
} shapes[] = {
    {"Picture", "{'anyOf': [{'type': 'string', 'description': 'base64 or a data: URL'},"
                "{'type': 'object', 'properties': {'b64': {'type': 'string'}}, 'required': ['b64'],"
                "'additionalProperties': false},"
                "{'type': 'object', 'properties': {'url': {'type': 'string'}}, 'required': ['url'],"
                "'additionalProperties': false}]}"},
    {"Box", "{'type': 'object', 'description': 'pixels of the upright picture',"
            "'properties': {'xmin': {'type': 'number'}, 'ymin': {'type': 'number'},"
            "'xmax': {'type': 'number'}, 'ymax': {'type': 'number'}},"
            "'required': ['xmin', 'ymin', 'xmax', 'ymax']}"},
    {"Mask", "{'type': 'object', 'properties': {'width': {'type': 'integer'},"
             "'height': {'type': 'integer'}, 'x': {'type': 'integer'}, 'y': {'type': 'integer'},"
             "'mask': {'type': 'string', 'description': 'a PNG as data: URL, 8-bit probabilities'},"
             "'area': {'type': 'integer', 'description': 'pixels above the threshold'},"
             "'box': {'anyOf': [{'$ref': '#/components/schemas/Box'}, {'type': 'null'}]},"
             "'prompt': {'type': ['string', 'null']}}, 'required': ['width', 'height', 'mask']}"},
    {"Usage", "{'type': 'object', 'properties': {'prompt_tokens': {'type': 'integer'},"
              "'completion_tokens': {'type': 'integer'}, 'total_tokens': {'type': 'integer'}},"
              "'required': ['prompt_tokens', 'total_tokens']}"},
    {"Model", "{'type': 'object', 'properties': {'id': {'type': 'string'},"
              "'object': {'const': 'model'}, 'created': {'type': 'integer'},"
              "'owned_by': {'type': 'string'},"
              "'tasks': {'type': 'array', 'items': {'type': 'string'}},"
              "'architecture': {'type': 'string'}, 'dtype': {'type': 'string'},"
              "'parameters': {'type': 'integer'}, 'revision': {'type': 'string'},"
              "'dimensions': {'type': 'integer'}, 'context_length': {'type': 'integer'}},"
              "'required': ['id', 'object', 'tasks', 'architecture', 'dtype', 'parameters']}"},
    {"Collection", "{'type': 'object', 'properties': {'name': {'type': 'string'},"
                   "'model': {'type': ['string', 'null']}, 'space': {'type': 'string'},"
                   "'dimensions': {'type': 'integer'}, 'metric': {'enum': ['cosine', 'dot']},"
                   "'thumbnail': {'type': 'boolean'}, 'count': {'type': 'integer'}, 'created': "
                   "{'type': 'integer'}},"
                   "'required': ['name', 'space', 'dimensions', 'metric', 'count', 'created']}"},
    {"Item", "{'type': 'object', 'properties': {'id': {'type': 'string'},"
             "'metadata': {'type': 'object'},"
             "'vector': {'type': 'array', 'items': {'type': 'number'}}},"
             "'required': ['id', 'metadata']}"},
    {"Timings", "{'type': 'object', 'properties': {'queue_ms': {'type': 'number'},"
                "'preprocess_ms': {'type': 'number'}, 'forward_ms': {'type': 'number'},"
                "'total_ms': {'type': 'number'}, 'batch_size': {'type': 'integer'}},"
                "'required': ['queue_ms', 'preprocess_ms', 'forward_ms', 'total_ms']}"},
    {"Fault", "{'type': 'object', 'properties': {'type': {'type': 'string'},"
              "'code': {'type': 'string'}, 'message': {'type': 'string'},"
              "'param': {'type': ['string', 'null']}},"
              "'required': ['type', 'code', 'message', 'param'], 'additionalProperties': false}"},
    {"Error", "{'type': 'object', 'properties': {'error': {'$ref': '#/components/schemas/Fault'}},"
              "'required': ['error'], 'additionalProperties': false}"},
};

#define ERROR_CONTENT                                                                              \
    "'description': 'what was wrong, where, and what would be accepted',"                          \
    "'content': {'application/json': {'schema': {'$ref': '#/components/schemas/Error'}}}"

static void put_components(struct json_writer *out)
{
    json_begin_object(out, "components");
    json_begin_object(out, "schemas");
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++)
        put_json(out, shapes[i].name, shapes[i].schema);
    json_end_object(out);
    put_json(out, "headers",
             "{'X-Request-Id': {'description': 'the request that this answers; yours, if you sent "
             "one', 'schema': {'type': 'string'}},"
             "'Retry-After': {'description': 'seconds', 'schema': {'type': 'integer'}}}");
    put_json(out, "responses",
             "{'Error': {" ERROR_CONTENT "},"
             "'Busy': {" ERROR_CONTENT
             ", 'headers': {'Retry-After': {'$ref': '#/components/headers/Retry-After'}}}}");
    put_json(out, "securitySchemes",
             "{'bearer': {'type': 'http', 'scheme': 'bearer'},"
             "'key': {'type': 'apiKey', 'in': 'header', 'name': 'X-API-Key'}}");
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
    json_put_string(out, "summary", "Questions about pictures over HTTP");
    json_end_object(out);
    put_json(out, "servers", "[{'url': '/'}]");
    put_json(out, "security", "[{}, {'bearer': []}, {'key': []}]"); /* keys are a setting */
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
                put_operation(out, other, options->max_items);
        json_end_object(out);
    }
    json_end_object(out);
    put_components(out);
    return STATUS_OK;
}

static const struct field reply[] = {
    {"openapi", FIELD_STRING, FIELD_REQUIRED, .help = "3.1.0"},
    {"info", FIELD_OBJECT, FIELD_REQUIRED},
    {"paths", FIELD_OBJECT, FIELD_REQUIRED},
    {"components", FIELD_OBJECT, FIELD_REQUIRED},
    {NULL},
};

const struct endpoint endpoint_openapi = {
    .method = "GET",
    .path = "/openapi.json",
    .id = "openapi",
    .tag = "process",
    .summary = "This description",
    .inline_reply = true,
    .is_public = true,
    .reply = reply,
    .begin = openapi,
};
