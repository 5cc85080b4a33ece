/*
 * matrix.c: see matrix.h. The products are a plain loop that the compiler vectorises: at one query
 * the matrix is read once, which is what takes the time.
 */
#include "core/index/matrix.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

void matrix_init(struct matrix *matrix, size_t dim)
{
    *matrix = (struct matrix){.dim = dim};
}

void matrix_release(struct matrix *matrix)
{
    free(matrix->rows);
    free(matrix->keys);
    free(matrix->slots);
    matrix_init(matrix, matrix->dim);
}

static size_t hash(int64_t key)
{
    uint64_t x = (uint64_t)key * 0x9E3779B97F4A7C15u;
    return (size_t)(x ^ x >> 32);
}

/* The slot of key, or the free one where it belongs. Some slot is always free. */
static size_t find_slot(const struct matrix *matrix, int64_t key)
{
    size_t mask = matrix->n_slots - 1, slot = hash(key) & mask;
    while (matrix->slots[slot] && matrix->keys[matrix->slots[slot] - 1] != key)
        slot = (slot + 1) & mask;
    return slot;
}

bool matrix_reserve(struct matrix *matrix, size_t more)
{
    size_t need;
    if (!size_add(matrix->n, more, &need) || need > UINT32_MAX / 4)
        return false;
    if (need > matrix->capacity) {
        size_t capacity = matrix->capacity + matrix->capacity / 2;
        if (capacity < need)
            capacity = need;
        size_t bytes;
        if (!size_mul(capacity, matrix->dim, &bytes))
            return false;
        float *rows = realloc_array(matrix->rows, bytes, sizeof *rows);
        if (!rows)
            return false;
        matrix->rows = rows;
        int64_t *keys = realloc_array(matrix->keys, capacity, sizeof *keys);
        if (!keys)
            return false;
        matrix->keys = keys;
        matrix->capacity = capacity;
    }
    size_t n_slots = matrix->n_slots ? matrix->n_slots : 64;
    while (n_slots < 2 * need)
        n_slots *= 2;
    if (n_slots > matrix->n_slots) {
        uint32_t *slots = calloc(n_slots, sizeof *slots);
        if (!slots)
            return false;
        free(matrix->slots);
        matrix->slots = slots;
        matrix->n_slots = n_slots;
        for (size_t i = 0; i < matrix->n; i++)
            slots[find_slot(matrix, matrix->keys[i])] = (uint32_t)(i + 1);
    }
    return true;
}

void matrix_set(struct matrix *matrix, int64_t key, const float *vector)
{
    size_t slot = find_slot(matrix, key);
    if (!matrix->slots[slot]) {
        matrix->keys[matrix->n] = key;
        matrix->slots[slot] = (uint32_t)++matrix->n;
    }
    memcpy(matrix->rows + (matrix->slots[slot] - 1) * matrix->dim, vector,
           matrix->dim * sizeof *vector);
}

/* Frees a slot and closes the gap in its run of probes. */
static void clear_slot(struct matrix *matrix, size_t slot)
{
    size_t mask = matrix->n_slots - 1;
    matrix->slots[slot] = 0;
    for (size_t next = (slot + 1) & mask; matrix->slots[next]; next = (next + 1) & mask) {
        uint32_t row = matrix->slots[next];
        matrix->slots[next] = 0;
        matrix->slots[find_slot(matrix, matrix->keys[row - 1])] = row;
    }
}

void matrix_remove(struct matrix *matrix, int64_t key)
{
    if (!matrix->n)
        return;
    size_t slot = find_slot(matrix, key);
    if (!matrix->slots[slot])
        return;
    size_t row = matrix->slots[slot] - 1, last = matrix->n - 1;
    clear_slot(matrix, slot);
    if (row != last) {
        matrix->slots[find_slot(matrix, matrix->keys[last])] = (uint32_t)(row + 1);
        matrix->keys[row] = matrix->keys[last];
        memcpy(matrix->rows + row * matrix->dim, matrix->rows + last * matrix->dim,
               matrix->dim * sizeof *matrix->rows);
    }
    matrix->n--;
}

const float *matrix_row(const struct matrix *matrix, int64_t key)
{
    if (!matrix->n)
        return NULL;
    uint32_t row = matrix->slots[find_slot(matrix, key)];
    return row ? matrix->rows + (row - 1) * matrix->dim : NULL;
}

/* ---- search
 * --------------------------------------------------------------------------------------- */

/* Independent partial sums let the compiler use whole vectors without -ffast-math. */
static float dot(const float *a, const float *b, size_t n)
{
    enum { LANES = 16 };
    float sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += a[i + j] * b[i + j];
    float total = 0;
    for (; i < n; i++)
        total += a[i] * b[i];
    for (size_t j = 0; j < LANES; j++)
        total += sums[j];
    return total;
}

static bool better(const struct matrix *matrix, struct hit a, struct hit b)
{
    if (a.score != b.score)
        return a.score > b.score;
    return matrix->keys[a.row] < matrix->keys[b.row];
}

/* heap[0] is the worst of the k kept. */
static void sink(const struct matrix *matrix, struct hit *heap, size_t k, size_t i)
{
    for (;;) {
        size_t worst = i, left = 2 * i + 1, right = left + 1;
        if (left < k && better(matrix, heap[worst], heap[left]))
            worst = left;
        if (right < k && better(matrix, heap[worst], heap[right]))
            worst = right;
        if (worst == i)
            return;
        struct hit swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

size_t matrix_search(const struct matrix *matrix, const float *query, size_t k, struct hit *hits)
{
    size_t n = matrix->n;
    if (k > n)
        k = n;
    for (size_t i = 0; i < n; i++)
        hits[i] =
            (struct hit){dot(matrix->rows + i * matrix->dim, query, matrix->dim), (uint32_t)i};
    if (!k)
        return 0;
    for (size_t i = k / 2; i-- > 0;)
        sink(matrix, hits, k, i);
    for (size_t i = k; i < n; i++)
        if (better(matrix, hits[i], hits[0])) {
            struct hit swap = hits[0];
            hits[0] = hits[i];
            hits[i] = swap;
            sink(matrix, hits, k, 0);
        }
    for (size_t end = k; end > 1; end--) { /* heap sort: the worst goes to the end */
        struct hit swap = hits[0];
        hits[0] = hits[end - 1];
        hits[end - 1] = swap;
        sink(matrix, hits, end - 1, 0);
    }
    return k;
}
