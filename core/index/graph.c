/*
 * graph.c: building and searching the graph; see graph.h. The paper's algorithms 1 (insert), 2
 * (search a level), 4 (choose neighbours) and 5 (search).
 *
 * A node's list that is full is thinned to PRUNED_0 of its links, not by one, so that the costly
 * choice is made for every twelfth new link only.
 */
#include "core/index/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/graph_internal.h"

enum {
    EFFORT_BUILD = 100, /* candidates among which a new node's neighbours are chosen */
    PRUNED_0 = 36,
    PRUNED = 12,
    REPAIR_MAX = 512, /* candidates to repair a list from */
    PREFETCH_BYTES = 512,
};

struct graph_walk {
    uint64_t *visited; /* a bit for each row */
    uint32_t *touched; /* the rows whose bits are set */
    size_t n_touched, touched_capacity;
    struct hit *frontier; /* to look at: a heap, the best first (scores negated) */
    size_t n_frontier, frontier_capacity;
    struct hit *best; /* found: a heap, the worst first */
    size_t n_best, best_capacity;
    float *query, *other; /* [dim]: rows as f32 */
};

/* ---- life ---------------------------------------------------------------------------------------
 */

struct graph *graph_new(const struct matrix *matrix)
{
    struct graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return NULL;
    graph->matrix = matrix;
    atomic_init(&graph->entry, NO_ROW);
    graph->chunks = calloc(MATRIX_CHUNKS_MAX, sizeof *graph->chunks);
    pthread_mutex_init(&graph->entry_lock, NULL);
    for (size_t i = 0; i < STRIPES; i++)
        pthread_mutex_init(&graph->stripes[i], NULL);
    if (!graph->chunks) {
        graph_free(graph);
        return NULL;
    }
    return graph;
}

static void free_chunk(struct node_chunk *chunk)
{
    for (size_t i = 0; i < CHUNK_NODES; i++)
        free(atomic_load_explicit(&chunk->upper[i], memory_order_relaxed));
    free(chunk);
}

void graph_free(struct graph *graph)
{
    if (!graph)
        return;
    for (size_t i = 0; i < graph->n_chunks; i++)
        free_chunk(graph->chunks[i]);
    free(graph->chunks);
    pthread_mutex_destroy(&graph->entry_lock);
    for (size_t i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&graph->stripes[i]);
    free(graph);
}

size_t graph_bytes(const struct graph *graph)
{
    return graph->n_chunks * sizeof(struct node_chunk) + atomic_load(&graph->upper_bytes);
}

uint32_t graph_covers(const struct graph *graph)
{
    return atomic_load_explicit(&graph->n, memory_order_acquire);
}

void graph_publish(struct graph *graph, uint32_t n)
{
    atomic_store_explicit(&graph->n, n, memory_order_release);
}

bool graph_reserve(struct graph *graph, size_t n_rows)
{
    while (graph->n_chunks * CHUNK_NODES < n_rows) {
        struct node_chunk *chunk = graph->n_chunks < MATRIX_CHUNKS_MAX
                                       ? aligned_alloc(64, (sizeof *chunk + 63) / 64 * 64)
                                       : NULL;
        if (!chunk)
            return false;
        memset(chunk->links, 0xFF, sizeof chunk->links); /* NO_ROW */
        memset(chunk->upper, 0, sizeof chunk->upper);
        graph->chunks[graph->n_chunks++] = chunk;
    }
    return true;
}

struct upper *graph_add_upper(struct graph *graph, uint32_t row, uint32_t n_levels)
{
    size_t bytes = sizeof(struct upper) + n_levels * sizeof(link_t[LINKS]);
    struct upper *upper = malloc(bytes);
    if (!upper)
        return NULL;
    upper->n_levels = n_levels;
    memset(upper->links, 0xFF, n_levels * sizeof *upper->links);
    atomic_fetch_add(&graph->upper_bytes, bytes);
    atomic_store_explicit(&graph->chunks[row / CHUNK_NODES]->upper[row % CHUNK_NODES], upper,
                          memory_order_release);
    return upper;
}

struct graph_walk *graph_walk_new(const struct graph *graph, size_t n_rows)
{
    struct graph_walk *walk = calloc(1, sizeof *walk);
    if (!walk)
        return NULL;
    walk->visited = calloc(n_rows / 64 + 1, sizeof *walk->visited);
    walk->query = alloc_array(graph->matrix->dim, sizeof *walk->query);
    walk->other = alloc_array(graph->matrix->dim, sizeof *walk->other);
    if (!walk->visited || !walk->query || !walk->other) {
        graph_walk_free(walk);
        return NULL;
    }
    return walk;
}

