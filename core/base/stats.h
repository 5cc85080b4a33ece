/*
 * stats.h: a histogram with fixed buckets that any thread may add to without a lock, in the form
 * that Prometheus reads (cumulative buckets, sum, count).
 */
#ifndef VLMD_CORE_BASE_STATS_H
#define VLMD_CORE_BASE_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { HISTOGRAM_BUCKETS_MAX = 20 };

/* Upper bounds in rising order; the last bucket (+Inf) is implied. Static storage. */
struct histogram_bounds {
    size_t n;
    double bounds[HISTOGRAM_BUCKETS_MAX];
};
extern const struct histogram_bounds histogram_seconds; /* 0.5 ms … 60 s */
extern const struct histogram_bounds histogram_counts;  /* 1, 2, 4 … 256 */

struct histogram {
    const struct histogram_bounds *bounds;
    atomic_ullong buckets[HISTOGRAM_BUCKETS_MAX + 1];
    atomic_ullong sum_millionths;
};

void histogram_init(struct histogram *histogram, const struct histogram_bounds *bounds);
void histogram_add(struct histogram *histogram, double value);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_ns(void);

#endif
