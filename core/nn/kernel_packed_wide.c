/*
 * kernel_packed_wide.c: products with packed weights on chips without a form's units, and where
 * kernel_packed.c has no memory to bring rows into the weights' kind of number: a stretch of
 * weights becomes f32 in the first cache, x stays f32.
 */
#include "core/nn/kernel_packed.h"

enum {
    STRETCH = 256, /* inputs widened at a time: 16 KB */
    WIDE_ROWS = LANES == 16      ? 12
                : LANES == 8     ? 4
                : MANY_REGISTERS ? 4
                                 : 2,
    WIDE_VECS = PACK_OUT / LANES,
};

INLINE ivec word_load(const char *from)
{
    return (ivec)vec_load((const float *)from);
}

/* Inputs [k, k + n) of a block as f32, to[n][PACK_OUT]; k and n multiples of INT4_GROUP. */
static void widen(enum weight_form form, const char *block, size_t n_in, size_t k, size_t n,
                  float *to)
{
    size_t padded = packed_in(n_in);
    for (size_t lane = 0; lane < PACK_OUT; lane += LANES) {
        if (form == WEIGHT_BF16) {
            for (size_t i = 0; i < n; i += 2) {
                ivec words = word_load(block + (k + i) * PACK_OUT * 2 + lane * 4);
                vec_store(to + i * PACK_OUT + lane, (vec)(words << 16));
                vec_store(to + (i + 1) * PACK_OUT + lane, (vec)(words & (int32_t)0xFFFF0000));
            }
        } else if (form == WEIGHT_INT8) {
            vec scale = vec_load((const float *)(block + padded * PACK_OUT) + lane);
            for (size_t i = 0; i < n; i += 4) {
                ivec words = word_load(block + (k + i) * PACK_OUT + lane * 4);
                for (int b = 0; b < 4; b++)
                    vec_store(to + (i + (size_t)b) * PACK_OUT + lane,
                              __builtin_convertvector(words << (24 - 8 * b) >> 24, vec) * scale);
            }
        } else {
            const char *scales = block + padded * PACK_OUT / 2;
            for (size_t i = 0; i < n; i += 8) {
                float scale[LANES];
                for (size_t l = 0; l < LANES; l++) {
                    uint16_t half;
                    memcpy(&half,
                           scales + ((k + i) / INT4_GROUP * PACK_OUT + lane + l) * sizeof half,
                           sizeof half);
                    uint32_t bits = (uint32_t)half << 16;
                    memcpy(&scale[l], &bits, sizeof bits);
                }
                ivec words = word_load(block + (k + i) * PACK_OUT / 2 + lane * 4);
                for (int j = 0; j < 8; j++) {
                    ivec nibble = (words >> (16 * (j % 2) + 4 * (j / 2)) & 15) - 8;
                    vec_store(to + (i + (size_t)j) * PACK_OUT + lane,
                              __builtin_convertvector(nibble, vec) * vec_load(scale));
                }
            }
        }
    }
}

/* sums[n][PACK_OUT] += x · wide, for n <= WIDE_ROWS rows; rows past n repeat the last one. */
static void wide_rows(const float *const *rows, size_t k, size_t n_k, const float *wide,
                      float sums[WIDE_ROWS][PACK_OUT])
{
    vec total[WIDE_ROWS][WIDE_VECS];
#pragma GCC unroll 12
    for (int r = 0; r < WIDE_ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < WIDE_VECS; v++)
            total[r][v] = vec_load(sums[r] + v * LANES);
    for (size_t i = 0; i < n_k; i++) {
        vec w[WIDE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < WIDE_VECS; v++)
            w[v] = vec_load(wide + i * PACK_OUT + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < WIDE_ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < WIDE_VECS; v++)
                total[r][v] += rows[r][k + i] * w[v];
    }
#pragma GCC unroll 12
    for (int r = 0; r < WIDE_ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < WIDE_VECS; v++)
            vec_store(sums[r] + v * LANES, total[r][v]);
}

/* 48 rows share what was widened. */
enum { WIDE_GROUP = 48 };

bool KERNEL(packed_wide)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                         size_t n_out)
{
    const struct linear *linear = job->linear;
    struct scratch *scratch = job->conv ? scratch_of_thread() : NULL;
    if (job->conv && !scratch)
        return false;
    if (scratch)
        scratch->job_id = 0;
    size_t n_in = linear->n_in, group;
    size_t group_max = min_size(job->conv ? SCRATCH_FLOATS / n_in : WIDE_GROUP, WIDE_GROUP);
#if defined(__AVX512BF16__)
    /* here only for want of scratch */
    float one[PACK_IN_MAX];
    group_max = job->x_bf16 ? 1 : group_max;
#endif
    for (size_t end_row = row + n_rows; row < end_row; row += group) {
        group = min_size(group_max, end_row - row);
        const float *rows[WIDE_GROUP + WIDE_ROWS];
        for (size_t r = 0; r < group + WIDE_ROWS; r++)
            rows[r] = r >= group ? rows[group - 1]
                      : scratch  ? packed_row_at(job, row + r, scratch->floats + r * n_in)
                                 : packed_row_at(job, row + r, NULL);
#if defined(__AVX512BF16__)
        if (job->x_bf16) {
            BASE_KERNEL(dtype_to_f32)(job->x_bf16 + row * n_in, DTYPE_BF16, n_in, one);
            for (size_t r = 0; r < group + WIDE_ROWS; r++)
                rows[r] = one;
        }
#endif
        for (size_t o = out; o < out + n_out; o += PACK_OUT) {
            float sums[WIDE_GROUP + WIDE_ROWS][PACK_OUT] = {0};
            _Alignas(64) float wide[STRETCH * PACK_OUT];
            const char *block = packed_block_at(linear, o);
            for (size_t k = 0; k < n_in; k += STRETCH) {
                widen(linear->form, block, n_in, k, min_size(STRETCH, packed_in(n_in) - k), wide);
                for (size_t r = 0; r < group; r += WIDE_ROWS)
                    wide_rows(rows + r, k, min_size(STRETCH, n_in - k), wide, sums + r);
            }
            finish(job, NULL, sums[0], PACK_OUT, row, group, o,
                   min_size(PACK_OUT, out + n_out - o));
        }
    }
    return true;
}
