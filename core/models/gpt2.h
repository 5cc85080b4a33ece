/*
 * gpt2.h: GPT-2's pre-norm decoder, with cross-attention where the checkpoint has it (Radford et
 * al. 2019; transformers' GPT2LMHeadModel):
 *
 *   x = x + out(attention(qkv of norm1(x)))
 *   x = x + cross_out(attention(cross_q of cross_norm(x); cross_kv of the source))
 *   x = x + fc2(activation(fc1(norm2(x))))
 *
 * Packed: the rows of all items one after another. Its files hold linear weights as [in, out]
 * (Conv1D); they are turned when they are loaded.
 */
#ifndef VLMD_CORE_MODELS_GPT2_H
#define VLMD_CORE_MODELS_GPT2_H

#include "core/models/model.h"
#include "core/weights/binder.h"

struct gpt2_config {
    size_t n_layers, dim, n_heads, mlp_dim;
    enum activation activation;
    float norm_eps;
    size_t vocab_size, n_positions;
    bool has_cross;       /* cross-attention, over rows of width dim */
    bool scales;          /* scores by 1 / sqrt(head_dim) */
    bool scales_by_layer; /* and by 1 / (layer + 1) */
};

/* The library's defaults: GPT-2 small. */
extern const struct gpt2_config gpt2_defaults;

struct gpt2_layer {
    struct norm norm1, cross_norm, norm2;
    struct linear qkv, out;                     /* [3 dim, dim], [dim, dim] */
    struct linear cross_q, cross_kv, cross_out; /* [dim, dim], [2 dim, dim], [dim, dim] */
    struct linear fc1, fc2;
};

struct gpt2 {
    struct gpt2_config config;
    const float *words;     /* [vocab_size, dim] */
    const float *positions; /* [n_positions, dim] */
    struct gpt2_layer *layers;
    struct norm final_norm;
    struct linear head; /* [vocab_size, dim] */
};

/* n_embd, n_layer, n_head, n_inner, n_positions (or their common names), activation_function,
 * layer_norm_epsilon, vocab_size, add_cross_attention, scale_attn_… over the defaults in *config.
 */
enum status gpt2_config_load(const json_t *json, struct gpt2_config *config, struct error *err);

/* Binds "<prefix>wte", "<prefix>h.N.…" …, and for the head the tensor `head`, or the word
 * embeddings where the file has none. gpt2_release() also when the binder failed afterwards. */
void gpt2_bind(struct binder *binder, struct gpt2 *gpt2, const struct gpt2_config *config,
               const char *prefix, const char *head);
void gpt2_release(struct gpt2 *gpt2);

/* The keys and values of a source, rows [n_rows, dim], for every layer's cross-attention: data is
 * [n_layers][n_rows][keys, values], dim each. NULL and an error when out of memory. */
struct kv_shared *gpt2_cross_kv(const struct gpt2 *gpt2, const struct compute *compute,
                                const float *rows, size_t n_rows, struct error *err);

/* Tokens that continue a sequence (reserved for n more by the caller; n_tokens is advanced on
 * success), whose `cross` is what cross-attention sees. */
struct gpt2_item {
    const int32_t *ids;
    size_t n; /* ≥ 1 */
    struct sequence *sequence;
    /* The ids are n alternatives for the sequence's next token: each sees the sequence and itself,
     * none is kept, and the sequence needs room for one. */
    bool alternatives;
};

/* → logits [n_items, vocab_size] after each item's last token. STATUS_TOO_LONG past n_positions;
 * on failure no sequence has changed. */
enum status gpt2_forward(const struct gpt2 *gpt2, const struct compute *compute,
                         const struct gpt2_item *items, size_t n_items, float *logits,
                         struct error *err);

/* The same up to the head: the last hidden states (after the final norm) of all tokens, *hidden
 * [Σ n, dim] from the scratch arena, whose rows gpt2_logits() takes. */
enum status gpt2_hidden(const struct gpt2 *gpt2, const struct compute *compute,
                        const struct gpt2_item *items, size_t n_items, float **hidden,
                        struct error *err);
void gpt2_logits(const struct gpt2 *gpt2, const struct compute *compute, const float *hidden,
                 size_t n, float *logits); /* [n, vocab_size] */

#endif
