/*
 * qwen2_5_vl_vision.h: the vision tower of Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923;
 * transformers' Qwen2_5_VisionTransformerPretrainedModel): pictures of any shape, at their own
 * resolution, as rows for a decoder.
 *
 * A picture of H × W patches becomes (H / merge) × (W / merge) rows, in reading order. Most layers
 * attend within windows, which is what makes large pictures affordable; a few see all of it.
 */
#ifndef VLMD_CORE_MODELS_QWEN2_5_VL_VISION_H
#define VLMD_CORE_MODELS_QWEN2_5_VL_VISION_H

#include "core/models/model.h"
#include "core/weights/binder.h"

enum { QWEN_LAYERS_MAX = 512 };

struct qwen_vision_config {
    size_t n_layers, dim, n_heads, mlp_dim, out_dim;
    enum activation activation;
    size_t patch_size, n_frames; /* of a patch: a still picture is shown n_frames times */
    size_t merge;                /* merge × merge patches become one row */
    size_t window;               /* edge in pixels */
    float rope_theta;
    bool sees_all[QWEN_LAYERS_MAX]; /* per layer: full attention rather than windows */
};

struct qwen_vision_layer {
    struct norm norm1, norm2;
    struct linear qkv, out; /* [3 dim, dim], [dim, dim] */
    struct linear gate, up, down;
};

struct qwen_vision {
    struct qwen_vision_config config;
    struct linear patches; /* [dim, 3 · n_frames · patch_size²] */
    struct qwen_vision_layer *layers;
    struct norm merge_norm;       /* [dim] */
    struct linear merge1, merge2; /* [merge² dim, merge² dim], [out_dim, merge² dim] */
};

/* "vision_config" over the reference's defaults. */
enum status qwen_vision_config_load(const json_t *json, struct qwen_vision_config *config,
                                    struct error *err);

/* Binds "<prefix>patch_embed.proj", "<prefix>blocks.N.…", "<prefix>merger.…".
 * qwen_vision_release() also when the binder failed afterwards. */
void qwen_vision_bind(struct binder *binder, struct qwen_vision *vision,
                      const struct qwen_vision_config *config, const char *prefix);
void qwen_vision_release(struct qwen_vision *vision);

/* n pictures, whose edges are multiples of patch_size · merge, → their features, one reference
 * each, with grid_height × grid_width rows of out_dim. */
enum status qwen_vision_encode(const struct qwen_vision *vision, const struct compute *compute,
                               const struct pixels *const *pixels, size_t n, struct features **out,
                               struct error *err);

/* ---- pictures' sizes ---------------------------------------------------------------------------
 */

/* How Qwen2VLImageProcessor sizes a picture: edges to multiples of `factor`, their product between
 * min_pixels and max_pixels, the ratio kept as far as that goes. */
struct qwen_resize {
    size_t factor;
    size_t min_pixels, max_pixels;
};
/* STATUS_UNPROCESSABLE: one edge is more than 200 times the other. */
enum status qwen_smart_resize(const struct qwen_resize *resize, size_t width, size_t height,
                              size_t *out_width, size_t *out_height, struct error *err);

#endif
