/*
 * magic.c: MaGiC (Su et al. 2022, "Language Models Can See", arXiv:2205.02655): captions by a GPT-2
 * that never saw a picture, guided by a CLIP that did. Neither was trained for it.
 *
 * Files: an unmodified GPT2LMHeadModel, and in its folder `clip`, itself a checkpoint or a link to
 * one: any dual encoder with a softmax (CLIPModel, OpenCLIP …).
 *
 * Reference page
 *   Tensors   transformer.… (or, in old files, … alone) and lm_head.weight where it is not tied
 *             (gpt2.c); clip.c.
 *   Start     decoder_start_token_id, else the token <-start_of_text-> that the authors' language
 *             models were taught to begin with, else bos_token_id; then the prompt.
 *   Step      the next token is the best of the k likeliest v after x = x_1 … x_t:
 *               (1 - alpha) p(v | x)                      what the language model says
 *               - alpha max_j cosine(h_v, h_j)            nothing that was said before
 *               + beta softmax_v(scale · cosine(picture, text of x v))   what CLIP sees
 *             h are last hidden states (after ln_f), h_v that of v after x; scale is CLIP's.
 *   Defaults  k (top_k) 45, alpha 0.1, beta 2, 16 new tokens: the authors' for MS COCO.
 *   Easy to get wrong
 *     - The text that CLIP reads is without special tokens: an end token is scored by the text
 *       before it. Of long texts it reads the end.
 *     - The cosines' context is all of x, the start token too.
 *
 * What prefill and decode give in place of logits is the score of each candidate, and below them
 * all, in the order of their probabilities, the other tokens: so greedy choice is MAGIC search, and
 * everything that works on logits goes on working.
 *
 * A sequence holds, behind GPT-2's layers, one more: its "keys" are the hidden states, of length 1,
 * the first number of each row of its "values" is the token's id (exact: vocabularies are below
 * 2^24). Its `cross` is the request's settings and the picture: {alpha, beta, k, embedding}.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/gpt2.h"
#include "core/models/models_internal.h"

enum {
    CANDIDATES_MAX = 64,  /* each is a text for CLIP in every step */
    TEXT_TOKENS_MAX = 60, /* that CLIP reads */
    TEXT_BYTES_MAX = 1 << 16,
    VOCABULARY_MAX = 1 << 24,
};
static const float OTHERS = -10000; /* what tokens that are no candidates are below them */

enum { SETTING_ALPHA, SETTING_BETA, SETTING_K, N_SETTINGS };

struct magic {
    struct gpt2 text;
    int32_t start_id;
};

/* ---- loading -----------------------------------------------------------------------------------
 */

static const char guide_folder[] = "clip";
static const char own_name[] = "GPT2LMHeadModel";

static enum status read_config(const struct model *model, struct magic *magic,
                               struct gpt2_config *text, struct error *err)
{
    const struct checkpoint *checkpoint = model->checkpoint;
    *text = gpt2_defaults;
    enum status status = gpt2_config_load(checkpoint->config, text, err);
    if (status)
        return status;
    if (text->has_cross)
        return error_set(
            err, STATUS_BAD_CHECKPOINT,
            "config key 'add_cross_attention': a GPT-2 alone has nothing to see by it");
    if (text->vocab_size > VOCABULARY_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'vocab_size' %zu is more than %d",
                         text->vocab_size, VOCABULARY_MAX);
    if (!model->tokenizer)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "there is no tokenizer beside the weights: CLIP could not read what is "
                         "written");
    magic->start_id = -1;
    status = generation_token_load(checkpoint, "decoder_start_token_id", &magic->start_id, err);
    if (!status && magic->start_id < 0)
        magic->start_id = tokenizer_id(model->tokenizer, "<-start_of_text->");
    if (!status && magic->start_id < 0)
        status = generation_token_load(checkpoint, "bos_token_id", &magic->start_id, err);
    if (!status && (magic->start_id < 0 || (size_t)magic->start_id >= text->vocab_size))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "the token to start from, %d (decoder_start_token_id, "
                           "<-start_of_text-> or bos_token_id), is outside the vocabulary of %zu",
                           (int)magic->start_id, text->vocab_size);
    return status;
}

