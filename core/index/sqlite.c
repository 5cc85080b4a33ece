/*
 * sqlite.c: the embedded store's file: its schema and how earlier ones become it, the statements,
 * and SQLite's words into ours. See sqlite_internal.h for the whole.
 *
 * Vectors lie in a table of their own, so that loading them reads nothing else and reading metadata
 * reads none of them; pages are large, so that several vectors fill one with little waste.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"

enum { APPLICATION_ID = 0x766C6D64 /* "vlmd" */, SCHEMA_VERSION = 3 };

#define MEMORY ":memory:" /* SQLite's name for a database without a file */

/* Keys are AUTOINCREMENT: never used again (invariant 2). */
#define SCHEMA_ITEMS                                                                               \
    "CREATE TABLE items(key INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL,"       \
    "  id TEXT NOT NULL, metadata TEXT NOT NULL, sum INTEGER, UNIQUE(collection, id));"            \
    "CREATE TABLE vectors(key INTEGER PRIMARY KEY, collection INTEGER NOT NULL,"                   \
    "  vector BLOB NOT NULL, sum INTEGER);"

static const char schema[] =
    "CREATE TABLE collections(key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    "  space TEXT NOT NULL, model TEXT NOT NULL, dim INTEGER NOT NULL, metric INTEGER NOT NULL,"
    "  created INTEGER NOT NULL, precision INTEGER NOT NULL DEFAULT 0,"
    "  pictures INTEGER NOT NULL DEFAULT 1);" SCHEMA_ITEMS
    "CREATE TABLE pictures(key INTEGER PRIMARY KEY, bytes BLOB NOT NULL, sum INTEGER);";

/* Format 1 had the vectors among the items, and neither precision nor pictures. */
static const char from_1[] =
    "ALTER TABLE collections ADD COLUMN precision INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE collections ADD COLUMN pictures INTEGER NOT NULL DEFAULT 1;"
    "ALTER TABLE items RENAME TO items_1;" SCHEMA_ITEMS
    "INSERT INTO items(key, collection, id, metadata, sum)"
    "  SELECT key, collection, id, metadata, checksum('items', collection, id, metadata)"
    "  FROM items_1 ORDER BY key;"
    "INSERT INTO vectors(key, collection, vector, sum)"
    "  SELECT key, collection, vector, checksum('vectors', key, collection, vector)"
    "  FROM items_1 ORDER BY key;"
    "DROP TABLE items_1;"
    "ALTER TABLE pictures ADD COLUMN sum INTEGER;";

/* Format 2 had no checksums. Pictures, which may be many gigabytes, go on without. */
static const char from_2[] =
    "ALTER TABLE items ADD COLUMN sum INTEGER;"
    "ALTER TABLE vectors ADD COLUMN sum INTEGER;"
    "ALTER TABLE pictures ADD COLUMN sum INTEGER;"
    "UPDATE items SET sum = checksum('items', collection, id, metadata);"
    "UPDATE vectors SET sum = checksum('vectors', key, collection, vector);";

static const char *const statement_sql[] = {
#define STATEMENT_SQL(id, sql) sql,
    SQLITE_STATEMENTS(STATEMENT_SQL)
#undef STATEMENT_SQL
};

/* ---- running statements ------------------------------------------------------------------------
 */

enum status sqlite_error(struct sqlite_store *store, const char *doing, struct error *err)
{
    int code = sqlite3_errcode(store->db);
    if (sqlite3_extended_errcode(store->db) == SQLITE_IOERR_WRITE)
        return error_set(err, STATUS_NO_SPACE,
                         "the disk that holds the collections takes no more: a quota or a bound on "
                         "the file's size is reached, or it cannot be written (%s)",
                         doing);
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
    return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK
               ? STATUS_OK
               : sqlite_error(store, sql, err);
}

enum status sqlite_run(struct sqlite_store *store, enum sqlite_statement id, struct error *err)
{
    sqlite3_stmt *statement = store->statements[id];
    int rc;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
        ;
    enum status status =
        rc == SQLITE_DONE ? STATUS_OK : sqlite_error(store, statement_sql[id], err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

enum status sqlite_run_with_key(struct sqlite_store *store, enum sqlite_statement id, int64_t key,
                                struct error *err)
{
    sqlite3_bind_int64(store->statements[id], 1, key);
    return sqlite_run(store, id, err);
}

void sqlite_bind_string(sqlite3_stmt *statement, int i, const char *text)
{
    sqlite3_bind_text(statement, i, text, -1, SQLITE_STATIC);
}

char *sqlite_column_copy(sqlite3_stmt *statement, int i)
{
    const char *text = (const char *)sqlite3_column_text(statement, i);
    return strdup(text ? text : "");
}

enum status sqlite_end(struct sqlite_store *store, enum status status, struct error *err)
{
    if (!status)
        status = sqlite_run(store, SQL_COMMIT, err);
    if (status && !sqlite3_get_autocommit(store->db)) {
        struct error ignored;
        sqlite_run(store, SQL_ROLLBACK, &ignored);
    }
    return status;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static enum status pragma_number(struct sqlite_store *store, const char *pragma, long long *out,
                                 struct error *err)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->db, pragma, -1, &statement, NULL) != SQLITE_OK)
        return sqlite_error(store, pragma, err);
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? STATUS_OK : sqlite_error(store, pragma, err);
}

