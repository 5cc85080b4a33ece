/*
 * load_model.c: the model of a tokenizer.json: its vocabulary, merges or scores. Every id is below
 * TOKENIZER_IDS_MAX and has one token.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/text/text_internal.h"

static bool no_memory(struct json_reader *r)
{
    error_no_memory(r->err, r->file);
    return false;
}

/* {"token": id, …} */
static bool load_vocab_object(struct json_reader *r, const json_t *object, struct vocab *vocab)
{
    if (!json_is_object(object))
        return json_fault(r, "model", "'vocab' must be an object");
    json_t *map = (json_t *)object; /* jansson iterates without const; nothing is changed */
    size_t n_ids = 0, n_bytes = 0;
    for (void *it = json_object_iter(map); it; it = json_object_iter_next(map, it)) {
        const char *token = json_object_iter_key(it);
        const json_t *value = json_object_iter_value(it);
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= TOKENIZER_IDS_MAX)
            return json_fault(r, "model",
                              "the id of token '%.64s' must be a whole number from 0 "
                              "to %d",
                              token, TOKENIZER_IDS_MAX - 1);
        if ((size_t)id >= n_ids)
            n_ids = (size_t)id + 1;
        n_bytes += strlen(token);
    }
    char *bytes = arena_alloc(r->arena, n_bytes);
    if (!bytes || !vocab_init(vocab, r->arena, n_ids, json_object_size(map)))
        return no_memory(r);
    for (void *it = json_object_iter(map); it; it = json_object_iter_next(map, it)) {
        const char *token = json_object_iter_key(it);
        size_t size = strlen(token);
        uint32_t id = (uint32_t)json_integer_value(json_object_iter_value(it));
        if (vocab->by_id[id].data)
            return json_fault(r, "model", "tokens '%.64s' and '%.*s' have the same id %u", token,
                              (int)(vocab->by_id[id].size < 64 ? vocab->by_id[id].size : 64),
                              vocab->by_id[id].data, (unsigned)id);
        memcpy(bytes, token, size);
        vocab_put(vocab, (struct str){bytes, size}, id);
        bytes += size;
    }
    return true;
}

/* The two sides of a merge: ["a", "b"] or "a b". */
static bool merge_sides(const json_t *item, struct str sides[2])
{
    if (json_is_array(item)) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *side = json_array_get(item, i);
            if (!json_is_string(side))
                return false;
            sides[i] = (struct str){json_string_value(side), json_string_length(side)};
        }
        return json_array_size(item) == 2;
    }
    const char *text = json_string_value(item);
    if (!text)
        return false;
    size_t size = json_string_length(item);
    const char *space = memchr(text, ' ', size);
    if (!space)
        return false;
    size_t left = (size_t)(space - text);
    sides[0] = (struct str){text, left};
    sides[1] = (struct str){space + 1, size - left - 1};
    return !memchr(sides[1].data, ' ', sides[1].size);
}

static void put_merge(struct model *model, uint32_t left, uint32_t right, uint32_t rank,
                      uint32_t id)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    size_t slot = merge_slot(pair, model->n_merge_slots);
    while (model->merges[slot].pair != UINT64_MAX && model->merges[slot].pair != pair)
        slot = (slot + 1) & (model->n_merge_slots - 1);
    model->merges[slot] = (struct merge){pair, rank, id}; /* of two the last counts */
}

