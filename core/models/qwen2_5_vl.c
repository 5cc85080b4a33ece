/*
 * qwen2_5_vl.c: Qwen2_5_VLForConditionalGeneration (Bai et al. 2025, arXiv:2502.13923): pictures of
 * any size stand as rows among the words of one decoder; chat, answers and captions about them.
 *
 * Reference page
 *   Tensors   visual.… (qwen2_5_vl_vision.c), model.{embed_tokens, layers.N, norm} (llama.c),
 *             lm_head.weight unless tied; newer files: model.visual.…, model.language_model.….
 *   Config    The decoder's keys stand in config.json itself (published files) or in "text_config"
 *             (newer ones); the vision tower's in "vision_config".
 *   Picture   Resized so that its edges are multiples of patch · merge and its pixels lie between
 *             min_pixels and max_pixels (or `size`: shortest_edge, longest_edge, which are numbers
 * of pixels here), bicubic; cut into patches; → one row for merge × merge patches. Text      The
 * chat template puts <|vision_start|><|image_pad|><|vision_end|> where a picture is; the pad
 * becomes as many as the picture has rows, and these rows take their places. Positions Three to a
 * token (M-RoPE: time, row, column). Words count all three up; a picture's rows share the time and
 * take their row's and column's number after the words before it; what follows goes on after the
 * largest. Easy to get wrong
 *     - Queries, keys and values have biases, the attention's output has none.
 *     - A picture is shown for `temporal_patch_size` frames, all alike.
 *     - After a picture positions lag behind the number of tokens (struct sequence.shift).
 *   Not here  Videos; scaled rotary positions (yarn) and sliding windows: refused.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/llama.h"
#include "core/models/models_internal.h"
#include "core/models/qwen2_5_vl_vision.h"

/* ---- loading -----------------------------------------------------------------------------------
 */

enum { IMAGES_MAX = 1024 /* of one prompt; its tokens usually end first */ };

static const struct llama_config text_defaults = {
    .n_layers = 80,
    .dim = 8192,
    .mlp_dim = 29568,
    .n_heads = 64,
    .n_kv_heads = 8,
    .activation = ACTIVATION_SILU,
    .norm_eps = 1e-5f,
    .vocab_size = 152064,
    .n_positions = 32768,
    .rope_theta = 1e6f,
    .n_rope_kinds = 3,
    .rope_sections = {16, 24, 24},
    .qkv_bias = true,
};

static const struct image_processor default_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .height = 28, /* any: each picture gets a size of its own */
    .width = 28,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0 / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

struct qwen {
    struct qwen_vision vision;
    struct llama text;
    struct qwen_resize resize;
    int32_t image_id; /* the token in whose places rows stand */
};

static enum status read_config(const json_t *json, struct qwen *qwen,
                               struct qwen_vision_config *vision, struct llama_config *text,
                               bool *is_tied, struct error *err)
{
    const json_t *text_json = NULL, *vision_json = NULL;
    *text = text_defaults;
    *is_tied = false;
    qwen->image_id = 151655;
    enum status status = config_object(json, "text_config", &text_json, err);
    if (!status)
        status = config_object(json, "vision_config", &vision_json, err);
    if (!status)
        status = config_bool(text_json, "tie_word_embeddings", is_tied, err);
    if (!status)
        status = config_bool(json, "tie_word_embeddings", is_tied, err);
    if (!status)
        status = config_token(json, "image_token_id", &qwen->image_id, err);
    if (!status)
        status = llama_config_load(text_json ? text_json : json, text, err);
    if (!status)
        status = qwen_vision_config_load(vision_json, vision, err);
    if (status)
        return status;
    if (vision->out_dim != text->dim)
        return error_set(
            err, STATUS_BAD_CHECKPOINT,
            "the vision tower gives rows of %zu ('out_hidden_size'), the decoder takes "
            "%zu ('hidden_size')",
            vision->out_dim, text->dim);
    if (qwen->image_id < 0 || (size_t)qwen->image_id >= text->vocab_size)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'image_token_id' %d is outside the vocabulary of %zu",
                         (int)qwen->image_id, text->vocab_size);
    return STATUS_OK;
}

