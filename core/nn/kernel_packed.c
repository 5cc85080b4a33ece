/*
 * kernel_packed.c: one block of y = activation(x · weightᵀ + bias) + residual where the weights are
 * packed (see packed.h).
 *
 * Rows of x are first brought into the weights' kind of number, row after row, in the thread's
 * scratch. Then, PANEL outputs at a time:
 *
 *   tiles  (AMX) 32 rows × 32 outputs in four tiles, 64 bytes of inputs a step. int4 is first
 *          unpacked to bf16 in scratch.
 *   dots   (AVX512-BF16, -VNNI) 6 rows × 64 outputs in 24 registers: the outputs lie in the lanes,
 *          a word of inputs is broadcast. Few rows read the weights once, as fast as memory gives
 *          them. Up to INT4_FEW_ROWS rows against int4 are rounded to 8 bits with a step per
 *          group, far finer than the weights are, and multiplied by VNNI.
 *
 * Any other chip widens the weights (kernel_packed_wide.c).
 *
 * All forms end with the sums as f32 in values[row][PANEL], where finish() takes them.
 */
#if defined(__AMX_TILE__)
#include "core/nn/kernel_amx.h"
#endif
#include "core/nn/kernel_packed.h"

enum {
    DOT_ROWS = 6, /* that dots take at once */
    INT4_DOT_ROWS = 5,
    PANEL = 64,
    PANEL_BLOCKS = PANEL / PACK_OUT,
    ROWS_BYTES = 1024 * 1024, /* of scratch, for rows; the rest is for weights unpacked */
};

/* ---- rows ------------------------------------------------------------------------------------ */

#if defined(__AVX512VNNI__)

enum { X_AHEAD = 2048 }; /* bytes; rows lie one after another, most often in the third cache */

/* Inputs [k, k + 16) of a row of n, 0 past its end. */
INLINE __m512 inputs_load(const void *row, bool is_bf16, size_t k, size_t n)
{
    if (is_bf16) {
        const uint16_t *from = (const uint16_t *)row + k;
        __mmask16 valid = (__mmask16)(k + 16 <= n ? 0xFFFF : k < n ? (1u << (n - k)) - 1 : 0);
        __builtin_prefetch((const char *)from + X_AHEAD);
        __m256i half = _mm256_maskz_loadu_epi16(valid, from);
        return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
    }
    const float *from = (const float *)row + k;
    __builtin_prefetch((const char *)from + X_AHEAD);
    return (__m512)(k + 16 <= n ? vec_load(from) : k < n ? vec_load_part(from, n - k) : (vec){0});
}

/* How a row lies packed: stretches of 64 bytes, `step` apart. */
struct packed_row {
    char *to;
    size_t step;
};

#if defined(__AVX512BF16__)
static void row_to_bf16(const void *x, bool is_bf16, size_t n, size_t n_padded,
                        struct packed_row packed)
{
    for (size_t k = 0; k < n_padded; k += 32, packed.to += packed.step) {
        __m512i words;
        if (is_bf16) {
            const uint16_t *from = (const uint16_t *)x + k;
            __builtin_prefetch((const char *)from + X_AHEAD);
            words = _mm512_maskz_loadu_epi16(k + 32 <= n ? 0xFFFFFFFF
                                             : k < n     ? (1u << (n - k)) - 1
                                                         : 0,
                                             from);
        } else {
            words = (__m512i)_mm512_cvtne2ps_pbh(inputs_load(x, false, k + 16, n),
                                                 inputs_load(x, false, k, n));
        }
        _mm512_storeu_si512(packed.to, words);
    }
}
#endif

/* To 0 … 255 by the row's own step: x = (byte - zero) · scale. A row that holds what is no number
 * gets a scale that is none, and so do its results. */
