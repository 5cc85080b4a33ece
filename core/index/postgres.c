/*
 * postgres.c: the shared store: PostgreSQL with pgvector keeps and searches, so that any number of
 * processes serve the same collections. See postgres_internal.h for its parts.
 *
 * Invariants:
 *  1. What is acknowledged is committed, and every process reads it from then on: one transaction a
 *     call, nothing is remembered here between calls.
 *  2. A call whose fate is not known (the connection broke at its commit) fails; it is never
 *     repeated by itself.
 *  3. Locks are taken in one order: a collection's row, its table, items by id, a count. Batches
 * that name the same items in different orders thus wait for each other instead of for ever.
 *  4. Texts and vectors are only ever bound as parameters; a table's name holds a number of ours.
 *
 * An item's metadata is kept twice: as the text that was sent, which is what comes back, and as
 * `facts`, jsonb written by our own JSON library, which is what filters look at.
 *
 * Search orders by the inner product: exactly where a collection is small,
 * by its graph index where there is one; where the index gives too few (a rare filter, many removed
 * items), exactly again, so that top_k is full.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/base/stats.h"
#include "core/base/utf8.h"
#include "core/index/postgres_internal.h"

enum { PLAIN_DIM_MAX = 1500 /* vectors that fit into a table's page are kept there */ };

/* ---- collections
 * ----------------------------------------------------------------------------------------- */

#define COLLECTION_COLUMNS                                                                         \
    "c.key, c.name, c.space, c.model, c.dim, c.metric, c.created, c.precision, c.pictures,"        \
    " (SELECT coalesce(sum(n), 0)::int8 FROM vlmd.counts WHERE collection = c.key),"               \
    " EXISTS (SELECT FROM pg_index i WHERE i.indisvalid"                                           \
    "  AND i.indexrelid = to_regclass('vlmd.items_' || c.key || '_vector'))"                       \
    " FROM vlmd.collections c"

static enum status no_collection(const char *name, struct error *err)
{
    return error_set_param(err, STATUS_NOT_FOUND, "collection", "there is no collection '%s'",
                           name);
}

/* A statement found no table: the collection was dropped after it was looked up. */
enum status postgres_translate(enum status status, const char *name, struct error *err)
{
    return status == STATUS_NOT_FOUND && !err->param[0] ? no_collection(name, err) : status;
}

static enum status read_collection(const PGresult *result, int row, struct collection *out,
                                   struct error *err)
{
    struct collection info = {
        .name = column_copy(result, row, 1),
        .space = column_copy(result, row, 2),
        .model = column_copy(result, row, 3),
        .dim = (size_t)column_integer(result, row, 4),
        .metric = (enum metric)column_integer(result, row, 5),
        .created_unix_s = column_integer(result, row, 6),
        .precision = (enum precision)column_integer(result, row, 7),
        .keeps_pictures = column_bool(result, row, 8),
        .count = (size_t)column_integer(result, row, 9),
    };
    info.indexed = column_bool(result, row, 10) ? info.count : 0;
    if (!info.name || !info.space || !info.model) {
        collection_release(&info);
        return error_no_memory(err, "a collection's settings");
    }
    *out = info;
    return STATUS_OK;
}

/* out (may be NULL) is the caller's to release. */
static enum status find(const struct link_pool *pool, struct link *link, const char *name,
                        struct target *target, struct collection *out, struct error *err)
{
    if (!utf8_valid(name, strlen(name)))
        return no_collection(name, err);
    struct parameters parameters;
    PGresult *result;
    parameters_init(&parameters);
    bind_text(&parameters, name);
    enum status status = link_run(link, "find", "SELECT " COLLECTION_COLUMNS " WHERE c.name = $1",
                                  &parameters, &result, err);
    parameters_release(&parameters);
    if (status)
        return status;
    if (!PQntuples(result)) {
        status = no_collection(name, err);
    } else {
        target->key = column_integer(result, 0, 0);
        target->dim = (size_t)column_integer(result, 0, 4);
        target->is_indexed = links_want_index(pool, (enum metric)column_integer(result, 0, 5),
                                              target->dim, (size_t)column_integer(result, 0, 9));
        if (out)
            status = read_collection(result, 0, out, err);
    }
    PQclear(result);
    return status;
}

