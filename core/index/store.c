/*
 * store.c: checks what comes in, normalises vectors, and hands over to the driver that the URI
 * names.
 */
#include "core/index/store.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/uri.h"
#include "core/base/utf8.h"
#include "core/index/store_internal.h"

static const struct store_driver *const drivers[] = {
    &store_driver_sqlite,
    &store_driver_memory,
#ifdef VLMD_POSTGRES
    &store_driver_postgresql,
    &store_driver_postgres,
#endif
};

struct store {
    const struct store_driver *driver;
    void *state;
};

struct store *store_open(const struct store_options *options, struct error *err)
{
    const char *uri = options->uri;
    size_t size = strcspn(uri, ":");
    for (size_t i = 0; i < ARRAY_LENGTH(drivers); i++) {
        if (uri[size] != ':' || strlen(drivers[i]->scheme) != size ||
            strncmp(drivers[i]->scheme, uri, size) != 0)
            continue;
        struct store *store = malloc(sizeof *store);
        if (!store) {
            error_no_memory(err, "the store");
            return NULL;
        }
        store->driver = drivers[i];
        store->state = drivers[i]->open(uri + size + 1, options, err);
        if (!store->state) {
            free(store);
            return NULL;
        }
        return store;
    }
    char shown[256];
    uri_hide_secret(shown, sizeof shown, uri);
    error_set_param(err, STATUS_BAD_CONFIG, "store",
#ifdef VLMD_POSTGRES
                    "store: expected sqlite:PATH, memory: or postgresql://…, found '%s'", shown);
#else
                    "store: expected sqlite:PATH or memory: (this build has no PostgreSQL), found "
                    "'%s'",
                    shown);
#endif
    return NULL;
}

enum status store_ready(struct store *store, struct error *err)
{
    return store->driver->ready ? store->driver->ready(store->state, err) : STATUS_OK;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    store->driver->close(store->state);
    free(store);
}

void collection_release(struct collection *collection)
{
    free(collection->name);
    free(collection->space);
    free(collection->model);
    *collection = (struct collection){0};
}

static const char *const precision_names[N_PRECISIONS] = {
    [PRECISION_F32] = "f32", [PRECISION_F16] = "f16", [PRECISION_INT8] = "int8"};

const char *precision_name(enum precision precision)
{
    return (unsigned)precision < N_PRECISIONS ? precision_names[precision] : "?";
}

bool precision_parse(const char *name, enum precision *out)
{
    for (enum precision p = 0; p < N_PRECISIONS; p++)
        if (!strcmp(name, precision_names[p])) {
            *out = p;
            return true;
        }
    return false;
}

enum status store_check_same(const struct collection *exists, const struct collection *wanted,
                             struct error *err)
{
    if (!strcmp(exists->space, wanted->space) && exists->dim == wanted->dim &&
        exists->metric == wanted->metric && exists->precision == wanted->precision &&
        exists->keeps_pictures == wanted->keeps_pictures)
        return STATUS_OK;
    return error_set_param(err, STATUS_CONFLICT, "collection",
                           "collection '%s' exists with other settings: space %s, %zu dimensions, "
                           "metric %s, precision %s, thumbnail %s",
                           exists->name, exists->space, exists->dim,
                           exists->metric == METRIC_COSINE ? "cosine" : "dot",
                           precision_name(exists->precision),
                           exists->keeps_pictures ? "true" : "false");
}

enum status store_changed(const char *collection, struct error *err)
{
    return error_set_param(err, STATUS_CONFLICT, "collection",
                           "collection '%s' was dropped and made anew with other dimensions",
                           collection);
}

enum status store_too_much(struct error *err)
{
    return error_set_param(err, STATUS_TOO_LONG, "top_k",
                           "the results' metadata are over %d MB together; ask for fewer",
                           STORE_RESULT_BYTES_MAX >> 20);
}

void found_release(struct found *found)
{
    stored_items_free(found->items, found->n);
    *found = (struct found){0};
}

