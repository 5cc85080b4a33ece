/*
 * decode.c: from bytes to an upright picture: which format, which reader, which way up.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/image/image_internal.h"

static const uint8_t jpeg_magic[] = {0xFF, 0xD8, 0xFF};
static const uint8_t png_magic[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

static bool starts_with(const uint8_t *bytes, size_t size, const void *magic, size_t magic_size)
{
    return size >= magic_size && !memcmp(bytes, magic, magic_size);
}

static bool is_riff(const uint8_t *bytes, size_t size, const char *kind)
{
    return size >= 12 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, kind, 4);
}

enum image_format image_sniff(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    if (starts_with(bytes, size, jpeg_magic, sizeof jpeg_magic))
        return IMAGE_JPEG;
    if (starts_with(bytes, size, png_magic, sizeof png_magic))
        return IMAGE_PNG;
    if (is_riff(bytes, size, "WEBP"))
        return IMAGE_WEBP;
    return IMAGE_UNKNOWN;
}

/* For the error message alone: what a person probably sent. */
static const char *guess(const uint8_t *bytes, size_t size)
{
    static const struct {
        const char *magic, *name;
        size_t size;
    } known[] = {
        {"GIF8", "a GIF", 4},         {"BM", "a BMP", 2},
        {"II*\0", "a TIFF", 4},       {"MM\0*", "a TIFF", 4},
        {"%PDF", "a PDF", 4},         {"<svg", "an SVG", 4},
        {"<?xml", "XML", 5},          {"<!DOCTYPE", "HTML", 9},
        {"<html", "HTML", 5},         {"{", "JSON", 1},
        {"data:", "a data URL", 5},   {"PK\3\4", "a ZIP archive", 4},
        {"\x1F\x8B", "gzip", 2},      {"\xFF\x0A", "a JPEG XL", 2},
        {"/9j/", "a base64 text", 4}, {"iVBOR", "a base64 text", 5},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++)
        if (starts_with(bytes, size, known[i].magic, known[i].size))
            return known[i].name;
    if (size >= 12 && !memcmp(bytes + 4, "ftyp", 4))
        return "an AVIF, HEIC or MP4 file";
    size_t n = size < 64 ? size : 64, n_text = 0;
    for (size_t i = 0; i < n; i++)
        n_text += (bytes[i] >= ' ' && bytes[i] < 0x7F) || bytes[i] == '\n' || bytes[i] == '\r' ||
                  bytes[i] == '\t';
    return n_text == n ? "text" : "something else";
}

enum status image_check_size(const char *format, size_t width, size_t height, size_t max_pixels,
                             struct error *err)
{
    size_t n_pixels, n_bytes;
    if (!width || !height)
        return error_set(err, STATUS_BROKEN_IMAGE, "%s: the picture is %zu × %zu pixels", format,
                         width, height);
    if (!size_mul(width, height, &n_pixels) || !size_mul(n_pixels, 4, &n_bytes) ||
        n_pixels > max_pixels)
        return error_set(err, STATUS_IMAGE_TOO_LARGE,
                         "%s: the picture is %zu × %zu pixels; at most %zu pixels are accepted",
                         format, width, height, max_pixels);
    return STATUS_OK;
}

enum status image_allocate(const char *format, size_t width, size_t height, size_t max_pixels,
                           struct image *out, struct error *err)
{
    enum status status = image_check_size(format, width, height, max_pixels, err);
    if (status)
        return status;
    uint8_t *rgb = malloc(width * height * 3);
    if (!rgb)
        return error_no_memory(err, "a picture");
    *out = (struct image){.width = width, .height = height, .rgb = rgb};
    return STATUS_OK;
}

enum status image_decode(const void *bytes, size_t size, size_t max_pixels,
                         const struct image_watch *watch, struct image *out, struct error *err)
{
    static image_read_fn *const readers[] = {[IMAGE_JPEG] = image_read_jpeg,
                                             [IMAGE_PNG] = image_read_png,
                                             [IMAGE_WEBP] = image_read_webp};
    if (!size)
        return error_set(err, STATUS_BROKEN_IMAGE, "the picture is empty (0 bytes)");
    enum image_format format = image_sniff(bytes, size);
    if (format == IMAGE_UNKNOWN)
        return error_set(err, STATUS_UNKNOWN_IMAGE,
                         "the bytes are no JPEG, PNG or WebP picture (they look like %s)",
                         guess(bytes, size));
    struct image image = {0};
    int orientation = 0;
    enum status status = image_check_watch(watch, err);
    if (!status)
        status = readers[format](bytes, size, max_pixels, watch, &image, &orientation, err);
    if (!status)
        status = image_orient(&image, orientation, err);
    if (status) {
        image_release(&image);
        return status;
    }
    *out = image;
    return STATUS_OK;
}

void image_release(struct image *image)
{
    if (!image)
        return;
    free(image->rgb);
    *image = (struct image){0};
}
