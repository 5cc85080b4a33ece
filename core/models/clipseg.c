/*
 * clipseg.c: CLIPSegForImageSegmentation: where in a picture is what a text or an example picture
 * shows (Lüddecke and Ecker 2022, arXiv:2112.10003).
 *
 * Reference page
 *   Tensors   "clip." and CLIP's two towers with their projections (clip.c); decoder.reduces.K
 *             [r, d], decoder.film_mul, film_add [r, e], decoder.layers.K.… (post-norm layers of
 *             width r); decoder.transposed_convolution [r, 1, p, p], or, with
 *             use_complex_transposed_convolution, .0 [r, r, 3, 3] (padding 1), .2 [r, r/2, q, q],
 * .4 [r/2, 1, q, q] with q = p / 4. Picture   the rows after the layers extract_layers (counted
 * from 0), each reduced to width r; and, for when the picture is an example, its embedding (not
 * normalised). Text      CLIP's projected embedding, not normalised. Mask      x = 0; for k = 0, 1,
 * …, from the last extracted layer to the first: x += reduced[k]; at k = conditional_layer x =
 * mul(c) · x + add(c); x = layer k of x. Then without the class row, as a grid, through the
 * transposed convolution(s) → logits. Features  per picture the reduced rows [depth, 1 + patches,
 * r], then the embedding [e]. Easy to get wrong
 *     - Published checkpoints see pictures of 352 with positions for 224: these are interpolated.
 *     - The decoder's activation is ReLU whatever decoder_hidden_act says.
 *     - The complex form gives grid · (p/4)² pixels an edge, which is the picture's size only where
 *       p is 16.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/clip_towers.h"
#include "core/models/models_internal.h"

/* ---- configuration -----------------------------------------------------------------------------
 */

enum { DEPTH_MAX = 32, MASK_EDGE_MAX = 4096 };

struct clipseg_config {
    struct clip_vision_config vision;
    struct clip_text_config text;
    size_t projection_dim;
    size_t extract_layers[DEPTH_MAX], depth;
    size_t reduce_dim, n_heads, mlp_dim;
    long long conditional_layer;
    bool is_complex;
    size_t grid; /* patches an edge of the pictures that the processor makes */
};

static enum status read_extract_layers(const json_t *json, struct clipseg_config *config,
                                       struct error *err)
{
    const json_t *layers = json_object_get(json, "extract_layers");
    size_t n_layers = config->vision.encoder.n_layers;
    if (!layers || json_is_null(layers)) {
        config->depth = 3;
        memcpy(config->extract_layers, (const size_t[]){3, 6, 9}, 3 * sizeof(size_t));
    } else {
        config->depth = json_array_size(layers);
        if (!json_is_array(layers) || !config->depth || config->depth > DEPTH_MAX)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "config key 'extract_layers' must be a list of 1 to %d layers",
                             DEPTH_MAX);
        for (size_t i = 0; i < config->depth; i++) {
            const json_t *layer = json_array_get(layers, i);
            json_int_t at = json_integer_value(layer);
            config->extract_layers[i] =
                json_is_integer(layer) && at >= 0 && at < INT32_MAX ? (size_t)at : SIZE_MAX;
        }
    }
    for (size_t i = 0; i < config->depth; i++)
        if (config->extract_layers[i] >= n_layers)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "config key 'extract_layers' must name layers from 0 to %zu",
                             n_layers - 1);
    return STATUS_OK;
}

