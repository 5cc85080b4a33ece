/*
 * test_runtime.c: what the runtime promises about queueing, batching, failures and its end, on a
 * model whose results are formulas (runtime_fake.h).
 */
#include "tests/unit/runtime_fake.h"

static const struct runtime_options roomy = {
    .max_batch = 8, .max_queue = 64, .max_sequences = 16, .feature_cache_bytes = 1 << 20};

/* ---- results ------------------------------------------------------------------------------------
 */

START_TEST(runtime_encodes_pictures_and_texts_of_each_work)
{
    struct fake fake = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *job = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 3);
    fake_images(&job->works[0], 2, (const int[]){5, 6});
    fake_texts(&job->works[0], 2, (const int32_t[]){3, 4});
    fake_image(&job->works[1], 7);
    /* works[2] asks for nothing */
    submit(lane, job);
    waiter_wait(&waiter, 1);
    for (size_t i = 0; i < 3; i++)
        ck_assert_msg(!job->works[i].error.status, "%s", job->works[i].error.message);
    ck_assert_float_eq(job->works[0].features[0]->rows[0], 5);
    ck_assert_float_eq(job->works[0].features[1]->rows[0], 6);
    ck_assert_float_eq(job->works[0].features[1]->rows[1], 1001);
    ck_assert_float_eq(job->works[0].text_embeddings[0], 3);
    ck_assert_float_eq(job->works[0].text_embeddings[2], 4);
    ck_assert_float_eq(job->works[1].features[0]->rows[0], 7);
    ck_assert_uint_eq(job->n_prompt_tokens, 2);
    ck_assert(job->submitted_ns <= job->started_ns && job->started_ns <= job->finished_ns);
    ck_assert_uint_gt(job->forward_ns, 0);
    ck_assert_uint_eq(job->batch_size, 2);
    job_free(job);

    job = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 0); /* an empty job is done as well */
    submit(lane, job);
    waiter_wait(&waiter, 2);
    job_free(job);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_scores_every_text_against_all_pictures)
{
    for (int by_embedding = 0; by_embedding <= 1; by_embedding++) {
        struct fake fake = {0};
        struct error err = {0};
        struct runtime *runtime = fake_runtime(roomy);
        struct model *model = fake_model("fake", &fake);
        model->traits.pairs_by_embedding = by_embedding;
        ck_assert(!runtime_add(runtime, model, &err));
        struct waiter waiter;
        waiter_init(&waiter);
        struct job *job = fake_job(&waiter, TASK_MATCH, WORK_PAIR, 1);
        fake_images(&job->works[0], 2, (const int[]){1, 2});
        int32_t ids[20];
        for (int i = 0; i < 20; i++) /* more texts than a batch holds */
            ids[i] = i;
        fake_texts(&job->works[0], 20, ids);
        submit(runtime_at(runtime, 0), job);
        waiter_wait(&waiter, 1);
        ck_assert(!job->works[0].error.status);
        for (int i = 0; i < 20; i++) {
            ck_assert_float_eq(job->works[0].outputs[2 * i], (float)(3 + 10 * i));
            ck_assert_float_eq(job->works[0].outputs[2 * i + 1], by_embedding ? (float)i : -1);
        }
        ck_assert_int_eq(fake.n_pair_passes, 3);
        ck_assert_int_eq(fake.n_text_passes, by_embedding ? 3 : 0);
        job_free(job);
        runtime_free(runtime);
    }
}
END_TEST

