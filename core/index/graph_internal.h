/*
 * graph_internal.h: how a graph lies in memory, for graph.c and graph_file.c.
 */
#ifndef VLMD_CORE_INDEX_GRAPH_INTERNAL_H
#define VLMD_CORE_INDEX_GRAPH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/index/graph.h"

#define NO_ROW UINT32_MAX

enum {
    LINKS_NEW = 24, /* of a new node on the lowest level */
    LINKS_0 = 48,   /* at most, there: three cache lines */
    LINKS = 16,     /* of a node on an upper level */
    LEVELS_MAX = 7, /* upper ones: 16^7 nodes */
    CHUNK_NODES = 4096,
    STRIPES = 1024,
};

/* A list of links ends at NO_ROW or is full. They are written under the node's stripe and read
 * without: a reader may see a mixture of two lists, all of which were neighbours. */
typedef _Atomic uint32_t link_t;

struct upper {
    uint32_t n_levels;
    link_t links[][LINKS];
};

struct node_chunk {
    link_t links[CHUNK_NODES][LINKS_0];
    _Atomic(struct upper *) upper[CHUNK_NODES]; /* NULL: the node is on the lowest level only */
};

struct graph {
    const struct matrix *matrix;
    _Atomic uint32_t n;         /* covered */
    _Atomic uint32_t entry;     /* a node of the highest level; NO_ROW: there are none */
    struct node_chunk **chunks; /* [MATRIX_CHUNKS_MAX]; they never move */
    size_t n_chunks;
    _Atomic size_t upper_bytes;
    pthread_mutex_t entry_lock; /* to change entry */
    pthread_mutex_t stripes[STRIPES];
};

static inline struct upper *graph_upper(const struct graph *graph, uint32_t row)
{
    return atomic_load_explicit(&graph->chunks[row / CHUNK_NODES]->upper[row % CHUNK_NODES],
                                memory_order_acquire);
}

static inline unsigned graph_level(const struct graph *graph, uint32_t row)
{
    const struct upper *upper = graph_upper(graph, row);
    return upper ? upper->n_levels : 0;
}

/* *max: the list's room. level <= graph_level(). */
static inline link_t *graph_links(const struct graph *graph, uint32_t row, unsigned level,
                                  size_t *max)
{
    *max = level ? LINKS : LINKS_0;
    return level ? graph_upper(graph, row)->links[level - 1]
                 : graph->chunks[row / CHUNK_NODES]->links[row % CHUNK_NODES];
}

static inline uint32_t link_read(const link_t *link)
{
    return atomic_load_explicit(link, memory_order_acquire);
}

static inline void link_write(link_t *link, uint32_t row)
{
    atomic_store_explicit(link, row, memory_order_release);
}

/* A node's upper levels, all empty; NULL: out of memory. */
struct upper *graph_add_upper(struct graph *graph, uint32_t row, uint32_t n_levels);

#endif
