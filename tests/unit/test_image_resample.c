/*
 * test_image_resample.c: resizing against Pillow's results, every kernel against a slow twin that
 * is written straight from the definition, and crops against cuts of the whole.
 */
#include <math.h>

#include "core/image/resample.h"
#include "tests/unit/test_image_data.h"

/* Pillow may be built with other floating-point contraction: a coefficient may then round to its
 * neighbour. The promise is one count, and equality on 99.9 % of the bytes. */
static void assert_close(const char *name, const uint8_t *got, const uint8_t *want, size_t n)
{
    size_t n_different = 0;
    for (size_t i = 0; i < n; i++) {
        if (abs(got[i] - want[i]) > 1)
            ck_abort_msg("%s: byte %zu is %d, not %d", name, i, got[i], want[i]);
        n_different += got[i] != want[i];
    }
    ck_assert_msg(n_different * 1000 <= n, "%s: %zu of %zu bytes differ", name, n_different, n);
}

START_TEST(resize_equals_reference)
{
    struct golden golden = golden_open("resize");
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name, *input;
        int width, height, resample;
        ck_assert_int_eq(json_unpack(item, "{s:s, s:s, s:i, s:i, s:i}", "name", &name, "input",
                                     &input, "width", &width, "height", &height, "resample",
                                     &resample),
                         0);
        struct image in = golden_image(&golden, input), want = golden_image(&golden, name), got;
        for (enum image_kernel kernel = 0; kernel < N_IMAGE_KERNEL; kernel++) {
            struct error err = {0};
            if (!image_kernel_usable(kernel))
                continue;
            ck_assert_msg(image_resize_with(kernel, &in, (size_t)width, (size_t)height,
                                            (enum resample)resample, NULL, &got, &err) == STATUS_OK,
                          "%s: %s", name, err.message);
            ck_assert_uint_eq(got.width, want.width);
            ck_assert_uint_eq(got.height, want.height);
            assert_close(name, got.rgb, want.rgb, want.width * want.height * 3);
            image_release(&got);
        }
    }
    golden_close(&golden);
}
END_TEST

/* --- the slow twin: one output value at a time ------------------------------------------------ */

static double weight(enum resample resample, double x)
{
    double a = fabs(x);
    switch (resample) {
    case RESAMPLE_BILINEAR:
        return a < 1 ? 1 - a : 0;
    case RESAMPLE_BICUBIC: /* Keys, a = -1/2 */
        return a < 1 ? 1.5 * a * a * a - 2.5 * a * a + 1
                     : (a < 2 ? -0.5 * a * a * a + 2.5 * a * a - 4 * a + 2 : 0);
    case RESAMPLE_LANCZOS:
        if (a == 0)
            return 1;
        return a < 3 ? 3 * sin(M_PI * a) * sin(M_PI * a / 3) / (M_PI * M_PI * a * a) : 0;
    case RESAMPLE_BOX:
        return x > -0.5 && x <= 0.5;
    default: /* Hamming */
        if (a == 0)
            return 1;
        return a < 1 ? sin(M_PI * a) / (M_PI * a) * (0.54 + 0.46 * cos(M_PI * a)) : 0;
    }
}

