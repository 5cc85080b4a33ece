/*
 * norm.c: normalisations and elementwise work on rows.
 */
#include <math.h>

#include "core/nn/nn.h"
#include "core/nn/nn_internal.h"

enum { CHUNK_FLOATS = 16384 };

struct norm_job {
    const struct norm *norm;
    const float *x;
    float *y;
    size_t n_rows, chunk_rows;
};

static void layer_norm_chunk(void *context, size_t i)
{
    const struct norm_job *job = context;
    const struct norm *norm = job->norm;
    size_t dim = norm->dim;
    size_t end = min_size(job->n_rows, (i + 1) * job->chunk_rows);
    for (size_t row = i * job->chunk_rows; row < end; row++) {
        const float *x = job->x + row * dim;
        float *y = job->y + row * dim;
        double sum = 0, squares = 0;
        for (size_t d = 0; d < dim; d++)
            sum += x[d];
        double mean = sum / (double)dim;
        for (size_t d = 0; d < dim; d++)
            squares += (x[d] - mean) * (x[d] - mean);
        float center = (float)mean;
        float factor = (float)(1 / sqrt(squares / (double)dim + norm->eps));
        for (size_t d = 0; d < dim; d++)
            y[d] = (x[d] - center) * factor * norm->weight[d] + (norm->bias ? norm->bias[d] : 0);
    }
}

static void rms_norm_chunk(void *context, size_t i)
{
    const struct norm_job *job = context;
    const struct norm *norm = job->norm;
    size_t dim = norm->dim;
    size_t end = min_size(job->n_rows, (i + 1) * job->chunk_rows);
    for (size_t row = i * job->chunk_rows; row < end; row++) {
        const float *x = job->x + row * dim;
        float *y = job->y + row * dim;
        double squares = 0;
        for (size_t d = 0; d < dim; d++)
            squares += (double)x[d] * x[d];
        float factor = (float)(1 / sqrt(squares / (double)dim + norm->eps));
        for (size_t d = 0; d < dim; d++)
            y[d] = x[d] * factor * norm->weight[d];
    }
}

static void run_rows(const struct compute *compute, const struct norm *norm, const float *x,
                     size_t n_rows, float *y, void (*task)(void *, size_t))
{
    if (norm->dim == 0 || n_rows == 0)
        return;
    size_t chunk_rows = norm->dim < CHUNK_FLOATS ? CHUNK_FLOATS / norm->dim : 1;
    struct norm_job job = {norm, x, y, n_rows, chunk_rows};
    pool_run(compute->pool, (n_rows + chunk_rows - 1) / chunk_rows, task, &job);
}

void nn_layer_norm(const struct compute *compute, const struct norm *norm, const float *x,
                   size_t n_rows, float *y)
{
    run_rows(compute, norm, x, n_rows, y, layer_norm_chunk);
}

void nn_rms_norm(const struct compute *compute, const struct norm *norm, const float *x,
                 size_t n_rows, float *y)
{
    run_rows(compute, norm, x, n_rows, y, rms_norm_chunk);
}

struct add_job {
    float *x;
    const float *y;
    size_t n;
};

static void add_chunk(void *context, size_t i)
{
    const struct add_job *job = context;
    size_t end = min_size(job->n, (i + 1) * CHUNK_FLOATS);
    for (size_t at = i * CHUNK_FLOATS; at < end; at++)
        job->x[at] += job->y[at];
}

void nn_add(const struct compute *compute, float *x, const float *y, size_t n)
{
    struct add_job job = {x, y, n};
    pool_run(compute->pool, (n + CHUNK_FLOATS - 1) / CHUNK_FLOATS, add_chunk, &job);
}

void nn_softmax_rows(float *x, size_t n_rows, size_t n)
{
    for (size_t row = 0; n && row < n_rows; row++, x += n) {
        float max = x[0];
        for (size_t i = 1; i < n; i++)
            max = x[i] > max ? x[i] : max;
        if (max == -INFINITY)
            max = 0;
        float sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += x[i] = expf(x[i] - max);
        for (size_t i = 0; i < n; i++)
            x[i] = sum > 0 ? x[i] / sum : 0;
    }
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
