/*
 * collections.h: what the endpoints of collections and of their items share.
 */
#ifndef VLMD_API_COLLECTIONS_H
#define VLMD_API_COLLECTIONS_H

#include "api/endpoint.h"

enum {
    LIST_LIMIT_DEFAULT = 100,
    LIST_LIMIT_MAX = 1000,
    SEARCH_TOP_K_DEFAULT = 10,
    RERANK_CANDIDATES_MAX = 256,
};

#define EXTERNAL_SPACE "external" /* of vectors made elsewhere */

/* The store, or NULL and STATUS_UNAVAILABLE where none is configured. */
struct store *collections_store(struct call *call, struct error *err);

/* The store, and the call's state: `size` zeroed bytes, which `release` gives back what they hold
 * of when the call ends. NULL: err. */
void *collections_begin(struct call *call, size_t size, void (*release)(void *state),
                        struct store **store, struct error *err);

/* The path's collection; to be released. */
enum status collections_get(struct call *call, struct store *store, struct collection *out,
                            struct error *err);

/* Its settings as members of an object. with_model: false where the call adds `model` to the same
 * object itself. */
void collections_put_members(struct json_writer *out, const struct collection *collection,
                             bool with_model);

/* Makes the collection's model the call's, and checks that it still fills the same space.
 * STATUS_UNPROCESSABLE for a collection of external vectors; `param` names what needs the model. */
enum status collections_use_model(struct call *call, const struct collection *collection,
                                  const char *param, struct error *err);

/* A vector of the request fits the collection: its length, and `space` (which may be empty) where
 * the client named it. */
enum status collections_check_vector(const struct collection *collection, size_t n,
                                     struct span space, const char *param, struct error *err);

#endif
