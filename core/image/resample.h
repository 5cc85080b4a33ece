/*
 * resample.h: Pillow's resize and crop, to the bit.
 *
 * Follows Pillow's two-pass antialiased resampling for 8-bit channels: support scaled by the
 * reduction, coefficients normalised then rounded to 22-bit fixed point, two passes with 8 bits
 * between them in the order that Pillow 13 chooses. The sums are of integers, so their order does
 * not matter and the SIMD kernels give the same bytes as the plain ones. Thread-safe: no state is
 * shared between calls.
 */
#ifndef VLMD_CORE_IMAGE_RESAMPLE_H
#define VLMD_CORE_IMAGE_RESAMPLE_H

#include <stdbool.h>

#include "core/image/image.h"

/* Values are PIL.Image.Resampling's, as `resample` in preprocessor_config.json has them. */
enum resample {
    RESAMPLE_NEAREST = 0,
    RESAMPLE_LANCZOS = 1,
    RESAMPLE_BILINEAR = 2,
    RESAMPLE_BICUBIC = 3,
    RESAMPLE_BOX = 4,
    RESAMPLE_HAMMING = 5,
    N_RESAMPLE,
};

/* The largest edge of the whole resized picture, and how many of its pixels (after the crop) may be
 * computed. A 1 × 5000 picture resized to a shortest edge of 224 has 250 million pixels, of which
 * the crop keeps 50,176. */
#define IMAGE_RESIZE_EDGE_MAX   ((size_t)1 << 27)
#define IMAGE_RESIZE_PIXELS_MAX ((size_t)1 << 26)

/* The part of the resized picture that is wanted: computing only that much is what makes a centre
 * crop cheap. A rectangle may reach outside the resized picture; those pixels are 0 (as the
 * reference's center_crop pads). */
struct image_rect {
    long x, y;
    size_t width, height;
};

/* *out = crop(resize(in, width × height)); crop NULL = all of it. *out is released by the caller
 * and untouched on failure. STATUS_UNPROCESSABLE when a size is 0 or past the maxima above,
 * STATUS_NO_MEMORY. */
enum status image_resize(const struct image *in, size_t width, size_t height,
                         enum resample resample, const struct image_rect *crop, struct image *out,
                         struct error *err);

/* The same with the kernel named: for tests and benchmarks that compare them. */
enum image_kernel { IMAGE_KERNEL_PLAIN, IMAGE_KERNEL_AVX2, IMAGE_KERNEL_AVX512, N_IMAGE_KERNEL };
bool image_kernel_usable(enum image_kernel kernel); /* compiled in, and this processor has it */
enum status image_resize_with(enum image_kernel kernel, const struct image *in, size_t width,
                              size_t height, enum resample resample, const struct image_rect *crop,
                              struct image *out, struct error *err);

#endif
