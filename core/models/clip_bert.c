/*
 * clip_bert.c: CLIP's picture tower with a BERT for the texts: ChineseCLIPModel (Yang et al. 2022,
 * arXiv:2211.01335) and AltCLIPModel, whose texts go through XLM-R (Chen et al. 2022,
 * arXiv:2211.06679).
 *
 * Reference page
 *   Tensors   vision_model.… and visual_projection as in clip.c. Chinese-CLIP: text_model.
 *             {embeddings, encoder}.… (bert.h), text_projection [e, t]. AltCLIP: the same under
 *             text_model.roberta., then text_model.pre_LN [t], text_model.transformation.{weight
 *             [p, t], bias}, text_projection [e, p]. logit_scale [].
 *   Text      every row sees every row; the first row's last state (AltCLIP: → pre_LN →
 *             transformation) → projection → L2 norm.
 *   Easy to get wrong
 *     - The pooler that some files hold is not used.
 *     - Token types are added, always the first.
 *     - AltCLIP's positions begin at pad_token_id + 1, so that 514 of them are room for 512 tokens.
 *     - transformers 5 writes AltCLIP's vision layers as "encoder.layer.N", the public file has
 *       "encoder.layers.N".
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/bert.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

/* What sets the two apart. */
struct family {
    const char *text_prefix;
    struct bert_config text; /* its config class's defaults */
    size_t projection_dim;   /* likewise */
    bool is_transformed;     /* pre_LN and transformation */
};

static const struct family chinese_clip_family = {
    .text_prefix = "text_model",
    .text = {.n_layers = 12,
             .dim = 768,
             .n_heads = 12,
             .mlp_dim = 3072,
             .activation = ACTIVATION_GELU,
             .norm_eps = 1e-12f,
             .vocab_size = 30522,
             .n_positions = 512,
             .n_types = 2},
    .projection_dim = 512,
};

static const struct family altclip_family = {
    .text_prefix = "text_model.roberta",
    .text = {.n_layers = 24,
             .dim = 1024,
             .n_heads = 16,
             .mlp_dim = 4096,
             .activation = ACTIVATION_GELU,
             .norm_eps = 1e-5f,
             .vocab_size = 250002,
             .n_positions = 514,
             .n_types = 1,
             .counts_from_pad = true,
             .pad_id = 1},
    .projection_dim = 768,
    .is_transformed = true,
};

/* ---- weights -----------------------------------------------------------------------------------
 */

struct clip_bert {
    struct clip_vision vision;
    struct linear vision_projection; /* [e, d] */
    struct bert text;
    bool is_transformed;
    struct norm pre_norm;          /* where it is */
    struct linear transformation;  /* [p, t], likewise */
    struct linear text_projection; /* [e, t] or [e, p] */
    const float *logit_scale;      /* [] */
};

static void bind_text(struct binder *binder, struct clip_bert *clip, const struct family *family,
                      const struct bert_config *config, size_t transformed_dim, size_t e)
{
    bert_bind(binder, &clip->text, config, family->text_prefix);
    clip->is_transformed = family->is_transformed;
    if (clip->is_transformed) {
        bind_norm(binder, &clip->pre_norm, config->dim, config->norm_eps, "text_model.pre_LN");
        bind_linear(binder, &clip->transformation, transformed_dim, config->dim, true,
                    "text_model.transformation");
    }
    bind_linear(binder, &clip->text_projection, e,
                clip->is_transformed ? transformed_dim : config->dim, false, "text_projection");
}

static void clip_bert_release(struct clip_bert *clip)
{
    if (!clip)
        return;
    clip_vision_release(&clip->vision);
    bert_release(&clip->text);
    free(clip);
}

static enum status read_text_config(const json_t *json, struct bert_config *config,
                                    size_t *transformed_dim, struct error *err)
{
    const json_t *text = NULL;
    enum status status = config_object_or_dict(json, "text_config", &text, err);
    if (status)
        return status;
    status = bert_config_load(text, config, err);
    if (!status)
        status = config_size(text, "project_dim", transformed_dim, err);
    return status ? error_prefix(err, "text_config") : STATUS_OK;
}

