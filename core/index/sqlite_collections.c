/*
 * sqlite_collections.c: the embedded store's collections, and how they come into memory when it
 * opens. See sqlite_internal.h.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"

/* Searches come one after another and must not keep a change waiting for ever. */
void sqlite_init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

/* info's strings become the shelf's, also on failure. */
static struct shelf *shelf_new(int64_t key, struct collection *info, struct error *err)
{
    struct shelf *shelf = calloc(1, sizeof *shelf);
    if (!shelf) {
        collection_release(info);
        error_no_memory(err, "a collection");
        return NULL;
    }
    shelf->key = key;
    shelf->info = *info;
    sqlite_init_lock(&shelf->lock);
    matrix_init(&shelf->matrix, shelf->info.dim, shelf->info.precision);
    return shelf;
}

static void shelf_free(struct shelf *shelf)
{
    if (!shelf)
        return;
    collection_release(&shelf->info);
    graph_file_close(shelf->file);
    free(shelf->seen);
    graph_free(shelf->graph);
    matrix_release(&shelf->matrix);
    pthread_rwlock_destroy(&shelf->lock);
    free(shelf);
}

void sqlite_release_shelves(struct sqlite_store *store)
{
    for (size_t i = 0; i < store->n_shelves; i++)
        shelf_free(store->shelves[i]);
    free(store->shelves);
}

/* ---- loading ------------------------------------------------------------------------------------
 */

static enum status load_shelf(struct sqlite_store *store, sqlite3_stmt *row, struct error *err)
{
    struct shelf **shelves = realloc_array(store->shelves, store->n_shelves + 1, sizeof *shelves);
    if (!shelves)
        return error_no_memory(err, "collections");
    store->shelves = shelves;
    struct collection info = {
        .name = sqlite_column_copy(row, 1),
        .space = sqlite_column_copy(row, 2),
        .model = sqlite_column_copy(row, 3),
        .dim = (size_t)sqlite3_column_int64(row, 4),
        .metric = (enum metric)sqlite3_column_int(row, 5),
        .precision = (enum precision)sqlite3_column_int(row, 6),
        .keeps_pictures = sqlite3_column_int(row, 7) != 0,
        .created_unix_s = sqlite3_column_int64(row, 8),
    };
    enum status status = STATUS_OK;
    if (!info.name || !info.space || !info.model)
        status = error_no_memory(err, "collections");
    else if (info.dim == 0 || info.dim > STORE_DIM_MAX || (unsigned)info.precision >= N_PRECISIONS)
        status = error_set(err, STATUS_IO, "collection '%s' has %zu dimensions, precision %d",
                           info.name, info.dim, (int)info.precision);
    if (status) {
        collection_release(&info);
        return status;
    }
    struct shelf *shelf = shelf_new(sqlite3_column_int64(row, 0), &info, err);
    if (!shelf)
        return err->status;
    store->shelves[store->n_shelves++] = shelf;
    return STATUS_OK;
}

/* The row that the statement stands on goes into its shelf. */
static enum status load_vector(struct shelf *shelf, sqlite3_stmt *statement, struct error *err)
{
    size_t bytes = (size_t)sqlite3_column_bytes(statement, 1);
    const void *vector = sqlite3_column_blob(statement, 1);
    if (bytes != shelf->info.dim * sizeof(float) || !vector)
        return error_set(err, STATUS_IO,
                         "collection '%s' holds a vector of %zu bytes instead of %zu",
                         shelf->info.name, bytes, shelf->info.dim * sizeof(float));
    if (sqlite_check_vector(statement, err))
        return err->status;
    if (!matrix_reserve(&shelf->matrix, 1))
        return error_no_memory(err, "a collection's vectors");
    uint32_t row = matrix_set(&shelf->matrix, sqlite3_column_int64(statement, 0), vector);
    if (row < shelf->n_places)
        shelf->seen[row / 64] |= (uint64_t)1 << row % 64;
    return STATUS_OK;
}

static struct shelf *shelf_with_key(struct sqlite_store *store, int64_t key)
{
    for (size_t i = 0; i < store->n_shelves; i++)
        if (store->shelves[i]->key == key)
            return store->shelves[i];
    return NULL;
}

/* All vectors, in the order in which they lie in the file. Their number: a matrix has places of an
 * older graph's removed items, too. */
static enum status load_vectors(struct sqlite_store *store, size_t *n_vectors, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_VECTORS];
    enum status status = STATUS_OK;
    struct shelf *shelf = NULL;
    int rc = SQLITE_DONE;
    while (!status && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        int64_t collection = sqlite3_column_int64(statement, 2);
        if (!shelf || shelf->key != collection)
            shelf = shelf_with_key(store, collection);
        status = shelf ? load_vector(shelf, statement, err)
                       : error_set(err, STATUS_IO, "a vector belongs to no collection (%lld)",
                                   (long long)collection);
        ++*n_vectors;
    }
    if (!status && rc != SQLITE_DONE)
        status = sqlite_error(store, "reading vectors", err);
    sqlite3_reset(statement);
    return status;
}

