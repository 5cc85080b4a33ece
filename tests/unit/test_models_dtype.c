/*
 * test_models_dtype.c: golden checkpoints with their layers in bf16 and int8, with every engine of
 * this chip: their outputs stay within the contract's cosine of the reference's f32, and what
 * detectors, segmenters and matchers score within the same of their own f32.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/weights/binder.h"
#include "model_golden.h"

static const char *const checkpoints[] = {
    "clip-tiny",           "clip-gelu-f16-sharded", "siglip-tiny",
    "openclip-vit-tiny",   "openclip-rn-tiny",      "blip-itm-tiny",
    "blip-caption-tiny",   "siglip-spm-tiny",       "metaclip2-tiny",
    "chinese-clip-tiny",   "altclip-tiny",          "openclip-roberta-tiny",
    "siglip2-naflex-tiny", "blip2-itm-tiny",        "clip-vision-tiny",
    "clip-text-tiny",      "vit-gpt2-tiny",         "git-tiny",
    "qwen2.5-vl-tiny",     "qwen2.5-vl-flat-tiny",  "magic-tiny",
    "paligemma-tiny",      "idefics-tiny",          "idefics-base-tiny",
    "idefics-flat-tiny",   "paligemma2-tiny"};
enum { N_CHECKPOINTS = sizeof checkpoints / sizeof checkpoints[0] };

/* Masks of random weights hang on little: f32 itself is 3e-5 off there (make_clipseg.py). */
static const struct scorer {
    const char *checkpoint;
    double slack; /* how many times as far from 1 a cosine may be */
} scorers[] = {{"owlvit-tiny", 1},         {"owlv2-tiny", 1},    {"clipseg-tiny", 5},
               {"clipseg-simple-tiny", 5}, {"vilt-vqa-tiny", 1}, {"vilt-itr-tiny", 1},
               {"vilt-nlvr2-tiny", 1}};
enum { N_SCORERS = sizeof scorers / sizeof scorers[0] };

static const struct {
    enum weight_form form;
    double cosine;
} forms[] = {{WEIGHT_BF16, 0.999}, {WEIGHT_INT8, 0.99}};
enum { N_FORMS = sizeof forms / sizeof forms[0] };

static double cosine(const float *a, const float *b, size_t n)
{
    double dot = 0, squares_a = 0, squares_b = 0;
    for (size_t i = 0; i < n; i++) {
        dot += (double)a[i] * b[i];
        squares_a += (double)a[i] * a[i];
        squares_b += (double)b[i] * b[i];
    }
    return dot / sqrt(squares_a * squares_b);
}

static void open_as(struct golden *golden, const char *name, enum weight_form form)
{
    char path[512];
    struct error err = {0};
    golden_open(golden, name);
    model_free(golden->model);
    snprintf(path, sizeof path, "%s/checkpoints/%s", golden_data(), name);
    const struct model_options options = {.dtype = form, .pool = golden->compute.pool};
    golden->model = model_open_as(name, path, &options, &err);
    ck_assert_msg(golden->model != NULL, "%s", err.message);
    ck_assert_int_eq(golden->model->dtype, form);
}

static void check_images(struct golden *golden, double least)
{
    const char *what = golden->model->traits.embed_dim ? "image_embeds" : "image_states";
    for (size_t i = 0, n = golden_count(golden, "image"); i < n; i++) {
        const json_t *each = golden_case(golden, "image", i);
        const struct tensor_view *want = golden_tensor(golden, each, what);
        struct features *features = golden_features(golden, each);
        double got = cosine(features->rows, want->data, want->n_elements);
        ck_assert_msg(got >= least, "%s, %s, %s: cosine %.6f", nn_engine_name(), golden->name,
                      weight_form_name(golden->model->dtype), got);
        features_unref(features);
    }
}

static void check_texts(struct golden *golden, double least)
{
    const struct model *model = golden->model;
    struct error err = {0};
    float got[64];
    for (size_t i = 0, n = golden_count(golden, "text"); i < n; i++) {
        const json_t *each = golden_case(golden, "text", i);
        const struct tensor_view *want = golden_tensor(golden, each, "text_embeds");
        struct tokens tokens = golden_ids(json_object_get(each, "input_ids"));
        const struct tokens *list = &tokens;
        ck_assert_uint_le(want->n_elements, 64);
        ck_assert(!model->architecture->encode_texts(model, &golden->compute, &list, 1, got, &err));
        arena_reset(&golden->arena);
        tokens_release(&tokens);
        ck_assert_msg(cosine(got, want->data, want->n_elements) >= least, "%s, text %zu: %.6f",
                      golden->name, i, cosine(got, want->data, want->n_elements));
    }
}

