/*
 * call.c: a request's life from its bytes to its reply.
 *
 *   NEW ── call_step ──→ form, model, begin() ──┬─ reply written ─────────────→ DONE
 *                                               └─ job submitted → WAITING
 *   WAITING ── wake(), call_step ─┬→ finish() ──┬─ reply written ─────────────→ DONE
 *                                 │             └─ job submitted → WAITING
 *                                 └→ (a stream's tokens) events queued → WAITING
 *   An endpoint that has more(): NEW ─→ begin() → SOURCE; SOURCE ── call_step ─┬→ all read ──→ DONE
 *                                                                              └→ enough → SOURCE
 *
 * Invariants:
 * 1. `parked` says that no thread is stepping the call. The step that sets it (stream_pump, or
 *    enqueue before runtime_submit) touches the call no more and returns false; whoever finds it
 *    set and has news (on_done, stream_take_token) clears it and calls wake, once. News for a call
 *    that is not parked are seen by the step under way.
 * 2. `running` is set exactly while a job is with the runtime or its results are being used;
 *    call_cancel() reads it under `lock`, and no job is freed without clearing it under `lock`.
 * 3. Every call that ends has a reply: call_finish() is the only way to DONE.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/endpoint.h"
#include "api/endpoints.h"
#include "core/base/size.h"

enum { PHASE_NEW, PHASE_WAITING, PHASE_SOURCE, PHASE_DONE };
enum { ARENA_EXTRA_BYTES = 64 << 20 }; /* of a call, beside three times its body */

static const struct field common_fields[] = {
    {"user", FIELD_STRING, FIELD_IGNORED, .help = "accepted and ignored"},
    {"timeout_ms", FIELD_INTEGER, .min = 1, .max = TIMEOUT_MS_MAX,
     .help = "give up after this long; the server's own bound holds too"},
    {NULL},
};

static const struct field model_fields[] = {
    {"model", FIELD_STRING, .help = "the model to use; default: the server's for this task"},
    {"priority", FIELD_STRING,
     .help = "interactive, or batch: after those that are interactive, though they leave it its "
             "share; default: batch where there are several items",
     .schema = "'enum': ['interactive', 'batch', null]"},
    {NULL},
};

size_t endpoint_tables(const struct endpoint *endpoint,
                       const struct field *tables[ENDPOINT_TABLES_MAX])
{
    size_t n = 0;
    if (endpoint->fields)
        tables[n++] = endpoint->fields;
    if (endpoint->more_fields)
        tables[n++] = endpoint->more_fields;
    if (endpoint->uses_model)
        tables[n++] = model_fields;
    tables[n++] = common_fields;
    return n;
}

/* ---- life ---------------------------------------------------------------------------------------
 */

/* The call must end this long after it came in, or earlier where it was so before; 0 = no bound. */
static void limit_time(struct call *call, uint64_t timeout_ms)
{
    uint64_t deadline_ns = call->request.received_ns + timeout_ms * 1000000;
    if (timeout_ms && (!call->deadline_ns || deadline_ns < call->deadline_ns))
        call->deadline_ns = deadline_ns;
}

struct call *call_new(struct api *api, const struct route *route,
                      const struct http_request *request, void (*wake)(void *context),
                      void *context, struct error *err)
{
    struct call *call = calloc(1, sizeof *call);
    if (!call || pthread_mutex_init(&call->lock, NULL)) {
        free(call);
        error_no_memory(err, "a request");
        return NULL;
    }
    call->api = api;
    call->endpoint = route->endpoint;
    call->route = *route;
    call->request = *request;
    call->wake = wake;
    call->context = context;

    size_t arena_bytes;
    if (!size_mul(request->body_bytes, 3, &arena_bytes) ||
        !size_add(arena_bytes, ARENA_EXTRA_BYTES, &arena_bytes))
        arena_bytes = ARENA_EXTRA_BYTES;
    arena_init(&call->arena, arena_bytes);

    limit_time(call, (uint64_t)api_options(api)->request_timeout_s * 1000);
    limit_time(call, request->timeout_ms);

    call->reply.status = 200;
    call->reply.content_type = "application/json";
    buffer_init(&call->reply.body, api_options(api)->max_reply_bytes);
    stream_init(call);
    return call;
}

static void drop_job(struct call *call)
{
    pthread_mutex_lock(&call->lock);
    call->running = NULL;
    pthread_mutex_unlock(&call->lock);
    job_free(call->job);
    call->job = NULL;
}

