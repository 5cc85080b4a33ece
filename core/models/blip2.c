/*
 * blip2.c: Blip2ForImageTextRetrieval (Li et al. 2023, arXiv:2301.12597): matching by BLIP-2's
 * Q-Former, a BERT in which a few learned queries look at the picture for the text.
 *
 * Reference page
 *   Tensors   vision_model.… as BLIP's (blip.c); query_tokens [1, q, d]; embeddings.
 *             {word_embeddings, position_embeddings}.weight; qformer.layernorm; qformer.encoder.
 *             layer.N.{attention.attention.{query, key, value}, attention.output.{dense,
 *             LayerNorm}, crossattention.… the same in every cross_attention_frequency-th layer,
 *             intermediate.dense, output.{dense, LayerNorm} (text rows), intermediate_query.dense,
 *             output_query.… (query rows)}; itm_head [2, d], vision_projection, text_projection.
 *   Rows      layernorm of [queries; words + positions]. All rows of an item see each other; then
 *             the query rows see the picture; queries and text have MLPs of their own.
 *   Match     queries and text together: the mean over the queries of itm_head → softmax, class 1.
 *   Cosine    queries without text → vision_projection → L2 norm; [CLS] text [SEP] without queries
 *             → first row → text_projection → L2 norm; the best query's cosine.
 *   Easy to get wrong
 *     - The picture's rows go through post_layernorm, class row included.
 *     - Processors put <image> tokens before the text, and the model takes them away again: the
 *       text is the tokenizer's alone.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/bert.h"
#include "core/models/encoder.h"
#include "core/models/models_internal.h"
#include "core/models/vit.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct blip2_config {
    struct encoder_config vision;
    size_t image_size, patch_size;
    bool qkv_bias;
    struct bert_config text;
    size_t cross_every, n_queries, projection_dim;
};

static const struct blip2_config blip2_defaults = {
    .vision = {.n_layers = 39,
               .dim = 1408,
               .n_heads = 16,
               .mlp_dim = 6144,
               .activation = ACTIVATION_GELU,
               .norm_eps = 1e-6f},
    .image_size = 224,
    .patch_size = 14,
    .qkv_bias = true,
    .text = {.n_layers = 12,
             .dim = 768,
             .n_heads = 12,
             .mlp_dim = 3072,
             .activation = ACTIVATION_GELU,
             .norm_eps = 1e-12f,
             .vocab_size = 30522,
             .n_positions = 512},
    .cross_every = 2,
    .n_queries = 32,
    .projection_dim = 256,
};

static const struct image_processor blip2_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .height = 384,
    .width = 384,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0f / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

static enum status read_config(const json_t *json, struct blip2_config *config, struct error *err)
{
    enum { QUERIES_MAX = 4096 };
    const json_t *vision = NULL, *text = NULL;
    enum status status = config_object(json, "vision_config", &vision, err);
    if (!status)
        status = config_object(json, "qformer_config", &text, err);
    if (!status)
        status = config_size(json, "num_query_tokens", &config->n_queries, err);
    if (!status)
        status = config_size(json, "image_text_hidden_size", &config->projection_dim, err);
    if (!status && config->n_queries > QUERIES_MAX)
        status = error_set(err, STATUS_BAD_CHECKPOINT, "'num_query_tokens' is %zu, more than %d",
                           config->n_queries, QUERIES_MAX);
    if (status)
        return status;
    status = encoder_config_load(vision, &config->vision, err);
    if (!status)
        status = config_picture(vision, &config->image_size, &config->patch_size, err);
    if (!status)
        status = config_bool(vision, "qkv_bias", &config->qkv_bias, err);
    if (status)
        return error_prefix(err, "vision_config");
    status = bert_config_load(text, &config->text, err);
    if (!status)
        status = config_size(text, "cross_attention_frequency", &config->cross_every, err);
    return status ? error_prefix(err, "qformer_config") : STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* What follows the attention for one kind of rows: norm(x + fc2(activation(fc1(x)))) */
struct blip2_mlp {
    struct linear fc1, fc2;
    struct norm norm;
};

struct blip2_layer {
    struct bert_attention self, cross;
    bool has_cross;
    struct blip2_mlp query, text;
};

