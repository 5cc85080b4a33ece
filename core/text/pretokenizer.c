/*
 * pretokenizer.c: the pre-tokenizers of `tokenizers`: each cuts the pieces that are still text
 * further, and some rewrite them (byte-level alphabet, ▁ for spaces). Empty pieces vanish between
 * stages. Linear in the text.
 */
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Printable Latin-1 stands for itself, the other 68 bytes for U+0100 on, in order. */
static bool is_own_code(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t byte_level_code(unsigned char byte)
{
    if (is_own_code(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xAD ? 0x143u : 0x121u + (byte - 0x7Fu);
}

int byte_level_byte(uint32_t code)
{
    if (code < 0x100)
        return is_own_code(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7F);
    return code == 0x143 ? 0xAD : -1;
}

static bool in_class(const struct pretokenizer *stage, uint32_t code)
{
    switch (stage->char_class) {
    case CLASS_WHITESPACE:
        return unicode_set_has(&unicode_whitespace, code);
    case CLASS_PUNCTUATION:
        return unicode_set_has(&unicode_punctuation, code);
    case CLASS_NUMERIC:
        return code < 0x80 ? code >= '0' && code <= '9' : unicode_set_has(&unicode_numeric, code);
    case CLASS_CODE:
        break;
    }
    return code == stage->code;
}

/* Puts segments (in order, touching) together as a behaviour says. One segment is kept back, as
 * the next may still join it. */
struct splitter {
    struct pieces *out;
    size_t base; /* where the text starts in out->text */
    enum split_behavior behavior;
    bool first; /* of the whole text */
    bool held, held_match, previous_match;
    size_t held_start, held_end;
};

static bool splitter_flush(struct splitter *s)
{
    if (!s->held)
        return true;
    s->held = false;
    size_t size = s->held_end - s->held_start;
    if (size == 0)
        return true;
    return pieces_add(
        s->out, (struct piece){s->base + s->held_start, size, -1, s->first && s->held_start == 0});
}

static bool splitter_add(struct splitter *s, size_t start, size_t end, bool match)
{
    bool join = false;
    switch (s->behavior) {
    case SPLIT_REMOVED:
        if (match)
            return true;
        break;
    case SPLIT_ISOLATED:
        break;
    case SPLIT_CONTIGUOUS:
        join = s->held && match == s->previous_match;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        join = s->held && match && !s->previous_match;
        break;
    case SPLIT_MERGED_WITH_NEXT: /* a lone match waits for the text behind it */
        join = s->held && s->held_match && !match;
        break;
    }
    s->previous_match = match;
    if (join) {
        s->held_end = end;
        s->held_match = false;
        return true;
    }
    if (!splitter_flush(s))
        return false;
    s->held = true;
    s->held_match = match;
    s->held_start = start;
    s->held_end = end;
    return true;
}

/* \w+|[^\w\s]+, the rest removed. */
static int word_kind(uint32_t code)
{
    if (code < 0x80 ? (code >= '0' && code <= '9') || ((code | 32) >= 'a' && (code | 32) <= 'z') ||
                          code == '_'
                    : unicode_set_has(&unicode_word, code))
        return 1;
    return unicode_set_has(&unicode_whitespace, code) ? 0 : 2;
}

static bool split_words(struct splitter *s, const char *text, size_t size)
{
    size_t start = 0;
    int kind = 0;
    for (size_t i = 0; i <= size;) {
        uint32_t code = 0;
        size_t n = i < size ? utf8_decode(text + i, size - i, &code) : 1;
        int next = i < size ? word_kind(code) : -1;
        if (next != kind) {
            if (kind > 0 && !splitter_add(s, start, i, false))
                return false;
            start = i;
            kind = next;
        }
        i += n ? n : 1;
    }
    return true;
}

static bool split_class(const struct pretokenizer *stage, struct splitter *s, const char *text,
                        size_t size)
{
    size_t last = 0;
    for (size_t i = 0; i < size;) {
        uint32_t code = 0;
        size_t n = utf8_decode(text + i, size - i, &code);
        n = n ? n : 1;
        if (in_class(stage, code)) {
            if ((last < i && !splitter_add(s, last, i, false)) || !splitter_add(s, i, i + n, true))
                return false;
            last = i + n;
        }
        i += n;
    }
    return last == size || splitter_add(s, last, size, false);
}

static bool split_length(struct splitter *s, const char *text, size_t size, size_t length)
{
    size_t start = 0, n_codes = 0;
    for (size_t i = 0; i < size; i++) {
        if (((unsigned char)text[i] & 0xC0) == 0x80)
            continue;
        if (n_codes == length) {
            if (!splitter_add(s, start, i, false))
                return false;
            start = i;
            n_codes = 0;
        }
        n_codes++;
    }
    return splitter_add(s, start, size, false);
}

static enum status split_pattern(const struct pattern *pattern, bool invert, struct splitter *s,
                                 const char *text, size_t size, struct error *err)
{
    struct matcher matcher;
    if (!matcher_init(&matcher, pattern, text, size))
        return error_no_memory(err, "a pattern's match");
    size_t last = 0, start, end;
    int found = 0;
    bool ok = true;
    while (ok && (found = matcher_next(&matcher, &start, &end)) > 0) {
        ok = (last == start || splitter_add(s, last, start, invert)) &&
             splitter_add(s, start, end, !invert);
        last = end;
    }
    ok = ok && (last == size || splitter_add(s, last, size, invert));
    matcher_release(&matcher);
    if (!ok)
        return error_no_memory(err, "the pieces of a text");
    if (found < 0)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the tokenizer's Split pattern takes too long on this text");
    return STATUS_OK;
}

static bool put_byte_level(struct buffer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char bytes[4];
        uint32_t code = byte_level_code((unsigned char)text[i]);
        if (!buffer_append(out, bytes, utf8_encode(code, bytes)))
            return false;
    }
    return true;
}

/* Cuts plain[0..size) by the GPT-2 pattern and spells each part in the byte-level alphabet. */
static enum status byte_level(const struct pretokenizer *stage, const char *text, size_t size,
                              bool first, struct pieces *plain, struct pieces *out,
                              struct error *err)
{
    pieces_clear(plain);
    bool space = stage->add_prefix_space && !(size && text[0] == ' ');
    if ((space && !buffer_append(&plain->text, " ", 1)) || !buffer_append(&plain->text, text, size))
        return text_no_room(err, &plain->text);
    struct splitter s = {.out = plain, .behavior = SPLIT_ISOLATED, .first = first};
    if (stage->use_regex) {
        enum status status =
            split_pattern(&stage->pattern, false, &s, plain->text.data, plain->text.size, err);
        if (status)
            return status;
    } else if (!splitter_add(&s, 0, plain->text.size, false)) {
        return error_no_memory(err, "the pieces of a text");
    }
    if (!splitter_flush(&s))
        return error_no_memory(err, "the pieces of a text");
    for (size_t i = 0; i < plain->n; i++) {
        struct piece piece = plain->items[i];
        size_t start = out->text.size;
        if (!put_byte_level(&out->text, plain->text.data + piece.start, piece.size) ||
            !pieces_add(out, (struct piece){start, out->text.size - start, -1, piece.first}))
            return text_no_room(err, &out->text);
    }
    return STATUS_OK;
}

static enum status metaspace(const struct pretokenizer *stage, const char *text, size_t size,
                             bool first, struct pieces *out, struct error *err)
{
    struct str mark = stage->replacement;
    size_t base = out->text.size;
    bool has_mark =
        size && (text[0] == ' ' || (size >= mark.size && memcmp(text, mark.data, mark.size) == 0));
    bool prepend =
        !has_mark && (stage->scheme == PREPEND_ALWAYS || (stage->scheme == PREPEND_FIRST && first));
    bool ok = !prepend || buffer_append(&out->text, mark.data, mark.size);
    for (size_t i = 0; i < size && ok;) {
        const char *space = memchr(text + i, ' ', size - i);
        size_t n = space ? (size_t)(space - (text + i)) : size - i;
        ok = buffer_append(&out->text, text + i, n) &&
             (!space || buffer_append(&out->text, mark.data, mark.size));
        i += n + (space != NULL);
    }
    if (!ok)
        return text_no_room(err, &out->text);
    struct splitter s = {
        .out = out, .base = base, .first = first, .behavior = SPLIT_MERGED_WITH_NEXT};
    size_t n = out->text.size - base;
    enum status status = STATUS_OK;
    if (stage->split) {
        struct pattern pattern = {.literal = mark};
        status = split_pattern(&pattern, false, &s, out->text.data + base, n, err);
    } else {
        ok = splitter_add(&s, 0, n, false);
    }
    if (!status && (!ok || !splitter_flush(&s)))
        status = error_no_memory(err, "the pieces of a text");
    return status;
}

enum status pretokenize(const struct pretokenizer *stage, const struct pieces *in,
                        struct pieces *out, struct error *err)
{
    pieces_clear(out);
    struct pieces plain;
    pieces_init(&plain);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < in->n && !status; i++) {
        struct piece piece = in->items[i];
        const char *text = in->text.data + piece.start;
        if (piece.id >= 0) {
            if (!pieces_copy(out, text, piece.size, piece.id, piece.first))
                status = text_no_room(err, &out->text);
            continue;
        }
        if (stage->kind == PRETOKENIZER_BYTE_LEVEL) {
            status = byte_level(stage, text, piece.size, piece.first, &plain, out, err);
            continue;
        }
        if (stage->kind == PRETOKENIZER_METASPACE) {
            status = metaspace(stage, text, piece.size, piece.first, out, err);
            continue;
        }
        struct splitter s = {
            .out = out, .base = out->text.size, .behavior = stage->behavior, .first = piece.first};
        if (!buffer_append(&out->text, text, piece.size)) {
            status = text_no_room(err, &out->text);
            break;
        }
        bool ok = true;
        if (stage->kind == PRETOKENIZER_SPLIT)
            status = split_pattern(&stage->pattern, stage->invert, &s, text, piece.size, err);
        else if (stage->kind == PRETOKENIZER_CLASS)
            ok = split_class(stage, &s, text, piece.size);
        else if (stage->kind == PRETOKENIZER_WORDS)
            ok = split_words(&s, text, piece.size);
        else
            ok = split_length(&s, text, piece.size, stage->length);
        if (!status && (!ok || !splitter_flush(&s)))
            status = error_no_memory(err, "the pieces of a text");
    }
    pieces_release(&plain);
    return status;
}