static enum status open_guide(struct model *model, struct error *err)
{
    const struct checkpoint *checkpoint = model->checkpoint;
    char directory[4096], file[64];
    json_t *config = NULL;
    int n = snprintf(directory, sizeof directory, "%s/%s", checkpoint->directory, guide_folder);
    if (n < 0 || (size_t)n >= sizeof directory)
        return error_set(err, STATUS_BAD_CHECKPOINT, "the folder's path is too long");
    if (!checkpoint_is_directory(directory))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "a GPT-2 alone sees no pictures: to have it write captions by MAGIC "
                         "search, put the CLIP to guide it (a checkpoint's folder, or a link to "
                         "one) into its folder as '%s'",
                         guide_folder);
    snprintf(file, sizeof file, "%s/config.json", guide_folder);
    enum status status = checkpoint_read_json(checkpoint, file, &config, err);
    const char *name =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (!status && name && strcmp(name, own_name) == 0)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "'%s' holds another GPT-2; a CLIP has to guide this one", guide_folder);
    json_decref(config);
    if (status)
        return status;
    const struct weight_plan *plan = tensor_set_planned(checkpoint->tensors);
    struct model_options options = {.dtype = plan ? plan->form : WEIGHT_F32,
                                    .pool = plan ? plan->pool : NULL};
    struct model *guide = model_open_as(guide_folder, directory, &options, err);
    if (!guide)
        return err->status;
    const struct architecture *architecture = guide->architecture;
    if (!architecture->encode_images || !architecture->encode_texts || !guide->traits.embed_dim ||
        !(guide->traits.logit_scale > 0) || guide->traits.sigmoid_scores || !guide->tokenizer) {
        model_free(guide);
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the model in '%s' (%s) cannot guide: it takes one with embeddings of "
                         "pictures and texts that are compared by a softmax, such as CLIPModel",
                         guide_folder, architecture->name);
    }
    model->guide = guide;
    return STATUS_OK;
}

static void magic_release(struct magic *magic)
{
    if (!magic)
        return;
    gpt2_release(&magic->text);
    free(magic);
}

static enum status magic_load(struct model *model, struct error *err)
{
    struct magic *magic = calloc(1, sizeof *magic);
    if (!magic)
        return error_no_memory(err, "a model");
    struct gpt2_config text;
    struct binder binder;
    enum status status = read_config(model, magic, &text, err);
    if (!status)
        status = open_guide(model, err);
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bool bare = tensor_set_find(model->checkpoint->tensors, "wte.weight");
    gpt2_bind(&binder, &magic->text, &text, bare ? "" : "transformer.", "lm_head.weight");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters + model->guide->n_parameters;
    model->traits.context_length = text.n_positions;
    model->traits.vocab_size = text.vocab_size;
    model->traits.is_guided = true;
    struct generation_params *generation = &model->generation;
    generation->do_sample = false;
    generation->num_beams = generation->n = 1;
    generation->max_length = generation->min_length = 0;
    generation->max_new_tokens = 16;
    generation->top_k = 45;
    generation->alpha = 0.1f;
    generation->beta = 2;
    model->state = magic;
    magic = NULL;
out:
    magic_release(magic);
    if (status) {
        model_free(model->guide);
        model->guide = NULL;
    }
    return status;
}

static void magic_free(struct model *model)
{
    magic_release(model->state);
}

/* ---- pictures and texts ------------------------------------------------------------------------
 */

static enum status preprocess(const struct model *model, const struct image *image,
                              struct pixels *out, struct error *err)
{
    return model_preprocess(model->guide, image, out, err);
}

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    return model->guide->architecture->encode_images(model->guide, compute, pixels, n, out, err);
}

