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
/* The same from another config than the checkpoint's; NULL = there is none. */
enum status model_use_processor(struct model *model, const json_t *config,
                                const struct image_processor *defaults, size_t image_size,
                                struct error *err);

/* The mean and deviation that CLIP's family was trained with. */
#define OPENAI_CLIP_MEAN                                                                           \
    {                                                                                              \
        0.48145466f, 0.4578275f, 0.40821073f                                                       \
    }
#define OPENAI_CLIP_STD                                                                            \
    {                                                                                              \
        0.26862954f, 0.26130258f, 0.27577711f                                                      \
    }

/* rows [Σ n_rows, dim] → n blocks, of n_rows[i] rows each (n_rows NULL: one). On failure
 * none is left. */
enum status features_split_rows(const float *rows, const size_t *n_rows, size_t n, size_t dim,
                                struct features **out, struct error *err);
/* The same with one row each. */
enum status features_split(const float *rows, size_t n, size_t dim, struct features **out,
                           struct error *err);

/* A decoder's start token and the text's own after it, without special tokens, cut so that
 * context_length has room for a token after them; an empty text leaves the start token. */
enum status tokenize_after(const struct model *model, int32_t start_id, const char *text,
                           size_t size, struct tokens *out, struct error *err);

/* ---- dual encoders (dual.c): what is the same whatever the towers are -------------------------
 */

/* Sets the traits. logit_scale (a logarithm) and logit_bias as the checkpoint holds them; without
 * a bias scores are a softmax's, with one each is a sigmoid's. */
void dual_set_traits(struct model *model, size_t embed_dim, size_t context_length,
                     size_t vocab_size, const float *logit_scale, const float *logit_bias);
/* The towers' rows [n, dim] → through the projection → of length 1. */
enum status dual_embed_pictures(const struct compute *compute, const struct linear *projection,
                                const float *rows, size_t n, struct features **out,
                                struct error *err);
void dual_embed_texts(const struct compute *compute, const struct linear *projection,
                      const float *rows, size_t n, float *out);

/* STATUS_UNPROCESSABLE when an id is outside [0, n_vocab) or there are none or more than n_max. */
enum status check_tokens(const struct tokens *tokens, size_t n_vocab, size_t n_max,
                         struct error *err);

/* How often an id stands among the tokens. */
size_t count_token(const struct tokens *tokens, int32_t id);
/* STATUS_UNPROCESSABLE unless image_id, a picture's place, stands there n_images times. */
enum status check_image_places(const struct tokens *tokens, int32_t image_id, size_t n_images,
                               struct error *err);

/* A conversation's text to tokens, none added (its template writes them), and what is generated
 * back to text: `tokenize` and `detokenize` of models that converse. */
enum status tokenize_conversation(const struct model *model, enum task task, const char *text,
                                  size_t size, struct tokens *out, struct error *err);
enum status detokenize_conversation(const struct model *model, enum task task,
                                    const struct tokens *prompt, const int32_t *ids, size_t n,
                                    struct buffer *out, struct error *err);

/* Whether a transformer of these sizes can be: STATUS_BAD_CHECKPOINT otherwise. */
enum status config_check_layers(size_t dim, size_t n_heads, size_t n_layers, struct error *err);

/* Whether square pictures of this size can be cut into such patches: likewise. */
enum status config_check_picture(size_t image_size, size_t patch_size, struct error *err);

/* "image_size" and "patch_size" over what is there, both checked, and that "num_channels" is 3. */
enum status config_picture(const json_t *json, size_t *image_size, size_t *patch_size,
                           struct error *err);

/* A token id of generate()'s settings ("decoder_start_token_id", …), from where
 * generation_params_load() reads them; *out keeps its value when there is none. */
enum status generation_token_load(const struct checkpoint *checkpoint, const char *key,
                                  int32_t *out, struct error *err);

#endif
