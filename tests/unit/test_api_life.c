/*
 * test_api_life.c: a call's life: deadline, cancel, many at once, a reply that is too large, a
 * server that drains or has nothing to serve.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "api_world.h"
#include "core/base/size.h"

START_TEST(late_and_cancelled_calls_are_not_computed)
{
    char *body = expand("{\"image\": \"@photo_97x61.jpg\"}");
    struct question question = {.method = "POST",
                                .path = "/v1/caption",
                                .type = "application/json",
                                .body = body,
                                .size = strlen(body),
                                .timeout_ms = 50,
                                .age_ns = 60000000};
    struct reply reply = ask_with(api, &question);
    ck_assert_int_eq(reply.status, 504);
    reply_free(&reply);
    char *impatient = expand("{\"image\": \"@photo_97x61.jpg\", \"timeout_ms\": 20}");
    question.timeout_ms = 0;
    question.body = impatient;
    question.size = strlen(impatient);
    reply = ask_with(api, &question);
    ck_assert_int_eq(reply.status, 504);
    reply_free(&reply);
    free(impatient);
    question.body = body;
    question.size = strlen(body);
    question.age_ns = 0;
    question.timeout_ms = 60000;
    question.is_cancelled = true;
    reply = ask_with(api, &question);
    ck_assert_int_eq(reply.status, 499);
    reply_free(&reply);
    free(body);
}
END_TEST

/* Several clients at once, every third of which goes away at some moment. */
static void *impatient_client(void *context)
{
    const char *body = context;
    for (int i = 0; i < 12; i++) {
        struct error err = {0};
        struct route route = {0};
        ck_assert(!api_route(api, "POST", "/v1/caption", &route, &err));
        const struct http_request request = {.query = "",
                                             .content_type = "application/json",
                                             .body = body,
                                             .body_bytes = strlen(body),
                                             .request_id = "",
                                             .received_ns = clock_ns()};
        sem_t woken;
        sem_init(&woken, 0, 0);
        struct call *call = call_new(api, &route, &request, on_wake, &woken, &err);
        bool is_done = call_step(call);
        if (i % 3 == 0)
            call_cancel(call);
        while (!is_done) {
            sem_wait(&woken);
            is_done = call_step(call);
        }
        int status = call_reply(call)->status;
        ck_assert_msg(status == 200 || (i % 3 == 0 && status == 499), "%d", status);
        call_free(call);
        sem_destroy(&woken);
    }
    return NULL;
}

START_TEST(calls_of_many_threads_do_not_disturb_each_other)
{
    char *body = expand("{\"image\": \"@photo_97x61.jpg\", \"max_tokens\": 5}");
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        ck_assert(!pthread_create(&threads[i], NULL, impatient_client, body));
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        pthread_join(threads[i], NULL);
    free(body);
}
END_TEST

START_TEST(a_reply_past_its_bound_is_an_error)
{
    struct error err = {0};
    struct api_options small = options;
    small.max_reply_bytes = 100;
    struct api *bounded = api_new(&small, runtime, store, &err);
    struct reply reply = ask_with(bounded, &(struct question){.method = "POST",
                                                              .path = "/v1/embeddings",
                                                              .type = "application/json",
                                                              .body = "{\"input\": \"a\"}",
                                                              .size = 14});
    ck_assert_int_eq(reply.status, 422);
    reply_free(&reply);
    api_free(bounded);
}
END_TEST

START_TEST(without_store_or_models_it_says_so)
{
    struct error err = {0};
    struct api *bare = api_new(&options, NULL, NULL, &err);
    static const struct question rows[] = {
        {.method = "GET", .path = "/v1/collections"},
        {.method = "POST",
         .path = "/v1/embeddings",
         .type = "application/json",
         .body = "{\"input\": \"a\"}",
         .size = 14},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct reply reply = ask_with(bare, &rows[i]);
        ck_assert_int_eq(reply.status, 503);
        ck_assert(reply.retry_after[0]);
        reply_free(&reply);
    }
    api_free(bare);
}
END_TEST

/* The last test: it drains the runtime that all share. */
START_TEST(admission_comes_before_decoding)
{
    runtime_drain(runtime);
    struct reply reply = post("/v1/caption", "{\"image\": \"***\"}");
    ck_assert_int_eq(reply.status, 503); /* not the 400 that the picture would get */
    ck_assert(reply.retry_after[0]);
    reply_free(&reply);
    reply = post("/v1/embeddings", "{\"input\": [{\"image\": \"***\"}]}");
    ck_assert_int_eq(reply.status, 503);
    reply_free(&reply);
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, late_and_cancelled_calls_are_not_computed);
    tcase_add_test(tcase, calls_of_many_threads_do_not_disturb_each_other);
    tcase_add_test(tcase, a_reply_past_its_bound_is_an_error);
    tcase_add_test(tcase, without_store_or_models_it_says_so);
    tcase_add_test(tcase, admission_comes_before_decoding);
}

int main(void)
{
    return api_world_run("api_life", add_tests);
}
