/*
 * test_sampler.c: logits processors and warpers against transformers, the random numbers, the draw.
 */
#include <math.h>

#include "core/base/size.h"
#include "core/runtime/logits.h"
#include "core/runtime/sampler.h"
#include "tests/unit/generation_cases.h"

enum { VOCAB = 24 };

START_TEST(processors_and_warpers_leave_what_transformers_leaves)
{
    json_t *golden = generation_goldens(), *rows = json_object_get(golden, "rows");
    ck_assert_uint_gt(json_array_size(rows), 40);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *settings = json_object_get(row, "settings");
        struct generation_params params = case_params(settings);
        params.eos_ids[0] = 1;
        params.eos_ids[1] = 2;
        params.n_eos = 2;
        int32_t ids[16];
        float scores[VOCAB], scratch[16];
        size_t n_ids = case_ids(json_object_get(row, "ids"), ids, 16);
        for (size_t j = 0; j < VOCAB; j++)
            scores[j] = (float)json_number_value(json_array_get(json_object_get(row, "row"), j));
        logits_process(&params, ids, n_ids, case_size(row, "n_prompt", 0), scores, VOCAB, scratch);
        struct error err = {0};
        ck_assert(!logits_warp(&params, params.num_beams > 1 ? 3 : 1, scores, VOCAB, &err));
        for (size_t j = 0; j < VOCAB; j++) {
            const json_t *want = json_array_get(json_object_get(row, "out"), j);
            if (json_is_null(want))
                ck_assert_msg(scores[j] == -INFINITY, "row %zu: token %zu should be out", i, j);
            else /* f32 arithmetic in the same order: a unit in the last place */
                ck_assert_msg(fabs((double)scores[j] - json_number_value(want)) <=
                                  2e-7 * fabs((double)scores[j]),
                              "row %zu, token %zu: %g, expected %g", i, j, (double)scores[j],
                              json_number_value(want));
        }
    }
    json_decref(golden);
}
END_TEST

START_TEST(log_sum_is_exact_over_any_size)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 4095, 4096, 4097, 50257};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        size_t n = sizes[i];
        float *row = malloc(n * sizeof *row);
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            row[j] = (float)(20 * sampler_uniform(1, i, j, 0) - 200);
            if (j % 7 == 3)
                row[j] = -INFINITY;
            sum += exp((double)row[j] + 200);
        }
        ck_assert_float_eq_tol(logits_log_sum(row, n), (float)(log(sum) - 200), 2e-5f);
        row[n - 1] = NAN;
        ck_assert(isnan(logits_log_sum(row, n)));
        free(row);
    }
    const float gone[2] = {-INFINITY, -INFINITY};
    ck_assert(logits_log_sum(gone, 2) == -INFINITY);
    /* What exp() is made of, over its whole range. */
    for (int k = 0; k <= 860; k++) {
        const float pair[2] = {0, -0.1f * (float)k};
        double want = log1p(exp((double)pair[1]));
        ck_assert_double_eq_tol((double)logits_log_sum(pair, 2), want, 1e-7 + 1e-6 * want);
    }
}
END_TEST

START_TEST(argmax_takes_the_first_of_equals_and_never_a_nan)
{
    ck_assert_uint_eq(logits_argmax((const float[]){1, 3, 3, 2}, 4), 1);
    ck_assert_uint_eq(logits_argmax((const float[]){NAN, -5, NAN, -4}, 4), 3);
    ck_assert_uint_eq(logits_argmax((const float[]){-INFINITY, -INFINITY}, 2), 0);
    ck_assert_uint_eq(logits_argmax((const float[]){NAN, NAN}, 2), 0);
}
END_TEST

START_TEST(likeliest_tokens_come_in_order_and_impossible_ones_not_at_all)
{
    const float row[] = {0.5f, -INFINITY, 2, 2, -1, -INFINITY};
    struct token_choice top[6];
    float log_sum = logits_log_sum(row, 6);
    logits_top(row, 6, log_sum, 6, top);
    const int32_t want[] = {2, 3, 0, 4, -1, -1};
    for (size_t i = 0; i < 6; i++) {
        ck_assert_int_eq(top[i].id, want[i]);
        if (want[i] >= 0)
            ck_assert_float_eq(top[i].logprob, row[want[i]] - log_sum);
    }
    logits_top(row, 6, log_sum, 1, top);
    ck_assert_int_eq(top[0].id, 2);
    logits_top(row, 2, log_sum, 3, top);
    ck_assert(top[0].id == 0 && top[1].id == -1 && top[2].id == -1);
}
END_TEST

