/*
 * error.c: replies, and the one shape that all errors have (DESIGN §4).
 */
#include <stdarg.h>
#include <stdio.h>

#include "api/api.h"
#include "api/render.h"

enum { ERROR_REPLY_BYTES_MAX = 8192 };

void reply_header(struct http_reply *reply, const char *name, const char *format, ...)
{
    if (reply->n_headers == REPLY_HEADERS_MAX)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(reply->headers[reply->n_headers].value, sizeof reply->headers[0].value, format, args);
    va_end(args);
    reply->headers[reply->n_headers++].name = name;
}

void reply_release(struct http_reply *reply)
{
    buffer_release(&reply->body);
}

void reply_error(struct http_reply *reply, const struct api_options *options,
                 const struct error *err, unsigned retry_after_s)
{
    const struct status_info *info = status_info(err->status);
    buffer_release(&reply->body);
    buffer_init(&reply->body, ERROR_REPLY_BYTES_MAX);
    reply->status = info->http_status;
    if (err->status == STATUS_QUEUE_FULL && options && options->overload_status)
        reply->status = options->overload_status;
    reply->content_type = "application/json";
    reply->n_headers = 0;

    struct json_writer out;
    json_writer_init(&out, &reply->body);
    json_begin_object(&out, NULL);
    json_put_error(&out, "error", err);
    json_end_object(&out);
    if (json_writer_failed(&out))
        buffer_release(&reply->body); /* out of memory: the status line has to do */

    if (reply->status == 429 || reply->status == 503)
        reply_header(reply, "Retry-After", "%u", retry_after_s ? retry_after_s : 1);
}
