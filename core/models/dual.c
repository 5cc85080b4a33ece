/*
 * dual.c: what dual encoders do with their towers' rows, the same for all of them (declared in
 * models_internal.h).
 */
#include <math.h>

#include "core/models/models_internal.h"

void dual_set_traits(struct model *model, size_t embed_dim, size_t context_length,
                     size_t vocab_size, const float *logit_scale, const float *logit_bias)
{
    struct model_traits *traits = &model->traits;
    traits->embed_dim = embed_dim;
    traits->context_length = context_length;
    traits->vocab_size = vocab_size;
    traits->logit_scale = expf(*logit_scale);
    traits->logit_bias = logit_bias ? *logit_bias : 0;
    traits->sigmoid_scores = logit_bias != NULL;
}

enum status dual_embed_pictures(const struct compute *compute, const struct linear *projection,
                                const float *rows, size_t n, struct features **out,
                                struct error *err)
{
    size_t dim = projection->n_out;
    float *embeddings = arena_array(compute->scratch, n * dim, sizeof *embeddings);
    if (!embeddings)
        return error_no_memory(err, "a batch of pictures");
    dual_embed_texts(compute, projection, rows, n, embeddings);
    return features_split(embeddings, n, dim, out, err);
}

void dual_embed_texts(const struct compute *compute, const struct linear *projection,
                      const float *rows, size_t n, float *out)
{
    nn_linear(compute, projection, rows, n, ACTIVATION_NONE, NULL, out);
    nn_l2_normalize_rows(out, n, projection->n_out);
}