/* Leases a link and looks the collection up; what fails leaves no link. A session that the server
 * was ending unseen shows here, before anything was asked of it but this: another is taken then. */
struct link *postgres_lease_for(void *state, const char *name, struct target *target,
                                struct collection *out, struct error *err)
{
    for (;;) {
        struct link *link = links_lease(state, err);
        if (!link || !find(state, link, name, target, out, err))
            return link;
        bool again = link->broken && link->was_idle && clock_ns() < link->deadline_ns;
        links_return(state, link);
        if (!again)
            return NULL;
    }
}

static enum status postgres_get(void *state, const char *name, struct collection *out,
                                struct error *err)
{
    struct target target;
    struct link *link = postgres_lease_for(state, name, &target, out, err);
    links_return(state, link);
    return link ? STATUS_OK : err->status;
}

static enum status postgres_list(void *state, struct collection **out, size_t *n, struct error *err)
{
    struct link *link = links_lease(state, err);
    if (!link)
        return err->status;
    struct parameters none;
    PGresult *result = NULL;
    parameters_init(&none);
    enum status status = link_run(link, "list", "SELECT " COLLECTION_COLUMNS " ORDER BY c.name",
                                  &none, &result, err);
    links_return(state, link);
    if (status)
        return status;
    size_t total = (size_t)PQntuples(result), done = 0;
    struct collection *list = alloc_array(total, sizeof *list);
    if (!list)
        status = error_no_memory(err, "the list of collections");
    while (!status && done < total) {
        status = read_collection(result, (int)done, &list[done], err);
        done += !status;
    }
    PQclear(result);
    if (status) {
        while (done)
            collection_release(&list[--done]);
        free(list);
        return status;
    }
    *out = list;
    *n = done;
    return STATUS_OK;
}

/* Inside a transaction: the tables of a new collection. */
static enum status make_tables(struct link *link, int64_t key, size_t dim, struct error *err)
{
    char sql[1024];
    const long long k = (long long)key;
    snprintf(sql, sizeof sql,
             "CREATE TABLE vlmd.items_%lld(key bigint NOT NULL, id text COLLATE \"C\" PRIMARY KEY,"
             " vector vector(%zu) NOT NULL, metadata text NOT NULL, facts jsonb NOT NULL,"
             " picture bytea);"
             "ALTER TABLE vlmd.items_%lld ALTER vector SET STORAGE %s,"
             " ALTER picture SET STORAGE EXTERNAL;"
             "INSERT INTO vlmd.counts SELECT %lld, stripe, 0 FROM generate_series(0, %d) stripe",
             k, dim, k, dim <= PLAIN_DIM_MAX ? "PLAIN" : "EXTERNAL", k, POSTGRES_STRIPES - 1);
    return link_run(link, NULL, sql, NULL, NULL, err);
}

static enum status insert_collection(struct link *link, const struct collection *settings,
                                     bool *created, struct error *err)
{
    if (link_run(link, NULL, "BEGIN", NULL, NULL, err))
        return err->status;
    struct parameters parameters;
    PGresult *result;
    parameters_init(&parameters);
    bind_text(&parameters, settings->name);
    bind_text(&parameters, settings->space);
    bind_text(&parameters, settings->model);
    bind_integer(&parameters, (int64_t)settings->dim);
    bind_integer(&parameters, settings->metric);
    bind_integer(&parameters, (int64_t)time(NULL));
    bind_integer(&parameters, settings->precision);
    bind_integer(&parameters, settings->keeps_pictures);
    enum status status =
        link_run(link, "create",
                 "INSERT INTO vlmd.collections(name, space, model, dim, metric, created, precision,"
                 " pictures) VALUES($1, $2, $3, $4, $5, $6, $7, $8 = 1) ON CONFLICT DO NOTHING"
                 " RETURNING key",
                 &parameters, &result, err);
    parameters_release(&parameters);
    bool made = false;
    if (!status) {
        made = PQntuples(result) == 1; /* else another made it, this moment or long ago */
        if (made)
            status = make_tables(link, column_integer(result, 0, 0), settings->dim, err);
        PQclear(result);
    }
    status = link_end(link, status, err);
    if (!status)
        *created = made;
    return status;
}

