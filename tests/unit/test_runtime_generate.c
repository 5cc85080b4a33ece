/*
 * test_runtime_generate.c: generation through the runtime: equal to generate() whatever shares the
 * batch, stop strings, streaming, the bounds of sequences and key/value cache.
 */
#include <math.h>

#include "tests/unit/generation_cases.h"
#include "tests/unit/runtime_fake.h"

enum { JOBS_MAX = 512 };

static const struct runtime_options roomy = {
    .max_batch = 8, .max_queue = JOBS_MAX, .max_sequences = 24, .feature_cache_bytes = 1 << 20};

/* A generation from a prompt of several tokens; the picture's feature is the table's seed. */
static struct job *generation_job(struct waiter *waiter, int seed, const int32_t *prompt, size_t n,
                                  const struct generation_params *params)
{
    struct error err = {0};
    struct job *job = fake_job(waiter, TASK_CAPTION, WORK_GENERATE, 1);
    fake_image(&job->works[0], seed);
    ck_assert(!work_set_texts(&job->works[0], 1, &err));
    fake_text(&job->works[0].texts[0], n, prompt);
    job->works[0].generation = *params;
    return job;
}

static void check_golden(size_t c, const json_t *each, const struct work *work)
{
    ck_assert_msg(!work->error.status, "case %zu: %s", c, work->error.message);
    const json_t *wanted = json_object_get(each, "new_ids"),
                 *scores = json_object_get(each, "scores");
    ck_assert_uint_eq(work->n_generated, json_array_size(wanted));
    for (size_t i = 0; i < work->n_generated; i++) {
        const struct generated *got = &work->generated[i];
        int32_t want[64];
        size_t n_want = case_ids(json_array_get(wanted, i), want, 64);
        bool ended = false;
        for (size_t k = 0; n_want && k < work->generation.n_eos; k++)
            ended |= want[n_want - 1] == work->generation.eos_ids[k];
        n_want -= ended;
        ck_assert_msg(got->n == n_want && !memcmp(got->ids, want, n_want * sizeof *want),
                      "case %zu, sequence %zu differs", c, i);
        ck_assert_int_eq(got->finish, ended ? FINISH_STOP : FINISH_LENGTH);
        ck_assert_uint_eq(got->text_bytes, SIZE_MAX);
        if (json_is_array(scores)) {
            double score = json_number_value(json_array_get(scores, i));
            ck_assert_double_eq_tol((double)got->score, score, 1e-5 * (1 + fabs(score)));
            continue;
        }
        double sum = 0;
        for (size_t k = 0; k < got->n; k++) {
            ck_assert_float_le(got->logprobs[k], 0);
            sum += (double)got->logprobs[k];
        }
        if (!ended)
            ck_assert_double_eq_tol((double)got->score, sum / (double)got->n, 1e-5);
    }
}

/* All cases at once: greedy and beam groups of all widths and settings share the decode steps, and
 * many more wait than fit; prompts whole, in pieces, and in pieces with passes that fail. */
START_TEST(generation_equals_generate_in_one_mixed_batch)
{
    json_t *golden = generation_goldens(), *cases = json_object_get(golden, "generate");
    size_t n_cases = json_array_size(cases);
    ck_assert(n_cases > 300 && n_cases <= JOBS_MAX);
    struct fake fake = {.fail_above = _i == 2 ? 3 : 0};
    struct runtime_options options = roomy;
    options.prefill_chunk = _i ? 2 : 0;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job **jobs = calloc(n_cases, sizeof *jobs);
    for (size_t c = 0; c < n_cases; c++) {
        const json_t *each = json_array_get(cases, c);
        struct generation_params params = case_params(json_object_get(each, "settings"));
        int32_t prompt[64];
        size_t n = case_ids(json_object_get(each, "prompt"), prompt, 64);
        jobs[c] = generation_job(&waiter, (int)case_size(each, "seed", 0), prompt, n, &params);
        submit(lane, jobs[c]);
    }
    waiter_wait(&waiter, (int)n_cases);
    ck_assert_int_eq(fake.max_rows, 8);
    if (_i)
        ck_assert_int_gt(fake.n_prefills, (int)n_cases / 8 + 1);
    for (size_t c = 0; c < n_cases; c++) {
        check_golden(c, json_array_get(cases, c), &jobs[c]->works[0]);
        job_free(jobs[c]);
    }
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    free(jobs);
    runtime_free(runtime);
    json_decref(golden);
}
END_TEST

