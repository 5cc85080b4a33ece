/*
 * png.c: PNG by libpng.
 *
 *   signature, then chunks {length 32, type, data, CRC 32 of type and data}: IHDR {width 32, height
 *   32, depth, colour type, compression, filter, interlace}, PLTE, IDAT…, IEND, others between.
 *
 * The chunks are walked first, as Pillow does: those before the picture's data must be whole and
 * carry the right CRC, the data's own CRC is not looked at. That walk takes the size (checked
 * before anything is allocated) and the orientation (eXIf, ImageMagick's "Raw profile type exif",
 * XMP). libpng then decodes and is told to pass over everything that is not IHDR, PLTE or IDAT:
 * profiles, gamma and transparency do not change the RGB that is wanted. A file that ends after the
 * last row's data (checksum or IEND missing) is a picture, as in Pillow.
 *
 * libpng reports errors by a call that must not return: ours jumps back to image_read_png().
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <zlib.h>

#include "core/base/size.h"
#include "core/image/image_internal.h"

enum { SIGNATURE_BYTES = 8, CHUNK_HEAD_BYTES = 8, CRC_BYTES = 4, IHDR_BYTES = 13 };
enum { WATCH_PIXELS = 1 << 16 }; /* between two looks at the watch */

static uint32_t read32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

/* --- the walk --------------------------------------------------------------------------------- */

struct chunk {
    const uint8_t *data;
    size_t size;
    char type[5];
};

struct walk {
    size_t width, height;
    bool data_seen;
    const uint8_t *cut;               /* an IDAT that the file's end cuts off, else NULL */
    struct chunk exif, raw_exif, xmp; /* data NULL when absent */
};

static bool chunk_is(const struct chunk *chunk, const char *type)
{
    return !memcmp(chunk->type, type, 4);
}

/* Is the chunk a text chunk with this keyword? */
static bool text_is(const struct chunk *chunk, const char *keyword)
{
    size_t n = strlen(keyword) + 1;
    return chunk->size >= n && !memcmp(chunk->data, keyword, n);
}

static void keep_metadata(struct walk *walk, const struct chunk *chunk)
{
    if (chunk_is(chunk, "eXIf"))
        walk->exif = *chunk;
    else if ((chunk_is(chunk, "zTXt") || chunk_is(chunk, "tEXt")) &&
             text_is(chunk, "Raw profile type exif"))
        walk->raw_exif = *chunk;
    else if (chunk_is(chunk, "iTXt") && text_is(chunk, "XML:com.adobe.xmp"))
        walk->xmp = *chunk;
}

static enum status walk_chunks(const uint8_t *bytes, size_t size, size_t max_pixels,
                               struct walk *walk, struct error *err)
{
    for (size_t at = SIGNATURE_BYTES;;) {
        if (size - at < CHUNK_HEAD_BYTES) {
            if (walk->data_seen)
                return STATUS_OK;
            return error_set(err, STATUS_BROKEN_IMAGE,
                             "PNG: the file is truncated before the picture's data");
        }
        struct chunk chunk = {.data = bytes + at + CHUNK_HEAD_BYTES, .size = read32(bytes + at)};
        memcpy(chunk.type, bytes + at + 4, 4);
        for (int i = 0; i < 4; i++)
            if (!((chunk.type[i] | 0x20) >= 'a' && (chunk.type[i] | 0x20) <= 'z')) {
                if (walk->data_seen) /* rubbish behind the data */
                    return STATUS_OK;
                return error_set(err, STATUS_BROKEN_IMAGE,
                                 "PNG: no chunk at byte %zu, where one should be", at);
            }
        size_t left = size - at - CHUNK_HEAD_BYTES;
        if (walk->data_seen && (chunk_is(&chunk, "IEND") || chunk_is(&chunk, "fcTL")))
            return STATUS_OK; /* fcTL: the next frame begins */
        if (chunk_is(&chunk, "IDAT")) {
            if (!walk->width)
                return error_set(err, STATUS_BROKEN_IMAGE, "PNG: data before the header (IHDR)");
            walk->data_seen = true;
            if (chunk.size > left || left - chunk.size < CRC_BYTES) {
                walk->cut = chunk.size > left ? bytes + at : NULL;
                return STATUS_OK; /* the decoder will see whether that was enough */
            }
        } else {
            if (chunk.size > left || (left - chunk.size < CRC_BYTES && !walk->data_seen))
                return error_set(err, STATUS_BROKEN_IMAGE,
                                 "PNG: the file is truncated in its chunk %s", chunk.type);
            if (left - chunk.size < CRC_BYTES)
                return STATUS_OK;
            const uint8_t *end = chunk.data + chunk.size;
            uint32_t crc = (uint32_t)crc32_z(0, bytes + at + 4, chunk.size + 4);
            if (!walk->data_seen && crc != read32(end))
                return error_set(err, STATUS_BROKEN_IMAGE, "PNG: wrong checksum in chunk %s",
                                 chunk.type);
            keep_metadata(walk, &chunk);
            if (chunk_is(&chunk, "IHDR") && !walk->width) {
                if (chunk.size != IHDR_BYTES)
                    return error_set(err, STATUS_BROKEN_IMAGE,
                                     "PNG: the header (IHDR) has %zu bytes instead of %d",
                                     chunk.size, IHDR_BYTES);
                walk->width = read32(chunk.data);
                walk->height = read32(chunk.data + 4);
                enum status status =
                    image_check_size("PNG", walk->width, walk->height, max_pixels, err);
                if (status)
                    return status;
            }
        }
        at += CHUNK_HEAD_BYTES + chunk.size + CRC_BYTES;
    }
}

