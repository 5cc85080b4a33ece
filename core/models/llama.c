/*
 * llama.c: see llama.h. New keys and values go into each sequence's cache and are attended to
 * there.
 */
#include "core/models/llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"
#include "core/nn/rotary.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

/* rope_parameters (or rope_scaling, its older name) and the keys beside it. */
static enum status rope_load(const json_t *json, struct llama_config *config, struct error *err)
{
    const json_t *rope = NULL;
    const char *type = "default";
    enum status status = config_object(json, "rope_scaling", &rope, err);
    if (!status && !json_object_size(rope))
        status = config_object(json, "rope_parameters", &rope, err);
    if (!status)
        status = config_float(json, "rope_theta", &config->rope_theta, err);
    if (!status)
        status = config_float(rope, "rope_theta", &config->rope_theta, err);
    if (!status)
        status = config_string(rope, "type", &type, err);
    if (!status)
        status = config_string(rope, "rope_type", &type, err);
    if (status)
        return status;
    if (strcmp(type, "default") && strcmp(type, "mrope"))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "rotary positions of the type '%.32s' are not supported, only 'default' "
                         "and 'mrope'",
                         type);
    if (!(config->rope_theta > 0) || isinf(config->rope_theta))
        return error_set(err, STATUS_BAD_CHECKPOINT, "'rope_theta' must be a positive number");
    const json_t *sections = json_object_get(rope, "mrope_section");
    if (config->n_rope_kinds < 2 || !sections || json_is_null(sections))
        return STATUS_OK;
    if (!json_is_array(sections) || json_array_size(sections) != config->n_rope_kinds)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'mrope_section' must be a list of %zu sizes",
                         config->n_rope_kinds);
    for (size_t i = 0; i < config->n_rope_kinds; i++) {
        const json_t *section = json_array_get(sections, i);
        json_int_t value = json_integer_value(section);
        if (!json_is_integer(section) || value < 0 || value > INT32_MAX)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "'mrope_section' must be a list of %zu sizes", config->n_rope_kinds);
        config->rope_sections[i] = (size_t)value;
    }
    return STATUS_OK;
}

/* Layers that see only the tokens just before them are not there. */
static enum status refuse_windows(const json_t *json, size_t n_layers, struct error *err)
{
    bool slides = false;
    size_t n_full = 0;
    enum status status = config_bool(json, "use_sliding_window", &slides, err);
    if (!status && slides)
        status = config_size(json, "max_window_layers", &n_full, err);
    if (status)
        return status;
    slides = slides && n_full < n_layers;
    const json_t *types = json_object_get(json, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        slides |= !type || strcmp(type, "full_attention") != 0;
    }
    return slides ? error_set(err, STATUS_BAD_CHECKPOINT,
                              "layers with sliding windows ('use_sliding_window', 'layer_types') "
                              "are not supported")
                  : STATUS_OK;
}

