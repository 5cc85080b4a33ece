/*
 * interpolate.h: grids of feature vectors at another size: position embeddings for other picture
 * sizes, feature maps. As torch.nn.functional.interpolate(align_corners=False, antialias=False).
 */
#ifndef VLMD_CORE_NN_INTERPOLATE_H
#define VLMD_CORE_NN_INTERPOLATE_H

#include "core/nn/nn.h"

enum interpolation { INTERPOLATION_BILINEAR, INTERPOLATION_BICUBIC /* a = -0.75 */ };

/* x [height, width, dim] to y [out_height, out_width, dim]. Equal sizes give an exact copy. x and y
 * must not overlap; no size may be 0. */
void nn_interpolate(const struct compute *compute, enum interpolation interpolation, const float *x,
                    size_t height, size_t width, size_t dim, size_t out_height, size_t out_width,
                    float *y);

#endif
