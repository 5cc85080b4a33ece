/*
 * gpt2.c: see gpt2.h. New keys and values go into each sequence's cache and are attended to there.
 */
#include "core/models/gpt2.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

/* ---- loading -----------------------------------------------------------------------------------
 */

const struct gpt2_config gpt2_defaults = {
    .n_layers = 12,
    .dim = 768,
    .n_heads = 12,
    .activation = ACTIVATION_GELU_TANH,
    .norm_eps = 1e-5f,
    .vocab_size = 50257,
    .n_positions = 1024,
    .scales = true,
};

enum status gpt2_config_load(const json_t *json, struct gpt2_config *config, struct error *err)
{
    struct gpt2_config loaded = *config;
    struct {
        const char *key, *common;
        size_t *out;
    } sizes[] = {
        {"n_embd", "hidden_size", &loaded.dim},
        {"n_layer", "num_hidden_layers", &loaded.n_layers},
        {"n_head", "num_attention_heads", &loaded.n_heads},
        {"n_positions", "max_position_embeddings", &loaded.n_positions},
        {"vocab_size", "vocab_size", &loaded.vocab_size},
    };
    struct {
        const char *key;
        bool *out;
    } flags[] = {
        {"add_cross_attention", &loaded.has_cross},
        {"scale_attn_weights", &loaded.scales},
        {"scale_attn_by_inverse_layer_idx", &loaded.scales_by_layer},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !status; i++) {
        status = config_size(json, sizes[i].common, sizes[i].out, err);
        if (!status)
            status = config_size(json, sizes[i].key, sizes[i].out, err);
    }
    if (!status && !size_mul(4, loaded.dim, &loaded.mlp_dim))
        status = error_set(err, STATUS_BAD_CHECKPOINT, "'n_embd' is too large");
    if (!status)
        status = config_size(json, "n_inner", &loaded.mlp_dim, err);
    if (!status)
        status = config_activation(json, "activation_function", &loaded.activation, err);
    if (!status)
        status = config_float(json, "layer_norm_epsilon", &loaded.norm_eps, err);
    for (size_t i = 0; i < ARRAY_LENGTH(flags) && !status; i++)
        status = config_bool(json, flags[i].key, flags[i].out, err);
    if (!status)
        status = config_check_layers(loaded.dim, loaded.n_heads, loaded.n_layers, err);
    if (!status)
        *config = loaded;
    return status;
}

/* A Conv1D: "<layer>.<name>.weight" [n_in, n_out] and ".bias". */
static void bind_conv1d(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                        const char *layer, const char *name)
{
    char weight[160], bias[160];
    snprintf(weight, sizeof weight, "%s.%s.weight", layer, name);
    snprintf(bias, sizeof bias, "%s.%s.bias", layer, name);
    bind_linear_transposed(binder, out, n_out, n_in, weight, bias);
}

static void bind_layer(struct binder *binder, struct gpt2_layer *layer,
                       const struct gpt2_config *config, const char *name)
{
    size_t dim = config->dim;
    bind_norm(binder, &layer->norm1, dim, config->norm_eps, "%s.ln_1", name);
    bind_conv1d(binder, &layer->qkv, 3 * dim, dim, name, "attn.c_attn");
    bind_conv1d(binder, &layer->out, dim, dim, name, "attn.c_proj");
    if (config->has_cross) {
        bind_norm(binder, &layer->cross_norm, dim, config->norm_eps, "%s.ln_cross_attn", name);
        bind_conv1d(binder, &layer->cross_q, dim, dim, name, "crossattention.q_attn");
        bind_conv1d(binder, &layer->cross_kv, 2 * dim, dim, name, "crossattention.c_attn");
        bind_conv1d(binder, &layer->cross_out, dim, dim, name, "crossattention.c_proj");
    }
    bind_norm(binder, &layer->norm2, dim, config->norm_eps, "%s.ln_2", name);
    bind_conv1d(binder, &layer->fc1, config->mlp_dim, dim, name, "mlp.c_fc");
    bind_conv1d(binder, &layer->fc2, dim, config->mlp_dim, name, "mlp.c_proj");
}

