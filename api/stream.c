/*
 * stream.c: see stream.h.
 */
#include "api/stream.h"

#include <string.h>

#include "api/endpoint.h"
#include "core/base/utf8.h"

enum { EVENT_ERROR_MAX = 8192 };

void stream_init(struct call *call)
{
    size_t max = api_options(call->api)->max_reply_bytes;
    buffer_init(&call->stream.sent, max);
    buffer_init(&call->stream.event, max);
    buffer_init(&call->stream.out, STREAM_UNREAD_MAX + 2 * max); /* and one more event */
}

void stream_release(struct call *call)
{
    buffer_release(&call->stream.sent);
    buffer_release(&call->stream.event);
    buffer_release(&call->stream.out);
}

enum status stream_want(struct call *call, size_t n_tokens_max, size_t n_top, struct error *err)
{
    struct stream *stream = &call->stream;
    if (!call->endpoint->delta)
        return error_set_param(err, STATUS_UNPROCESSABLE, "stream",
                               "'stream' is not available on this endpoint; leave it out");
    if (!stream->ready)
        return STATUS_OK;
    if (n_tokens_max > STREAM_TOKENS_MAX)
        n_tokens_max = STREAM_TOKENS_MAX;
    stream->ids = arena_array(&call->arena, n_tokens_max, sizeof *stream->ids);
    stream->logprobs = arena_array(&call->arena, n_tokens_max, sizeof *stream->logprobs);
    if (n_top)
        stream->top = arena_array(&call->arena, n_tokens_max, n_top * sizeof *stream->top);
    if (!stream->ids || !stream->logprobs || (n_top && !stream->top))
        return error_no_memory(err, "a stream");
    stream->capacity = n_tokens_max;
    stream->wanted = true;
    return STATUS_OK;
}

/* ---- tokens in ----------------------------------------------------------------------------------
 */

void stream_take_token(struct job *job, struct work *work, const struct new_token *token,
                       void *context)
{
    struct call *call = context;
    struct stream *stream = &call->stream;
    (void)job;
    pthread_mutex_lock(&call->lock);
    size_t i = stream->n_ids;
    if (i < stream->capacity) { /* whatever has no room comes with the finished text */
        stream->ids[i] = token->id;
        stream->logprobs[i] = token->logprob;
        if (stream->top)
            memcpy(stream->top + i * work->n_top, token->top, work->n_top * sizeof *stream->top);
        stream->n_ids++;
    }
    stream->cached = work->cached;
    bool wakes = call->parked;
    call->parked = false;
    pthread_mutex_unlock(&call->lock);
    if (wakes)
        call->wake(call->context);
}

/* ---- events out ---------------------------------------------------------------------------------
 */

/* As call_finish() has it for whole replies; before the job's end its first token tells. */
static void put_cache_header(struct call *call)
{
    struct stream *stream = &call->stream;
    pthread_mutex_lock(&call->lock);
    bool has_tokens = stream->n_ids > 0, cached = stream->cached;
    pthread_mutex_unlock(&call->lock);
    if (!has_tokens)
        cached = call->n_pictures > 0 && call->n_cached == call->n_pictures;
    if (has_tokens || call->n_pictures)
        reply_header(&call->reply, "X-Cache", "%s", cached ? "hit" : "miss");
}

/* Queues head, data and tail for the client. */
static enum status queue(struct call *call, const char *type, const char *head, const char *data,
                         size_t size, const char *tail, struct error *err)
{
    struct stream *stream = &call->stream;
    if (!stream->begun) {
        stream->begun = true;
        call->reply.content_type = type;
        reply_header(&call->reply, "Cache-Control", "no-cache");
        reply_header(&call->reply, "X-Accel-Buffering", "no"); /* proxies: pass it on at once */
        if (!stream->is_source)
            put_cache_header(call);
    }
    pthread_mutex_lock(&call->lock);
    struct buffer *out = &stream->out;
    if (stream->n_read) {
        memmove(out->data, out->data + stream->n_read, out->size - stream->n_read);
        out->size -= stream->n_read;
        stream->n_read = 0;
    }
    size_t size_before = out->size;
    bool fine = buffer_puts(out, head) && buffer_append(out, data, size) && buffer_puts(out, tail);
    if (!fine)
        out->size = size_before;
    pthread_mutex_unlock(&call->lock);
    if (!fine)
        return error_no_memory(err, "a stream");
    stream->ready(call->context);
    return STATUS_OK;
}

