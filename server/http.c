/*
 * http.c: libmicrohttpd in front of the api.
 *
 * One exchange is one request on its way through the process:
 *
 *   exchange_open (request line)
 *     │
 *    NEW ── first_call ──┬─────────→ BODY ── dispatch ──→ WAITING (suspended; the call is stepped)
 *                        │ refused    │ too long            │ the reply is there   │ stream_ready
 *                        └──────────→ REFUSED               ▼                      ▼
 *                                     └── body swallowed ─→ READY               STREAMING
 *                                                           │ send_reply           │ send_stream,
 *                                                           ▼                      ▼ read_stream …
 *                                                          exchange_close ←────────┘
 *
 * A body of lines (api.h) is not waited for. BODY turns into FEEDING, suspended like WAITING, each
 * time enough of it is there or it ends; calls deal with that, and it goes back to BODY for more
 * (lines.c). MHD can send nothing before the body's end, so the results gather until then:
 *
 *    BODY ⇄ FEEDING ── the end, or a fault ──→ READY, or REFUSED where more is still coming
 *
 * STREAMING: the HTTP thread sends what the call has, and suspends the connection when that is
 * nothing, while workers still step the call; each of the two holds the exchange, and whoever ends
 * last gives it back (settle).
 *
 * Invariants:
 *  1. HTTP threads never block or compute: a call that is not inline is stepped on the workers.
 *  2. An exchange belongs to the HTTP thread in all states but WAITING, FEEDING and STREAMING, and
 * to the worker (or the runtime, between steps) in WAITING and FEEDING. The watcher only sends a
 * call's cancel or a 408. In STREAMING the worker has the call's steps, the HTTP thread the
 * connection and call_stream_read(), and `lock` guards is_suspended.
 *  3. What admission_enter() counted is given back exactly once, in settle().
 *  4. A watch is removed before the connection is resumed with a whole reply, or closed.
 *  5. A connection is resumed by whoever clears is_suspended. While it is set MHD cannot close the
 *     connection; read_stream sets it under the lock under which it found nothing to send, so that
 *     no stream_ready can be missed.
 */
#include "server/http_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "server/gzip.h"
#include "server/log.h"

enum {
    SWALLOW_BYTES_MAX =
        64 << 20,               /* of a refused body that we read so that the reply gets through */
    RETRY_AFTER_DRAINING_S = 5, /* another replica, or this one again */
    CORS_MAX_AGE_S = 3600,
    STREAM_BLOCK = 16 << 10, /* read from a stream at once, at most */
};

struct exchange *exchange_of_ticket(struct ticket *ticket)
{
    return (struct exchange *)((char *)ticket - offsetof(struct exchange, ticket));
}

static struct exchange *exchange_of_watch(struct watch *watch)
{
    return (struct exchange *)((char *)watch - offsetof(struct exchange, watch));
}

/* ---- opening and closing ----------------------------------------------------------------------
 */

/* MHD's URI log callback: the only place that sees the request target as it was sent. What it
 * returns becomes the request's *con_cls. */
void *exchange_open(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct http_server *server = cls;
    struct exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange)
        return NULL;
    exchange->uri = strdup(uri);
    if (!exchange->uri || pthread_mutex_init(&exchange->lock, NULL)) {
        free(exchange->uri);
        free(exchange);
        return NULL;
    }
    atomic_init(&exchange->n_holders, 1);
    char *mark = strchr(exchange->uri, '?');
    if (mark)
        *mark++ = '\0';
    exchange->query = mark ? mark : exchange->uri + strlen(exchange->uri);
    exchange->server = server;
    exchange->connection = connection;
    exchange->received_ns = clock_ns();
    buffer_init(&exchange->body, server->process->settings.max_body_mb << 20);
    atomic_fetch_add(&server->exchanges, 1);
    return exchange;
}

static struct http_reply *reply_of(struct exchange *exchange)
{
    return exchange->call ? call_reply(exchange->call) : &exchange->reply;
}

