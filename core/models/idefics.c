/*
 * idefics.c: IdeficsForVisionText2Text (Laurençon et al. 2023, arXiv:2306.16527), the open Flamingo
 * (Alayrac et al. 2022, arXiv:2204.14198): a Llama whose words look at pictures through gated
 * layers between its own. Chat, answers and captions over pictures among the text; earlier turns
 * are its examples (few-shot).
 *
 * Reference page
 *   Config    The decoder's keys, additional_vocab_size, cross_layer_interval, qk_layer_norms,
 *             alpha_type and use_resampler stand in config.json itself; vision_config (embed_dim is
 *             its width), perceiver_config.
 *   Tensors   model.vision_model.… (clip_towers.c), model.perceiver_resampler.… (perceiver.c, where
 *             use_resampler), model.{embed_tokens, embed_tokens.additional_embedding, layers.N,
 *             norm} (llama.c), model.gated_cross_attn_layers.N.… (gated_cross.c),
 *             lm_head.{weight, additional_fc.weight} unless tied.
 *   Picture   image_size × image_size, bicubic → the tower's rows, the class token's with them, no
 *             norm after the last layer → the resampler's latents. The rows stay beside the text:
 *             words look at them crosswise.
 *   Text      <s>, and for each picture <fake_token_around_image><image><fake_token_around_image>;
 *             pictures that follow each other share the token between them. Checkpoints that know
 *             <end_of_utterance> were trained on dialogues: "User: …<end_of_utterance>", a line's
 *             end, "Assistant:".
 *   Mask      A token looks at the last picture at or before it, alone; before the first picture,
 *             and after an end of text (</s>) until the next picture, at none. What is written
 *             looks where the prompt's last token did.
 *   Easy to get wrong
 *     - Where a word looks at no picture the gated layer's attention adds nothing, its MLP does.
 *     - Tokens from vocab_size on have their rows and logits in tensors of their own.
 *     - The preprocessor's "image_size" wins over its "size".
 *     - Writing ends at <end_of_utterance>, too, and never writes a picture's tokens, as the
 *       published examples ask of generate() (eos_token_id, bad_words_ids); no file says so.
 *     - Queries and keys of the cross attention are normed (RMS), not turned by position.
 *   Not here  Pictures of other sizes (interpolate_pos_encoding).
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/clip_towers.h"
#include "core/models/gated_cross.h"
#include "core/models/llama.h"
#include "core/models/models_internal.h"
#include "core/models/perceiver.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

enum { IMAGES_MAX = 1024 /* of one prompt; its tokens usually end first */ };

struct idefics_config {
    struct clip_vision_config vision;
    bool use_resampler;
    struct perceiver_config perceiver;
    struct llama_config text;
    struct gated_cross_config cross;
    bool is_tied;
};

static const struct idefics_config idefics_defaults = {
    .vision = {.encoder = {.n_layers = 32,
                           .dim = 768,
                           .n_heads = 16,
                           .mlp_dim = 5120,
                           .activation = ACTIVATION_GELU,
                           .norm_eps = 1e-5f},
               .image_size = 224,
               .patch_size = 14},
    .perceiver = {.n_latents = 64, .n_layers = 6, .n_heads = 16, .head_dim = 96},
    .text = {.n_layers = 32,
             .dim = 4096,
             .mlp_dim = 11008,
             .n_heads = 32,
             .activation = ACTIVATION_SILU,
             .norm_eps = 1e-6f,
             .vocab_size = 32000,
             .n_positions = 2048,
             .rope_theta = 10000},
    .cross = {.interval = 1},
};

static const struct image_processor default_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .default_to_square = true,
    .height = 224,
    .width = 224,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0 / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

struct idefics {
    struct idefics_config config;
    struct clip_vision vision;
    struct perceiver perceiver;
    struct llama text;
    struct gated_cross cross;
    size_t n_rows;    /* of a picture, as words see it */
    int32_t image_id; /* <image>; -1: no tokenizer */
    int32_t end_id;   /* </s>: what comes after it doesn't look at what was before */
};

static enum status read_vision(const json_t *json, struct clip_vision_config *vision,
                               struct error *err)
{
    enum status status = config_size(json, "embed_dim", &vision->encoder.dim, err);
    if (!status)
        status = encoder_config_load(json, &vision->encoder, err);
    if (!status)
        status = config_picture(json, &vision->image_size, &vision->patch_size, err);
    return status ? error_prefix(err, "vision_config") : STATUS_OK;
}