static enum status read_config(struct model *model, struct clipseg_config *config,
                               struct error *err)
{
    const json_t *json = model->checkpoint->config;
    *config = (struct clipseg_config){.vision = clip_vision_defaults,
                                      .text = clip_text_defaults,
                                      .projection_dim = 512,
                                      .reduce_dim = 64,
                                      .n_heads = 4,
                                      .mlp_dim = 2048};
    enum status status = clip_vision_config_load(json, &config->vision, err);
    if (!status)
        status = clip_text_config_load(json, &config->text, err);
    if (!status)
        status = read_extract_layers(json, config, err);
    if (!status)
        status = config_size(json, "projection_dim", &config->projection_dim, err);
    if (!status)
        status = config_size(json, "reduce_dim", &config->reduce_dim, err);
    if (!status)
        status = config_size(json, "decoder_num_attention_heads", &config->n_heads, err);
    if (!status)
        status = config_size(json, "decoder_intermediate_size", &config->mlp_dim, err);
    if (!status)
        status = config_int(json, "conditional_layer", &config->conditional_layer, err);
    if (!status)
        status = config_bool(json, "use_complex_transposed_convolution", &config->is_complex, err);
    if (!status)
        status = model_load_processor(model, &vit_processor, 0, err);
    if (status)
        return status;
    if (config->reduce_dim % config->n_heads)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'decoder_num_attention_heads': %zu does not divide "
                         "'reduce_dim' %zu",
                         config->n_heads, config->reduce_dim);
    if (config->is_complex && (config->reduce_dim < 2 || config->vision.patch_size < 4))
        return error_set(
            err, STATUS_BAD_CHECKPOINT,
            "a complex transposed convolution needs a 'reduce_dim' of at least 2 and a "
            "'patch_size' of at least 4");
    size_t size = model->traits.image_height;
    config->grid = size / config->vision.patch_size;
    if (!config->grid || size != model->traits.image_width || config->grid > 1024)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the preprocessor config must make square pictures of at least one patch "
                         "(%zu pixels), not %zu x %zu",
                         config->vision.patch_size, model->traits.image_width, size);
    return STATUS_OK;
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* A convolution as a product over rows of pixels, its weight turned accordingly. */
struct convolution {
    const float *weight, *bias; /* in the checkpoint's layout */
    float *turned;              /* owned: weight, then bias */
    struct linear linear;
};

struct clipseg {
    struct clipseg_config config;
    struct clip_vision vision;
    struct clip_text text;
    struct linear vision_projection, text_projection; /* [e, d], [e, t] */
    struct linear film_mul, film_add;                 /* [r, e] */
    struct linear reduces[DEPTH_MAX];                 /* [r, d] */
    struct encoder decoder;
    struct convolution smooth;   /* complex: 3 × 3 [r, 9 r] */
    struct convolution enlarge;  /* r → (complex: r / 2, else 1) for step² pixels */
    struct convolution enlarge2; /* complex: r / 2 → 1 for step² pixels */
    size_t step;                 /* how many times each enlarges */
    float *positions;            /* owned: interpolated; NULL where they fit */
};

static void bind(struct binder *binder, struct clipseg *clipseg)
{
    const struct clipseg_config *config = &clipseg->config;
    size_t r = config->reduce_dim, e = config->projection_dim, step = clipseg->step;
    size_t d = config->vision.encoder.dim;
    const char *name = "decoder.transposed_convolution";
    const struct encoder_config decoder = {.n_layers = config->depth,
                                           .dim = r,
                                           .n_heads = config->n_heads,
                                           .mlp_dim = config->mlp_dim,
                                           .activation = ACTIVATION_RELU,
                                           .norm_eps = config->vision.encoder.norm_eps,
                                           .post_norm = true};
    const float *unused;
    clip_vision_bind(binder, &clipseg->vision, &config->vision, "clip.", "pre_layrnorm");
    bind_linear(binder, &clipseg->vision_projection, e, d, false, "clip.visual_projection");
    clip_text_bind(binder, &clipseg->text, &config->text, "clip.");
    bind_linear(binder, &clipseg->text_projection, e, config->text.encoder.dim, false,
                "clip.text_projection");
    bind_optional(binder, &unused, (const size_t[]){0}, "clip.logit_scale");
    bind_linear(binder, &clipseg->film_mul, r, e, true, "decoder.film_mul");
    bind_linear(binder, &clipseg->film_add, r, e, true, "decoder.film_add");
    for (size_t k = 0; k < config->depth; k++)
        bind_linear(binder, &clipseg->reduces[k], r, d, true, "decoder.reduces.%zu", k);
    encoder_bind(binder, &clipseg->decoder, &decoder, &encoder_names_clip, "decoder.layers");
    if (!config->is_complex) {
        bind_tensor(binder, &clipseg->enlarge.weight, (const size_t[]){r, 1, step, step, 0},
                    "%s.weight", name);
        bind_tensor(binder, &clipseg->enlarge.bias, (const size_t[]){1, 0}, "%s.bias", name);
        return;
    }
    bind_tensor(binder, &clipseg->smooth.weight, (const size_t[]){r, r, 3, 3, 0}, "%s.0.weight",
                name);
    bind_tensor(binder, &clipseg->smooth.bias, (const size_t[]){r, 0}, "%s.0.bias", name);
    bind_tensor(binder, &clipseg->enlarge.weight, (const size_t[]){r, r / 2, step, step, 0},
                "%s.2.weight", name);
    bind_tensor(binder, &clipseg->enlarge.bias, (const size_t[]){r / 2, 0}, "%s.2.bias", name);
    bind_tensor(binder, &clipseg->enlarge2.weight, (const size_t[]){r / 2, 1, step, step, 0},
                "%s.4.weight", name);
    bind_tensor(binder, &clipseg->enlarge2.bias, (const size_t[]){1, 0}, "%s.4.bias", name);
}

