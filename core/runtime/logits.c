/*
 * logits.c: see logits.h. Follows transformers' generation/logits_process.py (5.x), class by class;
 * each function names its class.
 */
#include "core/runtime/logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/nn/nn.h"

/* ---- sums ---------------------------------------------------------------------------------------
 */

float logits_log_sum(const float *row, size_t n_vocab)
{
    return nn_log_sum(row, n_vocab);
}

void logits_log_softmax(float *row, size_t n_vocab)
{
    float log_sum = logits_log_sum(row, n_vocab);
    for (size_t i = 0; i < n_vocab; i++)
        row[i] -= log_sum;
}

size_t logits_argmax(const float *row, size_t n_vocab)
{
    size_t best = 0;
    float max = -INFINITY;
    for (size_t i = 0; i < n_vocab; i++)
        if (row[i] > max) {
            max = row[i];
            best = i;
        }
    return best;
}

void logits_top(const float *row, size_t n_vocab, float log_sum, size_t k, struct token_choice *out)
{
    size_t n = 0;
    for (size_t i = 0; k && i < n_vocab; i++) {
        if (row[i] == -INFINITY || (n == k && row[i] <= out[k - 1].logprob))
            continue;
        size_t at = n < k ? n++ : k - 1;
        for (; at && out[at - 1].logprob < row[i]; at--)
            out[at] = out[at - 1];
        out[at] = (struct token_choice){(int32_t)i, row[i]};
    }
    for (size_t i = 0; i < n; i++)
        out[i].logprob -= log_sum;
    for (; n < k; n++)
        out[n] = (struct token_choice){-1, -INFINITY};
}

/* ---- processors ---------------------------------------------------------------------------------
 */

bool logits_untouched(const struct generation_params *params)
{
    return params->repetition_penalty == 1 && params->no_repeat_ngram_size == 0 &&
           params->min_length == 0 && params->min_new_tokens == 0 && params->n_banned == 0;
}

static bool in_vocab(int32_t id, size_t n_vocab)
{
    return id >= 0 && (size_t)id < n_vocab;
}

/* RepetitionPenaltyLogitsProcessor: every id of the sequence once, however often it occurs, which
 * is why the old scores are read before any is written. */
static void penalise_repetition(float penalty, const int32_t *ids, size_t n_ids, float *row,
                                size_t n_vocab, float *scratch)
{
    for (size_t i = 0; i < n_ids; i++)
        scratch[i] = in_vocab(ids[i], n_vocab) ? row[ids[i]] : 0;
    for (size_t i = 0; i < n_ids; i++)
        if (in_vocab(ids[i], n_vocab))
            row[ids[i]] = scratch[i] < 0 ? scratch[i] * penalty : scratch[i] / penalty;
}

/* NoRepeatNGramLogitsProcessor: a window that starts like the sequence ends bans its last token. */
static void ban_repeated_ngrams(size_t size, const int32_t *ids, size_t n_ids, float *row,
                                size_t n_vocab)
{
    if (n_ids < size)
        return;
    const int32_t *suffix = ids + n_ids + 1 - size;
    for (size_t start = 0; start + size <= n_ids; start++) {
        int32_t last = ids[start + size - 1];
        if (in_vocab(last, n_vocab) &&
            (size == 1 || memcmp(ids + start, suffix, (size - 1) * sizeof *ids) == 0))
            row[last] = -INFINITY;
    }
}

void logits_process(const struct generation_params *params, const int32_t *ids, size_t n_ids,
                    size_t n_prompt, float *row, size_t n_vocab, float *scratch)
{
    if (params->repetition_penalty != 1 && params->repetition_penalty > 0)
        penalise_repetition(params->repetition_penalty, ids, n_ids, row, n_vocab, scratch);
    if (params->no_repeat_ngram_size)
        ban_repeated_ngrams(params->no_repeat_ngram_size, ids, n_ids, row, n_vocab);
    /* NoBadWordsLogitsProcessor, SuppressTokensLogitsProcessor */
    for (size_t i = 0; i < params->n_banned; i++)
        if (in_vocab(params->banned_ids[i], n_vocab))
            row[params->banned_ids[i]] = -INFINITY;
    /* MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor; min_new_tokens replaces
     * min_length where both are given. */
    bool too_short = params->min_new_tokens ? n_ids - n_prompt < params->min_new_tokens
                                            : n_ids < params->min_length;
    for (size_t i = 0; too_short && i < params->n_eos; i++)
        if (in_vocab(params->eos_ids[i], n_vocab))
            row[params->eos_ids[i]] = -INFINITY;
}

