/*
 * kernel_finish.h: what follows a matrix product, for kernel_linear.c and kernel_packed.c: each sum
 * is loaded once, becomes a result in registers and is stored where it belongs.
 */
#ifndef VLMD_CORE_NN_KERNEL_FINISH_H
#define VLMD_CORE_NN_KERNEL_FINISH_H

#include "core/nn/kernel_isa.h"
#include "core/nn/vec.h"

/* One vector's activation, which is a constant wherever this is called. */
INLINE vec activated(enum activation activation, vec x)
{
    switch (activation) {
    case ACTIVATION_GELU:
        return vec_gelu(x);
    case ACTIVATION_GELU_TANH:
        return vec_gelu_tanh(x);
    case ACTIVATION_QUICK_GELU:
        return vec_quick_gelu(x);
    case ACTIVATION_RELU:
        return vec_relu(x);
    case ACTIVATION_SILU:
        return vec_silu(x);
    case ACTIVATION_TANH:
        return vec_tanh(x);
    case ACTIVATION_SIGMOID:
        return vec_sigmoid(x);
    default:
        return x;
    }
}

/* Makes of a variable activation a constant one: DO(constant). */
#define WITH_ACTIVATION(activation, DO)                                                            \
    switch (activation) {                                                                          \
    case ACTIVATION_GELU:                                                                          \
        DO(ACTIVATION_GELU);                                                                       \
        break;                                                                                     \
    case ACTIVATION_GELU_TANH:                                                                     \
        DO(ACTIVATION_GELU_TANH);                                                                  \
        break;                                                                                     \
    case ACTIVATION_QUICK_GELU:                                                                    \
        DO(ACTIVATION_QUICK_GELU);                                                                 \
        break;                                                                                     \
    case ACTIVATION_RELU:                                                                          \
        DO(ACTIVATION_RELU);                                                                       \
        break;                                                                                     \
    case ACTIVATION_SILU:                                                                          \
        DO(ACTIVATION_SILU);                                                                       \
        break;                                                                                     \
    case ACTIVATION_TANH:                                                                          \
        DO(ACTIVATION_TANH);                                                                       \
        break;                                                                                     \
    case ACTIVATION_SIGMOID:                                                                       \
        DO(ACTIVATION_SIGMOID);                                                                    \
        break;                                                                                     \
    default:                                                                                       \
        DO(ACTIVATION_NONE);                                                                       \
    }

/* Sums that are whole numbers yet, of products of int8: (sum - zero · sums) · scale · row_scale. */
struct finish_whole {
    const char *const *tails; /* of each 16 columns: float scale[16], int32_t sums[16] */
    const float *row_scale;   /* [n_rows], and so is row_zero */
    const int32_t *row_zero;
};

INLINE vec finish_load(const float *from, const struct finish_whole *whole, size_t c, size_t r)
{
#if defined(__AVX512VNNI__)
    if (whole) {
        const char *tail = whole->tails[c / LANES];
        __m512i zero = _mm512_set1_epi32(whole->row_zero[r]);
        __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(from),
                                       _mm512_mullo_epi32(zero, _mm512_loadu_si512(tail + 64)));
        vec factor = vec_load((const float *)(const void *)tail) * whole->row_scale[r];
        return (vec)_mm512_cvtepi32_ps(sum) * factor;
    }
#else
    (void)whole, (void)c, (void)r;
#endif
    return vec_load(from);
}

/* n <= LANES results. */
INLINE void finish_store(const struct linear_job *job, size_t at, vec value, size_t n)
{
#if defined(__AVX512BF16__)
    if (job->y_bf16) {
        __m256i narrow = (__m256i)_mm512_cvtneps_pbh((__m512)value);
        _mm256_mask_storeu_epi16(job->y_bf16 + at, (__mmask16)((1u << n) - 1), narrow);
        return;
    }
#endif
    if (n < LANES)
        vec_store_part(job->y + at, value, n);
    else
        vec_store(job->y + at, value);
}

INLINE void finish_with(const struct linear_job *job, enum activation activation,
                        const struct finish_whole *whole, const float *values, size_t width,
                        size_t row, size_t n_rows, size_t out, size_t n)
{
    size_t n_out = job->linear->n_out;
    for (size_t c = 0; c < n; c += LANES) {
        size_t left = n - c < LANES ? n - c : LANES, at = row * n_out + out + c;
        bool is_part = left < LANES;
        const float *from = job->linear->bias ? job->linear->bias + out + c : NULL;
        vec bias = !from ? (vec){0} : is_part ? vec_load_part(from, left) : vec_load(from);
        const float *residual = job->residual ? job->residual + at : NULL;
        for (size_t r = 0; r < n_rows; r++, at += n_out) {
            vec value = finish_load(values + r * width + c, whole, c, r) + bias, plus = {0};
            if (residual) {
                plus = is_part ? vec_load_part(residual, left) : vec_load(residual);
                residual += n_out;
            }
            if (job->residual_first) {
                value += plus;
                plus = (vec){0};
            }
            finish_store(job, at, activated(activation, value) + plus, left);
        }
    }
}

/* Adds what follows the product to values[n_rows][width], width a multiple of LANES, and stores the
 * n <= width valid columns. whole: NULL where values are sums in f32. */
INLINE void finish(const struct linear_job *job, const struct finish_whole *whole,
                   const float *values, size_t width, size_t row, size_t n_rows, size_t out,
                   size_t n)
{
#define FINISH(activation) finish_with(job, activation, whole, values, width, row, n_rows, out, n)
    WITH_ACTIVATION(job->activation, FINISH)
#undef FINISH
}

#endif