struct blip2 {
    struct blip2_config config;
    struct vit_embedding patches;
    struct encoder vision;
    struct norm vision_norm;
    const float *queries;   /* [n_queries, dim] */
    const float *words;     /* [vocab_size, dim] */
    const float *positions; /* [n_positions, dim] */
    struct norm norm;
    struct blip2_layer *layers;
    struct linear match_head, vision_projection, text_projection;
};

static void bind_vision(struct binder *binder, struct blip2 *blip2)
{
    const struct blip2_config *config = &blip2->config;
    const struct encoder_names names = {
        .norm1 = "layer_norm1",
        .qkv = "self_attn.qkv",
        .out = "self_attn.projection",
        .norm2 = "layer_norm2",
        .fc1 = "mlp.fc1",
        .fc2 = "mlp.fc2",
        .qkv_bias = config->qkv_bias,
    };
    size_t d = config->vision.dim, grid = config->image_size / config->patch_size;
    blip2->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &blip2->patches.class_token, (const size_t[]){1, 1, d, 0},
                "vision_model.embeddings.class_embedding");
    bind_patch_linear(binder, &blip2->patches.patch, d, 3, config->patch_size, true,
                      "vision_model.embeddings.patch_embedding");
    bind_tensor(binder, &blip2->patches.positions, (const size_t[]){1, grid * grid + 1, d, 0},
                "vision_model.embeddings.position_embedding");
    encoder_bind(binder, &blip2->vision, &config->vision, &names, "vision_model.encoder.layers");
    bind_norm(binder, &blip2->vision_norm, d, config->vision.norm_eps,
              "vision_model.post_layernorm");
}

static void bind_attention(struct binder *binder, struct bert_attention *out,
                           const struct bert_config *config, size_t source_dim, const char *layer,
                           const char *name)
{
    size_t dim = config->dim;
    bind_linear(binder, &out->q, dim, dim, true, "%s.%s.attention.query", layer, name);
    bind_linear(binder, &out->k, dim, source_dim, true, "%s.%s.attention.key", layer, name);
    bind_linear(binder, &out->v, dim, source_dim, true, "%s.%s.attention.value", layer, name);
    bind_linear(binder, &out->out, dim, dim, true, "%s.%s.output.dense", layer, name);
    bind_norm(binder, &out->norm, dim, config->norm_eps, "%s.%s.output.LayerNorm", layer, name);
}

static void bind_mlp(struct binder *binder, struct blip2_mlp *out, const struct bert_config *config,
                     const char *layer, const char *suffix)
{
    bind_linear(binder, &out->fc1, config->mlp_dim, config->dim, true, "%s.intermediate%s.dense",
                layer, suffix);
    bind_linear(binder, &out->fc2, config->dim, config->mlp_dim, true, "%s.output%s.dense", layer,
                suffix);
    bind_norm(binder, &out->norm, config->dim, config->norm_eps, "%s.output%s.LayerNorm", layer,
              suffix);
}

