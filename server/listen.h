/*
 * listen.h: a listening socket from "address:port".
 */
#ifndef VLMD_SERVER_LISTEN_H
#define VLMD_SERVER_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/error.h"

/* Accepts host:port, unix:/path (a stale socket there is replaced, a living one is not), [v6]:port,
 * :port (all addresses). Returns the socket (non-blocking, close-on-exec) and writes where it is
 * bound to `bound`; -1 and STATUS_BAD_CONFIG otherwise. */
int listen_open(const char *address, char *bound, size_t bound_size, struct error *err);

/* Removes the file of a local socket; does nothing for other addresses. */
void listen_forget(const char *address);

/* A connected stream socket to such an address (an unspecified host is asked on the loopback);
 * -1 when nothing answers. */
int listen_connect(const char *address, unsigned timeout_s);

#endif
