/*
 * conv.c: convolutions. In f32 they have kernels and a layout of weights of their own
 * (kernel_conv.c); where weights are packed, they are matrix products whose rows, the pixels under
 * the kernel at each position, are gathered straight into packed form.
 */
#include "core/nn/conv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/nn/kernels.h"

/* The widest vectors must find one group of rows' room in a thread's scratch. */
enum { LANES_WIDEST = 16, KERNEL_VALUES_MAX = SCRATCH_FLOATS / LANES_WIDEST };

size_t conv2d_out_size(size_t size, size_t kernel, size_t stride, size_t padding)
{
    if (stride == 0 || kernel == 0 || size + 2 * padding < kernel)
        return 0;
    return (size + 2 * padding - kernel) / stride + 1;
}

enum status conv2d_init(struct conv2d *conv, struct conv2d_shape shape, const void *weight,
                        enum dtype dtype, const float *bias, const struct batch_norm *norm,
                        struct error *err)
{
    size_t kernel, n_in, n;
    if (shape.n_out == 0 || shape.n_in == 0 || shape.stride == 0 ||
        !size_mul(shape.kernel_height, shape.kernel_width, &kernel) || kernel == 0 ||
        !size_mul(kernel, shape.n_in, &n_in) || n_in > KERNEL_VALUES_MAX ||
        !size_mul(n_in, shape.n_out, &n))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "cannot do a convolution of %zu to %zu channels with a kernel of %zu x "
                         "%zu and stride %zu",
                         shape.n_in, shape.n_out, shape.kernel_height, shape.kernel_width,
                         shape.stride);
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
        return error_set(err, STATUS_BAD_CHECKPOINT, "a convolution's weight has dtype %s",
                         dtype_name(dtype));
    enum status status = STATUS_OK;
    float *plain = alloc_array(n_in, sizeof *plain), *folded = alloc_array(n, sizeof *folded);
    float *shift = alloc_array(shape.n_out, sizeof *shift);
    if (!plain || !folded || !shift) {
        status = error_no_memory(err, "a convolution's weight");
        goto out;
    }
    for (size_t o = 0; o < shape.n_out; o++) {
        float factor = 1, add = bias ? bias[o] : 0;
        if (norm) {
            factor = norm->weight[o] / sqrtf(norm->variance[o] + norm->eps);
            add = norm->bias[o] + (add - norm->mean[o]) * factor;
        }
        shift[o] = add;
        /* [n_in, kernel] to [kernel, n_in]: the order in which a channels-last picture is read */
        dtype_to_f32((const unsigned char *)weight + o * n_in * dtype_size(dtype), dtype, n_in,
                     plain);
        for (size_t i = 0; i < shape.n_in; i++)
            for (size_t k = 0; k < kernel; k++)
                folded[o * n_in + k * shape.n_in + i] = plain[i * kernel + k] * factor;
    }
    *conv = (struct conv2d){
        .shape = shape,
        .linear =
            {.weight = folded, .bias = shift, .n_out = shape.n_out, .n_in = n_in, .owned = folded},
        .bias = shift,
    };
    folded = shift = NULL;
out:
    free(plain);
    free(folded);
    free(shift);
    return status;
}

void conv2d_release(struct conv2d *conv)
{
    if (!conv)
        return;
    linear_release(&conv->linear);
    free(conv->bias);
    free(conv->laid_out);
    *conv = (struct conv2d){0};
}

/* ---- weights of f32 kernels
 * -------------------------------------------------------------------
 *
 * [n_out / CONV_OUT][part][n_in][CONV_OUT], the last outputs filled up with zeros. A part is a
 * pixel of the kernel, or, for 3 × 3 kernels of stride 1, one of the 16 points of Winograd's form
 * (kernel_conv.c): G g Gᵀ.
 */

enum { POINTS = 16 };

static bool is_by_patches(const struct conv2d_shape *shape)
{
    return shape->kernel_height == 3 && shape->kernel_width == 3 && shape->stride == 1;
}

struct layout_job {
    const struct conv2d *conv;
    size_t n_parts;
    float *to;
};

/* The 9 values of a kernel, `step` apart, as 16. */
static void winograd_weights(const float *kernel, size_t step, float points[POINTS])
{
    float rows[4][3];
    for (size_t x = 0; x < 3; x++) {
        float a = kernel[x * step], b = kernel[(3 + x) * step], c = kernel[(6 + x) * step];
        rows[0][x] = a;
        rows[1][x] = (a + b + c) / 2;
        rows[2][x] = (a - b + c) / 2;
        rows[3][x] = c;
    }
    for (size_t y = 0; y < 4; y++) {
        float a = rows[y][0], b = rows[y][1], c = rows[y][2];
        points[4 * y] = a;
        points[4 * y + 1] = (a + b + c) / 2;
        points[4 * y + 2] = (a - b + c) / 2;
        points[4 * y + 3] = c;
    }
}

