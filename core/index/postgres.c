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
 * Search orders by the inner product: exactly where a collection is small (see enough_for_index()),
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
#include "core/index/store_internal.h"

enum {
    NAME_BYTES = 32,          /* of a prepared statement */
    SQL_BYTES = 640,          /* of a statement without a filter */
    FILTER_SQL_MAX = 1 << 20, /* of a filter said in SQL */
    PIPELINE_ITEMS = 64,      /* sent before their results are read … */
    PIPELINE_BYTES = 4 << 20, /* … or so many bytes */
    PUT_MAX = 1 << 20,        /* keys that one batch may take (the step of vlmd.places) */
    PLAIN_DIM_MAX = 1500,     /* vectors that fit into a table's page are kept there */
    INDEX_TOP_K_MAX = 100,    /* more results than a graph search is good for are found exactly */
};

struct target { /* a collection's row */
    int64_t key;
    size_t dim, count;
};

/* ---- collections
 * ----------------------------------------------------------------------------------------- */

#define COLLECTION_COLUMNS                                                                         \
    "c.key, c.name, c.space, c.model, c.dim, c.metric, c.created, c.precision, c.pictures,"        \
    " (SELECT coalesce(sum(n), 0)::int8 FROM vlmd.counts WHERE collection = c.key)"                \
    " FROM vlmd.collections c"

static enum status no_collection(const char *name, struct error *err)
{
    return error_set_param(err, STATUS_NOT_FOUND, "collection", "there is no collection '%s'",
                           name);
}

/* A statement found no table: the collection was dropped after it was looked up. */
static enum status translate(enum status status, const char *name, struct error *err)
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
    if (!info.name || !info.space || !info.model) {
        collection_release(&info);
        return error_no_memory(err, "a collection's settings");
    }
    *out = info;
    return STATUS_OK;
}

/* out (may be NULL) is the caller's to release. */
static enum status find(struct link *link, const char *name, struct target *target,
                        struct collection *out, struct error *err)
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
        *target =
            (struct target){column_integer(result, 0, 0), (size_t)column_integer(result, 0, 4),
                            (size_t)column_integer(result, 0, 9)};
        if (out)
            status = read_collection(result, 0, out, err);
    }
    PQclear(result);
    return status;
}

/* Leases a link and looks the collection up; what fails leaves no link. A session that the server
 * was ending unseen shows here, before anything was asked of it but this: another is taken then. */
