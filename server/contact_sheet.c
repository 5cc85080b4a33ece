/*
 * contact_sheet.c: see contact_sheet.h.
 *
 * The page has no script and loads nothing: thumbnails are WebP in data URLs, its policy allows no
 * more. Whatever comes from the collection is escaped as text; an item's `path`, where it is an
 * absolute one, becomes a file:// link, percent-encoded, so that it can be no other kind of link.
 */
#include "server/contact_sheet.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/utf8.h"
#include "core/image/image.h"
#include "core/image/resample.h"
#include "core/index/store.h"
#include "server/client.h"

enum { THUMBNAIL_SIDE = 320, TEXT_MAX = 64 << 10 };

static const char head[] =
    "<meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<style>\n"
    ":root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }\n"
    "body { margin: 2rem }\n"
    "h1 { font-size: 1.3rem; overflow-wrap: anywhere }\n"
    "main { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(15rem, "
    "1fr)) }\n"
    "figure { margin: 0; overflow-wrap: anywhere }\n"
    ".frame { display: flex; height: 15rem; align-items: center; justify-content: center; "
    "background: #8882; color: GrayText }\n"
    ".frame img { max-width: 100%; max-height: 100% }\n"
    ".score { float: right; font-variant-numeric: tabular-nums }\n"
    "pre { white-space: pre-wrap; max-height: 9rem; overflow: auto; font-size: .8rem }\n"
    "</style>\n";

/* A text as HTML, control characters as spaces. A longer one than TEXT_MAX is cut, and says so. */
static void put_text(FILE *out, const char *text)
{
    size_t size = strlen(text);
    char *clean = malloc(TEXT_MAX + 1);
    if (!clean)
        return;
    utf8_clean(clean, TEXT_MAX, text, size);
    for (const char *c = clean; *c; c++) {
        const char *escape = *c == '&'    ? "&amp;"
                             : *c == '<'  ? "&lt;"
                             : *c == '>'  ? "&gt;"
                             : *c == '"'  ? "&quot;"
                             : *c == '\'' ? "&#39;"
                                          : NULL;
        if (escape)
            fputs(escape, out);
        else
            fputc(*c, out);
    }
    if (size >= TEXT_MAX)
        fputs(" …", out);
    free(clean);
}

/* ---- thumbnails --------------------------------------------------------------------------------
 */

static size_t scaled(size_t side, size_t longest)
{
    size_t to = side * THUMBNAIL_SIDE / longest;
    return to ? to : 1;
}

/* The picture's bytes as a small WebP in base64 (malloc'd). NULL: it cannot be shown. */
static char *thumbnail(const void *bytes, size_t size, size_t max_pixels)
{
    struct error ignored;
    struct image image = {0}, small = {0};
    struct buffer webp;
    char *text = NULL;
    buffer_init(&webp, (size_t)4 << 20);
    if (image_decode(bytes, size, max_pixels, NULL, &image, &ignored))
        return NULL;
    size_t longest = image.width > image.height ? image.width : image.height;
    const struct image *shown = &image;
    if (longest > THUMBNAIL_SIDE) {
        shown = &small;
        if (image_resize(&image, scaled(image.width, longest), scaled(image.height, longest),
                         RESAMPLE_BILINEAR, NULL, &small, &ignored))
            goto out;
    }
    if (!image_encode_webp(shown->rgb, shown->width, shown->height, &webp, &ignored))
        text = base64_text(webp.data, webp.size);
out:
    buffer_release(&webp);
    image_release(&small);
    image_release(&image);
    return text;
}

/* Takes the bytes; NULL: there is no picture. */
static void put_picture(FILE *out, void *bytes, size_t size, const struct process *process)
{
    char *data = bytes ? thumbnail(bytes, size, process->settings.max_pixels) : NULL;
    if (data)
        fprintf(out, "<img alt=\"\" src=\"data:image/webp;base64,%s\">", data);
    else
        fputs(bytes ? "this picture cannot be shown" : "no picture is kept", out);
    free(data);
    free(bytes);
}

/* ---- the page ----------------------------------------------------------------------------------
 */

