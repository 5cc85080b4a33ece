/*
 * vit.h: a vision transformer's input: patch embedding, class token, learned positions.
 */
#ifndef VLMD_CORE_MODELS_VIT_H
#define VLMD_CORE_MODELS_VIT_H

#include "core/image/processor.h"
#include "core/weights/binder.h"

struct vit_embedding {
    size_t dim, patch_size, n_positions;
    struct linear patch;      /* [dim, 3 · patch · patch] */
    const float *class_token; /* [dim], or NULL: none (SigLIP) */
    const float *positions;   /* [n_positions, dim]; the class token's first */
};

/* The defaults of ViTImageProcessor, which CLIPSeg's published files name as well. */
extern const struct image_processor vit_processor;

/* The defaults of SiglipImageProcessor, PaliGemma's, too. */
extern const struct image_processor siglip_processor;

/* Rows that a picture becomes (class token included). */
size_t vit_rows(const struct vit_embedding *embedding, const struct pixels *pixels);

/* STATUS_UNPROCESSABLE where a picture becomes other than n_rows rows. */
enum status vit_check_rows(const struct vit_embedding *embedding,
                           const struct pixels *const *pixels, size_t n, size_t n_rows,
                           struct error *err);

/* Writes the rows of n pictures, one after another, to x [Σ vit_rows, dim]. A picture's rows must
 * not exceed n_positions (STATUS_UNPROCESSABLE); fewer take the first positions. */
enum status vit_embed(const struct vit_embedding *embedding, const struct compute *compute,
                      const struct pixels *const *pixels, size_t n, float *x, struct error *err);

/* The same, with room from scratch: *x [*n_total, dim], *n_rows [n]. */
enum status vit_start(const struct vit_embedding *embedding, const struct compute *compute,
                      const struct pixels *const *pixels, size_t n, size_t **n_rows, float **x,
                      size_t *n_total, struct error *err);

/* Learned positions [1 + grid², dim], the class token's first, for a grid of height × width
 * patches: out [1 + height · width, dim]. Bicubic as PyTorch's interpolate (a = −0.75, corners not
 * aligned, borders repeated). */
void vit_resize_positions(const float *positions, size_t grid, size_t dim, size_t height,
                          size_t width, float *out);

#endif
