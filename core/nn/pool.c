/*
 * pool.c: n - 1 worker threads and the caller work through one job at a time.
 *
 * DESIGN
 * A job is published in `state`, one word: [sequence | CLOSED | number of workers inside]. The
 * fields of the job itself are plain: they are written before `state` opens the job (release) and
 * read only by workers that have entered it (acquire); but `width`, which is looked at before.
 *
 *     idle (closed, 0 inside) --publish--> open --close--> closed, k inside --last leaves--> idle
 *
 * 1. A worker enters an open job by adding 1 to `state`, at most once; nobody enters a closed one,
 * nor do those whose index is not below its width: a small job takes few threads, always the same,
 * and only those that are awake.
 * A worker that wakes late thus never delays a job that the others have already finished.
 * 2. Task numbers are dealt out in `ranges`, one for each thread: neighbouring tasks tend to share
 *    data, and the same thread gets the same part of one operation after another. Who is through
 *    with its own range takes from the others'. The caller works like any worker, then closes the
 *    job and waits for the workers inside to leave. Only then may the job's fields change.
 * 3. Only the lane that holds the turn publishes. Lanes wait for the turn in a queue, first come,
 *    first served; each sleeps on a condition of its own.
 * 4. `mutex` guards the queue of lanes, `busy`, and sleeping; it is never held while a task runs.
 *
 * Sleeping never misses a wake-up: the sleeper announces itself in `n_sleeping` and then looks at
 * `state` again, the publisher changes `state` and then looks at `n_sleeping` (both sequentially
 * consistent). A worker spins only for a while after it has last worked, whatever is published.
 */
#include "core/nn/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"

/* COST_PER_THREAD: some microseconds of work, so that taking another thread pays that is awake.
 * COST_TO_WAKE: as much as waking one takes, or the job is done before it has come. */
enum {
    POOL_THREADS_MAX = 1024,
    SPIN_NS = 25000,
    COST_PER_THREAD = 1 << 18,
    COST_TO_WAKE = 5 << 17
};

#define STATE_INSIDE ((uint64_t)0xFFFF)
#define STATE_CLOSED ((uint64_t)0x10000)
#define STATE_NEXT   ((uint64_t)0x20000) /* one step of the sequence number */
#define STATE_NUMBER (~(STATE_CLOSED | STATE_INSIDE))

struct lane {
    struct lane *next;
    pthread_cond_t turn;
    bool has_turn;
};

/* Task numbers still to be claimed, [next, end). */
struct range {
    _Alignas(64) _Atomic size_t next;
    size_t end;
};

struct worker {
    pthread_t thread;
    struct pool *pool;
    size_t index; /* of its range; the caller's is 0 */
    int64_t spin_until;
    pthread_cond_t wake;
    bool asleep; /* under the pool's mutex */
};

struct pool {
    size_t n_threads; /* with the caller */
    struct worker *workers;
    size_t n_started;

    /* The job; see DESIGN. */
    _Alignas(64) _Atomic uint64_t state;
    void (*task)(void *context, size_t i);
    void *context;
    struct range *ranges; /* [n_threads] */
    _Atomic size_t width; /* how many threads take part: the caller and workers 1 … width - 1 */

    _Alignas(64) _Atomic uint32_t n_sleeping; /* workers */
    _Atomic bool caller_sleeping;
    _Atomic bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t left; /* the caller waits */
    bool busy;           /* some lane has the turn */
    struct lane *first, **last;
};

/* ---- how many threads
 * --------------------------------------------------------------------------- */

static size_t affinity_cpus(void)
{
    for (int n_cpus = 1024; n_cpus <= 65536; n_cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set)
            return 1;
        size_t bytes = CPU_ALLOC_SIZE((size_t)n_cpus);
        int failed = sched_getaffinity(0, bytes, set);
        int count = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (count > 0)
            return (size_t)count;
    }
    return 1;
}

static bool read_line(const char *path, char *line, int size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool fine = fgets(line, size, file) != NULL;
    fclose(file);
    return fine;
}

/* CPUs that one group's quota allows; 0 when it has none. v2: "max 100000" or "150000 100000" in
 * one file; v1: two files, -1 for no quota. */
