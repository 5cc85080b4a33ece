/*
 * test_index.c: the matrix that searches run over: its products in every form, and the best of
 * them, against plain loops.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/matrix.h"
#include "core/nn/nn.h"
#include "core/nn/pool.h"

static struct error err;
static struct pool *pool;

static void setup(void)
{
    pool = pool_new(3, &err);
    ck_assert_ptr_nonnull(pool);
}

static void teardown(void)
{
    pool_free(pool);
}

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX - 0.5f;
}

/* What the matrix keeps of a vector. */
static void kept(const struct matrix *matrix, uint32_t row, float *out)
{
    const float *scale = matrix_scale(matrix, row);
    dot_unpack(matrix->form, matrix_row(matrix, row), scale ? *scale : 1, matrix->dim, out);
}

START_TEST(packed_rows_are_near_and_scaled)
{
    static const float values[] = {0,     -0.0f,   1,       -1,      0.1f,    65504,  -1e6f,
                                   1e-7f, 6.1e-5f, 5.9e-5f, 1.0009f, 2047.5f, -0.333f};
    uint16_t halves[ARRAY_LENGTH(values)];
    float back[ARRAY_LENGTH(values)];
    dot_pack(DOT_F16, values, ARRAY_LENGTH(values), halves);
    dot_unpack(DOT_F16, halves, 1, ARRAY_LENGTH(values), back);
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        float want = fmaxf(-65504, fminf(65504, values[i]));
        /* half of the last place: 2^-11 of the value, 2^-25 where it is subnormal */
        ck_assert_float_eq_tol(back[i], want, fmaxf(fabsf(want) * 0x1p-11f, 0x1p-25f));
    }
    int8_t bytes[3];
    float scale = dot_pack(DOT_I8, (const float[]){0.5f, -2, 1.01f}, 3, bytes);
    ck_assert_float_eq_tol(scale, 2 / 127.0f, 1e-7f);
    ck_assert_int_eq(bytes[1], -127);
    ck_assert_int_eq(bytes[2], 64);
    ck_assert_float_eq(dot_pack(DOT_I8, (const float[]){0, 0}, 2, bytes), 0);
    ck_assert_int_eq(bytes[0], 0);
}
END_TEST

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* All queries' results against sorted plain products. */
static void compare(const struct matrix *matrix, const float *queries, size_t n_queries, size_t k,
                    const uint64_t *wanted, const char *what)
{
    struct hit *hits = alloc_array(n_queries * k, sizeof *hits);
    size_t *n_hits = alloc_array(n_queries, sizeof *n_hits);
    float *scores = alloc_array(matrix->n_rows, sizeof *scores);
    float *row = alloc_array(matrix->dim, sizeof *row);
    ck_assert(matrix_search(matrix, rand() % 2 ? pool : NULL, queries, n_queries, k, wanted, 0,
                            hits, n_hits));
    for (size_t q = 0; q < n_queries; q++) {
        size_t n = 0;
        for (uint32_t r = 0; r < matrix->n_rows; r++) {
            if (!matrix->keys[r] || (wanted && !(wanted[r / 64] >> r % 64 & 1)))
                continue;
            double sum = 0;
            kept(matrix, r, row);
            for (size_t i = 0; i < matrix->dim; i++)
                sum += (double)row[i] * queries[q * matrix->dim + i];
            scores[n++] = (float)sum;
        }
        qsort(scores, n, sizeof *scores, falling);
        ck_assert_msg(n_hits[q] == (n < k ? n : k), "%s: %zu hits of %zu", what, n_hits[q], n);
        for (size_t i = 0; i < n_hits[q]; i++) {
            struct hit hit = hits[q * k + i];
            /* sums of f32 in another order */
            float tolerance = 1e-5f * (1 + (float)matrix->dim / 100);
            ck_assert_msg(fabsf(hit.score - scores[i]) < tolerance,
                          "%s: query %zu, hit %zu: %g, wanted %g", what, q, i, (double)hit.score,
                          (double)scores[i]);
            ck_assert(matrix->keys[hit.row] && (!i || !matrix_better(matrix, hit, hit)));
            ck_assert(!i || !matrix_better(matrix, hit, hits[q * k + i - 1]));
        }
    }
    free(hits);
    free(n_hits);
    free(scores);
    free(row);
}

