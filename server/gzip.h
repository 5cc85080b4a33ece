/*
 * gzip.h: replies made smaller, where it pays. Called by workers only: it computes.
 */
#ifndef VLMD_SERVER_GZIP_H
#define VLMD_SERVER_GZIP_H

#include <stdbool.h>

#include "api/api.h"

enum { GZIP_BYTES_MIN = 1024 };

enum coding { CODING_NONE, CODING_GZIP, CODING_DEFLATE };

/* The reply is of a kind that may be sent compressed: text that is long enough. */
bool gzip_pays(const struct http_reply *reply);

/* Replaces the body by its gzip form (RFC 1952) or, for HTTP's "deflate", its zlib form (RFC 1950).
 * False and nothing changed when there is no memory
 * or it would not get smaller. */
bool gzip_body(struct buffer *body, enum coding coding);

#endif
