/*
 * test_models_find.c: detection (OWL-ViT, OWLv2) and segmentation (CLIPSeg) against their goldens,
 * from the picture's file and the text to logits and boxes: by text and by example, alone and all
 * of a checkpoint's pairs in one batch.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "model_golden.h"

enum { PAIRS_MAX = 32 };

static const char *const detectors[] = {"owlvit-tiny", "owlv2-tiny"};
static const char *const segmenters[] = {"clipseg-tiny", "clipseg-simple-tiny"};
static const char *const all[] = {"owlvit-tiny", "owlv2-tiny", "clipseg-tiny",
                                  "clipseg-simple-tiny"};

static const char *picture_kind(const struct golden *golden)
{
    return golden->model->traits.mask_height ? "image" : "detect";
}

static enum task task_of(const struct golden *golden)
{
    return golden->model->traits.mask_height ? TASK_SEGMENT : TASK_DETECT;
}

START_TEST(pictures_become_the_reference_s_pixels)
{
    struct golden golden;
    golden_open(&golden, all[_i]);
    const char *kind = picture_kind(&golden);
    for (size_t i = 0; i < golden_count(&golden, kind); i++) {
        const json_t *each = golden_case(&golden, kind, i);
        const struct tensor_view *want = golden_tensor(&golden, each, "pixel_values");
        struct pixels got;
        golden_pixels(&golden, each, &got);
        ck_assert_uint_eq(got.height, want->shape[1]);
        ck_assert_uint_eq(got.width, want->shape[2]);
        const float *values = want->data;
        for (size_t p = 0; p < want->n_elements; p++)
            ck_assert_msg(fabsf(got.data[p] - values[p]) < 1e-5f, "%s %s: pixel %zu: %g, not %g",
                          all[_i], json_string_value(json_object_get(each, "picture")), p,
                          (double)got.data[p], (double)values[p]);
        pixels_release(&got);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(parameters_are_counted_once)
{
    struct golden golden;
    golden_open(&golden, all[_i]);
    size_t want = (size_t)json_integer_value(json_object_get(golden.json, "parameters"));
    ck_assert_uint_eq(golden.model->n_parameters, want);
    golden_close(&golden);
}
END_TEST

/* The text's tokens and embedding, as the runtime would make them. */
static void embed(struct golden *golden, const json_t *text, const json_t *ids,
                  struct tokens *tokens, float *out)
{
    struct error err = {0};
    const struct model *model = golden->model;
    ck_assert_msg(!model_tokenize(model, task_of(golden), json_string_value(text),
                                  json_string_length(text), tokens, &err),
                  "%s", err.message);
    if (ids) {
        struct tokens want = golden_ids(ids);
        ck_assert_uint_eq(tokens->n, want.n);
        ck_assert_mem_eq(tokens->ids, want.ids, want.n * sizeof *want.ids);
        tokens_release(&want);
    }
    const struct tokens *list = tokens;
    ck_assert_msg(!model->architecture->encode_texts(model, &golden->compute, &list, 1, out, &err),
                  "%s", err.message);
    arena_reset(&golden->arena);
}

static struct features *features_of(struct golden *golden, const json_t *picture)
{
    json_t *one = json_pack("{s:O}", "picture", picture);
    struct features *features = golden_features(golden, one);
    json_decref(one);
    return features;
}

static float *score(struct golden *golden, const struct pair *pairs, size_t n)
{
    struct error err = {0};
    float *out = malloc(n * golden->model->traits.n_outputs * sizeof *out);
    ck_assert_msg(!golden->model->architecture->score_pairs(golden->model, &golden->compute,
                                                            task_of(golden), pairs, n, out, &err),
                  "%s", err.message);
    arena_reset(&golden->arena);
    return out;
}

/* ---- detection ---------------------------------------------------------------------------------
 */

