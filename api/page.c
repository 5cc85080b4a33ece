/*
 * page.c: the web page at /, the API viewer at /docs, and what they load, from the binary itself.
 *
 * The files of api/page and four sample pictures are embedded by the assembler. They are public
 * (the page asks for a key itself) and inline, and cached by their tag: a browser that has them
 * gets 304. Nothing but this server may be loaded or asked by the pages (Content-Security-Policy).
 */
#include <string.h>

#include "api/endpoint.h"
#include "core/base/size.h"
/* PAGE_TAG: a hash of all the files, made by the build; including it also rebuilds this file when
 * one of them changes, which the compiler cannot know of. */
#include "page_tag.h"

#define TEXT_OF(token) #token
#define TEXT(macro)    TEXT_OF(macro)
static const char page_tag[] = "\"" TEXT(PAGE_TAG) "\"";

/* Bytes from `file` between two symbols. Global ones, so that link-time optimisation sees them. */
#define EMBED(symbol, file)                                                                        \
    __asm__(".pushsection .rodata\n"                                                               \
            ".global page_" #symbol "_begin\n"                                                     \
            ".global page_" #symbol "_end\n"                                                       \
            "page_" #symbol "_begin:\n"                                                            \
            ".incbin \"" file "\"\n"                                                               \
            "page_" #symbol "_end:\n"                                                              \
            ".byte 0\n"                                                                            \
            ".popsection\n");                                                                      \
    extern const char page_##symbol##_begin[], page_##symbol##_end[];

#define PAGE_FILES(FILE)                                                                           \
    FILE(index, PAGE_DIR, "index.html", "text/html; charset=utf-8")                                \
    FILE(docs, PAGE_DIR, "docs.html", "text/html; charset=utf-8")                                  \
    FILE(app_js, PAGE_DIR, "app.js", "text/javascript; charset=utf-8")                             \
    FILE(docs_js, PAGE_DIR, "docs.js", "text/javascript; charset=utf-8")                           \
    FILE(style, PAGE_DIR, "style.css", "text/css; charset=utf-8")                                  \
    FILE(icon, PAGE_DIR, "icon.svg", "image/svg+xml")                                              \
    FILE(fruit, SAMPLES_DIR, "three-strawberries-and-a-banana.png", "image/png")                   \
    FILE(dog, SAMPLES_DIR, "a-dog.jpg", "image/jpeg")                                              \
    FILE(pets, SAMPLES_DIR, "a-cat-a-dog-and-a-rabbit.jpg", "image/jpeg")                          \
    FILE(shapes, SAMPLES_DIR, "a-red-circle-right-of-a-green-triangle.png", "image/png")

#define EMBED_FILE(symbol, dir, file, type) EMBED(symbol, dir "/" file)
PAGE_FILES(EMBED_FILE)
#undef EMBED_FILE

static const struct page_file {
    const char *name, *type, *begin, *end;
} files[] = {
#define PAGE_ROW(symbol, dir, file, type) {file, type, page_##symbol##_begin, page_##symbol##_end},
    PAGE_FILES(PAGE_ROW)
#undef PAGE_ROW
};

/* Whether If-None-Match names our tag: `*`, or a list of tags with or without W/ (a compressing
 * server or proxy makes it weak). */
static bool knows_tag(const char *if_none_match)
{
    return if_none_match && (!strcmp(if_none_match, "*") || strstr(if_none_match, page_tag));
}

static enum status reply_file(struct call *call, const char *name, struct error *err)
{
    const struct page_file *file = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(files) && !file; i++)
        file = strcmp(files[i].name, name) ? NULL : &files[i];
    if (!file)
        return error_set(err, STATUS_NOT_FOUND, "the page has no file '%.100s'", name);
    reply_header(&call->reply, "ETag", "W/%s", page_tag);
    reply_header(&call->reply, "Cache-Control", "public, max-age=0, must-revalidate");
    reply_header(&call->reply, "Content-Security-Policy",
                 "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: "
                 "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                 "frame-ancestors 'none'");
    reply_header(&call->reply, "X-Content-Type-Options", "nosniff");
    reply_header(&call->reply, "Referrer-Policy", "no-referrer");
    bool known = knows_tag(call->request.if_none_match);
    if (known)
        call_status(call, 304);
    return call_reply_bytes(call, file->type, file->begin,
                            known ? 0 : (size_t)(file->end - file->begin), err);
}

static enum status page_begin(struct call *call, struct error *err)
{
    return reply_file(call, "index.html", err);
}

static enum status docs_begin(struct call *call, struct error *err)
{
    return reply_file(call, "docs.html", err);
}

static enum status file_begin(struct call *call, struct error *err)
{
    return reply_file(call, call_param(call, 0), err);
}

#define PAGE_ENDPOINT(route, operation, text, function, ...)                                       \
    {                                                                                              \
        .method = "GET", .path = route, .id = operation, .tag = "page", .summary = text,           \
        .inline_reply = true, .is_public = true, .reply_types = {__VA_ARGS__}, .begin = function,  \
    }

const struct endpoint endpoint_page =
    PAGE_ENDPOINT("/", "page", "The web page, to try things by hand", page_begin, "text/html");
const struct endpoint endpoint_docs =
    PAGE_ENDPOINT("/docs", "docs", "This description, to read", docs_begin, "text/html");
const struct endpoint endpoint_page_file =
    PAGE_ENDPOINT("/page/{file}", "pageFile", "What the pages load", file_begin, "text/html",
                  "text/javascript", "text/css", "image/png", "image/jpeg", "image/svg+xml");
