/*
 * siglip.c: SiglipModel (Zhai et al. 2023, arXiv:2303.15343), and SigLIP 2 at fixed resolution
 * (Tschannen et al. 2025, arXiv:2502.14786), whose checkpoints have the same layout; Siglip2Model,
 * SigLIP 2 for pictures of any shape (NaFlex).
 *
 * Reference page
 *   Tensors   vision_model.embeddings.{patch_embedding.{weight, bias}, position_embedding.weight
 *             [(s/p)², d]} (no class token), vision_model.encoder.layers.N.… (CLIP's names),
 *             vision_model.post_layernorm, vision_model.head.{probe [1, 1, d],
 *             attention.{in_proj_weight [3 d, d], in_proj_bias, out_proj}, layernorm, mlp.{fc1,
 * fc2}}; text_model.embeddings.{token_embedding, position_embedding}.weight,
 *             text_model.encoder.layers.N.…, text_model.final_layer_norm, text_model.head;
 *             logit_scale [1], logit_bias [1].
 *   Picture   rows → post_layernorm → one learned query (probe) attends to all of them → h;
 *             h + mlp(layernorm(h)) → L2 norm.
 *   Text      padded to max_position_embeddings, every row sees every row, padding included; the
 *             last row → final_layer_norm → head → L2 norm.
 *   NaFlex    a picture is resized to at most max_num_patches patches, its shape kept; its patches
 * go through embeddings.patch_embedding.weight [d, p · p · 3] (a pixel's channels side by side),
 * the positions are resized from their √num_patches square to its grid. Scores
 * sigmoid(exp(logit_scale) · cosine + logit_bias), each label by itself. Easy to get wrong
 *     - The padding is seen: these checkpoints' tokenizers give no attention mask
 *       (model_input_names is ["input_ids"]), and the model was trained so.
 *     - The pad token is the tokenizer's (</s> = 1 in SigLIP, <pad> = 0 in SigLIP 2), not
 *       text_config.pad_token_id, whose default of 1 fits SigLIP only.
 *     - In the head the residual goes round the layernorm and mlp only, not round the attention.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/encoder.h"
#include "core/models/models_internal.h"
#include "core/models/siglip_naflex.h"
#include "core/models/vit.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct siglip_config {
    struct encoder_config vision, text;
    bool is_naflex;
    size_t image_size; /* of all pictures, where not */
    size_t patch_size;
    size_t grid;        /* the learned positions are grid × grid */
    size_t max_patches; /* of a picture, where it is */
    size_t vocab_size, context_length;
    size_t projection_dim; /* text_config.projection_size; vision's hidden_size */
    int32_t pad_id;
};

static const struct siglip_config siglip_defaults = {
    .vision = {.n_layers = 12,
               .dim = 768,
               .n_heads = 12,
               .mlp_dim = 3072,
               .activation = ACTIVATION_GELU_TANH,
               .norm_eps = 1e-6f},
    .text = {.n_layers = 12,
             .dim = 768,
             .n_heads = 12,
             .mlp_dim = 3072,
             .activation = ACTIVATION_GELU_TANH,
             .norm_eps = 1e-6f},
    .image_size = 224,
    .patch_size = 16,
    .vocab_size = 32000,
    .context_length = 64,
    .pad_id = 1,
};

/* Siglip2ImageProcessor's; its size is found for each picture. */
static const struct image_processor naflex_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .height = 16,
    .width = 16,
    .resample = RESAMPLE_BILINEAR,
    .rescale_factor = 1.0f / 255,
    .mean = {0.5f, 0.5f, 0.5f},
    .std = {0.5f, 0.5f, 0.5f},
};

/* num_patches, which has to be a square. */
static enum status read_grid(const json_t *vision, struct siglip_config *config, struct error *err)
{
    size_t n_patches = 256;
    config->image_size = config->patch_size; /* there is no such key: anything that fits */
    enum status status = config_picture(vision, &config->image_size, &config->patch_size, err);
    if (!status)
        status = config_size(vision, "num_patches", &n_patches, err);
    if (status)
        return status;
    config->grid = (size_t)sqrt((double)n_patches);
    if (config->grid * config->grid != n_patches)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'num_patches' %zu is not a square",
                         n_patches);
    return STATUS_OK;
}

