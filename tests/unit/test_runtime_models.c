/*
 * test_runtime_models.c: the tiny checkpoints through the runtime, all cases of a checkpoint at
 * once: the texts, ids and scores of the reference's generate(), greedy and beam search, in mixed
 * batches over real weights and caches.
 */
#include <math.h>

#include "tests/unit/generation_cases.h"
#include "tests/unit/model_golden.h"
#include "tests/unit/runtime_fake.h"

static const struct served {
    const char *checkpoint, *kind, *text_field;
    enum task task;
} served[] = {
    {"blip-caption-tiny", "caption", "prompt", TASK_CAPTION},
    {"blip-vqa-tiny", "vqa", "question", TASK_VQA},
    {"vit-gpt2-tiny", "caption", "prompt", TASK_CAPTION},
    {"magic-tiny", "caption", "prompt", TASK_CAPTION},
    {"git-tiny", "caption", "prompt", TASK_CAPTION},
    {"git-tiny", "vqa", "question", TASK_VQA},
    {"paligemma-tiny", "caption", "prompt", TASK_CAPTION},
    {"paligemma-tiny", "vqa", "question", TASK_VQA},
    {"paligemma2-tiny", "caption", "prompt", TASK_CAPTION},
    {"paligemma2-tiny", "vqa", "question", TASK_VQA},
};

/* What the case gave to generate(), over the checkpoint's own settings. */
static struct generation_params settings_over(const struct generation_params *own,
                                              const json_t *settings)
{
    struct generation_params params = *own, given = case_params(settings);
    if (json_object_get(settings, "max_length") || json_object_get(settings, "max_new_tokens")) {
        params.max_length = given.max_length;
        params.max_new_tokens = given.max_new_tokens;
    }
    if (json_object_get(settings, "min_length"))
        params.min_length = given.min_length;
    if (json_object_get(settings, "min_new_tokens"))
        params.min_new_tokens = given.min_new_tokens;
    if (json_object_get(settings, "repetition_penalty"))
        params.repetition_penalty = given.repetition_penalty;
    if (json_object_get(settings, "no_repeat_ngram_size"))
        params.no_repeat_ngram_size = given.no_repeat_ngram_size;
    if (json_object_get(settings, "length_penalty"))
        params.length_penalty = given.length_penalty;
    if (json_object_get(settings, "early_stopping"))
        params.early_stopping = given.early_stopping;
    if (json_object_get(settings, "num_beams"))
        params.num_beams = given.num_beams;
    params.n = given.n;
    if (json_object_get(settings, "top_k"))
        params.top_k = given.top_k;
    params.alpha = (float)case_number(settings, "alpha", (double)params.alpha);
    params.beta = (float)case_number(settings, "beta", (double)params.beta);
    return params;
}

static struct job *case_job(struct waiter *waiter, const struct golden *golden,
                            const struct served *what, const json_t *each)
{
    struct error err = {0};
    struct job *job = fake_job(waiter, what->task, WORK_GENERATE, 1);
    struct work *work = &job->works[0];
    ck_assert(!work_set_images(work, 1, &err) && !work_set_texts(work, 1, &err));
    golden_pixels(golden, each, &work->images[0]);
    const char *text = json_string_value(json_object_get(each, what->text_field));
    text = text ? text : "";
    ck_assert_msg(
        !model_tokenize(golden->model, what->task, text, strlen(text), &work->texts[0], &err), "%s",
        err.message);
    work->generation = settings_over(&golden->model->generation, json_object_get(each, "settings"));
    return job;
}

static void check_case(const struct golden *golden, const struct served *what, const json_t *each,
                       const struct work *work)
{
    const char *name = json_string_value(json_object_get(each, "case"));
    ck_assert_msg(!work->error.status, "%s: %s", name, work->error.message);
    size_t n_start = json_array_size(json_object_get(each, "start_ids"));
    const json_t *sequences = json_object_get(each, "sequences");
    ck_assert_uint_eq(work->n_generated, json_array_size(sequences));
    for (size_t i = 0; i < work->n_generated; i++) {
        const struct generated *got = &work->generated[i];
        int32_t want[128];
        size_t n = n_start, n_all = case_ids(json_array_get(sequences, i), want, 128);
        while (n < n_all && want[n] != work->generation.eos_ids[0])
            n++;
        ck_assert_msg(got->n == n - n_start &&
                          !memcmp(got->ids, want + n_start, got->n * sizeof *want),
                      "%s: sequence %zu differs", name, i);
        const json_t *score = json_array_get(json_object_get(each, "scores"), i);
        if (score)
            ck_assert_double_eq_tol((double)got->score, json_number_value(score),
                                    1e-4 * (1 + fabs(json_number_value(score))));
        struct error err = {0};
        struct buffer text;
        buffer_init(&text, 10000);
        ck_assert(!model_detokenize(golden->model, what->task, &work->texts[0], got->ids, got->n,
                                    &text, &err));
        ck_assert_str_eq(
            text.data ? text.data : "",
            json_string_value(json_array_get(json_object_get(each, "texts_without_prompt"), i)));
        buffer_release(&text);
    }
}

START_TEST(generation_through_the_runtime_is_the_reference_s)
{
    const struct served *what = &served[_i];
    struct golden golden;
    golden_open(&golden, what->checkpoint);
    struct runtime *runtime = fake_runtime((struct runtime_options){
        .max_batch = 8,
        .max_sequences = 20,
        .prefill_chunk = 2, /* once something is decoding; the answerer's prompts stay whole */
        .feature_cache_bytes = 1 << 20,
        .idle_unload_ms = _i == 1}); /* the second one is unloaded between its rounds */
    struct error err = {0};
    ck_assert(!runtime_add(runtime, golden.model, &err)); /* it is the runtime's now */
    struct lane *lane = runtime_at(runtime, 0);
    struct waiter waiter;
    waiter_init(&waiter);
    size_t n = golden_count(&golden, what->kind);
    ck_assert_uint_gt(n, 10);
    struct job **jobs = calloc(n, sizeof *jobs);
    for (int round = 0; round < 2; round++) { /* the second time with every picture cached */
        for (size_t i = 0; i < n; i++) {
            jobs[i] = case_job(&waiter, &golden, what, golden_case(&golden, what->kind, i));
            submit(lane, jobs[i]);
        }
        waiter_wait(&waiter, (int)n * (round + 1));
        for (size_t i = 0; i < n; i++) {
            check_case(&golden, what, golden_case(&golden, what->kind, i), &jobs[i]->works[0]);
            if (round == 1)
                ck_assert(jobs[i]->works[0].cached);
            job_free(jobs[i]);
        }
        if (_i == 1) /* time to unload */
            nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    ck_assert_int_eq(atomic_load(&lane_stats(lane)->unloads) > 0, _i == 1);
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    if (_i == 0) /* what the second round began from */
        ck_assert_uint_gt(lane_stats(lane)->kv_kept_bytes, 0);
    free(jobs);
    runtime_free(runtime);
    golden.model = NULL;
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime_models");
    TCase *tcase = tcase_create("runtime_models");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, generation_through_the_runtime_is_the_reference_s, 0,
                        (int)ARRAY_LENGTH(served));
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
