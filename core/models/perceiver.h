/*
 * perceiver.h: Flamingo's resampler (Alayrac et al. 2022, arXiv:2204.14198; transformers'
 * IdeficsPerceiverResampler): a picture's many rows → few, by learned queries (latents) that look
 * at them and at each other:
 *
 *   joined  = [context_norm(picture), latents_norm(latents)]
 *   latents = latents + out(attention(q of latents_norm(latents), k, v of joined))
 *   latents = latents + down(relu(up(norm(latents))))
 *
 * and a norm at the end. No layer has a bias; the norms do.
 */
#ifndef VLMD_CORE_MODELS_PERCEIVER_H
#define VLMD_CORE_MODELS_PERCEIVER_H

#include "core/weights/binder.h"

struct perceiver_config {
    size_t dim; /* of a picture's rows and of the latents */
    size_t n_latents, n_layers, n_heads, head_dim, mlp_dim;
    bool qk_norms; /* each head's queries and keys are normalised */
};

struct perceiver_layer {
    struct norm context_norm, latents_norm;
    struct norm q_norm, k_norm; /* of head_dim, where qk_norms */
    struct linear q, k, v;      /* [n_heads head_dim, dim] */
    struct linear out;          /* [dim, n_heads head_dim] */
    struct norm mlp_norm;
    struct linear up, down;
};

struct perceiver {
    struct perceiver_config config;
    const float *latents; /* [n_latents, dim] */
    struct perceiver_layer *layers;
    struct norm final_norm;
};

/* resampler_n_latents, resampler_depth, resampler_n_heads, resampler_head_dim,
 * qk_layer_norms_perceiver over the defaults in *config (dim and mlp_dim are the caller's). */
enum status perceiver_config_load(const json_t *json, struct perceiver_config *config,
                                  struct error *err);

/* Binds "<prefix>latents", "<prefix>blocks.N.…", "<prefix>layer_norm". perceiver_release() also
 * when the binder failed afterwards. */
void perceiver_bind(struct binder *binder, struct perceiver *perceiver,
                    const struct perceiver_config *config, const char *prefix);
void perceiver_release(struct perceiver *perceiver);

/* n pictures of n_rows rows each, x [n · n_rows, dim] → out [n · n_latents, dim]. */
enum status perceiver_forward(const struct perceiver *perceiver, const struct compute *compute,
                              const float *x, size_t n_rows, size_t n, float *out,
                              struct error *err);

#endif
