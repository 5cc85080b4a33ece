/*
 * open_clip.c: CLIP in OpenCLIP's layout (open_clip_config.json, open_clip_model.safetensors), with
 * ViT or ResNet picture towers (Radford et al. 2021, arXiv:2103.00020; reference: open_clip 3).
 *
 * Reference page
 *   Config    model_cfg: embed_dim, quick_gelu, vision_cfg {image_size, width, layers, patch_size,
 *             head_width, mlp_ratio}, text_cfg {context_length, vocab_size, width, heads, layers,
 *             mlp_ratio, pool_type}; preprocess_cfg: mean, std, interpolation, resize_mode. A list
 *             of four `layers` makes the picture tower a ResNet.
 *   Tensors   ViT: visual.{class_embedding [d], conv1.weight [d, 3, p, p], positional_embedding
 *             [1 + (s/p)², d], ln_pre, transformer.resblocks.N.{ln_1, attn.{in_proj_weight [3 d,
 *             d], in_proj_bias, out_proj}, ln_2, mlp.{c_fc, c_proj}}, ln_post, proj [d, e]}.
 *             ResNet: visual.{conv1…3, bn1…3}, visual.layer1…4.N.{conv1…3, bn1…3, downsample.{0,
 *             1}}, visual.attnpool.{positional_embedding [1 + (s/32)², 32 w], q_proj, k_proj,
 *             v_proj, c_proj [e, 32 w]}.
 *             Text: token_embedding.weight, positional_embedding, transformer.resblocks.N.…,
 *             ln_final, text_projection [t, e]; all under "text." with custom_text. logit_scale.
 *   Picture   ViT: class token's row → ln_post → · proj. ResNet: stem of three convolutions and 2 ×
 *             2 average pooling → four stages of bottlenecks → the mean of the map asks mean and
 *             map (attention) → c_proj. Then L2 norm.
 *   Text      causal; the row at the largest id ("argmax") or the first eos_id ("eos").
 *   Easy to get wrong
 *     - proj and text_projection are [in, out]: x · proj.
 *     - No convolution but the first has a stride: where a stage halves the map, an average pooling
 *       stands behind the second convolution and before the shortcut's.
 *     - Residual blocks end in the activation, after the sum.
 *     - GELU is the exact one, unless quick_gelu (OpenAI's weights) or act_kwargs say otherwise.
 *     - ToTensor, Resize and CenterCrop are torchvision's: odd margins are rounded to even.
 *     - preprocess_cfg's size is not used: pictures always become vision_cfg's image_size.
 *   RoBERTa   as text tower: open_clip_roberta.h.
 *   Not here  timm and other Hugging Face towers inside this layout, CoCa, text pooled at the last
 *             position (CLIPA), resize_mode "longest": refused by name.
 *   Ours      open_clip's own tokenizer runs ftfy and HTML unescaping first; tokenizer.json, which
 *             the layout's directories carry, does not know of that.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/clip_resnet.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"
#include "core/models/open_clip_roberta.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct open_clip_config {
    size_t embed_dim, image_size;
    bool is_resnet;
    struct clip_resnet_config resnet; /* where it is */
    struct clip_vision_config vision; /* where it is not */
    bool pre_norm;
    struct clip_text_config text;
    bool custom_text, text_proj_bias;
    bool is_roberta;
    struct open_clip_roberta_config roberta; /* where it is */
};

/* Options of the layout that change what is computed and that we don't have. */
static const char *const vision_refused[] = {
    "timm_model_name",    "ls_init_value", "attentional_pool", "final_ln_after_pool", "qk_norm",
    "scaled_cosine_attn", "scale_heads",   "scale_attn_inner", "scale_attn",          "scale_fc"};
static const char *const text_refused[] = {
    "ls_init_value", "embed_cls",        "no_causal_mask", "qk_norm", "scaled_cosine_attn",
    "scale_heads",   "scale_attn_inner", "scale_attn",     "scale_fc"};

static enum status refuse(const json_t *json, const char *const *keys, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(json, keys[i]);
        if (value && !json_is_null(value) && !json_is_false(value))
            return error_set(err, STATUS_BAD_CHECKPOINT, "the option '%s' is not supported",
                             keys[i]);
    }
    return STATUS_OK;
}