INLINE void row_to_int8_of(const void *x, bool is_bf16, size_t n, size_t n_padded,
                           struct packed_row packed, float *scale, int32_t *zero)
{
    __m512 low = _mm512_setzero_ps(), high = low;
    __mmask16 odd = 0;
    for (size_t k = 0; k < n; k += 16) {
        __m512 value = inputs_load(x, is_bf16, k, n);
        odd |= _mm512_fpclass_ps_mask(value, 0x99); /* NaN, infinity */
        low = _mm512_min_ps(low, value);
        high = _mm512_max_ps(high, value);
    }
    float min = _mm512_reduce_min_ps(low), max = _mm512_reduce_max_ps(high);
    float step = max / 255 - min / 255, factor = step > 1e-35f ? 1 / step : 0;
    __m512i shift = _mm512_set1_epi32((int)(-min * factor + 0.5f));
    for (size_t k = 0; k < n_padded; k += 64, packed.to += packed.step) {
        for (size_t i = 0; i < 4; i++) {
            __m512 value = inputs_load(x, is_bf16, k + 16 * i, n);
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(value, _mm512_set1_ps(factor)));
            whole = _mm512_max_epi32(_mm512_add_epi32(whole, shift), _mm512_setzero_si512());
            _mm_storeu_si128((__m128i *)(packed.to + 16 * i), _mm512_cvtusepi32_epi8(whole));
        }
    }
    *scale = odd ? NAN : step;
    *zero = _mm_cvtsi128_si32(_mm512_castsi512_si128(shift));
}

static void row_to_int8(const void *x, bool is_bf16, size_t n, size_t n_padded,
                        struct packed_row packed, float *scale, int32_t *zero)
{
    if (is_bf16)
        row_to_int8_of(x, true, n, n_padded, packed, scale, zero);
    else
        row_to_int8_of(x, false, n, n_padded, packed, scale, zero);
}

static bool int4_is_few(const struct linear_job *job)
{
    return job->linear->form == WEIGHT_INT4 && job->n_rows <= INT4_FEW_ROWS;
}

/* What goes with a row's group for int4: a step, and what the nibbles' 8 has to be made up with. */
struct int4_group {
    float scale;
    int32_t minus_8_sums;
};

/* To -127 … 127 by a step per INT4_GROUP, in the order in which a word's low and high nibbles are
 * met: inputs 0 4 1 5 2 6 3 7 of each 8. The groups' steps follow the bytes. */
static void row_to_int4_groups(const void *x, bool is_bf16, size_t n, size_t n_padded, char *to)
{
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    struct int4_group *groups = (struct int4_group *)(void *)(to + n_padded);
    for (size_t k = 0; k < n_padded; k += INT4_GROUP, groups++) {
        __m512 value[2], most = _mm512_setzero_ps();
        __mmask16 odd = 0;
        for (size_t h = 0; h < 2; h++) {
            value[h] = inputs_load(x, is_bf16, k + 16 * h, n);
            __mmask16 none = _mm512_fpclass_ps_mask(value[h], 0x99); /* NaN, infinity */
            value[h] = _mm512_maskz_mov_ps((__mmask16)~none, value[h]);
            odd |= none;
            most = _mm512_max_ps(most, _mm512_abs_ps(value[h]));
        }
        float max = _mm512_reduce_max_ps(most), factor = max > 1e-30f ? 127 / max : 0;
        __m512i sum = _mm512_setzero_si512();
        for (size_t h = 0; h < 2; h++) {
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(value[h], _mm512_set1_ps(factor)));
            sum = _mm512_add_epi32(sum, whole);
            _mm_storeu_si128((__m128i *)(to + k + 16 * h),
                             _mm_shuffle_epi8(_mm512_cvtsepi32_epi8(whole), order));
        }
        *groups = (struct int4_group){odd ? NAN : max / 127, -8 * _mm512_reduce_add_epi32(sum)};
    }
}

#if defined(__AMX_TILE__)
/* Whether a chip with tiles takes them rather than dots, which read a few percent faster. */
static bool takes_tiles(const struct linear_job *job, size_t n_rows)
{
    return job->linear->form == WEIGHT_INT4 ? !int4_is_few(job) : n_rows > DOT_ROWS;
}

#endif

/* Where row r of n_rows lies in `packed`. */
static struct packed_row place_of(const struct linear_job *job, char *packed, size_t r,
                                  size_t n_rows, size_t row_bytes)
{
#if defined(__AMX_TILE__)
    if (takes_tiles(job, n_rows))
        return (struct packed_row){
            packed + r / TILE_ROWS * TILE_ROWS * row_bytes + r % TILE_ROWS * 64, TILE_BYTES};
#else
    (void)job, (void)n_rows;
#endif
    return (struct packed_row){packed + r * row_bytes, 64};
}