static void put_link(FILE *out, const char *path)
{
    fputs("<a href=\"file://", out);
    for (const char *c = path; *c; c++)
        if (strchr("/-_.~", *c) || (*c >= '0' && *c <= '9') ||
            ((*c | 32) >= 'a' && (*c | 32) <= 'z'))
            fputc(*c, out);
        else
            fprintf(out, "%%%02X", (unsigned char)*c);
    fputs("\">", out);
}

static void put_result(FILE *out, struct process *process, const char *collection,
                       const json_t *result)
{
    struct error ignored;
    const char *id = json_string_value(json_object_get(result, "id"));
    const json_t *metadata = json_object_get(result, "metadata"),
                 *score = json_object_get(result, "score");
    const char *path = json_string_value(json_object_get(metadata, "path"));
    bool links = path && path[0] == '/';
    void *bytes = NULL;
    size_t size = 0;
    if (store_blob(process->store, collection, id, &bytes, &size, &ignored))
        bytes = NULL;
    fputs("<figure>", out);
    if (links)
        put_link(out, path);
    fputs("<div class=\"frame\">", out);
    put_picture(out, bytes, size, process);
    fputs(links ? "</div></a>" : "</div>", out);
    fputs("<figcaption><span class=\"score\">", out);
    if (json_is_number(score))
        fprintf(out, "%.4f", json_number_value(score));
    fputs("</span><b>", out);
    put_text(out, id ? id : "");
    fputs("</b>", out);
    char *text = json_object_size(metadata)
                     ? json_dumps(metadata, JSON_INDENT(1) | JSON_REAL_PRECISION(9))
                     : NULL;
    if (text) {
        fputs("<pre>", out);
        for (char *line = text, *end; line; line = end) { /* put_text() has no line breaks */
            if ((end = strchr(line, '\n')))
                *end++ = '\0';
            put_text(out, line);
            if (end)
                fputc('\n', out);
        }
        fputs("</pre>", out);
    }
    free(text);
    fputs("</figcaption></figure>\n", out);
}

static enum status put_page(FILE *out, struct process *process, const char *collection,
                            const char *query, const json_t *reply, struct error *err)
{
    const json_t *results = json_object_get(reply, "results"), *result;
    size_t i;
    fputs("<!doctype html>\n<html>\n<title>", out);
    put_text(out, collection);
    fputs(": ", out);
    put_text(out, query);
    fputs("</title>\n", out);
    fputs(head, out);
    fputs("<h1>", out);
    put_text(out, query);
    fputs("</h1>\n", out);
    if (is_file(query) && strcmp(query, "-")) {
        char *bytes;
        size_t size;
        if (file_read(query, process->settings.max_body_mb << 20, &bytes, &size, err))
            return err->status;
        put_picture(out, bytes, size, process);
    }
    fprintf(out, "<p>%zu of ", json_array_size(results));
    put_text(out, collection);
    const char *space = json_string_value(json_object_get(reply, "space"));
    fputs(", by ", out);
    put_text(out, space ? space : "");
    fputs("</p>\n<main>\n", out);
    json_array_foreach(results, i, result) put_result(out, process, collection, result);
    fputs("</main>\n</html>\n", out);
    return STATUS_OK;
}

static enum status cannot_write(const char *path, struct error *err)
{
    return error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
}

enum status contact_sheet_write(const char *path, struct process *process, const char *collection,
                                const char *query, const json_t *reply, struct error *err)
{
    if (!strcmp(path, "-")) {
        enum status status = put_page(stdout, process, collection, query, reply, err);
        return !status && fflush(stdout) ? cannot_write("standard output", err) : status;
    }
    char *beside;
    if (asprintf(&beside, "%s.part", path) < 0)
        return error_no_memory(err, "a file's name");
    FILE *out = fopen(beside, "we");
    enum status status =
        out ? put_page(out, process, collection, query, reply, err) : cannot_write(path, err);
    if (out) {
        bool failed = ferror(out) != 0;
        if ((fclose(out) || failed) && !status)
            status = cannot_write(path, err);
        if (!status && rename(beside, path))
            status = cannot_write(path, err);
        if (status)
            unlink(beside);
    }
    free(beside);
    return status;
}
