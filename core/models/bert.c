/*
 * bert.c: see bert.h. A decoder's keys and values go into its sequence's cache and are attended to
 * there; an encoder's stay in the pass. Sources are projected once a layer however many items look
 * at them, and one layer at a time, so that scratch memory does not grow with depth.
 */
#include "core/models/bert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

/* ---- loading -----------------------------------------------------------------------------------
 */

enum status bert_config_load(const json_t *json, struct bert_config *config, struct error *err)
{
    struct bert_config loaded = *config;
    struct {
        const char *key;
        size_t *out;
    } sizes[] = {
        {"hidden_size", &loaded.dim},
        {"intermediate_size", &loaded.mlp_dim},
        {"num_hidden_layers", &loaded.n_layers},
        {"num_attention_heads", &loaded.n_heads},
        {"vocab_size", &loaded.vocab_size},
        {"max_position_embeddings", &loaded.n_positions},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !status; i++)
        status = config_size(json, sizes[i].key, sizes[i].out, err);
    if (!status)
        status = config_activation(json, "hidden_act", &loaded.activation, err);
    if (!status)
        status = config_float(json, "layer_norm_eps", &loaded.norm_eps, err);
    if (!status && config->n_types)
        status = config_size(json, "type_vocab_size", &loaded.n_types, err);
    if (!status && config->counts_from_pad)
        status = config_token(json, "pad_token_id", &loaded.pad_id, err);
    if (!status)
        status = config_check_layers(loaded.dim, loaded.n_heads, loaded.n_layers, err);
    if (status)
        return status;
    if (loaded.counts_from_pad &&
        (loaded.pad_id < 0 || (size_t)loaded.pad_id + 1 >= loaded.n_positions))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'pad_token_id' is %d: with %zu positions there is none left for a text",
                         (int)loaded.pad_id, loaded.n_positions);
    *config = loaded;
    return STATUS_OK;
}

size_t bert_context_length(const struct bert_config *config)
{
    return config->n_positions - (config->counts_from_pad ? (size_t)config->pad_id + 1 : 0);
}

static void bind_attention(struct binder *binder, struct bert_attention *attention,
                           const struct bert_config *config, size_t source_dim, const char *prefix,
                           size_t layer, const char *name)
{
    size_t dim = config->dim;
    bind_linear(binder, &attention->q, dim, dim, true, "%s.encoder.layer.%zu.%s.self.query", prefix,
                layer, name);
    bind_linear(binder, &attention->k, dim, source_dim, true, "%s.encoder.layer.%zu.%s.self.key",
                prefix, layer, name);
    bind_linear(binder, &attention->v, dim, source_dim, true, "%s.encoder.layer.%zu.%s.self.value",
                prefix, layer, name);
    bind_linear(binder, &attention->out, dim, dim, true, "%s.encoder.layer.%zu.%s.output.dense",
                prefix, layer, name);
    bind_norm(binder, &attention->norm, dim, config->norm_eps,
              "%s.encoder.layer.%zu.%s.output.LayerNorm", prefix, layer, name);
}

