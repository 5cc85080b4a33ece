/*
 * vilt.c: ViLT (Kim et al. 2021, arXiv:2102.03334): one encoder over a text's and a picture's rows.
 * ViltForQuestionAnswering, ViltForImageAndTextRetrieval, ViltForImagesAndTextClassification
 * (NLVR2), ViltForMaskedLM.
 *
 * Reference page
 *   Tensors   vilt.embeddings.text_embeddings.{word_embeddings, position_embeddings,
 *             token_type_embeddings}.weight and .LayerNorm; vilt.embeddings.{cls_token [1, 1, d],
 *             position_embeddings [1, 1 + g², d], patch_embeddings.projection,
 *             token_type_embeddings.weight [modalities, d]}; vilt.encoder.layer.N.
 *             {layernorm_before, attention.attention.{query, key, value}, attention.output.dense,
 *             layernorm_after, intermediate.dense, output.dense}; vilt.layernorm;
 *             vilt.pooler.dense; a head (below).
 *   Rows      text: LayerNorm(word + token type 0 + position) + modality 0; picture: class token +
 *             position 0, then patches + positions, all + modality 1 (the i-th picture: i).
 *   Pooled    first row → layernorm → tanh(dense).
 *   Heads     VQA: classifier.{0, 1, 3}: linear, LayerNorm (eps 1e-5), GELU, linear → sigmoid;
 *             retrieval: rank_output → sigmoid; NLVR2: each picture with the text in a pass of its
 *             own, the pooled rows side by side → classifier → softmax;
 *             masked LM: mlm_score.{transform.dense, transform.LayerNorm, decoder} on text rows.
 *   Easy to get wrong
 *     - A picture keeps its shape: shortest edge to `size`, longest at most 1333/800 of it, both
 * cut to multiples of size_divisor; positions are stretched from the g × g grid to its patches
 *       (bilinear, corners aligned), so pictures of any shapes share a batch.
 *     - The reference picks patches in a random order; rows carry their positions, so none of the
 *       results depends on it. With max_image_length > 0 it picks a random part of larger pictures;
 *       here it is the first part.
 *     - The classifiers' LayerNorm has PyTorch's eps, not config's layer_norm_eps of 1e-12.
 *     - decoder.weight is tied to the word embeddings; its bias is decoder.bias or mlm_score.bias.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/encoder.h"
#include "core/models/models_internal.h"

enum { IMAGES_MAX = 8 };

/* ---- configuration -----------------------------------------------------------------------------
 */

struct vilt_config {
    struct encoder_config encoder;
    size_t vocab_size, n_positions, n_token_types, n_modalities;
    size_t image_size, patch_size;
    size_t max_image_length; /* patches; 0 = no bound */
    size_t n_images;         /* that the head looks at */
    bool qkv_bias;
};

static const struct vilt_config vilt_defaults = {
    .encoder = {.n_layers = 12,
                .dim = 768,
                .n_heads = 12,
                .mlp_dim = 3072,
                .activation = ACTIVATION_GELU,
                .norm_eps = 1e-12f},
    .vocab_size = 30522,
    .n_positions = 40,
    .n_token_types = 2,
    .n_modalities = 2,
    .image_size = 384,
    .patch_size = 32,
    .n_images = 1,
    .qkv_bias = true,
};

static const struct image_processor vilt_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .do_pad = true,
    .shortest_edge = 384,
    .size_divisor = 32,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0f / 255,
    .mean = {0.5f, 0.5f, 0.5f},
    .std = {0.5f, 0.5f, 0.5f},
};

static enum status read_config(const json_t *json, struct vilt_config *config, struct error *err)
{
    struct {
        const char *key;
        size_t *out;
    } sizes[] = {
        {"vocab_size", &config->vocab_size},
        {"max_position_embeddings", &config->n_positions},
        {"type_vocab_size", &config->n_token_types},
        {"modality_type_vocab_size", &config->n_modalities},
    };
    enum status status = encoder_config_load(json, &config->encoder, err);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !status; i++)
        status = config_size(json, sizes[i].key, sizes[i].out, err);
    if (!status)
        status = config_picture(json, &config->image_size, &config->patch_size, err);
    if (!status)
        status = config_bool(json, "qkv_bias", &config->qkv_bias, err);
    long long max_image_length = -1;
    if (!status)
        status = config_int(json, "max_image_length", &max_image_length, err);
    if (status)
        return status;
    config->max_image_length = max_image_length > 0 ? (size_t)max_image_length : 0;
    return STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* linear → norm → GELU → linear: the classifiers and (with its own activation) the word head. */
