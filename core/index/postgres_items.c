/*
 * postgres_items.c: the shared store's items: put, read, removed. See postgres.c for the
 * invariants.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/index/postgres_internal.h"

enum {
    NAME_BYTES = 32,          /* of a prepared statement */
    SQL_BYTES = 640,          /* of its text */
    PIPELINE_ITEMS = 64,      /* sent before their results are read … */
    PIPELINE_BYTES = 4 << 20, /* … or so many bytes */
    PUT_MAX = 1 << 20,        /* keys that one batch may take (the step of vlmd.places) */
};

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
    return link_end(link, status, err);
}

enum status postgres_put(void *state, const char *collection, size_t dim, const struct item *items,
                         size_t n, size_t *added, size_t *updated, struct error *err)
{
    if (n > PUT_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "items",
                               "items: at most %d are put at once", PUT_MAX);
    struct target target;
    struct link *link = postgres_lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    size_t fresh = 0;
    enum status status = target.dim == dim ? put_all(link, &target, items, n, &fresh, err)
                                           : store_changed(collection, err);
    links_return(state, link);
    if (status)
        return postgres_translate(status, collection, err);
    if (fresh)
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

enum status postgres_remove(void *state, const char *collection, const char *id, struct error *err)
{
    struct target target;
    struct link *link = postgres_lease_for(state, collection, &target, NULL, err);
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
    return postgres_translate(status, collection, err);
}

/* ---- reading items
 * ---------------------------------------------------------------------------------------- */

/* Columns are id, metadata and, where asked for, vector. */
static enum status read_item(const PGresult *result, int row, bool with_vector, size_t dim,
                             struct stored_item *out, struct error *err)
{
    struct stored_item item = {.id = column_copy(result, row, 0),
                               .metadata = column_copy(result, row, 1)};
    if (with_vector)
        item.vector = column_vector(result, row, 2, dim);
    if (!item.id || !item.metadata || (with_vector && !item.vector)) {
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
    struct link *link = postgres_lease_for(state, collection, target, NULL, err);
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
    return postgres_translate(status, collection, err);
}

enum status postgres_item(void *state, const char *collection, const char *id, bool with_vector,
                          struct stored_item **out, struct error *err)
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
    status = item ? read_item(result, 0, with_vector, target.dim, item, err)
                  : error_no_memory(err, "an item");
    PQclear(result);
    if (status)
        free(item);
    else
        *out = item;
    return status;
}

enum status postgres_blob(void *state, const char *collection, const char *id, void **out,
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

enum status postgres_scan(void *state, const char *collection, const char *after, size_t limit,
                          bool with_vector, struct stored_item **out, size_t *n, struct error *err)
{
    if (after && !utf8_valid(after, strlen(after)))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "after", "after: expected UTF-8");
    struct target target;
    struct link *link = postgres_lease_for(state, collection, &target, NULL, err);
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
        return postgres_translate(status, collection, err);
    const size_t rows = (size_t)PQntuples(result);
    size_t done = 0;
    struct stored_item *items = alloc_array(rows, sizeof *items);
    if (!items)
        status = error_no_memory(err, "items");
    while (!status && done < rows) {
        status = read_item(result, (int)done, with_vector, target.dim, &items[done], err);
        done += !status;
    }
    PQclear(result);
    if (status) {
        stored_items_free(items, done);
        return status;
    }
    *out = items;
    *n = done;
    return STATUS_OK;
}
