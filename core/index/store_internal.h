/*
 * store_internal.h: what a kind of store fills in. store.c checks arguments, so that drivers see
 * only well-formed names, ids, metadata and vectors, and dispatches here.
 */
#ifndef VLMD_CORE_INDEX_STORE_INTERNAL_H
#define VLMD_CORE_INDEX_STORE_INTERNAL_H

#include <jansson.h>

#include "core/index/store.h"

struct store_driver {
    const char *scheme; /* before the ':' of the URI */
    /* rest: what follows the ':'. NULL on failure. */
    void *(*open)(const char *rest, const struct store_options *options, struct error *err);
    void (*close)(void *state);
    enum status (*ready)(void *state, struct error *err); /* NULL: always; never blocks */
    /* As the functions of store.h. Vectors given to put and search are normalised already in cosine
     * collections; filter is parsed (borrowed; NULL = none); items of collections that keep no
     * pictures have no blobs. create: STATUS_CONFLICT by store_check_same(). */
    enum status (*create)(void *state, const struct collection *settings, bool *created,
                          struct error *err);
    enum status (*get)(void *state, const char *name, struct collection *out, struct error *err);
    enum status (*drop)(void *state, const char *name, struct error *err);
    enum status (*list)(void *state, struct collection **out, size_t *n, struct error *err);
    /* dim: of the items' vectors; store_changed() where the collection has another by now. */
    enum status (*put)(void *state, const char *collection, size_t dim, const struct item *items,
                       size_t n, size_t *added, size_t *updated, struct error *err);
    enum status (*item)(void *state, const char *collection, const char *id, bool with_vector,
                        struct stored_item **out, struct error *err);
    enum status (*blob)(void *state, const char *collection, const char *id, void **out,
                        size_t *size, struct error *err);
    enum status (*remove)(void *state, const char *collection, const char *id, struct error *err);
    enum status (*scan)(void *state, const char *collection, const char *after, size_t limit,
                        bool with_vector, struct stored_item **out, size_t *n, struct error *err);
    /* out [n_queries] comes zeroed; on failure store.c releases what was filled. */
    enum status (*search)(void *state, const char *collection, const struct search *search,
                          const json_t *filter, struct found *out, struct error *err);
};

extern const struct store_driver store_driver_sqlite, store_driver_memory;
#ifdef VLMD_POSTGRES
extern const struct store_driver store_driver_postgresql, store_driver_postgres;
#endif

/* A collection that exists, and the settings that somebody wants to create it with: STATUS_CONFLICT
 * where they differ. */
enum status store_check_same(const struct collection *exists, const struct collection *wanted,
                             struct error *err);

/* STATUS_CONFLICT: between looking it up and using it, somebody made the collection anew. */
enum status store_changed(const char *collection, struct error *err);

/* STATUS_TOO_LONG: a search's results' metadata would be over STORE_RESULT_BYTES_MAX together. */
enum status store_too_much(struct error *err);

/* filter.c: a filter is checked once, then applied to metadata objects. */
enum status filter_check(const json_t *filter, struct error *err);
bool filter_matches(const json_t *filter, const json_t *metadata);

#endif
