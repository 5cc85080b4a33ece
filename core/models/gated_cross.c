/*
 * gated_cross.c: see gated_cross.h. Pictures whose keys and values are kept are looked at in one
 * attention; the others take turns in the same scratch rows, so that a prompt's pictures take no
 * more memory the more there are.
 */
#include "core/models/gated_cross.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/llama.h"

/* ---- weights -----------------------------------------------------------------------------------
 */

static void bind_gate(struct binder *binder, const float **out,
                      const struct gated_cross_config *config, const char *prefix, size_t i,
                      const char *name)
{
    const size_t one[] = {1, 0}, each[] = {1, 1, config->dim, 0};
    bind_tensor(binder, out, config->vector_gates ? each : one, "%s%zu.%s", prefix, i, name);
}

static void bind_layer(struct binder *binder, struct gated_cross_layer *layer,
                       const struct gated_cross_config *config, const char *prefix, size_t i)
{
    size_t dim = config->dim, mlp_dim = config->mlp_dim, head_dim = dim / config->n_heads;
    float eps = config->norm_eps;
    bind_gate(binder, &layer->alphas[0], config, prefix, i, "alpha_cross_attn");
    bind_gate(binder, &layer->alphas[1], config, prefix, i, "alpha_dense");
    bind_rms_norm(binder, &layer->norm1, dim, eps, "%s%zu.input_layernorm", prefix, i);
    bind_rms_norm(binder, &layer->norm2, dim, eps, "%s%zu.post_attention_layernorm", prefix, i);
    if (config->qk_norms) {
        bind_rms_norm(binder, &layer->q_norm, head_dim, eps, "%s%zu.cross_attn.q_layer_norm",
                      prefix, i);
        bind_rms_norm(binder, &layer->k_norm, head_dim, eps, "%s%zu.cross_attn.k_layer_norm",
                      prefix, i);
    }
    bind_linear(binder, &layer->q, dim, dim, false, "%s%zu.cross_attn.q_proj", prefix, i);
    bind_linear(binder, &layer->k, dim, config->picture_dim, false, "%s%zu.cross_attn.k_proj",
                prefix, i);
    bind_linear(binder, &layer->v, dim, config->picture_dim, false, "%s%zu.cross_attn.v_proj",
                prefix, i);
    bind_linear(binder, &layer->out, dim, dim, false, "%s%zu.cross_attn.o_proj", prefix, i);
    bind_linear(binder, &layer->gate, mlp_dim, dim, false, "%s%zu.mlp.gate_proj", prefix, i);
    bind_linear(binder, &layer->up, mlp_dim, dim, false, "%s%zu.mlp.up_proj", prefix, i);
    bind_linear(binder, &layer->down, dim, mlp_dim, false, "%s%zu.mlp.down_proj", prefix, i);
}

