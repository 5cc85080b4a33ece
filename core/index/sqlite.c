/*
 * sqlite.c: the embedded store: SQLite keeps, memory searches.
 *
 * Invariants:
 *  1. What is acknowledged is committed: WAL with synchronous=FULL, one transaction per call.
 *  2. The matrices hold exactly the committed rows: memory is reserved before a commit and changed
 * after it, both under the exclusive lock, so that no search sees one without the other.
 *  3. One process owns the file (locking_mode=EXCLUSIVE), or its matrices would go stale.
 *
 * Locks: `lock` (shared: searches and reads; exclusive: changes), then `db_mutex` (the one
 * connection and its prepared statements). Texts are only ever bound as parameters.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/size.h"
#include "core/index/matrix.h"
#include "core/index/store_internal.h"

enum { APPLICATION_ID = 0x766C6D64 /* "vlmd" */, SCHEMA_VERSION = 1 };

/* clang-format off */
static const char schema[] =
    "CREATE TABLE collections(key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, space TEXT NOT NULL,"
    "  model TEXT NOT NULL, dim INTEGER NOT NULL, metric INTEGER NOT NULL, created INTEGER NOT NULL);"
    "CREATE TABLE items(key INTEGER PRIMARY KEY, collection INTEGER NOT NULL, id TEXT NOT NULL,"
    "  vector BLOB NOT NULL, metadata TEXT NOT NULL, UNIQUE(collection, id));"
    "CREATE TABLE pictures(key INTEGER PRIMARY KEY, bytes BLOB NOT NULL);";

#define STATEMENTS(S)                                                                              \
    S(BEGIN,       "BEGIN IMMEDIATE")                                                              \
    S(COMMIT,      "COMMIT")                                                                       \
    S(ROLLBACK,    "ROLLBACK")                                                                     \
    S(COLLECTIONS, "SELECT key, name, space, model, dim, metric, created FROM collections ORDER BY name") \
    S(CREATE,      "INSERT INTO collections(name, space, model, dim, metric, created) VALUES(?1, ?2, ?3, ?4, ?5, ?6)") \
    S(DROP,        "DELETE FROM collections WHERE key = ?1")                                       \
    S(DROP_PICTURES, "DELETE FROM pictures WHERE key IN (SELECT key FROM items WHERE collection = ?1)") \
    S(DROP_ITEMS,  "DELETE FROM items WHERE collection = ?1")                                      \
    S(VECTORS,     "SELECT key, vector FROM items WHERE collection = ?1")                          \
    S(FIND,        "SELECT key, id, metadata FROM items WHERE collection = ?1 AND id = ?2")        \
    S(BY_KEY,      "SELECT key, id, metadata FROM items WHERE key = ?1")                           \
    S(SCAN,        "SELECT key, id, metadata FROM items WHERE collection = ?1 AND id > ?2 ORDER BY id LIMIT ?3") \
    S(PUT,         "INSERT INTO items(collection, id, vector, metadata) VALUES(?1, ?2, ?3, ?4)"    \
                   " ON CONFLICT(collection, id) DO UPDATE SET vector = ?3, metadata = ?4 RETURNING key") \
    S(PUT_PICTURE, "INSERT OR REPLACE INTO pictures(key, bytes) VALUES(?1, ?2)")                   \
    S(PICTURE,     "SELECT bytes FROM pictures WHERE key = ?1")                                    \
    S(REMOVE_PICTURE, "DELETE FROM pictures WHERE key = ?1")                                       \
    S(REMOVE,      "DELETE FROM items WHERE key = ?1")
/* clang-format on */

enum statement {
#define STATEMENT_ENUM(id, sql) SQL_##id,
    STATEMENTS(STATEMENT_ENUM)
#undef STATEMENT_ENUM
        N_STATEMENTS
};
static const char *const statement_sql[] = {
#define STATEMENT_SQL(id, sql) sql,
    STATEMENTS(STATEMENT_SQL)
#undef STATEMENT_SQL
};

struct shelf { /* a collection in memory */
    int64_t key;
    struct collection info; /* count is matrix.n */
    struct matrix matrix;
};

