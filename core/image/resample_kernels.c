/*
 * resample_kernels.c: the inner loops of resizing: plain C, AVX2 and AVX-512 forms of one sum, and
 * the transposition of 16 rows of bytes. The processor is asked at run time, so one binary runs
 * everywhere. Everything is integer arithmetic modulo 2³² without saturation before the last clip:
 * all forms give the same bytes (test_image_resample compares them).
 */
#include "core/image/resample_internal.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86 1
#endif

static const int32_t half = 1 << (RESAMPLE_PRECISION_BITS - 1);

static void sum_plain(uint8_t *out, const uint8_t *in, size_t stride, const int32_t *k,
                      size_t n_taps)
{
    int32_t sum[RESAMPLE_LANES];
    for (int l = 0; l < RESAMPLE_LANES; l++)
        sum[l] = half;
    for (size_t t = 0; t < n_taps; t++, in += stride)
        for (int l = 0; l < RESAMPLE_LANES; l++)
            sum[l] += k[t] * in[l];
    for (int l = 0; l < RESAMPLE_LANES; l++) {
        int32_t value = sum[l] >> RESAMPLE_PRECISION_BITS;
        out[l] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

#ifdef HAVE_X86

__attribute__((target("avx2"))) static void sum_avx2(uint8_t *out, const uint8_t *in, size_t stride,
                                                     const int32_t *k, size_t n_taps)
{
    __m256i sum[6];
    for (int i = 0; i < 6; i++)
        sum[i] = _mm256_set1_epi32(half);
    for (size_t t = 0; t < n_taps; t++, in += stride) {
        __m256i weight = _mm256_set1_epi32(k[t]);
        for (int i = 0; i < 6; i++) {
            __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + 8 * i)));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_mullo_epi32(x, weight));
        }
    }
    for (int i = 0; i < 6; i += 2) {
        __m256i a = _mm256_srai_epi32(sum[i], RESAMPLE_PRECISION_BITS);
        __m256i b = _mm256_srai_epi32(sum[i + 1], RESAMPLE_PRECISION_BITS);
        /* After the shift the values fit 10 bits, so only the last pack can clip. */
        __m256i ab = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
        __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(ab), _mm256_extracti128_si256(ab, 1));
        _mm_storeu_si128((__m128i *)(out + 8 * i), bytes);
    }
}

__attribute__((target("avx512f,avx512bw"))) static void
sum_avx512(uint8_t *out, const uint8_t *in, size_t stride, const int32_t *k, size_t n_taps)
{
    __m512i a = _mm512_set1_epi32(half), b = a, c = a;
    for (size_t t = 0; t < n_taps; t++, in += stride) {
        __m512i weight = _mm512_set1_epi32(k[t]);
        __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)in));
        __m512i y = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(in + 16)));
        __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(in + 32)));
        a = _mm512_add_epi32(a, _mm512_mullo_epi32(x, weight));
        b = _mm512_add_epi32(b, _mm512_mullo_epi32(y, weight));
        c = _mm512_add_epi32(c, _mm512_mullo_epi32(z, weight));
    }
    const __m512i zero = _mm512_setzero_si512();
    const __m512i parts[3] = {a, b, c};
    for (int i = 0; i < 3; i++) {
        __m512i value = _mm512_srai_epi32(parts[i], RESAMPLE_PRECISION_BITS);
        __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(value, zero));
        _mm_storeu_si128((__m128i *)(out + 16 * i), bytes);
    }
}

#endif

bool image_kernel_usable(enum image_kernel kernel)
{
    switch (kernel) {
    case IMAGE_KERNEL_PLAIN:
        return true;
#ifdef HAVE_X86
    case IMAGE_KERNEL_AVX2:
        return __builtin_cpu_supports("avx2");
    case IMAGE_KERNEL_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#endif
    default:
        return false;
    }
}

resample_sum_fn *resample_sum(enum image_kernel kernel)
{
    if (!image_kernel_usable(kernel))
        return NULL;
    switch (kernel) {
#ifdef HAVE_X86
    case IMAGE_KERNEL_AVX2:
        return sum_avx2;
    case IMAGE_KERNEL_AVX512:
        return sum_avx512;
#endif
    default:
        return sum_plain;
    }
}

#ifdef __SSE2__

#include <emmintrin.h>

/* A 16 × 16 byte transposition: four rounds that interleave row i with row i + 8. */
static void transpose_16(__m128i x[16])
{
    for (int round = 0; round < 4; round++) {
        __m128i y[16];
        for (int i = 0; i < 8; i++) {
            y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
            y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
        }
        for (int i = 0; i < 16; i++)
            x[i] = y[i];
    }
}

/* Whole blocks of 16 columns; the rest (n_bytes % 16) is done byte by byte. */
static size_t transpose_blocks(uint8_t *to, const uint8_t *const from[16], size_t n_bytes)
{
    size_t j = 0;
    for (; j + 16 <= n_bytes; j += 16) {
        __m128i x[16];
        for (int r = 0; r < 16; r++)
            x[r] = _mm_loadu_si128((const __m128i *)(from[r] + j));
        transpose_16(x);
        for (int r = 0; r < 16; r++)
            _mm_storeu_si128((__m128i *)(to + 16 * (j + (size_t)r)), x[r]);
    }
    return j;
}

static size_t transpose_blocks_back(uint8_t *const to[16], size_t n_rows, const uint8_t *from,
                                    size_t n_bytes)
{
    size_t j = 0;
    for (; j + 16 <= n_bytes; j += 16) {
        __m128i x[16];
        for (int r = 0; r < 16; r++)
            x[r] = _mm_loadu_si128((const __m128i *)(from + 16 * (j + (size_t)r)));
        transpose_16(x);
        for (size_t r = 0; r < n_rows; r++)
            _mm_storeu_si128((__m128i *)(to[r] + j), x[r]);
    }
    return j;
}

#else

static size_t transpose_blocks(uint8_t *to, const uint8_t *const from[16], size_t n_bytes)
{
    (void)to, (void)from, (void)n_bytes;
    return 0;
}

static size_t transpose_blocks_back(uint8_t *const to[16], size_t n_rows, const uint8_t *from,
                                    size_t n_bytes)
{
    (void)to, (void)n_rows, (void)from, (void)n_bytes;
    return 0;
}

#endif

void resample_transpose(uint8_t *to, const uint8_t *const from[RESAMPLE_ROWS], size_t n_bytes)
{
    for (size_t j = transpose_blocks(to, from, n_bytes); j < n_bytes; j++)
        for (size_t r = 0; r < RESAMPLE_ROWS; r++)
            to[j * RESAMPLE_ROWS + r] = from[r][j];
}

void resample_transpose_back(uint8_t *const to[RESAMPLE_ROWS], size_t n_rows, const uint8_t *from,
                             size_t n_bytes)
{
    for (size_t j = transpose_blocks_back(to, n_rows, from, n_bytes); j < n_bytes; j++)
        for (size_t r = 0; r < n_rows; r++)
            to[r][j] = from[j * RESAMPLE_ROWS + r];
}
