/*
 * template_calls.c: the filters, tests, methods and functions that templates may call, one row
 * each.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/template_internal.h"

struct call_row {
    enum call_kind kind;
    const char *name;
    json_t *(*run)(struct run *run, json_t *of, const struct arguments *arguments);
};

/* ---- strings -----------------------------------------------------------------------------------
 */

struct text {
    const char *data;
    size_t size;
};

static struct text text_of(const json_t *value)
{
    return (struct text){json_string_value(value), json_string_length(value)};
}

/* A string argument; false and failed for another kind. */
static bool string_argument(struct run *run, const json_t *value, struct text *out)
{
    if (!json_is_string(value)) {
        run_fail(run, "expected a string, found %s", value_kind(value));
        return false;
    }
    *out = text_of(value);
    return run_spend_bytes(run, out->size);
}

static bool is_space(uint32_t code)
{
    return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x1F) ||
           code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/* Whether a character is to be stripped: one of `set`, or (set NULL) white space. */
static bool strips(const struct text *set, const char *at, size_t size)
{
    uint32_t code = 0;
    if (!utf8_decode(at, size, &code))
        return false;
    return set->data ? memmem(set->data, set->size, at, size) != NULL : is_space(code);
}

static json_t *strip(struct run *run, json_t *of, const json_t *set, bool left, bool right)
{
    struct text text, chars = {NULL, 0};
    if (!string_argument(run, of, &text))
        return NULL;
    if (set && !json_is_null(set) && !string_argument(run, set, &chars))
        return NULL;
    if (!run_spend(run, text.size * (chars.size / 64)))
        return NULL;
    while (left && text.size) {
        uint32_t code;
        size_t n = utf8_decode(text.data, text.size, &code);
        if (!n || !strips(&chars, text.data, n))
            break;
        text.data += n;
        text.size -= n;
    }
    while (right && text.size) {
        size_t n = 1;
        while (n < 4 && n < text.size && ((unsigned char)text.data[text.size - n] & 0xC0) == 0x80)
            n++;
        if (!strips(&chars, text.data + text.size - n, n))
            break;
        text.size -= n;
    }
    return value_string(run, text.data, text.size);
}

static json_t *do_strip(struct run *run, json_t *of, const struct arguments *a)
{
    return strip(run, of, argument(a, 0, "chars"), true, true);
}

static json_t *do_lstrip(struct run *run, json_t *of, const struct arguments *a)
{
    return strip(run, of, argument(a, 0, "chars"), true, false);
}

static json_t *do_rstrip(struct run *run, json_t *of, const struct arguments *a)
{
    return strip(run, of, argument(a, 0, "chars"), false, true);
}

static json_t *filter_trim(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *text = value_text(run, of);
    json_t *out = text ? do_strip(run, text, a) : NULL;
    json_decref(text);
    return out;
}

enum case_change { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL };

/* ASCII letters change; others too where Unicode has one character for them. */
static json_t *change_case(struct run *run, const json_t *of, enum case_change change)
{
    struct text text;
    struct buffer out;
    bool in_word = false, fine = true;
    if (!string_argument(run, of, &text))
        return NULL;
    buffer_init(&out, TEMPLATE_VALUE_BYTES_MAX);
    for (size_t at = 0, n; at < text.size && fine; at += n) {
        uint32_t code = 0;
        char bytes[4];
        n = utf8_decode(text.data + at, text.size - at, &code);
        n = n ? n : 1;
        bool up = change == CASE_UPPER || (change == CASE_TITLE && !in_word) ||
                  (change == CASE_CAPITAL && !at);
        utf8proc_int32_t is = (utf8proc_int32_t)code;
        utf8proc_int32_t changed = up ? utf8proc_toupper(is) : utf8proc_tolower(is);
        in_word = utf8proc_toupper(is) != is || utf8proc_tolower(is) != is;
        fine = buffer_append(&out, bytes, utf8_encode((uint32_t)changed, bytes));
    }
    json_t *value = fine ? value_string(run, out.data, out.size) : run_no_memory(run);
    buffer_release(&out);
    return value;
}

#define CASE_CALL(function, change)                                                                \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        (void)a;                                                                                   \
        return change_case(run, of, change);                                                       \
    }
CASE_CALL(do_upper, CASE_UPPER)
CASE_CALL(do_lower, CASE_LOWER)
CASE_CALL(do_title, CASE_TITLE)
CASE_CALL(do_capitalize, CASE_CAPITAL)

