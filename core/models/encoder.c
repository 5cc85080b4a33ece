/*
 * encoder.c: see encoder.h. Scratch memory is taken once for all layers.
 */
#include "core/models/encoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

const struct encoder_names encoder_names_clip = {
    .norm1 = "layer_norm1",
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .out = "self_attn.out_proj",
    .norm2 = "layer_norm2",
    .fc1 = "mlp.fc1",
    .fc2 = "mlp.fc2",
    .qkv_bias = true,
};

const struct encoder_names encoder_names_open_clip = {
    .norm1 = "ln_1",
    .in_proj = "attn.in_proj",
    .out = "attn.out_proj",
    .norm2 = "ln_2",
    .fc1 = "mlp.c_fc",
    .fc2 = "mlp.c_proj",
    .qkv_bias = true,
};

const struct encoder_names encoder_names_vit = {
    .norm1 = "layernorm_before",
    .q = "attention.attention.query",
    .k = "attention.attention.key",
    .v = "attention.attention.value",
    .out = "attention.output.dense",
    .norm2 = "layernorm_after",
    .fc1 = "intermediate.dense",
    .fc2 = "output.dense",
    .qkv_bias = true,
};

enum status encoder_config_load(const json_t *json, struct encoder_config *config,
                                struct error *err)
{
    struct encoder_config loaded = *config;
    enum status status = config_size(json, "hidden_size", &loaded.dim, err);
    if (!status)
        status = config_size(json, "intermediate_size", &loaded.mlp_dim, err);
    if (!status)
        status = config_size(json, "num_hidden_layers", &loaded.n_layers, err);
    if (!status)
        status = config_size(json, "num_attention_heads", &loaded.n_heads, err);
    if (!status)
        status = config_activation(json, "hidden_act", &loaded.activation, err);
    if (!status)
        status = config_float(json, "layer_norm_eps", &loaded.norm_eps, err);
    if (!status)
        status = config_check_layers(loaded.dim, loaded.n_heads, loaded.n_layers, err);
    if (!status)
        *config = loaded;
    return status;
}

static void bind_in_proj(struct binder *binder, struct linear *out, size_t dim, const char *prefix,
                         size_t layer, const char *name)
{
    char weight[128], bias[128];
    snprintf(weight, sizeof weight, "%s.%zu.%s_weight", prefix, layer, name);
    snprintf(bias, sizeof bias, "%s.%zu.%s_bias", prefix, layer, name);
    bind_linear_tensors(binder, out, 3 * dim, dim, weight, bias);
}