/* The keys of the layers between the decoder's, whose own are read. */
static enum status read_cross(const json_t *json, struct idefics_config *config, struct error *err)
{
    const struct llama_config *text = &config->text;
    struct gated_cross_config *cross = &config->cross;
    const char *alpha = "float";
    enum status status = config_size(json, "cross_layer_interval", &cross->interval, err);
    if (!status)
        status = config_bool(json, "qk_layer_norms", &cross->qk_norms, err);
    if (!status)
        status = config_string(json, "alpha_type", &alpha, err);
    if (status)
        return status;
    if (strcmp(alpha, "float") != 0 && strcmp(alpha, "vector") != 0)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'alpha_type' is '%.32s'; 'float' and 'vector' are supported", alpha);
    if (text->n_layers % cross->interval)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'cross_layer_interval' is %zu, which does not divide the decoder's %zu "
                         "layers",
                         cross->interval, text->n_layers);
    if (text->n_kv_heads != text->n_heads || text->head_dim * text->n_heads != text->dim)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%zu key/value heads of %zu features are not %zu heads of an even part "
                         "of %zu: this decoder's heads share nothing",
                         text->n_kv_heads, text->head_dim, text->n_heads, text->dim);
    cross->vector_gates = strcmp(alpha, "vector") == 0;
    cross->n_layers = text->n_layers / cross->interval;
    cross->dim = text->dim;
    cross->n_heads = text->n_heads;
    cross->mlp_dim = text->mlp_dim;
    cross->activation = text->activation;
    cross->norm_eps = text->norm_eps;
    cross->picture_dim = config->vision.encoder.dim;
    return STATUS_OK;
}

static enum status read_config(const json_t *json, struct idefics *idefics, struct error *err)
{
    struct idefics_config *config = &idefics->config;
    const json_t *vision = NULL, *perceiver = NULL;
    long long n_more = 0; /* 0 is one of its values */
    enum status status = config_object(json, "vision_config", &vision, err);
    if (!status)
        status = config_object(json, "perceiver_config", &perceiver, err);
    if (!status)
        status = read_vision(vision, &config->vision, err);
    if (!status)
        status = config_bool(json, "use_resampler", &config->use_resampler, err);
    if (!status && perceiver_config_load(perceiver, &config->perceiver, err))
        return error_prefix(err, "perceiver_config");
    if (!status)
        status = config_int(json, "additional_vocab_size", &n_more, err);
    if (!status && (n_more < 0 || n_more > INT32_MAX))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'additional_vocab_size' must be a whole number from 0 on");
    if (!status)
        status = config_bool(json, "tie_word_embeddings", &config->is_tied, err);
    if (!status)
        status = llama_config_load(json, &config->text, err);
    if (!status)
        status = read_cross(json, config, err);
    if (status)
        return status;
    size_t grid = config->vision.image_size / config->vision.patch_size;
    config->text.n_more_words = (size_t)n_more;
    config->perceiver.dim = config->vision.encoder.dim;
    config->perceiver.mlp_dim = 4 * config->vision.encoder.dim;
    idefics->n_rows = config->use_resampler ? config->perceiver.n_latents : grid * grid + 1;
    return STATUS_OK;
}

/* ---- loading -----------------------------------------------------------------------------------
 */

/* Published files have "image_size" alone, which the reference puts in the place of "size". */
static enum status load_processor(struct model *model, size_t image_size, struct error *err)
{
    const json_t *json = model->checkpoint->preprocessor;
    size_t edge = 0;
    if (json && config_size(json, "image_size", &edge, err))
        return error_prefix(err, "preprocessor config");
    if (!edge)
        return model_load_processor(model, &default_processor, image_size, err);
    json_t *sized = json_copy((json_t *)json);
    enum status status = STATUS_OK;
    if (!sized || json_object_set_new(sized, "size",
                                      json_pack("{s:I, s:I}", "height", (json_int_t)edge, "width",
                                                (json_int_t)edge)))
        status = error_no_memory(err, "the preprocessor config");
    if (!status)
        status = model_use_processor(model, sized, &default_processor, image_size, err);
    json_decref(sized);
    return status;
}