void bert_bind(struct binder *binder, struct bert *bert, const struct bert_config *config,
               const char *prefix)
{
    size_t dim = config->dim;
    *bert = (struct bert){.config = *config};
    bert->layers = calloc(config->n_layers, sizeof *bert->layers);
    if (!bert->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    bind_tensor(binder, &bert->words, (const size_t[]){config->vocab_size, dim, 0},
                "%s.embeddings.word_embeddings.weight", prefix);
    bind_tensor(binder, &bert->positions, (const size_t[]){config->n_positions, dim, 0},
                "%s.embeddings.position_embeddings.weight", prefix);
    if (config->n_types)
        bind_tensor(binder, &bert->types, (const size_t[]){config->n_types, dim, 0},
                    "%s.embeddings.token_type_embeddings.weight", prefix);
    bind_norm(binder, &bert->embedding_norm, dim, config->norm_eps, "%s.embeddings.LayerNorm",
              prefix);
    for (size_t i = 0; i < config->n_layers; i++) {
        struct bert_layer *layer = &bert->layers[i];
        bind_attention(binder, &layer->self, config, dim, prefix, i, "attention");
        if (config->cross_dim)
            bind_attention(binder, &layer->cross, config, config->cross_dim, prefix, i,
                           "crossattention");
        bind_linear(binder, &layer->fc1, config->mlp_dim, dim, true,
                    "%s.encoder.layer.%zu.intermediate.dense", prefix, i);
        bind_linear(binder, &layer->fc2, dim, config->mlp_dim, true,
                    "%s.encoder.layer.%zu.output.dense", prefix, i);
        bind_norm(binder, &layer->norm, dim, config->norm_eps,
                  "%s.encoder.layer.%zu.output.LayerNorm", prefix, i);
    }
}

void bert_release(struct bert *bert)
{
    free(bert->layers);
    bert->layers = NULL;
}

/* ---- a pass ------------------------------------------------------------------------------------
 */

struct pass {
    const struct bert *bert;
    const struct compute *compute;
    const struct bert_item *items;
    size_t n_items, n_total;
    const struct bert_source *sources;
    size_t n_sources;
    float *q, *attended, *k, *v; /* [n_total, dim] each */
    float *inner;                /* [n_total, mlp_dim] */
    float *source_kv;            /* [Σ source rows][keys, values] of one layer, [rows, dim] each */
    struct attention_item *attention;
};

static enum status pass_init(struct pass *pass, struct error *err)
{
    size_t dim = pass->bert->config.dim, mlp_dim = pass->bert->config.mlp_dim;
    struct arena *scratch = pass->compute->scratch;
    for (size_t i = 0; i < pass->n_items; i++)
        pass->n_total += pass->items[i].n;
    size_t n_source_rows = 0;
    for (size_t i = 0; i < pass->n_sources; i++)
        n_source_rows += pass->sources[i].kv ? 0 : pass->sources[i].n_rows;
    size_t n = pass->n_total * dim;
    pass->q = arena_array(scratch, n, sizeof(float));
    pass->k = arena_array(scratch, n, sizeof(float));
    pass->v = arena_array(scratch, n, sizeof(float));
    pass->attended = arena_array(scratch, n, sizeof(float));
    pass->inner = arena_array(scratch, pass->n_total * mlp_dim, sizeof(float));
    pass->source_kv = arena_array(scratch, 2 * n_source_rows * dim, sizeof(float));
    pass->attention = arena_array(scratch, pass->n_items, sizeof *pass->attention);
    if (!pass->q || !pass->k || !pass->v || !pass->attended || !pass->inner || !pass->source_kv ||
        !pass->attention)
        return error_no_memory(err, "a forward pass's activations");
    return STATUS_OK;
}

/* norm(words + types + positions) → x */
static enum status embed(const struct pass *pass, float *x, struct error *err)
{
    const struct bert *bert = pass->bert;
    size_t dim = bert->config.dim, n_max = bert_context_length(&bert->config);
    size_t n_prefix = bert->config.n_prefix;
    float *row = x;
    for (size_t i = 0; i < pass->n_items && pass->items[0].rows; row += dim * pass->items[i++].n)
        memcpy(row, pass->items[i].rows, dim * pass->items[i].n * sizeof *row);
    if (pass->items[0].rows)
        return STATUS_OK;
    for (size_t i = 0; i < pass->n_items; i++) {
        const struct bert_item *item = &pass->items[i];
        size_t first = item->sequence ? item->sequence->n_tokens - n_prefix : 0;
        if (item->n > n_max || first > n_max - item->n)
            return error_set(err, STATUS_TOO_LONG,
                             "%zu tokens are more than the model's %zu positions", first + item->n,
                             n_max);
        size_t next = bert->config.counts_from_pad ? (size_t)bert->config.pad_id + 1 : first;
        for (size_t j = 0; j < item->n; j++, row += dim) {
            if (item->ids[j] < 0 || (size_t)item->ids[j] >= bert->config.vocab_size)
                return error_set(err, STATUS_UNPROCESSABLE,
                                 "the token id %d is outside the model's vocabulary of %zu",
                                 (int)item->ids[j], bert->config.vocab_size);
            const float *word = bert->words + (size_t)item->ids[j] * dim;
            bool skipped = bert->config.counts_from_pad && item->ids[j] == bert->config.pad_id;
            const float *position =
                bert->positions + (skipped ? (size_t)item->ids[j] : next++) * dim;
            for (size_t d = 0; d < dim; d++)
                row[d] = word[d] + (bert->types ? bert->types[d] : 0) + position[d];
        }
    }
    nn_layer_norm(pass->compute, &bert->embedding_norm, x, pass->n_total, x);
    return STATUS_OK;
}

static struct attention_shape shape_of(const struct bert_config *config,
                                       const struct bert_attention *attention, bool causal)
{
    size_t head_dim = config->dim / config->n_heads;
    return (struct attention_shape){config->n_heads, config->n_heads,
                                    head_dim,        1 / sqrtf((float)head_dim),
                                    causal,          attention->out.form};
}

/* How decoders' shared keys and values lie: see bert_cross_kv(). */
static enum dtype cross_dtype(const struct bert *bert)
{
    bool narrow = bert->layers[0].cross.k.form != WEIGHT_F32 &&
                  bert->config.dim / bert->config.n_heads <= ATTENTION_BF16_DIM;
    return narrow ? DTYPE_BF16 : DTYPE_F32;
}

/* x = norm(x + out(attended)) */
static void finish_attention(const struct pass *pass, const struct bert_attention *attention,
                             float *x)
{
    nn_linear(pass->compute, &attention->out, pass->attended, pass->n_total, ACTIVATION_NONE, x, x);
    nn_layer_norm(pass->compute, &attention->norm, x, pass->n_total, x);
}

static enum status self_attention(const struct pass *pass, size_t layer, float *x,
                                  struct error *err)
{
    const struct bert_attention *attention = &pass->bert->layers[layer].self;
    size_t dim = pass->bert->config.dim;
    nn_linear(pass->compute, &attention->q, x, pass->n_total, ACTIVATION_NONE, NULL, pass->q);
    nn_linear(pass->compute, &attention->k, x, pass->n_total, ACTIVATION_NONE, NULL, pass->k);
    nn_linear(pass->compute, &attention->v, x, pass->n_total, ACTIVATION_NONE, NULL, pass->v);
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->items[i++].n) {
        const struct bert_item *item = &pass->items[i];
        struct attention_item *out = &pass->attention[i];
        *out = (struct attention_item){.q = pass->q + row * dim,
                                       .n_q = item->n,
                                       .q_stride = dim,
                                       .k = pass->k + row * dim,
                                       .v = pass->v + row * dim,
                                       .n_kv = item->n,
                                       .kv_stride = dim,
                                       .out = pass->attended + row * dim,
                                       .out_stride = dim};
        if (!item->sequence)
            continue;
        size_t n_before = item->sequence->n_tokens;
        float *keys = sequence_kv(item->sequence, layer, 0);
        float *values = sequence_kv(item->sequence, layer, 1);
        memcpy(keys + n_before * dim, out->k, item->n * dim * sizeof(float));
        memcpy(values + n_before * dim, out->v, item->n * dim * sizeof(float));
        out->k = keys;
        out->v = values;
        out->n_kv = n_before + item->n;
    }
    bool is_causal = pass->items[0].sequence && !pass->items[0].rows;
    struct attention_shape shape = shape_of(&pass->bert->config, attention, is_causal);
    enum status status = nn_attention(pass->compute, &shape, pass->attention, pass->n_items, err);
    if (!status)
        finish_attention(pass, attention, x);
    return status;
}

