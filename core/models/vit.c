/*
 * vit.c: see vit.h. Pictures of one size that follow each other go through the patch product
 * together.
 */
#include "core/models/vit.h"

#include <string.h>

#include "core/base/size.h"

enum { CHANNELS = 3 };

static size_t n_patches(const struct vit_embedding *embedding, const struct pixels *pixels)
{
    return (pixels->height / embedding->patch_size) * (pixels->width / embedding->patch_size);
}

size_t vit_rows(const struct vit_embedding *embedding, const struct pixels *pixels)
{
    return n_patches(embedding, pixels) + (embedding->class_token ? 1 : 0);
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
