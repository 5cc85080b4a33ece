/*
 * siglip_naflex.h: what SigLIP 2 does to see pictures in their own shape (NaFlex: Tschannen et al.
 * 2025, arXiv:2502.14786, section 2.4.2; transformers' Siglip2Model).
 */
#ifndef VLMD_CORE_MODELS_SIGLIP_NAFLEX_H
#define VLMD_CORE_MODELS_SIGLIP_NAFLEX_H

#include <stddef.h>

/* The size that a picture is given: its shape kept, both edges multiples of patch_size, at most
 * max_patches patches. A binary search over the scale, as the reference does it. */
void naflex_size(size_t width, size_t height, size_t patch_size, size_t max_patches,
                 size_t *out_width, size_t *out_height);

/* Learned positions [grid², dim] for height × width patches: bilinear and antialiased (a triangle
 * as wide as the step where it shrinks), out [height · width, dim]. */
void naflex_positions(const float *positions, size_t grid, size_t dim, size_t height, size_t width,
                      float *out);

#endif