struct vilt_head {
    struct linear first, last;
    struct norm norm;
};

struct vilt {
    struct vilt_config config;
    const float *words;       /* [vocab_size, dim] */
    const float *positions;   /* [n_positions, dim] */
    const float *token_types; /* [n_token_types, dim]; texts are of type 0 */
    struct norm text_norm;
    struct linear patch;          /* [dim, 3 · patch · patch] */
    const float *class_token;     /* [dim] */
    const float *image_positions; /* [1 + grid², dim] */
    const float *modalities;      /* [n_modalities, dim] */
    struct encoder encoder;
    struct norm norm;
    struct linear pooler;

    struct vilt_head head; /* VQA, NLVR2, masked LM; retrieval: `last` alone */
    int32_t mask_id;       /* masked LM */
    const char **labels;   /* [n_outputs], borrowed from the config's JSON */
};

static void bind_body(struct binder *binder, struct vilt *vilt, bool pooled)
{
    const struct vilt_config *config = &vilt->config;
    struct encoder_names names = encoder_names_vit;
    names.qkv_bias = config->qkv_bias;
    size_t d = config->encoder.dim, grid = config->image_size / config->patch_size;
    bind_tensor(binder, &vilt->words, (const size_t[]){config->vocab_size, d, 0},
                "vilt.embeddings.text_embeddings.word_embeddings.weight");
    bind_tensor(binder, &vilt->positions, (const size_t[]){config->n_positions, d, 0},
                "vilt.embeddings.text_embeddings.position_embeddings.weight");
    bind_tensor(binder, &vilt->token_types, (const size_t[]){config->n_token_types, d, 0},
                "vilt.embeddings.text_embeddings.token_type_embeddings.weight");
    bind_norm(binder, &vilt->text_norm, d, config->encoder.norm_eps,
              "vilt.embeddings.text_embeddings.LayerNorm");
    bind_tensor(binder, &vilt->class_token, (const size_t[]){1, 1, d, 0},
                "vilt.embeddings.cls_token");
    bind_tensor(binder, &vilt->image_positions, (const size_t[]){1, 1 + grid * grid, d, 0},
                "vilt.embeddings.position_embeddings");
    bind_patch_linear(binder, &vilt->patch, d, 3, config->patch_size, true,
                      "vilt.embeddings.patch_embeddings.projection");
    bind_tensor(binder, &vilt->modalities, (const size_t[]){config->n_modalities, d, 0},
                "vilt.embeddings.token_type_embeddings.weight");
    encoder_bind(binder, &vilt->encoder, &config->encoder, &names, "vilt.encoder.layer");
    bind_norm(binder, &vilt->norm, d, config->encoder.norm_eps, "vilt.layernorm");
    if (pooled || tensor_set_find(binder->tensors, "vilt.pooler.dense.weight"))
        bind_linear(binder, &vilt->pooler, d, d, true, "vilt.pooler.dense");
}

static void bind_classifier(struct binder *binder, struct vilt *vilt, size_t n_in, size_t n_inner,
                            size_t n_labels)
{
    bind_linear(binder, &vilt->head.first, n_inner, n_in, true, "classifier.0");
    bind_norm(binder, &vilt->head.norm, n_inner, 1e-5f, "classifier.1");
    bind_linear(binder, &vilt->head.last, n_labels, n_inner, true, "classifier.3");
}

static void bind_word_head(struct binder *binder, struct vilt *vilt)
{
    static const char *const weights[] = {"mlm_score.decoder.weight",
                                          "vilt.embeddings.text_embeddings.word_embeddings.weight"};
    static const char *const biases[] = {"mlm_score.decoder.bias", "mlm_score.bias"};
    size_t d = vilt->config.encoder.dim;
    bind_linear(binder, &vilt->head.first, d, d, true, "mlm_score.transform.dense");
    bind_norm(binder, &vilt->head.norm, d, vilt->config.encoder.norm_eps,
              "mlm_score.transform.LayerNorm");
    bind_linear_tensors(binder, &vilt->head.last, vilt->config.vocab_size, d,
                        bind_choose(binder, weights, ARRAY_LENGTH(weights)),
                        bind_choose(binder, biases, ARRAY_LENGTH(biases)));
    if (!binder->status && tensor_set_find(binder->tensors, weights[0]))
        binder->n_parameters -= vilt->config.vocab_size * d; /* tied: stored twice */
}