void encoder_bind(struct binder *binder, struct encoder *encoder,
                  const struct encoder_config *config, const struct encoder_names *names,
                  const char *prefix)
{
    size_t dim = config->dim;
    *encoder = (struct encoder){.config = *config, .fused = names->qkv || names->in_proj};
    encoder->layers = calloc(config->n_layers, sizeof *encoder->layers);
    if (!encoder->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    for (size_t i = 0; i < config->n_layers; i++) {
        struct encoder_layer *layer = &encoder->layers[i];
        bind_norm(binder, &layer->norm1, dim, config->norm_eps, "%s.%zu.%s", prefix, i,
                  names->norm1);
        if (names->in_proj) {
            bind_in_proj(binder, &layer->qkv, dim, prefix, i, names->in_proj);
        } else if (names->qkv) {
            bind_linear(binder, &layer->qkv, 3 * dim, dim, names->qkv_bias, "%s.%zu.%s", prefix, i,
                        names->qkv);
        } else {
            bind_linear(binder, &layer->q, dim, dim, names->qkv_bias, "%s.%zu.%s", prefix, i,
                        names->q);
            bind_linear(binder, &layer->k, dim, dim, names->qkv_bias, "%s.%zu.%s", prefix, i,
                        names->k);
            bind_linear(binder, &layer->v, dim, dim, names->qkv_bias, "%s.%zu.%s", prefix, i,
                        names->v);
        }
        bind_linear(binder, &layer->out, dim, dim, true, "%s.%zu.%s", prefix, i, names->out);
        bind_norm(binder, &layer->norm2, dim, config->norm_eps, "%s.%zu.%s", prefix, i,
                  names->norm2);
        bind_linear(binder, &layer->fc1, config->mlp_dim, dim, true, "%s.%zu.%s", prefix, i,
                    names->fc1);
        bind_linear(binder, &layer->fc2, dim, config->mlp_dim, true, "%s.%zu.%s", prefix, i,
                    names->fc2);
    }
}

void encoder_release(struct encoder *encoder)
{
    free(encoder->layers);
    encoder->layers = NULL;
}

/* A pass's scratch memory. `wide` holds q, k, v during attention and the MLP's inner activations
 * after it. Rows that go from one operation to the next, there and in `normed`, are bf16 where a
 * layer's form allows it, else f32. */
struct pass {
    const struct encoder *encoder;
    const struct compute *compute;
    const size_t *n_rows;
    size_t n_items, n_total;
    size_t n_rows_min; /* of the shortest item */
    float *normed;     /* [n_total, dim]; also the attention's result */
    float *wide;       /* [n_total, max(3 dim, mlp_dim)] */
    struct attention_item *items;
    float *joined; /* keys and values of each item behind its prefix; NULL: there is none */
};

static enum status pass_init(struct pass *pass, const struct encoder *encoder,
                             const struct compute *compute, const size_t *n_rows, size_t n_items,
                             struct error *err)
{
    size_t dim = encoder->config.dim, mlp_dim = encoder->config.mlp_dim;
    size_t n_total = 0, n_rows_min = SIZE_MAX;
    for (size_t i = 0; i < n_items; i++) {
        if (!size_add(n_total, n_rows[i], &n_total))
            return error_no_memory(err, "a forward pass");
        n_rows_min = n_rows[i] < n_rows_min ? n_rows[i] : n_rows_min;
    }
    *pass = (struct pass){.encoder = encoder,
                          .compute = compute,
                          .n_rows = n_rows,
                          .n_items = n_items,
                          .n_total = n_total,
                          .n_rows_min = n_rows_min};
    size_t width = 3 * dim > mlp_dim ? 3 * dim : mlp_dim, n;
    if (!size_mul(n_total, width, &n))
        return error_no_memory(err, "a forward pass");
    pass->normed = arena_array(compute->scratch, n_total * dim, sizeof(float));
    pass->wide = arena_array(compute->scratch, n, sizeof(float));
    pass->items = arena_array(compute->scratch, n_items, sizeof *pass->items);
    if (!pass->normed || !pass->wide || !pass->items)
        return error_no_memory(err, "a forward pass's activations");
    return STATUS_OK;
}

/* All items but the first stand behind the rows of the first. */
static enum status pass_set_prefix(struct pass *pass, struct error *err)
{
    size_t n = (pass->n_items - 1) * pass->n_rows[0] + pass->n_total;
    pass->joined =
        arena_array(pass->compute->scratch, n, 2 * pass->encoder->config.dim * sizeof(float));
    return pass->joined ? STATUS_OK : error_no_memory(err, "a forward pass's activations");
}

/* Queries, keys, values of n_total rows, a row `stride` elements behind the one before. */
struct qkv {
    const void *q, *k, *v;
    size_t stride;
    enum dtype dtype;
};

static const void *row_of(const void *rows, const struct qkv *qkv, size_t row)
{
    return (const char *)rows + row * qkv->stride * dtype_size(qkv->dtype);
}

/* What goes into the layer's q, k, v (and what they may give). */
static enum dtype qkv_dtype(const struct encoder *encoder, const struct encoder_layer *layer)
{
    if (encoder->fused)
        return nn_linear_dtype(&layer->qkv);
    return nn_linear_dtype(&layer->q) == DTYPE_BF16 && nn_linear_dtype(&layer->k) == DTYPE_BF16
               ? nn_linear_dtype(&layer->v)
               : DTYPE_F32;
}

static struct qkv project_qkv(const struct pass *pass, const struct encoder_layer *layer,
                              struct nn_rows from, enum dtype dtype)
{
    size_t dim = pass->encoder->config.dim, n = pass->n_total, each = dtype_size(dtype);
    char *q = (char *)pass->wide;
    if (pass->encoder->fused) {
        nn_linear_rows(pass->compute, &layer->qkv, from, n, ACTIVATION_NONE, NULL,
                       (struct nn_rows){q, dtype});
        return (struct qkv){q, q + dim * each, q + 2 * dim * each, 3 * dim, dtype};
    }
    char *k = q + n * dim * each, *v = k + n * dim * each;
    nn_linear_rows(pass->compute, &layer->q, from, n, ACTIVATION_NONE, NULL,
                   (struct nn_rows){q, dtype});
    nn_linear_rows(pass->compute, &layer->k, from, n, ACTIVATION_NONE, NULL,
                   (struct nn_rows){k, dtype});
    nn_linear_rows(pass->compute, &layer->v, from, n, ACTIVATION_NONE, NULL,
                   (struct nn_rows){v, dtype});
    return (struct qkv){q, k, v, dim, dtype};
}

static void copy_rows(float *to, const float *from, size_t stride, size_t n, size_t dim)
{
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * dim, from + i * stride, dim * sizeof *to);
}

