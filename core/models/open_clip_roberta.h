/*
 * open_clip_roberta.h: the text tower of OpenCLIP's multilingual models (open_clip's HFTextEncoder
 * with XLM-RoBERTa or RoBERTa): the mean of the last layer's rows, projected.
 *
 * The layout's config only names the model that the tower began as (hf_model_name); its sizes are
 * read off the tensors, and what the family has in common is known: heads of 64, LayerNorm's eps
 * 1e-5, GELU, pad token 1.
 *
 *   Tensors   text.transformer.{embeddings, encoder}.… (bert.h), text.proj.weight [e, t], or
 *             text.proj.0.weight [(t + e) / 2, t] → GELU → text.proj.2.weight [e, (t + e) / 2].
 */
#ifndef VLMD_CORE_MODELS_OPEN_CLIP_ROBERTA_H
#define VLMD_CORE_MODELS_OPEN_CLIP_ROBERTA_H

#include "core/models/bert.h"

struct open_clip_roberta {
    struct bert text;
    bool is_mlp;
    struct linear proj, proj2; /* proj2: the second of an MLP */
};

struct open_clip_roberta_config {
    struct bert_config text;
    bool is_mlp;
    size_t context_length, embed_dim;
};

/* "text_cfg" of a checkpoint with these tensors. */
enum status open_clip_roberta_config_load(const json_t *json, const struct tensor_set *tensors,
                                          size_t embed_dim, struct open_clip_roberta_config *out,
                                          struct error *err);

/* Release also when the binder failed afterwards. */
void open_clip_roberta_bind(struct binder *binder, struct open_clip_roberta *tower,
                            const struct open_clip_roberta_config *config);
void open_clip_roberta_release(struct open_clip_roberta *tower);

/* → out [n, embed_dim], not normalised. */
enum status open_clip_roberta_forward(const struct open_clip_roberta *tower,
                                      const struct compute *compute,
                                      const struct tokens *const *texts, size_t n, float *out,
                                      struct error *err);

#endif