/* One holder less. The last: one line in the log, and everything given back. */
static void settle(struct exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->n_holders, 1) > 1)
        return;
    struct http_server *server = exchange->server;
    struct process *process = server->process;
    const struct http_reply *reply = reply_of(exchange);
    bool is_stream = atomic_load(&exchange->is_stream), sent = exchange->sent;
    enum status unsent = atomic_load(&exchange->is_late) ? STATUS_BODY_TIMEOUT : STATUS_CANCELLED;
    int status = sent ? reply->status : status_info(unsent)->http_status;
    if (exchange->call && !exchange->code)
        exchange->code = call_outcome(exchange->call);
    if (sent && is_stream) /* a stream that ended in an error counts as that error */
        status = status_info(exchange->code)->http_status;
    struct log_request line = {
        .id = exchange->request_id,
        .key = exchange->key_name,
        .method = exchange->method,
        .path = exchange->uri,
        .client = exchange->client,
        .trace = exchange->trace,
        .code = status_info(sent ? exchange->code : unsent)->code,
        .status = status,
        .bytes_in = exchange->body.size + exchange->swallowed + exchange->feed.bytes,
        .bytes_out = is_stream ? exchange->streamed_bytes
                     : sent    ? reply->body.size
                               : 0,
        .total_ms = (double)(clock_ns() - exchange->received_ns) / 1e6,
    };
    if (exchange->call) {
        const struct call_timings *timings = call_timings(exchange->call);
        line.model = call_model(exchange->call);
        line.queue_ms = timings->queue_ms;
        line.preprocess_ms = timings->preprocess_ms;
        line.forward_ms = timings->forward_ms;
        line.batch_size = timings->batch_size;
    }
    log_request(&line);
    if (!sent && unsent == STATUS_CANCELLED)
        atomic_fetch_add(&process->metrics.hangups, 1);
    metrics_count(&process->metrics, process->api, exchange->route.endpoint, status,
                  line.total_ms / 1e3, line.bytes_in, line.bytes_out);

    if (exchange->admitted)
        admission_leave(&process->admission, exchange->counted_bytes);
    call_free(exchange->call);
    reply_release(&exchange->reply);
    buffer_release(&exchange->body);
    buffer_release(&exchange->feed.results);
    pthread_mutex_destroy(&exchange->lock);
    free(exchange->uri);
    free(exchange);
    atomic_fetch_sub(&server->exchanges, 1);
}

/* The reply is sent, or the connection lost. */
void exchange_close(void *cls, struct MHD_Connection *connection, void **con_cls,
                    enum MHD_RequestTerminationCode reason)
{
    (void)cls;
    struct exchange *exchange = *con_cls;
    if (!exchange)
        return;
    *con_cls = NULL;
    watcher_remove(exchange->server->watcher, &exchange->watch);
    connection_idle(exchange->server, connection);
    exchange->sent = (exchange->state == READY || exchange->state == STREAMING) &&
                     reason == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (exchange->state == STREAMING) /* of a HEAD nothing was read */
        call_cancel(exchange->call);
    settle(exchange);
}

/* ---- replying ----------------------------------------------------------------------------------
 */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    /* A value that MHD refuses (it cannot, ours are printable) would only lose that header. */
    if (value[0])
        MHD_add_response_header(response, name, value);
}

const char *exchange_header(struct exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

/* A page from elsewhere that may ask us may also read the reply. */
static void add_cors_headers(struct exchange *exchange, struct MHD_Response *response)
{
    const struct setting_list *allowed = &exchange->server->process->settings.cors_allow_origins;
    const char *allow = cors_allow(allowed, exchange_header(exchange, MHD_HTTP_HEADER_ORIGIN));
    if (!allowed->n)
        return;
    add_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    if (!allow)
        return;
    add_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, allow);
    add_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_EXPOSE_HEADERS,
               "X-Request-Id, Server-Timing, Retry-After, X-Cache, X-Embedding-Shape, "
               "X-Embedding-Dtype, X-Embedding-Space, X-Embedding-Truncated");
}

