/*
 * encode.c: pixels to PNG by libpng (masks, drawn boxes), and to WebP by libwebp (thumbnails).
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <webp/encode.h>

#include "core/base/size.h"
#include "core/image/image.h"

struct writer {
    png_structp png;
    png_infop info;
    jmp_buf on_error;
    struct error *err;
    enum status status;
    struct buffer *out;
};

static void on_error(png_structp png, png_const_charp text)
{
    struct writer *writer = png_get_error_ptr(png);
    if (!writer->status)
        writer->status = error_set(writer->err, STATUS_INTERNAL, "writing a PNG: %s", text);
    longjmp(writer->on_error, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text;
}

static void write_bytes(png_structp png, png_bytep bytes, size_t n)
{
    struct writer *writer = png_get_io_ptr(png);
    if (buffer_append(writer->out, bytes, n))
        return;
    writer->status = error_no_memory(writer->err, "a PNG");
    png_error(png, "no memory");
}

static void flush_bytes(png_structp png)
{
    (void)png;
}

/* Everything that may jump to on_error. */
static void encode(struct writer *writer, const uint8_t *pixels, size_t width, size_t height,
                   int channels)
{
    png_structp png = writer->png =
        png_create_write_struct(PNG_LIBPNG_VER_STRING, writer, on_error, on_warning);
    writer->info = png ? png_create_info_struct(png) : NULL;
    if (!writer->info) {
        writer->status = error_no_memory(writer->err, "a PNG");
        return;
    }
    png_set_write_fn(png, writer, write_bytes, flush_bytes);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_IHDR(png, writer->info, (png_uint_32)width, (png_uint_32)height, 8,
                 channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (channels == 1) {
        /* Masks are smooth and large: 3.5 times as fast as the default, a fifth longer. */
        png_set_compression_level(png, 4);
        png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_UP);
    }
    png_write_info(png, writer->info);
    for (size_t y = 0; y < height; y++)
        png_write_row(png, pixels + y * width * (size_t)channels);
    png_write_end(png, writer->info);
}

enum status image_encode_png(const uint8_t *pixels, size_t width, size_t height, int channels,
                             struct buffer *out, struct error *err)
{
    if ((channels != 1 && channels != 3) || !width || !height || width > PNG_UINT_31_MAX ||
        height > PNG_UINT_31_MAX)
        return error_set(err, STATUS_INTERNAL,
                         "writing a PNG: %zu × %zu pixels of %d channels cannot be stored", width,
                         height, channels);
    struct writer writer = {.err = err, .out = out};
    size_t size_before = out->size;
    if (!setjmp(writer.on_error))
        encode(&writer, pixels, width, height, channels);
    png_destroy_write_struct(&writer.png, &writer.info);
    if (writer.status && out->data) {
        out->size = size_before;
        out->data[size_before] = '\0';
    }
    return writer.status;
}

enum status image_encode_webp(const uint8_t *rgb, size_t width, size_t height, struct buffer *out,
                              struct error *err)
{
    static const float quality = 75;
    if (!width || !height || width > WEBP_MAX_DIMENSION || height > WEBP_MAX_DIMENSION)
        return error_set(err, STATUS_INTERNAL, "writing a WebP: %zu × %zu pixels cannot be stored",
                         width, height);
    uint8_t *bytes = NULL;
    size_t size = WebPEncodeRGB(rgb, (int)width, (int)height, (int)width * 3, quality, &bytes);
    bool fine = size && buffer_append(out, bytes, size);
    WebPFree(bytes);
    return fine ? STATUS_OK : error_no_memory(err, "a WebP");
}