/* The rows [row, row + n_rows) in the form's numbers, one after another or, for tiles, 16 by 16
 * (the last of them filled up with zeros). They stay while the thread's tasks of the same job go
 * over the outputs. */
static const char *pack_rows(const struct linear_job *job, struct scratch *scratch, size_t row,
                             size_t n_rows, size_t row_bytes)
{
    char *packed = (char *)scratch->floats;
    if (scratch->job_id == job->id && scratch->row == row)
        return packed;
    scratch->job_id = job->id;
    scratch->row = row;
    size_t n_in = job->linear->n_in, padded = packed_in(n_in);
    float *gathered = (float *)(packed + ROWS_BYTES);
    bool is_bf16 = job->x_bf16;
    for (size_t r = 0; r < n_rows; r++) {
        const void *from = packed_row_at(job, row + r, gathered);
        struct packed_row to = place_of(job, packed, r, n_rows, row_bytes);
        if (job->linear->form == WEIGHT_INT8)
            row_to_int8(from, is_bf16, n_in, padded, to, &scratch->row_scale[r],
                        &scratch->row_zero[r]);
        else if (int4_is_few(job))
            row_to_int4_groups(from, is_bf16, n_in, padded, to.to);
#if defined(__AVX512BF16__)
        else
            row_to_bf16(from, is_bf16, n_in, padded, to);
#endif
    }
#if defined(__AMX_TILE__)
    for (size_t r = n_rows; takes_tiles(job, n_rows) && r % TILE_ROWS; r++) {
        struct packed_row to = place_of(job, packed, r, n_rows, row_bytes);
        for (size_t k = 0; k < row_bytes; k += 64, to.to += to.step)
            _mm512_storeu_si512(to.to, _mm512_setzero_si512());
    }
#endif
    return packed;
}

/* ---- dots ------------------------------------------------------------------------------------ */

/* Weights that come from memory are fetched twice: early into the second cache, which has room for
 * more on the way than the first one, and into the first one when they are near. */
enum { AHEAD = 1024, FAR_AHEAD = 3072 };

/* What to fetch at byte `at` of blocks of `each`, n_blocks of them side by side: past a block's
 * end, the block that takes its place when these are done. */
struct ahead {
    size_t far, near;
};

INLINE struct ahead ahead_of(size_t at, size_t each, size_t n_blocks)
{
    size_t skip = (n_blocks - 1) * each;
    return (struct ahead){at + FAR_AHEAD + (at + FAR_AHEAD < each ? 0 : skip),
                          at + AHEAD + (at + AHEAD < each ? 0 : skip)};
}

INLINE void fetch(const char *block, struct ahead ahead)
{
    __builtin_prefetch(block + ahead.far, 0, 2);
    __builtin_prefetch(block + ahead.near);
}

INLINE __m512i broadcast(const char *x)
{
    int32_t word;
    memcpy(&word, x, sizeof word);
    return _mm512_set1_epi32(word);
}

