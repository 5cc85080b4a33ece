/*
 * test_models_magic.c: MaGiC's scores against the golden's, step by step in one mixed batch, and
 * the folders of guides that are refused. Its texts are tested with the other generators'
 * (test_runtime_models.c).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/generation_cases.h"
#include "tests/unit/model_golden.h"

struct run {
    const json_t *golden;
    struct generation_params params;
    struct tokens start, all;
    struct features *features;
    struct sequence *sequence;
    size_t n_steps, at;
};

/* The candidates' scores are the golden's, everything else is far below and ordered as before. */
static void check_step(const struct golden *golden, const struct run *run, const float *row)
{
    size_t vocab = golden->model->traits.vocab_size;
    const struct tensor_view *scores = golden_tensor(golden, run->golden, "scores");
    const int64_t *ids = golden_tensor(golden, run->golden, "candidates")->data;
    size_t k = scores->shape[1], n_high = 0;
    ck_assert_uint_eq(scores->shape[0], run->n_steps);
    for (size_t i = 0; i < k; i++)
        ck_assert_float_eq_tol(row[ids[run->at * k + i]],
                               ((const float *)scores->data)[run->at * k + i], 2e-4f);
    for (size_t v = 0; v < vocab; v++)
        n_high += row[v] > -100;
    ck_assert_uint_eq(n_high, k);
}

START_TEST(scores_are_the_paper_s_formula)
{
    struct golden golden;
    golden_open(&golden, "magic-tiny");
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 8 };
    struct run runs[MANY] = {0};
    struct prompt prompts[MANY];
    struct sequence sequences[MANY];
    size_t n = 0, vocab = model->traits.vocab_size;
    for (size_t i = 0; i < golden_count(&golden, "caption"); i++) {
        const json_t *each = golden_case(&golden, "caption", i);
        const json_t *settings = json_object_get(each, "settings");
        if (!json_array_size(json_object_get(each, "tensors")))
            continue;
        ck_assert_uint_lt(n, MANY);
        struct run *run = &runs[n];
        *run = (struct run){.golden = each, .params = model->generation, .sequence = &sequences[n]};
        run->params.alpha = (float)case_number(settings, "alpha", 0.1);
        run->params.beta = (float)case_number(settings, "beta", 2);
        run->params.top_k = case_size(settings, "top_k", 45);
        run->features = golden_features(&golden, each);
        run->start = golden_ids(json_object_get(each, "start_ids"));
        run->all = golden_ids(json_array_get(json_object_get(each, "sequences"), 0));
        run->n_steps = run->all.n - run->start.n;
        prompts[n++] = (struct prompt){
            .images = &run->features, .n_images = 1, .text = &run->start, .params = &run->params};
    }
    ck_assert_uint_gt(n, 4);

    float *rows = malloc(n * vocab * sizeof *rows);
    ck_assert_msg(!model->architecture->prefill(model, &golden.compute, TASK_CAPTION, prompts,
                                                sequences, n, rows, &err),
                  "%s", err.message);
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++)
        check_step(&golden, &runs[i], rows + i * vocab);
    for (;;) {
        struct sequence *under_way[MANY];
        struct run *of[MANY];
        int32_t tokens[MANY];
        size_t n_now = 0;
        for (size_t i = 0; i < n; i++)
            if (++runs[i].at < runs[i].n_steps) {
                under_way[n_now] = runs[i].sequence;
                tokens[n_now] = runs[i].all.ids[runs[i].start.n + runs[i].at - 1];
                of[n_now++] = &runs[i];
            }
        if (!n_now)
            break;
        ck_assert(!model->architecture->decode(model, &golden.compute, under_way, tokens, n_now,
                                               rows, &err));
        arena_reset(&golden.arena);
        for (size_t i = 0; i < n_now; i++)
            check_step(&golden, of[i], rows + i * vocab);
    }
    for (size_t i = 0; i < n; i++) {
        tokens_release(&runs[i].start);
        tokens_release(&runs[i].all);
        features_unref(runs[i].features);
        sequence_release(&sequences[i]);
    }
    free(rows);
    golden_close(&golden);
}
END_TEST

/* ---- folders ------------------------------------------------------------------------------------
 */

static const char *const files[] = {"config.json", "model.safetensors", "vocab.json", "merges.txt",
                                    "tokenizer_config.json"};

/* What `clip` links to (NULL: it is not there), and what the refusal says. */
static const struct {
    const char *guide, *fault;
} bad_guides[] = {
    {NULL, "put the CLIP to guide it"},
    {".", "'clip' holds another GPT-2"},
    {"/nonexistent", "put the CLIP to guide it"},
    {"blip-caption-tiny", "cannot guide"},
    {"siglip-tiny", "cannot guide"},
    {"clip-vision-tiny", "cannot guide"},
};

START_TEST(guides_that_cannot_be_are_refused)
{
    char folder[] = "/tmp/vlmd-magic-XXXXXX", from[4200], to[4200];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(from, sizeof from, "%s/checkpoints/magic-tiny/%s", golden_data(), files[i]);
        snprintf(to, sizeof to, "%s/%s", folder, files[i]);
        ck_assert_int_eq(symlink(from, to), 0);
    }
    const char *guide = bad_guides[_i].guide;
    if (guide) {
        bool is_checkpoint = guide[0] != '.' && guide[0] != '/';
        snprintf(from, sizeof from, "%s/checkpoints/%s", golden_data(), guide);
        snprintf(to, sizeof to, "%s/clip", folder);
        ck_assert_int_eq(symlink(is_checkpoint ? from : guide, to), 0);
    }
    struct error err = {0};
    struct model *model = model_open("magic", folder, &err);
    ck_assert_ptr_null(model);
    ck_assert_int_eq(err.status, STATUS_BAD_CHECKPOINT);
    ck_assert_msg(strstr(err.message, bad_guides[_i].fault) != NULL, "%s", err.message);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(to, sizeof to, "%s/%s", folder, files[i]);
        unlink(to);
    }
    snprintf(to, sizeof to, "%s/clip", folder);
    unlink(to);
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_magic");
    TCase *tcase = tcase_create("magic");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, scores_are_the_paper_s_formula);
    tcase_add_loop_test(tcase, guides_that_cannot_be_are_refused, 0,
                        (int)(sizeof bad_guides / sizeof bad_guides[0]));
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