START_TEST(runtime_refuses_what_a_model_cannot_do)
{
    struct architecture architecture = {.name = "Eye",
                                        .tasks = TASK_BIT(EMBED),
                                        .free = fake_free,
                                        .encode_images = fake_encode_images};
    struct fake fake = {0};
    struct error err = {0};
    struct runtime *runtime = fake_runtime(roomy);
    struct model *model = fake_model("eye", &fake);
    model->architecture = &architecture;
    ck_assert(!runtime_add(runtime, model, &err));
    struct lane *lane = runtime_at(runtime, 0);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *job = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 3);
    fake_texts(&job->works[0], 1, (const int32_t[]){3});
    fake_texts(&job->works[1], 1, (const int32_t[]){3});
    job->works[1].kind = WORK_GENERATE;
    fake_texts(&job->works[2], 1, (const int32_t[]){3});
    job->works[2].kind = WORK_PAIR;
    submit(lane, job);
    waiter_wait(&waiter, 1);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(job->works[i].error.status, STATUS_UNSUPPORTED_TASK);
    job_free(job);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_finds_models_by_name_and_task)
{
    static const struct architecture captioner = {
        .name = "Cap", .tasks = TASK_BIT(CAPTION), .free = fake_free};
    struct fake fake = {0};
    struct error err = {0};
    struct runtime *runtime = fake_runtime(roomy);
    ck_assert_ptr_null(runtime_find(runtime, NULL, TASK_MATCH, &err));
    ck_assert_int_eq(err.status, STATUS_UNSUPPORTED_TASK);
    struct model *model = fake_model("cap", &fake);
    model->architecture = &captioner;
    ck_assert(!runtime_add(runtime, model, &err));
    struct lane *second = fake_lane(runtime, "second", &fake);
    ck_assert_ptr_eq(runtime_find(runtime, "", TASK_CAPTION, &err), runtime_at(runtime, 0));
    ck_assert_ptr_eq(runtime_find(runtime, NULL, TASK_MATCH, &err), second);
    ck_assert_ptr_eq(runtime_find(runtime, "second", TASK_CAPTION, &err), second);
    ck_assert_ptr_null(runtime_find(runtime, "cap", TASK_MATCH, &err));
    ck_assert_int_eq(err.status, STATUS_UNSUPPORTED_TASK);
    ck_assert_ptr_nonnull(strstr(err.message, "'second'"));
    ck_assert_ptr_null(runtime_find(runtime, "third", TASK_MATCH, &err));
    ck_assert_int_eq(err.status, STATUS_UNKNOWN_MODEL);
    ck_assert_ptr_nonnull(strstr(err.message, "'cap', 'second'"));
    ck_assert_str_eq(err.param, "model");
    struct model *twin = fake_model("cap", &fake);
    ck_assert_int_eq(runtime_add(runtime, twin, &err), STATUS_BAD_CONFIG);
    model_free(twin);
    runtime_free(runtime);
}
END_TEST

/* ---- batches ------------------------------------------------------------------------------------
 */