static enum status turned_new(struct convolution *convolution, size_t n_out, size_t n_in,
                              struct error *err)
{
    size_t n;
    if (!size_mul(n_out, n_in, &n) || !size_add(n, n_out, &n) ||
        !(convolution->turned = alloc_array(n, sizeof(float))))
        return error_no_memory(err, "a convolution's weight");
    return STATUS_OK;
}

static enum status turned_use(struct convolution *convolution, size_t n_out, size_t n_in,
                              struct error *err)
{
    return linear_init(&convolution->linear, convolution->turned, DTYPE_F32,
                       convolution->turned + n_out * n_in, n_out, n_in, err);
}

/* [out, in, 3, 3] → [out, (ky, kx, in)] */
static enum status turn_smooth(struct convolution *convolution, size_t n_channels,
                               struct error *err)
{
    enum status status = turned_new(convolution, n_channels, 9 * n_channels, err);
    if (status)
        return status;
    float *to = convolution->turned;
    for (size_t o = 0; o < n_channels; o++)
        for (size_t k = 0; k < 9; k++)
            for (size_t i = 0; i < n_channels; i++)
                *to++ = convolution->weight[(o * n_channels + i) * 9 + k];
    memcpy(to, convolution->bias, n_channels * sizeof *to);
    return turned_use(convolution, n_channels, 9 * n_channels, err);
}

/* Transposed, kernel = stride = step: [in, out, step, step] → [(ky, kx, out), in] */
static enum status turn_enlarge(struct convolution *convolution, size_t n_in, size_t n_out,
                                size_t step, struct error *err)
{
    size_t n_pixels = step * step;
    enum status status = turned_new(convolution, n_pixels * n_out, n_in, err);
    if (status)
        return status;
    float *to = convolution->turned;
    for (size_t k = 0; k < n_pixels; k++)
        for (size_t o = 0; o < n_out; o++)
            for (size_t i = 0; i < n_in; i++)
                *to++ = convolution->weight[(i * n_out + o) * n_pixels + k];
    for (size_t k = 0; k < n_pixels; k++, to += n_out)
        memcpy(to, convolution->bias, n_out * sizeof *to);
    return turned_use(convolution, n_pixels * n_out, n_in, err);
}

static enum status turn_convolutions(struct clipseg *clipseg, struct error *err)
{
    size_t r = clipseg->config.reduce_dim, step = clipseg->step;
    if (!clipseg->config.is_complex)
        return turn_enlarge(&clipseg->enlarge, r, 1, step, err);
    enum status status = turn_smooth(&clipseg->smooth, r, err);
    if (!status)
        status = turn_enlarge(&clipseg->enlarge, r, r / 2, step, err);
    if (!status)
        status = turn_enlarge(&clipseg->enlarge2, r / 2, 1, step, err);
    return status;
}

static enum status fit_positions(struct clipseg *clipseg, struct error *err)
{
    struct vit_embedding *patches = &clipseg->vision.patches;
    size_t trained = clipseg->config.vision.image_size / clipseg->config.vision.patch_size;
    size_t grid = clipseg->config.grid, n = grid * grid + 1;
    if (grid == trained)
        return STATUS_OK;
    clipseg->positions = alloc_array(n, patches->dim * sizeof(float));
    if (!clipseg->positions)
        return error_no_memory(err, "position embeddings");
    vit_resize_positions(patches->positions, trained, patches->dim, grid, grid, clipseg->positions);
    patches->positions = clipseg->positions;
    patches->n_positions = n;
    return STATUS_OK;
}

static void clipseg_release(struct clipseg *clipseg)
{
    if (!clipseg)
        return;
    clip_vision_release(&clipseg->vision);
    clip_text_release(&clipseg->text);
    encoder_release(&clipseg->decoder);
    struct convolution *convolutions[] = {&clipseg->smooth, &clipseg->enlarge, &clipseg->enlarge2};
    for (size_t i = 0; i < ARRAY_LENGTH(convolutions); i++) {
        linear_release(&convolutions[i]->linear);
        free(convolutions[i]->turned);
    }
    free(clipseg->positions);
    free(clipseg);
}

