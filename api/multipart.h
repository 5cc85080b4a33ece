/*
 * multipart.h: reads a multipart/form-data body (RFC 7578 over RFC 2046) that is all in memory, one
 * part at a time, without copying: what a part holds is a range of the body.
 *
 *   body  = [preamble CRLF] "--" boundary CRLF part *("CRLF--" boundary CRLF part) "CRLF--"
 * boundary
 *           "--" [epilogue]
 *   part  = *(header CRLF) CRLF bytes
 *
 * Every step is linear in the bytes it passes; headers, boundary and the number of parts (the
 * caller counts) are bounded. Nested multipart and transfer encodings are refused (RFC 7578 §4.7
 * deprecates them).
 */
#ifndef VLMD_API_MULTIPART_H
#define VLMD_API_MULTIPART_H

#include "api/form.h"

struct multipart {
    const char *at, *end;
    char delimiter[FORM_BOUNDARY_MAX + 5]; /* CRLF "--" boundary */
    size_t delimiter_size;
    bool is_last; /* `at` is behind the closing delimiter */
};

struct part {
    char name[64];
    char filename[256]; /* "" when there is none; cut at a UTF-8 border */
    char type[96];      /* Content-Type, "" when there is none */
    bool is_file;
    struct span data;
};

/* content_type is the request's header. Steps over the preamble. STATUS_BAD_REQUEST: no usable
 * boundary, or one that the body does not hold. */
enum status multipart_init(struct multipart *out, const char *content_type, const char *body,
                           size_t size, struct error *err);

/* *more false: the closing boundary was there and *out is not filled. STATUS_BAD_REQUEST says what
 * is malformed. */
enum status multipart_next(struct multipart *multipart, struct part *out, bool *more,
                           struct error *err);

/* The value of a header parameter (name="value" or name=value) into out; false when absent or when
 * it does not fit. header is not NUL-terminated. */
bool header_parameter(const char *header, size_t size, const char *name, char *out,
                      size_t out_size);

#endif
