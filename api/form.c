/*
 * form.c: see form.h. Two sources feed one table of typed values: a JSON object's members, and
 * named pieces of bytes (query pairs and multipart parts, "pieces" below). Each value is checked
 * against its field the moment it is read.
 */
#include "api/form.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/endpoint.h"
#include "api/form_internal.h"
#include "api/multipart.h"
#include "api/percent.h"
#include "core/base/utf8.h"

/* One name=value of a query string or one part of a multipart body. */
struct piece {
    const struct field *field;
    struct span data; /* texts: in the arena, NUL-terminated */
    struct span filename;
    bool is_bytes; /* a file: pictures only */
};

static const char *field_kind(enum field_type type)
{
    switch (type) {
    case FIELD_STRING:
        return "a string";
    case FIELD_STRINGS:
        return "a string or a list of strings";
    case FIELD_INTEGER:
        return "an integer";
    case FIELD_NUMBER:
        return "a number";
    case FIELD_BOOLEAN:
        return "a boolean";
    case FIELD_IMAGE:
        return "a picture (base64 or a data: URL as a string, or an object with b64 or url)";
    case FIELD_IMAGES:
        return "a picture or a list of pictures";
    case FIELD_OBJECT:
        return "an object";
    case FIELD_VECTOR:
        return "a list of numbers";
    case FIELD_ANY:
        break;
    }
    return "a value";
}

/* ---- values -------------------------------------------------------------------------------------
 */

static bool is_bounded(const struct field *field)
{
    return field->min != 0 || field->max != 0;
}

static enum status check_range(const struct field *field, double value, struct error *err)
{
    if (is_bounded(field) && !(value >= field->min && value <= field->max))
        return error_set_param(err, STATUS_OUT_OF_RANGE, field->name,
                               "'%s' must be between %.15g and %.15g, not %.15g", field->name,
                               field->min, field->max, value);
    return STATUS_OK;
}

/* How many entries a list field may have: the request's bound, or the field's own where lower. */
static enum status check_count(const struct field *field, size_t n, size_t max_items,
                               struct error *err)
{
    size_t max = field->max > 0 && field->max < (double)max_items ? (size_t)field->max : max_items;
    if (!n)
        return error_set_param(err, STATUS_UNPROCESSABLE, field->name, "'%s' must not be empty",
                               field->name);
    if (n > max)
        return error_set_param(err, STATUS_OUT_OF_RANGE, field->name,
                               "'%s' holds %zu entries; at most %zu are allowed", field->name, n,
                               max);
    return STATUS_OK;
}

static void item_param(char out[64], const char *name, bool is_list, size_t i)
{
    if (is_list)
        snprintf(out, 64, "%s[%zu]", name, i);
    else
        snprintf(out, 64, "%s", name);
}

static enum status read_json_value(const struct field *field, json_t *value, size_t max_items,
                                   struct arena *arena, struct form_value *out, struct error *err)
{
    enum status status = STATUS_OK;
    bool is_list = json_is_array(value);
    size_t n = is_list ? json_array_size(value) : 1;
    switch (field->type) {
    case FIELD_STRING:
    case FIELD_IMAGE:
        is_list = false;
        n = 1;
        break;
    case FIELD_STRINGS:
    case FIELD_IMAGES:
        status = check_count(field, n, max_items, err);
        break;
    case FIELD_INTEGER:
        if (!json_is_integer(value))
            return field_wrong_type(field->name, field_kind(field->type), json_kind(value), err);
        out->integer = json_integer_value(value);
        return check_range(field, (double)out->integer, err);
    case FIELD_NUMBER:
        if (!json_is_number(value))
            return field_wrong_type(field->name, field_kind(field->type), json_kind(value), err);
        out->number = json_number_value(value);
        return check_range(field, out->number, err);
    case FIELD_BOOLEAN:
        if (!json_is_boolean(value))
            return field_wrong_type(field->name, field_kind(field->type), json_kind(value), err);
        out->boolean = json_is_true(value);
        return STATUS_OK;
    case FIELD_OBJECT:
        if (!json_is_object(value))
            return field_wrong_type(field->name, field_kind(field->type), json_kind(value), err);
        out->json = value;
        return STATUS_OK;
    case FIELD_ANY:
        out->json = value;
        return STATUS_OK;
    case FIELD_VECTOR:
        return vector_from_json(value, field->name, arena, &out->vector, &out->n, err);
    }
    if (status)
        return status;

