/*
 * template_strings.c: the filters, tests and methods of strings that templates may call, one row
 * each at the end.
 */
#include <string.h>
#include <utf8proc.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/template_internal.h"

static struct text text_of(const json_t *value)
{
    return (struct text){json_string_value(value), json_string_length(value)};
}

bool string_argument(struct run *run, const json_t *value, struct text *out)
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
    return value_gathered(run, fine, &out);
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
    json_decref(list);
    return value_gathered(run, fine, &out);
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

/* ---- the table ---------------------------------------------------------------------------------
 */

const struct call_row template_string_calls[] = {
    {CALL_FILTER, "trim", filter_trim},
    {CALL_FILTER, "upper", do_upper},
    {CALL_FILTER, "lower", do_lower},
    {CALL_FILTER, "title", do_title},
    {CALL_FILTER, "capitalize", do_capitalize},
    {CALL_FILTER, "join", filter_join},
    {CALL_FILTER, "replace", do_replace},
    {CALL_FILTER, "indent", filter_indent},
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
    {CALL_TEST, "upper", test_upper},
    {CALL_TEST, "lower", test_lower},
};
const size_t n_template_string_calls = ARRAY_LENGTH(template_string_calls);