static enum status read_vision(const json_t *vision, struct siglip_config *config,
                               struct error *err)
{
    bool use_head = true;
    enum status status = encoder_config_load(vision, &config->vision, err);
    if (!status && config->is_naflex)
        status = read_grid(vision, config, err);
    else if (!status)
        status = config_picture(vision, &config->image_size, &config->patch_size, err);
    if (!status && !config->is_naflex)
        config->grid = config->image_size / config->patch_size;
    if (!status)
        status = config_bool(vision, "vision_use_head", &use_head, err);
    if (status)
        return status;
    if (!use_head)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'vision_use_head' is false: such a model gives no embeddings");
    return STATUS_OK;
}

static enum status read_text(const json_t *text, struct siglip_config *config, struct error *err)
{
    enum status status = encoder_config_load(text, &config->text, err);
    if (!status)
        status = config_size(text, "vocab_size", &config->vocab_size, err);
    if (!status)
        status = config_size(text, "max_position_embeddings", &config->context_length, err);
    if (!status)
        status = config_token(text, "pad_token_id", &config->pad_id, err);
    config->projection_dim = config->text.dim;
    if (!status)
        status = config_size(text, "projection_size", &config->projection_dim, err);
    if (!status && config->projection_dim != config->vision.dim)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'projection_size' %zu differs from vision_config's hidden_size %zu",
                           config->projection_dim, config->vision.dim);
    return status;
}

/* tokenizer_config.json's pad_token, where the tokenizer knows it, wins. */
static enum status read_pad_token(const struct model *model, struct siglip_config *config,
                                  struct error *err)
{
    json_t *json = NULL;
    enum status status =
        checkpoint_read_json(model->checkpoint, "tokenizer_config.json", &json, err);
    if (status)
        return status;
    const json_t *pad = json_object_get(json, "pad_token");
    if (json_is_object(pad))
        pad = json_object_get(pad, "content");
    int32_t id = model->tokenizer && json_is_string(pad)
                     ? tokenizer_id(model->tokenizer, json_string_value(pad))
                     : -1;
    if (id >= 0)
        config->pad_id = id;
    json_decref(json);
    if (config->pad_id < 0 || (size_t)config->pad_id >= config->vocab_size)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the pad token %d is outside the vocabulary of %zu", (int)config->pad_id,
                         config->vocab_size);
    return STATUS_OK;
}

static enum status read_config(const struct model *model, struct siglip_config *config,
                               struct error *err)
{
    const json_t *json = model->checkpoint->config, *vision = NULL, *text = NULL;
    enum status status = config_object(json, "vision_config", &vision, err);
    if (!status)
        status = config_object(json, "text_config", &text, err);
    if (status)
        return status;
    if (read_vision(vision, config, err))
        return error_prefix(err, "vision_config");
    if (read_text(text, config, err))
        return error_prefix(err, "text_config");
    return read_pad_token(model, config, err);
}

/* ---- weights -----------------------------------------------------------------------------------
 */

struct pooling_head {
    const float *probe;       /* [dim] */
    struct linear q, kv, out; /* [dim, dim], [2 dim, dim], [dim, dim] */
    struct norm norm;
    struct linear fc1, fc2;
};

struct siglip {
    struct siglip_config config;
    struct vit_embedding patches;
    struct encoder vision;
    struct norm vision_post_norm;
    struct pooling_head head;
    const float *token_embedding;           /* [vocab_size, text dim] */
    const float *position_embedding;        /* [context_length, text dim] */
    const float *patch_weight, *patch_bias; /* NaFlex: as in the file */
    float *turned_weight;                   /* owned: as vit_embedding has it */
    struct encoder text;
    struct norm text_final_norm;
    struct linear text_head;               /* [projection_dim, text dim] */
    const float *logit_scale, *logit_bias; /* [1] */
};

static void bind_head(struct binder *binder, struct pooling_head *head,
                      const struct encoder_config *config)
{
    static const char *const weight = "vision_model.head.attention.in_proj_weight";
    static const char *const bias = "vision_model.head.attention.in_proj_bias";
    size_t d = config->dim;
    bind_tensor(binder, &head->probe, (const size_t[]){1, 1, d, 0}, "vision_model.head.probe");
    bind_linear_rows(binder, &head->q, 3 * d, 0, d, d, weight, bias);
    bind_linear_rows(binder, &head->kv, 3 * d, d, 2 * d, d, weight, bias);
    bind_linear(binder, &head->out, d, d, true, "vision_model.head.attention.out_proj");
    bind_norm(binder, &head->norm, d, config->norm_eps, "vision_model.head.layernorm");
    bind_linear(binder, &head->fc1, config->mlp_dim, d, true, "vision_model.head.mlp.fc1");
    bind_linear(binder, &head->fc2, d, config->mlp_dim, true, "vision_model.head.mlp.fc2");
}