/* Room for the items of each shelf; their number. A damaged file may hold items without vectors: no
 * more is reserved than its pages can fill. */
static enum status reserve_shelves(struct sqlite_store *store, size_t *n_items, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_COUNT];
    size_t file_bytes = 0;
    enum status status = sqlite_file_bytes(store, &file_bytes, err);
    for (size_t i = 0; i < store->n_shelves && !status; i++) {
        struct shelf *shelf = store->shelves[i];
        sqlite3_bind_int64(statement, 1, shelf->key);
        if (sqlite3_step(statement) == SQLITE_ROW) {
            size_t n = (size_t)sqlite3_column_int64(statement, 0);
            size_t n_max = file_bytes / (shelf->info.dim * sizeof(float));
            *n_items += n;
            if (!matrix_reserve(&shelf->matrix, n < n_max ? n : n_max))
                status = error_no_memory(err, "a collection's vectors");
            shelf->n_fresh_chunks = shelf->matrix.n_chunks;
        } else {
            status = sqlite_error(store, "counting items", err);
        }
        sqlite3_reset(statement);
    }
    return status;
}

static void *populate_main(void *context)
{
    struct sqlite_store *store = context;
    for (size_t i = 0; i < store->n_shelves; i++)
        matrix_populate(&store->shelves[i]->matrix, store->shelves[i]->n_fresh_chunks);
    return NULL;
}

/* The matrices' memory is asked for by a thread beside the one that fills it. */
static enum status fill_shelves(struct sqlite_store *store, size_t *n_vectors, struct error *err)
{
    pthread_t thread;
    bool is_helped = !pthread_create(&thread, NULL, populate_main, store);
    for (size_t i = 0; i < store->n_shelves; i++)
        sqlite_graph_lay_out(store, store->shelves[i]);
    enum status status = load_vectors(store, n_vectors, err);
    if (is_helped)
        pthread_join(thread, NULL);
    return status;
}

enum status sqlite_load(struct sqlite_store *store, struct error *err)
{
    sqlite3_stmt *statement = store->statements[SQL_COLLECTIONS];
    enum status status = STATUS_OK;
    size_t n_vectors = 0, n_items = 0;
    int rc = SQLITE_DONE;
    while (!status && (rc = sqlite3_step(statement)) == SQLITE_ROW)
        status = load_shelf(store, statement, err);
    if (!status && rc != SQLITE_DONE)
        status = sqlite_error(store, "reading collections", err);
    sqlite3_reset(statement);
    if (!status)
        status = reserve_shelves(store, &n_items, err);
    if (!status)
        status = fill_shelves(store, &n_vectors, err);
    /* A page of the file that is lost takes items or vectors along without leaving a trace in the
     * other table. */
    if (!status && n_items != n_vectors)
        status = error_set(err, STATUS_IO,
                           "the collections' file is damaged: it has %zu items and %zu vectors",
                           n_items, n_vectors);
    for (size_t i = 0; !status && i < store->n_shelves; i++)
        sqlite_graph_load(store->shelves[i]);
    return status;
}

/* ---- the driver's functions ---------------------------------------------------------------------
 */

struct shelf *sqlite_find_shelf(struct sqlite_store *store, const char *name, struct error *err)
{
    for (size_t i = 0; i < store->n_shelves; i++)
        if (!strcmp(store->shelves[i]->info.name, name))
            return store->shelves[i];
    error_set_param(err, STATUS_NOT_FOUND, "collection", "there is no collection '%s'", name);
    return NULL;
}

static enum status copy_info(const struct collection *info, struct collection *out,
                             struct error *err)
{
    struct collection copy = *info;
    copy.name = strdup(info->name);
    copy.space = strdup(info->space);
    copy.model = strdup(info->model);
    if (!copy.name || !copy.space || !copy.model) {
        collection_release(&copy);
        return error_no_memory(err, "a collection's settings");
    }
    *out = copy;
    return STATUS_OK;
}

static enum status describe(struct shelf *shelf, struct collection *out, struct error *err)
{
    enum status status = copy_info(&shelf->info, out, err);
    if (status)
        return status;
    pthread_rwlock_rdlock(&shelf->lock);
    out->count = shelf->matrix.n;
    out->indexed = shelf->graph ? graph_covers(shelf->graph) : 0;
    if (out->indexed > out->count) /* removed ones are still in it */
        out->indexed = out->count;
    pthread_rwlock_unlock(&shelf->lock);
    return STATUS_OK;
}

