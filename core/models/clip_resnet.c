/*
 * clip_resnet.c: see clip_resnet.h. Feature maps are channels-last, so that the last one is the
 * attention pooling's rows as it lies. Large batches go through the convolutions in parts, whose
 * maps are bounded; the pooling takes all of a part at once.
 */
#include "core/models/clip_resnet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

enum {
    CHANNELS = 3,
    EXPANSION = 4,
    BLOCKS_MAX = 512,      /* of a stage */
    PART_FLOATS = 1 << 22, /* of one map of a part: 16 MiB */
};
static const float norm_eps = 1e-5f;

/* ---- weights -----------------------------------------------------------------------------------
 */

static size_t half_size(const struct clip_resnet_config *config)
{
    return conv2d_out_size(config->image_size, 3, 2, 1);
}

static size_t last_grid(const struct clip_resnet_config *config)
{
    size_t size = half_size(config) / 2;
    for (size_t i = 1; i < CLIP_RESNET_STAGES; i++)
        size /= 2;
    return size;
}

static void bind_conv(struct binder *binder, struct conv2d *out, size_t n_out, size_t n_in,
                      size_t kernel, size_t stride, const char *prefix, const char *conv,
                      const char *norm)
{
    char conv_name[96], norm_name[96];
    snprintf(conv_name, sizeof conv_name, "%s.%s", prefix, conv);
    snprintf(norm_name, sizeof norm_name, "%s.%s", prefix, norm);
    bind_conv_norm(binder, out,
                   (struct conv2d_shape){n_out, n_in, kernel, kernel, stride, kernel / 2}, norm_eps,
                   conv_name, norm_name);
}

static void bind_block(struct binder *binder, struct clip_resnet_block *block, size_t n_in,
                       size_t planes, size_t stride, const char *prefix)
{
    size_t n_out = EXPANSION * planes;
    block->stride = stride;
    bind_conv(binder, &block->conv1, planes, n_in, 1, 1, prefix, "conv1", "bn1");
    bind_conv(binder, &block->conv2, planes, planes, 3, 1, prefix, "conv2", "bn2");
    bind_conv(binder, &block->conv3, n_out, planes, 1, 1, prefix, "conv3", "bn3");
    if (stride > 1 || n_in != n_out)
        bind_conv(binder, &block->downsample, n_out, n_in, 1, 1, prefix, "downsample.0",
                  "downsample.1");
}

static void bind_stages(struct binder *binder, struct clip_resnet *resnet)
{
    const struct clip_resnet_config *config = &resnet->config;
    struct clip_resnet_block *block = resnet->blocks;
    size_t n_in = config->width, planes = config->width;
    for (size_t stage = 0; stage < CLIP_RESNET_STAGES; stage++, planes *= 2)
        for (size_t i = 0; i < config->n_blocks[stage]; i++, block++) {
            char prefix[64];
            snprintf(prefix, sizeof prefix, "visual.layer%zu.%zu", stage + 1, i);
            bind_block(binder, block, n_in, planes, stage && i == 0 ? 2 : 1, prefix);
            n_in = EXPANSION * planes;
        }
}

/* One query a picture asks all of its rows, so neither keys nor values have to be made:
 *   q_h · (K_h x_j + k_h) = (K_hᵀ q_h) · x_j + a constant, which softmax takes away,
 *   Σ a_j (V_h x_j + v_h) = V_h (Σ a_j x_j) + v_h, as the a_j sum to 1. */
static void bind_pooling(struct binder *binder, struct clip_resnet *resnet, size_t dim)
{
    static const char *const value_weight = "visual.attnpool.v_proj.weight";
    static const char *const value_bias = "visual.attnpool.v_proj.bias";
    size_t n_heads = resnet->config.n_heads, head_dim = dim / n_heads;
    const float *unused;
    resnet->asks = calloc(n_heads, sizeof *resnet->asks);
    resnet->values = calloc(n_heads, sizeof *resnet->values);
    if (!resnet->asks || !resnet->values) {
        bind_fault(binder, "out of memory for %zu attention heads", n_heads);
        return;
    }
    bind_linear(binder, &resnet->q, dim, dim, true, "visual.attnpool.q_proj");
    bind_tensor(binder, &resnet->key_weight, (const size_t[]){dim, dim, 0},
                "visual.attnpool.k_proj.weight");
    bind_tensor(binder, &unused, (const size_t[]){dim, 0}, "visual.attnpool.k_proj.bias");
    for (size_t h = 0; h < n_heads; h++)
        bind_linear_rows(binder, &resnet->values[h], dim, h * head_dim, head_dim, dim, value_weight,
                         value_bias);
    bind_linear(binder, &resnet->out, resnet->config.out_dim, dim, true, "visual.attnpool.c_proj");
}

