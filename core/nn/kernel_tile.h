/*
 * kernel_tile.h: the inner loops of matrix products, for kernel_linear.c and kernel_attention.c.
 *
 * Two forms, neither of which needs the weights moved or packed:
 *
 * lanes  out[n][lane] = sum over k of w[n][k] · x[k][lane]. Rows of x lie in the lanes, so x must
 * be packed with k outermost (cheap: x is small beside the products), and each weight is read in
 *        place and broadcast. For 16 rows and more.
 * dot    out[row][n] = x[row] · w[n], the lanes along k, summed at the end. For few rows.
 */
#ifndef VLMD_CORE_NN_KERNEL_TILE_H
#define VLMD_CORE_NN_KERNEL_TILE_H

#include "core/nn/kernels.h"
#include "core/nn/vec.h"

/* ---- lanes ----------------------------------------------------------------------------------- */

/* A tile's height for each width in vectors: as many accumulators as registers allow. All heights
 * divide LANES_STEP. */
#if MANY_REGISTERS
enum { VECS_MAX = 4, TILE_1 = 16, TILE_2 = 12, TILE_3 = 8, TILE_4 = 6 };
#else
enum { VECS_MAX = 3, TILE_1 = 8, TILE_2 = 6, TILE_3 = 4, TILE_4 = 0 };
#endif
enum { LANES_STEP = 48, LANES_MAX = VECS_MAX * LANES };

/* How wide the next group of rows is when `vecs` vectors of rows are left: 4 4 3 3 rather than
 * 4 4 4 2, as narrow tiles are slower. */
INLINE size_t group_vecs(size_t vecs)
{
    return vecs % VECS_MAX == 0 ? VECS_MAX : min_size(vecs, VECS_MAX - 1);
}

/* out[n][lane] (+)= sum_k w[n · w_row + k · step] · x[k][lane] for n < n_valid <= tile. Weight rows
 * past n_valid are not read: the last valid one stands in for them.
 *
 * In the loop, additions of indices would take slots from multiplications: strides are constants
 * and four steps go together. Weights come from memory and are met only once in a while, in rows
 * too short for the hardware to foresee: each pass fetches the tile that follows this one. */
#define TILE_STEP(tile, vecs, x, at)                                                               \
    do {                                                                                           \
        vec lanes[vecs];                                                                           \
        _Pragma("GCC unroll 4") for (int v = 0; v < vecs; v++) lanes[v] =                          \
            vec_load((x) + v * LANES);                                                             \
        _Pragma("GCC unroll 16") for (int n = 0; n < tile; n++)                                    \
        {                                                                                          \
            float weight = rows[n][at];                                                            \
            _Pragma("GCC unroll 4") for (int v = 0; v < vecs; v++) sums[n][v] +=                   \
                weight * lanes[v];                                                                 \
        }                                                                                          \
    } while (0)