/* Whether `text` has one of `what` (a string or several) at its beginning or end. */
static json_t *has_edge(struct run *run, const json_t *of, const json_t *what, bool at_end)
{
    struct text text, edge;
    bool has = false;
    if (!string_argument(run, of, &text))
        return NULL;
    size_t n = json_is_array(what) ? json_array_size(what) : 1;
    for (size_t i = 0; i < n; i++) {
        if (!string_argument(run, json_is_array(what) ? json_array_get(what, i) : what, &edge))
            return NULL;
        has |= edge.size <= text.size &&
               !memcmp(text.data + (at_end ? text.size - edge.size : 0), edge.data, edge.size);
    }
    return value_bool(has);
}

static json_t *do_startswith(struct run *run, json_t *of, const struct arguments *a)
{
    return has_edge(run, of, argument(a, 0, NULL), false);
}

static json_t *do_endswith(struct run *run, json_t *of, const struct arguments *a)
{
    return has_edge(run, of, argument(a, 0, NULL), true);
}

static json_t *cut_edge(struct run *run, json_t *of, const json_t *what, bool at_end)
{
    struct text text, edge;
    if (!string_argument(run, of, &text) || !string_argument(run, what, &edge))
        return NULL;
    if (edge.size > text.size ||
        memcmp(text.data + (at_end ? text.size - edge.size : 0), edge.data, edge.size) != 0)
        return json_incref(of);
    return value_string(run, text.data + (at_end ? 0 : edge.size), text.size - edge.size);
}

static json_t *do_removeprefix(struct run *run, json_t *of, const struct arguments *a)
{
    return cut_edge(run, of, argument(a, 0, NULL), false);
}

static json_t *do_removesuffix(struct run *run, json_t *of, const struct arguments *a)
{
    return cut_edge(run, of, argument(a, 0, NULL), true);
}

static bool add_string(struct run *run, json_t *list, const char *data, size_t size)
{
    if (json_array_size(list) >= TEMPLATE_ITEMS_MAX) {
        run_fail(run, "a list of more than %d items", TEMPLATE_ITEMS_MAX);
        return false;
    }
    json_t *value = value_string(run, data, size);
    if (!value)
        return false;
    if (!json_array_append_new(list, value))
        return true;
    run_no_memory(run);
    return false;
}

/* At white space: no empty parts. */
static bool split_blanks(struct run *run, struct text text, long long most, json_t *out)
{
    while (text.size) {
        size_t n = 0, word = 0;
        uint32_t code;
        while (text.size && (n = utf8_decode(text.data, text.size, &code)) && is_space(code)) {
            text.data += n;
            text.size -= n;
        }
        while (word < text.size && (n = utf8_decode(text.data + word, text.size - word, &code)) &&
               !is_space(code))
            word += n;
        if (most >= 0 && (long long)json_array_size(out) >= most) {
            word = text.size;
            while (word && is_space((unsigned char)text.data[word - 1]))
                word--;
            return !word || add_string(run, out, text.data, word);
        }
        if (word && !add_string(run, out, text.data, word))
            return false;
        text.data += word;
        text.size -= word;
    }
    return true;
}

static json_t *split(struct run *run, json_t *of, const struct arguments *a, bool from_right)
{
    struct text text, by = {NULL, 0};
    const json_t *separator = argument(a, 0, "sep"), *limit = argument(a, 1, "maxsplit");
    long long most = json_is_integer(limit) ? json_integer_value(limit) : -1;
    if (!string_argument(run, of, &text))
        return NULL;
    json_t *list = json_array();
    bool fine = list != NULL;
    if (!separator || json_is_null(separator)) {
        if (from_right && most >= 0)
            run_fail(run, "'rsplit' needs a separator here");
        fine = fine && !run->failed && split_blanks(run, text, most, list);
    } else {
        fine = fine && string_argument(run, separator, &by);
        if (fine && !by.size) {
            run_fail(run, "the separator is empty");
            fine = false;
        }
        while (fine) {
            const char *hit = NULL;
            if (most && !from_right)
                hit = memmem(text.data, text.size, by.data, by.size);
            for (size_t i = text.size; most && from_right && !hit && i >= by.size; i--)
                if (!memcmp(text.data + i - by.size, by.data, by.size))
                    hit = text.data + i - by.size;
            size_t before = hit ? (size_t)(hit - text.data) : 0;
            if (!hit) {
                fine = add_string(run, list, text.data, text.size);
                break;
            }
            if (from_right) {
                fine = add_string(run, list, hit + by.size, text.size - before - by.size);
                text.size = before;
            } else {
                fine = add_string(run, list, text.data, before);
                text.data = hit + by.size;
                text.size -= before + by.size;
            }
            most -= most > 0;
        }
        size_t n = json_array_size(list);
        for (size_t i = 0; fine && from_right && i < n / 2; i++) { /* turned round */
            json_t *first = json_incref(json_array_get(list, i));
            json_array_set(list, i, json_array_get(list, n - 1 - i));
            json_array_set_new(list, n - 1 - i, first);
        }
    }
    if (fine)
        return list;
    json_decref(list);
    return run_failed(run) ? NULL : run_no_memory(run);
}

