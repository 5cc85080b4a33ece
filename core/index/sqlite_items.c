/*
 * sqlite_items.c: the embedded store's items. See sqlite_internal.h.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"

/* Where one item of a put went: its row, and the row that it replaces (0 = none). */
struct change {
    int64_t key, replaced;
};

/* ---- changes ------------------------------------------------------------------------------------
 */

/* Stands KEY, or FIND, on the item; the caller resets it. *key = 0: there is none. */
static enum status look_up(struct sqlite_store *store, enum sqlite_statement by,
                           const struct shelf *shelf, const char *id, int64_t *key,
                           struct error *err)
{
    sqlite3_stmt *statement = store->statements[by];
    sqlite3_bind_int64(statement, 1, shelf->key);
    sqlite_bind_string(statement, 2, id);
    int rc = sqlite3_step(statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return sqlite_error(store, "reading an item", err);
    *key = rc == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    return STATUS_OK;
}

static enum status find_item(struct sqlite_store *store, enum sqlite_statement by,
                             const struct shelf *shelf, const char *id, int64_t *key,
                             struct error *err)
{
    enum status status = look_up(store, by, shelf, id, key, err);
    if (!status && !*key)
        status = error_set_param(err, STATUS_NOT_FOUND, "id", "collection '%s' has no item '%s'",
                                 shelf->info.name, id);
    return status;
}

/* Inside a transaction. */
static enum status remove_row(struct sqlite_store *store, int64_t key, struct error *err)
{
    static const enum sqlite_statement steps[] = {SQL_REMOVE_PICTURE, SQL_REMOVE_VECTOR,
                                                  SQL_REMOVE};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < ARRAY_LENGTH(steps) && !status; i++)
        status = sqlite_run_with_key(store, steps[i], key, err);
    return status;
}

/* Inside a transaction. */
static enum status put_one(struct sqlite_store *store, const struct shelf *shelf,
                           const struct item *item, struct change *change, struct error *err)
{
    enum status status = look_up(store, SQL_KEY, shelf, item->id, &change->replaced, err);
    sqlite3_reset(store->statements[SQL_KEY]);
    if (!status && change->replaced)
        status = remove_row(store, change->replaced, err);
    if (status)
        return status;
    sqlite3_stmt *statement = store->statements[SQL_PUT];
    sqlite3_bind_int64(statement, 1, shelf->key);
    sqlite_bind_string(statement, 2, item->id);
    sqlite_bind_string(statement, 3, item->metadata);
    if (sqlite_run(store, SQL_PUT, err))
        return err->status;
    change->key = sqlite3_last_insert_rowid(store->db);
    statement = store->statements[SQL_PUT_VECTOR];
    sqlite3_bind_int64(statement, 2, shelf->key);
    sqlite3_bind_blob64(statement, 3, item->vector, shelf->info.dim * sizeof(float), SQLITE_STATIC);
    status = sqlite_run_with_key(store, SQL_PUT_VECTOR, change->key, err);
    if (status || !item->blob)
        return status;
    sqlite3_bind_blob64(store->statements[SQL_PUT_PICTURE], 2, item->blob, item->blob_bytes,
                        SQLITE_STATIC);
    return sqlite_run_with_key(store, SQL_PUT_PICTURE, change->key, err);
}

/* db_mutex held, so that nobody else takes the room. */
static enum status reserve(struct shelf *shelf, size_t n, struct error *err)
{
    pthread_rwlock_wrlock(&shelf->lock);
    bool fine = matrix_reserve(&shelf->matrix, n);
    pthread_rwlock_unlock(&shelf->lock);
    return fine ? STATUS_OK : error_no_memory(err, "a collection's vectors");
}

enum status sqlite_put(void *state, const char *collection, size_t dim, const struct item *items,
                       size_t n, size_t *added, size_t *updated, struct error *err)
{
    struct sqlite_store *store = state;
    struct change *changes = alloc_array(n, sizeof *changes);
    if (!changes)
        return error_no_memory(err, "items");
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? STATUS_OK : err->status;
    if (!status && shelf->info.dim != dim)
        status = store_changed(collection, err);
    if (!status)
        status = reserve(shelf, n, err);
    if (!status)
        status = sqlite_run(store, SQL_BEGIN, err);
    if (!status) {
        for (size_t i = 0; i < n && !status; i++)
            status = put_one(store, shelf, &items[i], &changes[i], err);
        status = sqlite_end(store, status, err);
    }
    if (!status) {
        size_t replaced = 0;
        pthread_rwlock_wrlock(&shelf->lock);
        for (size_t i = 0; i < n; i++) {
            if (changes[i].replaced)
                matrix_remove(&shelf->matrix, changes[i].replaced);
            matrix_set(&shelf->matrix, changes[i].key, items[i].vector);
            replaced += changes[i].replaced != 0;
        }
        pthread_rwlock_unlock(&shelf->lock);
        sqlite_graphs_wake(store, shelf);
        *added = n - replaced;
        *updated = replaced;
    }
    pthread_mutex_unlock(&store->db_mutex);
    free(changes);
    return status;
}

