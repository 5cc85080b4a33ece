/*
 * sqlite_search.c: searching the embedded store. See sqlite_internal.h.
 *
 *   rank      the matrix gives each query's candidates: keys and scores      (shelf's lock)
 *   take      the database gives their items: exact scores where the matrix is not f32, metadata
 *             for the filter                                                 (db_mutex)
 *   widen     a filter that left a query short: which of all items does it want? Then rank and take
 *             those alone
 *
 * There is no lock from rank to take: a candidate that was removed or replaced in between is
 * missing from the database, and the search begins again, a few times.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"
#include "core/nn/pool.h"

enum {
    ATTEMPTS = 4,
    SLICE_ROWS = 4096,
    GRAPH_ASK_MAX = 1000, /* more results are found exactly: a graph would look at most rows */
    EFFORT_MIN = 128,
};

struct candidate {
    int64_t key;
    float score;
};

/* What rank() found, for all queries. */
struct ranked {
    struct candidate *list; /* [n_queries, ask] */
    size_t *n;              /* [n_queries] */
    size_t ask;
    bool is_all; /* there were no others to find */
    int64_t collection;
    bool is_exact; /* the scores are those of the kept vectors */
};

static void ranked_release(struct ranked *ranked)
{
    free(ranked->list);
    free(ranked->n);
    *ranked = (struct ranked){0};
}

/* ---- rank ---------------------------------------------------------------------------------------
 */

/* A bit for each row of the keys. */
static uint64_t *rows_of_keys(const struct matrix *matrix, const int64_t *keys, size_t n)
{
    uint64_t *bits = calloc(matrix->n_rows / 64 + 1, sizeof *bits);
    for (size_t i = 0; bits && i < n; i++) {
        uint32_t row = matrix_find(matrix, keys[i]);
        if (row != UINT32_MAX)
            bits[row / 64] |= (uint64_t)1 << row % 64;
    }
    return bits;
}

/* Queries over a shelf's graph. */
struct graph_pass {
    const struct shelf *shelf;
    const struct search *search;
    size_t ask;
    struct hit *hits; /* [n_queries, ask] */
    size_t *n_hits;
    atomic_bool failed;
};

static void graph_task(void *context, size_t q)
{
    struct graph_pass *pass = context;
    const struct shelf *shelf = pass->shelf;
    struct graph_walk *walk = graph_walk_new(shelf->graph, shelf->matrix.n_rows);
    if (!walk) {
        atomic_store(&pass->failed, true);
        return;
    }
    pass->n_hits[q] =
        graph_search(shelf->graph, walk, pass->search->vectors + q * shelf->info.dim, pass->ask,
                     EFFORT_MIN + 4 * pass->ask, pass->hits + q * pass->ask);
    graph_walk_free(walk);
}

/* The best `ask` of two lists, best first, into the first. */
static size_t merge(const struct matrix *matrix, struct hit *into, size_t n, const struct hit *from,
                    size_t n_from, size_t ask)
{
    while (n_from && n + n_from > ask) { /* drop the worst */
        if (n && matrix_better(matrix, from[n_from - 1], into[n - 1]))
            n--;
        else
            n_from--;
    }
    size_t total = n + n_from;
    for (size_t at = total; n_from; at--)
        into[at - 1] =
            n && matrix_better(matrix, from[n_from - 1], into[n - 1]) ? into[--n] : from[--n_from];
    return total;
}