    bool is_picture = field->type == FIELD_IMAGE || field->type == FIELD_IMAGES;
    struct picture *pictures = NULL;
    struct span *strings = NULL;
    if (is_picture)
        pictures = arena_zalloc(arena, n, sizeof *pictures);
    else
        strings = arena_zalloc(arena, n, sizeof *strings);
    if (!pictures && !strings)
        return error_no_memory(err, "the request's fields");
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = is_list ? json_array_get(value, i) : value;
        char param[64];
        item_param(param, field->name, is_list, i);
        if (is_picture)
            status = picture_from_json(entry, param, &pictures[i], err);
        else if (!json_is_string(entry) && !is_list)
            status = field_wrong_type(param, field_kind(field->type), json_kind(entry), err);
        else
            status = string_from_json(entry, param, &strings[i], err);
        if (status)
            return status;
    }
    if (is_picture)
        out->pictures = pictures;
    else
        out->strings = strings;
    out->n = n;
    return STATUS_OK;
}

/* ---- JSON bodies --------------------------------------------------------------------------------
 */

static const struct field *find_field(const struct form *form, const char *name, size_t *index)
{
    for (size_t i = 0; i < form->n_fields; i++) {
        if (!strcmp(form->fields[i]->name, name)) {
            *index = i;
            return form->fields[i];
        }
    }
    return NULL;
}

static enum status unknown_field(const struct form *form, const char *name, struct error *err)
{
    char known[ERROR_MESSAGE_MAX - 128] = "none";
    size_t used = 0;
    for (size_t i = 0; i < form->n_fields; i++) {
        if (form->fields[i]->flags & FIELD_IGNORED)
            continue;
        int n = snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                         form->fields[i]->name);
        if (n < 0 || (size_t)n >= sizeof known - used)
            break;
        used += (size_t)n;
    }
    return error_set_param(err, STATUS_UNKNOWN_FIELD, name,
                           "unknown field '%.64s'; the fields here are: %s", name, known);
}

static enum status given_twice(const struct field *field, struct error *err)
{
    return error_set_param(err, STATUS_BAD_REQUEST, field->name,
                           "'%s' is given both in the query string and in the body", field->name);
}

static enum status parse_json_body(struct form *form, const struct form_request *request,
                                   struct error *err)
{
    form->root = form_read_json(request->body, request->body_bytes, 0, err);
    if (!form->root)
        return error_prefix(err, "the body");
    if (!json_is_object(form->root))
        return error_set(err, STATUS_BAD_REQUEST, "the body must be a JSON object, not %s",
                         json_kind(form->root));
    const char *name;
    json_t *value;
    json_object_foreach(form->root, name, value)
    {
        size_t i;
        const struct field *field = find_field(form, name, &i);
        if (!field)
            return unknown_field(form, name, err);
        if ((field->flags & FIELD_IGNORED) || json_is_null(value))
            continue;
        if (form->values[i].present)
            return given_twice(field, err);
        enum status status =
            read_json_value(field, value, request->max_items, form->arena, &form->values[i], err);
        if (status)
            return status;
        form->values[i].present = true;
    }
    return STATUS_OK;
}

/* ---- query strings and multipart ----------------------------------------------------------------
 */

struct pieces {
    struct piece *list; /* malloc'd */
    size_t n, capacity;
};