/* The conversation of a checkpoint that has no template of its own: as the processor lays pictures
 * out, with each turn's words behind its role … */
#define TEMPLATE_IMAGE                                                                             \
    "{% if ns.last != 'image' %}<fake_token_around_image>{% endif %}"                              \
    "<image><fake_token_around_image>{% set ns.last = 'image' %}"

static const char dialogue_template[] =
    "{{ bos_token | default('<s>') }}{% set ns = namespace(last='') %}"
    "{% for message in messages %}{% if message.role != 'system' %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ 'User:' if message.role == 'user' else 'Assistant:' }}{% endif %}"
    "{% set ns.last = 'role' %}"
    "{% for part in message.content %}{% if part.type == 'image' %}" TEMPLATE_IMAGE "{% else %}"
    "{% if ns.last == 'role' and message.role != 'system' %} "
    "{% elif ns.last == 'text' %}{{ '\\n' }}{% endif %}"
    "{{ part.text }}{% set ns.last = 'text' %}{% endif %}{% endfor %}"
    "{% if message.role != 'system' %}<end_of_utterance>{% endif %}{% endfor %}"
    "{{ '\\n' }}Assistant:";

/* … or, where it was trained on pages of the web, Flamingo's question and answer. A picture alone
 * with its caption, turn by turn, is an example for captions. */
static const char question_template[] =
    "{{ bos_token | default('<s>') }}{% set ns = namespace(last='') %}"
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}" TEMPLATE_IMAGE "{% elif message.role == 'user' %}"
    "Question: {{ part.text }} Answer:{% set ns.last = 'question' %}"
    "{% else %}{% if ns.last == 'question' %} {% endif %}"
    "{{ part.text }}{{ '\\n' }}{% set ns.last = 'text' %}"
    "{% endif %}{% endfor %}{% endfor %}";

/* The tokenizer's own end of text, as tokenizer_config.json has it, or else the config's. */
static enum status read_end(const struct model *model, int32_t *out, struct error *err)
{
    json_t *json = NULL;
    int32_t id = -1;
    *out = 2;
    enum status status =
        checkpoint_read_json(model->checkpoint, "tokenizer_config.json", &json, err);
    if (status)
        return status;
    const json_t *end = json_object_get(json, "eos_token");
    if (json_is_object(end))
        end = json_object_get(end, "content");
    if (json_is_string(end) && model->tokenizer)
        id = tokenizer_id(model->tokenizer, json_string_value(end));
    json_decref(json);
    if (id < 0)
        return config_token(model->checkpoint->config, "eos_token_id", out, err);
    *out = id;
    return STATUS_OK;
}

/* As the published examples ask of generate(): a turn's end ends what is written, and pictures'
 * tokens are never written. */
static enum status set_ends(const struct tokenizer *tokenizer, struct generation_params *params,
                            struct error *err)
{
    static const char *const pictures[] = {"<image>", "<fake_token_around_image>"};
    int32_t turn_id = tokenizer_id(tokenizer, "<end_of_utterance>");
    bool known = turn_id < 0, fits = true;
    for (size_t i = 0; i < params->n_eos; i++)
        known |= params->eos_ids[i] == turn_id;
    if (!known && (fits = params->n_eos < EOS_MAX))
        params->eos_ids[params->n_eos++] = turn_id;
    for (size_t i = 0; i < ARRAY_LENGTH(pictures) && fits; i++) {
        int32_t id = tokenizer_id(tokenizer, pictures[i]);
        fits = id < 0 || generation_ban(params, id);
    }
    return fits ? STATUS_OK
                : error_set(err, STATUS_BAD_CHECKPOINT,
                            "generation_config.json leaves no room for <end_of_utterance> among "
                            "%d tokens that end a text, or for pictures' tokens among %d that are "
                            "never written",
                            EOS_MAX, BANNED_MAX);
}

/* Which tokens mean something here, and how a conversation is written. */
static enum status load_words(struct model *model, struct idefics *idefics, struct error *err)
{
    const struct tokenizer *tokenizer = model->tokenizer;
    idefics->image_id = tokenizer ? tokenizer_id(tokenizer, "<image>") : -1;
    enum status status = read_end(model, &idefics->end_id, err);
    if (!status && tokenizer)
        status = set_ends(tokenizer, &model->generation, err);
    if (!status && tokenizer && !model->chat) {
        bool is_dialogue = tokenizer_id(tokenizer, "<end_of_utterance>") >= 0;
        status = chat_template_open(model->checkpoint->directory,
                                    is_dialogue ? dialogue_template : question_template,
                                    &model->chat, err);
    }
    return status;
}

