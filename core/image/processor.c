/*
 * processor.c: preprocessor_config.json, and what it asks for.
 *
 * Resize and centre crop are one step (only what the crop keeps is computed). Rescale and normalise
 * are one table of 256 floats a channel, made with the reference's own roundings: u8 × factor in
 * f64, rounded to f32, then (x − mean) / std in f32.
 */
#include "core/image/processor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

/* --- parsing ---------------------------------------------------------------------------------- */

/* NULL when absent or null: the default stays. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static enum status parse_bool(const json_t *config, const char *key, bool *out, struct error *err)
{
    const json_t *value = get(config, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_boolean(value))
        return error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must be true or false", key);
    *out = json_is_true(value);
    return STATUS_OK;
}

static enum status parse_edge(const json_t *value, const char *key, size_t *out, struct error *err)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > PROCESSOR_EDGE_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must be a whole number from 1 to %d",
                         key, PROCESSOR_EDGE_MAX);
    *out = (size_t)n;
    return STATUS_OK;
}

/* An edge, a list [height, width], or an object with some of the keys below. */
struct size_fields {
    size_t height, width, shortest_edge, longest_edge;
};

static enum status parse_size(const json_t *value, const char *key, bool default_to_square,
                              struct size_fields *out, struct error *err)
{
    struct size_fields size = {0};
    enum status status = STATUS_OK;
    if (json_is_array(value)) {
        if (json_array_size(value) != 2)
            return error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must have two values", key);
        status = parse_edge(json_array_get(value, 0), key, &size.height, err);
        if (!status)
            status = parse_edge(json_array_get(value, 1), key, &size.width, err);
    } else if (json_is_object(value)) {
        const struct {
            const char *key;
            size_t *field;
        } edges[] = {{"height", &size.height},
                     {"width", &size.width},
                     {"shortest_edge", &size.shortest_edge},
                     {"longest_edge", &size.longest_edge}};
        for (size_t i = 0; i < ARRAY_LENGTH(edges) && !status; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s.%s", key, edges[i].key);
            const json_t *edge = get(value, edges[i].key);
            if (edge)
                status = parse_edge(edge, name, edges[i].field, err);
        }
        if (!status && !size.shortest_edge && !(size.height && size.width))
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "'%s' must have 'height' and 'width', or 'shortest_edge'", key);
    } else {
        size_t edge = 0;
        status = parse_edge(value, key, &edge, err);
        if (status)
            return status;
        if (default_to_square)
            size.height = size.width = edge;
        else
            size.shortest_edge = edge;
    }
    if (!status)
        *out = size;
    return status;
}

static enum status parse_number(const json_t *config, const char *key, double *out,
                                struct error *err)
{
    const json_t *value = get(config, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_number(value) || !isfinite(json_number_value(value)))
        return error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must be a number", key);
    *out = json_number_value(value);
    return STATUS_OK;
}

/* A number for all channels, or a list of three. */
static enum status parse_channels(const json_t *config, const char *key, bool zero_allowed,
                                  float out[3], struct error *err)
{
    const json_t *value = get(config, key);
    if (!value)
        return STATUS_OK;
    float channels[3];
    bool good = json_is_number(value) || (json_is_array(value) && json_array_size(value) == 3);
    for (size_t c = 0; c < 3 && good; c++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, c) : value;
        channels[c] = (float)json_number_value(item);
        good =
            json_is_number(item) && isfinite(channels[c]) && (zero_allowed || channels[c] != 0.0f);
    }
    if (!good)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'%s' must be %s or a list of three", key,
                         zero_allowed ? "a number" : "a number other than 0");
    memcpy(out, channels, sizeof channels);
    return STATUS_OK;
}

static enum status parse_resample(const json_t *config, enum resample *out, struct error *err)
{
    const json_t *value = get(config, "resample");
    if (!value)
        return STATUS_OK;
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n >= N_RESAMPLE)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'resample' must be a whole number from 0 (nearest) to %d (Hamming)",
                         N_RESAMPLE - 1);
    *out = (enum resample)n;
    return STATUS_OK;
}