static struct link *lease_for(void *state, const char *name, struct target *target,
                              struct collection *out, struct error *err)
{
    for (;;) {
        struct link *link = links_lease(state, err);
        if (!link || !find(link, name, target, out, err))
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
    struct link *link = lease_for(state, name, &target, out, err);
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

/* Ends a transaction: commits where status is OK, else rolls back. */
static enum status end_transaction(struct link *link, enum status status, struct error *err)
{
    if (!status)
        return link_run(link, NULL, "COMMIT", NULL, NULL, err);
    struct error ignored;
    if (!link->broken && PQtransactionStatus(link->conn) != PQTRANS_IDLE)
        link_run(link, NULL, "ROLLBACK", NULL, NULL, &ignored);
    return status;
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
    status = end_transaction(link, status, err);
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
        status = find(link, settings->name, &target, &there, err);
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
    struct link *link = lease_for(state, name, &target, NULL, err);
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
        status = end_transaction(link, status, err);
    }
    links_return(state, link);
    return status;
}

/* ---- putting and removing items
 * --------------------------------------------------------------------------- */

/* Another statement per collection: its table's name is part of the text. */
struct statement {
    char name[NAME_BYTES], sql[SQL_BYTES];
};

static struct statement statement(const char *name, int64_t key, const char *format)
{
    struct statement s;
    char table[48];
    snprintf(table, sizeof table, "vlmd.items_%lld", (long long)key);
    snprintf(s.name, sizeof s.name, "%s %lld", name, (long long)key);
    snprintf(s.sql, sizeof s.sql, format, table);
    return s;
}

static int by_id(const void *a, const void *b)
{
    const struct item *const *x = a, *const *y = b;
    int order = strcmp((*x)->id, (*y)->id);
    return order ? order : (*x > *y) - (*x < *y); /* of two with one id, the later one stays */
}

static enum status bind_item(struct parameters *parameters, const struct item *item, size_t place,
                             size_t dim, struct error *err)
{
    json_t *metadata = json_loads(item->metadata, 0, NULL);
    char *facts = metadata ? json_dumps(metadata, JSON_COMPACT) : NULL;
    json_decref(metadata);
    if (!facts)
        return error_no_memory(err, "an item's metadata");
    parameters->own[parameters->n_own++] = facts;
    bind_integer(parameters, (int64_t)place);
    bind_text(parameters, item->id);
    bind_vector(parameters, item->vector, dim);
    bind_text(parameters, item->metadata);
    bind_json(parameters, facts);
    bind_bytes(parameters, item->blob, item->blob_bytes);
    return parameters->overflow ? error_no_memory(err, "an item") : STATUS_OK;
}

/* Sends up to PIPELINE_ITEMS of the sorted items, then reads their results. *done of n are written.
 */
static enum status put_some(struct link *link, const char *name, size_t dim,
                            const struct item *items, const struct item *const *sorted, size_t n,
                            size_t *done, size_t *added, struct error *err)
{
    struct parameters parameters;
    size_t sent = 0, bytes = 0;
    enum status status = link_pipeline(link, err);
    if (status)
        return status;
    for (; !status && *done + sent < n && sent < PIPELINE_ITEMS && bytes < PIPELINE_BYTES; sent++) {
        const struct item *item = sorted[*done + sent];
        parameters_init(&parameters);
        status = bind_item(&parameters, item, (size_t)(item - items), dim, err);
        if (!status)
            status = link_send(link, name, &parameters, err);
        parameters_release(&parameters);
        bytes += item->blob_bytes + strlen(item->metadata) * 2 + dim * sizeof(float);
    }
    struct error ignored;
    if (link_sync(link, status ? &ignored : err))
        status = status ? status : err->status;
    for (size_t i = 0; !status && i < sent; i++) {
        PGresult *result;
        status = link_take(link, &result, err);
        if (!status) {
            *added += column_bool(result, 0, 0);
            PQclear(result);
        }
    }
    *done += sent;
    link_leave_pipeline(link);
    return status;
}

static enum status count_items(struct link *link, int64_t key, int64_t more, struct error *err)
{
    struct parameters parameters;
    parameters_init(&parameters);
    bind_integer(&parameters, key);
    bind_integer(&parameters, more);
    bind_integer(&parameters, PQbackendPID(link->conn) % POSTGRES_STRIPES);
    enum status status = link_run(link, "count",
                                  "UPDATE vlmd.counts SET n = n + $2"
                                  " WHERE collection = $1 AND stripe = $3::int8",
                                  &parameters, NULL, err);
    parameters_release(&parameters);
    return status;
}

static enum status put_all(struct link *link, const struct target *target, const struct item *items,
                           size_t n, size_t *added, struct error *err)
{
    const struct item **sorted = alloc_array(n, sizeof *sorted);
    if (!sorted)
        return error_no_memory(err, "items");
    for (size_t i = 0; i < n; i++)
        sorted[i] = &items[i];
    qsort(sorted, n, sizeof *sorted, by_id);
    /* Of a row that was there the transaction is its last locker (xmax), of a new one nobody is. */
    const struct statement put = statement(
        "put", target->key,
        "INSERT INTO %s AS t(key, id, vector, metadata, facts, picture)"
        " VALUES(currval('vlmd.places') + $1, $2, $3, $4, $5, $6) ON CONFLICT(id) DO UPDATE SET"
        " key = EXCLUDED.key, vector = EXCLUDED.vector, metadata = EXCLUDED.metadata, facts = "
        "EXCLUDED.facts,"
        " picture = EXCLUDED.picture RETURNING t.xmax = 0");
    static const Oid types[6] = {20, 25, 0, 25, 3802, 17};
    size_t done = 0;
    *added = 0;
    enum status status =
        link_run(link, NULL, "BEGIN; SELECT nextval('vlmd.places')", NULL, NULL, err);
    if (!status)
        status = link_prepare(link, put.name, put.sql, 6, types, err);
    while (!status && done < n)
        status = put_some(link, put.name, target->dim, items, sorted, n, &done, added, err);
    if (!status && *added)
        status = count_items(link, target->key, (int64_t)*added, err);
    free(sorted);
    return end_transaction(link, status, err);
}

static enum status postgres_put(void *state, const char *collection, size_t dim,
                                const struct item *items, size_t n, size_t *added, size_t *updated,
                                struct error *err)
{
    if (n > PUT_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "items",
                               "items: at most %d are put at once", PUT_MAX);
    struct target target;
    struct link *link = lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    size_t fresh = 0;
    enum status status = target.dim == dim ? put_all(link, &target, items, n, &fresh, err)
                                           : store_changed(collection, err);
    links_return(state, link);
    if (status)
        return translate(status, collection, err);
    if (fresh && target.count + fresh >= POSTGRES_INDEX_FROM)
        links_note_growth(state);
    *added = fresh;
    *updated = n - fresh;
    return STATUS_OK;
}

static enum status no_item(const char *collection, const char *id, struct error *err)
{
    return error_set_param(err, STATUS_NOT_FOUND, "id", "collection '%s' has no item '%s'",
                           collection, id);
}

static enum status postgres_remove(void *state, const char *collection, const char *id,
                                   struct error *err)
{
    struct target target;
    struct link *link = lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    const struct statement remove = statement(
        "remove", target.key,
        "WITH gone AS (DELETE FROM %s WHERE id = $1 RETURNING id) UPDATE vlmd.counts SET n = n - 1"
        " WHERE collection = $2 AND stripe = $3::int8 AND EXISTS (SELECT FROM gone) RETURNING n");
    struct parameters parameters;
    PGresult *result;
    parameters_init(&parameters);
    bind_text(&parameters, id);
    bind_integer(&parameters, target.key);
    bind_integer(&parameters, PQbackendPID(link->conn) % POSTGRES_STRIPES);
    enum status status = utf8_valid(id, strlen(id))
                             ? link_run(link, remove.name, remove.sql, &parameters, &result, err)
                             : no_item(collection, id, err);
    if (!status) {
        if (!PQntuples(result))
            status = no_item(collection, id, err);
        PQclear(result);
    }
    parameters_release(&parameters);
    links_return(state, link);
    return translate(status, collection, err);
}

/* ---- reading items
 * ---------------------------------------------------------------------------------------- */

/* Columns 0 and 1 are id and metadata; `vector` and `score` (-1: none) the places of these. */
static enum status read_item(const PGresult *result, int row, int vector, size_t dim, int score,
                             struct stored_item *out, struct error *err)
{
    struct stored_item item = {.id = column_copy(result, row, 0),
                               .metadata = column_copy(result, row, 1)};
    if (vector >= 0)
        item.vector = column_vector(result, row, vector, dim);
    if (score >= 0)
        item.score = (float)column_double(result, row, score);
    if (!item.id || !item.metadata || (vector >= 0 && !item.vector)) {
        free(item.id);
        free(item.metadata);
        free(item.vector);
        return error_no_memory(err, "an item");
    }
    *out = item;
    return STATUS_OK;
}

/* Runs a statement of one id; fails where there is no such item. */
static enum status select_item(void *state, const char *collection, const char *id,
                               const char *name, const char *format, struct target *target,
                               PGresult **out, struct error *err)
{
    struct link *link = lease_for(state, collection, target, NULL, err);
    if (!link)
        return err->status;
    const struct statement select = statement(name, target->key, format);
    struct parameters parameters;
    parameters_init(&parameters);
    bind_text(&parameters, id);
    PGresult *result = NULL;
    enum status status = utf8_valid(id, strlen(id))
                             ? link_run(link, select.name, select.sql, &parameters, &result, err)
                             : no_item(collection, id, err);
    parameters_release(&parameters);
    links_return(state, link);
    if (!status && !PQntuples(result)) {
        PQclear(result);
        status = no_item(collection, id, err);
    }
    if (!status)
        *out = result;
    return translate(status, collection, err);
}

static enum status postgres_item(void *state, const char *collection, const char *id,
                                 bool with_vector, struct stored_item **out, struct error *err)
{
    struct target target;
    PGresult *result;
    enum status status =
        with_vector
            ? select_item(state, collection, id, "item vector",
                          "SELECT id, metadata, vector FROM %s WHERE id = $1", &target, &result,
                          err)
            : select_item(state, collection, id, "item",
                          "SELECT id, metadata FROM %s WHERE id = $1", &target, &result, err);
    if (status)
        return status;
    struct stored_item *item = malloc(sizeof *item);
    status = item ? read_item(result, 0, with_vector ? 2 : -1, target.dim, -1, item, err)
                  : error_no_memory(err, "an item");
    PQclear(result);
    if (status)
        free(item);
    else
        *out = item;
    return status;
}

static enum status postgres_blob(void *state, const char *collection, const char *id, void **out,
                                 size_t *size, struct error *err)
{
    struct target target;
    PGresult *result;
    enum status status = select_item(state, collection, id, "picture",
                                     "SELECT picture FROM %s WHERE id = $1", &target, &result, err);
    if (status)
        return status;
    size_t bytes = (size_t)PQgetlength(result, 0, 0);
    void *copy = NULL;
    if (PQgetisnull(result, 0, 0)) {
        status = error_set_param(err, STATUS_NOT_FOUND, "id",
                                 "item '%s' was added without a picture", id);
    } else if (!(copy = malloc(bytes ? bytes : 1))) {
        status = error_no_memory(err, "a picture");
    } else {
        memcpy(copy, PQgetvalue(result, 0, 0), bytes);
        *out = copy;
        *size = bytes;
    }
    PQclear(result);
    return status;
}

/* The rows [first, …) of a result as items, appended to items[0..*n); stops at *n = limit. */
static enum status append_items(const PGresult *result, int vector, size_t dim, int score,
                                size_t limit, struct stored_item *items, size_t *n,
                                struct error *err)
{
    enum status status = STATUS_OK;
    for (int row = 0; !status && row < PQntuples(result) && *n < limit; row++) {
        status = read_item(result, row, vector, dim, score, &items[*n], err);
        *n += !status;
    }
    return status;
}

static enum status postgres_scan(void *state, const char *collection, const char *after,
                                 size_t limit, bool with_vector, struct stored_item **out,
                                 size_t *n, struct error *err)
{
    if (after && !utf8_valid(after, strlen(after)))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "after", "after: expected UTF-8");
    struct target target;
    struct link *link = lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    const struct statement scan =
        with_vector ? statement("scan vector", target.key,
                                "SELECT id, metadata, vector FROM %s WHERE id > $1 ORDER BY id"
                                " LIMIT $2")
                    : statement("scan", target.key,
                                "SELECT id, metadata FROM %s WHERE id > $1 ORDER BY id LIMIT $2");
    struct parameters parameters;
    PGresult *result = NULL;
    parameters_init(&parameters);
    bind_text(&parameters, after ? after : "");
    bind_integer(&parameters, (int64_t)limit);
    enum status status = link_run(link, scan.name, scan.sql, &parameters, &result, err);
    parameters_release(&parameters);
    links_return(state, link);
    if (status)
        return translate(status, collection, err);
    size_t done = 0;
    struct stored_item *items = alloc_array((size_t)PQntuples(result), sizeof *items);
    status = items ? append_items(result, with_vector ? 2 : -1, target.dim, -1, SIZE_MAX, items,
                                  &done, err)
                   : error_no_memory(err, "items");
    PQclear(result);
    if (status) {
        stored_items_free(items, done);
        return status;
    }
    *out = items;
    *n = done;
    return STATUS_OK;
}