struct sqlite_store {
    pthread_rwlock_t lock;    /* guards shelves; first in the order */
    pthread_mutex_t db_mutex; /* guards db and statements; second */
    sqlite3 *db;
    sqlite3_stmt *statements[N_STATEMENTS];
    struct shelf *shelves; /* [n_shelves], in the order of names */
    size_t n_shelves;
};

/* ---- SQLite's words into ours
 * ------------------------------------------------------------------------- */

static enum status db_error(struct sqlite_store *store, const char *doing, struct error *err)
{
    int code = sqlite3_errcode(store->db);
    switch (code & 0xFF) {
    case SQLITE_FULL:
        return error_set(err, STATUS_NO_SPACE, "the disk that holds the collections is full (%s)",
                         doing);
    case SQLITE_NOMEM:
        return error_no_memory(err, doing);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(err, STATUS_BAD_CONFIG,
                         "the collections are in use by another process (one server owns the file; "
                         "choose another with store=sqlite:PATH)");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return error_set(err, STATUS_IO, "the collections' file is damaged or no database: %s",
                         sqlite3_errmsg(store->db));
    default:
        return error_set(err, STATUS_IO, "the collections' file: %s (%s)",
                         sqlite3_errmsg(store->db), doing);
    }
}

static enum status execute(struct sqlite_store *store, const char *sql, struct error *err)
{
    return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? STATUS_OK
                                                                       : db_error(store, sql, err);
}

/* Runs a statement that gives no rows (or whose rows are not wanted) and resets it. */
static enum status run(struct sqlite_store *store, enum statement id, struct error *err)
{
    sqlite3_stmt *statement = store->statements[id];
    int rc;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
        ;
    enum status status = rc == SQLITE_DONE ? STATUS_OK : db_error(store, statement_sql[id], err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

static enum status run_with_key(struct sqlite_store *store, enum statement id, int64_t key,
                                struct error *err)
{
    sqlite3_bind_int64(store->statements[id], 1, key);
    return run(store, id, err);
}

static void bind_text(sqlite3_stmt *statement, int i, const char *text)
{
    sqlite3_bind_text(statement, i, text, -1, SQLITE_STATIC);
}

/* ---- opening
 * -------------------------------------------------------------------------------------------- */

static enum status pragma_number(struct sqlite_store *store, const char *pragma, long long *out,
                                 struct error *err)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->db, pragma, -1, &statement, NULL) != SQLITE_OK)
        return db_error(store, pragma, err);
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? STATUS_OK : db_error(store, pragma, err);
}

/* A new file gets the schema; another program's or a later version's is refused. */
static enum status open_schema(struct sqlite_store *store, const char *path, struct error *err)
{
    long long application = 0, version = 0, tables = 0;
    char sql[sizeof schema + 160];
    if (pragma_number(store, "PRAGMA application_id", &application, err) ||
        pragma_number(store, "PRAGMA user_version", &version, err) ||
        pragma_number(store, "SELECT count(*) FROM sqlite_schema", &tables, err))
        return err->status;
    if (tables == 0 && application == 0) {
        snprintf(
            sql, sizeof sql,
            "BEGIN IMMEDIATE; PRAGMA application_id = %d; PRAGMA user_version = %d; %s COMMIT;",
            APPLICATION_ID, SCHEMA_VERSION, schema);
        return execute(store, sql, err);
    }
    if (application != APPLICATION_ID)
        return error_set_param(err, STATUS_BAD_CONFIG, "store",
                               "%s is another program's database; nothing was changed", path);
    if (version != SCHEMA_VERSION)
        return error_set_param(err, STATUS_BAD_CONFIG, "store",
                               "%s has format %lld; this version reads format %d", path, version,
                               SCHEMA_VERSION);
    return STATUS_OK;
}

static char *column_copy(sqlite3_stmt *statement, int i)
{
    const char *text = (const char *)sqlite3_column_text(statement, i);
    return strdup(text ? text : "");
}

