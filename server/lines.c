/*
 * lines.c: a body of lines on its way (application/x-ndjson): the part of http.c's state machine
 * that deals with it piece by piece, so that its length is nobody's concern.
 *
 * The HTTP thread gathers whole lines (lines_note) until there are enough, suspends the connection
 * (lines_feed: the client's TCP window fills, which is the backpressure) and pushes the exchange to
 * the workers. A worker makes calls of the lines, one after another (lines_step), each of which
 * adds some of them durably. When all are dealt with, the connection reads on.
 *
 * A full queue is not the client's business: the call is tried again every so often for as long as
 * a request may take; the watcher is the clock. Any other fault of a call ends the request: the
 * reply has the results so far, and its last line says why the rest was not taken.
 *
 * Memory: the body's piece (FEED_BYTES and one line), one call, and a line of results for each
 * item, up to max_reply_mb, where the request ends.
 */
#include <string.h>

#include "server/http_internal.h"

enum {
    FEED_BYTES = 2 << 20,
    RESULTS_EXTRA = 8 << 20, /* what one call's results and the last line may add */
    AGAIN_NS = 100 * 1000 * 1000
};

size_t lines_at_once(const struct exchange *exchange)
{
    size_t half = exchange->body.max_bytes / 2;
    return half < FEED_BYTES ? half : FEED_BYTES;
}

void lines_open(struct exchange *exchange)
{
    size_t max = api_options(exchange->server->process->api)->max_reply_bytes;
    exchange->feed.is_fed = true;
    buffer_init(&exchange->feed.results, max + RESULTS_EXTRA);
}

void lines_note(struct exchange *exchange, size_t size)
{
    const char *fresh = exchange->body.data + exchange->body.size - size;
    const char *stop = memrchr(fresh, '\n', size);
    if (!stop)
        return;
    exchange->feed.end = (size_t)(stop + 1 - exchange->body.data);
    /* Whoever completes lines may take as long as they like with the whole. */
    watcher_remove(exchange->server->watcher, &exchange->watch);
    exchange_expect_body(exchange);
}

bool lines_are_enough(const struct exchange *exchange)
{
    return exchange->feed.end && exchange->body.size >= lines_at_once(exchange);
}

void lines_feed(struct exchange *exchange, bool is_last)
{
    watcher_remove(exchange->server->watcher, &exchange->watch);
    exchange->feed.is_last = is_last;
    if (is_last)
        exchange->feed.end = exchange->body.size;
    exchange->state = FEEDING;
    exchange->ticket.run = exchange_step;
    MHD_suspend_connection(exchange->connection);
    workers_push(exchange->server->workers, &exchange->ticket);
}

void lines_close(struct exchange *exchange, const struct error *why)
{
    struct feed *feed = &exchange->feed;
    struct http_reply *reply = &exchange->reply;
    const struct api_options *options = api_options(exchange->server->process->api);
    feed->bytes += exchange->body.size;
    buffer_release(&exchange->body);
    if (why)
        exchange->code = why->status;
    if (!feed->sums.lines && why) {
        reply_error(reply, options, why, RETRY_AFTER_S);
    } else {
        lines_end(&feed->results, &feed->sums, why); /* without it the reply says that it is cut */
        reply->status = why ? status_info(why->status)->http_status : MHD_HTTP_OK;
        reply->content_type = LINES_TYPE;
        reply->body = feed->results;
        buffer_init(&feed->results, 0);
    }
    exchange->state = feed->is_last ? READY : REFUSED;
}

/* Worker thread. */
static void close_suspended(struct exchange *exchange, const struct error *why)
{
    lines_close(exchange, why);
    if (exchange->feed.is_last) {
        exchange_hand_back(exchange);
    } else {
        exchange_expect_body(exchange); /* MHD may miss that the client has gone */
        MHD_resume_connection(exchange->connection);
    }
}

