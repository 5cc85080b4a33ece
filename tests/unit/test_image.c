/*
 * test_image.c: decoding against what Pillow decoded, and against everything a stranger may send.
 */
#include <zlib.h>

#include "tests/unit/test_image_data.h"

enum { PIXELS_MAX = 1 << 22 };

/* Decodes a copy of exactly `size` bytes, so that reading past the end shows. */
static enum status decode(const uint8_t *bytes, size_t size, size_t max_pixels, struct image *out,
                          struct error *err)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    enum status status = image_decode(copy, size, max_pixels, NULL, out, err);
    free(copy);
    return status;
}

/* Broken or not, nothing else than these may come of any bytes. */
static void decode_anything(const char *name, const uint8_t *bytes, size_t size)
{
    struct error err = {0};
    struct image image = {0};
    enum status status = decode(bytes, size, PIXELS_MAX, &image, &err);
    if (status == STATUS_OK) {
        ck_assert_msg(image.rgb && image.width * image.height <= PIXELS_MAX, "%s", name);
        image_release(&image);
        return;
    }
    ck_assert_msg(image.rgb == NULL, "%s: output touched on failure", name);
    ck_assert_msg(status == STATUS_BROKEN_IMAGE || status == STATUS_UNKNOWN_IMAGE ||
                      status == STATUS_IMAGE_TOO_LARGE,
                  "%s: %s", name, err.message);
    ck_assert_msg(strlen(err.message) > 10, "%s: no message", name);
}