void clip_resnet_bind(struct binder *binder, struct clip_resnet *resnet,
                      const struct clip_resnet_config *config)
{
    *resnet = (struct clip_resnet){.config = *config, .grid = last_grid(config)};
    size_t width = config->width, dim = 32 * width;
    for (size_t i = 0; i < CLIP_RESNET_STAGES; i++) {
        if (config->n_blocks[i] > BLOCKS_MAX) {
            bind_fault(binder, "a stage of %zu blocks is too long", config->n_blocks[i]);
            return;
        }
        resnet->n_blocks += config->n_blocks[i];
    }
    if (resnet->grid == 0 || resnet->grid != config->image_size / 32) {
        bind_fault(binder, "pictures of %zu pixels do not go with a ResNet", config->image_size);
        return;
    }
    if (width < 2 || config->n_heads == 0 || dim % config->n_heads) {
        bind_fault(binder, "a ResNet of width %zu with %zu attention heads is not possible", width,
                   config->n_heads);
        return;
    }
    resnet->blocks = calloc(resnet->n_blocks, sizeof *resnet->blocks);
    if (!resnet->blocks) {
        bind_fault(binder, "out of memory for %zu blocks", resnet->n_blocks);
        return;
    }
    bind_conv(binder, &resnet->stem[0], width / 2, CHANNELS, 3, 2, "visual", "conv1", "bn1");
    bind_conv(binder, &resnet->stem[1], width / 2, width / 2, 3, 1, "visual", "conv2", "bn2");
    bind_conv(binder, &resnet->stem[2], width, width / 2, 3, 1, "visual", "conv3", "bn3");
    bind_stages(binder, resnet);
    bind_tensor(binder, &resnet->positions,
                (const size_t[]){resnet->grid * resnet->grid + 1, dim, 0},
                "visual.attnpool.positional_embedding");
    bind_pooling(binder, resnet, dim);
}

enum status clip_resnet_prepare(struct clip_resnet *resnet, struct error *err)
{
    size_t dim = resnet->q.n_in, n_heads = resnet->config.n_heads, head_dim = dim / n_heads;
    float *to = resnet->turned = alloc_array(dim, dim * sizeof *to);
    if (!to)
        return error_no_memory(err, "a weight");
    for (size_t h = 0; h < n_heads; h++, to += dim * head_dim) {
        const float *from = resnet->key_weight + h * head_dim * dim;
        for (size_t d = 0; d < head_dim; d++)
            for (size_t i = 0; i < dim; i++)
                to[i * head_dim + d] = from[d * dim + i];
        enum status status = linear_init(&resnet->asks[h], to, DTYPE_F32, NULL, dim, head_dim, err);
        if (status)
            return status;
    }
    return STATUS_OK;
}

void clip_resnet_release(struct clip_resnet *resnet)
{
    for (size_t h = 0; resnet->asks && h < resnet->config.n_heads; h++)
        linear_release(&resnet->asks[h]);
    free(resnet->asks);
    free(resnet->values);
    free(resnet->turned);
    free(resnet->blocks);
    *resnet = (struct clip_resnet){0};
}

/* ---- forward -----------------------------------------------------------------------------------
 */

/* A part of the batch under way: `x` holds its feature map [n, size, size, channels]. */
struct part {
    const struct compute *compute;
    size_t n, size;
    float *x, *a, *b, *c; /* room for the largest map each */
};

static void swap(float **x, float **y)
{
    float *held = *x;
    *x = *y;
    *y = held;
}

/* Three convolutions, the first of stride 2, then 2 × 2 average pooling. */
static enum status stem_forward(const struct clip_resnet *resnet, struct part *part,
                                const struct pixels *const *pixels, struct error *err)
{
    const struct compute *compute = part->compute;
    size_t whole = resnet->config.image_size, half = half_size(&resnet->config), n = part->n;
    const float **pictures = arena_array(compute->scratch, n, sizeof *pictures);
    if (!pictures)
        return error_no_memory(err, "a batch of pictures");
    for (size_t i = 0; i < n; i++)
        pictures[i] = pixels[i]->data;
    nn_channels_last(compute, pictures, n, CHANNELS, whole, whole, part->x);
    enum status status = nn_conv2d(compute, &resnet->stem[0], part->x, n, whole, whole,
                                   ACTIVATION_RELU, NULL, part->a, err);
    if (!status)
        status = nn_conv2d(compute, &resnet->stem[1], part->a, n, half, half, ACTIVATION_RELU, NULL,
                           part->b, err);
    if (!status)
        status = nn_conv2d(compute, &resnet->stem[2], part->b, n, half, half, ACTIVATION_RELU, NULL,
                           part->a, err);
    if (status)
        return status;
    nn_avg_pool2d(compute, part->a, n, half, half, resnet->config.width, 2, 2, part->x);
    part->size = half / 2;
    return STATUS_OK;
}

