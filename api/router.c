/*
 * router.c: see router.h. A few dozen endpoints are compared one after the other, segment by
 * segment; a path is at most as long as the HTTP library lets a request line be.
 */
#include "api/router.h"

#include <stdio.h>
#include <string.h>

#include "api/percent.h"
#include "core/base/utf8.h"

/* The segment at *at (after its '/'); moves *at to the next '/' or the end. */
static struct span next_segment(const char **at)
{
    const char *from = *at + 1;
    const char *to = from;
    while (*to && *to != '/')
        to++;
    *at = to;
    return (struct span){from, (size_t)(to - from)};
}

/* Compares a pattern with a path; raw[i] are the parameters, still encoded. */
static bool matches(const char *pattern, const char *path, struct span raw[ROUTE_PARAMS_MAX],
                    size_t *n_params)
{
    *n_params = 0;
    while (*pattern == '/' && *path == '/') {
        struct span want = next_segment(&pattern), have = next_segment(&path);
        if (want.size && want.data[0] == '{') {
            if (!have.size || *n_params == ROUTE_PARAMS_MAX)
                return false;
            raw[(*n_params)++] = have;
        } else if (want.size != have.size || memcmp(want.data, have.data, want.size)) {
            return false;
        }
    }
    return !*pattern && !*path;
}

static enum status decode_params(const struct span *raw, size_t n, struct route *out,
                                 struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t size;
        if (raw[i].size > 3 * (ROUTE_PARAM_BYTES_MAX - 1))
            return error_set(err, STATUS_BAD_REQUEST, "part %zu of the path is too long", i + 1);
        char decoded[3 * ROUTE_PARAM_BYTES_MAX];
        if (!percent_decode(raw[i].data, raw[i].size, false, decoded, &size))
            return error_set(err, STATUS_BAD_REQUEST,
                             "the path has a '%%' that two hexadecimal digits do not follow");
        if (size > ROUTE_PARAM_BYTES_MAX - 1)
            return error_set(err, STATUS_BAD_REQUEST, "a name in the path is over %d bytes",
                             ROUTE_PARAM_BYTES_MAX - 1);
        if (!utf8_valid(decoded, size) || memchr(decoded, '\0', size))
            return error_set(err, STATUS_BAD_REQUEST,
                             "a name in the path must be UTF-8 without NUL");
        memcpy(out->params[i], decoded, size);
        out->params[i][size] = '\0';
    }
    return STATUS_OK;
}

enum status router_find(const struct endpoint *const *endpoints, size_t n, const char *method,
                        const char *path, struct route *out, struct error *err)
{
    char allow[sizeof out->allow] = "";
    if (!strcmp(method, "HEAD"))
        method = "GET";
    for (size_t i = 0; i < n; i++) {
        struct span raw[ROUTE_PARAMS_MAX];
        size_t n_params;
        if (!matches(endpoints[i]->path, path, raw, &n_params))
            continue;
        if (!strcmp(endpoints[i]->method, method)) {
            enum status status = decode_params(raw, n_params, out, err);
            if (!status)
                out->endpoint = endpoints[i];
            return status;
        }
        size_t used = strlen(allow);
        snprintf(allow + used, sizeof allow - used, "%s%s%s", used ? ", " : "",
                 endpoints[i]->method, strcmp(endpoints[i]->method, "GET") ? "" : ", HEAD");
    }
    if (allow[0]) {
        memcpy(out->allow, allow, sizeof allow);
        return error_set(err, STATUS_METHOD_NOT_ALLOWED, "%s is not allowed here; use %s", method,
                         allow);
    }
    return error_set(err, STATUS_NOT_FOUND,
                     "there is nothing at '%.200s'; GET /openapi.json lists the endpoints", path);
}
