/*
 * pool.h: the one thread pool that forward passes run on.
 *
 * One pool per process, as large as the cores (and the cgroup's quota) allow. A call to pool_run()
 * by a runtime lane splits one operation over all threads, the caller's among them, and returns
 * when it is done. Calls from several lanes take turns. Idle threads spin for a few microseconds,
 * then sleep: nothing burns while no forward pass is under way. Small operations take only as many
 * threads as their work is worth: the others are not woken. OpenBLAS itself is kept at one
 * thread and called inside tasks, so that there is never a second pool to fight with.
 */
#ifndef VLMD_CORE_NN_POOL_H
#define VLMD_CORE_NN_POOL_H

#include <stddef.h>

#include "core/base/error.h"

struct pool;

/* n_threads 0 = as many as sched_getaffinity and the cgroup CPU quota allow. */
struct pool *pool_new(size_t n_threads, struct error *err);
void pool_free(struct pool *pool);
size_t pool_threads(const struct pool *pool);

/* Calls task(context, i) once for each i in [0, n), spread dynamically over the threads. Tasks must
 * not call pool_run() themselves. */
void pool_run(struct pool *pool, size_t n, void (*task)(void *context, size_t i), void *context);
/* The same for an operation whose cost is known: about how many multiplications it takes. */
void pool_run_sized(struct pool *pool, size_t n, size_t cost, void (*task)(void *context, size_t i),
                    void *context);

#endif
