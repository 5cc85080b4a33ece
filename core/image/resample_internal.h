/*
 * resample_internal.h: what the two halves of resizing share: resample.c computes coefficients and
 * walks the picture, resample_kernels.c sums.
 *
 * One kernel serves both passes. It sums n_taps vectors of RESAMPLE_LANES neighbouring bytes, each
 * times its coefficient. In the vertical pass the bytes are a stretch of a row and the taps are
 * rows; in the horizontal pass 16 rows are transposed first, so that the bytes are one pixel of 16
 * rows (3 channels × 16 rows) and the taps are pixels. No lane is wasted on either.
 */
#ifndef VLMD_CORE_IMAGE_RESAMPLE_INTERNAL_H
#define VLMD_CORE_IMAGE_RESAMPLE_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "core/image/resample.h"

/* Pillow's 8-bit fixed point: 32 bits less 8 of the pixel, less 2 for overshooting filters. */
enum { RESAMPLE_PRECISION_BITS = 32 - 8 - 2 };

enum { RESAMPLE_ROWS = 16, RESAMPLE_LANES = 3 * RESAMPLE_ROWS };

/* out[l] = clip8((Σ_t k[t] · in[t · stride + l] + ½) >> 22) for l in [0, RESAMPLE_LANES) */
typedef void resample_sum_fn(uint8_t *out, const uint8_t *in, size_t stride, const int32_t *k,
                             size_t n_taps);

/* The kernel's function; NULL when it is not usable here. */
resample_sum_fn *resample_sum(enum image_kernel kernel);

/* to[j · 16 + r] = from[r][j] for j in [0, n_bytes), r in [0, 16), and back. */
void resample_transpose(uint8_t *to, const uint8_t *const from[RESAMPLE_ROWS], size_t n_bytes);
void resample_transpose_back(uint8_t *const to[RESAMPLE_ROWS], size_t n_rows, const uint8_t *from,
                             size_t n_bytes);

#endif
