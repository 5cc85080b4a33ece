/*
 * form.h: a request's body and query string as typed fields, whichever of the three forms of DESIGN
 * §4 it came in: JSON, multipart/form-data, or a raw picture with the rest in the query string.
 *
 * form_parse() checks everything against the endpoint's field tables: unknown and missing fields,
 * types (query and multipart values are coerced), ranges. Getters then cannot fail. Strings, bytes
 * and JSON values are borrowed from the request and the form. Pictures are not decoded here: they
 * are byte ranges, so that admission can refuse before any base64 work.
 */
#ifndef VLMD_API_FORM_H
#define VLMD_API_FORM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/base/arena.h"
#include "core/base/error.h"

/* Bounds on what a stranger can make us build. */
enum {
    FORM_FIELDS_MAX = 48,           /* of one endpoint's tables together */
    FORM_PARTS_MAX = 4096,          /* of one multipart body, and pairs of one query string */
    FORM_PART_HEADER_MAX = 4096,    /* bytes of one part's headers */
    FORM_BOUNDARY_MAX = 70,         /* RFC 2046 */
    FORM_JSON_DEPTH_MAX = 32,       /* nested arrays and objects */
    FORM_JSON_VALUES_MAX = 1 << 20, /* values in one JSON body */
    FORM_METADATA_DEPTH_MAX = 32,
};

/* Borrowed bytes; texts are valid UTF-8 without NUL and also NUL-terminated. */
struct span {
    const char *data;
    size_t size;
};

enum field_type {
    FIELD_STRING,
    FIELD_STRINGS, /* one string or a list of them */
    FIELD_INTEGER,
    FIELD_NUMBER,
    FIELD_BOOLEAN,
    FIELD_IMAGE,
    FIELD_IMAGES, /* one picture or a list of them */
    FIELD_OBJECT,
    FIELD_VECTOR, /* a list of finite numbers */
    FIELD_ANY,    /* JSON that the endpoint reads by itself */
};

enum { FIELD_REQUIRED = 1, FIELD_IGNORED = 2 };

struct field {
    const char *name;
    enum field_type type;
    unsigned flags;
    /* Of a number; of a list's length. 0, 0 = unbounded. */
    double min, max;
    const char *help;
    /* What the type does not tell, for openapi.json only: members of a JSON Schema, ' for ". They
     * stand in place of those that the type gives. */
    const char *schema;
};

enum picture_form { PICTURE_BYTES, PICTURE_BASE64, PICTURE_URL };

struct picture {
    enum picture_form form;
    struct span bytes;
    struct span filename; /* multipart: the part's file name; "" otherwise */
    char param[64];       /* "image", "images[2]": what errors name */
};

struct form_value {
    bool present;
    union {
        struct span *strings;
        struct picture *pictures;
        float *vector;
        json_t *json;
        long long integer;
        double number;
        bool boolean;
    };
    size_t n; /* of strings, pictures, vector */
};

struct form {
    struct arena *arena;
    json_t *root;  /* owned: the JSON body */
    json_t *extra; /* owned: array of JSON values parsed from text fields */
    bool is_lines; /* the body is lines of JSON, which the endpoint reads from the request itself */
    size_t n_fields;
    const struct field *fields[FORM_FIELDS_MAX];
    struct form_value values[FORM_FIELDS_MAX];
};

struct form_request {
    const struct field *const *tables; /* each ended by a NULL name */
    size_t n_tables;
    unsigned body_forms; /* BODY_… of endpoint.h */
    const char *query, *content_type, *body;
    size_t body_bytes;
    size_t max_items; /* of any list */
};

/* On failure the form is released. Memory comes from the arena. */
enum status form_parse(struct form *form, struct arena *arena, const struct form_request *request,
                       struct error *err);
void form_release(struct form *form);

/* By name; a name that is in no table is a programming error and reads as absent. */
bool form_has(const struct form *form, const char *name);
const struct form_value *form_value(const struct form *form, const char *name); /* NULL = absent */
struct span form_string(const struct form *form, const char *name, const char *otherwise);
long long form_integer(const struct form *form, const char *name, long long otherwise);
double form_number(const struct form *form, const char *name, double otherwise);
bool form_boolean(const struct form *form, const char *name, bool otherwise);
json_t *form_json(const struct form *form, const char *name); /* borrowed; NULL = absent */

/* A body's media type: lines of JSON. */
bool form_is_lines(const char *content_type);
#define LINES_TYPE "application/x-ndjson"

/* A JSON text, kept by the form (until form_forget_json); `param` names it in errors. NULL:
 * STATUS_BAD_JSON, STATUS_NO_MEMORY. */
json_t *form_parse_json(struct form *form, struct span text, const char *param, struct error *err);
/* Gives back the last one that was parsed so: nothing may be borrowed from it any more. */
void form_forget_json(struct form *form);

/* A picture from a JSON value (string, {"b64"} or {"url"}); `param` names it in errors. */
enum status picture_from_json(const json_t *value, const char *param, struct picture *out,
                              struct error *err);
/* A vector of finite numbers from a JSON list, or from base64 of little-endian f32, into the arena.
 */
enum status vector_from_json(const json_t *value, const char *param, struct arena *arena,
                             float **out, size_t *n, struct error *err);
/* A string of a JSON value; STATUS_WRONG_TYPE names `param` and what was found. */
enum status string_from_json(const json_t *value, const char *param, struct span *out,
                             struct error *err);
/* "an integer", "a string", of NULL "absent": for messages. */
const char *json_kind(const json_t *value);

#endif
