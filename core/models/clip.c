/*
 * clip.c: CLIPModel with vision-transformer towers (Radford et al. 2021, arXiv:2103.00020).
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
 *     - Where text_config.eos_token_id is 2 (files before a fix of the reference) the end of text
 * is the first position of the largest id; otherwise the first position of eos_token_id, or 0.
 *     - Rows after the end of text see it but it does not see them: padding changes nothing, so
 * none is added, and what follows the end is not computed.
 *     - Old config.json files have text_config_dict, vision_config_dict, which win.
 *     - post_layernorm is applied to the class row only; the projections have no bias.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/encoder.h"
#include "core/models/models_internal.h"
#include "core/models/vit.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct clip_config {
    struct encoder_config vision, text;
    size_t image_size, patch_size;
    size_t vocab_size, context_length;
    size_t projection_dim;
    int32_t eos_token_id;
};

static const struct clip_config clip_defaults = {
    .vision = {.n_layers = 12,
               .dim = 768,
               .n_heads = 12,
               .mlp_dim = 3072,
               .activation = ACTIVATION_QUICK_GELU,
               .norm_eps = 1e-5f},
    .text = {.n_layers = 12,
             .dim = 512,
             .n_heads = 8,
             .mlp_dim = 2048,
             .activation = ACTIVATION_QUICK_GELU,
             .norm_eps = 1e-5f,
             .causal = true},
    .image_size = 224,
    .patch_size = 32,
    .vocab_size = 49408,
    .context_length = 77,
    .projection_dim = 512,
    .eos_token_id = 49407,
};

static const struct image_processor clip_processor = {
    .do_resize = true,
    .do_center_crop = true,
    .do_rescale = true,
    .do_normalize = true,
    .shortest_edge = 224,
    .crop_height = 224,
    .crop_width = 224,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0f / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

static enum status read_config(const json_t *json, struct clip_config *config, struct error *err)
{
    const json_t *vision = NULL, *text = NULL;
    enum status status = config_object_or_dict(json, "vision_config", &vision, err);
    if (!status)
        status = config_object_or_dict(json, "text_config", &text, err);
    if (!status)
        status = encoder_config_load(vision, &config->vision, err);
    if (!status)
        status = config_size(vision, "image_size", &config->image_size, err);
    if (!status)
        status = config_size(vision, "patch_size", &config->patch_size, err);
    if (status)
        return error_prefix(err, "vision_config");
    size_t n_channels = 3;
    status = config_size(vision, "num_channels", &n_channels, err);
    if (!status && n_channels != 3)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "vision_config: 'num_channels' is %zu, only 3 is supported", n_channels);
    if (status)
        return status;
    status = encoder_config_load(text, &config->text, err);
    if (!status)
        status = config_size(text, "vocab_size", &config->vocab_size, err);
    if (!status)
        status = config_size(text, "max_position_embeddings", &config->context_length, err);
    if (!status)
        status = config_token(text, "eos_token_id", &config->eos_token_id, err);
    if (status)
        return error_prefix(err, "text_config");
    status = config_size(json, "projection_dim", &config->projection_dim, err);
    if (!status && (config->patch_size > config->image_size || config->image_size > 1 << 16))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "vision_config: image_size %zu with patch_size %zu is not possible",
                           config->image_size, config->patch_size);
    return status;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

struct clip {
    struct clip_config config;
    struct vit_embedding patches;
    struct norm vision_pre_norm, vision_post_norm;
    struct encoder vision;
    struct linear vision_projection; /* [projection_dim, vision dim] */
    const float *token_embedding;    /* [vocab_size, text dim] */
    const float *position_embedding; /* [context_length, text dim] */
    struct encoder text;
    struct norm text_final_norm;
    struct linear text_projection; /* [projection_dim, text dim] */
    const float *logit_scale;      /* [] */
};

static void bind(struct binder *binder, struct clip *clip)
{
    const struct clip_config *config = &clip->config;
    size_t d = config->vision.dim, t = config->text.dim;
    size_t grid = config->image_size / config->patch_size;

    clip->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &clip->patches.class_token, (const size_t[]){d, 0},
                "vision_model.embeddings.class_embedding");
    bind_patch_linear(binder, &clip->patches.patch, d, 3, config->patch_size, false,
                      "vision_model.embeddings.patch_embedding");
    bind_tensor(binder, &clip->patches.positions, (const size_t[]){grid * grid + 1, d, 0},
                "vision_model.embeddings.position_embedding.weight");
    bind_norm(binder, &clip->vision_pre_norm, d, config->vision.norm_eps,
              "vision_model.pre_layrnorm");
    encoder_bind(binder, &clip->vision, &config->vision, &encoder_names_clip,
                 "vision_model.encoder.layers");
    bind_norm(binder, &clip->vision_post_norm, d, config->vision.norm_eps,
              "vision_model.post_layernorm");
    bind_linear(binder, &clip->vision_projection, config->projection_dim, d, false,
                "visual_projection");

    bind_tensor(binder, &clip->token_embedding, (const size_t[]){config->vocab_size, t, 0},
                "text_model.embeddings.token_embedding.weight");
    bind_tensor(binder, &clip->position_embedding, (const size_t[]){config->context_length, t, 0},
                "text_model.embeddings.position_embedding.weight");
    encoder_bind(binder, &clip->text, &config->text, &encoder_names_clip,
                 "text_model.encoder.layers");
    bind_norm(binder, &clip->text_final_norm, t, config->text.norm_eps,
              "text_model.final_layer_norm");
    bind_linear(binder, &clip->text_projection, config->projection_dim, t, false,
                "text_projection");
    bind_tensor(binder, &clip->logit_scale, (const size_t[]){0}, "logit_scale");
}

