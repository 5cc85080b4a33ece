/*
 * kernel_attention.c: softmax(scale · q kᵀ + mask) v for one block of queries of one head.
 *
 * Keys are taken KEYS_STEP at a time, with the running maximum and sum of "online" softmax
 * (Milakov and Gimelshein, 2018), so that one block of scores is all that is ever stored.
 *
 * attention_block: queries lie in the lanes. Scores, probabilities and the output stand with the
 * query last ([key][query], [dim][query]), so that both products are lanes products over keys and
 * values in place, and softmax needs no sums across lanes.
 * attention_few: for decoding. Dot products with the keys, weighted sums of the values; the query
 * heads that share a key/value head go together, so that the cache is read once.
 */
#include "core/nn/kernel_attention.h"
#include "core/nn/kernel_isa.h"
#include "core/nn/kernel_tile.h"

enum { KEYS_STEP = 4 * LANES_STEP };

/* ---- many queries ---------------------------------------------------------------------------- */

/* Softmax over one block of scores[n_k][vecs · LANES], in place, against the running maximum and
 * sum; scales the output so far, out[dim][vecs · LANES]. */
static void softmax_step(size_t vecs, float *scores, size_t n_k, float *max, float *sum, float *out,
                         size_t dim)
{
    size_t width = vecs * LANES;
    for (size_t v = 0; v < width; v += LANES) {
        vec before = vec_load(max + v), top = before;
        for (size_t j = 0; j < n_k; j++)
            top = vec_max(vec_load(scores + j * width + v), top);
        /* where all keys so far are masked, any finite shift gives e^-infinity = 0 */
        vec shift = vec_max(top, vec_set(-3e38f));
        vec keep = vec_exp(before - shift), total = {0};
        for (size_t j = 0; j < n_k; j++) {
            vec e = vec_exp(vec_load(scores + j * width + v) - shift);
            vec_store(scores + j * width + v, e);
            total += e;
        }
        vec_store(max + v, top);
        vec_store(sum + v, vec_load(sum + v) * keep + total);
        for (size_t d = 0; d < dim; d++)
            vec_store(out + d * width + v, vec_load(out + d * width + v) * keep);
    }
}

void KERNEL(attention_block)(const struct attention_shape *shape, const struct attention_item *item,
                             size_t head, size_t q0, size_t n_q)
{
    size_t dim = shape->head_dim, vecs = (n_q + LANES - 1) / LANES, width = vecs * LANES;
    size_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    struct scratch *scratch = scratch_of_thread();
    scratch->job_id = 0;
    float *scores = scratch->floats, *packed = scores + KEYS_STEP * LANES_MAX;
    float *out = packed + dim * width, *wide = out + dim * width;
    _Alignas(64) float max[LANES_MAX], sum[LANES_MAX];
    for (size_t i = 0; i < width; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }
    memset(out, 0, dim * width * sizeof *out);
    const float *queries[LANES_MAX];
    for (size_t i = 0; i < width; i++)
        queries[i] =
            i < n_q ? (const float *)item->q + (q0 + i) * item->q_stride + head * dim : NULL;
    lanes_pack(vecs, queries, dim, shape->scale, packed);

    size_t n_kv = keys_seen(shape, item, q0 + n_q);
    for (size_t k0 = 0; k0 < n_kv; k0 += KEYS_STEP) {
        size_t n_k = min_size(KEYS_STEP, n_kv - k0), stride;
        const float *k = kv_rows(shape, item, item->k, kv_head, k0, n_k, wide, &stride);
        lanes_product(vecs, k, stride, 1, n_k, packed, dim, scores, false);
        if (shape->cap > 0)
            cap_scores(scores, n_k * width, shape->cap);
        for (size_t j = 0; item->key_bias && j < n_k; j++)
            for (size_t i = 0; i < width; i += LANES)
                vec_store(scores + j * width + i,
                          vec_load(scores + j * width + i) + item->key_bias[k0 + j]);
        if (shape->causal)
            mask_causal(item, q0, width, k0, n_k, scores);
        softmax_step(vecs, scores, n_k, max, sum, out, dim);
        const float *v = kv_rows(shape, item, item->v, kv_head, k0, n_k, wide, &stride);
        lanes_product(vecs, v, 1, stride, dim, scores, n_k, out, true);
    }

    store_queries(shape, item, head, q0, n_q, width, out, sum);
}

/* ---- few queries ----------------------------------------------------------------------------- */

