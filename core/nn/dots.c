/*
 * dots.c: see dots.h. Many queries at once are the linear layer's product, block by block.
 */
#include "core/nn/dots.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "core/nn/kernels.h"

size_t dot_form_size(enum dot_form form)
{
    static const size_t sizes[N_DOT_FORMS] = {[DOT_F32] = 4, [DOT_F16] = 2, [DOT_I8] = 1};
    return sizes[form];
}

void dot_rows(enum dot_form form, const void *rows, const float *scales, size_t n, size_t dim,
              const float *query, float *scores)
{
    kernels()->dot_rows(form, rows, scales, n, dim, query, scores);
}

uint64_t dot_block_id(void)
{
    return linear_next_id();
}

void dot_block(uint64_t id, const float *queries, size_t n_queries, const float *rows, size_t n,
               size_t dim, float *scores)
{
    const struct linear linear = {.form = WEIGHT_F32, .weight = rows, .n_out = n, .n_in = dim};
    struct linear_job job = {
        .linear = &linear, .x = queries, .n_rows = n_queries, .y = scores, .id = id};
    size_t group = kernels()->group_rows;
    size_t step = linear_is_long(&job) ? LINEAR_LONG_OUT : n;
    for (size_t q = 0; q < n_queries; q += group)
        for (size_t out = 0; out < n; out += step)
            kernels()->linear_block(&job, q, min_size(group, n_queries - q), out,
                                    min_size(step, n - out));
}

void dot_unpack(enum dot_form form, const void *row, float scale, size_t dim, float *out)
{
    if (form == DOT_I8) {
        const int8_t *bytes = row;
        for (size_t i = 0; i < dim; i++)
            out[i] = (float)bytes[i] * scale;
    } else {
        dtype_to_f32(row, form == DOT_F16 ? DTYPE_F16 : DTYPE_F32, dim, out);
    }
}

/* Rounds to the nearest, ties to even; what is too large becomes the largest. */
static uint16_t f16_from_f32(float value)
{
    uint32_t bits, sign;
    float size = fabsf(value);
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    if (size >= 65504.0f)
        return (uint16_t)(sign | 0x7BFF);
    if (size < 0x1p-14f) /* subnormal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(size * 0x1p24f));
    memcpy(&bits, &size, sizeof bits);
    bits += 0xFFF + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

float dot_pack(enum dot_form form, const float *vector, size_t dim, void *row)
{
    if (form == DOT_F32) {
        memcpy(row, vector, dim * sizeof *vector);
        return 1;
    }
    if (form == DOT_F16) {
        for (size_t i = 0; i < dim; i++) {
            uint16_t half = f16_from_f32(vector[i]);
            memcpy((char *)row + 2 * i, &half, sizeof half);
        }
        return 1;
    }
    float top = 0;
    for (size_t i = 0; i < dim; i++)
        top = fmaxf(top, fabsf(vector[i]));
    float scale = top / 127, factor = top > 0 ? 127 / top : 0;
    if (!isfinite(factor)) /* a subnormal row counts as zero */
        factor = 0;
    for (size_t i = 0; i < dim; i++)
        ((int8_t *)row)[i] = (int8_t)lrintf(vector[i] * factor);
    return scale;
}
