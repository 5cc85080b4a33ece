/*
 * postgres_pool.c: who holds which link, what happens while the database is away, and the making of
 * graph indexes. See postgres_internal.h.
 *
 *               connecting fails (any thread)
 *        up  ─────────────────────────────────▶  away: leases fail at once, with the reason
 *            ◀─────────────────────────────────  keeper_main alone tries, waiting longer each time
 *               the keeper's connection stands
 *
 * Invariants:
 *  1. n_links counts the links that are idle, leased or being opened; at most POSTGRES_LINKS_MAX.
 *  2. Nothing that writes is sent twice: a link that breaks under a call fails that call, which was
 *     then not acknowledged. (That an idle link broke is mostly seen before it is leased.)
 *  3. `mutex` guards everything below it in struct link_pool and is held for no call to the
 * database.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/base/stats.h"
#include "core/index/postgres_internal.h"

enum {
    CONNECT_MS = 5000,
    CALL_MS = 25000, /* more than the session's statement_timeout: the server gives up first */
    LEASE_MS = 10000,
    BACK_OFF_MIN_MS = 100,
    BACK_OFF_MAX_MS = 2000,
    LOOK_MS = 1000,         /* how often idle links are looked at */
    BUILDER_TICK_MS = 1000, /* how often the builder looks while collections grow */
    BUILDER_TICKS = 60,     /* and in how many of these anyway, also after a failure */
    BUILD_MS = 86400 * 1000 /* the longest build of an index */
};

struct link_pool {
    char *uri;
    size_t graph_from; /* items; 0 = never */
    pthread_t keeper, builder;
    bool has_keeper, has_builder;
    atomic_bool stop;
    pthread_mutex_t mutex;   /* guards what follows; taken alone */
    pthread_cond_t freed;    /* a link came back, a place is free, or the database is back */
    pthread_cond_t woken;    /* for the keeper */
    pthread_cond_t stopping; /* for the builder */
    struct link *idle;
    int n_links;
    bool away, has_grown;
    struct error why; /* it is away */
};

static void wait_ms(pthread_cond_t *condition, pthread_mutex_t *mutex, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(condition, mutex, &until);
}

/* ---- leasing
 * --------------------------------------------------------------------------------------------- */

/* mutex held. Whatever is wrong with the database, for a caller it is away. */
static void note_away(struct link_pool *pool, const struct error *err)
{
    pool->away = true;
    pool->why = *err;
    pool->why.status = STATUS_UNAVAILABLE;
    pool->why.param[0] = '\0';
    pthread_cond_broadcast(&pool->freed); /* who waits need not */
    pthread_cond_signal(&pool->woken);
}

/* mutex held and let go meanwhile. */
static struct link *open_one(struct link_pool *pool, struct error *err)
{
    pool->n_links++;
    pthread_mutex_unlock(&pool->mutex);
    struct link *link = link_open(pool->uri, CONNECT_MS, &pool->stop, err);
    pthread_mutex_lock(&pool->mutex);
    if (!link) {
        pool->n_links--;
        note_away(pool, err);
        err->status = STATUS_UNAVAILABLE;
    }
    return link;
}

struct link *links_lease(struct link_pool *pool, struct error *err)
{
    uint64_t until = clock_ns() + LEASE_MS * UINT64_C(1000000);
    struct link *link = NULL;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        if (pool->idle) {
            link = pool->idle;
            pool->idle = link->next;
            if (link_alive(link))
                break;
            link_close(link);
            link = NULL;
            pool->n_links--;
        } else if (pool->away) {
            *err = pool->why;
            break;
        } else if (pool->n_links < POSTGRES_LINKS_MAX) {
            link = open_one(pool, err);
            break;
        } else {
            uint64_t now = clock_ns();
            if (now >= until) {
                error_set(err, STATUS_UNAVAILABLE,
                          "all %d connections to the collections' database are busy",
                          POSTGRES_LINKS_MAX);
                break;
            }
            wait_ms(&pool->freed, &pool->mutex, (unsigned)((until - now) / 1000000 + 1));
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    if (link)
        link_set_deadline(link, CALL_MS);
    return link;
}

/* mutex held: closes idle links, all or those whose server is gone. */
static void drop_idle(struct link_pool *pool, bool all)
{
    for (struct link **at = &pool->idle; *at;) {
        struct link *link = *at;
        if (!all && link_alive(link)) {
            at = &link->next;
            continue;
        }
        *at = link->next;
        link_close(link);
        pool->n_links--;
    }
}

void links_return(struct link_pool *pool, struct link *link)
{
    if (!link)
        return;
    bool keep = !link->broken && PQstatus(link->conn) == CONNECTION_OK &&
                PQpipelineStatus(link->conn) == PQ_PIPELINE_OFF &&
                PQtransactionStatus(link->conn) == PQTRANS_IDLE;
    bool is_silent = link->is_silent;
    if (!keep)
        link_close(link);
    pthread_mutex_lock(&pool->mutex);
    if (is_silent) { /* nobody else shall wait as long for the same silence */
        struct error err;
        error_set(&err, STATUS_UNAVAILABLE, "the collections' database does not answer in time");
        drop_idle(pool, true);
        note_away(pool, &err);
    }
    if (keep) {
        link->was_idle = true;
        link->next = pool->idle;
        pool->idle = link;
    } else {
        pool->n_links--;
        pthread_cond_signal(&pool->woken); /* is it one connection, or the database? */
    }
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->mutex);
}

