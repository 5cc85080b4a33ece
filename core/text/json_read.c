/*
 * json_read.c: typed fields of a tokenizer's JSON files. A fault is a sentence with the file, the
 * place and what was expected. Strings are copied to the tokenizer's arena.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text/text_internal.h"

bool json_fault(struct json_reader *r, const char *where, const char *format, ...)
{
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    error_set(r->err, STATUS_BAD_CHECKPOINT, "%s: %s: %s", r->file, where, text);
    return false;
}

bool json_get_bool(struct json_reader *r, const json_t *object, const char *where, const char *key,
                   int absent, bool *out)
{
    const json_t *value = json_object_get(object, key);
    if ((!value || json_is_null(value)) && absent >= 0) {
        *out = absent != 0;
        return true;
    }
    if (!json_is_boolean(value))
        return json_fault(r, where, "'%s' must be true or false", key);
    *out = json_is_true(value);
    return true;
}

bool json_copy_string(struct json_reader *r, const json_t *string, struct str *out)
{
    size_t size = json_string_length(string);
    char *copy = arena_string(r->arena, json_string_value(string), size);
    if (!copy) {
        error_no_memory(r->err, r->file);
        return false;
    }
    *out = (struct str){copy, size};
    return true;
}

bool json_get_string(struct json_reader *r, const json_t *object, const char *where,
                     const char *key, bool required, struct str *out)
{
    const json_t *value = json_object_get(object, key);
    if ((!value || json_is_null(value)) && !required) {
        *out = (struct str){NULL, 0};
        return true;
    }
    if (!json_is_string(value))
        return json_fault(r, where, "'%s' must be a string", key);
    return json_copy_string(r, value, out);
}

bool json_get_size(struct json_reader *r, const json_t *object, const char *where, const char *key,
                   size_t max, size_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (unsigned long long)json_integer_value(value) > max)
        return json_fault(r, where, "'%s' must be a whole number from 0 to %zu", key, max);
    *out = (size_t)json_integer_value(value);
    return true;
}

const char *json_get_type(struct json_reader *r, const json_t *object, const char *where)
{
    if (!json_is_object(object)) {
        json_fault(r, where, "must be an object");
        return NULL;
    }
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type)
        json_fault(r, where, "'type' must be a string");
    return type;
}