enum status sqlite_file_bytes(struct sqlite_store *store, size_t *out, struct error *err)
{
    long long pages = 0, page_bytes = 0;
    if (pragma_number(store, "PRAGMA page_count", &pages, err) ||
        pragma_number(store, "PRAGMA page_size", &page_bytes, err))
        return err->status;
    *out = (size_t)pages * (size_t)page_bytes;
    return STATUS_OK;
}

/* Runs sql in one transaction that makes the file one of ours in the present format. */
static enum status change_format(struct sqlite_store *store, const char *sql, struct error *err)
{
    char pragmas[128];
    snprintf(pragmas, sizeof pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d",
             APPLICATION_ID, SCHEMA_VERSION);
    enum status status = sqlite_run(store, SQL_BEGIN, err);
    if (status)
        return status;
    status = execute(store, sql, err);
    if (!status)
        status = execute(store, pragmas, err);
    return sqlite_end(store, status, err);
}

/* A new file gets the schema, one of an earlier format is brought up to it; another program's or a
 * later version's is refused. */
static enum status open_schema(struct sqlite_store *store, const char *path, struct error *err)
{
    long long application = 0, version = 0, tables = 0;
    if (pragma_number(store, "PRAGMA application_id", &application, err) ||
        pragma_number(store, "PRAGMA user_version", &version, err) ||
        pragma_number(store, "SELECT count(*) FROM sqlite_schema", &tables, err))
        return err->status;
    if (tables == 0 && application == 0)
        return change_format(store, schema, err);
    if (application != APPLICATION_ID)
        return error_set_param(err, STATUS_BAD_CONFIG, "store",
                               "%s is another program's database; nothing was changed", path);
    if (version == 1)
        return change_format(store, from_1, err);
    if (version == 2)
        return change_format(store, from_2, err);
    if (version != SCHEMA_VERSION)
        return error_set_param(err, STATUS_BAD_CONFIG, "store",
                               "%s has format %lld; this version reads formats 1 to %d", path,
                               version, SCHEMA_VERSION);
    return STATUS_OK;
}

static void sqlite_close(void *state)
{
    struct sqlite_store *store = state;
    sqlite_graphs_stop(store);
    for (size_t i = 0; i < N_SQLITE_STATEMENTS; i++)
        sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db);
    sqlite_release_shelves(store);
    free(store->path);
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

/* From `first` on, up to but not including `end`. */
static enum status prepare_statements(struct sqlite_store *store, size_t first, size_t end,
                                      struct error *err)
{
    for (size_t i = first; i < end; i++)
        if (sqlite3_prepare_v3(store->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &store->statements[i], NULL) != SQLITE_OK)
            return sqlite_error(store, statement_sql[i], err);
    return STATUS_OK;
}

static void *open_database(const char *path, const struct store_options *options, struct error *err)
{
    struct sqlite_store *store = calloc(1, sizeof *store);
    if (!store) {
        error_no_memory(err, "the store");
        return NULL;
    }
    store->pool = options->pool;
    store->graph_from = options->graph_from;
    store->path = strcmp(path, MEMORY) ? strdup(path) : NULL; /* without: no file for graphs */
    sqlite_init_lock(&store->lock);
    pthread_mutex_init(&store->db_mutex, NULL);
    if (sqlite3_open_v2(path, &store->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        error_set_param(err, STATUS_BAD_CONFIG, "store", "cannot open %s: %s", path,
                        store->db ? sqlite3_errmsg(store->db) : "out of memory");
        goto fail;
    }
    if (!sqlite_add_sums(store->db)) {
        error_no_memory(err, "the store");
        goto fail;
    }
    sqlite3_busy_timeout(store->db, 1000);
    /* The exclusive lock is taken by the first write, so make one. The page size is that of new
     * files; the cache (in KiB) should hold the index of ids of a large collection. */
    if (execute(store, "PRAGMA locking_mode = EXCLUSIVE", err) ||
        execute(store, "PRAGMA page_size = 16384", err) ||
        execute(store, "PRAGMA cache_size = -32768", err) ||
        execute(store, "PRAGMA journal_mode = WAL", err) ||
        execute(store, "PRAGMA synchronous = FULL", err) ||
        execute(store, "BEGIN EXCLUSIVE; COMMIT", err) ||
        prepare_statements(store, SQL_BEGIN, SQL_ROLLBACK + 1, err) ||
        open_schema(store, path, err)) {
        error_prefix(err, "%s", path);
        goto fail;
    }
    if (prepare_statements(store, SQL_ROLLBACK + 1, N_SQLITE_STATEMENTS, err) ||
        sqlite_load(store, err) || sqlite_graphs_start(store, err)) {
        error_prefix(err, "%s", path);
        goto fail;
    }
    return store;
fail:
    sqlite_close(store);
    return NULL;
}

static void *sqlite_open(const char *rest, const struct store_options *options, struct error *err)
{
    if (!*rest) {
        error_set_param(err, STATUS_BAD_CONFIG, "store",
                        "store: sqlite: needs a path after the ':'");
        return NULL;
    }
    make_directories(rest);
    return open_database(rest, options, err);
}

static void *memory_open(const char *rest, const struct store_options *options, struct error *err)
{
    (void)rest;
    return open_database(MEMORY, options, err);
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
