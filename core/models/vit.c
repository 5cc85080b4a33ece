/*
 * vit.c: see vit.h. Pictures of one size that follow each other go through the patch product
 * together.
 */
#include "core/models/vit.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"

enum { CHANNELS = 3 };

static size_t n_patches(const struct vit_embedding *embedding, const struct pixels *pixels)
{
    return (pixels->height / embedding->patch_size) * (pixels->width / embedding->patch_size);
}

const struct image_processor vit_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .default_to_square = true,
    .height = 224,
    .width = 224,
    .resample = RESAMPLE_BILINEAR,
    .rescale_factor = 1.0 / 255,
    .mean = {0.5f, 0.5f, 0.5f},
    .std = {0.5f, 0.5f, 0.5f},
};

const struct image_processor siglip_processor = {
    .do_resize = true,
    .do_rescale = true,
    .do_normalize = true,
    .height = 224,
    .width = 224,
    .resample = RESAMPLE_BICUBIC,
    .rescale_factor = 1.0f / 255,
    .mean = {0.5f, 0.5f, 0.5f},
    .std = {0.5f, 0.5f, 0.5f},
};

size_t vit_rows(const struct vit_embedding *embedding, const struct pixels *pixels)
{
    return n_patches(embedding, pixels) + (embedding->class_token ? 1 : 0);
}

enum status vit_check_rows(const struct vit_embedding *embedding,
                           const struct pixels *const *pixels, size_t n, size_t n_rows,
                           struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (vit_rows(embedding, pixels[i]) != n_rows)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "a picture of %zu x %zu pixels is not what the model takes",
                             pixels[i]->width, pixels[i]->height);
    return STATUS_OK;
}

/* n pictures of one size → x. */
static enum status embed_run(const struct vit_embedding *embedding, const struct compute *compute,
                             const struct pixels *const *pixels, size_t n, float *x,
                             struct error *err)
{
    size_t dim = embedding->dim, patches = n_patches(embedding, pixels[0]);
    size_t first = embedding->class_token ? 1 : 0, n_rows, n_floats;
    if (!size_mul(n, patches, &n_rows) || !size_mul(n_rows, embedding->patch.n_in, &n_floats))
        return error_no_memory(err, "a picture's patches");
    const float **pictures = arena_array(compute->scratch, n, sizeof *pictures);
    float *rows = arena_array(compute->scratch, n_floats, sizeof *rows);
    float *embedded = arena_array(compute->scratch, n_rows * dim, sizeof *embedded);
    if (!pictures || !rows || !embedded)
        return error_no_memory(err, "a picture's patches");
    for (size_t i = 0; i < n; i++)
        pictures[i] = pixels[i]->data;
    nn_patches(compute, pictures, n, CHANNELS, pixels[0]->height, pixels[0]->width,
               embedding->patch_size, rows);
    nn_linear(compute, &embedding->patch, rows, n_rows, ACTIVATION_NONE, NULL, embedded);

    const float *positions = embedding->positions;
    for (size_t i = 0; i < n; i++) {
        if (first)
            for (size_t d = 0; d < dim; d++)
                x[d] = embedding->class_token[d] + positions[d];
        const float *from = embedded + i * patches * dim, *add = positions + first * dim;
        float *to = x + first * dim;
        for (size_t d = 0; d < patches * dim; d++)
            to[d] = from[d] + add[d];
        x += (first + patches) * dim;
    }
    return STATUS_OK;
}

enum status vit_embed(const struct vit_embedding *embedding, const struct compute *compute,
                      const struct pixels *const *pixels, size_t n, float *x, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (vit_rows(embedding, pixels[i]) > embedding->n_positions)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "a picture of %zu x %zu pixels has %zu patches, the model has "
                             "positions for %zu",
                             pixels[i]->width, pixels[i]->height, vit_rows(embedding, pixels[i]),
                             embedding->n_positions);
    enum status status = STATUS_OK;
    for (size_t i = 0, same; i < n && !status; i += same) {
        for (same = 1; i + same < n; same++)
            if (pixels[i + same]->height != pixels[i]->height ||
                pixels[i + same]->width != pixels[i]->width)
                break;
        status = embed_run(embedding, compute, pixels + i, same, x, err);
        x += same * vit_rows(embedding, pixels[i]) * embedding->dim;
    }
    return status;
}

enum status vit_start(const struct vit_embedding *embedding, const struct compute *compute,
                      const struct pixels *const *pixels, size_t n, size_t **n_rows, float **x,
                      size_t *n_total, struct error *err)
{
    *n_rows = arena_array(compute->scratch, n, sizeof **n_rows);
    if (!*n_rows)
        return error_no_memory(err, "a batch");
    *n_total = 0;
    for (size_t i = 0; i < n; i++)
        *n_total += (*n_rows)[i] = vit_rows(embedding, pixels[i]);
    *x = arena_array(compute->scratch, *n_total, embedding->dim * sizeof **x);
    return *x ? vit_embed(embedding, compute, pixels, n, *x, err)
              : error_no_memory(err, "a batch of pictures");
}

/* ---- positions ---------------------------------------------------------------------------------
 */

/* Keys' cubic convolution at output i: the four inputs and their weights. */
static void cubic_taps(size_t i, size_t n_in, size_t n_out, size_t at[4], float weights[4])
{
    const float a = -0.75f;
    float position = ((float)i + 0.5f) * ((float)n_in / (float)n_out) - 0.5f;
    float floored = floorf(position), part = position - floored;
    for (int k = 0; k < 4; k++) {
        long from = (long)floored + k - 1;
        at[k] = from < 0 ? 0 : (size_t)from >= n_in ? n_in - 1 : (size_t)from;
        float x = fabsf(part - (float)(k - 1));
        weights[k] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1
                            : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
}

void vit_resize_positions(const float *positions, size_t grid, size_t dim, size_t height,
                          size_t width, float *out)
{
    memcpy(out, positions, dim * sizeof *out);
    const float *from = positions + dim;
    float *to = out + dim;
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++, to += dim) {
            size_t rows[4], columns[4];
            float row_weights[4], column_weights[4];
            cubic_taps(y, grid, height, rows, row_weights);
            cubic_taps(x, grid, width, columns, column_weights);
            memset(to, 0, dim * sizeof *to);
            for (int k = 0; k < 16; k++) {
                const float *tap = from + (rows[k / 4] * grid + columns[k % 4]) * dim;
                float weight = row_weights[k / 4] * column_weights[k % 4];
                for (size_t d = 0; d < dim; d++)
                    to[d] += weight * tap[d];
            }
        }
}
