/*
 * stats.c: see stats.h.
 */
#include "core/base/stats.h"

#include <time.h>

const struct histogram_bounds histogram_seconds = {
    17,
    {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60},
};
const struct histogram_bounds histogram_counts = {9, {1, 2, 4, 8, 16, 32, 64, 128, 256}};

void histogram_init(struct histogram *histogram, const struct histogram_bounds *bounds)
{
    histogram->bounds = bounds;
    for (size_t i = 0; i <= HISTOGRAM_BUCKETS_MAX; i++)
        atomic_init(&histogram->buckets[i], 0);
    atomic_init(&histogram->sum_millionths, 0);
}

void histogram_add(struct histogram *histogram, double value)
{
    size_t i = 0;
    while (i < histogram->bounds->n && value > histogram->bounds->bounds[i])
        i++;
    atomic_fetch_add_explicit(&histogram->buckets[i], 1, memory_order_relaxed);
    if (value > 0)
        atomic_fetch_add_explicit(&histogram->sum_millionths, (unsigned long long)(value * 1e6),
                                  memory_order_relaxed);
}

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
