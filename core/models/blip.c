/*
 * blip.c: BLIP (Li et al. 2022, arXiv:2201.12086): BlipForConditionalGeneration (captions),
 * BlipForQuestionAnswering, BlipForImageTextRetrieval. This file: configuration, weights, the
 * picture tower, tokens. blip_text.c: the text sides.
 *
 * Reference page
 *   Tensors   vision_model.embeddings.{class_embedding [1, 1, d], position_embedding
 *             [1, 1 + (s/p)², d], patch_embedding.{weight, bias}}, vision_model.encoder.layers.N.
 *             {layer_norm1, self_attn.qkv, self_attn.projection, layer_norm2, mlp.fc1, mlp.fc2},
 *             vision_model.post_layernorm; text_decoder.bert.…, text_decoder.cls.predictions.
 *             {transform.dense, transform.LayerNorm, decoder, bias}; text_encoder.…;
 *             vision_proj, text_proj, itm_head.
 *   Caption   decoder reads [BOS] + the prompt without its [CLS] and [SEP], cross-attends to all
 *             rows of the picture, ends at [SEP].
 *   VQA       encoder reads [CLS] question [SEP] with the picture; decoder reads [BOS],
 * cross-attends to the encoder's rows (not to the picture), ends at [SEP]. Match     encoder reads
 * [CLS] text [SEP] with the picture: softmax of itm_head over its first row, class 1. Cosine: the
 * same encoder without the picture, text_proj of its first row; vision_proj of the picture's class
 * row. Easy to get wrong
 *     - The picture's rows go through post_layernorm once, class row included.
 *     - generate() of these classes runs the inner text decoder, whose generation config is made
 *       from text_config alone: generation_config.json is not looked at, and text_config's own
 *       generation keys are dropped when it is read. So a checkpoint always starts from the
 *       library's defaults (greedy, 20 new tokens), with sep_token_id as the end.
 *     - decoder.weight is tied to the word embeddings and decoder.bias to predictions.bias: files
 *       hold either or both.
 *     - Cross-attention's keys and values read vision_config.hidden_size (whatever
 *       text_config.encoder_hidden_size says).
 *     - text_config.num_attention_heads is 8 by default, layer_norm_eps 1e-12; vision's is 1e-5.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/blip_internal.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

static const struct blip_config blip_defaults = {
    .vision = {.n_layers = 12,
               .dim = 768,
               .n_heads = 12,
               .mlp_dim = 3072,
               .activation = ACTIVATION_GELU,
               .norm_eps = 1e-5f},
    .image_size = 384,
    .patch_size = 16,
    .text = {.n_layers = 12,
             .dim = 768,
             .n_heads = 8,
             .mlp_dim = 3072,
             .activation = ACTIVATION_GELU,
             .norm_eps = 1e-12f,
             .vocab_size = 30524,
             .n_positions = 512},
    .projection_dim = 256,
    .tied = true,
    .bos_id = 30522,
    .sep_id = 102,
    .pad_id = 0,
};

static const struct image_processor blip_processor = {
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

static enum status read_vision(const json_t *vision, struct blip_config *config, struct error *err)
{
    enum status status = encoder_config_load(vision, &config->vision, err);
    return status ? status : config_picture(vision, &config->image_size, &config->patch_size, err);
}

static enum status read_text(const json_t *text, struct blip_config *config, struct error *err)
{
    enum status status = bert_config_load(text, &config->text, err);
    if (!status)
        status = config_token(text, "bos_token_id", &config->bos_id, err);
    if (!status)
        status = config_token(text, "sep_token_id", &config->sep_id, err);
    if (!status)
        status = config_token(text, "pad_token_id", &config->pad_id, err);
    if (!status && (config->bos_id < 0 || (size_t)config->bos_id >= config->text.vocab_size))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'bos_token_id' %d is outside the vocabulary of %zu",
                           (int)config->bos_id, config->text.vocab_size);
    return status;
}

static enum status read_config(const json_t *json, struct blip_config *config, struct error *err)
{
    const json_t *vision = NULL, *text = NULL;
    enum status status = config_object(json, "vision_config", &vision, err);
    if (!status)
        status = config_object(json, "text_config", &text, err);
    if (!status)
        status = config_size(json, "image_text_hidden_size", &config->projection_dim, err);
    if (!status)
        status = config_bool(json, "tie_word_embeddings", &config->tied, err);
    if (status)
        return status;
    if (read_vision(vision, config, err))
        return error_prefix(err, "vision_config");
    if (read_text(text, config, err))
        return error_prefix(err, "text_config");
    config->text.cross_dim = config->vision.dim;
    return STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

static const struct encoder_names vision_names = {
    .norm1 = "layer_norm1",
    .qkv = "self_attn.qkv",
    .out = "self_attn.projection",
    .norm2 = "layer_norm2",
    .fc1 = "mlp.fc1",
    .fc2 = "mlp.fc2",
    .qkv_bias = true,
};

static void bind_vision(struct binder *binder, struct blip *blip)
{
    const struct blip_config *config = &blip->config;
    size_t d = config->vision.dim, grid = config->image_size / config->patch_size;
    blip->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &blip->patches.class_token, (const size_t[]){1, 1, d, 0},
                "vision_model.embeddings.class_embedding");
    bind_patch_linear(binder, &blip->patches.patch, d, 3, config->patch_size, true,
                      "vision_model.embeddings.patch_embedding");
    bind_tensor(binder, &blip->patches.positions, (const size_t[]){1, grid * grid + 1, d, 0},
                "vision_model.embeddings.position_embedding");
    encoder_bind(binder, &blip->vision, &config->vision, &vision_names,
                 "vision_model.encoder.layers");
    bind_norm(binder, &blip->vision_post_norm, d, config->vision.norm_eps,
              "vision_model.post_layernorm");
}

static void bind_decoder(struct binder *binder, struct blip *blip)
{
    static const char *const weights[] = {"text_decoder.cls.predictions.decoder.weight",
                                          "text_decoder.bert.embeddings.word_embeddings.weight"};
    static const char *const biases[] = {"text_decoder.cls.predictions.decoder.bias",
                                         "text_decoder.cls.predictions.bias"};
    const struct bert_config *config = &blip->config.text;
    bert_bind(binder, &blip->text_decoder, config, "text_decoder.bert");
    bind_linear(binder, &blip->head.dense, config->dim, config->dim, true,
                "text_decoder.cls.predictions.transform.dense");
    bind_norm(binder, &blip->head.norm, config->dim, config->norm_eps,
              "text_decoder.cls.predictions.transform.LayerNorm");
    bind_linear_tensors(binder, &blip->head.decoder, config->vocab_size, config->dim,
                        bind_choose(binder, weights, ARRAY_LENGTH(weights)),
                        bind_choose(binder, biases, ARRAY_LENGTH(biases)));
    if (!binder->status && blip->config.tied && tensor_set_find(binder->tensors, weights[0]))
        binder->n_parameters -= config->vocab_size * config->dim; /* the same ones, stored twice */
}

