/*
 * sequence.c: the blocks that pass between forward passes (features, shared keys and values) and
 * the self-attention cache of one sequence.
 *
 * A cache grows by doubling, so n tokens cost O(n) copying in all. Reference counts are atomic:
 * features and kv_shared are handed between threads; a sequence has one owner.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

/* header + n floats, NULL when that wraps or memory is out. */
static void *block_new(size_t header, size_t n_floats)
{
    size_t bytes;
    if (!size_mul(n_floats, sizeof(float), &bytes) || !size_add(bytes, header, &bytes))
        return NULL;
    return malloc(bytes);
}

struct features *features_new(size_t n_rows, size_t dim)
{
    size_t n;
    struct features *features = NULL;
    if (size_mul(n_rows, dim, &n))
        features = block_new(sizeof *features, n);
    if (!features)
        return NULL;
    atomic_init(&features->n_refs, 1);
    features->n_rows = n_rows;
    features->dim = dim;
    features->grid_height = features->grid_width = 0;
    return features;
}

struct features *features_ref(struct features *features)
{
    atomic_fetch_add_explicit(&features->n_refs, 1, memory_order_relaxed);
    return features;
}

void features_unref(struct features *features)
{
    if (features && atomic_fetch_sub_explicit(&features->n_refs, 1, memory_order_acq_rel) == 1)
        free(features);
}

enum status features_split_rows(const float *rows, const size_t *n_rows, size_t n, size_t dim,
                                struct features **out, struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t n_floats = (n_rows ? n_rows[i] : 1) * dim;
        struct features *each = features_new(n_floats / dim, dim);
        if (!each) {
            while (i-- > 0)
                features_unref(out[i]);
            return error_no_memory(err, "a picture's features");
        }
        memcpy(each->rows, rows, n_floats * sizeof *rows);
        rows += n_floats;
        out[i] = each;
    }
    return STATUS_OK;
}

enum status features_split(const float *rows, size_t n, size_t dim, struct features **out,
                           struct error *err)
{
    return features_split_rows(rows, NULL, n, dim, out, err);
}

struct kv_shared *kv_shared_new(size_t n_rows, size_t n_floats)
{
    struct kv_shared *shared = block_new(sizeof *shared, n_floats);
    if (!shared)
        return NULL;
    atomic_init(&shared->n_refs, 1);
    shared->n_rows = n_rows;
    shared->n_floats = n_floats;
    return shared;
}

struct kv_shared *kv_shared_ref(struct kv_shared *shared)
{
    atomic_fetch_add_explicit(&shared->n_refs, 1, memory_order_relaxed);
    return shared;
}

void kv_shared_unref(struct kv_shared *shared)
{
    if (shared && atomic_fetch_sub_explicit(&shared->n_refs, 1, memory_order_acq_rel) == 1)
        free(shared);
}

/* ---- sequences ---------------------------------------------------------------------------------
 */

void sequence_init(struct sequence *sequence, size_t n_layers, size_t dim)
{
    *sequence = (struct sequence){.n_layers = n_layers, .dim = dim};
}

/* A block for `capacity` tokens that holds what `from` holds. */
static float *copy_cache(const struct sequence *from, size_t capacity)
{
    size_t n;
    if (!size_mul(from->n_layers, 2, &n) || !size_mul(n, capacity, &n) ||
        !size_mul(n, from->dim, &n))
        return NULL;
    float *kv = alloc_array(n, sizeof *kv);
    if (!kv || !from->n_tokens)
        return kv;
    for (size_t plane = 0; plane < 2 * from->n_layers; plane++)
        memcpy(kv + plane * capacity * from->dim, from->kv + plane * from->capacity * from->dim,
               from->n_tokens * from->dim * sizeof *kv);
    return kv;
}

enum status sequence_reserve(struct sequence *sequence, size_t n_tokens, struct error *err)
{
    enum { CAPACITY_MIN = 16 };
    if (n_tokens <= sequence->capacity)
        return STATUS_OK;
    size_t capacity = sequence->capacity > SIZE_MAX / 2 ? n_tokens : 2 * sequence->capacity;
    if (capacity < CAPACITY_MIN)
        capacity = CAPACITY_MIN;
    if (capacity < n_tokens)
        capacity = n_tokens;
    float *kv = copy_cache(sequence, capacity);
    if (!kv)
        return error_no_memory(err, "a sequence's keys and values");
    free(sequence->kv);
    sequence->kv = kv;
    sequence->capacity = capacity;
    return STATUS_OK;
}

float *sequence_kv(const struct sequence *sequence, size_t layer, int which)
{
    return sequence->kv + (2 * layer + (size_t)which) * sequence->capacity * sequence->dim;
}

enum status sequence_fork(struct sequence *out, const struct sequence *from, struct error *err)
{
    struct sequence copy = *from;
    copy.kv = NULL;
    if (from->capacity) {
        copy.kv = copy_cache(from, from->capacity);
        if (!copy.kv)
            return error_no_memory(err, "a beam's keys and values");
    }
    if (copy.cross)
        kv_shared_ref(copy.cross);
    *out = copy;
    return STATUS_OK;
}

void sequence_release(struct sequence *sequence)
{
    if (!sequence)
        return;
    free(sequence->kv);
    kv_shared_unref(sequence->cross);
    *sequence = (struct sequence){0};
}
