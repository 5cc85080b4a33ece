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
    CHAT_TOKENS_DEFAULT = 1024, /* of a conversation, where neither client nor checkpoint say */
    GENERATION_BEAMS_MAX = 16,
    GENERATION_CANDIDATES_MAX = 64, /* of guided models (magic.c) */
    GENERATION_STOP_BYTES_MAX = 256,
};

/* How an endpoint reads the fields. */
enum generation_style {
    GENERATION_TOP_K_SAMPLES, /* top_k is the sampler's (caption) */
    GENERATION_TOP_K_ANSWERS, /* top_k was already read by the endpoint (vqa) */
    GENERATION_N_SAMPLES,     /* OpenAI's (chat): as the first, max_completion_tokens, and n above 1
                                 samples where nothing else is said */
};

/* Reads the fields over the model's own defaults into a work (parameters and stop strings), and
 * prepares a stream where one is wanted. */
enum status generation_read(struct call *call, struct work *work, enum generation_style style,
                            struct error *err);

/* One generated sequence as text, cut before the first stop string, in the arena. *score is the
 * geometric mean of its tokens' probabilities. */
enum status generation_text(struct call *call, const struct work *work, size_t i, struct span *text,
                            float *score, struct error *err);

/* struct endpoint.delta of caption and vqa: {"delta": text}. */
void generation_delta(struct call *call, struct json_writer *out, size_t choice, struct span text);

/* `usage`, as OpenAI's: the text's tokens (pictures are not counted) and the new ones. */
void generation_put_usage(struct json_writer *out, const struct job *job);

const char *finish_reason_name(enum finish_reason reason);

#endif
