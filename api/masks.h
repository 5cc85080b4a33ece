/*
 * masks.h: a segmentation model's logits as a mask of the picture, for the endpoints that give
 * masks (segment; detect and ground with a segmentation model).
 */
#ifndef VLMD_API_MASKS_H
#define VLMD_API_MASKS_H

#include "api/endpoint.h"

/* Masks of one job: each is as large as the model's picture while it waits to be written. */
enum { MASK_PROMPTS_MAX = 100 };

struct mask_rect {
    size_t x, y, width, height;
};

struct mask {
    const struct model_traits *traits;
    const float *logits; /* [traits->mask_height, mask_width] */
    size_t picture_width, picture_height;
    struct mask_rect part;          /* what of the picture is wanted: within it, not empty */
    const struct mask_rect *inside; /* where anything may be: elsewhere the probability is 0; within
                                       the picture; NULL = everywhere */
    size_t n_inside;
    float threshold;
};

/* Writes the members `width`, `height`, `mask` (PNG data URL, 8-bit probability), `area` and `box`
 * into the open object: the logits resized bilinearly to the picture. area counts pixels of a
 * probability above the threshold, box (in the picture) surrounds them: null where there are none.
 * Fails when nobody waits any more, too. */
enum status mask_put(struct call *call, const struct mask *mask, struct error *err);

/* {xmin, ymin, xmax, ymax} */
void box_put(struct json_writer *out, const char *key, const float box[4]);

#endif
