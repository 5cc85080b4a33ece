/*
 * feature_cache.h: what the vision tower gave for a picture, and the embedding of a text, kept for
 * the next request that shows the same one. Bounded in bytes; the least recently used goes first.
 *
 * Keys are 128-bit keyed polynomial hashes of the model's input (pixels and their size, or token
 * ids): two different inputs collide with a probability below n² / 2^122 for n words, and as the
 * hash's key is random per process, nobody can look for a collision.
 *
 * A cache belongs to one lane and is used by its thread alone. digest_…() are pure and may run on
 * any thread.
 */
#ifndef VLMD_CORE_RUNTIME_FEATURE_CACHE_H
#define VLMD_CORE_RUNTIME_FEATURE_CACHE_H

#include "core/models/model.h"

struct digest {
    uint64_t words[2];
};

struct digest_key {
    uint64_t words[2]; /* in [2^32, 2^61 - 1) */
};
/* A fresh random key; STATUS_IO when the system gives no random bytes. */
enum status digest_key_init(struct digest_key *key, struct error *err);

struct digest digest_pixels(const struct digest_key *key, const struct pixels *pixels);
struct digest digest_tokens(const struct digest_key *key, const struct tokens *tokens);
bool digest_equal(const struct digest *a, const struct digest *b);

struct feature_cache;

/* max_bytes 0 gives a cache that keeps nothing. NULL: out of memory. */
struct feature_cache *feature_cache_new(size_t max_bytes);
void feature_cache_free(struct feature_cache *cache); /* NULL is fine */

/* A new reference, or NULL when it is not there. */
struct features *feature_cache_get(struct feature_cache *cache, const struct digest *digest);
/* Keeps a reference of its own. What is too large for the cache, or finds no memory, is not kept.
 */
void feature_cache_put(struct feature_cache *cache, const struct digest *digest,
                       struct features *features);

size_t feature_cache_bytes(const struct feature_cache *cache);

#endif
