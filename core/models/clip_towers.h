/*
 * clip_towers.h: CLIP's two towers (see clip.c), for all that are built on them: CLIP itself and
 * its kin with other text towers, OWL-ViT and OWLv2, CLIPSeg.
 */
#ifndef VLMD_CORE_MODELS_CLIP_TOWERS_H
#define VLMD_CORE_MODELS_CLIP_TOWERS_H

#include "core/models/encoder.h"
#include "core/models/model.h"
#include "core/models/vit.h"

struct clip_vision_config {
    struct encoder_config encoder;
    size_t image_size, patch_size;
};

struct clip_text_config {
    struct encoder_config encoder;
    size_t vocab_size, context_length;
    int32_t eos_token_id;
    bool ends_at_largest; /* a text's end is its largest id, whatever eos_token_id says */
};

/* A tower's part of a config.json ("vision_config", "text_config"); the whole where there are no
 * parts: a tower stored alone. */
enum status clip_tower_config(const json_t *json, const char *key, const json_t **out,
                              struct error *err);

/* "vision_config" and "text_config" of a config.json over what *config holds (the family's
 * defaults). ends_at_largest is set as CLIP has it: where eos_token_id is 2. */
enum status clip_vision_config_load(const json_t *json, struct clip_vision_config *config,
                                    struct error *err);
enum status clip_text_config_load(const json_t *json, struct clip_text_config *config,
                                  struct error *err);

/* CLIPImageProcessor's. */
extern const struct image_processor clip_processor;

/* ViT-B/32 and its text tower, the defaults of the family's config classes. */
extern const struct clip_vision_config clip_vision_defaults;
extern const struct clip_text_config clip_text_defaults;

struct clip_vision {
    struct clip_vision_config config;
    struct vit_embedding patches;
    struct norm pre_norm; /* weight NULL: none */
    struct norm post_norm;
    struct encoder encoder;
};

struct clip_text {
    struct clip_text_config config;
    const float *token_embedding;    /* [vocab_size, dim] */
    const float *position_embedding; /* [context_length, dim] */
    struct encoder encoder;
    struct norm final_norm;
};

/* Bind "<prefix>vision_model.…" and "<prefix>text_model.…" (prefix "" or "clip."); the first norm
 * is spelt "pre_layrnorm" or "pre_layernorm". Release also when the binder failed afterwards. */
void clip_vision_bind(struct binder *binder, struct clip_vision *vision,
                      const struct clip_vision_config *config, const char *prefix,
                      const char *pre_norm);
void clip_text_bind(struct binder *binder, struct clip_text *text,
                    const struct clip_text_config *config, const char *prefix);
void clip_vision_release(struct clip_vision *vision);
void clip_text_release(struct clip_text *text);

/* The pictures as the encoder's input, after the first norm: n_rows[n] and *x [Σ n_rows, dim], all
 * of them from the scratch arena. */
enum status clip_vision_embed(const struct clip_vision *vision, const struct compute *compute,
                              const struct pixels *const *pixels, size_t n, size_t **n_rows,
                              float **x, struct error *err);

/* Each picture's class row after the last layer and the last norm: out [n, dim]. */
enum status clip_vision_forward(const struct clip_vision *vision, const struct compute *compute,
                                const struct pixels *const *pixels, size_t n, float *out,
                                struct error *err);
/* …and from there to embeddings of length 1 through a projection. */
enum status clip_vision_encode(const struct clip_vision *vision, const struct linear *projection,
                               const struct compute *compute, const struct pixels *const *pixels,
                               size_t n, struct features **out, struct error *err);

/* Each text's row at its end, after the final norm: out [n, dim]. */
enum status clip_text_forward(const struct clip_text *text, const struct compute *compute,
                              const struct tokens *const *texts, size_t n, float *out,
                              struct error *err);

#endif