static enum status parse_sizes(const json_t *config, struct image_processor *p, struct error *err)
{
    const json_t *value = get(config, "size");
    struct size_fields size;
    enum status status;
    if (value) {
        if ((status = parse_size(value, "size", p->default_to_square, &size, err)))
            return status;
        p->height = size.height;
        p->width = size.width;
        p->shortest_edge = size.shortest_edge;
        p->longest_edge = size.longest_edge;
    }
    if ((value = get(config, "crop_size"))) {
        if ((status = parse_size(value, "crop_size", true, &size, err)))
            return status;
        if (!size.height || !size.width)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "'crop_size' must have 'height' and 'width'");
        p->crop_height = size.height;
        p->crop_width = size.width;
    }
    if ((value = get(config, "pad_size"))) {
        if ((status = parse_size(value, "pad_size", true, &size, err)))
            return status;
        if (!size.height || !size.width)
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "'pad_size' must have 'height' and 'width'");
        p->pad_height = size.height;
        p->pad_width = size.width;
    }
    if ((value = get(config, "size_divisor")))
        return parse_edge(value, "size_divisor", &p->size_divisor, err);
    return STATUS_OK;
}

enum status image_processor_parse(const json_t *config, const struct image_processor *defaults,
                                  struct image_processor *out, struct error *err)
{
    if (!json_is_object(config))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the picture processor's configuration must be a JSON object");
    struct image_processor p = *defaults;
    const struct {
        const char *key;
        bool *field;
    } flags[] = {
        {"do_resize", &p.do_resize},   {"do_center_crop", &p.do_center_crop},
        {"do_rescale", &p.do_rescale}, {"do_normalize", &p.do_normalize},
        {"do_pad", &p.do_pad},         {"default_to_square", &p.default_to_square},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ARRAY_LENGTH(flags) && !status; i++)
        status = parse_bool(config, flags[i].key, flags[i].field, err);
    if (!status)
        status = parse_sizes(config, &p, err);
    if (!status)
        status = parse_resample(config, &p.resample, err);
    if (!status)
        status = parse_number(config, "rescale_factor", &p.rescale_factor, err);
    if (!status)
        status = parse_channels(config, "image_mean", true, p.mean, err);
    if (!status)
        status = parse_channels(config, "image_std", false, p.std, err);
    if (status)
        return status;
    if (p.do_resize && !p.shortest_edge && !(p.height && p.width))
        return error_set(err, STATUS_BAD_CHECKPOINT, "'do_resize' is set, but there is no 'size'");
    if (p.do_center_crop && !(p.crop_height && p.crop_width))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'do_center_crop' is set, but there is no 'crop_size'");
    *out = p;
    return STATUS_OK;
}

/* --- sizes ------------------------------------------------------------------------------------ */

struct size2 {
    double width, height; /* whole numbers */
};

static double scaled(double edge, double by, double over)
{
    return floor(edge * by / over);
}

/* get_resize_output_image_size(): the short edge is given, the long one follows. */
static struct size2 size_by_shortest(double width, double height, double shortest)
{
    return width <= height ? (struct size2){shortest, scaled(shortest, height, width)}
                           : (struct size2){scaled(shortest, width, height), shortest};
}

/* get_size_with_aspect_ratio(): the same, unless the long edge would be more than `longest`. */
static struct size2 size_by_edges(double width, double height, double shortest, double longest)
{
    double low = fmin(width, height), high = fmax(width, height), exact = shortest;
    if (high / low * shortest > longest) {
        exact = longest * low / high;
        shortest = rint(exact); /* half to even, as Python's round() */
    }
    if ((height <= width && height == shortest) || (width <= height && width == shortest))
        return (struct size2){width, height};
    return width < height ? (struct size2){shortest, scaled(exact, height, width)}
                          : (struct size2){scaled(exact, width, height), shortest};
}

/* ViLT's get_resize_output_image_size(): the long edge at most 1333/800 of the short one, then both
 * cut down to multiples of the divisor. */
static struct size2 size_by_divisor(double width, double height, double shortest, double divisor)
{
    double longest = floor(1333.0 / 800.0 * shortest);
    double scale = shortest / fmin(width, height);
    double new_height = height < width ? shortest : scale * height;
    double new_width = height < width ? scale * width : shortest;
    double larger = fmax(new_height, new_width);
    if (larger > longest) {
        scale = longest / larger;
        new_height = scale * new_height;
        new_width = scale * new_width;
    }
    new_height = floor(new_height + 0.5);
    new_width = floor(new_width + 0.5);
    return (struct size2){floor(new_width / divisor) * divisor,
                          floor(new_height / divisor) * divisor};
}

