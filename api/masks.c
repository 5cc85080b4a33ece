/*
 * masks.c: see masks.h. Resized as PyTorch's interpolate (bilinear, corners not aligned, no
 * antialiasing), in its number type; the probabilities come after.
 */
#include "api/masks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "core/base/size.h"

/* Where output i of n_out comes from among n_in: two inputs, and the second one's weight. */
struct tap {
    size_t first, second;
    float weight;
};

static struct tap tap_of(size_t i, size_t n_in, size_t n_out)
{
    float at = ((float)i + 0.5f) * ((float)n_in / (float)n_out) - 0.5f;
    if (at < 0)
        at = 0;
    size_t first = (size_t)at;
    if (first >= n_in)
        first = n_in - 1;
    size_t second = first + 1 < n_in ? first + 1 : first;
    return (struct tap){first, second, at - (float)first};
}

/* What the mask shows. */
struct summary {
    size_t area;
    size_t x0, y0, x1, y1; /* of the pixels above the threshold; x1, y1 past the end */
};

/* Columns that are worked on at a time: where they come from is the same for all rows. */
enum { COLUMNS = 1024 };

/* Columns x0 … x0 + n of the picture. */
struct strip {
    size_t x0, n;
    struct tap taps[COLUMNS];
};

/* keep[n]: which pixels of a strip's row lie inside. */
static void find_inside(const struct mask *mask, const struct strip *strip, size_t y, uint8_t *keep)
{
    memset(keep, mask->inside == NULL, strip->n);
    for (size_t i = 0; i < mask->n_inside; i++) {
        const struct mask_rect *rect = &mask->inside[i];
        size_t from = rect->x > strip->x0 ? rect->x - strip->x0 : 0, to = rect->x + rect->width;
        to = to > strip->x0 ? to - strip->x0 : 0;
        if (to > strip->n)
            to = strip->n;
        if (y >= rect->y && y - rect->y < rect->height && to > from)
            memset(keep + from, 1, to - from);
    }
}

static void add_pixel(struct summary *summary, size_t x, size_t y)
{
    if (!summary->area++) {
        *summary = (struct summary){1, x, y, x + 1, y + 1};
        return;
    }
    summary->x0 = x < summary->x0 ? x : summary->x0;
    summary->y0 = y < summary->y0 ? y : summary->y0;
    summary->x1 = x >= summary->x1 ? x + 1 : summary->x1;
    summary->y1 = y >= summary->y1 ? y + 1 : summary->y1;
}

/* out [n] holds which pixels to keep at first. */
static void fill_row(const struct mask *mask, const struct strip *strip, size_t y, uint8_t *out,
                     struct summary *summary)
{
    const struct model_traits *traits = mask->traits;
    struct tap row = tap_of(y, traits->mask_height, mask->picture_height);
    const float *above = mask->logits + row.first * traits->mask_width;
    const float *below = mask->logits + row.second * traits->mask_width;
    for (size_t i = 0; i < strip->n; i++) {
        if (!out[i])
            continue;
        const struct tap *column = &strip->taps[i];
        float w = column->weight, v = row.weight;
        float logit = (1 - v) * ((1 - w) * above[column->first] + w * above[column->second]) +
                      v * ((1 - w) * below[column->first] + w * below[column->second]);
        float probability = 1 / (1 + expf(-logit));
        out[i] = probability > 0 ? (uint8_t)(probability * 255 + 0.5f) : 0; /* NaN: 0 */
        if (probability > mask->threshold)
            add_pixel(summary, strip->x0 + i, y);
    }
}

/* pixels [part.height, part.width] */
static void fill(const struct mask *mask, uint8_t *pixels, struct summary *summary)
{
    const struct mask_rect *part = &mask->part;
    struct strip strip;
    for (size_t x = 0; x < part->width; x += strip.n) {
        strip.x0 = part->x + x;
        strip.n = part->width - x < COLUMNS ? part->width - x : COLUMNS;
        for (size_t i = 0; i < strip.n; i++)
            strip.taps[i] = tap_of(strip.x0 + i, mask->traits->mask_width, mask->picture_width);
        for (size_t y = 0; y < part->height; y++) {
            uint8_t *out = pixels + y * part->width + x;
            find_inside(mask, &strip, part->y + y, out);
            fill_row(mask, &strip, part->y + y, out, summary);
        }
    }
}

/* "mask": a data URL of the PNG. */
static enum status put_png(struct call *call, const uint8_t *pixels, size_t width, size_t height,
                           struct error *err)
{
    static const char head[] = "\"data:image/png;base64,";
    struct buffer png;
    buffer_init(&png, api_options(call->api)->max_reply_bytes);
    enum status status = image_encode_png(pixels, width, height, 1, &png, err);
    if (!status) {
        size_t n = base64_encoded_size(png.size);
        char *text = alloc_array(n + sizeof head, 1); /* + the closing quote in place of the NUL */
        if (text) {
            memcpy(text, head, sizeof head - 1);
            base64_encode(png.data, png.size, text + sizeof head - 1);
            text[sizeof head - 1 + n] = '"';
            json_put_raw(&call->out, "mask", text, n + sizeof head);
            free(text);
        } else {
            status = error_no_memory(err, "a mask");
        }
    }
    buffer_release(&png);
    return status;
}

void box_put(struct json_writer *out, const char *key, const float box[4])
{
    static const char *const names[4] = {"xmin", "ymin", "xmax", "ymax"};
    json_begin_object(out, key);
    for (size_t i = 0; i < 4; i++)
        json_put_float(out, names[i], box[i]);
    json_end_object(out);
}

enum status mask_put(struct call *call, const struct mask *mask, struct error *err)
{
    struct json_writer *out = &call->out;
    const struct mask_rect *part = &mask->part;
    enum status status = call_check_alive(call, err);
    if (status)
        return status;
    uint8_t *pixels = alloc_array(part->width, part->height);
    if (!pixels)
        return error_no_memory(err, "a mask");
    struct summary summary = {0};
    fill(mask, pixels, &summary);
    json_put_integer(out, "width", (long long)part->width);
    json_put_integer(out, "height", (long long)part->height);
    status = put_png(call, pixels, part->width, part->height, err);
    free(pixels);
    if (status)
        return status;
    json_put_integer(out, "area", (long long)summary.area);
    if (summary.area)
        box_put(out, "box",
                (const float[]){(float)summary.x0, (float)summary.y0, (float)summary.x1,
                                (float)summary.y1});
    else
        json_put_null(out, "box");
    if (json_writer_failed(out))
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the reply would be larger than %zu bytes; ask for fewer masks at once",
                         api_options(call->api)->max_reply_bytes);
    return STATUS_OK;
}