/* All that was there is dealt with. */
static void go_on_reading(struct exchange *exchange)
{
    struct feed *feed = &exchange->feed;
    struct error err;
    if (feed->is_last) {
        close_suspended(exchange, NULL);
        return;
    }
    if (atomic_load(&exchange->server->process->draining)) {
        error_set(&err, STATUS_DRAINING, "the server is shutting down; the rest was not taken");
        close_suspended(exchange, &err);
        return;
    }
    struct buffer *body = &exchange->body;
    memmove(body->data, body->data + feed->used, body->size - feed->used);
    body->size -= feed->used;
    feed->bytes += feed->used;
    feed->used = feed->end = 0;
    exchange->state = BODY;
    exchange_expect_body(exchange);
    MHD_resume_connection(exchange->connection);
}

/* The next call, or its fault. */
static enum status begin_call(struct exchange *exchange, struct error *err)
{
    struct feed *feed = &exchange->feed;
    size_t max = api_options(exchange->server->process->api)->max_reply_bytes;
    if (feed->is_gone)
        return error_set(err, STATUS_CANCELLED, "the client has closed the connection");
    if (feed->results.size >= max)
        return error_set(err, STATUS_BODY_TOO_LARGE,
                         "the results of %zu lines fill a reply (max_reply_mb); send the rest in "
                         "another request",
                         feed->sums.lines);
    struct call *call =
        exchange_call(exchange, exchange->body.data + feed->used, feed->end - feed->used, err);
    if (!call)
        return err->status;
    exchange->call = call;
    exchange_watch(exchange, true, 0);
    return STATUS_OK;
}

/* The call is done. True: on with the next. */
static bool take_call(struct exchange *exchange)
{
    struct feed *feed = &exchange->feed;
    struct call *call = exchange->call;
    const struct settings *settings = &exchange->server->process->settings;
    struct error err = {0};
    watcher_remove(exchange->server->watcher, &exchange->watch);
    enum status status = call_outcome(call);
    if (status) {
        err = *call_error(call);
    } else {
        const struct call_lines *lines = call_lines(call);
        const struct buffer *results = &call_reply(call)->body;
        feed->used += lines->bytes;
        feed->sums.lines += lines->lines;
        feed->sums.added += lines->added;
        feed->sums.updated += lines->updated;
        feed->sums.failed += lines->failed;
        feed->patience_end_ns = 0;
        status =
            exchange_hold(exchange, exchange->body.size + feed->results.size + results->size, &err);
        if (!status && !buffer_append(&feed->results, results->data, results->size))
            status = error_no_memory(&err, "the results");
    }
    bool is_full = call_outcome(call) == STATUS_QUEUE_FULL;
    call_free(call);
    exchange->call = NULL;
    if (!status)
        return true;
    uint64_t now_ns = clock_ns();
    if (is_full && !feed->patience_end_ns)
        feed->patience_end_ns = settings->request_timeout_s
                                    ? now_ns + settings->request_timeout_s * 1000000000ull
                                    : UINT64_MAX;
    if (is_full && now_ns < feed->patience_end_ns) {
        feed->is_waiting = true;
        exchange_watch(exchange, true, now_ns + AGAIN_NS);
    } else {
        close_suspended(exchange, &err);
    }
    return false;
}

void lines_step(struct exchange *exchange)
{
    struct feed *feed = &exchange->feed;
    struct error err;
    feed->is_waiting = false;
    do {
        if (!exchange->call) {
            if (feed->used == feed->end && (feed->sums.lines || feed->bytes || feed->end)) {
                go_on_reading(exchange);
                return;
            }
            if (begin_call(exchange, &err)) {
                close_suspended(exchange, &err);
                return;
            }
        }
        if (!call_step(exchange->call))
            return; /* the runtime has it, and perhaps by now another worker */
    } while (take_call(exchange));
}

void lines_gone(struct exchange *exchange)
{
    if (exchange->call) {
        call_cancel(exchange->call);
    } else {
        exchange->feed.is_gone = true;
        workers_push(exchange->server->workers, &exchange->ticket);
    }
}
