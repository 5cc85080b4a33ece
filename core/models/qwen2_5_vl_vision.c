/*
 * qwen2_5_vl_vision.c: see qwen2_5_vl_vision.h.
 *
 * Rows are kept in the order in which layers want them: window after window, in a window cell after
 * cell (a cell is the merge × merge patches that become one row), in a cell patch after patch, each
 * in reading order. So windows, and at the end cells, are runs of rows; only the merged rows are
 * put back into reading order.
 */
#include "core/models/qwen2_5_vl_vision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/llama.h"
#include "core/models/models_internal.h"
#include "core/nn/rotary.h"

static const float norm_eps = 1e-6f; /* not in any configuration */

/* ---- configuration -----------------------------------------------------------------------------
 */

static enum status read_full_layers(const json_t *json, struct qwen_vision_config *config,
                                    struct error *err)
{
    static const size_t defaults[] = {7, 15, 23, 31};
    const json_t *list = json_object_get(json, "fullatt_block_indexes");
    bool is_given = list && !json_is_null(list);
    if (is_given && !json_is_array(list))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key 'fullatt_block_indexes': expected a list of layers");
    for (size_t i = 0; !is_given && i < ARRAY_LENGTH(defaults); i++)
        config->sees_all[defaults[i]] = true;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *index = json_array_get(list, i);
        if (!json_is_integer(index))
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "config key 'fullatt_block_indexes': expected a list of layers");
        json_int_t at = json_integer_value(index); /* one that is no layer's names none */
        if (at >= 0 && at < QWEN_LAYERS_MAX)
            config->sees_all[at] = true;
    }
    return STATUS_OK;
}

static enum status check_sizes(const struct qwen_vision_config *config, struct error *err)
{
    enum { PATCH_MAX = 1024, FRAMES_MAX = 64, MERGE_MAX = 16 };
    if (config_check_layers(config->dim, config->n_heads, config->n_layers, err))
        return error_prefix(err, "vision_config");
    if (config->dim / config->n_heads % 4)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "vision_config: heads of %zu features cannot be turned by rows and "
                         "columns, only multiples of 4",
                         config->dim / config->n_heads);
    if (config->patch_size > PATCH_MAX || config->n_frames > FRAMES_MAX ||
        config->merge > MERGE_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "vision_config: patches of %zu frames of %zu pixels, of which %zu x %zu "
                         "are merged, are too large",
                         config->n_frames, config->patch_size, config->merge, config->merge);
    if (config->window / config->merge / config->patch_size == 0)
        return error_set(
            err, STATUS_BAD_CHECKPOINT,
            "vision_config: 'window_size' %zu is smaller than %zu x %zu patches of %zu "
            "pixels",
            config->window, config->merge, config->merge, config->patch_size);
    if (!(config->rope_theta > 0) || isinf(config->rope_theta))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "vision_config: 'rope_theta' must be a positive number");
    return STATUS_OK;
}

enum status qwen_vision_config_load(const json_t *json, struct qwen_vision_config *config,
                                    struct error *err)
{
    struct qwen_vision_config loaded = {
        .n_layers = 32,
        .dim = 3584,
        .n_heads = 16,
        .mlp_dim = 3420,
        .out_dim = 3584,
        .activation = ACTIVATION_SILU,
        .patch_size = 14,
        .n_frames = 2,
        .merge = 2,
        .window = 112,
        .rope_theta = 10000,
    };
    size_t n_channels = 3;
    const json_t *rope = NULL;
    struct {
        const char *key;
        size_t *out;
    } sizes[] = {
        {"depth", &loaded.n_layers},
        {"hidden_size", &loaded.dim},
        {"num_heads", &loaded.n_heads},
        {"intermediate_size", &loaded.mlp_dim},
        {"out_hidden_size", &loaded.out_dim},
        {"patch_size", &loaded.patch_size},
        {"temporal_patch_size", &loaded.n_frames},
        {"spatial_merge_size", &loaded.merge},
        {"window_size", &loaded.window},
        {"in_channels", &n_channels},
        {"in_chans", &n_channels}, /* its name in the published files */
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !status; i++)
        status = config_size(json, sizes[i].key, sizes[i].out, err);
    if (!status)
        status = config_activation(json, "hidden_act", &loaded.activation, err);
    if (!status)
        status = config_object(json, "rope_parameters", &rope, err);
    if (!status)
        status = config_float(rope, "rope_theta", &loaded.rope_theta, err);
    if (!status)
        status = read_full_layers(json, &loaded, err);
    if (!status && n_channels != 3)
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "vision_config: 'in_channels' is %zu, only 3 is supported", n_channels);
    if (!status)
        status = check_sizes(&loaded, err);
    if (!status)
        *config = loaded;
    return status;
}

