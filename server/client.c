/*
 * client.c: see client.h. The caller's thread does what a worker does for a socket.
 */
#include "server/client.h"

#include <ctype.h>
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "api/base64.h"

enum { FULL_WAIT_NS = 50 * 1000 * 1000 };

static void wake(void *context)
{
    sem_post(context);
}

/* A call and what wakes whoever steps it. */
struct asking {
    sem_t woken;
    struct call *call;
};

static enum status ask(struct asking *asking, struct process *process, const char *method,
                       const char *path, const struct http_request *form, struct error *err)
{
    struct route route;
    if (api_route(process->api, method, path, &route, err))
        return err->status;
    struct http_request request = *form;
    request.query = request.query ? request.query : "";
    request.body = request.body ? request.body : "";
    request.request_id = "command-line";
    request.received_ns = clock_ns();
    sem_init(&asking->woken, 0, 0);
    asking->call = call_new(process->api, &route, &request, wake, &asking->woken, err);
    if (asking->call)
        return STATUS_OK;
    sem_destroy(&asking->woken);
    return err->status;
}

static void wait_woken(struct asking *asking)
{
    while (sem_wait(&asking->woken) && errno == EINTR)
        ;
}

static void wait_done(struct asking *asking)
{
    while (!call_step(asking->call))
        wait_woken(asking);
}

static void asking_release(struct asking *asking)
{
    call_free(asking->call);
    sem_destroy(&asking->woken);
}

enum status client_request(struct process *process, const char *method, const char *path,
                           const char *query, const char *content_type, const void *body,
                           size_t body_bytes, int *http_status, json_t **reply, struct error *err)
{
    struct asking asking;
    const struct http_request request = {
        .query = query, .content_type = content_type, .body = body, .body_bytes = body_bytes};
    if (ask(&asking, process, method, path, &request, err))
        return err->status;
    wait_done(&asking);
    const struct http_reply *answer = call_reply(asking.call);
    *http_status = answer->status;
    json_error_t fault;
    *reply = json_loadb(answer->body.data ? answer->body.data : "", answer->body.size, 0, &fault);
    enum status status = STATUS_OK;
    if (!*reply)
        status = error_set(err, STATUS_INTERNAL, "the reply to %s %s is no JSON: %s", method, path,
                           fault.text);
    asking_release(&asking);
    return status;
}

enum status client_lines(struct process *process, const char *path, const char *body, size_t size,
                         struct call_lines *sums, struct buffer *results, struct error *err)
{
    for (size_t used = 0; used < size;) {
        struct asking asking;
        const struct http_request request = {.content_type = LINES_TYPE,
                                             .body = body + used,
                                             .body_bytes = size - used,
                                             .lines_before = sums->lines};
        if (ask(&asking, process, "POST", path, &request, err))
            return err->status;
        wait_done(&asking);
        enum status status = call_outcome(asking.call);
        const struct call_lines *done = call_lines(asking.call);
        const struct buffer *reply = &call_reply(asking.call)->body;
        if (status == STATUS_QUEUE_FULL) {
            nanosleep(&(struct timespec){.tv_nsec = FULL_WAIT_NS}, NULL);
            status = STATUS_OK;
        } else if (status) {
            *err = *call_error(asking.call);
        } else {
            used += done->bytes;
            sums->lines += done->lines;
            sums->added += done->added;
            sums->updated += done->updated;
            sums->failed += done->failed;
            if (!buffer_append(results, reply->data, reply->size))
                status = error_no_memory(err, "the results");
        }
        asking_release(&asking);
        if (status)
            return status;
    }
    return STATUS_OK;
}

static void nothing(void *context)
{
    (void)context;
}

enum status client_stream(struct process *process, const char *path, const char *query,
                          bool (*take)(void *context, const char *data, size_t size), void *context,
                          struct error *err)
{
    struct asking asking;
    const struct http_request request = {.query = query};
    if (ask(&asking, process, "GET", path, &request, err))
        return err->status;
    call_allow_stream(asking.call, nothing); /* this thread steps it, and so knows */
    bool done, ended, takes = true;
    do {
        char piece[16 << 10];
        size_t n;
        done = call_step(asking.call);
        while ((n = call_stream_read(asking.call, piece, sizeof piece, &ended)) && takes)
            takes = take(context, piece, n);
        if (!takes)
            call_cancel(asking.call);
        if (!done)
            wait_woken(&asking);
    } while (!done);
    enum status status = call_outcome(asking.call);
    if (status && takes)
        *err = *call_error(asking.call);
    asking_release(&asking);
    return takes ? status : STATUS_CANCELLED;
}