/* The scores of each answer's first word, of models that converse. */
static void check_conversations(struct golden *golden, double least)
{
    enum { PICTURES = 4 };
    const struct model *model = golden->model;
    size_t vocab = model->traits.vocab_size;
    float *logits = malloc(vocab * sizeof *logits);
    for (size_t i = 0, n = golden_count(golden, "chat"); i < n; i++) {
        const json_t *each = golden_case(golden, "chat", i);
        if (strcmp(json_string_value(json_object_get(each, "run")), "greedy") != 0)
            continue;
        const json_t *pictures = json_object_get(each, "pictures");
        struct features *features[PICTURES];
        size_t n_pictures = json_array_size(pictures);
        ck_assert_uint_le(n_pictures, PICTURES);
        for (size_t k = 0; k < n_pictures; k++) {
            json_t *one = json_pack("{s:O}", "picture", json_array_get(pictures, k));
            features[k] = golden_features(golden, one);
            json_decref(one);
        }
        struct tokens tokens = golden_ids(json_object_get(each, "start_ids"));
        const struct prompt prompt = {.images = features, .n_images = n_pictures, .text = &tokens};
        struct sequence sequence;
        struct error err = {0};
        ck_assert_msg(!model->architecture->prefill(model, &golden->compute, TASK_CHAT, &prompt,
                                                    &sequence, 1, logits, &err),
                      "%s", err.message);
        arena_reset(&golden->arena);
        double got = cosine(logits, golden_tensor(golden, each, "logits")->data, vocab);
        ck_assert_msg(got >= least, "%s, %s, %s: %s: cosine %.6f", nn_engine_name(), golden->name,
                      weight_form_name(model->dtype),
                      json_string_value(json_object_get(each, "case")), got);
        sequence_release(&sequence);
        tokens_release(&tokens);
        for (size_t k = 0; k < n_pictures; k++)
            features_unref(features[k]);
    }
    free(logits);
}

START_TEST(outputs_stay_near_the_reference_s)
{
    for (size_t r = 0; r < N_FORMS; r++) {
        struct golden golden;
        open_as(&golden, checkpoints[_i], forms[r].form);
        size_t counts[N_WEIGHT_FORMS];
        bound_count_forms(golden.model->bound, counts);
        ck_assert_msg(counts[forms[r].form] > 0, "no layer is packed");
        if (golden.model->architecture->encode_images)
            check_images(&golden, forms[r].cosine);
        if (golden.model->architecture->encode_texts && golden_case(&golden, "text", 0))
            check_texts(&golden, forms[r].cosine);
        if (golden.model->chat)
            check_conversations(&golden, forms[r].cosine);
        golden_close(&golden);
    }
}
END_TEST

enum { PICTURES_MAX = 8 };

/* The scores of every picture with one text, and a detector's boxes after them: *n floats. */
static float *score_all(struct golden *golden, size_t *n)
{
    static const char text[] = "a red circle";
    const struct model *model = golden->model;
    const struct architecture *architecture = model->architecture;
    const struct model_traits *traits = &model->traits;
    const char *kind = architecture->boxes ? "detect" : "image";
    struct features *features[PICTURES_MAX + 1];
    struct pair pairs[PICTURES_MAX];
    struct tokens tokens;
    const struct tokens *list = &tokens;
    struct error err = {0};
    size_t n_pictures = golden_count(golden, kind), n_scores = n_pictures * traits->n_outputs;
    ck_assert_uint_le(n_pictures, PICTURES_MAX);
    *n = n_scores * (architecture->boxes ? 5 : 1);
    float *embedding = calloc(traits->embed_dim + 1, sizeof *embedding);
    float *out = malloc(*n * sizeof *out);
    ck_assert(!model_tokenize(model, TASK_MATCH, text, strlen(text), &tokens, &err));
    if (traits->embed_dim)
        ck_assert(!architecture->encode_texts(model, &golden->compute, &list, 1, embedding, &err));
    arena_reset(&golden->arena);
    for (size_t i = 0; i < n_pictures; i++) {
        features[i] = golden_features(golden, golden_case(golden, kind, i));
        pairs[i] = (struct pair){
            &features[i],
            traits->max_images == 2 && !architecture->boxes && !traits->pairs_by_example ? 2 : 1,
            &tokens, embedding};
        if (architecture->boxes)
            architecture->boxes(model, features[i], 97, 61,
                                out + n_scores + 4 * i * traits->n_outputs);
    }
    features[n_pictures] = features[0]; /* the last one's second picture */
    ck_assert_msg(!architecture->score_pairs(model, &golden->compute, TASK_MATCH, pairs, n_pictures,
                                             out, &err),
                  "%s", err.message);
    arena_reset(&golden->arena);
    for (size_t i = 0; i < n_pictures; i++)
        features_unref(features[i]);
    tokens_release(&tokens);
    free(embedding);
    return out;
}

