/*
 * admission.c: keys compared in constant time, rates by a token bucket a key, bounds by two
 * counters.
 */
#include "server/admission.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/stats.h"

enum { KEY_BYTES_MIN = 8 };

struct admission_key {
    char *name;
    const char *key;       /* inside name's allocation */
    pthread_mutex_t mutex; /* guards the two below; taken alone */
    double tokens;
    uint64_t filled_ns;
};

static void keys_free(struct admission_key *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        explicit_bzero((void *)keys[i].key, strlen(keys[i].key));
        free(keys[i].name);
        pthread_mutex_destroy(&keys[i].mutex);
    }
    free(keys);
}

static enum status keys_read(const struct settings *settings, struct admission_key **out,
                             struct error *err)
{
    const struct setting_list *list = &settings->api_key;
    struct admission_key *keys = calloc(list->n ? list->n : 1, sizeof *keys);
    if (!keys)
        return error_no_memory(err, "API keys");
    for (size_t i = 0; i < list->n; i++) {
        const char *text = list->items[i];
        const char *colon = strchr(text, ':');
        if (!colon || colon == text || colon - text >= KEY_NAME_MAX ||
            strlen(colon + 1) < KEY_BYTES_MIN) {
            keys_free(keys, i);
            return error_set_param(
                err, STATUS_BAD_CONFIG, "api_key",
                "api_key: value %zu is not NAME:KEY with a name of at most %d and "
                "a key of at least %d characters",
                i + 1, KEY_NAME_MAX - 1, KEY_BYTES_MIN);
        }
        struct admission_key *key = &keys[i];
        key->name = strdup(text);
        if (!key->name) {
            keys_free(keys, i);
            return error_no_memory(err, "API keys");
        }
        key->name[colon - text] = '\0';
        key->key = key->name + (colon - text) + 1;
        key->tokens = (double)settings->key_rate_per_minute;
        key->filled_ns = clock_ns();
        pthread_mutex_init(&key->mutex, NULL);
    }
    *out = keys;
    return STATUS_OK;
}

enum status admission_init(struct admission *admission, const struct settings *settings,
                           struct error *err)
{
    struct admission_key *keys = NULL;
    if (keys_read(settings, &keys, err))
        return err->status;
    *admission = (struct admission){
        .keys = keys,
        .n_keys = settings->api_key.n,
        .rate_per_minute = settings->key_rate_per_minute,
        .max_requests = settings->max_inflight,
        .max_bytes = settings->max_inflight_mb << 20,
    };
    pthread_rwlock_init(&admission->lock, NULL);
    return STATUS_OK;
}

enum status admission_reload(struct admission *admission, const struct settings *settings,
                             struct error *err)
{
    struct admission_key *keys = NULL;
    if (keys_read(settings, &keys, err))
        return err->status;
    pthread_rwlock_wrlock(&admission->lock);
    for (size_t i = 0; i < settings->api_key.n; i++)
        for (size_t k = 0; k < admission->n_keys; k++) {
            const struct admission_key *old = &admission->keys[k];
            if (strcmp(keys[i].name, old->name) || strcmp(keys[i].key, old->key))
                continue;
            if (admission->rate_per_minute && old->tokens < keys[i].tokens)
                keys[i].tokens = old->tokens;
            keys[i].filled_ns = old->filled_ns;
        }
    struct admission_key *old = admission->keys;
    size_t n_old = admission->n_keys;
    admission->keys = keys;
    admission->n_keys = settings->api_key.n;
    admission->rate_per_minute = settings->key_rate_per_minute;
    pthread_rwlock_unlock(&admission->lock);
    keys_free(old, n_old);
    return STATUS_OK;
}

void admission_release(struct admission *admission)
{
    if (!admission->keys)
        return; /* it never began */
    keys_free(admission->keys, admission->n_keys);
    pthread_rwlock_destroy(&admission->lock);
    admission->keys = NULL;
    admission->n_keys = 0;
}

