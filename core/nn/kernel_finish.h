/*
 * kernel_finish.h: what follows a matrix product, for kernel_linear.c and kernel_packed.c.
 */
#ifndef VLMD_CORE_NN_KERNEL_FINISH_H
#define VLMD_CORE_NN_KERNEL_FINISH_H

#include "core/nn/kernel_isa.h"
#include "core/nn/vec.h"

enum { FINISH_MAX = 64 };

/* Adds what follows the product to values[n_rows][width], width a multiple of LANES up to
 * FINISH_MAX, and stores the n <= width valid columns. */
INLINE void finish(const struct linear_job *job, float *values, size_t width, size_t row,
                   size_t n_rows, size_t out, size_t n)
{
    size_t n_out = job->linear->n_out;
    const float *bias = job->linear->bias;
    if (bias) {
        float padded[FINISH_MAX] = {0};
        memcpy(padded, bias + out, n * sizeof *bias);
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = 0; c < width; c += LANES)
                vec_store(values + r * width + c,
                          vec_load(values + r * width + c) + vec_load(padded + c));
    }
    const float *residual = job->residual ? job->residual + row * n_out + out : NULL;
    if (residual && job->residual_first) {
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = 0; c < n; c++)
                values[r * width + c] += residual[r * n_out + c];
        residual = NULL;
    }
    if (job->activation != ACTIVATION_NONE)
        BASE_KERNEL(activate)(job->activation, values, n_rows * width);
    for (size_t r = 0; r < n_rows; r++) {
        const float *from = values + r * width;
        float *to = job->y + (row + r) * n_out + out;
        const float *plus = residual ? residual + r * n_out : NULL;
        size_t c = 0;
        for (; c + LANES <= n; c += LANES)
            vec_store(to + c, plus ? vec_load(from + c) + vec_load(plus + c) : vec_load(from + c));
        for (; c < n; c++)
            to[c] = plus ? from[c] + plus[c] : from[c];
    }
}

#endif
