/*
 * zoom.c: see zoom.h.
 *
 * Blur and zoom are both linear and separable, so each output of an axis is one weighted sum over a
 * range of inputs (`struct taps`), and what the padding would add is left out, as it is 0. A row of
 * the result is a sum of the picture's rows, then a sum along that row: the memory needed beside
 * the result is one row, whatever the picture's size. SciPy rounds to f32 between its steps, we at
 * other places: differences of some 1e-7.
 */
#include "core/image/zoom.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

/* What one output is made of: weights[0..n) of the inputs first … first + n. */
struct tap {
    size_t first, n, weights;
};

struct taps {
    struct tap *at;
    float *weights;
};

static void taps_release(struct taps *taps)
{
    free(taps->at);
    free(taps->weights);
}

/* A position reflected into [0, n): … 2 1 | 0 1 2 … n−1 | n−2 … */
static size_t reflect(long at, size_t n)
{
    long period = 2 * (long)n - 2;
    if (period == 0)
        return 0;
    at %= period;
    if (at < 0)
        at += period;
    return (size_t)(at < (long)n ? at : period - at);
}

/* The Gaussian's weights at distances 0 … radius; they sum to 1 over −radius … radius. */
static void make_gaussian(double sigma, size_t radius, double *weights)
{
    double sum = 0;
    for (size_t k = 0; k <= radius; k++) {
        weights[k] = k ? exp(-0.5 * (double)(k * k) / (sigma * sigma)) : 1.0;
        sum += k ? 2 * weights[k] : weights[k];
    }
    for (size_t k = 0; k <= radius; k++)
        weights[k] /= sum;
}

/* How n_in inputs, of which those from n_real on are 0, become n_out outputs. */
static enum status taps_init(struct taps *taps, size_t n_in, size_t n_real, size_t n_out, bool blur,
                             struct error *err)
{
    double factor = (double)n_in / (double)n_out;
    double sigma = blur && factor > 1 ? (factor - 1) / 2 : 0;
    size_t radius = sigma > 1e-15 ? (size_t)(4 * sigma + 0.5) : 0;
    size_t width = 2 * radius + 2 < n_in ? 2 * radius + 2 : n_in, n_weights;
    *taps = (struct taps){0};
    if (!size_mul(n_out, width, &n_weights))
        return error_no_memory(err, "resampling coefficients");
    double *gaussian = alloc_array(radius + 1, sizeof *gaussian);
    double *sums = alloc_array(width, sizeof *sums);
    taps->at = alloc_array(n_out, sizeof *taps->at);
    taps->weights = alloc_array(n_weights, sizeof *taps->weights);
    enum status status = STATUS_OK;
    if (!gaussian || !sums || !taps->at || !taps->weights) {
        taps_release(taps);
        *taps = (struct taps){0};
        status = error_no_memory(err, "resampling coefficients");
        goto out;
    }
    if (radius)
        make_gaussian(sigma, radius, gaussian);
    else
        gaussian[0] = 1;
    for (size_t i = 0; i < n_out; i++) {
        double at = fabs(((double)i + 0.5) * factor - 0.5);
        long start = (long)at, r = (long)radius;
        double part = at - (double)start; /* of the right neighbour */
        long first = start - r > 0 ? start - r : 0;
        if (first + (long)width > (long)n_in)
            first = (long)n_in - (long)width;
        memset(sums, 0, width * sizeof *sums);
        for (long k = -r; k <= r; k++)
            for (int side = 0; side < 2; side++) {
                /* The neighbour is reflected first, then what is around it. */
                long centre = (long)reflect(start + side, n_in);
                sums[(long)reflect(centre + k, n_in) - first] +=
                    gaussian[labs(k)] * (side ? part : 1 - part);
            }
        size_t n = width;
        if ((size_t)first + n > n_real)
            n = (size_t)first < n_real ? n_real - (size_t)first : 0;
        taps->at[i] = (struct tap){(size_t)first, n, i * width};
        for (size_t k = 0; k < n; k++)
            taps->weights[i * width + k] = (float)sums[k];
    }
out:
    free(gaussian);
    free(sums);
    return status;
}

/* row [3 · width] = Σ of the picture's rows that output row i is made of. */
static void sum_rows(const struct image *image, const struct taps *taps, size_t i, float *row)
{
    const struct tap *tap = &taps->at[i];
    size_t n = 3 * image->width;
    memset(row, 0, n * sizeof *row);
    for (size_t k = 0; k < tap->n; k++) {
        const uint8_t *from = image->rgb + (tap->first + k) * n;
        float weight = taps->weights[tap->weights + k];
        if (weight == 0)
            continue;
        for (size_t x = 0; x < n; x++)
            row[x] += weight * (float)from[x];
    }
}

enum status image_zoom_apply(const struct image_processor *p, const struct image *image,
                             struct pixels *out, struct error *err)
{
    if (image->width > PROCESSOR_EDGE_MAX || image->height > PROCESSOR_EDGE_MAX)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu pixels is too long for this model; edges may have "
                         "at most %d",
                         image->width, image->height, PROCESSOR_EDGE_MAX);
    size_t width = image->width, height = image->height;
    if (p->do_pad)
        width = height = width > height ? width : height;
    struct pixels pixels = {.height = p->do_resize ? p->height : height,
                            .width = p->do_resize ? p->width : width};
    size_t n_pixels;
    if (!size_mul(pixels.width, pixels.height, &n_pixels) || !n_pixels ||
        n_pixels > PROCESSOR_PIXELS_MAX)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu pixels would become %zu × %zu for this model; at "
                         "most %zu pixels are possible",
                         image->width, image->height, pixels.width, pixels.height,
                         PROCESSOR_PIXELS_MAX);

    struct taps columns = {0}, rows = {0};
    float *row = NULL;
    bool blur = p->resample != RESAMPLE_NEAREST;
    enum status status = taps_init(&columns, width, image->width, pixels.width, blur, err);
    if (!status)
        status = taps_init(&rows, height, image->height, pixels.height, blur, err);
    if (status)
        goto out;
    row = alloc_array(image->width, 3 * sizeof *row);
    pixels.data = alloc_array(n_pixels, 3 * sizeof *pixels.data);
    if (!row || !pixels.data) {
        free(pixels.data);
        status = error_no_memory(err, "a model's picture");
        goto out;
    }
    float scale = p->do_rescale ? (float)p->rescale_factor : 1;
    for (size_t y = 0; y < pixels.height; y++) {
        sum_rows(image, &rows, y, row);
        for (size_t x = 0; x < pixels.width; x++) {
            const struct tap *tap = &columns.at[x];
            const float *from = row + 3 * tap->first, *weights = columns.weights + tap->weights;
            float sums[3] = {0};
            for (size_t k = 0; k < tap->n; k++, from += 3)
                for (size_t c = 0; c < 3; c++)
                    sums[c] += weights[k] * from[c];
            for (size_t c = 0; c < 3; c++) {
                float value = sums[c] * scale;
                pixels.data[c * n_pixels + y * pixels.width + x] =
                    p->do_normalize ? (value - p->mean[c]) / p->std[c] : value;
            }
        }
    }
    *out = pixels;
out:
    free(row);
    taps_release(&columns);
    taps_release(&rows);
    return status;
}
