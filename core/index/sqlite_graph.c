/*
 * sqlite_graph.c: the graphs of large collections: one thread builds and mends them in the
 * background, at a low priority, while items come and go and searches run. See
 * sqlite_internal.h for the locks.
 *
 * A collection of cosines gets a graph when it has graph_from items:
 *
 *   no graph ──graph_from items──→ behind ──insert_some()──→ complete
 *                                     ↑                         │
 *                                     └──────── items ──────────┤
 *                                     └─ compact() ←─ a quarter of the rows removed
 *
 * Rows that the graph does not cover yet are searched exactly, so that results are complete at any
 * time. The file of a graph is written when it has grown by an eighth, and when the store closes;
 * after a kill the rows since then are linked again. Which of the file's rows still exist its keys
 * tell (invariant 2).
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/index/sqlite_internal.h"
#include "core/nn/pool.h"

enum { THREADS_MAX = 64, BATCH_PER_THREAD = 256, SAVE_MIN = 4096, PATH_BYTES = 4096 };

struct graphs {
    struct sqlite_store *store;
    pthread_t thread;
    size_t n_threads; /* that insert together, the thread itself among them */
    atomic_bool stop;
    pthread_mutex_t wake_mutex; /* guards has_news; last in the order */
    pthread_cond_t wake;
    bool has_news;
    /* Held while a shelf is worked on; before the store's lock in the order. Who has taken a shelf
     * off the list and then this knows that nobody builds it. */
    pthread_mutex_t build_mutex;
};

static bool graph_path(const struct sqlite_store *store, const struct shelf *shelf,
                       char out[PATH_BYTES])
{
    return store->path && snprintf(out, PATH_BYTES, "%s-graph-%lld", store->path,
                                   (long long)shelf->key) < PATH_BYTES;
}

/* ---- many threads over rows ---------------------------------------------------------------------
 */

struct batch {
    struct graphs *graphs;
    struct graph *graph;
    size_t n_rows;        /* of the matrix */
    const uint64_t *dead; /* a bit for each row below n_rows */
    bool repair;          /* else insert */
    _Atomic uint32_t next;
    uint32_t end;
    atomic_bool failed;
};

/* A tenth of a search's share: at 19 a graph starves where other programs keep all cores busy. */
static void lower_priority(void)
{
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
}

static void *batch_main(void *context)
{
    struct batch *batch = context;
    struct graph_walk *walk = graph_walk_new(batch->graph, batch->n_rows);
    if (!walk)
        atomic_store(&batch->failed, true);
    while (walk && !atomic_load(&batch->failed) && !atomic_load(&batch->graphs->stop)) {
        uint32_t row = atomic_fetch_add(&batch->next, 1);
        if (row >= batch->end)
            break;
        if (batch->repair)
            graph_repair(batch->graph, walk, batch->dead, row);
        else if (!(batch->dead[row / 64] >> row % 64 & 1) && !graph_insert(batch->graph, walk, row))
            atomic_store(&batch->failed, true);
    }
    graph_walk_free(walk);
    return NULL;
}

static void *helper_main(void *context)
{
    lower_priority();
    return batch_main(context);
}

/* Rows [first, end); returns where it stopped: all before that are done. */
static uint32_t run_batch(struct batch *batch, uint32_t first, uint32_t end)
{
    pthread_t helpers[THREADS_MAX];
    size_t n = 0;
    atomic_init(&batch->next, first);
    batch->end = end;
    while (n + 1 < batch->graphs->n_threads &&
           !pthread_create(&helpers[n], NULL, helper_main, batch))
        n++;
    batch_main(batch);
    while (n)
        pthread_join(helpers[--n], NULL);
    uint32_t next = atomic_load(&batch->next);
    return next < end ? next : end;
}

/* ---- one shelf ----------------------------------------------------------------------------------
 */

/* What a shelf was like at a moment. */
struct view {
    size_t n_rows, n;
    uint64_t *dead;
};

static bool look(struct shelf *shelf, struct view *view)
{
    pthread_rwlock_rdlock(&shelf->lock);
    const struct matrix *matrix = &shelf->matrix;
    *view = (struct view){matrix->n_rows, matrix->n, calloc(matrix->n_rows / 64 + 1, 8)};
    for (size_t row = 0; view->dead && row < view->n_rows; row++)
        if (!matrix->keys[row])
            view->dead[row / 64] |= (uint64_t)1 << row % 64;
    pthread_rwlock_unlock(&shelf->lock);
    return view->dead != NULL;
}

static void save(struct sqlite_store *store, struct shelf *shelf)
{
    char path[PATH_BYTES];
    struct error ignored; /* a graph that was not saved is built again */
    uint32_t n = graph_covers(shelf->graph);
    int64_t *keys = alloc_array(n, sizeof *keys);
    if (keys && graph_path(store, shelf, path)) {
        pthread_rwlock_rdlock(&shelf->lock);
        memcpy(keys, shelf->matrix.keys, n * sizeof *keys);
        pthread_rwlock_unlock(&shelf->lock);
        if (!graph_save(shelf->graph, keys, path, &ignored))
            shelf->n_saved = n;
    }
    free(keys);
}

