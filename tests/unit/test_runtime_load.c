/*
 * test_runtime_load.c: a runtime that has more to do than it can: models that share the cores, and
 * what those who are refused are told.
 */
#include "tests/unit/runtime_fake.h"

/* A model that is saturated with slow pictures takes large batches while it is alone, and short
 * turns while a quick one is asked beside it. */
START_TEST(runtime_keeps_turns_short_where_models_share_the_pool)
{
    enum { PICTURES = 64, US = 20000, SHORT = 13 /* × US = STALL_S and a bit */ };
    struct fake slow_fake = {.us_per_image = US}, quick_fake = {0};
    struct runtime *runtime = fake_runtime((struct runtime_options){.max_batch = 32});
    struct lane *slow = fake_lane(runtime, "slow", &slow_fake),
                *quick = fake_lane(runtime, "quick", &quick_fake);
    struct waiter waiters[2];
    waiter_init(&waiters[0]);
    waiter_init(&waiters[1]);
    int values[PICTURES], n_quick = 0;
    for (int i = 0; i < PICTURES; i++)
        values[i] = i;
    for (int shared = 0; shared <= 1; shared++) {
        struct job *job = fake_job(&waiters[0], TASK_EMBED, WORK_ENCODE, 1);
        fake_images(&job->works[0], PICTURES, values);
        atomic_store(&slow_fake.max_images, 0);
        if (shared) { /* it is known to be about */
            struct job *small = fake_job(&waiters[1], TASK_EMBED, WORK_ENCODE, 1);
            fake_image(&small->works[0], 1);
            submit(quick, small);
            waiter_wait(&waiters[1], ++n_quick);
            job_free(small);
        }
        submit(slow, job);
        while (shared && !atomic_load(&slow_fake.max_images))
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        if (shared) {
            struct job *small = fake_job(&waiters[1], TASK_EMBED, WORK_ENCODE, 1);
            fake_image(&small->works[0], 2);
            submit(quick, small);
            waiter_wait(&waiters[1], ++n_quick);
            pthread_mutex_lock(&waiters[0].mutex);
            ck_assert_int_eq(waiters[0].n_done, 1); /* the slow one is still at it */
            pthread_mutex_unlock(&waiters[0].mutex);
            job_free(small);
        }
        waiter_wait(&waiters[0], shared + 1);
        if (shared)
            ck_assert_int_le(atomic_load(&slow_fake.max_images), SHORT);
        else
            ck_assert_int_eq(atomic_load(&slow_fake.max_images), 32);
        job_free(job);
    }
    runtime_free(runtime);
}
END_TEST

/* 50 pictures a second, and 300 that wait: half of them should be gone in 3 seconds. */
START_TEST(runtime_says_when_to_come_back_from_its_measured_rate)
{
    enum { N_FIRST = 25, N_WAITING = 300 };
    struct fake fake = {.us_per_image = 20000};
    struct runtime *runtime =
        fake_runtime((struct runtime_options){.max_batch = 1, .max_queue = 1000});
    struct lane *lane = fake_lane(runtime, "fake", &fake);
    struct waiter waiter;
    waiter_init(&waiter);
    ck_assert_uint_eq(lane_retry_after_s(lane), 1);
    struct job *jobs[2];
    for (int k = 0; k < 2; k++) {
        size_t n = k ? N_WAITING : N_FIRST;
        jobs[k] = fake_job(&waiter, TASK_EMBED, WORK_ENCODE, n);
        for (size_t i = 0; i < n; i++)
            fake_image(&jobs[k]->works[i], (int)(1000 * k) + (int)i);
        submit(lane, jobs[k]);
        if (k == 0)
            waiter_wait(&waiter, 1);
    }
    unsigned seconds = lane_retry_after_s(lane);
    ck_assert_msg(seconds >= 3 && seconds <= 8, "%u s", seconds); /* 8: sleeps may take longer */
    atomic_store(&jobs[1]->cancelled, true);
    waiter_wait(&waiter, 2);
    ck_assert_uint_eq(lane_retry_after_s(lane), 1); /* nobody is waiting any more */
    for (int k = 0; k < 2; k++)
        job_free(jobs[k]);
    runtime_free(runtime);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime_load");
    TCase *tcase = tcase_create("runtime_load");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, runtime_keeps_turns_short_where_models_share_the_pool);
    tcase_add_test(tcase, runtime_says_when_to_come_back_from_its_measured_rate);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