/* What Gemma 2 has beside Gemma. */
static enum status gemma2_load(const json_t *json, struct llama_config *config, struct error *err)
{
    const struct {
        const char *key;
        float *out;
    } caps[] = {{"attn_logit_softcapping", &config->score_cap},
                {"final_logit_softcapping", &config->logit_cap}};
    enum status status = config_activation(json, "hidden_activation", &config->activation, err);
    if (!status)
        status = config_float(json, "query_pre_attn_scalar", &config->query_scalar, err);
    if (!status && !(config->query_scalar > 0))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'query_pre_attn_scalar' must be a positive number");
    for (size_t i = 0; i < ARRAY_LENGTH(caps) && !status; i++) {
        if (json_is_null(json_object_get(json, caps[i].key)))
            *caps[i].out = 0; /* null: none, where a key that is absent means the default */
        status = config_float(json, caps[i].key, caps[i].out, err);
        if (!status && *caps[i].out < 0)
            status = error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must be a positive number or null",
                               caps[i].key);
    }
    if (json_is_null(json_object_get(json, "sliding_window")))
        config->window = 0;
    if (!status)
        status = config_size(json, "sliding_window", &config->window, err);
    if (status)
        return status;
    const json_t *types = json_object_get(json, "layer_types");
    bool has_types = types && !json_is_null(types);
    if (config->n_layers > LLAMA_LAYERS_MAX ||
        (has_types && json_array_size(types) != config->n_layers))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'layer_types' must be a list of %zu names, one a layer (at most %d)",
                         config->n_layers, LLAMA_LAYERS_MAX);
    for (size_t i = 0; i < config->n_layers; i++) {
        const char *type = i % 2 ? "full_attention" : "sliding_attention";
        if (has_types && !(type = json_string_value(json_array_get(types, i))))
            type = "";
        if (strcmp(type, "sliding_attention") == 0)
            config->slides[i / 64] |= (uint64_t)1 << i % 64;
        else if (strcmp(type, "full_attention") != 0)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "'layer_types' has '%.32s', but only 'sliding_attention' and "
                             "'full_attention' are supported",
                             type);
    }
    return STATUS_OK;
}

static enum status check_heads(struct llama_config *config, struct error *err)
{
    enum status status = STATUS_OK;
    if (!config->head_dim) {
        status = config_check_layers(config->dim, config->n_heads, config->n_layers, err);
        if (!status)
            config->head_dim = config->dim / config->n_heads;
    } else {
        status = config_check_layers(config->n_heads, config->n_heads, config->n_layers, err);
    }
    if (status)
        return status;
    if (!config->n_kv_heads)
        config->n_kv_heads = config->n_heads;
    if (config->n_heads % config->n_kv_heads)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%zu attention heads cannot share %zu key/value heads", config->n_heads,
                         config->n_kv_heads);
    if (config->head_dim % 2)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "heads of %zu features cannot be turned in pairs", config->head_dim);
    size_t n_pairs = 0, half = config->head_dim / 2;
    if (config->n_rope_kinds < 2) {
        config->n_rope_kinds = 1;
        config->rope_sections[0] = half;
        return STATUS_OK;
    }
    for (size_t i = 0; i < config->n_rope_kinds; i++)
        n_pairs += config->rope_sections[i];
    if (n_pairs != half)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'mrope_section' sums to %zu, but heads of %zu features have %zu pairs",
                         n_pairs, config->head_dim, half);
    return STATUS_OK;
}

enum status llama_config_load(const json_t *json, struct llama_config *config, struct error *err)
{
    struct llama_config loaded = *config;
    struct {
        const char *key;
        size_t *out;
    } sizes[] = {
        {"hidden_size", &loaded.dim},
        {"intermediate_size", &loaded.mlp_dim},
        {"num_hidden_layers", &loaded.n_layers},
        {"num_attention_heads", &loaded.n_heads},
        {"num_key_value_heads", &loaded.n_kv_heads},
        {"head_dim", &loaded.head_dim},
        {"vocab_size", &loaded.vocab_size},
        {"max_position_embeddings", &loaded.n_positions},
    };
    enum status status = STATUS_OK;
    if (json_is_null(json_object_get(json, "num_key_value_heads")))
        loaded.n_kv_heads = 0; /* null: not the default, but as many as there are heads */
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !status; i++)
        status = config_size(json, sizes[i].key, sizes[i].out, err);
    if (!status)
        status = config_activation(json, "hidden_act", &loaded.activation, err);
    if (!status)
        status = config_float(json, "rms_norm_eps", &loaded.norm_eps, err);
    if (!status)
        status = rope_load(json, &loaded, err);
    if (!status)
        status = loaded.is_gemma2 ? gemma2_load(json, &loaded, err)
                                  : refuse_windows(json, loaded.n_layers, err);
    if (!status)
        status = check_heads(&loaded, err);
    if (!status)
        *config = loaded;
    return status;
}

/* ---- binding -----------------------------------------------------------------------------------
 */

