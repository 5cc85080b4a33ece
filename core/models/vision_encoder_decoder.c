/*
 * vision_encoder_decoder.c: VisionEncoderDecoderModel with a ViT that looks and a GPT-2 that writes
 * (ViT-GPT2, nlpconnect/vit-gpt2-image-captioning): captions.
 *
 * Reference page
 *   Config    encoder (model_type vit), decoder (model_type gpt2); decoder_start_token_id.
 *   Tensors   encoder.embeddings.{cls_token [1, 1, d], position_embeddings [1, 1 + (s/p)², d],
 *             patch_embeddings.projection.{weight, bias}},
 * encoder.encoder.layer.N.{layernorm_before, attention.attention.{query, key, value},
 * attention.output.dense, layernorm_after, intermediate.dense, output.dense}, encoder.layernorm;
 * decoder.… (gpt2.c); enc_to_dec_proj [e, d] where the widths differ. Picture   all rows →
 * layernorm → enc_to_dec_proj: what the decoder attends to. Caption   decoder_start_token_id, then
 * the prompt's tokens, then what is written, until eos_token_id. Easy to get wrong
 *     - Without decoder_start_token_id it is bos_token_id.
 *     - Generation settings come from generation_config.json, or, without it, from config.json and
 *       then from its decoder's part.
 *     - The pooler that files hold is not used.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/encoder.h"
#include "core/models/gpt2.h"
#include "core/models/models_internal.h"
#include "core/models/vit.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct ved_config {
    struct encoder_config vision;
    size_t image_size, patch_size;
    bool qkv_bias;
    struct gpt2_config text;
    int32_t start_id;
};

static const struct ved_config ved_defaults = {
    .vision = {.n_layers = 12,
               .dim = 768,
               .n_heads = 12,
               .mlp_dim = 3072,
               .activation = ACTIVATION_GELU,
               .norm_eps = 1e-12f},
    .image_size = 224,
    .patch_size = 16,
    .qkv_bias = true,
    .start_id = -1,
};

/* The sub-config, whose model_type must be the one that we have. */
static enum status read_part(const json_t *json, const char *key, const char *type,
                             const json_t **out, struct error *err)
{
    const char *found = type;
    enum status status = config_object(json, key, out, err);
    if (!status)
        status = config_string(*out, "model_type", &found, err);
    if (!status && strcmp(found, type) != 0)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "config key '%s': the model_type '%.64s' is not supported, only '%s' is",
                           key, found, type);
    return status;
}

static enum status read_config(const struct checkpoint *checkpoint, struct ved_config *config,
                               struct error *err)
{
    const json_t *vision = NULL, *text = NULL;
    config->text = gpt2_defaults;
    enum status status = read_part(checkpoint->config, "encoder", "vit", &vision, err);
    if (!status)
        status = read_part(checkpoint->config, "decoder", "gpt2", &text, err);
    if (status)
        return status;
    status = encoder_config_load(vision, &config->vision, err);
    if (!status)
        status = config_picture(vision, &config->image_size, &config->patch_size, err);
    if (!status)
        status = config_bool(vision, "qkv_bias", &config->qkv_bias, err);
    if (status)
        return error_prefix(err, "encoder");
    if (gpt2_config_load(text, &config->text, err))
        return error_prefix(err, "decoder");
    config->text.has_cross = true; /* there is nothing else to see the picture by */
    status = generation_token_load(checkpoint, "decoder_start_token_id", &config->start_id, err);
    if (!status && config->start_id < 0)
        status = generation_token_load(checkpoint, "bos_token_id", &config->start_id, err);
    if (!status && (config->start_id < 0 || (size_t)config->start_id >= config->text.vocab_size))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'decoder_start_token_id' %d is outside the vocabulary of %zu",
                           (int)config->start_id, config->text.vocab_size);
    return status;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

struct ved {
    struct ved_config config;
    struct vit_embedding patches;
    struct encoder vision;
    struct norm vision_norm;
    struct linear projection; /* [text dim, vision dim]; n_out 0: the widths are equal */
    struct gpt2 text;
};

static void bind_vision(struct binder *binder, struct ved *ved)
{
    const struct ved_config *config = &ved->config;
    struct encoder_names names = encoder_names_vit;
    names.qkv_bias = config->qkv_bias;
    size_t d = config->vision.dim, grid = config->image_size / config->patch_size;
    const float *unused;
    ved->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &ved->patches.class_token, (const size_t[]){1, 1, d, 0},
                "encoder.embeddings.cls_token");
    bind_tensor(binder, &ved->patches.positions, (const size_t[]){1, grid * grid + 1, d, 0},
                "encoder.embeddings.position_embeddings");
    bind_patch_linear(binder, &ved->patches.patch, d, 3, config->patch_size, true,
                      "encoder.embeddings.patch_embeddings.projection");
    encoder_bind(binder, &ved->vision, &config->vision, &names, "encoder.encoder.layer");
    bind_norm(binder, &ved->vision_norm, d, config->vision.norm_eps, "encoder.layernorm");
    if (bind_optional(binder, &unused, (const size_t[]){d, d, 0}, "encoder.pooler.dense.weight"))
        bind_tensor(binder, &unused, (const size_t[]){d, 0}, "encoder.pooler.dense.bias");
    if (d != config->text.dim)
        bind_linear(binder, &ved->projection, config->text.dim, d, true, "enc_to_dec_proj");
}

static void ved_release(struct ved *ved)
{
    if (!ved)
        return;
    encoder_release(&ved->vision);
    gpt2_release(&ved->text);
    free(ved);
}

