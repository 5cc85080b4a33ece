/*
 * matrix.c: see matrix.h: where rows are kept. matrix_search.c searches them.
 */
#include "core/index/matrix.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/size.h"

/* Chunks are about this large, and from the second on made of huge pages where the system has
 * them: a search reads them from end to end, a graph at random. */
enum { CHUNK_BYTES = 4 << 20, HUGE_PAGE = 2 << 20, CHUNK_ROWS_MIN = 64 };

void matrix_init(struct matrix *matrix, size_t dim, enum precision precision)
{
    static const enum dot_form forms[N_PRECISIONS] = {
        [PRECISION_F32] = DOT_F32, [PRECISION_F16] = DOT_F16, [PRECISION_INT8] = DOT_I8};
    *matrix = (struct matrix){.dim = dim, .form = forms[precision], .chunk_shift = 6};
    while (((size_t)CHUNK_ROWS_MIN * 2 << (matrix->chunk_shift - 6)) * dim *
               dot_form_size(matrix->form) <=
           CHUNK_BYTES)
        matrix->chunk_shift++;
}

void matrix_release(struct matrix *matrix)
{
    for (size_t i = 0; i < matrix->n_chunks; i++)
        free(matrix->chunks[i]);
    free(matrix->chunks);
    free(matrix->keys);
    free(matrix->slots);
    *matrix = (struct matrix){0};
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

static size_t chunk_bytes(const struct matrix *matrix)
{
    size_t rows = (size_t)1 << matrix->chunk_shift;
    return matrix_scales_at(matrix) + (matrix->form == DOT_I8 ? rows * sizeof(float) : 0);
}

/* Frees memory only in matrix_release and matrix_compact, so that a graph may read on. */
static bool add_chunk(struct matrix *matrix)
{
    size_t bytes = chunk_bytes(matrix);
    if (!matrix->chunks)
        matrix->chunks = calloc(MATRIX_CHUNKS_MAX, sizeof *matrix->chunks);
    if (!matrix->chunks || matrix->n_chunks == MATRIX_CHUNKS_MAX)
        return false;
    unsigned char *chunk;
    if (matrix->n_chunks) {
        void *memory = NULL;
        chunk = posix_memalign(&memory, HUGE_PAGE, bytes) ? NULL : memory;
        if (chunk && bytes >= HUGE_PAGE)
            madvise(chunk, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    } else {
        chunk = malloc(bytes);
    }
    if (!chunk)
        return false;
    matrix->chunks[matrix->n_chunks++] = chunk;
    return true;
}

bool matrix_reserve(struct matrix *matrix, size_t more)
{
    size_t need;
    if (!size_add(matrix->n_rows, more, &need) || need > UINT32_MAX / 4)
        return false;
    if (need > matrix->capacity) {
        size_t capacity = matrix->capacity + matrix->capacity / 2;
        if (capacity < need)
            capacity = need;
        int64_t *keys = realloc_array(matrix->keys, capacity, sizeof *keys);
        if (!keys)
            return false;
        matrix->keys = keys;
        matrix->capacity = capacity;
    }
    while (matrix->n_chunks << matrix->chunk_shift < need)
        if (!add_chunk(matrix))
            return false;
    size_t n_slots = matrix->n_slots ? matrix->n_slots : 64;
    while (n_slots / 3 * 2 < need)
        n_slots *= 2;
    if (n_slots > matrix->n_slots) {
        uint32_t *slots = calloc(n_slots, sizeof *slots);
        if (!slots)
            return false;
        free(matrix->slots);
        matrix->slots = slots;
        matrix->n_slots = n_slots;
        for (size_t i = 0; i < matrix->n_rows; i++)
            if (matrix->keys[i])
                slots[find_slot(matrix, matrix->keys[i])] = (uint32_t)(i + 1);
    }
    if (matrix->reserved < need)
        matrix->reserved = need;
    return true;
}

void matrix_populate(const struct matrix *matrix, size_t n_chunks)
{
    size_t bytes = chunk_bytes(matrix) / HUGE_PAGE * HUGE_PAGE;
    for (size_t i = 1; i < n_chunks && bytes; i++)                  /* the first is malloc's */
        if (madvise(matrix->chunks[i], bytes, MADV_POPULATE_WRITE)) /* leaves what is written */
            return;
}

static void set_scale(struct matrix *matrix, uint32_t row, float scale)
{
    if (matrix->form == DOT_I8)
        *(float *)matrix_scale(matrix, row) = scale;
}

uint32_t matrix_set(struct matrix *matrix, int64_t key, const float *vector)
{
    uint32_t row = matrix->next;
    if (row >= matrix->n_rows || matrix->keys[row] != key) {
        size_t slot = find_slot(matrix, key);
        if (!matrix->slots[slot]) {
            matrix->keys[matrix->n_rows] = key;
            matrix->slots[slot] = (uint32_t)++matrix->n_rows;
            matrix->n++;
        }
        row = matrix->slots[slot] - 1;
    }
    matrix->next = row + 1;
    float scale = dot_pack(matrix->form, vector, matrix->dim, (void *)matrix_row(matrix, row));
    set_scale(matrix, row, scale);
    return row;
}

/* A walk through the graph may pass over a place that is empty. */
static void empty_row(struct matrix *matrix, uint32_t row)
{
    memset((void *)matrix_row(matrix, row), 0, matrix->dim * dot_form_size(matrix->form));
    set_scale(matrix, row, 0);
}

void matrix_add_place(struct matrix *matrix, int64_t key)
{
    uint32_t row = (uint32_t)matrix->n_rows++;
    size_t slot = key ? find_slot(matrix, key) : 0;
    bool fresh = key && !matrix->slots[slot];
    matrix->keys[row] = fresh ? key : 0;
    if (fresh) {
        matrix->slots[slot] = row + 1;
        matrix->n++;
    } else {
        empty_row(matrix, row);
    }
}

void matrix_clear_place(struct matrix *matrix, uint32_t row)
{
    empty_row(matrix, row);
    matrix_remove(matrix, matrix->keys[row]);
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

static void move_row(struct matrix *matrix, uint32_t from, uint32_t to)
{
    matrix->keys[to] = matrix->keys[from];
    memcpy((void *)matrix_row(matrix, to), matrix_row(matrix, from),
           matrix->dim * dot_form_size(matrix->form));
    if (matrix->form == DOT_I8)
        set_scale(matrix, to, *matrix_scale(matrix, from));
}

void matrix_remove(struct matrix *matrix, int64_t key)
{
    if (!matrix->n)
        return;
    size_t slot = find_slot(matrix, key);
    if (!matrix->slots[slot])
        return;
    uint32_t row = matrix->slots[slot] - 1, last = (uint32_t)matrix->n_rows - 1;
    clear_slot(matrix, slot);
    matrix->n--;
    if (matrix->stable) {
        matrix->keys[row] = 0;
        return;
    }
    if (row != last) {
        matrix->slots[find_slot(matrix, matrix->keys[last])] = row + 1;
        move_row(matrix, last, row);
    }
    matrix->n_rows--;
}

uint32_t matrix_find(const struct matrix *matrix, int64_t key)
{
    if (!matrix->n)
        return UINT32_MAX;
    uint32_t slot = matrix->slots[find_slot(matrix, key)];
    return slot ? slot - 1 : UINT32_MAX;
}

void matrix_compact(struct matrix *matrix, uint32_t *new_rows)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < matrix->n_rows; row++) {
        if (!matrix->keys[row]) {
            new_rows[row] = UINT32_MAX;
            continue;
        }
        if (row != n) {
            matrix->slots[find_slot(matrix, matrix->keys[row])] = n + 1;
            move_row(matrix, row, n);
        }
        new_rows[row] = n++;
    }
    matrix->reserved -= matrix->n_rows - n;
    matrix->n_rows = n;
    while (matrix->n_chunks && (matrix->n_chunks - 1) << matrix->chunk_shift >= matrix->reserved)
        free(matrix->chunks[--matrix->n_chunks]);
}
