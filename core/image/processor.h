/*
 * processor.h: a checkpoint's picture preprocessing, as its preprocessor_config.json states it:
 * resize, centre crop, pad, rescale, normalise, to planar f32. Used as it is by every architecture
 * whose processor is a fixed-size one; others (ViLT, Qwen2.5-VL) compose the same steps.
 */
#ifndef VLMD_CORE_IMAGE_PROCESSOR_H
#define VLMD_CORE_IMAGE_PROCESSOR_H

#include <jansson.h>
#include <stdbool.h>

#include "core/image/resample.h"

struct image_processor {
    bool do_resize, do_center_crop, do_rescale, do_normalize, do_pad;
    size_t shortest_edge, longest_edge; /* resize by edge, ratio kept; 0 = not that way */
    size_t height, width;               /* resize to exactly this; 0 = not that way */
    size_t crop_height, crop_width;
    size_t size_divisor; /* 0 = none */
    enum resample resample;
    float rescale_factor;
    float mean[3], std[3];
};

/* A model's input: planar f32 [3, height, width]; `data` is owned (malloc). */
struct pixels {
    size_t height, width;
    float *data;
};

/* Reads the fields of a preprocessor_config.json (or the "image_processor" object of a
 * processor_config.json); `defaults` holds the values that the reference class takes for absent
 * keys. Unknown keys are ignored; ill-typed or absurd ones (sizes 0 or above 65,536, std 0) fail
 * with STATUS_BAD_CHECKPOINT naming the key. */
enum status image_processor_parse(const json_t *config, const struct image_processor *defaults,
                                  struct image_processor *out, struct error *err);

/* Runs the steps on an upright RGB picture. STATUS_UNPROCESSABLE when the picture cannot give a
 * valid size (e.g. an edge that would become 0), STATUS_NO_MEMORY. */
enum status image_processor_apply(const struct image_processor *processor,
                                  const struct image *image, struct pixels *out, struct error *err);

void pixels_release(struct pixels *pixels);

#endif
