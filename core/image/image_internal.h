/*
 * image_internal.h: what the format readers share. A reader gets the bytes and max_pixels, decodes
 * to RGB as stored and says how the picture must be turned; decode.c dispatches and turns it.
 */
#ifndef VLMD_CORE_IMAGE_IMAGE_INTERNAL_H
#define VLMD_CORE_IMAGE_IMAGE_INTERNAL_H

#include <stdbool.h>

#include "core/image/image.h"

/* EXIF orientation, 1..8; anything else (0: not stated) is taken as upright. */
typedef enum status image_read_fn(const uint8_t *bytes, size_t size, size_t max_pixels,
                                  const struct image_watch *watch, struct image *out,
                                  int *orientation, struct error *err);

image_read_fn image_read_jpeg, image_read_png, image_read_webp;

/* The one check of dimensions before any allocation, and the allocation. On success out->rgb holds
 * width × height × 3 uninitialised bytes. `format` begins the error's sentence. */
enum status image_allocate(const char *format, size_t width, size_t height, size_t max_pixels,
                           struct image *out, struct error *err);
enum status image_check_size(const char *format, size_t width, size_t height, size_t max_pixels,
                             struct error *err);

static inline enum status image_check_watch(const struct image_watch *watch, struct error *err)
{
    return watch ? watch->check(watch->context, err) : STATUS_OK;
}

/* The orientation tag (0x0112) of the first directory of a TIFF block, with or without "Exif\0\0"
 * before it; 0 when there is none or the block is broken. */
int exif_orientation(const uint8_t *bytes, size_t size);

/* tiff:Orientation of an XMP packet, as attribute or element; 0 when there is none. */
int xmp_orientation(const uint8_t *bytes, size_t size);

/* Turns the picture in place, as ImageOps.exif_transpose does. */
enum status image_orient(struct image *image, int orientation, struct error *err);

#endif