enum status sqlite_remove(void *state, const char *collection, const char *id, struct error *err)
{
    struct sqlite_store *store = state;
    int64_t key = 0;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, SQL_KEY, shelf, id, &key, err) : err->status;
    sqlite3_reset(store->statements[SQL_KEY]);
    if (!status)
        status = sqlite_run(store, SQL_BEGIN, err);
    if (!status)
        status = sqlite_end(store, remove_row(store, key, err), err);
    if (!status) {
        pthread_rwlock_wrlock(&shelf->lock);
        matrix_remove(&shelf->matrix, key);
        pthread_rwlock_unlock(&shelf->lock);
        sqlite_graphs_wake(store, shelf);
    }
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

static enum status copy_vector(struct sqlite_store *store, const struct shelf *shelf, int64_t key,
                               float **out, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_VECTOR];
    size_t bytes = shelf->info.dim * sizeof(float);
    sqlite3_bind_int64(statement, 1, key);
    enum status status = STATUS_OK;
    float *vector = malloc(bytes);
    if (!vector)
        status = error_no_memory(err, "an item");
    else if (sqlite3_step(statement) != SQLITE_ROW ||
             (size_t)sqlite3_column_bytes(statement, 1) != bytes)
        status = sqlite_error(store, "reading a vector", err);
    else
        memcpy(vector, sqlite3_column_blob(statement, 1), bytes);
    sqlite3_reset(statement);
    if (status)
        free(vector);
    else
        *out = vector;
    return status;
}

enum status sqlite_copy_row(struct sqlite_store *store, const struct shelf *shelf,
                            sqlite3_stmt *statement, bool with_vector, struct stored_item *out,
                            struct error *err)
{
    struct stored_item item = {.id = sqlite_column_copy(statement, 1),
                               .metadata = sqlite_column_copy(statement, 2)};
    enum status status = item.id && item.metadata ? STATUS_OK : error_no_memory(err, "an item");
    if (!status && with_vector)
        status = copy_vector(store, shelf, sqlite3_column_int64(statement, 0), &item.vector, err);
    if (status) {
        free(item.id);
        free(item.metadata);
        return status;
    }
    *out = item;
    return STATUS_OK;
}

enum status sqlite_item(void *state, const char *collection, const char *id, bool with_vector,
                        struct stored_item **out, struct error *err)
{
    struct sqlite_store *store = state;
    int64_t key;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, SQL_FIND, shelf, id, &key, err) : err->status;
    if (!status) {
        struct stored_item *item = malloc(sizeof *item);
        status = item ? sqlite_copy_row(store, shelf, store->statements[SQL_FIND], with_vector,
                                        item, err)
                      : error_no_memory(err, "an item");
        if (status)
            free(item);
        else
            *out = item;
    }
    sqlite3_reset(store->statements[SQL_FIND]);
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}

/* Out of the row that the PICTURE statement stands on. */
static enum status copy_blob(sqlite3_stmt *statement, void **out, size_t *size, struct error *err)
{
    const void *bytes = sqlite3_column_blob(statement, 0);
    size_t n = (size_t)sqlite3_column_bytes(statement, 0);
    void *copy = malloc(n ? n : 1);
    if (!copy)
        return error_no_memory(err, "a picture");
    if (n)
        memcpy(copy, bytes, n);
    *out = copy;
    *size = n;
    return STATUS_OK;
}

enum status sqlite_blob(void *state, const char *collection, const char *id, void **out,
                        size_t *size, struct error *err)
{
    struct sqlite_store *store = state;
    int64_t key = 0;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, SQL_KEY, shelf, id, &key, err) : err->status;
    sqlite3_stmt *statement = store->statements[SQL_PICTURE];
    if (!status) {
        sqlite3_bind_int64(statement, 1, key);
        int rc = sqlite3_step(statement);
        if (rc == SQLITE_ROW)
            status = copy_blob(statement, out, size, err);
        else if (rc == SQLITE_DONE)
            status = error_set_param(err, STATUS_NOT_FOUND, "id",
                                     "no picture is kept with item '%s'", id);
        else
            status = sqlite_error(store, "reading a picture", err);
    }
    sqlite3_reset(statement);
    sqlite3_reset(store->statements[SQL_KEY]);
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}

enum status sqlite_scan(void *state, const char *collection, const char *after, size_t limit,
                        bool with_vector, struct stored_item **out, size_t *n, struct error *err)
{
    struct sqlite_store *store = state;
    struct stored_item *items = alloc_array(limit, sizeof *items);
    if (!items)
        return error_no_memory(err, "items");
    size_t done = 0;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? STATUS_OK : err->status;
    if (!status) {
        sqlite3_stmt *statement = store->statements[SQL_SCAN];
        sqlite3_bind_int64(statement, 1, shelf->key);
        sqlite_bind_string(statement, 2, after ? after : "");
        sqlite3_bind_int64(statement, 3, (sqlite3_int64)limit);
        int rc = SQLITE_DONE;
        while (!status && done < limit && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
            status = sqlite_copy_row(store, shelf, statement, with_vector, &items[done], err);
            done += !status;
        }
        if (!status && rc != SQLITE_DONE && rc != SQLITE_ROW)
            status = sqlite_error(store, "reading items", err);
        sqlite3_reset(statement);
    }
    pthread_mutex_unlock(&store->db_mutex);
    if (status) {
        stored_items_free(items, done);
        return status;
    }
    *out = items;
    *n = done;
    return STATUS_OK;
}