static enum status add_piece(struct form *form, struct pieces *pieces, const char *name,
                             struct piece piece, struct error *err)
{
    size_t i;
    piece.field = find_field(form, name, &i);
    if (!piece.field)
        return unknown_field(form, name, err);
    if (piece.field->flags & FIELD_IGNORED)
        return STATUS_OK;
    if (pieces->n == FORM_PARTS_MAX)
        return error_set(err, STATUS_BAD_REQUEST, "the request has more than %d fields",
                         FORM_PARTS_MAX);
    if (pieces->n == pieces->capacity) {
        size_t capacity = pieces->capacity ? 2 * pieces->capacity : 16;
        struct piece *list = realloc(pieces->list, capacity * sizeof *list);
        if (!list)
            return error_no_memory(err, "the request's fields");
        pieces->list = list;
        pieces->capacity = capacity;
    }
    bool is_picture = piece.field->type == FIELD_IMAGE || piece.field->type == FIELD_IMAGES;
    if (piece.is_bytes && !is_picture)
        piece.is_bytes = false; /* a text field sent as a file: its content is the text */
    if (!piece.is_bytes) {
        if (!utf8_valid(piece.data.data, piece.data.size) ||
            memchr(piece.data.data, '\0', piece.data.size))
            return error_set_param(err, STATUS_BAD_REQUEST, name,
                                   "'%s' must be UTF-8 text without NUL%s", name,
                                   is_picture ? " (send a picture as a file part)" : "");
        piece.data.data = arena_string(form->arena, piece.data.data, piece.data.size);
        if (!piece.data.data)
            return error_no_memory(err, "the request's fields");
    }
    pieces->list[pieces->n++] = piece;
    return STATUS_OK;
}

static enum status read_query(struct form *form, struct pieces *pieces, const char *query,
                              struct error *err)
{
    size_t left = strlen(query);
    if (!left)
        return STATUS_OK;
    char *decoded = arena_alloc(form->arena, left + 1);
    if (!decoded)
        return error_no_memory(err, "the query string");
    while (left) {
        const char *amp = memchr(query, '&', left);
        size_t size = amp ? (size_t)(amp - query) : left;
        const char *equals = memchr(query, '=', size);
        size_t key = equals ? (size_t)(equals - query) : size;
        size_t value = equals ? size - key - 1 : 0;
        char name[64];
        size_t name_size, value_size;
        if (size) {
            if (!percent_decode(query, key, true, decoded, &name_size))
                return error_set(err, STATUS_BAD_REQUEST,
                                 "the query string has a '%%' that two hexadecimal digits do not "
                                 "follow");
            utf8_clean(name, sizeof name, decoded, name_size);
            if (!percent_decode(query + size - value, value, true, decoded, &value_size))
                return error_set_param(err, STATUS_BAD_REQUEST, name,
                                       "'%s' in the query string has a '%%' that two hexadecimal "
                                       "digits do not follow",
                                       name);
            struct piece piece = {.data = {decoded, value_size}};
            enum status status = add_piece(form, pieces, name, piece, err);
            if (status)
                return status;
        }
        query += size + (amp ? 1 : 0);
        left -= size + (amp ? 1 : 0);
    }
    return STATUS_OK;
}

static enum status read_multipart(struct form *form, struct pieces *pieces,
                                  const struct form_request *request, struct error *err)
{
    struct multipart multipart;
    enum status status =
        multipart_init(&multipart, request->content_type, request->body, request->body_bytes, err);
    for (size_t n = 0; !status; n++) {
        struct part part;
        bool more;
        if ((status = multipart_next(&multipart, &part, &more, err)) || !more)
            break;
        if (n == FORM_PARTS_MAX)
            return error_set(err, STATUS_BAD_REQUEST, "the multipart body has more than %d parts",
                             FORM_PARTS_MAX);
        struct piece piece = {
            .data = part.data,
            .is_bytes = part.is_file || !strncasecmp(part.type, "image/", 6) ||
                        !strcasecmp(part.type, "application/octet-stream"),
        };
        if (part.filename[0]) {
            size_t size = strlen(part.filename);
            piece.filename = (struct span){arena_string(form->arena, part.filename, size), size};
            if (!piece.filename.data)
                return error_no_memory(err, "a file name");
        }
        status = add_piece(form, pieces, part.name, piece, err);
    }
    return status;
}

static enum status raw_picture(struct form *form, struct pieces *pieces,
                               const struct form_request *request, struct error *err)
{
    for (size_t i = 0; i < form->n_fields; i++)
        if (form->fields[i]->type == FIELD_IMAGE || form->fields[i]->type == FIELD_IMAGES)
            return add_piece(
                form, pieces, form->fields[i]->name,
                (struct piece){.data = {request->body, request->body_bytes}, .is_bytes = true},
                err);
    return error_set(err, STATUS_UNSUPPORTED_MEDIA, "this endpoint takes no picture");
}