START_TEST(matrix_search_equals_plain_loops)
{
    static const size_t dims[] = {1, 3, 16, 37, 512, 3100};
    static const size_t rows[] = {0, 1, 5, 193, 1500, 5000};
    static const size_t n_queries[] = {1, 2, 17, 70};
    static const enum nn_engine engines[] = {NN_ENGINE_AUTO, NN_ENGINE_AVX2, NN_ENGINE_PORTABLE};
    srand(3);
    for (size_t e = 0; e < ARRAY_LENGTH(engines); e++) {
        if (!nn_engine_choose(engines[e]))
            continue;
        for (int round = 0; round < 60; round++) {
            enum precision precision = (enum precision)(round % N_PRECISIONS);
            size_t dim = dims[rand() % ARRAY_LENGTH(dims)], n = rows[rand() % ARRAY_LENGTH(rows)],
                   nq = n_queries[rand() % ARRAY_LENGTH(n_queries)];
            while (n * dim * nq > 20 * 1000 * 1000)
                n /= 2;
            struct matrix matrix;
            matrix_init(&matrix, dim, precision);
            matrix.stable = round % 2;
            ck_assert(matrix_reserve(&matrix, n + 1));
            float *vector = alloc_array(dim, sizeof *vector),
                  *queries = alloc_array(nq * dim, sizeof *queries);
            for (size_t i = 0; i < nq * dim; i++)
                queries[i] = noise();
            for (size_t i = 0; i < n; i++) {
                for (size_t d = 0; d < dim; d++)
                    vector[d] = noise();
                matrix_set(&matrix, (int64_t)i + 1, vector);
            }
            for (size_t i = 0; i < n / 7; i++)
                matrix_remove(&matrix, 1 + rand() % (int64_t)n);
            char what[120];
            snprintf(what, sizeof what, "%s, %s, %zu rows of %zu, %zu queries", nn_engine_name(),
                     precision_name(precision), n, dim, nq);
            compare(&matrix, queries, nq, 1 + (size_t)rand() % 30, NULL, what);
            uint64_t *wanted = calloc(matrix.n_rows / 64 + 1, sizeof *wanted);
            for (size_t r = 0; r < matrix.n_rows; r += 5)
                wanted[r / 64] |= (uint64_t)1 << r % 64;
            compare(&matrix, queries, nq, 10, wanted, what);
            if (matrix.stable) {
                uint32_t *moved = alloc_array(matrix.n_rows, sizeof *moved);
                matrix_compact(&matrix, moved);
                ck_assert_uint_eq(matrix.n, matrix.n_rows);
                compare(&matrix, queries, nq, 10, NULL, what);
                for (uint32_t r = 0; r < matrix.n_rows; r++)
                    ck_assert_uint_eq(matrix_find(&matrix, matrix.keys[r]), r);
                free(moved);
            }
            free(wanted);
            free(vector);
            free(queries);
            matrix_release(&matrix);
        }
    }
    nn_engine_choose(NN_ENGINE_AUTO);
}
END_TEST

START_TEST(equal_scores_come_in_the_order_of_keys)
{
    struct matrix matrix;
    matrix_init(&matrix, 2, PRECISION_F32);
    ck_assert(matrix_reserve(&matrix, 3000));
    for (int64_t key = 3000; key > 0; key--)
        matrix_set(&matrix, key, (const float[]){1, (float)(key % 2)});
    struct hit hits[10];
    size_t n;
    ck_assert(matrix_search(&matrix, pool, (const float[]){0, 1}, 1, 10, NULL, 0, hits, &n));
    ck_assert_uint_eq(n, 10);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(matrix.keys[hits[i].row], (int64_t)(2 * i + 1));
    matrix_release(&matrix);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("index");
    TCase *tcase = tcase_create("index");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, packed_rows_are_near_and_scaled);
    tcase_add_test(tcase, matrix_search_equals_plain_loops);
    tcase_add_test(tcase, equal_scores_come_in_the_order_of_keys);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