INLINE __m512i dot_step(bool is_int8, __m512i sum, __m512i x, __m512i w)
{
#if defined(__AVX512BF16__)
    if (!is_int8)
        return (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
    (void)is_int8;
#endif
    return _mm512_dpbusd_epi32(sum, x, w);
}

/* n rows against PANEL outputs: values[row][PANEL] = sums (of int8: whole numbers). Sums are taken
 * in steps of 64 bytes of each block's weights, in order. */
INLINE void word_rows(size_t n, bool is_int8, const char *x, size_t row_bytes,
                      const char *const *blocks, size_t n_steps, float *values)
{
    __m512i sums[DOT_ROWS][PANEL_BLOCKS];
    const char *w0 = blocks[0], *w1 = blocks[1], *w2 = blocks[2], *w3 = blocks[3];
    size_t each = n_steps * 64 + (is_int8 ? 128 : 0);
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < PANEL_BLOCKS; b++)
            sums[r][b] = _mm512_setzero_si512();
    for (size_t k = 0; k < n_steps; k++, x += 4) {
        struct ahead ahead = ahead_of(k * 64, each, PANEL_BLOCKS);
        fetch(w0, ahead);
        fetch(w1, ahead);
        fetch(w2, ahead);
        fetch(w3, ahead);
        __m512i w[PANEL_BLOCKS] = {_mm512_loadu_si512(w0 + k * 64), _mm512_loadu_si512(w1 + k * 64),
                                   _mm512_loadu_si512(w2 + k * 64),
                                   _mm512_loadu_si512(w3 + k * 64)};
#pragma GCC unroll 6
        for (size_t r = 0; r < n; r++) {
            __m512i word = broadcast(x + r * row_bytes);
#pragma GCC unroll 4
            for (size_t b = 0; b < PANEL_BLOCKS; b++)
                sums[r][b] = dot_step(is_int8, sums[r][b], word, w[b]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < PANEL_BLOCKS; b++)
            _mm512_storeu_si512(values + r * PANEL + b * PACK_OUT, sums[r][b]);
}

#define DEFINE_DOTS(name, is_int8)                                                                 \
    static void name(size_t n, const char *x, size_t row_bytes, const char *const *blocks,         \
                     size_t n_steps, float *values)                                                \
    {                                                                                              \
        switch (n) {                                                                               \
        case 1:                                                                                    \
            word_rows(1, is_int8, x, row_bytes, blocks, n_steps, values);                          \
            break;                                                                                 \
        case 2:                                                                                    \
            word_rows(2, is_int8, x, row_bytes, blocks, n_steps, values);                          \
            break;                                                                                 \
        case 3:                                                                                    \
            word_rows(3, is_int8, x, row_bytes, blocks, n_steps, values);                          \
            break;                                                                                 \
        case 4:                                                                                    \
            word_rows(4, is_int8, x, row_bytes, blocks, n_steps, values);                          \
            break;                                                                                 \
        case 5:                                                                                    \
            word_rows(5, is_int8, x, row_bytes, blocks, n_steps, values);                          \
            break;                                                                                 \
        default:                                                                                   \
            word_rows(6, is_int8, x, row_bytes, blocks, n_steps, values);                          \
        }                                                                                          \
    }
DEFINE_DOTS(dots_int8, true)

INLINE __m512 int4_scale(const char *scales, size_t group)
{
    __m256i halves = _mm256_loadu_si256((const __m256i *)(scales + group * PACK_OUT * 2));
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

/* n rows (row_to_int4_groups()) against n_blocks blocks of outputs straight from nibbles, into
 * values[row][PANEL]: each group's sum is whole, and scaled in f32. */
INLINE void int4_rows(size_t n, size_t n_blocks, const char *x, size_t row_bytes,
                      const char *const *blocks, size_t n_in, float *values)
{
    size_t padded = packed_in(n_in), scales = padded * PACK_OUT / 2;
    size_t each = packed_block_bytes(WEIGHT_INT4, n_in);
    __m512 sums[DOT_ROWS][PANEL_BLOCKS];
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < n_blocks; b++)
            sums[r][b] = _mm512_setzero_ps();
    for (size_t g = 0; g < padded / INT4_GROUP; g++) {
        const char *steps = x + padded + g * sizeof(struct int4_group);
        __m512i group[DOT_ROWS][PANEL_BLOCKS];
#pragma GCC unroll 6
        for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
            for (size_t b = 0; b < n_blocks; b++)
                group[r][b] =
                    broadcast(steps + r * row_bytes + offsetof(struct int4_group, minus_8_sums));
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            __m512i even[PANEL_BLOCKS], odd[PANEL_BLOCKS];
            size_t at = (4 * g + j) * 64;
            struct ahead ahead = ahead_of(at, each, n_blocks);
#pragma GCC unroll 4
            for (size_t b = 0; b < n_blocks; b++) {
                fetch(blocks[b], ahead);
                __m512i raw = _mm512_loadu_si512(blocks[b] + at);
                even[b] = _mm512_and_si512(raw, low);
                odd[b] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), low);
            }
#pragma GCC unroll 6
            for (size_t r = 0; r < n; r++) {
                const char *word = x + r * row_bytes + g * INT4_GROUP + j * 8;
                __m512i first = broadcast(word), second = broadcast(word + 4);
#pragma GCC unroll 4
                for (size_t b = 0; b < n_blocks; b++) {
                    group[r][b] = _mm512_dpbusd_epi32(group[r][b], even[b], first);
                    group[r][b] = _mm512_dpbusd_epi32(group[r][b], odd[b], second);
                }
            }
        }
#pragma GCC unroll 4
        for (size_t b = 0; b < n_blocks; b++) {
            __m512 scale = int4_scale(blocks[b] + scales, g);
            /* They lie behind the nibbles: by then it is late to fetch the next block's. */
            __builtin_prefetch(blocks[b] + n_blocks * each + scales + g * PACK_OUT * 2, 0, 2);
#pragma GCC unroll 6
            for (size_t r = 0; r < n; r++) {
                __m512 step = (__m512)broadcast(steps + r * row_bytes);
                sums[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(group[r][b]),
                                             _mm512_mul_ps(step, scale), sums[r][b]);
            }
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < n_blocks; b++)
            _mm512_storeu_ps(values + r * PANEL + b * PACK_OUT, sums[r][b]);
}