void call_free(struct call *call)
{
    if (!call)
        return;
    drop_job(call);
    job_free(call->submit_job);
    if (call->release_state && call->state)
        call->release_state(call->state);
    form_release(&call->form);
    reply_release(&call->reply);
    stream_release(call);
    arena_release(&call->arena);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

void call_cancel(struct call *call)
{
    pthread_mutex_lock(&call->lock);
    call->cancelled = true;
    if (call->running)
        atomic_store(&call->running->cancelled, true);
    bool wakes = call->stream.is_source && call->parked; /* no job's end would do it */
    if (wakes)
        call->parked = false;
    pthread_mutex_unlock(&call->lock);
    if (wakes)
        call->wake(call->context);
}

struct http_reply *call_reply(struct call *call)
{
    return &call->reply;
}

const char *call_model(const struct call *call)
{
    return call->model ? call->model->name : "";
}

enum status call_outcome(const struct call *call)
{
    return call->outcome;
}

const struct error *call_error(const struct call *call)
{
    return &call->fault;
}

bool route_takes_lines(const struct route *route, const char *content_type)
{
    return (route->endpoint->body & BODY_LINES) && form_is_lines(content_type);
}

const struct call_lines *call_lines(const struct call *call)
{
    return &call->lines;
}

bool lines_end(struct buffer *out, const struct call_lines *sums, const struct error *why)
{
    struct json_writer line;
    json_writer_init(&line, out);
    json_begin_object(&line, NULL);
    json_put_bool(&line, "done", !why);
    json_put_integer(&line, "lines", (long long)sums->lines);
    json_put_integer(&line, "added", (long long)sums->added);
    json_put_integer(&line, "updated", (long long)sums->updated);
    json_put_integer(&line, "failed", (long long)sums->failed);
    if (why)
        json_put_error(&line, "error", why);
    json_end_object(&line);
    return !json_writer_failed(&line) && buffer_puts(out, "\n");
}

const struct call_timings *call_timings(const struct call *call)
{
    return &call->timings;
}

/* ---- steps --------------------------------------------------------------------------------------
 */

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-6 : 0;
}

enum status call_check_alive(struct call *call, struct error *err)
{
    pthread_mutex_lock(&call->lock);
    bool cancelled = call->cancelled;
    pthread_mutex_unlock(&call->lock);
    if (cancelled)
        return error_set(err, STATUS_CANCELLED, "the client has closed the connection");
    if (call->deadline_ns && clock_ns() >= call->deadline_ns)
        return error_set(err, STATUS_DEADLINE, "the request's time was over before it was done");
    return STATUS_OK;
}