static void bind_text(struct binder *binder, struct blip2 *blip2)
{
    const struct bert_config *config = &blip2->config.text;
    size_t dim = config->dim, e = blip2->config.projection_dim;
    char name[64];
    blip2->layers = calloc(config->n_layers, sizeof *blip2->layers);
    if (!blip2->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    bind_tensor(binder, &blip2->queries, (const size_t[]){1, blip2->config.n_queries, dim, 0},
                "query_tokens");
    bind_tensor(binder, &blip2->words, (const size_t[]){config->vocab_size, dim, 0},
                "embeddings.word_embeddings.weight");
    bind_tensor(binder, &blip2->positions, (const size_t[]){config->n_positions, dim, 0},
                "embeddings.position_embeddings.weight");
    bind_norm(binder, &blip2->norm, dim, config->norm_eps, "qformer.layernorm");
    for (size_t i = 0; i < config->n_layers; i++) {
        struct blip2_layer *layer = &blip2->layers[i];
        snprintf(name, sizeof name, "qformer.encoder.layer.%zu", i);
        layer->has_cross = i % blip2->config.cross_every == 0;
        bind_attention(binder, &layer->self, config, dim, name, "attention");
        if (layer->has_cross)
            bind_attention(binder, &layer->cross, config, blip2->config.vision.dim, name,
                           "crossattention");
        bind_mlp(binder, &layer->text, config, name, "");
        bind_mlp(binder, &layer->query, config, name, "_query");
    }
    bind_linear(binder, &blip2->match_head, 2, dim, true, "itm_head");
    bind_linear(binder, &blip2->vision_projection, e, dim, true, "vision_projection");
    bind_linear(binder, &blip2->text_projection, e, dim, true, "text_projection");
}

static void blip2_release(struct blip2 *blip2)
{
    if (!blip2)
        return;
    encoder_release(&blip2->vision);
    free(blip2->layers);
    free(blip2);
}

static enum status blip2_load(struct model *model, struct error *err)
{
    struct blip2 *blip2 = calloc(1, sizeof *blip2);
    if (!blip2)
        return error_no_memory(err, "a model");
    blip2->config = blip2_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint->config, &blip2->config, err);
    if (!status)
        status = model_load_processor(model, &blip2_processor, blip2->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind_vision(&binder, blip2);
    bind_text(&binder, blip2);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = blip2->config.text.n_positions;
    model->traits.vocab_size = blip2->config.text.vocab_size;
    model->traits.n_outputs = 2;
    model->traits.match_cosine = true;
    model->state = blip2;
    blip2 = NULL;
out:
    blip2_release(blip2);
    return status;
}

static void blip2_free(struct model *model)
{
    blip2_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct blip2 *blip2 = model->state;
    size_t *n_rows, n_total;
    float *x;
    enum status status = vit_start(&blip2->patches, compute, pixels, n, &n_rows, &x, &n_total, err);
    if (!status)
        status = encoder_forward(&blip2->vision, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &blip2->vision_norm, x, n_total, x);
    return features_split_rows(x, n_rows, n, blip2->config.vision.dim, out, err);
}

/* ---- the Q-Former ------------------------------------------------------------------------------
 */

enum { NO_SOURCE = -1 };

/* Queries that look at a source (or none of them), then a text (or none). */
struct qformer_item {
    int source; /* NO_SOURCE: no queries */
    const struct tokens *text;
    size_t n_queries, n_text;
};

struct qformer_pass {
    const struct blip2 *blip2;
    const struct compute *compute;
    const struct qformer_item *items;
    size_t n_items, n_total, n_query_rows, n_text_rows;
    const struct features *const *sources;
    size_t n_sources, n_source_rows;
    float *x; /* [n_total, dim]: the items' rows, one after another */
    float *q, *k, *v, *attended;
    float *some, *inner; /* the rows of one kind, and their MLP's inside */
    float *source_k, *source_v;
    struct attention_item *attention;
};

static enum status pass_init(struct qformer_pass *pass, struct error *err)
{
    size_t dim = pass->blip2->config.text.dim, mlp_dim = pass->blip2->config.text.mlp_dim;
    struct arena *scratch = pass->compute->scratch;
    for (size_t i = 0; i < pass->n_items; i++) {
        pass->n_query_rows += pass->items[i].n_queries;
        pass->n_text_rows += pass->items[i].n_text;
    }
    for (size_t i = 0; i < pass->n_sources; i++)
        pass->n_source_rows += pass->sources[i]->n_rows;
    pass->n_total = pass->n_query_rows + pass->n_text_rows;
    float **rows[] = {&pass->x, &pass->q, &pass->k, &pass->v, &pass->attended, &pass->some};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        if (!(*rows[i] = arena_array(scratch, pass->n_total, dim * sizeof(float))))
            return error_no_memory(err, "a forward pass's activations");
    pass->inner = arena_array(scratch, pass->n_total, mlp_dim * sizeof(float));
    pass->source_k = arena_array(scratch, pass->n_source_rows, dim * sizeof(float));
    pass->source_v = arena_array(scratch, pass->n_source_rows, dim * sizeof(float));
    pass->attention = arena_array(scratch, pass->n_items, sizeof *pass->attention);
    if (!pass->inner || !pass->source_k || !pass->source_v || !pass->attention)
        return error_no_memory(err, "a forward pass's activations");
    return STATUS_OK;
}

static void embed(const struct qformer_pass *pass)
{
    const struct blip2 *blip2 = pass->blip2;
    size_t dim = blip2->config.text.dim;
    float *row = pass->x;
    for (size_t i = 0; i < pass->n_items; i++) {
        const struct qformer_item *item = &pass->items[i];
        memcpy(row, blip2->queries, item->n_queries * dim * sizeof *row);
        row += item->n_queries * dim;
        for (size_t j = 0; j < item->n_text; j++, row += dim) {
            const float *word = blip2->words + (size_t)item->text->ids[j] * dim;
            const float *position = blip2->positions + j * dim;
            for (size_t d = 0; d < dim; d++)
                row[d] = word[d] + position[d];
        }
    }
    nn_layer_norm(pass->compute, &blip2->norm, pass->x, pass->n_total, pass->x);
}

/* The query rows (or the text rows) of all items to `some`, or back from there. */
static void gather(const struct qformer_pass *pass, bool queries, bool back)
{
    size_t dim = pass->blip2->config.text.dim;
    float *x = pass->x, *some = pass->some;
    for (size_t i = 0; i < pass->n_items; i++) {
        const struct qformer_item *item = &pass->items[i];
        float *rows = queries ? x : x + item->n_queries * dim;
        size_t n = (queries ? item->n_queries : item->n_text) * dim;
        memcpy(back ? rows : some, back ? some : rows, n * sizeof *x);
        some += n;
        x += (item->n_queries + item->n_text) * dim;
    }
}

static struct attention_shape shape_of(const struct bert_config *config,
                                       const struct bert_attention *layer)
{
    size_t head_dim = config->dim / config->n_heads;
    return (struct attention_shape){config->n_heads, config->n_heads,
                                    head_dim,        1 / sqrtf((float)head_dim),
                                    false,           layer->out.form};
}

/* rows = norm(rows + out(attended)) */
static void finish_attention(const struct qformer_pass *pass, const struct bert_attention *layer,
                             float *rows, size_t n)
{
    nn_linear(pass->compute, &layer->out, pass->attended, n, ACTIVATION_NONE, rows, rows);
    nn_layer_norm(pass->compute, &layer->norm, rows, n, rows);
}

static enum status self_attention(const struct qformer_pass *pass,
                                  const struct bert_attention *layer, struct error *err)
{
    const struct bert_config *config = &pass->blip2->config.text;
    size_t dim = config->dim, n = pass->n_total;
    nn_linear(pass->compute, &layer->q, pass->x, n, ACTIVATION_NONE, NULL, pass->q);
    nn_linear(pass->compute, &layer->k, pass->x, n, ACTIVATION_NONE, NULL, pass->k);
    nn_linear(pass->compute, &layer->v, pass->x, n, ACTIVATION_NONE, NULL, pass->v);
    for (size_t i = 0, at = 0; i < pass->n_items; i++) {
        size_t n_rows = pass->items[i].n_queries + pass->items[i].n_text;
        pass->attention[i] = (struct attention_item){.q = pass->q + at,
                                                     .n_q = n_rows,
                                                     .q_stride = dim,
                                                     .k = pass->k + at,
                                                     .v = pass->v + at,
                                                     .n_kv = n_rows,
                                                     .kv_stride = dim,
                                                     .out = pass->attended + at,
                                                     .out_stride = dim};
        at += n_rows * dim;
    }
    struct attention_shape shape = shape_of(config, layer);
    enum status status = nn_attention(pass->compute, &shape, pass->attention, pass->n_items, err);
    if (!status)
        finish_attention(pass, layer, pass->x, n);
    return status;
}

/* Of the query rows, in `some`. */
static enum status cross_attention(const struct qformer_pass *pass,
                                   const struct bert_attention *layer, struct error *err)
{
    const struct bert_config *config = &pass->blip2->config.text;
    size_t dim = config->dim, n_attention = 0, from = 0;
    for (size_t s = 0; s < pass->n_sources; from += dim * pass->sources[s++]->n_rows) {
        const struct features *source = pass->sources[s];
        nn_linear(pass->compute, &layer->k, source->rows, source->n_rows, ACTIVATION_NONE, NULL,
                  pass->source_k + from);
        nn_linear(pass->compute, &layer->v, source->rows, source->n_rows, ACTIVATION_NONE, NULL,
                  pass->source_v + from);
    }
    nn_linear(pass->compute, &layer->q, pass->some, pass->n_query_rows, ACTIVATION_NONE, NULL,
              pass->q);
    for (size_t i = 0, at = 0; i < pass->n_items; at += dim * pass->items[i++].n_queries) {
        const struct qformer_item *item = &pass->items[i];
        if (!item->n_queries)
            continue;
        from = 0;
        for (int s = 0; s < item->source; s++)
            from += dim * pass->sources[s]->n_rows;
        pass->attention[n_attention++] =
            (struct attention_item){.q = pass->q + at,
                                    .n_q = item->n_queries,
                                    .q_stride = dim,
                                    .k = pass->source_k + from,
                                    .v = pass->source_v + from,
                                    .n_kv = pass->sources[item->source]->n_rows,
                                    .kv_stride = dim,
                                    .out = pass->attended + at,
                                    .out_stride = dim};
    }
    struct attention_shape shape = shape_of(config, layer);
    enum status status = nn_attention(pass->compute, &shape, pass->attention, n_attention, err);
    if (!status)
        finish_attention(pass, layer, pass->some, pass->n_query_rows);
    return status;
}

static void mlp(const struct qformer_pass *pass, const struct blip2_mlp *layer, size_t n)
{
    nn_linear(pass->compute, &layer->fc1, pass->some, n, pass->blip2->config.text.activation, NULL,
              pass->inner);
    nn_linear(pass->compute, &layer->fc2, pass->inner, n, ACTIVATION_NONE, pass->some, pass->some);
    nn_layer_norm(pass->compute, &layer->norm, pass->some, n, pass->some);
}

/* → pass->x, the last layer's rows */
static enum status qformer_forward(struct qformer_pass *pass, struct error *err)
{
    enum status status = pass_init(pass, err);
    if (status)
        return status;
    embed(pass);
    for (size_t i = 0; i < pass->blip2->config.text.n_layers; i++) {
        const struct blip2_layer *layer = &pass->blip2->layers[i];
        status = self_attention(pass, &layer->self, err);
        if (status)
            return status;
        if (pass->n_query_rows) {
            gather(pass, true, false);
            if (layer->has_cross && (status = cross_attention(pass, &layer->cross, err)))
                return status;
            mlp(pass, &layer->query, pass->n_query_rows);
            gather(pass, true, true);
        }
        gather(pass, false, false);
        mlp(pass, &layer->text, pass->n_text_rows);
        gather(pass, false, true);
    }
    return STATUS_OK;
}

/* ---- matching ----------------------------------------------------------------------------------
 *
 * One pass for all that n pairs need: each pair's picture and text together, then each distinct
 * picture without a text, then each distinct text without a picture.
 */

struct match {
    struct qformer_item *items; /* n, then n_images, then n_texts */
    const struct features **images;
    const struct tokens **texts;
    size_t *image_of, *text_of; /* [n] */
    size_t n_images, n_texts;
};

static enum status match_init(struct match *match, const struct blip2 *blip2,
                              const struct compute *compute, const struct pair *pairs, size_t n,
                              struct error *err)
{
    struct arena *scratch = compute->scratch;
    size_t n_queries = blip2->config.n_queries;
    *match = (struct match){.items = arena_zalloc(scratch, 3 * n, sizeof *match->items),
                            .images = arena_array(scratch, n, sizeof(struct features *)),
                            .texts = arena_array(scratch, n, sizeof(struct tokens *)),
                            .image_of = arena_array(scratch, n, sizeof(size_t)),
                            .text_of = arena_array(scratch, n, sizeof(size_t))};
    if (!match->items || !match->images || !match->texts || !match->image_of || !match->text_of)
        return error_no_memory(err, "a batch of pairs");
    for (size_t i = 0, k; i < n; i++) {
        const struct tokens *text = pairs[i].text;
        if (pairs[i].n_images != 1)
            return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                             pairs[i].n_images);
        if (pairs[i].images[0]->dim != blip2->config.vision.dim)
            return error_set(err, STATUS_INTERNAL, "features of %zu floats, expected %zu",
                             pairs[i].images[0]->dim, blip2->config.vision.dim);
        enum status status =
            check_tokens(text, blip2->config.text.vocab_size, blip2->config.text.n_positions, err);
        if (status)
            return status;
        for (k = 0; k < match->n_images && match->images[k] != pairs[i].images[0];)
            k++;
        if (k == match->n_images)
            match->images[match->n_images++] = pairs[i].images[0];
        match->image_of[i] = k;
        for (k = 0; k < match->n_texts; k++)
            if (match->texts[k]->n == text->n &&
                memcmp(match->texts[k]->ids, text->ids, text->n * sizeof *text->ids) == 0)
                break;
        if (k == match->n_texts)
            match->texts[match->n_texts++] = text;
        match->text_of[i] = k;
        match->items[i] = (struct qformer_item){(int)match->image_of[i], text, n_queries, text->n};
    }
    for (size_t i = 0; i < match->n_images; i++)
        match->items[n + i] = (struct qformer_item){(int)i, NULL, n_queries, 0};
    for (size_t i = 0; i < match->n_texts; i++)
        match->items[n + match->n_images + i] =
            (struct qformer_item){NO_SOURCE, match->texts[i], 0, match->texts[i]->n};
    return STATUS_OK;
}