/* ---- search
 * -----------------------------------------------------------------------------------------------
 */

/* Whether a graph search may answer (by then there is an index, or PostgreSQL looks at every row).
 */
static bool enough_for_index(const struct target *target, size_t top_k)
{
    return target->count >= POSTGRES_INDEX_FROM && target->dim <= POSTGRES_INDEX_DIM_MAX &&
           top_k <= INDEX_TOP_K_MAX;
}

/* Asks for the `limit` best of a query. The statement is planned each time, since what is best
 * depends on the limit and the filter. An index is only used where the order is by the bare
 * operator.
 */
static enum status ask(struct link *link, const struct target *target, const float *query,
                       const json_t *filter, bool by_index, size_t limit, PGresult **out,
                       struct error *err)
{
    struct parameters parameters;
    struct buffer sql;
    parameters_init(&parameters);
    buffer_init(&sql, FILTER_SQL_MAX);
    bind_vector(&parameters, query, target->dim);
    bind_integer(&parameters, (int64_t)limit);
    bool fits =
        buffer_printf(&sql, "SELECT id, metadata, -(vector <#> $1) FROM vlmd.items_%lld WHERE ",
                      (long long)target->key);
    if (!filter || !filter_to_sql(filter, &sql, &parameters))
        fits = fits && buffer_puts(&sql, "true");
    fits = fits && buffer_puts(&sql, by_index ? " ORDER BY vector <#> $1 LIMIT $2"
                                              : " ORDER BY (vector <#> $1) + 0, key LIMIT $2");
    enum status status = fits ? link_run(link, NULL, sql.data, &parameters, out, err)
                              : error_no_memory(err, "a search");
    buffer_release(&sql);
    parameters_release(&parameters);
    return status;
}