static enum status cross_attention(const struct pass *pass, size_t layer, float *x,
                                   struct error *err)
{
    const struct bert_attention *attention = &pass->bert->layers[layer].cross;
    size_t dim = pass->bert->config.dim;
    nn_linear(pass->compute, &attention->q, x, pass->n_total, ACTIVATION_NONE, NULL, pass->q);
    float *kv = pass->source_kv;
    for (size_t i = 0; i < pass->n_sources; i++) {
        const struct bert_source *source = &pass->sources[i];
        size_t n = source->n_rows;
        if (source->kv)
            continue;
        nn_linear(pass->compute, &attention->k, source->rows, n, ACTIVATION_NONE, NULL, kv);
        nn_linear(pass->compute, &attention->v, source->rows, n, ACTIVATION_NONE, NULL,
                  kv + n * dim);
        kv += 2 * n * dim;
    }
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->items[i++].n) {
        const struct bert_item *item = &pass->items[i];
        const struct kv_shared *shared =
            item->sequence ? item->sequence->cross : pass->sources[item->source].kv;
        struct attention_item *out = &pass->attention[i];
        *out = (struct attention_item){.q = pass->q + row * dim,
                                       .n_q = item->n,
                                       .q_stride = dim,
                                       .kv_stride = dim,
                                       .out = pass->attended + row * dim,
                                       .out_stride = dim};
        if (shared) {
            size_t head_dim = dim / pass->bert->config.n_heads, plane = shared->n_rows * dim;
            out->n_kv = shared->n_rows;
            out->kv_dtype = cross_dtype(pass->bert);
            out->k = (const char *)shared->data + 2 * layer * plane * dtype_size(out->kv_dtype);
            out->v = (const char *)out->k + plane * dtype_size(out->kv_dtype);
            out->kv_stride = head_dim;
            out->kv_head_stride = shared->n_rows * head_dim;
        } else {
            const float *keys = pass->source_kv;
            for (size_t s = 0; s < item->source; s++)
                keys += pass->sources[s].kv ? 0 : 2 * pass->sources[s].n_rows * dim;
            out->n_kv = pass->sources[item->source].n_rows;
            out->k = keys;
            out->v = keys + out->n_kv * dim;
        }
    }
    struct attention_shape shape = shape_of(&pass->bert->config, attention, false);
    enum status status = nn_attention(pass->compute, &shape, pass->attention, pass->n_items, err);
    if (!status)
        finish_attention(pass, attention, x);
    return status;
}