void stored_items_free(struct stored_item *items, size_t n)
{
    for (size_t i = 0; items && i < n; i++) {
        free(items[i].id);
        free(items[i].metadata);
        free(items[i].vector);
    }
    free(items);
}

static enum status check_name(const char *text, size_t max, const char *what, struct error *err)
{
    size_t size = strlen(text);
    if (size == 0 || size > max || !utf8_valid(text, size))
        return error_set_param(err, STATUS_OUT_OF_RANGE, what,
                               "%s: expected 1 to %zu bytes of UTF-8", what, max);
    return STATUS_OK;
}

enum status store_create(struct store *store, const struct collection *settings, bool *created,
                         struct error *err)
{
    if (check_name(settings->name, STORE_NAME_MAX, "collection", err))
        return err->status;
    if (settings->dim == 0 || settings->dim > STORE_DIM_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "dimensions",
                               "dimensions: expected 1 to %d, found %zu", STORE_DIM_MAX,
                               settings->dim);
    return store->driver->create(store->state, settings, created, err);
}

enum status store_get(struct store *store, const char *name, struct collection *out,
                      struct error *err)
{
    return store->driver->get(store->state, name, out, err);
}

enum status store_drop(struct store *store, const char *name, struct error *err)
{
    return store->driver->drop(store->state, name, err);
}

enum status store_list(struct store *store, struct collection **out, size_t *n, struct error *err)
{
    return store->driver->list(store->state, out, n, err);
}

/* Copies vector [dim] to out, normalised where the metric wants it. */
static enum status prepare_vector(const struct collection *collection, const float *vector,
                                  const char *whose, float *out, struct error *err)
{
    double squares = 0;
    for (size_t i = 0; i < collection->dim; i++)
        squares += (double)vector[i] * (double)vector[i];
    if (!isfinite(squares) || (collection->metric == METRIC_COSINE && squares == 0))
        return error_set_param(err, STATUS_UNPROCESSABLE, "vector", "the vector of %s is %s", whose,
                               squares == 0 ? "zero and has no direction" : "not finite");
    /* One that was normalised and rounded before stays as it is, so that exports come back equal.
     */
    bool is_unit = fabs(squares - 1) < 4 * (double)FLT_EPSILON;
    double scale = collection->metric == METRIC_COSINE && !is_unit ? 1 / sqrt(squares) : 1;
    for (size_t i = 0; i < collection->dim; i++)
        out[i] = (float)((double)vector[i] * scale);
    return STATUS_OK;
}

static enum status check_metadata(const struct item *item, struct error *err)
{
    size_t size = strlen(item->metadata);
    if (size > STORE_METADATA_MAX)
        return error_set_param(err, STATUS_TOO_LONG, "metadata",
                               "metadata of '%s': %zu bytes; at most %d are kept", item->id, size,
                               STORE_METADATA_MAX);
    json_t *object = json_loadb(item->metadata, size, JSON_REJECT_DUPLICATES, NULL);
    bool fits = json_is_object(object);
    json_decref(object);
    if (!fits)
        return error_set_param(err, STATUS_WRONG_TYPE, "metadata",
                               "metadata of '%s': expected a JSON object", item->id);
    return STATUS_OK;
}

enum status store_put(struct store *store, const char *collection, const struct item *items,
                      size_t n, size_t *added, size_t *updated, struct error *err)
{
    struct collection info;
    if (store_get(store, collection, &info, err))
        return err->status;
    enum status status = STATUS_OK;
    struct item *ready = alloc_array(n, sizeof *ready);
    size_t floats;
    float *vectors = size_mul(n, info.dim, &floats) ? alloc_array(floats, sizeof *vectors) : NULL;
    if (!ready || !vectors)
        status = error_no_memory(err, "items");
    for (size_t i = 0; i < n && !status; i++) {
        ready[i] = items[i];
        if (!ready[i].metadata)
            ready[i].metadata = "{}";
        if (!info.keeps_pictures)
            ready[i].blob = NULL;
        ready[i].vector = vectors + i * info.dim;
        status = check_name(items[i].id, STORE_ID_MAX, "id", err);
        if (!status)
            status = check_metadata(&ready[i], err);
        if (!status && items[i].blob_bytes > STORE_BLOB_MAX)
            status = error_set_param(err, STATUS_TOO_LONG, "image",
                                     "the picture of '%s' is longer than %d bytes", items[i].id,
                                     STORE_BLOB_MAX);
        if (!status)
            status =
                prepare_vector(&info, items[i].vector, items[i].id, vectors + i * info.dim, err);
    }
    if (!status)
        status =
            store->driver->put(store->state, collection, info.dim, ready, n, added, updated, err);
    free(vectors);
    free(ready);
    collection_release(&info);
    return status;
}

