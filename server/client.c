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

#include "api/base64.h"

enum { QUERY_MAX = 1 << 20 };

static void wake(void *context)
{
    sem_post(context);
}

enum status client_request(struct process *process, const char *method, const char *path,
                           const char *query, const char *content_type, const void *body,
                           size_t body_bytes, int *http_status, json_t **reply, struct error *err)
{
    struct route route;
    if (api_route(process->api, method, path, &route, err))
        return err->status;
    const struct http_request request = {
        .query = query ? query : "",
        .content_type = content_type,
        .body = body ? body : "",
        .body_bytes = body_bytes,
        .request_id = "command-line",
        .received_ns = clock_ns(),
    };
    sem_t woken;
    sem_init(&woken, 0, 0);
    struct call *call = call_new(process->api, &route, &request, wake, &woken, err);
    if (!call) {
        sem_destroy(&woken);
        return err->status;
    }
    while (!call_step(call))
        while (sem_wait(&woken) && errno == EINTR)
            ;
    const struct http_reply *answer = call_reply(call);
    *http_status = answer->status;
    json_error_t fault;
    *reply = json_loadb(answer->body.data ? answer->body.data : "", answer->body.size, 0, &fault);
    enum status status = STATUS_OK;
    if (!*reply)
        status = error_set(err, STATUS_INTERNAL, "the reply to %s %s is no JSON: %s", method, path,
                           fault.text);
    call_free(call);
    sem_destroy(&woken);
    return status;
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