static void vilt_release(struct vilt *vilt)
{
    if (!vilt)
        return;
    encoder_release(&vilt->encoder);
    free(vilt->labels);
    free(vilt);
}

/* What each kind of head adds. */
struct vilt_kind {
    bool has_labels, has_images, has_words;
};

static enum status read_head(const struct model *model, struct vilt *vilt,
                             const struct vilt_kind *kind, struct model_traits *traits,
                             struct error *err)
{
    const json_t *json = model->checkpoint->config;
    enum status status = STATUS_OK;
    if (kind->has_labels)
        status = config_labels(json, &vilt->labels, &traits->n_outputs, err);
    if (!status && kind->has_images)
        status = config_size(json, "num_images", &vilt->config.n_images, err);
    if (!status &&
        (vilt->config.n_images > IMAGES_MAX || vilt->config.n_images >= vilt->config.n_modalities))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "config key 'num_images': %zu pictures, but %zu modalities",
                           vilt->config.n_images, vilt->config.n_modalities);
    if (!status && kind->has_words) {
        vilt->mask_id = model->tokenizer ? tokenizer_id(model->tokenizer, "[MASK]") : -1;
        traits->n_outputs = 3;
    }
    if (!status && !kind->has_labels && !kind->has_words)
        traits->n_outputs = 1;
    return status;
}

static enum status load(struct model *model, const struct vilt_kind *kind, struct error *err)
{
    struct vilt *vilt = calloc(1, sizeof *vilt);
    if (!vilt)
        return error_no_memory(err, "a model");
    vilt->config = vilt_defaults;
    struct binder binder;
    struct model_traits *traits = &model->traits;
    enum status status = read_config(model->checkpoint->config, &vilt->config, err);
    if (!status)
        status = read_head(model, vilt, kind, traits, err);
    if (!status)
        status = model_load_processor(model, &vilt_processor, 0, err);
    if (status)
        goto out;

    size_t d = vilt->config.encoder.dim, n = vilt->config.n_images;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind_body(&binder, vilt, !kind->has_words);
    if (kind->has_words)
        bind_word_head(&binder, vilt);
    else if (kind->has_images)
        bind_classifier(&binder, vilt, n * d, n * d, traits->n_outputs);
    else if (kind->has_labels)
        bind_classifier(&binder, vilt, d, 2 * d, traits->n_outputs);
    else
        bind_linear(&binder, &vilt->head.last, 1, d, true, "rank_output");
    status = binder_finish(&binder, &model->bound);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    traits->context_length = vilt->config.n_positions;
    traits->vocab_size = vilt->config.vocab_size;
    traits->labels = vilt->labels;
    traits->max_images = vilt->config.n_images;
    model->state = vilt;
    vilt = NULL;
out:
    vilt_release(vilt);
    return status;
}

static enum status load_vqa(struct model *model, struct error *err)
{
    return load(model, &(struct vilt_kind){.has_labels = true}, err);
}

static enum status load_retrieval(struct model *model, struct error *err)
{
    return load(model, &(struct vilt_kind){0}, err);
}

static enum status load_nlvr2(struct model *model, struct error *err)
{
    return load(model, &(struct vilt_kind){.has_labels = true, .has_images = true}, err);
}

static enum status load_masked_lm(struct model *model, struct error *err)
{
    return load(model, &(struct vilt_kind){.has_words = true}, err);
}

