/*
 * paligemma.c: PaliGemmaForConditionalGeneration (Beyer et al. 2024, arXiv:2407.07726): SigLIP's
 * rows and a prompt, which all see each other, begin Gemma's text (a PrefixLM): captions, answers.
 *
 * Reference page
 *   Config    vision_config (siglip_vision_model), text_config (gemma; gemma2: PaliGemma 2,
 *             Steiner et al. 2024, arXiv:2412.03555), projection_dim.
 *   Tensors   vision_tower.vision_model.{embeddings.{patch_embedding.{weight, bias},
 *             position_embedding.weight}, encoder.layers.N.… (CLIP's names), post_layernorm},
 *             multi_modal_projector.linear, language_model.model.{embed_tokens, layers.N, norm}
 *             (llama.c); newer files: vision_tower.… without vision_model, or
 *             model.vision_tower.…, model.multi_modal_projector.…,
 *             model.language_model.…. The head is tied to the words.
 *   Picture   rows → post_layernorm → projector: in the place of words, before all others.
 *   Text      <bos>, the prompt, a line's end; then what is written, until <eos>. Positions count
 *             from 1, the picture's rows with them.
 *   Prompts   "caption en" where a caption is asked for without one, "answer en …" for questions,
 *             "detect cat ; dog" for boxes (written_boxes.h); whatever else the checkpoint was
 *             trained with is sent as a caption's prompt ("ocr").
 *   Easy to get wrong
 *     - Norms multiply by 1 + weight; words (not the picture's rows) by √dim.
 *     - head_dim is 256 where the config has none, whatever dim / n_heads is.
 *     - hidden_act "gelu" of old files means gelu_pytorch_tanh; Gemma 2 goes by
 *       hidden_activation.
 *     - Gemma 2's windows bound what is written; picture and prompt see each other whole, however
 *       long they are.
 *   Not here  Masks: they come as <segNNN>
 *             tokens, whose decoder is in no checkpoint. Boxes where the tokenizer lacks the
 *             <locNNNN> tokens.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/encoder.h"
#include "core/models/llama.h"
#include "core/models/models_internal.h"
#include "core/models/vit.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

struct paligemma_config {
    struct encoder_config vision;
    size_t image_size, patch_size;
    struct llama_config text;
};

static const struct paligemma_config paligemma_defaults = {
    .vision = {.n_layers = 27,
               .dim = 1152,
               .n_heads = 16,
               .mlp_dim = 4096,
               .activation = ACTIVATION_GELU_TANH,
               .norm_eps = 1e-6f},
    .image_size = 224,
    .patch_size = 14,
    .text = {.n_layers = 18,
             .dim = 2048,
             .mlp_dim = 16384,
             .n_heads = 8,
             .n_kv_heads = 1,
             .head_dim = 256,
             .activation = ACTIVATION_GELU_TANH,
             .norm_eps = 1e-6f,
             .vocab_size = 257152,
             .n_positions = 8192,
             .rope_theta = 10000,
             .norms_add_one = true},
};

/* transformers' Gemma2Config */
static const struct llama_config gemma2_defaults = {.n_layers = 26,
                                                    .dim = 2304,
                                                    .mlp_dim = 9216,
                                                    .n_heads = 8,
                                                    .n_kv_heads = 4,
                                                    .head_dim = 256,
                                                    .activation = ACTIVATION_GELU_TANH,
                                                    .norm_eps = 1e-6f,
                                                    .vocab_size = 256000,
                                                    .n_positions = 8192,
                                                    .rope_theta = 10000,
                                                    .norms_add_one = true,
                                                    .is_gemma2 = true,
                                                    .query_scalar = 256,
                                                    .score_cap = 50,
                                                    .logit_cap = 30,
                                                    .window = 4096};

struct paligemma {
    struct paligemma_config config;
    size_t n_rows; /* of a picture */
    struct vit_embedding patches;
    struct encoder vision;
    struct norm vision_norm;
    struct linear projector; /* [text dim, vision dim] */
    struct llama text;
    int32_t bos_id;
};