/* relu(conv3(pool(relu(conv2(relu(conv1(x)))))) + downsample(pool(x))) */
static enum status block_forward(const struct clip_resnet_block *block, struct part *part,
                                 struct error *err)
{
    const struct compute *compute = part->compute;
    size_t n = part->n, size = part->size, planes = block->conv1.shape.n_out;
    enum status status = nn_conv2d(compute, &block->conv1, part->x, n, size, size, ACTIVATION_RELU,
                                   NULL, part->a, err);
    if (!status)
        status = nn_conv2d(compute, &block->conv2, part->a, n, size, size, ACTIVATION_RELU, NULL,
                           part->b, err);
    if (status)
        return status;
    size_t pooled = size / block->stride;
    const float *input = part->x;
    if (block->stride > 1) {
        nn_avg_pool2d(compute, part->b, n, size, size, planes, block->stride, block->stride,
                      part->a);
        nn_avg_pool2d(compute, part->x, n, size, size, block->conv1.shape.n_in, block->stride,
                      block->stride, part->b);
        input = part->b;
    } else {
        swap(&part->a, &part->b);
    }
    if (block->downsample.shape.n_out) {
        status = nn_conv2d(compute, &block->downsample, input, n, pooled, pooled, ACTIVATION_NONE,
                           NULL, part->c, err);
        swap(&part->x, &part->c);
    }
    if (!status)
        status = nn_conv2d(compute, &block->conv3, part->a, n, pooled, pooled, ACTIVATION_RELU,
                           part->x, part->x, err);
    part->size = pooled;
    return status;
}

/* The mean of each picture's rows, then the rows themselves, with their positions:
 * x [n, grid², dim] → rows [n, 1 + grid², dim] */
static void place_rows(const struct clip_resnet *resnet, const float *x, size_t n, float *rows)
{
    size_t dim = resnet->q.n_in, n_cells = resnet->grid * resnet->grid;
    for (size_t i = 0; i < n; i++, rows += dim * (n_cells + 1), x += dim * n_cells) {
        memset(rows, 0, dim * sizeof *rows);
        for (size_t cell = 0; cell < n_cells; cell++)
            for (size_t d = 0; d < dim; d++)
                rows[d] += x[cell * dim + d];
        for (size_t d = 0; d < dim; d++)
            rows[d] = rows[d] / (float)n_cells + resnet->positions[d];
        for (size_t f = 0; f < n_cells * dim; f++)
            rows[dim + f] = x[f] + resnet->positions[dim + f];
    }
}

/* x [n, dim] through one layer per head: the heads' columns of from → the rows of to, or back. */
static void each_head(const struct compute *compute, const struct linear *layers, size_t n_heads,
                      const float *from, size_t from_row, size_t from_head, size_t n, float *in,
                      float *result, float *to, size_t to_row, size_t to_head)
{
    for (size_t h = 0; h < n_heads; h++) {
        size_t n_in = layers[h].n_in, n_out = layers[h].n_out;
        for (size_t i = 0; i < n; i++)
            memcpy(in + i * n_in, from + i * from_row + h * from_head, n_in * sizeof *in);
        nn_linear(compute, &layers[h], in, n, ACTIVATION_NONE, NULL, result);
        for (size_t i = 0; i < n; i++)
            memcpy(to + i * to_row + h * to_head, result + i * n_out, n_out * sizeof *to);
    }
}