static void vilt_free(struct model *model)
{
    vilt_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

/* Where output i of n lies in [0, n_in): the lower neighbour and the share of the one after it. */
static size_t aligned(size_t i, size_t n, size_t n_in, float *share)
{
    float scale = n > 1 ? (float)(n_in - 1) / (float)(n - 1) : 0;
    float at = scale * (float)i;
    size_t low = (size_t)at;
    if (low > n_in - 1)
        low = n_in - 1;
    *share = at - (float)low;
    return low;
}

/* rows [h · w, dim] += positions stretched from the grid to h × w. */
static void add_positions(const struct vilt *vilt, float *rows, size_t h, size_t w)
{
    size_t dim = vilt->config.encoder.dim;
    size_t grid = vilt->config.image_size / vilt->config.patch_size;
    const float *positions = vilt->image_positions + dim;
    for (size_t y = 0; y < h; y++) {
        float down, right;
        size_t top = aligned(y, h, grid, &down);
        size_t bottom = top + 1 < grid ? top + 1 : top;
        for (size_t x = 0; x < w; x++, rows += dim) {
            size_t left = aligned(x, w, grid, &right);
            size_t after = left + 1 < grid ? left + 1 : left;
            const float *a = positions + (top * grid + left) * dim;
            const float *b = positions + (top * grid + after) * dim;
            const float *c = positions + (bottom * grid + left) * dim;
            const float *e = positions + (bottom * grid + after) * dim;
            for (size_t d = 0; d < dim; d++)
                rows[d] += (1 - down) * ((1 - right) * a[d] + right * b[d]) +
                           down * ((1 - right) * c[d] + right * e[d]);
        }
    }
}

/* Pictures of any shapes → class row and patch rows, positions added, modality not yet. */
static enum status vilt_encode_images(const struct model *model, const struct compute *compute,
                                      const struct pixels *const *pixels, size_t n,
                                      struct features **out, struct error *err)
{
    const struct vilt *vilt = model->state;
    size_t dim = vilt->config.encoder.dim, patch = vilt->config.patch_size;
    enum status status = STATUS_OK;
    struct features **made = arena_zalloc(compute->scratch, n, sizeof *made);
    if (!made)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n && !status; i++) {
        size_t h = pixels[i]->height / patch, w = pixels[i]->width / patch;
        if (h == 0 || w == 0) {
            status = error_set(err, STATUS_UNPROCESSABLE,
                               "a picture of %zu x %zu pixels is smaller than a patch of %zu",
                               pixels[i]->width, pixels[i]->height, patch);
            break;
        }
        size_t kept = h * w;
        if (vilt->config.max_image_length && kept > vilt->config.max_image_length)
            kept = vilt->config.max_image_length;
        const float *picture = pixels[i]->data;
        float *patches = arena_array(compute->scratch, h * w, vilt->patch.n_in * sizeof *patches);
        float *rows = arena_array(compute->scratch, h * w, dim * sizeof *rows);
        made[i] = features_new(1 + kept, dim);
        if (!patches || !rows || !made[i]) {
            status = error_no_memory(err, "a picture's patches");
            break;
        }
        nn_patches(compute, &picture, 1, 3, pixels[i]->height, pixels[i]->width, patch, patches);
        nn_linear(compute, &vilt->patch, patches, h * w, ACTIVATION_NONE, NULL, rows);
        add_positions(vilt, rows, h, w);
        for (size_t d = 0; d < dim; d++)
            made[i]->rows[d] = vilt->class_token[d] + vilt->image_positions[d];
        memcpy(made[i]->rows + dim, rows, kept * dim * sizeof *rows);
    }
    if (status)
        for (size_t i = 0; i < n; i++)
            features_unref(made[i]);
    else
        memcpy(out, made, n * sizeof *made);
    return status;
}

/* ---- pairs -------------------------------------------------------------------------------------
 */

static enum status check_pair(const struct vilt *vilt, const struct pair *pair, struct error *err)
{
    if (pair->n_images != vilt->config.n_images)
        return error_set(
            err, STATUS_UNPROCESSABLE, "this model looks at %zu picture%s at a time, not %zu",
            vilt->config.n_images, vilt->config.n_images == 1 ? "" : "s", pair->n_images);
    for (size_t i = 0; i < pair->n_images; i++)
        if (pair->images[i]->dim != vilt->config.encoder.dim)
            return error_set(err, STATUS_INTERNAL, "features of %zu floats, expected %zu",
                             pair->images[i]->dim, vilt->config.encoder.dim);
    return check_tokens(pair->text, vilt->config.vocab_size, vilt->config.n_positions, err);
}

/* LayerNorm(word + token type + position) + modality 0 → rows [n, dim] */
static void embed_text(const struct vilt *vilt, const struct compute *compute,
                       const struct tokens *text, float *rows)
{
    size_t dim = vilt->config.encoder.dim;
    for (size_t j = 0; j < text->n; j++) {
        const float *word = vilt->words + (size_t)text->ids[j] * dim;
        const float *position = vilt->positions + j * dim;
        for (size_t d = 0; d < dim; d++)
            rows[j * dim + d] = word[d] + vilt->token_types[d] + position[d];
    }
    nn_layer_norm(compute, &vilt->text_norm, rows, text->n, rows);
    for (size_t j = 0; j < text->n; j++)
        for (size_t d = 0; d < dim; d++)
            rows[j * dim + d] += vilt->modalities[d];
}

/* The encoder's items of a batch: each picture of each pair, after its text. */
struct items {
    size_t n, *n_rows, *pooled;
    float *x; /* [Σ n_rows, dim] */
};