static json_t *do_split(struct run *run, json_t *of, const struct arguments *a)
{
    return split(run, of, a, false);
}

static json_t *do_rsplit(struct run *run, json_t *of, const struct arguments *a)
{
    return split(run, of, a, true);
}

static json_t *do_splitlines(struct run *run, json_t *of, const struct arguments *a)
{
    struct text text;
    (void)a;
    if (!string_argument(run, of, &text))
        return NULL;
    json_t *list = json_array();
    bool fine = list != NULL;
    while (fine && text.size) {
        const char *hit = memchr(text.data, '\n', text.size);
        size_t n = hit ? (size_t)(hit - text.data) : text.size;
        fine = add_string(run, list, text.data, n && text.data[n - 1] == '\r' ? n - 1 : n);
        n += hit ? 1 : 0;
        text.data += n;
        text.size -= n;
    }
    if (fine)
        return list;
    json_decref(list);
    return run_failed(run) ? NULL : run_no_memory(run);
}

static json_t *do_replace(struct run *run, json_t *of, const struct arguments *a)
{
    struct text text, old, new;
    const json_t *limit = argument(a, 2, "count");
    long long most = json_is_integer(limit) ? json_integer_value(limit) : -1;
    if (!string_argument(run, of, &text) || !string_argument(run, argument(a, 0, "old"), &old) ||
        !string_argument(run, argument(a, 1, "new"), &new))
        return NULL;
    if (!old.size)
        return run_fail(run, "what is to be replaced is empty");
    struct buffer out;
    bool fine = true;
    buffer_init(&out, TEMPLATE_VALUE_BYTES_MAX);
    while (fine) {
        const char *hit = most ? memmem(text.data, text.size, old.data, old.size) : NULL;
        size_t n = hit ? (size_t)(hit - text.data) : text.size;
        fine = run_spend_bytes(run, n + new.size) && (!n || buffer_append(&out, text.data, n));
        if (!hit)
            break;
        fine = fine && (!new.size || buffer_append(&out, new.data, new.size));
        text.data += n + old.size;
        text.size -= n + old.size;
        most -= most > 0;
    }
    json_t *value = fine ? value_string(run, out.data, out.size)
                    : run_failed(run)
                        ? NULL
                        : run_fail(run, "a string of more than %d bytes", TEMPLATE_VALUE_BYTES_MAX);
    buffer_release(&out);
    return value;
}

static json_t *do_find(struct run *run, json_t *of, const struct arguments *a)
{
    struct text text, what;
    if (!string_argument(run, of, &text) || !string_argument(run, argument(a, 0, NULL), &what))
        return NULL;
    const char *hit = what.size ? memmem(text.data, text.size, what.data, what.size) : text.data;
    long long at = -1;
    for (const char *p = text.data; hit && p <= hit; p++)
        at += p == hit || ((unsigned char)*p & 0xC0) != 0x80;
    return json_integer(hit == text.data ? 0 : at);
}

static json_t *do_count(struct run *run, json_t *of, const struct arguments *a)
{
    struct text text, what;
    long long n = 0;
    const json_t *wanted = argument(a, 0, NULL);
    if (json_is_array(of)) {
        for (size_t i = 0; i < json_array_size(of) && run_spend(run, 1); i++)
            n += value_equal(json_array_get(of, i), wanted);
        return json_integer(n);
    }
    if (!string_argument(run, of, &text) || !string_argument(run, wanted, &what))
        return NULL;
    if (!what.size)
        return run_fail(run, "what is to be counted is empty");
    for (const char *hit; (hit = memmem(text.data, text.size, what.data, what.size)); n++) {
        text.size -= (size_t)(hit - text.data) + what.size;
        text.data = hit + what.size;
    }
    return json_integer(n);
}

/* All characters digits, letters …: enough for what templates ask. */
static json_t *do_isdigit(struct run *run, json_t *of, const struct arguments *a)
{
    struct text text;
    (void)a;
    if (!string_argument(run, of, &text))
        return NULL;
    bool is = text.size > 0;
    for (size_t i = 0; i < text.size; i++)
        is = is && text.data[i] >= '0' && text.data[i] <= '9';
    return value_bool(is);
}

