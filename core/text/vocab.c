/*
 * vocab.c: tokens and ids (an open-addressing table with linear probing), and the sorted prefix
 * index that WordPiece, Unigram and the added tokens walk. Built while loading, read-only after.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/text_internal.h"

static uint64_t hash_bytes(const char *data, size_t size)
{
    uint64_t hash = 0x9E3779B97F4A7C15u ^ size;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
        data += 8;
        size -= 8;
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < size; i++)
        rest |= (uint64_t)(unsigned char)data[i] << (8 * i);
    hash = (hash ^ rest) * 0xD6E8FEB86659FD93u;
    return hash ^ hash >> 32;
}

bool vocab_init(struct vocab *vocab, struct arena *arena, size_t n_ids, size_t n_tokens)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n_tokens)
        n_slots *= 2;
    *vocab = (struct vocab){
        .by_id = arena_zalloc(arena, n_ids, sizeof(struct str)),
        .n_ids = n_ids,
        .slots = arena_zalloc(arena, n_slots, sizeof(uint32_t)),
        .n_slots = n_slots,
    };
    return vocab->by_id && vocab->slots;
}

void vocab_put(struct vocab *vocab, struct str token, uint32_t id)
{
    size_t slot = hash_bytes(token.data, token.size) & (vocab->n_slots - 1);
    while (vocab->slots[slot]) {
        struct str other = vocab->by_id[vocab->slots[slot] - 1];
        if (str_is(other, token.data, token.size))
            break;
        slot = (slot + 1) & (vocab->n_slots - 1);
    }
    if (!vocab->slots[slot])
        vocab->n_tokens++;
    vocab->by_id[id] = token;
    vocab->slots[slot] = id + 1;
}

int64_t vocab_id(const struct vocab *vocab, const char *token, size_t size)
{
    if (vocab->n_slots == 0)
        return -1;
    size_t slot = hash_bytes(token, size) & (vocab->n_slots - 1);
    while (vocab->slots[slot]) {
        uint32_t id = vocab->slots[slot] - 1;
        if (str_is(vocab->by_id[id], token, size))
            return id;
        slot = (slot + 1) & (vocab->n_slots - 1);
    }
    return -1;
}

static int compare_entries(const void *a, const void *b)
{
    const struct prefix_entry *x = a, *y = b;
    size_t size = x->string.size < y->string.size ? x->string.size : y->string.size;
    int order = memcmp(x->string.data, y->string.data, size);
    if (order)
        return order;
    if (x->string.size != y->string.size)
        return x->string.size < y->string.size ? -1 : 1;
    return x->value < y->value ? 1 : x->value > y->value ? -1 : 0;
}

void prefix_index_init(struct prefix_index *index, struct prefix_entry *entries, size_t n)
{
    if (n)
        qsort(entries, n, sizeof *entries, compare_entries);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct str string = entries[i].string;
        if (string.size == 0 ||
            (kept && str_is(entries[kept - 1].string, string.data, string.size)))
            continue;
        entries[kept++] = entries[i];
    }
    index->entries = entries;
    index->n = kept;
    size_t at = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < kept && (unsigned char)entries[at].string.data[0] < byte)
            at++;
        index->first[byte] = (uint32_t)at;
    }
}

/* The first entry in [low, high) whose byte at `depth` is not below `byte`; all are longer. */
static uint32_t lower_bound(const struct prefix_entry *entries, uint32_t low, uint32_t high,
                            uint32_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((unsigned char)entries[middle].string.data[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool prefix_step(const struct prefix_index *index, struct prefix_cursor *cursor, unsigned char byte)
{
    if (index->n == 0)
        return false;
    if (cursor->depth == 0) {
        cursor->low = index->first[byte];
        cursor->high = index->first[byte + 1];
    } else {
        uint32_t low = cursor->low, depth = cursor->depth;
        if (index->entries[low].string.size == depth)
            low++; /* it ends here; the others go on */
        cursor->low = lower_bound(index->entries, low, cursor->high, depth, byte);
        cursor->high = lower_bound(index->entries, cursor->low, cursor->high, depth, byte + 1u);
    }
    cursor->depth++;
    return cursor->low < cursor->high;
}

const struct prefix_entry *prefix_end(const struct prefix_index *index,
                                      const struct prefix_cursor *cursor)
{
    const struct prefix_entry *entry = &index->entries[cursor->low];
    return entry->string.size == cursor->depth ? entry : NULL;
}