#define EVENT       "data: "
#define ERROR_EVENT "event: error\ndata: "

static enum status queue_event(struct call *call, const char *head, const char *data, size_t size,
                               struct error *err)
{
    return queue(call, "text/event-stream", head, data, size, "\n\n", err);
}

struct json_writer *stream_open(struct call *call)
{
    struct stream *stream = &call->stream;
    stream->event.size = 0;
    json_writer_init(&stream->writer, &stream->event);
    return &stream->writer;
}

enum status stream_push(struct call *call, struct error *err)
{
    struct stream *stream = &call->stream;
    if (json_writer_failed(&stream->writer))
        return error_no_memory(err, "a stream");
    return queue_event(call, EVENT, stream->event.data, stream->event.size, err);
}

static enum status push_delta(struct call *call, size_t choice, struct span text, struct error *err)
{
    if (!text.size)
        return STATUS_OK;
    call->endpoint->delta(call, stream_open(call), choice, text);
    return stream_push(call, err);
}

enum status stream_text(struct call *call, size_t choice, struct span text, struct error *err)
{
    size_t n = 0;
    if (choice == 0) { /* usually all of what was sent */
        const struct buffer *sent = &call->stream.sent;
        while (n < sent->size && n < text.size && sent->data[n] == text.data[n])
            n++;
        n = utf8_complete(text.data, n);
    }
    return push_delta(call, choice, (struct span){text.data + n, text.size - n}, err);
}

enum status stream_close(struct call *call, const char *last, struct error *err)
{
    enum status status = queue_event(call, EVENT, last, strlen(last), err);
    call->stream.closed = true;
    return status;
}

/* ---- text ---------------------------------------------------------------------------------------
 */

