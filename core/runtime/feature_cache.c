/*
 * feature_cache.c: a hash table with chains over a list in order of use.
 *
 * The hash is a polynomial over the prime field of 2^61 - 1, evaluated at two secret random points;
 * each 32-bit word of the input is a coefficient, so no two inputs of one length share a
 * polynomial. Four strands are run side by side to hide the latency of the multiplication, and
 * joined at the end together with the kind and the sizes.
 */
#include "core/runtime/feature_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/size.h"

/* ---- digests ------------------------------------------------------------------------------------
 */

#define PRIME (((uint64_t)1 << 61) - 1)

/* a · b + c mod PRIME for a, b < 2^61 and c < 2^61. */
static inline uint64_t multiply_add(uint64_t a, uint64_t b, uint64_t c)
{
    __uint128_t product = (__uint128_t)a * b + c;
    uint64_t sum = (uint64_t)(product & PRIME) + (uint64_t)(product >> 61);
    return sum >= PRIME ? sum - PRIME : sum;
}

enum status digest_key_init(struct digest_key *key, struct error *err)
{
    uint64_t bits[2];
    ssize_t got;
    do
        got = getrandom(bits, sizeof bits, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof bits)
        return error_set(err, STATUS_IO, "the system gives no random bytes");
    for (int i = 0; i < 2; i++)
        key->words[i] =
            ((uint64_t)1 << 32) + bits[i] % (PRIME - ((uint64_t)1 << 32)); /* never small */
    return STATUS_OK;
}

static struct digest digest_words(const struct digest_key *key, const void *data, size_t n_words,
                                  const uint64_t *sizes, size_t n_sizes)
{
    enum { STRANDS = 4 };
    const unsigned char *bytes = data;
    struct digest digest;
    uint64_t sums[2][STRANDS] = {{0}}, steps[2];
    for (int i = 0; i < 2; i++) {
        uint64_t square = multiply_add(key->words[i], key->words[i], 0);
        steps[i] = multiply_add(square, square, 0);
    }
    uint32_t words[STRANDS];
    for (size_t start = 0; start < n_words; start += STRANDS) {
        size_t n = n_words - start < STRANDS ? n_words - start : STRANDS;
        if (n < STRANDS)
            memset(words, 0, sizeof words);
        memcpy(words, bytes + start * sizeof *words, n * sizeof *words);
        for (int i = 0; i < 2; i++)
            for (int strand = 0; strand < STRANDS; strand++)
                sums[i][strand] = multiply_add(sums[i][strand], steps[i], words[strand]);
    }
    for (int i = 0; i < 2; i++) {
        uint64_t sum = 0;
        for (int strand = 0; strand < STRANDS; strand++)
            sum = multiply_add(sum, key->words[i], sums[i][strand]);
        for (size_t j = 0; j < n_sizes; j++) {
            sum = multiply_add(sum, key->words[i], sizes[j] & 0xFFFFFFFF);
            sum = multiply_add(sum, key->words[i], sizes[j] >> 32);
        }
        digest.words[i] = sum;
    }
    return digest;
}

struct digest digest_pixels(const struct digest_key *key, const struct pixels *pixels)
{
    uint64_t sizes[] = {1, pixels->height, pixels->width};
    return digest_words(key, pixels->data, 3 * pixels->height * pixels->width, sizes,
                        ARRAY_LENGTH(sizes));
}

struct digest digest_tokens(const struct digest_key *key, const struct tokens *tokens)
{
    uint64_t sizes[] = {2, tokens->n};
    return digest_words(key, tokens->ids, tokens->n, sizes, ARRAY_LENGTH(sizes));
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return a->words[0] == b->words[0] && a->words[1] == b->words[1];
}

/* ---- the cache ----------------------------------------------------------------------------------
 */

struct entry {
    struct digest digest;
    struct features *features;
    size_t bytes;
    struct entry *chain;         /* next of its bucket */
    struct entry *newer, *older; /* by use */
};

struct feature_cache {
    size_t max_bytes, bytes;
    size_t n_entries, n_buckets; /* a power of two */
    struct entry **buckets;
    struct entry *newest, *oldest;
};

enum { BUCKETS_MIN = 64 };

struct feature_cache *feature_cache_new(size_t max_bytes)
{
    struct feature_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache->max_bytes = max_bytes;
    cache->n_buckets = BUCKETS_MIN;
    cache->buckets = calloc(cache->n_buckets, sizeof(struct entry *));
    if (!cache->buckets) {
        free(cache);
        return NULL;
    }
    return cache;
}

static struct entry **bucket_of(const struct feature_cache *cache, const struct digest *digest)
{
    return &cache->buckets[digest->words[0] & (cache->n_buckets - 1)];
}

static void unlink_use(struct feature_cache *cache, struct entry *entry)
{
    *(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static void link_newest(struct feature_cache *cache, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static void drop(struct feature_cache *cache, struct entry *entry)
{
    struct entry **at = bucket_of(cache, &entry->digest);
    while (*at != entry)
        at = &(*at)->chain;
    *at = entry->chain;
    unlink_use(cache, entry);
    cache->bytes -= entry->bytes;
    cache->n_entries--;
    features_unref(entry->features);
    free(entry);
}

void feature_cache_free(struct feature_cache *cache)
{
    if (!cache)
        return;
    while (cache->oldest)
        drop(cache, cache->oldest);
    free(cache->buckets);
    free(cache);
}

static struct entry *find(const struct feature_cache *cache, const struct digest *digest)
{
    struct entry *entry = *bucket_of(cache, digest);
    while (entry && !digest_equal(&entry->digest, digest))
        entry = entry->chain;
    return entry;
}

struct features *feature_cache_get(struct feature_cache *cache, const struct digest *digest)
{
    struct entry *entry = find(cache, digest);
    if (!entry)
        return NULL;
    unlink_use(cache, entry);
    link_newest(cache, entry);
    return features_ref(entry->features);
}

/* Doubles the table; without memory for that the chains just get longer. */
static void grow(struct feature_cache *cache)
{
    struct entry **old = cache->buckets;
    size_t n_old = cache->n_buckets;
    struct entry **buckets = calloc(n_old * 2, sizeof(struct entry *));
    if (!buckets)
        return;
    cache->buckets = buckets;
    cache->n_buckets = n_old * 2;
    for (size_t i = 0; i < n_old; i++)
        for (struct entry *entry = old[i], *next; entry; entry = next) {
            next = entry->chain;
            struct entry **bucket = bucket_of(cache, &entry->digest);
            entry->chain = *bucket;
            *bucket = entry;
        }
    free(old);
}

void feature_cache_put(struct feature_cache *cache, const struct digest *digest,
                       struct features *features)
{
    size_t bytes = sizeof(struct entry) + sizeof(struct features) +
                   features->n_rows * features->dim * sizeof(float);
    if (bytes > cache->max_bytes || find(cache, digest))
        return;
    struct entry *entry = malloc(sizeof *entry);
    if (!entry)
        return;
    while (cache->oldest && cache->bytes > cache->max_bytes - bytes)
        drop(cache, cache->oldest);
    if (cache->n_entries >= cache->n_buckets)
        grow(cache);
    struct entry **bucket = bucket_of(cache, digest);
    *entry = (struct entry){
        .digest = *digest, .features = features_ref(features), .bytes = bytes, .chain = *bucket};
    *bucket = entry;
    link_newest(cache, entry);
    cache->bytes += bytes;
    cache->n_entries++;
}

size_t feature_cache_bytes(const struct feature_cache *cache)
{
    return cache->bytes;
}
