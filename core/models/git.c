/*
 * git.c: GitForCausalLM (Wang et al. 2022, arXiv:2205.14100): a picture's rows stand before the
 * text's in one decoder (a PrefixLM): captions and answers.
 *
 * Reference page
 *   Tensors   git.image_encoder.vision_model.… (clip.c), git.visual_projection.visual_projection.
 *             {0: linear [t, d], 1: LayerNorm [t]}, git.embeddings.{word_embeddings,
 *             position_embeddings, LayerNorm} and git.encoder.layer.N.… (bert.c), output [v, t].
 *   Picture   all rows → post_layernorm → visual_projection; they see each other, and no text.
 *   Text      bos_token_id, then the prompt or question without [CLS] and [SEP]; each token sees
 * the picture and the tokens before it; until eos_token_id. Easy to get wrong
 *     - Only the text has positions, from 0; the picture's rows go in as they are.
 *     - The projection's LayerNorm has vision_config's eps.
 *     - The head is not tied to the word embeddings, unless the file has none of its own.
 *   Not here  Several frames (num_image_with_embedding): refused.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/bert.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"

/* ---- loading -----------------------------------------------------------------------------------
 */

static const struct bert_config git_text_defaults = {
    .n_layers = 6,
    .dim = 768,
    .n_heads = 12,
    .mlp_dim = 3072,
    .activation = ACTIVATION_GELU,
    .norm_eps = 1e-12f,
    .vocab_size = 30522,
    .n_positions = 1024,
};

struct git {
    struct clip_vision vision;
    struct linear projection; /* [text dim, vision dim] */
    struct norm projection_norm;
    struct bert text;
    struct linear head; /* [vocab_size, text dim] */
    int32_t start_id;
};

static enum status read_config(const struct checkpoint *checkpoint, struct git *git,
                               struct clip_vision_config *vision, struct bert_config *text,
                               struct error *err)
{
    const json_t *json = checkpoint->config, *frames = NULL;
    *vision = clip_vision_defaults;
    vision->patch_size = 16;
    *text = git_text_defaults;
    git->start_id = 101;
    enum status status = clip_vision_config_load(json, vision, err);
    if (!status)
        status = bert_config_load(json, text, err);
    if (!status)
        status = generation_token_load(checkpoint, "bos_token_id", &git->start_id, err);
    if (status)
        return status;
    frames = json_object_get(json, "num_image_with_embedding");
    if (frames && !json_is_null(frames))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'num_image_with_embedding': models of several frames are not "
                         "supported");
    if (git->start_id < 0 || (size_t)git->start_id >= text->vocab_size)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'bos_token_id' %d is outside the vocabulary of %zu", (int)git->start_id,
                         text->vocab_size);
    size_t grid = vision->image_size / vision->patch_size;
    text->n_prefix = grid * grid + 1;
    return STATUS_OK;
}

static void bind(struct binder *binder, struct git *git, const struct clip_vision_config *vision,
                 const struct bert_config *text)
{
    static const char *const heads[] = {"output.weight", "git.embeddings.word_embeddings.weight"};
    static const char *const projection = "git.visual_projection.visual_projection";
    clip_vision_bind(binder, &git->vision, vision, "git.image_encoder.", "pre_layrnorm");
    bind_linear(binder, &git->projection, text->dim, vision->encoder.dim, true, "%s.0", projection);
    bind_norm(binder, &git->projection_norm, text->dim, vision->encoder.norm_eps, "%s.1",
              projection);
    bert_bind(binder, &git->text, text, "git");
    bind_linear_tensors(binder, &git->head, text->vocab_size, text->dim,
                        bind_choose(binder, heads, ARRAY_LENGTH(heads)), "output.bias");
}

static void git_release(struct git *git)
{
    if (!git)
        return;
    clip_vision_release(&git->vision);
    bert_release(&git->text);
    free(git);
}

