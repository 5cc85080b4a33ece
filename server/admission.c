/*
 * admission.c: keys compared in constant time, rates by a token bucket a key, bounds by two
 * counters.
 */
#include "server/admission.h"

#include <pthread.h>
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

enum status admission_init(struct admission *admission, const struct settings *settings,
                           struct error *err)
{
    *admission = (struct admission){
        .rate_per_minute = settings->key_rate_per_minute,
        .max_requests = settings->max_inflight,
        .max_bytes = settings->max_inflight_mb << 20,
    };
    if (settings->api_key.n == 0)
        return STATUS_OK;
    admission->keys = calloc(settings->api_key.n, sizeof *admission->keys);
    if (!admission->keys)
        return error_no_memory(err, "API keys");
    for (size_t i = 0; i < settings->api_key.n; i++) {
        const char *text = settings->api_key.items[i];
        const char *colon = strchr(text, ':');
        if (!colon || colon == text || strlen(colon + 1) < KEY_BYTES_MIN) {
            admission_release(admission);
            return error_set_param(err, STATUS_BAD_CONFIG, "api_key",
                                   "api_key: value %zu is not NAME:KEY with a key of at least %d "
                                   "characters",
                                   i + 1, KEY_BYTES_MIN);
        }
        struct admission_key *key = &admission->keys[i];
        key->name = strdup(text);
        if (!key->name) {
            admission_release(admission);
            return error_no_memory(err, "API keys");
        }
        key->name[colon - text] = '\0';
        key->key = key->name + (colon - text) + 1;
        key->tokens = (double)admission->rate_per_minute;
        key->filled_ns = clock_ns();
        pthread_mutex_init(&key->mutex, NULL);
        admission->n_keys++;
    }
    return STATUS_OK;
}

void admission_release(struct admission *admission)
{
    for (size_t i = 0; i < admission->n_keys; i++) {
        explicit_bzero((void *)admission->keys[i].key, strlen(admission->keys[i].key));
        free(admission->keys[i].name);
        pthread_mutex_destroy(&admission->keys[i].mutex);
    }
    free(admission->keys);
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

enum status admission_check_key(struct admission *admission, const char *authorization,
                                const char *x_api_key, const char **name, unsigned *retry_after_s,
                                struct error *err)
{
    *name = "";
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
    *name = found->name;
    return STATUS_OK;
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
