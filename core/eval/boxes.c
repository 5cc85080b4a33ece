/*
 * boxes.c: average precision of detections as COCO defines it; see eval.h.
 */
#include <math.h>
#include <stdlib.h>

#include "core/eval/eval.h"

enum { RECALL_POINTS = 101 };

/* By label, best first. */
static int by_score(const void *a, const void *b)
{
    const struct eval_box *x = a, *y = b;
    if (x->label != y->label)
        return x->label < y->label ? -1 : 1;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->image > y->image) - (x->image < y->image);
}

/* By label, by picture. */
static int by_image(const void *a, const void *b)
{
    const struct eval_box *x = a, *y = b;
    if (x->label != y->label)
        return x->label < y->label ? -1 : 1;
    return (x->image > y->image) - (x->image < y->image);
}

static double overlap(const struct eval_box *a, const struct eval_box *b)
{
    double w = fmin(a->xmax, b->xmax) - fmax(a->xmin, b->xmin);
    double h = fmin(a->ymax, b->ymax) - fmax(a->ymin, b->ymin);
    if (!(w > 0) || !(h > 0))
        return 0;
    double one = (double)(a->xmax - a->xmin) * (double)(a->ymax - a->ymin);
    double other = (double)(b->xmax - b->xmin) * (double)(b->ymax - b->ymin);
    return w * h / (one + other - w * h);
}

/* Marks in hit[] which detections of one label, best first, have a true box of their own. */
static void assign(const struct eval_box *found, size_t n_found, const struct eval_box *truth,
                   size_t n_truth, double min_iou, bool *taken, bool *hit)
{
    for (size_t j = 0; j < n_truth; j++)
        taken[j] = false;
    for (size_t i = 0; i < n_found; i++) {
        size_t best = n_truth, first = 0, last = n_truth;
        double best_iou = min_iou;
        while (first < last) { /* the first true box of the same picture */
            size_t middle = (first + last) / 2;
            if (truth[middle].image < found[i].image)
                first = middle + 1;
            else
                last = middle;
        }
        for (size_t j = first; j < n_truth && truth[j].image == found[i].image; j++) {
            double iou = taken[j] ? -1 : overlap(&found[i], &truth[j]);
            if (iou >= best_iou) {
                best_iou = iou;
                best = j;
            }
        }
        hit[i] = best < n_truth;
        if (hit[i])
            taken[best] = true;
    }
}

/* The mean, over recalls 0, 0.01 … 1, of the best precision at that recall or a higher one. */
static double precision_of(const bool *hit, size_t n_found, size_t n_truth)
{
    double at[RECALL_POINTS] = {0};
    size_t right = 0;
    for (size_t i = 0; i < n_found; i++) {
        if (!hit[i])
            continue;
        right++;
        double precision = (double)right / (double)(i + 1);
        /* This recall is reached for all points up to right / n_truth. */
        size_t point = right * (RECALL_POINTS - 1) / n_truth;
        at[point] = fmax(at[point], precision);
    }
    double sum = 0, best = 0;
    for (size_t point = RECALL_POINTS; point-- > 0;) {
        best = fmax(best, at[point]);
        sum += best;
    }
    return sum / RECALL_POINTS;
}

double boxes_average_precision(struct eval_box *found, size_t n_found, struct eval_box *truth,
                               size_t n_truth, double min_iou)
{
    bool *hit = malloc(n_found + 1), *taken = malloc(n_truth + 1);
    double sum = 0;
    size_t n_labels = 0;
    if (hit && taken) {
        qsort(found, n_found, sizeof *found, by_score);
        qsort(truth, n_truth, sizeof *truth, by_image);
        for (size_t t = 0, f = 0; t < n_truth; n_labels++) {
            size_t label = truth[t].label, t_end = t, f_end;
            while (t_end < n_truth && truth[t_end].label == label)
                t_end++;
            while (f < n_found && found[f].label < label)
                f++;
            for (f_end = f; f_end < n_found && found[f_end].label == label;)
                f_end++;
            assign(found + f, f_end - f, truth + t, t_end - t, min_iou, taken, hit);
            sum += precision_of(hit, f_end - f, t_end - t);
            t = t_end;
            f = f_end;
        }
    }
    bool ok = hit && taken;
    free(hit);
    free(taken);
    return !ok ? -1 : n_labels ? sum / (double)n_labels : 0;
}
