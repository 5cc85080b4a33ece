/*
 * clip.c: CLIPModel with vision-transformer towers (Radford et al. 2021, arXiv:2103.00020), and
 * MetaClip2Model (Chuang et al. 2025, arXiv:2507.22062), the same with a multilingual vocabulary;
 * and the towers alone, CLIPVisionModelWithProjection and CLIPTextModelWithProjection.
 *
 * Reference page
 *   Tensors   vision_model.embeddings.{class_embedding [d], patch_embedding.weight [d, 3, p, p] (no
 *             bias), position_embedding.weight [1 + (s/p)², d]}, vision_model.pre_layrnorm (spelt
 *             so), vision_model.encoder.layers.N.…, vision_model.post_layernorm,
 *             visual_projection.weight [e, d]; text_model.embeddings.{token_embedding,
 *             position_embedding}.weight, text_model.encoder.layers.N.…,
 *             text_model.final_layer_norm, text_projection.weight [e, d]; logit_scale [].
 *   Picture   class token's row after the last layer → post_layernorm → projection → L2 norm.
 *   Text      causal; the row at the end-of-text token → final_layer_norm → projection → L2 norm.
 *   Easy to get wrong
 *     - Where CLIPModel's text_config.eos_token_id is 2 (files before a fix of the reference) the
 *       end of text is the first position of the largest id; otherwise, and always in MetaCLIP 2,
 *       whose </s> is 2, the first position of eos_token_id, or 0.
 *     - Rows after the end of text see it but it does not see them: padding changes nothing, so
 *       none is added, and what follows the end is not computed.
 *     - Old config.json files have text_config_dict, vision_config_dict, which win.
 *     - A tower alone has its config at the top level (or in its part of a whole CLIP's), and
 *       projection_dim with it.
 *     - post_layernorm is applied to the class row only; the projections have no bias.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"

/* ---- weights -----------------------------------------------------------------------------------
 */

struct clip {
    struct clip_vision vision;
    struct linear vision_projection; /* [projection_dim, vision dim] */
    struct clip_text text;
    struct linear text_projection; /* [projection_dim, text dim] */
    const float *logit_scale;      /* [] */
};

static void clip_release(struct clip *clip)
{
    if (!clip)
        return;
    clip_vision_release(&clip->vision);
    clip_text_release(&clip->text);
    free(clip);
}

static enum status load(struct model *model, bool ends_at_eos, struct error *err)
{
    struct clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    const json_t *config = model->checkpoint->config;
    struct clip_vision_config vision = clip_vision_defaults;
    struct clip_text_config text = clip_text_defaults;
    size_t e = 512;
    struct binder binder;
    enum status status = clip_vision_config_load(config, &vision, err);
    if (!status)
        status = clip_text_config_load(config, &text, err);
    if (!status)
        status = config_size(config, "projection_dim", &e, err);
    if (!status)
        status = model_load_processor(model, &clip_processor, vision.image_size, err);
    if (status)
        goto out;
    if (ends_at_eos)
        text.ends_at_largest = false;
    binder_init(&binder, model->checkpoint->tensors, err);
    clip_vision_bind(&binder, &clip->vision, &vision, "", "pre_layrnorm");
    bind_linear(&binder, &clip->vision_projection, e, vision.encoder.dim, false,
                "visual_projection");
    clip_text_bind(&binder, &clip->text, &text, "");
    bind_linear(&binder, &clip->text_projection, e, text.encoder.dim, false, "text_projection");
    bind_tensor(&binder, &clip->logit_scale, (const size_t[]){0}, "logit_scale");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    dual_set_traits(model, e, text.context_length, text.vocab_size, clip->logit_scale, NULL);
    model->state = clip;
    clip = NULL;
out:
    clip_release(clip);
    return status;
}

/* ---- one tower alone --------------------------------------------------------------------------
 */