static void bind(struct binder *binder, struct siglip *siglip)
{
    const struct siglip_config *config = &siglip->config;
    size_t d = config->vision.dim, t = config->text.dim;
    size_t grid = config->grid, patch_floats = 3 * config->patch_size * config->patch_size;

    siglip->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid};
    if (config->is_naflex) {
        bind_tensor(binder, &siglip->patch_weight, (const size_t[]){d, patch_floats, 0},
                    "vision_model.embeddings.patch_embedding.weight");
        bind_tensor(binder, &siglip->patch_bias, (const size_t[]){d, 0},
                    "vision_model.embeddings.patch_embedding.bias");
    } else {
        bind_patch_linear(binder, &siglip->patches.patch, d, 3, config->patch_size, true,
                          "vision_model.embeddings.patch_embedding");
    }
    bind_tensor(binder, &siglip->patches.positions, (const size_t[]){grid * grid, d, 0},
                "vision_model.embeddings.position_embedding.weight");
    encoder_bind(binder, &siglip->vision, &config->vision, &encoder_names_clip,
                 "vision_model.encoder.layers");
    bind_norm(binder, &siglip->vision_post_norm, d, config->vision.norm_eps,
              "vision_model.post_layernorm");
    bind_head(binder, &siglip->head, &config->vision);

    bind_tensor(binder, &siglip->token_embedding, (const size_t[]){config->vocab_size, t, 0},
                "text_model.embeddings.token_embedding.weight");
    bind_tensor(binder, &siglip->position_embedding, (const size_t[]){config->context_length, t, 0},
                "text_model.embeddings.position_embedding.weight");
    encoder_bind(binder, &siglip->text, &config->text, &encoder_names_clip,
                 "text_model.encoder.layers");
    bind_norm(binder, &siglip->text_final_norm, t, config->text.norm_eps,
              "text_model.final_layer_norm");
    bind_linear(binder, &siglip->text_head, config->projection_dim, t, true, "text_model.head");
    bind_tensor(binder, &siglip->logit_scale, (const size_t[]){1, 0}, "logit_scale");
    bind_tensor(binder, &siglip->logit_bias, (const size_t[]){1, 0}, "logit_bias");
}

static void siglip_release(struct siglip *siglip)
{
    if (!siglip)
        return;
    encoder_release(&siglip->vision);
    encoder_release(&siglip->text);
    if (siglip->turned_weight)
        linear_release(&siglip->patches.patch);
    free(siglip->turned_weight);
    free(siglip);
}

/* NaFlex: [d, (y, x, channel)] → [d, (channel, y, x)] */
static enum status turn_patches(struct siglip *siglip, struct error *err)
{
    size_t d = siglip->config.vision.dim;
    size_t n_pixels = siglip->config.patch_size * siglip->config.patch_size;
    float *to = siglip->turned_weight = alloc_array(d, 3 * n_pixels * sizeof *to);
    if (!to)
        return error_no_memory(err, "a weight");
    for (size_t o = 0; o < d; o++)
        for (size_t c = 0; c < 3; c++)
            for (size_t i = 0; i < n_pixels; i++)
                *to++ = siglip->patch_weight[(o * n_pixels + i) * 3 + c];
    return linear_init(&siglip->patches.patch, siglip->turned_weight, DTYPE_F32, siglip->patch_bias,
                       d, 3 * n_pixels, err);
}

/* NaFlex: what the preprocessor config says of patches. */
static enum status read_patches(struct model *model, struct siglip_config *config,
                                struct error *err)
{
    enum { PATCHES_MAX = 1 << 14 };
    const json_t *json = model->checkpoint->preprocessor;
    size_t patch_size = config->patch_size;
    config->max_patches = 256;
    enum status status = config_size(json, "patch_size", &patch_size, err);
    if (!status)
        status = config_size(json, "max_num_patches", &config->max_patches, err);
    if (!status)
        status = model_load_processor(model, &naflex_processor, 0, err);
    if (status)
        return status;
    model->traits.image_height = model->traits.image_width = 0; /* as each picture has it */
    if (patch_size != config->patch_size || config->max_patches > PATCHES_MAX ||
        !model->processor.do_resize || model->processor.do_center_crop)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the preprocessor config must resize pictures to at most %d patches of "
                         "%zu pixels",
                         PATCHES_MAX, config->patch_size);
    return STATUS_OK;
}