/* The patch sizes that both files name must agree. */
static enum status check_patches(const json_t *json, const struct qwen_vision_config *vision,
                                 struct error *err)
{
    const struct {
        const char *key;
        size_t want;
    } sizes[] = {{"patch_size", vision->patch_size},
                 {"merge_size", vision->merge},
                 {"temporal_patch_size", vision->n_frames}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        size_t found = sizes[i].want;
        if (config_size(json, sizes[i].key, &found, err))
            return error_prefix(err, "preprocessor config");
        if (found != sizes[i].want)
            return error_set(
                err, STATUS_BAD_CHECKPOINT,
                "the preprocessor config's '%s' is %zu, but config.json's vision tower "
                "has %zu",
                sizes[i].key, found, sizes[i].want);
    }
    return STATUS_OK;
}

/* The bounds on a picture's pixels, and then the rest, whose `size` is no edge. */
static enum status load_processor(struct model *model, struct qwen *qwen,
                                  const struct qwen_vision_config *vision, struct error *err)
{
    const json_t *json = model->checkpoint->preprocessor, *size = NULL;
    struct qwen_resize *resize = &qwen->resize;
    *resize = (struct qwen_resize){vision->patch_size * vision->merge, 56 * 56, 28 * 28 * 1280};
    model->processor = default_processor;
    if (!json)
        return STATUS_OK;
    enum status status = check_patches(json, vision, err);
    if (status)
        return status;
    if (json_is_object(json_object_get(json, "size")))
        size = json_object_get(json, "size");
    status = config_size(size, "shortest_edge", &resize->min_pixels, err);
    if (!status)
        status = config_size(size, "longest_edge", &resize->max_pixels, err);
    if (!status)
        status = config_size(json, "min_pixels", &resize->min_pixels, err);
    if (!status)
        status = config_size(json, "max_pixels", &resize->max_pixels, err);
    if (!status && resize->min_pixels > resize->max_pixels)
        status =
            error_set(err, STATUS_BAD_CHECKPOINT, "'min_pixels' %zu is more than 'max_pixels' %zu",
                      resize->min_pixels, resize->max_pixels);
    json_t *rest = status ? NULL : json_copy((json_t *)json);
    if (!status && !rest)
        status = error_no_memory(err, "the preprocessor config");
    if (!status) {
        json_object_del(rest, "size");
        status = image_processor_parse(rest, &default_processor, &model->processor, err);
    }
    json_decref(rest);
    return status ? error_prefix(err, "preprocessor config") : STATUS_OK;
}

static void bind(struct binder *binder, struct qwen *qwen, const struct qwen_vision_config *vision,
                 const struct llama_config *text, bool is_tied)
{
    static const char *const words[] = {"model.embed_tokens.weight",
                                        "model.language_model.embed_tokens.weight"};
    static const char *const patches[] = {"visual.patch_embed.proj.weight",
                                          "model.visual.patch_embed.proj.weight"};
    bool new_text = bind_choose(binder, words, ARRAY_LENGTH(words)) == words[1];
    bool new_vision = bind_choose(binder, patches, ARRAY_LENGTH(patches)) == patches[1];
    qwen_vision_bind(binder, &qwen->vision, vision, new_vision ? "model.visual." : "visual.");
    llama_bind(binder, &qwen->text, text, new_text ? "model.language_model." : "model.",
               is_tied ? NULL : "lm_head");
}

static void qwen_release(struct qwen *qwen)
{
    if (!qwen)
        return;
    qwen_vision_release(&qwen->vision);
    llama_release(&qwen->text);
    free(qwen);
}

static enum status qwen_load(struct model *model, struct error *err)
{
    struct qwen *qwen = calloc(1, sizeof *qwen);
    if (!qwen)
        return error_no_memory(err, "a model");
    struct qwen_vision_config vision;
    struct llama_config text;
    bool is_tied;
    struct binder binder;
    enum status status =
        read_config(model->checkpoint->config, qwen, &vision, &text, &is_tied, err);
    if (!status)
        status = load_processor(model, qwen, &vision, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, qwen, &vision, &text, is_tied);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = text.n_positions;
    model->traits.vocab_size = text.vocab_size;
    model->traits.max_images = IMAGES_MAX;
    model->traits.box_writing = BOXES_AS_JSON;
    model->state = qwen;
    qwen = NULL;
out:
    qwen_release(qwen);
    return status;
}

