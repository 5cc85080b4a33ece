/*
 * api.h: from a request's bytes to a reply's bytes, without sockets.
 *
 * The server (or a subcommand, which has no socket at all) routes a request as soon as its headers
 * are there, makes a call of it once the body is there, and steps the call on a worker thread until
 * the reply is ready:
 *
 *   api_route → call_new → call_step ─ true ────────────────→ call_reply → call_free
 *                              └ false: a job is with the runtime; wake() comes, step again
 *
 * A call is owned by whoever made it and is touched by one thread at a time; only call_cancel() and
 * the wake callback cross threads.
 */
#ifndef VLMD_API_API_H
#define VLMD_API_API_H

#include <stdatomic.h>

#include "core/index/store.h"
#include "core/runtime/runtime.h"

struct endpoint;
struct api;
struct call;

struct api_options {
    size_t max_pixels;               /* of one picture */
    size_t max_items;                /* pictures, texts, labels … of one request, together */
    size_t max_text_bytes;           /* of one text */
    size_t max_reply_bytes;          /* a reply that would grow past it is an error */
    size_t max_tokens;               /* of one generation; 0 = the model's own bound */
    unsigned request_timeout_s;      /* 0 = none; a request may ask for less */
    int overload_status;             /* 429 or 503 for a full queue */
    const char *caption_instruction; /* what a conversing model is asked for a caption by default */
    const char *version;
    /* default model per task by name, NULL = the first that has the task */
    const char *default_models[N_TASKS];
    /* Endpoints that the process itself adds (health, metrics); part of the same table. */
    const struct endpoint *const *extra;
    size_t n_extra;
    void *process; /* handed to them through api_process() */
};

/* Borrows runtime and store (NULL = no collections); they outlive the api. */
struct api *api_new(const struct api_options *options, struct runtime *runtime, struct store *store,
                    struct error *err);
void api_free(struct api *api);
struct runtime *api_runtime(const struct api *api);
struct store *api_store(const struct api *api);
const struct api_options *api_options(const struct api *api);

/* The endpoints in table order; NULL past the end. */
const struct endpoint *api_endpoint_at(const struct api *api, size_t i);

/* ---- a request ---------------------------------------------------------------------------------
 */

enum { ROUTE_PARAMS_MAX = 2, ROUTE_PARAM_BYTES_MAX = 1600 };

struct route {
    const struct endpoint *endpoint;
    /* Path parameters, percent-decoded, in the order of the path's {…}. */
    char params[ROUTE_PARAMS_MAX][ROUTE_PARAM_BYTES_MAX];
    char allow[64]; /* filled on METHOD_NOT_ALLOWED: "GET, HEAD" */
};

/* path without the query string, still percent-encoded. HEAD is routed as GET. STATUS_NOT_FOUND,
 * STATUS_METHOD_NOT_ALLOWED. */
enum status api_route(const struct api *api, const char *method, const char *path,
                      struct route *out, struct error *err);

enum { TIMEOUT_MS_MAX = 86400000 }; /* a day: the longest that a client may give its request */

/* All strings and the body are borrowed and must outlive the call. */
struct http_request {
    const char *query;        /* raw, without '?', "" when none */
    const char *content_type; /* NULL when none */
    const char *body;
    size_t body_bytes;
    const char *request_id;
    uint64_t received_ns;      /* CLOCK_MONOTONIC, when the headers were there */
    unsigned timeout_ms;       /* from the X-Request-Timeout-Ms header; 0 = none */
    const char *if_none_match; /* the headers; NULL when none */
    const char *accept;
    size_t lines_before; /* where the body is a later piece of a body of lines */
};

/* wake(context) is called from any thread, once for each call_step() that returned false. More than
 * one may be needed: a stream's tokens come one by one. */
struct call *call_new(struct api *api, const struct route *route,
                      const struct http_request *request, void (*wake)(void *context),
                      void *context, struct error *err);

/* Works on the call. True: the reply is ready. False: wait for wake(), then step again. */
bool call_step(struct call *call);

/* The client has gone: pending work is dropped. Any thread; wake() still comes. */
void call_cancel(struct call *call);
void call_free(struct call *call); /* not while it waits for a wake */

/* ---- a reply -----------------------------------------------------------------------------------
 */

enum { REPLY_HEADERS_MAX = 8 };

struct http_reply {
    int status;
    const char *content_type; /* static */
    struct buffer body;
    struct {
        const char *name; /* static */
        char value[256];
    } headers[REPLY_HEADERS_MAX];
    size_t n_headers;
};
void reply_header(struct http_reply *reply, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void reply_release(struct http_reply *reply);

/* Borrowed from the call. */
struct http_reply *call_reply(struct call *call);
/* STATUS_OK, or why the reply (or the end of the stream) is an error. */
enum status call_outcome(const struct call *call);
/* The fault behind it; all zero where there is none. */
const struct error *call_error(const struct call *call);
/* For the log line: the model that answered ("" when none) and the time split. */
const char *call_model(const struct call *call);
struct call_timings {
    double queue_ms, preprocess_ms, forward_ms, total_ms;
    size_t batch_size;
};
const struct call_timings *call_timings(const struct call *call);

/* ---- a reply that comes piece by piece --------------------------------------------------------
 *
 * For callers that can send while a call is still being worked on. The request decides (`stream`);
 * where call_step() has returned true and ready() was never called, the reply is a usual one.
 *
 * ready(context) is called inside call_step(), on its thread: there is more to read, or the end was
 * reached. At the first time the reply's status, type and headers are set, and do not change any
 * more; its body is not for the caller. One other thread may read meanwhile.
 */

/* Before the first step. Never called: `stream` in the request is ignored. */
void call_allow_stream(struct call *call, void (*ready)(void *context));

/* Copies up to size bytes; 0 = nothing now, ready() will come, unless *ended: that was all. */
size_t call_stream_read(struct call *call, char *out, size_t size, bool *ended);

/* ---- a body of lines ---------------------------------------------------------------------------
 *
 * application/x-ndjson, one JSON value a line, as many lines as the client likes: it is given in
 * pieces of whole lines, as many calls as it takes, and the replies are put together. A call deals
 * with lines from the front of its body, at least one, and call_lines() says how far it came; the
 * caller comes again with the rest. A call that fails has dealt with none for sure.
 */
bool route_takes_lines(const struct route *route, const char *content_type);

struct call_lines {
    size_t bytes, lines;           /* dealt with */
    size_t added, updated, failed; /* of the items in them */
};
const struct call_lines *call_lines(const struct call *call);

/* Appends the last line of a reply: the sums, and why the rest was not taken (NULL: all was). */
bool lines_end(struct buffer *out, const struct call_lines *sums, const struct error *why);

/* An error reply in the shape of DESIGN §4, for faults that the server itself finds (auth, limits,
 * routing). */
void reply_error(struct http_reply *reply, const struct api_options *options,
                 const struct error *err, unsigned retry_after_s);

#endif
