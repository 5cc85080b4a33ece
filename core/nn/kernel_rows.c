/*
 * kernel_rows.c: activations, softmax, norms and dtype conversion over one run of floats.
 */
#include "core/nn/kernel_finish.h"

/* ---- activations ----------------------------------------------------------------------------- */

INLINE void activate_all(enum activation activation, float *x, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(x + i, activated(activation, vec_load(x + i)));
    if (i < n)
        vec_store_part(x + i, activated(activation, vec_load_part(x + i, n - i)), n - i);
}

void KERNEL(activate)(enum activation activation, float *x, size_t n)
{
#define ACTIVATE(constant) activate_all(constant, x, n)
    WITH_ACTIVATION(activation, ACTIVATE)
#undef ACTIVATE
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* -INFINITY where all are that or no numbers. */
static float row_max(const float *x, size_t n)
{
    size_t whole = n / LANES * LANES;
    vec top = vec_set(-INFINITY);
    for (size_t i = 0; i < whole; i += LANES)
        top = vec_max(vec_load(x + i), top);
    float max = vec_max_lane(top);
    for (size_t i = whole; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

void KERNEL(softmax_row)(float *x, size_t n)
{
    size_t whole = n / LANES * LANES;
    float max = row_max(x, n);
    if (max == -INFINITY)
        max = 0; /* all are masked: the sum is 0 and so is every result */
    vec sums = {0};
    for (size_t i = 0; i < whole; i += LANES) {
        vec e = vec_exp(vec_load(x + i) - max);
        sums += e;
        vec_store(x + i, e);
    }
    float sum = vec_sum(sums);
    if (whole < n) {
        vec e = vec_exp(vec_load_part(x + whole, n - whole) - max);
        vec_store_part(x + whole, e, n - whole);
        for (size_t i = whole; i < n; i++)
            sum += x[i];
    }
    float factor = sum != 0 ? 1 / sum : 0; /* NaN stays NaN */
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* Sums of a block in f32, blocks in double: rows are as long as vocabularies. */
float KERNEL(log_sum_row)(const float *x, size_t n)
{
    enum { BLOCK = 4096 };
    float max = row_max(x, n);
    float shift = isinf(max) ? 0 : max; /* what is no number stays none in the sum */
    double total = 0;
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t end = n - start < BLOCK ? n : start + BLOCK, i = start;
        vec sums = {0};
        for (; i + LANES <= end; i += LANES)
            sums += vec_exp(vec_load(x + i) - shift);
        for (; i < end; i++)
            sums[0] += vec_exp(vec_set(x[i] - shift))[0];
        total += (double)vec_sum(sums);
    }
    return isinf(max) && !isnan(total) ? max : shift + (float)log(total);
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* Sums in 2 · LANES independent parts of f32: their error grows with dim / (2 · LANES), and stays
 * far below 1e-5 for any width that a model has. */
static float sum_of(const float *x, size_t n)
{
    vec a = {0}, b = {0};
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        a += vec_load(x + i);
        b += vec_load(x + i + LANES);
    }
    float sum = vec_sum(a + b);
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

static float sum_of_squares(const float *x, size_t n, float mean)
{
    vec a = {0}, b = {0};
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec p = vec_load(x + i) - mean, q = vec_load(x + i + LANES) - mean;
        a += p * p;
        b += q * q;
    }
    float sum = vec_sum(a + b);
    for (; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

/* y [dim] of f32, or, where y_bf16 is not NULL, rounded to there. */
static void scale_row(const struct norm *norm, const float *x, float mean, float factor, float *y,
                      uint16_t *y_bf16)
{
    enum { BLOCK = 16 * LANES };
    float block[BLOCK];
    const float *weight = norm->weight, *bias = norm->bias;
    for (size_t start = 0; start < norm->dim; start += BLOCK) {
        size_t i = start, end = norm->dim - start < BLOCK ? norm->dim : start + BLOCK;
        float *to = y_bf16 ? block : y + start;
        for (; i + LANES <= end; i += LANES) {
            vec value = (vec_load(x + i) - mean) * factor * vec_load(weight + i);
            vec_store(to + i - start, bias ? value + vec_load(bias + i) : value);
        }
        for (; i < end; i++) {
            float value = (x[i] - mean) * factor * weight[i];
            to[i - start] = bias ? value + bias[i] : value;
        }
        if (y_bf16)
            KERNEL(f32_to_bf16)(block, end - start, y_bf16 + start);
    }
}

void KERNEL(layer_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16)
{
    float dim = (float)norm->dim, mean = sum_of(x, norm->dim) / dim;
    float variance = sum_of_squares(x, norm->dim, mean) / dim;
    scale_row(norm, x, mean, 1 / sqrtf(variance + norm->eps), y, y_bf16);
}

void KERNEL(rms_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16)
{
    float square = sum_of_squares(x, norm->dim, 0) / (float)norm->dim;
    scale_row(norm, x, 0, 1 / sqrtf(square + norm->eps), y, y_bf16);
}

/* ---- dtypes ---------------------------------------------------------------------------------- */

static float f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Without branches, so that the loop over it is vectorised: a half's exponent and fraction moved
 * into place give the value times 2^-112, subnormals included; infinity and NaN need their exponent
 * filled up. */
static inline float f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7FFF) << 13;
    float value = f32_from_bits(rest) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t special = rest | 0x7F800000;
    return f32_from_bits(sign | (rest >= 0x0F800000 ? special : bits));
}

/* What is no number stays none. */
void KERNEL(f32_to_bf16)(const float *src, size_t n, uint16_t *dst)
{
    for (size_t i = 0; i < n; i += 16)
        __builtin_prefetch(src + 512 + i); /* rows one after another, out of a further cache */
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, src + i, sizeof bits);
        uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
        dst[i] = (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? bits >> 16 | 64 : rounded >> 16);
    }
}

void KERNEL(dtype_to_f32)(const void *src, enum dtype dtype, size_t n, float *dst)
{
    const unsigned char *from = src;
    uint16_t half;
    if (dtype == DTYPE_F32) {
        memcpy(dst, src, n * sizeof *dst);
    } else if (dtype == DTYPE_BF16) {
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, sizeof half);
            dst[i] = f32_from_bits((uint32_t)half << 16);
        }
    } else if (dtype == DTYPE_F16) {
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, sizeof half);
            dst[i] = f32_from_f16(half);
        }
    } else {
        memset(dst, 0, n * sizeof *dst);
    }
}
