/*
 * test_beam.c: beam search alone (beam.h) against transformers' generate(), driven row by row with
 * the table of fake_logit().
 */
#include <math.h>

#include "core/runtime/beam.h"
#include "tests/unit/generation_cases.h"
#include "tests/unit/runtime_fake.h"

enum { BEAMS_MAX = 8, IDS_MAX = 64 };

/* Follows the beams as the lane does: parents and tokens only. */
struct follower {
    int32_t ids[BEAMS_MAX][IDS_MAX];
    size_t n_ids;
};

static void table_row(uint32_t seed, const int32_t *ids, size_t n, float *row)
{
    for (int32_t id = 0; id < FAKE_VOCAB; id++)
        row[id] = fake_logit(seed, n > 1 ? ids[n - 2] : 0, ids[n - 1], n, id);
}

static void run_search(struct beam_search *search, struct follower *follower, size_t n_beams,
                       uint32_t seed)
{
    struct error err = {0};
    float row[FAKE_VOCAB];
    size_t parents[BEAMS_MAX];
    int32_t tokens[BEAMS_MAX];
    table_row(seed, follower->ids[0], follower->n_ids, row);
    ck_assert(!beam_feed_prompt(search, row, &err));
    for (int step = 0;; step++) {
        bool done = false;
        ck_assert_int_lt(step, IDS_MAX);
        ck_assert_msg(!beam_advance(search, parents, tokens, &done, &err), "%s", err.message);
        if (done)
            return;
        struct follower next = {.n_ids = follower->n_ids + 1};
        for (size_t i = 0; i < n_beams; i++) {
            size_t parent = step == 0 ? 0 : parents[i];
            memcpy(next.ids[i], follower->ids[parent], sizeof next.ids[i]);
            next.ids[i][follower->n_ids] = tokens[i];
        }
        *follower = next;
        for (size_t i = n_beams; i-- > 0;) { /* any order */
            table_row(seed, follower->ids[i], follower->n_ids, row);
            ck_assert(!beam_feed(search, i, row, &err));
        }
    }
}

START_TEST(beam_search_equals_generate)
{
    json_t *golden = generation_goldens(), *cases = json_object_get(golden, "generate");
    int n_beam_cases = 0;
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *each = json_array_get(cases, c),
                     *settings = json_object_get(each, "settings");
        struct generation_params params = case_params(settings);
        if (params.num_beams < 2)
            continue;
        n_beam_cases++;
        struct follower follower = {0};
        follower.n_ids = case_ids(json_object_get(each, "prompt"), follower.ids[0], IDS_MAX);
        struct error err = {0};
        struct beam_search *search =
            beam_new(&params, follower.ids[0], follower.n_ids,
                     follower.n_ids + params.max_new_tokens, FAKE_VOCAB, NULL, &err);
        ck_assert_msg(search != NULL, "%s", err.message);
        run_search(search, &follower, params.num_beams, (uint32_t)case_size(each, "seed", 0));
        const json_t *wanted = json_object_get(each, "new_ids"),
                     *scores = json_object_get(each, "scores");
        ck_assert_uint_eq(json_array_size(wanted), params.n);
        for (size_t i = 0; i < params.n; i++) {
            const int32_t *ids;
            int32_t want[IDS_MAX];
            size_t n, n_want = case_ids(json_array_get(wanted, i), want, IDS_MAX);
            float score;
            beam_result(search, i, &ids, &n, &score);
            ck_assert_msg(n == n_want && !memcmp(ids, want, n * sizeof *ids),
                          "case %zu, hypothesis %zu differs", c, i);
            double want_score = json_number_value(json_array_get(scores, i));
            ck_assert_msg(fabs((double)score - want_score) < 1e-5 * (1 + fabs(want_score)),
                          "case %zu, hypothesis %zu: %g, expected %g", c, i, (double)score,
                          want_score);
        }
        beam_free(search);
    }
    ck_assert_int_gt(n_beam_cases, 200);
    json_decref(golden);
}
END_TEST