START_TEST(runtime_gathers_arrivals_while_a_pass_runs)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[13];
    for (int i = 0; i < 13; i++) {
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], 100 + i);
        submit(lane, jobs[i]);
        if (i == 0)
            wait_inside(&fake); /* the first goes at once and alone */
    }
    ck_assert_uint_eq(lane_stats(lane)->queue_depth, 12);
    ck_assert_uint_eq(lane_stats(lane)->running, 1);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 13);
    ck_assert_int_eq(fake.n_image_passes, 3); /* 1, 8, 4 */
    for (int i = 0; i < 13; i++) {
        ck_assert_float_eq(jobs[i]->works[0].features[0]->rows[0], (float)(100 + i));
        ck_assert_uint_eq(jobs[i]->batch_size, i == 0 ? 1 : i <= 8 ? 8 : 4);
        job_free(jobs[i]);
    }
    ck_assert_uint_eq(lane_stats(lane)->batch_size.buckets[3], 1); /* one batch in (4, 8] */
    ck_assert_uint_eq(lane_stats(lane)->works, 13);
    ck_assert_uint_eq(lane_stats(lane)->queue_depth, 0);
    ck_assert_uint_eq(lane_stats(lane)->running, 0);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_waits_for_company_only_where_asked)
{
    struct fake fake = {0};
    struct runtime_options options = roomy;
    options.batch_wait_us = 20000000;
    options.max_batch = 2;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[2];
    for (int i = 0; i < 2; i++) {
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], i);
        submit(lane, jobs[i]);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    waiter_wait(&waiter, 2); /* far before the 20 s are over */
    ck_assert_int_eq(fake.n_image_passes, 1);
    for (int i = 0; i < 2; i++)
        job_free(jobs[i]);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_computes_a_picture_once)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[5];
    for (int i = 0; i < 5; i++) {
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], i == 0 ? 1 : 2); /* 1, then 2 four times at once */
        fake_texts(&jobs[i]->works[0], 1, (const int32_t[]){9});
        submit(lane, jobs[i]);
        if (i == 0)
            wait_inside(&fake);
    }
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 5);
    ck_assert_int_eq(fake.n_images, 2);
    ck_assert_int_eq(fake.n_texts, 1);
    for (int i = 0; i < 5; i++) {
        ck_assert_float_eq(jobs[i]->works[0].features[0]->rows[0], i == 0 ? 1 : 2);
        ck_assert_float_eq(jobs[i]->works[0].text_embeddings[0], 9);
        ck_assert(!jobs[i]->works[0].cached);
        job_free(jobs[i]);
    }
    struct job *again = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
    fake_image(&again->works[0], 1);
    submit(lane, again);
    waiter_wait(&waiter, 6);
    ck_assert_int_eq(fake.n_images, 2);
    ck_assert(again->works[0].cached);
    ck_assert_uint_eq(again->batch_size, 0);
    ck_assert_float_eq(again->works[0].features[0]->rows[0], 1);
    job_free(again);
    ck_assert_uint_gt(lane_stats(lane)->cache_hits, 0);
    ck_assert_uint_gt(lane_stats(lane)->cache_bytes, 0);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_lets_interactive_works_pass_but_never_starves_the_others)
{
    struct fake fake = {.hold = true};
    struct runtime_options options = roomy;
    options.max_batch = 1;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter, batch_waiter;
    waiter_init(&waiter);
    waiter_init(&batch_waiter);
    struct job *jobs[21], *batch[2];
    for (int i = 0; i < 21; i++) {
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], i);
        submit(lane, jobs[i]);
        if (i > 0)
            continue;
        wait_inside(&fake);
        for (int k = 0; k < 2; k++) {
            batch[k] = fake_job(&batch_waiter, TASK_EMBED, WORK_ENCODE, 1);
            batch[k]->priority = PRIORITY_BATCH;
            fake_image(&batch[k]->works[0], 100 + k);
            submit(lane, batch[k]);
        }
    }
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 21);
    waiter_wait(&batch_waiter, 2);
    /* Both came in between: after some of the later interactive ones, before the last. */
    for (int k = 0; k < 2; k++) {
        ck_assert_uint_lt(batch[k]->started_ns, jobs[20]->started_ns);
        ck_assert_uint_gt(batch[k]->started_ns, jobs[1 + k]->started_ns);
        job_free(batch[k]);
    }
    for (int i = 0; i < 21; i++)
        job_free(jobs[i]);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_alternates_encoding_and_decoding)
{
    struct fake fake = {.hold = true};
    struct runtime_options options = roomy;
    options.max_batch = 2;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct model *model = (struct model *)lane_model(lane);
    struct job *jobs[9];
    jobs[0] = fake_caption(&waiter, model, 50, 5, 12);
    jobs[0]->works[0].generation.n_eos = 0;
    submit(lane, jobs[0]);
    wait_inside(&fake);
    for (int i = 1; i < 9; i++) { /* a burst of pictures */
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], i);
        submit(lane, jobs[i]);
    }
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 9);
    runtime_free(runtime); /* joins the lane, which wrote `order` */
    const char *first = strchr(fake.order, 'd');
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_null(strstr(first, "ii")); /* a step of decoding between any two batches … */
    ck_assert_ptr_nonnull(strstr(first, "did")); /* … and a batch between any two steps */
    for (int i = 0; i < 9; i++)
        job_free(jobs[i]);
}
END_TEST

START_TEST(runtime_shares_the_pool_between_models)
{
    struct fake fakes[2] = {{.hold = true}, {0}};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lanes[2] = {fake_lane(runtime, "a", &fakes[0]),
                             fake_lane(runtime, "b", &fakes[1])};
    struct waiter waiters[2];
    struct job *jobs[2][6];
    for (int k = 0; k < 2; k++) {
        waiter_init(&waiters[k]);
        for (int i = 0; i < 6; i++) {
            jobs[k][i] = fake_caption(&waiters[k], lane_model(lanes[k]), i, 3 + i, 8);
            submit(lanes[k], jobs[k][i]);
            if (k == 0 && i == 0)
                wait_inside(&fakes[0]);
        }
    }
    /* While a's pass runs, b's wait for their turn. */
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    ck_assert_int_eq(fakes[1].n_image_passes, 0);
    atomic_store(&fakes[0].hold, false);
    for (int k = 0; k < 2; k++)
        waiter_wait(&waiters[k], 6);
    for (int i = 0; i < 6; i++) {
        const struct generated *a = jobs[0][i]->works[0].generated,
                               *b = jobs[1][i]->works[0].generated;
        ck_assert_uint_eq(a->n, b->n);
        ck_assert_mem_eq(a->ids, b->ids, a->n * sizeof *a->ids);
        job_free(jobs[0][i]);
        job_free(jobs[1][i]);
    }
    runtime_free(runtime);
}
END_TEST