static void bind(struct binder *binder, struct idefics *idefics)
{
    const struct idefics_config *config = &idefics->config;
    clip_vision_bind(binder, &idefics->vision, &config->vision, "model.", "pre_layrnorm");
    if (config->use_resampler)
        perceiver_bind(binder, &idefics->perceiver, &config->perceiver,
                       "model.perceiver_resampler.");
    gated_cross_bind(binder, &idefics->cross, &config->cross, "model.gated_cross_attn_layers.");
    llama_bind(binder, &idefics->text, &config->text, "model.", config->is_tied ? NULL : "lm_head");
}

static void idefics_release(struct idefics *idefics)
{
    if (!idefics)
        return;
    clip_vision_release(&idefics->vision);
    perceiver_release(&idefics->perceiver);
    gated_cross_release(&idefics->cross);
    llama_release(&idefics->text);
    free(idefics);
}

static enum status idefics_load(struct model *model, struct error *err)
{
    struct idefics *idefics = calloc(1, sizeof *idefics);
    if (!idefics)
        return error_no_memory(err, "a model");
    idefics->config = idefics_defaults;
    struct binder binder;
    enum status status = read_config(model->checkpoint->config, idefics, err);
    if (!status)
        status = load_processor(model, idefics->config.vision.image_size, err);
    if (!status)
        status = load_words(model, idefics, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, idefics);
    status = binder_finish(&binder, &model->bound);
    if (!status)
        status = gated_cross_finish(&idefics->cross, err);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = idefics->config.text.n_positions;
    model->traits.vocab_size = llama_n_words(&idefics->config.text);
    model->traits.max_images = IMAGES_MAX;
    model->state = idefics;
    idefics = NULL;
out:
    idefics_release(idefics);
    return status;
}

