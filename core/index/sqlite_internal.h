/*
 * sqlite_internal.h: what the files of the embedded store share: SQLite keeps, memory searches.
 *
 *   sqlite.c              the file: schema, its migration, statements, SQLite's words into ours
 *   sqlite_collections.c  collections, and their vectors into memory when the store opens
 *   sqlite_items.c        putting, reading and removing items
 *   sqlite_search.c       search
 *   sqlite_sum.c          checksums of rows
 *   sqlite_graph.c        the graphs of large collections, built in the background
 *
 * Invariants:
 *  1. What is acknowledged is committed: WAL with synchronous=FULL, one transaction per call.
 *  2. A row's key is never used again and its vector never changes: an item that is put again gets
 *     a new key. So a key in memory (or in a file beside the database) is either gone from the
 *     database or right.
 *  3. Memory follows the database: a change is published to the matrix after its commit and before
 *     db_mutex is given back, so that who has read a row from the database finds it by searching.
 *     Memory for it is reserved before the commit, so that publishing cannot fail.
 *  4. Every row that holds a client's data has a checksum of it (`sum`; NULL: a picture from before
 *     format 3). Statements that read data compare it, and fail as those on a damaged page do;
 *     those that replace or remove a row do not look, so that a damaged item can be put again.
 *  5. One process owns the file (locking_mode=EXCLUSIVE), or its matrices would go stale.
 *
 * Locks, in this order:
 *   db_mutex     the connection and its statements; held by a change from its first statement until
 *                it is published
 *   lock         the list of shelves: exclusive to add or drop one, shared by all others
 *   shelf->lock  a shelf's matrix: exclusive to publish, shared to search
 * A search reads the matrix first, gives both back, and then takes db_mutex to read its hits.
 */
#ifndef VLMD_CORE_INDEX_SQLITE_INTERNAL_H
#define VLMD_CORE_INDEX_SQLITE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>

#include "core/index/graph.h"
#include "core/index/matrix.h"
#include "core/index/store_internal.h"