static json_t *join(struct run *run, json_t *items, const json_t *by, const json_t *attribute)
{
    struct buffer out;
    json_t *list = value_list(run, items);
    bool fine = list != NULL;
    buffer_init(&out, TEMPLATE_VALUE_BYTES_MAX);
    for (size_t i = 0; i < json_array_size(list) && fine; i++) {
        json_t *each = json_array_get(list, i);
        if (json_is_string(attribute))
            each = json_object_get(each, json_string_value(attribute));
        fine = (!i || !by || value_write(run, by, &out)) && value_write(run, each, &out);
    }
    json_t *value = fine ? value_string(run, out.data, out.size) : NULL;
    json_decref(list);
    buffer_release(&out);
    return value;
}

static json_t *filter_join(struct run *run, json_t *of, const struct arguments *a)
{
    return join(run, of, argument(a, 0, "d"), argument(a, 1, "attribute"));
}

static json_t *method_join(struct run *run, json_t *of, const struct arguments *a)
{
    return join(run, argument(a, 0, NULL), of, NULL);
}

static json_t *filter_indent(struct run *run, json_t *of, const struct arguments *a)
{
    enum { INDENT_MAX = 64 };
    struct text text;
    const json_t *width = argument(a, 0, "width");
    long long n = json_is_integer(width) ? json_integer_value(width) : 4;
    bool first = value_truth(argument(a, 1, "first")), blank = value_truth(argument(a, 2, "blank"));
    if (n < 0 || n > INDENT_MAX)
        return run_fail(run, "'indent' takes 0 to %d", INDENT_MAX);
    if (!string_argument(run, of, &text))
        return NULL;
    struct buffer out;
    buffer_init(&out, TEMPLATE_VALUE_BYTES_MAX);
    bool fine = true;
    for (size_t at = 0, line = 0; fine && at < text.size; line++) {
        const char *hit = memchr(text.data + at, '\n', text.size - at);
        size_t size = hit ? (size_t)(hit - text.data) + 1 - at : text.size - at;
        bool is_blank = hit && size == 1;
        if ((line || first) && (!is_blank || blank))
            fine = buffer_printf(&out, "%*s", (int)n, "");
        fine = fine && run_spend_bytes(run, size) && buffer_append(&out, text.data + at, size);
        at += size;
    }
    json_t *value = fine ? value_string(run, out.data, out.size) : run_no_memory(run);
    buffer_release(&out);
    return value;
}

/* ---- filters of all kinds ----------------------------------------------------------------------
 */

static json_t *filter_tojson(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *indent = argument(a, 1, "indent"), *ascii = argument(a, 0, "ensure_ascii");
    size_t flags = JSON_ENCODE_ANY;
    if (!of)
        return run_fail(run, "what has no value cannot be written as JSON");
    if (json_is_integer(indent) && json_integer_value(indent) >= 0 &&
        json_integer_value(indent) < 32)
        flags |= JSON_INDENT((size_t)json_integer_value(indent));
    if (value_truth(ascii))
        flags |= JSON_ENSURE_ASCII;
    if (value_truth(argument(a, 3, "sort_keys")))
        flags |= JSON_SORT_KEYS;
    char *text = json_dumps(of, flags);
    if (!text)
        return run_no_memory(run);
    json_t *value = value_string(run, text, strlen(text));
    free(text);
    return value;
}

static json_t *filter_length(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    size_t n = value_length(of);
    if (json_is_string(of) && !run_spend_bytes(run, json_string_length(of)))
        return NULL;
    return n == SIZE_MAX ? run_fail(run, "%s has no length", value_kind(of))
                         : json_integer((json_int_t)n);
}

static json_t *filter_default(struct run *run, json_t *of, const struct arguments *a)
{
    (void)run;
    bool by_truth = value_truth(argument(a, 1, "boolean"));
    bool keep = by_truth ? value_truth(of) : of != NULL;
    json_t *other = argument(a, 0, "default_value");
    return keep ? json_incref(of) : other ? json_incref(other) : json_string("");
}

static json_t *filter_string(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return value_text(run, of);
}

static json_t *filter_list(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *list = value_list(run, of);
    json_t *copy = list && run_spend(run, json_array_size(list)) ? json_copy(list) : NULL;
    json_decref(list);
    return copy ? copy : run_failed(run) ? NULL : run_no_memory(run);
}

static json_t *at_end(struct run *run, json_t *of, bool last)
{
    json_t *list = value_list(run, of);
    size_t n = json_array_size(list);
    json_t *item = n ? json_incref(json_array_get(list, last ? n - 1 : 0)) : NULL;
    json_decref(list);
    return item;
}

static json_t *filter_first(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return at_end(run, of, false);
}