static enum status ved_load(struct model *model, struct error *err)
{
    struct ved *ved = calloc(1, sizeof *ved);
    if (!ved)
        return error_no_memory(err, "a model");
    ved->config = ved_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint, &ved->config, err);
    if (!status)
        status = model_load_processor(model, &vit_processor, ved->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind_vision(&binder, ved);
    gpt2_bind(&binder, &ved->text, &ved->config.text, "decoder.transformer.",
              "decoder.lm_head.weight");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = ved->config.text.n_positions;
    model->traits.vocab_size = ved->config.text.vocab_size;
    model->state = ved;
    ved = NULL;
out:
    ved_release(ved);
    return status;
}

static void ved_free(struct model *model)
{
    ved_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

/* Each picture's rows as the decoder sees them: [1 + patches, text dim]. */
static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct ved *ved = model->state;
    size_t text_dim = ved->config.text.dim, *n_rows, n_total;
    float *x;
    enum status status = vit_start(&ved->patches, compute, pixels, n, &n_rows, &x, &n_total, err);
    if (!status)
        status = encoder_forward(&ved->vision, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &ved->vision_norm, x, n_total, x);
    float *rows = x;
    if (ved->projection.n_out) {
        rows = arena_array(compute->scratch, n_total * text_dim, sizeof *rows);
        if (!rows)
            return error_no_memory(err, "a batch of pictures");
        nn_linear(compute, &ved->projection, x, n_total, ACTIVATION_NONE, NULL, rows);
    }
    return features_split_rows(rows, n_rows, n, text_dim, out, err);
}

/* ---- texts -------------------------------------------------------------------------------------
 */

static enum status tokenize(const struct model *model, enum task task, const char *text,
                            size_t size, struct tokens *out, struct error *err)
{
    const struct ved *ved = model->state;
    (void)task;
    return tokenize_after(model, ved->config.start_id, text, size, out, err);
}

static enum status check_prompt(const struct ved *ved, const struct prompt *prompt,
                                struct error *err)
{
    if (prompt->n_images != 1)
        return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                         prompt->n_images);
    if (prompt->images[0]->dim != ved->config.text.dim)
        return error_set(err, STATUS_INTERNAL, "features of %zu floats, expected %zu",
                         prompt->images[0]->dim, ved->config.text.dim);
    return check_tokens(prompt->text, ved->config.text.vocab_size, ved->config.text.n_positions,
                        err);
}

/* Gives a new sequence its picture's keys and values: those of an earlier prompt of the batch about
 * the picture, those that the caller has kept, or new ones. */
static enum status find_cross(const struct ved *ved, const struct compute *compute,
                              const struct prompt *prompts, struct sequence *sequences, size_t at,
                              struct error *err)
{
    const struct gpt2_config *config = &ved->config.text;
    const struct features *image = prompts[at].images[0];
    struct kv_shared *kept = prompts[at].picture_kv ? *prompts[at].picture_kv : NULL;
    for (size_t i = 0; i < at && !sequences[at].cross; i++)
        if (!prompts[i].from && prompts[i].images[0] == image)
            sequences[at].cross = kv_shared_ref(sequences[i].cross);
    if (!sequences[at].cross && kept && kept->n_rows == image->n_rows &&
        kept->n_floats == 2 * config->n_layers * image->n_rows * config->dim)
        sequences[at].cross = kv_shared_ref(kept);
    if (!sequences[at].cross)
        sequences[at].cross = gpt2_cross_kv(&ved->text, compute, image->rows, image->n_rows, err);
    return sequences[at].cross ? STATUS_OK : err->status;
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    enum { ROOM = 24 }; /* tokens that most captions fit in */
    const struct ved *ved = model->state;
    struct gpt2_item *items = arena_array(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    (void)task;
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from)
            sequence_init(&sequences[i], ved->config.text.n_layers, ved->config.text.dim);
    for (size_t i = 0; i < n && !status; i++) {
        size_t from = prompts[i].from, to = prompts[i].to ? prompts[i].to : prompts[i].text->n;
        status = check_prompt(ved, &prompts[i], err);
        if (!status && !from)
            status = find_cross(ved, compute, prompts, sequences, i, err);
        if (!status)
            status = sequence_reserve(&sequences[i], to + ROOM, err);
        items[i] = (struct gpt2_item){prompts[i].text->ids + from, to - from, &sequences[i]};
    }
    if (!status)
        status = gpt2_forward(&ved->text, compute, items, n, logits, err);
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from && status)
            sequence_release(&sequences[i]);
        else if (!prompts[i].from && prompts[i].picture_kv && !*prompts[i].picture_kv)
            *prompts[i].picture_kv = kv_shared_ref(sequences[i].cross);
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    const struct ved *ved = model->state;
    struct gpt2_item *items = arena_array(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = sequence_reserve(sequences[i], sequences[i]->n_tokens + 1, err);
        if (status)
            return status;
        items[i] = (struct gpt2_item){&tokens[i], 1, sequences[i]};
    }
    return gpt2_forward(&ved->text, compute, items, n, logits, err);
}

const struct architecture vision_encoder_decoder_architecture = {
    .name = "VisionEncoderDecoderModel",
    .summary = "ViT-GPT2 captioner: a vision transformer looks, GPT-2 writes",
    .tasks = TASK_BIT(CAPTION),
    .load = ved_load,
    .free = ved_free,
    .tokenize = tokenize,
    .encode_images = encode_images,
    .prefill = prefill,
    .prefill_in_pieces = true,
    .decode = decode,
};