/* Attention pooling: the mean's row asks all rows (see bind_pooling). → out [n, out_dim] */
static enum status pool(const struct clip_resnet *resnet, const struct part *part, float *out,
                        struct error *err)
{
    enum { HEADS_EACH = 8 }; /* in one item of the attention, so that threads can share it */
    const struct compute *compute = part->compute;
    size_t n = part->n, dim = resnet->q.n_in, n_rows = resnet->grid * resnet->grid + 1;
    size_t n_heads = resnet->config.n_heads, head_dim = dim / n_heads;
    size_t n_groups = (n_heads + HEADS_EACH - 1) / HEADS_EACH;
    struct arena *scratch = compute->scratch;
    float *rows = arena_array(scratch, n * n_rows, dim * sizeof *rows);
    float *means = arena_array(scratch, n, dim * sizeof *means);
    float *q = arena_array(scratch, n, dim * sizeof *q);
    float *asked = arena_array(scratch, n * n_heads, dim * sizeof *asked);
    float *answers = arena_array(scratch, n * n_heads, dim * sizeof *answers);
    float *one = arena_array(scratch, n, dim * sizeof *one);
    struct attention_item *items = arena_array(scratch, n * n_groups, sizeof *items);
    if (!rows || !means || !q || !asked || !answers || !one || !items)
        return error_no_memory(err, "a forward pass's activations");
    place_rows(resnet, part->x, n, rows);
    for (size_t i = 0; i < n; i++)
        memcpy(means + i * dim, rows + i * n_rows * dim, dim * sizeof *means);

    /* 1. What each head asks for, in the rows' own terms. */
    nn_linear(compute, &resnet->q, means, n, ACTIVATION_NONE, NULL, q);
    each_head(compute, resnet->asks, n_heads, q, dim, head_dim, n, means, one, asked, n_heads * dim,
              dim);
    /* 2. The rows, weighted: one head of width dim, whose queries are the heads. */
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < n_groups; g++) {
            size_t first = g * HEADS_EACH, at = (i * n_heads + first) * dim;
            items[i * n_groups + g] = (struct attention_item){
                .q = asked + at,
                .n_q = n_heads - first < HEADS_EACH ? n_heads - first : HEADS_EACH,
                .q_stride = dim,
                .k = rows + i * n_rows * dim,
                .v = rows + i * n_rows * dim,
                .n_kv = n_rows,
                .kv_stride = dim,
                .out = answers + at,
                .out_stride = dim};
        }
    struct attention_shape shape = {1, 1, dim, 1 / sqrtf((float)head_dim), false};
    enum status status = nn_attention(compute, &shape, items, n * n_groups, err);
    if (status)
        return status;
    /* 3. The values of that, and out. */
    each_head(compute, resnet->values, n_heads, answers, n_heads * dim, dim, n, one, means, q, dim,
              head_dim);
    nn_linear(compute, &resnet->out, q, n, ACTIVATION_NONE, NULL, out);
    return STATUS_OK;
}

/* Floats of the largest map of one picture: the picture itself or what leaves the stem. */
static bool largest_map(const struct clip_resnet_config *config, size_t *out)
{
    size_t whole = config->image_size, half = half_size(config), input, stem;
    if (!size_mul(whole, whole, &input) || !size_mul(input, CHANNELS, &input) ||
        !size_mul(half, half, &stem) || !size_mul(stem, config->width, &stem))
        return false;
    *out = input > stem ? input : stem;
    return true;
}

enum status clip_resnet_forward(const struct clip_resnet *resnet, const struct compute *compute,
                                const struct pixels *const *pixels, size_t n, float *out,
                                struct error *err)
{
    size_t size = resnet->config.image_size, n_floats;
    for (size_t i = 0; i < n; i++)
        if (pixels[i]->height != size || pixels[i]->width != size)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "a picture of %zu x %zu pixels; the model takes %zu x %zu",
                             pixels[i]->width, pixels[i]->height, size, size);
    if (!largest_map(&resnet->config, &n_floats))
        return error_no_memory(err, "a forward pass's activations");
    size_t n_part = n_floats < PART_FLOATS ? PART_FLOATS / n_floats : 1;
    if (n_part > n)
        n_part = n;
    struct part part = {.compute = compute};
    float **maps[] = {&part.x, &part.a, &part.b, &part.c};
    for (size_t i = 0; i < ARRAY_LENGTH(maps); i++)
        if (!(*maps[i] = arena_array(compute->scratch, n_part, n_floats * sizeof(float))))
            return error_no_memory(err, "a forward pass's activations");
    enum status status = STATUS_OK;
    for (size_t first = 0; first < n && !status; first += n_part) {
        part.n = n - first < n_part ? n - first : n_part;
        status = stem_forward(resnet, &part, pixels + first, err);
        for (size_t i = 0; i < resnet->n_blocks && !status; i++)
            status = block_forward(&resnet->blocks[i], &part, err);
        if (!status)
            status = pool(resnet, &part, out + first * resnet->config.out_dim, err);
    }
    return status;
}
