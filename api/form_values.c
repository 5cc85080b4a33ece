/*
 * form_values.c: single values of a form: strings, pictures and vectors out of JSON and text. They
 * are borrowed where they can be; see form.h.
 */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "api/base64.h"
#include "api/form_internal.h"
#include "core/base/utf8.h"

const char *json_kind(const json_t *value)
{
    if (!value)
        return "absent";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

enum status field_wrong_type(const char *param, const char *want, const char *found,
                             struct error *err)
{
    return error_set_param(err, STATUS_WRONG_TYPE, param, "'%s' must be %s, not %s", param, want,
                           found);
}

enum status string_from_json(const json_t *value, const char *param, struct span *out,
                             struct error *err)
{
    if (!json_is_string(value))
        return field_wrong_type(param, "a string", json_kind(value), err);
    *out = (struct span){json_string_value(value), json_string_length(value)};
    return STATUS_OK;
}

enum status picture_from_text(struct span text, const char *param, struct picture *out,
                              struct error *err)
{
    struct picture picture = {.form = PICTURE_BASE64, .bytes = text};
    if (text.size >= 5 && !strncasecmp(text.data, "data:", 5)) {
        const char *comma = memchr(text.data, ',', text.size < 256 ? text.size : 256);
        if (!comma)
            return error_set_param(err, STATUS_BAD_BASE64, param,
                                   "'%s' is a data: URL without a comma before its data", param);
        size_t head = (size_t)(comma - text.data);
        if (head < 7 || strncasecmp(comma - 7, ";base64", 7))
            return error_set_param(err, STATUS_BAD_BASE64, param,
                                   "'%s' is a data: URL that is not ';base64'", param);
        picture.bytes = (struct span){comma + 1, text.size - head - 1};
    } else if ((text.size >= 7 && !strncasecmp(text.data, "http://", 7)) ||
               (text.size >= 8 && !strncasecmp(text.data, "https://", 8))) {
        picture.form = PICTURE_URL;
    }
    utf8_clean(picture.param, sizeof picture.param, param, strlen(param));
    *out = picture;
    return STATUS_OK;
}

enum status picture_from_json(const json_t *value, const char *param, struct picture *out,
                              struct error *err)
{
    const json_t *text = value;
    if (json_is_object(value)) {
        const json_t *b64 = json_object_get(value, "b64"), *url = json_object_get(value, "url");
        if (json_object_size(value) != 1 || (!b64 && !url))
            return error_set_param(err, STATUS_WRONG_TYPE, param,
                                   "'%s' as an object must hold exactly one of b64 and url", param);
        text = b64 ? b64 : url;
        if (!json_is_string(text))
            return error_set_param(err, STATUS_WRONG_TYPE, param,
                                   "'%s.%s' must be a string, not %s", param, b64 ? "b64" : "url",
                                   json_kind(text));
    } else if (!json_is_string(value)) {
        return field_wrong_type(
            param, "a picture (base64 or a data: URL as a string, or an object with b64 or url)",
            json_kind(value), err);
    }
    struct span span = {json_string_value(text), json_string_length(text)};
    return picture_from_text(span, param, out, err);
}

static enum status vector_from_base64(const json_t *value, const char *param, struct arena *arena,
                                      float **out, size_t *n, struct error *err)
{
    size_t n_text = json_string_length(value), size, at;
    float *vector = arena_alloc(arena, base64_decoded_max(n_text));
    if (!vector)
        return error_no_memory(err, "a vector");
    if (!base64_decode(json_string_value(value), n_text, (unsigned char *)vector, &size, &at))
        return error_set_param(err, STATUS_BAD_BASE64, param,
                               "'%s' as a string must be base64 (at character %zu)", param, at);
    if (!size || size % sizeof *vector)
        return error_set_param(err, STATUS_UNPROCESSABLE, param,
                               "'%s' as base64 has %zu bytes; expected 4 for each number", param,
                               size);
    for (size_t i = 0; i < size / sizeof *vector; i++)
        if (!isfinite(vector[i]))
            return error_set_param(err, STATUS_OUT_OF_RANGE, param,
                                   "'%s' holds a number (at %zu) that is not finite", param, i);
    *out = vector;
    *n = size / sizeof *vector;
    return STATUS_OK;
}

enum status vector_from_json(const json_t *value, const char *param, struct arena *arena,
                             float **out, size_t *n, struct error *err)
{
    if (json_is_string(value))
        return vector_from_base64(value, param, arena, out, n, err);
    if (!json_is_array(value))
        return field_wrong_type(param, "a list of numbers", json_kind(value), err);
    size_t count = json_array_size(value);
    if (!count)
        return error_set_param(err, STATUS_UNPROCESSABLE, param, "'%s' is empty", param);
    float *vector = arena_array(arena, count, sizeof *vector);
    if (!vector)
        return error_no_memory(err, "a vector");
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(value, i);
        if (!json_is_number(number))
            return error_set_param(err, STATUS_WRONG_TYPE, param,
                                   "'%s' must be a list of numbers; number %zu is %s", param, i,
                                   json_kind(number));
        vector[i] = (float)json_number_value(number);
        if (!isfinite(vector[i]))
            return error_set_param(err, STATUS_OUT_OF_RANGE, param,
                                   "'%s' holds a number (at %zu) outside the range of f32", param,
                                   i);
    }
    *out = vector;
    *n = count;
    return STATUS_OK;
}
