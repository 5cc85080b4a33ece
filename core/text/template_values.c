/*
 * template_values.c: what values do, as Python's: truth, equality, order, arithmetic, items,
 * slices, and how they are written.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/template_internal.h"

json_t *value_string(struct run *run, const char *text, size_t size)
{
    if (size > TEMPLATE_VALUE_BYTES_MAX)
        return run_fail(run, "a string of more than %d bytes", TEMPLATE_VALUE_BYTES_MAX);
    if (!run_spend_bytes(run, size))
        return NULL;
    json_t *value = json_stringn(text ? text : "", size);
    return value ? value : run_no_memory(run);
}

json_t *value_gathered(struct run *run, bool fine, struct buffer *text)
{
    json_t *value = NULL;
    if (fine)
        value = value_string(run, text->data, text->size);
    else if (!run_failed(run))
        run_fail(run, "a string of more than %d bytes", TEMPLATE_VALUE_BYTES_MAX);
    buffer_release(text);
    return value;
}

json_t *value_bool(bool value)
{
    return json_boolean(value);
}

const char *value_kind(const json_t *value)
{
    if (!value)
        return "undefined";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "a dict";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_NULL:
        return "none";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "a number";
    }
}

bool value_truth(const json_t *value)
{
    if (!value)
        return false;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return json_object_size(value) > 0;
    case JSON_ARRAY:
        return json_array_size(value) > 0;
    case JSON_STRING:
        return json_string_length(value) > 0;
    case JSON_INTEGER:
        return json_integer_value(value) != 0;
    case JSON_REAL:
        return json_real_value(value) < 0 || json_real_value(value) > 0;
    default:
        return json_is_true(value);
    }
}

/* Whole numbers, booleans among them. */
static bool as_integer(const json_t *value, long long *out)
{
    if (!json_is_integer(value) && !json_is_boolean(value))
        return false;
    *out = json_is_integer(value) ? json_integer_value(value) : json_is_true(value);
    return true;
}

static bool as_real(const json_t *value, double *out)
{
    long long integer;
    if (json_is_real(value))
        *out = json_real_value(value);
    else if (as_integer(value, &integer))
        *out = (double)integer;
    else
        return false;
    return true;
}

bool value_equal(const json_t *a, const json_t *b)
{
    double x, y;
    if (!a || !b)
        return a == b;
    if (as_real(a, &x) && as_real(b, &y))
        return value_order(a, b) == 0;
    return json_equal(a, b); /* jansson bounds how deep a text can nest what it reads */
}

int value_order(const json_t *a, const json_t *b)
{
    long long i, k;
    double x, y;
    if (as_integer(a, &i) && as_integer(b, &k))
        return (i > k) - (i < k);
    if (as_real(a, &x) && as_real(b, &y))
        return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
    if (!json_is_string(a) || !json_is_string(b))
        return 2;
    size_t n = json_string_length(a), m = json_string_length(b);
    int order = memcmp(json_string_value(a), json_string_value(b), n < m ? n : m);
    return order ? (order > 0) - (order < 0) : (n > m) - (n < m); /* UTF-8 keeps the order */
}

