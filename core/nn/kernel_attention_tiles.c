/*
 * kernel_attention_tiles.c: attention by tiles (AMX), products of bf16 summed in f32: for layers
 * whose weights are in a form narrower than f32.
 *
 * As in kernel_attention.c queries lie in the lanes and keys are taken KEYS_STEP at a time with a
 * running maximum and sum. A step's keys and values are rounded (unless they are bf16) and laid out
 * as tiles once for all the task's queries, which then take turns, PAIR (two tiles) at a time:
 *
 *   scores[key][query] = keys · queriesᵀ     keys lie as they are, queries as words of 2 inputs
 *   weights = 2^(scores - maximum)           f32; two keys' weights become words of 2 inputs, which
 *                                            is how the next product wants them
 *   out[dim][query] += valuesᵀ · weights     values are transposed as they are laid out
 *
 * Scores and weights of a step stay in the first cache.
 */
#include "core/nn/kernel_amx.h"
#include "core/nn/kernel_attention.h"
#include "core/nn/kernel_isa.h"

enum {
    KEYS_STEP = 192,
    PAIR = 2 * TILE_ROWS, /* queries */
    TILE_IN = 32,         /* inputs of a product that a tile holds */
};

static const float LOG2_E = 1.44269504f; /* exponents are of 2 */

/* A number of keys or queries filled up to whole pairs of tiles. */
INLINE size_t pairs_of(size_t n)
{
    return (n + PAIR - 1) / PAIR * PAIR;
}

/* Where the parts of a task lie in scratch. */
struct parts {
    size_t dim, padded; /* head_dim, and filled up with zeros to a multiple of TILE_IN */
    char *keys;         /* [KEYS_STEP / 16][padded / 32] tiles of 16 keys x 32 dims */
    char *values;       /* [KEYS_STEP / 32][padded / 16] tiles of 16 dims x 32 keys */
    char *queries;      /* [n_q / 16][padded / 32] tiles of words [16 pairs of dims][16] */
    float *scores;      /* [KEYS_STEP][PAIR] */
    float *out;         /* [n_q / PAIR][padded][PAIR] */
    float *max, *sum;   /* [n_q] */
};

static struct parts parts_of(struct scratch *scratch, size_t dim, size_t n_q)
{
    size_t padded = (dim + TILE_IN - 1) / TILE_IN * TILE_IN;
    size_t queries = pairs_of(n_q);
    float *at = scratch->floats;
    struct parts parts = {.dim = dim, .padded = padded};
    parts.scores = at;
    parts.max = parts.scores + KEYS_STEP * PAIR;
    parts.sum = parts.max + queries;
    parts.out = parts.sum + queries;
    parts.keys = (char *)(parts.out + queries * padded);
    parts.values = parts.keys + KEYS_STEP * padded * 2;
    parts.queries = parts.values + KEYS_STEP * padded * 2;
    return parts;
}
_Static_assert(KEYS_STEP *PAIR * 4 + ATTENTION_TILES_Q * (8 + ATTENTION_TILES_DIM * (4 + 2)) +
                       KEYS_STEP * ATTENTION_TILES_DIM * (2 + 2) <=
                   SCRATCH_FLOATS * 4,
               "a task's parts fit into scratch");

/* Rows of one head, of queries, keys or values: f32, or bf16 already. */
struct head_rows {
    const char *first;
    size_t stride; /* bytes */
    bool is_bf16;
};

static struct head_rows rows_of(const void *base, enum dtype dtype, size_t at, size_t stride)
{
    size_t each = dtype == DTYPE_BF16 ? 2 : 4;
    return (struct head_rows){(const char *)base + at * each, stride * each, dtype == DTYPE_BF16};
}

/* The first n < 64 bits. */
INLINE uint64_t bits_upto(size_t n)
{
    return ((uint64_t)1 << n) - 1;
}

INLINE __m512 load_upto(const char *row, size_t at, size_t n)
{
    const float *from = (const float *)(const void *)row;
    return (__m512)(at + LANES <= n ? vec_load(from + at)
                    : at < n        ? vec_load_part(from + at, n - at)
                                    : (vec){0});
}

