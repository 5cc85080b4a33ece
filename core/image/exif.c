/*
 * exif.c: which way up a picture is, and turning it.
 *
 * EXIF is a TIFF block: "II*\0" or "MM\0*", the offset of a directory, there a count of 12-byte
 * entries {tag 16, type 16, count 32, value or offset 32}. Only the orientation entry of the first
 * directory matters, and its value fits the entry. When EXIF does not state it, XMP may, as in
 * Pillow's getexif().
 */
#include <stdlib.h>
#include <string.h>

#include "core/image/image_internal.h"

static unsigned read16(const uint8_t *p, bool little)
{
    return little ? (unsigned)p[0] | (unsigned)p[1] << 8 : (unsigned)p[0] << 8 | (unsigned)p[1];
}

static uint32_t read32(const uint8_t *p, bool little)
{
    return little ? read16(p, true) | (uint32_t)read16(p + 2, true) << 16
                  : (uint32_t)read16(p, false) << 16 | read16(p + 2, false);
}

int exif_orientation(const uint8_t *bytes, size_t size)
{
    enum { TAG_ORIENTATION = 0x0112 };
    enum {
        TYPE_BYTE = 1,
        TYPE_SHORT = 3,
        TYPE_LONG = 4,
        TYPE_SBYTE = 6,
        TYPE_SSHORT = 8,
        TYPE_SLONG = 9
    };
    for (int i = 0; i < 2 && size >= 6 && !memcmp(bytes, "Exif\0\0", 6); i++) {
        bytes += 6;
        size -= 6;
    }
    if (size < 8)
        return 0;
    bool little = bytes[0] == 'I';
    if (memcmp(bytes, little ? "II*\0" : "MM\0*", 4))
        return 0;
    size_t at = read32(bytes + 4, little);
    if (at > size || size - at < 2)
        return 0;
    unsigned n_entries = read16(bytes + at, little);
    at += 2;
    int orientation = 0;
    for (; n_entries && size - at >= 12; n_entries--, at += 12) {
        const uint8_t *entry = bytes + at;
        if (read16(entry, little) != TAG_ORIENTATION || read32(entry + 4, little) != 1)
            continue;
        uint32_t value;
        switch (read16(entry + 2, little)) {
        case TYPE_BYTE:
        case TYPE_SBYTE:
            value = entry[8];
            break;
        case TYPE_SHORT:
        case TYPE_SSHORT:
            value = read16(entry + 8, little);
            break;
        case TYPE_LONG:
        case TYPE_SLONG:
            value = read32(entry + 8, little);
            break;
        default:
            continue;
        }
        /* A stated but senseless value is upright, and keeps XMP from being asked. */
        orientation = value >= 1 && value <= 8 ? (int)value : 1;
    }
    return orientation;
}

int xmp_orientation(const uint8_t *bytes, size_t size)
{
    static const char name[] = "tiff:Orientation";
    const size_t n = sizeof name - 1;
    for (size_t at = 0; size - at > n;) {
        const uint8_t *hit = memmem(bytes + at, size - at, name, n);
        if (!hit)
            return 0;
        at = (size_t)(hit - bytes) + n;
        size_t value = at;
        if (size - at >= 2 && bytes[at] == '=' && bytes[at + 1] == '"')
            value = at + 2;
        else if (size - at >= 1 && bytes[at] == '>')
            value = at + 1;
        if (value > at && value < size && bytes[value] >= '0' && bytes[value] <= '9')
            return bytes[value] - '0';
    }
    return 0;
}

static inline void copy_pixel(uint8_t *to, const uint8_t *from)
{
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
}

static inline void swap_pixels(uint8_t *a, uint8_t *b)
{
    uint8_t t[3];
    copy_pixel(t, a);
    copy_pixel(a, b);
    copy_pixel(b, t);
}

static void mirror_rows(struct image *image) /* left and right change places */
{
    for (size_t y = 0; y < image->height; y++) {
        uint8_t *row = image->rgb + y * image->width * 3;
        for (size_t a = 0, b = image->width - 1; a < b; a++, b--)
            swap_pixels(row + 3 * a, row + 3 * b);
    }
}

static void flip(struct image *image) /* top and bottom change places */
{
    size_t stride = image->width * 3;
    for (size_t a = 0, b = image->height - 1; a < b; a++, b--) {
        uint8_t *top = image->rgb + a * stride, *bottom = image->rgb + b * stride;
        for (size_t x = 0; x < stride; x++) {
            uint8_t t = top[x];
            top[x] = bottom[x];
            bottom[x] = t;
        }
    }
}

/* Rows become columns: to[x][y] = from[y][x], in tiles that stay in the cache. */
static enum status transpose(struct image *image, struct error *err)
{
    enum { TILE = 32 };
    size_t width = image->width, height = image->height;
    uint8_t *to = malloc(width * height * 3);
    if (!to)
        return error_no_memory(err, "turning a picture");
    for (size_t y0 = 0; y0 < height; y0 += TILE)
        for (size_t x0 = 0; x0 < width; x0 += TILE)
            for (size_t y = y0; y < height && y < y0 + TILE; y++)
                for (size_t x = x0; x < width && x < x0 + TILE; x++)
                    copy_pixel(to + 3 * (x * height + y), image->rgb + 3 * (y * width + x));
    free(image->rgb);
    *image = (struct image){.width = height, .height = width, .rgb = to};
    return STATUS_OK;
}

enum status image_orient(struct image *image, int orientation, struct error *err)
{
    /* What each value needs, in this order. */
    static const struct {
        bool transpose, mirror, flip;
    } steps[9] = {
        [2] = {.mirror = true},
        [3] = {.mirror = true, .flip = true},
        [4] = {.flip = true},
        [5] = {.transpose = true},
        [6] = {.transpose = true, .mirror = true},
        [7] = {.transpose = true, .mirror = true, .flip = true},
        [8] = {.transpose = true, .flip = true},
    };
    if (orientation < 2 || orientation > 8)
        return STATUS_OK;
    enum status status = steps[orientation].transpose ? transpose(image, err) : STATUS_OK;
    if (status)
        return status;
    if (steps[orientation].mirror)
        mirror_rows(image);
    if (steps[orientation].flip)
        flip(image);
    return STATUS_OK;
}
