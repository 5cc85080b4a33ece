/*
 * matrix_search.c: exact search: every row's product with every query, and the best of them.
 *
 * One query is a matter of reading the matrix once; many are a matrix product, block by block. The
 * rows are cut into runs that the pool's threads take. Each query has one ranking, a heap of the
 * best k so far, that all threads share: what may enter it is decided by a bound that they read
 * without its lock, so that after the first runs hardly any score asks for the lock.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/index/matrix.h"
#include "core/nn/pool.h"

enum {
    RUN_ROWS = 1024,         /* of a task */
    BLOCK_ROWS = 192,        /* of a product of many queries */
    UNPACKED_FLOATS = 65536, /* of a block of f16 or int8 rows: a row of any width fits */
    TASKS_PER_THREAD = 4,    /* of one piece of a search: a millisecond or so */
};
_Static_assert((int)UNPACKED_FLOATS >= (int)STORE_DIM_MAX, "a row of any collection must fit");

struct ranking {
    struct hit *heap; /* the worst first */
    size_t n;
    _Atomic float bound;  /* what a score must reach; -INFINITY while there is room */
    pthread_mutex_t lock; /* guards heap and n, and writing bound */
};

struct pass {
    const struct matrix *matrix;
    const float *queries;
    size_t n_queries, k;
    const uint64_t *wanted;
    struct ranking *rankings; /* [n_queries] */
    size_t first;             /* row */
    size_t first_run;         /* of this piece */
};

