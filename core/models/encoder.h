/*
 * encoder.h: the pre-norm transformer encoder of CLIP's family (both towers), SigLIP, BLIP's and
 * ViLT's vision side:
 *
 *   x = x + out(attention(q, k, v of norm1(x)))
 *   x = x + fc2(activation(fc1(norm2(x))))
 *
 * and, with post_norm, CLIPSeg's decoder, whose norms come after the sums:
 *
 *   x = norm1(x + out(attention(q, k, v of x)))
 *   x = norm2(x + fc2(activation(fc1(x))))
 *
 * Packed: the rows of all items one after another. Where only one row of an item is used afterwards
 * (a class token, an end of text) the last layer computes that row alone, which saves most of it.
 */
#ifndef VLMD_CORE_MODELS_ENCODER_H
#define VLMD_CORE_MODELS_ENCODER_H

#include "core/weights/binder.h"

struct encoder_config {
    size_t n_layers, dim, n_heads, mlp_dim;
    enum activation activation;
    float norm_eps;
    bool causal;
    bool post_norm; /* its last layer cannot be pooled */
};

/* The names below "<prefix>.<layer>."; qkv, where not NULL, is one layer that holds all three;
 * in_proj likewise, as PyTorch names it: "<in_proj>_weight", "<in_proj>_bias". */
struct encoder_names {
    const char *norm1, *q, *k, *v, *qkv, *in_proj, *out, *norm2, *fc1, *fc2;
    bool qkv_bias;
};
extern const struct encoder_names encoder_names_clip;      /* layer_norm1, self_attn.q_proj, … */
extern const struct encoder_names encoder_names_open_clip; /* ln_1, attn.in_proj_weight, … */
extern const struct encoder_names encoder_names_vit;       /* layernorm_before, … */

struct encoder_layer {
    struct norm norm1;
    struct linear q, k, v; /* [dim, dim] each, or */
    struct linear qkv;     /* [3 dim, dim] */
    struct linear out;
    struct norm norm2;
    struct linear fc1, fc2;
};

struct encoder {
    struct encoder_config config;
    bool fused; /* qkv rather than q, k, v */
    struct encoder_layer *layers;
};

/* The keys of a transformer config of this family over the defaults in *config: hidden_size,
 * intermediate_size, num_hidden_layers, num_attention_heads, hidden_act, layer_norm_eps. */
enum status encoder_config_load(const json_t *json, struct encoder_config *config,
                                struct error *err);

/* Binds all layers; encoder_release() also when the binder failed afterwards. */
void encoder_bind(struct binder *binder, struct encoder *encoder,
                  const struct encoder_config *config, const struct encoder_names *names,
                  const char *prefix);
void encoder_release(struct encoder *encoder);

/* x [Σ n_rows, dim] in place. With pooled (one row index a item, counted within it) the result is
 * instead written to out [n_items, dim] and x is left undefined. */
enum status encoder_forward(const struct encoder *encoder, const struct compute *compute, float *x,
                            const size_t *n_rows, size_t n_items, const size_t *pooled, float *out,
                            struct error *err);

/* The same, causal, where all items but the first are what follows after the rows of the first:
 * these are then computed once. out [n_items, dim] has a row for the first, too. */
enum status encoder_forward_prefixed(const struct encoder *encoder, const struct compute *compute,
                                     float *x, const size_t *n_rows, size_t n_items,
                                     const size_t *pooled, float *out, struct error *err);

/* encoder_forward() with a look at x [Σ n_rows, dim] after each layer that computes all rows (not a
 * pooled last one); `after` may keep rows or change them. */
struct encoder_tap {
    void (*after)(void *context, size_t layer, float *x);
    void *context;
};
enum status encoder_forward_tapped(const struct encoder *encoder, const struct compute *compute,
                                   float *x, const size_t *n_rows, size_t n_items,
                                   const size_t *pooled, float *out, const struct encoder_tap *tap,
                                   struct error *err);

#endif
