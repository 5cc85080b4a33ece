/*
 * render.c: see render.h. Strings that are not valid UTF-8 (a byte-level model's cut character) are
 * written with U+FFFD for each bad byte, so that a reply is always valid JSON.
 */
#include "api/render.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

void json_writer_init(struct json_writer *out, struct buffer *buffer)
{
    *out = (struct json_writer){.buffer = buffer};
}

static void put(struct json_writer *out, const char *data, size_t size)
{
    if (!out->failed && !buffer_append(out->buffer, data, size))
        out->failed = true;
}

static void put_quoted(struct json_writer *out, const char *text, size_t size)
{
    put(out, "\"", 1);
    size_t from = 0; /* text[from..i) is yet to be copied as it is */
    for (size_t i = 0; i < size && !out->failed;) {
        unsigned char byte = (unsigned char)text[i];
        char escape[8];
        size_t used = 1, n = 0;
        uint32_t code;
        if (byte == '"' || byte == '\\') {
            escape[0] = '\\';
            escape[1] = (char)byte;
            n = 2;
        } else if (byte < 0x20) {
            n = (size_t)snprintf(escape, sizeof escape, "\\u%04x", byte);
        } else if (byte >= 0x80 && !(used = utf8_decode(text + i, size - i, &code))) {
            memcpy(escape, "\xEF\xBF\xBD", 3);
            n = 3;
            used = 1;
        }
        if (n) {
            put(out, text + from, i - from);
            put(out, escape, n);
            from = i + used;
        }
        i += used;
    }
    put(out, text + from, size - from);
    put(out, "\"", 1);
}

/* What stands before each value: a comma after an earlier one, and the key in an object. */
static void put_key(struct json_writer *out, const char *key)
{
    if (out->needs_comma)
        put(out, ",", 1);
    out->needs_comma = true;
    if (key) {
        put_quoted(out, key, strlen(key));
        put(out, ":", 1);
    }
}

void json_begin_object(struct json_writer *out, const char *key)
{
    put_key(out, key);
    put(out, "{", 1);
    out->needs_comma = false;
}

void json_end_object(struct json_writer *out)
{
    put(out, "}", 1);
    out->needs_comma = true;
}

void json_begin_list(struct json_writer *out, const char *key)
{
    put_key(out, key);
    put(out, "[", 1);
    out->needs_comma = false;
}

void json_end_list(struct json_writer *out)
{
    put(out, "]", 1);
    out->needs_comma = true;
}

void json_put_text(struct json_writer *out, const char *key, const char *text, size_t size)
{
    put_key(out, key);
    put_quoted(out, text, size);
}

void json_put_string(struct json_writer *out, const char *key, const char *text)
{
    json_put_text(out, key, text, strlen(text));
}

static void put_number(struct json_writer *out, const char *text)
{
    put(out, text, strlen(text));
}

void json_put_integer(struct json_writer *out, const char *key, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    put_key(out, key);
    put_number(out, text);
}

static void put_float(struct json_writer *out, float value)
{
    char text[32];
    if (isfinite(value))
        snprintf(text, sizeof text, "%.9g", (double)value);
    else
        snprintf(text, sizeof text, "null");
    put_number(out, text);
}

void json_put_float(struct json_writer *out, const char *key, float value)
{
    put_key(out, key);
    put_float(out, value);
}

static void put_double(struct json_writer *out, double value, bool keep_real)
{
    char text[40];
    if (!isfinite(value)) {
        put_number(out, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    put_number(out, text);
    if (keep_real && !strpbrk(text, ".eE"))
        put(out, ".0", 2);
}

void json_put_double(struct json_writer *out, const char *key, double value)
{
    put_key(out, key);
    put_double(out, value, false);
}

void json_put_fixed(struct json_writer *out, const char *key, double value, int decimals)
{
    char text[64];
    put_key(out, key);
    if (!isfinite(value) || fabs(value) > 1e15)
        snprintf(text, sizeof text, "null");
    else
        snprintf(text, sizeof text, "%.*f", decimals, value);
    put_number(out, text);
}

void json_put_bool(struct json_writer *out, const char *key, bool value)
{
    put_key(out, key);
    put_number(out, value ? "true" : "false");
}

void json_put_null(struct json_writer *out, const char *key)
{
    put_key(out, key);
    put_number(out, "null");
}

void json_put_floats(struct json_writer *out, const char *key, const float *values, size_t n)
{
    json_begin_list(out, key);
    for (size_t i = 0; i < n && !out->failed; i++) {
        if (i)
            put(out, ",", 1);
        put_float(out, values[i]);
    }
    json_end_list(out);
}

void json_put_raw(struct json_writer *out, const char *key, const char *json, size_t size)
{
    put_key(out, key);
    put(out, json, size);
}

/* Recursion is bounded: values come from bodies whose depth form.c has checked. */
void json_put_value(struct json_writer *out, const char *key, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        const char *name;
        json_t *member;
        json_begin_object(out, key);
        json_object_foreach((json_t *)(uintptr_t)value, name, member)
            json_put_value(out, name, member);
        json_end_object(out);
        break;
    }
    case JSON_ARRAY:
        json_begin_list(out, key);
        for (size_t i = 0; i < json_array_size(value); i++)
            json_put_value(out, NULL, json_array_get(value, i));
        json_end_list(out);
        break;
    case JSON_STRING:
        json_put_text(out, key, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        json_put_integer(out, key, json_integer_value(value));
        break;
    case JSON_REAL:
        put_key(out, key);
        put_double(out, json_real_value(value), true);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        json_put_bool(out, key, json_is_true(value));
        break;
    case JSON_NULL:
        json_put_null(out, key);
        break;
    }
}

void json_put_error(struct json_writer *out, const char *key, const struct error *err)
{
    const struct status_info *info = status_info(err->status);
    json_begin_object(out, key);
    json_put_string(out, "type", info->type);
    json_put_string(out, "code", info->code);
    json_put_string(out, "message", err->message);
    if (err->param[0])
        json_put_string(out, "param", err->param);
    else
        json_put_null(out, "param");
    json_end_object(out);
}