enum status client_call(struct process *process, const char *method, const char *path,
                        const char *query, const char *content_type, const void *body,
                        size_t body_bytes, json_t **reply, struct error *err)
{
    int http_status;
    if (client_request(process, method, path, query, content_type, body, body_bytes, &http_status,
                       reply, err))
        return err->status;
    if (http_status / 100 == 2)
        return STATUS_OK;
    const char *message =
        json_string_value(json_object_get(json_object_get(*reply, "error"), "message"));
    error_set(err, STATUS_UNPROCESSABLE, "%s", message ? message : "the request failed");
    json_decref(*reply);
    *reply = NULL;
    return err->status;
}

enum status client_call_json(struct process *process, const char *method, const char *path,
                             const json_t *body, json_t **reply, struct error *err)
{
    char *text = json_dumps(body, JSON_COMPACT);
    if (!text)
        return error_no_memory(err, "the request");
    enum status status =
        client_call(process, method, path, "", "application/json", text, strlen(text), reply, err);
    free(text);
    return status;
}

bool query_add(struct buffer *query, const char *name, const char *value)
{
    if (!buffer_printf(query, "%s%s=", query->size ? "&" : "", name))
        return false;
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;
        bool plain = isalnum(c) || c == '-' || c == '_' || c == '.' || c == '~';
        if (!(plain ? buffer_append(query, value, 1) : buffer_printf(query, "%%%02X", c)))
            return false;
    }
    return true;
}

bool query_add_fields(struct buffer *query, const struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->n_fields; i++)
        if (!query_add(query, arguments->fields[i].name, arguments->fields[i].value))
            return false;
    return true;
}

bool object_add_fields(json_t *object, const struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->n_fields; i++) {
        const char *value = arguments->fields[i].value;
        json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
        if (!parsed || json_is_string(parsed) || json_is_null(parsed)) {
            json_decref(parsed);
            parsed = json_string(value);
        }
        if (json_object_set_new(object, arguments->fields[i].name, parsed))
            return false;
    }
    return true;
}

enum status file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                      struct error *err)
{
    bool standard = !strcmp(path, "-");
    FILE *file = standard ? stdin : fopen(path, "re");
    if (!file)
        return error_set(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
    struct buffer bytes;
    buffer_init(&bytes, max_bytes);
    char piece[65536];
    size_t n;
    enum status status = STATUS_OK;
    while (!status && (n = fread(piece, 1, sizeof piece, file)) > 0)
        if (!buffer_append(&bytes, piece, n))
            status = error_set(err, STATUS_BODY_TOO_LARGE, "%s is longer than %zu bytes", path,
                               max_bytes);
    if (!status && ferror(file))
        status = error_set(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
    if (!standard)
        fclose(file);
    if (status)
        buffer_release(&bytes);
    else if (!bytes.data)
        *data = calloc(1, 1), *size = 0;
    else
        *data = buffer_take(&bytes, size);
    if (!status && !*data)
        return error_no_memory(err, "a file");
    return status;
}

bool is_file(const char *path)
{
    struct stat info;
    return !strcmp(path, "-") || (stat(path, &info) == 0 && S_ISREG(info.st_mode));
}

char *collection_path(const char *name, const char *rest)
{
    struct buffer path;
    size_t size;
    buffer_init(&path, 1 << 16);
    if (!query_add(&path, "", name) || !buffer_puts(&path, rest)) {
        buffer_release(&path);
        return NULL;
    }
    char *text = buffer_take(&path, &size), *full;
    int n = asprintf(&full, "/v1/collections/%s", text + 1); /* after the '=' of query_add */
    free(text);
    return n < 0 ? NULL : full;
}

char *base64_text(const void *data, size_t size)
{
    size_t n = base64_encoded_size(size);
    char *text = malloc(n + 1);
    if (!text)
        return NULL;
    base64_encode(data, size, text);
    text[n] = '\0';
    return text;
}

void print_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
}