static enum status refuse_other(const json_t *json, const char *key, const char *const *supported,
                                size_t n, const char **found, struct error *err)
{
    *found = supported[0];
    enum status status = config_string(json, key, found, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        if (strcmp(*found, supported[i]) == 0)
            return STATUS_OK;
    return error_set(err, STATUS_BAD_CHECKPOINT, "config key '%s': '%s' is not supported", key,
                     *found);
}

/* width · mlp_ratio, cut to a whole number, as Python's int() of doubles; 4 without the key. */
static enum status read_mlp_dim(const json_t *json, struct encoder_config *config,
                                struct error *err)
{
    const json_t *value = json_object_get(json, "mlp_ratio");
    double ratio = value && !json_is_null(value) ? json_number_value(value) : 4;
    double dim = (double)config->dim * ratio;
    if (!(dim >= 1 && dim <= INT32_MAX))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'mlp_ratio': expected a number that makes sense");
    config->mlp_dim = (size_t)dim;
    return STATUS_OK;
}

/* What both towers' transformers share; `layers` and the heads are read by the caller. */
static enum status read_encoder(const json_t *json, bool quick_gelu, struct encoder_config *config,
                                struct error *err)
{
    const json_t *act = NULL, *norm = NULL;
    const char *approximate = "none";
    config->activation = quick_gelu ? ACTIVATION_QUICK_GELU : ACTIVATION_GELU;
    enum status status = config_size(json, "width", &config->dim, err);
    if (!status)
        status = config_size(json, "layers", &config->n_layers, err);
    if (!status)
        status = read_mlp_dim(json, config, err);
    if (!status)
        status = config_object(json, "act_kwargs", &act, err);
    if (!status)
        status = config_object(json, "norm_kwargs", &norm, err);
    if (!status)
        status = config_string(act, "approximate", &approximate, err);
    if (!status)
        status = config_float(norm, "eps", &config->norm_eps, err);
    if (!status && !quick_gelu && strcmp(approximate, "tanh") == 0)
        config->activation = ACTIVATION_GELU_TANH;
    return status;
}

/* A number, or a list of two equal ones. */
static enum status read_square(const json_t *json, const char *key, size_t *out, struct error *err)
{
    enum { EDGE_MAX = 1 << 14 };
    const json_t *value = json_object_get(json, key);
    if (json_is_array(value) && json_array_size(value) == 2 &&
        json_equal(json_array_get(value, 0), json_array_get(value, 1)))
        value = json_array_get(value, 0);
    if (!value || json_is_null(value))
        return STATUS_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > EDGE_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key '%s': expected a whole number up to %d (other than square "
                         "pictures and patches are not supported)",
                         key, EDGE_MAX);
    *out = (size_t)json_integer_value(value);
    return STATUS_OK;
}

static enum status read_resnet(const json_t *vision, size_t head_width,
                               struct open_clip_config *config, struct error *err)
{
    enum { WIDTH_MAX = 1 << 14 };
    const json_t *layers = json_object_get(vision, "layers");
    struct clip_resnet_config *resnet = &config->resnet;
    *resnet = (struct clip_resnet_config){
        .width = 64, .image_size = config->image_size, .out_dim = config->embed_dim};
    enum status status = config_size(vision, "width", &resnet->width, err);
    if (status)
        return status;
    if (json_array_size(layers) != CLIP_RESNET_STAGES)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'layers': expected a number or a list of %d",
                         CLIP_RESNET_STAGES);
    for (size_t i = 0; i < CLIP_RESNET_STAGES; i++) {
        json_int_t n = json_integer_value(json_array_get(layers, i));
        if (n < 1 || n > INT32_MAX)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "config key 'layers': expected whole numbers from 1");
        resnet->n_blocks[i] = (size_t)n;
    }
    if (resnet->width > WIDTH_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT, "config key 'width': %zu is more than %d",
                         resnet->width, WIDTH_MAX);
    resnet->n_heads = resnet->width * 32 / head_width;
    config->is_resnet = true;
    return STATUS_OK;
}

