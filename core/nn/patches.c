/*
 * patches.c: pictures as rows of patches, the input of a patch embedding.
 */
#include <string.h>

#include "core/nn/nn.h"
#include "core/nn/nn_internal.h"

struct patches_job {
    const float *const *pictures;
    size_t channels, height, width, patch;
    float *out;
};

/* One row of patches of one picture. */
static void patches_row(void *context, size_t i)
{
    const struct patches_job *job = context;
    size_t patch = job->patch, rows = job->height / patch, columns = job->width / patch;
    const float *picture = job->pictures[i / rows];
    float *out = job->out + i * columns * job->channels * patch * patch;
    for (size_t column = 0; column < columns; column++)
        for (size_t channel = 0; channel < job->channels; channel++)
            for (size_t y = 0; y < patch; y++, out += patch)
                memcpy(out,
                       picture + (channel * job->height + i % rows * patch + y) * job->width +
                           column * patch,
                       patch * sizeof *out);
}

void nn_patches(const struct compute *compute, const float *const *pictures, size_t n,
                size_t channels, size_t height, size_t width, size_t patch, float *out)
{
    if (patch == 0)
        return;
    struct patches_job job = {pictures, channels, height, width, patch, out};
    pool_run(compute->pool, n * (height / patch), patches_row, &job);
}