static enum status load_vectors(struct sqlite_store *store, struct shelf *shelf, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_VECTORS];
    sqlite3_bind_int64(statement, 1, shelf->key);
    enum status status = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!status && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        size_t bytes = (size_t)sqlite3_column_bytes(statement, 1);
        const void *vector = sqlite3_column_blob(statement, 1);
        if (bytes != shelf->info.dim * sizeof(float) || !vector)
            status = error_set(err, STATUS_IO,
                               "collection '%s' holds a vector of %zu bytes instead of %zu",
                               shelf->info.name, bytes, shelf->info.dim * sizeof(float));
        else if (!matrix_reserve(&shelf->matrix, 1))
            status = error_no_memory(err, "a collection's vectors");
        else
            matrix_set(&shelf->matrix, sqlite3_column_int64(statement, 0), vector);
    }
    if (!status && rc != SQLITE_DONE)
        status = db_error(store, "reading vectors", err);
    sqlite3_reset(statement);
    return status;
}

static enum status load_shelves(struct sqlite_store *store, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_COLLECTIONS];
    int rc;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
        struct shelf *shelves =
            realloc_array(store->shelves, store->n_shelves + 1, sizeof *shelves);
        if (!shelves)
            return error_no_memory(err, "collections");
        store->shelves = shelves;
        struct shelf *shelf = &shelves[store->n_shelves++];
        *shelf = (struct shelf){.key = sqlite3_column_int64(statement, 0)};
        shelf->info.name = column_copy(statement, 1);
        shelf->info.space = column_copy(statement, 2);
        shelf->info.model = column_copy(statement, 3);
        shelf->info.dim = (size_t)sqlite3_column_int64(statement, 4);
        shelf->info.metric = (enum metric)sqlite3_column_int(statement, 5);
        shelf->info.created_unix_s = sqlite3_column_int64(statement, 6);
        if (!shelf->info.name || !shelf->info.space || !shelf->info.model)
            return error_no_memory(err, "collections");
        if (shelf->info.dim == 0 || shelf->info.dim > STORE_DIM_MAX)
            return error_set(err, STATUS_IO, "collection '%s' has %zu dimensions", shelf->info.name,
                             shelf->info.dim);
        matrix_init(&shelf->matrix, shelf->info.dim);
    }
    sqlite3_reset(statement);
    if (rc != SQLITE_DONE)
        return db_error(store, "reading collections", err);
    for (size_t i = 0; i < store->n_shelves; i++)
        if (load_vectors(store, &store->shelves[i], err))
            return err->status;
    return STATUS_OK;
}

static void shelf_release(struct shelf *shelf)
{
    collection_release(&shelf->info);
    matrix_release(&shelf->matrix);
}

static void sqlite_close(void *state)
{
    struct sqlite_store *store = state;
    for (size_t i = 0; i < N_STATEMENTS; i++)
        sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db);
    for (size_t i = 0; i < store->n_shelves; i++)
        shelf_release(&store->shelves[i]);
    free(store->shelves);
    pthread_rwlock_destroy(&store->lock);
    pthread_mutex_destroy(&store->db_mutex);
    free(store);
}