static uint8_t slow_value(const uint8_t *in, size_t stride, size_t in_size, size_t out_size,
                          size_t at, enum resample resample)
{
    static const double supports[N_RESAMPLE] = {0, 3, 1, 2, 0.5, 1};
    double scale = (double)in_size / (double)out_size, wide = scale < 1 ? 1 : scale;
    double center = ((double)at + 0.5) * scale, support = supports[resample] * wide, total = 0;
    long from = (long)(center - support + 0.5), to = (long)(center + support + 0.5);
    from = from < 0 ? 0 : from;
    to = to > (long)in_size ? (long)in_size : to;
    for (long x = from; x < to; x++)
        total += weight(resample, ((double)x - center + 0.5) / wide);
    int64_t sum = 1 << 21;
    for (long x = from; x < to; x++) {
        double w = weight(resample, ((double)x - center + 0.5) / wide) / total;
        sum += (int64_t)round(w * (1 << 22)) * in[(size_t)x * stride];
    }
    sum >>= 22;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One pass along rows (step 3 between neighbours) or columns; equal sizes are left alone. */
static struct image slow_pass(const struct image *in, size_t width, size_t height,
                              enum resample resample)
{
    struct image out = {width, height, malloc(width * height * 3)};
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++)
            for (size_t c = 0; c < 3; c++) {
                uint8_t *to = &out.rgb[(y * width + x) * 3 + c];
                if (width != in->width)
                    *to = slow_value(in->rgb + y * in->width * 3 + c, 3, in->width, width, x,
                                     resample);
                else if (height != in->height)
                    *to =
                        slow_value(in->rgb + x * 3 + c, width * 3, in->height, height, y, resample);
                else
                    *to = in->rgb[(y * width + x) * 3 + c];
            }
    return out;
}

static struct image slow_resize(const struct image *in, size_t width, size_t height,
                                enum resample resample)
{
    long narrowing = (long)in->width - (long)width, lowering = (long)in->height - (long)height;
    bool vertical_first = lowering > 2 * (narrowing > 0 ? narrowing : 0);
    struct image middle = vertical_first ? slow_pass(in, in->width, height, resample)
                                         : slow_pass(in, width, in->height, resample);
    struct image out = slow_pass(&middle, width, height, resample);
    image_release(&middle);
    return out;
}

START_TEST(kernels_equal_the_slow_twin)
{
    static const size_t sizes[] = {1, 2, 3, 15, 16, 17, 31, 33, 48, 64, 70};
    uint32_t state = 5;
    for (int round = 0; round < 60; round++) {
        size_t pick[4];
        for (int k = 0; k < 4; k++)
            pick[k] = sizes[random_next(&state) % ARRAY_LENGTH(sizes)];
        enum resample resample = 1 + random_next(&state) % (N_RESAMPLE - 1);
        struct image in = random_image(pick[0], pick[1], &state), first = {0};
        struct image want = slow_resize(&in, pick[2], pick[3], resample);
        for (enum image_kernel kernel = 0; kernel < N_IMAGE_KERNEL; kernel++) {
            struct error err = {0};
            struct image got = {0};
            char name[96];
            snprintf(name, sizeof name, "kernel %u filter %u: %zux%zu to %zux%zu", kernel, resample,
                     pick[0], pick[1], pick[2], pick[3]);
            if (!image_kernel_usable(kernel))
                continue;
            ck_assert_int_eq(
                image_resize_with(kernel, &in, pick[2], pick[3], resample, NULL, &got, &err),
                STATUS_OK);
            /* The twin's formulas are written otherwise, so its last bits may differ; extremes
             * meet the rounding border more often than pictures do. */
            size_t n = pick[2] * pick[3] * 3, n_different = 0;
            for (size_t i = 0; i < n; i++) {
                if (abs(got.rgb[i] - want.rgb[i]) > 1)
                    ck_abort_msg("%s: byte %zu is %d, not %d", name, i, got.rgb[i], want.rgb[i]);
                n_different += got.rgb[i] != want.rgb[i];
            }
            ck_assert_msg(n_different * 200 <= n, "%s: %zu of %zu differ", name, n_different, n);
            if (kernel == IMAGE_KERNEL_PLAIN)
                first = got;
            else {
                ck_assert_msg(!memcmp(first.rgb, got.rgb, n), "%s: not as the plain kernel", name);
                image_release(&got);
            }
        }
        image_release(&first);
        image_release(&want);
        image_release(&in);
    }
}
END_TEST

