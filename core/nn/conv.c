/*
 * conv.c: convolutions as matrix products. The rows of the product (the pixels under the kernel at
 * each position) are never stored: the kernels gather them straight into packed form.
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
    *conv = (struct conv2d){0};
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
    bool pointwise = shape->kernel_height == 1 && shape->kernel_width == 1 && shape->stride == 1 &&
                     shape->padding == 0;
    size_t n_rows = n * rows.out_height * rows.out_width;
    struct linear_job job = {
        .linear = &conv->linear,
        .conv = pointwise ? NULL : &rows,
        .x = x,
        .n_rows = n_rows,
        .activation = residual ? ACTIVATION_NONE : activation,
        .residual = residual,
        .y = y,
    };
    if (!linear_run(compute->pool, &job))
        return error_no_memory(err, "a convolution");
    if (residual)
        nn_activate(compute, activation, y, n_rows * shape->n_out);
    return STATUS_OK;
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