static enum status read_text(const json_t *text, struct paligemma_config *config, struct error *err)
{
    const char *type = "gemma";
    bool bidirectional = true;
    enum status status = config_string(text, "model_type", &type, err);
    if (!status && strcmp(type, "gemma2") == 0)
        config->text = gemma2_defaults;
    else if (!status && strcmp(type, "gemma") != 0)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "the model_type '%.64s' is not supported, only 'gemma' (PaliGemma 1) "
                           "and 'gemma2' (PaliGemma 2) are",
                           type);
    if (!status)
        status = config_bool(text, "use_bidirectional_attention", &bidirectional, err);
    if (!status && !bidirectional)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'use_bidirectional_attention' false is not supported");
    if (!status)
        status = config_bool(text, "attention_bias", &config->text.qkv_bias, err);
    config->text.out_bias = config->text.qkv_bias;
    if (!status)
        status = llama_config_load(text, &config->text, err);
    if (config->text.activation == ACTIVATION_GELU)
        config->text.activation = ACTIVATION_GELU_TANH;
    return status;
}

static enum status read_config(const struct checkpoint *checkpoint, struct paligemma *paligemma,
                               struct error *err)
{
    struct paligemma_config *config = &paligemma->config;
    const json_t *json = checkpoint->config, *vision = NULL, *text = NULL;
    enum status status = config_object(json, "vision_config", &vision, err);
    if (!status)
        status = config_object(json, "text_config", &text, err);
    if (status)
        return status;
    status = encoder_config_load(vision, &config->vision, err);
    if (!status)
        status = config_picture(vision, &config->image_size, &config->patch_size, err);
    if (status)
        return error_prefix(err, "vision_config");
    if (read_text(text, config, err))
        return error_prefix(err, "text_config");
    size_t projection_dim = config->text.dim, grid = config->image_size / config->patch_size;
    status = config_size(json, "projection_dim", &projection_dim, err);
    if (!status && projection_dim != config->text.dim)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'projection_dim' %zu differs from text_config's hidden_size %zu",
                           projection_dim, config->text.dim);
    paligemma->n_rows = grid * grid;
    if (!status && config->text.n_positions < paligemma->n_rows + 3)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'max_position_embeddings' %zu leaves no room for words after a "
                           "picture's %zu rows",
                           config->text.n_positions, paligemma->n_rows);
    paligemma->bos_id = 2;
    if (!status)
        status = generation_token_load(checkpoint, "bos_token_id", &paligemma->bos_id, err);
    if (!status && (paligemma->bos_id < 0 || (size_t)paligemma->bos_id >= config->text.vocab_size))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'bos_token_id' %d is outside the vocabulary of %zu",
                           (int)paligemma->bos_id, config->text.vocab_size);
    return status;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

static void bind(struct binder *binder, struct paligemma *paligemma)
{
    static const char *const heads[] = {"language_model.model.embed_tokens.weight",
                                        "model.language_model.embed_tokens.weight"};
    static const char *const projector = "multi_modal_projector.linear";
    const struct paligemma_config *config = &paligemma->config;
    bool is_new = bind_choose(binder, heads, ARRAY_LENGTH(heads)) == heads[1];
    const char *prefix = is_new ? "model." : "";
    size_t d = config->vision.dim;
    char vision[64], layers[96], flat[128];
    snprintf(flat, sizeof flat, "%svision_tower.post_layernorm.weight", prefix);
    snprintf(vision, sizeof vision, "%svision_tower.%s", prefix,
             tensor_set_find(binder->tensors, flat) ? "" : "vision_model.");
    snprintf(layers, sizeof layers, "%sencoder.layers", vision);
    paligemma->patches = (struct vit_embedding){
        .dim = d, .patch_size = config->patch_size, .n_positions = paligemma->n_rows};
    bind_patch_linear(binder, &paligemma->patches.patch, d, 3, config->patch_size, true,
                      "%sembeddings.patch_embedding", vision);
    bind_tensor(binder, &paligemma->patches.positions, (const size_t[]){paligemma->n_rows, d, 0},
                "%sembeddings.position_embedding.weight", vision);
    encoder_bind(binder, &paligemma->vision, &config->vision, &encoder_names_clip, layers);
    bind_norm(binder, &paligemma->vision_norm, d, config->vision.norm_eps, "%spost_layernorm",
              vision);
    bind_linear(binder, &paligemma->projector, config->text.dim, d, true, "%s%s", prefix,
                projector);
    llama_bind(binder, &paligemma->text, &config->text,
               is_new ? "model.language_model." : "language_model.model.", NULL);
}

