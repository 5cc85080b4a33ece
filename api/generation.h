/*
 * generation.h: the generation fields that caption and vqa share (DESIGN §4, note 1), and the texts
 * that come back.
 */
#ifndef VLMD_API_GENERATION_H
#define VLMD_API_GENERATION_H

#include "api/endpoint.h"

extern const struct field generation_fields[];

enum {
    GENERATION_TOKENS_MAX = 4096,
    GENERATION_BEAMS_MAX = 16,
    GENERATION_STOP_BYTES_MAX = 256,
};

/* Reads the fields over the model's own defaults into a work (parameters and stop strings).
 * `top_k_samples`: top_k is the sampler's (caption); else it was already read by the endpoint. */
enum status generation_read(struct call *call, struct work *work, bool top_k_samples,
                            struct error *err);

/* One generated sequence as text, cut before the first stop string, in the arena. *score is the
 * geometric mean of its tokens' probabilities. */
enum status generation_text(struct call *call, const struct work *work, size_t i, struct span *text,
                            float *score, struct error *err);

const char *finish_reason_name(enum finish_reason reason);

#endif