static enum status integer_from_text(const struct field *field, const char *text, long long *out,
                                     struct error *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!*text || *end || strspn(text, "+-0123456789") != strlen(text))
        return error_set_param(err, STATUS_WRONG_TYPE, field->name,
                               "'%s' must be an integer, not '%.64s'", field->name, text);
    if (errno)
        return error_set_param(err, STATUS_OUT_OF_RANGE, field->name, "'%s' is out of range",
                               field->name);
    *out = value;
    return STATUS_OK;
}

static enum status number_from_text(const struct field *field, const char *text, double *out,
                                    struct error *err)
{
    char *end;
    double value = strtod(text, &end);
    if (!*text || *end || strspn(text, "+-0123456789.eE") != strlen(text))
        return error_set_param(err, STATUS_WRONG_TYPE, field->name,
                               "'%s' must be a number, not '%.64s'", field->name, text);
    if (!isfinite(value))
        return error_set_param(err, STATUS_OUT_OF_RANGE, field->name, "'%s' is out of range",
                               field->name);
    *out = value;
    return STATUS_OK;
}

static enum status boolean_from_text(const struct field *field, const char *text, bool *out,
                                     struct error *err)
{
    bool yes = !strcmp(text, "true") || !strcmp(text, "1");
    if (!yes && strcmp(text, "false") && strcmp(text, "0"))
        return error_set_param(err, STATUS_WRONG_TYPE, field->name,
                               "'%s' must be true or false, not '%.64s'", field->name, text);
    *out = yes;
    return STATUS_OK;
}

/* Kept alive by form->extra. Takes the value; NULL = out of memory. */
static json_t *keep_json(struct form *form, json_t *value, struct error *err)
{
    if (!form->extra)
        form->extra = json_array();
    if (!value || !form->extra) {
        json_decref(value);
        value = NULL;
    } else if (json_array_append_new(form->extra, value)) { /* which has given the value back */
        value = NULL;
    }
    if (!value)
        error_no_memory(err, "the request's fields");
    return value;
}

json_t *form_parse_json(struct form *form, struct span text, const char *param, struct error *err)
{
    json_t *value = form_read_json(text.data, text.size, JSON_DECODE_ANY, err);
    if (value)
        return keep_json(form, value, err);
    error_prefix(err, "'%s'", param);
    error_name_param(err, param);
    return NULL;
}

void form_forget_json(struct form *form)
{
    json_array_remove(form->extra, json_array_size(form->extra) - 1);
}

/* The one JSON value of a text field. */
static json_t *json_from_text(struct form *form, struct span text, bool must_be_json,
                              const char *param, struct error *err)
{
    const char *first = text.data + strspn(text.data, " \t\r\n");
    return must_be_json || *first == '{' || *first == '['
               ? form_parse_json(form, text, param, err)
               : keep_json(form, json_stringn(text.data, text.size), err);
}

