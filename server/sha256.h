/*
 * sha256.h: SHA-256 (FIPS 180-4) of a stream of bytes.
 */
#ifndef VLMD_SERVER_SHA256_H
#define VLMD_SERVER_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    unsigned char block[64]; /* n_bytes % 64 of it are waiting */
};

void sha256_init(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t size);
/* 64 lower-case hex digits and a NUL. The hash is used up. */
void sha256_end(struct sha256 *hash, char out[65]);

#endif
