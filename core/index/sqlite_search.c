/*
 * sqlite_search.c: searching the embedded store. See sqlite_internal.h.
 *
 * Hits are found in the matrix and then read from the database, without a lock in between: one that
 * was removed or replaced meanwhile is missing there, and the search is done again.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"

/* Of one query, best first. */
struct ranking {
    struct hit *hits; /* [n_hits]; the first n_ordered are in order */
    int64_t *keys;    /* [n_ordered] */
    size_t n_hits, n_ordered;
};

static void ranking_release(struct ranking *ranking)
{
    free(ranking->hits);
    free(ranking->keys);
    *ranking = (struct ranking){0};
}

/* The best `ask` rows of the collection. */
static enum status rank(struct sqlite_store *store, const char *collection, const float *query,
                        size_t ask, struct ranking *out, struct error *err)
{
    struct ranking ranking = {0};
    enum status status = STATUS_OK;
    pthread_rwlock_rdlock(&store->lock);
    struct shelf *shelf = sqlite_find_shelf(store, collection, err);
    if (shelf) {
        pthread_rwlock_rdlock(&shelf->lock);
        ranking.n_hits = shelf->matrix.n;
        if (ask > ranking.n_hits)
            ask = ranking.n_hits;
        ranking.hits = alloc_array(ranking.n_hits, sizeof *ranking.hits);
        ranking.keys = alloc_array(ask, sizeof *ranking.keys);
        if (ranking.hits && ranking.keys) {
            ranking.n_ordered = matrix_search(&shelf->matrix, query, ask, ranking.hits);
            for (size_t i = 0; i < ranking.n_ordered; i++)
                ranking.keys[i] = shelf->matrix.keys[ranking.hits[i].row];
        } else {
            status = error_no_memory(err, "a search");
        }
        pthread_rwlock_unlock(&shelf->lock);
    } else {
        status = err->status;
    }
    pthread_rwlock_unlock(&store->lock);
    if (status)
        ranking_release(&ranking);
    else
        *out = ranking;
    return status;
}

/* Reads the item of a hit. *fits = false where the filter does not want it; *gone: no longer there.
 * db_mutex held. */
static enum status read_hit(struct sqlite_store *store, int64_t key, const json_t *filter,
                            struct stored_item *out, bool *fits, bool *gone, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_BY_KEY];
    sqlite3_bind_int64(statement, 1, key);
    enum status status = STATUS_OK;
    int rc = sqlite3_step(statement);
    *gone = rc == SQLITE_DONE;
    *fits = rc == SQLITE_ROW;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        status = sqlite_error(store, "reading a search result", err);
    if (*fits && filter) {
        json_t *metadata = json_loads((const char *)sqlite3_column_text(statement, 2), 0, NULL);
        *fits = filter_matches(filter, metadata);
        json_decref(metadata);
    }
    if (!status && *fits)
        status = sqlite_copy_row(store, NULL, statement, false, out, err);
    sqlite3_reset(statement);
    return status;
}

static enum status search_one(struct sqlite_store *store, const char *collection,
                              const float *query, const struct search *search, const json_t *filter,
                              struct found *out, struct error *err)
{
    struct stored_item *items = alloc_array(search->top_k, sizeof *items);
    if (!items)
        return error_no_memory(err, "a search");
    struct ranking ranking = {0};
    enum status status = STATUS_OK;
    size_t done = 0, seen = 0, ask = search->top_k;
    bool over = false;
    /* With a filter the order of further hits may be needed: ask for more, four times as many each
     * time. */
    while (!status && !over) {
        ranking_release(&ranking);
        status = rank(store, collection, query, ask, &ranking, err);
        if (status)
            break;
        over = ranking.n_ordered == ranking.n_hits;
        bool gone = false;
        pthread_mutex_lock(&store->db_mutex);
        for (; !status && !gone && done < search->top_k && seen < ranking.n_ordered; seen++) {
            bool fits;
            float score = ranking.hits[seen].score;
            if (score < search->min_score) {
                over = true;
                break;
            }
            status = read_hit(store, ranking.keys[seen], filter, &items[done], &fits, &gone, err);
            if (!status && fits)
                items[done++].score = score;
        }
        pthread_mutex_unlock(&store->db_mutex);
        if (gone) { /* begin again */
            while (done) {
                done--;
                free(items[done].id);
                free(items[done].metadata);
            }
            seen = 0;
            over = false;
        } else {
            over = over || done == search->top_k;
            ask *= 4;
        }
    }
    ranking_release(&ranking);
    if (status) {
        stored_items_free(items, done);
        return status;
    }
    *out = (struct found){items, done};
    return STATUS_OK;
}

enum status sqlite_search(void *state, const char *collection, const struct search *search,
                          const json_t *filter, struct found *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < search->n_queries && !status; i++)
        status = search_one(state, collection, search->vectors + i * search->dim, search, filter,
                            &out[i], err);
    return status;
}
