/*
 * webp.c: WebP by libwebp: a RIFF of either one bitstream ("VP8 " lossy, "VP8L" lossless) or "VP8X"
 * with alpha, metadata and frames. libwebpdemux checks the container and finds the parts.
 *
 * As Pillow gives it: the canvas is black where the first frame does not reach, the frame's own
 * pixels keep their RGB whatever their alpha. Decoding goes straight to RGB: no canvas of RGBA is
 * made.
 */
#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "core/image/image_internal.h"

enum { PIECE_BYTES = 1 << 16 }; /* between two looks at the watch */

static int find_orientation(WebPDemuxer *demuxer)
{
    WebPChunkIterator chunk;
    int orientation = 0;
    if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk)) {
        orientation = exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    if (!orientation && WebPDemuxGetChunk(demuxer, "XMP ", 1, &chunk)) {
        orientation = xmp_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    return orientation;
}

/* Decodes the frame's bytes a piece after the other. */
static enum status decode_pieces(const WebPData *bytes, WebPDecoderConfig *config,
                                 const struct image_watch *watch, VP8StatusCode *code,
                                 struct error *err)
{
    enum status status = STATUS_OK;
    WebPIDecoder *decoder = WebPIDecode(NULL, 0, config);
    *code = decoder ? VP8_STATUS_SUSPENDED : VP8_STATUS_OUT_OF_MEMORY;
    for (size_t n = 0; n < bytes->size && *code == VP8_STATUS_SUSPENDED && !status;) {
        n = bytes->size - n < PIECE_BYTES ? bytes->size : n + PIECE_BYTES;
        *code = WebPIUpdate(decoder, bytes->bytes, n);
        status = image_check_watch(watch, err);
    }
    WebPIDelete(decoder);
    return status;
}

/* Decodes the frame into its place of the picture. */
static enum status decode_frame(const WebPIterator *frame, const struct image_watch *watch,
                                struct image *image, struct error *err)
{
    size_t x = (size_t)frame->x_offset, y = (size_t)frame->y_offset;
    size_t width = (size_t)frame->width, height = (size_t)frame->height;
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return error_set(err, STATUS_INTERNAL, "WebP: the library has another version");
    if (frame->x_offset < 0 || frame->y_offset < 0 || frame->width <= 0 || frame->height <= 0 ||
        x + width > image->width || y + height > image->height)
        return error_set(err, STATUS_BROKEN_IMAGE, "WebP: a frame outside the picture");
    if (width < image->width || height < image->height)
        memset(image->rgb, 0, image->width * image->height * 3);
    size_t stride = image->width * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = image->rgb + y * stride + x * 3;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = (height - 1) * stride + width * 3;
    VP8StatusCode code =
        WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input);
    if (code == VP8_STATUS_OK &&
        (config.input.width != frame->width || config.input.height != frame->height))
        return error_set(err, STATUS_BROKEN_IMAGE, "WebP: contradicting headers");
    enum status status = STATUS_OK;
    if (code == VP8_STATUS_OK)
        status = decode_pieces(&frame->fragment, &config, watch, &code, err);
    WebPFreeDecBuffer(&config.output);
    if (status)
        return status;
    switch (code) {
    case VP8_STATUS_OK:
        return STATUS_OK;
    case VP8_STATUS_OUT_OF_MEMORY:
        return error_no_memory(err, "decoding a WebP");
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return error_set(err, STATUS_BROKEN_IMAGE, "WebP: the file is truncated");
    default:
        return error_set(err, STATUS_BROKEN_IMAGE, "WebP: the data are corrupt");
    }
}

enum status image_read_webp(const uint8_t *bytes, size_t size, size_t max_pixels,
                            const struct image_watch *watch, struct image *out, int *orientation,
                            struct error *err)
{
    WebPData data = {bytes, size};
    WebPDemuxState state;
    WebPDemuxer *demuxer = WebPDemuxPartial(&data, &state);
    if (!demuxer || state == WEBP_DEMUX_PARSE_ERROR) {
        WebPDemuxDelete(demuxer);
        return error_set(err, STATUS_BROKEN_IMAGE, "WebP: the container is %s",
                         state == WEBP_DEMUX_PARSING_HEADER ? "truncated" : "corrupt");
    }
    size_t width = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH);
    size_t height = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT);
    struct image image = {0};
    WebPIterator frame = {0};
    enum status status = STATUS_OK;
    if (state >= WEBP_DEMUX_PARSED_HEADER && width && height)
        status = image_check_size("WebP", width, height, max_pixels, err);
    if (!status && state != WEBP_DEMUX_DONE)
        status = error_set(err, STATUS_BROKEN_IMAGE, "WebP: the file is truncated");
    if (!status)
        status = image_allocate("WebP", width, height, max_pixels, &image, err);
    if (!status && !WebPDemuxGetFrame(demuxer, 1, &frame))
        status = error_set(err, STATUS_BROKEN_IMAGE, "WebP: no frame in the file");
    if (!status)
        status = decode_frame(&frame, watch, &image, err);
    if (!status)
        *orientation = find_orientation(demuxer);
    WebPDemuxReleaseIterator(&frame);
    WebPDemuxDelete(demuxer);
    if (status) {
        image_release(&image);
        return status;
    }
    *out = image;
    return STATUS_OK;
}
