/*
 * test_image_processor.c: pixel values against the reference's PIL processors, and what a
 * configuration or a picture may not be.
 */
#include <math.h>

#include "core/image/zoom.h"
#include "tests/unit/test_image_data.h"

#define CLIP_MEAN                                                                                  \
    {                                                                                              \
        0.48145466f, 0.4578275f, 0.40821073f                                                       \
    }
#define CLIP_STD                                                                                   \
    {                                                                                              \
        0.26862954f, 0.26130258f, 0.27577711f                                                      \
    }

/* What the reference's classes take for absent keys. */
static const struct {
    const char *name;
    struct image_processor defaults;
} classes[] = {
    {"clip",
     {.do_resize = true,
      .do_center_crop = true,
      .do_rescale = true,
      .do_normalize = true,
      .shortest_edge = 224,
      .crop_height = 224,
      .crop_width = 224,
      .resample = RESAMPLE_BICUBIC,
      .rescale_factor = 1 / 255.0,
      .mean = CLIP_MEAN,
      .std = CLIP_STD}},
    {"blip",
     {.do_resize = true,
      .do_rescale = true,
      .do_normalize = true,
      .default_to_square = true,
      .height = 384,
      .width = 384,
      .resample = RESAMPLE_BICUBIC,
      .rescale_factor = 1 / 255.0,
      .mean = CLIP_MEAN,
      .std = CLIP_STD}},
    {"owlv2",
     {.do_resize = true,
      .do_rescale = true,
      .do_normalize = true,
      .do_pad = true,
      .default_to_square = true,
      .height = 960,
      .width = 960,
      .resample = RESAMPLE_BILINEAR,
      .rescale_factor = 1 / 255.0,
      .mean = CLIP_MEAN,
      .std = CLIP_STD}},
    {"vilt",
     {.do_resize = true,
      .do_rescale = true,
      .do_normalize = true,
      .do_pad = true,
      .shortest_edge = 384,
      .size_divisor = 32,
      .resample = RESAMPLE_BICUBIC,
      .rescale_factor = 1 / 255.0,
      .mean = {0.5f, 0.5f, 0.5f},
      .std = {0.5f, 0.5f, 0.5f}}},
};

static const struct image_processor *defaults_of(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(classes); i++)
        if (!strcmp(classes[i].name, name))
            return &classes[i].defaults;
    ck_abort_msg("no class %s", name);
    return NULL;
}