/* 16 generations of all kinds; the seeds differ, and so do prompts, pictures and lengths. */
static struct job *mixed_job(struct waiter *waiter, int i)
{
    struct generation_params params;
    generation_params_default(&params);
    params.max_new_tokens = (size_t)(5 + i);
    params.n_eos = 1;
    params.eos_ids[0] = 1;
    params.do_sample = i % 3 > 0;
    params.top_k = i % 2 ? 5 : 0;
    params.top_p = i % 3 == 2 ? 0.8f : 1;
    params.temperature = 1.5f;
    params.n = params.do_sample ? (size_t)(1 + i % 4) : 1;
    params.seed = (uint64_t)(1000 + i);
    const int32_t prompt[3] = {3 + i, 4, 5 + i % 2};
    return generation_job(waiter, 7 * i, prompt, (size_t)(1 + i % 3), &params);
}

START_TEST(generation_in_a_batch_of_16_is_what_it_is_alone)
{
    struct fake fakes[2] = {{.hold = true}, {0}};
    struct runtime *runtime = fake_runtime(
        (struct runtime_options){.max_batch = 64, .max_queue = 64, .max_sequences = 64});
    struct lane *together = fake_lane(runtime, "together", &fakes[0]),
                *alone = fake_lane(runtime, "alone", &fakes[1]);
    struct waiter waiters[2];
    waiter_init(&waiters[0]);
    waiter_init(&waiters[1]);
    struct job *jobs[2][16], *opener = fake_job(&waiters[0], TASK_EMBED, WORK_ENCODE, 1);
    fake_image(&opener->works[0], 1000);
    submit(together, opener);
    wait_inside(&fakes[0]); /* the others gather meanwhile */
    for (int i = 0; i < 16; i++) {
        jobs[0][i] = mixed_job(&waiters[0], i);
        submit(together, jobs[0][i]);
    }
    atomic_store(&fakes[0].hold, false);
    waiter_wait(&waiters[0], 17);
    job_free(opener);
    ck_assert_int_gt(fakes[0].max_rows, 16);
    for (int i = 0; i < 16; i++) {
        jobs[1][i] = mixed_job(&waiters[1], i);
        submit(alone, jobs[1][i]);
        waiter_wait(&waiters[1], i + 1);
        const struct work *a = &jobs[0][i]->works[0], *b = &jobs[1][i]->works[0];
        ck_assert_uint_gt(jobs[0][i]->batch_size, 1);
        ck_assert_uint_eq(jobs[1][i]->batch_size, 1);
        ck_assert_uint_eq(a->n_generated, b->n_generated);
        for (size_t k = 0; k < a->n_generated; k++) {
            ck_assert_uint_eq(a->generated[k].n, b->generated[k].n);
            ck_assert_mem_eq(a->generated[k].ids, b->generated[k].ids,
                             a->generated[k].n * sizeof(int32_t));
            ck_assert_float_eq(a->generated[k].score, b->generated[k].score);
            if (k == 1) { /* n gives different streams */
                const struct generated *first = &a->generated[0], *second = &a->generated[1];
                ck_assert(first->n != second->n ||
                          memcmp(first->ids, second->ids, first->n * sizeof(int32_t)) != 0);
            }
        }
        job_free(jobs[0][i]);
        job_free(jobs[1][i]);
    }
    runtime_free(runtime);
}
END_TEST

START_TEST(sampled_first_tokens_follow_the_warped_distribution)
{
    enum { N = 3000, AT_ONCE = 24 };
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(
        (struct runtime_options){.max_batch = 32, .max_queue = 256, .max_sequences = 32});
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct generation_params params;
    generation_params_default(&params);
    params.do_sample = true;
    params.top_k = 6;
    params.temperature = 0.7f;
    params.max_new_tokens = 1;
    params.n = AT_ONCE;
    int counts[FAKE_VOCAB] = {0};
    double p[FAKE_VOCAB], total = 0;
    const int32_t prompt = 4;
    for (int round = 0; round < N / AT_ONCE; round++) {
        params.seed = (uint64_t)round;
        struct job *job = generation_job(&waiter, 11, &prompt, 1, &params);
        submit(lane, job);
        waiter_wait(&waiter, round + 1);
        ck_assert(!job->works[0].error.status);
        for (int i = 0; i < AT_ONCE; i++)
            counts[job->works[0].generated[i].ids[0]]++;
        job_free(job);
    }
    for (int32_t id = 0; id < FAKE_VOCAB; id++) {
        int n_above = 0;
        for (int32_t other = 0; other < FAKE_VOCAB; other++)
            n_above += fake_logit(11, 0, 4, 1, other) > fake_logit(11, 0, 4, 1, id);
        p[id] = n_above < 6 ? exp((double)fake_logit(11, 0, 4, 1, id) / 0.7) : 0;
        total += p[id];
    }
    for (int id = 0; id < FAKE_VOCAB; id++) {
        double want = N * p[id] / total, sigma = sqrt(want * (1 - p[id] / total));
        ck_assert_msg(fabs(counts[id] - want) <= 4 * sigma, "token %d: %d, expected %g", id,
                      counts[id], want);
    }
    runtime_free(runtime);
}
END_TEST