static enum status tokenize(const struct model *model, enum task task, const char *text,
                            size_t size, struct tokens *out, struct error *err)
{
    const struct magic *magic = model->state;
    (void)task;
    return tokenize_after(model, magic->start_id, text, size, out, err);
}

/* ---- one step ----------------------------------------------------------------------------------
 */

struct candidate {
    int32_t id;
    float score;
};

/* The k largest of row [n], best first, equals by rising id. */
static void find_best(const float *row, size_t n, size_t k, struct candidate *out)
{
    size_t n_found = 0;
    for (size_t i = 0; i < n; i++) {
        if (n_found == k && !(row[i] > out[k - 1].score))
            continue;
        size_t at = n_found < k ? n_found++ : k - 1;
        for (; at && out[at - 1].score < row[i]; at--)
            out[at] = out[at - 1];
        out[at] = (struct candidate){(int32_t)i, row[i]};
    }
}

static size_t candidates_of(const struct magic *magic, const struct sequence *sequence)
{
    size_t k = (size_t)sequence->cross->data[SETTING_K], n = magic->text.config.vocab_size;
    return k < n ? k : n;
}

/* Notes the newest n tokens of a sequence and their hidden states [n, dim]. */
static void remember(const struct magic *magic, struct sequence *sequence, const int32_t *ids,
                     size_t n, const float *hidden)
{
    size_t dim = sequence->dim, layer = magic->text.config.n_layers;
    size_t first = sequence->n_tokens - n;
    float *states = sequence_kv(sequence, layer, 0) + first * dim;
    float *tokens = sequence_kv(sequence, layer, 1) + first * dim;
    memcpy(states, hidden, n * dim * sizeof *states);
    nn_l2_normalize_rows(states, n, dim);
    for (size_t i = 0; i < n; i++)
        tokens[i * dim] = (float)ids[i];
}

/* The text of a sequence's newest tokens and one more, without special ones, as CLIP's tokens. */
static enum status text_with(const struct model *model, const struct sequence *sequence,
                             int32_t next, struct tokens *out, struct error *err)
{
    const struct magic *magic = model->state;
    size_t n_context = model->guide->traits.context_length;
    size_t n_max =
        n_context > 2 && n_context - 2 < TEXT_TOKENS_MAX ? n_context - 2 : TEXT_TOKENS_MAX;
    const float *tokens = sequence_kv(sequence, magic->text.config.n_layers, 1);
    int32_t ids[TEXT_TOKENS_MAX];
    size_t n = sequence->n_tokens - 1, first = 1; /* past the start token */
    if (n > n_max - 1) {
        first += n - (n_max - 1);
        n = n_max - 1;
    }
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)tokens[(first + i) * sequence->dim];
    ids[n++] = next;
    struct buffer text;
    buffer_init(&text, TEXT_BYTES_MAX);
    enum status status = tokenizer_decode(model->tokenizer, ids, n, true, &text, err);
    if (!status)
        status = model_tokenize(model->guide, TASK_EMBED, text.data ? text.data : "", text.size,
                                out, err);
    buffer_release(&text);
    return status;
}

/* What CLIP thinks of a sequence with each of k candidates: probabilities out[k]. Its pass has
 * `scratch` to itself, so that what it takes does not grow with a batch. */
static enum status look(const struct model *model, const struct compute *compute,
                        struct arena *scratch, const struct sequence *sequence,
                        const struct candidate *candidates, size_t k, float *out, struct error *err)
{
    const struct model *guide = model->guide;
    size_t e = guide->traits.embed_dim;
    const float *picture = sequence->cross->data + N_SETTINGS;
    struct tokens texts[CANDIDATES_MAX] = {0};
    const struct tokens *pointers[CANDIDATES_MAX];
    struct compute own = *compute;
    own.scratch = scratch;
    arena_reset(scratch);
    float *embeddings = arena_array(scratch, k, e * sizeof *embeddings);
    enum status status = embeddings ? STATUS_OK : error_no_memory(err, "a batch of texts");
    for (size_t i = 0; i < k && !status; i++) {
        pointers[i] = &texts[i];
        status = text_with(model, sequence, candidates[i].id, &texts[i], err);
    }
    if (!status)
        status = guide->architecture->encode_texts(guide, &own, pointers, k, embeddings, err);
    for (size_t i = 0; i < k; i++) {
        tokens_release(&texts[i]);
        float cosine = 0;
        for (size_t d = 0; d < e && !status; d++)
            cosine += picture[d] * embeddings[i * e + d];
        out[i] = guide->traits.logit_scale * cosine;
    }
    nn_softmax_rows(out, 1, k);
    return status;
}