/* ---- warpers ------------------------------------------------------------------------------------
 */

/* Min-heap of the k largest scores seen. */
static void sift_down(float *heap, size_t k, size_t i)
{
    for (;;) {
        size_t least = i, left = 2 * i + 1, right = left + 1;
        if (left < k && heap[left] < heap[least])
            least = left;
        if (right < k && heap[right] < heap[least])
            least = right;
        if (least == i)
            return;
        float moved = heap[i];
        heap[i] = heap[least];
        heap[least] = moved;
        i = least;
    }
}

/* TopKLogitsWarper: below the k-th largest score nothing stays; equals of it do. */
static enum status keep_top_k(size_t k, float *row, size_t n_vocab, struct error *err)
{
    if (k >= n_vocab)
        return STATUS_OK;
    float *heap = alloc_array(k, sizeof *heap);
    if (!heap)
        return error_no_memory(err, "the top-k heap");
    memcpy(heap, row, k * sizeof *heap);
    for (size_t i = k / 2; i-- > 0;)
        sift_down(heap, k, i);
    for (size_t i = k; i < n_vocab; i++)
        if (row[i] > heap[0]) {
            heap[0] = row[i];
            sift_down(heap, k, 0);
        }
    float threshold = heap[0];
    free(heap);
    for (size_t i = 0; i < n_vocab; i++)
        if (row[i] < threshold)
            row[i] = -INFINITY;
    return STATUS_OK;
}

struct candidate {
    float score;
    uint32_t id;
};

/* Rising by score; equals by falling id, so that the lowest id counts as the best of them. */
static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->id > y->id ? -1 : x->id < y->id;
}

/* TopPLogitsWarper: from the least likely on, everything whose cumulative probability stays within
 * 1 - top_p goes. Tokens below (1 - top_p) / n_vocab all go whatever their order (together they
 * have less than 1 - top_p, and they come first), so only the rest is sorted. */
static enum status keep_top_p(float top_p, size_t min_keep, float *row, size_t n_vocab,
                              struct error *err)
{
    float log_sum = logits_log_sum(row, n_vocab);
    if (!isfinite(log_sum))
        return STATUS_OK; /* the draw reports it */
    double spare = 1 - (double)top_p;
    float floor = log_sum + (float)log(spare / (double)n_vocab) - 1e-3f;
    size_t n = 0;
    for (size_t i = 0; i < n_vocab; i++)
        n += row[i] >= floor;
    if (n <= min_keep) /* keep the order of what is left right: sort everything that is finite */
        floor = -INFINITY;
    n = 0;
    for (size_t i = 0; i < n_vocab; i++)
        n += row[i] >= floor && row[i] != -INFINITY;
    struct candidate *sorted = alloc_array(n, sizeof *sorted);
    if (!sorted)
        return error_no_memory(err, "the top-p candidates");
    double cumulative = 0;
    n = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        if (row[i] == -INFINITY)
            continue;
        if (row[i] >= floor) {
            sorted[n++] = (struct candidate){row[i], (uint32_t)i};
        } else {
            cumulative += exp((double)(row[i] - log_sum));
            row[i] = -INFINITY;
        }
    }
    qsort(sorted, n, sizeof *sorted, compare_candidates);
    for (size_t i = 0; i + min_keep < n; i++) {
        cumulative += exp((double)(sorted[i].score - log_sum));
        if (cumulative > spare)
            break;
        row[sorted[i].id] = -INFINITY;
    }
    free(sorted);
    return STATUS_OK;
}

enum status logits_warp(const struct generation_params *params, size_t min_keep, float *row,
                        size_t n_vocab, struct error *err)
{
    if (params->temperature != 1 && params->temperature > 0)
        for (size_t i = 0; i < n_vocab; i++)
            row[i] /= params->temperature;
    enum status status = STATUS_OK;
    if (params->top_k)
        status = keep_top_k(params->top_k > min_keep ? params->top_k : min_keep, row, n_vocab, err);
    if (!status && params->top_p < 1)
        status = keep_top_p(params->top_p, min_keep, row, n_vocab, err);
    return status;
}