/* Few rows against the panel at `out`, n of it real; as many blocks at once as registers allow. */
static void int4_panel_few(const struct linear_job *job, const char *x, size_t row_bytes,
                           size_t row, size_t n_rows, size_t out, size_t n,
                           const char *const *blocks)
{
    size_t n_in = job->linear->n_in, group;
    _Alignas(64) float values[DOT_ROWS * PANEL];
    for (size_t r = 0; r < n_rows; r += group, x += group * row_bytes) {
        size_t n_groups = (n_rows - r + INT4_DOT_ROWS - 1) / INT4_DOT_ROWS;
        group = (n_rows - r + n_groups - 1) / n_groups;
        if (group == 1)
            int4_rows(1, 4, x, row_bytes, blocks, n_in, values);
        else if (group == 2)
            int4_rows(2, 4, x, row_bytes, blocks, n_in, values);
        for (size_t b = 0; group > 2 && b < PANEL_BLOCKS && b * PACK_OUT < n; b += 2) {
            float *to = values + b * PACK_OUT;
            if (group == 3)
                int4_rows(3, 2, x, row_bytes, blocks + b, n_in, to);
            else if (group == 4)
                int4_rows(4, 2, x, row_bytes, blocks + b, n_in, to);
            else
                int4_rows(5, 2, x, row_bytes, blocks + b, n_in, to);
        }
        finish(job, NULL, values, PANEL, row + r, group, out, n);
    }
}

#if defined(__AVX512BF16__)
DEFINE_DOTS(dots_bf16, false)

/* Nibble 0 … 15 as bf16, less 8: a word's low 4 bits choose; bit 4, whatever it is, does not count.
 */
static __m512i nibble_values(void)
{
    static const uint16_t values[16] = {0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
                                        0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040,
                                        0x4080, 0x40A0, 0x40C0, 0x40E0};
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)values));
}

/* The block's weights as a block of bf16, scales multiplied in: the products are bf16 as they are.
 */
static void int4_to_bf16(const char *block, size_t n_in, char *to)
{
    __m512i table = nibble_values(), high = _mm512_set1_epi32((int)0xFFFF0000);
    size_t padded = packed_in(n_in);
    for (size_t g = 0; g < padded / INT4_GROUP; g++) {
        __m512 scale = int4_scale(block + padded * PACK_OUT / 2, g);
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch(block + (4 * g + j) * 64 + AHEAD);
            __m512i raw = _mm512_loadu_si512(block + (4 * g + j) * 64);
#pragma GCC unroll 4
            for (size_t p = 0; p < 4; p++, to += 64) {
                __m512i w =
                    _mm512_permutexvar_epi16(_mm512_srli_epi16(raw, 4 * (unsigned)p), table);
                __m512 even = _mm512_mul_ps((__m512)_mm512_slli_epi32(w, 16), scale);
                __m512 odd = _mm512_mul_ps((__m512)_mm512_and_si512(w, high), scale);
                _mm512_storeu_si512(
                    to, _mm512_or_si512(_mm512_srli_epi32((__m512i)even, 16), (__m512i)odd));
            }
        }
    }
}
#endif

/* ---- tiles ----------------------------------------------------------------------------------- */

#if defined(__AMX_TILE__)
/* `tall` ? 32 : 16 rows from x on against two blocks of outputs, into values[row][PANEL]. Tile
 * loads do not run ahead of each other, so weights that are met for the first time (`fresh`) are
 * fetched some steps before. */