static void clip_release(struct clip *clip)
{
    if (!clip)
        return;
    encoder_release(&clip->vision);
    encoder_release(&clip->text);
    free(clip);
}

static enum status clip_load(struct model *model, struct error *err)
{
    struct clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    clip->config = clip_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint->config, &clip->config, err);
    if (!status)
        status = model_load_processor(model, &clip_processor, clip->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, clip);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.embed_dim = clip->config.projection_dim;
    model->traits.logit_scale = expf(*clip->logit_scale);
    model->traits.context_length = clip->config.context_length;
    model->traits.vocab_size = clip->config.vocab_size;
    model->state = clip;
    clip = NULL;
out:
    clip_release(clip);
    return status;
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
    size_t dim = clip->config.vision.dim, embed_dim = clip->config.projection_dim, n_total = 0;
    size_t *n_rows = arena_array(compute->scratch, 2 * n, sizeof *n_rows);
    if (!n_rows)
        return error_no_memory(err, "a batch");
    size_t *pooled = n_rows + n; /* the class token's row */
    for (size_t i = 0; i < n; i++) {
        n_rows[i] = vit_rows(&clip->patches, pixels[i]);
        pooled[i] = 0;
        n_total += n_rows[i];
    }
    float *x = arena_array(compute->scratch, n_total * dim, sizeof *x);
    float *rows = arena_array(compute->scratch, n * dim, sizeof *rows);
    float *embeddings = arena_array(compute->scratch, n * embed_dim, sizeof *embeddings);
    if (!x || !rows || !embeddings)
        return error_no_memory(err, "a batch of pictures");

    enum status status = vit_embed(&clip->patches, compute, pixels, n, x, err);
    if (status)
        return status;
    nn_layer_norm(compute, &clip->vision_pre_norm, x, n_total, x);
    status = encoder_forward(&clip->vision, compute, x, n_rows, n, pooled, rows, err);
    if (status)
        return status;
    nn_layer_norm(compute, &clip->vision_post_norm, rows, n, rows);
    nn_linear(compute, &clip->vision_projection, rows, n, ACTIVATION_NONE, NULL, embeddings);
    nn_l2_normalize_rows(embeddings, n, embed_dim);
    return features_split(embeddings, n, embed_dim, out, err);
}

/* The position of the row that stands for the text (see the head of this file). */
static size_t end_of_text(const struct clip *clip, const struct tokens *text)
{
    bool by_largest = clip->config.eos_token_id == 2;
    size_t at = 0;
    for (size_t i = 0; i < text->n; i++) {
        if (by_largest && text->ids[i] > text->ids[at])
            at = i;
        if (!by_largest && text->ids[i] == clip->config.eos_token_id)
            return i;
    }
    return at;
}

static enum status clip_encode_texts(const struct model *model, const struct compute *compute,
                                     const struct tokens *const *texts, size_t n, float *out,
                                     struct error *err)
{
    const struct clip *clip = model->state;
    size_t dim = clip->config.text.dim, n_total = 0;
    size_t *n_rows = arena_array(compute->scratch, 2 * n, sizeof *n_rows);
    if (!n_rows)
        return error_no_memory(err, "a batch");
    size_t *pooled = n_rows + n;
    for (size_t i = 0; i < n; i++) {
        enum status status =
            check_tokens(texts[i], clip->config.vocab_size, clip->config.context_length, err);
        if (status)
            return status;
        pooled[i] = end_of_text(clip, texts[i]);
        n_rows[i] = pooled[i] + 1; /* causal: what follows cannot be seen from there */
        n_total += n_rows[i];
    }
    float *x = arena_array(compute->scratch, n_total * dim, sizeof *x);
    float *rows = arena_array(compute->scratch, n * dim, sizeof *rows);
    if (!x || !rows)
        return error_no_memory(err, "a batch of texts");

    for (size_t i = 0, row = 0; i < n; i++)
        for (size_t j = 0; j < n_rows[i]; j++, row++) {
            const float *token = clip->token_embedding + (size_t)texts[i]->ids[j] * dim;
            const float *position = clip->position_embedding + j * dim;
            for (size_t d = 0; d < dim; d++)
                x[row * dim + d] = token[d] + position[d];
        }
    enum status status = encoder_forward(&clip->text, compute, x, n_rows, n, pooled, rows, err);
    if (status)
        return status;
    nn_layer_norm(compute, &clip->text_final_norm, rows, n, rows);
    nn_linear(compute, &clip->text_projection, rows, n, ACTIVATION_NONE, NULL, out);
    nn_l2_normalize_rows(out, n, clip->config.projection_dim);
    return STATUS_OK;
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