static void idefics_free(struct model *model)
{
    idefics_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct idefics *idefics = model->state;
    const struct clip_vision *vision = &idefics->vision;
    size_t dim = vision->config.encoder.dim, *n_rows, *n_latents;
    float *x;
    enum status status =
        vit_check_rows(&vision->patches, pixels, n, vision->patches.n_positions, err);
    if (!status)
        status = clip_vision_embed(vision, compute, pixels, n, &n_rows, &x, err);
    if (!status)
        status = encoder_forward(&vision->encoder, compute, x, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    if (!idefics->config.use_resampler)
        return features_split_rows(x, n_rows, n, dim, out, err);
    float *latents = arena_array(compute->scratch, n * idefics->n_rows, dim * sizeof *latents);
    n_latents = arena_array(compute->scratch, n, sizeof *n_latents);
    if (!latents || !n_latents)
        return error_no_memory(err, "a batch of pictures");
    for (size_t i = 0; i < n; i++)
        n_latents[i] = idefics->n_rows;
    status = perceiver_forward(&idefics->perceiver, compute, x, n_rows[0], n, latents, err);
    return status ? status : features_split_rows(latents, n_latents, n, dim, out, err);
}

/* ---- texts -------------------------------------------------------------------------------------
 */

/* A picture's token stays one. */
static enum status place_images(const struct model *model, const struct pixels *images, size_t n,
                                struct tokens *tokens, struct error *err)
{
    const struct idefics *idefics = model->state;
    (void)images;
    return check_image_places(tokens, idefics->image_id, n, err);
}

/* ---- which token looks where -------------------------------------------------------------------
 */

enum { NO_PICTURE = -1 };

struct gaze {
    ptrdiff_t last; /* the picture at or before this token; NO_PICTURE: none yet */
    bool has_ended; /* an end of text came after it */
};

/* The picture that the next token looks at, or NO_PICTURE. */
static ptrdiff_t gaze_next(struct gaze *gaze, const struct idefics *idefics, int32_t id)
{
    if (id == idefics->image_id) {
        gaze->last++;
        gaze->has_ended = false;
    }
    ptrdiff_t seen = gaze->has_ended ? NO_PICTURE : gaze->last;
    gaze->has_ended |= id == idefics->end_id;
    return seen;
}

static enum status check_prompt(const struct idefics *idefics, const struct prompt *prompt,
                                struct error *err)
{
    const struct llama_config *config = &idefics->config.text;
    size_t dim = idefics->config.cross.picture_dim;
    for (size_t i = 0; i < prompt->n_images; i++)
        if (prompt->images[i]->dim != dim || prompt->images[i]->n_rows != idefics->n_rows)
            return error_set(
                err, STATUS_INTERNAL, "features of %zu x %zu floats, expected %zu x %zu",
                prompt->images[i]->n_rows, prompt->images[i]->dim, idefics->n_rows, dim);
    if (check_image_places(prompt->text, idefics->image_id, prompt->n_images, err))
        return err->status;
    return check_tokens(prompt->text, llama_n_words(config), config->n_positions, err);
}

/* What a prefill's rows look at. */
struct view {
    struct gated_cross_picture *pictures; /* distinct ones, those that are looked at */
    size_t n_pictures;
    struct gated_cross_run *runs;
    size_t n_runs;
    struct kv_shared **kept; /* [prompts] what its sequence goes on looking at, or NULL */
};

static size_t view_picture(struct view *view, const struct features *image)
{
    for (size_t i = 0; i < view->n_pictures; i++)
        if (view->pictures[i].rows == image->rows)
            return i;
    view->pictures[view->n_pictures] =
        (struct gated_cross_picture){.rows = image->rows, .n_rows = image->n_rows};
    return view->n_pictures++;
}

/* The runs of a prompt's tokens [from, to), whose rows begin at `row`. */
static enum status view_add(struct view *view, const struct idefics *idefics,
                            const struct prompt *prompt, size_t from, size_t to, size_t row,
                            struct kv_shared **kept, struct error *err)
{
    struct gaze gaze = {.last = NO_PICTURE};
    ptrdiff_t seen = NO_PICTURE, before = NO_PICTURE;
    size_t picture = 0;
    for (size_t i = 0; i < to; i++) {
        seen = gaze_next(&gaze, idefics, prompt->text->ids[i]);
        if (i < from)
            continue;
        if (seen != NO_PICTURE && seen != before) {
            picture = view_picture(view, prompt->images[seen]);
            view->runs[view->n_runs++] = (struct gated_cross_run){row + i - from, 0, picture};
        }
        if (seen != NO_PICTURE)
            view->runs[view->n_runs - 1].n++;
        before = seen;
    }
    if (to < prompt->text->n || seen == NO_PICTURE)
        return STATUS_OK;
    struct gated_cross_picture *last = &view->pictures[picture];
    if (last->kv)
        kv_shared_ref(last->kv);
    else
        last->kv = gated_cross_kv_new(&idefics->cross, last->n_rows);
    *kept = last->kv;
    return last->kv ? STATUS_OK : error_no_memory(err, "a picture's keys and values");
}

static enum status view_init(struct view *view, const struct idefics *idefics,
                             const struct compute *compute, const struct prompt *prompts,
                             const struct llama_item *items, size_t n, struct error *err)
{
    size_t n_images = 0;
    for (size_t i = 0; i < n; i++)
        n_images += prompts[i].n_images;
    /* a picture has one run in its prompt: only another picture takes it up again */
    *view = (struct view){.pictures =
                              arena_array(compute->scratch, n_images + 1, sizeof *view->pictures),
                          .runs = arena_array(compute->scratch, n_images + 1, sizeof *view->runs),
                          .kept = arena_zalloc(compute->scratch, n, sizeof *view->kept)};
    if (!view->pictures || !view->runs || !view->kept)
        return error_no_memory(err, "a batch");
    enum status status = STATUS_OK;
    for (size_t i = 0, row = 0; i < n && !status; row += items[i++].n)
        status = view_add(view, idefics, &prompts[i], prompts[i].from, prompts[i].from + items[i].n,
                          row, &view->kept[i], err);
    return status;
}

/* ---- generation --------------------------------------------------------------------------------
 */

/* Words that continue their sequences, and where they look → logits after each item's last. */
static enum status forward(const struct idefics *idefics, const struct compute *compute, float *x,
                           const struct llama_item *items, size_t n, const struct view *view,
                           float *logits, struct error *err)
{
    size_t n_total = 0;
    for (size_t i = 0; i < n; i++)
        n_total += items[i].n;
    float *positions = arena_array(compute->scratch, n_total, sizeof *positions);
    if (!positions)
        return error_no_memory(err, "a batch");
    for (size_t i = 0, row = 0; i < n; row += items[i++].n)
        for (size_t j = 0; j < items[i].n; j++)
            positions[row + j] = (float)(items[i].sequence->n_tokens + j);
    struct gated_cross_pass pass = {.cross = &idefics->cross,
                                    .compute = compute,
                                    .n_rows = n_total,
                                    .pictures = view->pictures,
                                    .n_pictures = view->n_pictures,
                                    .runs = view->runs,
                                    .n_runs = view->n_runs};
    const struct llama_tap tap = {gated_cross_before, &pass};
    enum status status = gated_cross_start(&pass, err);
    return status ? status
                  : llama_forward_tapped(&idefics->text, compute, x, positions, items, n,
                                         LLAMA_CAUSAL, &tap, logits, err);
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    enum { ROOM = 64 }; /* tokens that many answers fit in */
    const struct idefics *idefics = model->state;
    const struct llama_config *config = &idefics->config.text;
    struct view view = {0};
    size_t n_total = 0;
    float *x = NULL;
    (void)task;
    struct llama_item *items = arena_array(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from)
            sequence_init(&sequences[i], config->n_layers, llama_kv_dim(config));
    for (size_t i = 0; i < n && !status; i++) {
        size_t to = prompts[i].to ? prompts[i].to : prompts[i].text->n;
        status = check_prompt(idefics, &prompts[i], err);
        if (!status)
            status = sequence_reserve(&sequences[i], prompts[i].text->n + ROOM, err);
        items[i] = (struct llama_item){to - prompts[i].from, &sequences[i]};
        n_total += items[i].n;
    }
    if (!status && !(x = arena_array(compute->scratch, n_total, config->dim * sizeof *x)))
        status = error_no_memory(err, "a batch");
    for (size_t i = 0, row = 0; i < n && !status; row += items[i++].n)
        status = llama_embed(&idefics->text, prompts[i].text->ids + prompts[i].from, items[i].n,
                             x + row * config->dim, err);
    if (!status)
        status = view_init(&view, idefics, compute, prompts, items, n, err);
    if (!status)
        status = forward(idefics, compute, x, items, n, &view, logits, err);
    for (size_t i = 0; i < n; i++) {
        struct kv_shared *kept = view.kept ? view.kept[i] : NULL;
        if (!status)
            sequences[i].cross = kept; /* with the prompt's last piece, not before */
        else
            kv_shared_unref(kept);
        if (status && !prompts[i].from)
            sequence_release(&sequences[i]);
    }
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    const struct idefics *idefics = model->state;
    struct arena *scratch = compute->scratch;
    struct llama_item *items = arena_array(scratch, n, sizeof *items);
    float *x = arena_array(scratch, n, idefics->config.text.dim * sizeof *x);
    struct view view = {.pictures = arena_array(scratch, n, sizeof *view.pictures),
                        .runs = arena_array(scratch, n, sizeof *view.runs)};
    if (!items || !x || !view.pictures || !view.runs)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        struct sequence *sequence = sequences[i];
        if (sequence_reserve(sequence, sequence->n_tokens + 1, err))
            return err->status;
        items[i] = (struct llama_item){1, sequence};
        if (!sequence->cross)
            continue;
        view.runs[view.n_runs++] = (struct gated_cross_run){i, 1, view.n_pictures};
        view.pictures[view.n_pictures++] =
            (struct gated_cross_picture){.n_rows = sequence->cross->n_rows, .kv = sequence->cross};
    }
    enum status status = llama_embed(&idefics->text, tokens, n, x, err);
    return status ? status : forward(idefics, compute, x, items, n, &view, logits, err);
}

const struct architecture idefics_architecture = {
    .name = "IdeficsForVisionText2Text",
    .summary = "IDEFICS (Flamingo): chat, answers and captions over pictures among the text",
    .tasks = TASK_BIT(CAPTION) | TASK_BIT(VQA) | TASK_BIT(CHAT),
    .load = idefics_load,
    .free = idefics_free,
    .tokenize = tokenize_conversation,
    .detokenize = detokenize_conversation,
    .place_images = place_images,
    .encode_images = encode_images,
    .prefill = prefill,
    .prefill_in_pieces = true,
    .decode = decode,
};
