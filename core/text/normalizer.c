/*
 * normalizer.c: the normalizers of `tokenizers`, each from one buffer into the next.
 *
 * `first` follows the one bit of the reference's alignment that changes ids: whether the text's
 * first character is the original's first (Metaspace with prepend_scheme "first" asks for it).
 * Pure functions of the tokenizer; buffers belong to the caller's call.
 */
#include <string.h>

#include <utf8proc.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

static bool put_code(struct buffer *out, uint32_t code)
{
    char bytes[4];
    return buffer_append(out, bytes, utf8_encode(code, bytes));
}

/* The next code point of valid UTF-8. */
static uint32_t next_code(const char *text, size_t size, size_t *at)
{
    uint32_t code = 0;
    size_t n = utf8_decode(text + *at, size - *at, &code);
    *at += n ? n : 1;
    return code;
}

static bool lowercase(const char *text, size_t size, struct buffer *out)
{
    for (size_t i = 0; i < size;) {
        uint32_t lower[2];
        size_t n = unicode_to_lower(next_code(text, size, &i), lower);
        for (size_t k = 0; k < n; k++)
            if (!put_code(out, lower[k]))
                return false;
    }
    return true;
}

/* Leaves out the code points of `set`. */
static bool filter(const char *text, size_t size, const struct unicode_set *set, struct buffer *out,
                   bool *first)
{
    for (size_t i = 0; i < size;) {
        size_t start = i;
        uint32_t code = next_code(text, size, &i);
        if (unicode_set_has(set, code)) {
            if (out->size == 0)
                *first = false;
        } else if (!buffer_append(out, text + start, i - start)) {
            return false;
        }
    }
    return true;
}

static bool clean_text(const char *text, size_t size, struct buffer *out, bool *first)
{
    for (size_t i = 0; i < size;) {
        size_t start = i;
        uint32_t code = next_code(text, size, &i);
        bool ok = true;
        if (code >= 0x20 && code < 0x7F)
            ok = buffer_append(out, text + start, 1);
        else if (unicode_set_has(&unicode_bert_removed, code)) {
            if (out->size == 0)
                *first = false;
        } else if (unicode_set_has(&unicode_whitespace, code))
            ok = buffer_append(out, " ", 1);
        else
            ok = buffer_append(out, text + start, i - start);
        if (!ok)
            return false;
    }
    return true;
}

