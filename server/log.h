/*
 * log.h: the process's one voice: lines on standard error, as text or JSON.
 *
 * Core and api return errors; only the server's edge writes lines, once. The sink is the only
 * mutable global besides the stop flag; it is set before threads start. A line is one write().
 */
#ifndef VLMD_SERVER_LOG_H
#define VLMD_SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/error.h"

enum log_level { LOG_ERROR, LOG_INFO, LOG_DEBUG };

/* STATUS_BAD_CONFIG for an unknown level or format; nothing changes then. May be called again,
 * while others write. */
enum status log_open(const char *level, const char *format, struct error *err);
bool log_enabled(enum log_level level);

/* A message for people. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One request's line. Pictures and keys never appear. Strings may be NULL. */
struct log_request {
    const char *id, *key, *method, *path, *model, *code; /* code: the error's, "" when fine */
    const char *client;                                  /* its address */
    const char *trace;                                   /* W3C trace id, "" when none was sent */
    int status;
    size_t bytes_in, bytes_out, batch_size;
    double queue_ms, preprocess_ms, forward_ms, total_ms;
};
void log_request(const struct log_request *request);

#endif