void gpt2_bind(struct binder *binder, struct gpt2 *gpt2, const struct gpt2_config *config,
               const char *prefix, const char *head)
{
    char words[96], name[96];
    snprintf(words, sizeof words, "%swte.weight", prefix);
    const char *const heads[] = {head, words};
    *gpt2 =
        (struct gpt2){.config = *config, .layers = calloc(config->n_layers, sizeof *gpt2->layers)};
    if (!gpt2->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    bind_tensor(binder, &gpt2->words, (const size_t[]){config->vocab_size, config->dim, 0}, "%s",
                words);
    bind_tensor(binder, &gpt2->positions, (const size_t[]){config->n_positions, config->dim, 0},
                "%swpe.weight", prefix);
    for (size_t i = 0; i < config->n_layers; i++) {
        snprintf(name, sizeof name, "%sh.%zu", prefix, i);
        bind_layer(binder, &gpt2->layers[i], config, name);
    }
    bind_norm(binder, &gpt2->final_norm, config->dim, config->norm_eps, "%sln_f", prefix);
    bind_linear_tensors(binder, &gpt2->head, config->vocab_size, config->dim,
                        bind_choose(binder, heads, ARRAY_LENGTH(heads)), NULL);
    if (!binder->status && tensor_set_find(binder->tensors, head))
        binder->n_parameters -= config->vocab_size * config->dim; /* tied: stored twice */
}

void gpt2_release(struct gpt2 *gpt2)
{
    free(gpt2->layers);
    gpt2->layers = NULL;
}

/* ---- a pass ------------------------------------------------------------------------------------
 */

struct pass {
    const struct gpt2 *gpt2;
    const struct compute *compute;
    const struct gpt2_item *items;
    size_t n_items, n_total;
    float *normed; /* [n_total, dim] */
    float *wide;   /* [n_total, max(3 dim, mlp_dim)] */
    float *attended;
    struct attention_item *attention;
};

static enum status pass_init(struct pass *pass, struct error *err)
{
    const struct gpt2_config *config = &pass->gpt2->config;
    struct arena *scratch = pass->compute->scratch;
    size_t width = 3 * config->dim > config->mlp_dim ? 3 * config->dim : config->mlp_dim, n;
    for (size_t i = 0; i < pass->n_items; i++)
        pass->n_total += pass->items[i].n;
    if (!size_mul(pass->n_total, width, &n))
        return error_no_memory(err, "a forward pass");
    pass->normed = arena_array(scratch, pass->n_total * config->dim, sizeof(float));
    pass->attended = arena_array(scratch, pass->n_total * config->dim, sizeof(float));
    pass->wide = arena_array(scratch, n, sizeof(float));
    pass->attention = arena_array(scratch, pass->n_items, sizeof *pass->attention);
    if (!pass->normed || !pass->attended || !pass->wide || !pass->attention)
        return error_no_memory(err, "a forward pass's activations");
    return STATUS_OK;
}

/* words + positions → x */
static enum status embed(const struct pass *pass, float *x, struct error *err)
{
    const struct gpt2 *gpt2 = pass->gpt2;
    size_t dim = gpt2->config.dim, n_max = gpt2->config.n_positions;
    for (size_t i = 0; i < pass->n_items; i++) {
        const struct gpt2_item *item = &pass->items[i];
        size_t first = item->sequence->n_tokens;
        size_t n_longer = item->alternatives ? 1 : item->n;
        if (n_longer > n_max || first > n_max - n_longer)
            return error_set(err, STATUS_TOO_LONG,
                             "%zu tokens are more than the model's %zu positions", first + n_longer,
                             n_max);
        for (size_t j = 0; j < item->n; j++, x += dim) {
            if (item->ids[j] < 0 || (size_t)item->ids[j] >= gpt2->config.vocab_size)
                return error_set(err, STATUS_UNPROCESSABLE,
                                 "the token id %d is outside the model's vocabulary of %zu",
                                 (int)item->ids[j], gpt2->config.vocab_size);
            const float *word = gpt2->words + (size_t)item->ids[j] * dim;
            const float *position = gpt2->positions + (first + (item->alternatives ? 0 : j)) * dim;
            for (size_t d = 0; d < dim; d++)
                x[d] = word[d] + position[d];
        }
    }
    return STATUS_OK;
}

static struct attention_shape shape_of(const struct gpt2 *gpt2, size_t layer, bool causal)
{
    const struct gpt2_config *config = &gpt2->config;
    size_t head_dim = config->dim / config->n_heads;
    float scale = config->scales ? 1 / sqrtf((float)head_dim) : 1;
    if (config->scales_by_layer)
        scale /= (float)(layer + 1);
    return (struct attention_shape){config->n_heads, config->n_heads, head_dim,
                                    scale,           causal,          gpt2->layers[layer].out.form};
}

/* Puts keys and values of rows [from, from + n) of an item behind its sequence's. */
static struct attention_item attend(const struct pass *pass, size_t i_layer,
                                    const struct gpt2_item *item, size_t row, size_t from, size_t n)
{
    size_t dim = pass->gpt2->config.dim, n_before = item->sequence->n_tokens;
    const float *qkv = pass->wide + (row + from) * 3 * dim;
    float *keys = sequence_kv(item->sequence, i_layer, 0);
    float *values = sequence_kv(item->sequence, i_layer, 1);
    for (size_t j = 0; j < n; j++) {
        memcpy(keys + (n_before + j) * dim, qkv + (3 * j + 1) * dim, dim * sizeof *keys);
        memcpy(values + (n_before + j) * dim, qkv + (3 * j + 2) * dim, dim * sizeof *values);
    }
    return (struct attention_item){.q = qkv,
                                   .n_q = n,
                                   .q_stride = 3 * dim,
                                   .k = keys,
                                   .v = values,
                                   .n_kv = n_before + n,
                                   .kv_stride = dim,
                                   .out = pass->attended + (row + from) * dim,
                                   .out_stride = dim};
}

/* The j-th alternative of each item that has so many, one after another in the same place of the
 * cache; whole items with j = 0. → how many items attend. */
static size_t collect_attention(const struct pass *pass, size_t i_layer, size_t j)
{
    size_t n = 0;
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->items[i++].n) {
        const struct gpt2_item *item = &pass->items[i];
        if (item->alternatives && j < item->n)
            pass->attention[n++] = attend(pass, i_layer, item, row, j, 1);
        else if (j == 0)
            pass->attention[n++] = attend(pass, i_layer, item, row, 0, item->n);
    }
    return n;
}

