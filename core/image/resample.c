/*
 * resample.c: resizing as Pillow's Image.resize() does it, for the part of the result that is kept.
 *
 *   1. coefficients per output column and per output row (of the crop alone);
 *   2. horizontal pass over the input rows that the vertical pass will read: 16 rows at a time are
 *      transposed, summed per output column, and transposed back; then the vertical pass, straight
 *      into the result. For tall pictures the other way round (see vertical_first).
 * A pass whose size does not change is left out, as in Pillow; nearest copies pixels.
 *
 * Memory: the 8-bit intermediate of the two passes, freed before returning. Thread-safe.
 */
#include "core/image/resample.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/image/resample_internal.h"

/* Coefficients for the outputs [0, n) of one axis. taps[i] = {first input, count}; the weights of
 * output i are at k + i * k_stride. */
struct axis {
    size_t n;
    struct tap_range {
        size_t first, count;
    } * taps;
    int32_t *k;
    size_t k_stride;
};

static void axis_release(struct axis *axis)
{
    free(axis->taps);
    free(axis->k);
}

/* --- filters: x in units of the (scaled) pixel, as in Pillow ---------------------------------- */

static double filter_box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

static double filter_bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double filter_hamming(double x)
{
    x = fabs(x);
    if (x == 0.0)
        return 1.0;
    if (x >= 1.0)
        return 0.0;
    x *= M_PI;
    return sin(x) / x * (0.54 + 0.46 * cos(x));
}