static json_t *filter_last(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return at_end(run, of, true);
}

static json_t *filter_reverse(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *back = json_integer(-1);
    json_t *value = value_slice(run, of, NULL, NULL, back);
    json_decref(back);
    return value;
}

static json_t *filter_int(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *other = argument(a, 0, "default");
    if (json_is_boolean(of))
        return json_integer(json_is_true(of));
    if (json_is_integer(of))
        return json_incref(of);
    double value = json_is_real(of) ? json_real_value(of) : NAN;
    if (json_is_string(of)) {
        const char *text = json_string_value(of);
        char *end;
        errno = 0;
        long long integer = strtoll(text, &end, 10);
        if (end != text && !*end && !errno)
            return json_integer(integer);
        value = strtod(text, &end);
        if (end == text || *end)
            value = NAN;
    }
    if (fabs(value) < 9e18)
        return json_integer((json_int_t)value);
    (void)run;
    return other ? json_incref(other) : json_integer(0);
}

static json_t *filter_float(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *other = argument(a, 0, "default");
    (void)run;
    if (json_is_number(of))
        return json_real(json_number_value(of));
    char *end = NULL;
    const char *text = json_string_value(of);
    double value = text ? strtod(text, &end) : 0;
    if (text && end != text && !*end && isfinite(value))
        return json_real(value);
    return other ? json_incref(other) : json_real(0);
}

static json_t *filter_abs(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (json_is_integer(of) && json_integer_value(of) > -INT64_MAX)
        return json_integer(llabs(json_integer_value(of)));
    return json_is_real(of) ? json_real(fabs(json_real_value(of)))
                            : run_fail(run, "%s has no 'abs'", value_kind(of));
}

static json_t *filter_same(struct run *run, json_t *of, const struct arguments *a)
{
    (void)run, (void)a;
    return json_incref(of);
}

/* [[key, value], …] */
static json_t *do_items(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (!json_is_object(of))
        return of ? run_fail(run, "%s has no keys", value_kind(of)) : json_array();
    json_t *list = json_array();
    const char *key;
    size_t size;
    json_t *each;
    json_object_keylen_foreach(of, key, size, each)
    {
        json_t *pair = json_array();
        bool fine = run_spend(run, 1) && pair &&
                    !json_array_append_new(pair, json_stringn(key, size)) &&
                    !json_array_append(pair, each) && !json_array_append(list, pair);
        json_decref(pair);
        if (!fine)
            run_no_memory(run);
    }
    return list;
}

static json_t *do_keys(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return json_is_object(of) ? value_list(run, of)
                              : run_fail(run, "%s has no keys", value_kind(of));
}

static json_t *do_values(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (!json_is_object(of))
        return run_fail(run, "%s has no keys", value_kind(of));
    json_t *list = json_array(), *each;
    const char *key;
    json_object_foreach(of, key, each) if (!run_spend(run, 1) || json_array_append(list, each))
        run_no_memory(run);
    return list;
}

static json_t *do_get(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *key = argument(a, 0, NULL), *other = argument(a, 1, "default");
    if (!json_is_object(of))
        return run_fail(run, "%s has no keys", value_kind(of));
    json_t *value = json_is_string(key)
                        ? json_object_getn(of, json_string_value(key), json_string_length(key))
                        : NULL;
    return json_incref(value ? value : other ? other : json_null());
}

static json_t *filter_dictsort(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *items = do_items(run, of, a);
    size_t n = json_array_size(items);
    if (!run_spend(run, n * n / 4))
        n = 0;
    for (size_t i = 1; i < n; i++) /* by insertion: dicts of templates are small */
        for (size_t k = i; k > 0; k--) {
            json_t *x = json_array_get(items, k - 1), *y = json_array_get(items, k);
            if (value_order(json_array_get(x, 0), json_array_get(y, 0)) <= 0)
                break;
            json_incref(x);
            json_array_set(items, k - 1, y);
            json_array_set_new(items, k, x);
        }
    return items;
}

static json_t *filter_unique(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *list = value_list(run, of), *out = json_array();
    for (size_t i = 0; i < json_array_size(list) && !run_failed(run); i++) {
        json_t *each = json_array_get(list, i);
        if (!value_contains(run, out, each) && !run_failed(run) && json_array_append(out, each))
            run_no_memory(run);
    }
    json_decref(list);
    return out;
}

