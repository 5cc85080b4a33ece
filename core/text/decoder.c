/*
 * decoder.c: the decoders of `tokenizers`, from a list of token strings to the next, and
 * transformers' clean-up of spaces. Token strings are pieces of one buffer. Linear in the text.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"

static const char replacement_character[] = "\xEF\xBF\xBD";

bool replace_all(struct buffer *out, const char *text, size_t size, const char *from,
                 const char *to)
{
    size_t n_from = strlen(from);
    size_t at = 0;
    while (n_from && at < size) {
        const char *found = memmem(text + at, size - at, from, n_from);
        if (!found)
            break;
        size_t start = (size_t)(found - text);
        if (!buffer_append(out, text + at, start - at) || !buffer_puts(out, to))
            return false;
        at = start + n_from;
    }
    return buffer_append(out, text + at, size - at);
}

bool clean_up_text(struct buffer *text, size_t from, bool with_do_not)
{
    static const struct {
        const char *from, *to;
        bool decoder_only;
    } rows[] = {
        {" .", ".", false},     {" ?", "?", false},          {" !", "!", false},
        {" ,", ",", false},     {" ' ", "'", false},         {" n't", "n't", false},
        {" 'm", "'m", false},   {" do not", " don't", true}, {" 's", "'s", false},
        {" 've", "'ve", false}, {" 're", "'re", false},
    };
    struct buffer next;
    buffer_init(&next, TOKENIZER_WORK_BYTES_MAX);
    bool ok = true;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && ok; i++) {
        if ((rows[i].decoder_only && !with_do_not) || text->size == from ||
            !memmem(text->data + from, text->size - from, rows[i].from, strlen(rows[i].from)))
            continue;
        next.size = 0;
        ok = replace_all(&next, text->data + from, text->size - from, rows[i].from, rows[i].to);
        text->size = from;
        ok = ok && buffer_append(text, next.data, next.size);
    }
    buffer_release(&next);
    return ok;
}

/* How many bytes at p are one maximal invalid part (Unicode 3.9, "substitution of maximal
 * subparts", as Rust's from_utf8_lossy does). p[0] does not start a valid sequence. */
static size_t invalid_part(const unsigned char *p, size_t size)
{
    unsigned char low = 0x80, high = 0xBF;
    size_t n;
    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        n = 2;
    else if (p[0] >= 0xE0 && p[0] <= 0xEF)
        n = 3;
    else if (p[0] >= 0xF0 && p[0] <= 0xF4)
        n = 4;
    else
        return 1;
    if (p[0] == 0xE0)
        low = 0xA0;
    else if (p[0] == 0xED)
        high = 0x9F;
    else if (p[0] == 0xF0)
        low = 0x90;
    else if (p[0] == 0xF4)
        high = 0x8F;
    size_t i = 1;
    for (; i < n && i < size; i++) {
        if (p[i] < low || p[i] > high)
            break;
        low = 0x80;
        high = 0xBF;
    }
    return i;
}

bool append_lossy(struct buffer *out, const char *data, size_t size)
{
    size_t done = 0;
    for (size_t i = 0; i < size;) {
        uint32_t code;
        size_t n = utf8_decode(data + i, size - i, &code);
        if (n) {
            i += n;
            continue;
        }
        n = invalid_part((const unsigned char *)data + i, size - i);
        if (!buffer_append(out, data + done, i - done) || !buffer_puts(out, replacement_character))
            return false;
        i += n;
        done = i;
    }
    return buffer_append(out, data + done, size - done);
}

/* The bytes that a token spells in the byte-level alphabet; the token itself where it has other
 * characters. */
static bool put_spelt_bytes(struct buffer *out, const char *text, size_t size)
{
    size_t before = out->size;
    for (size_t i = 0; i < size;) {
        uint32_t code = 0;
        size_t n = utf8_decode(text + i, size - i, &code);
        int byte = n ? byte_level_byte(code) : -1;
        if (byte < 0) {
            out->size = before;
            return buffer_append(out, text, size);
        }
        char c = (char)byte;
        if (!buffer_append(out, &c, 1))
            return false;
        i += n;
    }
    return true;
}