static enum MHD_Result queue_response(struct exchange *exchange, const struct http_reply *reply,
                                      struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    if (reply->status != MHD_HTTP_NO_CONTENT)
        add_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                   reply->content_type ? reply->content_type : "application/json");
    add_cors_headers(exchange, response);
    add_header(response, "X-Request-Id", exchange->request_id);
    for (size_t i = 0; i < reply->n_headers; i++)
        add_header(response, reply->headers[i].name, reply->headers[i].value);
    enum MHD_Result result =
        MHD_queue_response(exchange->connection, (unsigned)reply->status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_reply(struct exchange *exchange)
{
    struct http_reply *reply = reply_of(exchange);
    exchange->state = READY;
    watcher_remove(exchange->server->watcher, &exchange->watch); /* nobody else writes to it now */
    return queue_response(exchange, reply,
                          MHD_create_response_from_buffer(
                              reply->body.size, reply->body.data ? reply->body.data : (char *)"",
                              MHD_RESPMEM_PERSISTENT)); /* lives until exchange_close */
}

/* MHD wants more of a stream. */
static ssize_t read_stream(void *context, uint64_t position, char *out, size_t size)
{
    struct exchange *exchange = context;
    (void)position;
    pthread_mutex_lock(&exchange->lock);
    bool ended;
    size_t n = call_stream_read(exchange->call, out, size, &ended);
    if (!n && !ended) {
        exchange->is_suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    exchange->streamed_bytes += n;
    return n || !ended ? (ssize_t)n : MHD_CONTENT_READER_END_OF_STREAM;
}

static enum MHD_Result send_stream(struct exchange *exchange)
{
    return queue_response(exchange, call_reply(exchange->call),
                          MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
                                                            read_stream, exchange, NULL));
}

/* The request will not be served: makes the reply, and says whether it can be sent now or only once
 * the body was read (a client that is still sending would otherwise see a reset instead of it). */
static enum MHD_Result refuse(struct exchange *exchange, const struct error *err,
                              unsigned retry_after_s, bool before_body)
{
    exchange->code = err->status;
    reply_error(&exchange->reply, api_options(exchange->server->process->api), err, retry_after_s);
    if (err->status == STATUS_METHOD_NOT_ALLOWED)
        reply_header(&exchange->reply, "Allow", "%s", exchange->route.allow);
    if (err->status == STATUS_UNAUTHORIZED)
        reply_header(&exchange->reply, "WWW-Authenticate", "Bearer");
    exchange->state = REFUSED;
    buffer_release(&exchange->body);
    if (before_body) {
        const char *length = exchange_header(exchange, MHD_HTTP_HEADER_CONTENT_LENGTH);
        bool huge = length && strtoull(length, NULL, 10) > SWALLOW_BYTES_MAX;
        /* A reply this early ends the connection: the body is not read. */
        if (huge || exchange->is_doubtful || exchange_header(exchange, MHD_HTTP_HEADER_EXPECT))
            return send_reply(exchange);
        exchange_expect_body(exchange);
    }
    return MHD_YES;
}

/* ---- headers ------------------------------------------------------------------------------------
 */

static void take_request_id(struct exchange *exchange)
{
    const char *given = exchange_header(exchange, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    bool usable = n > 0 && n <= REQUEST_ID_MAX;
    for (size_t i = 0; i < n && usable; i++)
        usable = given[i] > ' ' && given[i] < 0x7F;
    if (usable) {
        memcpy(exchange->request_id, given, n + 1);
        return;
    }
    unsigned char random[8];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        memcpy(random, &exchange->received_ns, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(exchange->request_id + 2 * i, 3, "%02x", random[i]);
}

static void note_client(struct exchange *exchange)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    bool trusted = exchange->server->process->settings.trust_forwarded;
    client_address(info ? info->client_addr : NULL,
                   trusted ? exchange_header(exchange, "X-Forwarded-For") : NULL, exchange->client);
    trace_id(exchange_header(exchange, "traceparent"), exchange->trace);
}

/* A browser asks whether a page from elsewhere may make a request. It sends no key with that. */
static bool answer_preflight(struct exchange *exchange)
{
    const struct settings *settings = &exchange->server->process->settings;
    if (strcmp(exchange->method, MHD_HTTP_METHOD_OPTIONS) ||
        !exchange_header(exchange, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_METHOD) ||
        !cors_allow(&settings->cors_allow_origins,
                    exchange_header(exchange, MHD_HTTP_HEADER_ORIGIN)))
        return false;
    struct http_reply *reply = &exchange->reply;
    reply->status = MHD_HTTP_NO_CONTENT;
    reply_header(reply, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS,
                 "GET, HEAD, POST, PUT, DELETE");
    reply_header(reply, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS,
                 "Authorization, Content-Type, X-API-Key, X-Request-Id, X-Request-Timeout-Ms, "
                 "traceparent, tracestate");
    reply_header(reply, MHD_HTTP_HEADER_ACCESS_CONTROL_MAX_AGE, "%d", CORS_MAX_AGE_S);
    return true;
}

static enum MHD_Result note_length(void *context, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    struct exchange *exchange = context;
    (void)kind;
    if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0) {
        exchange->is_doubtful |= exchange->n_lengths++ > 0;
    } else if (strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0) {
        exchange->is_doubtful |= exchange->n_lengths++ > 0 || strcasecmp(value, "chunked");
    }
    return MHD_YES;
}

/* Where the body ends must be beyond doubt: a proxy before us may see it elsewhere, and take what
 * we see as one request's body for the next request. And nobody here decodes a coded one. */
static enum status check_framing(struct exchange *exchange, struct error *err)
{
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, note_length, exchange);
    if (exchange->is_doubtful)
        return error_set(err, STATUS_BAD_REQUEST,
                         "it is not certain where the body ends: send one Content-Length, or "
                         "Transfer-Encoding: chunked");
    const char *coding = exchange_header(exchange, MHD_HTTP_HEADER_CONTENT_ENCODING);
    if (coding && strcasecmp(coding, "identity"))
        return error_set(err, STATUS_UNSUPPORTED_MEDIA,
                         "the body's Content-Encoding is '%.40s'; send it as it is, without one",
                         coding);
    return STATUS_OK;
}