/* Rows need not keep their places for a graph any more. Exclusive lock held. */
static void unsettle(struct matrix *matrix)
{
    uint32_t *new_rows = alloc_array(matrix->n_rows, sizeof *new_rows);
    if (new_rows) {
        matrix_compact(matrix, new_rows);
        matrix->stable = false;
    }
    free(new_rows);
}

static void give_up(struct shelf *shelf)
{
    pthread_rwlock_wrlock(&shelf->lock);
    graph_free(shelf->graph);
    shelf->graph = NULL;
    unsettle(&shelf->matrix);
    pthread_rwlock_unlock(&shelf->lock);
}

/* True: there was something to do, and may be more. */
static bool start_graph(struct sqlite_store *store, struct shelf *shelf)
{
    pthread_rwlock_wrlock(&shelf->lock);
    bool wanted = shelf->info.metric == METRIC_COSINE && store->graph_from &&
                  shelf->matrix.n >= store->graph_from;
    if (wanted)
        shelf->graph = graph_new(&shelf->matrix);
    if (shelf->graph)
        shelf->matrix.stable = true;
    pthread_rwlock_unlock(&shelf->lock);
    return shelf->graph != NULL;
}

static bool insert_some(struct sqlite_store *store, struct shelf *shelf, const struct view *view)
{
    uint32_t first = graph_covers(shelf->graph);
    size_t end = first + BATCH_PER_THREAD * store->graphs->n_threads;
    if (end > view->n_rows)
        end = view->n_rows;
    struct batch batch = {
        .graphs = store->graphs, .graph = shelf->graph, .n_rows = view->n_rows, .dead = view->dead};
    if (graph_reserve(shelf->graph, end))
        graph_publish(shelf->graph, run_batch(&batch, first, (uint32_t)end));
    else
        atomic_store(&batch.failed, true);
    if (atomic_load(&batch.failed)) {
        give_up(shelf); /* out of memory: exact search goes on */
        return false;
    }
    uint32_t n = graph_covers(shelf->graph);
    if (n >= shelf->n_saved + shelf->n_saved / 8 + SAVE_MIN)
        save(store, shelf);
    return n > first;
}

/* Links past the rows that were removed. False when it was stopped. */
static bool repair(struct sqlite_store *store, struct shelf *shelf, const struct view *view)
{
    uint32_t n = graph_covers(shelf->graph);
    struct batch batch = {.graphs = store->graphs,
                          .graph = shelf->graph,
                          .n_rows = view->n_rows,
                          .dead = view->dead,
                          .repair = true};
    return run_batch(&batch, 0, n) == n && !atomic_load(&batch.failed) &&
           !atomic_load(&store->graphs->stop);
}

/* Rows were removed since the view was taken, perhaps; they simply go too. */
static bool compact(struct shelf *shelf)
{
    pthread_rwlock_wrlock(&shelf->lock);
    uint32_t *new_rows = alloc_array(shelf->matrix.n_rows, sizeof *new_rows);
    if (new_rows) {
        matrix_compact(&shelf->matrix, new_rows);
        graph_renumber(shelf->graph, new_rows);
        shelf->n_saved = 0;
    }
    pthread_rwlock_unlock(&shelf->lock);
    free(new_rows);
    return new_rows != NULL;
}

