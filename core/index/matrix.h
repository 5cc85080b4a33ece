/*
 * matrix.h: a collection's vectors in memory, and the exact search over them.
 *
 * Rows are numbered by their place and addressed by a 64-bit key > 0 (the database's). They lie in
 * chunks that never move, in the collection's precision. Changes need the owner's exclusive lock,
 * everything else its shared lock; what is said to be safe without one is said below.
 */
#ifndef VLMD_CORE_INDEX_MATRIX_H
#define VLMD_CORE_INDEX_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/index/store.h"
#include "core/nn/dots.h"

enum { MATRIX_CHUNKS_MAX = 1 << 16 };

struct matrix {
    size_t dim;
    enum dot_form form;
    size_t n;        /* rows that have a key */
    size_t n_rows;   /* places in use; without `stable`, n */
    size_t reserved; /* places that there is room for, used ones among them */
    size_t capacity; /* of keys */
    bool stable;     /* a removed row leaves its place empty (key 0), so that numbers keep their
                        meaning for a graph */
    int64_t *keys;   /* [n_rows] */
    uint32_t *slots; /* open-addressed key → row + 1; a power of two of them, 0 = free */
    size_t n_slots;
    uint32_t next;          /* the row behind the one set last: a guess where the next one is */
    unsigned chunk_shift;   /* a chunk holds 1 << chunk_shift rows, then (int8) their scales */
    unsigned char **chunks; /* [MATRIX_CHUNKS_MAX], where they are stays the same */
    size_t n_chunks;
};

void matrix_init(struct matrix *matrix, size_t dim, enum precision precision);
void matrix_release(struct matrix *matrix);

/* Room for `more` further rows, so that matrix_set cannot fail; false: out of memory. */
bool matrix_reserve(struct matrix *matrix, size_t more);
/* Has the system give (and clear) the memory of the first n_chunks, which takes as long as reading
 * vectors from a file. In a thread of its own beside everything but what frees rows. */
void matrix_populate(const struct matrix *matrix, size_t n_chunks);
/* Adds a row; or fills a place, or (only without `stable`) replaces a row. Gives its number.
 * Fastest where keys come in the order of their rows. */
uint32_t matrix_set(struct matrix *matrix, int64_t key, const float *vector);
/* A further row without a vector: matrix_set() brings it before anybody reads it, or
 * matrix_clear_place() empties it. Key 0, or one that is there: an empty place. `stable` only. */
void matrix_add_place(struct matrix *matrix, int64_t key);
/* Removes the key of a place that no vector came for. */
void matrix_clear_place(struct matrix *matrix, uint32_t row);
/* Without `stable` the last row takes the freed place. Unknown keys are fine. */
void matrix_remove(struct matrix *matrix, int64_t key);
/* UINT32_MAX when there is no such key. */
uint32_t matrix_find(const struct matrix *matrix, int64_t key);
/* Moves the rows with a key together, in their order, and frees what is neither used nor reserved.
 * new_rows [n_rows] gets each row's new number, UINT32_MAX for holes. */
void matrix_compact(struct matrix *matrix, uint32_t *new_rows);

/* A row's numbers. Safe without a lock for rows that were there under the last one, as
 * long as `stable` holds and nobody compacts. */
static inline const void *matrix_row(const struct matrix *matrix, uint32_t row)
{
    size_t mask = ((size_t)1 << matrix->chunk_shift) - 1;
    return matrix->chunks[row >> matrix->chunk_shift] +
           (row & mask) * matrix->dim * dot_form_size(matrix->form);
}

/* Where a chunk's scales begin. */
static inline size_t matrix_scales_at(const struct matrix *matrix)
{
    size_t rows = (size_t)1 << matrix->chunk_shift;
    return (rows * matrix->dim * dot_form_size(matrix->form) + 3) / 4 * 4;
}

/* NULL where the form has none. */
static inline const float *matrix_scale(const struct matrix *matrix, uint32_t row)
{
    if (matrix->form != DOT_I8)
        return NULL;
    size_t mask = ((size_t)1 << matrix->chunk_shift) - 1;
    const unsigned char *chunk = matrix->chunks[row >> matrix->chunk_shift];
    return (const float *)(const void *)(chunk + matrix_scales_at(matrix)) + (row & mask);
}

struct hit {
    float score;
    uint32_t row;
};

/* The k rows with the largest products with each query [n_queries, dim], best first (equal scores:
 * smaller key first), into hits [n_queries, k]; n_hits [n_queries] tells how many there were. Only
 * rows from `first` on, and of `wanted` (a bit each; NULL = all). Spread over the pool (NULL = this
 * thread) a piece at a time. False: out of memory. */
bool matrix_search(const struct matrix *matrix, struct pool *pool, const float *queries,
                   size_t n_queries, size_t k, const uint64_t *wanted, size_t first,
                   struct hit *hits, size_t *n_hits);

/* Whether a is before b in a result. */
static inline bool matrix_better(const struct matrix *matrix, struct hit a, struct hit b)
{
    if (a.score != b.score)
        return a.score > b.score;
    return matrix->keys[a.row] < matrix->keys[b.row];
}

#endif
