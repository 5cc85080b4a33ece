/*
 * blip_internal.h: BLIP's parts, shared by blip.c (pictures, loading) and blip_text.c (text sides).
 */
#ifndef VLMD_CORE_MODELS_BLIP_INTERNAL_H
#define VLMD_CORE_MODELS_BLIP_INTERNAL_H

#include "core/models/bert.h"
#include "core/models/encoder.h"
#include "core/models/models_internal.h"
#include "core/models/vit.h"

struct blip_config {
    struct encoder_config vision;
    size_t image_size, patch_size;
    struct bert_config text;
    size_t projection_dim; /* image_text_hidden_size */
    bool tied;             /* the head's weights are the word embeddings, however often stored */
    int32_t bos_id, sep_id, pad_id;
};

/* The masked-language-model head: decoder(norm(activation(dense(x)))). */
struct blip_head {
    struct linear dense, decoder; /* [dim, dim], [vocab_size, dim] */
    struct norm norm;
};

struct blip {
    struct blip_config config;
    struct vit_embedding patches;
    struct encoder vision;
    struct norm vision_post_norm;

    struct bert text_decoder; /* caption, VQA */
    struct blip_head head;
    struct bert text_encoder;                         /* VQA, match */
    struct linear vision_projection, text_projection; /* match: [projection_dim, dim] */
    struct linear match_head;                         /* match: [2, dim] */
};

enum status blip_prefill_caption(const struct model *model, const struct compute *compute,
                                 enum task task, const struct prompt *prompts,
                                 struct sequence *sequences, size_t n, float *logits,
                                 struct error *err);
enum status blip_prefill_vqa(const struct model *model, const struct compute *compute,
                             enum task task, const struct prompt *prompts,
                             struct sequence *sequences, size_t n, float *logits,
                             struct error *err);
enum status blip_decode(const struct model *model, const struct compute *compute,
                        struct sequence *const *sequences, const int32_t *tokens, size_t n,
                        float *logits, struct error *err);
enum status blip_score_pairs(const struct model *model, const struct compute *compute,
                             enum task task, const struct pair *pairs, size_t n, float *out,
                             struct error *err);

#endif