static enum status make_items(const struct vilt *vilt, const struct compute *compute,
                              const struct pair *pairs, size_t n, struct items *out,
                              struct error *err)
{
    size_t dim = vilt->config.encoder.dim, n_total = 0, item = 0;
    struct items items = {.n = n * vilt->config.n_images};
    items.n_rows = arena_array(compute->scratch, items.n, sizeof *items.n_rows);
    items.pooled = arena_zalloc(compute->scratch, items.n, sizeof *items.pooled);
    if (!items.n_rows || !items.pooled)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = check_pair(vilt, &pairs[i], err);
        if (status)
            return status;
        for (size_t k = 0; k < pairs[i].n_images; k++) {
            items.n_rows[item] = pairs[i].text->n + pairs[i].images[k]->n_rows;
            n_total += items.n_rows[item++];
        }
    }
    items.x = arena_array(compute->scratch, n_total, dim * sizeof *items.x);
    if (!items.x)
        return error_no_memory(err, "a forward pass's activations");
    float *row = items.x;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < pairs[i].n_images; k++) {
            const struct features *image = pairs[i].images[k];
            const float *modality = vilt->modalities + (k + 1) * dim;
            embed_text(vilt, compute, pairs[i].text, row);
            row += pairs[i].text->n * dim;
            for (size_t r = 0; r < image->n_rows; r++, row += dim)
                for (size_t d = 0; d < dim; d++)
                    row[d] = image->rows[r * dim + d] + modality[d];
        }
    *out = items;
    return STATUS_OK;
}

/* The pooled rows of all items → out [n_items, dim]: pairs' pictures are side by side. */
static enum status pool_pairs(const struct vilt *vilt, const struct compute *compute,
                              const struct pair *pairs, size_t n, float **out, struct error *err)
{
    size_t dim = vilt->config.encoder.dim;
    struct items items;
    enum status status = make_items(vilt, compute, pairs, n, &items, err);
    if (status)
        return status;
    float *rows = arena_array(compute->scratch, items.n, dim * sizeof *rows);
    float *pooled = arena_array(compute->scratch, items.n, dim * sizeof *pooled);
    if (!rows || !pooled)
        return error_no_memory(err, "a forward pass's activations");
    status = encoder_forward(&vilt->encoder, compute, items.x, items.n_rows, items.n, items.pooled,
                             rows, err);
    if (status)
        return status;
    nn_layer_norm(compute, &vilt->norm, rows, items.n, rows);
    nn_linear(compute, &vilt->pooler, rows, items.n, ACTIVATION_TANH, NULL, pooled);
    *out = pooled;
    return STATUS_OK;
}

/* last(activation(norm(first(rows)))) → out [n, n_out] */
static enum status head_forward(const struct vilt *vilt, const struct compute *compute,
                                const float *rows, size_t n, float *out, struct error *err)
{
    const struct vilt_head *head = &vilt->head;
    size_t inner = head->first.n_out;
    float *hidden = arena_array(compute->scratch, n, inner * sizeof *hidden);
    if (!hidden)
        return error_no_memory(err, "a forward pass's activations");
    nn_linear(compute, &head->first, rows, n, ACTIVATION_NONE, NULL, hidden);
    nn_layer_norm(compute, &head->norm, hidden, n, hidden);
    nn_activate(compute, ACTIVATION_GELU, hidden, n * inner);
    nn_linear(compute, &head->last, hidden, n, ACTIVATION_NONE, NULL, out);
    return STATUS_OK;
}

static enum status score_vqa(const struct model *model, const struct compute *compute,
                             enum task task, const struct pair *pairs, size_t n, float *out,
                             struct error *err)
{
    const struct vilt *vilt = model->state;
    float *pooled = NULL;
    (void)task;
    enum status status = pool_pairs(vilt, compute, pairs, n, &pooled, err);
    if (!status)
        status = head_forward(vilt, compute, pooled, n, out, err);
    if (!status)
        nn_activate(compute, ACTIVATION_SIGMOID, out, n * model->traits.n_outputs);
    return status;
}

static enum status score_nlvr2(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err)
{
    const struct vilt *vilt = model->state;
    float *pooled = NULL;
    (void)task;
    enum status status = pool_pairs(vilt, compute, pairs, n, &pooled, err);
    if (!status)
        status = head_forward(vilt, compute, pooled, n, out, err);
    if (!status)
        nn_softmax_rows(out, n, model->traits.n_outputs);
    return status;
}