bool value_contains(struct run *run, const json_t *in, const json_t *value)
{
    if (json_is_string(in)) {
        if (!json_is_string(value)) {
            run_fail(run, "'in' a string asks for a string, not %s", value_kind(value));
            return false;
        }
        if (!run_spend_bytes(run, json_string_length(in)))
            return false;
        return !json_string_length(value) ||
               memmem(json_string_value(in), json_string_length(in), json_string_value(value),
                      json_string_length(value));
    }
    if (json_is_object(in))
        return json_is_string(value) &&
               json_object_getn(in, json_string_value(value), json_string_length(value));
    if (in && !json_is_array(in)) {
        run_fail(run, "%s has nothing in it", value_kind(in));
        return false;
    }
    size_t n = json_array_size(in);
    if (!run_spend(run, n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (value_equal(json_array_get(in, i), value))
            return true;
    return false;
}

/* Counts what is in a value; fails when it is nested too deep. */
static bool measure(struct run *run, const json_t *value, size_t depth)
{
    if (depth > TEMPLATE_DEPTH_MAX) {
        run_fail(run, "a value is nested deeper than %d", TEMPLATE_DEPTH_MAX);
        return false;
    }
    const char *key;
    json_t *each;
    bool fine = run_spend(run, 1);
    for (size_t i = 0; fine && i < json_array_size(value); i++)
        fine = measure(run, json_array_get(value, i), depth + 1);
    if (json_is_object(value))
        json_object_foreach((json_t *)value, key, each) fine =
            fine && measure(run, each, depth + 1);
    return fine;
}

json_t *value_own(struct run *run, json_t *made)
{
    if (!made)
        return run_no_memory(run);
    if (!run->failed && measure(run, made, 0))
        return made;
    json_decref(made);
    return NULL;
}

json_t *value_copy(struct run *run, const json_t *value)
{
    if (!json_is_array(value) && !json_is_object(value))
        return value ? json_incref((json_t *)value) : json_null();
    return measure(run, value, 1) ? json_deep_copy(value) : NULL;
}

/* ---- characters, items -------------------------------------------------------------------------
 */

static size_t next_character(const char *text, size_t size)
{
    uint32_t code;
    size_t n = utf8_decode(text, size, &code);
    return n ? n : 1;
}

static size_t count_characters(const char *text, size_t size)
{
    size_t n = 0;
    for (size_t at = 0; at < size; n++)
        at += next_character(text + at, size - at);
    return n;
}

size_t value_length(const json_t *value)
{
    if (json_is_string(value))
        return count_characters(json_string_value(value), json_string_length(value));
    if (json_is_array(value))
        return json_array_size(value);
    return json_is_object(value) ? json_object_size(value) : value ? SIZE_MAX : 0;
}

/* A list that failed half-way. */
static json_t *drop(struct run *run, json_t *list)
{
    json_decref(list);
    return run_failed(run) ? NULL : run_no_memory(run);
}

json_t *value_list(struct run *run, json_t *value)
{
    if (json_is_array(value))
        return json_incref(value);
    json_t *list = json_array();
    if (!list)
        return run_no_memory(run);
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        size_t size = json_string_length(value), n;
        if (count_characters(text, size) > TEMPLATE_ITEMS_MAX) {
            json_decref(list);
            return run_fail(run, "a list of more than %d characters", TEMPLATE_ITEMS_MAX);
        }
        for (size_t at = 0; at < size; at += n) {
            n = next_character(text + at, size - at);
            if (!run_spend(run, 1) || json_array_append_new(list, json_stringn(text + at, n)))
                return drop(run, list);
        }
    } else if (json_is_object(value)) {
        const char *key;
        size_t key_size;
        json_t *each;
        json_object_keylen_foreach(value, key, key_size, each)
        {
            if (!run_spend(run, 1) || json_array_append_new(list, json_stringn(key, key_size)))
                return drop(run, list);
        }
    } else if (value) {
        json_decref(list);
        return run_fail(run, "%s is nothing to go over", value_kind(value));
    }
    return list;
}

json_t *value_field(struct run *run, json_t *of, const char *name)
{
    if (!of)
        return run_fail(run, "what has no value has no '%.40s'", name);
    return json_incref(json_object_get(of, name)); /* of others: undefined */
}

json_t *value_item(struct run *run, json_t *of, const json_t *at)
{
    long long index;
    if (!of)
        return run_fail(run, "what has no value has no items");
    if (json_is_object(of))
        return json_is_string(at) ? json_incref(json_object_getn(of, json_string_value(at),
                                                                 json_string_length(at)))
                                  : NULL;
    if (!as_integer(at, &index))
        return NULL;
    if (json_is_string(of) && !run_spend_bytes(run, json_string_length(of)))
        return NULL;
    size_t n = value_length(of);
    if (n == SIZE_MAX)
        return NULL;
    if (index < 0)
        index += (long long)n;
    if (index < 0 || (size_t)index >= n)
        return NULL;
    if (json_is_array(of))
        return json_incref(json_array_get(of, (size_t)index));
    const char *text = json_string_value(of);
    size_t size = json_string_length(of);
    while (index--) {
        size_t step = next_character(text, size);
        text += step;
        size -= step;
    }
    return value_string(run, text, next_character(text, size));
}

/* A slice's bound within 0 … n (or, backwards, -1 … n - 1), as Python cuts it. */
static bool bound(struct run *run, const json_t *value, long long n, bool backwards,
                  long long absent, long long *out)
{
    long long at;
    if (!value || json_is_null(value)) {
        *out = absent;
        return true;
    }
    if (!as_integer(value, &at)) {
        run_fail(run, "a slice goes from one number to another, not %s", value_kind(value));
        return false;
    }
    if (at < 0)
        at = at < -n ? -1 : at + n;
    else
        at = at > n ? n : at;
    if (!backwards && at < 0)
        at = 0;
    if (backwards && at >= n)
        at = n - 1;
    *out = at;
    return true;
}

json_t *value_slice(struct run *run, json_t *of, const json_t *from, const json_t *to,
                    const json_t *step)
{
    long long by = 1, begin, end;
    if (step && !json_is_null(step) && (!as_integer(step, &by) || !by))
        return run_fail(run, "a slice's step must be a number other than 0");
    if (!json_is_string(of) && !json_is_array(of))
        return run_fail(run, "%s cannot be cut", value_kind(of));
    json_t *items = value_list(run, of);
    if (!items)
        return NULL;
    long long n = (long long)json_array_size(items);
    json_t *cut = json_array();
    bool fine = cut && bound(run, from, n, by < 0, by < 0 ? n - 1 : 0, &begin) &&
                bound(run, to, n, by < 0, by < 0 ? -1 : n, &end);
    for (long long i = begin; fine && (by < 0 ? i > end : i < end);) {
        fine = run_spend(run, 1) && !json_array_append(cut, json_array_get(items, (size_t)i));
        if (by > 0 ? by > end - i : by < end - i)
            break;
        i += by;
    }
    json_decref(items);
    if (!fine)
        return drop(run, cut);
    if (!json_is_string(of))
        return cut;
    struct buffer text;
    buffer_init(&text, TEMPLATE_VALUE_BYTES_MAX);
    for (size_t i = 0; i < json_array_size(cut); i++) {
        const json_t *character = json_array_get(cut, i);
        fine = fine &&
               buffer_append(&text, json_string_value(character), json_string_length(character));
    }
    json_decref(cut);
    json_t *joined = fine ? value_string(run, text.data, text.size) : run_no_memory(run);
    buffer_release(&text);
    return joined;
}

/* ---- arithmetic --------------------------------------------------------------------------------
 */

static json_t *number(struct run *run, json_t *value)
{
    return value ? value : run_no_memory(run);
}

static json_t *integer_binary(struct run *run, char kind, bool doubled, long long a, long long b)
{
    long long out = 0;
    bool fits = true;
    if ((kind == '/' || kind == '%') && !b)
        return run_fail(run, "a division by zero");
    if (kind == '+')
        fits = !__builtin_add_overflow(a, b, &out);
    else if (kind == '-')
        fits = !__builtin_sub_overflow(a, b, &out);
    else if (kind == '*' && !doubled)
        fits = !__builtin_mul_overflow(a, b, &out);
    else if (kind == '/' && !doubled)
        return number(run, json_real((double)a / (double)b));
    else if (kind == '*') {
        if (b < 0)
            return number(run, json_real(pow((double)a, (double)b)));
        for (out = 1; b > 0 && fits; b--) {
            fits = run_spend(run, 1) && !__builtin_mul_overflow(out, a, &out);
            if (a == 0 || a == 1)
                break;
        }
    } else if (b == -1) { /* the one division that can overflow */
        fits = kind == '%' || !__builtin_sub_overflow(0LL, a, &out);
    } else {
        long long rest = a % b;
        bool down = rest && (rest < 0) != (b < 0); /* towards minus infinity, as Python */
        out = kind == '%' ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
    }
    if (!fits)
        return run_failed(run) ? NULL : run_fail(run, "a number is too large");
    return number(run, json_integer(out));
}

static json_t *real_binary(struct run *run, char kind, bool doubled, double a, double b)
{
    double out = 0;
    if ((kind == '/' || kind == '%') && b == 0)
        return run_fail(run, "a division by zero");
    if (kind == '+')
        out = a + b;
    else if (kind == '-')
        out = a - b;
    else if (kind == '*')
        out = doubled ? pow(a, b) : a * b;
    else if (kind == '/')
        out = doubled ? floor(a / b) : a / b;
    else
        out = a - floor(a / b) * b;
    if (!isfinite(out))
        return run_fail(run, "a number is too large");
    return number(run, json_real(out));
}

static json_t *join_lists(struct run *run, const json_t *a, const json_t *b)
{
    size_t n = json_array_size(a) + json_array_size(b);
    if (n > TEMPLATE_ITEMS_MAX)
        return run_fail(run, "a list of more than %d items", TEMPLATE_ITEMS_MAX);
    if (!run_spend(run, n))
        return NULL;
    json_t *list = json_array();
    if (!list || json_array_extend(list, (json_t *)a) || json_array_extend(list, (json_t *)b))
        return drop(run, list);
    return list;
}

static json_t *repeat(struct run *run, const json_t *text, long long times)
{
    struct buffer out;
    size_t size = json_string_length(text);
    buffer_init(&out, TEMPLATE_VALUE_BYTES_MAX);
    bool fine = true;
    for (; size && times > 0 && fine; times--)
        fine = run_spend_bytes(run, size) && buffer_append(&out, json_string_value(text), size);
    return value_gathered(run, fine, &out);
}

json_t *value_binary(struct run *run, const char *operator, const json_t * a, const json_t *b)
{
    char kind = operator[0];
    bool doubled = operator[1] != '\0';
    long long i, k;
    double x, y;
    bool are_strings = json_is_string(a) && json_is_string(b);
    if (kind == '~' || (kind == '+' && are_strings)) {
        struct buffer text;
        buffer_init(&text, TEMPLATE_VALUE_BYTES_MAX);
        bool fine = value_write(run, a, &text) && value_write(run, b, &text);
        return value_gathered(run, fine, &text);
    }
    if (as_integer(a, &i) && as_integer(b, &k))
        return integer_binary(run, kind, doubled, i, k);
    if (as_real(a, &x) && as_real(b, &y))
        return real_binary(run, kind, doubled, x, y);
    if (kind == '+' && json_is_array(a) && json_is_array(b))
        return join_lists(run, a, b);
    if (kind == '*' && !doubled && json_is_string(a) && as_integer(b, &k))
        return repeat(run, a, k);
    if (kind == '*' && !doubled && json_is_string(b) && as_integer(a, &i))
        return repeat(run, b, i);
    return run_fail(run, "%s and %s have no '%s'", value_kind(a), value_kind(b), operator);
}

/* ---- as text -----------------------------------------------------------------------------------
 */

static bool put(struct run *run, struct buffer *out, const char *text, size_t size)
{
    if (!run_spend_bytes(run, size))
        return false;
    if (!size || buffer_append(out, text, size))
        return true;
    if (size > out->max_bytes || out->size > out->max_bytes - size)
        run_fail(run, "more than %zu bytes of text", out->max_bytes);
    else
        run_no_memory(run);
    return false;
}

/* The shortest form that reads back as the same number, as Python's repr(). */
static bool put_real(struct run *run, double value, struct buffer *out)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        double back;
        if (sscanf(text, "%lf", &back) == 1 && !(back < value) && !(back > value))
            break;
    }
    double size = fabs(value);
    if (size >= 1e-4 && size < 1e16 && strchr(text, 'e')) /* Python's border of exponents */
        snprintf(text, sizeof text, "%.0f", value);
    size_t n = strlen(text);
    if (!strpbrk(text, ".e"))
        n = (size_t)snprintf(text + n, sizeof text - n, ".0") + n;
    return put(run, out, text, n);
}

