/*
 * commands_find.c: the subcommands that find things in a picture, right here: detect, segment. With
 * --draw they also write the picture with what was found drawn into it: frames, and masks as a
 * tint; the printed lines are in the colours' order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "core/base/size.h"
#include "core/image/draw.h"
#include "server/client.h"
#include "server/commands.h"

/* ---- the request -------------------------------------------------------------------------------
 */

static json_t *file_field(const char *path, size_t max_bytes, struct error *err)
{
    char *bytes;
    size_t size;
    if (file_read(path, max_bytes, &bytes, &size, err))
        return NULL;
    char *text = base64_text(bytes, size);
    free(bytes);
    json_t *field = text ? json_string(text) : NULL;
    free(text);
    if (!field)
        error_no_memory(err, "a picture");
    return field;
}

/* {"image", the list of operands after it, options}; --query-image names a file. */
static enum status find(struct process *process, const struct arguments *arguments,
                        const char *path, const char *list_name, json_t **reply, struct error *err)
{
    size_t max_bytes = process->settings.max_body_mb << 20;
    json_t *body = json_object();
    object_add_fields(body, arguments);
    enum status status = STATUS_OK;
    json_t *image = file_field(arguments->operands[0], max_bytes, err);
    if (!image)
        status = err->status;
    else
        json_object_set_new(body, "image", image);
    const char *example = json_string_value(json_object_get(body, "query_image"));
    if (!status && example) {
        image = file_field(example, max_bytes, err);
        if (!image)
            status = err->status;
        else
            json_object_set_new(body, "query_image", image);
    }
    if (!status && arguments->n_operands > 1) {
        json_t *list = json_array();
        for (size_t i = 1; i < arguments->n_operands; i++)
            json_array_append_new(list, json_string(arguments->operands[i]));
        json_object_set_new(body, list_name, list);
    }
    if (!status)
        status = client_call_json(process, "POST", path, body, reply, err);
    json_decref(body);
    return status;
}

/* ---- drawing -----------------------------------------------------------------------------------
 */

static double number_at(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void read_box(const json_t *box, double out[4])
{
    static const char *const names[4] = {"xmin", "ymin", "xmax", "ymax"};
    for (size_t i = 0; i < 4; i++)
        out[i] = number_at(box, names[i]);
}

/* The PNG of a reply's `mask` as grey values. */
static enum status read_mask(const json_t *of, size_t max_pixels, struct image *out,
                             struct error *err)
{
    const char *text = json_string_value(json_object_get(of, "mask"));
    text = text ? strchr(text, ',') : NULL;
    if (!text)
        return error_set(err, STATUS_INTERNAL, "the reply has no mask");
    size_t n = strlen(++text), size, at;
    unsigned char *png = malloc(base64_decoded_max(n) + 1);
    if (!png)
        return error_no_memory(err, "a mask");
    enum status status = base64_decode(text, n, png, &size, &at)
                             ? image_decode(png, size, max_pixels, NULL, out, err)
                             : error_set(err, STATUS_INTERNAL, "the reply's mask is broken");
    free(png);
    if (!status)
        for (size_t i = 0; i < out->width * out->height; i++)
            out->rgb[i] = out->rgb[3 * i];
    return status;
}

/* Where to draw: opened from the command's picture, written by canvas_close(). */
struct canvas {
    struct image image;
    size_t max_pixels;
};

static enum status canvas_open(struct canvas *canvas, const struct process *process,
                               const char *path, struct error *err)
{
    char *bytes;
    size_t size;
    canvas->max_pixels = process->settings.max_pixels;
    enum status status = file_read(path, process->settings.max_body_mb << 20, &bytes, &size, err);
    if (status)
        return status;
    status = image_decode(bytes, size, canvas->max_pixels, NULL, &canvas->image, err);
    free(bytes);
    return status;
}

static enum status canvas_mask(struct canvas *canvas, const json_t *of, size_t x, size_t y,
                               size_t colour, struct error *err)
{
    struct image mask = {0};
    enum status status = read_mask(of, canvas->max_pixels, &mask, err);
    if (!status)
        image_draw_mask(&canvas->image, mask.rgb, x, y, mask.width, mask.height, colour);
    image_release(&mask);
    return status;
}

/* Writes the picture unless something failed before. */
static enum status canvas_close(struct canvas *canvas, const char *path, enum status status,
                                struct error *err)
{
    struct buffer png;
    buffer_init(&png, (size_t)1 << 30);
    if (!status)
        status = image_encode_png(canvas->image.rgb, canvas->image.width, canvas->image.height, 3,
                                  &png, err);
    if (!status) {
        FILE *file = fopen(path, "we");
        bool ok = file && fwrite(png.data, 1, png.size, file) == png.size;
        if (file && fclose(file))
            ok = false;
        if (!ok)
            status = error_set(err, STATUS_IO, "cannot write %s", path);
    }
    buffer_release(&png);
    image_release(&canvas->image);
    return status;
}

/* ---- detect ------------------------------------------------------------------------------------
 */

/* A label's colour: its place on the command line. */
static size_t colour_of(const struct arguments *arguments, const char *label)
{
    for (size_t i = 1; label && i < arguments->n_operands; i++)
        if (!strcmp(arguments->operands[i], label))
            return i - 1;
    return 0;
}

static enum status draw_detections(struct canvas *canvas, const struct arguments *arguments,
                                   const json_t *detections, struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = json_array_size(detections); i-- > 0 && !status;) { /* the best on top */
        const json_t *each = json_array_get(detections, i), *mask = json_object_get(each, "mask");
        size_t colour = colour_of(arguments, json_string_value(json_object_get(each, "label")));
        double box[4];
        read_box(json_object_get(each, "box"), box);
        if (json_is_object(mask))
            status = canvas_mask(canvas, mask, (size_t)number_at(mask, "x"),
                                 (size_t)number_at(mask, "y"), colour, err);
        image_draw_box(&canvas->image, box, colour);
    }
    return status;
}