void graph_walk_free(struct graph_walk *walk)
{
    if (!walk)
        return;
    free(walk->visited);
    free(walk->touched);
    free(walk->frontier);
    free(walk->best);
    free(walk->query);
    free(walk->other);
    free(walk);
}

/* ---- scores -------------------------------------------------------------------------------------
 */

static inline float score_of(const struct graph *graph, const float *query, uint32_t row)
{
    const struct matrix *matrix = graph->matrix;
    float score;
    dot_rows(matrix->form, matrix_row(matrix, row), matrix_scale(matrix, row), 1, matrix->dim,
             query, &score);
    return score;
}

/* A row as f32: in place where it is, else in buffer. */
static const float *floats_of(const struct graph *graph, uint32_t row, float *buffer)
{
    const struct matrix *matrix = graph->matrix;
    if (matrix->form == DOT_F32)
        return matrix_row(matrix, row);
    const float *scale = matrix_scale(matrix, row);
    dot_unpack(matrix->form, matrix_row(matrix, row), scale ? *scale : 1, matrix->dim, buffer);
    return buffer;
}

static int best_first(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;
    if (x->score != y->score)
        return (x->score < y->score) - (x->score > y->score);
    return (x->row > y->row) - (x->row < y->row);
}

/* ---- heaps: the least score first ---------------------------------------------------------------
 */

static void heap_push(struct hit *heap, size_t *n, struct hit hit)
{
    size_t i = (*n)++;
    while (i && heap[(i - 1) / 2].score > hit.score) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = hit;
}