static bool decode_byte_level(const struct pieces *in, struct pieces *out)
{
    struct buffer bytes;
    buffer_init(&bytes, TOKENIZER_WORK_BYTES_MAX);
    bool ok = true;
    for (size_t i = 0; i < in->n && ok; i++)
        ok = put_spelt_bytes(&bytes, in->text.data + in->items[i].start, in->items[i].size);
    ok = ok && append_lossy(&out->text, bytes.data ? bytes.data : "", bytes.size) &&
         pieces_add(out, (struct piece){0, out->text.size, -1, false});
    buffer_release(&bytes);
    return ok;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool flush_bytes(struct buffer *bytes, struct pieces *out)
{
    bool ok = true;
    if (bytes->size && utf8_valid(bytes->data, bytes->size))
        ok = pieces_copy(out, bytes->data, bytes->size, -1, false);
    else
        for (size_t i = 0; i < bytes->size && ok; i++)
            ok = pieces_copy(out, replacement_character, 3, -1, false);
    bytes->size = 0;
    return ok;
}

static bool decode_byte_fallback(const struct pieces *in, struct pieces *out)
{
    struct buffer bytes;
    buffer_init(&bytes, TOKENIZER_WORK_BYTES_MAX);
    bool ok = true;
    for (size_t i = 0; i < in->n && ok; i++) {
        const char *text = in->text.data + in->items[i].start;
        size_t size = in->items[i].size;
        if (size == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' && hex_digit(text[3]) >= 0 &&
            hex_digit(text[4]) >= 0) {
            char byte = (char)(hex_digit(text[3]) * 16 + hex_digit(text[4]));
            ok = buffer_append(&bytes, &byte, 1);
        } else {
            ok = flush_bytes(&bytes, out) && pieces_copy(out, text, size, -1, false);
        }
    }
    ok = ok && flush_bytes(&bytes, out);
    buffer_release(&bytes);
    return ok;
}

static bool decode_wordpiece(const struct decoder *stage, const char *text, size_t size,
                             size_t position, struct buffer *out)
{
    size_t from = out->size;
    bool ok = true;
    if (position > 0) {
        if (size >= stage->content.size &&
            (stage->content.size == 0 ||
             memcmp(text, stage->content.data, stage->content.size) == 0)) {
            text += stage->content.size;
            size -= stage->content.size;
        } else {
            ok = buffer_append(out, " ", 1);
        }
    }
    ok = ok && buffer_append(out, text, size);
    /* All that the clean-up touches starts with a space. */
    return ok && (!stage->cleanup || !memchr(out->data + from, ' ', out->size - from) ||
                  clean_up_text(out, from, true));
}

static bool decode_metaspace(const struct decoder *stage, const char *text, size_t size,
                             size_t position, struct buffer *out)
{
    struct str mark = stage->replacement;
    const char *to = position == 0 && stage->scheme != PREPEND_NEVER ? "" : " ";
    for (size_t at = 0; at <= size;) {
        const char *found = at < size ? memmem(text + at, size - at, mark.data, mark.size) : NULL;
        size_t n = found ? (size_t)(found - (text + at)) : size - at;
        if (!buffer_append(out, text + at, n) || (found && !buffer_puts(out, to)))
            return false;
        if (!found)
            break;
        at += n + mark.size;
    }
    return true;
}

static bool decode_strip(const struct decoder *stage, const char *text, size_t size,
                         struct buffer *out)
{
    struct str c = stage->content;
    for (size_t i = 0; i < stage->start && size >= c.size && memcmp(text, c.data, c.size) == 0;
         i++) {
        text += c.size;
        size -= c.size;
    }
    for (size_t i = 0;
         i < stage->stop && size >= c.size && memcmp(text + size - c.size, c.data, c.size) == 0;
         i++)
        size -= c.size;
    return buffer_append(out, text, size);
}

static bool decode_replace(const struct pattern *pattern, struct str content, const char *text,
                           size_t size, struct buffer *out, bool *gave_up)
{
    struct matcher matcher;
    if (!matcher_init(&matcher, pattern, text, size))
        return false;
    size_t last = 0, start, end;
    int found;
    bool ok = true;
    while (ok && (found = matcher_next(&matcher, &start, &end)) > 0) {
        ok = buffer_append(out, text + last, start - last) &&
             buffer_append(out, content.data, content.size);
        last = end;
    }
    *gave_up = ok && found < 0;
    ok = ok && buffer_append(out, text + last, size - last);
    matcher_release(&matcher);
    return ok;
}

enum status decode_stage(const struct decoder *stage, const struct pieces *in, struct pieces *out,
                         struct error *err)
{
    pieces_clear(out);
    bool ok = true, gave_up = false;
    if (stage->kind == DECODER_BYTE_LEVEL) {
        ok = decode_byte_level(in, out);
    } else if (stage->kind == DECODER_BYTE_FALLBACK) {
        ok = decode_byte_fallback(in, out);
    } else if (stage->kind == DECODER_FUSE) {
        for (size_t i = 0; i < in->n && ok; i++)
            ok = buffer_append(&out->text, in->text.data + in->items[i].start, in->items[i].size);
        ok = ok && pieces_add(out, (struct piece){0, out->text.size, -1, false});
    } else {
        for (size_t i = 0; i < in->n && ok && !gave_up; i++) {
            const char *text = in->text.data + in->items[i].start;
            size_t size = in->items[i].size, start = out->text.size;
            if (stage->kind == DECODER_WORDPIECE)
                ok = decode_wordpiece(stage, text, size, i, &out->text);
            else if (stage->kind == DECODER_METASPACE)
                ok = decode_metaspace(stage, text, size, i, &out->text);
            else if (stage->kind == DECODER_STRIP)
                ok = decode_strip(stage, text, size, &out->text);
            else if (stage->kind == DECODER_BPE)
                ok = decode_replace(&stage->pattern,
                                    i + 1 == in->n ? (struct str){"", 0} : (struct str){" ", 1},
                                    text, size, &out->text, &gave_up);
            else
                ok = decode_replace(&stage->pattern, stage->content, text, size, &out->text,
                                    &gave_up);
            ok = ok && pieces_add(out, (struct piece){start, out->text.size - start, -1, false});
        }
    }
    if (!ok)
        return text_no_room(err, &out->text);
    if (gave_up)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the tokenizer's Replace decoder takes too long on these tokens");
    return STATUS_OK;
}