static void lay_out_block(void *context, size_t block)
{
    const struct layout_job *job = context;
    const struct conv2d_shape *shape = &job->conv->shape;
    size_t n_in = shape->n_in, n = min_size(CONV_OUT, shape->n_out - block * CONV_OUT);
    float *to = job->to + block * job->n_parts * n_in * CONV_OUT;
    memset(to, 0, job->n_parts * n_in * CONV_OUT * sizeof *to);
    for (size_t o = 0; o < n; o++) {
        const float *from =
            job->conv->linear.weight + (block * CONV_OUT + o) * job->conv->linear.n_in;
        for (size_t i = 0; i < n_in; i++) {
            float points[POINTS];
            if (is_by_patches(shape))
                winograd_weights(from + i, n_in, points);
            for (size_t part = 0; part < job->n_parts; part++)
                to[(part * n_in + i) * CONV_OUT + o] =
                    is_by_patches(shape) ? points[part] : from[part * n_in + i];
        }
    }
}

enum status conv2d_prepare(struct conv2d *conv, struct pool *pool, struct error *err)
{
    const struct conv2d_shape *shape = &conv->shape;
    struct layout_job job = {
        .conv = conv,
        .n_parts = is_by_patches(shape) ? POINTS : shape->kernel_height * shape->kernel_width,
    };
    size_t n_blocks = (shape->n_out + CONV_OUT - 1) / CONV_OUT, n, bytes;
    if (!size_mul(n_blocks * CONV_OUT, job.n_parts * shape->n_in, &n) ||
        !size_mul(n, sizeof(float), &bytes) || !(job.to = aligned_alloc(64, bytes)))
        return error_no_memory(err, "a convolution's weight");
    if (pool)
        pool_run(pool, n_blocks, lay_out_block, &job);
    else
        for (size_t i = 0; i < n_blocks; i++)
            lay_out_block(&job, i);
    free(conv->linear.owned);
    conv->linear.owned = NULL;
    conv->linear.weight = NULL;
    conv->laid_out = job.to;
    return STATUS_OK;
}

/* ---- running
 * ----------------------------------------------------------------------------------
 */

/* The pixel that lies outside of every picture. */
static const float zeros[KERNEL_VALUES_MAX];

static void conv_task(void *context, size_t i)
{
    struct conv_job *job = context;
    size_t row = i / job->n_blocks_out * job->block_rows,
           out = i % job->n_blocks_out * CONV_BLOCK_OUT;
    size_t n_rows = min_size(job->block_rows, job->n_rows - row);
    size_t n_out = min_size(CONV_BLOCK_OUT, job->n_out - out);
    bool fine = job->by_patches ? kernels()->winograd_block(job, row, n_rows, out, n_out)
                                : kernels()->conv_block(job, row, n_rows, out, n_out);
    if (!fine)
        atomic_store_explicit(&job->failed, true, memory_order_relaxed);
}

/* Rows of a task: what they are read from, or turned into, should take a quarter or a half of a
 * second-level cache, so that weights streaming by have room; ROWS_MIN of the largest fit into
 * scratch. */
enum { PLAIN_FLOATS = 1 << 17, PATCH_FLOATS = 1 << 18, ROWS_MIN = 8, ROWS_MAX = 288 };

static bool run_f32(struct pool *pool, struct conv_job *job)
{
    const struct conv_rows *rows = &job->rows;
    size_t n_parts = job->by_patches ? POINTS : rows->kernel_height * rows->kernel_width;
    size_t rows_max = job->by_patches
                          ? PATCH_FLOATS / (POINTS * rows->channels)
                          : min_size(PLAIN_FLOATS / rows->channels, PLAIN_FLOATS / n_parts);
    rows_max = min_size(rows_max > ROWS_MIN ? rows_max : ROWS_MIN, ROWS_MAX);
    size_t n_blocks = (job->n_rows + rows_max - 1) / rows_max;
    job->block_rows = (job->n_rows + n_blocks - 1) / n_blocks;
    job->n_blocks_out = (job->n_out + CONV_BLOCK_OUT - 1) / CONV_BLOCK_OUT;
    job->id = linear_next_id();
    size_t cost = (job->n_rows + 4) * job->n_out * n_parts * rows->channels;
    pool_run_sized(pool, n_blocks * job->n_blocks_out, cost, conv_task, job);
    return !atomic_load_explicit(&job->failed, memory_order_relaxed);
}

