/*
 * clip_towers.c: see clip_towers.h; the reference page is at the head of clip.c.
 */
#include "core/models/clip_towers.h"

#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

const struct image_processor clip_processor = {
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

const struct clip_vision_config clip_vision_defaults = {
    .encoder = {.n_layers = 12,
                .dim = 768,
                .n_heads = 12,
                .mlp_dim = 3072,
                .activation = ACTIVATION_QUICK_GELU,
                .norm_eps = 1e-5f},
    .image_size = 224,
    .patch_size = 32,
};

const struct clip_text_config clip_text_defaults = {
    .encoder = {.n_layers = 12,
                .dim = 512,
                .n_heads = 8,
                .mlp_dim = 2048,
                .activation = ACTIVATION_QUICK_GELU,
                .norm_eps = 1e-5f,
                .causal = true},
    .vocab_size = 49408,
    .context_length = 77,
    .eos_token_id = 49407,
};

enum status clip_tower_config(const json_t *json, const char *key, const json_t **out,
                              struct error *err)
{
    static const char *const parts[] = {"vision_config", "vision_config_dict", "text_config",
                                        "text_config_dict"};
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++)
        if (json_object_get(json, parts[i]))
            return config_object_or_dict(json, key, out, err);
    *out = json;
    return STATUS_OK;
}

enum status clip_vision_config_load(const json_t *json, struct clip_vision_config *config,
                                    struct error *err)
{
    const json_t *vision = NULL;
    enum status status = clip_tower_config(json, "vision_config", &vision, err);
    if (status)
        return status;
    status = encoder_config_load(vision, &config->encoder, err);
    if (!status)
        status = config_picture(vision, &config->image_size, &config->patch_size, err);
    return status ? error_prefix(err, "vision_config") : STATUS_OK;
}

enum status clip_text_config_load(const json_t *json, struct clip_text_config *config,
                                  struct error *err)
{
    const json_t *text = NULL;
    enum status status = clip_tower_config(json, "text_config", &text, err);
    if (status)
        return status;
    status = encoder_config_load(text, &config->encoder, err);
    if (!status)
        status = config_size(text, "vocab_size", &config->vocab_size, err);
    if (!status)
        status = config_size(text, "max_position_embeddings", &config->context_length, err);
    if (!status)
        status = config_token(text, "eos_token_id", &config->eos_token_id, err);
    config->ends_at_largest = config->eos_token_id == 2;
    return status ? error_prefix(err, "text_config") : STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

void clip_vision_bind(struct binder *binder, struct clip_vision *vision,
                      const struct clip_vision_config *config, const char *prefix,
                      const char *pre_norm)
{
    size_t d = config->encoder.dim, grid = config->image_size / config->patch_size;
    float eps = config->encoder.norm_eps;
    char layers[64], first[128];
    snprintf(layers, sizeof layers, "%svision_model.encoder.layer", prefix);
    snprintf(first, sizeof first, "%s.0.layer_norm1.weight", layers);
    if (!tensor_set_find(binder->tensors, first)) /* AltCLIP as transformers 5 writes it */
        snprintf(layers, sizeof layers, "%svision_model.encoder.layers", prefix);
    vision->config = *config;
    vision->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = grid * grid + 1};
    bind_tensor(binder, &vision->patches.class_token, (const size_t[]){d, 0},
                "%svision_model.embeddings.class_embedding", prefix);
    bind_patch_linear(binder, &vision->patches.patch, d, 3, config->patch_size, false,
                      "%svision_model.embeddings.patch_embedding", prefix);
    bind_tensor(binder, &vision->patches.positions, (const size_t[]){grid * grid + 1, d, 0},
                "%svision_model.embeddings.position_embedding.weight", prefix);
    bind_norm(binder, &vision->pre_norm, d, eps, "%svision_model.%s", prefix, pre_norm);
    encoder_bind(binder, &vision->encoder, &config->encoder, &encoder_names_clip, layers);
    bind_norm(binder, &vision->post_norm, d, eps, "%svision_model.post_layernorm", prefix);
}

