/*
 * eval.h: how right answers are: the measures that the field's data sets are judged by. Texts and
 * numbers in, figures out; no models, no files. All may be called from any thread.
 */
#ifndef VLMD_CORE_EVAL_EVAL_H
#define VLMD_CORE_EVAL_EVAL_H

#include <stdbool.h>
#include <stddef.h>

/* ---- answers (VQA v2, https://visualqa.org/evaluation.html) -------------------------------------
 */

enum { ANSWER_MAX = 256 };

/* The text as answers are compared: lower case, no punctuation (but within numbers), no articles,
 * number words as digits, single spaces. Cut at ANSWER_MAX - 1 bytes. */
void answer_normalize(const char *text, char out[ANSWER_MAX]);

/* How right an answer is, 0 … 1. Ten or more answers of people: the mean over all but one of them
 * of min(1, agreeing / 3). Fewer: 1 when it is one of them. */
double answer_score(const char *answer, const char *const *truths, size_t n);

/* ---- captions -----------------------------------------------------------------------------------
 *
 * Words are what lies between spaces and punctuation, in lower case (close to, not the same as, the
 * Penn Treebank tokenizer that papers use: figures can differ in the second digit).
 */

struct captioned {
    const char *candidate;
    const char *const *references;
    size_t n_references; /* >= 1 */
};

/* CIDEr-D (Vedantam et al. 2015): n-grams of 1 to 4 words weighed by how rare they are in this
 * set's references, clipped, with the Gaussian length penalty of sigma 6; times 10. Negative: no
 * memory.
 */
double captions_cider(const struct captioned *captions, size_t n);

/* BLEU-4 of the set (Papineni et al. 2002), nearest reference length, no smoothing. Negative: no
 * memory. */
double captions_bleu(const struct captioned *captions, size_t n);

/* ---- boxes (COCO's average precision) -----------------------------------------------------------
 */

struct eval_box {
    size_t image; /* boxes are compared within one picture and label */
    size_t label;
    float score; /* of a detection; not read of a true box */
    float xmin, ymin, xmax, ymax;
};

/* The mean over the labels that have true boxes of the average precision (101 points) at this
 * overlap; 0 where there are none. Sorts both lists. Negative: no memory. */
double boxes_average_precision(struct eval_box *found, size_t n_found, struct eval_box *truth,
                               size_t n_truth, double min_iou);

#endif