static void qwen_free(struct model *model)
{
    qwen_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum status preprocess(const struct model *model, const struct image *image,
                              struct pixels *out, struct error *err)
{
    const struct qwen *qwen = model->state;
    struct image_processor processor = model->processor;
    if (processor.do_resize && qwen_smart_resize(&qwen->resize, image->width, image->height,
                                                 &processor.width, &processor.height, err))
        return err->status;
    return image_processor_apply(&processor, image, out, err);
}

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct qwen *qwen = model->state;
    return qwen_vision_encode(&qwen->vision, compute, pixels, n, out, err);
}

/* ---- texts -------------------------------------------------------------------------------------
 */

/* How many rows a picture becomes. */
static size_t rows_of(const struct qwen *qwen, const struct pixels *pixels)
{
    size_t edge = qwen->resize.factor;
    return (pixels->height / edge) * (pixels->width / edge);
}

static enum status place_images(const struct model *model, const struct pixels *images, size_t n,
                                struct tokens *tokens, struct error *err)
{
    const struct qwen *qwen = model->state;
    size_t n_tokens = tokens->n - n;
    if (check_image_places(tokens, qwen->image_id, n, err))
        return err->status;
    for (size_t i = 0; i < n; i++)
        n_tokens += rows_of(qwen, &images[i]);
    if (n_tokens >= model->traits.context_length)
        return error_set(err, STATUS_TOO_LONG,
                         "the prompt has %zu tokens with its %zu picture%s, the model takes %zu: "
                         "send fewer or smaller pictures",
                         n_tokens, n, n == 1 ? "" : "s", model->traits.context_length);
    int32_t *ids = alloc_array(n_tokens, sizeof *ids);
    if (!ids)
        return error_no_memory(err, "a prompt");
    for (size_t i = 0, at = 0, image = 0; i < tokens->n; i++) {
        size_t n_same = tokens->ids[i] == qwen->image_id ? rows_of(qwen, &images[image++]) : 1;
        while (n_same--)
            ids[at++] = tokens->ids[i];
    }
    free(tokens->ids);
    tokens->ids = ids;
    tokens->n = n_tokens;
    return STATUS_OK;
}

/* ---- generation --------------------------------------------------------------------------------
 */

static enum status check_prompt(const struct qwen *qwen, const struct prompt *prompt,
                                struct error *err)
{
    const struct llama_config *config = &qwen->text.config;
    size_t n_rows = 0, n_places = count_token(prompt->text, qwen->image_id);
    for (size_t i = 0; i < prompt->n_images; i++) {
        const struct features *image = prompt->images[i];
        if (image->dim != config->dim || image->n_rows != image->grid_height * image->grid_width ||
            !image->n_rows)
            return error_set(err, STATUS_INTERNAL, "features of %zu x %zu floats, not %zu wide",
                             image->n_rows, image->dim, config->dim);
        n_rows += image->n_rows;
    }
    if (n_places != n_rows)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the prompt has %zu places for pictures' rows, but there are %zu rows",
                         n_places, n_rows);
    return check_tokens(prompt->text, config->vocab_size, config->n_positions, err);
}

/* The words and rows of a prompt's tokens [from, to) → x, their positions → positions[kind ·
 * stride …], and what the position after `to` is → *shift, relative to `to`. */
