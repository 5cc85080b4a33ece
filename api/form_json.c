/*
 * form_json.c: JSON of clients: its bounds, checked before it is parsed, and what is said of text
 * that is none. jansson tells the place of a fault; a client wants to know the field.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/form_internal.h"

/* The field of the outermost object that the text is in at byte `end`; "" when that is not certain,
 * or it has a name that could not be shown. */
static void field_at(const char *text, size_t end, char name[ERROR_PARAM_MAX])
{
    size_t depth = 0, begin = 0, size = 0;
    bool is_key = false, is_text = false;
    for (size_t i = 0; i < end; i++) {
        char c = text[i];
        if (is_text && c == '\\') {
            i++;
        } else if (c == '"') {
            is_text = !is_text;
            if (is_text && depth == 1 && is_key)
                begin = i + 1, size = 0;
            else if (!is_text && depth == 1 && is_key)
                size = i - begin;
        } else if (!is_text && (c == '{' || c == '[')) {
            is_key = depth++ == 0 && c == '{';
        } else if (!is_text && (c == '}' || c == ']')) {
            depth -= depth > 0;
        } else if (!is_text && depth == 1 && (c == ',' || c == ':')) {
            is_key = c == ',' && begin;
        }
    }
    size = size < ERROR_PARAM_MAX ? size : 0;
    for (size_t i = 0; i < size; i++)
        size = text[begin + i] > ' ' && text[begin + i] < 0x7F ? size : 0;
    memcpy(name, text + begin, size);
    name[size] = '\0';
}

__attribute__((format(printf, 4, 5))) static enum status
bad_json(const char *text, size_t place, struct error *err, const char *format, ...)
{
    char what[ERROR_MESSAGE_MAX / 2], name[ERROR_PARAM_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    field_at(text, place, name);
    if (!name[0])
        return error_set(err, STATUS_BAD_JSON, "%s", what);
    return error_set_param(err, STATUS_BAD_JSON, name, "in '%s': %s", name, what);
}

/* One pass over the text before it is parsed: depth and number of values, which bound the memory
 * that a parse can take. Malformed text is the parser's to refuse. */
static enum status check_shape(const char *text, size_t size, struct error *err)
{
    size_t depth = 0, values = 1;
    for (size_t i = 0; i < size; i++) {
        switch (text[i]) {
        case '"':
            for (;;) {
                const char *quote = memchr(text + i + 1, '"', size - i - 1);
                if (!quote)
                    return STATUS_OK;
                i = (size_t)(quote - text);
                size_t slashes = 0;
                while (text[i - 1 - slashes] == '\\')
                    slashes++;
                if (slashes % 2 == 0)
                    break;
            }
            break;
        case '[':
        case '{':
            if (++depth > FORM_JSON_DEPTH_MAX)
                return bad_json(text, i, err, "the JSON is nested deeper than %d levels",
                                FORM_JSON_DEPTH_MAX);
            values++;
            break;
        case ']':
        case '}':
            depth -= depth > 0;
            break;
        case ',':
            if (++values > FORM_JSON_VALUES_MAX)
                return bad_json(text, i, err, "the JSON holds more than %d values",
                                FORM_JSON_VALUES_MAX);
            break;
        default:
            break;
        }
    }
    return STATUS_OK;
}

json_t *form_read_json(const char *text, size_t size, size_t flags, struct error *err)
{
    if (check_shape(text, size, err))
        return NULL;
    json_error_t fault;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | flags, &fault);
    if (root)
        return root;
    /* jansson leaves the text empty where it could not even begin. */
    enum json_error_code code = json_error_code(&fault);
    size_t place = fault.position > 0 ? (size_t)fault.position : 0;
    if (code == json_error_out_of_memory || !fault.text[0])
        error_no_memory(err, "the JSON body");
    else
        bad_json(text, place < size ? place : size, err, "not valid JSON: %s (line %d, column %d)",
                 code == json_error_null_character ? "texts must not contain \\u0000" : fault.text,
                 fault.line, fault.column);
    return NULL;
}