static enum status read_priority(struct call *call, struct error *err)
{
    const char *name = form_string(&call->form, "priority", NULL).data;
    if (!name)
        return STATUS_OK;
    bool is_batch = !strcmp(name, "batch");
    if (!is_batch && strcmp(name, "interactive"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "priority",
                               "'priority' must be interactive or batch, not '%.64s'", name);
    call->has_priority = true;
    call->priority = is_batch ? PRIORITY_BATCH : PRIORITY_INTERACTIVE;
    return STATUS_OK;
}

static enum status start(struct call *call, struct error *err)
{
    const struct endpoint *endpoint = call->endpoint;
    const struct field *tables[ENDPOINT_TABLES_MAX];
    struct form_request request = {
        .tables = tables,
        .n_tables = endpoint_tables(endpoint, tables),
        .body_forms = endpoint->body,
        .query = call->request.query,
        .content_type = call->request.content_type,
        .body = call->request.body,
        .body_bytes = call->request.body_bytes,
        .max_items = api_options(call->api)->max_items,
    };
    enum status status = form_parse(&call->form, &call->arena, &request, err);
    if (!status)
        limit_time(call, (uint64_t)form_integer(&call->form, "timeout_ms", 0));
    if (!status && endpoint->uses_model)
        status = read_priority(call, err);
    if (!status && endpoint->uses_model)
        status =
            call_use_model(call, form_string(&call->form, "model", NULL).data, endpoint->task, err);
    if (!status)
        status = endpoint->begin(call, err);
    return status;
}

/* The job is back: adds its times to the call's. */
static void account(struct call *call)
{
    const struct job *job = call->job;
    call->timings.queue_ms += ms_between(job->submitted_ns, job->started_ns);
    call->timings.forward_ms += (double)job->forward_ns * 1e-6;
    if (job->batch_size > call->timings.batch_size)
        call->timings.batch_size = job->batch_size;
    for (size_t i = 0; i < job->n_works; i++) {
        call->n_pictures += job->works[i].n_images > 0;
        call->n_cached += job->works[i].cached;
    }
}

struct call_warning {
    struct call_warning *next;
    const char *text;
};

static void put_warnings(struct call *call)
{
    struct json_writer *out = &call->out;
    if (!call->n_warnings)
        return;
    json_begin_list(out, "warnings");
    size_t n = 0;
    for (const struct call_warning *each = call->warnings; each; each = each->next, n++)
        json_put_string(out, NULL, each->text);
    if (n < call->n_warnings) {
        char more[64];
        snprintf(more, sizeof more, "and %zu more", call->n_warnings - n);
        json_put_string(out, NULL, more);
    }
    json_end_list(out);
}

static void put_timings(struct call *call)
{
    const struct call_timings *timings = &call->timings;
    struct json_writer *out = &call->out;
    put_warnings(call);
    if (call->model)
        json_put_string(out, "model", call->model->name);
    json_begin_object(out, "timings");
    json_put_fixed(out, "queue_ms", timings->queue_ms, 3);
    json_put_fixed(out, "preprocess_ms", timings->preprocess_ms, 3);
    json_put_fixed(out, "forward_ms", timings->forward_ms, 3);
    json_put_fixed(out, "total_ms", timings->total_ms, 3);
    json_put_integer(out, "batch_size", (long long)timings->batch_size);
    json_end_object(out);
}

static void call_finish(struct call *call, enum status status, struct error *err)
{
    struct http_reply *reply = &call->reply;
    call->timings.total_ms = ms_between(call->request.received_ns, clock_ns());
    if (!status && !call->is_bytes) {
        if (!call->endpoint->inline_reply)
            put_timings(call);
        json_end_object(&call->out);
        if (json_writer_failed(&call->out))
            status = error_set(err, STATUS_UNPROCESSABLE,
                               "the reply would be larger than %zu bytes; ask for less at once",
                               api_options(call->api)->max_reply_bytes);
    }
    call->outcome = status;
    if (status)
        call->fault = *err;
    if (call->lane && call->job && call->job->started_ns)
        lane_count_request(call->lane, call->job->task, call->timings.preprocess_ms / 1e3,
                           call->timings.total_ms / 1e3);
    call->phase = PHASE_DONE;
    if (call->stream.begun || (call->stream.wanted && !status)) {
        stream_finish(call, status ? err : NULL); /* its headers have been read: none are added */
        return;
    }
    if (status) {
        unsigned retry_after_s = call->lane ? lane_retry_after_s(call->lane)
                                 : err->status == STATUS_LOADING
                                     ? runtime_loading_s(api_runtime(call->api))
                                     : 1;
        reply_error(reply, api_options(call->api), err, retry_after_s);
    }
    if (!call->endpoint->inline_reply)
        reply_header(reply, "Server-Timing",
                     "queue;dur=%.1f, preprocess;dur=%.1f, forward;dur=%.1f, total;dur=%.1f",
                     call->timings.queue_ms, call->timings.preprocess_ms, call->timings.forward_ms,
                     call->timings.total_ms);
    if (!status && call->n_pictures)
        reply_header(reply, "X-Cache", "%s",
                     call->n_cached == call->n_pictures ? "hit"
                     : call->n_cached                   ? "partial"
                                                        : "miss");
}

static void on_done(struct job *job, void *context)
{
    struct call *call = context;
    (void)job;
    pthread_mutex_lock(&call->lock);
    call->job_done = true;
    bool wakes = call->parked;
    call->parked = false;
    pthread_mutex_unlock(&call->lock);
    if (wakes)
        call->wake(call->context);
}

/* Hands the submitted job to the runtime. On success the call belongs to whoever steps it next
 * (invariant 1); on failure the job is freed. */
static enum status enqueue(struct call *call, struct error *err)
{
    struct lane *lane = call->submit_lane;
    struct job *job = call->submit_job;
    drop_job(call);
    call->submit_job = NULL;
    call->job = job;
    call->phase = PHASE_WAITING;
    pthread_mutex_lock(&call->lock);
    call->running = job;
    call->job_done = false;
    call->parked = true;
    if (call->cancelled)
        atomic_store(&job->cancelled, true);
    pthread_mutex_unlock(&call->lock);
    enum status status = runtime_submit(lane, job, err);
    if (status) {
        drop_job(call);
        call->parked = false;
    }
    return status;
}

/* Reads more for a client that has taken what there was. */
static bool step_source(struct call *call)
{
    struct error err;
    bool ended = false;
    enum status status;
    do {
        status = call_check_alive(call, &err);
        if (!status && !stream_has_room(call))
            return false; /* call_stream_read and call_cancel wake it */
        if (!status)
            status = stream_fill(call, &ended, &err);
    } while (!status && !ended);
    call_finish(call, status, &err);
    return true;
}

bool call_step(struct call *call)
{
    struct error err = {0};
    uint64_t began_ns = clock_ns();
    bool is_new = call->phase == PHASE_NEW;
    if (call->phase == PHASE_DONE)
        return true;
    if (call->phase == PHASE_SOURCE)
        return step_source(call);
    if (is_new) {
        json_writer_init(&call->out, &call->reply.body);
        json_begin_object(&call->out, NULL);
    } else if (stream_pump(call)) {
        account(call);
    } else {
        return false;
    }
    enum status status = call_check_alive(call, &err);
    if (call->stream.fault.status) {
        err = call->stream.fault;
        status = err.status;
    }
    if (!status)
        status = is_new ? start(call, &err) : call->endpoint->finish(call, &err);
    if (!status && call->endpoint->more) {
        call->phase = PHASE_SOURCE;
        call->deadline_ns = 0; /* it lasts as long as the client reads */
        stream_open_source(call);
        return step_source(call);
    }
    if (!status && call->submit_job) {
        call->timings.preprocess_ms += ms_between(began_ns, clock_ns());
        status = enqueue(call, &err);
        if (!status)
            return false;
    }
    call_finish(call, status, &err);
    return true;
}

/* ---- for endpoints ------------------------------------------------------------------------------
 */

const char *call_param(const struct call *call, size_t i)
{
    return call->route.params[i];
}

void *call_process(const struct call *call)
{
    return api_options(call->api)->process;
}

enum status call_use_model(struct call *call, const char *name, enum task task, struct error *err)
{
    const struct runtime *runtime = api_runtime(call->api);
    if (!runtime)
        return error_set(err, STATUS_UNAVAILABLE, "no models are being served");
    bool named = name && *name;
    struct error found = {0};
    struct lane *lane = runtime_find(
        runtime, named ? name : api_options(call->api)->default_models[task], task, &found);
    if (!lane) {
        *err = found;
        if (named)
            error_name_param(err, "model");
        return err->status;
    }
    call->lane = lane;
    call->model = lane_model(lane);
    return STATUS_OK;
}

enum status call_admit(struct call *call, size_t n_items, const char *param, struct error *err)
{
    size_t max = api_options(call->api)->max_items;
    if (n_items > max)
        return error_set_param(err, STATUS_OUT_OF_RANGE, param,
                               "'%s' holds %zu entries; at most %zu are allowed", param, n_items,
                               max);
    return call->lane ? lane_check_room(call->lane, n_items, call->deadline_ns, err) : STATUS_OK;
}

enum status call_picture_bytes(struct call *call, const struct picture *picture, struct span *out,
                               struct error *err)
{
    struct span bytes = picture->bytes;
    if (picture->form == PICTURE_URL)
        return error_set_param(err, STATUS_UNPROCESSABLE, picture->param,
                               "URL fetching is not allowed on this server; send the picture of "
                               "'%s' as base64, as a data: URL or as a file",
                               picture->param);
    if (picture->form == PICTURE_BASE64) {
        unsigned char *decoded = arena_alloc(&call->arena, base64_decoded_max(bytes.size));
        size_t size, at;
        if (!decoded)
            return error_no_memory(err, "a picture");
        if (!base64_decode(bytes.data, bytes.size, decoded, &size, &at))
            return error_set_param(err, STATUS_BAD_BASE64, picture->param,
                                   "'%s' is not base64 (at character %zu)", picture->param, at);
        bytes = (struct span){(const char *)decoded, size};
    }
    if (!bytes.size)
        return error_set_param(err, STATUS_BROKEN_IMAGE, picture->param, "'%s' is empty",
                               picture->param);
    *out = bytes;
    return STATUS_OK;
}

static enum status check_alive(void *call, struct error *err)
{
    return call_check_alive(call, err);
}

enum status call_pixels_from_bytes(struct call *call, struct span bytes, const char *param,
                                   struct pixels *out, struct error *err)
{
    struct image image = {0};
    struct image_watch watch = {check_alive, call};
    enum status status = image_decode(bytes.data, bytes.size, api_options(call->api)->max_pixels,
                                      &watch, &image, err);
    if (!status)
        status = call_check_alive(call, err);
    if (!status)
        status = model_preprocess(call->model, &image, out, err);
    image_release(&image);
    if (status && status != STATUS_CANCELLED && status != STATUS_DEADLINE) {
        error_prefix(err, "'%s'", param);
        error_name_param(err, param);
    }
    return status;
}

enum status call_pixels(struct call *call, const struct picture *picture, struct pixels *out,
                        struct error *err)
{
    struct span bytes;
    enum status status = call_picture_bytes(call, picture, &bytes, err);
    if (!status)
        status = call_pixels_from_bytes(call, bytes, picture->param, out, err);
    return status;
}

enum status call_tokens(struct call *call, enum task task, struct span text, const char *param,
                        struct tokens *out, struct error *err)
{
    size_t max = api_options(call->api)->max_text_bytes;
    if (text.size > max)
        return error_set_param(err, STATUS_TOO_LONG, param,
                               "'%s' has %zu bytes of text; at most %zu are allowed", param,
                               text.size, max);
    enum status status = model_tokenize(call->model, task, text.data, text.size, out, err);
    if (status)
        error_name_param(err, param);
    else if (out->truncated)
        call_warn(call, "'%s': a text was cut to the %zu tokens that model '%.64s' takes", param,
                  out->n, call->model->name);
    return status;
}

enum status call_prompt(struct call *call, enum task task, struct span text, const char *param,
                        size_t n_images, struct tokens *out, struct error *err)
{
    size_t max = api_options(call->api)->max_text_bytes;
    if (!call->model->chat || text.size > max)
        return call_tokens(call, task, text, param, out, err);
    struct chat_part *parts = arena_zalloc(&call->arena, n_images + 1, sizeof *parts);
    if (!parts)
        return error_no_memory(err, "a prompt");
    parts[n_images] = (struct chat_part){text.data, text.size};
    struct chat_message message = {"user", parts, n_images + 1};
    enum status status = model_chat(call->model, &message, 1, out, err);
    return status ? error_name_param(err, param) : STATUS_OK;
}

void call_warn(struct call *call, const char *format, ...)
{
    enum { WARNINGS_MAX = 16 };
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (const struct call_warning *each = call->warnings; each; each = each->next)
        if (!strcmp(each->text, text))
            return;
    if (call->n_warnings++ >= WARNINGS_MAX)
        return;
    struct call_warning *warning = arena_alloc(&call->arena, sizeof *warning);
    const char *copy = arena_string(&call->arena, text, strlen(text));
    if (!warning || !copy)
        return; /* it is still counted */
    *warning = (struct call_warning){NULL, copy};
    *(call->warnings ? call->last_warning : &call->warnings) = warning;
    call->last_warning = &warning->next;
}

struct job *call_job(struct call *call, enum task task, size_t n_works, struct error *err)
{
    struct job *job = job_new(task, n_works);
    if (!job) {
        error_no_memory(err, "a job");
        return NULL;
    }
    job->priority = call->has_priority ? call->priority
                    : n_works > 1      ? PRIORITY_BATCH
                                       : PRIORITY_INTERACTIVE;
    job->deadline_ns = call->deadline_ns;
    job->done = on_done;
    job->context = call;
    return job;
}

void call_submit(struct call *call, struct job *job)
{
    job_free(call->submit_job);
    if (call->stream.wanted && job->n_works == 1)
        job->on_token = stream_take_token;
    call->submit_lane = call->lane;
    call->submit_job = job;
}

struct buffer *call_reply_buffer(struct call *call, const char *content_type)
{
    call->is_bytes = true;
    call->reply.content_type = content_type;
    buffer_release(&call->reply.body);
    return &call->reply.body;
}

enum status call_reply_bytes(struct call *call, const char *content_type, const void *data,
                             size_t size, struct error *err)
{
    if (!buffer_append(call_reply_buffer(call, content_type), data, size))
        return error_no_memory(err, "the reply");
    return STATUS_OK;
}

void call_status(struct call *call, int status)
{
    call->reply.status = status;
}

const char *call_space(struct call *call)
{
    const char *name = call->model->name;
    const char *revision = call->model->checkpoint ? call->model->checkpoint->revision : "";
    size_t bytes;
    if (!size_add(strlen(name), strlen(revision) + 2, &bytes))
        return NULL;
    char *space = arena_alloc(&call->arena, bytes);
    if (space)
        snprintf(space, bytes, "%s@%s", name, revision);
    return space;
}
