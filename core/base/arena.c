/*
 * arena.c: a list of chunks, the newest first. A pass that outgrew the first chunk leaves several;
 * arena_reset() then merges them into one of the peak size, so a steady load settles on one chunk.
 */
#include "core/base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

enum { ARENA_ALIGN = 64, ARENA_CHUNK_MIN = 16384 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t size; /* of data, in bytes */
    size_t used;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

void arena_init(struct arena *arena, size_t max_bytes)
{
    *arena = (struct arena){.max_bytes = max_bytes};
}

static struct arena_chunk *chunk_new(size_t size)
{
    size_t bytes;
    if (!size_add(size, sizeof(struct arena_chunk) + ARENA_ALIGN, &bytes))
        return NULL;
    bytes = bytes / ARENA_ALIGN * ARENA_ALIGN;
    struct arena_chunk *chunk = aligned_alloc(ARENA_ALIGN, bytes);
    if (!chunk)
        return NULL;
    chunk->next = NULL;
    chunk->size = bytes - sizeof(struct arena_chunk);
    chunk->used = 0;
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX - ARENA_ALIGN)
        return NULL;
    size_t need = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (need == 0)
        need = ARENA_ALIGN;
    if (arena->max_bytes &&
        (need > arena->max_bytes || arena->used_bytes > arena->max_bytes - need))
        return NULL;
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < need) {
        /* Grow geometrically, so that many small pieces cost few system allocations. */
        size_t size = arena->used_bytes > ARENA_CHUNK_MIN ? arena->used_bytes : ARENA_CHUNK_MIN;
        if (size < need)
            size = need;
        struct arena_chunk *fresh = chunk_new(size);
        if (!fresh && size > need)
            fresh = chunk_new(need);
        if (!fresh)
            return NULL;
        fresh->next = chunk;
        arena->chunks = chunk = fresh;
    }
    void *piece = chunk->data + chunk->used;
    chunk->used += need;
    arena->used_bytes += need;
    if (arena->used_bytes > arena->peak_bytes)
        arena->peak_bytes = arena->used_bytes;
    return piece;
}

void *arena_array(struct arena *arena, size_t n, size_t each)
{
    size_t bytes;
    return size_mul(n, each, &bytes) ? arena_alloc(arena, bytes) : NULL;
}

void *arena_zalloc(struct arena *arena, size_t n, size_t each)
{
    void *piece = arena_array(arena, n, each);
    if (piece)
        memset(piece, 0, n * each);
    return piece;
}

char *arena_string(struct arena *arena, const char *text, size_t size)
{
    size_t bytes;
    if (!size_add(size, 1, &bytes))
        return NULL;
    char *copy = arena_alloc(arena, bytes);
    if (!copy)
        return NULL;
    if (size)
        memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

void arena_reset(struct arena *arena)
{
    struct arena_chunk *first = arena->chunks;
    if (first && first->next) {
        size_t peak = arena->peak_bytes;
        size_t max_bytes = arena->max_bytes;
        arena_release(arena);
        arena_init(arena, max_bytes);
        arena->peak_bytes = peak;
        arena->chunks = chunk_new(peak); /* NULL is fine: the next allocation tries again */
    } else if (first) {
        first->used = 0;
    }
    arena->used_bytes = 0;
}

void arena_release(struct arena *arena)
{
    for (struct arena_chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    arena->chunks = NULL;
    arena->used_bytes = 0;
    arena->peak_bytes = 0;
}