/* What the graph covers by the graph, the rest exactly. */
static bool search_graph(struct sqlite_store *store, struct shelf *shelf,
                         const struct search *search, size_t ask, struct hit *hits, size_t *n_hits)
{
    size_t n_queries = search->n_queries, covered = graph_covers(shelf->graph);
    struct graph_pass pass = {shelf, search, ask, hits, n_hits, false};
    if (store->pool && n_queries > 1)
        pool_run(store->pool, n_queries, graph_task, &pass);
    else
        for (size_t q = 0; q < n_queries; q++)
            graph_task(&pass, q);
    if (atomic_load(&pass.failed) || covered >= shelf->matrix.n_rows)
        return !atomic_load(&pass.failed);
    struct hit *rest = alloc_array(n_queries * ask, sizeof *rest);
    size_t *n_rest = alloc_array(n_queries, sizeof *n_rest);
    bool fine = rest && n_rest &&
                matrix_search(&shelf->matrix, store->pool, search->vectors, n_queries, ask, NULL,
                              covered, rest, n_rest);
    for (size_t q = 0; fine && q < n_queries; q++)
        n_hits[q] =
            merge(&shelf->matrix, hits + q * ask, n_hits[q], rest + q * ask, n_rest[q], ask);
    free(rest);
    free(n_rest);
    return fine;
}

/* Shelf's lock held. */
static enum status rank_shelf(struct sqlite_store *store, struct shelf *shelf,
                              const struct search *search, bool exact, const int64_t *keys,
                              size_t n_keys, struct ranked *ranked, struct error *err)
{
    const struct matrix *matrix = &shelf->matrix;
    ranked->collection = shelf->key;
    ranked->is_exact = matrix->form == DOT_F32;
    if (!ranked->is_exact) /* the order of the smaller forms is not quite right */
        ranked->ask = ranked->ask * 3 + 32;
    ranked->is_all = ranked->ask >= matrix->n;
    if (ranked->is_all)
        ranked->ask = matrix->n;
    struct hit *hits = alloc_array(search->n_queries * ranked->ask, sizeof *hits);
    uint64_t *wanted = keys ? rows_of_keys(matrix, keys, n_keys) : NULL;
    ranked->list = alloc_array(search->n_queries * ranked->ask, sizeof *ranked->list);
    ranked->n = calloc(search->n_queries, sizeof *ranked->n);
    bool fine = hits && ranked->list && ranked->n && (wanted || !keys);
    if (fine && shelf->graph && !exact && !keys && ranked->ask <= GRAPH_ASK_MAX && !ranked->is_all)
        fine = search_graph(store, shelf, search, ranked->ask, hits, ranked->n);
    else if (fine)
        fine = matrix_search(matrix, store->pool, search->vectors, search->n_queries, ranked->ask,
                             wanted, 0, hits, ranked->n);
    for (size_t q = 0; fine && q < search->n_queries; q++)
        for (size_t i = q * ranked->ask; i < q * ranked->ask + ranked->n[q]; i++)
            ranked->list[i] = (struct candidate){matrix->keys[hits[i].row], hits[i].score};
    free(hits);
    free(wanted);
    return fine ? STATUS_OK : error_no_memory(err, "a search");
}

/* The best `ask` items for each query, of those with a key in keys (NULL = of all). */
static enum status rank(struct sqlite_store *store, const char *collection,
                        const struct search *search, size_t ask, bool exact, const int64_t *keys,
                        size_t n_keys, struct ranked *out, struct error *err)
{
    struct ranked ranked = {.ask = ask};
    pthread_rwlock_rdlock(&store->lock);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    enum status status = shelf ? STATUS_OK : err->status;
    if (shelf && shelf->info.dim != search->dim)
        status = store_changed(collection, err);
    if (!status) {
        pthread_rwlock_rdlock(&shelf->lock);
        status = rank_shelf(store, shelf, search, exact, keys, n_keys, &ranked, err);
        pthread_rwlock_unlock(&shelf->lock);
    }
    pthread_rwlock_unlock(&store->lock);
    if (status)
        ranked_release(&ranked);
    else
        *out = ranked;
    return status;
}

/* ---- take ---------------------------------------------------------------------------------------
 */

static int by_score(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return (x->score < y->score) - (x->score > y->score);
    return (x->key > y->key) - (x->key < y->key);
}

