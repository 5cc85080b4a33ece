/*
 * logits.h: what generate() does to a row of scores before a token is chosen, in its order:
 *
 *   processors   repetition penalty → no-repeat n-grams → tokens never written → min_length →
 *                min_new_tokens
 *   warpers      temperature → top-k → top-p                       (sampling only)
 *
 * A row is logits in greedy and sampled decoding, and log-probabilities in beam search, as in
 * transformers 5. Stateless; any thread, each with its own row.
 */
#ifndef VLMD_CORE_RUNTIME_LOGITS_H
#define VLMD_CORE_RUNTIME_LOGITS_H

#include "core/runtime/job.h"

/* True when logits_process() would leave every row as it is. */
bool logits_untouched(const struct generation_params *params);

/* Applies the processors to row[n_vocab] in place. ids[0..n_ids) is the sequence so far, the
 * decoder's prompt (n_prompt ids) included. `scratch` has room for n_ids floats. */
void logits_process(const struct generation_params *params, const int32_t *ids, size_t n_ids,
                    size_t n_prompt, float *row, size_t n_vocab, float *scratch);

/* Applies the warpers in place: what may not be drawn becomes -INFINITY; at least min_keep tokens
 * stay. STATUS_NO_MEMORY leaves the row half done. */
enum status logits_warp(const struct generation_params *params, size_t min_keep, float *row,
                        size_t n_vocab, struct error *err);

/* log Σ exp(row[i]); NAN when a score is not a number, -INFINITY when all are. */
float logits_log_sum(const float *row, size_t n_vocab);

/* row[i] -= log Σ exp(row). */
void logits_log_softmax(float *row, size_t n_vocab);

/* The k likeliest tokens of a row, best first (equals by rising id), with their log-probabilities;
 * log_sum is logits_log_sum(row). Where fewer have a probability above 0 the rest get id -1. */
void logits_top(const float *row, size_t n_vocab, float log_sum, size_t k,
                struct token_choice *out);

/* The first index of the largest score (0 when none is a number). */
size_t logits_argmax(const float *row, size_t n_vocab);

#endif
