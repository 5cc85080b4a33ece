/*
 * watcher.h: notices clients that go away or dawdle.
 *
 * A suspended libmicrohttpd connection is not polled, so nobody sees its peer's FIN; and a client
 * that sends its body a byte at a time never looks idle. One thread watches the sockets of both: it
 * calls `gone` when the peer hangs up, and `late` when the deadline passes.
 */
#ifndef VLMD_SERVER_WATCHER_H
#define VLMD_SERVER_WATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

struct watcher;
struct watch;

struct watcher_events {
    /* On the watcher's thread, under its lock: must not block nor call watcher_…(). Each is called
     * at most once for an added watch, which then is no longer active. */
    void (*gone)(struct watch *watch); /* only for those that look for hangups */
    void (*late)(struct watch *watch);
};

/* A socket under watch; embedded in its owner, zeroed before first use. */
struct watch {
    const struct watcher_events *events;
    int fd;
    bool active;
    bool hangup;          /* look for the peer's FIN */
    uint64_t number;      /* the watcher's own */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0 = none */
    struct watch *prev, *next;
};

struct watcher *watcher_new(struct error *err);
void watcher_free(struct watcher *watcher);

/* Starts watching fd, in place of what it watched before. hangup: look for the peer's FIN. */
void watcher_add(struct watcher *watcher, struct watch *watch, const struct watcher_events *events,
                 int fd, bool hangup, uint64_t deadline_ns);

/* When this returns, no callback for the watch is running or will come. Fine when not active. */
void watcher_remove(struct watcher *watcher, struct watch *watch);

/* Acts as if every peer under watch had hung up, and ends the connections that only a deadline is
 * watched of: how a stopping server cancels what is left. */
void watcher_hang_up(struct watcher *watcher);

#endif
