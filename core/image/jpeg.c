/*
 * jpeg.c: JPEG by libjpeg-turbo, with the defaults that Pillow uses: integer "slow" DCT, fancy
 * upsampling, block smoothing.
 *
 * libjpeg reports errors by calling error_exit, which must not return: ours jumps back to
 * image_read_jpeg(). Everything that is freed there lives in struct reader, so that no variable is
 * lost in the jump. Warnings (corrupt entropy data and such) are taken quietly, as Pillow takes
 * them; running out of bytes is an error, as there.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "core/base/size.h"
#include "core/image/image_internal.h"

enum { MARKER_APP1 = JPEG_APP0 + 1, MARKER_BYTES_MAX = 0xFFFF, ROWS_AT_ONCE = 16 };

struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf on_error;
    const struct image_watch *watch;
    struct error *err;
    enum status status;
    struct image image;
    uint8_t *cmyk; /* ROWS_AT_ONCE rows of 4 bytes a pixel, when needed */
};

static struct reader *reader_of(j_common_ptr jpeg)
{
    return jpeg->client_data;
}

__attribute__((noreturn)) static void fail(struct reader *reader, enum status status)
{
    reader->status = status;
    longjmp(reader->on_error, 1);
}

__attribute__((noreturn)) static void error_exit(j_common_ptr jpeg)
{
    struct reader *reader = reader_of(jpeg);
    char text[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, text);
    if (jpeg->err->msg_code == JERR_OUT_OF_MEMORY)
        fail(reader, error_no_memory(reader->err, "decoding a JPEG"));
    fail(reader, error_set(reader->err, STATUS_BROKEN_IMAGE, "JPEG: %s", text));
}

static void emit_message(j_common_ptr jpeg, int level)
{
    if (level < 0)
        jpeg->err->num_warnings++;
}

static void no_op(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean fill_input_buffer(j_decompress_ptr jpeg)
{
    struct reader *reader = jpeg->client_data;
    fail(reader, error_set(reader->err, STATUS_BROKEN_IMAGE,
                           "JPEG: the file is truncated (its data end before the picture does)"));
}

static void skip_input_data(j_decompress_ptr jpeg, long n)
{
    if (n <= 0)
        return;
    if ((size_t)n > jpeg->src->bytes_in_buffer)
        fill_input_buffer(jpeg);
    jpeg->src->next_input_byte += n;
    jpeg->src->bytes_in_buffer -= (size_t)n;
}

/* Called for each row of blocks, of every scan and of the output. */
static void watch_progress(j_common_ptr common)
{
    struct reader *reader = reader_of(common);
    size_t n_scans = (size_t)reader->jpeg.input_scan_number;
    size_t n_pixels = reader->image.width * reader->image.height;
    if (n_scans > IMAGE_JPEG_SCANS_MAX ||
        (n_scans > IMAGE_JPEG_SCANS_FREE && n_scans * n_pixels > IMAGE_JPEG_SCAN_PIXELS_MAX))
        fail(reader,
             error_set(reader->err, STATUS_BROKEN_IMAGE,
                       "JPEG: too many scans (%zu so far) for %zu pixels", n_scans, n_pixels));
    enum status status = image_check_watch(reader->watch, reader->err);
    if (status)
        fail(reader, status);
}

/* EXIF's word comes first, XMP's only where EXIF has none. */
static int find_orientation(const struct jpeg_decompress_struct *jpeg)
{
    static const char exif[] = "Exif\0"; /* with its ending NUL: the six bytes of the marker */
    static const char xmp[] = "http://ns.adobe.com/xap/1.0/";
    int orientation = 0, from_xmp = 0;
    bool exif_seen = false;
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next) {
        if (marker->marker != MARKER_APP1)
            continue;
        if (!exif_seen && marker->data_length >= sizeof exif &&
            !memcmp(marker->data, exif, sizeof exif)) {
            exif_seen = true;
            orientation = exif_orientation(marker->data, marker->data_length);
        } else if (marker->data_length >= sizeof xmp && !memcmp(marker->data, xmp, sizeof xmp)) {
            from_xmp = xmp_orientation(marker->data + sizeof xmp, marker->data_length - sizeof xmp);
        }
    }
    return orientation ? orientation : from_xmp;
}