START_TEST(greedy_gives_the_same_text_n_times)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *job = fake_caption(&waiter, lane_model(lane), 3, 4, 6);
    job->works[0].generation.n = 3;
    submit(lane, job);
    waiter_wait(&waiter, 1);
    const struct generated *texts = job->works[0].generated;
    ck_assert_uint_eq(job->works[0].n_generated, 3);
    for (int i = 1; i < 3; i++) {
        ck_assert_uint_eq(texts[i].n, texts[0].n);
        ck_assert_mem_eq(texts[i].ids, texts[0].ids, texts[0].n * sizeof(int32_t));
    }
    ck_assert_int_eq(fake.max_rows, 1);
    job_free(job);
    runtime_free(runtime);
}
END_TEST

/* ---- stop strings and streaming -----------------------------------------------------------------
 */

struct stream_log {
    struct waiter waiter;
    int32_t ids[64];
    struct token_choice tops[64 * 3];
    size_t n;
};

static void stream_done(struct job *job, void *context)
{
    struct stream_log *log = context;
    waiter_done(job, &log->waiter);
}

static void stream_token(struct job *job, struct work *work, const struct new_token *token,
                         void *context)
{
    struct stream_log *log = context;
    ck_assert_ptr_eq(work, &job->works[0]);
    if (log->n < 64)
        log->ids[log->n++] = token->id;
    for (size_t k = 0; k < work->n_top; k++)
        log->tops[(log->n - 1) * work->n_top + k] = token->top[k];
}

/* Greedy takes the first of the likeliest; a stream tells the same of each token as the result. */
START_TEST(likeliest_tokens_are_noted_in_each_place)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct stream_log log = {0};
    waiter_init(&log.waiter);
    struct generation_params params;
    generation_params_default(&params);
    params.max_new_tokens = 9;
    const int32_t prompt[2] = {3, 4};
    struct job *job = generation_job(&log.waiter, 11, prompt, 2, &params);
    job->works[0].n_top = 3;
    job->done = stream_done;
    job->on_token = stream_token;
    job->context = &log;
    submit(lane, job);
    waiter_wait(&log.waiter, 1);
    const struct generated *got = &job->works[0].generated[0];
    ck_assert_uint_eq(got->n, 9);
    ck_assert_uint_eq(log.n, 9);
    ck_assert_int_eq(memcmp(log.tops, got->top, 9 * 3 * sizeof *got->top), 0);
    for (size_t i = 0; i < 9; i++) {
        const struct token_choice *top = &got->top[i * 3];
        ck_assert_int_eq(top[0].id, got->ids[i]);
        ck_assert_float_eq(top[0].logprob, got->logprobs[i]);
        ck_assert(top[0].logprob >= top[1].logprob && top[1].logprob >= top[2].logprob);
        ck_assert(top[1].id != top[0].id && top[2].id != top[1].id);
        double mass = 0;
        for (int k = 0; k < 3; k++)
            mass += exp((double)top[k].logprob);
        ck_assert(mass > 0 && mass < 1 + 1e-6);
    }
    job_free(job);
    job = generation_job(&log.waiter, 11, prompt, 2, &params);
    job->works[0].n_top = TOP_LOGPROBS_MAX + 1;
    job->done = stream_done;
    job->context = &log;
    submit(lane, job);
    waiter_wait(&log.waiter, 2);
    ck_assert_int_eq(job->works[0].error.status, STATUS_OUT_OF_RANGE);
    job_free(job);
    runtime_free(runtime);
}
END_TEST