enum status image_processor_size(const struct image_processor *p, size_t width, size_t height,
                                 size_t *out_width, size_t *out_height, struct error *err)
{
    double w = (double)width, h = (double)height;
    if (!width || !height)
        return error_set(err, STATUS_UNPROCESSABLE, "the picture has no pixels");
    struct size2 size = {w, h};
    if (p->do_resize && p->shortest_edge && p->size_divisor)
        size = size_by_divisor(w, h, (double)p->shortest_edge, (double)p->size_divisor);
    else if (p->do_resize && p->shortest_edge && p->longest_edge)
        size = size_by_edges(w, h, (double)p->shortest_edge, (double)p->longest_edge);
    else if (p->do_resize && p->shortest_edge)
        size = size_by_shortest(w, h, (double)p->shortest_edge);
    else if (p->do_resize)
        size = (struct size2){(double)p->width, (double)p->height};
    if (size.width < 1.0 || size.height < 1.0 || size.width > (double)IMAGE_RESIZE_EDGE_MAX ||
        size.height > (double)IMAGE_RESIZE_EDGE_MAX)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu pixels is too narrow for this model: it would be "
                         "resized to %.0f × %.0f",
                         width, height, size.width, size.height);
    *out_width = (size_t)size.width;
    *out_height = (size_t)size.height;
    return STATUS_OK;
}

/* --- applying --------------------------------------------------------------------------------- */

static void make_tables(const struct image_processor *p, float tables[3][256])
{
    for (int c = 0; c < 3; c++)
        for (int value = 0; value < 256; value++) {
            float x = p->do_rescale ? (float)((double)value * p->rescale_factor) : (float)value;
            tables[c][value] = p->do_normalize ? (x - p->mean[c]) / p->std[c] : x;
        }
}

/* Half of the difference, rounded down also below zero, as Python's //, or to even, as its round().
 */
static long center(size_t whole, size_t part, bool rounds)
{
    long difference = (long)whole - (long)part;
    if (rounds)
        return (long)rint((double)difference / 2);
    return difference >= 0 ? difference / 2 : -((1 - difference) / 2);
}

/* [h, w, 3] u8 → the upper left of planar f32 [3, out->height, out->width]; the rest is 0. */
static void fill(const struct image *image, float tables[3][256], struct pixels *out)
{
    size_t width = image->width, plane = out->height * out->width;
    for (size_t y = 0; y < image->height; y++) {
        const uint8_t *from = image->rgb + y * width * 3;
        float *r = out->data + y * out->width, *g = r + plane, *b = g + plane;
        for (size_t x = 0; x < width; x++, from += 3) {
            r[x] = tables[0][from[0]];
            g[x] = tables[1][from[1]];
            b[x] = tables[2][from[2]];
        }
        for (size_t x = width; x < out->width; x++)
            r[x] = g[x] = b[x] = 0.0f;
    }
    size_t below = (out->height - image->height) * out->width;
    for (size_t c = 0; c < 3 && below; c++)
        memset(out->data + c * plane + image->height * out->width, 0, below * sizeof(float));
}

enum status image_processor_apply(const struct image_processor *p, const struct image *image,
                                  struct pixels *out, struct error *err)
{
    size_t width, height;
    enum status status = image_processor_size(p, image->width, image->height, &width, &height, err);
    if (status)
        return status;
    struct image_rect kept = {0, 0, width, height};
    if (p->do_center_crop)
        kept = (struct image_rect){center(width, p->crop_width, p->crop_rounds),
                                   center(height, p->crop_height, p->crop_rounds), p->crop_width,
                                   p->crop_height};
    bool pad = p->do_pad && p->pad_height && p->pad_width;
    struct pixels pixels = {.height = pad ? p->pad_height : kept.height,
                            .width = pad ? p->pad_width : kept.width};
    if (kept.width > pixels.width || kept.height > pixels.height)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the picture becomes %zu × %zu pixels; this model takes at most %zu × %zu",
                         kept.width, kept.height, pixels.width, pixels.height);
    size_t n_pixels;
    if (!size_mul(pixels.width, pixels.height, &n_pixels) || n_pixels > PROCESSOR_PIXELS_MAX)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "a picture of %zu × %zu pixels would become %zu × %zu for this model; at "
                         "most %zu pixels are possible",
                         image->width, image->height, pixels.width, pixels.height,
                         PROCESSOR_PIXELS_MAX);

    struct image resized = {0};
    bool same = width == image->width && height == image->height && !p->do_center_crop;
    if (!same) {
        status = image_resize(image, width, height, p->resample, &kept, &resized, err);
        if (status)
            return status;
    }
    pixels.data = alloc_array(n_pixels, 3 * sizeof(float));
    if (!pixels.data) {
        image_release(&resized);
        return error_no_memory(err, "a model's picture");
    }
    float tables[3][256];
    make_tables(p, tables);
    fill(same ? image : &resized, tables, &pixels);
    image_release(&resized);
    *out = pixels;
    return STATUS_OK;
}

void pixels_release(struct pixels *pixels)
{
    if (!pixels)
        return;
    free(pixels->data);
    *pixels = (struct pixels){0};
}
