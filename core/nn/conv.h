/*
 * conv.h: convolutions and pooling, for towers that aren't transformers (ResNet).
 *
 * Pictures are channels-last here, [n, height, width, channels]: a pixel is a row of features, so
 * that a 1 × 1 convolution is a linear layer, and a feature map is a sequence of tokens without
 * moving a float. nn_channels_last() brings planar pictures into this form.
 */
#ifndef VLMD_CORE_NN_CONV_H
#define VLMD_CORE_NN_CONV_H

#include "core/nn/nn.h"

/* Batch norm as at inference: (x - mean) / sqrt(variance + eps) · weight + bias; all [n_out]. */
struct batch_norm {
    const float *weight, *bias, *mean, *variance;
    float eps;
};

struct conv2d_shape {
    size_t n_out, n_in; /* channels */
    size_t kernel_height, kernel_width;
    size_t stride, padding; /* the same both ways */
};

/* Filled by conv2d_init(); treat as opaque. */
struct conv2d {
    struct conv2d_shape shape;
    struct linear linear; /* owned: [n_out, kernel_height · kernel_width · n_in] */
    float *bias;          /* owned */
    float *laid_out;      /* owned; what conv2d_prepare() made of linear.weight */
};

/* Takes a weight [n_out, n_in, kernel_height, kernel_width] (PyTorch's order) of any floating
 * dtype, a bias [n_out] or NULL, and the batch norm that follows, or NULL, which is folded in.
 * Everything is copied. STATUS_BAD_CHECKPOINT for a shape that makes no sense or a kernel that
 * covers more than 16,384 values, STATUS_NO_MEMORY. */
enum status conv2d_init(struct conv2d *conv, struct conv2d_shape shape, const void *weight,
                        enum dtype dtype, const float *bias, const struct batch_norm *norm,
                        struct error *err);
void conv2d_release(struct conv2d *conv);

/* What must come between conv2d_init() and nn_conv2d(), unless `linear` was given packed weights:
 * lays the weights out for the kernels of f32, over all threads of the pool (NULL: the calling
 * one). STATUS_NO_MEMORY. */
enum status conv2d_prepare(struct conv2d *conv, struct pool *pool, struct error *err);

/* floor((size + 2 · padding - kernel) / stride) + 1; 0 where the kernel doesn't fit. */
size_t conv2d_out_size(size_t size, size_t kernel, size_t stride, size_t padding);

/* y [n, out_height, out_width, n_out] = activation(conv(x) + residual): the activation comes last,
 * as ResNet blocks have it (nn_linear adds its residual after). x and y must not overlap; residual
 * may be y, or NULL. STATUS_NO_MEMORY without scratch; y is then undefined. */
enum status nn_conv2d(const struct compute *compute, const struct conv2d *conv, const float *x,
                      size_t n, size_t height, size_t width, enum activation activation,
                      const float *residual, float *y, struct error *err);

/* Planar pictures [channels, height, width] to out [n, height, width, channels]. */
void nn_channels_last(const struct compute *compute, const float *const *pictures, size_t n,
                      size_t channels, size_t height, size_t width, float *out);

/* Pooling over size × size windows. Averages take no padding; maxima see -infinity there, as
 * PyTorch's do. y is [n, conv2d_out_size(height, …), conv2d_out_size(width, …), channels]. */
void nn_avg_pool2d(const struct compute *compute, const float *x, size_t n, size_t height,
                   size_t width, size_t channels, size_t size, size_t stride, float *y);
void nn_max_pool2d(const struct compute *compute, const float *x, size_t n, size_t height,
                   size_t width, size_t channels, size_t size, size_t stride, size_t padding,
                   float *y);

#endif
