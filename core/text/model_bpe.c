/*
 * model_bpe.c: byte-pair encoding (Sennrich et al., arXiv:1508.07909) as `tokenizers` runs it: all
 * possible merges wait in a heap ordered by rank, then position, so that a word of n symbols takes
 * n log n steps. Scratch belongs to the caller's call.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"

struct symbol {
    uint32_t id;
    int32_t previous, next; /* -1 at the ends */
    bool gone;
};

struct candidate { /* symbol `at` merged with its next */
    uint32_t rank, at, id;
};

struct heap {
    struct candidate *items;
    size_t n;
};

size_t merge_slot(uint64_t pair, size_t n_slots)
{
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    return (size_t)(hash ^ hash >> 32) & (n_slots - 1);
}

const struct merge *model_merge(const struct model *model, uint32_t left, uint32_t right)
{
    if (model->n_merge_slots == 0)
        return NULL;
    uint64_t pair = (uint64_t)left << 32 | right;
    size_t slot = merge_slot(pair, model->n_merge_slots);
    while (model->merges[slot].pair != UINT64_MAX) {
        if (model->merges[slot].pair == pair)
            return &model->merges[slot];
        slot = (slot + 1) & (model->n_merge_slots - 1);
    }
    return NULL;
}

static bool before(struct candidate a, struct candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(struct heap *heap, struct candidate item)
{
    size_t i = heap->n++;
    while (i > 0 && before(item, heap->items[(i - 1) / 2])) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
}

static struct candidate heap_pop(struct heap *heap)
{
    struct candidate top = heap->items[0], last = heap->items[--heap->n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= heap->n)
            break;
        if (child + 1 < heap->n && before(heap->items[child + 1], heap->items[child]))
            child++;
        if (!before(heap->items[child], last))
            break;
        heap->items[i] = heap->items[child];
        i = child;
    }
    if (heap->n)
        heap->items[i] = last;
    return top;
}

static void try_pair(const struct model *model, const struct symbol *symbols, int32_t left,
                     struct heap *heap)
{
    if (left < 0 || symbols[left].next < 0)
        return;
    const struct merge *merge =
        model_merge(model, symbols[left].id, symbols[symbols[left].next].id);
    if (merge)
        heap_push(heap, (struct candidate){merge->rank, (uint32_t)left, merge->id});
}

static void merge_all(const struct model *model, struct symbol *symbols, size_t n,
                      struct heap *heap)
{
    for (size_t i = 0; i + 1 < n; i++)
        try_pair(model, symbols, (int32_t)i, heap);
    while (heap->n) {
        struct candidate top = heap_pop(heap);
        struct symbol *left = &symbols[top.at];
        if (left->gone || left->next < 0)
            continue;
        struct symbol *right = &symbols[left->next];
        const struct merge *merge = model_merge(model, left->id, right->id);
        if (!merge || merge->id != top.id)
            continue; /* one of the two has changed since */
        left->id = top.id;
        right->gone = true;
        left->next = right->next;
        if (right->next >= 0)
            symbols[right->next].previous = (int32_t)top.at;
        try_pair(model, symbols, left->previous, heap);
        try_pair(model, symbols, (int32_t)top.at, heap);
    }
}

/* The symbols of a word: one per character (or per byte of an unknown one). Kept as the reference
 * does it down to one oddity: bytes from byte_fallback overtake an unknown that waits to be fused.
 * symbols has room for one per byte of the word and of the suffix. */
static enum status split_symbols(const struct model *model, const char *word, size_t size,
                                 struct buffer *text, struct symbol *symbols, size_t room,
                                 size_t *count, struct error *err)
{
    size_t n = 0;
    bool unknown = false; /* one waits */
    for (size_t i = 0; i < size;) {
        uint32_t code;
        size_t length = utf8_decode(word + i, size - i, &code);
        length = length ? length : 1;
        const char *key = word + i;
        size_t key_size = length;
        bool prefixed = i > 0 && model->prefix.size,
             suffixed = i + length == size && model->suffix.size;
        if (prefixed || suffixed) {
            text->size = 0;
            if ((prefixed && !buffer_append(text, model->prefix.data, model->prefix.size)) ||
                !buffer_append(text, word + i, length) ||
                (suffixed && !buffer_append(text, model->suffix.data, model->suffix.size)))
                return error_no_memory(err, "a word");
            key = text->data;
            key_size = text->size;
        }
        i += length;
        int64_t id = vocab_id(&model->vocab, key, key_size);
        if (id >= 0) {
            if (unknown)
                symbols[n++].id = (uint32_t)model->unk_id;
            unknown = false;
            symbols[n++].id = (uint32_t)id;
            continue;
        }
        if (model->byte_fallback) {
            bool all = true;
            for (size_t k = 0; k < key_size && all; k++)
                all = model->byte_ids[(unsigned char)key[k]] >= 0;
            if (all && n + key_size + 1 <= room) {
                for (size_t k = 0; k < key_size; k++)
                    symbols[n++].id = (uint32_t)model->byte_ids[(unsigned char)key[k]];
                continue;
            }
        }
        if (!model->has_unk_token)
            continue; /* the character vanishes */
        if (model->unk_id < 0)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "the text has a character that the tokenizer's vocabulary lacks, "
                             "and it has no token for the unknown");
        if (unknown && !model->fuse_unk)
            symbols[n++].id = (uint32_t)model->unk_id;
        unknown = true;
    }
    if (unknown)
        symbols[n++].id = (uint32_t)model->unk_id;
    *count = n;
    return STATUS_OK;
}

enum status model_bpe(const struct model *model, const char *word, size_t size,
                      struct model_scratch *scratch, struct id_list *out, struct error *err)
{
    if (model->ignore_merges) {
        int64_t id = vocab_id(&model->vocab, word, size);
        if (id >= 0)
            return id_list_add(out, (int32_t)id) ? STATUS_OK : error_no_memory(err, "token ids");
    }
    /* Symbols, one per character or byte, then the heap: a candidate per pair at the start, and
     * every merge takes one away and adds two at most. */
    size_t room = size + 1;
    if (!model->byte_fallback) {
        room = 1;
        for (size_t i = 0; i < size; i++)
            room += ((unsigned char)word[i] & 0xC0) != 0x80;
    } else if (model->prefix.size || model->suffix.size) {
        room = size * (1 + model->prefix.size) + model->suffix.size + 1;
    }
    size_t each = sizeof(struct symbol) + 2 * sizeof(struct candidate);
    struct symbol *symbols = model_scratch_get(scratch, room, each);
    if (!symbols)
        return error_no_memory(err, "a word");
    struct heap heap = {.items = (struct candidate *)(symbols + room)};
    size_t n = 0;
    enum status status = split_symbols(model, word, size, &scratch->text, symbols, room, &n, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++) {
        symbols[i].previous = (int32_t)i - 1;
        symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
        symbols[i].gone = false;
    }
    merge_all(model, symbols, n, &heap);
    for (size_t i = 0; i < n; i++)
        if (!symbols[i].gone && !id_list_add(out, (int32_t)symbols[i].id))
            return error_no_memory(err, "token ids");
    return STATUS_OK;
}
