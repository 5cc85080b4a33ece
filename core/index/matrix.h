/*
 * matrix.h: a collection's vectors in memory, and the exact search over them.
 *
 * Rows are addressed by a 64-bit key (the database's row number). Changes need the owner's
 * exclusive lock, searches its shared lock.
 */
#ifndef VLMD_CORE_INDEX_MATRIX_H
#define VLMD_CORE_INDEX_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct matrix {
    size_t dim, n, capacity;
    float *rows;     /* [n, dim] */
    int64_t *keys;   /* [n] */
    uint32_t *slots; /* open-addressed key → row + 1; a power of two of them, 0 = free */
    size_t n_slots;
};

void matrix_init(struct matrix *matrix, size_t dim);
void matrix_release(struct matrix *matrix);

/* Room for `more` further rows, so that matrix_set cannot fail; false: out of memory. */
bool matrix_reserve(struct matrix *matrix, size_t more);
/* Adds or replaces a row. */
void matrix_set(struct matrix *matrix, int64_t key, const float *vector);
/* The last row takes the freed place. Unknown keys are fine. */
void matrix_remove(struct matrix *matrix, int64_t key);
/* NULL when there is no such key. */
const float *matrix_row(const struct matrix *matrix, int64_t key);

struct hit {
    float score;
    uint32_t row;
};

/* Dot products of query [dim] with every row, into hits [n] (caller's), best first (equal scores:
 * smaller key first): the first `k` places are right, the rest is in no order. Returns min(k, n).
 */
size_t matrix_search(const struct matrix *matrix, const float *query, size_t k, struct hit *hits);

#endif