/* ---- binding -----------------------------------------------------------------------------------
 */

void qwen_vision_bind(struct binder *binder, struct qwen_vision *vision,
                      const struct qwen_vision_config *config, const char *prefix)
{
    size_t dim = config->dim, merged = config->merge * config->merge * dim;
    char name[128];
    *vision = (struct qwen_vision){.config = *config,
                                   .layers = calloc(config->n_layers, sizeof *vision->layers)};
    if (!vision->layers) {
        bind_fault(binder, "out of memory for %zu layers", config->n_layers);
        return;
    }
    snprintf(name, sizeof name, "%spatch_embed.proj", prefix);
    bind_frames_linear(binder, &vision->patches, dim, 3, config->n_frames, config->patch_size,
                       name);
    for (size_t i = 0; i < config->n_layers; i++) {
        struct qwen_vision_layer *layer = &vision->layers[i];
        snprintf(name, sizeof name, "%sblocks.%zu", prefix, i);
        bind_rms_norm(binder, &layer->norm1, dim, norm_eps, "%s.norm1", name);
        bind_linear(binder, &layer->qkv, 3 * dim, dim, true, "%s.attn.qkv", name);
        bind_linear(binder, &layer->out, dim, dim, true, "%s.attn.proj", name);
        bind_rms_norm(binder, &layer->norm2, dim, norm_eps, "%s.norm2", name);
        bind_linear(binder, &layer->gate, config->mlp_dim, dim, true, "%s.mlp.gate_proj", name);
        bind_linear(binder, &layer->up, config->mlp_dim, dim, true, "%s.mlp.up_proj", name);
        bind_linear(binder, &layer->down, dim, config->mlp_dim, true, "%s.mlp.down_proj", name);
    }
    bind_rms_norm(binder, &vision->merge_norm, dim, norm_eps, "%smerger.ln_q", prefix);
    bind_linear(binder, &vision->merge1, merged, merged, true, "%smerger.mlp.0", prefix);
    bind_linear(binder, &vision->merge2, config->out_dim, merged, true, "%smerger.mlp.2", prefix);
}

void qwen_vision_release(struct qwen_vision *vision)
{
    free(vision->layers);
    vision->layers = NULL;
}

/* ---- the order of patches ----------------------------------------------------------------------
 */

/* A picture's place in a pass. */
struct view {
    const struct pixels *pixels;
    size_t height, width; /* in cells */
    size_t n_windows;
    size_t first; /* its first row of all */
};

struct pass {
    const struct qwen_vision *vision;
    const struct compute *compute;
    struct view *views;
    size_t n_views, n_rows, n_windows;
    size_t *cells; /* [n_rows / merge²] in the pass's order: the cell within its picture */
    float *cosines, *sines; /* [n_rows, head_dim / 2] */
    float *x, *normed;      /* [n_rows, dim] */
    float *qkv;             /* [n_rows, 3 dim] */
    float *wide;            /* the MLP's */
    /* Runs of rows that see each other. */
    struct attention_item *windows, *wholes; /* [n_windows], [n_views] */
};

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static enum status measure(struct pass *pass, const struct pixels *const *pixels, struct error *err)
{
    const struct qwen_vision_config *config = &pass->vision->config;
    size_t edge = config->patch_size * config->merge;
    size_t window = config->window / edge; /* in cells */
    for (size_t i = 0; i < pass->n_views; i++) {
        struct view *view = &pass->views[i];
        if (!pixels[i]->height || !pixels[i]->width || pixels[i]->height % edge ||
            pixels[i]->width % edge)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "a picture of %zu x %zu pixels is not a multiple of %zu x %zu",
                             pixels[i]->width, pixels[i]->height, edge, edge);
        *view = (struct view){.pixels = pixels[i],
                              .height = pixels[i]->height / edge,
                              .width = pixels[i]->width / edge,
                              .first = pass->n_rows};
        view->n_windows = ceil_div(view->height, window) * ceil_div(view->width, window);
        pass->n_rows += view->height * view->width * config->merge * config->merge;
        pass->n_windows += view->n_windows;
    }
    return STATUS_OK;
}

