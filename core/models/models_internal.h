/*
 * models_internal.h: what the architectures share beside their transformer blocks.
 */
#ifndef VLMD_CORE_MODELS_INTERNAL_H
#define VLMD_CORE_MODELS_INTERNAL_H

#include "core/models/model.h"

/* Parses the checkpoint's processor over the reference class's defaults into model->processor and
 * sets traits.image_height/width to the size that it gives (0 = depends on the picture). Where that
 * size is fixed it must be image_size × image_size, or the load fails, naming both files' keys;
 * image_size 0 = any. Without a preprocessor file the defaults are taken at image_size. */
enum status model_load_processor(struct model *model, const struct image_processor *defaults,
                                 size_t image_size, struct error *err);

/* The mean and deviation that CLIP's family was trained with. */
#define OPENAI_CLIP_MEAN                                                                           \
    {                                                                                              \
        0.48145466f, 0.4578275f, 0.40821073f                                                       \
    }
#define OPENAI_CLIP_STD                                                                            \
    {                                                                                              \
        0.26862954f, 0.26130258f, 0.27577711f                                                      \
    }

/* rows [n, dim] → n blocks of one row. On failure none is left. */
enum status features_split(const float *rows, size_t n, size_t dim, struct features **out,
                           struct error *err);

/* STATUS_UNPROCESSABLE when an id is outside [0, n_vocab) or there are none or more than n_max. */
enum status check_tokens(const struct tokens *tokens, size_t n_vocab, size_t n_max,
                         struct error *err);

/* Whether a transformer of these sizes (n_heads ≥ 1) can be: STATUS_BAD_CHECKPOINT names the key. */
enum status config_check_layers(size_t dim, size_t n_heads, size_t n_layers, struct error *err);

#endif