/* Pair i: the mean of the head over its query rows → the probability of a match. */
static float match_probability(const float *logits, size_t n_queries)
{
    double difference = 0;
    for (size_t q = 0; q < n_queries; q++)
        difference += (double)logits[2 * q + 1] - (double)logits[2 * q];
    return (float)(1 / (1 + exp(-difference / (double)n_queries)));
}

static enum status score_pairs(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err)
{
    const struct blip2 *blip2 = model->state;
    struct arena *scratch = compute->scratch;
    size_t dim = blip2->config.text.dim, q = blip2->config.n_queries;
    size_t e = blip2->config.projection_dim;
    struct match match;
    (void)task;
    enum status status = match_init(&match, blip2, compute, pairs, n, err);
    if (status)
        return status;
    struct qformer_pass pass = {.blip2 = blip2,
                                .compute = compute,
                                .items = match.items,
                                .n_items = n + match.n_images + match.n_texts,
                                .sources = match.images,
                                .n_sources = match.n_images};
    status = qformer_forward(&pass, err);
    if (status)
        return status;

    float *logits = arena_array(scratch, 2 * q, sizeof *logits);
    float *images = arena_array(scratch, match.n_images * q, e * sizeof *images);
    float *texts = arena_array(scratch, match.n_texts, e * sizeof *texts);
    if (!logits || !images || !texts)
        return error_no_memory(err, "a batch of pairs");
    const float *row = pass.x;
    for (size_t i = 0; i < n; row += dim * (q + match.items[i++].n_text)) {
        nn_linear(compute, &blip2->match_head, row, q, ACTIVATION_NONE, NULL, logits);
        out[2 * i] = match_probability(logits, q);
    }
    nn_linear(compute, &blip2->vision_projection, row, match.n_images * q, ACTIVATION_NONE, NULL,
              images);
    nn_l2_normalize_rows(images, match.n_images * q, e);
    row += match.n_images * q * dim;
    for (size_t i = 0; i < match.n_texts; row += dim * match.texts[i++]->n)
        nn_linear(compute, &blip2->text_projection, row, 1, ACTIVATION_NONE, NULL, texts + i * e);
    nn_l2_normalize_rows(texts, match.n_texts, e);
    for (size_t i = 0; i < n; i++) {
        float best = -INFINITY;
        for (size_t k = 0; k < q; k++) {
            const float *image = images + (match.image_of[i] * q + k) * e;
            const float *text = texts + match.text_of[i] * e;
            double cosine = 0;
            for (size_t d = 0; d < e; d++)
                cosine += (double)image[d] * (double)text[d];
            best = fmaxf(best, (float)cosine);
        }
        out[2 * i + 1] = best;
    }
    return STATUS_OK;
}

const struct architecture blip2_match_architecture = {
    .name = "Blip2ForImageTextRetrieval",
    .summary = "BLIP-2 matcher: the probability that a text belongs to a picture, and their cosine",
    .tasks = TASK_BIT(MATCH),
    .load = blip2_load,
    .free = blip2_free,
    .encode_images = encode_images,
    .score_pairs = score_pairs,
};