/* Fills a view's part of pass->cells, and what its windows are. */
static void order_cells(const struct pass *pass, const struct view *view,
                        struct attention_item *windows)
{
    const struct qwen_vision_config *config = &pass->vision->config;
    size_t unit = config->merge * config->merge;
    size_t window = config->window / (config->patch_size * config->merge);
    size_t *cells = pass->cells + view->first / unit, n = 0;
    for (size_t top = 0; top < view->height; top += window)
        for (size_t left = 0; left < view->width; left += window) {
            size_t begin = n;
            for (size_t y = top; y < top + window && y < view->height; y++)
                for (size_t x = left; x < left + window && x < view->width; x++)
                    cells[n++] = y * view->width + x;
            size_t dim = config->dim;
            const float *qkv = pass->qkv + (view->first + begin * unit) * 3 * dim;
            *windows++ =
                (struct attention_item){.q = qkv,
                                        .n_q = (n - begin) * unit,
                                        .q_stride = 3 * dim,
                                        .k = qkv + dim,
                                        .v = qkv + 2 * dim,
                                        .n_kv = (n - begin) * unit,
                                        .kv_stride = 3 * dim,
                                        .out = pass->normed + (view->first + begin * unit) * dim,
                                        .out_stride = dim};
        }
}

/* One cell's patches as rows of [3, n_frames, patch, patch], the frames alike. */
static void gather_cell(const struct qwen_vision_config *config, const struct view *view,
                        size_t cell, float *out)
{
    size_t p = config->patch_size, m = config->merge;
    const struct pixels *pixels = view->pixels;
    size_t top = cell / view->width * m * p, left = cell % view->width * m * p;
    for (size_t patch = 0; patch < m * m; patch++)
        for (size_t channel = 0; channel < 3; channel++) {
            const float *from = pixels->data +
                                (channel * pixels->height + top + patch / m * p) * pixels->width +
                                left + patch % m * p;
            for (size_t frame = 0; frame < config->n_frames; frame++)
                for (size_t y = 0; y < p; y++, out += p)
                    memcpy(out, from + y * pixels->width, p * sizeof *out);
        }
}

/* All patches through the patch embedding → x, a stretch at a time: patches are wider than x. */
static enum status embed_patches(const struct pass *pass, struct error *err)
{
    enum { STRETCH_ROWS = 1024 };
    const struct qwen_vision *vision = pass->vision;
    const struct qwen_vision_config *config = &vision->config;
    size_t unit = config->merge * config->merge, n_in = vision->patches.n_in;
    size_t n_cells = pass->n_rows / unit, most = STRETCH_ROWS / unit ? STRETCH_ROWS / unit : 1;
    most = n_cells < most ? n_cells : most;
    float *rows = arena_array(pass->compute->scratch, most * unit, n_in * sizeof *rows);
    if (!rows)
        return error_no_memory(err, "a batch of pictures");
    const struct view *view = pass->views;
    for (size_t at = 0; at < n_cells; at += most) {
        size_t n = n_cells - at < most ? n_cells - at : most;
        for (size_t i = 0; i < n; i++) {
            while (at + i >= view->first / unit + view->height * view->width)
                view++;
            gather_cell(config, view, pass->cells[at + i], rows + i * unit * n_in);
        }
        nn_linear(pass->compute, &vision->patches, rows, n * unit, ACTIVATION_NONE, NULL,
                  pass->x + at * unit * config->dim);
    }
    return STATUS_OK;
}