static bool work_on(struct sqlite_store *store, struct shelf *shelf)
{
    struct view view;
    if (!shelf->graph && !start_graph(store, shelf))
        return false;
    if (!look(shelf, &view))
        return false;
    bool worked = false;
    size_t removed = view.n_rows - view.n;
    if (removed > view.n_rows / 4 || (shelf->has_holes && removed)) {
        worked = repair(store, shelf, &view);
        if (worked && removed > view.n_rows / 4)
            worked = compact(shelf);
        shelf->has_holes = shelf->has_holes && !worked;
    } else if (graph_covers(shelf->graph) < view.n_rows) {
        worked = insert_some(store, shelf, &view);
    }
    free(view.dead);
    return worked;
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

static bool work_on_all(struct graphs *graphs)
{
    struct sqlite_store *store = graphs->store;
    bool worked = false, is_shelf = true;
    for (size_t i = 0; is_shelf && !atomic_load(&graphs->stop); i++) {
        pthread_mutex_lock(&graphs->build_mutex);
        pthread_rwlock_rdlock(&store->lock);
        is_shelf = i < store->n_shelves;
        struct shelf *shelf = is_shelf ? store->shelves[i] : NULL;
        pthread_rwlock_unlock(&store->lock);
        if (shelf)
            worked = work_on(store, shelf) || worked;
        pthread_mutex_unlock(&graphs->build_mutex);
    }
    return worked;
}

static void *thread_main(void *context)
{
    struct graphs *graphs = context;
    lower_priority();
    while (!atomic_load(&graphs->stop)) {
        pthread_mutex_lock(&graphs->wake_mutex);
        while (!graphs->has_news && !atomic_load(&graphs->stop))
            pthread_cond_wait(&graphs->wake, &graphs->wake_mutex);
        graphs->has_news = false;
        pthread_mutex_unlock(&graphs->wake_mutex);
        while (work_on_all(graphs))
            ;
    }
    return NULL;
}

enum status sqlite_graphs_start(struct sqlite_store *store, struct error *err)
{
    if (!store->graph_from)
        return STATUS_OK;
    struct graphs *graphs = calloc(1, sizeof *graphs);
    if (!graphs)
        return error_no_memory(err, "the store");
    graphs->store = store;
    graphs->has_news = true; /* what the last process left undone */
    graphs->n_threads = store->pool ? pool_threads(store->pool) : 1;
    if (graphs->n_threads > THREADS_MAX)
        graphs->n_threads = THREADS_MAX;
    pthread_mutex_init(&graphs->wake_mutex, NULL);
    pthread_mutex_init(&graphs->build_mutex, NULL);
    pthread_cond_init(&graphs->wake, NULL);
    store->graphs = graphs;
    int failed = pthread_create(&graphs->thread, NULL, thread_main, graphs);
    if (failed) {
        free(graphs);
        store->graphs = NULL;
        return error_set(err, STATUS_UNAVAILABLE, "cannot start a thread: %s", strerror(failed));
    }
    return STATUS_OK;
}

void sqlite_graphs_stop(struct sqlite_store *store)
{
    struct graphs *graphs = store->graphs;
    if (!graphs)
        return;
    pthread_mutex_lock(&graphs->wake_mutex);
    atomic_store(&graphs->stop, true);
    pthread_cond_signal(&graphs->wake);
    pthread_mutex_unlock(&graphs->wake_mutex);
    pthread_join(graphs->thread, NULL);
    for (size_t i = 0; i < store->n_shelves; i++)
        if (store->shelves[i]->graph &&
            graph_covers(store->shelves[i]->graph) != store->shelves[i]->n_saved)
            save(store, store->shelves[i]);
    pthread_mutex_destroy(&graphs->wake_mutex);
    pthread_mutex_destroy(&graphs->build_mutex);
    pthread_cond_destroy(&graphs->wake);
    free(graphs);
    store->graphs = NULL;
}

void sqlite_graphs_wake(struct sqlite_store *store, const struct shelf *shelf)
{
    struct graphs *graphs = store->graphs;
    /* Only changes, which hold db_mutex, change n. */
    if (!graphs || shelf->matrix.n < store->graph_from / 2)
        return;
    pthread_mutex_lock(&graphs->wake_mutex);
    graphs->has_news = true;
    pthread_cond_signal(&graphs->wake);
    pthread_mutex_unlock(&graphs->wake_mutex);
}

void sqlite_graph_drop(struct sqlite_store *store, struct shelf *shelf)
{
    char path[PATH_BYTES];
    if (store->graphs) {
        pthread_mutex_lock(&store->graphs->build_mutex);
        pthread_mutex_unlock(&store->graphs->build_mutex);
    }
    if (graph_path(store, shelf, path))
        unlink(path);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

void sqlite_graph_lay_out(struct sqlite_store *store, struct shelf *shelf)
{
    char path[PATH_BYTES];
    struct error ignored;
    const int64_t *keys;
    size_t n;
    if (!store->graph_from || shelf->info.metric != METRIC_COSINE ||
        !graph_path(store, shelf, path))
        return;
    shelf->file = graph_file_open(path, &shelf->matrix, &keys, &n, &ignored);
    if (!shelf->file)
        return;
    shelf->seen = calloc(n / 64 + 1, sizeof *shelf->seen);
    if (!shelf->seen || !matrix_reserve(&shelf->matrix, n)) {
        graph_file_close(shelf->file);
        shelf->file = NULL;
        return;
    }
    shelf->matrix.stable = true;
    shelf->n_places = n;
    for (size_t i = 0; i < n; i++)
        matrix_add_place(&shelf->matrix, keys[i]);
}

void sqlite_graph_load(struct shelf *shelf)
{
    if (!shelf->file)
        return;
    struct error ignored;
    struct matrix *matrix = &shelf->matrix;
    shelf->graph = graph_file_load(shelf->file, matrix, &ignored);
    for (uint32_t row = 0; row < shelf->n_places; row++)
        if (matrix->keys[row] && !(shelf->seen[row / 64] >> row % 64 & 1)) {
            matrix_clear_place(matrix, row);
            shelf->has_holes = true;
        }
    if (shelf->graph)
        shelf->n_saved = graph_covers(shelf->graph);
    else
        unsettle(matrix);
    graph_file_close(shelf->file);
    free(shelf->seen);
    shelf->file = NULL;
    shelf->seen = NULL;
    shelf->n_places = 0;
}