static void paligemma_release(struct paligemma *paligemma)
{
    if (!paligemma)
        return;
    encoder_release(&paligemma->vision);
    llama_release(&paligemma->text);
    free(paligemma);
}

/* Boxes are words of their own; a checkpoint trained without them writes none. */
static void find_locations(struct model *model)
{
    const struct tokenizer *tokenizer = model->tokenizer;
    if (tokenizer && tokenizer_id(tokenizer, "<loc0000>") >= 0 &&
        tokenizer_id(tokenizer, "<loc1023>") >= 0)
        model->traits.box_writing = BOXES_AS_LOCATIONS;
    else
        model->missing_tasks |= TASK_BIT(DETECT) | TASK_BIT(GROUND);
}

static enum status paligemma_load(struct model *model, struct error *err)
{
    struct paligemma *paligemma = calloc(1, sizeof *paligemma);
    if (!paligemma)
        return error_no_memory(err, "a model");
    paligemma->config = paligemma_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint, paligemma, err);
    if (!status)
        status = model_load_processor(model, &siglip_processor, paligemma->config.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, paligemma);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = paligemma->config.text.n_positions - paligemma->n_rows;
    model->traits.vocab_size = paligemma->config.text.vocab_size;
    find_locations(model);
    size_t *max_length = &model->generation.max_length; /* the reference's counts the picture */
    if (*max_length)
        *max_length = *max_length > paligemma->n_rows ? *max_length - paligemma->n_rows : 1;
    model->state = paligemma;
    paligemma = NULL;
out:
    paligemma_release(paligemma);
    return status;
}

static void paligemma_free(struct model *model)
{
    paligemma_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

/* Each picture's rows as they stand before a text: [patches, text dim]. */
static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct paligemma *paligemma = model->state;
    size_t dim = paligemma->config.text.dim, *n_rows, n_total;
    float *x;
    enum status status =
        vit_start(&paligemma->patches, compute, pixels, n, &n_rows, &x, &n_total, err);
    if (!status)
        status = vit_check_rows(&paligemma->patches, pixels, n, paligemma->n_rows, err);
    if (!status)
        status = encoder_forward(&paligemma->vision, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &paligemma->vision_norm, x, n_total, x);
    float *rows = arena_array(compute->scratch, n_total, dim * sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of pictures");
    nn_linear(compute, &paligemma->projector, x, n_total, ACTIVATION_NONE, NULL, rows);
    return features_split_rows(rows, n_rows, n, dim, out, err);
}

/* ---- texts -------------------------------------------------------------------------------------
 */

/* <bos>, the prompt in the form that it was trained with, and the line's end. */
static enum status tokenize(const struct model *model, enum task task, const char *text,
                            size_t size, struct tokens *out, struct error *err)
{
    static const char caption[] = "caption en", answer[] = "answer ";
    const struct paligemma *paligemma = model->state;
    struct buffer prompt;
    buffer_init(&prompt, size + 64);
    bool is_question =
        task == TASK_VQA && !(size >= strlen(answer) && memcmp(text, answer, strlen(answer)) == 0);
    bool ok = !is_question || buffer_append(&prompt, "answer en ", strlen("answer en "));
    if (!size && !is_question)
        ok = buffer_append(&prompt, caption, strlen(caption));
    ok = ok && buffer_append(&prompt, text, size) && buffer_append(&prompt, "\n", 1);
    enum status status =
        ok ? tokenize_after(model, paligemma->bos_id, prompt.data, prompt.size, out, err)
           : error_no_memory(err, "a prompt");
    buffer_release(&prompt);
    return status;
}

/* ---- generation --------------------------------------------------------------------------------
 */

static enum status check_prompt(const struct paligemma *paligemma, const struct prompt *prompt,
                                struct error *err)
{
    const struct llama_config *config = &paligemma->text.config;
    if (prompt->n_images != 1)
        return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                         prompt->n_images);
    if (prompt->images[0]->dim != config->dim || prompt->images[0]->n_rows != paligemma->n_rows)
        return error_set(err, STATUS_INTERNAL, "features of %zu x %zu floats, expected %zu x %zu",
                         prompt->images[0]->n_rows, prompt->images[0]->dim, paligemma->n_rows,
                         config->dim);
    return check_tokens(prompt->text, config->vocab_size, config->n_positions - paligemma->n_rows,
                        err);
}

