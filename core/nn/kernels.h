/*
 * kernels.h: the inner loops of core/nn, one table per instruction set.
 *
 * kernel_*.c are compiled once per set; kernels() picks the best that this chip runs (or the one
 * that nn_engine_choose() asked for). All kernels work on the calling thread, take no locks and
 * cannot fail.
 */
#ifndef VLMD_CORE_NN_KERNELS_H
#define VLMD_CORE_NN_KERNELS_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/nn/dots.h"
#include "core/nn/nn_internal.h"

/* Where the rows of a convolution come from: pictures [height, width, channels]. */
struct conv_rows {
    size_t height, width, channels;
    size_t kernel_height, kernel_width, stride, padding;
    size_t out_height, out_width;
};

/* One nn_linear() or nn_conv2d() under way. */
struct linear_job {
    const struct linear *linear;
    const struct conv_rows *conv; /* packed weights alone; NULL: x is the rows */
    const float *x;
    size_t n_rows;
    enum activation activation;
    const float *residual;
    bool residual_first; /* added before the activation */
    float *y;
    const uint16_t *x_bf16; /* packed weights alone: instead of x, and of y; else NULL */
    uint16_t *y_bf16;
    atomic_bool failed; /* some block had no memory */
    uint64_t id;        /* of this call: names what lies packed in a thread's scratch */
    size_t block_rows;  /* a task's rows and outputs */
    size_t block_out;
    size_t n_blocks_out;
};

/* One nn_conv2d() in f32 under way. */
struct conv_job {
    const float *weight; /* as conv2d_prepare() laid it out */
    const float *bias;   /* [n_out] */
    size_t n_out;
    struct conv_rows rows;
    const float *x;
    const float *zeros; /* a pixel outside the picture */
    enum activation activation;
    const float *residual; /* added before the activation, or NULL */
    float *y;
    atomic_bool failed; /* some block had no memory */
    uint64_t id;        /* as linear_job's */
    bool by_patches;    /* rows are patches of 2 x 2 pixels (winograd_block) */
    size_t n_rows, block_rows, n_blocks_out;
};

/* Outputs that lie together in a convolution's weights, and those of a task. */
enum { CONV_OUT = 16, CONV_BLOCK_OUT = 64 };

/* Rows longer than this are multiplied a stretch at a time, LINEAR_LONG_OUT outputs to a task. */
enum { LINEAR_LONG = 3072, LINEAR_LONG_OUT = 192 };
static inline bool linear_is_long(const struct linear_job *job)
{
    return job->linear->n_in > LINEAR_LONG;
}

enum { ATTENTION_TILES_Q = 320, ATTENTION_TILES_DIM = 256 };

struct kernels {
    const char *name;
    size_t lanes;
    size_t group_rows; /* rows, or queries, that one group of tiles takes */

    /* Rows [row, row + n_rows) × outputs [out, out + n_out) of a job. */
    void (*linear_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                         size_t n_out);

    /* The same where the weights are packed; row is a multiple of packed_rows, out of PACK_OUT.
     * False when there is no memory for scratch, which only convolutions can't do without. */
    bool (*packed_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                         size_t n_out);
    size_t packed_rows;         /* that its tiles take at once */
    bool units[N_WEIGHT_FORMS]; /* forms for which the chip has units */
    /* How much faster than f32 the units of bf16 are, measured in some microseconds; NULL where
     * they are known to be. */
    double (*bf16_gain)(void);

    /* The same of a convolution in f32: rows are pixels, or patches of 2 x 2 of them; out is a
     * multiple of CONV_OUT. False when there is no memory for scratch. */
    bool (*conv_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                       size_t n_out);
    bool (*winograd_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                           size_t n_out);

    /* Queries [q0, q0 + n_q), n_q <= group_rows, of one item and head. */
    void (*attention_block)(const struct attention_shape *shape, const struct attention_item *item,
                            size_t head, size_t q0, size_t n_q);
    /* All queries of one item, for the heads that share one key/value head: for few queries. */
    void (*attention_few)(const struct attention_shape *shape, const struct attention_item *item,
                          size_t kv_head);

    /* Queries [q0, q0 + n_q), n_q <= ATTENTION_TILES_Q, by products of bf16; head_dim <=
     * ATTENTION_TILES_DIM. NULL where the chip has no tiles for it. */
    void (*attention_tiles)(const struct attention_shape *shape, const struct attention_item *item,
                            size_t head, size_t q0, size_t n_q);

    void (*activate)(enum activation activation, float *x, size_t n);
    void (*softmax_row)(float *x, size_t n);
    float (*log_sum_row)(const float *x, size_t n); /* NaN when some x is */
    /* One row to y, or, where y_bf16 is not NULL, rounded to there. */
    void (*layer_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16);
    void (*rms_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16);
    void (*f32_to_bf16)(const float *src, size_t n, uint16_t *dst); /* to nearest even */
    void (*dtype_to_f32)(const void *src, enum dtype dtype, size_t n, float *dst);
    void (*dot_rows)(enum dot_form form, const void *rows, const float *scales, size_t n,
                     size_t dim, const float *query, float *scores);
};

const struct kernels *kernels(void);

/* Cuts a job (linear to y filled in) into blocks and runs them; false when one had no memory. */
bool linear_run(struct pool *pool, struct linear_job *job);
uint64_t linear_next_id(void); /* for a job's id; never 0 */

/* Scratch of the calling thread, for one kernel call: SCRATCH_FLOATS floats, 64-byte aligned, NULL
 * when there is no memory for it. `*key` is the id that the last user left there. */
enum { SCRATCH_FLOATS = 512 * 1024, SCRATCH_ROWS = 512 };
struct scratch {
    uint64_t job_id; /* what lies packed here: this job's rows from `row` on */
    size_t row;
    float row_scale[SCRATCH_ROWS]; /* of rows packed as int8: (value + zero) · scale */
    int32_t row_zero[SCRATCH_ROWS];
    _Alignas(64) float floats[SCRATCH_FLOATS];
};
struct scratch *scratch_of_thread(void);

#endif