START_TEST(uniform_numbers_are_even_and_independent)
{
    enum { N = 40000, BINS = 20 };
    /* Along each coordinate, with the others fixed. */
    for (int along = 0; along < 4; along++) {
        int bins[BINS] = {0};
        double products = 0, last = 0.5;
        for (uint64_t i = 0; i < N; i++) {
            uint64_t at[4] = {5, 6, 7, 8};
            at[along] = i;
            double u = sampler_uniform(at[0], at[1], at[2], at[3]);
            ck_assert(u > 0 && u < 1);
            bins[(int)(u * BINS)]++;
            products += (u - 0.5) * (last - 0.5);
            last = u;
        }
        double chi2 = 0, expected = (double)N / BINS;
        for (int i = 0; i < BINS; i++)
            chi2 += (bins[i] - expected) * (bins[i] - expected) / expected;
        ck_assert_double_lt(chi2, 45);                  /* 19 degrees of freedom: p ≈ 7e-4 */
        ck_assert_double_lt(fabs(products / N), 0.002); /* 5 standard deviations */
    }
    ck_assert_double_eq(sampler_uniform(1, 2, 3, 4), sampler_uniform(1, 2, 3, 4));
}
END_TEST

START_TEST(draws_follow_the_distribution)
{
    enum { N = 20000 };
    const float scores[6] = {0, 1, -INFINITY, 2, -3, 0.5f};
    int counts[6] = {0};
    for (uint64_t i = 0; i < N; i++) {
        size_t chosen;
        ck_assert(sampler_draw(scores, 6, sampler_uniform(9, 0, i, 0), &chosen));
        counts[chosen]++;
    }
    double total = 0;
    for (int i = 0; i < 6; i++)
        total += exp((double)scores[i]);
    for (int i = 0; i < 6; i++) {
        double p = exp((double)scores[i]) / total, sigma = sqrt(N * p * (1 - p));
        ck_assert_double_le(fabs(counts[i] - N * p), 4 * sigma);
    }
    ck_assert_int_eq(counts[2], 0);
    size_t chosen;
    ck_assert(sampler_draw(scores, 6, 1 - 0x1p-53, &chosen));
    ck_assert_uint_eq(chosen, 5);
    ck_assert(sampler_draw(scores, 6, 0x1p-60, &chosen));
    ck_assert_uint_eq(chosen, 0);
    ck_assert(!sampler_draw((const float[]){-INFINITY, -INFINITY}, 2, 0.5, &chosen));
    ck_assert(!sampler_draw((const float[]){1, NAN}, 2, 0.5, &chosen));
}
END_TEST

/* top-k and top-p on a large row, beside a plain sort. */
static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

START_TEST(top_k_and_top_p_agree_with_a_plain_sort)
{
    enum { N = 30000 };
    float *row = malloc(N * sizeof *row), *sorted = malloc(N * sizeof *sorted);
    static const struct {
        size_t top_k;
        float top_p;
        float spread;
    } cases[] = {{50, 1, 5},       {1, 1, 5},     {29999, 1, 5},    {0, 0.9f, 5},
                 {0, 0.9f, 0.01f}, {0, 0.01f, 5}, {0, 0.9999f, 30}, {200, 0.5f, 2}};
    for (size_t c = 0; c < ARRAY_LENGTH(cases); c++) {
        for (size_t i = 0; i < N; i++)
            row[i] = (float)sampler_uniform(c, 0, i, 0) * cases[c].spread;
        memcpy(sorted, row, N * sizeof *row);
        qsort(sorted, N, sizeof *sorted, falling);
        size_t n = cases[c].top_k ? cases[c].top_k : N;
        if (cases[c].top_p < 1) {
            double total = 0, sum = 0;
            size_t kept = 0;
            for (size_t i = 0; i < n; i++)
                total += exp((double)sorted[i]);
            while (kept < n && (kept == 0 || sum / total < (double)cases[c].top_p))
                sum += exp((double)sorted[kept++]);
            n = kept;
        }
        struct generation_params params;
        generation_params_default(&params);
        params.top_k = cases[c].top_k;
        params.top_p = cases[c].top_p;
        struct error err = {0};
        ck_assert(!logits_warp(&params, 1, row, N, &err));
        size_t kept = 0;
        for (size_t i = 0; i < N; i++)
            kept += row[i] != -INFINITY;
        /* the sums round differently: one more or less at the border */
        ck_assert_msg(kept + 1 >= n && kept <= n + 1, "case %zu: kept %zu, expected %zu", c, kept,
                      n);
    }
    free(row);
    free(sorted);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler");
    TCase *tcase = tcase_create("sampler");
    tcase_add_test(tcase, processors_and_warpers_leave_what_transformers_leaves);
    tcase_add_test(tcase, log_sum_is_exact_over_any_size);
    tcase_add_test(tcase, argmax_takes_the_first_of_equals_and_never_a_nan);
    tcase_add_test(tcase, likeliest_tokens_come_in_order_and_impossible_ones_not_at_all);
    tcase_add_test(tcase, uniform_numbers_are_even_and_independent);
    tcase_add_test(tcase, draws_follow_the_distribution);
    tcase_add_test(tcase, top_k_and_top_p_agree_with_a_plain_sort);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