#define DEFINE_TILES(name, multiply)                                                               \
    static void name(bool tall, bool fresh, const char *x, size_t row_bytes, const char *w0,       \
                     const char *w1, size_t n_steps, float *values)                                \
    {                                                                                              \
        const char *below = x + TILE_ROWS * row_bytes;                                             \
        size_t each = (size_t)(w1 - w0); /* the next pair of blocks lies behind these */           \
        _tile_zero(0);                                                                             \
        _tile_zero(1);                                                                             \
        _tile_zero(2);                                                                             \
        _tile_zero(3);                                                                             \
        for (size_t k = 0; k < n_steps; k++) {                                                     \
            if (fresh) {                                                                           \
                size_t at = k * TILE_BYTES + TILES_AHEAD, far = at + TILES_AHEAD;                  \
                at += at < each ? 0 : each;                                                        \
                far += far < each ? 0 : each;                                                      \
                _Pragma("GCC unroll 16") for (size_t line = 0; line < TILE_BYTES; line += 64)      \
                {                                                                                  \
                    __builtin_prefetch(w0 + far + line, 0, 2);                                     \
                    __builtin_prefetch(w1 + far + line, 0, 2);                                     \
                    __builtin_prefetch(w0 + at + line);                                            \
                    __builtin_prefetch(w1 + at + line);                                            \
                }                                                                                  \
            }                                                                                      \
            _tile_loadd(6, w0 + k * TILE_BYTES, 64);                                               \
            _tile_loadd(4, x + k * TILE_BYTES, 64);                                                \
            multiply(0, 4, 6);                                                                     \
            _tile_loadd(7, w1 + k * TILE_BYTES, 64);                                               \
            multiply(1, 4, 7);                                                                     \
            if (tall) {                                                                            \
                _tile_loadd(5, below + k * TILE_BYTES, 64);                                        \
                multiply(2, 5, 6);                                                                 \
                multiply(3, 5, 7);                                                                 \
            }                                                                                      \
        }                                                                                          \
        _tile_stored(0, values, PANEL * 4);                                                        \
        _tile_stored(1, values + PACK_OUT, PANEL * 4);                                             \
        if (tall) {                                                                                \
            _tile_stored(2, values + TILE_ROWS * PANEL, PANEL * 4);                                \
            _tile_stored(3, values + TILE_ROWS * PANEL + PACK_OUT, PANEL * 4);                     \
        }                                                                                          \
    }
enum { TILES_AHEAD = 6 * TILE_BYTES };
DEFINE_TILES(tiles_bf16, _tile_dpbf16ps)
DEFINE_TILES(tiles_int8, _tile_dpbusd)
#endif

/* Where results go, to have the lines at hand when they come. */
INLINE void fetch_results(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                          size_t n)
{
    size_t each = job->y_bf16 ? 2 : 4;
    const char *y = job->y_bf16 ? (const char *)job->y_bf16 : (const char *)job->y;
    for (size_t r = row; r < row + n_rows; r++)
        for (size_t c = 0; c < n * each; c += 64)
            __builtin_prefetch(y + (r * job->linear->n_out + out) * each + c, 1);
}

/* ---- a panel --------------------------------------------------------------------------------- */

static void panel_blocks(const struct linear *linear, size_t out, const char *blocks[PANEL_BLOCKS])
{
    for (size_t b = 0; b < PANEL_BLOCKS; b++)
        blocks[b] = packed_block_at(linear, out + b * PACK_OUT);
}

