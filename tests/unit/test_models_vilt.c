/*
 * test_models_vilt.c: ViLT's four heads against their goldens: every pair alone, from the picture's
 * file and the text, and all of a checkpoint's pairs (pictures of different shapes) in one batch.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "model_golden.h"

enum { PAIRS_MAX = 32, IMAGES_MAX = 2 };

struct head {
    const char *checkpoint, *kind, *text_key;
    enum task task;
};
static const struct head heads[] = {
    {"vilt-vqa-tiny", "vqa", "question", TASK_VQA},
    {"vilt-itr-tiny", "match", "text", TASK_MATCH},
    {"vilt-nlvr2-tiny", "nlvr2", "text", TASK_VQA},
};

/* One pair of a golden. */
struct input {
    struct tokens tokens;
    struct features *features[IMAGES_MAX];
    struct pair pair;
};

static void input_make(struct golden *golden, const struct head *head, const json_t *of,
                       struct input *input)
{
    struct error err = {0};
    const json_t *text = json_object_get(of, head->text_key);
    const json_t *pictures = json_object_get(of, "pictures");
    size_t n = pictures ? json_array_size(pictures) : 1;
    ck_assert_uint_le(n, IMAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        json_t *one = json_object();
        json_object_set(one, "picture",
                        pictures ? json_array_get(pictures, i) : json_object_get(of, "picture"));
        input->features[i] = golden_features(golden, one);
        json_decref(one);
    }
    ck_assert_msg(!model_tokenize(golden->model, head->task, json_string_value(text),
                                  json_string_length(text), &input->tokens, &err),
                  "%s", err.message);
    struct tokens want = golden_ids(json_object_get(of, "input_ids"));
    ck_assert_uint_eq(input->tokens.n, want.n);
    ck_assert_mem_eq(input->tokens.ids, want.ids, want.n * sizeof *want.ids);
    tokens_release(&want);
    input->pair = (struct pair){input->features, n, &input->tokens, NULL};
}

static void input_release(struct input *input)
{
    for (size_t i = 0; i < input->pair.n_images; i++)
        features_unref(input->features[i]);
    tokens_release(&input->tokens);
}

static enum status score(struct golden *golden, const struct head *head, const struct pair *pairs,
                         size_t n, float *out, struct error *err)
{
    enum status status = golden->model->architecture->score_pairs(golden->model, &golden->compute,
                                                                  head->task, pairs, n, out, err);
    arena_reset(&golden->arena);
    return status;
}

/* What the scores should be, from the golden's logits. */
static void wanted_scores(const struct head *head, const float *logits, size_t n, float *out)
{
    memcpy(out, logits, n * sizeof *out);
    if (strcmp(head->kind, "nlvr2") == 0)
        nn_softmax_rows(out, 1, n);
    else
        for (size_t i = 0; i < n; i++)
            out[i] = 1 / (1 + expf(-logits[i]));
}