/* A test by name as `select` and its like call it; *rest are the arguments after its name. */
static bool passes(struct run *run, json_t *value, const struct arguments *a, size_t at)
{
    const json_t *name = argument(a, at, NULL);
    if (!name)
        return value_truth(value);
    const struct call_row *test =
        json_is_string(name) ? call_find(CALL_TEST, json_string_value(name)) : NULL;
    if (!test) {
        run_fail(run, "the test '%.40s' is not supported",
                 json_is_string(name) ? json_string_value(name) : value_kind(name));
        return false;
    }
    struct arguments rest = {0};
    for (size_t i = at + 1; i < a->n; i++)
        rest.values[rest.n++] = a->values[i];
    json_t *result = call_run(run, test, value, &rest);
    bool is = value_truth(result);
    json_decref(result);
    return is;
}

static json_t *choose(struct run *run, json_t *of, const struct arguments *a, bool by_field,
                      bool wanted)
{
    json_t *list = value_list(run, of), *out = json_array();
    const json_t *field = by_field ? argument(a, 0, NULL) : NULL;
    if (by_field && !json_is_string(field))
        run_fail(run, "expected a field's name, found %s", value_kind(field));
    for (size_t i = 0; i < json_array_size(list) && run_spend(run, 1); i++) {
        json_t *each = json_array_get(list, i);
        json_t *value = by_field ? json_object_get(each, json_string_value(field)) : each;
        if (passes(run, value, a, by_field ? 1 : 0) == wanted && !run_failed(run) &&
            json_array_append(out, each))
            run_no_memory(run);
    }
    json_decref(list);
    return out ? out : run_no_memory(run);
}

#define CHOOSE_CALL(function, by_field, wanted)                                                    \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        return choose(run, of, a, by_field, wanted);                                               \
    }
CHOOSE_CALL(filter_select, false, true)
CHOOSE_CALL(filter_reject, false, false)
CHOOSE_CALL(filter_selectattr, true, true)
CHOOSE_CALL(filter_rejectattr, true, false)

static json_t *filter_map(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *field = argument(a, SIZE_MAX, "attribute"), *name = argument(a, 0, NULL);
    json_t *other = argument(a, SIZE_MAX, "default");
    const struct call_row *filter =
        json_is_string(name) ? call_find(CALL_FILTER, json_string_value(name)) : NULL;
    struct arguments rest = {0};
    if (!json_is_string(field) && !filter)
        return run_fail(run, "'map' needs a field ('attribute') or a filter that is supported");
    for (size_t i = 1; i < a->n; i++)
        rest.values[rest.n++] = a->values[i];
    json_t *list = value_list(run, of), *out = json_array();
    for (size_t i = 0; i < json_array_size(list) && run_spend(run, 1); i++) {
        json_t *each = json_array_get(list, i), *value;
        if (filter)
            value = call_run(run, filter, each, &rest);
        else if (!(value = json_incref(json_object_get(each, json_string_value(field)))))
            value = json_incref(other);
        if (!run_failed(run) && json_array_append_new(out, value ? value : json_null()))
            run_no_memory(run);
    }
    json_decref(list);
    return out ? out : run_no_memory(run);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

#define TEST_CALL(function, condition)                                                             \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        (void)run, (void)of, (void)a;                                                              \
        return value_bool(condition);                                                              \
    }
TEST_CALL(test_defined, of != NULL)
TEST_CALL(test_undefined, of == NULL)
TEST_CALL(test_none, json_is_null(of))
TEST_CALL(test_string, json_is_string(of))
TEST_CALL(test_number, json_is_number(of) || json_is_boolean(of))
TEST_CALL(test_integer, json_is_integer(of))
TEST_CALL(test_float, json_is_real(of))
TEST_CALL(test_boolean, json_is_boolean(of))
TEST_CALL(test_true, json_is_true(of))
TEST_CALL(test_false, json_is_false(of))
TEST_CALL(test_mapping, json_is_object(of))
TEST_CALL(test_iterable, !of || value_length(of) != SIZE_MAX)
TEST_CALL(test_sequence, of && value_length(of) != SIZE_MAX)
TEST_CALL(test_odd, json_is_integer(of) && json_integer_value(of) % 2 != 0)
TEST_CALL(test_even, json_is_integer(of) && json_integer_value(of) % 2 == 0)
TEST_CALL(test_equal, value_equal(of, argument(a, 0, NULL)))
TEST_CALL(test_unequal, !value_equal(of, argument(a, 0, NULL)))
TEST_CALL(test_in, value_contains(run, argument(a, 0, NULL), of))
TEST_CALL(test_callable, false)

static json_t *test_divisible(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *by = argument(a, 0, NULL);
    if (!json_is_integer(of) || !json_is_integer(by) || !json_integer_value(by))
        return run_fail(run, "'divisibleby' is for whole numbers, and not 0");
    return value_bool(json_integer_value(by) == -1 ||
                      json_integer_value(of) % json_integer_value(by) == 0);
}

