/*
 * image.h: pictures as bytes in, upright RGB out; and back to PNG.
 *
 * Decoding follows Pillow's `Image.open(f)`, `ImageOps.exif_transpose`, `convert("RGB")` (DESIGN
 * §5): alpha and palette transparency are dropped, CMYK/YCCK use Adobe's inversion, the first frame
 * of an animation is taken. Of 16-bit samples the high byte is kept, as Pillow does, but 16-bit
 * grey is scaled (value / 257, rounded) where Pillow clips it at 255. Colour profiles and gamma are
 * ignored, as there. JPEG by libjpeg-turbo, PNG by libpng, WebP by libwebp. Thread-safe: no state
 * is shared between calls.
 *
 * Where this differs on purpose: EXIF data that cannot be read count as upright (Pillow's
 * exif_transpose raises), and pictures of more than max_pixels are refused by their header.
 */
#ifndef VLMD_CORE_IMAGE_IMAGE_H
#define VLMD_CORE_IMAGE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

/* Scans of one JPEG (a progressive one has about 10): each costs a walk over the whole picture,
 * while its bytes may be a handful. */
enum { IMAGE_JPEG_SCANS_MAX = 100 };

/* Of large pictures fewer scans are taken: scans × pixels may reach this once there are more than
 * IMAGE_JPEG_SCANS_FREE, so that the worst file costs a few times what an honest one does. */
enum { IMAGE_JPEG_SCANS_FREE = 24 };
#define IMAGE_JPEG_SCAN_PIXELS_MAX ((size_t)1 << 30)

/* Bytes that a compressed metadata chunk of a PNG (XMP, raw EXIF) may unpack to. */
enum { IMAGE_METADATA_BYTES_MAX = 1 << 20 };

enum image_format { IMAGE_UNKNOWN, IMAGE_JPEG, IMAGE_PNG, IMAGE_WEBP };

/* An upright RGB picture. `rgb` is [height, width, 3], rows without padding; owned (malloc). */
struct image {
    size_t width;
    size_t height;
    uint8_t *rgb;
};

/* By the first bytes only, never by name. */
enum image_format image_sniff(const void *bytes, size_t size);

/* Asked, where one is given, before a picture is decoded and between its strips (of WebP, between
 * pieces of its bytes): what it fails with ends the decoding. */
struct image_watch {
    enum status (*check)(void *context, struct error *err);
    void *context;
};

/* Decodes bytes[0..size) into *out (to be released by image_release); `watch` may be NULL.
 * Fails with STATUS_UNKNOWN_IMAGE (no format we know), STATUS_IMAGE_TOO_LARGE (width × height
 * of the header above max_pixels; nothing was decoded or allocated then), STATUS_BROKEN_IMAGE
 * (empty, truncated, corrupt, zero-sized), STATUS_NO_MEMORY, the watch's. *out is untouched on
 * failure.
 * Memory while it runs: the picture (twice when it must be turned by a quarter), and for a
 * progressive JPEG its coefficients (up to 8 bytes a pixel). */
enum status image_decode(const void *bytes, size_t size, size_t max_pixels,
                         const struct image_watch *watch, struct image *out, struct error *err);

void image_release(struct image *image); /* NULL and zeroed structs are fine */

/* Encodes pixels [height, width, channels] (channels 1 = grey, 3 = RGB) as PNG, appended to *out
 * (which is as before on failure). STATUS_NO_MEMORY also when out->max_bytes would be passed. */
enum status image_encode_png(const uint8_t *pixels, size_t width, size_t height, int channels,
                             struct buffer *out, struct error *err);
/* RGB pixels as a lossy WebP of middling quality, appended to out, for pictures to be looked at.
 * Sides of at most 16383. */
enum status image_encode_webp(const uint8_t *rgb, size_t width, size_t height, struct buffer *out,
                              struct error *err);

#endif