/* Of the rows those that are good enough and that the filter takes (it was said in SQL, but where
 * it could not), into out->items [top_k]. */
static enum status pick(const PGresult *result, const struct search *search, const json_t *filter,
                        struct found *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (int row = 0; !status && row < PQntuples(result) && out->n < search->top_k; row++) {
        if ((float)column_double(result, row, 2) < search->min_score)
            break;
        json_t *metadata = filter ? json_loadb(PQgetvalue(result, row, 1),
                                               (size_t)PQgetlength(result, row, 1), 0, NULL)
                                  : NULL;
        if (!filter || filter_matches(filter, metadata)) {
            status = read_item(result, row, -1, 0, 2, &out->items[out->n], err);
            out->n += !status;
        }
        json_decref(metadata);
    }
    return status;
}

static enum status find_nearest(struct link *link, const struct target *target, bool by_index,
                                const struct search *search, const float *query,
                                const json_t *filter, struct found *out, struct error *err)
{
    size_t limit = search->top_k;
    for (;;) {
        PGresult *result;
        enum status status = ask(link, target, query, filter, by_index, limit, &result, err);
        if (status)
            return status;
        size_t rows = (size_t)PQntuples(result);
        bool low = rows && (float)column_double(result, (int)rows - 1, 2) < search->min_score;
        if (!out->items && !(out->items = alloc_array(search->top_k, sizeof *out->items)))
            status = error_no_memory(err, "a search");
        else
            status = pick(result, search, filter, out, err);
        PQclear(result);
        if (status || out->n == search->top_k || low || (!by_index && rows < limit))
            return status;
        /* Too few: the graph was left early, or the filter is looked at here. */
        found_release(out);
        limit = by_index ? limit : limit * 4;
        by_index = false;
    }
}