START_TEST(beam_refuses_a_vocabulary_too_small_for_its_beams)
{
    struct generation_params params;
    struct error err = {0};
    generation_params_default(&params);
    params.num_beams = 4;
    params.n_eos = 3;
    ck_assert_ptr_null(beam_new(&params, (const int32_t[]){0}, 1, 5, 3, NULL, &err));
    ck_assert_int_eq(err.status, STATUS_UNPROCESSABLE);
}
END_TEST

START_TEST(beam_reports_scores_that_are_not_numbers)
{
    struct generation_params params;
    struct error err = {0};
    generation_params_default(&params);
    params.num_beams = 2;
    struct beam_search *search = beam_new(&params, (const int32_t[]){3}, 1, 5, 4, NULL, &err);
    float row[4] = {NAN, 1, 2, 3};
    size_t parents[2];
    int32_t tokens[2];
    bool done;
    ck_assert(!beam_feed_prompt(search, row, &err));
    ck_assert_int_eq(beam_advance(search, parents, tokens, &done, &err), STATUS_INTERNAL);
    beam_free(search);
}
END_TEST

static bool ends_in_seven(void *context, const int32_t *ids, size_t n)
{
    (void)context;
    return ids[n - 1] == 7;
}

START_TEST(beam_ends_hypotheses_where_it_is_told_to_stop)
{
    struct generation_params params;
    struct error err = {0};
    generation_params_default(&params);
    params.num_beams = 3;
    params.n_eos = 0;
    struct beam_stop stop = {ends_in_seven, NULL};
    int n_stopped = 0;
    for (uint32_t seed = 0; seed < 20; seed++) {
        struct follower follower = {.n_ids = 1, .ids = {{3}}};
        struct beam_search *search =
            beam_new(&params, follower.ids[0], 1, 21, FAKE_VOCAB, &stop, &err);
        run_search(search, &follower, 3, seed);
        for (size_t i = 0; i < 3; i++) {
            const int32_t *ids;
            size_t n;
            float score;
            beam_result(search, i, &ids, &n, &score);
            for (size_t j = 0; j + 1 < n; j++)
                ck_assert_int_ne(ids[j], 7);
            n_stopped += ids[n - 1] == 7;
            ck_assert(n == 20 || ids[n - 1] == 7);
        }
        beam_free(search);
    }
    ck_assert_int_gt(n_stopped, 5);
}
END_TEST

START_TEST(beam_sampling_is_repeatable_and_varies_with_the_seed)
{
    struct generation_params params;
    struct error err = {0};
    generation_params_default(&params);
    params.num_beams = 3;
    params.do_sample = true;
    params.top_k = 0;
    int n_different = 0;
    int32_t last[IDS_MAX] = {0};
    for (int i = 0; i < 12; i++) {
        params.seed = (uint64_t)(i / 2);
        struct follower follower = {.n_ids = 1, .ids = {{3}}};
        struct beam_search *search =
            beam_new(&params, follower.ids[0], 1, 11, FAKE_VOCAB, NULL, &err);
        run_search(search, &follower, 3, 5);
        const int32_t *ids;
        size_t n;
        float score;
        beam_result(search, 0, &ids, &n, &score);
        int32_t now[IDS_MAX] = {0};
        memcpy(now, ids, n * sizeof *ids);
        if (i % 2)
            ck_assert_mem_eq(now, last, sizeof now);
        else
            n_different += memcmp(now, last, sizeof now) != 0;
        memcpy(last, now, sizeof last);
        beam_free(search);
    }
    ck_assert_int_ge(n_different, 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("beam");
    TCase *tcase = tcase_create("beam");
    tcase_add_test(tcase, beam_search_equals_generate);
    tcase_add_test(tcase, beam_refuses_a_vocabulary_too_small_for_its_beams);
    tcase_add_test(tcase, beam_reports_scores_that_are_not_numbers);
    tcase_add_test(tcase, beam_ends_hypotheses_where_it_is_told_to_stop);
    tcase_add_test(tcase, beam_sampling_is_repeatable_and_varies_with_the_seed);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
