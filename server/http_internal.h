/*
 * http_internal.h: an exchange, one request on its way through the process, and what http.c,
 * lines.c and daemon.c share about it. The states and their invariants stand at the head of http.c.
 */
#ifndef VLMD_SERVER_HTTP_INTERNAL_H
#define VLMD_SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "server/gzip.h"
#include "server/headers.h"
#include "server/http.h"
#include "server/watcher.h"
#include "server/workers.h"

enum { REQUEST_ID_MAX = 128, RETRY_AFTER_S = 1 };

struct http_server {
    struct process *process;
    struct MHD_Daemon *daemon;
    struct workers *workers;
    struct watcher *watcher;
    atomic_size_t exchanges; /* open, whatever their state */
    char address[300];
    char *tls_cert, *tls_key; /* PEM; NULL = plain HTTP */
};

/* A body of lines on its way; lines.c. */
struct feed {
    bool is_fed;     /* the body is lines */
    bool is_waiting; /* FEEDING, for room in a queue */
    bool is_gone;    /* the client, meanwhile */
    bool is_last;    /* it has come to its end */
    size_t used;     /* bytes of exchange->body that are dealt with */
    size_t end;      /* behind its last whole line */
    size_t bytes;    /* that were dealt with before */
    struct call_lines sums;
    struct buffer results;    /* a line for each item so far */
    uint64_t patience_end_ns; /* a full queue is asked again until then; 0 = it is not full */
};

enum exchange_state { NEW, BODY, REFUSED, WAITING, FEEDING, STREAMING, READY };

struct exchange {
    struct http_server *server;
    struct MHD_Connection *connection;
    enum exchange_state state;
    uint64_t received_ns;

    char *uri; /* path, NUL, query */
    char *query;
    char method[16];
    char request_id[REQUEST_ID_MAX + 1];
    char key_name[KEY_NAME_MAX];
    char client[ADDRESS_SIZE];
    char trace[TRACE_ID_SIZE];
    enum coding coding; /* that the client takes a long reply in */

    struct route route;
    unsigned timeout_ms; /* that the client gives its request; 0 = it does not say */
    unsigned n_lengths;  /* headers that say where the body ends */
    bool is_doubtful; /* where its body ends is not certain: the connection ends with the reply */
    bool admitted;
    size_t counted_bytes; /* what admission was told */
    struct buffer body;
    size_t swallowed; /* bytes that came and are no longer in body */
    struct feed feed;

    struct call *call;
    struct http_reply reply; /* of a fault that the server itself found */
    enum status code;        /* that fault */
    struct ticket ticket;
    struct watch watch;

    /* Streams. */
    pthread_mutex_t
        lock; /* guards is_suspended; taken before a call's lock, never in a watcher's */
    bool is_suspended;
    atomic_bool is_stream;
    atomic_uint n_holders; /* HTTP side; and the worker's, while a stream's call is under way */
    bool sent;             /* the reply went out whole */
    atomic_bool is_late;   /* its body did not come in time: it was told 408 */
    size_t streamed_bytes;
};

/* ---- daemon.c ----------------------------------------------------------------------------------
 */

int connection_fd(struct MHD_Connection *connection);
/* A request of the connection is over: the next one's headers must come in time. */
void connection_idle(struct http_server *server, struct MHD_Connection *connection);
/* The headers are there. */
void connection_busy(struct http_server *server, struct MHD_Connection *connection);

/* ---- http.c ------------------------------------------------------------------------------------
 */

/* libmicrohttpd's callbacks: for the request target, each piece of a request, and its end. */
void *exchange_open(void *cls, const char *uri, struct MHD_Connection *connection);
enum MHD_Result exchange_handle(void *cls, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload_data,
                                size_t *upload_data_size, void **con_cls);
void exchange_close(void *cls, struct MHD_Connection *connection, void **con_cls,
                    enum MHD_RequestTerminationCode reason);
struct exchange *exchange_of_ticket(struct ticket *ticket);
const char *exchange_header(struct exchange *exchange, const char *name);
/* A call of the exchange's request, with this body. NULL: err. */
struct call *exchange_call(struct exchange *exchange, const char *body, size_t size,
                           struct error *err);
/* Worker thread: steps the exchange's call, or its feed. */
void exchange_step(struct ticket *ticket);
/* Worker thread: the reply is there, the connection is resumed. */
void exchange_hand_back(struct exchange *exchange);
/* Looks for the client's leaving (hangup), and acts at the deadline (0 = never). */
void exchange_watch(struct exchange *exchange, bool hangup, uint64_t deadline_ns);
/* The next of the body must come in time. */
void exchange_expect_body(struct exchange *exchange);
/* The exchange holds so many bytes now: counts what it did not declare. */
enum status exchange_hold(struct exchange *exchange, size_t bytes, struct error *err);

/* ---- lines.c -----------------------------------------------------------------------------------
 */

/* HTTP thread: the headers say that the body is lines. */
void lines_open(struct exchange *exchange);
/* How many bytes are gathered before they are dealt with, about. */
size_t lines_at_once(const struct exchange *exchange);
/* HTTP thread: the last `size` bytes of exchange->body are new. */
void lines_note(struct exchange *exchange, size_t size);
/* HTTP thread: there is enough to deal with. */
bool lines_are_enough(const struct exchange *exchange);
/* HTTP thread: suspends the connection and has the workers deal with what is there; is_last: there
 * is no more. */
void lines_feed(struct exchange *exchange, bool is_last);
/* The reply is what there is; `why` the rest is not taken, or NULL. The exchange is READY, or
 * REFUSED where more of the body is to come. */
void lines_close(struct exchange *exchange, const struct error *why);
/* Worker thread: goes on dealing with it. */
void lines_step(struct exchange *exchange);
/* Watcher's thread: the client has gone. */
void lines_gone(struct exchange *exchange);

#endif
