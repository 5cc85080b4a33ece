/*
 * draw.h: boxes and masks drawn into a picture, in place, for people to look at. Parts outside the
 * picture are left out. Colours are told apart by a number; they repeat after IMAGE_COLOURS.
 */
#ifndef VLMD_CORE_IMAGE_DRAW_H
#define VLMD_CORE_IMAGE_DRAW_H

#include "core/image/image.h"

enum { IMAGE_COLOURS = 10 };

/* A frame along the inside of a box (pixels; corners in any position), thicker in larger pictures,
 * with a thin dark line around it that shows on any ground. */
void image_draw_box(struct image *image, const double box[4], size_t colour);

/* mask [height, width], 0 … 255: how strongly the colour covers the pixels from (x, y) on. */
void image_draw_mask(struct image *image, const uint8_t *mask, size_t x, size_t y, size_t width,
                     size_t height, size_t colour);

#endif