static void bind_caption(struct binder *binder, struct blip *blip)
{
    bind_decoder(binder, blip);
}

static void bind_vqa(struct binder *binder, struct blip *blip)
{
    const struct blip_config *config = &blip->config;
    if (config->text.dim != config->vision.dim)
        bind_fault(binder,
                   "text_config's hidden_size %zu differs from vision_config's %zu: the answer "
                   "decoder cannot attend to the question",
                   config->text.dim, config->vision.dim);
    bert_bind(binder, &blip->text_encoder, &config->text, "text_encoder");
    bind_decoder(binder, blip);
}

static void bind_match(struct binder *binder, struct blip *blip)
{
    const struct blip_config *config = &blip->config;
    bert_bind(binder, &blip->text_encoder, &config->text, "text_encoder");
    bind_linear(binder, &blip->vision_projection, config->projection_dim, config->vision.dim, true,
                "vision_proj");
    bind_linear(binder, &blip->text_projection, config->projection_dim, config->text.dim, true,
                "text_proj");
    bind_linear(binder, &blip->match_head, 2, config->text.dim, true, "itm_head");
}

static void blip_release(struct blip *blip)
{
    if (!blip)
        return;
    encoder_release(&blip->vision);
    bert_release(&blip->text_decoder);
    bert_release(&blip->text_encoder);
    free(blip);
}

static void set_traits(struct model *model, const struct blip_config *config)
{
    model->traits.context_length = config->text.n_positions;
    model->traits.vocab_size = config->text.vocab_size;
    generation_params_default(&model->generation); /* see the head of this file */
    model->generation.pad_id = config->pad_id;
    if (config->sep_id >= 0)
        model->generation.eos_ids[model->generation.n_eos++] = config->sep_id;
}

