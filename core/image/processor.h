/*
 * processor.h: a checkpoint's picture preprocessing, as its preprocessor_config.json states it:
 * resize, centre crop, rescale, normalise, pad, to planar f32. Used as it is by every architecture
 * whose processor is a fixed-size one; others (ViLT, Qwen2.5-VL) compose the same steps.
 *
 * Follows the PIL backend of transformers 5 (`PilBackend`), step by step and in its number types.
 * A processor is plain data: read-only after parsing, shared between threads.
 */
#ifndef VLMD_CORE_IMAGE_PROCESSOR_H
#define VLMD_CORE_IMAGE_PROCESSOR_H

#include <jansson.h>
#include <stdbool.h>

#include "core/image/resample.h"

/* The largest edge that a configuration may name, and the most pixels that one picture may become
 * (200 MB of f32). */
enum { PROCESSOR_EDGE_MAX = 65536 };
#define PROCESSOR_PIXELS_MAX ((size_t)1 << 24)

struct image_processor {
    bool do_resize, do_center_crop, do_rescale, do_normalize, do_pad;
    bool crop_rounds; /* torchvision's centre: half of an odd margin is rounded to even, not down */
    bool default_to_square; /* what `"size": 224` means: 224 × 224, or the shortest edge */
    size_t shortest_edge, longest_edge; /* resize by edge, ratio kept; 0 = not that way */
    size_t height, width;               /* resize to exactly this; 0 = not that way */
    size_t crop_height, crop_width;
    size_t size_divisor;          /* ViLT: edges are made multiples of it; 0 = none */
    size_t pad_height, pad_width; /* with do_pad; 0 = none (batches are padded by who makes them) */
    enum resample resample;
    double rescale_factor; /* 1/255 is not the same in f32 */
    float mean[3], std[3];
};

/* A model's input: planar f32 [3, height, width]; `data` is owned (malloc). */
struct pixels {
    size_t height, width;
    float *data;
    size_t picture_height, picture_width; /* of the upright picture; set by model_preprocess() */
};

/* Reads the fields of a preprocessor_config.json (or the "image_processor" object of a
 * processor_config.json); `defaults` holds the values that the reference class takes for absent
 * and null keys. Unknown keys are ignored; ill-typed or absurd ones (sizes 0 or above
 * PROCESSOR_EDGE_MAX, std 0) fail with STATUS_BAD_CHECKPOINT naming the key. */
enum status image_processor_parse(const json_t *config, const struct image_processor *defaults,
                                  struct image_processor *out, struct error *err);

/* The size that do_resize gives a picture of width × height. STATUS_UNPROCESSABLE when an edge
 * would become 0. Without do_resize: the same size. */
enum status image_processor_size(const struct image_processor *processor, size_t width,
                                 size_t height, size_t *out_width, size_t *out_height,
                                 struct error *err);

/* Runs the steps on an upright RGB picture. STATUS_UNPROCESSABLE when the picture cannot give a
 * valid size (an edge that would become 0, more than PROCESSOR_PIXELS_MAX pixels, larger than the
 * padding), STATUS_NO_MEMORY. */
enum status image_processor_apply(const struct image_processor *processor,
                                  const struct image *image, struct pixels *out, struct error *err);

void pixels_release(struct pixels *pixels); /* NULL and zeroed structs are fine */

#endif
