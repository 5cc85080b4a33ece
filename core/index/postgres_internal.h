/*
 * postgres_internal.h: the parts of the shared store: a link (one connection and the statements
 * prepared on it), the pool of links, and a filter as SQL.
 *
 *   postgres.c         the driver, and collections
 *   postgres_items.c   items: put, read, removed
 *   postgres_search.c  search
 *   postgres_pool.c    who holds which link; reconnecting; building graph indexes
 *   postgres_link.c    connecting, sending, waiting with a deadline, errors' words
 *   postgres_schema.c  the tables: made on first use, checked on every connection
 *   postgres_filter.c  a filter as a condition over jsonb
 *
 * A link belongs to one thread at a time; a pool may be used from any.
 */
#ifndef VLMD_CORE_INDEX_POSTGRES_INTERNAL_H
#define VLMD_CORE_INDEX_POSTGRES_INTERNAL_H

#include <libpq-fe.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/index/store_internal.h"

enum {
    POSTGRES_LINKS_MAX = 8,         /* connections of one process, beside two for upkeep */
    POSTGRES_PREPARED_MAX = 128,    /* statements prepared on one link; then all are let go */
    POSTGRES_PARAMETERS_MAX = 2048, /* of one statement */
    POSTGRES_INDEX_DIM_MAX =
        2000,                 /* pgvector indexes no longer vectors: those are searched exactly */
    POSTGRES_DIM_MAX = 16000, /* pgvector keeps no longer ones */
    POSTGRES_STRIPES = 16,    /* rows that count one collection's items */
};

/* ---- statements --------------------------------------------------------------------------- */

/* What is bound to $1, $2, …: pointers are borrowed but for those of `own`, which is where numbers
 * and vectors are put into network order. */
struct parameters {
    int n;
    bool overflow; /* more than fit, or out of memory */
    const char *values[POSTGRES_PARAMETERS_MAX];
    int lengths[POSTGRES_PARAMETERS_MAX];
    int formats[POSTGRES_PARAMETERS_MAX]; /* 1: binary */
    Oid types[POSTGRES_PARAMETERS_MAX];   /* 0: as the statement tells */
    void *own[POSTGRES_PARAMETERS_MAX];
    int n_own;
};
void parameters_init(struct parameters *parameters);
void parameters_release(struct parameters *parameters);
/* Each returns the number of the parameter; a fault shows in `overflow`, once for all. */
int bind_text(struct parameters *parameters, const char *text);
int bind_json(struct parameters *parameters, const char *text);
int bind_bytes(struct parameters *parameters, const void *bytes, size_t size); /* NULL = null */
int bind_integer(struct parameters *parameters, int64_t value);
int bind_double(struct parameters *parameters, double value);
int bind_vector(struct parameters *parameters, const float *vector, size_t dim);

/* A column of a binary result. */
int64_t column_integer(const PGresult *result, int row, int column);
double column_double(const PGresult *result, int row, int column);
bool column_bool(const PGresult *result, int row, int column);
char *column_copy(const PGresult *result, int row, int column); /* malloc'd text; NULL: no memory */
/* malloc'd [dim]; NULL where it has another length, or no memory is left. */
float *column_vector(const PGresult *result, int row, int column, size_t dim);

/* ---- a link ------------------------------------------------------------------------------- */

struct link {
    PGconn *conn;
    uint64_t deadline_ns;    /* of what is under way */
    const atomic_bool *stop; /* ends a wait */
    bool was_idle;           /* leased before: the server may have ended it since */
    bool broken;             /* to be closed: lost, timed out or in an unknown state */
    bool is_silent;          /* broken because no answer came in time */
    int n_prepared;
    char prepared[POSTGRES_PREPARED_MAX][32];
    struct link *next; /* in the pool */
};

/* Connects, sets the session up and sees that the schema is there. STATUS_UNAVAILABLE: the database
 * is away; STATUS_BAD_CONFIG: it will not do. */
struct link *link_open(const char *uri, unsigned timeout_ms, const atomic_bool *stop,
                       struct error *err);
void link_close(struct link *link);
/* Without asking the database: nothing says that the connection was lost. */
bool link_alive(struct link *link);
void link_set_deadline(struct link *link, unsigned timeout_ms);