START_TEST(image_decodes_every_kind_like_reference)
{
    struct golden golden = golden_open("decode");
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name = json_string_value(item);
        struct image want = golden_image(&golden, name), got = {0};
        struct error err = {0};
        size_t size;
        uint8_t *bytes = data_file(name, &size);
        ck_assert_msg(image_decode(bytes, size, PIXELS_MAX, NULL, &got, &err) == STATUS_OK,
                      "%s: %s", name, err.message);
        ck_assert_msg(got.width == want.width && got.height == want.height, "%s: %zu x %zu", name,
                      got.width, got.height);
        for (size_t b = 0; b < want.width * want.height * 3; b++)
            if (got.rgb[b] != want.rgb[b])
                ck_abort_msg("%s: byte %zu is %d, not %d", name, b, got.rgb[b], want.rgb[b]);
        image_release(&got);
        free(bytes);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(image_survives_every_truncation)
{
    struct golden golden = golden_open("decode");
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name = json_string_value(item);
        size_t size;
        uint8_t *bytes = data_file(name, &size);
        /* A PNG may lose what follows its pixels; of the others every byte is needed. */
        bool png = image_sniff(bytes, size) == IMAGE_PNG;
        for (size_t n = 0; n < size; n++) {
            struct error err = {0};
            struct image image = {0};
            enum status status = decode(bytes, n, PIXELS_MAX, &image, &err);
            if (n == 0)
                ck_assert_int_eq(status, STATUS_BROKEN_IMAGE);
            else if (n < 3)
                ck_assert_int_eq(status, STATUS_UNKNOWN_IMAGE);
            else if (!png)
                ck_assert_msg(status == STATUS_BROKEN_IMAGE || (n < 12 && status), "%s at %zu: %s",
                              name, n, err.message);
            image_release(&image);
        }
        free(bytes);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(image_survives_flipped_bits)
{
    struct golden golden = golden_open("decode");
    uint32_t state = 7;
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name = json_string_value(item);
        size_t size;
        uint8_t *bytes = data_file(name, &size);
        for (int round = 0; round < 200; round++) {
            size_t where[3];
            uint8_t mask[3];
            for (int k = 0; k < 3; k++) {
                /* half of them in the headers */
                where[k] = random_next(&state) % (k % 2 && size > 64 ? 64 : size);
                mask[k] = (uint8_t)(1u << random_next(&state) % 8);
                bytes[where[k]] ^= mask[k];
            }
            decode_anything(name, bytes, size);
            for (int k = 0; k < 3; k++)
                bytes[where[k]] ^= mask[k];
        }
        free(bytes);
    }
    golden_close(&golden);
}
END_TEST

/* PNG checksums stop most flips above: set them right again, so that the contents are reached. */
static void repair_png(uint8_t *bytes, size_t size)
{
    for (size_t at = 8; size - at >= 12;) {
        size_t n = (size_t)bytes[at] << 24 | (size_t)bytes[at + 1] << 16 |
                   (size_t)bytes[at + 2] << 8 | bytes[at + 3];
        if (n > size - at - 12)
            return;
        uint32_t crc = (uint32_t)crc32(0, bytes + at + 4, (uInt)n + 4);
        for (int i = 0; i < 4; i++)
            bytes[at + 8 + n + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += n + 12;
    }
}

START_TEST(image_survives_wrong_png_contents)
{
    struct golden golden = golden_open("decode");
    uint32_t state = 11;
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name = json_string_value(item);
        size_t size;
        uint8_t *bytes = data_file(name, &size);
        uint8_t *copy = malloc(size);
        for (int round = 0; round < 100 && image_sniff(bytes, size) == IMAGE_PNG; round++) {
            memcpy(copy, bytes, size);
            for (int k = 0; k < 2; k++)
                copy[8 + random_next(&state) % (size - 8)] ^=
                    (uint8_t)(1u << random_next(&state) % 8);
            repair_png(copy, size);
            decode_anything(name, copy, size);
        }
        free(copy);
        free(bytes);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(image_of_other_formats_is_named)
{
    static const struct {
        const char *bytes;
        size_t size;
        enum status want;
        const char *says;
    } rows[] = {
        {"", 0, STATUS_BROKEN_IMAGE, "empty"},
        {"x", 1, STATUS_UNKNOWN_IMAGE, "text"},
        {"This is a text, whatever its name says.\n", 40, STATUS_UNKNOWN_IMAGE, "text"},
        {"GIF89a\1\0\1\0\0\0\0", 13, STATUS_UNKNOWN_IMAGE, "GIF"},
        {"\0\0\0\x18"
         "ftypavif",
         12, STATUS_UNKNOWN_IMAGE, "AVIF"},
        {"\xFF\xD8", 2, STATUS_UNKNOWN_IMAGE, "JPEG"},
        {"\xFF\xD8\xFF", 3, STATUS_BROKEN_IMAGE, "JPEG"},
        {"\xFF\xD8\xFF\xD9", 4, STATUS_BROKEN_IMAGE, "JPEG"},
        {"\x89PNG\r\n\x1A\n", 8, STATUS_BROKEN_IMAGE, "truncated"},
        {"\x89PNG\r\n\x1A\n\0\0\0\0IEND\xAE\x42\x60\x82", 20, STATUS_BROKEN_IMAGE, "PNG"},
        {"RIFF\4\0\0\0WEBP", 12, STATUS_BROKEN_IMAGE, "WebP"},
        {"RIFF\4\0\0\0WAVE", 12, STATUS_UNKNOWN_IMAGE, "no JPEG"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        struct image image = {0};
        enum status status =
            decode((const uint8_t *)rows[i].bytes, rows[i].size, PIXELS_MAX, &image, &err);
        ck_assert_msg(status == rows[i].want, "row %zu: %s", i, err.message);
        ck_assert_msg(strstr(err.message, rows[i].says) != NULL, "row %zu: %s", i, err.message);
    }
}
END_TEST

static void put32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

START_TEST(image_size_is_refused_by_the_header)
{
    static const struct {
        uint32_t width, height;
        enum status want;
    } rows[] = {
        {60000, 60000, STATUS_IMAGE_TOO_LARGE},
        {0x7FFFFFFF, 0x7FFFFFFF, STATUS_IMAGE_TOO_LARGE},
        {0xFFFFFFFF, 0xFFFFFFFF, STATUS_IMAGE_TOO_LARGE},
        {2049, 2048, STATUS_IMAGE_TOO_LARGE},
        {0, 5, STATUS_BROKEN_IMAGE},
        {5, 0, STATUS_BROKEN_IMAGE},
        {2048, 2048, STATUS_BROKEN_IMAGE}, /* allowed, but the data are not there */
    };
    struct error err;
    struct image image = {0};
    size_t size;
    uint8_t *png = data_file("png_rgb8.png", &size);
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        put32(png + 16, rows[i].width);
        put32(png + 20, rows[i].height);
        repair_png(png, size);
        ck_assert_msg(decode(png, size, PIXELS_MAX, &image, &err) == rows[i].want, "row %zu: %s", i,
                      err.message);
    }
    free(png);

    uint8_t *jpeg = data_file("jpeg_444.jpg", &size);
    uint8_t *frame = memmem(jpeg, size, "\xFF\xC0\0\x11\x08", 5);
    ck_assert_ptr_nonnull(frame);
    memcpy(frame + 5, "\xEA\x60\xEA\x60", 4); /* 60000 × 60000 */
    ck_assert_int_eq(decode(jpeg, size, PIXELS_MAX, &image, &err), STATUS_IMAGE_TOO_LARGE);
    ck_assert_ptr_nonnull(strstr(err.message, "60000"));
    free(jpeg);

    uint8_t *webp = data_file("webp_exif3.webp", &size);
    ck_assert_mem_eq(webp + 12, "VP8X", 4);
    memcpy(webp + 24, "\xFF\x3F\0\xFF\x3F\0", 6); /* 16384 × 16384 */
    enum status status = decode(webp, size, PIXELS_MAX, &image, &err);
    ck_assert_msg(status == STATUS_IMAGE_TOO_LARGE || status == STATUS_BROKEN_IMAGE, "%s",
                  err.message);
    free(webp);

    /* Exactly the maximum, and one pixel less. */
    webp = data_file("webp_lossless.webp", &size);
    ck_assert_int_eq(decode(webp, size, 11 * 7 - 1, &image, &err), STATUS_IMAGE_TOO_LARGE);
    ck_assert_int_eq(decode(webp, size, 11 * 7, &image, &err), STATUS_OK);
    image_release(&image);
    free(webp);
}
END_TEST

START_TEST(image_with_endless_scans_is_refused)
{
    size_t size, n_scans = 0;
    uint8_t *jpeg = data_file("jpeg_444_progressive.jpg", &size);
    uint8_t *scan = NULL; /* the last one: up to EOI */
    for (uint8_t *at = jpeg; (at = memmem(at, size - (size_t)(at - jpeg), "\xFF\xDA", 2));
         at += 2) {
        scan = at;
        n_scans++;
    }
    ck_assert_ptr_nonnull(scan);
    size_t scan_bytes = (size_t)(jpeg + size - 2 - scan), head = (size_t)(scan - jpeg);
    for (size_t wanted = IMAGE_JPEG_SCANS_MAX; wanted <= IMAGE_JPEG_SCANS_MAX + 1; wanted++) {
        size_t n = wanted - (n_scans - 1);
        uint8_t *bomb = malloc(head + n * scan_bytes + 2);
        memcpy(bomb, jpeg, head);
        for (size_t i = 0; i < n; i++)
            memcpy(bomb + head + i * scan_bytes, scan, scan_bytes);
        memcpy(bomb + head + n * scan_bytes, "\xFF\xD9", 2);
        struct error err = {0};
        struct image image = {0};
        enum status status = decode(bomb, head + n * scan_bytes + 2, PIXELS_MAX, &image, &err);
        if (wanted <= IMAGE_JPEG_SCANS_MAX) {
            ck_assert_msg(status == STATUS_OK, "%zu scans: %s", wanted, err.message);
        } else {
            ck_assert_int_eq(status, STATUS_BROKEN_IMAGE);
            ck_assert_ptr_nonnull(strstr(err.message, "scans"));
        }
        image_release(&image);
        free(bomb);
    }
    free(jpeg);
}
END_TEST

struct countdown {
    size_t n_checks, fails_at; /* 0: never */
};

static enum status count_down(void *context, struct error *err)
{
    struct countdown *countdown = context;
    if (++countdown->n_checks == countdown->fails_at)
        return error_set(err, STATUS_DEADLINE, "the time is over");
    return STATUS_OK;
}

/* Looks at the watch before and while it decodes; what the watch says ends it at once. */
static void check_watch(const char *name, const void *bytes, size_t size)
{
    size_t n_all = 0;
    for (size_t fails_at = 0; fails_at <= n_all; fails_at++) {
        struct countdown countdown = {.fails_at = fails_at};
        struct image_watch watch = {count_down, &countdown};
        struct image image = {0};
        struct error err = {0};
        enum status status = image_decode(bytes, size, PIXELS_MAX, &watch, &image, &err);
        if (!fails_at) {
            ck_assert_msg(status == STATUS_OK, "%s: %s", name, err.message);
            ck_assert_msg(countdown.n_checks >= 3, "%s: %zu checks", name, countdown.n_checks);
            n_all = countdown.n_checks;
        } else {
            ck_assert_msg(status == STATUS_DEADLINE, "%s: check %zu", name, fails_at);
            ck_assert_str_eq(err.message, "the time is over");
            ck_assert_ptr_null(image.rgb);
            ck_assert_uint_eq(countdown.n_checks, fails_at);
        }
        image_release(&image);
    }
}

START_TEST(image_decoding_ends_when_the_watch_says_so)
{
    static const char *const files[] = {"jpeg_444_progressive.jpg", "jpeg_420.jpg"};
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        size_t size;
        uint8_t *bytes = data_file(files[i], &size);
        check_watch(files[i], bytes, size);
        free(bytes);
    }
    struct image noise = {.width = 700, .height = 500};
    size_t n_bytes = noise.width * noise.height * 3;
    noise.rgb = malloc(n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        noise.rgb[i] = (uint8_t)((i * 2654435761u) >> 13);
    struct error err = {0};
    struct buffer png, webp;
    buffer_init(&png, 1 << 24);
    buffer_init(&webp, 1 << 24);
    ck_assert_int_eq(image_encode_png(noise.rgb, noise.width, noise.height, 3, &png, &err), 0);
    ck_assert_int_eq(image_encode_webp(noise.rgb, noise.width, noise.height, &webp, &err), 0);
    check_watch("PNG", png.data, png.size);
    check_watch("WebP", webp.data, webp.size);
    buffer_release(&png);
    buffer_release(&webp);
    image_release(&noise);
}
END_TEST

START_TEST(image_ignores_broken_metadata)
{
    /* Every byte of the EXIF block in turn: the picture is still a picture, of the same pixels
     * turned or not. */
    size_t size;
    uint8_t *jpeg = data_file("jpeg_exif6.jpg", &size);
    uint8_t *exif = memmem(jpeg, size, "Exif\0\0", 6);
    ck_assert_ptr_nonnull(exif);
    for (uint8_t *at = exif; at < exif + 44; at++)
        for (unsigned flip = 1; flip < 256; flip = flip * 2 + 1) {
            struct error err = {0};
            struct image image = {0};
            *at ^= (uint8_t)flip;
            ck_assert_msg(decode(jpeg, size, PIXELS_MAX, &image, &err) == STATUS_OK, "%s",
                          err.message);
            ck_assert_uint_eq(image.width * image.height, 77);
            image_release(&image);
            *at ^= (uint8_t)flip;
        }
    free(jpeg);
}
END_TEST

START_TEST(png_written_is_the_png_read)
{
    static const struct {
        size_t width, height;
    } rows[] = {{1, 1}, {1, 5000}, {5000, 1}, {33, 17}};
    uint32_t state = 3;
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        for (int channels = 1; channels <= 3; channels += 2) {
            struct image in = random_image(rows[i].width, rows[i].height, &state), out = {0};
            struct buffer buffer;
            buffer_init(&buffer, 1 << 20);
            ck_assert(buffer_puts(&buffer, "before"));
            ck_assert_int_eq(image_encode_png(in.rgb, in.width, in.height, channels, &buffer, &err),
                             STATUS_OK);
            ck_assert_mem_eq(buffer.data, "before", 6);
            ck_assert_int_eq(
                decode((uint8_t *)buffer.data + 6, buffer.size - 6, PIXELS_MAX, &out, &err),
                STATUS_OK);
            ck_assert_uint_eq(out.width, in.width);
            ck_assert_uint_eq(out.height, in.height);
            for (size_t p = 0; p < in.width * in.height * 3; p++)
                if (out.rgb[p] != in.rgb[channels == 3 ? p : p / 3])
                    ck_abort_msg("row %zu: byte %zu", i, p);
            image_release(&out);

            /* A full buffer is an error that leaves what was there. */
            size_t whole = buffer.size;
            buffer_release(&buffer);
            buffer_init(&buffer, whole - 1);
            ck_assert(buffer_puts(&buffer, "before"));
            ck_assert_int_eq(image_encode_png(in.rgb, in.width, in.height, channels, &buffer, &err),
                             STATUS_NO_MEMORY);
            ck_assert_str_eq(buffer.data, "before");
            buffer_release(&buffer);
            image_release(&in);
        }
    struct buffer buffer;
    buffer_init(&buffer, 1000);
    ck_assert_int_ne(image_encode_png((const uint8_t *)"x", 1, 1, 2, &buffer, &err), STATUS_OK);
    ck_assert_int_ne(image_encode_png((const uint8_t *)"x", 0, 1, 1, &buffer, &err), STATUS_OK);
    ck_assert_ptr_null(buffer.data);
}
END_TEST

START_TEST(a_written_webp_shows_the_picture)
{
    struct error err = {0};
    struct image image = {.width = 40, .height = 20, .rgb = malloc(40 * 20 * 3)}, back = {0};
    struct buffer buffer;
    for (size_t i = 0; i < 40 * 20; i++) /* red beside blue */
        memcpy(image.rgb + 3 * i, i % 40 < 20 ? "\xF0\x10\x10" : "\x10\x10\xF0", 3);
    buffer_init(&buffer, 1 << 16);
    ck_assert_int_eq(image_encode_webp(image.rgb, 40, 20, &buffer, &err), STATUS_OK);
    ck_assert_int_eq(decode((uint8_t *)buffer.data, buffer.size, PIXELS_MAX, &back, &err),
                     STATUS_OK);
    ck_assert_uint_eq(back.width, 40);
    ck_assert_uint_eq(back.height, 20);
    for (size_t i = 0; i < 3 * 40; i++)
        if (i / 3 < 16 || i / 3 > 23) /* away from the border of the colours */
            ck_assert_int_le(abs(back.rgb[10 * 120 + i] - image.rgb[10 * 120 + i]), 24);
    image_release(&back);
    ck_assert_int_ne(image_encode_webp(image.rgb, 0, 20, &buffer, &err), STATUS_OK);
    ck_assert_int_ne(image_encode_webp(image.rgb, 16384, 1, &buffer, &err), STATUS_OK);
    buffer_release(&buffer);
    buffer_init(&buffer, 10);
    ck_assert_int_eq(image_encode_webp(image.rgb, 40, 20, &buffer, &err), STATUS_NO_MEMORY);
    buffer_release(&buffer);
    image_release(&image);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("image");
    TCase *tcase = tcase_create("image");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, image_decodes_every_kind_like_reference);
    tcase_add_test(tcase, image_survives_every_truncation);
    tcase_add_test(tcase, image_survives_flipped_bits);
    tcase_add_test(tcase, image_survives_wrong_png_contents);
    tcase_add_test(tcase, image_of_other_formats_is_named);
    tcase_add_test(tcase, image_size_is_refused_by_the_header);
    tcase_add_test(tcase, image_with_endless_scans_is_refused);
    tcase_add_test(tcase, image_decoding_ends_when_the_watch_says_so);
    tcase_add_test(tcase, image_ignores_broken_metadata);
    tcase_add_test(tcase, png_written_is_the_png_read);
    tcase_add_test(tcase, a_written_webp_shows_the_picture);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
