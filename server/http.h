/*
 * http.h: the sockets: libmicrohttpd in front of the api.
 */
#ifndef VLMD_SERVER_HTTP_H
#define VLMD_SERVER_HTTP_H

#include "server/process.h"

struct http_server;

/* Binds and answers from here on (503 until process->ready). The process outlives it. */
struct http_server *http_start(struct process *process, struct error *err);
/* "127.0.0.1:8080": where it listens, with the port that was taken. */
const char *http_address(const struct http_server *server);
/* What goes before it: "http://", "https://", or "" for a local socket. */
const char *http_scheme(const struct http_server *server);

/* Waits until no request is under way, at most timeout_s; true when so. */
bool http_wait_idle(struct http_server *server, unsigned timeout_s);
/* Cancels what is under way, answers it, closes everything and frees the server. False when a
 * request does not come back (a pass that hangs): nothing is freed then, the process can only exit.
 */
bool http_stop(struct http_server *server);

#endif
