/*
 * store.h: collections of vectors that are kept: what search finds pictures in.
 *
 * One interface, several implementations (struct store_driver in store_internal.h), chosen by the
 * URI: "sqlite:PATH" (a file, WAL; an acknowledged add survives kill -9 and power loss), "memory:"
 * (tests), "postgresql://…" (a server with pgvector, shared by any number of processes; see
 * postgres.c). Vectors of cosine collections are L2-normalised when stored. Search is exact over an
 * in-memory matrix. Everything may be called from any thread; calls are linearizable per item.
 *
 * Names and ids are any UTF-8 of 1 … STORE_NAME_MAX bytes without NUL; they are only ever bound as
 * parameters.
 */
#ifndef VLMD_CORE_INDEX_STORE_H
#define VLMD_CORE_INDEX_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

struct pool;

enum {
    STORE_NAME_MAX = 255,
    STORE_ID_MAX = 512,
    STORE_DIM_MAX = 65536,
    STORE_METADATA_MAX = 1 << 20, /* bytes of one item's metadata JSON */
    STORE_BLOB_MAX = 64 << 20,    /* bytes of one item's picture */
    STORE_TOP_K_MAX = 10000,
    STORE_QUERIES_MAX = 256, /* of one search */
    STORE_RESULT_BYTES_MAX = 256 << 20,
    STORE_RESULTS_MAX = 100 * 1000, /* n_queries · top_k of one search */
};

enum metric { METRIC_COSINE, METRIC_DOT };

/* How vectors lie in memory. Kept, and given back, they are f32 always; the smaller forms only
 * choose candidates, whose scores are then computed from the kept vectors. */
enum precision { PRECISION_F32, PRECISION_F16, PRECISION_INT8, N_PRECISIONS };
const char *precision_name(enum precision precision); /* "f32", "f16", "int8" */
bool precision_parse(const char *name, enum precision *out);

/* A collection's settings; strings are owned by whoever holds the struct (collection_release). */
struct collection {
    char *name;
    char *space; /* the embedding space: "model@revision", or "external" */
    char *model; /* whose encoder fills it; "" for external vectors */
    size_t dim;
    enum metric metric;
    enum precision precision;
    bool keeps_pictures; /* false: store_put drops its items' blobs */
    size_t count;
    size_t indexed; /* of count: how many a graph covers; the rest is searched exactly */
    int64_t created_unix_s;
};
void collection_release(struct collection *collection);

struct store;
struct store_options {
    const char *uri;
    /* What searches are spread over, in pieces of a millisecond or so, so that forward passes get
     * their turns between them. Borrowed; NULL: the caller's thread does it all. */
    struct pool *pool;
    /* Collections (of cosines) of so many items get a graph, built in the background; 0 = never. */
    size_t graph_from;
};
/* A database elsewhere that is away for now is no failure: calls give STATUS_UNAVAILABLE with the
 * reason until it is there. */
struct store *store_open(const struct store_options *options, struct error *err);
void store_close(struct store *store);
/* STATUS_OK, or STATUS_UNAVAILABLE and why calls would fail now. Never blocks. */
enum status store_ready(struct store *store, struct error *err);

/* STATUS_CONFLICT when it exists with other settings (same settings: fine, *created = false). */
enum status store_create(struct store *store, const struct collection *settings, bool *created,
                         struct error *err);
enum status store_get(struct store *store, const char *name, struct collection *out,
                      struct error *err); /* NOT_FOUND */
enum status store_drop(struct store *store, const char *name, struct error *err);
/* All, by name; *out is malloc'd, each to be released. */
enum status store_list(struct store *store, struct collection **out, size_t *n, struct error *err);

struct item {
    const char *id;
    const float *vector;  /* [dim] */
    const char *metadata; /* a JSON object as text; NULL = {} */
    const void *blob;     /* the picture's bytes as they were sent, kept for re-ranking and
                             thumbnails; NULL = none */
    size_t blob_bytes;
};
/* Adds or replaces (by id) all items in one durable transaction, or none. */
enum status store_put(struct store *store, const char *collection, const struct item *items,
                      size_t n, size_t *added, size_t *updated, struct error *err);

struct stored_item {
    char *id;
    char *metadata; /* JSON text; NULL only where a search asked for ids_only */
    float *vector;  /* [dim]; NULL where not asked for */
    float score;    /* search only */
};
void stored_items_free(struct stored_item *items, size_t n);

enum status store_item(struct store *store, const char *collection, const char *id,
                       bool with_vector, struct stored_item **out, struct error *err);
/* A copy (malloc'd) of the item's picture bytes. NOT_FOUND: no such item, or it has none. */
enum status store_blob(struct store *store, const char *collection, const char *id, void **out,
                       size_t *size, struct error *err);
enum status store_remove(struct store *store, const char *collection, const char *id,
                         struct error *err);
/* Items after `after` (NULL = from the start) in id order, at most limit. */
enum status store_scan(struct store *store, const char *collection, const char *after, size_t limit,
                       bool with_vector, struct stored_item **out, size_t *n, struct error *err);

/* For each query the top_k best by the metric, best first (ties: the earlier put). filter is a JSON
 * text ({"and": […]}, {"key": value}, ranges {"gte","gt","lte","lt"}, "in", "exists", "prefix") or
 * NULL; it holds for all queries and is applied so that top_k is full when enough items match.
 * STATUS_OUT_OF_RANGE / STATUS_BAD_REQUEST name the faulty part of a filter. */
struct search {
    const float *vectors; /* [n_queries, dim] */
    size_t n_queries, dim;
    size_t top_k;
    float min_score; /* -INFINITY = none */
    const char *filter;
    bool ids_only; /* the results' metadata stay NULL */
    bool exact;    /* look at every vector, whatever graph there is */
};
struct found { /* by one query */
    struct stored_item *items;
    size_t n;
};
/* STATUS_TOO_LONG where the results' metadata are over STORE_RESULT_BYTES_MAX together.
 * out [n_queries] is written on success only; found_release() each. */
enum status store_search(struct store *store, const char *collection, const struct search *search,
                         struct found *out, struct error *err);
void found_release(struct found *found);

#endif