static enum status load(struct model *model, bool is_naflex, struct error *err)
{
    struct siglip *siglip = calloc(1, sizeof *siglip);
    if (!siglip)
        return error_no_memory(err, "a model");
    siglip->config = siglip_defaults;
    siglip->config.is_naflex = is_naflex;
    struct binder binder;
    enum status status = read_config(model, &siglip->config, err);
    if (!status && is_naflex)
        status = read_patches(model, &siglip->config, err);
    else if (!status)
        status = model_load_processor(model, &siglip_processor, siglip->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, siglip);
    status = binder_finish(&binder, &model->bound);
    if (!status && is_naflex)
        status = turn_patches(siglip, err);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    dual_set_traits(model, siglip->config.projection_dim, siglip->config.context_length,
                    siglip->config.vocab_size, siglip->logit_scale, siglip->logit_bias);
    model->state = siglip;
    siglip = NULL;
out:
    siglip_release(siglip);
    return status;
}

static enum status siglip_load(struct model *model, struct error *err)
{
    return load(model, false, err);
}

static enum status siglip2_load(struct model *model, struct error *err)
{
    return load(model, true, err);
}

static void siglip_free(struct model *model)
{
    siglip_release(model->state);
}

/* ---- forward -----------------------------------------------------------------------------------
 */

/* rows [n_total, dim] of n pictures, n_rows[i] of the i-th → out [n, dim] */
static enum status pool(const struct siglip *siglip, const struct compute *compute,
                        const float *rows, const size_t *n_rows, size_t n, size_t n_total,
                        float *out, struct error *err)
{
    const struct encoder_config *config = &siglip->config.vision;
    const struct pooling_head *head = &siglip->head;
    size_t dim = config->dim, head_dim = dim / config->n_heads;
    struct arena *scratch = compute->scratch;
    float *q = arena_array(scratch, dim, sizeof *q);
    float *kv = arena_array(scratch, n_total, 2 * dim * sizeof *kv), *k = kv;
    float *attended = arena_array(scratch, n * dim, sizeof *attended);
    float *inner = arena_array(scratch, n * config->mlp_dim, sizeof *inner);
    struct attention_item *items = arena_array(scratch, n, sizeof *items);
    if (!q || !kv || !attended || !inner || !items)
        return error_no_memory(err, "a forward pass's activations");

    nn_linear(compute, &head->q, head->probe, 1, ACTIVATION_NONE, NULL, q);
    nn_linear(compute, &head->kv, rows, n_total, ACTIVATION_NONE, NULL, kv);
    for (size_t i = 0; i < n; k += 2 * dim * n_rows[i++])
        items[i] = (struct attention_item){.q = q,
                                           .n_q = 1,
                                           .q_stride = dim,
                                           .k = k,
                                           .v = k + dim,
                                           .n_kv = n_rows[i],
                                           .kv_stride = 2 * dim,
                                           .out = attended + i * dim,
                                           .out_stride = dim};
    struct attention_shape shape = {config->n_heads, config->n_heads,
                                    head_dim,        1 / sqrtf((float)head_dim),
                                    false,           head->out.form};
    enum status status = nn_attention(compute, &shape, items, n, err);
    if (status)
        return status;
    nn_linear(compute, &head->out, attended, n, ACTIVATION_NONE, NULL, out);
    nn_layer_norm(compute, &head->norm, out, n, attended);
    nn_linear(compute, &head->fc1, attended, n, config->activation, NULL, inner);
    nn_linear(compute, &head->fc2, inner, n, ACTIVATION_NONE, out, out);
    return STATUS_OK;
}

static enum status naflex_preprocess(const struct model *model, const struct image *image,
                                     struct pixels *out, struct error *err)
{
    const struct siglip *siglip = model->state;
    struct image_processor processor = model->processor;
    if (!image->width || !image->height)
        return error_set(err, STATUS_UNPROCESSABLE, "the picture has no pixels");
    naflex_size(image->width, image->height, siglip->config.patch_size, siglip->config.max_patches,
                &processor.width, &processor.height);
    return image_processor_apply(&processor, image, out, err);
}