/* Makes the directories above path; faults show when the file is opened. */
static void make_directories(const char *path)
{
    char prefix[PATH_MAX];
    size_t size = strlen(path);
    if (size >= sizeof prefix)
        return;
    memcpy(prefix, path, size + 1);
    for (char *slash = strchr(prefix + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(prefix, 0700);
        *slash = '/';
    }
}

static void *open_database(const char *path, struct error *err)
{
    struct sqlite_store *store = calloc(1, sizeof *store);
    if (!store) {
        error_no_memory(err, "the store");
        return NULL;
    }
    pthread_rwlock_init(&store->lock, NULL);
    pthread_mutex_init(&store->db_mutex, NULL);
    if (sqlite3_open_v2(path, &store->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        error_set_param(err, STATUS_BAD_CONFIG, "store", "cannot open %s: %s", path,
                        store->db ? sqlite3_errmsg(store->db) : "out of memory");
        goto fail;
    }
    sqlite3_busy_timeout(store->db, 1000);
    /* The exclusive lock is taken by the first write, so make one. */
    if (execute(store, "PRAGMA locking_mode = EXCLUSIVE", err) ||
        execute(store, "PRAGMA journal_mode = WAL", err) ||
        execute(store, "PRAGMA synchronous = FULL", err) ||
        execute(store, "BEGIN EXCLUSIVE; COMMIT", err) || open_schema(store, path, err)) {
        error_prefix(err, "%s", path);
        goto fail;
    }
    for (size_t i = 0; i < N_STATEMENTS; i++)
        if (sqlite3_prepare_v3(store->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &store->statements[i], NULL) != SQLITE_OK) {
            db_error(store, statement_sql[i], err);
            goto fail;
        }
    if (load_shelves(store, err))
        goto fail;
    return store;
fail:
    sqlite_close(store);
    return NULL;
}

static void *sqlite_open(const char *rest, struct error *err)
{
    if (!*rest) {
        error_set_param(err, STATUS_BAD_CONFIG, "store",
                        "store: sqlite: needs a path after the ':'");
        return NULL;
    }
    make_directories(rest);
    return open_database(rest, err);
}

static void *memory_open(const char *rest, struct error *err)
{
    (void)rest;
    return open_database(":memory:", err);
}

/* ---- collections
 * ---------------------------------------------------------------------------------------- */

/* A lock is held. */
static struct shelf *find_shelf(struct sqlite_store *store, const char *name, struct error *err)
{
    for (size_t i = 0; i < store->n_shelves; i++)
        if (!strcmp(store->shelves[i].info.name, name))
            return &store->shelves[i];
    error_set_param(err, STATUS_NOT_FOUND, "collection", "there is no collection '%s'", name);
    return NULL;
}

static enum status copy_info(const struct shelf *shelf, struct collection *out, struct error *err)
{
    struct collection copy = shelf->info;
    copy.count = shelf->matrix.n;
    copy.name = strdup(shelf->info.name);
    copy.space = strdup(shelf->info.space);
    copy.model = strdup(shelf->info.model);
    if (!copy.name || !copy.space || !copy.model) {
        collection_release(&copy);
        return error_no_memory(err, "a collection's settings");
    }
    *out = copy;
    return STATUS_OK;
}

static enum status sqlite_get(void *state, const char *name, struct collection *out,
                              struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_rdlock(&store->lock);
    struct shelf *shelf = find_shelf(store, name, err);
    enum status status = shelf ? copy_info(shelf, out, err) : err->status;
    pthread_rwlock_unlock(&store->lock);
    return status;
}

static enum status sqlite_list(void *state, struct collection **out, size_t *n, struct error *err)
{
    struct sqlite_store *store = state;
    enum status status = STATUS_OK;
    pthread_rwlock_rdlock(&store->lock);
    struct collection *list = alloc_array(store->n_shelves, sizeof *list);
    size_t done = 0;
    if (!list)
        status = error_no_memory(err, "the list of collections");
    while (!status && done < store->n_shelves) {
        status = copy_info(&store->shelves[done], &list[done], err);
        done += !status;
    }
    pthread_rwlock_unlock(&store->lock);
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

/* Exclusive lock held. The new shelf takes its place in the order of names. */
static enum status add_shelf(struct sqlite_store *store, const struct collection *settings,
                             struct error *err)
{
    struct shelf fresh = {.info = *settings};
    fresh.info.created_unix_s = (int64_t)time(NULL);
    fresh.info.count = 0;
    struct shelf copy = fresh;
    struct shelf *shelves = realloc_array(store->shelves, store->n_shelves + 1, sizeof *shelves);
    if (!shelves)
        return error_no_memory(err, "a collection");
    store->shelves = shelves;
    if (copy_info(&fresh, &copy.info, err))
        return err->status;
    sqlite3_stmt *statement = store->statements[SQL_CREATE];
    bind_text(statement, 1, copy.info.name);
    bind_text(statement, 2, copy.info.space);
    bind_text(statement, 3, copy.info.model);
    sqlite3_bind_int64(statement, 4, (sqlite3_int64)copy.info.dim);
    sqlite3_bind_int(statement, 5, copy.info.metric);
    sqlite3_bind_int64(statement, 6, copy.info.created_unix_s);
    if (run(store, SQL_CREATE, err)) {
        collection_release(&copy.info);
        return err->status;
    }
    copy.key = sqlite3_last_insert_rowid(store->db);
    matrix_init(&copy.matrix, copy.info.dim);
    size_t place = 0;
    while (place < store->n_shelves && strcmp(shelves[place].info.name, copy.info.name) < 0)
        place++;
    memmove(&shelves[place + 1], &shelves[place], (store->n_shelves - place) * sizeof *shelves);
    shelves[place] = copy;
    store->n_shelves++;
    return STATUS_OK;
}

static enum status sqlite_create(void *state, const struct collection *settings, bool *created,
                                 struct error *err)
{
    struct sqlite_store *store = state;
    struct error absent;
    pthread_rwlock_wrlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, settings->name, &absent);
    enum status status = STATUS_OK;
    if (!shelf) {
        status = add_shelf(store, settings, err);
        if (!status)
            *created = true;
    } else if (strcmp(shelf->info.space, settings->space) || shelf->info.dim != settings->dim ||
               shelf->info.metric != settings->metric) {
        status = error_set_param(err, STATUS_CONFLICT, "collection",
                                 "collection '%s' exists with other settings: space %s, %zu "
                                 "dimensions, metric %s",
                                 settings->name, shelf->info.space, shelf->info.dim,
                                 shelf->info.metric == METRIC_COSINE ? "cosine" : "dot");
    } else {
        *created = false;
    }
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    return status;
}

/* Ends a transaction: commits where status is OK, else (or where the commit fails) rolls back. */
static enum status end_transaction(struct sqlite_store *store, enum status status,
                                   struct error *err)
{
    if (!status)
        status = run(store, SQL_COMMIT, err);
    if (status && !sqlite3_get_autocommit(store->db)) {
        struct error ignored;
        run(store, SQL_ROLLBACK, &ignored);
    }
    return status;
}

static enum status sqlite_drop(void *state, const char *name, struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_wrlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, name, err);
    enum status status = shelf ? run(store, SQL_BEGIN, err) : err->status;
    if (!status) {
        status = run_with_key(store, SQL_DROP_PICTURES, shelf->key, err);
        if (!status)
            status = run_with_key(store, SQL_DROP_ITEMS, shelf->key, err);
        if (!status)
            status = run_with_key(store, SQL_DROP, shelf->key, err);
        status = end_transaction(store, status, err);
    }
    if (!status) {
        size_t place = (size_t)(shelf - store->shelves);
        shelf_release(shelf);
        store->n_shelves--;
        memmove(shelf, shelf + 1, (store->n_shelves - place) * sizeof *shelf);
    }
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    return status;
}

/* ---- items
 * ------------------------------------------------------------------------------------------------
 */

/* Inside a transaction: writes one item; *key is its row. */
static enum status put_one(struct sqlite_store *store, const struct shelf *shelf,
                           const struct item *item, int64_t *key, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_PUT];
    sqlite3_bind_int64(statement, 1, shelf->key);
    bind_text(statement, 2, item->id);
    sqlite3_bind_blob64(statement, 3, item->vector, shelf->info.dim * sizeof(float), SQLITE_STATIC);
    bind_text(statement, 4, item->metadata);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *key = sqlite3_column_int64(statement, 0);
    if (run(store, SQL_PUT, err)) /* to its end */
        return err->status;
    if (!item->blob)
        return run_with_key(store, SQL_REMOVE_PICTURE, *key, err);
    sqlite3_bind_blob64(store->statements[SQL_PUT_PICTURE], 2, item->blob, item->blob_bytes,
                        SQLITE_STATIC);
    return run_with_key(store, SQL_PUT_PICTURE, *key, err);
}

