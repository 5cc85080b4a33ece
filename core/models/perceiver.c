/*
 * perceiver.c: see perceiver.h. All pictures of a batch go through each layer together.
 */
#include "core/models/perceiver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

static const float NORM_EPS = 1e-5f; /* PyTorch's own; no key sets it */

enum status perceiver_config_load(const json_t *json, struct perceiver_config *config,
                                  struct error *err)
{
    struct perceiver_config loaded = *config;
    enum status status = config_size(json, "resampler_n_latents", &loaded.n_latents, err);
    if (!status)
        status = config_size(json, "resampler_depth", &loaded.n_layers, err);
    if (!status)
        status = config_size(json, "resampler_n_heads", &loaded.n_heads, err);
    if (!status)
        status = config_size(json, "resampler_head_dim", &loaded.head_dim, err);
    if (!status)
        status = config_bool(json, "qk_layer_norms_perceiver", &loaded.qk_norms, err);
    if (!status) /* heads need not share the width */
        status = config_check_layers(loaded.n_heads, loaded.n_heads, loaded.n_layers, err);
    if (!status)
        *config = loaded;
    return status;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

static void bind_layer(struct binder *binder, struct perceiver_layer *layer,
                       const struct perceiver_config *config, const char *prefix, size_t i)
{
    size_t dim = config->dim, inner = config->n_heads * config->head_dim;
    bind_norm(binder, &layer->context_norm, dim, NORM_EPS, "%sblocks.%zu.0.context_layer_norm",
              prefix, i);
    bind_norm(binder, &layer->latents_norm, dim, NORM_EPS, "%sblocks.%zu.0.latents_layer_norm",
              prefix, i);
    if (config->qk_norms) {
        bind_norm(binder, &layer->q_norm, config->head_dim, NORM_EPS, "%sblocks.%zu.0.q_layer_norm",
                  prefix, i);
        bind_norm(binder, &layer->k_norm, config->head_dim, NORM_EPS, "%sblocks.%zu.0.k_layer_norm",
                  prefix, i);
    }
    bind_linear(binder, &layer->q, inner, dim, false, "%sblocks.%zu.0.q_proj", prefix, i);
    bind_linear(binder, &layer->k, inner, dim, false, "%sblocks.%zu.0.k_proj", prefix, i);
    bind_linear(binder, &layer->v, inner, dim, false, "%sblocks.%zu.0.v_proj", prefix, i);
    bind_linear(binder, &layer->out, dim, inner, false, "%sblocks.%zu.0.output_proj", prefix, i);
    bind_norm(binder, &layer->mlp_norm, dim, NORM_EPS, "%sblocks.%zu.1.ln", prefix, i);
    bind_linear(binder, &layer->up, config->mlp_dim, dim, false, "%sblocks.%zu.1.fc", prefix, i);
    bind_linear(binder, &layer->down, dim, config->mlp_dim, false, "%sblocks.%zu.1.c_proj", prefix,
                i);
}

void perceiver_bind(struct binder *binder, struct perceiver *perceiver,
                    const struct perceiver_config *config, const char *prefix)
{
    *perceiver = (struct perceiver){.config = *config,
                                    .layers = calloc(config->n_layers, sizeof *perceiver->layers)};
    if (!perceiver->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    bind_tensor(binder, &perceiver->latents, (const size_t[]){config->n_latents, config->dim, 0},
                "%slatents", prefix);
    for (size_t i = 0; i < config->n_layers; i++)
        bind_layer(binder, &perceiver->layers[i], config, prefix, i);
    bind_norm(binder, &perceiver->final_norm, config->dim, NORM_EPS, "%slayer_norm", prefix);
}

void perceiver_release(struct perceiver *perceiver)
{
    free(perceiver->layers);
    perceiver->layers = NULL;
}

/* ---- forward -----------------------------------------------------------------------------------
 */

struct pass {
    const struct perceiver *perceiver;
    const struct compute *compute;
    size_t n_rows, n; /* of each picture; pictures */
    float *normed;    /* [n · n_latents, dim] */
    float *joined;    /* [n · (n_rows + n_latents), dim] */
    float *q, *k, *v; /* [n · n_latents, inner], [n · (n_rows + n_latents), inner] twice */
    float *attended;  /* as q */
    float *wide;      /* [n · n_latents, mlp_dim] */
    struct attention_item *items;
};

static enum status pass_init(struct pass *pass, struct error *err)
{
    const struct perceiver_config *config = &pass->perceiver->config;
    struct arena *scratch = pass->compute->scratch;
    size_t inner = config->n_heads * config->head_dim, dim = config->dim;
    size_t n_latents = pass->n * config->n_latents, n_joined = n_latents + pass->n * pass->n_rows;
    pass->normed = arena_array(scratch, n_latents, dim * sizeof(float));
    pass->joined = arena_array(scratch, n_joined, dim * sizeof(float));
    pass->q = arena_array(scratch, n_latents, inner * sizeof(float));
    pass->k = arena_array(scratch, n_joined, inner * sizeof(float));
    pass->v = arena_array(scratch, n_joined, inner * sizeof(float));
    pass->attended = arena_array(scratch, n_latents, inner * sizeof(float));
    pass->wide = arena_array(scratch, n_latents, config->mlp_dim * sizeof(float));
    pass->items = arena_zalloc(scratch, pass->n, sizeof *pass->items);
    return pass->normed && pass->joined && pass->q && pass->k && pass->v && pass->attended &&
                   pass->wide && pass->items
               ? STATUS_OK
               : error_no_memory(err, "a batch of pictures");
}

static enum status layer_forward(const struct pass *pass, const struct perceiver_layer *layer,
                                 const float *x, float *latents, struct error *err)
{
    const struct perceiver_config *config = &pass->perceiver->config;
    const struct compute *compute = pass->compute;
    size_t dim = config->dim, inner = config->n_heads * config->head_dim;
    size_t n_each = pass->n_rows + config->n_latents;
    size_t n_latents = pass->n * config->n_latents, n_joined = pass->n * n_each;

    /* 1. each picture's rows, and the latents behind them */
    nn_layer_norm(compute, &layer->latents_norm, latents, n_latents, pass->normed);
    for (size_t i = 0; i < pass->n; i++) {
        float *to = pass->joined + i * n_each * dim;
        nn_layer_norm(compute, &layer->context_norm, x + i * pass->n_rows * dim, pass->n_rows, to);
        memcpy(to + pass->n_rows * dim, pass->normed + i * config->n_latents * dim,
               config->n_latents * dim * sizeof *to);
    }

    /* 2. the latents look */
    nn_linear(compute, &layer->q, pass->normed, n_latents, ACTIVATION_NONE, NULL, pass->q);
    nn_linear(compute, &layer->k, pass->joined, n_joined, ACTIVATION_NONE, NULL, pass->k);
    nn_linear(compute, &layer->v, pass->joined, n_joined, ACTIVATION_NONE, NULL, pass->v);
    if (config->qk_norms) {
        nn_layer_norm(compute, &layer->q_norm, pass->q, n_latents * config->n_heads, pass->q);
        nn_layer_norm(compute, &layer->k_norm, pass->k, n_joined * config->n_heads, pass->k);
    }
    for (size_t i = 0; i < pass->n; i++)
        pass->items[i] =
            (struct attention_item){.q = pass->q + i * config->n_latents * inner,
                                    .n_q = config->n_latents,
                                    .q_stride = inner,
                                    .k = pass->k + i * n_each * inner,
                                    .v = pass->v + i * n_each * inner,
                                    .n_kv = n_each,
                                    .kv_stride = inner,
                                    .out = pass->attended + i * config->n_latents * inner,
                                    .out_stride = inner};
    const struct attention_shape shape = {.n_heads = config->n_heads,
                                          .n_kv_heads = config->n_heads,
                                          .head_dim = config->head_dim,
                                          .scale = 1 / sqrtf((float)config->head_dim),
                                          .form = layer->out.form};
    enum status status = nn_attention(compute, &shape, pass->items, pass->n, err);
    if (status)
        return status;
    nn_linear(compute, &layer->out, pass->attended, n_latents, ACTIVATION_NONE, latents, latents);

    /* 3. the MLP */
    nn_layer_norm(compute, &layer->mlp_norm, latents, n_latents, pass->normed);
    nn_linear(compute, &layer->up, pass->normed, n_latents, ACTIVATION_RELU, NULL, pass->wide);
    nn_linear(compute, &layer->down, pass->wide, n_latents, ACTIVATION_NONE, latents, latents);
    return STATUS_OK;
}

enum status perceiver_forward(const struct perceiver *perceiver, const struct compute *compute,
                              const float *x, size_t n_rows, size_t n, float *out,
                              struct error *err)
{
    const struct perceiver_config *config = &perceiver->config;
    size_t n_floats = config->n_latents * config->dim;
    struct pass pass = {.perceiver = perceiver, .compute = compute, .n_rows = n_rows, .n = n};
    enum status status = pass_init(&pass, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * n_floats, perceiver->latents, n_floats * sizeof *out);
    for (size_t i = 0; i < config->n_layers && !status; i++)
        status = layer_forward(&pass, &perceiver->layers[i], x, out, err);
    if (!status)
        nn_layer_norm(compute, &perceiver->final_norm, out, n * config->n_latents, out);
    return status;
}
