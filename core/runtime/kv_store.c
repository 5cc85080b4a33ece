/*
 * kv_store.c: a short array, searched from end to end: a look-up happens once a prompt.
 */
#include "core/runtime/kv_store.h"

static size_t bytes_of(const struct kv_shared *kv)
{
    return sizeof *kv + kv->n_floats * sizeof(float);
}

static struct kv_kept *find(struct kv_store *store, const struct digest *digest)
{
    for (size_t i = 0; i < store->n; i++)
        if (digest_equal(&store->kept[i].digest, digest))
            return &store->kept[i];
    return NULL;
}

struct kv_shared *kv_store_get(struct kv_store *store, const struct digest *digest)
{
    struct kv_kept *kept = find(store, digest);
    if (!kept)
        return NULL;
    kept->used = ++store->clock;
    return kv_shared_ref(kept->kv);
}

static void drop_oldest(struct kv_store *store)
{
    size_t oldest = 0;
    for (size_t i = 1; i < store->n; i++)
        if (store->kept[i].used < store->kept[oldest].used)
            oldest = i;
    store->bytes -= bytes_of(store->kept[oldest].kv);
    kv_shared_unref(store->kept[oldest].kv);
    store->kept[oldest] = store->kept[--store->n];
}

void kv_store_shrink(struct kv_store *store, size_t max_bytes)
{
    while (store->n && store->bytes > max_bytes)
        drop_oldest(store);
}

void kv_store_put(struct kv_store *store, const struct digest *digest, struct kv_shared *kv,
                  size_t max_bytes)
{
    size_t bytes = bytes_of(kv);
    if (bytes > max_bytes || find(store, digest))
        return;
    kv_store_shrink(store, max_bytes - bytes);
    if (store->n == KV_STORE_MAX)
        drop_oldest(store);
    store->kept[store->n++] =
        (struct kv_kept){.digest = *digest, .kv = kv_shared_ref(kv), .used = ++store->clock};
    store->bytes += bytes;
}