/* ---- failures -----------------------------------------------------------------------------------
 */

START_TEST(runtime_blames_only_the_faulty_item)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *first = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
    fake_image(&first->works[0], 1);
    submit(lane, first);
    wait_inside(&fake);
    struct job *job = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 4);
    for (int i = 0; i < 4; i++)
        fake_image(&job->works[i], i == 2 ? FAKE_BROKEN : 10 + i);
    submit(lane, job);
    struct job *pairs = fake_job(&waiter, TASK_MATCH, WORK_PAIR, 2);
    for (int i = 0; i < 2; i++)
        fake_texts(&pairs->works[i], 2, (const int32_t[]){4, i == 0 ? FAKE_BROKEN : 5});
    submit(lane, pairs);
    struct job *captions = fake_job(&waiter, TASK_CAPTION, WORK_GENERATE, 3);
    for (int i = 0; i < 3; i++) {
        fake_texts(&captions->works[i], 1, (const int32_t[]){i == 1 ? FAKE_BROKEN : 5 + i});
        captions->works[i].generation = lane_model(lane)->generation;
    }
    submit(lane, captions);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 4);
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            ck_assert_str_eq(job->works[i].error.message, "a broken fake picture");
        else
            ck_assert_float_eq(job->works[i].features[0]->rows[0], (float)(10 + i));
    }
    ck_assert_int_eq(pairs->works[0].error.status, STATUS_UNPROCESSABLE);
    ck_assert_int_eq(pairs->works[1].error.status, STATUS_OK);
    ck_assert_float_eq(pairs->works[1].outputs[2], 50);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(captions->works[i].error.status, i == 1 ? STATUS_UNPROCESSABLE : 0);
    ck_assert_uint_eq(lane_stats(lane)->failed, 3);
    job_free(first);
    job_free(job);
    job_free(pairs);
    job_free(captions);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_survives_passes_that_are_too_large_for_memory)
{
    struct fake fake = {.fail_above = 1};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[2];
    for (int k = 0; k < 2; k++) { /* the same with and without failures */
        jobs[k] = fake_job(&waiter, TASK_CAPTION, WORK_GENERATE, 6);
        for (int i = 0; i < 6; i++) {
            struct work *work = &jobs[k]->works[i];
            fake_image(work, 20 + i);
            fake_texts(work, 1, (const int32_t[]){3 + i});
            work->generation = lane_model(lane)->generation;
            work->generation.num_beams = i == 5 ? 3 : 1;
        }
        atomic_store(&fake.fail_above, k == 0 ? 1 : 0);
        submit(lane, jobs[k]);
        waiter_wait(&waiter, k + 1);
    }
    for (int i = 0; i < 6; i++) {
        ck_assert_msg(!jobs[0]->works[i].error.status, "%s", jobs[0]->works[i].error.message);
        const struct generated *a = jobs[0]->works[i].generated, *b = jobs[1]->works[i].generated;
        ck_assert_uint_eq(a->n, b->n);
        ck_assert_mem_eq(a->ids, b->ids, a->n * sizeof *a->ids);
        ck_assert_float_eq(a->score, b->score);
    }
    job_free(jobs[0]);
    job_free(jobs[1]);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_drops_cancelled_and_expired_works)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[5];
    for (int i = 0; i < 5; i++) {
        jobs[i] = fake_caption(&waiter, lane_model(lane), i, 3, 1 << 20);
        jobs[i]->works[0].generation.n_eos = 0;
        submit(lane, jobs[i]);
        if (i == 0)
            wait_inside(&fake);
    }
    atomic_store(&jobs[1]->cancelled, true); /* before its first pass */
    struct job *late = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 2);
    late->deadline_ns = clock_ns();
    fake_image(&late->works[0], 9);
    fake_image(&late->works[1], 10);
    submit(lane, late);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 2);
    ck_assert_int_eq(jobs[1]->works[0].error.status, STATUS_CANCELLED);
    ck_assert_uint_eq(jobs[1]->started_ns, 0);
    ck_assert_int_eq(late->works[0].error.status, STATUS_DEADLINE);
    ck_assert_int_eq(late->works[1].error.status, STATUS_DEADLINE);
    for (int i = 0; i < 5; i++) /* the others in the midst of decoding, long before their end */
        atomic_store(&jobs[i]->cancelled, true);
    waiter_wait(&waiter, 6);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(jobs[i]->works[0].error.status, STATUS_CANCELLED);
    ck_assert_uint_eq(lane_stats(lane)->cancelled, 5);
    ck_assert_uint_eq(lane_stats(lane)->expired, 2);
    ck_assert_uint_eq(lane_stats(lane)->kv_bytes, 0);
    ck_assert_uint_eq(lane_stats(lane)->queue_depth + lane_stats(lane)->running, 0);
    for (int i = 0; i < 5; i++)
        job_free(jobs[i]);
    job_free(late);
    runtime_free(runtime);
}
END_TEST

