/*
 * test_models_dtype.c: golden checkpoints with their layers in bf16 and int8, with every engine of
 * this chip: their outputs stay within the contract's cosine of the reference's f32.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/weights/binder.h"
#include "model_golden.h"

static const char *const checkpoints[] = {
    "clip-tiny",        "clip-gelu-f16-sharded", "siglip-tiny",      "openclip-vit-tiny",
    "openclip-rn-tiny", "blip-itm-tiny",         "blip-caption-tiny"};
enum { N_CHECKPOINTS = sizeof checkpoints / sizeof checkpoints[0] };

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

START_TEST(outputs_stay_near_the_reference_s)
{
    static const struct {
        enum weight_form form;
        double cosine;
    } rows[] = {{WEIGHT_BF16, 0.999}, {WEIGHT_INT8, 0.99}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct golden golden;
        open_as(&golden, checkpoints[_i], rows[r].form);
        size_t counts[N_WEIGHT_FORMS];
        bound_count_forms(golden.model->bound, counts);
        ck_assert_msg(counts[rows[r].form] > 0, "no layer is packed");
        check_images(&golden, rows[r].cosine);
        if (golden.model->architecture->encode_texts && golden_case(&golden, "text", 0))
            check_texts(&golden, rows[r].cosine);
        golden_close(&golden);
    }
}
END_TEST

/* f32 checkpoints stay exact; narrow ones compute in bf16 where that is fast. */
START_TEST(auto_is_the_checkpoint_s_own)
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
        ck_assert_int_eq(model->dtype,
                         i && nn_engine_is_fast(WEIGHT_BF16) ? WEIGHT_BF16 : WEIGHT_F32);
        model_free(model);
        ck_assert(model_options_parse_dtype(&options, "int4") && options.dtype == WEIGHT_INT4 &&
                  !options.dtype_is_auto);
        ck_assert(!model_options_parse_dtype(&options, "fp8"));
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
        tcase_add_test(tcase, auto_is_the_checkpoint_s_own);
        suite_add_tcase(suite, tcase);
        SRunner *runner = srunner_create(suite);
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        n_failed += srunner_ntests_failed(runner);
        srunner_free(runner);
    }
    return n_failed != 0;
}