static bool is_chinese(uint32_t code)
{
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
           (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
           (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
           (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

static bool space_chinese(const char *text, size_t size, struct buffer *out)
{
    for (size_t i = 0; i < size;) {
        size_t start = i;
        bool chinese = is_chinese(next_code(text, size, &i));
        if ((chinese && !buffer_append(out, " ", 1)) ||
            !buffer_append(out, text + start, i - start) ||
            (chinese && !buffer_append(out, " ", 1)))
            return false;
    }
    return true;
}

static bool strip(const char *text, size_t size, bool left, bool right, struct buffer *out,
                  bool *first)
{
    size_t start = 0, end = size;
    while (left && start < size) {
        size_t next = start;
        if (!unicode_set_has(&unicode_whitespace, next_code(text, size, &next)))
            break;
        start = next;
    }
    while (right && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)text[last] & 0xC0) == 0x80)
            last--;
        size_t at = last;
        if (!unicode_set_has(&unicode_whitespace, next_code(text, size, &at)))
            break;
        end = last;
    }
    if (start > 0)
        *first = false;
    return buffer_append(out, text + start, end - start);
}

static bool nmt(const char *text, size_t size, struct buffer *out, bool *first)
{
    for (size_t i = 0; i < size;) {
        size_t start = i;
        uint32_t c = next_code(text, size, &i);
        bool removed = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
                       c == 0x8F || c == 0x9F;
        bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                     (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xFEFF || c == 0xFFFD;
        bool ok = true;
        if (removed) {
            if (out->size == 0)
                *first = false;
        } else if (space)
            ok = buffer_append(out, " ", 1);
        else
            ok = buffer_append(out, text + start, i - start);
        if (!ok)
            return false;
    }
    return true;
}

static bool byte_level(const char *text, size_t size, struct buffer *out)
{
    for (size_t i = 0; i < size; i++)
        if (!put_code(out, byte_level_code((unsigned char)text[i])))
            return false;
    return true;
}

/* The first string that the charsmap has for a prefix of key (the reference takes the shortest
 * prefix that has one, and lets it stand for the whole key). Layout: Darts-clone double array,
 * units of 32 bits. */
static struct str charsmap_find(const struct normalizer *n, const char *key, size_t size)
{
    const struct str none = {NULL, 0};
    const uint32_t *units = n->charsmap.units;
    size_t n_units = n->charsmap.n_units;
    if (n_units == 0)
        return none;
    size_t at = 0;
    uint32_t unit = units[0];
    at ^= (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
    for (size_t i = 0; i < size && key[i]; i++) {
        at ^= (unsigned char)key[i];
        if (at >= n_units)
            return none;
        unit = units[at];
        if ((unit & (1u << 31 | 0xFF)) != (unsigned char)key[i])
            return none;
        at ^= (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
        if (unit >> 8 & 1) {
            if (at >= n_units)
                return none;
            size_t value = units[at] & 0x7FFFFFFFu;
            if (value > n->charsmap.strings.size)
                return none;
            const char *string = n->charsmap.strings.data + value;
            if (value < n->charsmap.strings.size && ((unsigned char)*string & 0xC0) == 0x80)
                return none; /* a broken map points into a character */
            return (struct str){string, strnlen(string, n->charsmap.strings.size - value)};
        }
    }
    return none;
}

static bool precompiled(const struct normalizer *n, const char *text, size_t size,
                        struct buffer *out)
{
    for (size_t start = 0; start < size;) {
        /* One grapheme cluster. */
        size_t end = start;
        uint32_t previous = next_code(text, size, &end);
        utf8proc_int32_t state = 0;
        while (end < size) {
            size_t next = end;
            uint32_t code = next_code(text, size, &next);
            if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)previous, (utf8proc_int32_t)code,
                                                 &state))
                break;
            previous = code;
            end = next;
        }
        struct str found = {NULL, 0};
        if (end - start < 6)
            found = charsmap_find(n, text + start, end - start);
        if (found.data) {
            if (!buffer_append(out, found.data, found.size))
                return false;
            start = end;
            continue;
        }
        while (start < end) {
            size_t next = start;
            next_code(text, size, &next);
            found = charsmap_find(n, text + start, next - start);
            if (found.data ? !buffer_append(out, found.data, found.size)
                           : !buffer_append(out, text + start, next - start))
                return false;
            start = next;
        }
    }
    return true;
}

static enum status replace(const struct normalizer *n, const char *text, size_t size,
                           struct buffer *out, bool *first, struct error *err)
{
    struct matcher matcher;
    if (!matcher_init(&matcher, &n->pattern, text, size))
        return error_no_memory(err, "a pattern's match");
    size_t last = 0, start, end;
    int found;
    bool ok = true;
    while (ok && (found = matcher_next(&matcher, &start, &end)) > 0) {
        if (start == 0 && end > 0) {
            size_t one = 0;
            next_code(text, size, &one);
            if (one != end || n->content.size == 0)
                *first = false;
        }
        ok = buffer_append(out, text + last, start - last) &&
             buffer_append(out, n->content.data, n->content.size);
        last = end;
    }
    ok = ok && buffer_append(out, text + last, size - last);
    matcher_release(&matcher);
    if (!ok)
        return text_no_room(err, out);
    if (found < 0)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the tokenizer's Replace pattern takes too long on this text");
    return STATUS_OK;
}

static bool bert(const struct normalizer *n, const char *text, size_t size, struct buffer *out,
                 struct buffer *spare, bool *first)
{
    /* Four passes between *out and *spare; the text ends in *out. */
    struct buffer *to = out, *other = spare;
    bool passes[4] = {n->clean_text, n->chinese_chars, n->strip_accents, n->lowercase};
    bool any = false;
    for (int pass = 0; pass < 4; pass++) {
        if (!passes[pass])
            continue;
        to->size = 0;
        bool ok = true;
        if (pass == 0)
            ok = clean_text(text, size, to, first);
        else if (pass == 1)
            ok = space_chinese(text, size, to);
        else if (pass == 3)
            ok = lowercase(text, size, to);
        else {
            ok = unicode_normalize(to, text, size, NORMAL_NFD);
            struct buffer *swap = to;
            to = other;
            other = swap;
            to->size = 0;
            ok = ok && filter(other->data, other->size, &unicode_nonspacing, to, first);
        }
        if (!ok)
            return false;
        any = true;
        text = to->data;
        size = to->size;
        struct buffer *swap = to;
        to = other;
        other = swap;
    }
    if (!any)
        return buffer_append(out, text, size);
    if (other == out)
        return true;
    out->size = 0;
    return buffer_append(out, text, size);
}

enum status normalize(const struct tokenizer *tokenizer, const char *text, size_t size,
                      struct buffer *out, struct buffer *spare, bool *first, struct error *err)
{
    struct buffer input; /* what the current stage reads */
    buffer_init(&input, TOKENIZER_WORK_BYTES_MAX);
    out->size = 0;
    enum status status = STATUS_OK;
    bool ok = buffer_append(out, text, size);
    for (size_t i = 0; i < tokenizer->n_normalizers && ok && !status; i++) {
        const struct normalizer *n = &tokenizer->normalizers[i];
        struct buffer swap = input;
        input = *out;
        *out = swap;
        out->size = 0;
        const char *from = input.data ? input.data : "";
        switch (n->kind) {
        case NORMALIZER_FORM:
            ok = unicode_normalize(out, from, input.size, (enum normal_form)n->form);
            break;
        case NORMALIZER_LOWERCASE:
            ok = lowercase(from, input.size, out);
            break;
        case NORMALIZER_BERT:
            ok = bert(n, from, input.size, out, spare, first);
            break;
        case NORMALIZER_STRIP_ACCENTS:
            ok = filter(from, input.size, &unicode_combining, out, first);
            break;
        case NORMALIZER_STRIP:
            ok = strip(from, input.size, n->strip_left, n->strip_right, out, first);
            break;
        case NORMALIZER_REPLACE:
            status = replace(n, from, input.size, out, first, err);
            break;
        case NORMALIZER_PREPEND:
            ok = (input.size == 0 || buffer_append(out, n->content.data, n->content.size)) &&
                 buffer_append(out, from, input.size);
            break;
        case NORMALIZER_NMT:
            ok = nmt(from, input.size, out, first);
            break;
        case NORMALIZER_PRECOMPILED:
            ok = precompiled(n, from, input.size, out);
            break;
        case NORMALIZER_BYTE_LEVEL:
            ok = byte_level(from, input.size, out);
            break;
        }
    }
    if (!ok)
        status = text_no_room(err, out);
    buffer_release(&input);
    return status;
}