/* Runs one statement. name: prepared under it once a link (its text must always be the same); NULL:
 * only once. *out (may be NULL) is to be cleared. Statements of no parameters and no name may be
 * several, split by ';'. */
enum status link_run(struct link *link, const char *name, const char *sql,
                     const struct parameters *parameters, PGresult **out, struct error *err);

/* Ends a transaction: commits where status is OK, else rolls back. */
enum status link_end(struct link *link, enum status status, struct error *err);

/* A pipeline: begin; send what is to run; then per statement, in order, take its result. */
enum status link_prepare(struct link *link, const char *name, const char *sql, int n_parameters,
                         const Oid *types, struct error *err);
enum status link_pipeline(struct link *link, struct error *err);
enum status link_send(struct link *link, const char *name, const struct parameters *parameters,
                      struct error *err);
enum status link_sync(struct link *link, struct error *err);
/* After link_sync: the next statement's result. */
enum status link_take(struct link *link, PGresult **out, struct error *err);
/* Reads on to the end of what was synced, whatever failed, and leaves the pipeline. */
void link_leave_pipeline(struct link *link);

/* Into our words; never holds the password. `link` becomes broken where it cannot be used again. */
enum status link_error(struct link *link, const PGresult *result, struct error *err);

/* postgres_schema.c: makes or checks the tables. */
enum status schema_check(struct link *link, struct error *err);

/* ---- the pool ----------------------------------------------------------------------------- */

struct link_pool;
/* Tries the database once: away is no failure (see links_state), a database that will not do is. */
struct link_pool *links_open(const char *uri, size_t graph_from, struct error *err);
void links_close(struct link_pool *pool);
/* STATUS_UNAVAILABLE with the reason, at once while the database is known to be away. */
struct link *links_lease(struct link_pool *pool, struct error *err);
/* Takes NULL. A broken link, or one inside a transaction, is closed. */
void links_return(struct link_pool *pool, struct link *link);
/* Never blocks: STATUS_OK, or why the database is away. */
enum status links_state(struct link_pool *pool, struct error *err);
/* Whether a collection gets a graph index: of cosines, not too long, graph_from items or more. */
bool links_want_index(const struct link_pool *pool, enum metric metric, size_t dim, size_t count);
/* A collection has grown and is big enough for an index, if it has none. */
void links_note_growth(struct link_pool *pool);

/* ---- the driver ---------------------------------------------------------------------------- */

/* A collection, as the first statement of a call found it. */
struct target {
    int64_t key;
    size_t dim;
    bool is_indexed; /* it is big enough for a graph index, and of a kind that gets one */
};

/* Leases a link and looks the collection up (out may be NULL, else is to be released); NULL:
 * failed, and there is no link to return. */
struct link *postgres_lease_for(void *state, const char *name, struct target *target,
                                struct collection *out, struct error *err);
/* The status of a later statement: that its table is not there means that the collection was
 * dropped meanwhile. */
enum status postgres_translate(enum status status, const char *name, struct error *err);

enum status postgres_put(void *state, const char *collection, size_t dim, const struct item *items,
                         size_t n, size_t *added, size_t *updated, struct error *err);
enum status postgres_remove(void *state, const char *collection, const char *id, struct error *err);
enum status postgres_item(void *state, const char *collection, const char *id, bool with_vector,
                          struct stored_item **out, struct error *err);
enum status postgres_blob(void *state, const char *collection, const char *id, void **out,
                          size_t *size, struct error *err);
enum status postgres_scan(void *state, const char *collection, const char *after, size_t limit,
                          bool with_vector, struct stored_item **out, size_t *n, struct error *err);
enum status postgres_search(void *state, const char *collection, const struct search *search,
                            const json_t *filter, struct found *out, struct error *err);

/* ---- filters ------------------------------------------------------------------------------ */

/* Appends to `sql` a condition over the column `facts` that is true for exactly the items that
 * filter_matches() takes, values as further parameters. false (sql and parameters are unchanged):
 * this filter is not said in SQL, or there is no memory; the caller looks at the items itself. */
bool filter_to_sql(const json_t *filter, struct buffer *sql, struct parameters *parameters);

#endif