#define DEFINE_TILE(name, tile, vecs, step)                                                        \
    static void name(const float *w, size_t w_row, size_t w_step, size_t n_valid, const float *x,  \
                     size_t n_k, float *out, bool accumulate)                                      \
    {                                                                                              \
        const float *rows[tile];                                                                   \
        vec sums[tile][vecs];                                                                      \
        _Pragma("GCC unroll 16") for (size_t n = 0; n < tile; n++)                                 \
        {                                                                                          \
            rows[n] = w + (n < n_valid ? n : n_valid - 1) * w_row;                                 \
            _Pragma("GCC unroll 4") for (int v = 0; v < vecs; v++) sums[n][v] = (vec){0};          \
        }                                                                                          \
        const float *next = w + tile * w_row;                                                      \
        size_t k = 0;                                                                              \
        (void)w_step;                                                                              \
        for (; k + 4 <= n_k; k += 4, x += 4 * vecs * LANES) {                                      \
            _Pragma("GCC unroll 4") for (size_t line = 0; line < tile * 4; line += 16)             \
                __builtin_prefetch(next + k * tile + line, 0, 2);                                  \
            _Pragma("GCC unroll 16") for (size_t u = 0; u < 4; u++)                                \
                TILE_STEP(tile, vecs, x + u * vecs * LANES, (k + u) * (step));                     \
        }                                                                                          \
        for (; k < n_k; k++, x += vecs * LANES)                                                    \
            TILE_STEP(tile, vecs, x, k *(step));                                                   \
        _Pragma("GCC unroll 16") for (size_t n = 0; n < tile; n++)                                 \
        {                                                                                          \
            if (n < n_valid) {                                                                     \
                _Pragma("GCC unroll 4") for (int v = 0; v < vecs; v++)                             \
                {                                                                                  \
                    float *to = out + (n * vecs + (size_t)v) * LANES;                              \
                    vec_store(to, accumulate ? vec_load(to) + sums[n][v] : sums[n][v]);            \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_TILE(tile_1, TILE_1, 1, 1)
DEFINE_TILE(tile_2, TILE_2, 2, 1)
DEFINE_TILE(tile_3, TILE_3, 3, 1)
DEFINE_TILE(tile_1_strided, TILE_1, 1, w_step)
DEFINE_TILE(tile_2_strided, TILE_2, 2, w_step)
DEFINE_TILE(tile_3_strided, TILE_3, 3, w_step)
#if MANY_REGISTERS
DEFINE_TILE(tile_4, TILE_4, 4, 1)
DEFINE_TILE(tile_4_strided, TILE_4, 4, w_step)
#endif

/* out[n][vecs · LANES] (+)= w · x for n < n_out, tile by tile; x is packed, [n_k][vecs · LANES]. */
static void lanes_product(size_t vecs, const float *w, size_t w_row, size_t w_step, size_t n_out,
                          const float *x, size_t n_k, float *out, bool accumulate)
{
    static void (*const tiles[][2])(const float *, size_t, size_t, size_t, const float *, size_t,
                                    float *, bool) = {
        {NULL, NULL},
        {tile_1, tile_1_strided},
        {tile_2, tile_2_strided},
        {tile_3, tile_3_strided},
#if MANY_REGISTERS
        {tile_4, tile_4_strided},
#endif
    };
    static const size_t heights[] = {0, TILE_1, TILE_2, TILE_3, TILE_4};
    size_t height = heights[vecs], width = vecs * LANES;
    for (size_t n = 0; n < n_out; n += height)
        tiles[vecs][w_step != 1](w + n * w_row, w_row, w_step, min_size(height, n_out - n), x, n_k,
                                 out + n * width, accumulate);
}

/* packed[k][lane] = factor · rows[lane][k] for vecs · LANES pointers to rows; where one is NULL,
 * the lane is 0. */
static void lanes_pack(size_t vecs, const float *const *rows, size_t n_k, float factor,
                       float *packed)
{
    for (size_t v = 0; v < vecs; v++) {
        const float *const *from = rows + v * LANES;
        float *to = packed + v * LANES;
        for (size_t k = 0; k < n_k; k += LANES) {
            vec block[LANES];
            size_t n = min_size(LANES, n_k - k);
            for (size_t i = 0; i < LANES; i++)
                block[i] = !from[i]     ? (vec){0}
                           : n == LANES ? vec_load(from[i] + k)
                                        : vec_load_part(from[i] + k, n);
            vec_transpose(block);
            for (size_t i = 0; i < n; i++)
                vec_store(to + (k + i) * vecs * LANES, block[i] * factor);
        }
    }
}

/* ---- dot ------------------------------------------------------------------------------------- */

/* Weight rows and rows of x that are multiplied at once. With few rows of x this is as fast as the
 * weights come from memory: the rows two blocks ahead are fetched into the second-level cache. */
enum { DOT_OUT = 4, DOT_ROWS = MANY_REGISTERS ? 6 : 2 };

#define DEFINE_DOT(name, n_rows)                                                                   \
    static void name(const float *const *x, const float *w, size_t w_row, size_t n_valid,          \
                     size_t n_k, float *out, size_t out_row)                                       \
    {                                                                                              \
        const float *rows[DOT_OUT];                                                                \
        vec sums[n_rows][DOT_OUT];                                                                 \
        _Pragma("GCC unroll 4") for (size_t n = 0; n < DOT_OUT; n++)                               \
        {                                                                                          \
            rows[n] = w + (n < n_valid ? n : n_valid - 1) * w_row;                                 \
            _Pragma("GCC unroll 6") for (int r = 0; r < n_rows; r++) sums[r][n] = (vec){0};        \
        }                                                                                          \
        size_t k = 0;                                                                              \
        for (; k + LANES <= n_k; k += LANES) {                                                     \
            _Pragma("GCC unroll 4") for (int n = 0; n < DOT_OUT; n++)                              \
                __builtin_prefetch(rows[n] + 2 * DOT_OUT * w_row + k, 0, 2);                       \
            vec lanes[DOT_OUT];                                                                    \
            _Pragma("GCC unroll 4") for (int n = 0; n < DOT_OUT; n++) lanes[n] =                   \
                vec_load(rows[n] + k);                                                             \
            _Pragma("GCC unroll 6") for (int r = 0; r < n_rows; r++)                               \
            {                                                                                      \
                vec from = vec_load(x[r] + k);                                                     \
                _Pragma("GCC unroll 4") for (int n = 0; n < DOT_OUT; n++) sums[r][n] +=            \
                    from * lanes[n];                                                               \
            }                                                                                      \
        }                                                                                          \
        if (k < n_k) {                                                                             \
            vec lanes[DOT_OUT];                                                                    \
            _Pragma("GCC unroll 4") for (int n = 0; n < DOT_OUT; n++) lanes[n] =                   \
                vec_load_part(rows[n] + k, n_k - k);                                               \
            _Pragma("GCC unroll 6") for (int r = 0; r < n_rows; r++)                               \
            {                                                                                      \
                vec from = vec_load_part(x[r] + k, n_k - k);                                       \
                _Pragma("GCC unroll 4") for (int n = 0; n < DOT_OUT; n++) sums[r][n] +=            \
                    from * lanes[n];                                                               \
            }                                                                                      \
        }                                                                                          \
        _Pragma("GCC unroll 6") for (size_t r = 0; r < n_rows; r++)                                \
        {                                                                                          \
            vec4 total = vec_sum4(sums[r]);                                                        \
            memcpy(out + r * out_row, &total, n_valid * sizeof(float));                            \
        }                                                                                          \
    }

DEFINE_DOT(dot_1, 1)
DEFINE_DOT(dot_2, 2)
#if MANY_REGISTERS
DEFINE_DOT(dot_3, 3)
DEFINE_DOT(dot_4, 4)
DEFINE_DOT(dot_5, 5)
DEFINE_DOT(dot_6, 6)
#endif

/* out[row · out_row + n] = x[row] · w[n] for n_rows rows (pointers to them) and n < n_out. */
static void dot_product(const float *const *x, size_t n_rows, const float *w, size_t w_row,
                        size_t n_out, size_t n_k, float *out, size_t out_row)
{
    static void (*const dots[])(const float *const *, const float *, size_t, size_t, size_t,
                                float *, size_t) = {
        NULL,
        dot_1,
        dot_2,
#if MANY_REGISTERS
        dot_3,
        dot_4,
        dot_5,
        dot_6,
#endif
    };
    for (size_t n = 0; n < n_out; n += DOT_OUT) {
        size_t n_valid = min_size(DOT_OUT, n_out - n);
        for (size_t row = 0; row < n_rows; row += DOT_ROWS)
            dots[min_size(DOT_ROWS, n_rows - row)](x + row, w + n * w_row, w_row, n_valid, n_k,
                                                   out + row * out_row + n, out_row);
    }
}

#endif