enum status nn_conv2d(const struct compute *compute, const struct conv2d *conv, const float *x,
                      size_t n, size_t height, size_t width, enum activation activation,
                      const float *residual, float *y, struct error *err)
{
    const struct conv2d_shape *shape = &conv->shape;
    struct conv_rows rows = {
        .height = height,
        .width = width,
        .channels = shape->n_in,
        .kernel_height = shape->kernel_height,
        .kernel_width = shape->kernel_width,
        .stride = shape->stride,
        .padding = shape->padding,
        .out_height = conv2d_out_size(height, shape->kernel_height, shape->stride, shape->padding),
        .out_width = conv2d_out_size(width, shape->kernel_width, shape->stride, shape->padding),
    };
    size_t n_rows = n * rows.out_height * rows.out_width;
    if (n_rows == 0)
        return STATUS_OK;
    bool fine;
    if (conv->laid_out) {
        bool by_patches = is_by_patches(shape);
        size_t n_patches = n * ((rows.out_height + 1) / 2) * ((rows.out_width + 1) / 2);
        struct conv_job job = {
            .weight = conv->laid_out,
            .bias = conv->bias,
            .n_out = shape->n_out,
            .rows = rows,
            .x = x,
            .zeros = zeros,
            .activation = activation,
            .residual = residual,
            .y = y,
            .by_patches = by_patches,
            .n_rows = by_patches ? n_patches : n_rows,
        };
        fine = run_f32(compute->pool, &job);
    } else {
        bool pointwise = shape->kernel_height == 1 && shape->kernel_width == 1 &&
                         shape->stride == 1 && shape->padding == 0;
        struct linear_job job = {
            .linear = &conv->linear,
            .conv = pointwise ? NULL : &rows,
            .x = x,
            .n_rows = n_rows,
            .activation = activation,
            .residual = residual,
            .residual_first = true,
            .y = y,
        };
        fine = linear_run(compute->pool, &job);
    }
    return fine ? STATUS_OK : error_no_memory(err, "a convolution");
}

/* ---- layout and pooling ---------------------------------------------------------------------- */

struct planar_job {
    const float *const *pictures;
    size_t channels, height, width;
    float *out;
};

static void channels_last_row(void *context, size_t i)
{
    const struct planar_job *job = context;
    const float *from = job->pictures[i / job->height] + i % job->height * job->width;
    float *to = job->out + i * job->width * job->channels;
    for (size_t c = 0; c < job->channels; c++)
        for (size_t x = 0; x < job->width; x++)
            to[x * job->channels + c] = from[c * job->height * job->width + x];
}

void nn_channels_last(const struct compute *compute, const float *const *pictures, size_t n,
                      size_t channels, size_t height, size_t width, float *out)
{
    struct planar_job job = {pictures, channels, height, width, out};
    pool_run(compute->pool, n * height, channels_last_row, &job);
}

struct pool_job {
    const float *x;
    size_t height, width, channels, size, stride, padding;
    size_t out_height, out_width;
    bool max;
    float *y;
};

/* One row of results. */
static void pool2d_row(void *context, size_t i)
{
    const struct pool_job *job = context;
    size_t channels = job->channels, oy = i % job->out_height;
    const float *picture = job->x + i / job->out_height * job->height * job->width * channels;
    for (size_t ox = 0; ox < job->out_width; ox++) {
        float *y = job->y + (i * job->out_width + ox) * channels;
        for (size_t c = 0; c < channels; c++)
            y[c] = job->max ? -INFINITY : 0;
        for (size_t k = 0; k < job->size * job->size; k++) {
            size_t py = oy * job->stride + k / job->size, px = ox * job->stride + k % job->size;
            if (py < job->padding || py - job->padding >= job->height || px < job->padding ||
                px - job->padding >= job->width)
                continue;
            const float *from =
                picture + ((py - job->padding) * job->width + px - job->padding) * channels;
            if (job->max)
                for (size_t c = 0; c < channels; c++)
                    y[c] = y[c] > from[c] ? y[c] : from[c];
            else
                for (size_t c = 0; c < channels; c++)
                    y[c] += from[c];
        }
        if (!job->max)
            for (size_t c = 0; c < channels; c++)
                y[c] /= (float)(job->size * job->size);
    }
}

static void pool2d(const struct compute *compute, struct pool_job job, size_t n)
{
    job.out_height = conv2d_out_size(job.height, job.size, job.stride, job.padding);
    job.out_width = conv2d_out_size(job.width, job.size, job.stride, job.padding);
    pool_run(compute->pool, n * job.out_height, pool2d_row, &job);
}

void nn_avg_pool2d(const struct compute *compute, const float *x, size_t n, size_t height,
                   size_t width, size_t channels, size_t size, size_t stride, float *y)
{
    pool2d(compute,
           (struct pool_job){.x = x,
                             .height = height,
                             .width = width,
                             .channels = channels,
                             .size = size,
                             .stride = stride,
                             .y = y},
           n);
}

void nn_max_pool2d(const struct compute *compute, const float *x, size_t n, size_t height,
                   size_t width, size_t channels, size_t size, size_t stride, size_t padding,
                   float *y)
{
    pool2d(compute,
           (struct pool_job){.x = x,
                             .height = height,
                             .width = width,
                             .channels = channels,
                             .size = size,
                             .stride = stride,
                             .padding = padding,
                             .max = true,
                             .y = y},
           n);
}
