/*
 * workers.h: the worker pool: threads that do what is neither socket nor forward pass.
 *
 * Decoding, resampling, tokenising and rendering run here, one ticket at a time per thread, in the
 * order of arrival. A ticket is embedded in whatever is to be worked on; the pool never owns it.
 * The queue's length is bounded by whoever makes tickets (max_inflight).
 */
#ifndef VLMD_SERVER_WORKERS_H
#define VLMD_SERVER_WORKERS_H

#include <stddef.h>

#include "core/base/error.h"

struct workers;

struct ticket {
    struct ticket *next;
    void (*run)(struct ticket *ticket); /* on a worker thread; may push itself or free the ticket */
};

struct workers *workers_new(size_t n_threads, struct error *err);
/* Lets what is queued run, then stops the threads. */
void workers_free(struct workers *workers);

/* Any thread. The ticket must not be queued already. */
void workers_push(struct workers *workers, struct ticket *ticket);

#endif
