/*
 * admission.h: who may come in, and how much at once: API keys, their rates, requests and bytes
 * under way.
 *
 * Everything here is decided when the headers are there, before a byte of the body is looked at
 * (DESIGN §2). Any thread.
 */
#ifndef VLMD_SERVER_ADMISSION_H
#define VLMD_SERVER_ADMISSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "config/settings.h"

struct admission_key;

enum { KEY_NAME_MAX = 64 }; /* with the NUL */

struct admission {
    pthread_rwlock_t
        lock; /* guards keys, n_keys, rate_per_minute; a key's own mutex comes after it */
    struct admission_key *keys;
    size_t n_keys;
    size_t rate_per_minute;
    size_t max_requests, max_bytes;
    atomic_size_t requests, bytes; /* under way */
    atomic_ullong refused_load, refused_key, refused_rate;
};

/* Reads the settings; STATUS_BAD_CONFIG for a key that is not NAME:KEY or too short. */
enum status admission_init(struct admission *admission, const struct settings *settings,
                           struct error *err);
/* Takes keys and rate of other settings from now on; a key that stays keeps what it has used up. On
 * failure (as admission_init) nothing has changed. */
enum status admission_reload(struct admission *admission, const struct settings *settings,
                             struct error *err);
void admission_release(struct admission *admission);

/* Checks the Authorization and X-API-Key headers (either may be NULL). name gets the key's name
 * ("" when the server is open). STATUS_UNAUTHORIZED, STATUS_RATE_LIMITED (with *retry_after_s). */
enum status admission_check_key(struct admission *admission, const char *authorization,
                                const char *x_api_key, char name[KEY_NAME_MAX],
                                unsigned *retry_after_s, struct error *err);

/* Counts a request and its (declared) bytes in; STATUS_QUEUE_FULL counts nothing. */
enum status admission_enter(struct admission *admission, size_t bytes, struct error *err);
/* More bytes for a request that came without a length. */
enum status admission_grow(struct admission *admission, size_t bytes, struct error *err);
void admission_leave(struct admission *admission, size_t bytes);

#endif