/* a dim of at least so many vectors keeps the multipliers busy by itself; narrower ones take
 * several keys side by side */
#define ADD_WEIGHTED(vecs, keys)                                                                   \
    for (; d + (vecs)*LANES <= dim; d += (vecs)*LANES) {                                           \
        vec sums[keys][vecs];                                                                      \
        _Pragma("GCC unroll 4") for (int i = 0; i < (vecs); i++)                                   \
        {                                                                                          \
            sums[0][i] = vec_load(out + d + i * LANES) * keep;                                     \
            _Pragma("GCC unroll 4") for (int u = 1; u < (keys); u++) sums[u][i] = (vec){0};        \
        }                                                                                          \
        const float *from = v + d;                                                                 \
        size_t j = 0;                                                                              \
        for (; j + (keys) <= n_k; j += (keys), from += (keys)*v_row)                               \
            _Pragma("GCC unroll 4") for (size_t u = 0; u < (keys); u++)                            \
                _Pragma("GCC unroll 4") for (int i = 0; i < (vecs); i++) sums[u][i] +=             \
                weights[j + u] * vec_load(from + u * v_row + i * LANES);                           \
        for (; j < n_k; j++, from += v_row)                                                        \
            _Pragma("GCC unroll 4") for (int i = 0; i < (vecs); i++) sums[0][i] +=                 \
                weights[j] * vec_load(from + i * LANES);                                           \
        _Pragma("GCC unroll 4") for (int i = 0; i < (vecs); i++)                                   \
        {                                                                                          \
            _Pragma("GCC unroll 4") for (int u = 1; u < (keys); u++) sums[0][i] += sums[u][i];     \
            vec_store(out + d + i * LANES, sums[0][i]);                                            \
        }                                                                                          \
    }

/* out[d] = keep · out[d] + sum over j of weights[j] · v[j][d] */
static void add_weighted(const float *weights, const float *v, size_t v_row, size_t n_k, float keep,
                         float *out, size_t dim)
{
    size_t d = 0;
    ADD_WEIGHTED(4, 2)
    ADD_WEIGHTED(2, 4)
    ADD_WEIGHTED(1, 4)
    for (; d < dim; d++) {
        float a = out[d] * keep;
        for (size_t j = 0; j < n_k; j++)
            a += weights[j] * v[j * v_row + d];
        out[d] = a;
    }
}

/* scores[j] = q · k[j] for one query: as many keys as there are lanes at once, whose sums across
 * lanes then cost little. */
static void dot_keys(const float *q, const float *k, size_t k_row, size_t n_k, size_t dim,
                     float *scores)
{
    for (; n_k >= LANES; n_k -= LANES, k += LANES * k_row, scores += LANES) {
        vec sums[LANES];
        size_t d = 0;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            sums[i] = (vec){0};
        for (; d + LANES <= dim; d += LANES) {
            vec from = vec_load(q + d);
#pragma GCC unroll 16
            for (size_t i = 0; i < LANES; i++)
                sums[i] += from * vec_load(k + i * k_row + d);
        }
        if (d < dim) {
            vec from = vec_load_part(q + d, dim - d);
#pragma GCC unroll 16
            for (size_t i = 0; i < LANES; i++)
                sums[i] += from * vec_load_part(k + i * k_row + d, dim - d);
        }
        vec_store(scores, vec_sum_rows(sums));
    }
    if (n_k)
        dot_product(&q, 1, k, k_row, n_k, dim, scores, 0);
}

/* Scales scores[n], adds the keys' bias, turns them to e^(score - the largest so far); *max and the
 * sum follow. Returns what the sums so far are to be scaled by. */
static float softmax_few(float *scores, size_t n, float scale, const float *bias, float *max,
                         float *sum)
{
    size_t whole = n / LANES * LANES, left = n - whole;
    vec tops = vec_set(*max), totals = {0};
    for (size_t j = 0; j < whole; j += LANES) {
        vec score = vec_load(scores + j) * scale;
        if (bias)
            score += vec_load(bias + j);
        vec_store(scores + j, score);
        tops = vec_max(score, tops);
    }
    float top = vec_max_lane(tops);
    for (size_t j = whole; j < n; j++) {
        scores[j] = scores[j] * scale + (bias ? bias[j] : 0);
        top = scores[j] > top ? scores[j] : top;
    }
    float shift = top == -INFINITY ? 0 : top;
    for (size_t j = 0; j < whole; j += LANES) {
        vec e = vec_exp(vec_load(scores + j) - shift);
        vec_store(scores + j, e);
        totals += e;
    }
    float total = vec_sum(totals);
    if (left) {
        vec_store_part(scores + whole, vec_exp(vec_load_part(scores + whole, left) - shift), left);
        for (size_t j = whole; j < n; j++)
            total += scores[j];
    }
    float keep = *max == -INFINITY ? 0 : vec_exp(vec_set(*max - shift))[0];
    *max = top;
    *sum = *sum * keep + total;
    return keep;
}

