/*
 * zoom.h: OWLv2's preprocessing: rescale, pad to a square, blur, linear zoom, normalise.
 *
 * Follows Owlv2ImageProcessorPil of transformers 5, which resizes with SciPy in floats rather than
 * with Pillow in bytes: a Gaussian of σ = (factor − 1) / 2 per axis, cut at 4 σ, then linear
 * interpolation between pixel centres; both reflect at the edges without repeating the edge. The
 * padding (below and to the right) is 0 and takes part in the blur. With do_pad off, the picture is
 * stretched. Filter 0 (nearest) turns the blur off, as there.
 */
#ifndef VLMD_CORE_IMAGE_ZOOM_H
#define VLMD_CORE_IMAGE_ZOOM_H

#include "core/image/processor.h"

/* do_resize needs processor->height and width. STATUS_UNPROCESSABLE when an edge of the picture is
 * above PROCESSOR_EDGE_MAX or the result would be above PROCESSOR_PIXELS_MAX; STATUS_NO_MEMORY. */
enum status image_zoom_apply(const struct image_processor *processor, const struct image *image,
                             struct pixels *out, struct error *err);

#endif