/* Words → x [n, dim], times √dim. */
static enum status embed(const struct paligemma *paligemma, const int32_t *ids, size_t n, float *x,
                         struct error *err)
{
    size_t dim = paligemma->text.config.dim;
    float scale = sqrtf((float)dim);
    enum status status = llama_embed(&paligemma->text, ids, n, x, err);
    for (size_t i = 0; i < n * dim && !status; i++)
        x[i] *= scale;
    return status;
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    enum { ROOM = 24 }; /* tokens that most captions and answers fit in */
    const struct paligemma *paligemma = model->state;
    const struct llama_config *config = &paligemma->text.config;
    size_t n_total = 0, n_rows = paligemma->n_rows;
    (void)task;
    struct llama_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++)
        sequence_init(&sequences[i], config->n_layers, llama_kv_dim(config));
    for (size_t i = 0; i < n && !status; i++) {
        items[i] = (struct llama_item){n_rows + prompts[i].text->n, &sequences[i]};
        n_total += items[i].n;
        status = check_prompt(paligemma, &prompts[i], err);
        if (!status)
            status = sequence_reserve(&sequences[i], items[i].n + ROOM, err);
    }
    float *x = NULL, *positions = NULL;
    if (!status) {
        x = arena_array(compute->scratch, n_total, config->dim * sizeof *x);
        positions = arena_array(compute->scratch, n_total, sizeof *positions);
        if (!x || !positions)
            status = error_no_memory(err, "a batch");
    }
    for (size_t i = 0, row = 0; i < n && !status; row += items[i++].n) {
        memcpy(x + row * config->dim, prompts[i].images[0]->rows, n_rows * config->dim * sizeof *x);
        status = embed(paligemma, prompts[i].text->ids, prompts[i].text->n,
                       x + (row + n_rows) * config->dim, err);
        for (size_t j = 0; j < items[i].n; j++)
            positions[row + j] = (float)(j + 1);
    }
    if (!status)
        status = llama_forward(&paligemma->text, compute, x, positions, items, n, LLAMA_PREFIX,
                               logits, err);
    for (size_t i = 0; i < n && status; i++)
        sequence_release(&sequences[i]);
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    const struct paligemma *paligemma = model->state;
    struct llama_item *items = arena_array(compute->scratch, n, sizeof *items);
    float *x = arena_array(compute->scratch, n, paligemma->text.config.dim * sizeof *x);
    float *positions = arena_array(compute->scratch, n, sizeof *positions);
    if (!items || !x || !positions)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        if (sequence_reserve(sequences[i], sequences[i]->n_tokens + 1, err))
            return err->status;
        items[i] = (struct llama_item){1, sequences[i]};
        positions[i] = (float)(sequences[i]->n_tokens + 1);
    }
    enum status status = embed(paligemma, tokens, n, x, err);
    return status ? status
                  : llama_forward(&paligemma->text, compute, x, positions, items, n, LLAMA_CAUSAL,
                                  logits, err);
}

const struct architecture paligemma_architecture = {
    .name = "PaliGemmaForConditionalGeneration",
    .summary =
        "PaliGemma 1, 2: captions, answers and boxes, picture and prompt as one prefix of Gemma",
    .tasks = TASK_BIT(CAPTION) | TASK_BIT(VQA) | TASK_BIT(DETECT) | TASK_BIT(GROUND),
    .load = paligemma_load,
    .free = paligemma_free,
    .tokenize = tokenize,
    .encode_images = encode_images,
    .prefill = prefill,
    .decode = decode,
};