static bool load_merges(struct json_reader *r, const json_t *list, struct model *model)
{
    if (!json_is_array(list))
        return json_fault(r, "model", "'merges' must be a list");
    size_t n = json_array_size(list);
    model->n_merge_slots = 16;
    while (model->n_merge_slots < 2 * n)
        model->n_merge_slots *= 2;
    model->merges = arena_array(r->arena, model->n_merge_slots, sizeof *model->merges);
    if (!model->merges)
        return no_memory(r);
    for (size_t i = 0; i < model->n_merge_slots; i++)
        model->merges[i].pair = UINT64_MAX;
    struct buffer joined;
    buffer_init(&joined, TOKENIZER_FILE_BYTES_MAX);
    bool ok = true;
    uint32_t rank = 0;
    for (size_t i = 0; i < n && ok; i++) {
        const json_t *item = json_array_get(list, i);
        struct str sides[2];
        if (json_is_string(item) && strncmp(json_string_value(item), "#version", 8) == 0)
            continue;
        if (!merge_sides(item, sides)) {
            ok = json_fault(r, "model", "merge %zu must be two tokens", i);
            break;
        }
        int64_t left = vocab_id(&model->vocab, sides[0].data, sides[0].size);
        int64_t right = vocab_id(&model->vocab, sides[1].data, sides[1].size);
        size_t cut = model->prefix.size;
        joined.size = 0;
        if (left < 0 || right < 0 || sides[1].size < cut) {
            ok = json_fault(r, "model", "merge %zu: token '%.64s' is not in the vocabulary", i,
                            left < 0 ? sides[0].data : sides[1].data);
        } else if (!buffer_append(&joined, sides[0].data, sides[0].size) ||
                   !buffer_append(&joined, sides[1].data + cut, sides[1].size - cut)) {
            ok = no_memory(r);
        } else {
            int64_t id = vocab_id(&model->vocab, joined.data, joined.size);
            if (id < 0)
                ok = json_fault(r, "model", "merge %zu: token '%.64s' is not in the vocabulary", i,
                                joined.data);
            else
                put_merge(model, (uint32_t)left, (uint32_t)right, rank++, (uint32_t)id);
        }
    }
    buffer_release(&joined);
    return ok;
}

static void find_byte_ids(struct model *model)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        model->byte_ids[byte] = vocab_id(&model->vocab, name, 6);
    }
}

/* Indexes all tokens of the vocabulary. */
static bool index_vocab(struct json_reader *r, struct model *model)
{
    struct prefix_entry *entries = arena_array(r->arena, model->vocab.n_ids, sizeof *entries);
    if (!entries)
        return no_memory(r);
    size_t n = 0;
    for (size_t id = 0; id < model->vocab.n_ids; id++)
        if (model->vocab.by_id[id].data)
            entries[n++] = (struct prefix_entry){model->vocab.by_id[id], (uint32_t)id};
    prefix_index_init(&model->index, entries, n);
    return true;
}

static bool load_bpe(struct json_reader *r, const json_t *node, struct model *model)
{
    struct str unk;
    if (!json_get_string(r, node, "model", "unk_token", false, &unk) ||
        !json_get_string(r, node, "model", "continuing_subword_prefix", false, &model->prefix) ||
        !json_get_string(r, node, "model", "end_of_word_suffix", false, &model->suffix) ||
        !json_get_bool(r, node, "model", "fuse_unk", 0, &model->fuse_unk) ||
        !json_get_bool(r, node, "model", "byte_fallback", 0, &model->byte_fallback) ||
        !json_get_bool(r, node, "model", "ignore_merges", 0, &model->ignore_merges) ||
        !load_vocab_object(r, json_object_get(node, "vocab"), &model->vocab) ||
        !load_merges(r, json_object_get(node, "merges"), model))
        return false;
    if (model->prefix.size > 64 || model->suffix.size > 64)
        return json_fault(r, "model", "a subword prefix or suffix is longer than 64 bytes");
    model->has_unk_token = unk.data != NULL;
    model->unk_id = unk.data ? vocab_id(&model->vocab, unk.data, unk.size) : -1;
    find_byte_ids(model);
    return true;
}

static bool load_wordpiece(struct json_reader *r, const json_t *node, struct model *model)
{
    struct str unk;
    if (!json_get_string(r, node, "model", "unk_token", true, &unk) ||
        !json_get_string(r, node, "model", "continuing_subword_prefix", true, &model->prefix) ||
        !json_get_size(r, node, "model", "max_input_chars_per_word", SIZE_MAX / 4,
                       &model->max_word_chars) ||
        !load_vocab_object(r, json_object_get(node, "vocab"), &model->vocab))
        return false;
    model->unk_id = vocab_id(&model->vocab, unk.data, unk.size);
    return index_vocab(r, model);
}