static void bind_layer(struct binder *binder, struct llama_layer *layer,
                       const struct llama_config *config, const char *name)
{
    size_t dim = config->dim, mlp_dim = config->mlp_dim;
    size_t q_dim = config->n_heads * config->head_dim, kv_dim = llama_kv_dim(config);
    bool bias = config->qkv_bias;
    bind_rms_norm(binder, &layer->norm1, dim, config->norm_eps, "%s.input_layernorm", name);
    bind_linear(binder, &layer->q, q_dim, dim, bias, "%s.self_attn.q_proj", name);
    bind_linear(binder, &layer->k, kv_dim, dim, bias, "%s.self_attn.k_proj", name);
    bind_linear(binder, &layer->v, kv_dim, dim, bias, "%s.self_attn.v_proj", name);
    bind_linear(binder, &layer->out, dim, q_dim, config->out_bias, "%s.self_attn.o_proj", name);
    bind_rms_norm(
        binder, &layer->norm2, dim, config->norm_eps,
        config->is_gemma2 ? "%s.pre_feedforward_layernorm" : "%s.post_attention_layernorm", name);
    if (config->norms_add_one) {
        bind_norm_plus_one(binder, &layer->norm1);
        bind_norm_plus_one(binder, &layer->norm2);
    }
    if (config->is_gemma2) {
        bind_rms_norm(binder, &layer->after1, dim, config->norm_eps, "%s.post_attention_layernorm",
                      name);
        bind_rms_norm(binder, &layer->after2, dim, config->norm_eps,
                      "%s.post_feedforward_layernorm", name);
        bind_norm_plus_one(binder, &layer->after1);
        bind_norm_plus_one(binder, &layer->after2);
    }
    bind_linear(binder, &layer->gate, mlp_dim, dim, false, "%s.mlp.gate_proj", name);
    bind_linear(binder, &layer->up, mlp_dim, dim, false, "%s.mlp.up_proj", name);
    bind_linear(binder, &layer->down, dim, mlp_dim, false, "%s.mlp.down_proj", name);
}

/* Words and head, each in one tensor, or in two where there are more words. */
static void bind_words(struct binder *binder, struct llama *llama, const char *prefix,
                       const char *head)
{
    const struct llama_config *config = &llama->config;
    const size_t n_words[] = {config->vocab_size, config->n_more_words};
    char words[128], more[160], name[192];
    snprintf(words, sizeof words, "%sembed_tokens", prefix);
    snprintf(more, sizeof more, "%s.additional_embedding", words);
    snprintf(name, sizeof name, "%s.weight", words);
    bind_row_table(binder, &llama->words, config->vocab_size, config->dim, name);
    if (config->n_more_words) {
        const char *const parts[] = {"", head ? ".additional_fc" : ".additional_embedding"};
        snprintf(name, sizeof name, "%s.weight", more);
        bind_row_table(binder, &llama->more_words, config->n_more_words, config->dim, name);
        bind_linear_fused(binder, &llama->head, n_words, config->dim, false, parts, 2, "%s",
                          head ? head : words);
    } else {
        bind_linear(binder, &llama->head, config->vocab_size, config->dim, false, "%s",
                    head ? head : words);
    }
}