static enum status clipseg_load(struct model *model, struct error *err)
{
    struct clipseg *clipseg = calloc(1, sizeof *clipseg);
    if (!clipseg)
        return error_no_memory(err, "a model");
    const struct clipseg_config *config = &clipseg->config;
    struct binder binder;
    enum status status = read_config(model, &clipseg->config, err);
    if (status)
        goto out;
    clipseg->step = config->is_complex ? config->vision.patch_size / 4 : config->vision.patch_size;
    size_t edge = config->grid * clipseg->step * (config->is_complex ? clipseg->step : 1);
    if (edge > MASK_EDGE_MAX) {
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "masks would be %zu pixels an edge; at most %d are possible", edge,
                           MASK_EDGE_MAX);
        goto out;
    }
    binder_init(&binder, model->checkpoint->tensors, err);
    bind(&binder, clipseg);
    status = binder_finish(&binder, &model->bound);
    if (!status)
        status = turn_convolutions(clipseg, err);
    if (!status)
        status = fit_positions(clipseg, err);
    if (status)
        goto out;
    struct model_traits *traits = &model->traits;
    model->n_parameters = binder.n_parameters;
    traits->embed_dim = config->projection_dim;
    traits->mask_height = traits->mask_width = edge;
    traits->n_outputs = traits->mask_height * traits->mask_width;
    traits->pairs_by_embedding = true;
    traits->pairs_by_example = true;
    traits->max_images = 2;
    traits->context_length = config->text.context_length;
    traits->vocab_size = config->text.vocab_size;
    model->state = clipseg;
    clipseg = NULL;
out:
    clipseg_release(clipseg);
    return status;
}

static void clipseg_free(struct model *model)
{
    clipseg_release(model->state);
}

/* ---- pictures and texts ------------------------------------------------------------------------
 */

static size_t rows_of(const struct clipseg *clipseg)
{
    return clipseg->config.grid * clipseg->config.grid + 1;
}

/* Reduces the rows after each layer that is to be extracted. */
struct extraction {
    const struct clipseg *clipseg;
    const struct compute *compute;
    size_t n_total;
    float *reduced; /* [depth, n_total, reduce_dim] */
};

static void extract(void *context, size_t layer, float *x)
{
    const struct extraction *extraction = context;
    const struct clipseg_config *config = &extraction->clipseg->config;
    size_t n = extraction->n_total;
    for (size_t k = 0; k < config->depth; k++)
        if (config->extract_layers[config->depth - 1 - k] == layer)
            nn_linear(extraction->compute, &extraction->clipseg->reduces[k], x, n, ACTIVATION_NONE,
                      NULL, extraction->reduced + k * n * config->reduce_dim);
}

static enum status clipseg_encode_images(const struct model *model, const struct compute *compute,
                                         const struct pixels *const *pixels, size_t n,
                                         struct features **out, struct error *err)
{
    const struct clipseg *clipseg = model->state;
    const struct clipseg_config *config = &clipseg->config;
    size_t d = config->vision.encoder.dim, r = config->reduce_dim, e = config->projection_dim;
    size_t n_rows = rows_of(clipseg), n_total = n * n_rows, *each;
    bool last_is_needed = false;
    for (size_t i = 0; i < config->depth; i++)
        last_is_needed |= config->extract_layers[i] == config->vision.encoder.n_layers - 1;
    if (vit_check_rows(&clipseg->vision.patches, pixels, n, n_rows, err))
        return err->status;

    /* 1. The tower. */
    float *x, *class_rows = arena_array(compute->scratch, n, d * sizeof(float));
    float *embeddings = arena_array(compute->scratch, n, e * sizeof(float));
    size_t *pooled = arena_zalloc(compute->scratch, n, sizeof *pooled);
    struct extraction extraction = {
        .clipseg = clipseg,
        .compute = compute,
        .n_total = n_total,
        .reduced = arena_array(compute->scratch, n_total, config->depth * r * sizeof(float))};
    if (!class_rows || !embeddings || !pooled || !extraction.reduced)
        return error_no_memory(err, "a batch of pictures");
    const struct encoder_tap tap = {extract, &extraction};
    enum status status = clip_vision_embed(&clipseg->vision, compute, pixels, n, &each, &x, err);
    if (!status)
        status = encoder_forward_tapped(&clipseg->vision.encoder, compute, x, each, n,
                                        last_is_needed ? NULL : pooled, class_rows, &tap, err);
    if (status)
        return status;
    for (size_t i = 0; i < n && last_is_needed; i++)
        memcpy(class_rows + i * d, x + i * n_rows * d, d * sizeof(float));

