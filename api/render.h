/*
 * render.h: writing a reply's JSON straight into a bounded buffer.
 *
 * A writer never fails half-way visibly: the first failure (out of memory, past the buffer's
 * maximum) sticks, and json_writer_failed() tells at the end. Numbers: f32 with 9 significant
 * digits (which read back to the same float), doubles with the fewest digits that read back to the
 * same double; what is not finite is written as null.
 */
#ifndef VLMD_API_RENDER_H
#define VLMD_API_RENDER_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

struct json_writer {
    struct buffer *buffer;
    bool needs_comma;
    bool failed;
};

void json_writer_init(struct json_writer *out, struct buffer *buffer);
static inline bool json_writer_failed(const struct json_writer *out)
{
    return out->failed;
}

/* key NULL = an element of a list. */
void json_begin_object(struct json_writer *out, const char *key);
void json_end_object(struct json_writer *out);
void json_begin_list(struct json_writer *out, const char *key);
void json_end_list(struct json_writer *out);
void json_put_string(struct json_writer *out, const char *key, const char *text);
void json_put_text(struct json_writer *out, const char *key, const char *text, size_t size);
void json_put_integer(struct json_writer *out, const char *key, long long value);
void json_put_float(struct json_writer *out, const char *key, float value);
void json_put_double(struct json_writer *out, const char *key, double value);
void json_put_fixed(struct json_writer *out, const char *key, double value, int decimals);
void json_put_bool(struct json_writer *out, const char *key, bool value);
void json_put_null(struct json_writer *out, const char *key);
void json_put_floats(struct json_writer *out, const char *key, const float *values, size_t n);
/* Text that is JSON already. */
void json_put_raw(struct json_writer *out, const char *key, const char *json, size_t size);
/* A jansson value. */
void json_put_value(struct json_writer *out, const char *key, const json_t *value);
/* {"type", "code", "message", "param"} of an error, as an object. */
void json_put_error(struct json_writer *out, const char *key, const struct error *err);

#endif