/* --- orientation ------------------------------------------------------------------------------ */

/* Unpacks zlib data to at most IMAGE_METADATA_BYTES_MAX bytes. NULL when broken, larger or out of
 * memory: metadata are never worth refusing a picture. */
static uint8_t *unpack(const uint8_t *data, size_t size, size_t *unpacked)
{
    uint8_t *out = malloc(IMAGE_METADATA_BYTES_MAX);
    uLongf n = IMAGE_METADATA_BYTES_MAX;
    if (!out || uncompress(out, &n, data, size) != Z_OK) {
        free(out);
        return NULL;
    }
    *unpacked = n;
    return out;
}

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "\nexif\n    <count>\n<hex digits in lines>" */
static int raw_exif_text_orientation(const uint8_t *text, size_t size)
{
    size_t at = 0;
    for (int lines = 0; lines < 3; lines++) {
        const uint8_t *end = memchr(text + at, '\n', size - at);
        if (!end)
            return 0;
        at = (size_t)(end - text) + 1;
    }
    uint8_t *exif = malloc((size - at) / 2 + 1);
    if (!exif)
        return 0;
    size_t n_digits = 0;
    for (; at < size; at++) {
        int digit = hex_digit(text[at]);
        if (digit < 0)
            continue;
        if (n_digits % 2)
            exif[n_digits / 2] = (uint8_t)(exif[n_digits / 2] << 4 | digit);
        else
            exif[n_digits / 2] = (uint8_t)digit;
        n_digits++;
    }
    int orientation = exif_orientation(exif, n_digits / 2);
    free(exif);
    return orientation;
}

static int raw_exif_orientation(const struct chunk *chunk)
{
    size_t skip = sizeof "Raw profile type exif";
    if (chunk_is(chunk, "tEXt"))
        return raw_exif_text_orientation(chunk->data + skip, chunk->size - skip);
    if (chunk->size < skip + 1) /* the compression method */
        return 0;
    size_t n;
    uint8_t *text = unpack(chunk->data + skip + 1, chunk->size - skip - 1, &n);
    int orientation = text ? raw_exif_text_orientation(text, n) : 0;
    free(text);
    return orientation;
}

/* keyword NUL, compressed?, method, language NUL, translated keyword NUL, text */
static int xmp_chunk_orientation(const struct chunk *chunk)
{
    size_t at = sizeof "XML:com.adobe.xmp";
    if (chunk->size - at < 2)
        return 0;
    bool compressed = chunk->data[at] != 0;
    at += 2;
    for (int strings = 0; strings < 2; strings++) {
        const uint8_t *end = memchr(chunk->data + at, '\0', chunk->size - at);
        if (!end)
            return 0;
        at = (size_t)(end - chunk->data) + 1;
    }
    if (!compressed)
        return xmp_orientation(chunk->data + at, chunk->size - at);
    size_t n;
    uint8_t *text = unpack(chunk->data + at, chunk->size - at, &n);
    int orientation = text ? xmp_orientation(text, n) : 0;
    free(text);
    return orientation;
}

static int find_orientation(const struct walk *walk)
{
    int orientation = 0;
    if (walk->exif.data)
        orientation = exif_orientation(walk->exif.data, walk->exif.size);
    else if (walk->raw_exif.data)
        orientation = raw_exif_orientation(&walk->raw_exif);
    if (!orientation && walk->xmp.data)
        orientation = xmp_chunk_orientation(&walk->xmp);
    return orientation;
}

/* --- decoding --------------------------------------------------------------------------------- */

struct reader {
    png_structp png;
    png_infop info;
    jmp_buf on_error;
    const struct image_watch *watch;
    struct error *err;
    enum status status;
    const uint8_t *bytes;
    size_t left;
    const uint8_t *cut; /* as in struct walk */
    struct image image;
    int last_pass; /* the place of the last row that carries data */
    png_uint_32 last_row;
    bool complete; /* that row has been decoded */
};

__attribute__((noreturn)) static void fail(struct reader *reader, enum status status)
{
    reader->status = status;
    longjmp(reader->on_error, 1);
}

