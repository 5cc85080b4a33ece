/*
 * interpolate.c: bilinear and bicubic interpolation of a grid of vectors.
 *
 * Output i stands at s = (i + 0.5) · in / out - 0.5 of the input, in f32 as the reference has it.
 * Bilinear moves s up to 0; bicubic doesn't, and repeats the border instead. The cubic kernel is
 * Keys' (1981) with a = -0.75.
 */
#include "core/nn/interpolate.h"

#include <math.h>

#include "core/nn/nn_internal.h"

enum { TAPS_MAX = 4 };

struct interpolate_job {
    enum interpolation interpolation;
    const float *x;
    size_t height, width, dim, out_height, out_width;
    float *y;
};

/* Up to four input indices and their weights. */
struct taps {
    size_t n;
    size_t at[TAPS_MAX];
    float weight[TAPS_MAX];
};

static float cubic_near(float t) /* |t| <= 1 */
{
    return ((-0.75f + 2) * t - (-0.75f + 3)) * t * t + 1;
}

static float cubic_far(float t) /* 1 < |t| < 2 */
{
    return ((-0.75f * t + 0.75f * 5) * t - 0.75f * 8) * t + 0.75f * 4;
}

static struct taps taps_at(enum interpolation interpolation, size_t i, size_t size, size_t out_size)
{
    struct taps taps = {0};
    float s = ((float)i + 0.5f) * ((float)size / (float)out_size) - 0.5f;
    if (interpolation == INTERPOLATION_BILINEAR) {
        s = s < 0 ? 0 : s;
        size_t low = min_size((size_t)s, size - 1);
        float t = s - (float)low;
        taps = (struct taps){2, {low, min_size(low + 1, size - 1)}, {1 - t, t}};
    } else {
        float low = floorf(s), t = s - low;
        taps = (struct taps){
            4, {0}, {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t), cubic_far(2 - t)}};
        for (int k = 0; k < 4; k++) {
            float at = low + (float)(k - 1);
            taps.at[k] = at < 0 ? 0 : min_size((size_t)at, size - 1);
        }
    }
    return taps;
}

static void interpolate_row(void *context, size_t i)
{
    const struct interpolate_job *job = context;
    size_t dim = job->dim;
    struct taps down = taps_at(job->interpolation, i, job->height, job->out_height);
    for (size_t ox = 0; ox < job->out_width; ox++) {
        struct taps across = taps_at(job->interpolation, ox, job->width, job->out_width);
        float *y = job->y + (i * job->out_width + ox) * dim;
        for (size_t d = 0; d < dim; d++)
            y[d] = 0;
        for (size_t a = 0; a < down.n; a++) {
            for (size_t b = 0; b < across.n; b++) {
                const float *x = job->x + (down.at[a] * job->width + across.at[b]) * dim;
                float weight = down.weight[a] * across.weight[b];
                for (size_t d = 0; d < dim; d++)
                    y[d] += weight * x[d];
            }
        }
    }
}

void nn_interpolate(const struct compute *compute, enum interpolation interpolation, const float *x,
                    size_t height, size_t width, size_t dim, size_t out_height, size_t out_width,
                    float *y)
{
    if (height == 0 || width == 0)
        return;
    struct interpolate_job job = {interpolation, x, height, width, dim, out_height, out_width, y};
    pool_run(compute->pool, out_height, interpolate_row, &job);
}
