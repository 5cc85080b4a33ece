/*
 * graph.h: a navigable small-world graph over a matrix's rows: near neighbours without looking at
 * every row.
 *
 * Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
 * Navigable Small World graphs" (arXiv:1603.09320). Nodes are rows and nothing of the vectors is
 * copied: a node costs 210 bytes or so. The matrix must be `stable`, its scores must be those of
 * vectors of one length (cosines).
 *
 * Threads: searches run under the owner's shared lock at any time, also while nodes are inserted.
 * What changes the graph is called by one builder (graph_insert by several of its threads at once),
 * without a lock, but graph_renumber needs the exclusive one.
 */
#ifndef VLMD_CORE_INDEX_GRAPH_H
#define VLMD_CORE_INDEX_GRAPH_H

#include "core/base/error.h"
#include "core/index/matrix.h"

struct graph;
struct graph_walk; /* scratch of one thread */

struct graph *graph_new(const struct matrix *matrix); /* NULL: out of memory */
void graph_free(struct graph *graph);
size_t graph_bytes(const struct graph *graph);

/* Rows [0, n) are nodes and can be found; the rest is not covered. */
uint32_t graph_covers(const struct graph *graph);

/* With room for rows below n_rows. NULL: out of memory. */
struct graph_walk *graph_walk_new(const struct graph *graph, size_t n_rows);
void graph_walk_free(struct graph_walk *walk);

/* Room for nodes below n_rows; before they are inserted. */
bool graph_reserve(struct graph *graph, size_t n_rows);
/* A row of the matrix becomes a node; several threads may insert at once. False: out of memory, and
 * the row was not linked. */
bool graph_insert(struct graph *graph, struct graph_walk *walk, uint32_t row);
/* All rows below n were inserted. */
void graph_publish(struct graph *graph, uint32_t n);

/* Up to k rows with a key, of those covered, best first: the best of some `effort` that were found
 * near. Returns their number. */
size_t graph_search(const struct graph *graph, struct graph_walk *walk, const float *query,
                    size_t k, size_t effort, struct hit *hits);

/* Links a node past its neighbours that are dead (a bit for each row), as their neighbours are
 * near. */
void graph_repair(struct graph *graph, struct graph_walk *walk, const uint64_t *dead, uint32_t row);
/* As matrix_compact() moved the rows. */
void graph_renumber(struct graph *graph, const uint32_t *new_rows);

/* graph_file.c: a graph in a file. keys [covered] are its rows' (0 = none), as they were under the
 * lock. The file replaces an earlier one at once or not at all. */
enum status graph_save(const struct graph *graph, const int64_t *keys, const char *path,
                       struct error *err);
/* The keys of a file's rows, then its graph, which the matrix must have been laid out for. A file
 * that is damaged, or of another form, is STATUS_IO: build anew. */
struct graph_file;
struct graph_file *graph_file_open(const char *path, const struct matrix *matrix,
                                   const int64_t **keys, size_t *n, struct error *err);
struct graph *graph_file_load(struct graph_file *file, const struct matrix *matrix,
                              struct error *err);
void graph_file_close(struct graph_file *file);

#endif