/* Scales scores[n] and bends them to (-cap, cap). */
static void cap_few(float *scores, size_t n, float scale, float cap)
{
    size_t whole = n / LANES * LANES;
    for (size_t j = 0; j < whole; j += LANES)
        vec_store(scores + j, vec_tanh(vec_load(scores + j) * (scale / cap)) * cap);
    if (whole < n) {
        vec rest = vec_load_part(scores + whole, n - whole);
        vec_store_part(scores + whole, vec_tanh(rest * (scale / cap)) * cap, n - whole);
    }
}

/* Keys or values widened at a time, as floats. */
enum { WIDE_STEP = 8192 };

/* At most DOT_ROWS pairs of (query, head) that share a key/value head. */
static void attend_rows(const struct attention_shape *shape, const struct attention_item *item,
                        size_t kv_head, const float *const *q, float *const *out,
                        const size_t *keys, size_t n_rows)
{
    size_t dim = shape->head_dim, n_kv = 0;
    size_t step = item->kv_dtype == DTYPE_F32 ? KEYS_STEP : min_size(KEYS_STEP, WIDE_STEP / dim);
    _Alignas(64) float wide[WIDE_STEP];
    float scores[DOT_ROWS * KEYS_STEP], max[DOT_ROWS], sum[DOT_ROWS];
    for (size_t r = 0; r < n_rows; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
        n_kv = keys[r] > n_kv ? keys[r] : n_kv;
        memset(out[r], 0, dim * sizeof(float));
    }
    for (size_t k0 = 0; k0 < n_kv; k0 += step) {
        size_t n_k = min_size(step, n_kv - k0), stride;
        const float *k = kv_rows(shape, item, item->k, kv_head, k0, n_k, wide, &stride);
        if (n_rows == 1)
            dot_keys(q[0], k, stride, n_k, dim, scores);
        else
            dot_product(q, n_rows, k, stride, n_k, dim, scores, KEYS_STEP);
        const float *v = kv_rows(shape, item, item->v, kv_head, k0, n_k, wide, &stride);
        for (size_t r = 0; r < n_rows; r++) {
            float *row = scores + r * KEYS_STEP;
            size_t seen = keys[r] > k0 ? min_size(n_k, keys[r] - k0) : 0;
            const float *bias = item->key_bias ? item->key_bias + k0 : NULL;
            if (shape->cap > 0)
                cap_few(row, seen, shape->scale, shape->cap);
            float keep =
                softmax_few(row, seen, shape->cap > 0 ? 1 : shape->scale, bias, &max[r], &sum[r]);
            add_weighted(row, v, stride, seen, keep, out[r], dim);
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        float factor = sum[r] != 0 ? 1 / sum[r] : 0;
        for (size_t d = 0; d < dim; d++)
            out[r][d] *= factor;
    }
}

void KERNEL(attention_few)(const struct attention_shape *shape, const struct attention_item *item,
                           size_t kv_head)
{
    size_t dim = shape->head_dim, group = shape->n_heads / shape->n_kv_heads, n = 0;
    bool is_bf16 = item->q_dtype == DTYPE_BF16;
    float wide[DOT_ROWS][ATTENTION_BF16_DIM], *out[DOT_ROWS];
    const float *q[DOT_ROWS];
    size_t keys[DOT_ROWS];
    for (size_t i = 0; i < item->n_q; i++) {
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            size_t at = i * item->q_stride + head * dim;
            q[n] = is_bf16 ? wide[n] : (const float *)item->q + at;
            if (is_bf16)
                widen_row((const uint16_t *)item->q + at, dim, wide[n]);
            out[n] = item->out + i * item->out_stride + head * dim;
            keys[n++] = keys_seen(shape, item, i + 1);
            if (n == DOT_ROWS) {
                attend_rows(shape, item, kv_head, q, out, keys, n);
                n = 0;
            }
        }
    }
    if (n > 0)
        attend_rows(shape, item, kv_head, q, out, keys, n);
}