/* Takes as long for a wrong first byte as for a wrong last one. */
static bool same_secret(const char *given, const char *secret)
{
    size_t n = strlen(secret), given_n = strlen(given);
    unsigned char different = given_n != n;
    for (size_t i = 0; i < given_n; i++)
        different |= (unsigned char)(given[i] ^ secret[n ? i % n : 0]);
    return !different;
}

static bool take_token(struct admission *admission, struct admission_key *key,
                       unsigned *retry_after_s)
{
    if (!admission->rate_per_minute)
        return true;
    double per_second = (double)admission->rate_per_minute / 60.0;
    pthread_mutex_lock(&key->mutex);
    uint64_t now = clock_ns();
    key->tokens += (double)(now - key->filled_ns) / 1e9 * per_second;
    if (key->tokens > (double)admission->rate_per_minute)
        key->tokens = (double)admission->rate_per_minute;
    key->filled_ns = now;
    bool taken = key->tokens >= 1;
    if (taken)
        key->tokens -= 1;
    else
        *retry_after_s = (unsigned)((1 - key->tokens) / per_second) + 1;
    pthread_mutex_unlock(&key->mutex);
    return taken;
}

static enum status check_key(struct admission *admission, const char *authorization,
                             const char *x_api_key, char name[KEY_NAME_MAX],
                             unsigned *retry_after_s, struct error *err)
{
    if (admission->n_keys == 0)
        return STATUS_OK;
    const char *given = x_api_key;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        given = authorization + 7 + strspn(authorization + 7, " ");
    struct admission_key *found = NULL;
    for (size_t i = 0; given && i < admission->n_keys; i++)
        if (same_secret(given, admission->keys[i].key))
            found = &admission->keys[i];
    if (!found) {
        atomic_fetch_add(&admission->refused_key, 1);
        return error_set(err, STATUS_UNAUTHORIZED,
                         given ? "the API key is not known here"
                               : "an API key is needed: send Authorization: Bearer KEY");
    }
    if (!take_token(admission, found, retry_after_s)) {
        atomic_fetch_add(&admission->refused_rate, 1);
        return error_set(err, STATUS_RATE_LIMITED, "this key may send %zu requests a minute",
                         admission->rate_per_minute);
    }
    snprintf(name, KEY_NAME_MAX, "%s", found->name);
    return STATUS_OK;
}

enum status admission_check_key(struct admission *admission, const char *authorization,
                                const char *x_api_key, char name[KEY_NAME_MAX],
                                unsigned *retry_after_s, struct error *err)
{
    name[0] = '\0';
    pthread_rwlock_rdlock(&admission->lock);
    enum status status = check_key(admission, authorization, x_api_key, name, retry_after_s, err);
    pthread_rwlock_unlock(&admission->lock);
    return status;
}

enum status admission_enter(struct admission *admission, size_t bytes, struct error *err)
{
    size_t requests = atomic_fetch_add(&admission->requests, 1) + 1;
    if (requests > admission->max_requests) {
        atomic_fetch_sub(&admission->requests, 1);
        atomic_fetch_add(&admission->refused_load, 1);
        return error_set(err, STATUS_QUEUE_FULL,
                         "%zu requests are under way, the most there may be",
                         admission->max_requests);
    }
    if (admission_grow(admission, bytes, err)) {
        atomic_fetch_sub(&admission->requests, 1);
        return err->status;
    }
    return STATUS_OK;
}

enum status admission_grow(struct admission *admission, size_t bytes, struct error *err)
{
    size_t total = atomic_fetch_add(&admission->bytes, bytes) + bytes;
    if (total > admission->max_bytes) {
        atomic_fetch_sub(&admission->bytes, bytes);
        atomic_fetch_add(&admission->refused_load, 1);
        return error_set(err, STATUS_QUEUE_FULL,
                         "requests under way hold %zu MiB, the most they may",
                         admission->max_bytes >> 20);
    }
    return STATUS_OK;
}

void admission_leave(struct admission *admission, size_t bytes)
{
    atomic_fetch_sub(&admission->bytes, bytes);
    atomic_fetch_sub(&admission->requests, 1);
}