static enum status self_attention(const struct pass *pass, size_t i_layer, float *x,
                                  struct error *err)
{
    const struct gpt2_layer *layer = &pass->gpt2->layers[i_layer];
    nn_layer_norm(pass->compute, &layer->norm1, x, pass->n_total, pass->normed);
    nn_linear(pass->compute, &layer->qkv, pass->normed, pass->n_total, ACTIVATION_NONE, NULL,
              pass->wide);
    struct attention_shape shape = shape_of(pass->gpt2, i_layer, true);
    enum status status = STATUS_OK;
    for (size_t j = 0, n; !status && (n = collect_attention(pass, i_layer, j)) > 0; j++)
        status = nn_attention(pass->compute, &shape, pass->attention, n, err);
    if (!status)
        nn_linear(pass->compute, &layer->out, pass->attended, pass->n_total, ACTIVATION_NONE, x, x);
    return status;
}

static enum status cross_attention(const struct pass *pass, size_t i_layer, float *x,
                                   struct error *err)
{
    const struct gpt2_layer *layer = &pass->gpt2->layers[i_layer];
    size_t dim = pass->gpt2->config.dim;
    nn_layer_norm(pass->compute, &layer->cross_norm, x, pass->n_total, pass->normed);
    nn_linear(pass->compute, &layer->cross_q, pass->normed, pass->n_total, ACTIVATION_NONE, NULL,
              pass->wide);
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->items[i++].n) {
        const struct kv_shared *cross = pass->items[i].sequence->cross;
        const float *keys = cross->data + i_layer * cross->n_rows * 2 * dim;
        pass->attention[i] = (struct attention_item){.q = pass->wide + row * dim,
                                                     .n_q = pass->items[i].n,
                                                     .q_stride = dim,
                                                     .k = keys,
                                                     .v = keys + dim,
                                                     .n_kv = cross->n_rows,
                                                     .kv_stride = 2 * dim,
                                                     .out = pass->attended + row * dim,
                                                     .out_stride = dim};
    }
    struct attention_shape shape = shape_of(pass->gpt2, i_layer, false);
    enum status status = nn_attention(pass->compute, &shape, pass->attention, pass->n_items, err);
    if (!status)
        nn_linear(pass->compute, &layer->cross_out, pass->attended, pass->n_total, ACTIVATION_NONE,
                  x, x);
    return status;
}