void gated_cross_bind(struct binder *binder, struct gated_cross *cross,
                      const struct gated_cross_config *config, const char *prefix)
{
    *cross = (struct gated_cross){.config = *config,
                                  .layers = calloc(config->n_layers, sizeof *cross->layers)};
    if (!cross->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    for (size_t i = 0; i < config->n_layers; i++)
        bind_layer(binder, &cross->layers[i], config, prefix, i);
}

enum status gated_cross_finish(struct gated_cross *cross, struct error *err)
{
    size_t dim = cross->config.dim;
    float *gate = cross->gates = alloc_array(cross->config.n_layers, 2 * dim * sizeof *gate);
    if (!gate)
        return error_no_memory(err, "the layers' gates");
    for (size_t i = 0; i < cross->config.n_layers; i++)
        for (size_t k = 0; k < 2; k++)
            for (size_t d = 0; d < dim; d++)
                *gate++ = tanhf(cross->layers[i].alphas[k][cross->config.vector_gates ? d : 0]);
    return STATUS_OK;
}

void gated_cross_release(struct gated_cross *cross)
{
    free(cross->layers);
    free(cross->gates);
    cross->layers = NULL;
    cross->gates = NULL;
}

/* ---- a pass ------------------------------------------------------------------------------------
 */

struct kv_shared *gated_cross_kv_new(const struct gated_cross *cross, size_t n_rows)
{
    size_t n_floats;
    return size_mul(cross->config.n_layers * 2, n_rows, &n_floats) &&
                   size_mul(n_floats, cross->config.dim, &n_floats)
               ? kv_shared_new(n_rows, n_floats)
               : NULL;
}

/* A layer's keys (which = 0) or values (1): [n_rows, dim]. */
static float *kept_plane(const struct gated_cross *cross, struct kv_shared *kv, size_t layer,
                         size_t which)
{
    return kv->data + (2 * layer + which) * kv->n_rows * cross->config.dim;
}

enum status gated_cross_start(struct gated_cross_pass *pass, struct error *err)
{
    const struct gated_cross_config *config = &pass->cross->config;
    struct arena *scratch = pass->compute->scratch;
    size_t row_bytes = config->dim * sizeof(float), n_most = 0;
    for (size_t i = 0; i < pass->n_pictures; i++)
        if (!pass->pictures[i].kv && pass->pictures[i].n_rows > n_most)
            n_most = pass->pictures[i].n_rows;
    pass->normed = arena_array(scratch, pass->n_rows, row_bytes);
    pass->q = arena_array(scratch, pass->n_rows, row_bytes);
    pass->attended = arena_array(scratch, pass->n_rows, row_bytes);
    pass->added = arena_array(scratch, pass->n_rows, row_bytes);
    pass->wide = gated_mlp_scratch(pass->compute, pass->n_rows, config->mlp_dim);
    pass->k = arena_array(scratch, n_most + 1, row_bytes);
    pass->v = arena_array(scratch, n_most + 1, row_bytes);
    pass->items = arena_array(scratch, pass->n_runs + 1, sizeof *pass->items);
    return pass->normed && pass->q && pass->attended && pass->added && pass->wide && pass->k &&
                   pass->v && pass->items
               ? STATUS_OK
               : error_no_memory(err, "a forward pass's activations");
}

/* x [n, dim] += gate · added */
static void add_gated(float *restrict x, const float *restrict added, const float *restrict gate,
                      size_t n, size_t dim)
{
    for (size_t i = 0; i < n; i++, x += dim, added += dim)
        for (size_t d = 0; d < dim; d++)
            x[d] += gate[d] * added[d];
}

/* The keys and values of a picture → k, v [n_rows, dim]. */
static void project(const struct gated_cross_pass *pass, const struct gated_cross_layer *layer,
                    const struct gated_cross_picture *picture, float *k, float *v)
{
    const struct gated_cross_config *config = &pass->cross->config;
    size_t n = picture->n_rows;
    nn_linear(pass->compute, &layer->k, picture->rows, n, ACTIVATION_NONE, NULL, k);
    nn_linear(pass->compute, &layer->v, picture->rows, n, ACTIVATION_NONE, NULL, v);
    if (config->qk_norms)
        nn_rms_norm(pass->compute, &layer->k_norm, k, n * config->n_heads, k);
}

/* Every run's rows of q look at its picture → attended. */
static enum status look(const struct gated_cross_pass *pass, size_t i_layer, struct error *err)
{
    const struct gated_cross_config *config = &pass->cross->config;
    const struct gated_cross_layer *layer = &pass->cross->layers[i_layer];
    size_t dim = config->dim, head_dim = dim / config->n_heads, n_items = 0;
    const struct attention_shape shape = {.n_heads = config->n_heads,
                                          .n_kv_heads = config->n_heads,
                                          .head_dim = head_dim,
                                          .scale = 1 / sqrtf((float)head_dim),
                                          .form = layer->out.form};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < pass->n_pictures && !status; i++) {
        const struct gated_cross_picture *picture = &pass->pictures[i];
        float *k = picture->kv ? kept_plane(pass->cross, picture->kv, i_layer, 0) : pass->k;
        float *v = picture->kv ? kept_plane(pass->cross, picture->kv, i_layer, 1) : pass->v;
        if (picture->rows)
            project(pass, layer, picture, k, v);
        for (size_t r = 0; r < pass->n_runs; r++) {
            const struct gated_cross_run *run = &pass->runs[r];
            if (run->picture == i)
                pass->items[n_items++] =
                    (struct attention_item){.q = pass->q + run->first * dim,
                                            .n_q = run->n,
                                            .q_stride = dim,
                                            .k = k,
                                            .v = v,
                                            .n_kv = picture->n_rows,
                                            .kv_stride = dim,
                                            .out = pass->attended + run->first * dim,
                                            .out_stride = dim};
        }
        if (n_items && (!picture->kv || i + 1 == pass->n_pictures)) {
            status = nn_attention(pass->compute, &shape, pass->items, n_items, err);
            n_items = 0;
        }
    }
    return status;
}

enum status gated_cross_before(void *context, size_t decoder_layer, float *x, struct error *err)
{
    const struct gated_cross_pass *pass = context;
    const struct gated_cross_config *config = &pass->cross->config;
    const struct compute *compute = pass->compute;
    size_t dim = config->dim, n = pass->n_rows, i_layer = decoder_layer / config->interval;
    if (decoder_layer % config->interval)
        return STATUS_OK;
    const struct gated_cross_layer *layer = &pass->cross->layers[i_layer];
    const float *gates = pass->cross->gates + 2 * i_layer * dim;

    /* 1. the rows that have a picture look at it */
    if (pass->n_runs) {
        nn_rms_norm(compute, &layer->norm1, x, n, pass->normed);
        nn_linear(compute, &layer->q, pass->normed, n, ACTIVATION_NONE, NULL, pass->q);
        if (config->qk_norms)
            nn_rms_norm(compute, &layer->q_norm, pass->q, n * config->n_heads, pass->q);
        memset(pass->attended, 0, n * dim * sizeof *pass->attended);
        enum status status = look(pass, i_layer, err);
        if (status)
            return status;
        nn_linear(compute, &layer->out, pass->attended, n, ACTIVATION_NONE, NULL, pass->added);
        add_gated(x, pass->added, gates, n, dim);
    }

    /* 2. the MLP of all */
    const struct gated_mlp mlp = {&layer->gate, &layer->up, &layer->down, config->activation};
    nn_rms_norm(compute, &layer->norm2, x, n, pass->normed);
    memset(pass->added, 0, n * dim * sizeof *pass->added);
    gated_mlp_forward(&mlp, compute, pass->normed, n, pass->wide, pass->added);
    add_gated(x, pass->added, gates + dim, n, dim);
    return STATUS_OK;
}