static enum status read_vision(const json_t *vision, bool quick_gelu,
                               struct open_clip_config *config, struct error *err)
{
    static const char *const pools[] = {"tok"};
    struct clip_vision_config *vit = &config->vision;
    size_t head_width = 64;
    bool no_ln_pre = false;
    const char *pool;
    config->image_size = 224;
    *vit = clip_vision_defaults;
    vit->patch_size = 16;
    enum status status = refuse(vision, vision_refused, ARRAY_LENGTH(vision_refused), err);
    if (!status)
        status = read_square(vision, "image_size", &config->image_size, err);
    if (!status)
        status = config_size(vision, "head_width", &head_width, err);
    if (status)
        return status;
    if (json_is_array(json_object_get(vision, "layers")))
        return read_resnet(vision, head_width, config, err);
    status = refuse_other(vision, "pool_type", pools, ARRAY_LENGTH(pools), &pool, err);
    if (!status)
        status = read_encoder(vision, quick_gelu, &vit->encoder, err);
    if (!status)
        status = read_square(vision, "patch_size", &vit->patch_size, err);
    if (!status)
        status = config_bool(vision, "no_ln_pre", &no_ln_pre, err);
    if (status)
        return status;
    vit->image_size = config->image_size;
    vit->encoder.n_heads = vit->encoder.dim / head_width;
    config->pre_norm = !no_ln_pre;
    status = config_check_picture(vit->image_size, vit->patch_size, err);
    return status ? status
                  : config_check_layers(vit->encoder.dim, vit->encoder.n_heads,
                                        vit->encoder.n_layers, err);
}

static enum status read_text(const json_t *text, bool quick_gelu, struct open_clip_config *config,
                             struct error *err)
{
    static const char *const pools[] = {"argmax", "eos"}, *const projections[] = {"linear"};
    struct clip_text_config *tower = &config->text;
    const char *pool, *projection;
    long long eos_id = 2;
    *tower = clip_text_defaults;
    enum status status = refuse(text, text_refused, ARRAY_LENGTH(text_refused), err);
    if (!status)
        status = refuse_other(text, "pool_type", pools, ARRAY_LENGTH(pools), &pool, err);
    if (!status)
        status = refuse_other(text, "proj_type", projections, ARRAY_LENGTH(projections),
                              &projection, err);
    if (!status)
        status = read_encoder(text, quick_gelu, &tower->encoder, err);
    if (!status)
        status = config_size(text, "heads", &tower->encoder.n_heads, err);
    if (!status)
        status = config_size(text, "vocab_size", &tower->vocab_size, err);
    if (!status)
        status = config_size(text, "context_length", &tower->context_length, err);
    if (!status)
        status = config_bool(text, "proj_bias", &config->text_proj_bias, err);
    if (!status && strcmp(pool, "eos") == 0)
        status = config_int(text, "eos_id", &eos_id, err);
    if (status)
        return status;
    if (eos_id < 0 || eos_id > INT32_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'eos_id': the end of text %lld is not a token", eos_id);
    tower->eos_token_id = (int32_t)eos_id;
    tower->ends_at_largest = strcmp(pool, "argmax") == 0;
    return config_check_layers(tower->encoder.dim, tower->encoder.n_heads, tower->encoder.n_layers,
                               err);
}

static enum status read_model_cfg(const struct checkpoint *checkpoint,
                                  struct open_clip_config *config, struct error *err)
{
    static const char *const refused[] = {"multimodal_cfg"};
    const json_t *model = NULL, *vision = NULL, *text = NULL;
    bool quick_gelu = false;
    enum status status = config_object(checkpoint->config, "model_cfg", &model, err);
    if (!status && !model)
        status = error_set(err, STATUS_BAD_CHECKPOINT, "open_clip_config.json: no 'model_cfg'");
    if (!status)
        status = refuse(model, refused, ARRAY_LENGTH(refused), err);
    if (!status)
        status = config_size(model, "embed_dim", &config->embed_dim, err);
    if (!status && config->embed_dim == 0)
        status = error_set(err, STATUS_BAD_CHECKPOINT, "config key 'embed_dim' is missing");
    if (!status)
        status = config_bool(model, "quick_gelu", &quick_gelu, err);
    if (!status)
        status = config_bool(model, "custom_text", &config->custom_text, err);
    if (!status)
        status = config_object(model, "vision_cfg", &vision, err);
    if (!status)
        status = config_object(model, "text_cfg", &text, err);
    if (status)
        return status;
    if (read_vision(vision, quick_gelu, config, err))
        return error_prefix(err, "vision_cfg");
    const json_t *hf_model = json_object_get(text, "hf_model_name");
    config->is_roberta = hf_model && !json_is_null(hf_model);
    if (config->is_roberta ? open_clip_roberta_config_load(text, checkpoint->tensors,
                                                           config->embed_dim, &config->roberta, err)
                           : read_text(text, quick_gelu, config, err))
        return error_prefix(err, "text_cfg");
    return STATUS_OK;
}

/* One number for all channels, or three. */
static enum status read_channels(const json_t *json, const char *key, bool is_divisor, float out[3],
                                 struct error *err)
{
    const json_t *value = json_object_get(json, key);
    if (!value || json_is_null(value))
        return STATUS_OK;
    for (size_t c = 0; c < 3; c++) {
        const json_t *each = json_is_array(value) ? json_array_get(value, c) : value;
        float number = (float)json_number_value(each);
        if (!json_is_number(each) || !isfinite(number) || (is_divisor && number == 0))
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "preprocess_cfg key '%s': expected three numbers", key);
        out[c] = number;
    }
    return STATUS_OK;
}

