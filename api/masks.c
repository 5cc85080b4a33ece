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

/* keep[part.width]: which pixels of a row lie inside. */
static void find_inside(const struct mask *mask, size_t y, uint8_t *keep)
{
    const struct mask_rect *part = &mask->part;
    memset(keep, mask->inside == NULL, part->width);
    for (size_t i = 0; i < mask->n_inside; i++) {
        const struct mask_rect *rect = &mask->inside[i];
        size_t from = rect->x > part->x ? rect->x - part->x : 0, to = rect->x + rect->width;
        to = to > part->x ? to - part->x : 0;
        if (to > part->width)
            to = part->width;
        if (y >= rect->y && y - rect->y < rect->height && to > from)
            memset(keep + from, 1, to - from);
    }
}

/* out [part.width] holds which pixels to keep at first. */
static void fill_row(const struct mask *mask, size_t y, uint8_t *out, struct summary *summary)
{
    const struct model_traits *traits = mask->traits;
    struct tap row = tap_of(y, traits->mask_height, mask->picture_height);
    const float *above = mask->logits + row.first * traits->mask_width;
    const float *below = mask->logits + row.second * traits->mask_width;
    for (size_t i = 0; i < mask->part.width; i++) {
        if (!out[i])
            continue;
        size_t x = mask->part.x + i;
        struct tap column = tap_of(x, traits->mask_width, mask->picture_width);
        float w = column.weight, v = row.weight;
        float logit = (1 - v) * ((1 - w) * above[column.first] + w * above[column.second]) +
                      v * ((1 - w) * below[column.first] + w * below[column.second]);
        float probability = 1 / (1 + expf(-logit));
        out[i] = (uint8_t)lrintf(probability * 255);
        if (!(probability > mask->threshold))
            continue;
        if (!summary->area++) {
            *summary = (struct summary){1, x, y, x + 1, y + 1};
            continue;
        }
        summary->x0 = x < summary->x0 ? x : summary->x0;
        summary->x1 = x >= summary->x1 ? x + 1 : summary->x1;
        summary->y1 = y + 1;
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
    for (size_t y = 0; y < part->height; y++) {
        find_inside(mask, part->y + y, pixels + y * part->width);
        fill_row(mask, part->y + y, pixels + y * part->width, &summary);
    }
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