/* Each picture with the positions of its own grid. */
static enum status naflex_embed(const struct siglip *siglip, const struct compute *compute,
                                const struct pixels *const *pixels, const size_t *n_rows, size_t n,
                                float *x, struct error *err)
{
    struct vit_embedding patches = siglip->patches;
    size_t dim = patches.dim, p = patches.patch_size;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && !status; x += dim * n_rows[i++]) {
        float *positions = arena_array(compute->scratch, n_rows[i], dim * sizeof *positions);
        if (!positions)
            return error_no_memory(err, "a batch of pictures");
        naflex_positions(siglip->patches.positions, siglip->config.grid, dim, pixels[i]->height / p,
                         pixels[i]->width / p, positions);
        patches.positions = positions;
        patches.n_positions = n_rows[i];
        status = vit_embed(&patches, compute, &pixels[i], 1, x, err);
    }
    return status;
}

static enum status siglip_encode_images(const struct model *model, const struct compute *compute,
                                        const struct pixels *const *pixels, size_t n,
                                        struct features **out, struct error *err)
{
    const struct siglip *siglip = model->state;
    size_t dim = siglip->config.vision.dim, n_total = 0;
    size_t *n_rows = arena_array(compute->scratch, n, sizeof *n_rows);
    float *embeddings = arena_array(compute->scratch, n * dim, sizeof *embeddings);
    if (!n_rows || !embeddings)
        return error_no_memory(err, "a batch of pictures");
    for (size_t i = 0; i < n; i++)
        n_total += n_rows[i] = vit_rows(&siglip->patches, pixels[i]);
    float *x = arena_array(compute->scratch, n_total, dim * sizeof *x);
    if (!x)
        return error_no_memory(err, "a batch of pictures");
    enum status status = siglip->config.is_naflex
                             ? naflex_embed(siglip, compute, pixels, n_rows, n, x, err)
                             : vit_embed(&siglip->patches, compute, pixels, n, x, err);
    if (!status)
        status = encoder_forward(&siglip->vision, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &siglip->vision_post_norm, x, n_total, x);
    status = pool(siglip, compute, x, n_rows, n, n_total, embeddings, err);
    if (status)
        return status;
    nn_l2_normalize_rows(embeddings, n, dim);
    return features_split(embeddings, n, dim, out, err);
}

static enum status siglip_encode_texts(const struct model *model, const struct compute *compute,
                                       const struct tokens *const *texts, size_t n, float *out,
                                       struct error *err)
{
    const struct siglip *siglip = model->state;
    size_t dim = siglip->config.text.dim, length = siglip->config.context_length;
    size_t *n_rows = arena_array(compute->scratch, 2 * n, sizeof *n_rows);
    float *x = arena_array(compute->scratch, n * length, dim * sizeof *x);
    float *rows = arena_array(compute->scratch, n * dim, sizeof *rows);
    if (!n_rows || !x || !rows)
        return error_no_memory(err, "a batch of texts");
    size_t *pooled = n_rows + n;
    for (size_t i = 0; i < n; i++) {
        const struct tokens *text = texts[i];
        enum status status = check_tokens(text, siglip->config.vocab_size, length, err);
        if (status)
            return status;
        n_rows[i] = length;
        pooled[i] = length - 1;
        for (size_t j = 0; j < length; j++) {
            int32_t id = j < text->n ? text->ids[j] : siglip->config.pad_id;
            const float *token = siglip->token_embedding + (size_t)id * dim;
            const float *position = siglip->position_embedding + j * dim;
            float *row = x + (i * length + j) * dim;
            for (size_t d = 0; d < dim; d++)
                row[d] = token[d] + position[d];
        }
    }
    enum status status = encoder_forward(&siglip->text, compute, x, n_rows, n, pooled, rows, err);
    if (status)
        return status;
    nn_layer_norm(compute, &siglip->text_final_norm, rows, n, rows);
    dual_embed_texts(compute, &siglip->text_head, rows, n, out);
    return STATUS_OK;
}

const struct architecture siglip_architecture = {
    .name = "SiglipModel",
    .summary = "SigLIP and SigLIP 2 (fixed size): embeddings, scores independent of each other",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = siglip_load,
    .free = siglip_free,
    .encode_images = siglip_encode_images,
    .encode_texts = siglip_encode_texts,
};

const struct architecture siglip2_architecture = {
    .name = "Siglip2Model",
    .summary = "SigLIP 2 for pictures of any shape (NaFlex): embeddings, independent scores",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = siglip2_load,
    .free = siglip_free,
    .preprocess = naflex_preprocess,
    .encode_images = siglip_encode_images,
    .encode_texts = siglip_encode_texts,
};