/* All rows against the panel at `out`, n of it real. */
static void panel(const struct linear_job *job, const struct scratch *scratch, const char *x,
                  size_t row_bytes, size_t row, size_t n_rows, size_t out, size_t n,
                  const char *const *blocks)
{
    bool is_int8 = job->linear->form == WEIGHT_INT8;
    size_t group;
    _Alignas(64) float values[32 * PANEL];
    const char *tails[PANEL_BLOCKS];
    for (size_t b = 0; b < PANEL_BLOCKS; b++)
        tails[b] = blocks[b] + packed_in(job->linear->n_in) * PACK_OUT;
    struct finish_whole whole = {tails, NULL, NULL};
    for (size_t r = 0; r < n_rows; r += group) {
        const char *from = x + r * row_bytes;
#if defined(__AMX_TILE__)
        if (takes_tiles(job, n_rows)) {
            group = min_size(2 * TILE_ROWS, n_rows - r);
            fetch_results(job, row + r, group, out, n);
            bool tall = group > TILE_ROWS;
            for (size_t b = 0; b < PANEL_BLOCKS && b * PACK_OUT < n; b += 2)
                (is_int8 ? tiles_int8 : tiles_bf16)(tall, r == 0, from, row_bytes, blocks[b],
                                                    blocks[b + 1], row_bytes / 64,
                                                    values + b * PACK_OUT);
        } else
#endif
        {
            /* groups of nearly equal numbers of rows */
            size_t n_groups = (n_rows - r + DOT_ROWS - 1) / DOT_ROWS;
            group = (n_rows - r + n_groups - 1) / n_groups;
#if defined(__AVX512BF16__)
            if (!is_int8)
                dots_bf16(group, from, row_bytes, blocks, row_bytes / 4, values);
#endif
            if (is_int8)
                dots_int8(group, from, row_bytes, blocks, row_bytes / 4, values);
        }
        whole.row_scale = scratch->row_scale + r;
        whole.row_zero = scratch->row_zero + r;
        if (is_int8)
            finish(job, &whole, values, PANEL, row + r, group, out, n);
        else
            finish(job, NULL, values, PANEL, row + r, group, out, n);
    }
}

#if defined(__AVX512BF16__)
/* int4: many rows against a panel that is unpacked first, PACK_OUT outputs at a time where all do
 * not fit. */
static void int4_panel(const struct linear_job *job, struct scratch *scratch, const char *x,
                       size_t row_bytes, size_t row, size_t n_rows, size_t out, size_t n,
                       const char *const *blocks)
{
    size_t n_in = job->linear->n_in;
    char *space = (char *)scratch->floats + ROWS_BYTES;
    size_t each = packed_block_bytes(WEIGHT_BF16, n_in);
    size_t fit = min_size((sizeof scratch->floats - ROWS_BYTES) / each, PANEL_BLOCKS);
    for (size_t b = 0; b * PACK_OUT < n; b += fit) {
        const char *unpacked[PANEL_BLOCKS];
        size_t n_now = min_size(fit, (n - b * PACK_OUT + PACK_OUT - 1) / PACK_OUT);
        for (size_t i = 0; i < PANEL_BLOCKS; i++)
            unpacked[i] = space + min_size(i, n_now - 1) * each;
        for (size_t i = 0; i < n_now; i++)
            int4_to_bf16(blocks[b + i], n_in, space + i * each);
        panel(job, scratch, x, row_bytes, row, n_rows, out + b * PACK_OUT,
              min_size(n_now * PACK_OUT, n - b * PACK_OUT), unpacked);
    }
}
#endif

static bool by_units(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                     size_t n_out)
{
    const struct linear *linear = job->linear;
    struct scratch *scratch = scratch_of_thread();
    if (!scratch)
        return false;
    size_t row_bytes = packed_in(linear->n_in) * (linear->form == WEIGHT_INT8 ? 1 : 2);
    const char *x = pack_rows(job, scratch, row, n_rows, row_bytes), *blocks[PANEL_BLOCKS];
#if defined(__AMX_TILE__)
    tiles_begin();
#endif
    for (size_t end = out + n_out; out < end; out += PANEL) {
        size_t n = min_size(PANEL, end - out);
        panel_blocks(linear, out, blocks);
        if (int4_is_few(job)) {
            int4_panel_few(job, x, row_bytes, row, n_rows, out, n, blocks);
            continue;
        }
#if defined(__AVX512BF16__)
        if (linear->form == WEIGHT_INT4) {
            int4_panel(job, scratch, x, row_bytes, row, n_rows, out, n, blocks);
            continue;
        }
#endif
        panel(job, scratch, x, row_bytes, row, n_rows, out, n, blocks);
    }
#if defined(__AMX_TILE__)
    _tile_release();
#endif
    return true;
}

#endif /* __AVX512VNNI__ */

bool KERNEL(packed_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                          size_t n_out)
{
#if defined(__AVX512BF16__)
    if (by_units(job, row, n_rows, out, n_out))
        return true;
#elif defined(__AVX512VNNI__)
    if ((job->linear->form == WEIGHT_INT8 || int4_is_few(job)) &&
        by_units(job, row, n_rows, out, n_out))
        return true;
#endif
    return KERNEL(packed_wide)(job, row, n_rows, out, n_out);
}
