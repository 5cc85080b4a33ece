/*
 * headers.h: what single request headers say: who asks, from where, in which trace, and which forms
 * of a reply are taken. Pure functions over text from strangers; any thread.
 */
#ifndef VLMD_SERVER_HEADERS_H
#define VLMD_SERVER_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "config/settings.h"

enum { TRACE_ID_SIZE = 33, ADDRESS_SIZE = 64 };

/* What Access-Control-Allow-Origin must say to a page of this origin: "*", the origin itself
 * (borrowed), or NULL: not allowed. Origins are compared as they are (scheme://host[:port]). */
const char *cors_allow(const struct setting_list *allowed, const char *origin);

/* Accept-Encoding takes this coding (with a weight above 0). NULL: no. */
bool accepts_coding(const char *accept_encoding, const char *coding);

/* The trace id of a W3C traceparent (version-traceid-parent-flags); false and "" for anything else.
 */
bool trace_id(const char *traceparent, char out[TRACE_ID_SIZE]);

/* The client's address as text: the peer's, or, where `forwarded` (X-Forwarded-For) is given and
 * ends in an address, that. "unix" for a local socket. */
void client_address(const struct sockaddr *peer, const char *forwarded, char out[ADDRESS_SIZE]);

#endif
