/*
 * test_image_data.h: what the picture tests share: files of tests/data/image, goldens, a pseudo
 * random source. Everything fails the running test when a file is missing.
 */
#ifndef VLMD_TESTS_TEST_IMAGE_DATA_H
#define VLMD_TESTS_TEST_IMAGE_DATA_H

#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/image/image.h"
#include "core/weights/safetensors.h"

struct golden {
    json_t *head; /* the whole .json */
    json_t *cases;
    struct tensor_set *tensors;
};

static inline const char *data_directory(void)
{
    static char path[4096];
    const char *root = getenv("VLMD_TEST_DATA");
    ck_assert_msg(root != NULL, "VLMD_TEST_DATA is not set");
    snprintf(path, sizeof path, "%s/image", root);
    return path;
}

static inline struct golden golden_open(const char *name)
{
    char path[4200];
    struct error err = {0};
    json_error_t fault;
    snprintf(path, sizeof path, "%s/%s.json", data_directory(), name);
    struct golden golden = {.head = json_load_file(path, 0, &fault)};
    ck_assert_msg(golden.head != NULL, "%s: %s", path, fault.text);
    golden.cases = json_object_get(golden.head, "cases");
    ck_assert_msg(json_array_size(golden.cases) > 0, "%s has no cases", path);
    snprintf(path, sizeof path, "%s.safetensors", name);
    golden.tensors = tensor_set_open(data_directory(), path, &err);
    ck_assert_msg(golden.tensors != NULL, "%s", err.message);
    return golden;
}

static inline void golden_close(struct golden *golden)
{
    tensor_set_close(golden->tensors);
    json_decref(golden->head);
}

static inline const struct tensor_view *golden_tensor(const struct golden *golden, const char *name)
{
    const struct tensor_view *view = tensor_set_find(golden->tensors, name);
    ck_assert_msg(view != NULL, "no tensor %s", name);
    ck_assert_uint_eq(view->n_dims, 3);
    return view;
}

/* A picture [h, w, 3] of the golden, borrowed: not to be released. */
static inline struct image golden_image(const struct golden *golden, const char *name)
{
    const struct tensor_view *view = golden_tensor(golden, name);
    ck_assert_str_eq(view->dtype_name, "U8");
    ck_assert_uint_eq(view->shape[2], 3);
    return (struct image){
        .height = view->shape[0], .width = view->shape[1], .rgb = (uint8_t *)(size_t)view->data};
}

/* The file's bytes in a block of exactly their size, so that a sanitizer sees one byte past. */
static inline uint8_t *data_file(const char *name, size_t *size)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", data_directory(), name);
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size);
    ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static inline uint32_t random_next(uint32_t *state) /* a linear congruence: the same everywhere */
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static inline struct image random_image(size_t width, size_t height, uint32_t *state)
{
    struct image image = {.width = width, .height = height, .rgb = malloc(width * height * 3)};
    for (size_t i = 0; i < width * height * 3; i++) { /* many extremes: they overshoot and clip */
        uint32_t r = random_next(state);
        image.rgb[i] = r % 3 == 0 ? 0 : r % 3 == 1 ? 255 : (uint8_t)(r >> 4);
    }
    return image;
}

#endif
