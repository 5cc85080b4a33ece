/*
 * model_golden.c: see model_golden.h.
 */
#include "model_golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"

static struct pool *shared_pool; /* made once: threads are dear */

const char *golden_data(void)
{
    static char *path; /* absolute, for links from other folders */
    const char *data = getenv("VLMD_TEST_DATA");
    if (!path)
        path = data ? realpath(data, NULL) : NULL;
    ck_assert_msg(path != NULL, "VLMD_TEST_DATA names tests/data");
    return path;
}

enum status golden_compute_init(struct compute *compute, struct arena *arena)
{
    struct error err = {0};
    if (!shared_pool)
        shared_pool = pool_new(2, &err);
    arena_init(arena, 0);
    *compute = (struct compute){shared_pool, arena};
    return shared_pool ? STATUS_OK : err.status;
}

void golden_open(struct golden *golden, const char *name)
{
    struct error err = {0};
    char path[512];
    memset(golden, 0, sizeof *golden);
    snprintf(golden->name, sizeof golden->name, "%s", name);
    ck_assert_int_eq(golden_compute_init(&golden->compute, &golden->arena), STATUS_OK);
    snprintf(path, sizeof path, "%s/checkpoints/%s", golden_data(), name);
    golden->model = model_open(name, path, &err);
    ck_assert_msg(golden->model != NULL, "%s", err.message);
    snprintf(path, sizeof path, "%s/goldens/%s.json", golden_data(), name);
    golden->json = json_load_file(path, 0, NULL);
    ck_assert_msg(golden->json != NULL, "%s cannot be read", path);
    snprintf(path, sizeof path, "%s/goldens", golden_data());
    char file[128];
    snprintf(file, sizeof file, "%s.safetensors", name);
    golden->tensors = tensor_set_open(path, file, &err);
    ck_assert_msg(golden->tensors != NULL, "%s", err.message);
}

void golden_close(struct golden *golden)
{
    model_free(golden->model);
    json_decref(golden->json);
    tensor_set_close(golden->tensors);
    arena_release(&golden->arena);
}

const json_t *golden_case(const struct golden *golden, const char *kind, size_t i)
{
    const json_t *cases = json_object_get(golden->json, "cases");
    for (size_t at = 0; at < json_array_size(cases); at++) {
        const json_t *each = json_array_get(cases, at);
        if (strcmp(json_string_value(json_object_get(each, "kind")), kind) == 0 && i-- == 0)
            return each;
    }
    return NULL;
}

size_t golden_count(const struct golden *golden, const char *kind)
{
    size_t n = 0;
    while (golden_case(golden, kind, n))
        n++;
    ck_assert_msg(n > 0, "%s has no case '%s'", golden->name, kind);
    return n;
}

const struct tensor_view *golden_tensor(const struct golden *golden, const json_t *of,
                                        const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", json_string_value(json_object_get(of, "case")), name);
    const struct tensor_view *view = tensor_set_find(golden->tensors, full);
    ck_assert_msg(view != NULL, "golden %s has no '%s'", golden->name, full);
    return view;
}

void golden_close_to(const float *got, const float *want, size_t n, const char *what)
{
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        ck_assert_msg(!isnan(difference), "%s: NaN at %zu", what, i);
        worst = fmax(worst, difference);
        scale = fmax(scale, fabs((double)want[i]));
    }
    ck_assert_msg(worst <= GOLDEN_TOLERANCE * scale, "%s: differs by %g of %g", what, worst, scale);
}

char *golden_file(const char *folder, const char *name, size_t *size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", golden_data(), folder, name);
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s cannot be opened", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

void golden_pixels(const struct golden *golden, const json_t *of, struct pixels *out)
{
    struct error err = {0};
    struct image image = {0};
    size_t size;
    const char *picture = json_string_value(json_object_get(of, "picture"));
    char *bytes = golden_file("images", picture, &size);
    ck_assert_msg(!image_decode(bytes, size, 1 << 24, NULL, &image, &err), "%s", err.message);
    ck_assert_msg(!model_preprocess(golden->model, &image, out, &err), "%s", err.message);
    image_release(&image);
    free(bytes);
}

struct features *golden_features(struct golden *golden, const json_t *of)
{
    struct error err = {0};
    struct pixels pixels;
    struct features *features = NULL;
    golden_pixels(golden, of, &pixels);
    const struct pixels *list = &pixels;
    const struct model *model = golden->model;
    ck_assert_msg(
        !model->architecture->encode_images(model, &golden->compute, &list, 1, &features, &err),
        "%s", err.message);
    arena_reset(&golden->arena);
    pixels_release(&pixels);
    return features;
}

struct tokens golden_ids(const json_t *list)
{
    struct tokens tokens = {.n = json_array_size(list)};
    tokens.ids = malloc((tokens.n + 1) * sizeof *tokens.ids);
    for (size_t i = 0; i < tokens.n; i++)
        tokens.ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return tokens;
}

void golden_variant(const char *to, const char *from, const char *file, const char *part,
                    const char *key, json_t *value)
{
    static const char *const files[] = {"config.json",           "preprocessor_config.json",
                                        "model.safetensors",     "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json"};
    char source[600], target[600];
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        snprintf(source, sizeof source, "%s/checkpoints/%s/%s", golden_data(), from, files[i]);
        snprintf(target, sizeof target, "%s/%s", to, files[i]);
        unlink(target);
        if (strcmp(files[i], file) != 0) {
            ck_assert_int_eq(symlink(source, target), 0);
            continue;
        }
        json_t *json = json_load_file(source, 0, NULL);
        ck_assert_ptr_nonnull(json);
        json_object_set_new(part ? json_object_get(json, part) : json, key, value);
        ck_assert_int_eq(json_dump_file(json, target, 0), 0);
        json_decref(json);
    }
}
