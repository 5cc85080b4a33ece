/*
 * beam.c: see beam.h. Follows _beam_search() of transformers' generation/utils.py (5.x) step by
 * step, in f32 as there; the letters are those of its comments. Equal scores are ordered by beam
 * and token, where torch's topk leaves the order open.
 *
 * 1. All running beams have the same length, n_ids; finished ones have their own.
 * 2. There are always num_beams hypotheses in `finished`; those that are not (yet) real have a
 *    score near -1e9 and finished = false.
 * 3. Token ids live in two banks per kind; a step reads one and writes the other.
 */
#include "core/runtime/beam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/runtime/logits.h"
#include "core/runtime/sampler.h"

static const float NEVER = -1.0e9f;

struct candidate {
    float score; /* of the whole sequence */
    float key;   /* what candidates are chosen by: the score, or its Gumbel draw */
    uint32_t beam;
    int32_t token;
};

struct hypothesis {
    float score;
    size_t n_ids; /* prompt included */
    bool finished;
};

struct beam_search {
    const struct generation_params *params;
    struct beam_stop stop;
    size_t n_beams, n_keep; /* candidates kept a step: beams_to_keep */
    size_t n_prompt, n_ids, max_length, n_vocab;
    bool can_improve; /* is_early_stop_heuristic_unsatisfied */
    bool fed_prompt;

    size_t capacity;                       /* ids that a bank has room for, per beam */
    int32_t *running[2];                   /* [n_beams, capacity]; bank 0 is current */
    int32_t *finished[2];                  /* [n_beams, capacity] */
    float *running_scores;                 /* [n_beams] */
    struct hypothesis *hypotheses, *spare; /* [n_beams] */
    struct candidate *fed;                 /* [n_beams, n_keep], each row best first */
    size_t *n_fed;                         /* [n_beams] */
    struct candidate *best;                /* [n_beams · n_keep] */
    bool *hits, *taken;                    /* [n_keep] */
    float *scratch;                        /* [n_beams, capacity] */
    int32_t *probe;                        /* [capacity] */
};

/* ---- storage ------------------------------------------------------------------------------------
 */

static bool grow_ids(int32_t **bank, size_t n_beams, size_t old, size_t capacity)
{
    size_t n;
    int32_t *grown = size_mul(n_beams, capacity, &n) ? alloc_array(n, sizeof *grown) : NULL;
    if (!grown)
        return false;
    for (size_t i = 0; old && i < n_beams; i++)
        memcpy(grown + i * capacity, *bank + i * old, old * sizeof *grown);
    free(*bank);
    *bank = grown;
    return true;
}

/* Room for n ids in every bank. */
static bool reserve(struct beam_search *search, size_t n)
{
    if (n <= search->capacity)
        return true;
    size_t old = search->capacity, capacity = old ? old : 32, n_scratch;
    while (capacity < n)
        if (!size_mul(capacity, 2, &capacity))
            return false;
    int32_t **banks[] = {&search->running[0], &search->running[1], &search->finished[0],
                         &search->finished[1]};
    /* A bank that grew before another failed is larger than it needs to be: the search ends then
     * anyway, and its rows are never read again. */
    for (size_t i = 0; i < ARRAY_LENGTH(banks); i++)
        if (!grow_ids(banks[i], search->n_beams, old, capacity))
            return false;
    if (!grow_ids(&search->probe, 1, 0, capacity) ||
        !size_mul(search->n_beams, capacity, &n_scratch))
        return false;
    free(search->scratch);
    search->scratch = alloc_array(n_scratch, sizeof *search->scratch);
    if (!search->scratch)
        return false;
    search->capacity = capacity;
    return true;
}