enum status links_state(struct link_pool *pool, struct error *err)
{
    pthread_mutex_lock(&pool->mutex);
    enum status status = STATUS_OK;
    if (pool->away) {
        *err = pool->why;
        status = err->status;
    }
    pthread_mutex_unlock(&pool->mutex);
    return status;
}

/* ---- the keeper
 * ------------------------------------------------------------------------------------------ */

/* Sees to it that one link stands ready, so that links_state() is true without anyone asking. */
static void *keeper_main(void *argument)
{
    struct link_pool *pool = argument;
    unsigned back_off_ms = BACK_OFF_MIN_MS;
    pthread_mutex_lock(&pool->mutex);
    while (!atomic_load(&pool->stop)) {
        drop_idle(pool, false);
        if (pool->away || !pool->n_links) {
            struct error err;
            struct link *link = open_one(pool, &err);
            if (link) {
                pool->away = false;
                link->was_idle = true;
                link->next = pool->idle;
                pool->idle = link;
                pthread_cond_broadcast(&pool->freed);
                back_off_ms = BACK_OFF_MIN_MS;
            } else if (!atomic_load(&pool->stop)) {
                wait_ms(&pool->woken, &pool->mutex, back_off_ms);
                back_off_ms = back_off_ms < BACK_OFF_MAX_MS / 2 ? back_off_ms * 2 : BACK_OFF_MAX_MS;
            }
            continue;
        }
        wait_ms(&pool->woken, &pool->mutex, LOOK_MS);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* ---- the builder
 * ----------------------------------------------------------------------------------------- */

/* A collection that is big enough and has no index that can be used. */
static const char wanting_sql[] =
    "SELECT c.key FROM vlmd.collections c WHERE c.dim <= $1 AND c.metric = $3"
    " AND (SELECT sum(n) FROM vlmd.counts WHERE collection = c.key) >= $2"
    " AND NOT EXISTS (SELECT FROM pg_index i"
    "  WHERE i.indexrelid = to_regclass('vlmd.items_' || c.key || '_vector') AND i.indisvalid)"
    " ORDER BY c.key";

/* Builds without stopping writers or searches. What an interrupted build left is dropped first. */
static enum status make_index(struct link *link, int64_t key, struct error *err)
{
    char sql[512];
    struct parameters parameters;
    PGresult *result;
    parameters_init(&parameters);
    bind_integer(&parameters, key);
    enum status status =
        link_run(link, NULL,
                 "SELECT count(*) FROM pg_index WHERE indisvalid"
                 " AND indexrelid = to_regclass('vlmd.items_' || $1::int8 || '_vector')",
                 &parameters, &result, err);
    parameters_release(&parameters);
    if (status)
        return status;
    bool is_there = column_integer(result, 0, 0); /* made while this process looked elsewhere */
    PQclear(result);
    if (is_there)
        return STATUS_OK;
    snprintf(sql, sizeof sql, "DROP INDEX CONCURRENTLY IF EXISTS vlmd.items_%lld_vector",
             (long long)key);
    if (link_run(link, NULL, sql, NULL, NULL, err))
        return err->status;
    snprintf(sql, sizeof sql,
             "CREATE INDEX CONCURRENTLY items_%lld_vector ON vlmd.items_%lld"
             " USING hnsw (vector vector_ip_ops) WITH (m = 24, ef_construction = 128)",
             (long long)key, (long long)key);
    return link_run(link, NULL, sql, NULL, NULL, err);
}

/* Of several processes one builds: the lock is the session's, and goes with it. */
static enum status build_index(struct link *link, int64_t key, struct error *err)
{
    char sql[512];
    struct parameters parameters;
    parameters_init(&parameters);
    bind_integer(&parameters, key);
    PGresult *result;
    enum status status =
        link_run(link, NULL, "SELECT pg_try_advisory_lock(1986817381, $1::int8::int4)", &parameters,
                 &result, err);
    parameters_release(&parameters);
    if (status)
        return status;
    bool mine = column_bool(result, 0, 0);
    PQclear(result);
    if (!mine)
        return STATUS_OK;
    /* Under this name a drop of the collection finds the session and ends it. */
    snprintf(sql, sizeof sql, "SET application_name = 'vlmd index %lld'", (long long)key);
    status = link_run(link, NULL, sql, NULL, NULL, err);
    if (!status)
        status = make_index(link, key, err);
    if (status != STATUS_NO_SPACE)
        return status;
    /* Helpers share the graph in memory of which containers have little: do without. */
    status = link_run(link, NULL, "SET max_parallel_maintenance_workers = 0", NULL, NULL, err);
    return status ? status : make_index(link, key, err);
}

/* False: something failed. */
static bool build_wanting(struct link_pool *pool)
{
    struct error err;
    struct link *link = link_open(pool->uri, CONNECT_MS, &pool->stop, &err);
    if (!link)
        return false;
    link_set_deadline(link, BUILD_MS);
    struct parameters parameters;
    PGresult *result = NULL;
    parameters_init(&parameters);
    bind_integer(&parameters, POSTGRES_INDEX_DIM_MAX);
    bind_integer(&parameters, (int64_t)pool->graph_from);
    bind_integer(&parameters, METRIC_COSINE);
    enum status status = link_run(link, NULL, "SET statement_timeout = 0", NULL, NULL, &err);
    if (!status)
        status = link_run(link, NULL, wanting_sql, &parameters, &result, &err);
    parameters_release(&parameters);
    const int n = status ? 0 : PQntuples(result);
    /* That one build fails (its collection was dropped, the disk is full) is no reason not to try
     * the next. */
    for (int i = 0; i < n && !link->broken; i++)
        if (build_index(link, column_integer(result, i, 0), &err))
            status = err.status;
    PQclear(result);
    link_close(link);
    return !status;
}

/* Looks when a collection has grown, and now and then: another process may have left its build. */
static void *builder_main(void *argument)
{
    struct link_pool *pool = argument;
    pthread_mutex_lock(&pool->mutex);
    bool fine = true;
    for (unsigned tick = 0;; tick++) {
        wait_ms(&pool->stopping, &pool->mutex, BUILDER_TICK_MS);
        if (atomic_load(&pool->stop))
            break;
        if (pool->away || !pool->graph_from ||
            !((fine && pool->has_grown) || tick % BUILDER_TICKS == 0))
            continue;
        pool->has_grown = false;
        pthread_mutex_unlock(&pool->mutex);
        fine = build_wanting(pool);
        pthread_mutex_lock(&pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

bool links_want_index(const struct link_pool *pool, enum metric metric, size_t dim, size_t count)
{
    return pool->graph_from && count >= pool->graph_from && metric == METRIC_COSINE &&
           dim <= POSTGRES_INDEX_DIM_MAX;
}

void links_note_growth(struct link_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    pool->has_grown = true;
    pthread_mutex_unlock(&pool->mutex);
}

/* ---- opening
 * --------------------------------------------------------------------------------------------- */

void links_close(struct link_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->woken);
    pthread_cond_broadcast(&pool->stopping);
    pthread_mutex_unlock(&pool->mutex);
    if (pool->has_keeper)
        pthread_join(pool->keeper, NULL);
    if (pool->has_builder)
        pthread_join(pool->builder, NULL);
    while (pool->idle) {
        struct link *next = pool->idle->next;
        link_close(pool->idle);
        pool->idle = next;
    }
    pthread_cond_destroy(&pool->freed);
    pthread_cond_destroy(&pool->woken);
    pthread_cond_destroy(&pool->stopping);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->uri);
    free(pool);
}

static bool is_uri(const char *uri)
{
    PQconninfoOption *options = PQconninfoParse(uri, NULL);
    PQconninfoFree(options);
    return options;
}

struct link_pool *links_open(const char *uri, size_t graph_from, struct error *err)
{
    if (!is_uri(uri)) { /* libpq's own words may hold the password */
        error_set_param(err, STATUS_BAD_CONFIG, "store",
                        "store: this is not a PostgreSQL URL; expected "
                        "postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?OPTION=VALUE&…]");
        return NULL;
    }
    struct link_pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        error_no_memory(err, "the store");
        return NULL;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->freed, &attributes);
    pthread_cond_init(&pool->woken, &attributes);
    pthread_cond_init(&pool->stopping, &attributes);
    pthread_condattr_destroy(&attributes);
    pool->graph_from = graph_from;
    pool->uri = strdup(uri);
    if (!pool->uri) {
        error_no_memory(err, "the store");
        goto fail;
    }
    struct error first;
    pool->idle = link_open(uri, CONNECT_MS, &pool->stop, &first);
    pool->n_links = pool->idle != NULL;
    if (pool->idle)
        pool->idle->was_idle = true;
    if (!pool->idle && first.status != STATUS_UNAVAILABLE) {
        *err = first;
        goto fail;
    }
    pthread_mutex_lock(&pool->mutex);
    if (!pool->idle)
        note_away(pool, &first);
    pthread_mutex_unlock(&pool->mutex);
    pool->has_keeper = !pthread_create(&pool->keeper, NULL, keeper_main, pool);
    pool->has_builder =
        pool->has_keeper && !pthread_create(&pool->builder, NULL, builder_main, pool);
    if (pool->has_builder)
        return pool;
    error_set(err, STATUS_INTERNAL, "cannot start the threads of the store");
fail:
    links_close(pool);
    return NULL;
}
