/*
 * collections.c: PUT/GET/DELETE /v1/collections/{collection} and GET /v1/collections: named sets of
 * vectors of one embedding space.
 */
#include "api/collections.h"

#include <stdlib.h>
#include <string.h>

struct store *collections_store(struct call *call, struct error *err)
{
    struct store *store = api_store(call->api);
    if (!store)
        error_set(err, STATUS_UNAVAILABLE, "this server keeps no collections (no store is set up)");
    return store;
}

void *collections_begin(struct call *call, size_t size, void (*release)(void *state),
                        struct store **store, struct error *err)
{
    *store = collections_store(call, err);
    if (!*store)
        return NULL;
    call->state = arena_zalloc(&call->arena, 1, size);
    if (call->state)
        call->release_state = release;
    else
        error_no_memory(err, "the request");
    return call->state;
}

enum status collections_get(struct call *call, struct store *store, struct collection *out,
                            struct error *err)
{
    return store_get(store, call_param(call, 0), out, err);
}

enum status collections_use_model(struct call *call, const struct collection *collection,
                                  const char *param, struct error *err)
{
    if (!collection->model || !collection->model[0])
        return error_set_param(err, STATUS_UNPROCESSABLE, param,
                               "collection '%.100s' holds vectors made elsewhere; '%s' must be a "
                               "vector here",
                               collection->name, param);
    enum status status = call_use_model(call, collection->model, TASK_EMBED, err);
    if (status)
        return error_prefix(err, "collection '%.100s'", collection->name);
    const char *space = call_space(call);
    if (!space)
        return error_no_memory(err, "the embedding space");
    if (strcmp(space, collection->space))
        return error_set_param(err, STATUS_WRONG_SPACE, param,
                               "collection '%.100s' holds vectors of '%.100s', but this server's "
                               "model is '%.100s' now; embed its items again",
                               collection->name, collection->space, space);
    return STATUS_OK;
}

enum status collections_check_vector(const struct collection *collection, size_t n,
                                     struct span space, const char *param, struct error *err)
{
    if (space.size && strcmp(space.data, collection->space))
        return error_set_param(err, STATUS_WRONG_SPACE, "space",
                               "collection '%.100s' holds vectors of '%.100s', not of '%.100s'",
                               collection->name, collection->space, space.data);
    if (n != collection->dim)
        return error_set_param(err, STATUS_WRONG_SPACE, param,
                               "'%s' has %zu numbers; collection '%.100s' holds vectors of %zu",
                               param, n, collection->name, collection->dim);
    return STATUS_OK;
}

static const char *metric_text(enum metric metric)
{
    return metric == METRIC_DOT ? "dot" : "cosine";
}

void collections_put_members(struct json_writer *out, const struct collection *collection,
                             bool with_model)
{
    json_put_string(out, "name", collection->name);
    if (with_model && collection->model && collection->model[0])
        json_put_string(out, "model", collection->model);
    else if (with_model)
        json_put_null(out, "model");
    json_put_string(out, "space", collection->space);
    json_put_integer(out, "dimensions", (long long)collection->dim);
    json_put_string(out, "metric", metric_text(collection->metric));
    json_put_string(out, "precision", precision_name(collection->precision));
    json_put_bool(out, "thumbnail", collection->keeps_pictures);
    json_put_integer(out, "count", (long long)collection->count);
    json_put_integer(out, "indexed", (long long)collection->indexed);
    json_put_integer(out, "created", collection->created_unix_s);
}

/* ---- PUT ----------------------------------------------------------------------------------------
 */

static const struct field put_fields[] = {
    {"model", FIELD_STRING, .help = "whose embeddings it holds; default: the server's"},
    {"dimensions", FIELD_INTEGER, .min = 1, .max = STORE_DIM_MAX,
     .help = "length of the vectors, for vectors made elsewhere"},
    {"metric", FIELD_STRING, .help = "cosine (default) or dot",
     .schema = "'enum': ['cosine', 'dot', null]"},
    {"precision", FIELD_STRING,
     .help = "how vectors lie in memory: f32 (default), f16 (half the memory) or int8 (a quarter); "
             "scores are exact in any"},
    {"thumbnail", FIELD_BOOLEAN,
     .help = "keep each item's picture as it was sent, to show it and to re-rank by it (true)"},
    {NULL},
};

static enum status read_settings(struct call *call, struct collection *settings, struct error *err)
{
    const struct form *form = &call->form;
    size_t dim = (size_t)form_integer(form, "dimensions", 0);
    const char *metric = form_string(form, "metric", "cosine").data;
    if (strcmp(metric, "cosine") && strcmp(metric, "dot"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "metric",
                               "'metric' must be cosine or dot, not '%.64s'", metric);
    const char *precision = form_string(form, "precision", "f32").data;
    if (!precision_parse(precision, &settings->precision))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "precision",
                               "'precision' must be f32, f16 or int8, not '%.64s'", precision);
    settings->metric = strcmp(metric, "dot") ? METRIC_COSINE : METRIC_DOT;
    settings->keeps_pictures = form_boolean(form, "thumbnail", true);
    settings->name = (char *)call_param(call, 0);
    settings->model = (char *)"";
    settings->space = (char *)EXTERNAL_SPACE;
    settings->dim = dim;
    if (dim && !form_has(form, "model"))
        return STATUS_OK;