/* Item i, whose rows begin at `row`, is to see n of them, and the prefix's before. */
static void set_keys(const struct pass *pass, const struct qkv *qkv, size_t i, size_t row, size_t n)
{
    struct attention_item *item = &pass->items[i];
    size_t dim = pass->encoder->config.dim, stride = qkv->stride;
    const void *k = row_of(qkv->k, qkv, row), *v = row_of(qkv->v, qkv, row);
    item->kv_dtype = qkv->dtype;
    if (!pass->joined || i == 0) {
        item->k = k;
        item->v = v;
        item->n_kv = n;
        item->kv_stride = stride;
        return;
    }
    size_t n_before = pass->n_rows[0], n_kv = n_before + n;
    float *joined_k = pass->joined + 2 * (row + (i - 1) * n_before) * dim;
    float *joined_v = joined_k + n_kv * dim;
    copy_rows(joined_k, qkv->k, stride, n_before, dim);
    copy_rows(joined_k + n_before * dim, k, stride, n, dim);
    copy_rows(joined_v, qkv->v, stride, n_before, dim);
    copy_rows(joined_v + n_before * dim, v, stride, n, dim);
    item->k = joined_k;
    item->v = joined_v;
    item->n_kv = n_kv;
    item->kv_stride = dim;
}

static struct attention_shape shape_of(const struct encoder_config *config,
                                       const struct encoder_layer *layer, bool causal)
{
    size_t head_dim = config->dim / config->n_heads;
    return (struct attention_shape){config->n_heads, config->n_heads,
                                    head_dim,        1 / sqrtf((float)head_dim),
                                    causal,          layer->out.form};
}

/* rows [n, dim] += fc2(activation(fc1(norm2(rows)))), or, with post_norm, norm2 of the sum. */
static void mlp(const struct pass *pass, const struct encoder_layer *layer, float *rows, size_t n)
{
    const struct encoder_config *config = &pass->encoder->config;
    enum dtype dtype = nn_linear_dtype(&layer->fc1);
    struct nn_rows x = {rows, DTYPE_F32}, normed = {pass->normed, dtype},
                   inner = {pass->wide, dtype == DTYPE_BF16 ? nn_linear_dtype(&layer->fc2) : dtype};
    if (!config->post_norm)
        nn_layer_norm_rows(pass->compute, &layer->norm2, rows, n, normed);
    nn_linear_rows(pass->compute, &layer->fc1, config->post_norm ? x : normed, n,
                   config->activation, NULL, inner);
    nn_linear_rows(pass->compute, &layer->fc2, inner, n, ACTIVATION_NONE, rows, x);
    if (config->post_norm)
        nn_layer_norm(pass->compute, &layer->norm2, rows, n, rows);
}

static enum status layer_forward(const struct pass *pass, const struct encoder_layer *layer,
                                 float *x, struct error *err)
{
    const struct encoder_config *config = &pass->encoder->config;
    struct attention_shape shape = shape_of(config, layer, config->causal);
    size_t dim = config->dim;
    enum dtype dtype = qkv_dtype(pass->encoder, layer);
    struct nn_rows rows = {x, DTYPE_F32}, normed = {pass->normed, dtype};
    if (!config->post_norm)
        nn_layer_norm_rows(pass->compute, &layer->norm1, x, pass->n_total, normed);
    if (dtype == DTYPE_BF16)
        dtype = pass->joined ? DTYPE_F32 : nn_attention_dtype(&shape, pass->n_rows_min);
    struct qkv qkv = project_qkv(pass, layer, config->post_norm ? rows : normed, dtype);
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->n_rows[i++]) {
        pass->items[i] = (struct attention_item){.q = row_of(qkv.q, &qkv, row),
                                                 .q_dtype = qkv.dtype,
                                                 .n_q = pass->n_rows[i],
                                                 .q_stride = qkv.stride,
                                                 .out = pass->normed + row * dim,
                                                 .out_stride = dim};
        set_keys(pass, &qkv, i, row, pass->n_rows[i]);
    }
    enum status status = nn_attention(pass->compute, &shape, pass->items, pass->n_items, err);
    if (status)
        return status;
    nn_linear(pass->compute, &layer->out, pass->normed, pass->n_total, ACTIVATION_NONE, x, x);
    if (config->post_norm)
        nn_layer_norm(pass->compute, &layer->norm1, x, pass->n_total, x);
    mlp(pass, layer, x, pass->n_total);
    return STATUS_OK;
}