struct beam_search *beam_new(const struct generation_params *params, const int32_t *prompt,
                             size_t n_prompt, size_t max_length, size_t n_vocab,
                             const struct beam_stop *stop, struct error *err)
{
    size_t n_beams = params->num_beams ? params->num_beams : 1, n_keep, n_all;
    size_t per_beam = 1 + params->n_eos > 2 ? 1 + params->n_eos : 2;
    if (!size_mul(per_beam, n_beams, &n_keep) || !size_mul(n_beams, n_vocab, &n_all) ||
        n_keep > n_all) {
        error_set_param(err, STATUS_UNPROCESSABLE, "num_beams",
                        "%zu beams are too many for a vocabulary of %zu tokens", n_beams, n_vocab);
        return NULL;
    }
    struct beam_search *search = calloc(1, sizeof *search);
    if (!search)
        goto no_memory;
    search->params = params;
    if (stop)
        search->stop = *stop;
    search->n_beams = n_beams;
    search->n_keep = n_keep;
    search->n_prompt = search->n_ids = n_prompt;
    search->max_length = max_length;
    search->n_vocab = n_vocab;
    search->can_improve = true;
    search->running_scores = alloc_array(n_beams, sizeof *search->running_scores);
    search->hypotheses = alloc_array(n_beams, sizeof *search->hypotheses);
    search->spare = alloc_array(n_beams, sizeof *search->spare);
    search->n_fed = calloc(n_beams, sizeof *search->n_fed);
    search->hits = alloc_array(n_keep, sizeof *search->hits);
    search->taken = alloc_array(n_keep, sizeof *search->taken);
    search->fed =
        size_mul(n_beams, n_keep, &n_all) ? alloc_array(n_all, sizeof *search->fed) : NULL;
    search->best = search->fed ? alloc_array(n_all, sizeof *search->best) : NULL;
    if (!search->running_scores || !search->hypotheses || !search->spare || !search->n_fed ||
        !search->hits || !search->taken || !search->best || !reserve(search, n_prompt + 1))
        goto no_memory;
    for (size_t i = 0; i < n_beams; i++) {
        /* Only the first beam counts at first, or all would be the same. */
        search->running_scores[i] = i == 0 ? 0 : NEVER;
        search->hypotheses[i] = (struct hypothesis){.score = NEVER, .n_ids = n_prompt};
        memcpy(search->running[0] + i * search->capacity, prompt, n_prompt * sizeof *prompt);
        memcpy(search->finished[0] + i * search->capacity, prompt, n_prompt * sizeof *prompt);
    }
    return search;
no_memory:
    error_no_memory(err, "a beam search");
    beam_free(search);
    return NULL;
}

void beam_free(struct beam_search *search)
{
    if (!search)
        return;
    for (int bank = 0; bank < 2; bank++) {
        free(search->running[bank]);
        free(search->finished[bank]);
    }
    free(search->running_scores);
    free(search->hypotheses);
    free(search->spare);
    free(search->fed);
    free(search->n_fed);
    free(search->best);
    free(search->hits);
    free(search->taken);
    free(search->scratch);
    free(search->probe);
    free(search);
}

/* ---- candidates ---------------------------------------------------------------------------------
 */

/* Best first: by key, then beam, then token. */
static bool better(const struct candidate *a, const struct candidate *b)
{
    if (a->key != b->key)
        return a->key > b->key;
    if (a->beam != b->beam)
        return a->beam < b->beam;
    return a->token < b->token;
}

static int compare_keys(const void *a, const void *b)
{
    return better(a, b) ? -1 : better(b, a);
}

static int compare_scores(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return compare_keys(a, b);
}

static void sift_down(struct candidate *heap, size_t n, size_t i)
{
    for (;;) { /* the worst on top */
        size_t worst = i, left = 2 * i + 1, right = left + 1;
        if (left < n && better(&heap[worst], &heap[left]))
            worst = left;
        if (right < n && better(&heap[worst], &heap[right]))
            worst = right;
        if (worst == i)
            return;
        struct candidate moved = heap[i];
        heap[i] = heap[worst];
        heap[worst] = moved;
        i = worst;
    }
}

/* Keeps the n_keep best continuations of beam i. */
static void choose(struct beam_search *search, size_t i, const float *log_probs)
{
    const struct generation_params *params = search->params;
    struct candidate *heap = search->fed + i * search->n_keep;
    float score = search->running_scores[i];
    size_t n = 0;
    for (size_t token = 0; token < search->n_vocab; token++) {
        struct candidate candidate = {
            .score = log_probs[token] + score, .beam = (uint32_t)i, .token = (int32_t)token};
        candidate.key = candidate.score;
        /* Sampling without replacement in proportion to softmax(scores) is taking the best of
         * score + Gumbel noise (Kool, van Hoof, Welling 2019). */
        if (params->do_sample && candidate.score != -INFINITY)
            candidate.key -= (float)log(
                -log(sampler_uniform(params->seed, i, search->n_ids - search->n_prompt, token)));
        if (isnan(candidate.key))
            continue;
        if (n < search->n_keep) {
            heap[n++] = candidate;
            if (n == search->n_keep)
                for (size_t j = n / 2; j-- > 0;)
                    sift_down(heap, n, j);
        } else if (better(&candidate, &heap[0])) {
            heap[0] = candidate;
            sift_down(heap, n, 0);
        }
    }
    search->n_fed[i] = n;
}