static enum status load(struct model *model, const struct family *family, struct error *err)
{
    struct clip_bert *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    const json_t *config = model->checkpoint->config;
    struct clip_vision_config vision = clip_vision_defaults;
    struct bert_config text = family->text;
    size_t e = family->projection_dim, transformed_dim = 768;
    struct binder binder;
    enum status status = clip_vision_config_load(config, &vision, err);
    if (!status)
        status = read_text_config(config, &text, &transformed_dim, err);
    if (!status)
        status = config_size(config, "projection_dim", &e, err);
    if (!status)
        status = model_load_processor(model, &clip_processor, vision.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    clip_vision_bind(&binder, &clip->vision, &vision, "", "pre_layrnorm");
    bind_linear(&binder, &clip->vision_projection, e, vision.encoder.dim, false,
                "visual_projection");
    bind_text(&binder, clip, family, &text, transformed_dim, e);
    bind_tensor(&binder, &clip->logit_scale, (const size_t[]){0}, "logit_scale");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    dual_set_traits(model, e, bert_context_length(&text), text.vocab_size, clip->logit_scale, NULL);
    model->state = clip;
    clip = NULL;
out:
    clip_bert_release(clip);
    return status;
}

static enum status chinese_clip_load(struct model *model, struct error *err)
{
    return load(model, &chinese_clip_family, err);
}

static enum status altclip_load(struct model *model, struct error *err)
{
    return load(model, &altclip_family, err);
}

static void clip_bert_free(struct model *model)
{
    clip_bert_release(model->state);
}

/* ---- forward -----------------------------------------------------------------------------------
 */

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct clip_bert *clip = model->state;
    return clip_vision_encode(&clip->vision, &clip->vision_projection, compute, pixels, n, out,
                              err);
}

/* The first row of each text → rows [n, dim] */
static enum status text_forward(const struct bert *bert, const struct compute *compute,
                                const struct tokens *const *texts, size_t n, float *rows,
                                struct error *err)
{
    size_t dim = bert->config.dim, n_total = 0;
    struct bert_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch of texts");
    for (size_t i = 0; i < n; i++) {
        enum status status = check_tokens(texts[i], bert->config.vocab_size,
                                          bert_context_length(&bert->config), err);
        if (status)
            return status;
        items[i].ids = texts[i]->ids;
        items[i].n = texts[i]->n;
        n_total += texts[i]->n;
    }
    float *x = arena_array(compute->scratch, n_total * dim, sizeof *x);
    if (!x)
        return error_no_memory(err, "a batch of texts");
    enum status status = bert_forward(bert, compute, items, n, NULL, 0, x, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; x += dim * items[i++].n)
        memcpy(rows + i * dim, x, dim * sizeof *rows);
    return STATUS_OK;
}

static enum status encode_texts(const struct model *model, const struct compute *compute,
                                const struct tokens *const *texts, size_t n, float *out,
                                struct error *err)
{
    const struct clip_bert *clip = model->state;
    float *rows = arena_array(compute->scratch, n * clip->text.config.dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of texts");
    enum status status = text_forward(&clip->text, compute, texts, n, rows, err);
    if (status)
        return status;
    if (clip->is_transformed) {
        float *transformed =
            arena_array(compute->scratch, n * clip->transformation.n_out, sizeof *transformed);
        if (!transformed)
            return error_no_memory(err, "a batch of texts");
        nn_layer_norm(compute, &clip->pre_norm, rows, n, rows);
        nn_linear(compute, &clip->transformation, rows, n, ACTIVATION_NONE, NULL, transformed);
        rows = transformed;
    }
    dual_embed_texts(compute, &clip->text_projection, rows, n, out);
    return STATUS_OK;
}

/* ---- the architectures -------------------------------------------------------------------------
 */

const struct architecture chinese_clip_architecture = {
    .name = "ChineseCLIPModel",
    .summary = "Chinese-CLIP: embeddings of pictures and Chinese texts",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = chinese_clip_load,
    .free = clip_bert_free,
    .encode_images = encode_images,
    .encode_texts = encode_texts,
};

const struct architecture altclip_architecture = {
    .name = "AltCLIPModel",
    .summary = "AltCLIP: embeddings of pictures and of texts in several languages",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = altclip_load,
    .free = clip_bert_free,
    .encode_images = encode_images,
    .encode_texts = encode_texts,
};