/* ---- admission, drain, health -------------------------------------------------------------------
 */

START_TEST(runtime_refuses_what_would_wait_past_its_deadline)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct error err = {0};
    struct job *jobs[6];
    for (int i = 0; i < 6; i++) {
        jobs[i] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
        fake_image(&jobs[i]->works[0], i + 1);
    }
    /* One item in a tenth of a second or more: that is the pace, as the lane knows it then. */
    for (int i = 0; i < 2; i++) {
        atomic_store(&fake.hold, true);
        submit(lane, i ? jobs[5] : jobs[0]);
        wait_inside(&fake);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        atomic_store(&fake.hold, false);
        waiter_wait(&waiter, i + 1);
    }
    atomic_store(&fake.hold, true);
    submit(lane, jobs[1]);
    wait_inside(&fake);
    /* Nobody waits: whoever comes next is tried, however little time it has. */
    ck_assert_int_eq(lane_check_room(lane, 1, clock_ns() + 50000000, &err), STATUS_OK);
    submit(lane, jobs[2]);
    ck_assert_int_eq(lane_check_room(lane, 1, clock_ns() + 50000000, &err), STATUS_QUEUE_FULL);
    ck_assert_ptr_nonnull(strstr(err.message, "seconds"));
    ck_assert_int_eq(lane_check_room(lane, 1, clock_ns() + 3600000000000u, &err), STATUS_OK);
    ck_assert_int_eq(lane_check_room(lane, 1, 0, &err), STATUS_OK);
    jobs[3]->deadline_ns = clock_ns() + 50000000;
    ck_assert_int_eq(runtime_submit(lane, jobs[3], &err), STATUS_QUEUE_FULL);
    jobs[4]->deadline_ns = clock_ns() + 3600000000000u;
    submit(lane, jobs[4]);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 5);
    for (int i = 0; i < 6; i++)
        job_free(jobs[i]);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_refuses_at_once_when_the_queue_is_full)
{
    struct fake fake = {.hold = true};
    struct runtime_options options = roomy;
    options.max_queue = 4;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct error err = {0};
    struct job *running = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
    fake_image(&running->works[0], 1);
    submit(lane, running);
    wait_inside(&fake);
    struct job *three = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 3);
    submit(lane, three);
    ck_assert_int_eq(lane_check_room(lane, 1, 0, &err), STATUS_OK);
    ck_assert_int_eq(lane_check_room(lane, 2, 0, &err), STATUS_QUEUE_FULL);
    struct job *two = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 2);
    ck_assert_int_eq(runtime_submit(lane, two, &err), STATUS_QUEUE_FULL);
    ck_assert_ptr_nonnull(strstr(err.message, "3 of 4"));
    struct job *five = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 5);
    ck_assert_int_eq(runtime_submit(lane, five, &err), STATUS_UNPROCESSABLE);
    ck_assert_uint_ge(lane_retry_after_s(lane), 1);
    ck_assert_uint_eq(lane_stats(lane)->refused, 3);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 2);
    ck_assert_int_eq(runtime_submit(lane, two, &err), STATUS_OK); /* there is room again */
    waiter_wait(&waiter, 3);
    job_free(running);
    job_free(three);
    job_free(two);
    job_free(five);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_drains_what_it_has_and_takes_no_more)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    ck_assert(runtime_idle(runtime));
    struct job *jobs[3];
    for (int i = 0; i < 3; i++) {
        jobs[i] = fake_caption(&waiter, lane_model(lane), i, 3, 5);
        submit(lane, jobs[i]);
    }
    wait_inside(&fake);
    runtime_drain(runtime);
    ck_assert(!runtime_idle(runtime));
    struct error err = {0};
    struct job *more = fake_caption(&waiter, lane_model(lane), 9, 3, 5);
    ck_assert_int_eq(runtime_submit(lane, more, &err), STATUS_DRAINING);
    ck_assert_int_eq(lane_check_room(lane, 1, 0, &err), STATUS_DRAINING);
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(jobs[i]->works[0].error.status, STATUS_OK);
    for (int i = 0; i < 1000 && !runtime_idle(runtime); i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    ck_assert(runtime_idle(runtime));
    for (int i = 0; i < 3; i++)
        job_free(jobs[i]);
    job_free(more);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_ends_what_is_left_when_freed)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[10];
    for (int i = 0; i < 10; i++) {
        jobs[i] = fake_caption(&waiter, lane_model(lane), i, 3, 1 << 20);
        jobs[i]->works[0].generation.n_eos = 0;
        submit(lane, jobs[i]);
    }
    wait_inside(&fake);
    atomic_store(&fake.hold, false);
    runtime_free(runtime);
    ck_assert_int_eq(waiter.n_done, 10); /* each exactly once */
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(jobs[i]->works[0].error.status, STATUS_DRAINING);
        job_free(jobs[i]);
    }
}
END_TEST