static json_t *ordered(struct run *run, const json_t *of, const struct arguments *a, int want,
                       bool or_equal)
{
    int order = value_order(of, argument(a, 0, NULL));
    if (order == 2)
        return run_fail(run, "%s and %s have no order", value_kind(of),
                        value_kind(argument(a, 0, NULL)));
    return value_bool(order == want || (or_equal && !order));
}

#define ORDER_CALL(function, want, or_equal)                                                       \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        return ordered(run, of, a, want, or_equal);                                                \
    }
ORDER_CALL(test_less, -1, false)
ORDER_CALL(test_less_equal, -1, true)
ORDER_CALL(test_greater, 1, false)
ORDER_CALL(test_greater_equal, 1, true)

static json_t *same_case(struct run *run, json_t *of, enum case_change change)
{
    json_t *changed = change_case(run, of, change);
    bool same = value_equal(of, changed);
    json_decref(changed);
    return value_bool(same);
}

static json_t *test_upper(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return same_case(run, of, CASE_UPPER);
}

static json_t *test_lower(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return same_case(run, of, CASE_LOWER);
}

/* ---- functions ---------------------------------------------------------------------------------
 */

static json_t *make_dict(struct run *run, json_t *of, const struct arguments *a)
{
    (void)of;
    json_t *made = json_object();
    for (size_t i = a->n; i < a->n + a->n_named && made; i++)
        if (json_object_set_new(made, a->names[i], value_copy(run, a->values[i])))
            run_no_memory(run);
    return value_own(run, made);
}

static json_t *function_namespace(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *made = make_dict(run, of, a);
    if (made && json_array_append(run->namespaces, made)) {
        json_decref(made);
        return run_no_memory(run);
    }
    return made;
}

static json_t *function_range(struct run *run, json_t *of, const struct arguments *a)
{
    long long bounds[3] = {0, 0, 1};
    (void)of;
    for (size_t i = 0; i < a->n && i < ARRAY_LENGTH(bounds); i++) {
        if (!json_is_integer(a->values[i]))
            return run_fail(run, "'range' takes whole numbers, not %s", value_kind(a->values[i]));
        bounds[i] = json_integer_value(a->values[i]);
    }
    if (a->n < 1 || a->n > 3 || !bounds[2])
        return run_fail(run, "'range' takes one to three numbers, the third not 0");
    if (a->n == 1) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    json_t *list = json_array();
    for (long long at = bounds[0]; list && (bounds[2] > 0 ? at < bounds[1] : at > bounds[1]);) {
        if (json_array_size(list) >= TEMPLATE_ITEMS_MAX)
            run_fail(run, "a range of more than %d numbers", TEMPLATE_ITEMS_MAX);
        if (!run_spend(run, 1))
            break;
        if (json_array_append_new(list, json_integer(at)))
            run_no_memory(run);
        if (__builtin_add_overflow(at, bounds[2], &at))
            break;
    }
    return list ? list : run_no_memory(run);
}

static json_t *function_raise(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *text = argument(a, 0, "message");
    (void)of;
    return run_fail(run, "%.200s", json_is_string(text) ? json_string_value(text) : "it refuses");
}

static json_t *function_now(struct run *run, json_t *of, const struct arguments *a)
{
    enum { FORMAT_MAX = 64 };
    struct text format;
    char text[256];
    struct tm parts;
    time_t now = time(NULL);
    (void)of;
    if (!string_argument(run, argument(a, 0, "format"), &format))
        return NULL;
    if (format.size > FORMAT_MAX || !localtime_r(&now, &parts))
        return run_fail(run, "a time's format of more than %d bytes", FORMAT_MAX);
    size_t n = strftime(text, sizeof text, format.data, &parts);
    return value_string(run, text, n);
}

/* ---- the table ---------------------------------------------------------------------------------
 */