void llama_bind(struct binder *binder, struct llama *llama, const struct llama_config *config,
                const char *prefix, const char *head)
{
    char name[128];
    *llama = (struct llama){.config = *config,
                            .layers = calloc(config->n_layers, sizeof *llama->layers)};
    if (!llama->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    bind_words(binder, llama, prefix, head);
    for (size_t i = 0; i < config->n_layers; i++) {
        snprintf(name, sizeof name, "%slayers.%zu", prefix, i);
        bind_layer(binder, &llama->layers[i], config, name);
    }
    bind_rms_norm(binder, &llama->final_norm, config->dim, config->norm_eps, "%snorm", prefix);
    if (config->norms_add_one)
        bind_norm_plus_one(binder, &llama->final_norm);
}

void llama_release(struct llama *llama)
{
    free(llama->layers);
    llama->layers = NULL;
}

/* ---- a pass ------------------------------------------------------------------------------------
 */

enum status llama_embed(const struct llama *llama, const int32_t *ids, size_t n, float *x,
                        struct error *err)
{
    size_t n_words = llama->config.vocab_size, n_all = llama_n_words(&llama->config);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= n_all)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "the token id %d is outside the model's vocabulary of %zu",
                             (int)ids[i], n_all);
        size_t id = (size_t)ids[i];
        row_table_read(id < n_words ? &llama->words : &llama->more_words,
                       id < n_words ? id : id - n_words, x + i * llama->config.dim);
    }
    return STATUS_OK;
}

enum { MLP_ROWS = 512 }; /* of a stretch */

float *gated_mlp_scratch(const struct compute *compute, size_t n, size_t mlp_dim)
{
    return arena_array(compute->scratch, 2 * (n < MLP_ROWS ? n : MLP_ROWS),
                       mlp_dim * sizeof(float));
}

void gated_mlp_forward(const struct gated_mlp *mlp, const struct compute *compute, const float *y,
                       size_t n, float *scratch, float *x)
{
    size_t dim = mlp->gate->n_in, wide = mlp->gate->n_out;
    for (size_t at = 0; at < n; at += MLP_ROWS) {
        size_t n_now = n - at < MLP_ROWS ? n - at : MLP_ROWS;
        float *gate = scratch, *up = scratch + n_now * wide;
        nn_linear(compute, mlp->gate, y + at * dim, n_now, mlp->activation, NULL, gate);
        nn_linear(compute, mlp->up, y + at * dim, n_now, ACTIVATION_NONE, NULL, up);
        nn_multiply(compute, gate, up, n_now * wide);
        nn_linear(compute, mlp->down, gate, n_now, ACTIVATION_NONE, x + at * dim, x + at * dim);
    }
}

struct pass {
    const struct llama *llama;
    const struct compute *compute;
    const struct llama_item *items;
    size_t n_items, n_total;
    enum llama_mask mask;
    float *normed;          /* [n_total, dim] */
    float *after;           /* the same: of Gemma 2, what is to be normed before it is added */
    float *q;               /* [n_total, n_heads head_dim] */
    float *k, *v;           /* [n_total, n_kv_heads head_dim] */
    float *attended;        /* as q */
    float *cosines, *sines; /* [n_total, head_dim / 2] */
    float *wide;            /* the MLP's */
    struct attention_item *attention;
};

static enum status pass_init(struct pass *pass, const float *positions, struct error *err)
{
    const struct llama_config *config = &pass->llama->config;
    struct arena *scratch = pass->compute->scratch;
    size_t q_dim = config->n_heads * config->head_dim, kv_dim = llama_kv_dim(config);
    for (size_t i = 0; i < pass->n_items; i++) {
        size_t first = pass->items[i].sequence->n_tokens, n = pass->items[i].n;
        if (n > config->n_positions || first > config->n_positions - n)
            return error_set(err, STATUS_TOO_LONG,
                             "%zu tokens are more than the model's %zu positions", first + n,
                             config->n_positions);
        pass->n_total += n;
    }
    size_t n = pass->n_total, half = config->head_dim / 2, widest;
    if (!size_mul(n, config->dim > q_dim ? config->dim : q_dim, &widest))
        return error_no_memory(err, "a forward pass");
    pass->normed = arena_array(scratch, n * config->dim, sizeof(float));
    pass->q = arena_array(scratch, n * q_dim, sizeof(float));
    pass->k = arena_array(scratch, n * kv_dim, sizeof(float));
    pass->v = arena_array(scratch, n * kv_dim, sizeof(float));
    pass->attended = arena_array(scratch, n * q_dim, sizeof(float));
    pass->cosines = arena_array(scratch, n * half, sizeof(float));
    pass->sines = arena_array(scratch, n * half, sizeof(float));
    pass->wide = gated_mlp_scratch(pass->compute, n, config->mlp_dim);
    /* Where a window slides over an item's rows, each of them is an item of its own. */
    pass->attention =
        arena_array(scratch, config->window ? n : pass->n_items, sizeof *pass->attention);
    pass->after =
        config->is_gemma2 ? arena_array(scratch, n * config->dim, sizeof(float)) : pass->normed;
    if (!pass->wide || !pass->after || !pass->normed || !pass->q || !pass->k || !pass->v ||
        !pass->attended || !pass->cosines || !pass->sines || !pass->attention)
        return error_no_memory(err, "a forward pass's activations");
    nn_rotary_table_sections(positions, n, config->rope_sections, config->n_rope_kinds,
                             config->head_dim, config->rope_theta, pass->cosines, pass->sines);
    return STATUS_OK;
}