START_TEST(queries_have_the_reference_s_embeddings)
{
    struct golden golden;
    golden_open(&golden, detectors[_i]);
    for (size_t i = 0; i < golden_count(&golden, "text"); i++) {
        const json_t *each = golden_case(&golden, "text", i);
        const struct tensor_view *want = golden_tensor(&golden, each, "text_embeds");
        float got[64];
        struct tokens tokens;
        ck_assert_uint_eq(golden.model->traits.embed_dim, want->n_elements);
        embed(&golden, json_object_get(each, "text"), json_object_get(each, "input_ids"), &tokens,
              got);
        golden_close_to(got, want->data, want->n_elements, "query");
        tokens_release(&tokens);
    }
    golden_close(&golden);
}
END_TEST

/* Boxes as parts of the picture, against the reference's centres and sizes. */
static void boxes_are(struct golden *golden, const struct features *features, const json_t *of,
                      const char *name)
{
    const struct tensor_view *view = golden_tensor(golden, of, name);
    size_t n = golden->model->traits.n_outputs;
    ck_assert_uint_eq(view->n_elements, 4 * n);
    const float *want = view->data;
    float *got = malloc(4 * n * sizeof *got);
    golden->model->architecture->boxes(golden->model, features, 1, 1, got);
    for (size_t i = 0; i < n; i++) {
        float *box = got + 4 * i, corners[4];
        memcpy(corners, box, sizeof corners);
        box[0] = (corners[0] + corners[2]) / 2;
        box[1] = (corners[1] + corners[3]) / 2;
        box[2] = corners[2] - corners[0];
        box[3] = corners[3] - corners[1];
    }
    golden_close_to(got, want, 4 * n, name);
    free(got);
}

START_TEST(queries_find_what_the_reference_finds)
{
    struct golden golden;
    golden_open(&golden, detectors[_i]);
    size_t n_pictures = golden_count(&golden, "detect");
    size_t n_boxes = golden.model->traits.n_outputs, dim = golden.model->traits.embed_dim;
    struct features *features[PAIRS_MAX];
    struct tokens tokens[PAIRS_MAX];
    struct pair pairs[PAIRS_MAX];
    float embeddings[PAIRS_MAX][64];
    size_t n = 0;
    for (size_t i = 0; i < n_pictures; i++) {
        const json_t *each = golden_case(&golden, "detect", i), *query;
        size_t q;
        features[i] = features_of(&golden, json_object_get(each, "picture"));
        const struct tensor_view *embeds = golden_tensor(&golden, each, "class_embeds");
        float *unit = malloc(n_boxes * dim * sizeof *unit); /* as the golden has them */
        memcpy(unit, features[i]->rows, n_boxes * dim * sizeof *unit);
        nn_l2_normalize_rows(unit, n_boxes, dim);
        golden_close_to(unit, embeds->data, n_boxes * dim, "class embeddings");
        free(unit);
        boxes_are(&golden, features[i], each, "pred_boxes");
        json_array_foreach(json_object_get(each, "queries"), q, query)
        {
            ck_assert_uint_lt(n, PAIRS_MAX);
            embed(&golden, query, NULL, &tokens[n], embeddings[n]);
            pairs[n] = (struct pair){&features[i], 1, &tokens[n], embeddings[n]};
            n++;
        }
    }
    float *batch = score(&golden, pairs, n), *want = malloc(n_boxes * sizeof *want);
    for (size_t i = 0, at = 0; i < n_pictures; i++) {
        const json_t *each = golden_case(&golden, "detect", i);
        size_t n_queries = json_array_size(json_object_get(each, "queries"));
        const float *logits = golden_tensor(&golden, each, "logits")->data;
        for (size_t q = 0; q < n_queries; q++, at++) {
            for (size_t b = 0; b < n_boxes; b++)
                want[b] = logits[b * n_queries + q];
            float *single = score(&golden, &pairs[at], 1);
            golden_close_to(batch + at * n_boxes, want, n_boxes, "logits in a batch");
            golden_close_to(single, want, n_boxes, "logits alone");
            free(single);
            tokens_release(&tokens[at]);
        }
        features_unref(features[i]);
    }
    free(batch);
    free(want);
    golden_close(&golden);
}
END_TEST

/* ---- by example --------------------------------------------------------------------------------
 */