/* Inputs [d, d + TILE_IN) of a row as bf16, 0 from n on. */
INLINE __m512i load_inputs(const char *row, bool is_bf16, size_t d, size_t n)
{
    if (is_bf16)
        return _mm512_maskz_loadu_epi16((__mmask32)bits_upto(d < n ? min_size(n - d, TILE_IN) : 0),
                                        row + 2 * d);
    return (__m512i)_mm512_cvtne2ps_pbh(load_upto(row, d + LANES, n), load_upto(row, d, n));
}

/* Words of two inputs, a's in the lower halves. */
INLINE __m512i pair_words(__m512 a, __m512 b)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* Inputs [d, d + 16) of a row as the lower halves of words. */
INLINE __m512i load_halves(const char *row, bool is_bf16, size_t d, size_t n)
{
    if (is_bf16) {
        __mmask16 valid = (__mmask16)bits_upto(d < n ? min_size(n - d, LANES) : 0);
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, row + 2 * d));
    }
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load_upto(row, d, n)));
}

INLINE void store_transposed(vec words[LANES], char *to)
{
    vec_transpose(words);
    for (size_t i = 0; i < LANES; i++)
        vec_store((float *)(void *)to + i * LANES, words[i]);
}

INLINE void pack_keys_of(struct head_rows k, bool is_bf16, size_t n_k, const struct parts *parts)
{
    char *to = parts->keys;
    for (size_t j0 = 0; j0 < pairs_of(n_k); j0 += TILE_ROWS)
        for (size_t d = 0; d < parts->padded; d += TILE_IN, to += TILE_BYTES) {
            const char *row = k.first + j0 * k.stride;
            size_t j = 0;
            for (; j < TILE_ROWS && j0 + j < n_k; j++, row += k.stride)
                _mm512_storeu_si512(to + j * 64, load_inputs(row, is_bf16, d, parts->dim));
            for (; j < TILE_ROWS; j++)
                _mm512_storeu_si512(to + j * 64, _mm512_setzero_si512());
        }
}

INLINE void pack_values_of(struct head_rows v, bool is_bf16, size_t n_k, const struct parts *parts)
{
    char *to = parts->values;
    for (size_t j0 = 0; j0 < n_k; j0 += TILE_IN)
        for (size_t d = 0; d < parts->padded; d += TILE_ROWS, to += TILE_BYTES) {
            vec words[LANES] = {{0}};
            const char *row = v.first + j0 * v.stride;
            for (size_t j = 0; j < TILE_IN && j0 + j < n_k; j++, row += v.stride) {
                __m512i halves = load_halves(row, is_bf16, d, parts->dim);
                words[j / 2] = j % 2 == 0 ? (vec)halves
                                          : (vec)_mm512_or_si512((__m512i)words[j / 2],
                                                                 _mm512_slli_epi32(halves, 16));
            }
            store_transposed(words, to);
        }
}

INLINE void pack_queries_of(struct head_rows q, bool is_bf16, size_t n_q, const struct parts *parts)
{
    char *to = parts->queries;
    for (size_t i0 = 0; i0 < pairs_of(n_q); i0 += TILE_ROWS)
        for (size_t d = 0; d < parts->padded; d += TILE_IN, to += TILE_BYTES) {
            vec words[LANES] = {{0}};
            const char *row = q.first + i0 * q.stride;
            for (size_t i = 0; i < TILE_ROWS && i0 + i < n_q; i++, row += q.stride)
                words[i] = (vec)load_inputs(row, is_bf16, d, parts->dim);
            store_transposed(words, to);
        }
}

#define DEFINE_PACK(name)                                                                          \
    static void name(struct head_rows rows, size_t n, const struct parts *parts)                   \
    {                                                                                              \
        if (rows.is_bf16)                                                                          \
            name##_of(rows, true, n, parts);                                                       \
        else                                                                                       \
            name##_of(rows, false, n, parts);                                                      \
    }
DEFINE_PACK(pack_keys)
DEFINE_PACK(pack_values)
DEFINE_PACK(pack_queries)

/* scores[n_k][PAIR] of the pair of query tiles at `queries`. */
static void score_step(const struct parts *parts, size_t n_k, const char *queries)
{
    size_t row_tiles = parts->padded / TILE_IN, next = row_tiles * TILE_BYTES;
    const char *keys = parts->keys;
    for (size_t j = 0; j < n_k; j += PAIR, keys += 2 * next) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t at = 0; at < next; at += TILE_BYTES) {
            _tile_loadd(4, keys + at, 64);
            _tile_loadd(6, queries + at, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, queries + next + at, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, keys + next + at, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        float *to = parts->scores + j * PAIR;
        _tile_stored(0, to, PAIR * 4);
        _tile_stored(1, to + TILE_ROWS, PAIR * 4);
        _tile_stored(2, to + TILE_ROWS * PAIR, PAIR * 4);
        _tile_stored(3, to + TILE_ROWS * PAIR + TILE_ROWS, PAIR * 4);
    }
}

