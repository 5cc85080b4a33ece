/*
 * sha256.h: SHA-256 (FIPS 180-4) of a stream of bytes.
 */
#ifndef VLMD_SERVER_SHA256_H
#define VLMD_SERVER_SHA256_H

#include <stddef.h>

#include "core/base/error.h"

enum { SHA256_TEXT = 65 }; /* 64 lower-case hex digits and a NUL */

struct sha256 {
    void *state;
};

void sha256_init(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t size);
/* The hash is used up, also on failure: STATUS_NO_MEMORY, somewhere on the way. */
enum status sha256_end(struct sha256 *hash, char out[SHA256_TEXT], struct error *err);

#endif
