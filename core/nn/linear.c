/*
 * linear.c: y = x · weightᵀ + bias, cut into blocks that the pool's threads take.
 *
 * Weights stay where they are, usually the checkpoint's map. The kernels read them in place (see
 * kernel_tile.h); OpenBLAS, the other engine, does the plain product of a block.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/nn/blas.h"
#include "core/nn/kernels.h"
#include "core/nn/packed.h"

enum status linear_init(struct linear *linear, const void *weight, enum dtype dtype,
                        const float *bias, size_t n_out, size_t n_in, struct error *err)
{
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
        return error_set(err, STATUS_BAD_CHECKPOINT, "a linear layer's weight has dtype %s",
                         dtype_name(dtype));
    size_t n;
    if (!size_mul(n_out, n_in, &n))
        return error_set(err, STATUS_BAD_CHECKPOINT, "a linear layer of %zu x %zu is too large",
                         n_out, n_in);
    struct linear fresh = {
        .form = WEIGHT_F32, .weight = weight, .bias = bias, .n_out = n_out, .n_in = n_in};
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

/* ---- OpenBLAS -------------------------------------------------------------------------------- */

enum { BLAS_ROWS = 256, BLAS_OUT = 1024, BLAS_STACK_ROWS = 16, BLAS_STACK_OUT = 256 };

/* The plain way, with no tricks of ours: also the oracle that tests compare the kernels with. The
 * product goes to a buffer first, as the residual may be where the result belongs. */
static void blas_block(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                       size_t n_out)
{
    const struct linear *linear = job->linear;
    size_t n_in = linear->n_in, n_rows_max = BLAS_ROWS, n_out_max = BLAS_OUT;
    float small[BLAS_STACK_ROWS * BLAS_STACK_OUT], *block = small;
    struct scratch *scratch = scratch_of_thread();
    if (scratch) {
        scratch->job_id = 0;
        block = scratch->floats;
    } else {
        n_rows_max = BLAS_STACK_ROWS;
        n_out_max = BLAS_STACK_OUT;
    }
    for (size_t end = row + n_rows; row < end; row += n_rows_max) {
        for (size_t o = out; o < out + n_out; o += n_out_max) {
            size_t rows = min_size(n_rows_max, end - row),
                   outs = min_size(n_out_max, out + n_out - o);
            if (n_in)
                blas_product(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)outs,
                             (int)n_in, 1, job->x + row * n_in, (int)n_in,
                             linear->weight + o * n_in, (int)n_in, 0, block, (int)outs);
            else
                memset(block, 0, rows * outs * sizeof *block);
            for (size_t r = 0; r < rows; r++) {
                float *from = block + r * outs;
                size_t at = (row + r) * linear->n_out + o;
                for (size_t i = 0; linear->bias && i < outs; i++)
                    from[i] += linear->bias[o + i];
                kernels()->activate(job->activation, from, outs);
                for (size_t i = 0; i < outs; i++)
                    job->y[at + i] = job->residual ? from[i] + job->residual[at + i] : from[i];
            }
        }
    }
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Outputs of a task: a multiple of every kernel's step (48), small enough that threads finish
 * together, large enough that taking a task costs nothing beside it. */
enum { BLOCK_OUT = 96 };

/* Packed rows of a block should take a quarter of a core's second-level cache, so that the weights
 * streaming by have room; but no fewer rows than the widest tile has, as far as scratch allows. */
static size_t block_rows_max(size_t n_in)
{
    static _Atomic size_t known;
    size_t floats = atomic_load_explicit(&known, memory_order_relaxed);
    if (floats == 0) {
        long cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
        floats = (cache >= 256 * 1024 ? (size_t)cache : 1024 * 1024) / sizeof(float) / 4;
        atomic_store_explicit(&known, floats, memory_order_relaxed);
    }
    size_t lanes = kernels()->lanes, rows = floats / (n_in + 1);
    if (rows < kernels()->group_rows)
        rows = min_size(kernels()->group_rows, SCRATCH_FLOATS / (n_in + 1));
    rows = min_size(rows, SCRATCH_FLOATS / (n_in + 1)) / lanes * lanes;
    return rows > lanes ? rows : lanes;
}

/* Packed layers: panels of 64 outputs, two to a task, and rows in half a thread's scratch, which is
 * about a quarter of a second-level cache. */
enum { PACKED_BLOCK_OUT = 64, PACKED_ROWS_BYTES = SCRATCH_FLOATS * 4 / 2 };