/* Puts hit in the place of the first. */
static void heap_replace(struct hit *heap, size_t n, struct hit hit)
{
    size_t i = 0;
    for (;;) {
        size_t least = 2 * i + 1;
        if (least >= n)
            break;
        if (least + 1 < n && heap[least + 1].score < heap[least].score)
            least++;
        if (heap[least].score >= hit.score)
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = hit;
}

static struct hit heap_pop(struct hit *heap, size_t *n)
{
    struct hit first = heap[0];
    if (--*n)
        heap_replace(heap, *n, heap[*n]);
    return first;
}

/* ---- walking ------------------------------------------------------------------------------------
 */

static bool grow(void *list, size_t *capacity, size_t n, size_t each)
{
    if (n < *capacity)
        return true;
    size_t more = *capacity * 2 > n ? *capacity * 2 : n + 256;
    void *now = realloc_array(*(void **)list, more, each);
    if (!now)
        return false;
    *(void **)list = now;
    *capacity = more;
    return true;
}

/* False where it is marked already, or where there is no memory to remember it: then it is passed
 * by. */
static bool mark(struct graph_walk *walk, uint32_t row)
{
    uint64_t bit = (uint64_t)1 << row % 64;
    if (walk->visited[row / 64] & bit ||
        !grow(&walk->touched, &walk->touched_capacity, walk->n_touched, sizeof *walk->touched))
        return false;
    walk->visited[row / 64] |= bit;
    walk->touched[walk->n_touched++] = row;
    return true;
}

static void unmark_all(struct graph_walk *walk)
{
    for (size_t i = 0; i < walk->n_touched; i++)
        walk->visited[walk->touched[i] / 64] = 0;
    walk->n_touched = 0;
}

/* Downhill on one level until no neighbour is better. */
static struct hit descend(const struct graph *graph, const float *query, struct hit at,
                          unsigned level)
{
    for (bool better = true; better;) {
        size_t max;
        const link_t *links = graph_links(graph, at.row, level, &max);
        better = false;
        for (size_t i = 0; i < max; i++) {
            uint32_t row = link_read(&links[i]);
            if (row == NO_ROW)
                break;
            float score = score_of(graph, query, row);
            if (score > at.score) {
                at = (struct hit){score, row};
                better = true;
            }
        }
    }
    return at;
}

static void prefetch_row(const struct graph *graph, uint32_t row)
{
    const char *at = matrix_row(graph->matrix, row);
    for (size_t i = 0; i < PREFETCH_BYTES; i += 64)
        __builtin_prefetch(at + i);
}

/* The best `effort` nodes near some on a level, into walk->best: those that are in it now (at most
 * `effort`, a heap). */
static void explore(const struct graph *graph, struct graph_walk *walk, const float *query,
                    size_t effort, unsigned level)
{
    unmark_all(walk);
    walk->n_frontier = 0;
    if (!grow(&walk->frontier, &walk->frontier_capacity, walk->n_best, sizeof *walk->frontier))
        return;
    for (size_t i = 0; i < walk->n_best; i++) {
        mark(walk, walk->best[i].row);
        heap_push(walk->frontier, &walk->n_frontier,
                  (struct hit){-walk->best[i].score, walk->best[i].row});
    }
    while (walk->n_frontier) {
        struct hit at = heap_pop(walk->frontier, &walk->n_frontier);
        if (walk->n_best == effort && -at.score < walk->best[0].score)
            break;
        uint32_t fresh[LINKS_0];
        size_t n = 0, max;
        const link_t *links = graph_links(graph, at.row, level, &max);
        for (size_t i = 0; i < max; i++) {
            uint32_t row = link_read(&links[i]);
            if (row == NO_ROW)
                break;
            if (!mark(walk, row))
                continue;
            prefetch_row(graph, row);
            fresh[n++] = row;
        }
        for (size_t i = 0; i < n; i++) {
            struct hit hit = {score_of(graph, query, fresh[i]), fresh[i]};
            if (walk->n_best == effort && !(hit.score > walk->best[0].score))
                continue;
            if (!grow(&walk->frontier, &walk->frontier_capacity, walk->n_frontier,
                      sizeof *walk->frontier))
                continue;
            heap_push(walk->frontier, &walk->n_frontier, (struct hit){-hit.score, hit.row});
            if (walk->n_best < effort)
                heap_push(walk->best, &walk->n_best, hit);
            else
                heap_replace(walk->best, walk->n_best, hit);
        }
    }
}

/* Down from the entry to the level above `level`, and there the best few: walk->best, where to
 * start on `level`. Many starts, as clusters are hardly linked with each other on the lower level
 * but lie close together among the few nodes of the upper one. False: out of memory. */
static bool approach(const struct graph *graph, struct graph_walk *walk, const float *query,
                     uint32_t entry, unsigned level, size_t effort)
{
    size_t starts = effort / 2 + 1;
    if (!grow(&walk->best, &walk->best_capacity, effort, sizeof *walk->best))
        return false;
    struct hit at = {score_of(graph, query, entry), entry};
    unsigned l = graph_level(graph, entry);
    for (; l > level + 1; l--)
        at = descend(graph, query, at, l);
    walk->best[0] = at;
    walk->n_best = 1;
    if (l > level)
        explore(graph, walk, query, starts, l);
    return true;
}

/* ---- building -----------------------------------------------------------------------------------
 */

/* Of candidates, best first, those that no chosen one is nearer to than the node itself is: links
 * in all directions rather than to one crowd. Returns how many. */
static size_t choose(const struct graph *graph, struct graph_walk *walk, const struct hit *from,
                     size_t n, size_t max, uint32_t *chosen)
{
    size_t count = 0;
    for (size_t i = 0; i < n && count < max; i++) {
        const float *candidate = floats_of(graph, from[i].row, walk->other);
        bool fits = true;
        for (size_t j = 0; j < count && fits; j++)
            fits = !(score_of(graph, candidate, chosen[j]) > from[i].score);
        if (fits)
            chosen[count++] = from[i].row;
    }
    return count;
}

static void write_links(link_t *links, size_t max, const uint32_t *rows, size_t n)
{
    for (size_t i = 0; i < max; i++)
        link_write(&links[i], i < n ? rows[i] : NO_ROW);
}

static pthread_mutex_t *stripe_of(struct graph *graph, uint32_t row)
{
    return &graph->stripes[row * 2654435761u % STRIPES];
}

/* row becomes a neighbour of `node` too; a full list is thinned. Uses walk->query. */
static void link_back(struct graph *graph, struct graph_walk *walk, uint32_t node, uint32_t row,
                      unsigned level)
{
    size_t max, n = 0;
    pthread_mutex_lock(stripe_of(graph, node));
    link_t *links = graph_links(graph, node, level, &max);
    while (n < max && link_read(&links[n]) != NO_ROW)
        n++;
    if (n < max) {
        link_write(&links[n], row);
    } else {
        struct hit candidates[LINKS_0 + 1];
        uint32_t chosen[LINKS_0];
        const float *self = floats_of(graph, node, walk->query);
        for (size_t i = 0; i <= n; i++) {
            uint32_t other = i < n ? link_read(&links[i]) : row;
            candidates[i] = (struct hit){score_of(graph, self, other), other};
        }
        qsort(candidates, n + 1, sizeof *candidates, best_first);
        n = choose(graph, walk, candidates, n + 1, level ? PRUNED : PRUNED_0, chosen);
        write_links(links, max, chosen, n);
    }
    pthread_mutex_unlock(stripe_of(graph, node));
}

/* The paper's: on level l with probability 16^-l. The same for a row each time. */
static unsigned level_of_row(uint32_t row)
{
    uint64_t x = (row + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    unsigned level = 0;
    for (; level < LEVELS_MAX && (x & (LINKS - 1)) == 0; x /= LINKS)
        level++;
    return level;
}

/* What is the first node, or higher than the entry, becomes the entry. False: there is another. */
static bool become_entry(struct graph *graph, uint32_t row, unsigned level)
{
    pthread_mutex_lock(&graph->entry_lock);
    uint32_t entry = atomic_load(&graph->entry);
    bool first = entry == NO_ROW;
    if (first || level > graph_level(graph, entry))
        atomic_store(&graph->entry, row);
    pthread_mutex_unlock(&graph->entry_lock);
    return first;
}

bool graph_insert(struct graph *graph, struct graph_walk *walk, uint32_t row)
{
    unsigned level = level_of_row(row);
    if (level && !graph_upper(graph, row) && !graph_add_upper(graph, row, level))
        return false;
    uint32_t entry = atomic_load(&graph->entry);
    if (entry == NO_ROW) {
        if (become_entry(graph, row, level))
            return true;
        entry = atomic_load(&graph->entry);
    }
    float *own = alloc_array(graph->matrix->dim, sizeof *own); /* link_back() uses walk->query */
    if (!own)
        return false;
    const float *query = floats_of(graph, row, own);
    unsigned top = graph_level(graph, entry), l = top < level ? top : level;
    if (!approach(graph, walk, query, entry, l, EFFORT_BUILD)) {
        free(own);
        return false;
    }
    for (;; l--) {
        uint32_t chosen[LINKS_NEW];
        size_t max;
        explore(graph, walk, query, EFFORT_BUILD, l);
        /* Another thread may have linked to it already; it is no neighbour of its own. */
        size_t n_best = 0;
        for (size_t i = 0; i < walk->n_best; i++)
            if (walk->best[i].row != row)
                walk->best[n_best++] = walk->best[i];
        walk->n_best = n_best;
        qsort(walk->best, n_best, sizeof *walk->best, best_first);
        size_t n = choose(graph, walk, walk->best, n_best, l ? LINKS : LINKS_NEW, chosen);
        pthread_mutex_lock(stripe_of(graph, row));
        link_t *links = graph_links(graph, row, l, &max);
        write_links(links, max, chosen, n);
        pthread_mutex_unlock(stripe_of(graph, row));
        for (size_t i = 0; i < n; i++)
            link_back(graph, walk, chosen[i], row, l);
        if (l == 0)
            break;
        /* What was found is where to start below, as a heap again: the worst first. */
        for (size_t i = 0; i < n_best / 2; i++) {
            struct hit swap = walk->best[i];
            walk->best[i] = walk->best[n_best - 1 - i];
            walk->best[n_best - 1 - i] = swap;
        }
    }
    unmark_all(walk);
    if (level > top)
        become_entry(graph, row, level);
    free(own);
    return true;
}

size_t graph_search(const struct graph *graph, struct graph_walk *walk, const float *query,
                    size_t k, size_t effort, struct hit *hits)
{
    uint32_t n_rows = graph_covers(graph), entry = atomic_load(&graph->entry);
    if (entry == NO_ROW)
        return 0;
    if (!approach(graph, walk, query, entry, 0, effort))
        return 0;
    explore(graph, walk, query, effort, 0);
    unmark_all(walk);
    qsort(walk->best, walk->n_best, sizeof *walk->best, best_first);
    size_t n = 0;
    for (size_t i = 0; i < walk->n_best && n < k; i++)
        if (walk->best[i].row < n_rows && graph->matrix->keys[walk->best[i].row])
            hits[n++] = walk->best[i];
    return n;
}

/* ---- removed rows -------------------------------------------------------------------------------
 */

static bool is_dead(const uint64_t *dead, uint32_t row)
{
    return (dead[row / 64] >> row % 64 & 1) != 0;
}

static void repair_list(struct graph *graph, struct graph_walk *walk, const uint64_t *dead,
                        uint32_t row, unsigned level)
{
    struct hit candidates[REPAIR_MAX];
    uint32_t rows[REPAIR_MAX], chosen[LINKS_0];
    size_t max, n = 0;
    link_t *links = graph_links(graph, row, level, &max);
    bool any = false;
    for (size_t i = 0; i < max && !any; i++) {
        uint32_t other = link_read(&links[i]);
        any = other != NO_ROW && is_dead(dead, other);
    }
    if (!any)
        return;
    mark(walk, row);
    for (size_t i = 0; i < max; i++) {
        uint32_t other = link_read(&links[i]);
        if (other == NO_ROW)
            break;
        if (!is_dead(dead, other)) {
            if (n < REPAIR_MAX && mark(walk, other))
                rows[n++] = other;
            continue;
        }
        size_t max_beyond;
        const link_t *beyond = graph_links(graph, other, level, &max_beyond);
        for (size_t j = 0; j < max_beyond && n < REPAIR_MAX; j++) {
            uint32_t next = link_read(&beyond[j]);
            if (next == NO_ROW)
                break;
            if (!is_dead(dead, next) && mark(walk, next))
                rows[n++] = next;
        }
    }
    unmark_all(walk);
    const float *self = floats_of(graph, row, walk->query);
    for (size_t i = 0; i < n; i++)
        candidates[i] = (struct hit){score_of(graph, self, rows[i]), rows[i]};
    qsort(candidates, n, sizeof *candidates, best_first);
    n = choose(graph, walk, candidates, n, level ? PRUNED : PRUNED_0, chosen);
    write_links(links, max, chosen, n);
}

void graph_repair(struct graph *graph, struct graph_walk *walk, const uint64_t *dead, uint32_t row)
{
    if (is_dead(dead, row))
        return;
    for (unsigned level = 0; level <= graph_level(graph, row); level++)
        repair_list(graph, walk, dead, row, level);
}

static void renumber_links(link_t *links, size_t max, const uint32_t *new_rows)
{
    size_t n = 0;
    for (size_t i = 0; i < max; i++) {
        uint32_t row = link_read(&links[i]);
        if (row != NO_ROW && new_rows[row] != NO_ROW)
            link_write(&links[n++], new_rows[row]);
    }
    while (n < max)
        link_write(&links[n++], NO_ROW);
}

void graph_renumber(struct graph *graph, const uint32_t *new_rows)
{
    uint32_t n = 0, entry = NO_ROW, covered = graph_covers(graph);
    for (uint32_t row = 0; row < covered; row++) {
        struct node_chunk *from = graph->chunks[row / CHUNK_NODES];
        struct upper *upper = graph_upper(graph, row);
        atomic_store_explicit(&from->upper[row % CHUNK_NODES], NULL, memory_order_relaxed);
        uint32_t to = new_rows[row];
        if (to == NO_ROW) {
            free(upper);
            continue;
        }
        renumber_links(from->links[row % CHUNK_NODES], LINKS_0, new_rows);
        for (uint32_t l = 0; upper && l < upper->n_levels; l++)
            renumber_links(upper->links[l], LINKS, new_rows);
        struct node_chunk *chunk = graph->chunks[to / CHUNK_NODES];
        if (to != row)
            memcpy(chunk->links[to % CHUNK_NODES], from->links[row % CHUNK_NODES],
                   sizeof chunk->links[0]);
        atomic_store_explicit(&chunk->upper[to % CHUNK_NODES], upper, memory_order_relaxed);
        if (entry == NO_ROW || graph_level(graph, to) > graph_level(graph, entry))
            entry = to;
        n = to + 1;
    }
    /* Places that are free again are empty lists for the next. */
    for (uint32_t row = n; row < covered; row++)
        memset(graph->chunks[row / CHUNK_NODES]->links[row % CHUNK_NODES], 0xFF,
               sizeof(link_t[LINKS_0]));
    atomic_store(&graph->entry, entry);
    graph_publish(graph, n);
}