START_TEST(examples_find_what_the_reference_finds)
{
    struct golden golden;
    golden_open(&golden, all[_i]);
    const char *kind =
        golden.model->traits.mask_height ? "segment_by_example" : "detect_by_example";
    size_t n = golden_count(&golden, kind), n_outputs = golden.model->traits.n_outputs;
    struct features *features[PAIRS_MAX][2];
    struct pair pairs[PAIRS_MAX];
    ck_assert_uint_le(n, PAIRS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, kind, i);
        features[i][0] = features_of(&golden, json_object_get(each, "picture"));
        features[i][1] = features_of(&golden, json_object_get(each, "query_picture"));
        pairs[i] = (struct pair){features[i], 2, NULL, NULL};
        if (golden.model->architecture->boxes) {
            boxes_are(&golden, features[i][0], each, "pred_boxes");
            boxes_are(&golden, features[i][1], each, "query_pred_boxes");
        }
    }
    float *batch = score(&golden, pairs, n);
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *want =
            golden_tensor(&golden, golden_case(&golden, kind, i), "logits");
        ck_assert_uint_eq(want->n_elements, n_outputs);
        float *single = score(&golden, &pairs[i], 1);
        golden_close_to(batch + i * n_outputs, want->data, n_outputs, "logits in a batch");
        golden_close_to(single, want->data, n_outputs, "logits alone");
        free(single);
        features_unref(features[i][0]);
        features_unref(features[i][1]);
    }
    free(batch);

    /* Neither text nor example: an error, not a fault. */
    struct error err = {0};
    struct features *one =
        features_of(&golden, json_object_get(golden_case(&golden, kind, 0), "picture"));
    struct pair alone = {&one, 1, NULL, NULL};
    float *out = malloc(n_outputs * sizeof *out);
    ck_assert_int_eq(golden.model->architecture->score_pairs(
                         golden.model, &golden.compute, task_of(&golden), &alone, 1, out, &err),
                     STATUS_UNPROCESSABLE);
    free(out);
    features_unref(one);
    golden_close(&golden);
}
END_TEST

/* ---- segmentation ------------------------------------------------------------------------------
 */

START_TEST(prompts_have_the_reference_s_masks)
{
    struct golden golden;
    golden_open(&golden, segmenters[_i]);
    size_t n = golden_count(&golden, "segment"), n_outputs = golden.model->traits.n_outputs;
    struct features *features[PAIRS_MAX];
    struct tokens tokens[PAIRS_MAX];
    struct pair pairs[PAIRS_MAX];
    float embeddings[PAIRS_MAX][64];
    ck_assert_uint_le(n, PAIRS_MAX);
    ck_assert_uint_le(golden.model->traits.embed_dim, 64);
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, "segment", i);
        features[i] = features_of(&golden, json_object_get(each, "picture"));
        embed(&golden, json_object_get(each, "prompt"), json_object_get(each, "input_ids"),
              &tokens[i], embeddings[i]);
        pairs[i] = (struct pair){&features[i], 1, &tokens[i], embeddings[i]};
    }
    float *batch = score(&golden, pairs, n);
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *want =
            golden_tensor(&golden, golden_case(&golden, "segment", i), "logits");
        ck_assert_uint_eq(want->n_elements, n_outputs);
        float *single = score(&golden, &pairs[i], 1);
        golden_close_to(batch + i * n_outputs, want->data, n_outputs, "logits in a batch");
        golden_close_to(single, want->data, n_outputs, "logits alone");
        free(single);
        tokens_release(&tokens[i]);
        features_unref(features[i]);
    }
    free(batch);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_find");
    TCase *tests = tcase_create("goldens");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, pictures_become_the_reference_s_pixels, 0, ARRAY_LENGTH(all));
    tcase_add_loop_test(tests, parameters_are_counted_once, 0, ARRAY_LENGTH(all));
    tcase_add_loop_test(tests, queries_have_the_reference_s_embeddings, 0, ARRAY_LENGTH(detectors));
    tcase_add_loop_test(tests, queries_find_what_the_reference_finds, 0, ARRAY_LENGTH(detectors));
    tcase_add_loop_test(tests, examples_find_what_the_reference_finds, 0, ARRAY_LENGTH(all));
    tcase_add_loop_test(tests, prompts_have_the_reference_s_masks, 0, ARRAY_LENGTH(segmenters));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
