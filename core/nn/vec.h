/*
 * vec.h: a vector of floats as wide as the instruction set this file is compiled for, by GNU vector
 * extensions: 16 lanes with AVX-512, 8 with AVX2, 4 elsewhere (SSE2, NEON). Only the kernel_*.c
 * files include it; each is compiled once per instruction set (see meson.build) and its functions
 * carry the set's name, so that code for a newer chip is never reached on an older one.
 */
#ifndef VLMD_CORE_NN_VEC_H
#define VLMD_CORE_NN_VEC_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

/* Accumulators that fit beside the operands of an inner loop. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define MANY_REGISTERS 1
#else
#define MANY_REGISTERS 0
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
/* the same at any address, over memory of any type */
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec vec_load(const float *from)
{
    return *(const vec_anywhere *)from;
}

INLINE void vec_store(float *to, vec value)
{
    *(vec_anywhere *)to = value;
}

INLINE vec vec_set(float value)
{
    return value - (vec){0};
}

/* The first n < LANES floats, the rest 0. Reads and writes no others. */
INLINE vec vec_load_part(const float *from, size_t n)
{
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
#else
    vec value = {0};
    memcpy(&value, from, n * sizeof(float));
    return value;
#endif
}

INLINE void vec_store_part(float *to, vec value, size_t n)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)value);
#else
    memcpy(to, &value, n * sizeof(float));
#endif
}

/* a < b ? yes : no, lane by lane; no where either is NaN. */
INLINE vec vec_if_less(vec a, vec b, vec yes, vec no)
{
#if defined(__AVX512F__)
    return (vec)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ),
                                     (__m512)no, (__m512)yes);
#else
    ivec mask = a < b;
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
#endif
}

/* The larger; b where either is NaN. */
INLINE vec vec_max(vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_if_less(b, a, a, b);
#endif
}

/* The smaller; b where either is NaN. */
INLINE vec vec_min(vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vec_if_less(a, b, a, b);
#endif
}

/* A vector of four lanes, whatever the set: what is left when wider ones are folded in half. */
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec4 __attribute__((vector_size(16)));

INLINE vec4 vec_fold(vec value)
{
#if defined(__AVX512F__)
    __m512 all = (__m512)value;
    vec4 a = (vec4)_mm512_castps512_ps128(all), b = (vec4)_mm512_extractf32x4_ps(all, 1);
    vec4 c = (vec4)_mm512_extractf32x4_ps(all, 2), d = (vec4)_mm512_extractf32x4_ps(all, 3);
    return (a + b) + (c + d);
#elif defined(__AVX2__)
    return (vec4)_mm256_castps256_ps128((__m256)value) +
           (vec4)_mm256_extractf128_ps((__m256)value, 1);
#else
    return value;
#endif
}

INLINE float vec_sum(vec value)
{
    vec4 four = vec_fold(value);
    four += __builtin_shufflevector(four, four, 2, 3, 0, 1);
    return four[0] + four[1];
}

/* The sums of four vectors. */
INLINE vec4 vec_sum4(const vec v[4])
{
    vec4 a = vec_fold(v[0]), b = vec_fold(v[1]), c = vec_fold(v[2]), d = vec_fold(v[3]);
    vec4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    vec4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

INLINE float vec_max_lane(vec value)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)value);
#else
    float max = value[0];
    for (int i = 1; i < LANES; i++)
        max = value[i] > max ? value[i] : max;
    return max;
#endif
}

/* a0 b0 a1 b1 …: the lower halves of two vectors interleaved, and the upper ones. */
#if defined(__AVX512F__)
#define VEC_LOW  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VEC_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define VEC_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define VEC_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define VEC_LOW  0, 4, 1, 5
#define VEC_HIGH 2, 6, 3, 7
#endif

/* Transposes LANES × LANES in place: interleaving row i with row i + LANES/2, log2(LANES) times. */
INLINE void vec_transpose(vec rows[LANES])
{
    for (int step = 1; step < LANES; step *= 2) {
        vec next[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = __builtin_shufflevector(rows[i], rows[i + LANES / 2], VEC_LOW);
            next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + LANES / 2], VEC_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            rows[i] = next[i];
    }
}

/* Lane i of the result is the sum of rows[i] (which are overwritten). */
INLINE vec vec_sum_rows(vec rows[LANES])
{
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            rows[i] = __builtin_shufflevector(rows[i], rows[i + half], VEC_LOW) +
                      __builtin_shufflevector(rows[i], rows[i + half], VEC_HIGH);
    return rows[0];
}