START_TEST(crop_equals_a_cut_of_the_whole)
{
    uint32_t state = 9;
    for (int round = 0; round < 300; round++) {
        size_t width = 1 + random_next(&state) % 60, height = 1 + random_next(&state) % 60;
        enum resample resample = random_next(&state) % N_RESAMPLE;
        struct image in =
            random_image(1 + random_next(&state) % 50, 1 + random_next(&state) % 50, &state);
        if (round % 5 == 0) { /* no resize at all */
            width = in.width;
            height = in.height;
        }
        struct image_rect rect = {(long)(random_next(&state) % 90) - 40,
                                  (long)(random_next(&state) % 90) - 40,
                                  1 + random_next(&state) % 50, 1 + random_next(&state) % 50};
        struct image whole = {0}, part = {0};
        struct error err = {0};
        ck_assert_int_eq(image_resize(&in, width, height, resample, NULL, &whole, &err), STATUS_OK);
        ck_assert_int_eq(image_resize(&in, width, height, resample, &rect, &part, &err), STATUS_OK);
        ck_assert_uint_eq(part.width, rect.width);
        ck_assert_uint_eq(part.height, rect.height);
        for (size_t y = 0; y < rect.height; y++)
            for (size_t x = 0; x < rect.width; x++) {
                long wx = rect.x + (long)x, wy = rect.y + (long)y;
                bool inside = wx >= 0 && wy >= 0 && wx < (long)width && wy < (long)height;
                for (size_t c = 0; c < 3; c++) {
                    uint8_t want =
                        inside ? whole.rgb[((size_t)wy * width + (size_t)wx) * 3 + c] : 0;
                    if (part.rgb[(y * rect.width + x) * 3 + c] != want)
                        ck_abort_msg("round %d: pixel %zu, %zu", round, x, y);
                }
            }
        image_release(&part);
        image_release(&whole);
        image_release(&in);
    }
}
END_TEST

START_TEST(resize_refuses_sizes_that_cannot_be)
{
    uint8_t pixel[3] = {1, 2, 3};
    const struct image in = {1, 1, pixel}, none = {0, 1, pixel};
    const struct {
        const struct image *in;
        size_t width, height;
        struct image_rect crop; /* width 0: none */
        enum status want;
    } rows[] = {
        {&in, 0, 5, {0}, STATUS_UNPROCESSABLE},
        {&in, 5, 0, {0}, STATUS_UNPROCESSABLE},
        {&none, 5, 5, {0}, STATUS_UNPROCESSABLE},
        {&in, 1 << 14, 1 << 13, {0}, STATUS_UNPROCESSABLE}, /* 2^27 pixels */
        {&in, (size_t)-1, (size_t)-1, {0}, STATUS_UNPROCESSABLE},
        {&in, IMAGE_RESIZE_EDGE_MAX, 2, {5, 0, 3, 2}, STATUS_OK},
        {&in, IMAGE_RESIZE_EDGE_MAX + 1, 2, {5, 0, 3, 2}, STATUS_UNPROCESSABLE},
        {&in, 4, 4, {0, 0, (size_t)-1, 2}, STATUS_UNPROCESSABLE},
        {&in, 4, 4, {-1000000, 1000000, 2, 2}, STATUS_OK},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        for (enum resample resample = 0; resample < N_RESAMPLE; resample++) {
            struct error err = {0};
            struct image out = {0};
            if (resample == RESAMPLE_NEAREST && rows[i].width == IMAGE_RESIZE_EDGE_MAX)
                continue; /* covered by the others; kept fast */
            enum status status =
                image_resize(rows[i].in, rows[i].width, rows[i].height, resample,
                             rows[i].crop.width ? &rows[i].crop : NULL, &out, &err);
            ck_assert_msg(status == rows[i].want, "row %zu: %s", i, err.message);
            ck_assert(status == STATUS_OK || out.rgb == NULL);
            image_release(&out);
        }
    struct error err = {0};
    struct image out = {0};
    ck_assert_int_eq(image_resize(&in, 2, 2, (enum resample)N_RESAMPLE, NULL, &out, &err),
                     STATUS_INTERNAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("image_resample");
    TCase *tcase = tcase_create("image_resample");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, resize_equals_reference);
    tcase_add_test(tcase, kernels_equal_the_slow_twin);
    tcase_add_test(tcase, crop_equals_a_cut_of_the_whole);
    tcase_add_test(tcase, resize_refuses_sizes_that_cannot_be);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
