/*
 * metrics.h: counts of requests, and the page that Prometheus reads (text format 0.0.4).
 */
#ifndef VLMD_SERVER_METRICS_H
#define VLMD_SERVER_METRICS_H

#include <stdatomic.h>

#include "api/endpoint.h"
#include "core/base/stats.h"

/* Rows are the endpoints in table order, the last one is "no endpoint"; columns are HTTP statuses.
 */
enum { METRICS_ROUTES_MAX = 64, METRICS_STATUS_MIN = 100, METRICS_STATUS_MAX = 599 };

struct metrics {
    struct route_metrics {
        atomic_uint status[METRICS_STATUS_MAX - METRICS_STATUS_MIN + 1];
        struct histogram seconds;
    } routes[METRICS_ROUTES_MAX + 1];
    atomic_ullong bytes_in, bytes_out;
    atomic_ullong hangups; /* clients that went away before their reply */
};

void metrics_init(struct metrics *metrics);

/* A finished request. endpoint NULL: none was found. Any thread. */
void metrics_count(struct metrics *metrics, const struct api *api, const struct endpoint *endpoint,
                   int status, double seconds, size_t bytes_in, size_t bytes_out);

extern const struct endpoint
    endpoint_metrics; /* GET /metrics; call_process() is a struct process */

#endif