/* Token v reads as two letters, "Dd" for 3; stops may begin in the middle of one. */
START_TEST(stop_strings_end_a_text_across_tokens)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct stream_log log = {.n = 0};
    waiter_init(&log.waiter);

    struct job *plain = fake_caption(&log.waiter, lane_model(lane), 8, 4, 10);
    plain->works[0].generation.n_eos = 0;
    submit(lane, plain);
    waiter_wait(&log.waiter, 1);
    const struct generated *whole = plain->works[0].generated;
    ck_assert_uint_eq(whole->n, 10);
    char text[32];
    for (size_t i = 0; i < 10; i++)
        snprintf(text + 2 * i, sizeof text - 2 * i, "%c%c", 'A' + whole->ids[i],
                 'a' + whole->ids[i]);

    for (size_t start = 0; start + 5 <= 20; start++) { /* "dEeFf": over three tokens or two */
        char stop[6] = {0};
        memcpy(stop, text + start, 5);
        size_t at = (size_t)(strstr(text, stop) - text);
        struct job *job = fake_caption(&log.waiter, lane_model(lane), 8, 4, 10);
        job->works[0].generation.n_eos = 0;
        job->works[0].stops[0] = strdup("never there");
        job->works[0].stops[1] = strdup(stop);
        job->works[0].n_stops = 2;
        job->done = stream_done;
        job->on_token = stream_token;
        job->context = &log;
        log.n = 0;
        submit(lane, job);
        waiter_wait(&log.waiter, (int)start + 2);
        const struct generated *got = job->works[0].generated;
        ck_assert_int_eq(got->finish, FINISH_STOP);
        ck_assert_uint_eq(got->text_bytes, at);
        ck_assert_uint_eq(got->n, (at + 5 + 1) / 2); /* up to the token that completed it */
        ck_assert_mem_eq(got->ids, whole->ids, got->n * sizeof(int32_t));
        /* Streamed: what lies wholly before the stop, never a token of it. */
        ck_assert_uint_eq(log.n, at / 2);
        ck_assert_mem_eq(log.ids, whole->ids, log.n * sizeof(int32_t));
        job_free(job);
    }
    job_free(plain);
    runtime_free(runtime);
}
END_TEST

START_TEST(streaming_gives_each_token_once_in_order)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct stream_log log = {.n = 0};
    waiter_init(&log.waiter);
    for (int i = 0; i < 20; i++) {
        struct job *job = fake_caption(&log.waiter, lane_model(lane), i, 4, 10);
        job->works[0].stops[0] = strdup("Zz"); /* some hold a beginning back, none hits */
        job->works[0].stops[1] = strdup("AaAaAaAaAaAaA");
        job->works[0].n_stops = i % 2 ? 2 : 0;
        job->done = stream_done;
        job->on_token = stream_token;
        job->context = &log;
        log.n = 0;
        submit(lane, job);
        waiter_wait(&log.waiter, i + 1);
        const struct generated *got = job->works[0].generated;
        ck_assert_uint_eq(log.n, got->n);
        ck_assert_mem_eq(log.ids, got->ids, got->n * sizeof(int32_t));
        ck_assert_uint_gt(job->first_token_ns, 0);
        ck_assert_uint_eq(job->n_generated_tokens, got->n);
        for (size_t k = 0; k < 2; k++)
            if (k >= job->works[0].n_stops)
                free(job->works[0].stops[k]);
        job_free(job);
    }
    ck_assert_uint_gt(lane_stats(lane)->by_task[TASK_CAPTION].first_token_seconds.sum_millionths, 0);
    runtime_free(runtime);
}
END_TEST

START_TEST(stop_strings_end_beams_too)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    int n_stopped = 0;
    for (int i = 0; i < 12; i++) {
        struct job *job = fake_caption(&waiter, lane_model(lane), i, 4, 12);
        struct work *work = &job->works[0];
        work->generation.num_beams = 3;
        work->generation.n = 3;
        work->generation.n_eos = 0;
        for (int k = 0; k < 4; k++) {
            char stop[3] = {(char)('c' + 3 * k), (char)('A' + i), 0};
            work->stops[work->n_stops++] = strdup(stop + k % 2);
        }
        submit(lane, job);
        waiter_wait(&waiter, i + 1);
        ck_assert(!work->error.status);
        for (int k = 0; k < 3; k++) {
            n_stopped += work->generated[k].finish == FINISH_STOP;
            ck_assert((work->generated[k].finish == FINISH_STOP) ==
                      (work->generated[k].text_bytes != SIZE_MAX));
        }
        job_free(job);
    }
    ck_assert_int_gt(n_stopped, 3);
    runtime_free(runtime);
}
END_TEST