static enum status read_preprocess_cfg(const json_t *json, size_t size,
                                       struct image_processor *processor, struct error *err)
{
    static const char *const interpolations[] = {"bicubic", "bilinear", "random"};
    static const char *const modes[] = {"shortest", "squash"};
    const json_t *config = NULL;
    const char *interpolation, *mode;
    *processor = (struct image_processor){.do_resize = true,
                                          .do_rescale = true,
                                          .do_normalize = true,
                                          .rescale_factor = 1.0f / 255,
                                          .mean = OPENAI_CLIP_MEAN,
                                          .std = OPENAI_CLIP_STD};
    enum status status = config_object(json, "preprocess_cfg", &config, err);
    if (!status)
        status = read_channels(config, "mean", false, processor->mean, err);
    if (!status)
        status = read_channels(config, "std", true, processor->std, err);
    if (!status)
        status = refuse_other(config, "interpolation", interpolations, ARRAY_LENGTH(interpolations),
                              &interpolation, err);
    if (!status)
        status = refuse_other(config, "resize_mode", modes, ARRAY_LENGTH(modes), &mode, err);
    if (status)
        return status;
    processor->resample =
        strcmp(interpolation, "bilinear") == 0 ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
    if (strcmp(mode, "squash") == 0) {
        processor->height = processor->width = size;
    } else {
        processor->shortest_edge = size;
        processor->do_center_crop = processor->crop_rounds = true;
        processor->crop_height = processor->crop_width = size;
    }
    return STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

struct open_clip {
    struct open_clip_config config;
    struct clip_resnet resnet;
    struct clip_vision vision;
    struct linear vision_projection; /* [embed_dim, vision dim] */
    struct clip_text text;
    struct linear text_projection;    /* [embed_dim, text dim] */
    struct open_clip_roberta roberta; /* in their place */
    const float *logit_scale, *logit_bias;
};

static void open_clip_release(struct open_clip *clip)
{
    if (!clip)
        return;
    clip_resnet_release(&clip->resnet);
    clip_vision_release(&clip->vision);
    clip_text_release(&clip->text);
    open_clip_roberta_release(&clip->roberta);
    free(clip);
}

static void bind_vision(struct binder *binder, struct open_clip *clip)
{
    const struct clip_vision_config *config = &clip->config.vision;
    struct clip_vision *vision = &clip->vision;
    size_t d = config->encoder.dim, grid = config->image_size / config->patch_size;
    float eps = config->encoder.norm_eps;
    vision->config = *config;
    vision->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &vision->patches.class_token, (const size_t[]){d, 0},
                "visual.class_embedding");
    bind_patch_linear(binder, &vision->patches.patch, d, 3, config->patch_size, false,
                      "visual.conv1");
    bind_tensor(binder, &vision->patches.positions, (const size_t[]){grid * grid + 1, d, 0},
                "visual.positional_embedding");
    if (clip->config.pre_norm)
        bind_norm(binder, &vision->pre_norm, d, eps, "visual.ln_pre");
    encoder_bind(binder, &vision->encoder, &config->encoder, &encoder_names_open_clip,
                 "visual.transformer.resblocks");
    bind_norm(binder, &vision->post_norm, d, eps, "visual.ln_post");
    bind_linear_transposed(binder, &clip->vision_projection, clip->config.embed_dim, d,
                           "visual.proj", NULL);
}

static void bind_text(struct binder *binder, struct open_clip *clip)
{
    const struct clip_text_config *config = &clip->config.text;
    struct clip_text *text = &clip->text;
    const char *prefix = clip->config.custom_text ? "text." : "";
    size_t d = config->encoder.dim, e = clip->config.embed_dim;
    char layers[64], projection[64];
    snprintf(layers, sizeof layers, "%stransformer.resblocks", prefix);
    snprintf(projection, sizeof projection, "%stext_projection", prefix);
    text->config = *config;
    bind_tensor(binder, &text->token_embedding, (const size_t[]){config->vocab_size, d, 0},
                "%stoken_embedding.weight", prefix);
    bind_tensor(binder, &text->position_embedding, (const size_t[]){config->context_length, d, 0},
                "%spositional_embedding", prefix);
    encoder_bind(binder, &text->encoder, &config->encoder, &encoder_names_open_clip, layers);
    bind_norm(binder, &text->final_norm, d, config->encoder.norm_eps, "%sln_final", prefix);
    if (clip->config.text_proj_bias)
        bind_linear(binder, &clip->text_projection, e, d, true, "%s", projection);
    else
        bind_linear_transposed(binder, &clip->text_projection, e, d, projection, NULL);
}

