/*
 * owlvit.c: OwlViTForObjectDetection and Owlv2ForObjectDetection: boxes for whatever a text or an
 * example picture names (Minderer et al. 2022, arXiv:2205.06230; 2023, arXiv:2306.09683).
 *
 * Reference page
 *   Tensors   "owlvit." or "owlv2." and CLIP's towers (clip.c; the first vision norm is spelt
 *             pre_layernorm), text_projection.weight [t, t], visual_projection and logit_scale
 *             (unused here); layer_norm [d]; class_head.dense0 [t, d], class_head.logit_shift and
 *             logit_scale [1, d]; box_head.dense0, dense1 [d, d], dense2 [4, d]; OWLv2:
 *             objectness_head the same with dense2 [1, d].
 *   Picture   y = post_layernorm(all rows); per patch f = layer_norm(y[patch] · y[class]); class
 *             embedding e = dense0(f), box = sigmoid(MLP(f) + bias of its place) as centre and
 * size. Text      CLIP's, always pooled at the first largest id → projection → L2 norm. Logit (ê ·
 * q̂ + shift(f)) · (elu(scale(f)) + 1), x̂ = x / (|x| + 1e-6) Example   the query is the e of one
 * patch of the example picture: OWL-ViT: among the boxes that cover most of it the one least like
 * the average; OWLv2: the most object-like. Features  per picture, everything that no query
 * changes: n class embeddings [n, t], then n `struct patch` [n, 7]. A query then costs one product
 * with them. Easy to get wrong
 *     - Boxes are in parts of the model's picture: OWL-ViT stretches the picture, OWLv2 pads it to
 * a square first, so its boxes scale with the longer edge.
 *     - OWLv2's resizing is SciPy's, not Pillow's (core/image/zoom.h).
 *     - The box bias takes log1p near −1: it has to be made in f32, step by step as there.
 *     - A text whose first token is 0 is a padding query: its logits are the least float.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/image/zoom.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

static const struct image_processor owlvit_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .default_to_square = true,
    .height = 768,
    .width = 768,
    .crop_height = 768,
    .crop_width = 768,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0 / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

static const struct image_processor owlv2_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .do_pad = true,
    .default_to_square = true,
    .height = 960,
    .width = 960,
    .resample = RESAMPLE_BILINEAR,
    .rescale_factor = 1.0 / 255,
    .mean = OPENAI_CLIP_MEAN,
    .std = OPENAI_CLIP_STD,
};

/* What sets the two members of the family apart. */
struct family {
    const char *prefix;
    const struct image_processor *processor;
    size_t patch_size; /* default */
    bool has_objectness;
    bool pads_to_square;
};

static const struct family owlvit_family = {"owlvit.", &owlvit_processor, 32, false, false};
static const struct family owlv2_family = {"owlv2.", &owlv2_processor, 16, true, true};

/* ---- weights -----------------------------------------------------------------------------------
 */

struct head {
    struct linear dense0, dense1, dense2;
};

struct owlvit {
    const struct family *family;
    struct clip_vision vision;
    struct clip_text text;
    struct linear text_projection; /* [t, t] */
    struct norm merged_norm;
    struct linear class_dense;              /* [t, d] */
    struct linear logit_shift, logit_scale; /* [1, d] */
    struct head box, objectness;
    size_t n_patches;
    float *box_bias; /* [n_patches, 4] */
};

/* The second part of the features. logit = embedding · q̂ · factor + offset. */
struct patch {
    float factor, offset;
    float cx, cy, w, h;
    float objectness;
};
enum { PATCH_FLOATS = sizeof(struct patch) / sizeof(float) };

static const struct patch *patches_of(const struct owlvit *owlvit, const struct features *features)
{
    size_t n = owlvit->n_patches * owlvit->text.config.encoder.dim;
    return (const struct patch *)(const void *)(features->rows + n);
}

static void bind_head(struct binder *binder, struct head *head, size_t dim, size_t n_out,
                      const char *name)
{
    bind_linear(binder, &head->dense0, dim, dim, true, "%s.dense0", name);
    bind_linear(binder, &head->dense1, dim, dim, true, "%s.dense1", name);
    bind_linear(binder, &head->dense2, n_out, dim, true, "%s.dense2", name);
}