enum status store_item(struct store *store, const char *collection, const char *id,
                       bool with_vector, struct stored_item **out, struct error *err)
{
    return store->driver->item(store->state, collection, id, with_vector, out, err);
}

enum status store_blob(struct store *store, const char *collection, const char *id, void **out,
                       size_t *size, struct error *err)
{
    return store->driver->blob(store->state, collection, id, out, size, err);
}

enum status store_remove(struct store *store, const char *collection, const char *id,
                         struct error *err)
{
    return store->driver->remove(store->state, collection, id, err);
}

enum status store_scan(struct store *store, const char *collection, const char *after, size_t limit,
                       bool with_vector, struct stored_item **out, size_t *n, struct error *err)
{
    return store->driver->scan(store->state, collection, after, limit, with_vector, out, n, err);
}

/* The queries, ready for the driver; *out to be freed. */
static enum status prepare_queries(const struct collection *info, const struct search *search,
                                   float **out, struct error *err)
{
    if (search->top_k == 0 || search->top_k > STORE_TOP_K_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "top_k", "top_k: expected 1 to %d",
                               STORE_TOP_K_MAX);
    if (search->n_queries == 0 || search->n_queries > STORE_QUERIES_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "queries",
                               "queries: expected 1 to %d, found %zu", STORE_QUERIES_MAX,
                               search->n_queries);
    if (search->n_queries * search->top_k > STORE_RESULTS_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "top_k",
                               "%zu queries with top_k %zu: at most %d results in one search",
                               search->n_queries, search->top_k, STORE_RESULTS_MAX);
    if (search->dim != info->dim)
        return error_set_param(err, STATUS_WRONG_SPACE, "vector",
                               "the query has %zu dimensions, collection '%s' has %zu (%s)",
                               search->dim, info->name, info->dim, info->space);
    float *vectors = alloc_array(search->n_queries * info->dim, sizeof *vectors);
    if (!vectors)
        return error_no_memory(err, "a query");
    for (size_t i = 0; i < search->n_queries; i++)
        if (prepare_vector(info, search->vectors + i * info->dim, "the query",
                           vectors + i * info->dim, err)) {
            free(vectors);
            return err->status;
        }
    *out = vectors;
    return STATUS_OK;
}

enum status store_search(struct store *store, const char *collection, const struct search *search,
                         struct found *out, struct error *err)
{
    struct collection info;
    if (store_get(store, collection, &info, err))
        return err->status;
    json_t *filter = NULL;
    float *vectors = NULL;
    struct found *found = NULL;
    enum status status = prepare_queries(&info, search, &vectors, err);
    if (!status && search->filter) {
        filter = json_loads(search->filter, JSON_REJECT_DUPLICATES, NULL);
        status = filter ? filter_check(filter, err)
                        : error_set_param(err, STATUS_BAD_REQUEST, "filter",
                                          "filter: it is not valid JSON");
    }
    if (!status && !(found = calloc(search->n_queries, sizeof *found)))
        status = error_no_memory(err, "a search");
    if (!status) {
        struct search ready = *search;
        ready.vectors = vectors;
        status = store->driver->search(store->state, collection, &ready, filter, found, err);
        if (!status)
            memcpy(out, found, search->n_queries * sizeof *out);
        for (size_t i = 0; status && i < search->n_queries; i++)
            found_release(&found[i]);
    }
    free(found);
    json_decref(filter);
    free(vectors);
    collection_release(&info);
    return status;
}