/* max cosine(hidden, h_j) over the sequence's states; hidden [dim] becomes of length 1. */
static float likeness(const struct magic *magic, const struct sequence *sequence, float *hidden)
{
    size_t dim = sequence->dim;
    const float *states = sequence_kv(sequence, magic->text.config.n_layers, 0);
    float most = -1;
    nn_l2_normalize_rows(hidden, 1, dim);
    for (size_t j = 0; j < sequence->n_tokens; j++) {
        float cosine = 0;
        for (size_t d = 0; d < dim; d++)
            cosine += states[j * dim + d] * hidden[d];
        most = cosine > most ? cosine : most;
    }
    return most;
}

/* A sequence's row: logits → scores. hidden [k, dim] are the candidates' own states. */
static enum status score(const struct model *model, const struct compute *compute,
                         struct arena *scratch, const struct sequence *sequence,
                         const struct candidate *candidates, size_t k, float *hidden, float *row,
                         struct error *err)
{
    const struct magic *magic = model->state;
    const float *settings = sequence->cross->data;
    float alpha = settings[SETTING_ALPHA], seen[CANDIDATES_MAX] = {0};
    if (settings[SETTING_BETA] != 0) {
        enum status status = look(model, compute, scratch, sequence, candidates, k, seen, err);
        if (status)
            return status;
    }
    for (size_t v = 0; v < magic->text.config.vocab_size; v++)
        row[v] += OTHERS;
    for (size_t i = 0; i < k; i++)
        row[candidates[i].id] = (1 - alpha) * candidates[i].score -
                                alpha * likeness(magic, sequence, hidden + i * sequence->dim) +
                                settings[SETTING_BETA] * seen[i];
    return STATUS_OK;
}

/* Runs n items on; scores [n, vocab_size] after each one's last token. */
static enum status step(const struct model *model, const struct compute *compute,
                        struct gpt2_item *items, size_t n, float *scores, struct error *err)
{
    const struct magic *magic = model->state;
    const struct gpt2 *gpt2 = &magic->text;
    size_t dim = gpt2->config.dim, n_vocab = gpt2->config.vocab_size, n_candidates = 0;
    float *hidden, *last = arena_array(compute->scratch, n, dim * sizeof *last);
    if (!last)
        return error_no_memory(err, "a batch");

    /* 1. The new tokens, and what the language model thinks comes next. */
    enum status status = gpt2_hidden(gpt2, compute, items, n, &hidden, err);
    if (status)
        return status;
    for (size_t i = 0, row = 0; i < n; row += items[i++].n) {
        memcpy(last + i * dim, hidden + (row + items[i].n - 1) * dim, dim * sizeof *last);
        remember(magic, items[i].sequence, items[i].ids, items[i].n, hidden + row * dim);
        n_candidates += candidates_of(magic, items[i].sequence);
    }
    gpt2_logits(gpt2, compute, last, n, scores);
    nn_softmax_rows(scores, n, n_vocab);

    /* 2. Its candidates' hidden states. */
    struct candidate *candidates = arena_array(compute->scratch, n_candidates, sizeof *candidates);
    int32_t *ids = arena_array(compute->scratch, n_candidates, sizeof *ids);
    if (!candidates || !ids)
        return error_no_memory(err, "a batch");
    for (size_t i = 0, at = 0; i < n; at += items[i++].n) {
        size_t k = candidates_of(magic, items[i].sequence);
        find_best(scores + i * n_vocab, n_vocab, k, candidates + at);
        for (size_t j = 0; j < k; j++)
            ids[at + j] = candidates[at + j].id;
        items[i] = (struct gpt2_item){ids + at, k, items[i].sequence, true};
    }
    status = gpt2_hidden(gpt2, compute, items, n, &hidden, err);

