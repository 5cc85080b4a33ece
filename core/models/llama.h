/*
 * llama.h: the pre-norm decoder of Llama's family (Touvron et al. 2023; transformers' LlamaModel,
 * Qwen2Model, MistralModel, GemmaModel, Gemma2Model): RMS norms, rotary positions, grouped-query
 * attention, a gated MLP:
 *
 *   x = x + out(attention(rotary(q, k), v of norm1(x)))
 *   x = x + down(activation(gate(norm2(x))) · up(norm2(x)))
 *
 * The caller brings the rows that go in: words (llama_embed), or a picture's features in their
 * places; so an architecture is a config reader, its own rows and positions, and these calls.
 * Packed: the rows of all items one after another. Keys and values go into each item's sequence,
 * whose dim is llama_kv_dim().
 */
#ifndef VLMD_CORE_MODELS_LLAMA_H
#define VLMD_CORE_MODELS_LLAMA_H

#include "core/models/model.h"
#include "core/weights/binder.h"

enum { ROPE_KINDS_MAX = 3, LLAMA_LAYERS_MAX = 512 };

struct llama_config {
    size_t n_layers, dim, mlp_dim;
    size_t n_heads, n_kv_heads; /* n_kv_heads 0 before loading: as many as heads */
    size_t head_dim;            /* 0 before loading: dim / n_heads */
    enum activation activation;
    float norm_eps;
    size_t vocab_size, n_positions;
    float rope_theta;
    /* Several positions to a token (M-RoPE): how many of a head's pairs turn by each; they sum to
     * head_dim / 2. One kind otherwise, rope_sections unused. */
    size_t n_rope_kinds, rope_sections[ROPE_KINDS_MAX];
    bool qkv_bias, out_bias;
    bool norms_add_one; /* Gemma: norms' weights are stored less 1 */
    /* Gemma 2: what attention and MLP give is normed again before it is added; scores of attention
     * and logits are bent to within ± a cap (0: not); and every other layer (or layer_types) sees
     * only the last `window` tokens (0: all), but for those of its own pass under LLAMA_PREFIX. */
    bool is_gemma2;
    float query_scalar; /* scores are divided by its root; 0: by that of head_dim */
    float score_cap, logit_cap;
    size_t window;
    uint64_t slides[LLAMA_LAYERS_MAX / 64]; /* a bit for each layer */
    size_t n_more_words; /* rows of words and head that stand in tensors of their own, with the ids
                            from vocab_size on (Idefics); 0: none */
};

struct llama_layer {
    struct norm norm1, norm2;
    struct norm after1, after2; /* Gemma 2 */
    struct linear q, k, v;      /* [n_heads head_dim, dim], [n_kv_heads head_dim, dim] twice */
    struct linear out;          /* [dim, n_heads head_dim] */
    struct linear gate, up, down;
};

struct llama {
    struct llama_config config;
    struct row_table words;      /* [vocab_size, dim], in the file's dtype */
    struct row_table more_words; /* [n_more_words, dim] */
    struct llama_layer *layers;
    struct norm final_norm;
    struct linear head; /* [llama_n_words, dim] */
};

/* hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
 * head_dim, hidden_act, rms_norm_eps, vocab_size, max_position_embeddings, and the rotary settings
 * (rope_theta, rope_parameters or the older rope_scaling, with mrope_section where n_rope_kinds is
 * above 1) over the defaults in *config; with is_gemma2 also hidden_activation,
 * query_pre_attn_scalar, attn_logit_softcapping, final_logit_softcapping, sliding_window and
 * layer_types. Scaled rotary positions (yarn, linear, llama3 …) and, but for Gemma 2, sliding
 * windows are refused by name. */
enum status llama_config_load(const json_t *json, struct llama_config *config, struct error *err);

/* Binds "<prefix>embed_tokens", "<prefix>layers.N.…", "<prefix>norm", and for the head the tensor
 * "<head>.weight", or the word embeddings where `head` is NULL (tied); more words are in
 * "<prefix>embed_tokens.additional_embedding" and "<head>.additional_fc". llama_release() also when
 * the binder failed afterwards. */
void llama_bind(struct binder *binder, struct llama *llama, const struct llama_config *config,
                const char *prefix, const char *head);
void llama_release(struct llama *llama);

static inline size_t llama_kv_dim(const struct llama_config *config)
{
    return config->n_kv_heads * config->head_dim;
}

/* What logits there are: all words. */
static inline size_t llama_n_words(const struct llama_config *config)
{
    return config->vocab_size + config->n_more_words;
}

/* The word embeddings of ids[n] → x [n, dim]. STATUS_UNPROCESSABLE for an id outside the
 * vocabulary. */
enum status llama_embed(const struct llama *llama, const int32_t *ids, size_t n, float *x,
                        struct error *err);

/* Rows that continue a sequence, which has room for n more (n_tokens is advanced on success). */
struct llama_item {
    size_t n; /* ≥ 1 */
    struct sequence *sequence;
};

/* How a pass's rows see each other. */
enum llama_mask {
    LLAMA_CAUSAL, /* each sees itself and what is before it */
    LLAMA_PREFIX, /* each sees all of its item, and what is before the item (PaliGemma's prompt) */
};

/* x [Σ n, dim] (left undefined), positions [n_rope_kinds, Σ n] → logits [n_items, llama_n_words]
 * after each item's last row. STATUS_TOO_LONG past n_positions; on failure no sequence has changed
 * but in rows past its n_tokens. */
enum status llama_forward(const struct llama *llama, const struct compute *compute, float *x,
                          const float *positions, const struct llama_item *items, size_t n_items,
                          enum llama_mask mask, float *logits, struct error *err);

/* The same with something done to x [Σ n, dim] before each layer: what stands between the layers.
 * A failure of `before` ends the pass. */
struct llama_tap {
    enum status (*before)(void *context, size_t layer, float *x, struct error *err);
    void *context;
};
enum status llama_forward_tapped(const struct llama *llama, const struct compute *compute, float *x,
                                 const float *positions, const struct llama_item *items,
                                 size_t n_items, enum llama_mask mask, const struct llama_tap *tap,
                                 float *logits, struct error *err);

/* The gated MLP on its own, for vision towers that have it: x [n, dim] += down(activation(gate(y))
 * · up(y)) with y [n, dim]; the layers may have biases. It takes a stretch of rows at a time, so
 * that scratch memory doesn't grow with n: `scratch` is what gated_mlp_scratch() gave for as many
 * rows (NULL: out of memory), and serves one layer after another. */
struct gated_mlp {
    const struct linear *gate, *up, *down;
    enum activation activation;
};
float *gated_mlp_scratch(const struct compute *compute, size_t n, size_t mlp_dim);
void gated_mlp_forward(const struct gated_mlp *mlp, const struct compute *compute, const float *y,
                       size_t n, float *scratch, float *x);

#endif
