/*
 * model_golden.h: opens a checkpoint of tests/data/checkpoints with its golden (JSON of cases,
 * safetensors of tensors) and compares tensors; for test_models*.c.
 */
#ifndef VLMD_TESTS_MODEL_GOLDEN_H
#define VLMD_TESTS_MODEL_GOLDEN_H

#include <check.h>
#include <jansson.h>

#include "core/models/model.h"

/* f32 against the reference's f32: other orders of summation, nothing else. */
#define GOLDEN_TOLERANCE 1e-4

struct golden {
    char name[64];
    struct model *model;
    json_t *json;
    struct tensor_set *tensors;
    struct compute compute;
    struct arena arena;
};

void golden_open(struct golden *golden, const char *name);
void golden_close(struct golden *golden);

/* The i-th case of this kind; NULL past the last. */
const json_t *golden_case(const struct golden *golden, const char *kind, size_t i);
size_t golden_count(const struct golden *golden, const char *kind);

/* The tensor "<case>/<name>"; fails the test when it is absent. */
const struct tensor_view *golden_tensor(const struct golden *golden, const json_t *of,
                                        const char *name);

/* max |got - want| must stay within GOLDEN_TOLERANCE · max |want|. */
void golden_close_to(const float *got, const float *want, size_t n, const char *what);

/* The picture of a case, through model_preprocess. */
void golden_pixels(const struct golden *golden, const json_t *of, struct pixels *out);
struct features *golden_features(struct golden *golden, const json_t *of);

/* Ids of a JSON list; to be freed by tokens_release(). */
struct tokens golden_ids(const json_t *list);

/* Bytes of a file under tests/data; to be freed. */
char *golden_file(const char *folder, const char *name, size_t *size);

/* Makes `to` a copy of a checkpoint of one safetensors file, with one of its JSON files changed:
 * [part][key] = value (taken); links for the rest. Again for the next change. */
void golden_variant(const char *to, const char *from, const char *file, const char *part,
                    const char *key, json_t *value);

const char *golden_data(void);
enum status golden_compute_init(struct compute *compute, struct arena *arena);

#endif
