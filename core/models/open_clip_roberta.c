/*
 * open_clip_roberta.c: see open_clip_roberta.h. The reference masks pad tokens wherever they stand
 * in a text, and RoBERTa's positions pass over them: so they are left out here.
 */
#include "core/models/open_clip_roberta.h"

#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

static const struct bert_config roberta_defaults = {
    .activation = ACTIVATION_GELU,
    .norm_eps = 1e-5f,
    .n_types = 1,
    .counts_from_pad = true,
    .pad_id = 1,
};
enum { HEAD_DIM = 64 };

/* The shape [a, b] of a matrix; false when it is not there. */
static bool matrix_shape(const struct tensor_set *tensors, const char *name, size_t *a, size_t *b)
{
    const struct tensor_view *view = tensor_set_find(tensors, name);
    if (!view || view->n_dims != 2)
        return false;
    *a = view->shape[0];
    *b = view->shape[1];
    return true;
}

static enum status read_sizes(const struct tensor_set *tensors, struct bert_config *config,
                              struct error *err)
{
    enum { LAYERS_MAX = 512 };
    static const char *const prefix = "text.transformer";
    size_t unused;
    char name[96];
    snprintf(name, sizeof name, "%s.embeddings.word_embeddings.weight", prefix);
    if (!matrix_shape(tensors, name, &config->vocab_size, &config->dim))
        return error_set(err, STATUS_BAD_CHECKPOINT, "tensor '%s' is missing", name);
    snprintf(name, sizeof name, "%s.embeddings.position_embeddings.weight", prefix);
    if (!matrix_shape(tensors, name, &config->n_positions, &unused))
        return error_set(err, STATUS_BAD_CHECKPOINT, "tensor '%s' is missing", name);
    for (config->n_layers = 0; config->n_layers <= LAYERS_MAX; config->n_layers++) {
        snprintf(name, sizeof name, "%s.encoder.layer.%zu.intermediate.dense.weight", prefix,
                 config->n_layers);
        if (!matrix_shape(tensors, name, &config->mlp_dim, &unused))
            break;
    }
    if (!config->n_layers)
        return error_set(err, STATUS_BAD_CHECKPOINT, "tensor '%s' is missing", name);
    if (config->n_positions <= (size_t)config->pad_id + 1)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "with %zu positions there is none left for a text", config->n_positions);
    config->n_heads = config->dim / HEAD_DIM;
    return config_check_layers(config->dim, config->n_heads, config->n_layers, err);
}

/* The option under its present name or its first one. */
static enum status read_option(const json_t *json, const char *key, const char *old_key,
                               const char **out, struct error *err)
{
    enum status status = config_string(json, old_key, out, err);
    return status ? status : config_string(json, key, out, err);
}

enum status open_clip_roberta_config_load(const json_t *json, const struct tensor_set *tensors,
                                          size_t embed_dim, struct open_clip_roberta_config *out,
                                          struct error *err)
{
    struct open_clip_roberta_config config = {
        .text = roberta_defaults, .context_length = 77, .embed_dim = embed_dim};
    const char *name = "", *pooler = "mean_pooler", *proj = "mlp";
    enum status status = config_string(json, "hf_model_name", &name, err);
    if (!status)
        status = read_option(json, "hf_pooler_type", "pooler_type", &pooler, err);
    if (!status)
        status = read_option(json, "hf_proj_type", "proj", &proj, err);
    if (!status)
        status = config_size(json, "context_length", &config.context_length, err);
    if (status)
        return status;
    if (!strstr(name, "roberta"))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'hf_model_name': '%.64s' is not supported, RoBERTa and "
                         "XLM-RoBERTa are",
                         name);
    if (strcmp(pooler, "mean_pooler") != 0)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'hf_pooler_type': '%.64s' is not supported", pooler);
    if (strcmp(proj, "mlp") != 0 && strcmp(proj, "linear") != 0)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'hf_proj_type': '%.64s' is not supported", proj);
    config.is_mlp = strcmp(proj, "mlp") == 0;
    status = read_sizes(tensors, &config.text, err);
    if (status)
        return status;
    size_t most = bert_context_length(&config.text);
    if (config.context_length > most)
        config.context_length = most;
    *out = config;
    return STATUS_OK;
}