static enum status load_vision(struct model *model, struct error *err)
{
    struct clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    const json_t *config = model->checkpoint->config, *part = NULL;
    struct clip_vision_config vision = clip_vision_defaults;
    size_t e = 512;
    struct binder binder;
    enum status status = clip_vision_config_load(config, &vision, err);
    if (!status)
        status = clip_tower_config(config, "vision_config", &part, err);
    if (!status)
        status = config_size(part, "projection_dim", &e, err);
    if (!status)
        status = model_load_processor(model, &clip_processor, vision.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    clip_vision_bind(&binder, &clip->vision, &vision, "", "pre_layrnorm");
    bind_linear(&binder, &clip->vision_projection, e, vision.encoder.dim, false,
                "visual_projection");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.embed_dim = e;
    model->state = clip;
    clip = NULL;
out:
    clip_release(clip);
    return status;
}

static enum status load_text(struct model *model, struct error *err)
{
    struct clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    const json_t *config = model->checkpoint->config, *part = NULL;
    struct clip_text_config text = clip_text_defaults;
    size_t e = 512;
    struct binder binder;
    enum status status = clip_text_config_load(config, &text, err);
    if (!status)
        status = clip_tower_config(config, "text_config", &part, err);
    if (!status)
        status = config_size(part, "projection_dim", &e, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    clip_text_bind(&binder, &clip->text, &text, "");
    bind_linear(&binder, &clip->text_projection, e, text.encoder.dim, false, "text_projection");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.embed_dim = e;
    model->traits.context_length = text.context_length;
    model->traits.vocab_size = text.vocab_size;
    model->state = clip;
    clip = NULL;
out:
    clip_release(clip);
    return status;
}

static enum status clip_load(struct model *model, struct error *err)
{
    return load(model, false, err);
}

static enum status metaclip2_load(struct model *model, struct error *err)
{
    return load(model, true, err);
}

static void clip_free(struct model *model)
{
    clip_release(model->state);
}

/* ---- forward -----------------------------------------------------------------------------------
 */

static enum status clip_encode_images(const struct model *model, const struct compute *compute,
                                      const struct pixels *const *pixels, size_t n,
                                      struct features **out, struct error *err)
{
    const struct clip *clip = model->state;
    return clip_vision_encode(&clip->vision, &clip->vision_projection, compute, pixels, n, out,
                              err);
}

static enum status clip_encode_texts(const struct model *model, const struct compute *compute,
                                     const struct tokens *const *texts, size_t n, float *out,
                                     struct error *err)
{
    const struct clip *clip = model->state;
    float *rows = arena_array(compute->scratch, n * clip->text.config.encoder.dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of texts");
    enum status status = clip_text_forward(&clip->text, compute, texts, n, rows, err);
    if (!status)
        dual_embed_texts(compute, &clip->text_projection, rows, n, out);
    return status;
}

const struct architecture clip_architecture = {
    .name = "CLIPModel",
    .summary = "CLIP with vision-transformer towers: embeddings of pictures and texts",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = clip_load,
    .free = clip_free,
    .encode_images = clip_encode_images,
    .encode_texts = clip_encode_texts,
};

const struct architecture clip_vision_architecture = {
    .name = "CLIPVisionModelWithProjection",
    .summary = "CLIP's picture tower alone: embeddings of pictures",
    .tasks = TASK_BIT(EMBED),
    .load = load_vision,
    .free = clip_free,
    .encode_images = clip_encode_images,
};

const struct architecture clip_text_architecture = {
    .name = "CLIPTextModelWithProjection",
    .summary = "CLIP's text tower alone: embeddings of texts",
    .tasks = TASK_BIT(EMBED),
    .load = load_text,
    .free = clip_free,
    .encode_texts = clip_encode_texts,
};

const struct architecture metaclip2_architecture = {
    .name = "MetaClip2Model",
    .summary = "MetaCLIP 2: embeddings of pictures and of texts in many languages",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = metaclip2_load,
    .free = clip_free,
    .encode_images = clip_encode_images,
    .encode_texts = clip_encode_texts,
};
