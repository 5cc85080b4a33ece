/*
 * written_boxes.h: boxes of models that write them as text: how they are asked for boxes, and what
 * they write turned into numbers. The one place that knows the forms; pure functions of a text.
 *
 *   BOXES_AS_LOCATIONS  (PaliGemma) asked "detect cat ; dog"; writes, for each box,
 *                       <locYYYY><locXXXX><locYYYY><locXXXX> label, with " ; " between: y_min,
 *                       x_min, y_max, x_max in 1/1024 of the picture. <segNNN> words after them
 *                       (the mask's code) are passed over. Other numbers of <loc…> in a row than
 *                       four are no box.
 *
 *   BOXES_AS_JSON       (Qwen2.5-VL) asked "Outline the position of each cat, each dog and output
 *                       all the coordinates in JSON format." (one expression: "Locate …, output
 *                       its bbox coordinates using JSON format."); writes a list of {"bbox_2d":
 *                       [x_min, y_min, x_max, y_max], "label": …} in pixels of the picture as it
 *                       was resized for the model. What stands around the objects (a code fence,
 *                       other words) is passed over, and an object that is broken or cut off is
 *                       dropped alone.
 *
 * Boxes come cut at the picture's edges; those that end before they begin, or lie outside the
 * picture, are dropped.
 */
#ifndef VLMD_CORE_MODELS_WRITTEN_BOXES_H
#define VLMD_CORE_MODELS_WRITTEN_BOXES_H

#include "core/base/arena.h"
#include "core/base/buffer.h"
#include "core/base/error.h"

enum box_writing { BOXES_NOT_WRITTEN, BOXES_AS_LOCATIONS, BOXES_AS_JSON };

/* A piece of somebody's text. */
struct box_label {
    const char *data;
    size_t size;
};

struct written_box {
    float corners[4];  /* xmin, ymin, xmax, ymax: parts of the picture's width and height, 0 to 1 */
    size_t begin, end; /* which bytes of the text its four numbers take */
    struct box_label label; /* as it was written, trimmed; may be empty */
};

/* The prompt for boxes around what names[n] say, or around the one thing that names[0] refers to
 * (is_expression), appended to *out. False: past its maximum, or out of memory. */
bool written_boxes_prompt(enum box_writing writing, const struct box_label *names, size_t n,
                          bool is_expression, struct buffer *out);

/* The boxes in text[0..size), in its order. width × height: of the picture as the model saw it
 * (BOXES_AS_JSON). *out and its labels are in the arena or in the text. STATUS_NO_MEMORY is the
 * only failure: whatever the text is, what is no box is passed over. */
enum status written_boxes_read(enum box_writing writing, const char *text, size_t size,
                               size_t width, size_t height, struct arena *arena,
                               struct written_box **out, size_t *n, struct error *err);

/* Which of names[n] a label means: the only one; else the one that it is but for spaces around it
 * and A to Z against a to z; else the longest that begins one of its words, or that it begins a
 * word of ("two cats", "the Cat" and "cats" are "cat"). SIZE_MAX: none. */
size_t written_box_name(const struct box_label *label, const struct box_label *names, size_t n);

#endif
