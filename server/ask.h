/*
 * ask.h: a small client of our own server, for `vlmd healthcheck` and `vlmd top`: one GET over a
 * connection of its own, plain, TLS or a local socket. One thread.
 */
#ifndef VLMD_SERVER_ASK_H
#define VLMD_SERVER_ASK_H

#include "config/settings.h"
#include "core/base/buffer.h"
#include "core/base/error.h"

/* GET path at settings->listen, with the first of its keys where there are any. With tls_cert it is
 * TLS, and the server must have that certificate (or one that it vouches for); its name and dates
 * are not looked at. The body goes into `body` (up to its maximum), the status into *http_status.
 * STATUS_UNAVAILABLE: nothing answers there, or no HTTP, or not within timeout_s. */
enum status ask_server(const struct settings *settings, const char *path, unsigned timeout_s,
                       struct buffer *body, int *http_status, struct error *err);

#endif
