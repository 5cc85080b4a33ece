/*
 * detections.h: what the endpoints that find things (detect, ground) share: a detector's job, boxes
 * out of its results, and masks for them by a segmentation model, in a second job. The detector
 * scores its boxes against each text, or writes boxes as a text (detections_written.c):
 *
 *   begin:  detections_begin()                              the detector's job
 *   finish: detections_find() → detections_segment() ─ true → the segmenter's job
 *   finish: detection_put()                                 boxes, and masks inside them
 */
#ifndef VLMD_API_DETECTIONS_H
#define VLMD_API_DETECTIONS_H

#include "api/endpoint.h"
#include "api/masks.h"

enum { DETECTIONS_DEFAULT = 1000, DETECTIONS_MAX = 10000 };

struct detection {
    size_t query; /* its place in the request's list */
    size_t place; /* among the model's boxes, or in what it wrote */
    float score;
    float box[4]; /* xmin, ymin, xmax, ymax in pixels; may reach over the picture's edges */
};

/* One request's way; call->state. All memory is the call's arena. */
struct detections {
    struct lane *lane; /* the detector's */
    const struct model *model;
    struct lane *mask_lane; /* the segmenter's; NULL = no masks are wanted */
    const struct span *queries;
    size_t n_queries;              /* 0 = by example */
    const struct picture *example; /* NULL = by text */
    size_t picture_width, picture_height;
    size_t seen_width, seen_height; /* as the detector saw it */
    struct detection *found;        /* best first */
    size_t n_found;
    size_t *mask_of; /* [n_queries] its text's place in the segmenter's job */
};

/* The fields `segment_model` and `mask_threshold`. */
extern const struct field detection_mask_fields[];

/* Prepares and submits the detector's job for the field `image`. */
enum status detections_begin(struct call *call, enum task task, const struct span *queries,
                             size_t n_queries, const struct picture *example, const char *param,
                             struct error *err);

struct detection_options {
    bool best_only;      /* the best box of all, whatever its score; none where none was written */
    float threshold;     /* what is kept has a higher score; by example before scaling */
    float nms_threshold; /* boxes of one query that overlap a better one by more than this
                            (intersection over union) are dropped; 1 = none */
    size_t max;
};
/* Out of the finished job → state->found. */
enum status detections_find(struct call *call, const struct detection_options *options,
                            struct error *err);

/* Of a model that writes its boxes: the prompt and how it is answered, into the job's work; and the
 * boxes of the finished one, in the order written, in the arena. */
enum status detections_ask(struct call *call, enum task task, struct work *work, const char *param,
                           struct error *err);
enum status detections_read_written(struct call *call, struct detection **out, size_t *n,
                                    struct error *err);

/* Submits the segmenter's job where masks are wanted and there is anything to mask: *submitted. */
enum status detections_segment(struct call *call, bool *submitted, struct error *err);

/* The pixels of the picture that a detection's box touches; without any: width or height 0. */
struct mask_rect detection_pixels(const struct detections *state,
                                  const struct detection *detection);
/* Writes `score` and `box` (cut at the picture's edges). */
void detection_put_box(struct call *call, const struct detection *detection);

/* Writes `score`, `box` (cut at the picture's edges) and, after a segmenter's job, `mask` ({x, y,
 * width, height, mask, area, box}, null for a box without an area in the picture) into the open
 * object. */
enum status detection_put(struct call *call, const struct detection *detection, struct error *err);

/* Names the models that answered: call->model is the detector again; `segment_model`. */
void detections_end(struct call *call);

#endif