static void print_detections(const json_t *detections)
{
    size_t i;
    const json_t *each;
    json_array_foreach(detections, i, each)
    {
        const char *label = json_string_value(json_object_get(each, "label"));
        double box[4];
        read_box(json_object_get(each, "box"), box);
        printf("%.4f  %7.1f %7.1f %7.1f %7.1f  %s\n", number_at(each, "score"), box[0], box[1],
               box[2], box[3], label ? label : "");
    }
}

static void print_warnings(const json_t *reply)
{
    size_t i;
    const json_t *each;
    json_array_foreach(json_object_get(reply, "warnings"), i, each)
        fprintf(stderr, "vlmd: %s\n", json_string_value(each));
}

/* The reply's list goes to the terminal, and, with --draw, into a picture. */
static enum status show(struct process *process, const struct arguments *arguments,
                        const json_t *reply, const char *key, void (*print)(const json_t *list),
                        enum status (*draw)(struct canvas *canvas,
                                            const struct arguments *arguments, const json_t *list,
                                            struct error *err),
                        struct error *err)
{
    const json_t *list = json_object_get(reply, key);
    if (arguments->json) {
        print_json(reply);
    } else {
        print_warnings(reply);
        print(list);
    }
    if (!arguments->draw)
        return STATUS_OK;
    struct canvas canvas = {0};
    enum status status = canvas_open(&canvas, process, arguments->operands[0], err);
    if (!status)
        status = draw(&canvas, arguments, list, err);
    return canvas_close(&canvas, arguments->draw, status, err);
}

static int run(struct arguments *arguments, const char *path, const char *list_name,
               const char *key, void (*print)(const json_t *list),
               enum status (*draw)(struct canvas *canvas, const struct arguments *arguments,
                                   const json_t *list, struct error *err))
{
    struct process process;
    struct error err = {0};
    json_t *reply = NULL;
    if (arguments->draw && !strcmp(arguments->operands[0], "-"))
        return command_usage("--draw needs a picture that can be read twice, not standard input");
    if (process_open(&process, &arguments->settings, PROCESS_MODELS, &err))
        return command_fail(&err);
    enum status status = find(&process, arguments, path, list_name, &reply, &err);
    if (!status)
        status = show(&process, arguments, reply, key, print, draw, &err);
    json_decref(reply);
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}

int command_detect(struct arguments *arguments)
{
    return run(arguments, "/v1/detect", "queries", "detections", print_detections, draw_detections);
}

/* ---- segment -----------------------------------------------------------------------------------
 */

static enum status draw_masks(struct canvas *canvas, const struct arguments *arguments,
                              const json_t *masks, struct error *err)
{
    (void)arguments;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < json_array_size(masks) && !status; i++)
        status = canvas_mask(canvas, json_array_get(masks, i), 0, 0, i, err);
    return status;
}

static void print_masks(const json_t *masks)
{
    size_t i;
    const json_t *each;
    json_array_foreach(masks, i, each)
    {
        const char *prompt = json_string_value(json_object_get(each, "prompt"));
        const json_t *found = json_object_get(each, "box");
        double box[4], n = number_at(each, "width") * number_at(each, "height");
        read_box(found, box);
        printf("%5.1f %%  ", 100 * number_at(each, "area") / (n > 0 ? n : 1));
        if (json_is_object(found))
            printf("%7.1f %7.1f %7.1f %7.1f", box[0], box[1], box[2], box[3]);
        else
            printf("%31s", "-");
        printf("  %s\n", prompt ? prompt : "");
    }
}

int command_segment(struct arguments *arguments)
{
    return run(arguments, "/v1/segment", "prompts", "masks", print_masks, draw_masks);
}