static enum status postgres_create(void *state, const struct collection *settings, bool *created,
                                   struct error *err)
{
    if (settings->dim > POSTGRES_DIM_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "dimensions",
                               "dimensions: the collections are kept in PostgreSQL, where a vector "
                               "has at most %d, found %zu",
                               POSTGRES_DIM_MAX, settings->dim);
    struct link *link = links_lease(state, err);
    if (!link)
        return err->status;
    struct target target;
    struct collection there = {0};
    bool made = false;
    enum status status = insert_collection(link, settings, &made, err);
    if (!status && !made) {
        status = find(state, link, settings->name, &target, &there, err);
        if (!status)
            status = store_check_same(&there, settings, err);
    }
    links_return(state, link);
    collection_release(&there);
    if (!status)
        *created = made;
    return status;
}

/* Inside a transaction that holds the collection's row. A build of its index would be waited for:
 * it is ended, which the role that builds may do to itself. */
static enum status drop_tables(struct link *link, int64_t key, struct error *err)
{
    char sql[512];
    const long long k = (long long)key;
    snprintf(sql, sizeof sql,
             "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
             " WHERE application_name = 'vlmd index %lld' AND usename = current_user;"
             "DROP TABLE vlmd.items_%lld; DELETE FROM vlmd.counts WHERE collection = %lld;"
             "DELETE FROM vlmd.collections WHERE key = %lld",
             k, k, k, k);
    return link_run(link, NULL, sql, NULL, NULL, err);
}

static enum status postgres_drop(void *state, const char *name, struct error *err)
{
    struct target target;
    struct link *link = postgres_lease_for(state, name, &target, NULL, err);
    if (!link)
        return err->status;
    enum status status = link_run(link, NULL, "BEGIN", NULL, NULL, err);
    if (!status) {
        struct parameters parameters;
        PGresult *result;
        parameters_init(&parameters);
        bind_integer(&parameters, target.key);
        status = link_run(link, "lock", "SELECT FROM vlmd.collections WHERE key = $1 FOR UPDATE",
                          &parameters, &result, err);
        parameters_release(&parameters);
        if (!status) {
            if (PQntuples(result) != 1) /* another dropped it while we waited */
                status = no_collection(name, err);
            PQclear(result);
        }
        if (!status)
            status = drop_tables(link, target.key, err);
        status = link_end(link, status, err);
    }
    links_return(state, link);
    return status;
}

/* ---- the driver
 * ------------------------------------------------------------------------------------------- */

static void *open_with(const char *scheme, const char *rest, const struct store_options *options,
                       struct error *err)
{
    char *uri;
    if (asprintf(&uri, "%s:%s", scheme, rest) < 0) {
        error_no_memory(err, "the store");
        return NULL;
    }
    struct link_pool *pool = links_open(uri, options->graph_from, err);
    free(uri);
    return pool;
}

static void *postgresql_open(const char *rest, const struct store_options *options,
                             struct error *err)
{
    return open_with("postgresql", rest, options, err);
}

static void *postgres_open(const char *rest, const struct store_options *options, struct error *err)
{
    return open_with("postgres", rest, options, err);
}

static void postgres_close(void *state)
{
    links_close(state);
}

static enum status postgres_ready(void *state, struct error *err)
{
    return links_state(state, err);
}

/* Both names stand before the URLs that people are given. */
#define POSTGRES_DRIVER(name, opener)                                                              \
    {                                                                                              \
        .scheme = name, .open = opener, .close = postgres_close, .ready = postgres_ready,          \
        .create = postgres_create, .get = postgres_get, .drop = postgres_drop,                     \
        .list = postgres_list, .put = postgres_put, .item = postgres_item, .blob = postgres_blob,  \
        .remove = postgres_remove, .scan = postgres_scan, .search = postgres_search,               \
    }

const struct store_driver store_driver_postgresql = POSTGRES_DRIVER("postgresql", postgresql_open);
const struct store_driver store_driver_postgres = POSTGRES_DRIVER("postgres", postgres_open);