/* The candidates' scores by the kept vectors. db_mutex held. */
static enum status rescore(struct sqlite_store *store, const float *query, size_t dim,
                           struct candidate *list, size_t n, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_VECTOR];
    for (size_t i = 0; i < n; i++) {
        sqlite3_bind_int64(statement, 1, list[i].key);
        int rc = sqlite3_step(statement);
        if (rc == SQLITE_ROW && (size_t)sqlite3_column_bytes(statement, 1) == dim * sizeof(float))
            dot_rows(DOT_F32, sqlite3_column_blob(statement, 1), NULL, 1, dim, query,
                     &list[i].score);
        else if (rc != SQLITE_DONE) /* gone: take() will see */
            sqlite_error(store, "reading a vector", err);
        sqlite3_reset(statement);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return err->status;
    }
    qsort(list, n, sizeof *list, by_score);
    return STATUS_OK;
}

static bool wants(const json_t *filter, const char *metadata)
{
    if (!filter)
        return true;
    json_t *object = json_loads(metadata, 0, NULL);
    bool fits = filter_matches(filter, object);
    json_decref(object);
    return fits;
}

/* *bytes: of all results' metadata together. */
static enum status copy_hit(sqlite3_stmt *statement, bool id_only, size_t *bytes,
                            struct stored_item *out, struct error *err)
{
    struct stored_item item = {.id = sqlite_column_copy(statement, 1)};
    if (!id_only) {
        *bytes += (size_t)sqlite3_column_bytes(statement, 2);
        if (*bytes > STORE_RESULT_BYTES_MAX) {
            free(item.id);
            return store_too_much(err);
        }
        item.metadata = sqlite_column_copy(statement, 2);
    }
    if (!item.id || (!id_only && !item.metadata)) {
        free(item.id);
        return error_no_memory(err, "a search");
    }
    *out = item;
    return STATUS_OK;
}

/* One query's candidates into items, until top_k. *gone: one was no longer there. db_mutex held. */
static enum status take_query(struct sqlite_store *store, const struct search *search,
                              const json_t *filter, const struct candidate *list, size_t n,
                              struct found *out, bool *gone, size_t *bytes, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_BY_KEY];
    size_t room = n < search->top_k ? n : search->top_k;
    struct found found = {.items = alloc_array(room, sizeof *found.items)};
    if (!found.items)
        return error_no_memory(err, "a search");
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && found.n < room && !status; i++) {
        if (list[i].score < search->min_score)
            break;
        sqlite3_bind_int64(statement, 1, list[i].key);
        int rc = sqlite3_step(statement);
        if (rc == SQLITE_DONE)
            *gone = true;
        else if (rc != SQLITE_ROW)
            status = sqlite_error(store, "reading a search result", err);
        else if (wants(filter, (const char *)sqlite3_column_text(statement, 2))) {
            status = copy_hit(statement, search->ids_only, bytes, &found.items[found.n], err);
            if (!status)
                found.items[found.n++].score = list[i].score;
        }
        sqlite3_reset(statement);
    }
    if (status)
        found_release(&found);
    else
        *out = found;
    return status;
}

/* *is_short: a query has fewer than top_k though there may be others for it. */
static enum status take(struct sqlite_store *store, const struct search *search,
                        const json_t *filter, struct ranked *ranked, struct found *out, bool *gone,
                        bool *is_short, struct error *err)
{
    enum status status = STATUS_OK;
    size_t bytes = 0;
    *gone = *is_short = false;
    pthread_mutex_lock(&store->db_mutex);
    for (size_t q = 0; q < search->n_queries && !status; q++) {
        struct candidate *list = ranked->list + q * ranked->ask;
        size_t n = ranked->n[q];
        found_release(&out[q]);
        if (!ranked->is_exact)
            status = rescore(store, search->vectors + q * search->dim, search->dim, list, n, err);
        if (!status)
            status = take_query(store, search, filter, list, n, &out[q], gone, &bytes, err);
        if (!status && !ranked->is_all && out[q].n < search->top_k &&
            !(n && list[n - 1].score < search->min_score))
            *is_short = true;
    }
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}

