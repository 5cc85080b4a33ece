/*
 * bert.h: BERT's post-norm transformer, as encoder and as decoder, with cross-attention where the
 * checkpoint has it (Devlin et al. 2018, arXiv:1810.04805; BLIP's text side follows it; RoBERTa and
 * XLM-R differ in how they count positions):
 *
 *   x = norm(x + out(attention(q, k, v of x)))
 *   x = cross_norm(x + cross_out(attention(cross_q of x; cross_k, cross_v of the source)))
 *   x = out_norm(x + fc2(activation(fc1(x))))
 *
 * Packed: the rows of all items one after another.
 */
#ifndef VLMD_CORE_MODELS_BERT_H
#define VLMD_CORE_MODELS_BERT_H

#include "core/models/model.h"
#include "core/weights/binder.h"

struct bert_config {
    size_t n_layers, dim, n_heads, mlp_dim;
    enum activation activation;
    float norm_eps;
    size_t vocab_size, n_positions;
    size_t cross_dim; /* of what cross-attention sees; 0 = no cross-attention */
    size_t n_types;   /* token types, of which texts are the first; 0 = none (BLIP) */
    /* RoBERTa, encoder only: positions count from pad_id + 1 and pass over the pad token, whose own
     * is pad_id. */
    bool counts_from_pad;
    int32_t pad_id;
    /* Decoder only: a sequence's cache begins with so many rows that are no tokens and have no
     * positions (GIT's picture). */
    size_t n_prefix;
};

struct bert_attention {
    struct linear q, k, v, out; /* [dim, dim]; k, v of a cross-attention [dim, cross_dim] */
    struct norm norm;
};

struct bert_layer {
    struct bert_attention self, cross;
    struct linear fc1, fc2;
    struct norm norm;
};

struct bert {
    struct bert_config config;
    const float *words;     /* [vocab_size, dim] */
    const float *positions; /* [n_positions, dim] */
    const float *types;     /* [n_types, dim] or NULL */
    struct norm embedding_norm;
    struct bert_layer *layers;
};

/* The keys hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, hidden_act,
 * layer_norm_eps, vocab_size, max_position_embeddings, type_vocab_size (where *config has types)
 * and pad_token_id (where it counts from there) over the defaults in *config. */
enum status bert_config_load(const json_t *json, struct bert_config *config, struct error *err);

/* The longest text in tokens. */
size_t bert_context_length(const struct bert_config *config);

/* Binds "<prefix>.embeddings.…" and "<prefix>.encoder.layer.N.…"; bert_release() also when the
 * binder failed afterwards. */
void bert_bind(struct binder *binder, struct bert *bert, const struct bert_config *config,
               const char *prefix);
void bert_release(struct bert *bert);

/* What the items of a pass attend to crosswise: rows [n_rows, cross_dim]. */
struct bert_source {
    const float *rows;
    size_t n_rows;
    struct kv_shared *kv; /* its keys and values, from bert_cross_kv() (borrowed); NULL: computed in
                             the pass */
};

/* One sequence's part of a pass. */
struct bert_item {
    const int32_t *ids;
    size_t n; /* ≥ 1 */
    /* Decoder: the prefix of a new sequence, [n_prefix, dim], in place of ids; its rows go in as
     * they are and see each other. NULL otherwise. */
    const float *rows;
    /* Decoder: causal, continuing this sequence's cache (reserved for n more tokens by the caller,
     * n_tokens is advanced by the pass on success); its `cross` is what cross-attention sees.
     * NULL: encoder, every row sees every row. */
    struct sequence *sequence;
    size_t source; /* encoder: index into sources */
};

/* → x [Σ n, dim], the last layer's rows. sources NULL: encoders without cross-attention. All items
 * are of one kind (all with a sequence, or none; all prefixes, or none). Ids must be in range (see
 * check_tokens) and positions within n_positions: STATUS_TOO_LONG otherwise. On failure no sequence
 * has changed. */
enum status bert_forward(const struct bert *bert, const struct compute *compute,
                         const struct bert_item *items, size_t n_items,
                         const struct bert_source *sources, size_t n_sources, float *x,
                         struct error *err);
/* The same for decoders, of whose rows only each item's last is wanted: *x [n, dim] from scratch.
 */
enum status bert_forward_last(const struct bert *bert, const struct compute *compute,
                              const struct bert_item *items, size_t n, float **x,
                              struct error *err);

/* The keys and values of one source for every layer, to be shared by decoders: [n_layers][keys,
 * values] planes as nn_keep_heads() leaves them, in bf16 where the layers are not f32. NULL and an
 * error when out of memory. bert_cross_fits(): whether a block can be that of a source of n_rows.
 */
bool bert_cross_fits(const struct bert *bert, const struct kv_shared *kv, size_t n_rows);
struct kv_shared *bert_cross_kv(const struct bert *bert, const struct compute *compute,
                                const struct bert_source *source, struct error *err);

#endif
