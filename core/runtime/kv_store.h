/*
 * kv_store.h: the keys and values of the pictures seen last, kept for the next prompt about one of
 * them in that part of the lane's key/value cache that no running sequence has reserved. They are
 * some twenty times as large as a picture's features, so only the latest few are kept, and they go
 * as soon as sequences want the room.
 *
 * Belongs to one lane and is used by its thread alone.
 */
#ifndef VLMD_CORE_RUNTIME_KV_STORE_H
#define VLMD_CORE_RUNTIME_KV_STORE_H

#include "core/runtime/feature_cache.h"

enum { KV_STORE_MAX = 256 }; /* pictures */

struct kv_store {
    struct kv_kept {
        struct digest digest;
        struct kv_shared *kv;
        uint64_t used;
    } kept[KV_STORE_MAX];
    size_t n, bytes;
    uint64_t clock;
};

/* A new reference, or NULL. */
struct kv_shared *kv_store_get(struct kv_store *store, const struct digest *digest);
/* Keeps a reference of its own, unless it is there already or larger than max_bytes; the least
 * recently used go until all fit within max_bytes. */
void kv_store_put(struct kv_store *store, const struct digest *digest, struct kv_shared *kv,
                  size_t max_bytes);
/* Drops the least recently used until at most max_bytes are kept. */
void kv_store_shrink(struct kv_store *store, size_t max_bytes);

#endif