static enum status git_load(struct model *model, struct error *err)
{
    struct git *git = calloc(1, sizeof *git);
    if (!git)
        return error_no_memory(err, "a model");
    struct clip_vision_config vision;
    struct bert_config text;
    struct binder binder;
    enum status status = read_config(model->checkpoint, git, &vision, &text, err);
    if (!status)
        status = model_load_processor(model, &clip_processor, vision.image_size, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, git, &vision, &text);
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.context_length = text.n_positions;
    model->traits.vocab_size = text.vocab_size;
    model->state = git;
    git = NULL;
out:
    git_release(git);
    return status;
}

static void git_free(struct model *model)
{
    git_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

/* Each picture's rows as they stand before a text: [1 + patches, text dim]. */
static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct git *git = model->state;
    size_t dim = git->text.config.dim, n_rows = git->text.config.n_prefix, *n_rows_each;
    float *x;
    enum status status = vit_check_rows(&git->vision.patches, pixels, n, n_rows, err);
    if (!status)
        status = clip_vision_embed(&git->vision, compute, pixels, n, &n_rows_each, &x, err);
    if (!status)
        status = encoder_forward(&git->vision.encoder, compute, x, n_rows_each, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &git->vision.post_norm, x, n * n_rows, x);
    float *rows = arena_array(compute->scratch, n * n_rows, dim * sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of pictures");
    nn_linear(compute, &git->projection, x, n * n_rows, ACTIVATION_NONE, NULL, rows);
    nn_layer_norm(compute, &git->projection_norm, rows, n * n_rows, rows);
    return features_split_rows(rows, n_rows_each, n, dim, out, err);
}

/* ---- texts -------------------------------------------------------------------------------------
 */

static enum status tokenize(const struct model *model, enum task task, const char *text,
                            size_t size, struct tokens *out, struct error *err)
{
    const struct git *git = model->state;
    (void)task;
    return tokenize_after(model, git->start_id, text, size, out, err);
}

/* ---- the picture's part of a sequence ----------------------------------------------------------
 *
 * A sequence's cache begins with the picture's keys and values, which no text changes: prompts
 * about one picture share the pass that makes them. Kept, they are [n_layers][keys, values][rows,
 * dim].
 */

static void copy_prefix(const struct git *git, const float *from, size_t from_plane,
                        struct sequence *to)
{
    const struct bert_config *config = &git->text.config;
    for (size_t plane = 0; plane < 2 * config->n_layers; plane++)
        memcpy(sequence_kv(to, plane / 2, (int)(plane % 2)), from + plane * from_plane,
               config->n_prefix * config->dim * sizeof *from);
    to->n_tokens = config->n_prefix;
}

/* A copy for the caller to keep; NULL when out of memory: then nothing is kept. */
static struct kv_shared *keep_prefix(const struct git *git, const struct sequence *sequence)
{
    const struct bert_config *config = &git->text.config;
    size_t n_plane = config->n_prefix * config->dim;
    struct kv_shared *kept = kv_shared_new(config->n_prefix, 2 * config->n_layers * n_plane);
    for (size_t plane = 0; kept && plane < 2 * config->n_layers; plane++)
        memcpy(kept->data + plane * n_plane, sequence_kv(sequence, plane / 2, (int)(plane % 2)),
               n_plane * sizeof *kept->data);
    return kept;
}

/* The first prompt that begins about the same picture as prompt `at`, which begins. */
static size_t first_of(const struct prompt *prompts, size_t at)
{
    size_t i = 0;
    while (prompts[i].from || prompts[i].images[0] != prompts[at].images[0])
        i++;
    return i;
}

/* Fills the beginnings of those of n sequences that are new, which have room. */
static enum status start_sequences(const struct git *git, const struct compute *compute,
                                   const struct prompt *prompts, struct sequence *sequences,
                                   size_t n, struct error *err)
{
    const struct bert_config *config = &git->text.config;
    size_t n_plane = config->n_prefix * config->dim, n_new = 0;
    struct bert_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        const struct kv_shared *kept = prompts[i].picture_kv ? *prompts[i].picture_kv : NULL;
        if (prompts[i].from)
            continue;
        if (kept && kept->n_rows == config->n_prefix &&
            kept->n_floats == 2 * config->n_layers * n_plane)
            copy_prefix(git, kept->data, n_plane, &sequences[i]);
        else if (first_of(prompts, i) == i)
            items[n_new++] = (struct bert_item){.rows = prompts[i].images[0]->rows,
                                                .n = config->n_prefix,
                                                .sequence = &sequences[i]};
    }
    float *unused = arena_array(compute->scratch, n_new * n_plane, sizeof *unused);
    if (!unused)
        return error_no_memory(err, "a batch");
    if (n_new) {
        enum status status = bert_forward(&git->text, compute, items, n_new, NULL, 0, unused, err);
        if (status)
            return status;
    }
    for (size_t i = 0; i < n; i++) {
        if (prompts[i].from)
            continue;
        const struct sequence *first = &sequences[first_of(prompts, i)];
        if (!sequences[i].n_tokens)
            copy_prefix(git, first->kv, first->capacity * config->dim, &sequences[i]);
        if (prompts[i].picture_kv && !*prompts[i].picture_kv)
            *prompts[i].picture_kv = keep_prefix(git, &sequences[i]);
    }
    return STATUS_OK;
}