/* The last layer for one row of each item: keys and values of all rows, everything else of one. */
static enum status pooled_layer_forward(const struct pass *pass, const struct encoder_layer *layer,
                                        const float *x, const size_t *pooled, float *out,
                                        struct error *err)
{
    const struct encoder_config *config = &pass->encoder->config;
    size_t dim = config->dim, n_items = pass->n_items, n = pass->n_total;
    float *queries = arena_array(pass->compute->scratch, 2 * n_items * dim, sizeof(float));
    if (!queries)
        return error_no_memory(err, "a forward pass's activations");
    float *query_rows = queries + n_items * dim;

    nn_layer_norm(pass->compute, &layer->norm1, x, n, pass->normed);
    for (size_t i = 0, row = 0; i < n_items; row += pass->n_rows[i++]) {
        memcpy(query_rows + i * dim, pass->normed + (row + pooled[i]) * dim, dim * sizeof(float));
        memcpy(out + i * dim, x + (row + pooled[i]) * dim, dim * sizeof(float));
    }
    struct qkv qkv;
    if (pass->encoder->fused) {
        qkv = project_qkv(pass, layer, (struct nn_rows){pass->normed, DTYPE_F32}, DTYPE_F32);
        for (size_t i = 0, row = 0; i < n_items; row += pass->n_rows[i++])
            memcpy(queries + i * dim, row_of(qkv.q, &qkv, row + pooled[i]), dim * sizeof(float));
    } else {
        float *k = pass->wide, *v = k + n * dim;
        nn_linear(pass->compute, &layer->q, query_rows, n_items, ACTIVATION_NONE, NULL, queries);
        nn_linear(pass->compute, &layer->k, pass->normed, n, ACTIVATION_NONE, NULL, k);
        nn_linear(pass->compute, &layer->v, pass->normed, n, ACTIVATION_NONE, NULL, v);
        qkv = (struct qkv){queries, k, v, dim, DTYPE_F32};
    }
    for (size_t i = 0, row = 0; i < n_items; row += pass->n_rows[i++]) {
        pass->items[i] = (struct attention_item){.q = queries + i * dim,
                                                 .n_q = 1,
                                                 .q_stride = dim,
                                                 .out = query_rows + i * dim,
                                                 .out_stride = dim};
        set_keys(pass, &qkv, i, row, config->causal ? pooled[i] + 1 : pass->n_rows[i]);
    }
    struct attention_shape shape = shape_of(config, layer, false);
    enum status status = nn_attention(pass->compute, &shape, pass->items, n_items, err);
    if (status)
        return status;
    nn_linear(pass->compute, &layer->out, query_rows, n_items, ACTIVATION_NONE, out, out);
    mlp(pass, layer, out, n_items);
    return STATUS_OK;
}

static enum status run_layers(const struct pass *pass, float *x, const size_t *pooled, float *out,
                              const struct encoder_tap *tap, struct error *err)
{
    const struct encoder *encoder = pass->encoder;
    size_t n_whole = encoder->config.n_layers - (pooled ? 1 : 0);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n_whole && !status; i++) {
        status = layer_forward(pass, &encoder->layers[i], x, err);
        if (!status && tap)
            tap->after(tap->context, i, x);
    }
    if (!status && pooled)
        status = pooled_layer_forward(pass, &encoder->layers[n_whole], x, pooled, out, err);
    return status;
}

enum status encoder_forward_tapped(const struct encoder *encoder, const struct compute *compute,
                                   float *x, const size_t *n_rows, size_t n_items,
                                   const size_t *pooled, float *out, const struct encoder_tap *tap,
                                   struct error *err)
{
    struct pass pass;
    enum status status = pass_init(&pass, encoder, compute, n_rows, n_items, err);
    return status ? status : run_layers(&pass, x, pooled, out, tap, err);
}

enum status encoder_forward_prefixed(const struct encoder *encoder, const struct compute *compute,
                                     float *x, const size_t *n_rows, size_t n_items,
                                     const size_t *pooled, float *out, struct error *err)
{
    struct pass pass;
    enum status status = pass_init(&pass, encoder, compute, n_rows, n_items, err);
    if (!status)
        status = pass_set_prefix(&pass, err);
    return status ? status : run_layers(&pass, x, pooled, out, NULL, err);
}

enum status encoder_forward(const struct encoder *encoder, const struct compute *compute, float *x,
                            const size_t *n_rows, size_t n_items, const size_t *pooled, float *out,
                            struct error *err)
{
    return encoder_forward_tapped(encoder, compute, x, n_rows, n_items, pooled, out, NULL, err);
}
