/*
 * added_tokens.c: finds the tokens that were added to a vocabulary in a text, before the model sees
 * it: the leftmost, and of those the longest. Tokens marked `normalized` are looked for (in their
 * normalized form) behind the normalizer, the others before it.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

/* The code point that ends at text[end), and where it starts. */
static uint32_t code_before(const char *text, size_t end, size_t *start)
{
    size_t at = end - 1;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    uint32_t code = 0;
    utf8_decode(text + at, end - at, &code);
    *start = at;
    return code;
}

static bool word_around(const char *text, size_t size, size_t start, size_t end)
{
    size_t at;
    uint32_t code;
    if (start > 0 && unicode_set_has(&unicode_word, code_before(text, start, &at)))
        return true;
    return end < size && utf8_decode(text + end, size - end, &code) &&
           unicode_set_has(&unicode_word, code);
}

enum status added_tokens_split(const struct tokenizer *tokenizer, bool normalized, const char *text,
                               size_t size, bool first, struct pieces *out, struct error *err)
{
    const struct prefix_index *index =
        normalized ? &tokenizer->normalized_index : &tokenizer->raw_index;
    size_t done = 0; /* text[0..done) is in *out */
    for (size_t i = 0; i < size && index->n;) {
        const struct prefix_entry *found = NULL;
        struct prefix_cursor cursor = {0};
        for (size_t k = i; k < size && prefix_step(index, &cursor, (unsigned char)text[k]); k++) {
            const struct prefix_entry *entry = prefix_end(index, &cursor);
            if (entry)
                found = entry;
        }
        if (!found) {
            i++;
            continue;
        }
        const struct added_token *token = &tokenizer->added[found->value];
        size_t start = i, end = i + found->string.size;
        i = end;
        if (token->single_word && word_around(text, size, start, end))
            continue;
        /* The match before this one may have reached (by rstrip) into it. */
        if (token->lstrip) {
            size_t before = start, at;
            while (before > 0 &&
                   unicode_set_has(&unicode_whitespace, code_before(text, before, &at)) &&
                   before > done)
                before = at;
            start = before;
            if (start < done)
                start = done;
        }
        if (token->rstrip) {
            uint32_t code;
            size_t n;
            while (end < size && (n = utf8_decode(text + end, size - end, &code)) &&
                   unicode_set_has(&unicode_whitespace, code))
                end += n;
        }
        if (done < start && !pieces_copy(out, text + done, start - done, -1, first && done == 0))
            return text_no_room(err, &out->text);
        if (start < end &&
            !pieces_copy(out, text + start, end - start, (int32_t)token->id, first && start == 0))
            return text_no_room(err, &out->text);
        if (end > done)
            done = end;
    }
    if (done < size && !pieces_copy(out, text + done, size - done, -1, first && done == 0))
        return text_no_room(err, &out->text);
    return STATUS_OK;
}
