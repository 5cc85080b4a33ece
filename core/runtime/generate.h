/*
 * generate.h: one work's generation, from the prompt's logits to its texts: greedy, sampled (n
 * independent sequences) or beam search. It decides tokens; running the model is the lane's job.
 *
 *   generation_new → (prompt pass) → generation_begin → ┌ generation_rows > 0: decode pass
 *                                                       │ generation_feed for each row
 *                                                       └ generation_advance … until done
 *   → generation_finish → generation_free
 *
 * Owned by the lane's thread; generation_feed() of different rows may run in parallel.
 */
#ifndef VLMD_CORE_RUNTIME_GENERATE_H
#define VLMD_CORE_RUNTIME_GENERATE_H

#include "core/runtime/job.h"

struct generation;

/* Where streamed tokens go; emit may be NULL. */
struct token_sink {
    void (*emit)(void *context, const struct new_token *token);
    void *context;
};

/* For a WORK_GENERATE of the model; `model` and `work` are borrowed. Refuses what cannot be done:
 * STATUS_TOO_LONG (the prompt leaves no room), STATUS_UNPROCESSABLE (more sequences than
 * max_sequences, n > num_beams …). */
struct generation *generation_new(const struct model *model, enum task task, struct work *work,
                                  size_t max_sequences, struct error *err);
void generation_free(struct generation *generation); /* NULL is fine */

/* Sequences it runs at once, tokens of the decoder's prompt, and how many tokens at most it adds to
 * a sequence's cache after the prompt. */
size_t generation_width(const struct generation *generation);
size_t generation_n_prompt(const struct generation *generation);
size_t generation_n_steps_max(const struct generation *generation);

/* After the prompt's pass: takes *sequence (whatever comes of it) and the logits [n_vocab] after
 * the prompt (overwritten), and chooses the first tokens. */
enum status generation_begin(struct generation *generation, struct sequence *sequence,
                             float *logits, const struct token_sink *sink, bool *done,
                             struct error *err);

/* What to decode now: rows [0, n), each a sequence with room asked for and its newest token. */
size_t generation_rows(const struct generation *generation);
struct sequence *generation_row(const struct generation *generation, size_t row, int32_t *token);

/* The logits [n_vocab] after a row's token (overwritten). Its failures come out in advance. */
void generation_feed(struct generation *generation, size_t row, float *logits);

/* Once each row was fed: takes the new tokens. *done: generation_finish() may be called. */
enum status generation_advance(struct generation *generation, const struct token_sink *sink,
                               bool *done, struct error *err);

/* Writes work->generated[work->generation.n]. */
enum status generation_finish(struct generation *generation, struct error *err);

#endif