/* How long the client gives its request; 0 = it does not say. */
static enum status check_timeout(struct exchange *exchange, struct error *err)
{
    const char *text = exchange_header(exchange, "X-Request-Timeout-Ms");
    if (!text)
        return STATUS_OK;
    unsigned long long value = 0;
    size_t n = strspn(text, "0123456789");
    bool fine = n > 0 && n < 20 && !text[n];
    if (fine)
        value = strtoull(text, NULL, 10);
    if (!fine || value > TIMEOUT_MS_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "X-Request-Timeout-Ms",
                               "'X-Request-Timeout-Ms' must be a whole number of milliseconds "
                               "from 0 (no bound) to %d, not '%.40s'",
                               TIMEOUT_MS_MAX, text);
    exchange->timeout_ms = (unsigned)value;
    return STATUS_OK;
}

/* Path, key, state of the process, lengths, load: in this order, all before the body. */
static enum status check_headers(struct exchange *exchange, unsigned *retry_after_s,
                                 struct error *err)
{
    struct http_server *server = exchange->server;
    struct process *process = server->process;
    enum status routed =
        api_route(process->api, exchange->method, exchange->uri, &exchange->route, err);
    const struct endpoint *endpoint = routed ? NULL : exchange->route.endpoint;
    if (!endpoint || !endpoint->is_public) {
        /* Without a key nobody learns which paths exist. */
        struct error key_error;
        if (admission_check_key(&process->admission,
                                exchange_header(exchange, MHD_HTTP_HEADER_AUTHORIZATION),
                                exchange_header(exchange, "X-API-Key"), exchange->key_name,
                                retry_after_s, &key_error)) {
            *err = key_error;
            return err->status;
        }
    }
    if (routed)
        return routed;
    *retry_after_s = RETRY_AFTER_DRAINING_S;
    if (!endpoint->is_public && !endpoint->inline_reply && atomic_load(&process->draining))
        return error_set(err, STATUS_DRAINING, "the server is shutting down");