/* clang-format off */
#define CHECKED_ITEM ", checked(sum, 'items', collection, id, metadata)"
#define SQLITE_STATEMENTS(S)                                                                       \
    S(BEGIN,       "BEGIN IMMEDIATE")                                                              \
    S(COMMIT,      "COMMIT")                                                                       \
    S(ROLLBACK,    "ROLLBACK")                                                                     \
    S(COLLECTIONS, "SELECT key, name, space, model, dim, metric, precision, pictures, created"     \
                   " FROM collections ORDER BY name")                                              \
    S(CREATE,      "INSERT INTO collections(name, space, model, dim, metric, precision, pictures, created)" \
                   " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                                      \
    S(DROP,        "DELETE FROM collections WHERE key = ?1")                                       \
    S(DROP_PICTURES, "DELETE FROM pictures WHERE key IN (SELECT key FROM items WHERE collection = ?1)") \
    S(DROP_VECTORS, "DELETE FROM vectors WHERE key IN (SELECT key FROM items WHERE collection = ?1)") \
    S(DROP_ITEMS,  "DELETE FROM items WHERE collection = ?1")                                      \
    S(COUNT,       "SELECT count(*) FROM items WHERE collection = ?1")                             \
    S(VECTORS,     "SELECT key, vector, collection, sum FROM vectors ORDER BY key")                \
    S(KEY,         "SELECT key FROM items WHERE collection = ?1 AND id = ?2")                      \
    S(FIND,        "SELECT key, id, metadata" CHECKED_ITEM " FROM items WHERE collection = ?1 AND id = ?2") \
    S(BY_KEY,      "SELECT key, id, metadata" CHECKED_ITEM " FROM items WHERE key = ?1")           \
    S(SCAN,        "SELECT key, id, metadata" CHECKED_ITEM " FROM items WHERE collection = ?1 AND id > ?2" \
                   " ORDER BY id LIMIT ?3")                                                        \
    /* + keeps it from the index: in the order of keys */                                          \
    S(METADATA,    "SELECT key, metadata" CHECKED_ITEM " FROM items WHERE key > ?1 AND +collection = ?2" \
                   " ORDER BY key LIMIT ?3")                                                       \
    S(VECTOR,      "SELECT key, vector, checked(sum, 'vectors', key, collection, vector)"          \
                   " FROM vectors WHERE key = ?1")                                                 \
    S(PICTURE,     "SELECT bytes, checked(sum, 'pictures', key, bytes) FROM pictures WHERE key = ?1") \
    S(PUT,         "INSERT INTO items(collection, id, metadata, sum)"                              \
                   " VALUES(?1, ?2, ?3, checksum('items', ?1, ?2, ?3))")                           \
    S(PUT_VECTOR,  "INSERT INTO vectors(key, collection, vector, sum)"                             \
                   " VALUES(?1, ?2, ?3, checksum('vectors', ?1, ?2, ?3))")                         \
    S(PUT_PICTURE, "INSERT INTO pictures(key, bytes, sum) VALUES(?1, ?2, checksum('pictures', ?1, ?2))") \
    S(REMOVE,      "DELETE FROM items WHERE key = ?1")                                             \
    S(REMOVE_VECTOR, "DELETE FROM vectors WHERE key = ?1")                                         \
    S(REMOVE_PICTURE, "DELETE FROM pictures WHERE key = ?1")
/* clang-format on */

enum sqlite_statement {
#define STATEMENT_ENUM(id, sql) SQL_##id,
    SQLITE_STATEMENTS(STATEMENT_ENUM)
#undef STATEMENT_ENUM
        N_SQLITE_STATEMENTS
};

struct shelf { /* a collection in memory */
    int64_t key;
    struct collection info; /* never changes; count is the matrix's */
    pthread_rwlock_t lock;
    struct matrix matrix;
    struct graph
        *graph; /* over its rows; NULL = none. Set under the exclusive lock, by the builder */
    /* The builder's: */
    uint32_t n_saved; /* rows that the graph's file covers */
    bool has_holes;   /* rows of the file are gone: the graph has to be repaired around them */
    /* While the store opens: */
    size_t n_fresh_chunks; /* of the matrix, nothing written to them yet */
    struct graph_file *file;
    size_t n_places; /* the file's rows */
    uint64_t *seen;  /* a bit for each: the database has it */
};

struct sqlite_store {
    struct pool *pool; /* borrowed; NULL = none */
    char *path;        /* NULL: in memory */
    size_t graph_from; /* 0 = no graphs */
    struct graphs *graphs;
    pthread_mutex_t db_mutex;
    sqlite3 *db;
    sqlite3_stmt *statements[N_SQLITE_STATEMENTS];
    pthread_rwlock_t lock;
    struct shelf **shelves; /* [n_shelves], in the order of names */
    size_t n_shelves;
};

/* sqlite_sum.c: the SQL functions checksum(…) and checked(sum, …). */
bool sqlite_add_sums(sqlite3 *db);
/* The same for the row that SQL_VECTORS stands on. */
enum status sqlite_check_vector(sqlite3_stmt *row, struct error *err);

/* sqlite.c; db_mutex held. */
enum status sqlite_error(struct sqlite_store *store, const char *doing, struct error *err);
enum status sqlite_file_bytes(struct sqlite_store *store, size_t *out, struct error *err);
/* Runs a statement whose rows are not wanted, and resets it. */
enum status sqlite_run(struct sqlite_store *store, enum sqlite_statement id, struct error *err);
enum status sqlite_run_with_key(struct sqlite_store *store, enum sqlite_statement id, int64_t key,
                                struct error *err);
/* Ends a transaction: commits where status is OK, else (or where the commit fails) rolls back. */
enum status sqlite_end(struct sqlite_store *store, enum status status, struct error *err);
void sqlite_bind_string(sqlite3_stmt *statement, int i, const char *text);
char *sqlite_column_copy(sqlite3_stmt *statement, int i);

/* sqlite_collections.c */
void sqlite_init_lock(pthread_rwlock_t *lock); /* writers first */
enum status sqlite_load(struct sqlite_store *store, struct error *err);
void sqlite_release_shelves(struct sqlite_store *store);
/* db_mutex or the store's lock held. NULL: STATUS_NOT_FOUND. */
struct shelf *sqlite_find_shelf(struct sqlite_store *store, const char *name, struct error *err);
enum status sqlite_create(void *state, const struct collection *settings, bool *created,
                          struct error *err);
enum status sqlite_get(void *state, const char *name, struct collection *out, struct error *err);
enum status sqlite_drop(void *state, const char *name, struct error *err);
enum status sqlite_list(void *state, struct collection **out, size_t *n, struct error *err);

/* sqlite_items.c */
enum status sqlite_put(void *state, const char *collection, size_t dim, const struct item *items,
                       size_t n, size_t *added, size_t *updated, struct error *err);
enum status sqlite_item(void *state, const char *collection, const char *id, bool with_vector,
                        struct stored_item **out, struct error *err);
enum status sqlite_blob(void *state, const char *collection, const char *id, void **out,
                        size_t *size, struct error *err);
enum status sqlite_remove(void *state, const char *collection, const char *id, struct error *err);
enum status sqlite_scan(void *state, const char *collection, const char *after, size_t limit,
                        bool with_vector, struct stored_item **out, size_t *n, struct error *err);
/* The row that a statement stands on (key, id, metadata), and its vector where wanted. */
enum status sqlite_copy_row(struct sqlite_store *store, const struct shelf *shelf,
                            sqlite3_stmt *statement, bool with_vector, struct stored_item *out,
                            struct error *err);

/* sqlite_search.c */
enum status sqlite_search(void *state, const char *collection, const struct search *search,
                          const json_t *filter, struct found *out, struct error *err);

/* sqlite_graph.c */
enum status sqlite_graphs_start(struct sqlite_store *store, struct error *err);
void sqlite_graphs_stop(struct sqlite_store *store); /* and saves them */
/* After a change was published; db_mutex held. */
void sqlite_graphs_wake(struct sqlite_store *store, const struct shelf *shelf);
/* A shelf that is on the list no more: waits until nobody builds it, and removes its file. */
void sqlite_graph_drop(struct sqlite_store *store, struct shelf *shelf);
/* Before a shelf's vectors are loaded: gives them the places that they have in the graph's file. */
void sqlite_graph_lay_out(struct sqlite_store *store, struct shelf *shelf);
void sqlite_graph_load(struct shelf *shelf); /* afterwards */

#endif