static bool load_wordlevel(struct json_reader *r, const json_t *node, struct model *model)
{
    struct str unk;
    if (!json_get_string(r, node, "model", "unk_token", true, &unk) ||
        !load_vocab_object(r, json_object_get(node, "vocab"), &model->vocab))
        return false;
    model->unk_id = vocab_id(&model->vocab, unk.data, unk.size);
    return true;
}

/* [["token", score], …], the id is the place. */
static bool load_unigram(struct json_reader *r, const json_t *node, struct model *model)
{
    const json_t *list = json_object_get(node, "vocab");
    const json_t *unk = json_object_get(node, "unk_id");
    if (!json_is_array(list))
        return json_fault(r, "model", "'vocab' must be a list");
    size_t n = json_array_size(list);
    if (n == 0 || n > TOKENIZER_IDS_MAX)
        return json_fault(r, "model", "'vocab' must have 1 to %d tokens", TOKENIZER_IDS_MAX);
    model->unk_id = -1;
    if (unk && !json_is_null(unk)) {
        size_t id;
        if (!json_get_size(r, node, "model", "unk_id", n - 1, &id))
            return false;
        model->unk_id = (int64_t)id;
    }
    double *scores = arena_array(r->arena, n, sizeof *scores);
    size_t n_bytes = 0;
    for (size_t i = 0; i < n; i++)
        n_bytes += json_string_length(json_array_get(json_array_get(list, i), 0));
    char *bytes = arena_alloc(r->arena, n_bytes);
    if (!scores || !bytes || !vocab_init(&model->vocab, r->arena, n, n))
        return no_memory(r);
    double lowest = INFINITY;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *token = json_array_get(item, 0), *score = json_array_get(item, 1);
        if (json_array_size(item) != 2 || !json_is_string(token) || !json_is_number(score))
            return json_fault(r, "model", "entry %zu of 'vocab' must be [token, score]", i);
        size_t size = json_string_length(token);
        memcpy(bytes, json_string_value(token), size);
        vocab_put(&model->vocab, (struct str){bytes, size}, (uint32_t)i);
        bytes += size;
        scores[i] = json_number_value(score);
        if (scores[i] < lowest)
            lowest = scores[i];
    }
    model->scores = scores;
    model->unk_score = lowest - 10;
    find_byte_ids(model);
    return json_get_bool(r, node, "model", "byte_fallback", 0, &model->byte_fallback) &&
           index_vocab(r, model);
}

bool load_model(struct tokenizer *t, struct json_reader *r, const json_t *node)
{
    if (!json_is_object(node))
        return json_fault(r, "model", "must be an object");
    const json_t *type = json_object_get(node, "type");
    const char *name = json_string_value(type);
    if (!type) /* files older than the field */
        name = json_object_get(node, "merges")                      ? "BPE"
               : json_object_get(node, "continuing_subword_prefix") ? "WordPiece"
               : json_is_array(json_object_get(node, "vocab"))      ? "Unigram"
                                                                    : "WordLevel";
    struct model *model = &t->model;
    if (name && strcmp(name, "BPE") == 0) {
        model->kind = MODEL_BPE;
        return load_bpe(r, node, model);
    }
    if (name && strcmp(name, "WordPiece") == 0) {
        model->kind = MODEL_WORDPIECE;
        return load_wordpiece(r, node, model);
    }
    if (name && strcmp(name, "WordLevel") == 0) {
        model->kind = MODEL_WORDLEVEL;
        return load_wordlevel(r, node, model);
    }
    if (name && strcmp(name, "Unigram") == 0) {
        model->kind = MODEL_UNIGRAM;
        return load_unigram(r, node, model);
    }
    return json_fault(r, "model", "'type' must be BPE, WordPiece, Unigram or WordLevel");
}