    if (check_framing(exchange, err) || check_timeout(exchange, err))
        return err->status;
    const char *length = exchange_header(exchange, MHD_HTTP_HEADER_CONTENT_LENGTH);
    unsigned long long bytes = length ? strtoull(length, NULL, 10) : 0;
    if (route_takes_lines(&exchange->route,
                          exchange_header(exchange, MHD_HTTP_HEADER_CONTENT_TYPE)))
        lines_open(exchange);
    if (exchange->feed.is_fed && bytes > lines_at_once(exchange))
        bytes = lines_at_once(exchange); /* it is never held whole */
    if (bytes > exchange->body.max_bytes)
        return error_set(err, STATUS_BODY_TOO_LARGE,
                         "the body has %llu bytes; at most %zu are taken (max_body_mb)", bytes,
                         exchange->body.max_bytes);
    bool needs_body = endpoint->body && !(endpoint->body & BODY_OPTIONAL);
    if (needs_body && !length && !exchange_header(exchange, MHD_HTTP_HEADER_TRANSFER_ENCODING))
        return error_set(err, STATUS_LENGTH_REQUIRED,
                         "a body is needed, with Content-Length or Transfer-Encoding: chunked");
    if (endpoint->inline_reply)
        return STATUS_OK; /* health and metrics answer under any load */
    *retry_after_s = RETRY_AFTER_S;
    if (admission_enter(&process->admission, (size_t)bytes, err))
        return err->status;
    exchange->admitted = true;
    exchange->counted_bytes = (size_t)bytes;
    return STATUS_OK;
}

static void client_gone(struct watch *watch);
static void client_late(struct watch *watch);

void exchange_watch(struct exchange *exchange, bool hangup, uint64_t deadline_ns)
{
    static const struct watcher_events events = {.gone = client_gone, .late = client_late};
    watcher_add(exchange->server->watcher, &exchange->watch, &events,
                connection_fd(exchange->connection), hangup, deadline_ns);
}

void exchange_expect_body(struct exchange *exchange)
{
    uint64_t timeout_s = exchange->server->process->settings.body_timeout_s;
    if (timeout_s)
        exchange_watch(exchange, false, clock_ns() + timeout_s * 1000000000ull);
}

