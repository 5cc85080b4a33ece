/*
 * beam.h: beam search over rows of logits, without a model: equal to transformers 5's
 * GenerationMixin._beam_search for one prompt, in ids, order, scores and stopping.
 *
 *   beam_feed_prompt(row)                                   after the prompt's pass
 *   beam_advance → done? else parents and tokens            what to decode next
 *   beam_feed(0, row) … beam_feed(width - 1, row)           after each decode step
 *   beam_advance → …
 *
 * Owned by one work's generation. beam_feed() of different beams may run in parallel; everything
 * else belongs to the lane's thread.
 */
#ifndef VLMD_CORE_RUNTIME_BEAM_H
#define VLMD_CORE_RUNTIME_BEAM_H

#include "core/models/model.h"

struct beam_search;

/* Tells whether a sequence (its new tokens only) ends here for another reason than an end token or
 * its length, e.g. a stop string. */
struct beam_stop {
    bool (*hits)(void *context, const int32_t *ids, size_t n);
    void *context;
};

/* params->num_beams ≥ 2 beams (1 works too); params is borrowed, the prompt copied. `max_length`
 * counts the prompt and is above n_prompt. `stop` may be NULL. STATUS_UNPROCESSABLE when the
 * vocabulary is too small for so many beams. */
struct beam_search *beam_new(const struct generation_params *params, const int32_t *prompt,
                             size_t n_prompt, size_t max_length, size_t n_vocab,
                             const struct beam_stop *stop, struct error *err);
void beam_free(struct beam_search *search); /* NULL is fine */

/* The logits [n_vocab] after the prompt / after running beam i's last token; overwritten. */
enum status beam_feed_prompt(struct beam_search *search, float *logits, struct error *err);
enum status beam_feed(struct beam_search *search, size_t i, float *logits, struct error *err);

/* Once every running beam was fed: chooses the next ones. *done: the search is over. Otherwise
 * running beam i continues beam parents[i] of the step before with tokens[i]; both arrays have
 * room for num_beams. */
enum status beam_advance(struct beam_search *search, size_t *parents, int32_t *tokens, bool *done,
                         struct error *err);

/* Hypothesis i in [0, num_beams), best first: its new tokens (an end token included) and the score
 * that generate() returns as sequences_scores. Valid until the next call. */
void beam_result(const struct beam_search *search, size_t i, const int32_t **ids, size_t *n,
                 float *score);

#endif