START_TEST(lane_is_alive_until_a_pass_hangs)
{
    struct fake fake = {.hold = true};
    struct runtime *runtime = fake_runtime(roomy);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    ck_assert(lane_alive(lane, 0)); /* idle */
    struct job *job = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, 1);
    fake_image(&job->works[0], 1);
    submit(lane, job);
    wait_inside(&fake);
    ck_assert(lane_alive(lane, 60));
    nanosleep(&(struct timespec){0, 2000000}, NULL);
    ck_assert(!lane_alive(lane, 0));
    atomic_store(&fake.hold, false);
    waiter_wait(&waiter, 1);
    job_free(job);
    runtime_free(runtime);
}
END_TEST

START_TEST(runtime_unloads_an_unused_model_and_brings_it_back)
{
    struct fake fake = {0};
    struct runtime_options options = roomy;
    options.idle_unload_ms = 20;
    struct runtime *runtime = fake_runtime(options);
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    struct job *jobs[2];
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_eq(lane_stats(lane)->unloads, i);
        jobs[i] = fake_caption(&waiter, lane_model(lane), 5, 3, 6);
        submit(lane, jobs[i]);
        waiter_wait(&waiter, i + 1);
        for (int k = 0; k < 5000 && (int)atomic_load(&lane_stats(lane)->unloads) <= i; k++)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    ck_assert_uint_eq(lane_stats(lane)->unloads, 2); /* once each time, not again and again */
    const struct generated *a = jobs[0]->works[0].generated, *b = jobs[1]->works[0].generated;
    ck_assert_uint_eq(a->n, b->n);
    ck_assert_mem_eq(a->ids, b->ids, a->n * sizeof *a->ids);
    job_free(jobs[0]);
    job_free(jobs[1]);
    runtime_free(runtime);
}
END_TEST

/* ---- many threads -------------------------------------------------------------------------------
 */

enum { CLIENTS = 8, ROUNDS = 40 };

struct client {
    pthread_t thread;
    struct lane **lanes;
    unsigned seed;
    int wrong;
};