static enum status sqlite_put(void *state, const char *collection, const struct item *items,
                              size_t n, size_t *added, size_t *updated, struct error *err)
{
    struct sqlite_store *store = state;
    int64_t *keys = alloc_array(n, sizeof *keys);
    if (!keys)
        return error_no_memory(err, "items");
    pthread_rwlock_wrlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, collection, err);
    enum status status = shelf ? STATUS_OK : err->status;
    if (!status && !matrix_reserve(&shelf->matrix, n))
        status = error_no_memory(err, "a collection's vectors");
    if (!status)
        status = run(store, SQL_BEGIN, err);
    if (!status) {
        for (size_t i = 0; i < n && !status; i++)
            status = put_one(store, shelf, &items[i], &keys[i], err);
        status = end_transaction(store, status, err);
    }
    if (!status) {
        size_t before = shelf->matrix.n;
        for (size_t i = 0; i < n; i++)
            matrix_set(&shelf->matrix, keys[i], items[i].vector);
        *added = shelf->matrix.n - before;
        *updated = n - *added;
    }
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    free(keys);
    return status;
}

/* Copies the row that a statement stands on: key, id, metadata. */
static enum status copy_row(const struct shelf *shelf, sqlite3_stmt *statement, bool with_vector,
                            struct stored_item *out, struct error *err)
{
    struct stored_item item = {.id = column_copy(statement, 1),
                               .metadata = column_copy(statement, 2)};
    const float *row = matrix_row(&shelf->matrix, sqlite3_column_int64(statement, 0));
    if (with_vector && row) {
        item.vector = alloc_array(shelf->info.dim, sizeof *item.vector);
        if (item.vector)
            memcpy(item.vector, row, shelf->info.dim * sizeof *row);
    }
    if (!item.id || !item.metadata || (with_vector && row && !item.vector)) {
        free(item.id);
        free(item.metadata);
        free(item.vector);
        return error_no_memory(err, "an item");
    }
    *out = item;
    return STATUS_OK;
}