START_TEST(pairs_have_the_reference_s_scores)
{
    const struct head *head = &heads[_i];
    struct golden golden;
    golden_open(&golden, head->checkpoint);
    struct error err = {0};
    static struct input inputs[PAIRS_MAX];
    struct pair pairs[PAIRS_MAX];
    float batch[PAIRS_MAX * 16], single[16], want[16];
    size_t n = golden_count(&golden, head->kind), n_outputs = golden.model->traits.n_outputs;
    ck_assert_uint_le(n, PAIRS_MAX);
    ck_assert_uint_le(n_outputs, 16);
    for (size_t i = 0; i < n; i++) {
        input_make(&golden, head, golden_case(&golden, head->kind, i), &inputs[i]);
        pairs[i] = inputs[i].pair;
    }
    ck_assert_msg(!score(&golden, head, pairs, n, batch, &err), "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *logits =
            golden_tensor(&golden, golden_case(&golden, head->kind, i), "logits");
        ck_assert_uint_eq(logits->n_elements, n_outputs);
        wanted_scores(head, logits->data, n_outputs, want);
        ck_assert(!score(&golden, head, &pairs[i], 1, single, &err));
        golden_close_to(single, want, n_outputs, "alone");
        golden_close_to(batch + i * n_outputs, want, n_outputs, "in a batch");
        input_release(&inputs[i]);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(answers_have_the_config_s_names)
{
    struct golden golden;
    golden_open(&golden, "vilt-vqa-tiny");
    const struct model_traits *traits = &golden.model->traits;
    const json_t *names = json_object_get(golden.model->checkpoint->config, "id2label");
    ck_assert_uint_eq(traits->n_outputs, json_object_size(names));
    ck_assert_str_eq(traits->labels[0], json_string_value(json_object_get(names, "0")));
    ck_assert_str_eq(traits->labels[10], json_string_value(json_object_get(names, "10")));
    golden_close(&golden);
}
END_TEST

START_TEST(masks_are_filled_one_by_one_as_in_the_reference)
{
    static const struct head head = {"vilt-mlm-tiny", "fill", "text", TASK_FILL};
    struct golden golden;
    golden_open(&golden, head.checkpoint);
    struct error err = {0};
    for (size_t i = 0; i < golden_count(&golden, "fill"); i++) {
        const json_t *each = golden_case(&golden, "fill", i);
        const json_t *order = json_object_get(each, "one_by_one");
        struct input input;
        float best[3];
        input_make(&golden, &head, each, &input);
        for (size_t step = 0; step < json_array_size(order); step++) {
            const json_t *want = json_array_get(order, step);
            ck_assert(!score(&golden, &head, &input.pair, 1, best, &err));
            long long position = json_integer_value(json_object_get(want, "position"));
            long long id = json_integer_value(json_object_get(want, "id"));
            double probability = json_real_value(json_object_get(want, "score"));
            ck_assert_int_eq((long long)best[0], position);
            ck_assert_int_eq((long long)best[1], id);
            ck_assert_double_eq_tol((double)best[2], probability, 1e-4 * probability);
            input.tokens.ids[position] = (int32_t)id;
        }
        ck_assert(!score(&golden, &head, &input.pair, 1, best, &err));
        ck_assert_float_eq(best[0], -1); /* none is left */
        input_release(&input);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(pictures_of_twenty_shapes_share_a_batch)
{
    struct golden golden;
    golden_open(&golden, "vilt-vqa-tiny");
    const struct model *model = golden.model;
    struct error err = {0};
    enum { SHAPES = 20 };
    struct pixels pixels[SHAPES];
    const struct pixels *list[SHAPES];
    struct features *features[SHAPES], *alone;
    struct pair pairs[SHAPES];
    struct tokens tokens;
    ck_assert(!model_tokenize(model, TASK_VQA, "is it red?", 10, &tokens, &err));
    uint32_t random = 7;
    for (size_t i = 0; i < SHAPES; i++) {
        struct image image = {.width = 60 + 13 * i, .height = 300 - 11 * i};
        size_t n = image.width * image.height * 3;
        image.rgb = malloc(n);
        for (size_t b = 0; b < n; b++)
            image.rgb[b] = (uint8_t)((random = random * 1664525 + 1013904223) >> 24);
        ck_assert_msg(!model_preprocess(model, &image, &pixels[i], &err), "%s", err.message);
        image_release(&image);
        list[i] = &pixels[i];
    }
    size_t n = model->traits.n_outputs;
    float *batch = malloc(SHAPES * n * sizeof *batch), *single = malloc(n * sizeof *single);
    ck_assert(
        !model->architecture->encode_images(model, &golden.compute, list, SHAPES, features, &err));
    arena_reset(&golden.arena);
    for (size_t i = 0; i < SHAPES; i++)
        pairs[i] = (struct pair){&features[i], 1, &tokens, NULL};
    ck_assert(!score(&golden, &heads[0], pairs, SHAPES, batch, &err));
    for (size_t i = 0; i < SHAPES; i++) {
        ck_assert(
            !model->architecture->encode_images(model, &golden.compute, &list[i], 1, &alone, &err));
        arena_reset(&golden.arena);
        struct pair pair = {&alone, 1, &tokens, NULL};
        ck_assert(!score(&golden, &heads[0], &pair, 1, single, &err));
        golden_close_to(batch + i * n, single, n, "one of twenty");
        features_unref(alone);
        features_unref(features[i]);
        pixels_release(&pixels[i]);
    }
    free(batch);
    free(single);
    tokens_release(&tokens);
    golden_close(&golden);
}
END_TEST

START_TEST(a_wrong_number_of_pictures_is_refused)
{
    struct golden golden;
    golden_open(&golden, "vilt-nlvr2-tiny");
    struct error err = {0};
    struct input input;
    float out[16];
    ck_assert_uint_eq(golden.model->traits.max_images, 2);
    input_make(&golden, &heads[2], golden_case(&golden, "nlvr2", 0), &input);
    struct pair pair = input.pair;
    pair.n_images = 1;
    ck_assert_int_eq(score(&golden, &heads[2], &pair, 1, out, &err), STATUS_UNPROCESSABLE);
    ck_assert_ptr_nonnull(strstr(err.message, "2 pictures"));
    input_release(&input);

    /* A picture so thin that one side would become 0. */
    struct image image = {.width = 5000, .height = 1, .rgb = calloc(15000, 1)};
    struct pixels pixels;
    ck_assert_int_eq(model_preprocess(golden.model, &image, &pixels, &err), STATUS_UNPROCESSABLE);
    image_release(&image);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_vilt");
    TCase *vilt = tcase_create("vilt");
    tcase_set_timeout(vilt, 60);
    tcase_add_loop_test(vilt, pairs_have_the_reference_s_scores, 0, ARRAY_LENGTH(heads));
    tcase_add_test(vilt, answers_have_the_config_s_names);
    tcase_add_test(vilt, masks_are_filled_one_by_one_as_in_the_reference);
    tcase_add_test(vilt, pictures_of_twenty_shapes_share_a_batch);
    tcase_add_test(vilt, a_wrong_number_of_pictures_is_refused);
    suite_add_tcase(suite, vilt);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