static void mlp(const struct pass *pass, const struct gpt2_layer *layer, float *x)
{
    nn_layer_norm(pass->compute, &layer->norm2, x, pass->n_total, pass->normed);
    nn_linear(pass->compute, &layer->fc1, pass->normed, pass->n_total,
              pass->gpt2->config.activation, NULL, pass->wide);
    nn_linear(pass->compute, &layer->fc2, pass->wide, pass->n_total, ACTIVATION_NONE, x, x);
}

/* All layers → x [Σ n, dim], not yet normed; the sequences are longer by their new tokens. */
static enum status run(const struct gpt2 *gpt2, const struct compute *compute,
                       const struct gpt2_item *items, size_t n_items, float **out, size_t *n_total,
                       struct error *err)
{
    struct pass pass = {.gpt2 = gpt2, .compute = compute, .items = items, .n_items = n_items};
    enum status status = pass_init(&pass, err);
    if (status)
        return status;
    float *x = arena_array(compute->scratch, pass.n_total * gpt2->config.dim, sizeof *x);
    if (!x)
        return error_no_memory(err, "a forward pass's activations");
    status = embed(&pass, x, err);
    for (size_t i = 0; i < gpt2->config.n_layers && !status; i++) {
        status = self_attention(&pass, i, x, err);
        if (!status && gpt2->config.has_cross)
            status = cross_attention(&pass, i, x, err);
        if (!status)
            mlp(&pass, &gpt2->layers[i], x);
    }
    if (status)
        return status;
    for (size_t i = 0; i < n_items; i++)
        items[i].sequence->n_tokens += items[i].alternatives ? 0 : items[i].n;
    *out = x;
    *n_total = pass.n_total;
    return STATUS_OK;
}

enum status gpt2_hidden(const struct gpt2 *gpt2, const struct compute *compute,
                        const struct gpt2_item *items, size_t n_items, float **hidden,
                        struct error *err)
{
    size_t n;
    enum status status = run(gpt2, compute, items, n_items, hidden, &n, err);
    if (!status)
        nn_layer_norm(compute, &gpt2->final_norm, *hidden, n, *hidden);
    return status;
}

void gpt2_logits(const struct gpt2 *gpt2, const struct compute *compute, const float *hidden,
                 size_t n, float *logits)
{
    nn_linear(compute, &gpt2->head, hidden, n, ACTIVATION_NONE, NULL, logits);
}

enum status gpt2_forward(const struct gpt2 *gpt2, const struct compute *compute,
                         const struct gpt2_item *items, size_t n_items, float *logits,
                         struct error *err)
{
    size_t dim = gpt2->config.dim, n_total;
    float *x;
    enum status status = run(gpt2, compute, items, n_items, &x, &n_total, err);
    if (status)
        return status;
    for (size_t i = 0, row = 0; i < n_items; row += items[i++].n) /* rows only move forward */
        memmove(x + i * dim, x + (row + items[i].n - 1) * dim, dim * sizeof *x);
    nn_layer_norm(compute, &gpt2->final_norm, x, n_items, x);
    gpt2_logits(gpt2, compute, x, n_items, logits);
    return STATUS_OK;
}

struct kv_shared *gpt2_cross_kv(const struct gpt2 *gpt2, const struct compute *compute,
                                const float *rows, size_t n_rows, struct error *err)
{
    size_t n_layer, n_floats;
    struct kv_shared *shared = NULL;
    if (size_mul(n_rows, 2 * gpt2->config.dim, &n_layer) &&
        size_mul(n_layer, gpt2->config.n_layers, &n_floats))
        shared = kv_shared_new(n_rows, n_floats);
    if (!shared) {
        error_no_memory(err, "a picture's keys and values");
        return NULL;
    }
    for (size_t i = 0; i < gpt2->config.n_layers; i++)
        nn_linear(compute, &gpt2->layers[i].cross_kv, rows, n_rows, ACTIVATION_NONE, NULL,
                  shared->data + i * n_layer);
    return shared;
}