    enum status status =
        call_use_model(call, form_string(form, "model", NULL).data, TASK_EMBED, err);
    if (status)
        return status;
    if (dim && dim != call->model->traits.embed_dim)
        return error_set_param(err, STATUS_UNPROCESSABLE, "dimensions",
                               "'dimensions' is %zu, but model '%.100s' gives %zu", dim,
                               call->model->name, call->model->traits.embed_dim);
    settings->dim = call->model->traits.embed_dim;
    settings->model = call->model->name;
    settings->space = (char *)call_space(call);
    return settings->space ? STATUS_OK : error_no_memory(err, "the embedding space");
}

#define COLLECTION_FIELDS                                                                          \
    {"name", FIELD_STRING, FIELD_REQUIRED},                                                        \
        {"model", FIELD_STRING, .schema = "'type': ['string', 'null']",                            \
         .help = "whose embeddings it holds; null: vectors made elsewhere"},                       \
        {"space", FIELD_STRING, FIELD_REQUIRED, .help = "model@revision, or external"},            \
        {"dimensions", FIELD_INTEGER, FIELD_REQUIRED},                                             \
        {"metric", FIELD_STRING, FIELD_REQUIRED, .schema = "'enum': ['cosine', 'dot']"},           \
        {"count", FIELD_INTEGER, FIELD_REQUIRED, .help = "items in it"},                           \
        {"precision", FIELD_STRING, FIELD_REQUIRED, .schema = "'enum': ['f32', 'f16', 'int8']"},   \
        {"thumbnail", FIELD_BOOLEAN, FIELD_REQUIRED, .help = "whether pictures are kept"},         \
        {"indexed", FIELD_INTEGER, FIELD_REQUIRED,                                                 \
         .help = "how many of them a graph covers; the rest is searched exactly"},                 \
    {                                                                                              \
        "created", FIELD_INTEGER, FIELD_REQUIRED, .help = "seconds since 1970"                     \
    }

static const struct field put_reply[] = {
    COLLECTION_FIELDS,
    {"created_now", FIELD_BOOLEAN, FIELD_REQUIRED},
    {NULL},
};

static const struct field get_reply[] = {COLLECTION_FIELDS, {NULL}};

static const struct field delete_reply[] = {
    {"name", FIELD_STRING, FIELD_REQUIRED},
    {"deleted", FIELD_BOOLEAN, FIELD_REQUIRED},
    {NULL},
};

static const struct field list_reply[] = {
    {"collections", FIELD_ANY, FIELD_REQUIRED,
     .schema = "'type': 'array', 'items': {'$ref': '#/components/schemas/Collection'}"},
    {NULL},
};

static enum status put_collection(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    if (!store)
        return err->status;
    if (strlen(call_param(call, 0)) > STORE_NAME_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "collection",
                               "a collection's name has at most %d bytes", STORE_NAME_MAX);
    struct collection settings = {0}, now = {0};
    bool created = false;
    enum status status = read_settings(call, &settings, err);
    if (!status)
        status = store_create(store, &settings, &created, err);
    if (!status)
        status = store_get(store, settings.name, &now, err);
    if (status)
        return status;
    if (created)
        call_status(call, 201);
    collections_put_members(&call->out, &now, !call->model);
    json_put_bool(&call->out, "created_now", created);
    collection_release(&now);
    return STATUS_OK;
}

/* ---- GET, DELETE --------------------------------------------------------------------------------
 */

static enum status get_collection(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection collection = {0};
    if (!store || collections_get(call, store, &collection, err))
        return err->status;
    collections_put_members(&call->out, &collection, true);
    collection_release(&collection);
    return STATUS_OK;
}

static enum status delete_collection(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    if (!store || store_drop(store, call_param(call, 0), err))
        return err->status;
    json_put_string(&call->out, "name", call_param(call, 0));
    json_put_bool(&call->out, "deleted", true);
    return STATUS_OK;
}

static enum status list_collections(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection *list = NULL;
    size_t n = 0;
    if (!store || store_list(store, &list, &n, err))
        return err->status;
    json_begin_list(&call->out, "collections");
    for (size_t i = 0; i < n; i++) {
        json_begin_object(&call->out, NULL);
        collections_put_members(&call->out, &list[i], true);
        json_end_object(&call->out);
        collection_release(&list[i]);
    }
    json_end_list(&call->out);
    free(list);
    return STATUS_OK;
}

const struct endpoint endpoint_collection_put = {
    .method = "PUT",
    .path = "/v1/collections/{collection}",
    .id = "putCollection",
    .tag = "collections",
    .summary = "Create a collection (again with the same settings is fine)",
    .body = BODY_JSON | BODY_OPTIONAL,
    .fields = put_fields,
    .reply = put_reply,
    .creates = true,
    .example = "{'metric': 'cosine'}",
    .begin = put_collection,
};

const struct endpoint endpoint_collection_get = {
    .method = "GET",
    .path = "/v1/collections/{collection}",
    .id = "getCollection",
    .tag = "collections",
    .summary = "A collection's settings and size",
    .reply = get_reply,
    .begin = get_collection,
};

const struct endpoint endpoint_collection_delete = {
    .method = "DELETE",
    .path = "/v1/collections/{collection}",
    .id = "deleteCollection",
    .tag = "collections",
    .summary = "Drop a collection and its items",
    .reply = delete_reply,
    .begin = delete_collection,
};

const struct endpoint endpoint_collections = {
    .method = "GET",
    .path = "/v1/collections",
    .id = "listCollections",
    .tag = "collections",
    .summary = "All collections",
    .reply = list_reply,
    .begin = list_collections,
};