void open_clip_roberta_bind(struct binder *binder, struct open_clip_roberta *tower,
                            const struct open_clip_roberta_config *config)
{
    size_t t = config->text.dim, e = config->embed_dim, hidden = (t + e) / 2;
    tower->is_mlp = config->is_mlp;
    bert_bind(binder, &tower->text, &config->text, "text.transformer");
    if (config->is_mlp) {
        bind_linear(binder, &tower->proj, hidden, t, false, "text.proj.0");
        bind_linear(binder, &tower->proj2, e, hidden, false, "text.proj.2");
    } else {
        bind_linear(binder, &tower->proj, e, t, false, "text.proj");
    }
}

void open_clip_roberta_release(struct open_clip_roberta *tower)
{
    bert_release(&tower->text);
}

/* The texts without pad tokens, as items. */
static enum status make_items(const struct open_clip_roberta *tower, const struct compute *compute,
                              const struct tokens *const *texts, size_t n, struct bert_item *items,
                              struct error *err)
{
    const struct bert_config *config = &tower->text.config;
    for (size_t i = 0; i < n; i++) {
        enum status status =
            check_tokens(texts[i], config->vocab_size, bert_context_length(config), err);
        if (status)
            return status;
        int32_t *ids = arena_array(compute->scratch, texts[i]->n, sizeof *ids);
        if (!ids)
            return error_no_memory(err, "a batch of texts");
        size_t n_kept = 0;
        for (size_t j = 0; j < texts[i]->n; j++)
            if (texts[i]->ids[j] != config->pad_id)
                ids[n_kept++] = texts[i]->ids[j];
        if (!n_kept)
            return error_set(err, STATUS_UNPROCESSABLE, "the text has only padding");
        items[i] = (struct bert_item){.ids = ids, .n = n_kept};
    }
    return STATUS_OK;
}

enum status open_clip_roberta_forward(const struct open_clip_roberta *tower,
                                      const struct compute *compute,
                                      const struct tokens *const *texts, size_t n, float *out,
                                      struct error *err)
{
    size_t dim = tower->text.config.dim, n_total = 0;
    struct arena *scratch = compute->scratch;
    struct bert_item *items = arena_array(scratch, n, sizeof *items);
    float *means = arena_zalloc(scratch, n, dim * sizeof *means);
    float *inner = arena_array(scratch, n, tower->proj.n_out * sizeof *inner);
    if (!items || !means || !inner)
        return error_no_memory(err, "a batch of texts");
    enum status status = make_items(tower, compute, texts, n, items, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        n_total += items[i].n;
    float *x = arena_array(scratch, n_total * dim, sizeof *x);
    if (!x)
        return error_no_memory(err, "a batch of texts");
    status = bert_forward(&tower->text, compute, items, n, NULL, 0, x, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++) {
        float *mean = means + i * dim;
        for (size_t j = 0; j < items[i].n; j++, x += dim)
            for (size_t d = 0; d < dim; d++)
                mean[d] += x[d];
        for (size_t d = 0; d < dim; d++)
            mean[d] /= (float)items[i].n;
    }
    if (!tower->is_mlp) {
        nn_linear(compute, &tower->proj, means, n, ACTIVATION_NONE, NULL, out);
        return STATUS_OK;
    }
    nn_linear(compute, &tower->proj, means, n, ACTIVATION_GELU, NULL, inner);
    nn_linear(compute, &tower->proj2, inner, n, ACTIVATION_NONE, NULL, out);
    return STATUS_OK;
}