static const struct call_row rows[] = {
    {CALL_FILTER, "tojson", filter_tojson},
    {CALL_FILTER, "trim", filter_trim},
    {CALL_FILTER, "length", filter_length},
    {CALL_FILTER, "count", filter_length},
    {CALL_FILTER, "upper", do_upper},
    {CALL_FILTER, "lower", do_lower},
    {CALL_FILTER, "title", do_title},
    {CALL_FILTER, "capitalize", do_capitalize},
    {CALL_FILTER, "default", filter_default},
    {CALL_FILTER, "d", filter_default},
    {CALL_FILTER, "join", filter_join},
    {CALL_FILTER, "first", filter_first},
    {CALL_FILTER, "last", filter_last},
    {CALL_FILTER, "reverse", filter_reverse},
    {CALL_FILTER, "list", filter_list},
    {CALL_FILTER, "string", filter_string},
    {CALL_FILTER, "int", filter_int},
    {CALL_FILTER, "float", filter_float},
    {CALL_FILTER, "abs", filter_abs},
    {CALL_FILTER, "safe", filter_same},
    {CALL_FILTER, "replace", do_replace},
    {CALL_FILTER, "indent", filter_indent},
    {CALL_FILTER, "items", do_items},
    {CALL_FILTER, "dictsort", filter_dictsort},
    {CALL_FILTER, "unique", filter_unique},
    {CALL_FILTER, "map", filter_map},
    {CALL_FILTER, "select", filter_select},
    {CALL_FILTER, "reject", filter_reject},
    {CALL_FILTER, "selectattr", filter_selectattr},
    {CALL_FILTER, "rejectattr", filter_rejectattr},

    {CALL_TEST, "defined", test_defined},
    {CALL_TEST, "undefined", test_undefined},
    {CALL_TEST, "none", test_none},
    {CALL_TEST, "None", test_none},
    {CALL_TEST, "string", test_string},
    {CALL_TEST, "number", test_number},
    {CALL_TEST, "integer", test_integer},
    {CALL_TEST, "float", test_float},
    {CALL_TEST, "boolean", test_boolean},
    {CALL_TEST, "true", test_true},
    {CALL_TEST, "false", test_false},
    {CALL_TEST, "True", test_true},
    {CALL_TEST, "False", test_false},
    {CALL_TEST, "mapping", test_mapping},
    {CALL_TEST, "iterable", test_iterable},
    {CALL_TEST, "sequence", test_sequence},
    {CALL_TEST, "callable", test_callable},
    {CALL_TEST, "odd", test_odd},
    {CALL_TEST, "even", test_even},
    {CALL_TEST, "divisibleby", test_divisible},
    {CALL_TEST, "equalto", test_equal},
    {CALL_TEST, "eq", test_equal},
    {CALL_TEST, "==", test_equal},
    {CALL_TEST, "sameas", test_equal},
    {CALL_TEST, "ne", test_unequal},
    {CALL_TEST, "!=", test_unequal},
    {CALL_TEST, "in", test_in},
    {CALL_TEST, "lt", test_less},
    {CALL_TEST, "le", test_less_equal},
    {CALL_TEST, "gt", test_greater},
    {CALL_TEST, "ge", test_greater_equal},
    {CALL_TEST, "upper", test_upper},
    {CALL_TEST, "lower", test_lower},

    {CALL_METHOD, "strip", do_strip},
    {CALL_METHOD, "lstrip", do_lstrip},
    {CALL_METHOD, "rstrip", do_rstrip},
    {CALL_METHOD, "split", do_split},
    {CALL_METHOD, "rsplit", do_rsplit},
    {CALL_METHOD, "splitlines", do_splitlines},
    {CALL_METHOD, "startswith", do_startswith},
    {CALL_METHOD, "endswith", do_endswith},
    {CALL_METHOD, "removeprefix", do_removeprefix},
    {CALL_METHOD, "removesuffix", do_removesuffix},
    {CALL_METHOD, "upper", do_upper},
    {CALL_METHOD, "lower", do_lower},
    {CALL_METHOD, "title", do_title},
    {CALL_METHOD, "capitalize", do_capitalize},
    {CALL_METHOD, "replace", do_replace},
    {CALL_METHOD, "find", do_find},
    {CALL_METHOD, "count", do_count},
    {CALL_METHOD, "isdigit", do_isdigit},
    {CALL_METHOD, "join", method_join},
    {CALL_METHOD, "items", do_items},
    {CALL_METHOD, "keys", do_keys},
    {CALL_METHOD, "values", do_values},
    {CALL_METHOD, "get", do_get},

    {CALL_FUNCTION, "namespace", function_namespace},
    {CALL_FUNCTION, "dict", make_dict},
    {CALL_FUNCTION, "range", function_range},
    {CALL_FUNCTION, "raise_exception", function_raise},
    {CALL_FUNCTION, "strftime_now", function_now},
};

const struct call_row *call_find(enum call_kind kind, const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        if (rows[i].kind == kind && !strcmp(rows[i].name, name))
            return &rows[i];
    return NULL;
}

json_t *call_run(struct run *run, const struct call_row *call, json_t *of,
                 const struct arguments *arguments)
{
    json_t *value = run_spend(run, 1) ? call->run(run, of, arguments) : NULL;
    if (!run->failed)
        return value;
    json_decref(value);
    return NULL;
}