/* Half of a head's pairs turn by the row, half by the column. */
static enum status turn_tables(const struct pass *pass, struct error *err)
{
    const struct qwen_vision_config *config = &pass->vision->config;
    size_t m = config->merge, unit = m * m, quarter = config->dim / config->n_heads / 4;
    size_t n_cells = pass->n_rows / unit;
    float *positions = arena_array(pass->compute->scratch, 2 * pass->n_rows, sizeof *positions);
    if (!positions)
        return error_no_memory(err, "a batch of pictures");
    const struct view *view = pass->views;
    for (size_t i = 0; i < n_cells; i++) {
        while (i >= view->first / unit + view->height * view->width)
            view++;
        for (size_t patch = 0; patch < unit; patch++) {
            size_t row = i * unit + patch, cell = pass->cells[i];
            positions[row] = (float)(cell / view->width * m + patch / m);
            positions[pass->n_rows + row] = (float)(cell % view->width * m + patch % m);
        }
    }
    /* each of the two as over a head of half the features */
    nn_rotary_table_axes(positions, pass->n_rows, 2, 2 * quarter, config->rope_theta, pass->cosines,
                         pass->sines);
    return STATUS_OK;
}

static enum status pass_init(struct pass *pass, const struct pixels *const *pixels,
                             struct error *err)
{
    const struct qwen_vision_config *config = &pass->vision->config;
    struct arena *scratch = pass->compute->scratch;
    size_t dim = config->dim, head_dim = dim / config->n_heads;
    pass->views = arena_array(scratch, pass->n_views, sizeof *pass->views);
    if (!pass->views)
        return error_no_memory(err, "a batch of pictures");
    if (measure(pass, pixels, err))
        return err->status;
    size_t n = pass->n_rows, unit = config->merge * config->merge;
    pass->cells = arena_array(scratch, n / unit, sizeof *pass->cells);
    pass->cosines = arena_array(scratch, n, head_dim / 2 * sizeof(float));
    pass->sines = arena_array(scratch, n, head_dim / 2 * sizeof(float));
    pass->x = arena_array(scratch, n, dim * sizeof(float));
    pass->normed = arena_array(scratch, n, dim * sizeof(float));
    pass->qkv = arena_array(scratch, n, 3 * dim * sizeof(float));
    pass->wide = gated_mlp_scratch(pass->compute, n, config->mlp_dim);
    pass->windows = arena_array(scratch, pass->n_windows, sizeof *pass->windows);
    pass->wholes = arena_array(scratch, pass->n_views, sizeof *pass->wholes);
    if (!pass->cells || !pass->cosines || !pass->sines || !pass->x || !pass->normed || !pass->qkv ||
        !pass->wide || !pass->windows || !pass->wholes)
        return error_no_memory(err, "a batch of pictures");
    struct attention_item *windows = pass->windows;
    for (size_t i = 0; i < pass->n_views; windows += pass->views[i++].n_windows) {
        const struct view *view = &pass->views[i];
        order_cells(pass, view, windows);
        pass->wholes[i] = windows[0]; /* the same beginning, but all rows */
        pass->wholes[i].n_q = pass->wholes[i].n_kv = view->height * view->width * unit;
    }
    enum status status = turn_tables(pass, err);
    return status ? status : embed_patches(pass, err);
}

/* ---- layers ------------------------------------------------------------------------------------
 */

static enum status layer_forward(const struct pass *pass, size_t i, struct error *err)
{
    const struct qwen_vision_config *config = &pass->vision->config;
    const struct qwen_vision_layer *layer = &pass->vision->layers[i];
    const struct compute *compute = pass->compute;
    size_t dim = config->dim, n = pass->n_rows, head_dim = dim / config->n_heads;
    bool sees_all = config->sees_all[i];

    /* 1. x += out(attention within windows, or all) */
    nn_rms_norm(compute, &layer->norm1, pass->x, n, pass->normed);
    nn_linear(compute, &layer->qkv, pass->normed, n, ACTIVATION_NONE, NULL, pass->qkv);
    for (size_t part = 0; part < 2; part++) /* queries, keys */
        nn_rotary(compute, ROTARY_HALVES, pass->qkv + part * dim, n, 3 * dim, config->n_heads,
                  head_dim, head_dim, pass->cosines, pass->sines);
    struct attention_shape shape = {config->n_heads, config->n_heads,
                                    head_dim,        1 / sqrtf((float)head_dim),
                                    false,           layer->out.form};
    if (nn_attention(compute, &shape, sees_all ? pass->wholes : pass->windows,
                     sees_all ? pass->n_views : pass->n_windows, err))
        return err->status;
    nn_linear(compute, &layer->out, pass->normed, n, ACTIVATION_NONE, pass->x, pass->x);

