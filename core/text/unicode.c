/*
 * unicode.c: see unicode.h. Normal forms after UAX #15: decompose, order the marks of each run by
 * combining class, compose. The reference is a few Unicode versions behind utf8proc: characters in
 * unicode_not_normalized are left alone.
 */
#include "core/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/size.h"
#include "core/base/utf8.h"

bool unicode_set_has(const struct unicode_set *set, uint32_t code)
{
    size_t low = 0, high = set->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set->n && set->ranges[low].first <= code;
}

size_t unicode_to_lower(uint32_t code, uint32_t out[2])
{
    if (code < 0x80) {
        out[0] = code >= 'A' && code <= 'Z' ? code + 32 : code;
        return 1;
    }
    if (code == 0x130) { /* the only one that becomes two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    size_t low = 0, high = n_unicode_lower;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (unicode_lower[middle].from < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < n_unicode_lower && unicode_lower[low].from == code)
        out[0] = unicode_lower[low].to;
    else
        out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
    return 1;
}

/* Code points with their combining classes, growing. */
struct codes {
    struct code {
        uint32_t code;
        uint32_t class;
    } * items;
    size_t n, capacity;
};

static bool codes_add(struct codes *codes, uint32_t code, uint32_t class)
{
    if (codes->n == codes->capacity) {
        size_t capacity = codes->capacity ? 2 * codes->capacity : 256;
        struct code *items = realloc_array(codes->items, capacity, sizeof *items);
        if (!items)
            return false;
        codes->items = items;
        codes->capacity = capacity;
    }
    codes->items[codes->n++] = (struct code){code, class};
    return true;
}

static uint32_t combining_class(uint32_t code)
{
    if (code < 0x300 || unicode_set_has(&unicode_not_normalized, code))
        return 0;
    return (uint32_t)utf8proc_get_property((utf8proc_int32_t)code)->combining_class;
}

static bool decompose(struct codes *codes, uint32_t code, bool compatibility)
{
    if (code < 0xA0 || unicode_set_has(&unicode_not_normalized, code))
        return codes_add(codes, code, 0);
    utf8proc_int32_t parts[32]; /* the longest decomposition is 18 */
    int boundary = 0;
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0);
    utf8proc_ssize_t n = utf8proc_decompose_char(
        (utf8proc_int32_t)code, parts, (utf8proc_ssize_t)ARRAY_LENGTH(parts), options, &boundary);
    if (n < 0 || n > (utf8proc_ssize_t)ARRAY_LENGTH(parts))
        return codes_add(codes, code, 0);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (!codes_add(codes, (uint32_t)parts[i], combining_class((uint32_t)parts[i])))
            return false;
    return true;
}

/* A stable counting sort of one run of marks by combining class. */
static bool order_run(struct code *run, size_t n)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = run[i - 1].class <= run[i].class;
    if (sorted)
        return true;
    size_t at[257] = {0};
    struct code *copy = alloc_array(n, sizeof *copy);
    if (!copy)
        return false;
    memcpy(copy, run, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        at[(copy[i].class & 0xFF) + 1]++;
    for (size_t i = 1; i < 257; i++)
        at[i] += at[i - 1];
    for (size_t i = 0; i < n; i++)
        run[at[copy[i].class & 0xFF]++] = copy[i];
    free(copy);
    return true;
}

static bool order(struct codes *codes)
{
    for (size_t i = 0; i < codes->n;) {
        size_t end = i;
        while (end < codes->n && codes->items[end].class)
            end++;
        if (end > i + 1 && !order_run(codes->items + i, end - i))
            return false;
        i = end + 1;
    }
    return true;
}

/* The primary composite of two code points, or 0. */
static uint32_t composite(uint32_t first, uint32_t second)
{
    if (second < 0x300 || unicode_set_has(&unicode_not_normalized, second))
        return 0;
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t)first, (utf8proc_int32_t)second};
    utf8proc_ssize_t n = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n != 1 || unicode_set_has(&unicode_not_normalized, (uint32_t)pair[0]))
        return 0;
    return (uint32_t)pair[0];
}

static void compose(struct codes *codes)
{
    size_t n = 0, starter = SIZE_MAX;
    uint32_t last_class = 0;
    for (size_t i = 0; i < codes->n; i++) {
        struct code c = codes->items[i];
        bool adjacent = starter != SIZE_MAX && n == starter + 1;
        if (starter != SIZE_MAX && (adjacent || (last_class != 0 && last_class < c.class))) {
            uint32_t joined = composite(codes->items[starter].code, c.code);
            if (joined) {
                codes->items[starter].code = joined;
                continue;
            }
        }
        if (c.class == 0)
            starter = n;
        last_class = c.class;
        codes->items[n++] = c;
    }
    codes->n = n;
}

bool unicode_normalize(struct buffer *out, const char *text, size_t size, enum normal_form form)
{
    /* ASCII is its own normal form, and so is Latin-1 when composing canonically. */
    size_t plain = 0;
    while (plain < size && (unsigned char)text[plain] < 0x80)
        plain++;
    if (plain == size)
        return buffer_append(out, text, size);

    struct codes codes = {0};
    bool compatibility = form == NORMAL_NFKC || form == NORMAL_NFKD;
    bool ok = true;
    for (size_t i = 0; i < size && ok;) {
        uint32_t code = 0;
        size_t n = utf8_decode(text + i, size - i, &code);
        ok = n && decompose(&codes, code, compatibility);
        i += n;
    }
    ok = ok && order(&codes);
    if (ok && (form == NORMAL_NFC || form == NORMAL_NFKC))
        compose(&codes);
    for (size_t i = 0; i < codes.n && ok; i++) {
        char bytes[4];
        ok = buffer_append(out, bytes, utf8_encode(codes.items[i].code, bytes));
    }
    free(codes.items);
    return ok;
}