/* All pieces of one field → its value. */
static enum status read_pieces(struct form *form, size_t index, const struct pieces *pieces,
                               size_t n, const struct form_request *request, struct error *err)
{
    const struct field *field = form->fields[index];
    struct form_value *out = &form->values[index];
    bool is_list = field->type == FIELD_STRINGS || field->type == FIELD_IMAGES;
    bool is_picture = field->type == FIELD_IMAGE || field->type == FIELD_IMAGES;
    if (out->present)
        return given_twice(field, err);
    if (n > 1 && !is_list && field->type != FIELD_ANY)
        return error_set_param(err, STATUS_BAD_REQUEST, field->name, "'%s' is given %zu times",
                               field->name, n);
    enum status status = STATUS_OK;
    if (is_list)
        status = check_count(field, n, request->max_items, err);
    if (status)
        return status;

    struct picture *pictures = NULL;
    struct span *strings = NULL;
    json_t *list = NULL;
    if (is_picture && !(pictures = arena_zalloc(form->arena, n, sizeof *pictures)))
        return error_no_memory(err, "the request's fields");
    if (!is_picture && !(strings = arena_zalloc(form->arena, n, sizeof *strings)))
        return error_no_memory(err, "the request's fields");
    size_t at = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        const struct piece *piece = &pieces->list[i];
        if (piece->field != field)
            continue;
        char param[64];
        item_param(param, field->name, is_list && n > 1, at);
        if (is_picture && piece->is_bytes) {
            pictures[at] = (struct picture){.form = PICTURE_BYTES, .bytes = piece->data};
            snprintf(pictures[at].param, sizeof pictures[at].param, "%s", param);
        } else if (is_picture) {
            if ((status = picture_from_text(piece->data, param, &pictures[at], err)))
                return status;
        } else {
            strings[at] = piece->data;
        }
        if (is_picture)
            pictures[at].filename = piece->filename.data ? piece->filename : (struct span){"", 0};
        at++;
    }

    switch (field->type) {
    case FIELD_STRING:
    case FIELD_STRINGS:
        out->strings = strings;
        out->n = n;
        break;
    case FIELD_IMAGE:
    case FIELD_IMAGES:
        out->pictures = pictures;
        out->n = n;
        break;
    case FIELD_INTEGER:
        if (!(status = integer_from_text(field, strings[0].data, &out->integer, err)))
            status = check_range(field, (double)out->integer, err);
        break;
    case FIELD_NUMBER:
        if (!(status = number_from_text(field, strings[0].data, &out->number, err)))
            status = check_range(field, out->number, err);
        break;
    case FIELD_BOOLEAN:
        status = boolean_from_text(field, strings[0].data, &out->boolean, err);
        break;
    case FIELD_OBJECT:
    case FIELD_VECTOR:
    case FIELD_ANY: {
        json_t *value =
            json_from_text(form, strings[0], field->type != FIELD_ANY, field->name, err);
        if (!value)
            return err->status;
        if (n > 1) { /* a repeated field is a list of texts */
            list = json_array();
            if (!list || json_array_append_new(form->extra, list))
                return error_no_memory(err, "the request's fields");
            for (size_t i = 0; i < n; i++)
                if (json_array_append_new(list, json_stringn(strings[i].data, strings[i].size)))
                    return error_no_memory(err, "the request's fields");
            value = list;
        }
        status = read_json_value(field, value, request->max_items, form->arena, out, err);
        break;
    }
    }
    if (!status)
        out->present = true;
    return status;
}

