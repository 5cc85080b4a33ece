/*
 * test_runtime_cache.c: the feature cache: what it keeps, for how long, and what its digests tell
 * apart.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/runtime/feature_cache.h"
#include "core/runtime/kv_store.h"

static struct digest digest_of(uint64_t i)
{
    return (struct digest){{i * 0x9E3779B97F4A7C15u, i}};
}

static struct features *features_of(size_t n_floats, float value)
{
    struct features *features = features_new(1, n_floats);
    for (size_t i = 0; i < n_floats; i++)
        features->rows[i] = value;
    return features;
}

static void put(struct feature_cache *cache, uint64_t i, size_t n_floats)
{
    struct digest digest = digest_of(i);
    struct features *features = features_of(n_floats, (float)i);
    feature_cache_put(cache, &digest, features);
    features_unref(features); /* the cache has its own reference */
}

static bool has(struct feature_cache *cache, uint64_t i)
{
    struct digest digest = digest_of(i);
    struct features *features = feature_cache_get(cache, &digest);
    if (!features)
        return false;
    ck_assert_float_eq(features->rows[0], (float)i);
    features_unref(features);
    return true;
}

START_TEST(cache_drops_the_least_recently_used)
{
    struct feature_cache *cache = feature_cache_new(10000);
    for (uint64_t i = 0; i < 3; i++)
        put(cache, i, 700); /* 2.8 kB each */
    ck_assert_uint_le(feature_cache_bytes(cache), 10000);
    ck_assert(has(cache, 0)); /* used again: 1 is the oldest now */
    put(cache, 3, 700);
    ck_assert(has(cache, 0) && !has(cache, 1) && has(cache, 2) && has(cache, 3));
    put(cache, 4, 2200); /* takes the room of all others */
    ck_assert(has(cache, 4) && !has(cache, 0) && !has(cache, 2) && !has(cache, 3));
    put(cache, 5, 2600); /* larger than the cache: changes nothing */
    ck_assert(has(cache, 4) && !has(cache, 5));
    put(cache, 4, 10); /* the same again changes nothing */
    ck_assert_uint_gt(feature_cache_bytes(cache), 8000);
    feature_cache_free(cache);
}
END_TEST

START_TEST(cache_of_no_bytes_keeps_nothing)
{
    struct feature_cache *cache = feature_cache_new(0);
    put(cache, 1, 1);
    ck_assert(!has(cache, 1));
    ck_assert_uint_eq(feature_cache_bytes(cache), 0);
    feature_cache_free(cache);
    feature_cache_free(NULL);
}
END_TEST

START_TEST(cache_holds_many_and_what_was_taken_outlives_it)
{
    enum { N = 5000 };
    struct feature_cache *cache = feature_cache_new((size_t)1 << 30);
    for (uint64_t i = 0; i < N; i++)
        put(cache, i, 3);
    for (uint64_t i = 0; i < N; i++)
        ck_assert(has(cache, i));
    struct digest digest = digest_of(77);
    struct features *kept = feature_cache_get(cache, &digest);
    feature_cache_free(cache);
    ck_assert_float_eq(kept->rows[2], 77);
    features_unref(kept);
}
END_TEST

static void put_kv(struct kv_store *store, uint64_t i, size_t n_floats, size_t max_bytes)
{
    struct digest digest = digest_of(i);
    struct kv_shared *kv = kv_shared_new(1, n_floats);
    kv->data[0] = (float)i;
    kv_store_put(store, &digest, kv, max_bytes);
    kv_shared_unref(kv);
}

static bool has_kv(struct kv_store *store, uint64_t i)
{
    struct digest digest = digest_of(i);
    struct kv_shared *kv = kv_store_get(store, &digest);
    if (!kv)
        return false;
    ck_assert_float_eq(kv->data[0], (float)i);
    kv_shared_unref(kv);
    return true;
}