    /* 2. x += mlp(norm2(x)) */
    struct gated_mlp mlp = {&layer->gate, &layer->up, &layer->down, config->activation};
    nn_rms_norm(compute, &layer->norm2, pass->x, n, pass->normed);
    gated_mlp_forward(&mlp, compute, pass->normed, n, pass->wide, pass->x);
    return STATUS_OK;
}

/* Each cell's patches → one row, put where the cell is in its picture. */
static enum status merge(const struct pass *pass, struct features **out, struct error *err)
{
    const struct qwen_vision *vision = pass->vision;
    const struct compute *compute = pass->compute;
    size_t unit = vision->config.merge * vision->config.merge, n_cells = pass->n_rows / unit;
    size_t merged = unit * vision->config.dim, dim = vision->config.out_dim;
    float *inner = arena_array(compute->scratch, n_cells, merged * sizeof *inner);
    float *rows = arena_array(compute->scratch, n_cells, dim * sizeof *rows);
    if (!inner || !rows)
        return error_no_memory(err, "a batch of pictures");
    nn_rms_norm(compute, &vision->merge_norm, pass->x, pass->n_rows, pass->normed);
    nn_linear(compute, &vision->merge1, pass->normed, n_cells, ACTIVATION_GELU, NULL, inner);
    nn_linear(compute, &vision->merge2, inner, n_cells, ACTIVATION_NONE, NULL, rows);
    for (size_t i = 0; i < pass->n_views; i++) {
        const struct view *view = &pass->views[i];
        size_t n = view->height * view->width, first = view->first / unit;
        out[i] = features_new(n, dim);
        if (!out[i]) {
            while (i-- > 0)
                features_unref(out[i]);
            return error_no_memory(err, "a picture's features");
        }
        out[i]->grid_height = view->height;
        out[i]->grid_width = view->width;
        for (size_t k = 0; k < n; k++)
            memcpy(out[i]->rows + pass->cells[first + k] * dim, rows + (first + k) * dim,
                   dim * sizeof *rows);
    }
    return STATUS_OK;
}

enum status qwen_vision_encode(const struct qwen_vision *vision, const struct compute *compute,
                               const struct pixels *const *pixels, size_t n, struct features **out,
                               struct error *err)
{
    struct pass pass = {.vision = vision, .compute = compute, .n_views = n};
    enum status status = pass_init(&pass, pixels, err);
    for (size_t i = 0; i < vision->config.n_layers && !status; i++)
        status = layer_forward(&pass, i, err);
    return status ? status : merge(&pass, out, err);
}

/* ---- pictures' sizes ---------------------------------------------------------------------------
 */

enum status qwen_smart_resize(const struct qwen_resize *resize, size_t width, size_t height,
                              size_t *out_width, size_t *out_height, struct error *err)
{
    enum { RATIO_MAX = 200 };
    size_t longer = width > height ? width : height, shorter = width > height ? height : width;
    if (!shorter || (double)longer / (double)shorter > RATIO_MAX)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu x %zu pixels is too long and narrow for this model: one "
                         "edge may be at most %d times the other",
                         width, height, RATIO_MAX);
    double factor = (double)resize->factor, h = (double)height, w = (double)width;
    double min = (double)resize->min_pixels, max = (double)resize->max_pixels;
    double new_h = rint(h / factor) * factor, new_w = rint(w / factor) * factor; /* half to even */
    if (new_h * new_w > max) {
        double beta = sqrt(h * w / max);
        new_h = fmax(factor, floor(h / beta / factor) * factor);
        new_w = fmax(factor, floor(w / beta / factor) * factor);
    } else if (new_h * new_w < min) {
        double beta = sqrt(min / (h * w));
        new_h = ceil(h * beta / factor) * factor;
        new_w = ceil(w * beta / factor) * factor;
    }
    *out_width = (size_t)new_w;
    *out_height = (size_t)new_h;
    return STATUS_OK;
}