static bool put_quoted(struct run *run, const char *text, size_t size, struct buffer *out)
{
    char quote = memchr(text, '\'', size) && !memchr(text, '"', size) ? '"' : '\'';
    bool fine = put(run, out, &quote, 1);
    for (size_t i = 0; i < size && fine; i++) {
        char c = text[i], escape[8] = {c};
        size_t n = 1;
        if (c == quote || c == '\\')
            n = (size_t)snprintf(escape, sizeof escape, "\\%c", c);
        else if (c == '\n' || c == '\t' || c == '\r')
            n = (size_t)snprintf(escape, sizeof escape, "\\%c",
                                 c == '\n'   ? 'n'
                                 : c == '\t' ? 't'
                                             : 'r');
        else if ((unsigned char)c < ' ' || c == 127)
            n = (size_t)snprintf(escape, sizeof escape, "\\x%02x", (unsigned char)c);
        fine = put(run, out, escape, n);
    }
    return fine && put(run, out, &quote, 1);
}

static bool repr(struct run *run, const json_t *value, size_t depth, struct buffer *out)
{
    if (depth > TEMPLATE_DEPTH_MAX) {
        run_fail(run, "a value is nested deeper than %d", TEMPLATE_DEPTH_MAX);
        return false;
    }
    if (!run_spend(run, 1))
        return false;
    if (json_is_string(value))
        return put_quoted(run, json_string_value(value), json_string_length(value), out);
    if (json_is_array(value)) {
        bool fine = put(run, out, "[", 1);
        for (size_t i = 0; i < json_array_size(value) && fine; i++)
            fine = (!i || put(run, out, ", ", 2)) &&
                   repr(run, json_array_get(value, i), depth + 1, out);
        return fine && put(run, out, "]", 1);
    }
    if (json_is_object(value)) {
        const char *key;
        size_t key_size, i = 0;
        json_t *each;
        bool fine = put(run, out, "{", 1);
        json_object_keylen_foreach((json_t *)value, key, key_size, each)
        {
            fine = fine && (!i++ || put(run, out, ", ", 2)) &&
                   put_quoted(run, key, key_size, out) && put(run, out, ": ", 2) &&
                   repr(run, each, depth + 1, out);
        }
        return fine && put(run, out, "}", 1);
    }
    return value_write(run, value, out);
}

bool value_repr(struct run *run, const json_t *value, struct buffer *out)
{
    return repr(run, value, 0, out);
}

bool value_write(struct run *run, const json_t *value, struct buffer *out)
{
    char text[32];
    if (!value)
        return true;
    switch (json_typeof(value)) {
    case JSON_STRING:
        return put(run, out, json_string_value(value), json_string_length(value));
    case JSON_INTEGER:
        return put(
            run, out, text,
            (size_t)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value)));
    case JSON_REAL:
        return put_real(run, json_real_value(value), out);
    case JSON_TRUE:
        return put(run, out, "True", 4);
    case JSON_FALSE:
        return put(run, out, "False", 5);
    case JSON_NULL:
        return put(run, out, "None", 4);
    default:
        return repr(run, value, 0, out);
    }
}

json_t *value_text(struct run *run, const json_t *value)
{
    if (json_is_string(value))
        return json_incref((json_t *)value);
    struct buffer text;
    buffer_init(&text, TEMPLATE_VALUE_BYTES_MAX);
    return value_gathered(run, value_write(run, value, &text), &text);
}
