/*
 * gzip.c: see gzip.h. zlib's fastest level: embeddings as JSON shrink to half at little cost.
 */
#include "server/gzip.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

#include "core/base/size.h"

enum { LEVEL = 1, WINDOW_GZIP = 15 + 16, MEMORY = 8 };

bool gzip_pays(const struct http_reply *reply)
{
    static const char *const kinds[] = {"application/json", "text/html", "text/css",
                                        "text/javascript", "image/svg+xml"};
    if (reply->body.size < GZIP_BYTES_MIN || reply->body.size > UINT_MAX / 2)
        return false;
    const char *type = reply->content_type ? reply->content_type : "application/json";
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++)
        if (!strncmp(type, kinds[i], strlen(kinds[i])))
            return true;
    return false;
}

bool gzip_body(struct buffer *body, enum coding coding)
{
    struct buffer packed;
    buffer_init(&packed, body->size);
    z_stream z = {0};
    int window = coding == CODING_GZIP ? WINDOW_GZIP : MAX_WBITS;
    if (deflateInit2(&z, LEVEL, Z_DEFLATED, window, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    z.next_in = (unsigned char *)body->data;
    z.avail_in = (unsigned)body->size;
    unsigned char block[16384];
    int rc;
    bool fits = true;
    do {
        z.next_out = block;
        z.avail_out = sizeof block;
        rc = deflate(&z, Z_FINISH);
        fits = buffer_append(&packed, (char *)block, sizeof block - z.avail_out);
    } while (rc == Z_OK && fits);
    deflateEnd(&z);
    if (rc != Z_STREAM_END || !fits || packed.size >= body->size) {
        buffer_release(&packed);
        return false;
    }
    buffer_release(body);
    *body = packed;
    return true;
}