static void mlp(const struct pass *pass, const struct bert_layer *layer, float *x)
{
    nn_linear(pass->compute, &layer->fc1, x, pass->n_total, pass->bert->config.activation, NULL,
              pass->inner);
    nn_linear(pass->compute, &layer->fc2, pass->inner, pass->n_total, ACTIVATION_NONE, x, x);
    nn_layer_norm(pass->compute, &layer->norm, x, pass->n_total, x);
}

enum status bert_forward(const struct bert *bert, const struct compute *compute,
                         const struct bert_item *items, size_t n_items,
                         const struct bert_source *sources, size_t n_sources, float *x,
                         struct error *err)
{
    struct pass pass = {.bert = bert,
                        .compute = compute,
                        .items = items,
                        .n_items = n_items,
                        .sources = sources,
                        .n_sources = sources ? n_sources : 0};
    bool cross = bert->config.cross_dim && (sources || items[0].sequence);
    enum status status = pass_init(&pass, err);
    if (!status)
        status = embed(&pass, x, err);
    for (size_t i = 0; i < bert->config.n_layers && !status; i++) {
        status = self_attention(&pass, i, x, err);
        if (!status && cross)
            status = cross_attention(&pass, i, x, err);
        if (!status)
            mlp(&pass, &bert->layers[i], x);
    }
    for (size_t i = 0; i < n_items && !status; i++)
        if (items[i].sequence)
            items[i].sequence->n_tokens += items[i].n;
    return status;
}

/* The floats of a block; false when they are too many to count. */
static bool cross_floats(const struct bert *bert, size_t n_rows, size_t *n_floats)
{
    if (!size_mul(n_rows, bert->config.dim, n_floats) ||
        !size_mul(*n_floats, 2 * bert->config.n_layers, n_floats))
        return false;
    if (cross_dtype(bert) == DTYPE_BF16)
        *n_floats /= 2; /* an even number */
    return true;
}

bool bert_cross_fits(const struct bert *bert, const struct kv_shared *kv, size_t n_rows)
{
    size_t n_floats;
    return kv->n_rows == n_rows && cross_floats(bert, n_rows, &n_floats) &&
           kv->n_floats == n_floats;
}

/* One plane of a block: the source's keys, or values. `rows`: room for them as they come. */
static void cross_plane(const struct bert *bert, const struct compute *compute,
                        const struct linear *linear, const struct bert_source *source, float *rows,
                        char *to)
{
    size_t n_heads = bert->config.n_heads, head_dim = bert->config.dim / n_heads;
    nn_linear(compute, linear, source->rows, source->n_rows, ACTIVATION_NONE, NULL, rows);
    nn_keep_heads(compute, rows, source->n_rows, n_heads, head_dim, cross_dtype(bert), to);
}

struct kv_shared *bert_cross_kv(const struct bert *bert, const struct compute *compute,
                                const struct bert_source *source, struct error *err)
{
    size_t n_floats, n_plane = source->n_rows * bert->config.dim;
    struct kv_shared *shared = NULL;
    float *rows = NULL;
    if (cross_floats(bert, source->n_rows, &n_floats) &&
        (rows = arena_array(compute->scratch, n_plane, sizeof *rows)))
        shared = kv_shared_new(source->n_rows, n_floats);
    if (!shared) {
        error_no_memory(err, "a picture's keys and values");
        return NULL;
    }
    char *out = (char *)shared->data;
    size_t plane_bytes = n_plane * dtype_size(cross_dtype(bert));
    for (size_t i = 0; i < bert->config.n_layers; i++, out += 2 * plane_bytes) {
        const struct bert_attention *cross = &bert->layers[i].cross;
        cross_plane(bert, compute, &cross->k, source, rows, out);
        cross_plane(bert, compute, &cross->v, source, rows, out + plane_bytes);
    }
    return shared;
}

enum status bert_forward_last(const struct bert *bert, const struct compute *compute,
                              const struct bert_item *items, size_t n, float **x, struct error *err)
{
    size_t dim = bert->config.dim, n_total = 0;
    for (size_t i = 0; i < n; i++)
        n_total += items[i].n;
    float *rows = arena_array(compute->scratch, n_total * dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a forward pass's activations");
    if (bert_forward(bert, compute, items, n, NULL, 0, rows, err))
        return err->status;
    for (size_t i = 0, row = 0; i < n; row += items[i++].n) /* rows only move forward */
        memmove(rows + i * dim, rows + (row + items[i].n - 1) * dim, dim * sizeof *rows);
    *x = rows;
    return STATUS_OK;
}