static void bind(struct binder *binder, struct owlvit *owlvit,
                 const struct clip_vision_config *vision, const struct clip_text_config *text,
                 size_t projection_dim)
{
    const char *prefix = owlvit->family->prefix;
    size_t d = vision->encoder.dim, t = text->encoder.dim;
    const float *unused;
    clip_vision_bind(binder, &owlvit->vision, vision, prefix, "pre_layernorm");
    clip_text_bind(binder, &owlvit->text, text, prefix);
    bind_linear(binder, &owlvit->text_projection, projection_dim, t, false, "%stext_projection",
                prefix);
    /* Of the pair of towers, not of the detector. */
    bind_optional(binder, &unused, (const size_t[]){projection_dim, d, 0},
                  "%svisual_projection.weight", prefix);
    bind_optional(binder, &unused, (const size_t[]){0}, "%slogit_scale", prefix);
    bind_norm(binder, &owlvit->merged_norm, d, vision->encoder.norm_eps, "layer_norm");
    bind_linear(binder, &owlvit->class_dense, t, d, true, "class_head.dense0");
    bind_linear(binder, &owlvit->logit_shift, 1, d, true, "class_head.logit_shift");
    bind_linear(binder, &owlvit->logit_scale, 1, d, true, "class_head.logit_scale");
    bind_head(binder, &owlvit->box, d, 4, "box_head");
    if (owlvit->family->has_objectness)
        bind_head(binder, &owlvit->objectness, d, 1, "objectness_head");
    if (projection_dim != t)
        bind_fault(binder, "config key 'projection_dim': %zu differs from the text tower's %zu",
                   projection_dim, t);
}

/* log(p / (1 − p)), as the reference rounds it. */
static float logit_of(float p)
{
    return logf(p + 1e-4f) - log1pf(-p + 1e-4f);
}

/* A patch's box is expected around its own lower right corner, and of its own size. */
static enum status make_box_bias(struct owlvit *owlvit, size_t grid, struct error *err)
{
    owlvit->n_patches = grid * grid;
    owlvit->box_bias = alloc_array(owlvit->n_patches, 4 * sizeof(float));
    if (!owlvit->box_bias)
        return error_no_memory(err, "a model's box biases");
    for (size_t i = 0; i < owlvit->n_patches; i++) {
        float *bias = owlvit->box_bias + 4 * i;
        bias[0] = logit_of((float)(i % grid + 1) / (float)grid);
        bias[1] = logit_of((float)(i / grid + 1) / (float)grid);
        bias[2] = bias[3] = logit_of(1.0f / (float)grid);
    }
    return STATUS_OK;
}

static void owlvit_release(struct owlvit *owlvit)
{
    if (!owlvit)
        return;
    clip_vision_release(&owlvit->vision);
    clip_text_release(&owlvit->text);
    free(owlvit->box_bias);
    free(owlvit);
}

static enum status load(struct model *model, const struct family *family, struct error *err)
{
    struct owlvit *owlvit = calloc(1, sizeof *owlvit);
    if (!owlvit)
        return error_no_memory(err, "a model");
    owlvit->family = family;
    const json_t *config = model->checkpoint->config;
    struct clip_vision_config vision = clip_vision_defaults;
    struct clip_text_config text = clip_text_defaults;
    vision.image_size = 768;
    vision.patch_size = family->patch_size;
    text.context_length = 16;
    size_t projection_dim = 512;
    struct binder binder;
    enum status status = clip_vision_config_load(config, &vision, err);
    if (!status)
        status = clip_text_config_load(config, &text, err);
    if (!status)
        status = config_size(config, "projection_dim", &projection_dim, err);
    text.ends_at_largest = true;
    if (!status)
        status = model_load_processor(model, family->processor, vision.image_size, err);
    if (!status && family->pads_to_square && model->processor.do_resize &&
        !(model->processor.height && model->processor.width))
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "preprocessor config: 'size' must have 'height' and 'width'");
    if (status)
        goto out;
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, owlvit, &vision, &text, projection_dim);
    status = binder_finish(&binder, &model->bound);
    if (!status) /* the checkpoint has a position for each patch, so there are not too many */
        status = make_box_bias(owlvit, vision.image_size / vision.patch_size, err);
    if (status)
        goto out;
    model->n_parameters = binder.n_parameters;
    model->traits.embed_dim = text.encoder.dim;
    model->traits.n_outputs = owlvit->n_patches;
    model->traits.pairs_by_embedding = true;
    model->traits.pairs_by_example = true;
    model->traits.max_images = 2;
    model->traits.context_length = text.context_length;
    model->traits.vocab_size = text.vocab_size;
    model->state = owlvit;
    owlvit = NULL;
