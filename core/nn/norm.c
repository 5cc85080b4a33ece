/*
 * norm.c: normalisations and elementwise work on rows, spread over the pool.
 */
#include <math.h>

#include "core/nn/kernels.h"

enum { CHUNK_FLOATS = 16384 };

struct norm_job {
    const struct norm *norm;
    const float *x;
    struct nn_rows y;
    size_t n_rows, chunk_rows;
    void (*row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16);
};

static void norm_chunk(void *context, size_t i)
{
    const struct norm_job *job = context;
    size_t dim = job->norm->dim, end = min_size(job->n_rows, (i + 1) * job->chunk_rows);
    float *y = job->y.dtype == DTYPE_BF16 ? NULL : job->y.data;
    uint16_t *y_bf16 = job->y.dtype == DTYPE_BF16 ? job->y.data : NULL;
    for (size_t row = i * job->chunk_rows; row < end; row++)
        job->row(job->norm, job->x + row * dim, y ? y + row * dim : NULL,
                 y_bf16 ? y_bf16 + row * dim : NULL);
}

static void norm_rows(const struct compute *compute, struct norm_job job)
{
    size_t dim = job.norm->dim;
    if (dim == 0 || job.n_rows == 0)
        return;
    job.chunk_rows = dim < CHUNK_FLOATS ? CHUNK_FLOATS / dim : 1;
    pool_run(compute->pool, (job.n_rows + job.chunk_rows - 1) / job.chunk_rows, norm_chunk, &job);
}

void nn_layer_norm_rows(const struct compute *compute, const struct norm *norm, const float *x,
                        size_t n_rows, struct nn_rows y)
{
    norm_rows(compute, (struct norm_job){norm, x, y, n_rows, 0, kernels()->layer_norm_row});
}

void nn_layer_norm(const struct compute *compute, const struct norm *norm, const float *x,
                   size_t n_rows, float *y)
{
    nn_layer_norm_rows(compute, norm, x, n_rows, (struct nn_rows){y, DTYPE_F32});
}

void nn_rms_norm(const struct compute *compute, const struct norm *norm, const float *x,
                 size_t n_rows, float *y)
{
    struct nn_rows to = {y, DTYPE_F32};
    norm_rows(compute, (struct norm_job){norm, x, to, n_rows, 0, kernels()->rms_norm_row});
}

struct pair_job {
    float *x;
    const float *y;
    size_t n;
};

static void add_chunk(void *context, size_t i)
{
    const struct pair_job *job = context;
    size_t end = min_size(job->n, (i + 1) * CHUNK_FLOATS);
    for (size_t at = i * CHUNK_FLOATS; at < end; at++)
        job->x[at] += job->y[at];
}

void nn_add(const struct compute *compute, float *x, const float *y, size_t n)
{
    struct pair_job job = {x, y, n};
    pool_run(compute->pool, (n + CHUNK_FLOATS - 1) / CHUNK_FLOATS, add_chunk, &job);
}

static void multiply_chunk(void *context, size_t i)
{
    struct pair_job *job = context;
    size_t end = min_size(job->n, (i + 1) * CHUNK_FLOATS);
    for (size_t at = i * CHUNK_FLOATS; at < end; at++)
        job->x[at] *= job->y[at];
}

void nn_multiply(const struct compute *compute, float *x, const float *y, size_t n)
{
    struct pair_job job = {x, y, n};
    pool_run(compute->pool, (n + CHUNK_FLOATS - 1) / CHUNK_FLOATS, multiply_chunk, &job);
}

void nn_softmax_rows(float *x, size_t n_rows, size_t n)
{
    for (size_t row = 0; n > 0 && row < n_rows; row++)
        kernels()->softmax_row(x + row * n, n);
}

float nn_log_sum(const float *x, size_t n)
{
    return kernels()->log_sum_row(x, n);
}

void nn_l2_normalize_rows(float *x, size_t n_rows, size_t dim)
{
    for (size_t row = 0; row < n_rows; row++, x += dim) {
        double squares = 0;
        for (size_t i = 0; i < dim; i++)
            squares += (double)x[i] * x[i];
        float factor = squares > 0 ? (float)(1 / sqrt(squares)) : 0;
        for (size_t i = 0; i < dim; i++)
            x[i] *= factor;
    }
}