/* Pillow's CMYK;I and cmyk2rgb: the stored values are inverted (Adobe's way, whoever wrote them),
 * then c·k/255 rounded. in holds 255 − C, 255 − M, 255 − Y, 255 − K. */
static void cmyk_to_rgb(uint8_t *out, const uint8_t *in, size_t n_pixels)
{
    for (size_t i = 0; i < n_pixels; i++, in += 4, out += 3) {
        unsigned white = in[3];
        for (int c = 0; c < 3; c++) {
            unsigned product = (255u - in[c]) * white + 128;
            unsigned ink = ((product >> 8) + product) >> 8;
            out[c] = (uint8_t)(white - (ink < white ? ink : white));
        }
    }
}

static void read_rows(struct reader *reader)
{
    struct jpeg_decompress_struct *jpeg = &reader->jpeg;
    size_t width = reader->image.width;
    bool cmyk = jpeg->out_color_space == JCS_CMYK;
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW rows[ROWS_AT_ONCE];
        size_t first = jpeg->output_scanline;
        JDIMENSION left = jpeg->output_height - jpeg->output_scanline;
        JDIMENSION n = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        for (JDIMENSION r = 0; r < n; r++)
            rows[r] =
                cmyk ? reader->cmyk + r * width * 4 : reader->image.rgb + (first + r) * width * 3;
        n = jpeg_read_scanlines(jpeg, rows, n);
        if (cmyk)
            cmyk_to_rgb(reader->image.rgb + first * width * 3, reader->cmyk, n * width);
    }
}

/* Everything that may jump to on_error. */
static void decode(struct reader *reader, const uint8_t *bytes, size_t size, size_t max_pixels,
                   int *orientation)
{
    struct jpeg_decompress_struct *jpeg = &reader->jpeg;
    jpeg_create_decompress(jpeg);
    reader->progress.progress_monitor = watch_progress;
    jpeg->progress = &reader->progress;
    reader->source = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                              .bytes_in_buffer = size,
                                              .init_source = no_op,
                                              .fill_input_buffer = fill_input_buffer,
                                              .skip_input_data = skip_input_data,
                                              .resync_to_restart = jpeg_resync_to_restart,
                                              .term_source = no_op};
    jpeg->src = &reader->source;
    jpeg_save_markers(jpeg, MARKER_APP1, MARKER_BYTES_MAX);
    jpeg_read_header(jpeg, TRUE);

    enum status status = image_allocate("JPEG", jpeg->image_width, jpeg->image_height, max_pixels,
                                        &reader->image, reader->err);
    if (status)
        fail(reader, status);
    switch (jpeg->num_components) {
    case 1:
    case 3:
        jpeg->out_color_space = JCS_RGB; /* grey: three times the same */
        break;
    case 4:
        jpeg->out_color_space = JCS_CMYK;
        reader->cmyk = alloc_array(reader->image.width, 4 * ROWS_AT_ONCE);
        if (!reader->cmyk)
            fail(reader, error_no_memory(reader->err, "decoding a JPEG"));
        break;
    default:
        fail(reader,
             error_set(reader->err, STATUS_BROKEN_IMAGE,
                       "JPEG: %d colour components; 1, 3 or 4 are accepted", jpeg->num_components));
    }
    *orientation = find_orientation(jpeg);
    jpeg_start_decompress(jpeg);
    read_rows(reader);
    jpeg_finish_decompress(jpeg);
}

enum status image_read_jpeg(const uint8_t *bytes, size_t size, size_t max_pixels,
                            const struct image_watch *watch, struct image *out, int *orientation,
                            struct error *err)
{
    struct reader reader = {.watch = watch, .err = err};
    reader.jpeg.client_data = &reader;
    reader.jpeg.err = jpeg_std_error(&reader.errors);
    reader.errors.error_exit = error_exit;
    reader.errors.emit_message = emit_message;
    if (!setjmp(reader.on_error))
        decode(&reader, bytes, size, max_pixels, orientation);
    jpeg_destroy_decompress(&reader.jpeg);
    free(reader.cmyk);
    if (reader.status) {
        image_release(&reader.image);
        return reader.status;
    }
    *out = reader.image;
    return STATUS_OK;
}