out:
    owlvit_release(owlvit);
    return status;
}

static enum status owlvit_load(struct model *model, struct error *err)
{
    return load(model, &owlvit_family, err);
}

static enum status owlv2_load(struct model *model, struct error *err)
{
    return load(model, &owlv2_family, err);
}

static void owlvit_free(struct model *model)
{
    owlvit_release(model->state);
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

static enum status owlv2_preprocess(const struct model *model, const struct image *image,
                                    struct pixels *out, struct error *err)
{
    return image_zoom_apply(&model->processor, image, out, err);
}

/* out [n, dense2's n_out] = dense2(gelu(dense1(gelu(dense0(x))))); scratch [2, n, dim]. */
static void run_head(const struct compute *compute, const struct head *head, const float *x,
                     size_t n, float *scratch, float *out)
{
    float *between = scratch + n * head->dense0.n_out;
    nn_linear(compute, &head->dense0, x, n, ACTIVATION_GELU, NULL, scratch);
    nn_linear(compute, &head->dense1, scratch, n, ACTIVATION_GELU, NULL, between);
    nn_linear(compute, &head->dense2, between, n, ACTIVATION_NONE, NULL, out);
}

static float norm_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return (float)sqrt(sum);
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* What the heads gave for one patch. */
struct heads {
    float *embeddings;                 /* [n, t] */
    float *shift, *scale, *objectness; /* [n] */
    float *boxes;                      /* [n, 4] */
};

/* One picture's features out of rows first … first + n_patches of the heads. */
static struct features *make_features(const struct owlvit *owlvit, const struct heads *heads,
                                      size_t first)
{
    size_t n = owlvit->n_patches, t = owlvit->text.config.encoder.dim;
    struct features *features = features_new(n, t + PATCH_FLOATS);
    if (!features)
        return NULL;
    memcpy(features->rows, heads->embeddings + first * t, n * t * sizeof(float));
    struct patch *patches = (struct patch *)(void *)(features->rows + n * t);
    for (size_t i = 0, row = first; i < n; i++, row++) {
        const float *bias = owlvit->box_bias + 4 * i, *box = heads->boxes + 4 * row;
        float scale = heads->scale[row];
        scale = (scale > 0 ? scale : expm1f(scale)) + 1;
        patches[i] = (struct patch){
            .factor = scale / (norm_of(features->rows + i * t, t) + 1e-6f),
            .offset = heads->shift[row] * scale,
            .cx = sigmoid(box[0] + bias[0]),
            .cy = sigmoid(box[1] + bias[1]),
            .w = sigmoid(box[2] + bias[2]),
            .h = sigmoid(box[3] + bias[3]),
            .objectness = heads->objectness ? heads->objectness[row] : 0,
        };
    }
    return features;
}

static enum status encode_images(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err)
{
    const struct owlvit *owlvit = model->state;
    size_t d = owlvit->vision.config.encoder.dim, t = owlvit->text.config.encoder.dim;
    size_t n_patches = owlvit->n_patches, n_all = n * n_patches, *n_rows;
    float *y;

    /* 1. The tower, all of its rows. */
    enum status status = vit_check_rows(&owlvit->vision.patches, pixels, n, n_patches + 1, err);
    if (!status)
        status = clip_vision_embed(&owlvit->vision, compute, pixels, n, &n_rows, &y, err);
    if (!status)
        status = encoder_forward(&owlvit->vision.encoder, compute, y, n_rows, n, NULL, NULL, err);
    if (status)
        return status;
    nn_layer_norm(compute, &owlvit->vision.post_norm, y, n * (n_patches + 1), y);

    /* 2. Each patch times the class row. */
    float *merged = arena_array(compute->scratch, n_all, d * sizeof(float));
    float *scratch = arena_array(compute->scratch, n_all, 2 * d * sizeof(float));
    float *results = arena_array(compute->scratch, n_all, (t + PATCH_FLOATS) * sizeof(float));
    if (!merged || !scratch || !results)
        return error_no_memory(err, "a batch of pictures");
    float *to = merged;
    for (size_t i = 0; i < n; i++) {
        const float *class_row = y + i * (n_patches + 1) * d, *from = class_row + d;
        for (size_t p = 0; p < n_patches; p++)
            for (size_t k = 0; k < d; k++)
                *to++ = *from++ * class_row[k];
    }
    nn_layer_norm(compute, &owlvit->merged_norm, merged, n_all, merged);

    /* 3. The heads. */
    struct heads heads = {.embeddings = results,
                          .shift = results + n_all * t,
                          .scale = results + n_all * (t + 1),
                          .boxes = results + n_all * (t + 2)};
    nn_linear(compute, &owlvit->class_dense, merged, n_all, ACTIVATION_NONE, NULL,
              heads.embeddings);
    nn_linear(compute, &owlvit->logit_shift, merged, n_all, ACTIVATION_NONE, NULL, heads.shift);
    nn_linear(compute, &owlvit->logit_scale, merged, n_all, ACTIVATION_NONE, NULL, heads.scale);
    run_head(compute, &owlvit->box, merged, n_all, scratch, heads.boxes);
    if (owlvit->family->has_objectness) {
        heads.objectness = results + n_all * (t + 6);
        run_head(compute, &owlvit->objectness, merged, n_all, scratch, heads.objectness);
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = make_features(owlvit, &heads, i * n_patches);
        if (!out[i]) {
            while (i-- > 0)
                features_unref(out[i]);
            return error_no_memory(err, "a picture's features");
        }
    }
    return STATUS_OK;
}

static void boxes(const struct model *model, const struct features *features, size_t width,
                  size_t height, float *out)
{
    const struct owlvit *owlvit = model->state;
    const struct patch *patches = patches_of(owlvit, features);
    size_t longer = width > height ? width : height;
    float x = (float)(owlvit->family->pads_to_square ? longer : width);
    float y = (float)(owlvit->family->pads_to_square ? longer : height);
    for (size_t i = 0; i < owlvit->n_patches; i++, out += 4) {
        const struct patch *patch = &patches[i];
        out[0] = (patch->cx - 0.5f * patch->w) * x;
        out[1] = (patch->cy - 0.5f * patch->h) * y;
        out[2] = (patch->cx + 0.5f * patch->w) * x;
        out[3] = (patch->cy + 0.5f * patch->h) * y;
    }
}

/* ---- queries -----------------------------------------------------------------------------------
 */

static enum status encode_texts(const struct model *model, const struct compute *compute,
                                const struct tokens *const *texts, size_t n, float *out,
                                struct error *err)
{
    const struct owlvit *owlvit = model->state;
    size_t dim = owlvit->text.config.encoder.dim;
    float *rows = arena_array(compute->scratch, n * dim, sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of texts");
    enum status status = clip_text_forward(&owlvit->text, compute, texts, n, rows, err);
    if (status)
        return status;
    nn_linear(compute, &owlvit->text_projection, rows, n, ACTIVATION_NONE, NULL, out);
    nn_l2_normalize_rows(out, n, dim);
    return STATUS_OK;
}

/* How much of the picture a box covers, as intersection over union with the whole of it. */
static float cover(const struct patch *patch)
{
    float x0 = patch->cx - 0.5f * patch->w, x1 = patch->cx + 0.5f * patch->w;
    float y0 = patch->cy - 0.5f * patch->h, y1 = patch->cy + 0.5f * patch->h;
    float area = (x1 - x0) * (y1 - y0);
    float width = fminf(x1, 1) - fmaxf(x0, 0), height = fminf(y1, 1) - fmaxf(y0, 0);
    float inside = fmaxf(width, 0) * fmaxf(height, 0);
    return inside / (1 + area - inside);
}

static float dot(const float *x, const double *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * y[i];
    return (float)sum;
}

/* The patch of an example picture that stands for what it shows. (A box's centre is always inside
 * the picture, so covers are above 0, and the reference's way out for those that are not is never
 * taken.) */
static enum status example_patch(const struct owlvit *owlvit, const struct compute *compute,
                                 const struct features *features, size_t *out, struct error *err)
{
    const struct patch *patches = patches_of(owlvit, features);
    size_t n = owlvit->n_patches, t = owlvit->text.config.encoder.dim, best = 0;
    if (owlvit->family->has_objectness) {
        for (size_t i = 1; i < n; i++)
            if (patches[i].objectness > patches[best].objectness)
                best = i;
        *out = best;
        return STATUS_OK;
    }
    double *mean = arena_zalloc(compute->scratch, t, sizeof *mean);
    if (!mean)
        return error_no_memory(err, "an example");
    float most = 0, least = INFINITY;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, cover(&patches[i]));
        for (size_t k = 0; k < t; k++)
            mean[k] += (double)features->rows[i * t + k] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        if (cover(&patches[i]) < most * 0.8f)
            continue;
        float similarity = dot(features->rows + i * t, mean, t);
        if (similarity < least) {
            least = similarity;
            best = i;
        }
    }
    *out = best;
    return STATUS_OK;
}