static enum status read_all_pieces(struct form *form, const struct pieces *pieces,
                                   const struct form_request *request, struct error *err)
{
    size_t counts[FORM_FIELDS_MAX] = {0};
    for (size_t i = 0; i < pieces->n; i++)
        for (size_t k = 0; k < form->n_fields; k++)
            counts[k] += pieces->list[i].field == form->fields[k];
    for (size_t k = 0; k < form->n_fields; k++) {
        if (!counts[k])
            continue;
        enum status status = read_pieces(form, k, pieces, counts[k], request, err);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------
 */

static bool is_media_type(const char *content_type, const char *type)
{
    size_t n = strlen(type);
    if (strncasecmp(content_type, type, n))
        return false;
    char next = content_type[n];
    return type[n - 1] == '/' || !next || next == ';' || next == ' ' || next == '\t';
}

bool form_is_lines(const char *content_type)
{
    return content_type && (is_media_type(content_type, LINES_TYPE) ||
                            is_media_type(content_type, "application/jsonl"));
}

static enum status unsupported_media(const struct form_request *request, struct error *err)
{
    const char *type = request->content_type;
    return error_set(err, STATUS_UNSUPPORTED_MEDIA,
                     "Content-Type %s%.100s is not accepted; send %s%s%s%s",
                     type && *type ? "" : "(none)", type ? type : "",
                     request->body_forms & BODY_JSON ? "application/json" : "no body",
                     request->body_forms & BODY_MULTIPART ? ", multipart/form-data" : "",
                     request->body_forms & BODY_LINES ? ", " LINES_TYPE : "",
                     request->body_forms & BODY_IMAGE
                         ? ", or a picture itself (image/jpeg, image/png, image/webp)"
                         : "");
}

static enum status parse_body(struct form *form, struct pieces *pieces,
                              const struct form_request *request, struct error *err)
{
    if (!request->body_forms)
        return STATUS_OK;
    if (!request->body_bytes) {
        if (request->body_forms & BODY_OPTIONAL)
            return STATUS_OK;
        return error_set(err, STATUS_BAD_REQUEST, "the body is empty");
    }
    const char *type = request->content_type ? request->content_type : "";
    if ((request->body_forms & BODY_JSON) && is_media_type(type, "application/json")) {
        char charset[32];
        if (header_parameter(type, strlen(type), "charset", charset, sizeof charset) &&
            strcasecmp(charset, "utf-8") && strcasecmp(charset, "us-ascii"))
            return error_set(err, STATUS_UNSUPPORTED_MEDIA,
                             "charset '%s' is not accepted; JSON is UTF-8", charset);
        return parse_json_body(form, request, err);
    }
    if ((request->body_forms & BODY_LINES) && form_is_lines(type)) {
        form->is_lines = true;
        return STATUS_OK;
    }
    if ((request->body_forms & BODY_MULTIPART) && is_media_type(type, "multipart/form-data"))
        return read_multipart(form, pieces, request, err);
    if ((request->body_forms & BODY_IMAGE) &&
        (is_media_type(type, "image/") || is_media_type(type, "application/octet-stream")))
        return raw_picture(form, pieces, request, err);
    return unsupported_media(request, err);
}

static enum status check_required(const struct form *form, struct error *err)
{
    for (size_t i = 0; i < form->n_fields; i++)
        if ((form->fields[i]->flags & FIELD_REQUIRED) && !form->values[i].present)
            return error_set_param(err, STATUS_MISSING_FIELD, form->fields[i]->name,
                                   "'%s' is missing: %s", form->fields[i]->name,
                                   form->fields[i]->help ? form->fields[i]->help : "");
    return STATUS_OK;
}

enum status form_parse(struct form *form, struct arena *arena, const struct form_request *request,
                       struct error *err)
{
    *form = (struct form){.arena = arena};
    for (size_t t = 0; t < request->n_tables; t++)
        for (const struct field *field = request->tables[t]; field && field->name; field++)
            if (form->n_fields < FORM_FIELDS_MAX)
                form->fields[form->n_fields++] = field;

    struct pieces pieces = {0};
    enum status status = read_query(form, &pieces, request->query ? request->query : "", err);
    if (!status)
        status = read_all_pieces(form, &pieces, request, err);
    pieces.n = 0;
    if (!status)
        status = parse_body(form, &pieces, request, err);
    if (!status)
        status = read_all_pieces(form, &pieces, request, err);
    if (!status)
        status = check_required(form, err);
    free(pieces.list);
    if (status)
        form_release(form);
    return status;
}

void form_release(struct form *form)
{
    json_decref(form->root);
    json_decref(form->extra);
    *form = (struct form){0};
}

const struct form_value *form_value(const struct form *form, const char *name)
{
    size_t i;
    if (!find_field(form, name, &i) || !form->values[i].present)
        return NULL;
    return &form->values[i];
}

bool form_has(const struct form *form, const char *name)
{
    return form_value(form, name) != NULL;
}

struct span form_string(const struct form *form, const char *name, const char *otherwise)
{
    const struct form_value *value = form_value(form, name);
    if (value)
        return value->strings[0];
    return (struct span){otherwise, otherwise ? strlen(otherwise) : 0};
}

long long form_integer(const struct form *form, const char *name, long long otherwise)
{
    const struct form_value *value = form_value(form, name);
    return value ? value->integer : otherwise;
}

double form_number(const struct form *form, const char *name, double otherwise)
{
    const struct form_value *value = form_value(form, name);
    return value ? value->number : otherwise;
}

bool form_boolean(const struct form *form, const char *name, bool otherwise)
{
    const struct form_value *value = form_value(form, name);
    return value ? value->boolean : otherwise;
}

json_t *form_json(const struct form *form, const char *name)
{
    const struct form_value *value = form_value(form, name);
    return value ? value->json : NULL;
}
