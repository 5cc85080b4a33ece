/*
 * metrics.h: counts of requests, and the page that Prometheus reads (text format 0.0.4).
 */
#ifndef VLMD_SERVER_METRICS_H
#define VLMD_SERVER_METRICS_H

#include <stdatomic.h>

#include "api/endpoint.h"
#include "core/base/stats.h"

enum { METRICS_ROUTES_MAX = 64, METRICS_CODES_MAX = 32 };

/* Requests by endpoint (its place in the api's table; the last row is "no endpoint") and status. */
struct metrics {
    atomic_ullong requests[METRICS_ROUTES_MAX + 1][METRICS_CODES_MAX];
    struct histogram seconds[METRICS_ROUTES_MAX + 1];
    atomic_ullong bytes_in, bytes_out;
    atomic_ullong hangups; /* clients that went away before their reply */
};

void metrics_init(struct metrics *metrics);

/* A finished request. endpoint NULL: none was found. */
struct process;
void metrics_count(struct process *process, const struct endpoint *endpoint, int status,
                   double seconds, size_t bytes_in, size_t bytes_out);

extern const struct endpoint endpoint_metrics;
extern const struct endpoint endpoint_healthz, endpoint_readyz;

#endif
