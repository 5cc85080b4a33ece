/*
 * queries.h: what a search looks for: a text, a picture or a vector, a weighted sum of them ("this,
 * but not that"), or several such queries at once.
 */
#ifndef VLMD_API_QUERIES_H
#define VLMD_API_QUERIES_H

#include "api/collections.h"
#include "api/embed.h"
#include "core/base/size.h"

enum { QUERY_PARTS_MAX = 32, QUERY_WEIGHT_MAX = 100 };

struct search_query {
    size_t first, n;    /* its parts */
    char param[64];     /* what errors name */
    struct error error; /* why it cannot be searched for; STATUS_OK otherwise */
    struct span text;   /* of the first text with a positive weight; "" = none */
};

struct queries {
    size_t n;
    struct search_query *list; /* [n] */
    bool is_list; /* they came as `queries`: a reply for each, and faults stand alone */
    size_t n_parts;
    struct embed_item *items; /* [n_parts]; skip = its vector was given */
    float *weights;           /* [n_parts] */
    const float **vectors;    /* [n_parts]: those given */
};

/* The form's fields `text`, `image`, `vector`, `query` and `queries` (exactly one of them), into
 * the call's arena. */
enum status queries_read(struct call *call, const struct collection *collection,
                         struct queries *out, struct error *err);

/* Submits what has to be embedded, with the collection's model made the call's; *submitted = false
 * when there is nothing to wait for. */
enum status queries_submit(struct call *call, const struct collection *collection,
                           struct queries *queries, bool *submitted, struct error *err);

/* Once the job is done: the vectors [*n_ready, dim] of the queries without error, in order, in the
 * arena. A lone query's error is the call's. */
enum status queries_vectors(struct call *call, const struct collection *collection,
                            struct queries *queries, float **out, size_t *n_ready,
                            struct error *err);

#endif