/* 2^x to 8e-5, far finer than bf16 is; 0 for -infinity, NaN for NaN. The polynomial is by
 * tests/reference/nn_polynomials.py. */
INLINE __m512 exp2_rough(__m512 x)
{
    __m512 r = _mm512_reduce_ps(x, 1); /* x less the next whole number below */
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(7.80245222e-2f), _mm512_set1_ps(2.26067155e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.95833540e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.99925218e-1f));
    return _mm512_scalef_ps(p, x);
}

/* Makes scores, times `scale`, weights, as words of two keys, in place: [n_k / 2][PAIR] (n_k filled
 * up with zeros to a multiple of TILE_IN). Follows the running maximum and sum; scales the
 * first n_out rows of `out`. */
static void softmax_step(float *scores, size_t n_k, float scale, float *max, float *sum, float *out,
                         size_t n_out)
{
    const __m512 factor = _mm512_set1_ps(scale);
    __m512 top[2], shift[2], keep[2], total[2][2];
    for (size_t v = 0; v < 2; v++) {
        __m512 more[2] = {_mm512_loadu_ps(max + v * LANES), _mm512_set1_ps(-INFINITY)};
        top[v] = more[0];
        for (size_t j = 0; j < n_k; j++)
            more[j % 2] = _mm512_max_ps(
                _mm512_mul_ps(_mm512_loadu_ps(scores + j * PAIR + v * LANES), factor), more[j % 2]);
        __m512 before = top[v];
        top[v] = _mm512_max_ps(more[0], more[1]);
        /* where all keys so far are masked, any finite shift gives 2^-infinity = 0 */
        shift[v] = _mm512_max_ps(top[v], _mm512_set1_ps(-3e38f));
        keep[v] = exp2_rough(_mm512_sub_ps(before, shift[v]));
        total[v][0] = total[v][1] = _mm512_setzero_ps();
    }
    size_t n_words = (n_k + TILE_IN - 1) / TILE_IN * TILE_IN / 2;
    for (size_t j = 0; j < n_words; j++)
#pragma GCC unroll 2
        for (size_t v = 0; v < 2; v++) {
            const float *from = scores + 2 * j * PAIR + v * LANES;
            __m512 e[2];
#pragma GCC unroll 2
            for (size_t i = 0; i < 2; i++) {
                e[i] =
                    exp2_rough(_mm512_fmsub_ps(_mm512_loadu_ps(from + i * PAIR), factor, shift[v]));
                if (2 * j + i >= n_k)
                    e[i] = _mm512_setzero_ps();
                total[v][i] = _mm512_add_ps(total[v][i], e[i]);
            }
            _mm512_storeu_si512(scores + j * PAIR + v * LANES, pair_words(e[0], e[1]));
        }
    for (size_t v = 0; v < 2; v++) {
        _mm512_storeu_ps(max + v * LANES, top[v]);
        __m512 more = _mm512_add_ps(total[v][0], total[v][1]);
        _mm512_storeu_ps(sum + v * LANES,
                         _mm512_fmadd_ps(_mm512_loadu_ps(sum + v * LANES), keep[v], more));
    }
    for (size_t d = 0; d < n_out; d++)
        for (size_t v = 0; v < 2; v++) {
            float *at = out + d * PAIR + v * LANES;
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), keep[v]));
        }
}