static enum coding accepted_coding(struct exchange *exchange)
{
    const char *accept = exchange_header(exchange, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    if (!exchange->server->process->settings.gzip)
        return CODING_NONE;
    return accepts_coding(accept, "gzip")      ? CODING_GZIP
           : accepts_coding(accept, "deflate") ? CODING_DEFLATE
                                               : CODING_NONE;
}

static enum MHD_Result first_call(struct exchange *exchange, const char *method)
{
    connection_busy(exchange->server, exchange->connection);
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    take_request_id(exchange);
    note_client(exchange);
    if (answer_preflight(exchange)) {
        exchange->state = READY;
        return MHD_YES;
    }
    exchange->coding = accepted_coding(exchange);
    struct error err;
    unsigned retry_after_s = 0;
    if (check_headers(exchange, &retry_after_s, &err))
        return refuse(exchange, &err, retry_after_s, true);
    exchange->state = BODY;
    exchange_expect_body(exchange);
    return MHD_YES;
}

/* ---- body
 * ---------------------------------------------------------------------------------------- */

enum status exchange_hold(struct exchange *exchange, size_t bytes, struct error *err)
{
    if (!exchange->admitted || bytes <= exchange->counted_bytes)
        return STATUS_OK;
    enum status status =
        admission_grow(&exchange->server->process->admission, bytes - exchange->counted_bytes, err);
    if (!status)
        exchange->counted_bytes = bytes;
    return status;
}

static enum status append_body(struct exchange *exchange, const char *data, size_t size,
                               struct error *err)
{
    size_t total = exchange->body.size + size;
    if (total > exchange->body.max_bytes)
        return error_set(err, STATUS_BODY_TOO_LARGE,
                         "%s is longer than %zu bytes, the most that is taken (max_body_mb)",
                         exchange->feed.is_fed ? "a line" : "the body", exchange->body.max_bytes);
    enum status status = exchange_hold(exchange, total + exchange->feed.results.size, err);
    if (!status && !buffer_append(&exchange->body, data, size))
        status = error_no_memory(err, "the request's body");
    return status;
}

static enum MHD_Result upload(struct exchange *exchange, const char *data, size_t size)
{
    struct error err;
    if (exchange->state == REFUSED) {
        exchange->swallowed += size;
        return exchange->swallowed <= SWALLOW_BYTES_MAX ? MHD_YES : MHD_NO;
    }
    if (!append_body(exchange, data, size, &err)) {
        if (exchange->feed.is_fed)
            lines_note(exchange, size);
        return MHD_YES;
    }
    if (exchange->feed.is_fed) {
        lines_close(exchange, &err);
        return MHD_YES;
    }
    return refuse(exchange, &err, err.status == STATUS_BODY_TOO_LARGE ? 0 : RETRY_AFTER_S, false);
}

/* ---- working on it
 * -------------------------------------------------------------------------------- */

/* Whether the finished reply is to be compressed, which is work for a worker. */
static bool wants_gzip(struct exchange *exchange)
{
    return exchange->coding != CODING_NONE && gzip_pays(reply_of(exchange));
}

/* Worker thread: the reply is there. */
void exchange_hand_back(struct exchange *exchange)
{
    struct http_reply *reply = reply_of(exchange);
    if (wants_gzip(exchange) && gzip_body(&reply->body, exchange->coding)) {
        reply_header(reply, MHD_HTTP_HEADER_CONTENT_ENCODING, "%s",
                     exchange->coding == CODING_GZIP ? "gzip" : "deflate");
        reply_header(reply, MHD_HTTP_HEADER_VARY, "Accept-Encoding");
    }
    watcher_remove(exchange->server->watcher, &exchange->watch);
    struct MHD_Connection *connection = exchange->connection;
    exchange->state = READY;
    MHD_resume_connection(connection);
}

/* Worker thread: an inline call is done, but its reply is long. */
static void compress_exchange(struct ticket *ticket)
{
    exchange_hand_back(exchange_of_ticket(ticket));
}

/* Worker thread. */
void exchange_step(struct ticket *ticket)
{
    struct exchange *exchange = exchange_of_ticket(ticket);
    if (exchange->feed.is_fed) {
        lines_step(exchange);
        return;
    }
    if (!call_step(exchange->call))
        return; /* the runtime has it: wake_exchange comes, perhaps already has */
    if (atomic_load(&exchange->is_stream)) {
        settle(exchange);
        return;
    }
    exchange_hand_back(exchange);
}

/* Worker thread, in call_step: the call's stream begins, has more, or has ended. */
static void stream_ready(void *context)
{
    struct exchange *exchange = context;
    pthread_mutex_lock(&exchange->lock);
    if (!atomic_load(&exchange->is_stream)) { /* WAITING: suspended since dispatch */
        atomic_fetch_add(&exchange->n_holders, 1);
        atomic_store(&exchange->is_stream, true);
        exchange->state = STREAMING;
        exchange->is_suspended = true;
    }
    if (exchange->is_suspended) {
        exchange->is_suspended = false;
        MHD_resume_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
}

/* A lane's thread. */
static void wake_exchange(void *context)
{
    struct exchange *exchange = context;
    workers_push(exchange->server->workers, &exchange->ticket);
}

static void client_gone(struct watch *watch)
{
    struct exchange *exchange = exchange_of_watch(watch);
    if (exchange->feed.is_fed) {
        lines_gone(exchange);
        return;
    }
    call_cancel(exchange->call);
    if (atomic_load(&exchange->is_stream)) /* it may be MHD that waits for the client to read */
        shutdown(watch->fd, SHUT_RDWR);
}

/* Called for a body that does not come to an end. MHD offers no way to answer in the middle of an
 * upload, so the reply goes to the socket as it is; nothing else is being written to it then. */
static void client_late(struct watch *watch)
{
    static const char body[] =
        "{\"error\": {\"type\": \"timeout_error\", \"code\": \"body_timeout\", "
        "\"message\": \"the body did not arrive in time\", \"param\": null}}";
    char reply[512];
    struct exchange *exchange = exchange_of_watch(watch);
    if (exchange->feed.is_waiting) {
        workers_push(exchange->server->workers, &exchange->ticket);
        return;
    }
    atomic_store(&exchange->is_late, true);
    if (exchange->server->tls_cert) { /* its bytes would be no TLS */
        shutdown(watch->fd, SHUT_RDWR);
        return;
    }
    int size = snprintf(reply, sizeof reply,
                        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: "
                        "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        sizeof body - 1, body);
    ssize_t sent = send(watch->fd, reply, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* who does not read either gets a closed connection */
    shutdown(watch->fd, SHUT_RDWR);
}

struct call *exchange_call(struct exchange *exchange, const char *body, size_t size,
                           struct error *err)
{
    const struct http_request request = {
        .query = exchange->query,
        .content_type = exchange_header(exchange, MHD_HTTP_HEADER_CONTENT_TYPE),
        .body = body ? body : "",
        .body_bytes = size,
        .request_id = exchange->request_id,
        .received_ns = exchange->feed.is_fed ? clock_ns() : exchange->received_ns,
        .timeout_ms = exchange->timeout_ms,
        .if_none_match = exchange_header(exchange, MHD_HTTP_HEADER_IF_NONE_MATCH),
        .accept = exchange_header(exchange, MHD_HTTP_HEADER_ACCEPT),
        .lines_before = exchange->feed.sums.lines,
    };
    return call_new(exchange->server->process->api, &exchange->route, &request, wake_exchange,
                    exchange, err);
}

/* The body is complete. */
static enum MHD_Result dispatch(struct exchange *exchange)
{
    struct http_server *server = exchange->server;
    watcher_remove(server->watcher, &exchange->watch);
    struct error err;
    exchange->call = exchange_call(exchange, exchange->body.data, exchange->body.size, &err);
    if (!exchange->call) {
        refuse(exchange, &err, RETRY_AFTER_S, false);
        return send_reply(exchange);
    }
    bool is_done = exchange->route.endpoint->inline_reply && call_step(exchange->call);
    if (is_done && !wants_gzip(exchange))
        return send_reply(exchange);
    if (!is_done)
        call_allow_stream(exchange->call, stream_ready);
    exchange->state = WAITING;
    exchange->ticket.run = is_done ? compress_exchange : exchange_step;
    MHD_suspend_connection(exchange->connection);
    exchange_watch(exchange, true, 0);
    workers_push(server->workers, &exchange->ticket);
    return MHD_YES;
}

/* MHD calls this when the headers are there, for each piece of the body, after the body, and after
 * a resume. */
enum MHD_Result exchange_handle(void *cls, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload_data,
                                size_t *upload_data_size, void **con_cls)
{
    (void)cls;
    (void)connection;
    (void)url;
    (void)version;
    struct exchange *exchange = *con_cls;
    if (!exchange)
        return MHD_NO; /* out of memory in exchange_open */
    switch (exchange->state) {
    case NEW:
        return first_call(exchange, method);
    case BODY:
    case REFUSED:
        if (exchange->state == BODY && exchange->feed.is_fed &&
            (!*upload_data_size || lines_are_enough(exchange))) {
            lines_feed(exchange, !*upload_data_size); /* what came stays MHD's until then */
            return MHD_YES;
        }
        if (*upload_data_size) {
            enum MHD_Result result = upload(exchange, upload_data, *upload_data_size);
            *upload_data_size = 0;
            return result;
        }
        return exchange->state == BODY ? dispatch(exchange) : send_reply(exchange);
    case READY:
        return send_reply(exchange);
    case STREAMING:
        return send_stream(exchange);
    case WAITING:
    case FEEDING:
        break;
    }
    return MHD_YES;
}