__attribute__((noreturn)) static void on_error(png_structp png, png_const_charp text)
{
    struct reader *reader = png_get_error_ptr(png);
    if (reader->complete) /* all pixels are there; only the end of the file is broken */
        longjmp(reader->on_error, 1);
    if (strstr(text, "memory"))
        fail(reader, error_no_memory(reader->err, "decoding a PNG"));
    fail(reader, error_set(reader->err, STATUS_BROKEN_IMAGE, "PNG: %s", text));
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text;
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    struct reader *reader = png_get_io_ptr(png);
    if (n > reader->left)
        png_error(png, "the file is truncated (its data end before the picture does)");
    memcpy(to, reader->bytes, n);
    if (reader->bytes == reader->cut && n == CHUNK_HEAD_BYTES) {
        /* libpng reads a chunk in large pieces: state the length that is there. */
        size_t there = reader->left - CHUNK_HEAD_BYTES;
        for (int i = 0; i < 4; i++)
            to[i] = (png_byte)(there >> (24 - 8 * i));
    }
    reader->bytes += n;
    reader->left -= n;
}

/* Called by libpng for each row once its data are decoded. */
static void on_row(png_structp png, png_row_infop row, png_bytep data)
{
    (void)row, (void)data;
    struct reader *reader = png_get_user_transform_ptr(png);
    if (png_get_current_row_number(png) == reader->last_row &&
        (reader->last_pass < 0 || png_get_current_pass_number(png) == reader->last_pass))
        reader->complete = true;
}

/* Adam7 leaves out passes that have no pixel in a small picture. */
static void find_last_row(struct reader *reader, bool interlaced)
{
    png_uint_32 width = (png_uint_32)reader->image.width;
    png_uint_32 height = (png_uint_32)reader->image.height;
    reader->last_pass = -1;
    reader->last_row = height - 1;
    for (int pass = 0; interlaced && pass < PNG_INTERLACE_ADAM7_PASSES; pass++)
        if (PNG_PASS_COLS(width, pass) && PNG_PASS_ROWS(height, pass)) {
            reader->last_pass = pass;
            reader->last_row = PNG_ROW_FROM_PASS_ROW(PNG_PASS_ROWS(height, pass) - 1, pass);
        }
}

/* Everything that may jump to on_error. */
static void decode(struct reader *reader, const struct walk *walk)
{
    png_structp png = reader->png =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, reader, on_error, on_warning);
    reader->info = png ? png_create_info_struct(png) : NULL;
    if (!reader->info)
        fail(reader, error_no_memory(reader->err, "decoding a PNG"));
    png_set_read_fn(png, reader, read_bytes);
    png_set_benign_errors(png, 1);
    png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* the walk checked the size */
    png_set_chunk_malloc_max(png, 0); /* nothing but IHDR, PLTE and IDAT is kept */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, (png_const_bytep) "tRNS", 1);
    png_read_info(png, reader->info);

    enum status status = image_allocate("PNG", walk->width, walk->height,
                                        walk->width * walk->height, &reader->image, reader->err);
    if (status)
        fail(reader, status);
    if (png_get_color_type(png, reader->info) == PNG_COLOR_TYPE_GRAY)
        png_set_scale_16(png);
    else
        png_set_strip_16(png);
    png_set_expand(png); /* palettes, and grey of 1, 2, 4 bits */
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    bool interlaced = png_get_interlace_type(png, reader->info) != PNG_INTERLACE_NONE;
    find_last_row(reader, interlaced);
    png_set_read_user_transform_fn(png, on_row);
    png_set_user_transform_info(png, reader, 0, 0);
    int n_passes = png_set_interlace_handling(png);
    png_read_update_info(png, reader->info);
    if (png_get_image_width(png, reader->info) != walk->width ||
        png_get_image_height(png, reader->info) != walk->height ||
        png_get_rowbytes(png, reader->info) != walk->width * 3)
        png_error(png, "contradicting headers");
    size_t n_unwatched = 0;
    for (int pass = 0; pass < n_passes; pass++)
        for (size_t y = 0; y < walk->height; y++) {
            png_read_row(png, reader->image.rgb + y * walk->width * 3, NULL);
            n_unwatched += walk->width;
            if (n_unwatched < WATCH_PIXELS || reader->complete)
                continue;
            n_unwatched = 0;
            status = image_check_watch(reader->watch, reader->err);
            if (status)
                fail(reader, status);
        }
}

enum status image_read_png(const uint8_t *bytes, size_t size, size_t max_pixels,
                           const struct image_watch *watch, struct image *out, int *orientation,
                           struct error *err)
{
    struct walk walk = {0};
    enum status status = walk_chunks(bytes, size, max_pixels, &walk, err);
    if (status)
        return status;
    struct reader reader = {
        .watch = watch, .err = err, .bytes = bytes, .left = size, .cut = walk.cut};
    if (!setjmp(reader.on_error))
        decode(&reader, &walk);
    png_destroy_read_struct(&reader.png, &reader.info, NULL);
    if (reader.status) {
        image_release(&reader.image);
        return reader.status;
    }
    *orientation = find_orientation(&walk);
    *out = reader.image;
    return STATUS_OK;
}
