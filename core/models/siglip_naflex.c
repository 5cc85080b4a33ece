/*
 * siglip_naflex.c: see siglip_naflex.h.
 */
#include "core/models/siglip_naflex.h"

#include <math.h>
#include <string.h>

/* An edge at a scale, in patches: rounded up, at least one. */
static double patches_at(double scale, size_t edge, size_t patch_size)
{
    return fmax(1, ceil((double)edge * scale / (double)patch_size));
}

void naflex_size(size_t width, size_t height, size_t patch_size, size_t max_patches,
                 size_t *out_width, size_t *out_height)
{
    const double eps = 1e-5;
    double low = eps / 10, high = 100;
    while (high - low >= eps) {
        double scale = (low + high) / 2;
        double n = patches_at(scale, width, patch_size) * patches_at(scale, height, patch_size);
        if (n <= (double)max_patches)
            low = scale;
        else
            high = scale;
    }
    *out_width = (size_t)patches_at(low, width, patch_size) * patch_size;
    *out_height = (size_t)patches_at(low, height, patch_size) * patch_size;
}

/* Which inputs an output is made of, and how much of each; the shares sum to 1. */
struct taps {
    size_t first, n;
    float center, support, sum;
};

static float share(const struct taps *taps, size_t i)
{
    float weight = 1 - fabsf((float)i - taps->center) / taps->support;
    return weight > 0 ? weight : 0;
}

static struct taps taps_of(size_t i, size_t n_in, size_t n_out)
{
    float scale = (float)n_in / (float)n_out;
    struct taps taps = {.center = ((float)i + 0.5f) * scale - 0.5f,
                        .support = scale > 1 ? scale : 1};
    float from = floorf(taps.center - taps.support), to = ceilf(taps.center + taps.support);
    taps.first = from > 0 ? (size_t)from : 0;
    size_t end = to < (float)(n_in - 1) ? (size_t)to + 1 : n_in;
    taps.n = end - taps.first;
    for (size_t k = taps.first; k < end; k++)
        taps.sum += share(&taps, k);
    return taps;
}

void naflex_positions(const float *positions, size_t grid, size_t dim, size_t height, size_t width,
                      float *out)
{
    for (size_t y = 0; y < height; y++) {
        struct taps row = taps_of(y, grid, height);
        for (size_t x = 0; x < width; x++, out += dim) {
            struct taps column = taps_of(x, grid, width);
            memset(out, 0, dim * sizeof *out);
            for (size_t r = row.first; r < row.first + row.n; r++)
                for (size_t c = column.first; c < column.first + column.n; c++) {
                    float weight = share(&row, r) / row.sum * (share(&column, c) / column.sum);
                    const float *from = positions + (r * grid + c) * dim;
                    for (size_t d = 0; d < dim && weight > 0; d++)
                        out[d] += weight * from[d];
                }
        }
    }
}
