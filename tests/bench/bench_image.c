/*
 * bench_image.c: milliseconds a picture for decoding, resizing and normalising, on one core.
 *
 *   bench_image [--repeat N] [--save FILE] [FILE...]
 *
 * Without a FILE it draws a picture of 1920 × 1080 and compresses it as JPEG (quality 85, 4:2:0);
 * --save keeps that one, so that tests/bench/pillow_image.py can time Pillow on the same bytes.
 * Each number is the best of N runs (default 20): the least disturbed one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

#include "core/base/size.h"
#include "core/image/processor.h"

static int n_repeats = 20;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Runs `statement` n_repeats times; `best` is the shortest in ms. */
#define BEST(best, statement)                                                                      \
    do {                                                                                           \
        best = INFINITY;                                                                           \
        for (int repeat = 0; repeat < n_repeats; repeat++) {                                       \
            double start = now_ms();                                                               \
            statement;                                                                             \
            best = fmin(best, now_ms() - start);                                                   \
        }                                                                                          \
    } while (0)

static void check(enum status status, const struct error *err)
{
    if (!status)
        return;
    fprintf(stderr, "bench_image: %s\n", err->message);
    exit(1);
}

/* Waves, edges and grain: about as hard to compress as a photograph. */
static uint8_t *draw_jpeg(size_t *size)
{
    enum { WIDTH = 1920, HEIGHT = 1080 };
    uint8_t *rgb = malloc((size_t)WIDTH * HEIGHT * 3), *out = NULL;
    unsigned long out_size = 0;
    uint32_t state = 1;
    if (!rgb)
        exit(1);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) {
                double wave = 128 + 90 * sin(x / 37.0 + y / 51.0 * (c + 1)) + 20 * sin(x * y / 9e3);
                state = state * 1664525u + 1013904223u;
                wave += (double)(state >> 24) / 8 - 16 + ((x / 90 + y / 70) % 5 == 0 ? 40 : 0);
                rgb[((size_t)y * WIDTH + (size_t)x) * 3 + (size_t)c] =
                    (uint8_t)fmin(fmax(wave, 0), 255);
            }
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &out, &out_size);
    jpeg.image_width = WIDTH;
    jpeg.image_height = HEIGHT;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 85, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < HEIGHT) {
        JSAMPROW row = rgb + (size_t)jpeg.next_scanline * WIDTH * 3;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    free(rgb);
    *size = out_size;
    return out;
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long end = -1;
    if (file && !fseek(file, 0, SEEK_END) && (end = ftell(file)) > 0) {
        rewind(file);
        bytes = malloc((size_t)end);
        if (bytes && fread(bytes, 1, (size_t)end, file) != (size_t)end) {
            free(bytes);
            bytes = NULL;
        }
    }
    if (file)
        fclose(file);
    if (!bytes) {
        fprintf(stderr, "bench_image: cannot read %s\n", path);
        exit(1);
    }
    *size = (size_t)end;
    return bytes;
}

static void run(const char *name, const uint8_t *bytes, size_t size)
{
    static const char *const kernels[] = {"plain", "avx2", "avx512"};
    static const struct {
        const char *name;
        enum resample resample;
    } filters[] = {{"bilinear", RESAMPLE_BILINEAR},
                   {"bicubic", RESAMPLE_BICUBIC},
                   {"lanczos", RESAMPLE_LANCZOS}};
    const struct image_processor processor = {.do_resize = true,
                                              .do_center_crop = true,
                                              .do_rescale = true,
                                              .do_normalize = true,
                                              .shortest_edge = 224,
                                              .crop_height = 224,
                                              .crop_width = 224,
                                              .resample = RESAMPLE_BICUBIC,
                                              .rescale_factor = 1 / 255.0,
                                              .mean = {0.48f, 0.46f, 0.41f},
                                              .std = {0.27f, 0.26f, 0.28f}};
    struct image_processor only_normalize = processor;
    only_normalize.do_resize = only_normalize.do_center_crop = false;
    const size_t max_pixels = (size_t)1 << 28;
    struct error err = {0};
    struct image image = {0}, small = {0};
    struct pixels pixels = {0};
    size_t width, height;
    double ms, whole = 0;

    check(image_decode(bytes, size, max_pixels, NULL, &image, &err), &err);
    check(image_processor_size(&processor, image.width, image.height, &width, &height, &err), &err);
    struct image_rect crop = {((long)width - 224) / 2, ((long)height - 224) / 2, 224, 224};
    printf("%s: %zu x %zu, %zu bytes; ms a picture, best of %d\n", name, image.width, image.height,
           size, n_repeats);
    image_release(&image);

    BEST(ms, image_release(&image);
         check(image_decode(bytes, size, max_pixels, NULL, &image, &err), &err));
    printf("  decode                    %8.3f\n", ms);
    whole += ms;
    for (size_t f = 0; f < ARRAY_LENGTH(filters); f++)
        for (enum image_kernel kernel = 0; kernel < N_IMAGE_KERNEL; kernel++) {
            double ms_whole;
            if (!image_kernel_usable(kernel))
                continue;
            BEST(ms, image_release(&small);
                 check(image_resize_with(kernel, &image, width, height, filters[f].resample, &crop,
                                         &small, &err),
                       &err));
            BEST(ms_whole, image_release(&small);
                 check(image_resize_with(kernel, &image, width, height, filters[f].resample, NULL,
                                         &small, &err),
                       &err));
            printf("  resize %-8s %-7s   %8.3f   (%zu x %zu without the crop: %.3f)\n",
                   filters[f].name, kernels[kernel], ms, width, height, ms_whole);
        }
    image_release(&small);
    check(image_resize(&image, width, height, RESAMPLE_BICUBIC, &crop, &small, &err), &err);
    BEST(ms, pixels_release(&pixels);
         check(image_processor_apply(&only_normalize, &small, &pixels, &err), &err));
    printf("  rescale and normalise     %8.3f\n", ms);
    BEST(ms, pixels_release(&pixels);
         check(image_processor_apply(&processor, &image, &pixels, &err), &err));
    whole += ms;
    printf("  decode to pixel tensor    %8.3f\n", whole);
    pixels_release(&pixels);
    image_release(&small);
    image_release(&image);
}

int main(int argc, char **argv)
{
    int n_files = 0;
    const char *save = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--repeat") && i + 1 < argc) {
            n_repeats = (int)strtol(argv[++i], NULL, 10);
            n_repeats = n_repeats < 1 ? 1 : n_repeats;
        } else if (!strcmp(argv[i], "--save") && i + 1 < argc) {
            save = argv[++i];
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "usage: bench_image [--repeat N] [--save FILE] [FILE...]\n");
            return 2;
        } else {
            size_t size;
            uint8_t *bytes = read_file(argv[i], &size);
            run(argv[i], bytes, size);
            free(bytes);
            n_files++;
        }
    }
    if (n_files)
        return 0;
    size_t size;
    uint8_t *bytes = draw_jpeg(&size);
    FILE *file = save ? fopen(save, "wb") : NULL;
    if (save && (!file || fwrite(bytes, 1, size, file) != size || fclose(file))) {
        fprintf(stderr, "bench_image: cannot write %s\n", save);
        free(bytes);
        return 1;
    }
    run("drawn JPEG", bytes, size);
    free(bytes);
    return 0;
}