static enum status postgres_search(void *state, const char *collection, const struct search *search,
                                   const json_t *filter, struct found *out, struct error *err)
{
    struct target target;
    struct link *link = lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    bool by_index = enough_for_index(&target, search->top_k);
    enum status status = target.dim == search->dim ? STATUS_OK : store_changed(collection, err);
    for (size_t i = 0; !status && i < search->n_queries; i++)
        status = find_nearest(link, &target, by_index, search, search->vectors + i * target.dim,
                              filter, &out[i], err);
    links_return(state, link);
    return translate(status, collection, err);
}

/* ---- the driver
 * ------------------------------------------------------------------------------------------- */

static void *open_with(const char *scheme, const char *rest, struct error *err)
{
    char *uri;
    if (asprintf(&uri, "%s:%s", scheme, rest) < 0) {
        error_no_memory(err, "the store");
        return NULL;
    }
    struct link_pool *pool = links_open(uri, err);
    free(uri);
    return pool;
}

static void *postgresql_open(const char *rest, const struct store_options *options,
                             struct error *err)
{
    (void)options; /* the database has its own processors */
    return open_with("postgresql", rest, err);
}

static void *postgres_open(const char *rest, const struct store_options *options, struct error *err)
{
    (void)options;
    return open_with("postgres", rest, err);
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
