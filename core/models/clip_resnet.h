/*
 * clip_resnet.h: CLIP's ResNet picture tower (open_clip's ModifiedResNet; the reference page is at
 * the head of open_clip.c).
 */
#ifndef VLMD_CORE_MODELS_CLIP_RESNET_H
#define VLMD_CORE_MODELS_CLIP_RESNET_H

#include "core/image/processor.h"
#include "core/weights/binder.h"

enum { CLIP_RESNET_STAGES = 4 };

struct clip_resnet_config {
    size_t n_blocks[CLIP_RESNET_STAGES];
    size_t width;      /* channels after the stem; the last stage gives 32 times as many */
    size_t n_heads;    /* of the attention pooling */
    size_t image_size; /* height and width of all pictures */
    size_t out_dim;
};

struct clip_resnet_block {
    struct conv2d conv1, conv2, conv3;
    struct conv2d downsample; /* shape.n_out 0: the input itself is added */
    size_t stride;            /* of the average pooling after conv2 and before downsample */
};

struct clip_resnet {
    struct clip_resnet_config config;
    struct conv2d stem[3];
    struct clip_resnet_block *blocks; /* of all stages, in order */
    size_t n_blocks;
    size_t grid;            /* the last stage's map is grid × grid */
    const float *positions; /* [1 + grid², dim], the mean's first */
    /* Attention pooling; dim = head_dim · n_heads. */
    struct linear q;         /* [dim, dim] */
    struct linear *asks;     /* each head's [dim, head_dim]: the keys' weight, turned */
    struct linear *values;   /* each head's [head_dim, dim] */
    struct linear out;       /* [out_dim, dim] */
    const float *key_weight; /* [dim, dim] */
    float *turned;           /* owned: what `asks` lie in */
};

/* Binds "visual.…"; where the binder succeeded, prepare comes next. Release also when either
 * failed. */
void clip_resnet_bind(struct binder *binder, struct clip_resnet *resnet,
                      const struct clip_resnet_config *config);
enum status clip_resnet_prepare(struct clip_resnet *resnet, struct error *err);
void clip_resnet_release(struct clip_resnet *resnet);

/* n pictures of image_size × image_size (STATUS_UNPROCESSABLE otherwise) → out [n, out_dim]. */
enum status clip_resnet_forward(const struct clip_resnet *resnet, const struct compute *compute,
                                const struct pixels *const *pixels, size_t n, float *out,
                                struct error *err);

#endif