/* Stands the FIND statement on the item; the caller resets it. db_mutex held. */
static enum status find_item(struct sqlite_store *store, const struct shelf *shelf, const char *id,
                             struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_FIND];
    sqlite3_bind_int64(statement, 1, shelf->key);
    bind_text(statement, 2, id);
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        return STATUS_OK;
    if (rc != SQLITE_DONE)
        return db_error(store, "reading an item", err);
    return error_set_param(err, STATUS_NOT_FOUND, "id", "collection '%s' has no item '%s'",
                           shelf->info.name, id);
}

static enum status sqlite_item(void *state, const char *collection, const char *id,
                               bool with_vector, struct stored_item **out, struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_rdlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, shelf, id, err) : err->status;
    if (!status) {
        struct stored_item *item = malloc(sizeof *item);
        status = item ? copy_row(shelf, store->statements[SQL_FIND], with_vector, item, err)
                      : error_no_memory(err, "an item");
        if (status)
            free(item);
        else
            *out = item;
    }
    sqlite3_reset(store->statements[SQL_FIND]);
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    return status;
}

static enum status sqlite_blob(void *state, const char *collection, const char *id, void **out,
                               size_t *size, struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_rdlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, shelf, id, err) : err->status;
    sqlite3_stmt *statement = store->statements[SQL_PICTURE];
    if (!status) {
        sqlite3_bind_int64(statement, 1, sqlite3_column_int64(store->statements[SQL_FIND], 0));
        int rc = sqlite3_step(statement);
        if (rc == SQLITE_ROW) {
            const void *bytes = sqlite3_column_blob(statement, 0);
            size_t n = (size_t)sqlite3_column_bytes(statement, 0);
            void *copy = malloc(n ? n : 1);
            if (copy) {
                if (n)
                    memcpy(copy, bytes, n);
                *out = copy;
                *size = n;
            } else {
                status = error_no_memory(err, "a picture");
            }
        } else {
            status = rc == SQLITE_DONE
                         ? error_set_param(err, STATUS_NOT_FOUND, "id",
                                           "item '%s' was added without a picture", id)
                         : db_error(store, "reading a picture", err);
        }
    }
    sqlite3_reset(statement);
    sqlite3_reset(store->statements[SQL_FIND]);
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    return status;
}

static enum status sqlite_remove(void *state, const char *collection, const char *id,
                                 struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_wrlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, collection, err);
    enum status status = shelf ? find_item(store, shelf, id, err) : err->status;
    int64_t key = status ? 0 : sqlite3_column_int64(store->statements[SQL_FIND], 0);
    sqlite3_reset(store->statements[SQL_FIND]);
    if (!status)
        status = run(store, SQL_BEGIN, err);
    if (!status) {
        status = run_with_key(store, SQL_REMOVE_PICTURE, key, err);
        if (!status)
            status = run_with_key(store, SQL_REMOVE, key, err);
        status = end_transaction(store, status, err);
        if (!status)
            matrix_remove(&shelf->matrix, key);
    }
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
    return status;
}