/* x += norm(pass->after) */
static void add_normed(const struct pass *pass, const struct norm *norm, float *x)
{
    nn_rms_norm(pass->compute, norm, pass->after, pass->n_total, pass->after);
    nn_add(pass->compute, x, pass->after, pass->n_total * pass->llama->config.dim);
}

static enum status self_attention(const struct pass *pass, size_t i_layer, float *x,
                                  struct error *err)
{
    const struct llama_config *config = &pass->llama->config;
    const struct llama_layer *layer = &pass->llama->layers[i_layer];
    const struct compute *compute = pass->compute;
    size_t head_dim = config->head_dim, n = pass->n_total;
    size_t q_dim = config->n_heads * head_dim, kv_dim = llama_kv_dim(config);
    nn_rms_norm(compute, &layer->norm1, x, n, pass->normed);
    nn_linear(compute, &layer->q, pass->normed, n, ACTIVATION_NONE, NULL, pass->q);
    nn_linear(compute, &layer->k, pass->normed, n, ACTIVATION_NONE, NULL, pass->k);
    nn_linear(compute, &layer->v, pass->normed, n, ACTIVATION_NONE, NULL, pass->v);
    nn_rotary(compute, ROTARY_HALVES, pass->q, n, q_dim, config->n_heads, head_dim, head_dim,
              pass->cosines, pass->sines);
    nn_rotary(compute, ROTARY_HALVES, pass->k, n, kv_dim, config->n_kv_heads, head_dim, head_dim,
              pass->cosines, pass->sines);
    bool slides = config->slides[i_layer / 64] >> i_layer % 64 & 1;
    size_t window = slides && pass->mask == LLAMA_CAUSAL ? config->window : 0, n_attend = 0;
    for (size_t i = 0, row = 0; i < pass->n_items; row += pass->items[i++].n) {
        const struct llama_item *item = &pass->items[i];
        size_t n_before = item->sequence->n_tokens;
        float *keys = sequence_kv(item->sequence, i_layer, 0);
        float *values = sequence_kv(item->sequence, i_layer, 1);
        memcpy(keys + n_before * kv_dim, pass->k + row * kv_dim, item->n * kv_dim * sizeof *keys);
        memcpy(values + n_before * kv_dim, pass->v + row * kv_dim,
               item->n * kv_dim * sizeof *values);
        size_t n_each = window && n_before + item->n > window ? 1 : item->n;
        for (size_t j = 0; j < item->n; j += n_each) {
            size_t n_seen = n_before + j + n_each;
            size_t gone = window && n_seen > window ? n_seen - window : 0;
            pass->attention[n_attend++] =
                (struct attention_item){.q = pass->q + (row + j) * q_dim,
                                        .n_q = n_each,
                                        .q_stride = q_dim,
                                        .k = keys + gone * kv_dim,
                                        .v = values + gone * kv_dim,
                                        .n_kv = n_seen - gone,
                                        .kv_stride = kv_dim,
                                        .out = pass->attended + (row + j) * q_dim,
                                        .out_stride = q_dim};
        }
    }
    struct attention_shape shape = {
        config->n_heads,
        config->n_kv_heads,
        head_dim,
        1 / sqrtf(config->is_gemma2 ? config->query_scalar : (float)head_dim),
        pass->mask == LLAMA_CAUSAL,
        layer->out.form,
        config->score_cap};
    enum status status = nn_attention(compute, &shape, pass->attention, n_attend, err);
    if (status)
        return status;
    if (config->is_gemma2) {
        nn_linear(compute, &layer->out, pass->attended, n, ACTIVATION_NONE, NULL, pass->after);
        add_normed(pass, &layer->after1, x);
    } else {
        nn_linear(compute, &layer->out, pass->attended, n, ACTIVATION_NONE, x, x);
    }
    return STATUS_OK;
}

