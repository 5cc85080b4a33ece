/*
 * error.h: a failure as a value: a status and a full sentence that names the thing at fault.
 *
 * Convention of this code base: a function that can fail returns `enum status` (0 = fine) or a
 * pointer (NULL = failed) and takes `struct error *err` last. `err` is never NULL, is untouched on
 * success and is filled where the fault is known; callers pass it through, or prepend context with
 * error_prefix(). Library code never logs.
 */
#ifndef VLMD_CORE_BASE_ERROR_H
#define VLMD_CORE_BASE_ERROR_H

#include "core/base/status.h"

enum { ERROR_MESSAGE_MAX = 512, ERROR_PARAM_MAX = 96 };

struct error {
    enum status status;
    char param[ERROR_PARAM_MAX];     /* the request field at fault, "" when none */
    char message[ERROR_MESSAGE_MAX]; /* a sentence for a person, always valid UTF-8 */
};

/* Fills *err and returns `status`, so that a fault reads `return error_set(err, STATUS_…, "…")`.
 * The message is cut (at a UTF-8 border) at ERROR_MESSAGE_MAX - 1 bytes; bytes that are not UTF-8
 * are replaced by '?', control characters by spaces. `param` is cleared. */
enum status error_set(struct error *err, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, naming the request field (or setting) at fault. */
enum status error_set_param(struct error *err, enum status status, const char *param,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " in front of the message; keeps status and param; returns the status. */
enum status error_prefix(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Names the request field of an error that was found without knowing it; returns the status. */
enum status error_name_param(struct error *err, const char *param);

/* STATUS_NO_MEMORY with what was being allocated. */
enum status error_no_memory(struct error *err, const char *what);

#endif