static enum status load(struct model *model, void (*bind_text)(struct binder *, struct blip *),
                        struct error *err)
{
    struct blip *blip = calloc(1, sizeof *blip);
    if (!blip)
        return error_no_memory(err, "a model");
    blip->config = blip_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint->config, &blip->config, err);
    if (!status)
        status = model_load_processor(model, &blip_processor, blip->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind_vision(&binder, blip);
    bind_text(&binder, blip);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    set_traits(model, &blip->config);
    model->state = blip;
    blip = NULL;
out:
    blip_release(blip);
    return status;
}

static enum status load_caption(struct model *model, struct error *err)
{
    return load(model, bind_caption, err);
}

static enum status load_vqa(struct model *model, struct error *err)
{
    return load(model, bind_vqa, err);
}

static enum status load_match(struct model *model, struct error *err)
{
    enum status status = load(model, bind_match, err);
    if (status)
        return status;
    model->traits.n_outputs = 2;
    model->traits.match_cosine = true;
    return STATUS_OK;
}

static void blip_free(struct model *model)
{
    blip_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum status blip_encode_images(const struct model *model, const struct compute *compute,
                                      const struct pixels *const *pixels, size_t n,
                                      struct features **out, struct error *err)
{
    const struct blip *blip = model->state;
    size_t *n_rows, n_total;
    float *x;
    enum status status = vit_start(&blip->patches, compute, pixels, n, &n_rows, &x, &n_total, err);
    if (!status)
        status = encoder_forward(&blip->vision, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &blip->vision_post_norm, x, n_total, x);
    return features_split_rows(x, n_rows, n, blip->config.vision.dim, out, err);
}

/* ---- tokens ------------------------------------------------------------------------------------
 */

/* [BOS], then the prompt without [CLS] and [SEP]. An empty prompt is none. */
static enum status tokenize_caption(const struct model *model, enum task task, const char *text,
                                    size_t size, struct tokens *out, struct error *err)
{
    const struct blip *blip = model->state;
    struct tokens tokens = {0};
    (void)task;
    if (size) {
        struct encode_options options = {.add_special_tokens = true,
                                         .max_length = model->traits.context_length};
        enum status status = tokenizer_encode(model->tokenizer, text, size, &options, &tokens, err);
        if (status)
            return status;
    }
    if (tokens.n < 2) {
        tokens_release(&tokens);
        tokens = (struct tokens){.ids = malloc(sizeof *tokens.ids), .n = 2};
        if (!tokens.ids)
            return error_no_memory(err, "a prompt");
    }
    tokens.ids[0] = blip->config.bos_id;
    tokens.n--;
    *out = tokens;
    return STATUS_OK;
}

static size_t decoder_prompt_vqa(const struct model *model, enum task task,
                                 const struct tokens *prompt, int32_t *out)
{
    const struct blip *blip = model->state;
    (void)task;
    (void)prompt;
    out[0] = blip->config.bos_id;
    return 1;
}

const struct architecture blip_caption_architecture = {
    .name = "BlipForConditionalGeneration",
    .summary = "BLIP captioner: describes a picture, with or without a beginning",
    .tasks = TASK_BIT(CAPTION),
    .load = load_caption,
    .free = blip_free,
    .tokenize = tokenize_caption,
    .encode_images = blip_encode_images,
    .prefill = blip_prefill_caption,
    .prefill_in_pieces = true,
    .decode = blip_decode,
};

const struct architecture blip_vqa_architecture = {
    .name = "BlipForQuestionAnswering",
    .summary = "BLIP question answering: generates the answer to a question about a picture",
    .tasks = TASK_BIT(VQA),
    .load = load_vqa,
    .free = blip_free,
    .encode_images = blip_encode_images,
    .prefill = blip_prefill_vqa,
    .decode = blip_decode,
    .decoder_prompt = decoder_prompt_vqa,
};

const struct architecture blip_match_architecture = {
    .name = "BlipForImageTextRetrieval",
    .summary = "BLIP matcher: the probability that a text belongs to a picture, and their cosine",
    .tasks = TASK_BIT(MATCH),
    .load = load_match,
    .free = blip_free,
    .encode_images = blip_encode_images,
    .score_pairs = blip_score_pairs,
};