/* A client that sends this and that, and goes away now and then. */
static void *client_main(void *argument)
{
    struct client *client = argument;
    struct waiter waiter;
    waiter_init(&waiter);
    for (int round = 0; round < ROUNDS; round++) {
        unsigned dice = (unsigned)rand_r(&client->seed);
        struct lane *lane = client->lanes[dice % 2];
        int picture = (int)(dice / 2 % 50), text = (int)(dice / 100 % 20);
        struct job *job;
        if (dice / 2000 % 2) {
            job = fake_caption(&waiter, lane_model(lane), picture, 3 + text, 10);
        } else {
            job = fake_job(&waiter, TASK_MATCH, WORK_PAIR, 2);
            for (int i = 0; i < 2; i++) {
                fake_image(&job->works[i], picture + i);
                fake_texts(&job->works[i], 2, (const int32_t[]){text, text + 1});
            }
        }
        job->priority = dice / 4000 % 2 ? PRIORITY_BATCH : PRIORITY_INTERACTIVE;
        bool cancels = dice / 8000 % 8 == 0;
        struct error err = {0};
        if (runtime_submit(lane, job, &err)) {
            client->wrong += err.status != STATUS_QUEUE_FULL;
            job_free(job);
            continue;
        }
        if (cancels)
            atomic_store(&job->cancelled, true);
        waiter_wait(&waiter, 1);
        waiter.n_done = 0;
        for (size_t i = 0; i < job->n_works; i++) {
            const struct work *work = &job->works[i];
            if (work->error.status)
                client->wrong += !cancels || work->error.status != STATUS_CANCELLED;
            else if (work->kind == WORK_PAIR)
                client->wrong += work->outputs[2] != (float)(picture + (int)i + 10 * (text + 1));
            else
                client->wrong += work->generated->n > 10;
        }
        job_free(job);
    }
    return NULL;
}

START_TEST(runtime_keeps_many_clients_apart)
{
    struct fake fakes[2] = {{0}};
    struct runtime_options options = roomy;
    options.max_queue = 12;
    options.max_sequences = 5;
    options.feature_cache_bytes = 2000; /* a few pictures: entries come and go */
    struct runtime *runtime = fake_runtime(options);
    struct lane *lanes[2] = {fake_lane(runtime, "a", &fakes[0]),
                             fake_lane(runtime, "b", &fakes[1])};
    struct client clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.lanes = lanes, .seed = (unsigned)i + 1};
        ck_assert(!pthread_create(&clients[i].thread, NULL, client_main, &clients[i]));
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        ck_assert_int_eq(clients[i].wrong, 0);
    }
    for (int k = 0; k < 2; k++) {
        ck_assert_uint_eq(lane_stats(lanes[k])->queue_depth + lane_stats(lanes[k])->running, 0);
        ck_assert_uint_eq(lane_stats(lanes[k])->kv_bytes, 0);
        ck_assert_uint_le(lane_stats(lanes[k])->cache_bytes, 2000);
        ck_assert_int_le(fakes[k].max_rows, 5);
    }
    runtime_free(runtime);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime");
    TCase *tcase = tcase_create("runtime");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, runtime_encodes_pictures_and_texts_of_each_work);
    tcase_add_test(tcase, runtime_scores_every_text_against_all_pictures);
    tcase_add_test(tcase, runtime_refuses_what_a_model_cannot_do);
    tcase_add_test(tcase, runtime_finds_models_by_name_and_task);
    tcase_add_test(tcase, runtime_gathers_arrivals_while_a_pass_runs);
    tcase_add_test(tcase, runtime_waits_for_company_only_where_asked);
    tcase_add_test(tcase, runtime_computes_a_picture_once);
    tcase_add_test(tcase, runtime_lets_interactive_works_pass_but_never_starves_the_others);
    tcase_add_test(tcase, runtime_alternates_encoding_and_decoding);
    tcase_add_test(tcase, runtime_shares_the_pool_between_models);
    tcase_add_test(tcase, runtime_blames_only_the_faulty_item);
    tcase_add_test(tcase, runtime_survives_passes_that_are_too_large_for_memory);
    tcase_add_test(tcase, runtime_drops_cancelled_and_expired_works);
    tcase_add_test(tcase, runtime_refuses_at_once_when_the_queue_is_full);
    tcase_add_test(tcase, runtime_refuses_what_would_wait_past_its_deadline);
    tcase_add_test(tcase, runtime_drains_what_it_has_and_takes_no_more);
    tcase_add_test(tcase, runtime_ends_what_is_left_when_freed);
    tcase_add_test(tcase, runtime_unloads_an_unused_model_and_brings_it_back);
    tcase_add_test(tcase, lane_is_alive_until_a_pass_hangs);
    tcase_add_test(tcase, runtime_keeps_many_clients_apart);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