/* ---- generation --------------------------------------------------------------------------------
 */

/* Runs texts that continue their sequences → logits after each one's last token. */
static enum status text_forward(const struct git *git, const struct compute *compute,
                                const struct bert_item *items, size_t n, float *logits,
                                struct error *err)
{
    float *x;
    if (bert_forward_last(&git->text, compute, items, n, &x, err))
        return err->status;
    nn_linear(compute, &git->head, x, n, ACTIVATION_NONE, NULL, logits);
    return STATUS_OK;
}

static enum status check_prompt(const struct git *git, const struct prompt *prompt,
                                struct error *err)
{
    const struct bert_config *config = &git->text.config;
    if (prompt->n_images != 1)
        return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                         prompt->n_images);
    if (prompt->images[0]->dim != config->dim || prompt->images[0]->n_rows != config->n_prefix)
        return error_set(err, STATUS_INTERNAL, "features of %zu x %zu floats, expected %zu x %zu",
                         prompt->images[0]->n_rows, prompt->images[0]->dim, config->n_prefix,
                         config->dim);
    return check_tokens(prompt->text, config->vocab_size, config->n_positions, err);
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    enum { ROOM = 24 }; /* tokens that most captions and answers fit in */
    const struct git *git = model->state;
    const struct bert_config *config = &git->text.config;
    struct bert_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    (void)task;
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from)
            sequence_init(&sequences[i], config->n_layers, config->dim);
    for (size_t i = 0; i < n && !status; i++) {
        const struct tokens *text = prompts[i].text;
        size_t from = prompts[i].from, to = prompts[i].to ? prompts[i].to : text->n;
        status = check_prompt(git, &prompts[i], err);
        if (!status)
            status = sequence_reserve(&sequences[i], config->n_prefix + text->n + ROOM, err);
        items[i] =
            (struct bert_item){.ids = text->ids + from, .n = to - from, .sequence = &sequences[i]};
    }
    if (!status)
        status = start_sequences(git, compute, prompts, sequences, n, err);
    if (!status)
        status = text_forward(git, compute, items, n, logits, err);
    for (size_t i = 0; i < n && status; i++)
        if (!prompts[i].from)
            sequence_release(&sequences[i]);
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    const struct git *git = model->state;
    struct bert_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = sequence_reserve(sequences[i], sequences[i]->n_tokens + 1, err);
        if (status)
            return status;
        items[i] = (struct bert_item){.ids = &tokens[i], .n = 1, .sequence = sequences[i]};
    }
    return text_forward(git, compute, items, n, logits, err);
}

const struct architecture git_architecture = {
    .name = "GitForCausalLM",
    .summary = "GIT: captions and answers, the picture before the text in one decoder",
    .tasks = TASK_BIT(CAPTION) | TASK_BIT(VQA),
    .load = git_load,
    .free = git_free,
    .tokenize = tokenize,
    .encode_images = encode_images,
    .prefill = prefill,
    .prefill_in_pieces = true,
    .decode = decode,
};