static bool ends_with(const char *text, size_t size, const char *end)
{
    size_t n = strlen(end);
    return size >= n && memcmp(text + size - n, end, n) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* How much of the text so far more tokens will not change. Held are: a character whose bytes are
 * not all there (it reads as U+FFFD), spaces (the finished text is trimmed), and last words that a
 * tokenizer's clean-up of spaces joins to what is before them: "do n ' t" → "don't". */
static size_t settled(const char *text, size_t size)
{
    size = utf8_complete(text, size);
    while (ends_with(text, size, "\xEF\xBF\xBD"))
        size -= 3;
    for (;;) {
        while (size && is_space(text[size - 1]))
            size--;
        size_t word = size;
        while (word && !is_space(text[word - 1]))
            word--;
        bool joins = word < size && (text[word] == '\'' || (size - word == 1 && text[word] == 'n'));
        if (!joins || !word)
            return size;
        size = word;
    }
}

/* Sends the text of the first n ids as far as it is settled. */
static enum status render(struct call *call, size_t n, struct error *err)
{
    struct stream *stream = &call->stream;
    const struct work *work = &call->job->works[0];
    struct buffer text;
    buffer_init(&text, api_options(call->api)->max_reply_bytes);
    stream->n_rendered = n;
    enum status status =
        model_detokenize(call->model, call->job->task, &work->texts[0], stream->ids, n, &text, err);
    if (!status && text.size) {
        size_t size = settled(text.data, text.size), known = stream->sent.size;
        bool goes_on = size > known && (!known || !memcmp(text.data, stream->sent.data, known));
        struct span rest = {text.data + known, goes_on ? size - known : 0};
        if (goes_on && !buffer_append(&stream->sent, rest.data, rest.size))
            status = error_no_memory(err, "a stream");
        if (!status)
            status = push_delta(call, 0, rest, err);
    }
    buffer_release(&text);
    return status;
}

bool stream_pump(struct call *call)
{
    struct stream *stream = &call->stream;
    for (;;) {
        pthread_mutex_lock(&call->lock);
        size_t n = stream->n_ids;
        bool done = call->job_done;
        bool more = !done && !stream->fault.status && n > stream->n_rendered &&
                    stream->out.size - stream->n_read < STREAM_UNREAD_MAX;
        call->parked = !done && !more;
        pthread_mutex_unlock(&call->lock);
        if (done || !more)
            return done;
        if (render(call, n, &stream->fault))
            call_cancel(call); /* its wake comes; the fault is what the client is told */
    }
}

void stream_finish(struct call *call, const struct error *error)
{
    struct stream *stream = &call->stream;
    struct error err;
    if (error) {
        struct buffer body;
        struct json_writer out;
        buffer_init(&body, EVENT_ERROR_MAX);
        json_writer_init(&out, &body);
        json_begin_object(&out, NULL);
        json_put_error(&out, "error", error);
        json_end_object(&out);
        bool fine = !json_writer_failed(&out); /* no memory: the stream just ends */
        if (fine && stream->is_source)
            queue(call, NULL, "", body.data, body.size, "\n", &err);
        else if (fine)
            queue_event(call, ERROR_EVENT, body.data, body.size, &err);
        buffer_release(&body);
    } else if (!stream->closed && !stream->is_source) {
        queue_event(call, EVENT, call->reply.body.data, call->reply.body.size, &err);
    }
    pthread_mutex_lock(&call->lock);
    stream->ended = true;
    pthread_mutex_unlock(&call->lock);
    stream->ready(call->context);
}

/* ---- replies of any length ----------------------------------------------------------------------
 */

void stream_open_source(struct call *call)
{
    pthread_mutex_lock(&call->lock);
    call->stream.is_source = true;
    pthread_mutex_unlock(&call->lock);
    if (!call->stream.ready)
        call_reply_buffer(call, call->endpoint->reply_types[0]);
}

bool stream_has_room(struct call *call)
{
    struct stream *stream = &call->stream;
    pthread_mutex_lock(&call->lock);
    bool fits = call->cancelled || stream->out.size - stream->n_read < STREAM_UNREAD_MAX;
    call->parked = !fits;
    pthread_mutex_unlock(&call->lock);
    return fits;
}

enum status stream_fill(struct call *call, bool *ended, struct error *err)
{
    struct stream *stream = &call->stream;
    if (!stream->ready)
        return call->endpoint->more(call, &call->reply.body, ended, err);
    stream->event.size = 0;
    enum status status = call->endpoint->more(call, &stream->event, ended, err);
    if (!status && stream->event.size)
        status = queue(call, call->endpoint->reply_types[0], "", stream->event.data,
                       stream->event.size, "", err);
    return status;
}

/* ---- for the server -----------------------------------------------------------------------------
 */

void call_allow_stream(struct call *call, void (*ready)(void *context))
{
    call->stream.ready = ready;
}

size_t call_stream_read(struct call *call, char *out, size_t size, bool *ended)
{
    struct stream *stream = &call->stream;
    pthread_mutex_lock(&call->lock);
    size_t n = stream->out.size - stream->n_read;
    n = n < size ? n : size;
    if (n)
        memcpy(out, stream->out.data + stream->n_read, n);
    stream->n_read += n;
    if (stream->n_read == stream->out.size)
        stream->n_read = stream->out.size = 0;
    *ended = stream->ended && !stream->out.size;
    bool wakes = stream->is_source && call->parked &&
                 stream->out.size - stream->n_read < STREAM_UNREAD_MAX / 2;
    if (wakes)
        call->parked = false;
    pthread_mutex_unlock(&call->lock);
    if (wakes)
        call->wake(call->context);
    return n;
}
