/*
 * linear.c: y = x · weightᵀ + bias, spread over the pool.
 */
#include <cblas.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/nn/nn.h"
#include "core/nn/nn_internal.h"

static pthread_once_t blas_once = PTHREAD_ONCE_INIT;

/* OpenBLAS runs inside the pool's tasks: threads of its own would fight with the pool's. */
static void blas_start(void)
{
    openblas_set_num_threads(1);
}

enum status linear_init(struct linear *linear, const void *weight, enum dtype dtype,
                        const float *bias, size_t n_out, size_t n_in, struct error *err)
{
    pthread_once(&blas_once, blas_start);
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
        return error_set(err, STATUS_BAD_CHECKPOINT, "a linear layer's weight has dtype %s",
                         dtype_name(dtype));
    size_t n;
    if (!size_mul(n_out, n_in, &n))
        return error_set(err, STATUS_BAD_CHECKPOINT, "a linear layer of %zu x %zu is too large",
                         n_out, n_in);
    struct linear fresh = {.weight = weight, .bias = bias, .n_out = n_out, .n_in = n_in};
    if (dtype != DTYPE_F32 || (uintptr_t)weight % sizeof(float) != 0) {
        float *owned = alloc_array(n, sizeof *owned);
        if (!owned)
            return error_no_memory(err, "a linear layer's weight");
        dtype_to_f32(weight, dtype, n, owned);
        fresh.owned = owned;
        fresh.weight = owned;
    }
    *linear = fresh;
    return STATUS_OK;
}

void linear_release(struct linear *linear)
{
    if (!linear)
        return;
    free(linear->owned);
    *linear = (struct linear){0};
}

enum { BLOCK_OUT = 256, BLOCK_ROWS = 128 };

struct linear_job {
    const struct linear *linear;
    const float *x;
    size_t n_rows;
    enum activation activation;
    const float *residual;
    float *y;
    size_t n_blocks_out;
};

static void linear_block(void *context, size_t i)
{
    const struct linear_job *job = context;
    const struct linear *linear = job->linear;
    size_t n_in = linear->n_in, n_out = linear->n_out;
    size_t row = i / job->n_blocks_out * BLOCK_ROWS, out = i % job->n_blocks_out * BLOCK_OUT;
    size_t rows = min_size(BLOCK_ROWS, job->n_rows - row), outs = min_size(BLOCK_OUT, n_out - out);
    float block[BLOCK_ROWS * BLOCK_OUT];
    if (n_in)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)outs, (int)n_in, 1,
                    job->x + row * n_in, (int)n_in, linear->weight + out * n_in, (int)n_in, 0,
                    block, BLOCK_OUT);
    else
        memset(block, 0, sizeof block);
    for (size_t r = 0; r < rows; r++) {
        float *from = block + r * BLOCK_OUT;
        size_t at = (row + r) * n_out + out;
        if (linear->bias)
            for (size_t o = 0; o < outs; o++)
                from[o] += linear->bias[out + o];
        activate(job->activation, from, outs);
        if (job->residual)
            for (size_t o = 0; o < outs; o++)
                from[o] += job->residual[at + o];
        memcpy(job->y + at, from, outs * sizeof *from);
    }
}

void nn_linear(const struct compute *compute, const struct linear *linear, const float *x,
               size_t n_rows, enum activation activation, const float *residual, float *y)
{
    if (n_rows == 0 || linear->n_out == 0)
        return;
    struct linear_job job = {linear, x, n_rows, activation, residual, y, 0};
    job.n_blocks_out = (linear->n_out + BLOCK_OUT - 1) / BLOCK_OUT;
    size_t n_blocks_rows = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    pool_run(compute->pool, job.n_blocks_out * n_blocks_rows, linear_block, &job);
}
