/*
 * test_nn_pool.c: each task once, by any number of threads, for any number of lanes.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/nn/pool.h"

enum { N_TASKS_MAX = 100 };

struct count {
    atomic_int times[N_TASKS_MAX];
    int plain[N_TASKS_MAX]; /* written by the task, read by the caller: visible without atomics */
};

static void count_task(void *context, size_t i)
{
    struct count *count = context;
    atomic_fetch_add(&count->times[i], 1);
    count->plain[i] += (int)i + 1;
}

static void run_lane(struct pool *pool, int rounds, bool pauses)
{
    for (int round = 0; round < rounds; round++) {
        struct count *count = calloc(1, sizeof *count);
        ck_assert_ptr_nonnull(count);
        size_t n = (size_t)round % N_TASKS_MAX;
        if (round % 3) /* few of the threads, and others the next time */
            pool_run_sized(pool, n, (size_t)(round % 7) << 18, count_task, count);
        else
            pool_run(pool, n, count_task, count);
        for (size_t i = 0; i < N_TASKS_MAX; i++) {
            ck_assert_int_eq(atomic_load(&count->times[i]), i < n);
            ck_assert_int_eq(count->plain[i], i < n ? (int)i + 1 : 0);
        }
        free(count); /* a worker that still touched the job would be seen by the sanitizer */
        if (pauses && round % 50 == 0)
            usleep(300); /* long enough for the workers to fall asleep */
    }
}

START_TEST(pool_runs_each_task_once)
{
    struct error err;
    for (size_t threads = 1; threads <= 4; threads++) {
        struct pool *pool = pool_new(threads, &err);
        ck_assert_ptr_nonnull(pool);
        ck_assert_uint_eq(pool_threads(pool), threads);
        run_lane(pool, 500, true);
        pool_free(pool);
    }
}
END_TEST

struct meeting {
    pthread_t caller;
    atomic_int n_others;
};

/* Waits, for a while, until another thread has come. */
static void meet_task(void *context, size_t i)
{
    struct meeting *meeting = context;
    (void)i;
    if (!pthread_equal(pthread_self(), meeting->caller))
        atomic_fetch_add(&meeting->n_others, 1);
    for (int ms = 0; ms < 200 && !atomic_load(&meeting->n_others); ms++)
        usleep(1000);
}

START_TEST(pool_wakes_sleepers_only_for_what_is_worth_it)
{
    struct error err;
    struct pool *pool = pool_new(2, &err);
    ck_assert_ptr_nonnull(pool);
    for (int large = 0; large <= 1; large++) {
        struct meeting meeting = {.caller = pthread_self()};
        usleep(20000); /* the worker falls asleep */
        pool_run_sized(pool, 2, large ? SIZE_MAX : 1 << 19, meet_task, &meeting);
        ck_assert_int_eq(atomic_load(&meeting.n_others), large);
    }
    pool_free(pool);
}
END_TEST

static void *lane_main(void *pool)
{
    run_lane(pool, 300, false);
    return NULL;
}

START_TEST(pool_serves_several_lanes)
{
    struct error err;
    for (size_t threads = 1; threads <= 4; threads++) {
        struct pool *pool = pool_new(threads, &err);
        ck_assert_ptr_nonnull(pool);
        pthread_t lanes[3];
        for (int i = 0; i < 3; i++)
            ck_assert_int_eq(pthread_create(&lanes[i], NULL, lane_main, pool), 0);
        for (int i = 0; i < 3; i++)
            pthread_join(lanes[i], NULL);
        pool_free(pool);
    }
}
END_TEST

START_TEST(pool_sizes_itself_and_comes_and_goes)
{
    struct error err;
    for (int i = 0; i < 20; i++) {
        struct pool *pool = pool_new(0, &err);
        ck_assert_ptr_nonnull(pool);
        ck_assert_uint_ge(pool_threads(pool), 1);
        ck_assert_uint_le(pool_threads(pool), (size_t)sysconf(_SC_NPROCESSORS_CONF));
        pool_free(pool);
    }
    pool_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nn_pool");
    TCase *tcase = tcase_create("nn_pool");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, pool_runs_each_task_once);
    tcase_add_test(tcase, pool_wakes_sleepers_only_for_what_is_worth_it);
    tcase_add_test(tcase, pool_serves_several_lanes);
    tcase_add_test(tcase, pool_sizes_itself_and_comes_and_goes);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
