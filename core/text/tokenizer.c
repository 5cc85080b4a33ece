/*
 * tokenizer.c: opening, encoding and decoding: the order of the stages (see text_internal.h).
 * A tokenizer is read-only after opening; each call owns its scratch, so any thread may call.
 */
#include "core/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

struct tokenizer *tokenizer_open(const char *directory, struct error *err)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        error_no_memory(err, "a tokenizer");
        return NULL;
    }
    arena_init(&tokenizer->arena, 0);
    tokenizer->model_max_length = SIZE_MAX;
    if (tokenizer_load_directory(tokenizer, directory, err)) {
        tokenizer_free(tokenizer);
        return NULL;
    }
    return tokenizer;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->n_regexes; i++)
        regex_free(tokenizer->regexes[i]);
    free(tokenizer->regexes);
    arena_release(&tokenizer->arena);
    free(tokenizer);
}

/* Raw text to pieces: added tokens, normalizers, added tokens again. */
static enum status prepare(const struct tokenizer *t, const char *text, size_t size,
                           struct pieces *raw, struct pieces *out, struct error *err)
{
    enum status status = added_tokens_split(t, false, text, size, true, raw, err);
    struct buffer normalized, spare;
    buffer_init(&normalized, TOKENIZER_WORK_BYTES_MAX);
    buffer_init(&spare, TOKENIZER_WORK_BYTES_MAX);
    for (size_t i = 0; i < raw->n && !status; i++) {
        struct piece piece = raw->items[i];
        const char *data = raw->text.data + piece.start;
        if (piece.id >= 0) {
            if (!pieces_copy(out, data, piece.size, piece.id, piece.first))
                status = text_no_room(err, &out->text);
            continue;
        }
        bool first = piece.first;
        if (t->n_normalizers) {
            status = normalize(t, data, piece.size, &normalized, &spare, &first, err);
            if (!status)
                status =
                    added_tokens_split(t, true, normalized.data, normalized.size, first, out, err);
        } else {
            status = added_tokens_split(t, true, data, piece.size, first, out, err);
        }
    }
    buffer_release(&normalized);
    buffer_release(&spare);
    return status;
}

static enum status run_model(const struct model *model, const char *word, size_t size,
                             struct model_scratch *scratch, struct id_list *out, struct error *err)
{
    switch (model->kind) {
    case MODEL_BPE:
        return model_bpe(model, word, size, scratch, out, err);
    case MODEL_WORDPIECE:
        return model_wordpiece(model, word, size, scratch, out, err);
    case MODEL_WORDLEVEL:
        return model_wordlevel(model, word, size, scratch, out, err);
    case MODEL_UNIGRAM:
        break;
    }
    return model_unigram(model, word, size, scratch, out, err);
}

/* All pieces to ids; stops once more than `room` are there. */
static enum status tokenize(const struct tokenizer *t, const struct pieces *pieces, size_t room,
                            struct id_list *out, struct error *err)
{
    struct model_scratch scratch = {0};
    buffer_init(&scratch.text, TOKENIZER_WORK_BYTES_MAX);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < pieces->n && !status && out->n <= room; i++) {
        struct piece piece = pieces->items[i];
        if (piece.id >= 0)
            status = id_list_add(out, piece.id) ? STATUS_OK : error_no_memory(err, "token ids");
        else if (piece.size)
            status = run_model(&t->model, pieces->text.data + piece.start, piece.size, &scratch,
                               out, err);
    }
    model_scratch_release(&scratch);
    return status;
}

/* The ids between the special tokens. */
static enum status encode_text(const struct tokenizer *t, const char *text, size_t size,
                               size_t room, struct id_list *out, struct error *err)
{
    struct pieces a, b;
    pieces_init(&a);
    pieces_init(&b);
    enum status status = prepare(t, text, size, &a, &b, err);
    struct pieces *from = &b, *to = &a;
    for (size_t i = 0; i < t->n_pretokenizers && !status; i++) {
        status = pretokenize(&t->pretokenizers[i], from, to, err);
        struct pieces *swap = from;
        from = to;
        to = swap;
    }
    if (!status)
        status = tokenize(t, from, room, out, err);
    pieces_release(&a);
    pieces_release(&b);
    return status;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t size,
                             const struct encode_options *options, struct tokens *out,
                             struct error *err)
{
    if (size > TOKENIZER_TEXT_BYTES_MAX)
        return error_set(err, STATUS_TOO_LONG, "the text has %zu bytes, at most %d are allowed",
                         size, TOKENIZER_TEXT_BYTES_MAX);
    if (!utf8_valid(text, size))
        return error_set(err, STATUS_BAD_REQUEST, "the text is not valid UTF-8");
    size_t n_prefix = options->add_special_tokens ? t->n_prefix_ids : 0;
    size_t n_suffix = options->add_special_tokens ? t->n_suffix_ids : 0;
    size_t room = SIZE_MAX;
    if (options->max_length) {
        if (options->max_length < n_prefix + n_suffix)
            return error_set(err, STATUS_OUT_OF_RANGE,
                             "a length of %zu tokens leaves no room for the %zu special ones",
                             options->max_length, n_prefix + n_suffix);
        room = options->max_length - n_prefix - n_suffix;
    }
    struct id_list body = {0};
    enum status status = encode_text(t, text, size, room, &body, err);
    int32_t *ids = NULL;
    size_t n_body = body.n < room ? body.n : room, n = n_prefix + n_body + n_suffix;
    if (!status && !(ids = alloc_array(n, sizeof *ids)))
        status = error_no_memory(err, "token ids");
    if (!status) {
        if (n_prefix)
            memcpy(ids, t->prefix_ids, n_prefix * sizeof *ids);
        if (n_body)
            memcpy(ids + n_prefix, body.ids, n_body * sizeof *ids);
        if (n_suffix)
            memcpy(ids + n_prefix + n_body, t->suffix_ids, n_suffix * sizeof *ids);
        *out = (struct tokens){ids, n, body.n > room};
    }
    free(body.ids);
    return status;
}