    /* 2. The embedding, for when the picture is an example. */
    nn_layer_norm(compute, &clipseg->vision.post_norm, class_rows, n, class_rows);
    nn_linear(compute, &clipseg->vision_projection, class_rows, n, ACTIVATION_NONE, NULL,
              embeddings);

    for (size_t i = 0; i < n; i++) {
        out[i] = features_new(1, config->depth * n_rows * r + e);
        if (!out[i]) {
            while (i-- > 0)
                features_unref(out[i]);
            return error_no_memory(err, "a picture's features");
        }
        float *to = out[i]->rows;
        for (size_t k = 0; k < config->depth; k++, to += n_rows * r)
            memcpy(to, extraction.reduced + (k * n_total + i * n_rows) * r,
                   n_rows * r * sizeof *to);
        memcpy(to, embeddings + i * e, e * sizeof *to);
    }
    return STATUS_OK;
}

static enum status clipseg_encode_texts(const struct model *model, const struct compute *compute,
                                        const struct tokens *const *texts, size_t n, float *out,
                                        struct error *err)
{
    const struct clipseg *clipseg = model->state;
    float *rows = arena_array(compute->scratch, n, clipseg->config.text.encoder.dim * sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of texts");
    enum status status = clip_text_forward(&clipseg->text, compute, texts, n, rows, err);
    if (status)
        return status;
    nn_linear(compute, &clipseg->text_projection, rows, n, ACTIVATION_NONE, NULL, out);
    return STATUS_OK;
}

/* ---- masks -------------------------------------------------------------------------------------
 */

/* What is mixed into the decoder's rows between its layers. */
struct mixing {
    const struct clipseg *clipseg;
    const struct pair *pairs;
    size_t n;
    const float *mul, *add; /* [n, reduce_dim] */
};

/* Before layer k: x += reduced[k] of each pair's picture, and the condition where it comes in. */
static void mix_in(const struct mixing *mixing, size_t k, float *x)
{
    const struct clipseg_config *config = &mixing->clipseg->config;
    size_t r = config->reduce_dim, n_rows = rows_of(mixing->clipseg);
    if (k >= config->depth)
        return;
    for (size_t i = 0; i < mixing->n; i++) {
        const float *reduced = mixing->pairs[i].images[0]->rows + k * n_rows * r;
        const float *mul = mixing->mul + i * r, *add = mixing->add + i * r;
        for (size_t row = 0; row < n_rows; row++, x += r, reduced += r) {
            for (size_t c = 0; c < r; c++)
                x[c] = k ? reduced[c] + x[c] : reduced[c];
            if ((long long)k == config->conditional_layer)
                for (size_t c = 0; c < r; c++)
                    x[c] = mul[c] * x[c] + add[c];
        }
    }
}

static void mix_in_next(void *context, size_t layer, float *x)
{
    mix_in(context, layer + 1, x);
}

/* Rows of a grid [grid², r] → each with its eight neighbours [grid², (ky, kx, r)], 0 outside. */
static void gather_neighbours(const float *rows, size_t grid, size_t r, float *out)
{
    for (size_t y = 0; y < grid; y++)
        for (size_t x = 0; x < grid; x++)
            for (size_t k = 0; k < 9; k++, out += r) {
                size_t from_y = y + k / 3, from_x = x + k % 3; /* one too many */
                if (from_y < 1 || from_y > grid || from_x < 1 || from_x > grid)
                    memset(out, 0, r * sizeof *out);
                else
                    memcpy(out, rows + ((from_y - 1) * grid + from_x - 1) * r, r * sizeof *out);
            }
}

/* Pixels as the products give them, [grid², (ky, kx), (jy, jx)] → a picture. `outer` and `inner`
 * are the edges of the two squares (inner 1 where there is one). */
static void scatter(const float *from, size_t grid, size_t outer, size_t inner, float *out)
{
    size_t cell = outer * inner, width = grid * cell;
    for (size_t i = 0; i < grid * grid; i++)
        for (size_t k = 0; k < outer * outer; k++)
            for (size_t j = 0; j < inner * inner; j++) {
                size_t y = i / grid * cell + k / outer * inner + j / inner;
                size_t x = i % grid * cell + k % outer * inner + j % inner;
                out[y * width + x] = *from++;
            }
}

/* The decoder's rows [n, 1 + grid², r] → logits [n, mask pixels]. */
static enum status upsample(const struct clipseg *clipseg, const struct compute *compute,
                            const float *x, size_t n, float *out, struct error *err)
{
    size_t r = clipseg->config.reduce_dim, grid = clipseg->config.grid, n_cells = grid * grid;
    size_t step = clipseg->step, n_sub = step * step, n_all = n * n_cells;
    bool is_complex = clipseg->config.is_complex;
    size_t n_pixels = n_cells * n_sub * (is_complex ? n_sub : 1);
    float *cells = arena_array(compute->scratch, n_all, r * sizeof(float));
    float *pixels = arena_array(compute->scratch, n, n_pixels * sizeof(float));
    if (!cells || !pixels)
        return error_no_memory(err, "a batch of masks");
    for (size_t i = 0; i < n; i++)
        memcpy(cells + i * n_cells * r, x + (i * (n_cells + 1) + 1) * r,
               n_cells * r * sizeof(float));
    if (is_complex) {
        float *wide = arena_array(compute->scratch, n_all, 9 * r * sizeof(float));
        float *fine = arena_array(compute->scratch, n_all * n_sub, r / 2 * sizeof(float));
        if (!wide || !fine)
            return error_no_memory(err, "a batch of masks");
        for (size_t i = 0; i < n; i++)
            gather_neighbours(cells + i * n_cells * r, grid, r, wide + i * n_cells * 9 * r);
        nn_linear(compute, &clipseg->smooth.linear, wide, n_all, ACTIVATION_RELU, NULL, cells);
        nn_linear(compute, &clipseg->enlarge.linear, cells, n_all, ACTIVATION_RELU, NULL, fine);
        nn_linear(compute, &clipseg->enlarge2.linear, fine, n_all * n_sub, ACTIVATION_NONE, NULL,
                  pixels);
    } else {
        nn_linear(compute, &clipseg->enlarge.linear, cells, n_all, ACTIVATION_NONE, NULL, pixels);
    }
    for (size_t i = 0; i < n; i++)
        scatter(pixels + i * n_pixels, grid, step, is_complex ? step : 1, out + i * n_pixels);
    return STATUS_OK;
}

static enum status clipseg_score_pairs(const struct model *model, const struct compute *compute,
                                       enum task task, const struct pair *pairs, size_t n,
                                       float *out, struct error *err)
{
    (void)task;
    const struct clipseg *clipseg = model->state;
    const struct clipseg_config *config = &clipseg->config;
    size_t r = config->reduce_dim, e = config->projection_dim, n_rows = rows_of(clipseg);
    size_t *each = arena_array(compute->scratch, n, sizeof *each);
    float *conditions = arena_array(compute->scratch, n, (e + 2 * r) * sizeof(float));
    float *x = arena_array(compute->scratch, n * n_rows, r * sizeof(float));
    if (!each || !conditions || !x)
        return error_no_memory(err, "a batch of prompts");

    /* 1. The conditions. */
    float *mul = conditions + n * e, *add = mul + n * r;
    for (size_t i = 0; i < n; i++) {
        const float *condition = pairs[i].text_embedding;
        if (!pairs[i].text) {
            if (pairs[i].n_images != 2)
                return error_set(err, STATUS_UNPROCESSABLE,
                                 "there is neither a text nor an example");
            condition = pairs[i].images[1]->rows + config->depth * n_rows * r;
        }
        memcpy(conditions + i * e, condition, e * sizeof(float));
        each[i] = n_rows;
    }
    nn_linear(compute, &clipseg->film_mul, conditions, n, ACTIVATION_NONE, NULL, mul);
    nn_linear(compute, &clipseg->film_add, conditions, n, ACTIVATION_NONE, NULL, add);

    /* 2. The decoder. */
    struct mixing mixing = {clipseg, pairs, n, mul, add};
    const struct encoder_tap tap = {mix_in_next, &mixing};
    mix_in(&mixing, 0, x);
    enum status status =
        encoder_forward_tapped(&clipseg->decoder, compute, x, each, n, NULL, NULL, &tap, err);

    /* 3. Back to pixels. */
    if (!status)
        status = upsample(clipseg, compute, x, n, out, err);
    return status;
}

const struct architecture clipseg_architecture = {
    .name = "CLIPSegForImageSegmentation",
    .summary = "CLIPSeg: masks of what texts or an example picture show",
    .tasks = TASK_BIT(SEGMENT),
    .load = clipseg_load,
    .free = clipseg_free,
    .encode_images = clipseg_encode_images,
    .encode_texts = clipseg_encode_texts,
    .score_pairs = clipseg_score_pairs,
};