START_TEST(scores_stay_near_those_of_f32)
{
    struct golden golden;
    size_t n_want, n;
    golden_open(&golden, scorers[_i].checkpoint);
    float *want = score_all(&golden, &n_want);
    size_t n_scores = golden.model->architecture->boxes ? n_want / 5 : n_want;
    golden_close(&golden);
    for (size_t r = 0; r < N_FORMS; r++) {
        open_as(&golden, scorers[_i].checkpoint, forms[r].form);
        float *got = score_all(&golden, &n);
        ck_assert_uint_eq(n, n_want);
        double near = cosine(got, want, n_scores);
        ck_assert_msg(1 - near <= scorers[_i].slack * (1 - forms[r].cosine),
                      "%s, %s, %s: cosine %.6f", nn_engine_name(), scorers[_i].checkpoint,
                      weight_form_name(forms[r].form), near);
        for (size_t i = n_scores; i < n; i++) /* edges of boxes, in pixels */
            ck_assert_msg(fabsf(got[i] - want[i]) <= (forms[r].form == WEIGHT_BF16 ? 2 : 4),
                          "%s, %s: an edge at %g, not %g", scorers[_i].checkpoint,
                          weight_form_name(forms[r].form), (double)got[i], (double)want[i]);
        free(got);
        golden_close(&golden);
    }
    free(want);
}
END_TEST

/* Whatever they are stored in, and whatever the chip is fast in. */
START_TEST(auto_is_exact_for_small_checkpoints)
{
    static const char *const names[] = {"clip-tiny", "clip-gelu-f16-sharded"};
    for (int i = 0; i < 2; i++) {
        char path[512];
        struct error err = {0};
        snprintf(path, sizeof path, "%s/checkpoints/%s", golden_data(), names[i]);
        struct model_options options = {0};
        ck_assert(model_options_parse_dtype(&options, "auto"));
        struct model *model = model_open_as("auto", path, &options, &err);
        ck_assert_msg(model != NULL, "%s", err.message);
        ck_assert_int_eq(model->dtype, WEIGHT_F32);
        model_free(model);
        ck_assert(model_options_parse_dtype(&options, "int4") && options.dtype == WEIGHT_INT4 &&
                  !options.dtype_is_auto);
        ck_assert(!model_options_parse_dtype(&options, "fp8"));
    }
}
END_TEST

/* A file of weights in a directory of its own: the header and a hole as long as `bytes`. */
static struct tensor_set *open_hollow(const char *header, size_t bytes)
{
    char directory[] = "/tmp/vlmd-test-XXXXXX", path[sizeof directory + 20];
    struct error err = {0};
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    uint64_t length = strlen(header);
    ck_assert(fwrite(&length, sizeof length, 1, file) == 1 && fputs(header, file) >= 0);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(truncate(path, (off_t)(sizeof length + length + bytes)), 0);
    struct tensor_set *set = tensor_set_open(directory, "model.safetensors", &err);
    unlink(path);
    rmdir(directory);
    ck_assert_msg(set != NULL, "%s", err.message);
    return set;
}

/* bf16 for more than 1 GiB stored in 16 bits, unless more is stored in f32 or the chip is no faster
 * in it. */
START_TEST(auto_is_bf16_for_large_16_bit_checkpoints)
{
    static const struct {
        const char *dtype;
        size_t narrow, f32; /* elements */
        bool is_large;
    } rows[] = {
        {"BF16", (1 << 29) + 1, 1000, true}, {"F16", (1 << 29) + 1, 1000, true},
        {"BF16", 1 << 29, 1000, false},      {"F16", 1 << 29, 0, false},
        {"BF16", 1 << 30, 1 << 28, true},    {"BF16", (1 << 29) + 2, (1 << 28) + 2, false},
        {"F32", 1 << 29, 0, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t narrow = rows[i].narrow * (strcmp(rows[i].dtype, "F32") == 0 ? 4 : 2);
        size_t end = narrow + rows[i].f32 * 4;
        char header[300];
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]},"
                 "\"b\":{\"dtype\":\"F32\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}}",
                 rows[i].dtype, rows[i].narrow, narrow, rows[i].f32, narrow, end);
        struct tensor_set *set = open_hollow(header, end);
        enum weight_form want =
            rows[i].is_large && nn_engine_is_fast(WEIGHT_BF16) ? WEIGHT_BF16 : WEIGHT_F32;
        ck_assert_msg(model_auto_form(set) == want, "row %zu: %s", i,
                      weight_form_name(model_auto_form(set)));
        tensor_set_close(set);
    }
}
END_TEST

int main(void)
{
    int n_failed = 0;
    for (enum nn_engine engine = NN_ENGINE_AMX; engine <= NN_ENGINE_PORTABLE; engine++) {
        if (!nn_engine_choose(engine)) {
            printf("skipped: engine %d, which this chip lacks\n", (int)engine);
            continue;
        }
        Suite *suite = suite_create(nn_engine_name());
        TCase *tcase = tcase_create("dtypes");
        tcase_set_timeout(tcase, 60);
        tcase_add_loop_test(tcase, outputs_stay_near_the_reference_s, 0, N_CHECKPOINTS);
        tcase_add_loop_test(tcase, scores_stay_near_those_of_f32, 0, N_SCORERS);
        tcase_add_test(tcase, auto_is_exact_for_small_checkpoints);
        tcase_add_test(tcase, auto_is_bf16_for_large_16_bit_checkpoints);
        suite_add_tcase(suite, tcase);
        SRunner *runner = srunner_create(suite);
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        n_failed += srunner_ntests_failed(runner);
        srunner_free(runner);
    }
    return n_failed != 0;
}
