/*
 * gated_cross.h: Flamingo's layers between a decoder's own (Alayrac et al. 2022, arXiv:2204.14198;
 * transformers' IdeficsGatedCrossAttentionLayer): before every `interval`-th layer the words look
 * at a picture's rows, through gates that began shut:
 *
 *   x = x + tanh(attention gate) · out(attention(q of norm1(x), k, v of the picture))
 *   x = x + tanh(MLP gate) · down(activation(gate(norm2(x))) · up(norm2(x)))
 *
 * A row looks at one picture, or at none: then the first line adds nothing; the second always does.
 * Which row looks where is the caller's, in runs. Keys and values of a picture that is looked at in
 * later passes, too, are kept in a kv_shared.
 */
#ifndef VLMD_CORE_MODELS_GATED_CROSS_H
#define VLMD_CORE_MODELS_GATED_CROSS_H

#include "core/models/model.h"
#include "core/weights/binder.h"

struct gated_cross_config {
    size_t interval; /* of the decoder's layers, to one of these */
    size_t n_layers, dim, n_heads, mlp_dim;
    size_t picture_dim; /* of a picture's rows */
    enum activation activation;
    float norm_eps;
    bool qk_norms;     /* each head's queries and keys are normalised */
    bool vector_gates; /* a gate for each of dim, or one for all */
};

struct gated_cross_layer {
    struct norm norm1, norm2;
    struct norm q_norm, k_norm; /* of dim / n_heads, where qk_norms */
    struct linear q, out;       /* [dim, dim] */
    struct linear k, v;         /* [dim, picture_dim] */
    struct linear gate, up, down;
    const float *alphas[2]; /* of attention and MLP: [dim], or [1] */
};

struct gated_cross {
    struct gated_cross_config config;
    struct gated_cross_layer *layers;
    float *gates; /* [n_layers][attention, MLP][dim]: the alphas' tanh */
};

/* Binds "<prefix>N.…". gated_cross_release() also when the binder failed afterwards. */
void gated_cross_bind(struct binder *binder, struct gated_cross *cross,
                      const struct gated_cross_config *config, const char *prefix);
/* To be called once the binder has finished: opens the gates. */
enum status gated_cross_finish(struct gated_cross *cross, struct error *err);
void gated_cross_release(struct gated_cross *cross);

/* Room for the keys and values of a picture of n_rows, for all layers; NULL: out of memory. */
struct kv_shared *gated_cross_kv_new(const struct gated_cross *cross, size_t n_rows);

struct gated_cross_picture {
    const float *rows; /* [n_rows, picture_dim], or NULL: *kv holds what comes of them */
    size_t n_rows;
    struct kv_shared *kv; /* filled where `rows` is given; NULL: nobody keeps them */
};

/* Rows [first, first + n) of a pass look at pictures[picture]. */
struct gated_cross_run {
    size_t first, n, picture;
};

/* A pass of n_rows rows in all. Everything is borrowed; scratch memory is the compute's. */
struct gated_cross_pass {
    const struct gated_cross *cross;
    const struct compute *compute;
    size_t n_rows;
    const struct gated_cross_picture *pictures;
    size_t n_pictures;
    const struct gated_cross_run *runs;
    size_t n_runs;
    /* gated_cross_start()'s */
    float *normed, *q, *attended, *added; /* [n_rows, dim] each */
    float *wide;                          /* the MLP's */
    float *k, *v;                         /* [most rows of a picture, dim], of one not kept */
    struct attention_item *items;         /* [n_runs] */
};

/* Takes the scratch memory for a pass whose first members are filled in. */
enum status gated_cross_start(struct gated_cross_pass *pass, struct error *err);

/* What is to be done to x [n_rows, dim] before the decoder's layer: a llama_tap's, of a pass. */
enum status gated_cross_before(void *pass, size_t layer, float *x, struct error *err);

#endif