START_TEST(kv_store_keeps_the_latest_within_what_is_left)
{
    struct kv_store *store = calloc(1, sizeof *store);
    for (uint64_t i = 0; i < 4; i++)
        put_kv(store, i, 250, 5000); /* about 1 kB each */
    ck_assert(has_kv(store, 0));     /* 1 is the oldest now */
    kv_store_shrink(store, 3200);
    ck_assert(has_kv(store, 0) && !has_kv(store, 1) && has_kv(store, 2) && has_kv(store, 3));
    put_kv(store, 4, 250, 2100);
    ck_assert(has_kv(store, 4) && !has_kv(store, 0) && !has_kv(store, 2));
    put_kv(store, 5, 2000, 5000); /* too large: changes nothing */
    ck_assert(has_kv(store, 4) && has_kv(store, 3) && !has_kv(store, 5));
    for (uint64_t i = 10; i < 10 + 2 * KV_STORE_MAX; i++)
        put_kv(store, i, 1, (size_t)1 << 20);
    ck_assert_uint_eq(store->n, KV_STORE_MAX);
    ck_assert(has_kv(store, 9 + 2 * KV_STORE_MAX) && !has_kv(store, 10));
    kv_store_shrink(store, 0);
    ck_assert_uint_eq(store->n + store->bytes, 0);
    free(store);
}
END_TEST

/* The digest of `n` pixels' floats, all 0 but one. */
static struct digest probe(const struct digest_key *key, size_t height, size_t width, size_t at,
                           uint32_t bits)
{
    float *data = calloc(3 * height * width + 1, sizeof *data);
    memcpy(&data[at], &bits, sizeof bits);
    struct pixels pixels = {height, width, data};
    struct digest digest = digest_pixels(key, &pixels);
    free(data);
    return digest;
}

START_TEST(digests_tell_every_bit_and_size_apart)
{
    struct error err = {0};
    struct digest_key key, other;
    ck_assert(!digest_key_init(&key, &err) && !digest_key_init(&other, &err));
    enum { SIDE = 3, N = 3 * SIDE * SIDE, ALL = N * 32 + 4 };
    struct digest *digests = calloc(ALL, sizeof *digests);
    size_t n = 0;
    for (size_t at = 0; at < N; at++)
        for (int bit = 0; bit < 32; bit++)
            digests[n++] = probe(&key, SIDE, SIDE, at, (uint32_t)1 << bit);
    digests[n++] = probe(&key, SIDE, SIDE, 0, 0);
    digests[n++] = probe(&key, 9, 1, 0, 0); /* as many floats, another shape */
    digests[n++] = probe(&key, 1, 9, 0, 0);
    digests[n++] = probe(&key, 10, 1, 0, 0);
    ck_assert_uint_eq(n, ALL);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            ck_assert(!digest_equal(&digests[i], &digests[j]));
    struct digest again = probe(&key, SIDE, SIDE, 0, 1), keyed = probe(&other, SIDE, SIDE, 0, 1);
    ck_assert(digest_equal(&again, &digests[0]));
    ck_assert(!digest_equal(&keyed, &digests[0])); /* nobody can know them beforehand */
    free(digests);

    int32_t ids[4] = {1, 2, 3, 0};
    struct tokens three = {ids, 3, false}, four = {ids, 4, false}, none = {NULL, 0, false};
    struct digest a = digest_tokens(&key, &three), b = digest_tokens(&key, &four),
                  c = digest_tokens(&key, &none);
    ck_assert(!digest_equal(&a, &b) && !digest_equal(&a, &c) && !digest_equal(&b, &c));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime_cache");
    TCase *tcase = tcase_create("runtime_cache");
    tcase_add_test(tcase, cache_drops_the_least_recently_used);
    tcase_add_test(tcase, cache_of_no_bytes_keeps_nothing);
    tcase_add_test(tcase, cache_holds_many_and_what_was_taken_outlives_it);
    tcase_add_test(tcase, kv_store_keeps_the_latest_within_what_is_left);
    tcase_add_test(tcase, digests_tell_every_bit_and_size_apart);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
