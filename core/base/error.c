/*
 * error.c: filling and prefixing errors; the table behind status_info().
 */
#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"

static const struct status_info status_table[N_STATUS] = {
#define STATUS_ROW(name, http, type, code) [STATUS_##name] = {#name, http, type, code},
    STATUS_LIST(STATUS_ROW)
#undef STATUS_ROW
};

const struct status_info *status_info(enum status status)
{
    if ((unsigned)status >= N_STATUS)
        status = STATUS_INTERNAL;
    return &status_table[status];
}

static void set_message(struct error *err, const char *format, va_list args)
{
    char text[2 * ERROR_MESSAGE_MAX];
    vsnprintf(text, sizeof text, format, args);
    utf8_clean(err->message, sizeof err->message, text, strlen(text));
}

enum status error_set(struct error *err, enum status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_message(err, format, args);
    va_end(args);
    err->param[0] = '\0';
    err->status = status;
    return status;
}

enum status error_set_param(struct error *err, enum status status, const char *param,
                            const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_message(err, format, args);
    va_end(args);
    err->status = status;
    return error_name_param(err, param);
}

enum status error_name_param(struct error *err, const char *param)
{
    utf8_clean(err->param, sizeof err->param, param, strlen(param));
    return err->status;
}

enum status error_prefix(struct error *err, const char *format, ...)
{
    char old[ERROR_MESSAGE_MAX];
    char text[2 * ERROR_MESSAGE_MAX];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    snprintf(text + used, sizeof text - used, ": %s", old);
    utf8_clean(err->message, sizeof err->message, text, strlen(text));
    return err->status;
}

enum status error_no_memory(struct error *err, const char *what)
{
    return error_set(err, STATUS_NO_MEMORY, "out of memory for %s", what);
}