/* out[padded][PAIR] += valuesᵀ · weights; of the first keys, out is not read. */
static void weigh_step(const struct parts *parts, size_t n_k, bool is_first, float *out)
{
    size_t next = parts->padded / TILE_ROWS * TILE_BYTES;
    for (size_t d = 0; d < parts->padded; d += PAIR) {
        float *to = out + d * PAIR;
        const char *values = parts->values + d / TILE_ROWS * TILE_BYTES;
        if (is_first) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        } else {
            _tile_loadd(0, to, PAIR * 4);
            _tile_loadd(1, to + TILE_ROWS, PAIR * 4);
            _tile_loadd(2, to + TILE_ROWS * PAIR, PAIR * 4);
            _tile_loadd(3, to + TILE_ROWS * PAIR + TILE_ROWS, PAIR * 4);
        }
        for (size_t j = 0; j < n_k; j += TILE_IN, values += next) {
            const float *weights = parts->scores + j / 2 * PAIR;
            _tile_loadd(4, values, 64);
            _tile_loadd(6, weights, PAIR * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, weights + TILE_ROWS, PAIR * 4);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, values + TILE_BYTES, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, to, PAIR * 4);
        _tile_stored(1, to + TILE_ROWS, PAIR * 4);
        _tile_stored(2, to + TILE_ROWS * PAIR, PAIR * 4);
        _tile_stored(3, to + TILE_ROWS * PAIR + TILE_ROWS, PAIR * 4);
    }
}

/* Scales scores, bends them and adds the keys' bias: all that comes before a mask, whose infinities
 * are not to be scaled. */
static void scale_scores(const struct attention_shape *shape, float *scores, size_t n_k,
                         const float *bias)
{
    float scale = shape->scale * LOG2_E, cap = shape->cap * LOG2_E;
    for (size_t j = 0; j < n_k; j++)
        for (size_t l = 0; l < PAIR; l += LANES) {
            float *at = scores + j * PAIR + l;
            vec score = vec_load(at) * scale;
            if (cap > 0)
                score = vec_tanh(score * (1 / cap)) * cap;
            vec_store(at, bias ? score + bias[j] * LOG2_E : score);
        }
}

void KERNEL(attention_tiles)(const struct attention_shape *shape, const struct attention_item *item,
                             size_t head, size_t q0, size_t n_q)
{
    const float scale = shape->scale * LOG2_E;
    size_t dim = shape->head_dim, kv_head = head / (shape->n_heads / shape->n_kv_heads);
    size_t kv_at = kv_head * (item->kv_head_stride ? item->kv_head_stride : dim);
    bool is_scaled = item->key_bias || shape->causal || shape->cap > 0;
    struct scratch *scratch = scratch_of_thread();
    scratch->job_id = 0;
    struct parts parts = parts_of(scratch, dim, n_q);
    for (size_t i = 0; i < pairs_of(n_q); i++) {
        parts.max[i] = -INFINITY;
        parts.sum[i] = 0;
    }
    pack_queries(rows_of(item->q, item->q_dtype, q0 * item->q_stride + head * dim, item->q_stride),
                 n_q, &parts);
    tiles_begin();
    size_t n_kv = keys_seen(shape, item, q0 + n_q);
    for (size_t k0 = 0; k0 < n_kv; k0 += KEYS_STEP) {
        size_t n_k = min_size(KEYS_STEP, n_kv - k0), at = kv_at + k0 * item->kv_stride;
        pack_keys(rows_of(item->k, item->kv_dtype, at, item->kv_stride), n_k, &parts);
        pack_values(rows_of(item->v, item->kv_dtype, at, item->kv_stride), n_k, &parts);
        for (size_t i = 0; i < n_q; i += PAIR) {
            size_t n = min_size(PAIR, n_q - i);
            if (keys_seen(shape, item, q0 + i + n) <= k0)
                continue;
            float *out = parts.out + i * parts.padded;
            tiles_see_memory();
            score_step(&parts, n_k, parts.queries + i * parts.padded * 2);
            if (is_scaled)
                scale_scores(shape, parts.scores, n_k, item->key_bias ? item->key_bias + k0 : NULL);
            if (shape->causal)
                mask_causal(item, q0 + i, PAIR, k0, n_k, parts.scores);
            softmax_step(parts.scores, n_k, is_scaled ? 1 : scale, parts.max + i, parts.sum + i,
                         out, k0 ? parts.padded : 0);
            tiles_see_memory();
            weigh_step(&parts, n_k, k0 == 0, out);
        }
    }
    _tile_release();
    for (size_t i = 0; i < n_q; i += PAIR) {
        size_t n = min_size(PAIR, n_q - i);
        float *out = parts.out + i * parts.padded;
        if (keys_seen(shape, item, q0 + i + n) == 0)
            memset(out, 0, PAIR * parts.padded * sizeof *out);
        store_queries(shape, item, head, q0 + i, n, PAIR, out, parts.sum + i);
    }
}