/* b. Log-probabilities through the processors, as generate() applies them. */
static enum status prepare(struct beam_search *search, size_t i, float *row, struct error *err)
{
    const struct generation_params *params = search->params;
    logits_log_softmax(row, search->n_vocab);
    logits_process(params, search->running[0] + i * search->capacity, search->n_ids,
                   search->n_prompt, row, search->n_vocab, search->scratch + i * search->capacity);
    if (!params->do_sample)
        return STATUS_OK;
    size_t min_keep = params->n_eos ? params->n_eos + 1 : 2;
    return logits_warp(params, min_keep, row, search->n_vocab, err);
}

enum status beam_feed_prompt(struct beam_search *search, float *logits, struct error *err)
{
    enum status status = prepare(search, 0, logits, err);
    if (status)
        return status;
    for (size_t i = 0; i < search->n_beams; i++)
        choose(search, i, logits);
    return STATUS_OK;
}

enum status beam_feed(struct beam_search *search, size_t i, float *logits, struct error *err)
{
    enum status status = prepare(search, i, logits, err);
    if (!status)
        choose(search, i, logits);
    return status;
}

/* ---- a step -------------------------------------------------------------------------------------
 */

/* d. Whether candidate k ends its sequence. */
static bool ends(struct beam_search *search, const struct candidate *candidate)
{
    const struct generation_params *params = search->params;
    if (search->n_ids + 1 >= search->max_length)
        return true;
    for (size_t i = 0; i < params->n_eos; i++)
        if (candidate->token == params->eos_ids[i])
            return true;
    if (!search->stop.hits)
        return false;
    size_t n_new = search->n_ids - search->n_prompt;
    memcpy(search->probe,
           search->running[0] + candidate->beam * search->capacity + search->n_prompt,
           n_new * sizeof *search->probe);
    search->probe[n_new] = candidate->token;
    return search->stop.hits(search->stop.context, search->probe, n_new + 1);
}

static void extend(const struct beam_search *search, int32_t *out,
                   const struct candidate *candidate)
{
    memcpy(out, search->running[0] + candidate->beam * search->capacity,
           search->n_ids * sizeof *out);
    out[search->n_ids] = candidate->token;
}

/* e. The num_beams best that go on: those that ended lose 1e9. Writes running bank 1. */
static void choose_running(struct beam_search *search, size_t *parents, int32_t *tokens)
{
    memset(search->taken, 0, search->n_keep * sizeof *search->taken);
    for (size_t n = 0; n < search->n_beams; n++) {
        size_t best = SIZE_MAX;
        float best_score = -INFINITY;
        for (size_t k = 0; k < search->n_keep; k++) {
            float score = search->best[k].score + (search->hits[k] ? NEVER : 0);
            if (!search->taken[k] && (best == SIZE_MAX || score > best_score)) {
                best = k;
                best_score = score;
            }
        }
        const struct candidate *candidate = &search->best[best];
        search->taken[best] = true;
        extend(search, search->running[1] + n * search->capacity, candidate);
        search->running_scores[n] = best_score;
        parents[n] = candidate->beam;
        tokens[n] = candidate->token;
    }
}

/* f. Merges the candidates that just ended into the hypotheses. Reads running bank 0 (the
 * candidates' parents), writes finished bank 1. */