/* ---- bounds -------------------------------------------------------------------------------------
 */

START_TEST(generation_refuses_what_can_never_run)
{
    struct fake fake = {0};
    struct runtime_options options = roomy;
    options.max_sequences = 4;
    options.kv_cache_bytes = 1000; /* 125 tokens of the fake model */
    struct error err = {0};
    struct runtime *runtime = fake_runtime(options);
    struct model *model = fake_model("fake", &fake);
    model->traits.context_length = 200;
    ck_assert(!runtime_add(runtime, model, &err));
    struct lane *lane = runtime_at(runtime, 0);
    struct waiter waiter;
    waiter_init(&waiter);
    enum { N = 6 };
    struct job *jobs[N];
    for (int i = 0; i < N; i++)
        jobs[i] = fake_caption(&waiter, model, i, 3, 5);
    jobs[0]->works[0].generation.num_beams = 5; /* too many sequences */
    jobs[1]->works[0].generation.num_beams = 2;
    jobs[1]->works[0].generation.n = 3; /* more results than beams */
    jobs[2]->works[0].generation.max_new_tokens = 0;
    jobs[2]->works[0].generation.max_length = 1;       /* the prompt fills it */
    jobs[3]->works[0].generation.max_new_tokens = 150; /* more cache than there is */
    jobs[3]->works[0].generation.n_eos = 0;
    jobs[4]->works[0].generation.max_new_tokens =
        SIZE_MAX; /* the context bounds it, and the cache */
    for (int i = 0; i < N; i++)
        submit(lane, jobs[i]);
    waiter_wait(&waiter, N);
    static const enum status wanted[N] = {STATUS_UNPROCESSABLE, STATUS_UNPROCESSABLE,
                                          STATUS_TOO_LONG,      STATUS_UNPROCESSABLE,
                                          STATUS_UNPROCESSABLE, STATUS_OK};
    for (int i = 0; i < N; i++) {
        ck_assert_msg(jobs[i]->works[0].error.status == wanted[i], "job %d: %s", i,
                      jobs[i]->works[0].error.message);
        job_free(jobs[i]);
    }
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    runtime_free(runtime);
}
END_TEST

START_TEST(generations_wait_for_room_in_the_cache)
{
    struct fake fake = {.hold = true};
    struct runtime_options options = roomy;
    options.kv_cache_bytes = 1000; /* each of the below takes (1 + 39) · 8 + 4 bytes */
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[12];
    for (int i = 0; i < 12; i++) {
        jobs[i] = fake_caption(&waiter, lane_model(lane), i, 3, 40);
        jobs[i]->works[0].generation.n_eos = 0;
        submit(lane, jobs[i]);
    }
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 12);
    ck_assert_int_eq(fake.max_rows, 3);
    for (int i = 0; i < 12; i++) {
        ck_assert_uint_eq(jobs[i]->works[0].generated->n, 40);
        job_free(jobs[i]);
    }
    runtime_free(runtime);
}
END_TEST

/* A long prompt joins a text that is being written: a token of the one between any two pieces of
 * the other, and both as they are alone. */
START_TEST(long_prompts_are_run_between_tokens)
{
    enum { N = 90, CHUNK = 8 };
    struct fake fake = {.hold = true};
    struct runtime_options options = roomy;
    options.prefill_chunk = _i ? CHUNK : 0;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct generation_params params;
    generation_params_default(&params);
    params.max_new_tokens = 40;
    int32_t prompt[N] = {3};
    struct job *writing = generation_job(&waiter, 5, prompt, 1, &params);
    submit(lane, writing);
    wait_inside(&fake); /* in its picture */
    for (int i = 0; i < N; i++)
        prompt[i] = 3 + i * 7 % 20;
    struct job *joining = generation_job(&waiter, 6, prompt, N, &params);
    submit(lane, joining);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 2);
    ck_assert_uint_eq(writing->works[0].generated[0].n, 40);
    if (_i) {
        const char *first = strchr(fake.order, 'f'); /* the short prompt; then the pieces */
        int n_pieces = 0;
        for (const char *at = first + 1; *at; at++) {
            n_pieces += *at == 'f';
            ck_assert_msg(*at != 'f' || at[-1] != 'f', "no token between two pieces: %s", first);
        }
        ck_assert_int_eq(n_pieces, (N + CHUNK - 1) / CHUNK);
        ck_assert_int_eq(fake.max_prompt_tokens, CHUNK);
    } else {
        ck_assert_int_eq(fake.max_prompt_tokens, N);
    }
    ck_assert_uint_eq(joining->n_prompt_tokens, N);

    struct job *alone = generation_job(&waiter, 6, prompt, N, &params);
    submit(lane, alone);
    waiter_wait(&waiter, 3);
    const struct generated *a = joining->works[0].generated, *b = alone->works[0].generated;
    ck_assert_uint_eq(a->n, b->n);
    ck_assert_mem_eq(a->ids, b->ids, a->n * sizeof *a->ids);
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    job_free(writing);
    job_free(joining);
    job_free(alone);
    runtime_free(runtime);
}
END_TEST

