/*
 * test_eval.c: the measures of core/eval against the field's own tools (tests/reference/
 * eval_measures.py), and answers as VQA v2 compares them.
 */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/eval/eval.h"

static json_t *golden;

static void open_golden(void)
{
    char path[1024];
    json_error_t fault;
    const char *root = getenv("VLMD_TEST_DATA");
    snprintf(path, sizeof path, "%s/goldens/eval.json", root ? root : "tests/data");
    golden = json_load_file(path, 0, &fault);
    ck_assert_msg(golden != NULL, "%s: %s", path, fault.text);
}

static void close_golden(void)
{
    json_decref(golden);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

START_TEST(answers_are_compared_without_dress)
{
    static const char *const rows[][2] = {
        {"Two  cats.", "2 cats"},
        {"The dog", "dog"},
        {"it's red!", "its red"},
        {"1,000", "1000"},
        {"3.5 metres", "3.5 metres"},
        {"a", ""},
        {"red,blue", "red blue"},
        {"", ""},
        {"Grün", "grün"},
        {"yes, a cat", "yes cat"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char out[ANSWER_MAX];
        answer_normalize(rows[i][0], out);
        ck_assert_str_eq(out, rows[i][1]);
    }
    char *endless = calloc(1, 5000), out[ANSWER_MAX];
    memset(endless, 'x', 4999);
    answer_normalize(endless, out);
    ck_assert_uint_eq(strlen(out), ANSWER_MAX - 1);
    for (size_t i = 0; i < 4999; i += 2)
        endless[i] = ' ';
    answer_normalize(endless, out);
    ck_assert_uint_lt(strlen(out), ANSWER_MAX);
    free(endless);
}
END_TEST

/* The figure of the official script: each of ten people left out in turn. */
static double leave_one_out(size_t agreeing)
{
    double sum = 0;
    for (size_t i = 0; i < 10; i++)
        sum += fmin(1, (double)(agreeing - (i < agreeing)) / 3);
    return sum / 10;
}

START_TEST(ten_answers_count_as_vqa_v2_counts)
{
    for (size_t agreeing = 0; agreeing <= 10; agreeing++) {
        const char *truths[10];
        for (size_t i = 0; i < 10; i++)
            truths[i] = i < agreeing ? "a dog" : "cat";
        ck_assert_double_eq_tol(answer_score("Dog", truths, 10), leave_one_out(agreeing), 1e-9);
    }
    const char *few[] = {"red", "crimson"};
    ck_assert(answer_score("Crimson.", few, 2) == 1);
    ck_assert(answer_score("blue", few, 2) == 0);
}
END_TEST

START_TEST(captions_get_the_figures_of_the_coco_tools)
{
    const json_t *set = json_object_get(golden, "captions"), *rows = json_object_get(set, "rows");
    size_t n = json_array_size(rows);
    struct captioned *captions = calloc(n, sizeof *captions);
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i), *list = json_object_get(row, "references");
        size_t n_references = json_array_size(list);
        const char **references = calloc(n_references, sizeof *references);
        for (size_t r = 0; r < n_references; r++)
            references[r] = json_string_value(json_array_get(list, r));
        captions[i] = (struct captioned){json_string_value(json_object_get(row, "candidate")),
                                         references, n_references};
    }
    ck_assert_double_eq_tol(captions_cider(captions, n), number(set, "cider"), 1e-6);
    ck_assert_double_eq_tol(captions_bleu(captions, n), number(set, "bleu"), 1e-6);
    ck_assert(captions_cider(captions, 0) == 0);
    for (size_t i = 0; i < n; i++)
        free((void *)captions[i].references);
    free(captions);

    const char *same = "a cat sits on the sofa", *nothing = "";
    const struct captioned pair[] = {{same, &same, 1}, {nothing, &same, 1}};
    ck_assert_double_eq_tol(captions_bleu(pair, 1), 1, 1e-9);
    ck_assert(captions_bleu(pair + 1, 1) == 0);
    ck_assert(captions_cider(pair + 1, 1) == 0);
}
END_TEST

static struct eval_box *boxes_of(const char *key, size_t *n)
{
    const json_t *list = json_object_get(json_object_get(golden, "boxes"), key);
    *n = json_array_size(list);
    struct eval_box *boxes = calloc(*n, sizeof *boxes);
    for (size_t i = 0; i < *n; i++) {
        double at[7];
        for (size_t k = 0; k < 7; k++)
            at[k] = json_number_value(json_array_get(json_array_get(list, i), k));
        boxes[i] = (struct eval_box){(size_t)at[0], (size_t)at[1], (float)at[2], (float)at[3],
                                     (float)at[4],  (float)at[5],  (float)at[6]};
    }
    return boxes;
}

START_TEST(boxes_get_the_figures_of_the_coco_tools)
{
    const json_t *set = json_object_get(golden, "boxes");
    size_t n_found, n_truth;
    struct eval_box *found = boxes_of("found", &n_found), *truth = boxes_of("truth", &n_truth);
    double mean = 0;
    for (int step = 0; step < 10; step++) {
        double ap = boxes_average_precision(found, n_found, truth, n_truth, 0.5 + 0.05 * step);
        if (step == 0)
            ck_assert_double_eq_tol(ap, number(set, "ap50"), 1e-4);
        mean += ap / 10;
    }
    ck_assert_double_eq_tol(mean, number(set, "ap"), 1e-4);
    ck_assert_double_eq_tol(boxes_average_precision(truth, n_truth, truth, n_truth, 0.95), 1, 1e-9);
    ck_assert(boxes_average_precision(found, n_found, truth, 0, 0.5) == 0);
    ck_assert(boxes_average_precision(found, 0, truth, n_truth, 0.5) == 0);
    free(found);
    free(truth);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("eval");
    TCase *tcase = tcase_create("eval");
    tcase_add_unchecked_fixture(tcase, open_golden, close_golden);
    tcase_add_test(tcase, answers_are_compared_without_dress);
    tcase_add_test(tcase, ten_answers_count_as_vqa_v2_counts);
    tcase_add_test(tcase, captions_get_the_figures_of_the_coco_tools);
    tcase_add_test(tcase, boxes_get_the_figures_of_the_coco_tools);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
