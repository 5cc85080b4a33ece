/*
 * arena.h: memory that is taken piece by piece and given back in one step.
 *
 * Two kinds of use: one arena per request (its strings, pixels, tokens), and one per runtime lane
 * for the activations of a forward pass, reset after each pass so that its chunks are used again.
 * Not thread-safe: one owner at a time.
 */
#ifndef VLMD_CORE_BASE_ARENA_H
#define VLMD_CORE_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t used_bytes;          /* handed out since the last reset */
    size_t peak_bytes;
    size_t max_bytes; /* allocation past this fails; 0 = no bound */
};

/* Prepares caller's storage; takes no memory yet. */
void arena_init(struct arena *arena, size_t max_bytes);

/* 64-byte aligned, uninitialised; NULL when out of memory or past max_bytes. bytes = 0 gives a
 * valid pointer. */
void *arena_alloc(struct arena *arena, size_t bytes);

/* n × each bytes, checked; NULL on wrap. arena_zalloc gives zeroed memory. */
void *arena_array(struct arena *arena, size_t n, size_t each);
void *arena_zalloc(struct arena *arena, size_t n, size_t each);

/* A NUL-terminated copy of text[0..size). */
char *arena_string(struct arena *arena, const char *text, size_t size);

/* Gives everything back to the arena. Keeps one chunk as large as the peak seen, so that the next
 * pass of the same size takes no memory from the system. */
void arena_reset(struct arena *arena);

/* Frees all memory. */
void arena_release(struct arena *arena);

#endif