void clip_text_bind(struct binder *binder, struct clip_text *text,
                    const struct clip_text_config *config, const char *prefix)
{
    size_t d = config->encoder.dim;
    char layers[64];
    snprintf(layers, sizeof layers, "%stext_model.encoder.layers", prefix);
    text->config = *config;
    bind_tensor(binder, &text->token_embedding, (const size_t[]){config->vocab_size, d, 0},
                "%stext_model.embeddings.token_embedding.weight", prefix);
    bind_tensor(binder, &text->position_embedding, (const size_t[]){config->context_length, d, 0},
                "%stext_model.embeddings.position_embedding.weight", prefix);
    encoder_bind(binder, &text->encoder, &config->encoder, &encoder_names_clip, layers);
    bind_norm(binder, &text->final_norm, d, config->encoder.norm_eps,
              "%stext_model.final_layer_norm", prefix);
}

void clip_vision_release(struct clip_vision *vision)
{
    encoder_release(&vision->encoder);
}

void clip_text_release(struct clip_text *text)
{
    encoder_release(&text->encoder);
}

/* ---- forward -----------------------------------------------------------------------------------
 */

enum status clip_vision_embed(const struct clip_vision *vision, const struct compute *compute,
                              const struct pixels *const *pixels, size_t n, size_t **n_rows,
                              float **x, struct error *err)
{
    size_t *rows = arena_array(compute->scratch, n, sizeof *rows), n_total = 0;
    if (!rows)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++)
        n_total += rows[i] = vit_rows(&vision->patches, pixels[i]);
    float *embedded =
        arena_array(compute->scratch, n_total * vision->config.encoder.dim, sizeof *embedded);
    if (!embedded)
        return error_no_memory(err, "a batch of pictures");
    enum status status = vit_embed(&vision->patches, compute, pixels, n, embedded, err);
    if (status)
        return status;
    if (vision->pre_norm.weight)
        nn_layer_norm(compute, &vision->pre_norm, embedded, n_total, embedded);
    *n_rows = rows;
    *x = embedded;
    return STATUS_OK;
}

enum status clip_vision_forward(const struct clip_vision *vision, const struct compute *compute,
                                const struct pixels *const *pixels, size_t n, float *out,
                                struct error *err)
{
    size_t *n_rows, *pooled = arena_zalloc(compute->scratch, n, sizeof *pooled); /* the class row */
    float *x;
    if (!pooled)
        return error_no_memory(err, "a batch of pictures");
    enum status status = clip_vision_embed(vision, compute, pixels, n, &n_rows, &x, err);
    if (!status)
        status = encoder_forward(&vision->encoder, compute, x, n_rows, n, pooled, out, err);
    if (!status)
        nn_layer_norm(compute, &vision->post_norm, out, n, out);
    return status;
}