static enum status sqlite_scan(void *state, const char *collection, const char *after, size_t limit,
                               bool with_vector, struct stored_item **out, size_t *n,
                               struct error *err)
{
    struct sqlite_store *store = state;
    struct stored_item *items = alloc_array(limit, sizeof *items);
    if (!items)
        return error_no_memory(err, "items");
    size_t done = 0;
    pthread_rwlock_rdlock(&store->lock);
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = find_shelf(store, collection, err);
    enum status status = shelf ? STATUS_OK : err->status;
    if (!status) {
        sqlite3_stmt *statement = store->statements[SQL_SCAN];
        sqlite3_bind_int64(statement, 1, shelf->key);
        bind_text(statement, 2, after ? after : "");
        sqlite3_bind_int64(statement, 3, (sqlite3_int64)limit);
        int rc = SQLITE_DONE;
        while (!status && done < limit && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
            status = copy_row(shelf, statement, with_vector, &items[done], err);
            done += !status;
        }
        if (!status && rc != SQLITE_DONE && rc != SQLITE_ROW)
            status = db_error(store, "reading items", err);
        sqlite3_reset(statement);
    }
    pthread_mutex_unlock(&store->db_mutex);
    pthread_rwlock_unlock(&store->lock);
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

/* Reads the item of a hit; *fits = false where the filter does not want it. db_mutex held. */
static enum status read_hit(struct sqlite_store *store, const struct shelf *shelf, struct hit hit,
                            const json_t *filter, struct stored_item *out, bool *fits,
                            struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_BY_KEY];
    sqlite3_bind_int64(statement, 1, shelf->matrix.keys[hit.row]);
    enum status status = STATUS_OK;
    *fits = true;
    if (sqlite3_step(statement) != SQLITE_ROW)
        status = db_error(store, "reading a search result", err);
    if (!status && filter) {
        json_t *metadata = json_loads((const char *)sqlite3_column_text(statement, 2), 0, NULL);
        *fits = filter_matches(filter, metadata);
        json_decref(metadata);
    }
    if (!status && *fits)
        status = copy_row(shelf, statement, false, out, err);
    if (!status && *fits)
        out->score = hit.score;
    sqlite3_reset(statement);
    return status;
}

static enum status sqlite_search(void *state, const char *collection, const struct search *search,
                                 const json_t *filter, struct stored_item **out, size_t *n,
                                 struct error *err)
{
    struct sqlite_store *store = state;
    enum status status = STATUS_OK;
    pthread_rwlock_rdlock(&store->lock);
    struct shelf *shelf = find_shelf(store, collection, err);
    size_t total = shelf ? shelf->matrix.n : 0, done = 0, seen = 0;
    size_t wanted = search->top_k < total ? search->top_k : total;
    struct hit *hits = alloc_array(total, sizeof *hits);
    struct stored_item *items = alloc_array(wanted, sizeof *items);
    if (!shelf)
        status = err->status;
    else if (!hits || !items)
        status = error_no_memory(err, "a search");
    /* With a filter the order of further hits may be needed: ask for more, twice as many each time.
     */
    size_t ordered = 0, ask = wanted;
    while (!status && done < wanted && seen < total) {
        if (seen == ordered) {
            ordered = matrix_search(&shelf->matrix, search->vector, ask, hits);
            ask = ask > total / 4 ? total : ask * 4;
        }
        pthread_mutex_lock(&store->db_mutex);
        for (; !status && done < wanted && seen < ordered; seen++) {
            bool fits;
            if (hits[seen].score < search->min_score) {
                seen = total;
                break;
            }
            status = read_hit(store, shelf, hits[seen], filter, &items[done], &fits, err);
            done += !status && fits;
        }
        pthread_mutex_unlock(&store->db_mutex);
    }
    pthread_rwlock_unlock(&store->lock);
    free(hits);
    if (status) {
        stored_items_free(items, done);
        return status;
    }
    *out = items;
    *n = done;
    return STATUS_OK;
}

#define SQLITE_DRIVER(name, opener)                                                                \
    {                                                                                              \
        .scheme = name, .open = opener, .close = sqlite_close, .create = sqlite_create,            \
        .get = sqlite_get, .drop = sqlite_drop, .list = sqlite_list, .put = sqlite_put,            \
        .item = sqlite_item, .blob = sqlite_blob, .remove = sqlite_remove, .scan = sqlite_scan,    \
        .search = sqlite_search,                                                                   \
    }

const struct store_driver store_driver_sqlite = SQLITE_DRIVER("sqlite", sqlite_open);
const struct store_driver store_driver_memory = SQLITE_DRIVER("memory", memory_open);