static double group_quota(const char *group, bool v2)
{
    char path[1200], line[128];
    long long quota = 0, period = 0;
    if (v2) {
        snprintf(path, sizeof path, "%s/cpu.max", group);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld %lld", &quota, &period) != 2)
            return 0;
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", group);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1)
            return 0;
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", group);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1)
            return 0;
    }
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The tightest quota on the way from our group up to the root. Inside a container the path in
 * /proc/self/cgroup may not exist below the mount; the walk then ends at the mount itself, which
 * is the container's own group. */
static double tightest_quota(const char *mount, const char *group, bool v2)
{
    char path[1024];
    if (snprintf(path, sizeof path, "%s%s", mount, group) >= (int)sizeof path)
        return 0;
    double tightest = 0;
    for (;;) {
        double quota = group_quota(path, v2);
        if (quota > 0 && (tightest <= 0 || quota < tightest))
            tightest = quota;
        char *slash = strrchr(path, '/');
        if (!slash || slash < path + strlen(mount))
            return tightest;
        *slash = '\0';
    }
}

static bool lists_cpu(const char *controllers)
{
    for (const char *at = controllers; *at; at += *at == ',') {
        size_t length = strcspn(at, ",");
        if (length == 3 && strncmp(at, "cpu", 3) == 0)
            return true;
        at += length;
    }
    return false;
}

static double cgroup_cpus(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return 0;
    char line[1024];
    double tightest = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        controllers++;
        double quota = 0;
        if (*controllers == '\0') {
            quota = tightest_quota("/sys/fs/cgroup", group, true);
        } else if (lists_cpu(controllers)) {
            quota = tightest_quota("/sys/fs/cgroup/cpu", group, false);
            if (quota <= 0)
                quota = tightest_quota("/sys/fs/cgroup/cpu,cpuacct", group, false);
        }
        if (quota > 0 && (tightest <= 0 || quota < tightest))
            tightest = quota;
    }
    fclose(file);
    return tightest;
}

static size_t default_threads(void)
{
    size_t n = affinity_cpus();
    double quota = cgroup_cpus();
    if (quota > 0 && quota + 0.5 < (double)n)
        n = (size_t)(quota + 0.5);
    return n > 0 ? n : 1;
}

/* ---- workers ------------------------------------------------------------------------------------
 */

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void work(struct pool *pool, size_t index)
{
    void (*task)(void *, size_t) = pool->task;
    void *context = pool->context;
    size_t width = atomic_load_explicit(&pool->width, memory_order_relaxed);
    for (size_t n = 0; n < width; n++) {
        struct range *range = &pool->ranges[(index + n) % width];
        for (;;) {
            size_t i = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
            if (i >= range->end)
                break;
            task(context, i);
        }
    }
}

/* Waits until a job after number `seen` is published; false when the pool stops. */
static bool wait_for_job(struct worker *worker, uint64_t seen)
{
    struct pool *pool = worker->pool;
    while (now_ns() < worker->spin_until) {
        for (int i = 0; i < 8; i++) {
            uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
            if ((state & STATE_NUMBER) != seen)
                return true;
            cpu_pause();
        }
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    worker->asleep = true;
    while ((atomic_load(&pool->state) & STATE_NUMBER) == seen && !atomic_load(&pool->stop))
        pthread_cond_wait(&worker->wake, &pool->mutex);
    worker->asleep = false;
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
    return !atomic_load(&pool->stop);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    for (;;) {
        uint64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (state & STATE_CLOSED ||
            worker->index >= atomic_load_explicit(&pool->width, memory_order_relaxed)) {
            if (!wait_for_job(worker, state & STATE_NUMBER))
                return NULL;
            continue;
        }
        if (!atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1,
                                                   memory_order_acq_rel, memory_order_relaxed))
            continue;
        work(pool, worker->index);
        /* No task is left to claim, so the job may be closed for others too: a worker would only
         * enter to leave again. */
        atomic_fetch_or(&pool->state, STATE_CLOSED);
        state = atomic_fetch_sub(&pool->state, 1) - 1;
        if ((state & STATE_INSIDE) == 0 && atomic_load(&pool->caller_sleeping)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->left);
            pthread_mutex_unlock(&pool->mutex);
        }
        worker->spin_until = now_ns() + SPIN_NS;
    }
}

/* ---- lanes --------------------------------------------------------------------------------------
 */

static void take_turn(struct pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    if (pool->busy) {
        struct lane lane = {.turn = PTHREAD_COND_INITIALIZER};
        *pool->last = &lane;
        pool->last = &lane.next;
        while (!lane.has_turn)
            pthread_cond_wait(&lane.turn, &pool->mutex);
        pthread_cond_destroy(&lane.turn);
    }
    pool->busy = true;
    pthread_mutex_unlock(&pool->mutex);
}