static double filter_bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double filter_lanczos(double x)
{
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

static const struct filter {
    double (*weight)(double x);
    double support;
} filters[N_RESAMPLE] = {
    [RESAMPLE_LANCZOS] = {filter_lanczos, 3.0}, [RESAMPLE_BILINEAR] = {filter_bilinear, 1.0},
    [RESAMPLE_BICUBIC] = {filter_bicubic, 2.0}, [RESAMPLE_BOX] = {filter_box, 0.5},
    [RESAMPLE_HAMMING] = {filter_hamming, 1.0},
};

/* Fills *axis for the outputs first .. first + n of a resize from `in_size` to `out_size`. The
 * order of the floating-point steps is Pillow's: the rounding to fixed point depends on it. */
static bool axis_init(struct axis *axis, const struct filter *filter, size_t in_size,
                      size_t out_size, size_t first, size_t n)
{
    double scale = (double)in_size / (double)out_size;
    double filter_scale = scale < 1.0 ? 1.0 : scale;
    double support = filter->support * filter_scale;
    size_t n_weights = (size_t)ceil(support) * 2 + 1;
    *axis = (struct axis){.n = n, .k_stride = n_weights < in_size ? n_weights : in_size};
    axis->taps = alloc_array(n, sizeof *axis->taps);
    size_t n_k;
    axis->k = size_mul(n, axis->k_stride, &n_k) ? alloc_array(n_k, sizeof *axis->k) : NULL;
    double *weights = alloc_array(n_weights, sizeof *weights);
    if (!axis->taps || !axis->k || !weights) {
        free(weights);
        axis_release(axis);
        *axis = (struct axis){0};
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        double center = ((double)(first + i) + 0.5) * scale;
        double low = center - support + 0.5, high = center + support + 0.5;
        size_t x0 = low < 0.0 ? 0 : (size_t)low;
        size_t x1 = high > (double)in_size ? in_size : (size_t)high;
        size_t count = x1 > x0 ? x1 - x0 : 0;
        if (count > axis->k_stride)
            count = axis->k_stride;
        double inverse = 1.0 / filter_scale, sum = 0.0;
        for (size_t x = 0; x < count; x++) {
            weights[x] = filter->weight(((double)(x + x0) - center + 0.5) * inverse);
            sum += weights[x];
        }
        int32_t *k = axis->k + i * axis->k_stride;
        for (size_t x = 0; x < count; x++) {
            double w = sum != 0.0 ? weights[x] / sum : weights[x];
            w *= (double)(1 << RESAMPLE_PRECISION_BITS);
            k[x] = (int32_t)(w < 0.0 ? w - 0.5 : w + 0.5);
        }
        axis->taps[i] = (struct tap_range){x0, count};
    }
    free(weights);
    return true;
}

/* The inputs that any output of the axis reads: [*from, *to). */
static void axis_span(const struct axis *axis, size_t *from, size_t *to)
{
    const struct tap_range *last = &axis->taps[axis->n - 1];
    *from = axis->taps[0].first;
    *to = last->first + last->count;
}

/* --- the passes ------------------------------------------------------------------------------- */

/* Rows of 3-channel bytes: row y starts at data + y * stride. The first byte is that of the first
 * pixel which the pass reads. */
struct plane {
    const uint8_t *data;
    size_t stride;
};

/* out row r, column i = Σ taps of in row r, for n_rows rows. `tile` holds
 * (span + axis->n) · RESAMPLE_LANES bytes. */
static void pass_horizontal(uint8_t *out, size_t out_stride, struct plane in, size_t n_rows,
                            const struct axis *axis, uint8_t *tile, resample_sum_fn *sum)
{
    size_t from, to;
    axis_span(axis, &from, &to);
    uint8_t *sums = tile + (to - from) * RESAMPLE_LANES;
    for (size_t y = 0; y < n_rows; y += RESAMPLE_ROWS) {
        size_t n = n_rows - y < RESAMPLE_ROWS ? n_rows - y : RESAMPLE_ROWS;
        const uint8_t *rows_in[RESAMPLE_ROWS];
        uint8_t *rows_out[RESAMPLE_ROWS];
        for (size_t r = 0; r < RESAMPLE_ROWS; r++) {
            size_t row = y + (r < n ? r : n - 1); /* past the end: the last row again, not kept */
            rows_in[r] = in.data + row * in.stride;
            rows_out[r] = out + row * out_stride;
        }
        resample_transpose(tile, rows_in, 3 * (to - from));
        for (size_t i = 0; i < axis->n; i++)
            sum(sums + i * RESAMPLE_LANES, tile + (axis->taps[i].first - from) * RESAMPLE_LANES,
                RESAMPLE_LANES, axis->k + i * axis->k_stride, axis->taps[i].count);
        resample_transpose_back(rows_out, n, sums, 3 * axis->n);
    }
}

/* out row i = Σ taps of the rows of `in`. */
static void pass_vertical(uint8_t *out, size_t out_stride, struct plane in, size_t row_bytes,
                          const struct axis *axis, resample_sum_fn *sum)
{
    size_t from, to;
    axis_span(axis, &from, &to);
    for (size_t i = 0; i < axis->n; i++) {
        const uint8_t *rows = in.data + (axis->taps[i].first - from) * in.stride;
        const int32_t *k = axis->k + i * axis->k_stride;
        size_t n_taps = axis->taps[i].count;
        uint8_t *row_out = out + i * out_stride;
        if (row_bytes >= RESAMPLE_LANES) {
            for (size_t x = 0; x + RESAMPLE_LANES <= row_bytes; x += RESAMPLE_LANES)
                sum(row_out + x, rows + x, in.stride, k, n_taps);
            if (row_bytes % RESAMPLE_LANES) { /* the last block overlaps the one before */
                size_t x = row_bytes - RESAMPLE_LANES;
                sum(row_out + x, rows + x, in.stride, k, n_taps);
            }
            continue;
        }
        for (size_t x = 0; x < row_bytes; x++) { /* narrower than a block */
            int32_t value = 1 << (RESAMPLE_PRECISION_BITS - 1);
            for (size_t t = 0; t < n_taps; t++)
                value += k[t] * rows[t * in.stride + x];
            value >>= RESAMPLE_PRECISION_BITS;
            row_out[x] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
}

/* Which pass comes first shows in the result, for the 8 bits between them. Pillow 13 goes
 * vertically first where the height shrinks by more than twice what the width does (its earlier
 * versions never do). */
static bool vertical_first(const struct image *in, size_t width, size_t height)
{
    size_t narrowing = in->width > width ? in->width - width : 0;
    return in->height > height && in->height - height > 2 * narrowing;
}

/* Writes the kept part of a resize: out[r][c] for r, c in `kept` (inside width × height). */
static enum status resize_filtered(uint8_t *out, size_t out_stride, const struct image *in,
                                   size_t width, size_t height, const struct filter *filter,
                                   const struct image_rect *kept, resample_sum_fn *sum,
                                   struct error *err)
{
    enum status status = STATUS_OK;
    struct axis columns = {0}, rows = {0};
    uint8_t *tile = NULL, *between = NULL;
    bool horizontal = width != in->width, vertical = height != in->height;

    /* 1. Coefficients, and the part x0..x1, y0..y1 of the input that they read. */
    size_t x0 = (size_t)kept->x, x1 = x0 + kept->width;
    size_t y0 = (size_t)kept->y, y1 = y0 + kept->height;
    if ((horizontal && !axis_init(&columns, filter, in->width, width, x0, kept->width)) ||
        (vertical && !axis_init(&rows, filter, in->height, height, y0, kept->height))) {
        status = error_no_memory(err, "resampling coefficients");
        goto out;
    }
    if (horizontal)
        axis_span(&columns, &x0, &x1);
    if (vertical)
        axis_span(&rows, &y0, &y1);
    struct plane source = {in->rgb + 3 * (y0 * in->width + x0), 3 * in->width};
    size_t n_rows = y1 - y0, row_bytes = 3 * (x1 - x0), kept_bytes = 3 * kept->width;

    if (horizontal) {
        tile = alloc_array(x1 - x0 + columns.n, RESAMPLE_LANES);
        if (!tile) {
            status = error_no_memory(err, "resampling");
            goto out;
        }
    }

    /* 2. The passes. */
    if (horizontal && vertical) {
        bool swap = vertical_first(in, width, height);
        size_t stride = swap ? row_bytes : kept_bytes;
        between = alloc_array(swap ? kept->height : n_rows, stride);
        if (!between) {
            status = error_no_memory(err, "resampling");
            goto out;
        }
        struct plane middle = {between, stride};
        if (swap) {
            pass_vertical(between, stride, source, row_bytes, &rows, sum);
            pass_horizontal(out, out_stride, middle, kept->height, &columns, tile, sum);
        } else {
            pass_horizontal(between, stride, source, n_rows, &columns, tile, sum);
            pass_vertical(out, out_stride, middle, kept_bytes, &rows, sum);
        }
    } else if (horizontal) {
        pass_horizontal(out, out_stride, source, n_rows, &columns, tile, sum);
    } else if (vertical) {
        pass_vertical(out, out_stride, source, kept_bytes, &rows, sum);
    } else {
        for (size_t r = 0; r < n_rows; r++)
            memcpy(out + r * out_stride, source.data + r * source.stride, kept_bytes);
    }
out:
    free(between);
    free(tile);
    axis_release(&columns);
    axis_release(&rows);
    return status;
}

/* Input positions of the outputs first .. first + n; Pillow adds up the step, so its rounding
 * errors are part of the result. */
static void nearest_positions(size_t *positions, size_t in_size, size_t out_size, size_t first,
                              size_t n)
{
    double step = (double)in_size / (double)out_size, at = step * 0.5;
    for (size_t i = 0; i < first + n; i++, at += step)
        if (i >= first)
            positions[i - first] = at < (double)in_size ? (size_t)at : in_size - 1;
}

static enum status resize_nearest(uint8_t *out, size_t out_stride, const struct image *in,
                                  size_t width, size_t height, const struct image_rect *kept,
                                  struct error *err)
{
    size_t *columns = alloc_array(kept->width, sizeof *columns);
    size_t *rows = alloc_array(kept->height, sizeof *rows);
    if (!columns || !rows) {
        free(columns);
        free(rows);
        return error_no_memory(err, "resampling");
    }
    nearest_positions(columns, in->width, width, (size_t)kept->x, kept->width);
    nearest_positions(rows, in->height, height, (size_t)kept->y, kept->height);
    for (size_t r = 0; r < kept->height; r++)
        for (size_t c = 0; c < kept->width; c++)
            memcpy(out + r * out_stride + 3 * c, in->rgb + 3 * (rows[r] * in->width + columns[c]),
                   3);
    free(columns);
    free(rows);
    return STATUS_OK;
}

/* The overlap of [at, at + n) with [0, size): its start and length (0 when there is none). */
static void overlap(long at, size_t n, size_t size, size_t *start, size_t *length)
{
    size_t skip = at < 0 ? (size_t)0 - (size_t)at : 0;
    *start = at < 0 ? 0 : (size_t)at;
    *length = skip < n ? n - skip : 0;
    if (*start >= size)
        *length = 0;
    else if (*length > size - *start)
        *length = size - *start;
}

enum status image_resize_with(enum image_kernel kernel, const struct image *in, size_t width,
                              size_t height, enum resample resample, const struct image_rect *crop,
                              struct image *out, struct error *err)
{
    resample_sum_fn *sum = resample_sum(kernel);
    if (!sum || (unsigned)resample >= N_RESAMPLE)
        return error_set(err, STATUS_INTERNAL, "no such resampling filter or kernel");
    if (!in->width || !in->height || !width || !height)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu cannot be resized to %zu × %zu", in->width,
                         in->height, width, height);
    struct image_rect all = {0, 0, width, height};
    if (!crop)
        crop = &all;
    size_t n_pixels;
    if (width > IMAGE_RESIZE_EDGE_MAX || height > IMAGE_RESIZE_EDGE_MAX ||
        !size_mul(crop->width, crop->height, &n_pixels) || n_pixels > IMAGE_RESIZE_PIXELS_MAX ||
        !n_pixels)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu would be resized to %zu × %zu and cut to %zu × "
                         "%zu: at most %zu pixels (and at least one) can be made",
                         in->width, in->height, width, height, crop->width, crop->height,
                         IMAGE_RESIZE_PIXELS_MAX);

    size_t x, y, n_columns, n_rows;
    overlap(crop->x, crop->width, width, &x, &n_columns);
    overlap(crop->y, crop->height, height, &y, &n_rows);
    size_t out_stride = crop->width * 3;
    bool padded = n_columns < crop->width || n_rows < crop->height;
    uint8_t *rgb = padded ? calloc(n_pixels, 3) : malloc(n_pixels * 3);
    if (!rgb)
        return error_no_memory(err, "a resized picture");
    if (n_columns && n_rows) {
        struct image_rect kept = {(long)x, (long)y, n_columns, n_rows};
        uint8_t *start =
            rgb + (size_t)((long)y - crop->y) * out_stride + (size_t)((long)x - crop->x) * 3;
        enum status status = resample == RESAMPLE_NEAREST
                                 ? resize_nearest(start, out_stride, in, width, height, &kept, err)
                                 : resize_filtered(start, out_stride, in, width, height,
                                                   &filters[resample], &kept, sum, err);
        if (status) {
            free(rgb);
            return status;
        }
    }
    *out = (struct image){.width = crop->width, .height = crop->height, .rgb = rgb};
    return STATUS_OK;
}

enum status image_resize(const struct image *in, size_t width, size_t height,
                         enum resample resample, const struct image_rect *crop, struct image *out,
                         struct error *err)
{
    enum image_kernel kernel = N_IMAGE_KERNEL - 1;
    while (kernel != IMAGE_KERNEL_PLAIN && !image_kernel_usable(kernel))
        kernel--;
    return image_resize_with(kernel, in, width, height, resample, crop, out, err);
}
