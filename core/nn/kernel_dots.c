/*
 * kernel_dots.c: products of one vector with rows of f32, f16 or int8. The rows come from memory
 * once, so the conversions are free as long as they keep up with it.
 */
#include "core/nn/kernel_isa.h"
#include "core/nn/vec.h"

/* LANES numbers of a row as floats. */
INLINE vec load_f32(const float *from)
{
    return vec_load(from);
}

#if !defined(__AVX2__)
typedef int8_t bytes_of_vec __attribute__((vector_size(LANES)));
typedef uint16_t halves_of_vec __attribute__((vector_size(2 * LANES)));
#endif

/* The compiler makes single numbers of __builtin_convertvector, so widths that matter say how. */
INLINE vec load_i8(const int8_t *from)
{
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    bytes_of_vec bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, vec);
#endif
}

INLINE vec load_f16(const uint16_t *from)
{
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#else
    /* Exponent and fraction moved into place give the value times 2^-112; finite only. */
#if defined(__AVX2__)
    ivec wide = (ivec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
#else
    halves_of_vec halves;
    memcpy(&halves, from, sizeof halves);
    ivec wide = __builtin_convertvector(halves, ivec);
#endif
    vec size = (vec)((wide & 0x7FFF) << 13) * 0x1p112f;
    return (vec)((ivec)size | (wide & 0x8000) << 16);
#endif
}

/* A function for each form: four rows at a time share the loads of the query; a lone row has four
 * sums. The last numbers, too few for a vector, go through a padded copy. */
#define DOTS(form, type)                                                                           \
    static vec last_##form(const type *row, size_t n)                                              \
    {                                                                                              \
        type padded[LANES] = {0};                                                                  \
        memcpy(padded, row, (n & (LANES - 1)) * sizeof *row);                                      \
        return load_##form(padded);                                                                \
    }                                                                                              \
                                                                                                   \
    static float one_##form(const type *row, size_t dim, const float *query)                       \
    {                                                                                              \
        vec sums[4] = {{0}};                                                                       \
        size_t i = 0;                                                                              \
        for (; i + 4 * LANES <= dim; i += 4 * LANES)                                               \
            for (size_t j = 0; j < 4; j++)                                                         \
                sums[j] += load_##form(row + i + j * LANES) * vec_load(query + i + j * LANES);     \
        for (; i + LANES <= dim; i += LANES)                                                       \
            sums[0] += load_##form(row + i) * vec_load(query + i);                                 \
        if (i < dim)                                                                               \
            sums[1] += last_##form(row + i, dim - i) * vec_load_part(query + i, dim - i);          \
        return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));                                 \
    }                                                                                              \
                                                                                                   \
    static void all_##form(const type *rows, size_t n, size_t dim, const float *query,             \
                           float *scores)                                                          \
    {                                                                                              \
        size_t r = 0;                                                                              \
        for (; r + 4 <= n; r += 4) {                                                               \
            const type *row = rows + r * dim;                                                      \
            vec sums[4] = {{0}};                                                                   \
            size_t i = 0;                                                                          \
            for (; i + LANES <= dim; i += LANES) {                                                 \
                vec part = vec_load(query + i);                                                    \
                for (size_t j = 0; j < 4; j++)                                                     \
                    sums[j] += load_##form(row + j * dim + i) * part;                              \
            }                                                                                      \
            if (i < dim)                                                                           \
                for (size_t j = 0; j < 4; j++)                                                     \
                    sums[j] += last_##form(row + j * dim + i, dim - i) *                           \
                               vec_load_part(query + i, dim - i);                                  \
            vec4 four = vec_sum4(sums);                                                            \
            memcpy(scores + r, &four, sizeof four);                                                \
        }                                                                                          \
        for (; r < n; r++)                                                                         \
            scores[r] = one_##form(rows + r * dim, dim, query);                                    \
    }

DOTS(f32, float)
DOTS(f16, uint16_t)
DOTS(i8, int8_t)

void KERNEL(dot_rows)(enum dot_form form, const void *rows, const float *scales, size_t n,
                      size_t dim, const float *query, float *scores)
{
    if (form == DOT_F32) {
        all_f32(rows, n, dim, query, scores);
    } else if (form == DOT_F16) {
        all_f16(rows, n, dim, query, scores);
    } else {
        all_i8(rows, n, dim, query, scores);
        for (size_t i = 0; i < n; i++)
            scores[i] *= scales[i];
    }
}