/* A pair's query [t], scaled to length 1. */
static enum status make_query(const struct owlvit *owlvit, const struct compute *compute,
                              const struct pair *pair, float *query, struct error *err)
{
    size_t t = owlvit->text.config.encoder.dim;
    const float *from = pair->text_embedding;
    if (!pair->text) {
        if (pair->n_images != 2)
            return error_set(err, STATUS_UNPROCESSABLE, "there is neither a text nor an example");
        size_t patch = 0;
        enum status status = example_patch(owlvit, compute, pair->images[1], &patch, err);
        if (status)
            return status;
        from = pair->images[1]->rows + patch * t;
    }
    float length = norm_of(from, t) + 1e-6f;
    for (size_t k = 0; k < t; k++)
        query[k] = from[k] / length;
    return STATUS_OK;
}

/* Pairs of one picture share a product: queries [n, t] · embeddings [n_patches, t]ᵀ. */
static void score_picture(const struct owlvit *owlvit, const struct compute *compute,
                          const struct pair *pairs, const float *queries, size_t n, float *out)
{
    const struct features *features = pairs[0].images[0];
    const struct patch *patches = patches_of(owlvit, features);
    size_t n_patches = owlvit->n_patches;
    struct linear embeddings;
    struct error err;
    /* Aligned f32 is used in place, so this cannot fail and holds nothing. */
    if (linear_init(&embeddings, features->rows, DTYPE_F32, NULL, n_patches,
                    owlvit->text.config.encoder.dim, &err))
        return;
    nn_linear(compute, &embeddings, queries, n, ACTIVATION_NONE, NULL, out);
    linear_release(&embeddings);
    for (size_t i = 0; i < n; i++, out += n_patches) {
        bool is_padding = pairs[i].text && pairs[i].text->n && pairs[i].text->ids[0] == 0;
        for (size_t p = 0; p < n_patches; p++)
            out[p] = is_padding ? -FLT_MAX : out[p] * patches[p].factor + patches[p].offset;
    }
}