    /* 3. The choice. */
    struct arena scratch;
    arena_init(&scratch, compute->scratch->max_bytes);
    for (size_t i = 0, at = 0; i < n && !status; at += items[i++].n)
        status = score(model, compute, &scratch, items[i].sequence, candidates + at, items[i].n,
                       hidden + at * dim, scores + i * n_vocab, err);
    arena_release(&scratch);
    return status;
}

/* ---- generation --------------------------------------------------------------------------------
 */

/* What a sequence carries of its request. */
static struct kv_shared *carry(const struct model *model, const struct prompt *prompt)
{
    const struct generation_params *params = prompt->params ? prompt->params : &model->generation;
    size_t e = model->guide->traits.embed_dim, k = params->top_k;
    struct kv_shared *shared = kv_shared_new(1, N_SETTINGS + e);
    if (!shared)
        return NULL;
    k = k < 1 ? 1 : k > CANDIDATES_MAX ? CANDIDATES_MAX : k;
    shared->data[SETTING_ALPHA] = params->alpha;
    shared->data[SETTING_BETA] = params->beta;
    shared->data[SETTING_K] = (float)k;
    memcpy(shared->data + N_SETTINGS, prompt->images[0]->rows, e * sizeof *shared->data);
    return shared;
}

static enum status check_prompt(const struct model *model, const struct prompt *prompt,
                                struct error *err)
{
    const struct magic *magic = model->state;
    if (prompt->n_images != 1)
        return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                         prompt->n_images);
    if (prompt->images[0]->n_rows != 1 || prompt->images[0]->dim != model->guide->traits.embed_dim)
        return error_set(err, STATUS_INTERNAL, "features of %zu x %zu floats, expected 1 x %zu",
                         prompt->images[0]->n_rows, prompt->images[0]->dim,
                         model->guide->traits.embed_dim);
    return check_tokens(prompt->text, magic->text.config.vocab_size,
                        magic->text.config.n_positions - 1, err);
}

static enum status prefill(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err)
{
    const struct magic *magic = model->state;
    const struct gpt2_config *config = &magic->text.config;
    struct gpt2_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    enum status status = items ? STATUS_OK : error_no_memory(err, "a batch");
    (void)task;
    for (size_t i = 0; i < n; i++)
        sequence_init(&sequences[i], config->n_layers + 1, config->dim);
    for (size_t i = 0; i < n && !status; i++) {
        const struct tokens *text = prompts[i].text;
        status = check_prompt(model, &prompts[i], err);
        if (!status)
            status = sequence_reserve(&sequences[i], text->n + 1, err);
        if (!status && !(sequences[i].cross = carry(model, &prompts[i])))
            status = error_no_memory(err, "a prompt");
        items[i] = (struct gpt2_item){text->ids, text->n, &sequences[i], false};
    }
    if (!status)
        status = step(model, compute, items, n, logits, err);
    for (size_t i = 0; i < n && status; i++)
        sequence_release(&sequences[i]);
    return status;
}

static enum status decode(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err)
{
    struct gpt2_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = sequence_reserve(sequences[i], sequences[i]->n_tokens + 2, err);
        if (status)
            return status;
        items[i] = (struct gpt2_item){&tokens[i], 1, sequences[i], false};
    }
    return step(model, compute, items, n, logits, err);
}

const struct architecture magic_architecture = {
    .name = own_name,
    .summary = "MaGiC: captions by a GPT-2 that the CLIP in its folder guides",
    .tasks = TASK_BIT(CAPTION),
    .load = magic_load,
    .free = magic_free,
    .preprocess = preprocess,
    .tokenize = tokenize,
    .encode_images = encode_images,
    .prefill = prefill,
    .decode = decode,
};