/* ---- widen --------------------------------------------------------------------------------------
 */

struct keys {
    int64_t *list;
    size_t n, capacity;
};

static enum status add_key(struct keys *keys, int64_t key, struct error *err)
{
    if (keys->n == keys->capacity) {
        size_t capacity = keys->capacity * 2 + 1024;
        int64_t *list = realloc_array(keys->list, capacity, sizeof *list);
        if (!list)
            return error_no_memory(err, "a search");
        keys->list = list;
        keys->capacity = capacity;
    }
    keys->list[keys->n++] = key;
    return STATUS_OK;
}

/* The keys of all of the collection's items that the filter wants, a slice of them at a time, so
 * that changes need not wait for the whole. */
static enum status wanted_keys(struct sqlite_store *store, int64_t collection, const json_t *filter,
                               struct keys *keys, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_METADATA];
    bool wants_empty = wants(filter, "{}");
    int64_t after = 0;
    enum status status = STATUS_OK;
    size_t n = SLICE_ROWS;
    while (!status && n == SLICE_ROWS) {
        int rc = SQLITE_DONE;
        pthread_mutex_lock(&store->db_mutex);
        sqlite3_bind_int64(statement, 1, after);
        sqlite3_bind_int64(statement, 2, collection);
        sqlite3_bind_int64(statement, 3, SLICE_ROWS);
        for (n = 0; !status && (rc = sqlite3_step(statement)) == SQLITE_ROW; n++) {
            const char *metadata = (const char *)sqlite3_column_text(statement, 1);
            after = sqlite3_column_int64(statement, 0);
            if (metadata && !strcmp(metadata, "{}") ? wants_empty : wants(filter, metadata))
                status = add_key(keys, after, err);
        }
        if (!status && rc != SQLITE_DONE)
            status = sqlite_error(store, "reading metadata", err);
        sqlite3_reset(statement);
        pthread_mutex_unlock(&store->db_mutex);
    }
    return status;
}

static enum status widen(struct sqlite_store *store, const char *collection,
                         const struct search *search, const json_t *filter, struct ranked *ranked,
                         struct found *out, bool *gone, struct error *err)
{
    struct keys keys = {.list = malloc(sizeof *keys.list)}; /* not NULL, also when none is wanted */
    enum status status = keys.list ? wanted_keys(store, ranked->collection, filter, &keys, err)
                                   : error_no_memory(err, "a search");
    ranked_release(ranked);
    bool is_short;
    if (!status)
        status =
            rank(store, collection, search, search->top_k, true, keys.list, keys.n, ranked, err);
    if (!status)
        status = take(store, search, filter, ranked, out, gone, &is_short, err);
    free(keys.list);
    return status;
}

enum status sqlite_search(void *state, const char *collection, const struct search *search,
                          const json_t *filter, struct found *out, struct error *err)
{
    struct sqlite_store *store = state;
    enum status status = STATUS_OK;
    bool gone = true, exact = search->exact;
    for (int attempt = 0; attempt < ATTEMPTS && gone && !status; attempt++) {
        struct ranked ranked = {0};
        bool is_short = false;
        /* With a filter, some more at once than it may let through. */
        size_t ask = filter ? search->top_k * 4 + 64 : search->top_k;
        status = rank(store, collection, search, ask, exact, NULL, 0, &ranked, err);
        if (!status)
            status = take(store, search, filter, &ranked, out, &gone, &is_short, err);
        if (!status && !gone && !filter && is_short && !exact)
            exact = gone = true; /* the graph had too few, as many of its rows were removed */
        if (!status && !gone && filter && is_short)
            status = widen(store, collection, search, filter, &ranked, out, &gone, err);
        ranked_release(&ranked);
    }
    return status;
}
