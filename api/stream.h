/*
 * stream.h: a reply that is sent while it is being made, as server-sent events.
 *
 * The lane's thread notes each new token's id (a store under the call's lock, into room that was
 * made before); whichever worker steps the call turns ids into text and queues events; the server
 * reads them from an HTTP thread:
 *
 *   lane: stream_take_token ──→ ids ──→ worker: stream_pump ──→ out ──→ server: call_stream_read
 *
 * What was sent cannot be taken back, so text is held until it is settled: cut characters, spaces
 * at the end, and words that a tokenizer's clean-up may yet join. Memory: while the client has not
 * read STREAM_UNREAD_MAX bytes nothing more is queued; what gathers meanwhile is sent as one event.
 *
 * Format: `data: <JSON>` and an empty line per event. A stream begins with its first event; until
 * then a fault is an ordinary error reply, after it one last `event: error`.
 */
#ifndef VLMD_API_STREAM_H
#define VLMD_API_STREAM_H

#include "api/render.h"

struct call;
struct job;
struct new_token;
struct token_choice;
struct work;
struct span;

enum { STREAM_UNREAD_MAX = 64 << 10, STREAM_TOKENS_MAX = 1 << 16 };

struct stream {
    /* Fixed before the job is submitted. */
    void (*ready)(void *context); /* NULL: whoever made the call wants a whole reply */
    bool wanted;                  /* the request asked for a stream, and it can be had */
    int32_t *ids;                 /* [capacity], in the call's arena */
    float *logprobs;              /* [capacity] */
    struct token_choice *top;     /* [capacity, work->n_top]; NULL when none are wanted */
    size_t capacity;

    /* The stepping worker's. */
    bool begun;         /* an event is out: the reply can no longer become an error */
    bool closed;        /* the endpoint has written its own end */
    size_t n_rendered;  /* tokens whose text was looked at: delta() may read so many */
    struct buffer sent; /* the first text, as far as it is out */
    struct buffer event;
    struct json_writer writer;
    struct error fault; /* of rendering; the job was cancelled for it */

    /* Under the call's lock. */
    size_t n_ids;
    bool cached; /* with the first token: the picture was known */
    struct buffer out;
    size_t n_read;  /* bytes of out */
    bool is_source; /* the bytes are the endpoint's (more), not events */
    bool ended;
};

/* ---- for endpoints (endpoint.h: struct endpoint.delta) -----------------------------------------
 */

/* The request wants its text as it comes: where the call can stream, call->stream.wanted is set.
 * n_tokens_max: how many tokens may come; n_top: the work's. */
enum status stream_want(struct call *call, size_t n_tokens_max, size_t n_top, struct error *err);

/* In finish(): sends what is missing of a text that is done. */
enum status stream_text(struct call *call, size_t choice, struct span text, struct error *err);

/* An event of the endpoint's own: write one JSON value, then push it. */
struct json_writer *stream_open(struct call *call);
enum status stream_push(struct call *call, struct error *err);

/* The last event, which is no JSON; the usual reply is not sent after it. */
enum status stream_close(struct call *call, const char *last, struct error *err);

/* ---- for call.c --------------------------------------------------------------------------------
 */

void stream_init(struct call *call);
void stream_release(struct call *call);

/* struct job.on_token. */
void stream_take_token(struct job *job, struct work *work, const struct new_token *token,
                       void *context);

/* Sends what there is to send. True: the job is done. False: the call is parked and not touched any
 * more; its wake comes. */
bool stream_pump(struct call *call);

/* A reply of an endpoint that has more(): whether there is room for more (if not, the call is
 * parked), and more. Where the call cannot stream it all goes into the reply's body. */
void stream_open_source(struct call *call);
bool stream_has_room(struct call *call);
enum status stream_fill(struct call *call, bool *ended, struct error *err);

/* The end of a stream that has begun or is wanted: the reply's body, or the error (NULL = none), as
 * its last event. */
void stream_finish(struct call *call, const struct error *error);

#endif