enum status clip_vision_encode(const struct clip_vision *vision, const struct linear *projection,
                               const struct compute *compute, const struct pixels *const *pixels,
                               size_t n, struct features **out, struct error *err)
{
    float *rows = arena_array(compute->scratch, n * vision->config.encoder.dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of pictures");
    enum status status = clip_vision_forward(vision, compute, pixels, n, rows, err);
    return status ? status : dual_embed_pictures(compute, projection, rows, n, out, err);
}

/* The position of the row that stands for the text (see the head of clip.c). */
static size_t end_of_text(const struct clip_text_config *config, const struct tokens *text)
{
    size_t at = 0;
    for (size_t i = 0; i < text->n; i++) {
        if (config->ends_at_largest && text->ids[i] > text->ids[at])
            at = i;
        if (!config->ends_at_largest && text->ids[i] == config->eos_token_id)
            return i;
    }
    return at;
}

/* How many first tokens all texts share, before each one's row that stands for it. */
static size_t shared_tokens(const struct tokens *const *texts, const size_t *ends, size_t n)
{
    size_t shared = n ? ends[0] : 0;
    for (size_t i = 1; i < n; i++) {
        size_t same = 0;
        while (same < shared && same < ends[i] && texts[i]->ids[same] == texts[0]->ids[same])
            same++;
        shared = same;
    }
    return shared;
}

/* A text's tokens [first, first + n) at their positions. */
static void embed_tokens(const struct clip_text *text, const struct tokens *tokens, size_t first,
                         size_t n, float *out)
{
    size_t dim = text->config.encoder.dim;
    for (size_t i = 0; i < n; i++) {
        const float *token = text->token_embedding + (size_t)tokens->ids[first + i] * dim;
        const float *position = text->position_embedding + (first + i) * dim;
        for (size_t d = 0; d < dim; d++)
            out[i * dim + d] = token[d] + position[d];
    }
}

/* The texts' beginning, `shared` tokens, and behind it what each goes on with. */
static enum status forward_shared(const struct clip_text *text, const struct compute *compute,
                                  const struct tokens *const *texts, const size_t *ends, size_t n,
                                  size_t shared, float *out, struct error *err)
{
    size_t dim = text->config.encoder.dim, n_total = shared;
    size_t *n_rows = arena_array(compute->scratch, 2 * (n + 1), sizeof *n_rows);
    if (!n_rows)
        return error_no_memory(err, "a batch");
    size_t *pooled = n_rows + n + 1;
    n_rows[0] = shared;
    for (size_t i = 0; i < n; i++)
        n_total += n_rows[i + 1] = ends[i] + 1 - shared;
    for (size_t i = 0; i <= n; i++)
        pooled[i] = n_rows[i] - 1;
    float *x = arena_array(compute->scratch, n_total + n + 1, dim * sizeof *x);
    if (!x)
        return error_no_memory(err, "a batch of texts");
    float *rows = x + n_total * dim;
    embed_tokens(text, texts[0], 0, shared, x);
    for (size_t i = 0, row = shared; i < n; row += n_rows[++i])
        embed_tokens(text, texts[i], shared, n_rows[i + 1], x + row * dim);
    enum status status =
        encoder_forward_prefixed(&text->encoder, compute, x, n_rows, n + 1, pooled, rows, err);
    if (!status)
        memcpy(out, rows + dim, n * dim * sizeof *out);
    return status;
}

static enum status forward_apart(const struct clip_text *text, const struct compute *compute,
                                 const struct tokens *const *texts, const size_t *ends, size_t n,
                                 float *out, struct error *err)
{
    size_t dim = text->config.encoder.dim, n_total = 0;
    size_t *n_rows = arena_array(compute->scratch, n, sizeof *n_rows);
    if (!n_rows)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++)
        n_total += n_rows[i] = ends[i] + 1; /* causal: what follows cannot be seen from there */
    float *x = arena_array(compute->scratch, n_total, dim * sizeof *x);
    if (!x)
        return error_no_memory(err, "a batch of texts");
    for (size_t i = 0, row = 0; i < n; row += n_rows[i++])
        embed_tokens(text, texts[i], 0, n_rows[i], x + row * dim);
    return encoder_forward(&text->encoder, compute, x, n_rows, n, ends, out, err);
}

enum status clip_text_forward(const struct clip_text *text, const struct compute *compute,
                              const struct tokens *const *texts, size_t n, float *out,
                              struct error *err)
{
    enum { SHARED_MIN = 3 }; /* tokens: more than the start token, which all share */
    const struct clip_text_config *config = &text->config;
    size_t *ends = arena_array(compute->scratch, n, sizeof *ends);
    if (!ends)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status =
            check_tokens(texts[i], config->vocab_size, config->context_length, err);
        if (status)
            return status;
        ends[i] = end_of_text(config, texts[i]);
    }
    size_t shared = n > 1 ? shared_tokens(texts, ends, n) : 0;
    enum status status = shared >= SHARED_MIN
                             ? forward_shared(text, compute, texts, ends, n, shared, out, err)
                             : forward_apart(text, compute, texts, ends, n, out, err);
    if (!status)
        nn_layer_norm(compute, &text->final_norm, out, n, out);
    return status;
}
