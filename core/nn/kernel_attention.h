/*
 * kernel_attention.h: what the two ways of attention with queries in the lanes share,
 * kernel_attention.c and kernel_attention_tiles.c.
 */
#ifndef VLMD_CORE_NN_KERNEL_ATTENTION_H
#define VLMD_CORE_NN_KERNEL_ATTENTION_H

#include "core/nn/kernels.h"
#include "core/nn/vec.h"

/* Keys that query q_end - 1 sees; those of all queries before it are fewer. */
INLINE size_t keys_seen(const struct attention_shape *shape, const struct attention_item *item,
                        size_t q_end)
{
    if (!shape->causal)
        return item->n_kv;
    return item->n_kv + q_end > item->n_q ? min_size(item->n_kv, item->n_kv + q_end - item->n_q)
                                          : 0;
}

/* bf16 to f32, in a run that may come from memory. */
static inline void widen_row(const uint16_t *from, size_t n, float *wide)
{
    enum { LINE = 32, AHEAD = 16 * LINE, FAR_AHEAD = 48 * LINE };
    uint32_t *to = (uint32_t *)(void *)wide;
    size_t i = 0;
    for (; i + LINE <= n; i += LINE) {
        __builtin_prefetch(from + i + FAR_AHEAD, 0, 2);
        __builtin_prefetch(from + i + AHEAD);
        for (size_t d = i; d < i + LINE; d++)
            to[d] = (uint32_t)from[d] << 16;
    }
    for (; i < n; i++)
        to[i] = (uint32_t)from[i] << 16;
}

/* Keys or values [k0, k0 + n) of a head as rows of f32, *stride apart: where they lie, or widened
 * into wide[n][head_dim]. */
static inline const float *kv_rows(const struct attention_shape *shape,
                                   const struct attention_item *item, const void *base,
                                   size_t kv_head, size_t k0, size_t n, float *wide, size_t *stride)
{
    size_t dim = shape->head_dim, head_stride = item->kv_head_stride ? item->kv_head_stride : dim;
    size_t at = kv_head * head_stride + k0 * item->kv_stride;
    *stride = item->kv_stride;
    if (item->kv_dtype == DTYPE_F32)
        return (const float *)base + at;
    const uint16_t *from = (const uint16_t *)base + at;
    if (item->kv_stride == dim) { /* one run */
        dim *= n;
        n = 1;
    }
    for (size_t j = 0; j < n; j++)
        widen_row(from + j * item->kv_stride, dim, wide + j * dim);
    *stride = shape->head_dim;
    return wide;
}

/* Lane i is query q0 + i, which sees the keys up to n_kv - n_q + q0 + i. */
static inline void mask_causal(const struct attention_item *item, size_t q0, size_t width,
                               size_t k0, size_t n_k, float *scores)
{
    size_t first = item->n_kv + q0; /* key j is seen by lane i when j + n_q <= first + i */
    for (size_t j = 0; j < n_k; j++) {
        size_t key = k0 + j + item->n_q;
        if (key <= first)
            continue;
        size_t hidden = min_size(key - first, width);
        for (size_t i = 0; i < hidden; i++)
            scores[j * width + i] = -INFINITY;
    }
}

/* scores[n], a multiple of LANES, bent to (-cap, cap). */
static inline void cap_scores(float *scores, size_t n, float cap)
{
    for (size_t i = 0; i < n; i += LANES)
        vec_store(scores + i, vec_tanh(vec_load(scores + i) * (1 / cap)) * cap);
}

/* Divides out[dim][width] by the lanes' sums and stores it as the rows of queries [q0, q0 + n_q).
 */
static inline void store_queries(const struct attention_shape *shape,
                                 const struct attention_item *item, size_t head, size_t q0,
                                 size_t n_q, size_t width, const float *out, const float *sum)
{
    size_t dim = shape->head_dim;
    float *to = item->out + q0 * item->out_stride + head * dim;
    for (size_t lane = 0; lane < n_q; lane += LANES) {
        vec total = vec_load(sum + lane);
        vec factor = vec_if_less((vec){0}, total, 1.0f / total, total); /* 0 and NaN stay */
        size_t rows = min_size(LANES, n_q - lane);
        for (size_t d = 0; d < dim; d += LANES) {
            vec block[LANES];
            size_t n = min_size(LANES, dim - d);
            for (size_t i = 0; i < LANES; i++)
                block[i] = i < n ? vec_load(out + (d + i) * width + lane) * factor : (vec){0};
            vec_transpose(block);
            for (size_t i = 0; i < rows; i++) {
                float *row = to + (lane + i) * item->out_stride + d;
                if (n == LANES)
                    vec_store(row, block[i]);
                else
                    vec_store_part(row, block[i], n);
            }
        }
    }
}

#endif