START_TEST(processor_equals_reference)
{
    struct golden golden = golden_open("processor");
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name, *class, *input;
        json_t *config;
        ck_assert_int_eq(json_unpack(item, "{s:s, s:s, s:s, s:o}", "name", &name, "class", &class,
                                     "input", &input, "config", &config),
                         0);
        struct error err = {0};
        struct image_processor processor;
        ck_assert_msg(image_processor_parse(config, defaults_of(class), &processor, &err) ==
                          STATUS_OK,
                      "%s: %s", name, err.message);
        struct image in = golden_image(&golden, input);
        struct pixels got = {0};
        enum status status = image_processor_apply(&processor, &in, &got, &err);
        if (json_object_get(item, "error")) { /* what the reference cannot take either */
            ck_assert_msg(status == STATUS_UNPROCESSABLE, "%s", name);
            continue;
        }
        ck_assert_msg(status == STATUS_OK, "%s: %s", name, err.message);
        const struct tensor_view *want = golden_tensor(&golden, name);
        ck_assert_msg(got.height == want->shape[1] && got.width == want->shape[2],
                      "%s: %zu x %zu, not %zu x %zu", name, got.height, got.width, want->shape[1],
                      want->shape[2]);
        /* One count of 255 before normalisation, and equality on 99.9 %. */
        size_t plane = got.height * got.width, n_different = 0;
        for (size_t p = 0; p < 3 * plane; p++) {
            float x;
            memcpy(&x, (const char *)want->data + p * sizeof x, sizeof x);
            float count = processor.do_rescale ? (float)processor.rescale_factor : 1.0f;
            if (processor.do_normalize)
                count /= processor.std[p / plane];
            float difference = fabsf(got.data[p] - x);
            if (!(difference <= 1.001f * count))
                ck_abort_msg("%s: value %zu is %g, not %g", name, p, (double)got.data[p],
                             (double)x);
            n_different += got.data[p] != x;
        }
        ck_assert_msg(n_different * 1000 <= 3 * plane, "%s: %zu of %zu differ", name, n_different,
                      3 * plane);
        pixels_release(&got);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(zoom_equals_reference)
{
    struct golden golden = golden_open("zoom");
    size_t i;
    json_t *item;
    json_array_foreach(golden.cases, i, item)
    {
        const char *name, *class, *input;
        json_t *config;
        ck_assert_int_eq(json_unpack(item, "{s:s, s:s, s:s, s:o}", "name", &name, "class", &class,
                                     "input", &input, "config", &config),
                         0);
        struct error err = {0};
        struct image_processor processor;
        ck_assert(!image_processor_parse(config, defaults_of(class), &processor, &err));
        struct image in = golden_image(&golden, input);
        struct pixels got = {0};
        ck_assert_msg(!image_zoom_apply(&processor, &in, &got, &err), "%s: %s", name, err.message);
        const struct tensor_view *want = golden_tensor(&golden, name);
        ck_assert_msg(got.height == want->shape[1] && got.width == want->shape[2],
                      "%s: %zu x %zu, not %zu x %zu", name, got.height, got.width, want->shape[1],
                      want->shape[2]);
        for (size_t p = 0; p < 3 * got.height * got.width; p++) {
            float x;
            memcpy(&x, (const char *)want->data + p * sizeof x, sizeof x);
            ck_assert_msg(fabsf(got.data[p] - x) <= 1e-5f, "%s: value %zu is %g, not %g", name, p,
                          (double)got.data[p], (double)x);
        }
        pixels_release(&got);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(zoom_refuses_endless_pictures)
{
    const struct image_processor *processor = defaults_of("owlv2");
    static uint8_t rgb[3 * (PROCESSOR_EDGE_MAX + 1)];
    struct pixels got = {0};
    struct error err = {0};
    struct image in = {.width = PROCESSOR_EDGE_MAX + 1, .height = 1, .rgb = rgb};
    ck_assert_int_eq(image_zoom_apply(processor, &in, &got, &err), STATUS_UNPROCESSABLE);
    ck_assert_ptr_null(got.data);
    in.width = PROCESSOR_EDGE_MAX;
    ck_assert_int_eq(image_zoom_apply(processor, &in, &got, &err), STATUS_OK);
    pixels_release(&got);
    struct image_processor as_it_is = *processor; /* a square of 65536 */
    as_it_is.do_resize = false;
    ck_assert_int_eq(image_zoom_apply(&as_it_is, &in, &got, &err), STATUS_UNPROCESSABLE);
}
END_TEST

START_TEST(processor_names_the_bad_key)
{
    static const struct {
        const char *config;
        const char *key; /* NULL: fine */
    } rows[] = {
        {"{}", NULL},
        {"{\"size\": null, \"image_mean\": null, \"resample\": null, \"do_pad\": null}", NULL},
        {"{\"size\": 65536, \"unknown\": [1, 2, {}]}", NULL},
        {"{\"size\": 65537}", "'size'"},
        {"{\"size\": 0}", "'size'"},
        {"{\"size\": -1}", "'size'"},
        {"{\"size\": 1.5}", "'size'"},
        {"{\"size\": true}", "'size'"},
        {"{\"size\": \"224\"}", "'size'"},
        {"{\"size\": []}", "'size'"},
        {"{\"size\": [1, 2, 3]}", "'size'"},
        {"{\"size\": [1, \"2\"]}", "'size'"},
        {"{\"size\": {}}", "'size'"},
        {"{\"size\": {\"height\": 5}}", "'size'"},
        {"{\"size\": {\"longest_edge\": 5}}", "'size'"},
        {"{\"size\": {\"height\": 5, \"width\": 0}}", "'size.width'"},
        {"{\"size\": {\"shortest_edge\": 99999999999999}}", "'size.shortest_edge'"},
        {"{\"crop_size\": {\"shortest_edge\": 5}}", "'crop_size'"},
        {"{\"crop_size\": -5}", "'crop_size'"},
        {"{\"pad_size\": {\"shortest_edge\": 5}}", "'pad_size'"},
        {"{\"size_divisor\": 0}", "'size_divisor'"},
        {"{\"do_resize\": 1}", "'do_resize'"},
        {"{\"do_center_crop\": \"yes\"}", "'do_center_crop'"},
        {"{\"resample\": 6}", "'resample'"},
        {"{\"resample\": -1}", "'resample'"},
        {"{\"resample\": \"bicubic\"}", "'resample'"},
        {"{\"rescale_factor\": \"1/255\"}", "'rescale_factor'"},
        {"{\"image_mean\": []}", "'image_mean'"},
        {"{\"image_mean\": [0, 0]}", "'image_mean'"},
        {"{\"image_mean\": [0, 0, \"0\"]}", "'image_mean'"},
        {"{\"image_mean\": [0, 0, 1e300]}", "'image_mean'"},
        {"{\"image_std\": [1, 0, 1]}", "'image_std'"},
        {"{\"image_std\": 0}", "'image_std'"},
        {"[]", "object"},
    };
    const struct image_processor *defaults = defaults_of("clip");
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        json_t *config = json_loads(rows[i].config, 0, NULL);
        ck_assert_msg(config != NULL, "%s", rows[i].config);
        struct error err = {0};
        struct image_processor p = {.size_divisor = 77};
        enum status status = image_processor_parse(config, defaults, &p, &err);
        if (!rows[i].key) {
            ck_assert_msg(status == STATUS_OK, "%s: %s", rows[i].config, err.message);
        } else {
            ck_assert_msg(status == STATUS_BAD_CHECKPOINT && strstr(err.message, rows[i].key),
                          "%s: %s", rows[i].config, err.message);
            ck_assert_uint_eq(p.size_divisor, 77);
        }
        json_decref(config);
    }
    struct error err = {0};
    struct image_processor p, nothing = {.do_resize = true};
    ck_assert_int_eq(image_processor_parse(NULL, defaults, &p, &err), STATUS_BAD_CHECKPOINT);
    json_t *empty = json_object();
    ck_assert_int_eq(image_processor_parse(empty, &nothing, &p, &err), STATUS_BAD_CHECKPOINT);
    json_decref(empty);
}
END_TEST

START_TEST(processor_takes_extreme_pictures)
{
    static const struct {
        size_t width, height;
        const char *class;
        bool crop;
        enum status want;
    } rows[] = {
        {1, 1, "clip", true, STATUS_OK},
        {1, 5000, "clip", true, STATUS_OK}, /* 224 × 1,120,000, of which 224 × 224 are made */
        {5000, 1, "clip", true, STATUS_OK},
        {1, 5000, "clip", false, STATUS_UNPROCESSABLE},
        {5000, 1, "blip", true, STATUS_OK},
        {1, 5000, "vilt", true, STATUS_UNPROCESSABLE},
        {1, 1, "vilt", true, STATUS_OK},
    };
    uint32_t state = 1;
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct image in = random_image(rows[i].width, rows[i].height, &state);
        struct image_processor processor = *defaults_of(rows[i].class);
        struct pixels out = {0};
        struct error err = {0};
        if (!rows[i].crop)
            processor.do_center_crop = false;
        enum status status = image_processor_apply(&processor, &in, &out, &err);
        ck_assert_msg(status == rows[i].want, "row %zu: %s", i, err.message);
        if (status == STATUS_OK) {
            for (size_t p = 0; p < 3 * out.height * out.width; p++)
                if (!(fabsf(out.data[p]) < 3.0f))
                    ck_abort_msg("row %zu, value %zu", i, p);
        } else {
            ck_assert_ptr_null(out.data);
            ck_assert_ptr_nonnull(strstr(err.message, "5000"));
        }
        pixels_release(&out);
        image_release(&in);
    }
    pixels_release(NULL);
    image_release(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("image_processor");
    TCase *tcase = tcase_create("image_processor");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, processor_equals_reference);
    tcase_add_test(tcase, zoom_equals_reference);
    tcase_add_test(tcase, zoom_refuses_endless_pictures);
    tcase_add_test(tcase, processor_names_the_bad_key);
    tcase_add_test(tcase, processor_takes_extreme_pictures);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
