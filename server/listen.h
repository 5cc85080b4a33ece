/*
 * listen.h: a listening socket from "address:port".
 */
#ifndef VLMD_SERVER_LISTEN_H
#define VLMD_SERVER_LISTEN_H

#include <stddef.h>

#include "core/base/error.h"

/* Accepts host:port, [v6]:port, :port (all addresses). Returns the socket (non-blocking, close-on-exec)
 * and writes where it is bound to `bound`; -1 and STATUS_BAD_CONFIG otherwise. */
int listen_open(const char *address, char *bound, size_t bound_size, struct error *err);

#endif