static enum status lay_out(const struct qwen *qwen, const struct prompt *prompt, size_t from,
                           size_t to, float *x, float *positions, size_t stride, ptrdiff_t *shift,
                           struct error *err)
{
    size_t dim = qwen->text.config.dim, image = 0, row = 0, next = 0;
    for (size_t i = 0; i < to; i++) {
        size_t at[ROPE_KINDS_MAX] = {next, next, next};
        const float *picture_row = NULL;
        if (prompt->text->ids[i] == qwen->image_id) {
            const struct features *of = prompt->images[image];
            picture_row = of->rows + row * dim;
            at[1] += row / of->grid_width;
            at[2] += row % of->grid_width;
            if (++row == of->n_rows) {
                next += of->grid_height > of->grid_width ? of->grid_height : of->grid_width;
                row = 0;
                image++;
            }
        } else {
            next++;
        }
        if (i < from)
            continue;
        for (size_t kind = 0; kind < ROPE_KINDS_MAX; kind++)
            positions[kind * stride + i - from] = (float)at[kind];
        if (picture_row)
            memcpy(x + (i - from) * dim, picture_row, dim * sizeof *x);
        else if (llama_embed(&qwen->text, &prompt->text->ids[i], 1, x + (i - from) * dim, err))
            return err->status;
    }
    *shift = (ptrdiff_t)next - (ptrdiff_t)to;
    return STATUS_OK;
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    enum { ROOM = 64 }; /* tokens that many answers fit in */
    const struct qwen *qwen = model->state;
    const struct llama_config *config = &qwen->text.config;
    size_t n_total = 0;
    (void)task;
    struct llama_item *items = arena_array(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from)
            sequence_init(&sequences[i], config->n_layers, llama_kv_dim(config));
    for (size_t i = 0; i < n && !status; i++) {
        size_t to = prompts[i].to ? prompts[i].to : prompts[i].text->n;
        status = check_prompt(qwen, &prompts[i], err);
        if (!status)
            status = sequence_reserve(&sequences[i], prompts[i].text->n + ROOM, err);
        items[i] = (struct llama_item){to - prompts[i].from, &sequences[i]};
        n_total += items[i].n;
    }
    float *x = NULL, *positions = NULL;
    if (!status) {
        x = arena_array(compute->scratch, n_total, config->dim * sizeof *x);
        positions = arena_array(compute->scratch, n_total, ROPE_KINDS_MAX * sizeof *positions);
        if (!x || !positions)
            status = error_no_memory(err, "a batch");
    }
    for (size_t i = 0, row = 0; i < n && !status; row += items[i++].n)
        status = lay_out(qwen, &prompts[i], prompts[i].from, prompts[i].from + items[i].n,
                         x + row * config->dim, positions + row, n_total, &sequences[i].shift, err);
    if (!status)
        status =
            llama_forward(&qwen->text, compute, x, positions, items, n, LLAMA_CAUSAL, logits, err);
    for (size_t i = 0; i < n && status; i++)
        if (!prompts[i].from)
            sequence_release(&sequences[i]);
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    const struct qwen *qwen = model->state;
    struct llama_item *items = arena_array(compute->scratch, n, sizeof *items);
    float *x = arena_array(compute->scratch, n, qwen->text.config.dim * sizeof *x);
    float *positions = arena_array(compute->scratch, n, ROPE_KINDS_MAX * sizeof *positions);
    if (!items || !x || !positions)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        struct sequence *sequence = sequences[i];
        if (sequence_reserve(sequence, sequence->n_tokens + 1, err))
            return err->status;
        items[i] = (struct llama_item){1, sequence};
        for (size_t kind = 0; kind < ROPE_KINDS_MAX; kind++)
            positions[kind * n + i] = (float)((ptrdiff_t)sequence->n_tokens + sequence->shift);
    }
    enum status status = llama_embed(&qwen->text, tokens, n, x, err);
    return status ? status
                  : llama_forward(&qwen->text, compute, x, positions, items, n, LLAMA_CAUSAL,
                                  logits, err);
}

/* For checkpoints without one: pictures, "Question: … Answer:". */
static const char plain_template[] =
    "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif message.role == 'user' %}"
    "Question: {{ part.text }} Answer:{% elif message.role == 'assistant' %} {{ part.text }}\n"
    "{% else %}{{ part.text }}\n{% endif %}{% endfor %}{% endfor %}";

const struct architecture qwen2_5_vl_architecture = {
    .name = "Qwen2_5_VLForConditionalGeneration",
    .summary = "Qwen2.5-VL: chat about pictures of any size, answers, captions, boxes",
    .tasks =
        TASK_BIT(CAPTION) | TASK_BIT(VQA) | TASK_BIT(CHAT) | TASK_BIT(DETECT) | TASK_BIT(GROUND),
    .load = qwen_load,
    .free = qwen_free,
    .preprocess = preprocess,
    .tokenize = tokenize_conversation,
    .detokenize = detokenize_conversation,
    .plain_template = plain_template,
    .place_images = place_images,
    .encode_images = encode_images,
    .prefill = prefill,
    .prefill_in_pieces = true,
    .decode = decode,
};