/* One that is cancelled in the middle of its prompt leaves nothing behind. */
START_TEST(a_prompt_in_pieces_may_be_cancelled)
{
    struct fake fake = {.hold = true, .hold_at_prefill = 5};
    struct runtime_options options = roomy;
    options.prefill_chunk = 1;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct generation_params params;
    generation_params_default(&params);
    params.max_new_tokens = 2000;
    int32_t prompt[1000];
    for (int i = 0; i < 1000; i++)
        prompt[i] = 3 + i % 20;
    struct job *writing = generation_job(&waiter, 5, prompt, 1, &params);
    submit(lane, writing);
    wait_inside(&fake);
    struct job *joining = generation_job(&waiter, 6, prompt, 1000, &params);
    submit(lane, joining);
    atomic_store(&fake.hold, false);
    while (atomic_load(&fake.n_prefills) < 5)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    wait_inside(&fake);
    atomic_store(&joining->cancelled, true);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 1);
    ck_assert_int_eq(joining->works[0].error.status, STATUS_CANCELLED);
    atomic_store(&writing->cancelled, true);
    waiter_wait(&waiter, 2);
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    ck_assert_uint_eq(lane_stats(lane)->running, 0);
    job_free(writing);
    job_free(joining);
    runtime_free(runtime);
}
END_TEST

START_TEST(sequences_join_and_leave_at_token_borders)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *slow = fake_caption(&waiter, lane_model(lane), 1, 3, 200);
    slow->works[0].generation.n_eos = 0;
    submit(lane, slow);
    wait_inside(&fake);
    struct job *quick[5];
    for (int i = 0; i < 5; i++) {
        quick[i] = fake_caption(&waiter, lane_model(lane), 2 + i, 3, (size_t)(2 + i));
        quick[i]->works[0].generation.n_eos = 0;
        submit(lane, quick[i]);
    }
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 6);
    for (int i = 0; i < 5; i++) { /* they came later and left long before the slow one's end */
        ck_assert_uint_lt(quick[i]->finished_ns, slow->finished_ns);
        ck_assert_uint_gt(quick[i]->batch_size, 1);
        ck_assert_uint_eq(quick[i]->works[0].generated->n, 2 + i);
        job_free(quick[i]);
    }
    ck_assert_int_lt(fake.n_decodes, 210); /* one step for all, not one each */
    job_free(slow);
    runtime_free(runtime);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime_generate");
    TCase *tcase = tcase_create("runtime_generate");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, generation_equals_generate_in_one_mixed_batch, 0, 3);
    tcase_add_loop_test(tcase, long_prompts_are_run_between_tokens, 0, 2);
    tcase_add_test(tcase, a_prompt_in_pieces_may_be_cancelled);
    tcase_add_test(tcase, generation_in_a_batch_of_16_is_what_it_is_alone);
    tcase_add_test(tcase, sampled_first_tokens_follow_the_warped_distribution);
    tcase_add_test(tcase, greedy_gives_the_same_text_n_times);
    tcase_add_test(tcase, likeliest_tokens_are_noted_in_each_place);
    tcase_add_test(tcase, stop_strings_end_a_text_across_tokens);
    tcase_add_test(tcase, streaming_gives_each_token_once_in_order);
    tcase_add_test(tcase, stop_strings_end_beams_too);
    tcase_add_test(tcase, generation_refuses_what_can_never_run);
    tcase_add_test(tcase, generations_wait_for_room_in_the_cache);
    tcase_add_test(tcase, sequences_join_and_leave_at_token_borders);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