enum status sqlite_get(void *state, const char *name, struct collection *out, struct error *err)
{
    struct sqlite_store *store = state;
    pthread_rwlock_rdlock(&store->lock);
    struct shelf *shelf = sqlite_find_shelf(store, name, err);
    enum status status = shelf ? describe(shelf, out, err) : err->status;
    pthread_rwlock_unlock(&store->lock);
    return status;
}

enum status sqlite_list(void *state, struct collection **out, size_t *n, struct error *err)
{
    struct sqlite_store *store = state;
    enum status status = STATUS_OK;
    pthread_rwlock_rdlock(&store->lock);
    struct collection *list = alloc_array(store->n_shelves, sizeof *list);
    size_t done = 0;
    if (!list)
        status = error_no_memory(err, "the list of collections");
    while (!status && done < store->n_shelves) {
        status = describe(store->shelves[done], &list[done], err);
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

/* db_mutex held. The new shelf takes its place in the order of names. */
static enum status add_shelf(struct sqlite_store *store, const struct collection *settings,
                             struct error *err)
{
    struct collection info = *settings;
    info.created_unix_s = (int64_t)time(NULL);
    info.count = 0;
    if (copy_info(&info, &info, err))
        return err->status;
    struct shelf *shelf = shelf_new(0, &info, err);
    if (!shelf)
        return err->status;
    /* Room first: what follows the database's change cannot fail. */
    pthread_rwlock_wrlock(&store->lock);
    struct shelf **shelves = realloc_array(store->shelves, store->n_shelves + 1, sizeof *shelves);
    if (shelves)
        store->shelves = shelves;
    pthread_rwlock_unlock(&store->lock);
    enum status status = shelves ? STATUS_OK : error_no_memory(err, "a collection");
    if (!status) {
        sqlite3_stmt *statement = store->statements[SQL_CREATE];
        sqlite_bind_string(statement, 1, info.name);
        sqlite_bind_string(statement, 2, info.space);
        sqlite_bind_string(statement, 3, info.model);
        sqlite3_bind_int64(statement, 4, (sqlite3_int64)info.dim);
        sqlite3_bind_int(statement, 5, info.metric);
        sqlite3_bind_int(statement, 6, info.precision);
        sqlite3_bind_int(statement, 7, info.keeps_pictures);
        sqlite3_bind_int64(statement, 8, info.created_unix_s);
        status = sqlite_run(store, SQL_CREATE, err);
    }
    if (status) {
        shelf_free(shelf);
        return status;
    }
    shelf->key = sqlite3_last_insert_rowid(store->db);
    pthread_rwlock_wrlock(&store->lock);
    size_t place = 0;
    while (place < store->n_shelves && strcmp(shelves[place]->info.name, info.name) < 0)
        place++;
    memmove(&shelves[place + 1], &shelves[place], (store->n_shelves - place) * sizeof *shelves);
    shelves[place] = shelf;
    store->n_shelves++;
    pthread_rwlock_unlock(&store->lock);
    return STATUS_OK;
}

enum status sqlite_create(void *state, const struct collection *settings, bool *created,
                          struct error *err)
{
    struct sqlite_store *store = state;
    struct error absent;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, settings->name, &absent);
    enum status status =
        shelf ? store_check_same(&shelf->info, settings, err) : add_shelf(store, settings, err);
    if (!status)
        *created = !shelf;
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}

enum status sqlite_drop(void *state, const char *name, struct error *err)
{
    struct sqlite_store *store = state;
    pthread_mutex_lock(&store->db_mutex);
    struct shelf *shelf = sqlite_find_shelf(store, name, err);
    enum status status = shelf ? sqlite_run(store, SQL_BEGIN, err) : err->status;
    if (!status) {
        static const enum sqlite_statement steps[] = {SQL_DROP_PICTURES, SQL_DROP_VECTORS,
                                                      SQL_DROP_ITEMS, SQL_DROP};
        for (size_t i = 0; i < ARRAY_LENGTH(steps) && !status; i++)
            status = sqlite_run_with_key(store, steps[i], shelf->key, err);
        status = sqlite_end(store, status, err);
    }
    if (!status) {
        size_t place = 0;
        pthread_rwlock_wrlock(&store->lock); /* no search is under way now */
        while (store->shelves[place] != shelf)
            place++;
        store->n_shelves--;
        memmove(&store->shelves[place], &store->shelves[place + 1],
                (store->n_shelves - place) * sizeof *store->shelves);
        pthread_rwlock_unlock(&store->lock);
        sqlite_graph_drop(store, shelf);
        shelf_free(shelf);
    }
    pthread_mutex_unlock(&store->db_mutex);
    return status;
}