void tokens_release(struct tokens *tokens)
{
    free(tokens->ids);
    *tokens = (struct tokens){0};
}

static const struct added_token *added_by_id(const struct tokenizer *t, int32_t id)
{
    if (id < 0 || (size_t)id >= t->added_ids_end || !t->added_by_id[id])
        return NULL;
    return &t->added[t->added_by_id[id] - 1];
}

/* CLIPTokenizer's decode: the end-of-word mark is a space, then Python's strip(). */
static bool finish_clip(struct buffer *text)
{
    struct buffer next;
    buffer_init(&next, TOKENIZER_WORK_BYTES_MAX);
    bool ok = replace_all(&next, text->data ? text->data : "", text->size, "</w>", " ");
    size_t start = 0, end = next.size;
    while (ok && start < end) {
        uint32_t code;
        size_t n = utf8_decode(next.data + start, end - start, &code);
        if (!n || !(unicode_set_has(&unicode_whitespace, code) || (code >= 0x1C && code <= 0x1F)))
            break;
        start += n;
    }
    while (ok && end > start) {
        size_t at = end - 1;
        while (at > start && ((unsigned char)next.data[at] & 0xC0) == 0x80)
            at--;
        uint32_t code;
        size_t n = utf8_decode(next.data + at, end - at, &code);
        if (!n || !(unicode_set_has(&unicode_whitespace, code) || (code >= 0x1C && code <= 0x1F)))
            break;
        end = at;
    }
    text->size = 0;
    ok = ok && buffer_append(text, next.data + start, end - start);
    buffer_release(&next);
    return ok;
}

/* Ids to token strings. */
static bool look_up(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                    struct pieces *out)
{
    for (size_t i = 0; i < n; i++) {
        const struct added_token *added = added_by_id(t, ids[i]);
        struct str token = {NULL, 0};
        if (added)
            token = added->shown;
        else if (ids[i] >= 0 && (size_t)ids[i] < t->model.vocab.n_ids)
            token = t->model.vocab.by_id[ids[i]];
        if (!token.data || (added && skip_special && added->skipped))
            continue;
        if (!pieces_copy(out, token.data, token.size, -1, false))
            return false;
    }
    return true;
}

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n,
                             bool skip_special_tokens, struct buffer *out, struct error *err)
{
    struct pieces a, b;
    struct buffer text;
    pieces_init(&a);
    pieces_init(&b);
    buffer_init(&text, TOKENIZER_WORK_BYTES_MAX);
    struct pieces *from = &a, *to = &b;
    enum status status = STATUS_OK;
    if (!look_up(t, ids, n, skip_special_tokens, &a))
        status = text_no_room(err, &a.text);
    for (size_t i = 0; i < t->n_decoders && !status; i++) {
        status = decode_stage(&t->decoders[i], from, to, err);
        struct pieces *swap = from;
        from = to;
        to = swap;
    }
    bool ok = true;
    for (size_t i = 0; i < from->n && !status && ok; i++)
        ok = (i == 0 || t->has_decoder || buffer_append(&text, " ", 1)) &&
             buffer_append(&text, from->text.data + from->items[i].start, from->items[i].size);
    if (!status && ok && t->clip_decode)
        ok = finish_clip(&text);
    if (!status && ok && t->clean_up && text.size)
        ok = clean_up_text(&text, 0, false);
    if (!status && !ok)
        status = text_no_room(err, &text);
    if (!status && !buffer_append(out, text.data ? text.data : "", text.size))
        status = text_no_room(err, out);
    buffer_release(&text);
    pieces_release(&a);
    pieces_release(&b);
    return status;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
    int64_t index = vocab_id(&t->added_vocab, token, strlen(token));
    if (index >= 0)
        return (int32_t)t->added[index].id;
    return (int32_t)vocab_id(&t->model.vocab, token, strlen(token));
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct added_token *added = added_by_id(t, id);
    return added && added->special;
}

size_t tokenizer_vocab_size(const struct tokenizer *t)
{
    size_t n = t->model.kind == MODEL_UNIGRAM ? t->model.vocab.n_ids : t->model.vocab.n_tokens;
    for (size_t i = 0; i < t->n_added; i++)
        n += vocab_id(&t->model.vocab, t->added[i].content.data, t->added[i].content.size) < 0;
    return n;
}

size_t tokenizer_model_max_length(const struct tokenizer *t)
{
    return t->model_max_length;
}