/* e^x to 2 units in the last place; 0 below -87.3 (where results would be subnormal), infinity
 * above 88.7, NaN for NaN. e^x = 2^n · e^r with |r| <= ln 2 / 2; the coefficients here and below
 * are minimax fits by tests/reference/nn_polynomials.py. */
INLINE vec vec_exp(vec x)
{
    const float round = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    vec clamped = vec_max(vec_set(-88.0f), vec_min(vec_set(89.0f), x));
    vec shifted = clamped * 1.44269504f + round;
    vec n = shifted - round;
    vec r = clamped - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    vec p = r * 1.39504791e-3f + 8.36888375e-3f;
    p = p * r + 4.16662060e-2f;
    p = p * r + 1.66665189e-1f;
    p = p * r + 5.00000010e-1f;
    p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
    __mmask16 keep = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.33f), _CMP_NLT_UQ);
    return (vec)_mm512_maskz_scalef_ps(keep, (__m512)p, (__m512)n);
#else
    /* 2^n in two factors, as n may be 128 */
    ivec whole = (ivec)shifted - (ivec)vec_set(round);
    ivec half = whole >> 1;
    vec first = (vec)((half + 127) << 23), second = (vec)((whole - half + 127) << 23);
    vec result = p * first * second;
    return vec_if_less(x, vec_set(-87.33f), (vec){0}, result);
#endif
}

/* 1 / x for x >= 1, to 2 units in the last place; 0 above 1e37. */
INLINE vec vec_inverse(vec x)
{
#if defined(__AVX512F__)
    /* a division takes as long as all else in an activation: a guess of 14 bits, doubled */
    __m512 guess = _mm512_rcp14_ps((__m512)x);
    __mmask16 keep = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(1e37f), _CMP_NGT_UQ);
    __m512 more = _mm512_fnmadd_ps((__m512)x, guess, _mm512_set1_ps(2.0f));
    return (vec)_mm512_maskz_mul_ps(keep, guess, more);
#else
    return 1.0f / x;
#endif
}

INLINE vec vec_sigmoid(vec x)
{
    return vec_inverse(1.0f + vec_exp(-x));
}

/* Near 0, where 1 - 2 / (e^2x + 1) would cancel, an odd polynomial. */
INLINE vec vec_tanh(vec x)
{
    vec size = (vec)((ivec)x & 0x7FFFFFFF);
    vec square = x * x;
    vec p = square * -5.52862459e-3f + 2.04833065e-2f;
    p = p * square - 5.36929645e-2f;
    p = p * square + 1.33308997e-1f;
    p = p * square - 3.33332629e-1f;
    vec near = p * square * x + x;
    vec far = 1.0f - 2.0f * vec_inverse(vec_exp(size * 2.0f) + 1.0f);
    far = (vec)((ivec)far | ((ivec)x & INT32_MIN));
    return vec_if_less(size, vec_set(0.625f), near, far);
}

/* x · P(X <= x) for a standard normal X. The tail 2 P(X > |x|) = erfc(|x| / sqrt 2) is e^q with a
 * polynomial q: no division, and no cancellation on the negative side. Below -5.5 it is less than
 * 1e-7 and taken as 0. */
INLINE vec vec_gelu(vec x)
{
    vec size = (vec)((ivec)x & 0x7FFFFFFF);
    size = vec_min(vec_set(5.5f), size);
    vec q = size * 1.90690139e-9f - 6.96219598e-8f;
    q = q * size + 1.13258866e-6f;
    q = q * size - 1.07247326e-5f;
    q = q * size + 6.34618107e-5f;
    q = q * size - 2.13847705e-4f;
    q = q * size + 1.93352464e-5f;
    q = q * size + 4.81072755e-3f;
    q = q * size - 3.63560495e-2f;
    q = q * size - 3.18303034e-1f;
    q = q * size - 7.97885425e-1f;
    q = q * size;
    vec tail = vec_exp(q) * 0.5f;
    vec result = x * vec_if_less(x, (vec){0}, tail, 1.0f - tail);
    return vec_if_less(x, vec_set(-5.5f), (vec){0}, result);
}

INLINE vec vec_gelu_tanh(vec x)
{
    return x * vec_sigmoid(x * (1.59576912f + 0.0713548163f * (x * x)));
}

INLINE vec vec_quick_gelu(vec x)
{
    return x * vec_sigmoid(x * 1.702f);
}

INLINE vec vec_silu(vec x)
{
    return x * vec_sigmoid(x);
}

INLINE vec vec_relu(vec x)
{
    return vec_max((vec){0}, x);
}

#endif
