/*
 * log.c: see log.h. JSON lines are made by jansson, so that hostile paths stay inside their string.
 */
#include "server/log.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/utf8.h"

static struct {
    _Atomic enum log_level level; /* may change while others write (SIGHUP) */
    atomic_bool json;
} sink = {LOG_INFO, false};

enum { LINE_MAX_BYTES = 2048, PATH_SHOWN_MAX = 512 };

enum status log_open(const char *level, const char *format, struct error *err)
{
    static const char *const levels[] = {"error", "info", "debug"};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(levels[i], level) == 0) {
            if (strcmp(format, "text") != 0 && strcmp(format, "json") != 0)
                return error_set_param(err, STATUS_BAD_CONFIG, "log_format",
                                       "log_format: expected text or json, found '%s'", format);
            sink.level = (enum log_level)i;
            sink.json = strcmp(format, "json") == 0;
            return STATUS_OK;
        }
    return error_set_param(err, STATUS_BAD_CONFIG, "log_level",
                           "log_level: expected error, info or debug, found '%s'", level);
}

bool log_enabled(enum log_level level)
{
    return level <= sink.level;
}

static void now_text(char out[32])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + n, 32 - n, ".%03ldZ", now.tv_nsec / 1000000);
}

static void put_line(const char *line, size_t size)
{
    while (size) {
        ssize_t n = write(STDERR_FILENO, line, size);
        if (n <= 0)
            return; /* nobody is left to tell */
        line += n;
        size -= (size_t)n;
    }
}

/* Takes the object. */
static void put_json(json_t *object)
{
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(object);
    if (!line)
        return;
    size_t size = strlen(line);
    line[size] = '\n'; /* in place of the NUL */
    put_line(line, size + 1);
    free(line);
}

void log_write(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level))
        return;
    char text[LINE_MAX_BYTES], clean[LINE_MAX_BYTES], when[32];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    utf8_clean(clean, sizeof clean - 1, text, strlen(text));
    now_text(when);
    if (sink.json) {
        put_json(json_pack("{s:s, s:s, s:s}", "time", when, "level",
                           level == LOG_ERROR ? "error" : "info", "message", clean));
        return;
    }
    char line[LINE_MAX_BYTES + 64];
    int n =
        snprintf(line, sizeof line, "%s %s%s\n", when, level == LOG_ERROR ? "error: " : "", clean);
    put_line(line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static const char *or_dash(const char *text)
{
    return text && *text ? text : "-";
}

void log_request(const struct log_request *request)
{
    if (!log_enabled(LOG_INFO))
        return;
    char when[32], path[PATH_SHOWN_MAX], id[160];
    now_text(when);
    const char *raw = request->path ? request->path : "";
    utf8_clean(path, sizeof path, raw, strlen(raw));
    utf8_clean(id, sizeof id, or_dash(request->id), strlen(or_dash(request->id)));
    if (sink.json) {
        put_json(json_pack(
            "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:s, s:s}",
            "time", when, "id", id, "key", or_dash(request->key), "method",
            or_dash(request->method), "path", path, "model", or_dash(request->model), "status",
            request->status, "code", request->code ? request->code : "", "bytes_in",
            (json_int_t)request->bytes_in, "bytes_out", (json_int_t)request->bytes_out, "queue_ms",
            request->queue_ms, "preprocess_ms", request->preprocess_ms, "forward_ms",
            request->forward_ms, "total_ms", request->total_ms, "batch_size",
            (json_int_t)request->batch_size, "client", or_dash(request->client), "trace",
            request->trace ? request->trace : ""));
        return;
    }
    char line[LINE_MAX_BYTES];
    int n = snprintf(
        line, sizeof line,
        "%s %d %s %s %.1fms model=%s code=%s queue=%.1f pre=%.1f fwd=%.1f batch=%zu "
        "in=%zu out=%zu key=%s client=%s id=%s%s%s\n",
        when, request->status, or_dash(request->method), path, request->total_ms,
        or_dash(request->model), or_dash(request->code), request->queue_ms, request->preprocess_ms,
        request->forward_ms, request->batch_size, request->bytes_in, request->bytes_out,
        or_dash(request->key), or_dash(request->client), id,
        request->trace && *request->trace ? " trace=" : "", request->trace ? request->trace : "");
    put_line(line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}