static enum status score_match(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err)
{
    const struct vilt *vilt = model->state;
    float *pooled = NULL;
    (void)task;
    enum status status = pool_pairs(vilt, compute, pairs, n, &pooled, err);
    if (!status)
        nn_linear(compute, &vilt->head.last, pooled, n, ACTIVATION_SIGMOID, NULL, out);
    return status;
}

/* The surest of one text's masked positions. logits [n] of position `at`; best [3]. A mask is no
 * answer to a mask: filling would never end. */
static void keep_surest(float *logits, size_t n, size_t mask_id, size_t at, float best[3])
{
    nn_softmax_rows(logits, 1, n);
    for (size_t id = 0; id < n; id++)
        if (id != mask_id && logits[id] > best[2]) {
            best[0] = (float)at;
            best[1] = (float)id;
            best[2] = logits[id];
        }
}

static enum status score_masks(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err)
{
    const struct vilt *vilt = model->state;
    const struct vilt_head *head = &vilt->head;
    size_t dim = vilt->config.encoder.dim, n_vocab = vilt->config.vocab_size, n_masks = 0;
    struct items items;
    (void)task;
    enum status status = make_items(vilt, compute, pairs, n, &items, err);
    if (!status)
        status = encoder_forward(&vilt->encoder, compute, items.x, items.n_rows, items.n, NULL,
                                 NULL, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < pairs[i].text->n; j++)
            n_masks += pairs[i].text->ids[j] == vilt->mask_id;
    float *rows = arena_array(compute->scratch, n_masks, dim * sizeof *rows);
    float *hidden = arena_array(compute->scratch, n_masks, dim * sizeof *hidden);
    float *logits = arena_array(compute->scratch, n_vocab, sizeof *logits);
    if (!rows || !hidden || !logits)
        return error_no_memory(err, "a forward pass's activations");
    float *to = rows, *from = items.x;
    for (size_t i = 0; i < n; from += items.n_rows[i++] * dim)
        for (size_t j = 0; j < pairs[i].text->n; j++)
            if (pairs[i].text->ids[j] == vilt->mask_id) {
                memcpy(to, from + j * dim, dim * sizeof *to);
                to += dim;
            }
    nn_layer_norm(compute, &vilt->norm, rows, n_masks, rows);
    nn_linear(compute, &head->first, rows, n_masks, vilt->config.encoder.activation, NULL, hidden);
    nn_layer_norm(compute, &head->norm, hidden, n_masks, hidden);
    const float *mask = hidden;
    for (size_t i = 0; i < n; i++) {
        float *best = out + 3 * i;
        best[0] = best[1] = -1;
        best[2] = 0;
        for (size_t j = 0; j < pairs[i].text->n; j++)
            if (pairs[i].text->ids[j] == vilt->mask_id) {
                nn_linear(compute, &head->last, mask, 1, ACTIVATION_NONE, NULL, logits);
                keep_surest(logits, n_vocab, (size_t)vilt->mask_id, j, best);
                mask += dim;
            }
    }
    return STATUS_OK;
}

const struct architecture vilt_vqa_architecture = {
    .name = "ViltForQuestionAnswering",
    .summary = "ViLT question answering: a probability for each answer of a fixed list",
    .tasks = TASK_BIT(VQA),
    .load = load_vqa,
    .free = vilt_free,
    .encode_images = vilt_encode_images,
    .score_pairs = score_vqa,
};

const struct architecture vilt_match_architecture = {
    .name = "ViltForImageAndTextRetrieval",
    .summary = "ViLT matcher: how well a text fits a picture",
    .tasks = TASK_BIT(MATCH),
    .load = load_retrieval,
    .free = vilt_free,
    .encode_images = vilt_encode_images,
    .score_pairs = score_match,
};

const struct architecture vilt_nlvr2_architecture = {
    .name = "ViltForImagesAndTextClassification",
    .summary = "ViLT reasoning: whether a statement is true of two pictures",
    .tasks = TASK_BIT(VQA),
    .load = load_nlvr2,
    .free = vilt_free,
    .encode_images = vilt_encode_images,
    .score_pairs = score_nlvr2,
};

const struct architecture vilt_fill_architecture = {
    .name = "ViltForMaskedLM",
    .summary = "ViLT masked language model: the words behind [MASK], given a picture",
    .tasks = TASK_BIT(FILL),
    .load = load_masked_lm,
    .free = vilt_free,
    .encode_images = vilt_encode_images,
    .score_pairs = score_masks,
};