static void update_finished(struct beam_search *search)
{
    const struct generation_params *params = search->params;
    bool full = params->early_stopping == 1;
    for (size_t i = 0; i < search->n_beams; i++)
        full &= search->hypotheses[i].finished;
    float penalty =
        (float)pow((double)(search->n_ids + 1 - search->n_prompt), (double)params->length_penalty);
    size_t next_old = 0, n = 0;
    memset(search->taken, 0, search->n_keep * sizeof *search->taken);
    for (; n < search->n_beams; n++) {
        /* The best of what is left: old hypotheses are in order, candidates are not (penalties of
         * 1e9 swallow their differences), so they are scanned. */
        size_t best = SIZE_MAX;
        float best_score = -INFINITY;
        for (size_t k = 0; k < search->n_keep; k++) {
            if (search->taken[k])
                continue;
            float score = search->best[k].score / penalty;
            score += full ? NEVER : 0;
            score += search->can_improve ? 0 : NEVER;
            score += search->hits[k] && k < search->n_beams ? 0 : NEVER;
            if (best == SIZE_MAX || score > best_score) {
                best = k;
                best_score = score;
            }
        }
        int32_t *out = search->finished[1] + n * search->capacity;
        const struct hypothesis *old = &search->hypotheses[next_old];
        if (next_old < search->n_beams && (best == SIZE_MAX || !(best_score > old->score))) {
            memcpy(out, search->finished[0] + next_old * search->capacity,
                   old->n_ids * sizeof *out);
            search->spare[n] = *old;
            next_old++;
        } else {
            extend(search, out, &search->best[best]);
            search->spare[n] =
                (struct hypothesis){.score = best_score,
                                    .n_ids = search->n_ids + 1,
                                    .finished = search->hits[best] && best < search->n_beams};
            search->taken[best] = true;
        }
    }
    struct hypothesis *moved = search->hypotheses;
    search->hypotheses = search->spare;
    search->spare = moved;
}

static void swap_banks(int32_t *banks[2])
{
    int32_t *moved = banks[0];
    banks[0] = banks[1];
    banks[1] = moved;
}

/* _check_early_stop_heuristic: could the best running beam still beat the worst hypothesis? */
static bool may_improve(const struct beam_search *search)
{
    const struct generation_params *params = search->params;
    size_t length = params->early_stopping == 2 && params->length_penalty > 0 ? search->max_length
                                                                              : search->n_ids;
    float possible = search->running_scores[0] / (float)pow((double)(length - search->n_prompt),
                                                            (double)params->length_penalty);
    float worst = INFINITY;
    bool any_finished = false, any_open = false;
    for (size_t i = 0; i < search->n_beams; i++) {
        worst = search->hypotheses[i].score < worst ? search->hypotheses[i].score : worst;
        any_finished |= search->hypotheses[i].finished;
        any_open |= !search->hypotheses[i].finished;
    }
    return (any_finished && possible > worst) || (any_open && possible > NEVER);
}

enum status beam_advance(struct beam_search *search, size_t *parents, int32_t *tokens, bool *done,
                         struct error *err)
{
    if (!reserve(search, search->n_ids + 1))
        return error_no_memory(err, "a beam search");
    /* c. The best continuations of all beams. */
    size_t n = 0;
    for (size_t i = 0; i < search->n_beams; i++) {
        memcpy(search->best + n, search->fed + i * search->n_keep,
               search->n_fed[i] * sizeof *search->best);
        n += search->n_fed[i];
    }
    if (n < search->n_keep)
        return error_set(err, STATUS_INTERNAL, "the model's scores are not numbers");
    qsort(search->best, n, sizeof *search->best, compare_keys);
    if (search->params->do_sample)
        qsort(search->best, search->n_keep, sizeof *search->best, compare_scores);

    bool all_ended = true;
    for (size_t k = 0; k < search->n_keep; k++) {
        search->hits[k] = ends(search, &search->best[k]);
        all_ended &= search->hits[k];
    }
    choose_running(search, parents, tokens);
    update_finished(search);
    swap_banks(search->running);
    swap_banks(search->finished);
    search->n_ids++;

    /* g. Whether to go on. */
    search->can_improve = search->can_improve && may_improve(search);
    bool open = search->params->early_stopping != 1;
    for (size_t i = 0; i < search->n_beams; i++)
        open |= !search->hypotheses[i].finished;
    *done = !search->can_improve || !open || all_ended;
    return STATUS_OK;
}

void beam_result(const struct beam_search *search, size_t i, const int32_t **ids, size_t *n,
                 float *score)
{
    *ids = search->finished[0] + i * search->capacity + search->n_prompt;
    *n = search->hypotheses[i].n_ids - search->n_prompt;
    *score = search->hypotheses[i].score;
}