static enum status score_pairs(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err)
{
    (void)task;
    const struct owlvit *owlvit = model->state;
    size_t t = owlvit->text.config.encoder.dim;
    float *queries = arena_array(compute->scratch, n * t, sizeof *queries);
    if (!queries)
        return error_no_memory(err, "a batch of queries");
    for (size_t i = 0; i < n; i++) {
        enum status status = make_query(owlvit, compute, &pairs[i], queries + i * t, err);
        if (status)
            return status;
    }
    for (size_t i = 0, same; i < n; i += same) {
        for (same = 1; i + same < n && pairs[i + same].images[0] == pairs[i].images[0];)
            same++;
        score_picture(owlvit, compute, pairs + i, queries + i * t, same,
                      out + i * owlvit->n_patches);
    }
    return STATUS_OK;
}

/* ---- the architectures -------------------------------------------------------------------------
 */

const struct architecture owlvit_architecture = {
    .name = "OwlViTForObjectDetection",
    .summary = "OWL-ViT: finds what texts or an example picture name",
    .tasks = TASK_BIT(DETECT) | TASK_BIT(GROUND),
    .load = owlvit_load,
    .free = owlvit_free,
    .encode_images = encode_images,
    .encode_texts = encode_texts,
    .score_pairs = score_pairs,
    .boxes = boxes,
};

const struct architecture owlv2_architecture = {
    .name = "Owlv2ForObjectDetection",
    .summary = "OWLv2: finds what texts or an example picture name",
    .tasks = TASK_BIT(DETECT) | TASK_BIT(GROUND),
    .load = owlv2_load,
    .free = owlvit_free,
    .preprocess = owlv2_preprocess,
    .encode_images = encode_images,
    .encode_texts = encode_texts,
    .score_pairs = score_pairs,
    .boxes = boxes,
};