static void pass_turn(struct pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    struct lane *lane = pool->first;
    if (lane) {
        pool->first = lane->next;
        if (!pool->first)
            pool->last = &pool->first;
        lane->has_turn = true;
        pthread_cond_signal(&lane->turn);
    } else {
        pool->busy = false;
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_until_left(struct pool *pool)
{
    for (int64_t end = now_ns() + SPIN_NS; now_ns() < end;) {
        for (int i = 0; i < 8; i++) {
            if ((atomic_load_explicit(&pool->state, memory_order_acquire) & STATE_INSIDE) == 0)
                return;
            cpu_pause();
        }
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeping, true);
    while ((atomic_load(&pool->state) & STATE_INSIDE) != 0)
        pthread_cond_wait(&pool->left, &pool->mutex);
    atomic_store(&pool->caller_sleeping, false);
    pthread_mutex_unlock(&pool->mutex);
}

static void wake_workers(struct pool *pool, size_t width)
{
    pthread_mutex_lock(&pool->mutex);
    for (size_t i = 0; i + 1 < width; i++)
        if (pool->workers[i].asleep)
            pthread_cond_signal(&pool->workers[i].wake);
    pthread_mutex_unlock(&pool->mutex);
}

void pool_run_sized(struct pool *pool, size_t n, size_t cost, void (*task)(void *context, size_t i),
                    void *context)
{
    size_t width = cost / COST_PER_THREAD + 1;
    width = width < n ? width : n;
    width = width < pool->n_threads ? width : pool->n_threads;
    if (width <= 1) {
        for (size_t i = 0; i < n; i++)
            task(context, i);
        return;
    }
    take_turn(pool);
    pool->task = task;
    pool->context = context;
    atomic_store_explicit(&pool->width, width, memory_order_relaxed);
    for (size_t t = 0; t < width; t++) {
        size_t each = n / width, more = n % width;
        size_t from = t * each + (t < more ? t : more);
        atomic_store_explicit(&pool->ranges[t].next, from, memory_order_relaxed);
        pool->ranges[t].end = from + each + (t < more);
    }
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store(&pool->state, (state + STATE_NEXT) & ~(STATE_CLOSED | STATE_INSIDE));
    if (cost >= COST_TO_WAKE && atomic_load(&pool->n_sleeping) > 0)
        wake_workers(pool, width);
    work(pool, 0);
    atomic_fetch_or(&pool->state, STATE_CLOSED);
    wait_until_left(pool);
    pass_turn(pool);
}

void pool_run(struct pool *pool, size_t n, void (*task)(void *context, size_t i), void *context)
{
    pool_run_sized(pool, n, SIZE_MAX, task, context);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

struct pool *pool_new(size_t n_threads, struct error *err)
{
    if (n_threads == 0)
        n_threads = default_threads();
    if (n_threads > POOL_THREADS_MAX)
        n_threads = POOL_THREADS_MAX;
    struct pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    struct worker *workers = alloc_array(n_threads, sizeof *workers);
    struct range *ranges = aligned_alloc(64, n_threads * sizeof *ranges);
    if (!pool || !workers || !ranges) {
        free(pool);
        free(workers);
        free(ranges);
        error_no_memory(err, "the thread pool");
        return NULL;
    }
    memset(pool, 0, sizeof *pool);
    pool->n_threads = n_threads;
    pool->workers = workers;
    pool->ranges = ranges;
    atomic_init(&pool->state, STATE_CLOSED);
    pool->last = &pool->first;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->left, NULL);
    for (size_t i = 0; i + 1 < n_threads; i++) {
        workers[i] = (struct worker){.pool = pool, .index = i + 1};
        pthread_cond_init(&workers[i].wake, NULL);
        int failed = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (failed) {
            error_set(err, STATUS_UNAVAILABLE, "cannot start thread %zu of %zu: %s", i + 2,
                      n_threads, strerror(failed));
            pool_free(pool);
            return NULL;
        }
        pool->n_started++;
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    for (size_t i = 0; i < pool->n_started; i++)
        pthread_cond_signal(&pool->workers[i].wake);
    pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    for (size_t i = 0; i < pool->n_started; i++)
        pthread_cond_destroy(&pool->workers[i].wake);
    pthread_cond_destroy(&pool->left);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool->ranges);
    free(pool);
}

size_t pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}