static void mlp(const struct pass *pass, size_t i_layer, float *x)
{
    const struct llama_config *config = &pass->llama->config;
    const struct llama_layer *layer = &pass->llama->layers[i_layer];
    struct gated_mlp gated = {&layer->gate, &layer->up, &layer->down, config->activation};
    nn_rms_norm(pass->compute, &layer->norm2, x, pass->n_total, pass->normed);
    if (config->is_gemma2) {
        memset(pass->after, 0, pass->n_total * config->dim * sizeof *pass->after);
        gated_mlp_forward(&gated, pass->compute, pass->normed, pass->n_total, pass->wide,
                          pass->after);
        add_normed(pass, &layer->after2, x);
    } else {
        gated_mlp_forward(&gated, pass->compute, pass->normed, pass->n_total, pass->wide, x);
    }
}

/* x [n, dim] → logits [n, llama_n_words], bent to within their cap: the tanh is the product's
 * own. */
static void read_head(const struct llama *llama, const struct compute *compute, float *x, size_t n,
                      float *logits)
{
    float cap = llama->config.logit_cap;
    nn_rms_norm(compute, &llama->final_norm, x, n, x);
    if (!(cap > 0)) {
        nn_linear(compute, &llama->head, x, n, ACTIVATION_NONE, NULL, logits);
        return;
    }
    for (size_t i = 0; i < n * llama->config.dim; i++)
        x[i] /= cap;
    nn_linear(compute, &llama->head, x, n, ACTIVATION_TANH, NULL, logits);
    for (size_t i = 0; i < n * llama_n_words(&llama->config); i++)
        logits[i] *= cap;
}

enum status llama_forward(const struct llama *llama, const struct compute *compute, float *x,
                          const float *positions, const struct llama_item *items, size_t n_items,
                          enum llama_mask mask, float *logits, struct error *err)
{
    return llama_forward_tapped(llama, compute, x, positions, items, n_items, mask, NULL, logits,
                                err);
}

enum status llama_forward_tapped(const struct llama *llama, const struct compute *compute, float *x,
                                 const float *positions, const struct llama_item *items,
                                 size_t n_items, enum llama_mask mask, const struct llama_tap *tap,
                                 float *logits, struct error *err)
{
    struct pass pass = {
        .llama = llama, .compute = compute, .items = items, .n_items = n_items, .mask = mask};
    size_t dim = llama->config.dim;
    enum status status = pass_init(&pass, positions, err);
    for (size_t i = 0; i < llama->config.n_layers && !status; i++) {
        if (tap)
            status = tap->before(tap->context, i, x, err);
        if (!status)
            status = self_attention(&pass, i, x, err);
        if (!status)
            mlp(&pass, i, x);
    }
    if (status)
        return status;
    for (size_t i = 0, row = 0; i < n_items; row += items[i++].n) { /* rows only move forward */
        memmove(x + i * dim, x + (row + items[i].n - 1) * dim, dim * sizeof *x);
        items[i].sequence->n_tokens += items[i].n;
    }
    read_head(llama, compute, x, n_items, logits);
    return STATUS_OK;
}