/* heap[0] is the worst of the n kept. */
static void sink(const struct matrix *matrix, struct hit *heap, size_t n, size_t i)
{
    for (;;) {
        size_t worst = i, left = 2 * i + 1, right = left + 1;
        if (left < n && matrix_better(matrix, heap[worst], heap[left]))
            worst = left;
        if (right < n && matrix_better(matrix, heap[worst], heap[right]))
            worst = right;
        if (worst == i)
            return;
        struct hit swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

static void rise(const struct matrix *matrix, struct hit *heap, size_t i)
{
    while (i) {
        size_t parent = (i - 1) / 2;
        if (!matrix_better(matrix, heap[parent], heap[i]))
            return;
        struct hit swap = heap[i];
        heap[i] = heap[parent];
        heap[parent] = swap;
        i = parent;
    }
}

/* Lock held. */
static void enter(const struct pass *pass, struct ranking *ranking, struct hit hit)
{
    const struct matrix *matrix = pass->matrix;
    if (ranking->n < pass->k) {
        ranking->heap[ranking->n] = hit;
        rise(matrix, ranking->heap, ranking->n++);
    } else if (matrix_better(matrix, hit, ranking->heap[0])) {
        ranking->heap[0] = hit;
        sink(matrix, ranking->heap, ranking->n, 0);
    }
    if (ranking->n == pass->k)
        atomic_store_explicit(&ranking->bound, ranking->heap[0].score, memory_order_relaxed);
}

static bool is_wanted(const struct pass *pass, uint32_t row)
{
    return pass->matrix->keys[row] &&
           (!pass->wanted || (pass->wanted[row / 64] >> row % 64 & 1) != 0);
}

/* Offers the scores of rows from `row` on. A stale bound only lets in too many. */
static void offer(const struct pass *pass, size_t query, uint32_t row, const float *scores,
                  size_t n)
{
    struct ranking *ranking = &pass->rankings[query];
    float bound = atomic_load_explicit(&ranking->bound, memory_order_relaxed);
    bool locked = false;
    for (size_t i = 0; i < n; i++) {
        if (!(scores[i] >= bound) || !is_wanted(pass, row + (uint32_t)i))
            continue;
        if (!locked)
            pthread_mutex_lock(&ranking->lock);
        locked = true;
        enter(pass, ranking, (struct hit){scores[i], row + (uint32_t)i});
        bound = atomic_load_explicit(&ranking->bound, memory_order_relaxed);
    }
    if (locked)
        pthread_mutex_unlock(&ranking->lock);
}

/* Few rows are wanted: each by itself. */
static void score_wanted(const struct pass *pass, uint32_t row, size_t n)
{
    const struct matrix *matrix = pass->matrix;
    for (uint32_t end = row + (uint32_t)n; row < end; row++) {
        if (!is_wanted(pass, row))
            continue;
        for (size_t q = 0; q < pass->n_queries; q++) {
            float score;
            dot_rows(matrix->form, matrix_row(matrix, row), matrix_scale(matrix, row), 1,
                     matrix->dim, pass->queries + q * matrix->dim, &score);
            offer(pass, q, row, &score, 1);
        }
    }
}

static void score_block(const struct pass *pass, uint64_t id, size_t q, size_t n_queries,
                        uint32_t row, size_t n)
{
    const struct matrix *matrix = pass->matrix;
    float scores[DOT_QUERIES_MAX * BLOCK_ROWS], unpacked[UNPACKED_FLOATS];
    const float *rows = matrix_row(matrix, row);
    if (matrix->form != DOT_F32) {
        const float *scales = matrix_scale(matrix, row);
        for (size_t i = 0; i < n; i++)
            dot_unpack(matrix->form, matrix_row(matrix, row + (uint32_t)i), scales ? scales[i] : 1,
                       matrix->dim, unpacked + i * matrix->dim);
        rows = unpacked;
    }
    dot_block(id, pass->queries + q * matrix->dim, n_queries, rows, n, matrix->dim, scores);
    for (size_t i = 0; i < n_queries; i++)
        offer(pass, q + i, row, scores + i * n, n);
}

/* One run of rows, none of which crosses the border of a chunk. */
static void task(void *context, size_t i)
{
    const struct pass *pass = context;
    const struct matrix *matrix = pass->matrix;
    size_t first = pass->first + (pass->first_run + i) * RUN_ROWS, end = first + RUN_ROWS;
    if (end > matrix->n_rows)
        end = matrix->n_rows;
    size_t chunk = (size_t)1 << matrix->chunk_shift, block_max = BLOCK_ROWS;
    if (matrix->form != DOT_F32 && block_max > UNPACKED_FLOATS / matrix->dim)
        block_max = UNPACKED_FLOATS / matrix->dim;
    for (size_t row = first, n; row < end; row += n) {
        n = end - row < chunk - row % chunk ? end - row : chunk - row % chunk;
        if (pass->wanted) {
            score_wanted(pass, (uint32_t)row, n);
        } else if (pass->n_queries == 1) {
            float scores[RUN_ROWS];
            dot_rows(matrix->form, matrix_row(matrix, (uint32_t)row),
                     matrix_scale(matrix, (uint32_t)row), n, matrix->dim, pass->queries, scores);
            offer(pass, 0, (uint32_t)row, scores, n);
        } else {
            for (size_t q = 0; q < pass->n_queries; q += DOT_QUERIES_MAX) {
                size_t now = pass->n_queries - q;
                if (now > DOT_QUERIES_MAX)
                    now = DOT_QUERIES_MAX;
                uint64_t id = dot_block_id();
                for (size_t at = 0; at < n; at += block_max)
                    score_block(pass, id, q, now, (uint32_t)(row + at),
                                n - at < block_max ? n - at : block_max);
            }
        }
    }
}

static void run(struct pass *pass, struct pool *pool)
{
    size_t n_runs = (pass->matrix->n_rows - pass->first + RUN_ROWS - 1) / RUN_ROWS;
    size_t step = pool ? pool_threads(pool) * TASKS_PER_THREAD : n_runs;
    for (size_t at = 0, n; at < n_runs; at += n) {
        n = n_runs - at < step ? n_runs - at : step;
        pass->first_run = at;
        if (pool)
            pool_run(pool, n, task, pass);
        else
            for (size_t i = 0; i < n; i++)
                task(pass, i);
    }
}

bool matrix_search(const struct matrix *matrix, struct pool *pool, const float *queries,
                   size_t n_queries, size_t k, const uint64_t *wanted, size_t first,
                   struct hit *hits, size_t *n_hits)
{
    struct ranking *rankings = alloc_array(n_queries, sizeof *rankings);
    if (!rankings)
        return false;
    for (size_t q = 0; q < n_queries; q++) {
        rankings[q] = (struct ranking){.heap = hits + q * k};
        atomic_init(&rankings[q].bound, k ? -INFINITY : INFINITY);
        pthread_mutex_init(&rankings[q].lock, NULL);
    }
    struct pass pass = {matrix, queries, n_queries, k, wanted, rankings, first, 0};
    if (k)
        run(&pass, pool);
    for (size_t q = 0; q < n_queries; q++) {
        struct hit *heap = rankings[q].heap;
        n_hits[q] = rankings[q].n;
        for (size_t end = rankings[q].n; end > 1; end--) { /* heap sort: the worst to the end */
            struct hit swap = heap[0];
            heap[0] = heap[end - 1];
            heap[end - 1] = swap;
            sink(matrix, heap, end - 1, 0);
        }
        pthread_mutex_destroy(&rankings[q].lock);
    }
    free(rankings);
    return true;
}
