/*
 * resample.h: Pillow's resize and crop, to the bit where 8-bit fixed point allows.
 *
 * Follows Pillow's two-pass antialiased resampling for 8-bit channels: support scaled by the
 * reduction, coefficients normalised then rounded to 22-bit fixed point, horizontal pass first with
 * an 8-bit intermediate. The plain path is the oracle of any SIMD path.
 */
#ifndef VLMD_CORE_IMAGE_RESAMPLE_H
#define VLMD_CORE_IMAGE_RESAMPLE_H

#include "core/image/image.h"

/* Values are PIL.Image.Resampling's, as `resample` in preprocessor_config.json has them. */
enum resample {
    RESAMPLE_NEAREST = 0,
    RESAMPLE_LANCZOS = 1,
    RESAMPLE_BILINEAR = 2,
    RESAMPLE_BICUBIC = 3,
    RESAMPLE_BOX = 4,
    RESAMPLE_HAMMING = 5,
};

/* The part of the resized picture that is wanted: computing only that much is what makes a centre
 * crop cheap. A rectangle may reach outside the resized picture; those pixels are 0 (as the
 * reference's center_crop pads). */
struct image_rect {
    long x, y;
    size_t width, height;
};

/* *out = crop(resize(in, width × height)); crop NULL = all of it. */
enum status image_resize(const struct image *in, size_t width, size_t height,
                         enum resample resample, const struct image_rect *crop, struct image *out,
                         struct error *err);

#endif