/* A scalar, which some files have as a list of one. */
static void bind_scalar(struct binder *binder, const float **out, const char *name, bool optional)
{
    const struct tensor_view *view = tensor_set_find(binder->tensors, name);
    if (!view && optional)
        return;
    bind_tensor(binder, out, view && view->n_dims ? (const size_t[]){1, 0} : (const size_t[]){0},
                "%s", name);
}

static enum status open_clip_load(struct model *model, struct error *err)
{
    struct open_clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return error_no_memory(err, "a model");
    struct open_clip_config *config = &clip->config;
    struct binder binder;
    enum status status = read_model_cfg(model->checkpoint, config, err);
    if (!status)
        status = read_preprocess_cfg(model->checkpoint->config, config->image_size,
                                     &model->processor, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    if (config->is_resnet)
        clip_resnet_bind(&binder, &clip->resnet, &config->resnet);
    else
        bind_vision(&binder, clip);
    if (config->is_roberta)
        open_clip_roberta_bind(&binder, &clip->roberta, &config->roberta);
    else
        bind_text(&binder, clip);
    bind_scalar(&binder, &clip->logit_scale, "logit_scale", false);
    bind_scalar(&binder, &clip->logit_bias, "logit_bias", true); /* trained as SigLIP */
    status = binder_finish(&binder, &model->bound);
    if (!status && config->is_resnet)
        status = clip_resnet_prepare(&clip->resnet, err);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.image_height = model->traits.image_width = config->image_size;
    dual_set_traits(model, config->embed_dim,
                    config->is_roberta ? config->roberta.context_length
                                       : config->text.context_length,
                    config->is_roberta ? config->roberta.text.vocab_size : config->text.vocab_size,
                    clip->logit_scale, clip->logit_bias);
    model->state = clip;
    clip = NULL;
out:
    open_clip_release(clip);
    return status;
}

static void open_clip_free(struct model *model)
{
    open_clip_release(model->state);
}

/* ---- forward -----------------------------------------------------------------------------------
 */

static enum status open_clip_encode_images(const struct model *model, const struct compute *compute,
                                           const struct pixels *const *pixels, size_t n,
                                           struct features **out, struct error *err)
{
    const struct open_clip *clip = model->state;
    size_t embed_dim = clip->config.embed_dim;
    if (!clip->config.is_resnet)
        return clip_vision_encode(&clip->vision, &clip->vision_projection, compute, pixels, n, out,
                                  err);
    float *rows = arena_array(compute->scratch, n * embed_dim, sizeof *rows); /* embeddings */
    if (!rows)
        return error_no_memory(err, "a batch of pictures");
    enum status status = clip_resnet_forward(&clip->resnet, compute, pixels, n, rows, err);
    if (status)
        return status;
    nn_l2_normalize_rows(rows, n, embed_dim);
    return features_split(rows, n, embed_dim, out, err);
}

static enum status open_clip_encode_texts(const struct model *model, const struct compute *compute,
                                          const struct tokens *const *texts, size_t n, float *out,
                                          struct error *err)
{
    const struct open_clip *clip = model->state;
    if (clip->config.is_roberta) {
        enum status status = open_clip_roberta_forward(&clip->roberta, compute, texts, n, out, err);
        if (!status)
            nn_l2_normalize_rows(out, n, clip->config.embed_dim);
        return status;
    }
    float *rows = arena_array(compute->scratch, n * clip->text.config.encoder.dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of texts");
    enum status status = clip_text_forward(&clip->text, compute, texts, n, rows, err);
    if (!status)
        dual_embed_texts(compute, &clip->text_projection, rows, n, out);
    return status;
}

const struct architecture open_clip_architecture = {
    .name = "OpenCLIP",
    .summary = "CLIP with ResNet or vision-transformer towers, in OpenCLIP's layout",
    .tasks = TASK_BIT(EMBED) | TASK_BIT(CLASSIFY),
    .load = open_clip_load,
    .free = open_clip_free,
    .encode_images = open_clip_encode_images,
    .encode_texts = open_clip_encode_texts,
};