static size_t packed_rows_max(const struct linear *linear)
{
    size_t row_bytes = packed_in(linear->n_in) * (linear->form == WEIGHT_INT8 ? 1 : 2);
    size_t rows = min_size(PACKED_ROWS_BYTES / row_bytes, SCRATCH_ROWS),
           step = kernels()->packed_rows;
    return rows > step ? rows / step * step : rows > 16 ? 16 : rows;
}

static void linear_task(void *context, size_t i)
{
    struct linear_job *job = context;
    size_t row = i / job->n_blocks_out * job->block_rows;
    size_t out = i % job->n_blocks_out * job->block_out;
    size_t n_rows = min_size(job->block_rows, job->n_rows - row);
    size_t n_out = min_size(job->block_out, job->linear->n_out - out);
    if (job->linear->form != WEIGHT_F32) {
        if (!kernels()->packed_block(job, row, n_rows, out, n_out))
            atomic_store_explicit(&job->failed, true, memory_order_relaxed);
    } else if (engine_uses_blas()) {
        blas_block(job, row, n_rows, out, n_out);
    } else {
        kernels()->linear_block(job, row, n_rows, out, n_out);
    }
}

uint64_t linear_next_id(void)
{
    static _Atomic uint64_t last_id;
    return atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
}

bool linear_run(struct pool *pool, struct linear_job *job)
{
    size_t n_rows = job->n_rows, n_out = job->linear->n_out;
    if (n_rows == 0 || n_out == 0)
        return true;
    job->id = linear_next_id();
    job->block_out = BLOCK_OUT;
    size_t lanes = kernels()->lanes, rows_max = block_rows_max(job->linear->n_in);
    if (job->linear->form != WEIGHT_F32) {
        job->block_out = PACKED_BLOCK_OUT;
        rows_max = packed_rows_max(job->linear);
        lanes = min_size(kernels()->packed_rows, rows_max);
    } else if (engine_uses_blas()) {
        /* It packs the weights of every call: few large blocks. */
        size_t each = (n_out / pool_threads(pool) / BLOCK_OUT + 1) * BLOCK_OUT;
        job->block_out = min_size(each, BLAS_OUT);
        rows_max = BLAS_ROWS;
    } else if (linear_is_long(job)) {
        job->block_out = LINEAR_LONG_OUT;
        rows_max = kernels()->group_rows;
    }
    job->n_blocks_out = (n_out + job->block_out - 1) / job->block_out;
    /* Blocks of nearly equal numbers of rows, whole vectors each but the last. */
    size_t n_blocks = (n_rows + rows_max - 1) / rows_max;
    job->block_rows = ((n_rows + n_blocks - 1) / n_blocks + lanes - 1) / lanes * lanes;
    n_blocks = (n_rows + job->block_rows - 1) / job->block_rows;
    /* The weights' way from memory weighs as much as a few rows. */
    size_t cost = (n_rows + 2) * n_out * (job->linear->n_in + 1);
    pool_run_sized(pool, n_blocks * job->n_blocks_out, cost, linear_task, job);
    return !atomic_load_explicit(&job->failed, memory_order_relaxed);
}

/* Tiles are so fast that the rows' way through the caches shows; slower units were not measured to
 * gain by narrow rows, and keep f32. */
enum dtype nn_linear_dtype(const struct linear *linear)
{
    return linear->form != WEIGHT_F32 && kernels()->attention_tiles ? DTYPE_BF16 : DTYPE_F32;
}

void nn_linear_rows(const struct compute *compute, const struct linear *linear, struct nn_rows x,
                    size_t n_rows, enum activation activation, const float *residual,
                    struct nn_rows y)
{
    struct linear_job job = {
        .linear = linear,
        .n_rows = n_rows,
        .activation = activation,
        .residual = residual,
    };
    if (x.dtype == DTYPE_BF16)
        job.x_bf16 = x.data;
    else
        job.x = x.data;
    if (y.dtype == DTYPE_BF16)
        job.y_bf16 = y.data;
    else
        job.y = y.data;
    linear_run(compute->pool, &job);
}

void nn_linear(const struct compute *compute, const struct linear *linear, const float *x,
               size_t n_rows, enum activation activation, const float *residual, float *y)
{
    nn_linear_rows(compute, linear, (struct nn_rows){(float *)x, DTYPE_F32}, n_rows, activation,
                   residual, (struct nn_rows){y, DTYPE_F32});
}
