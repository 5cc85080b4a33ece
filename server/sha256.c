/*
 * sha256.c: see sha256.h. GnuTLS computes it, by the processor's own instructions where there are
 * some: a folder's pictures are hashed as they are indexed.
 */
#include "server/sha256.h"

#include <stdio.h>

#include <gnutls/crypto.h>

void sha256_init(struct sha256 *hash)
{
    gnutls_hash_hd_t state;
    hash->state = gnutls_hash_init(&state, GNUTLS_DIG_SHA256) < 0 ? NULL : state;
}

void sha256_add(struct sha256 *hash, const void *data, size_t size)
{
    if (hash->state && gnutls_hash(hash->state, data, size) < 0) {
        gnutls_hash_deinit(hash->state, NULL);
        hash->state = NULL;
    }
}

enum status sha256_end(struct sha256 *hash, char out[SHA256_TEXT], struct error *err)
{
    unsigned char digest[SHA256_TEXT / 2];
    if (!hash->state)
        return error_no_memory(err, "a hash");
    gnutls_hash_deinit(hash->state, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return STATUS_OK;
}
