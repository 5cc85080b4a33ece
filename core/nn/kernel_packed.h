/*
 * kernel_packed.h: where a packed product's weights and rows lie, for kernel_packed.c and
 * kernel_packed_wide.c.
 */
#ifndef VLMD_CORE_NN_KERNEL_PACKED_H
#define VLMD_CORE_NN_KERNEL_PACKED_H

#include "core/nn/kernel_finish.h"
#include "core/nn/packed.h"

/* A block past the last one stands for the last one; its results are not stored. */
static inline const char *packed_block_at(const struct linear *linear, size_t out)
{
    size_t block = min_size(out / PACK_OUT, (linear->n_out - 1) / PACK_OUT);
    return (const char *)linear->packed + block * packed_block_bytes(linear->form, linear->n_in);
}

/* Where a row of x comes from: itself, or the pixels under a convolution's kernel, which this
 * puts one after another (0 outside the picture). */
static inline void packed_gather(const struct conv_rows *conv, const float *x, size_t row,
                                 float *to)
{
    size_t pixels = conv->out_height * conv->out_width, pixel = row % pixels;
    const float *picture = x + row / pixels * conv->height * conv->width * conv->channels;
    size_t top = pixel / conv->out_width * conv->stride;
    size_t left = pixel % conv->out_width * conv->stride;
    for (size_t ky = 0; ky < conv->kernel_height; ky++) {
        for (size_t kx = 0; kx < conv->kernel_width; kx++, to += conv->channels) {
            size_t py = top + ky - conv->padding, px = left + kx - conv->padding; /* may wrap */
            if (py < conv->height && px < conv->width)
                memcpy(to, picture + (py * conv->width + px) * conv->channels,
                       conv->channels * sizeof *to);
            else
                memset(to, 0, conv->channels * sizeof *to);
        }
    }
}

/* A row of x as it is, f32 or bf16; of a convolution, gathered in f32. */
static inline const void *packed_row_at(const struct linear_job *job, size_t row, float *gathered)
{
    if (job->x_bf16)
        return job->x_bf16 + row * job->linear->n_in;
    if (!job->conv)
        return job->x + row * job->linear->n_in;
    packed_gather(job->conv, job->x, row, gathered);
    return gathered;
}

#endif
