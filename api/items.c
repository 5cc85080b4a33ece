/*
 * items.c: a collection's items: POST …/items (embed and add), GET …/items (list), GET and DELETE
 * …/items/{id}, GET …/items/{id}/image (the picture as it was sent).
 *
 * A batch is malformed as a whole (wrong types, no id: 400), but a broken picture or an over-long
 * text concerns its own item only: it is reported in `errors`, the others are added in one
 * transaction. Pictures are kept as they were sent, for re-ranking.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/collections.h"
#include "api/embed.h"

static const struct field post_fields[] = {
    {"items", FIELD_ANY, .help = "[{id, image or text or vector, metadata?}]",
     .schema = "'type': ['array', 'null'], 'items': {'type': 'object', "
               "'properties': {'id': {'type': 'string'}, "
               "'image': {'$ref': '#/components/schemas/Picture'}, 'text': {'type': 'string'}, "
               "'vector': {'type': 'array', 'items': {'type': 'number'}}, "
               "'metadata': {'type': 'object'}}, 'required': ['id']}"},
    {"image", FIELD_IMAGES, .help = "pictures, for bodies that carry them as files"},
    {"id", FIELD_STRINGS, .help = "their ids, in order; default: the file names"},
    {"metadata", FIELD_OBJECT, .help = "of the pictures in 'image'"},
    {"space", FIELD_STRING, .help = "the embedding space of the vectors, to be checked"},
    {NULL},
};

static const struct field post_reply[] = {
    {"added", FIELD_INTEGER, FIELD_REQUIRED, .help = "items that were new"},
    {"updated", FIELD_INTEGER, FIELD_REQUIRED, .help = "items that replaced one with their id"},
    {"errors", FIELD_ANY, .help = "[{index, id, error}] of the items that could not be added",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'index': {'type': 'integer'}, 'id': {'type': 'string'}, "
               "'error': {'$ref': '#/components/schemas/Fault'}}, 'required': ['index', 'id', "
               "'error']}"},
    {NULL},
};

struct new_item {
    struct span id;
    const char *metadata; /* JSON, NULL = none */
    const float *vector;  /* given, or computed in finish() */
};

struct state {
    struct collection collection;
    size_t n;
    struct new_item *items;
    struct embed_item *sources;
};

static void release_state(void *state)
{
    collection_release(&((struct state *)state)->collection);
}

static enum status read_id(struct span id, const char *param, struct new_item *out,
                           struct error *err)
{
    if (!id.size || id.size > STORE_ID_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, param,
                               "'%s' must have 1 to %d bytes, not %zu", param, STORE_ID_MAX,
                               id.size);
    out->id = id;
    return STATUS_OK;
}

static enum status read_metadata(struct call *call, const json_t *metadata, const char *param,
                                 struct new_item *out, struct error *err)
{
    if (!json_is_object(metadata))
        return error_set_param(err, STATUS_WRONG_TYPE, param, "'%s' must be an object, not %s",
                               param, json_kind(metadata));
    struct buffer text;
    struct json_writer writer;
    buffer_init(&text, STORE_METADATA_MAX);
    json_writer_init(&writer, &text);
    json_put_value(&writer, NULL, metadata);
    enum status status = STATUS_OK;
    if (json_writer_failed(&writer))
        status = error_set_param(err, STATUS_OUT_OF_RANGE, param, "'%s' is over %d bytes of JSON",
                                 param, STORE_METADATA_MAX);
    else if (!(out->metadata = arena_string(&call->arena, text.data, text.size)))
        status = error_no_memory(err, "metadata");
    buffer_release(&text);
    return status;
}

/* One entry of `items`. */
static enum status read_entry(struct call *call, struct state *state, size_t i, const json_t *entry,
                              struct error *err)
{
    struct new_item *item = &state->items[i];
    struct embed_item *source = &state->sources[i];
    char base[32], param[64];
    snprintf(base, sizeof base, "items[%zu]", i);
    if (!json_is_object(entry))
        return error_set_param(err, STATUS_WRONG_TYPE, base, "'%s' must be an object, not %s", base,
                               json_kind(entry));
    const json_t *id = NULL, *metadata = NULL, *content = NULL;
    const char *kind = NULL, *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)entry, name, value)
    {
        snprintf(param, sizeof param, "%s.%.20s", base, name);
        if (!strcmp(name, "id")) {
            id = value;
        } else if (!strcmp(name, "metadata")) {
            metadata = json_is_null(value) ? NULL : value;
        } else if (!strcmp(name, "image") || !strcmp(name, "text") || !strcmp(name, "vector")) {
            if (kind)
                return error_set_param(err, STATUS_BAD_REQUEST, param,
                                       "'%s' has both '%s' and '%s'; give one", base, kind, name);
            kind = name;
            content = value;
        } else {
            return error_set_param(err, STATUS_UNKNOWN_FIELD, param,
                                   "unknown field '%s'; an item has id, image or text or vector, "
                                   "and metadata",
                                   param);
        }
    }
    snprintf(param, sizeof param, "%s.id", base);
    if (!id)
        return error_set_param(err, STATUS_MISSING_FIELD, param, "'%s' is missing", param);
    if (!kind)
        return error_set_param(err, STATUS_MISSING_FIELD, base,
                               "'%s' has none of image, text and vector", base);
    struct span text;
    enum status status = string_from_json(id, param, &text, err);
    if (!status)
        status = read_id(text, param, item, err);
    snprintf(param, sizeof param, "%s.metadata", base);
    if (!status && metadata)
        status = read_metadata(call, metadata, param, item, err);
    if (status)
        return status;

    snprintf(source->param, sizeof source->param, "%s.%s", base, kind);
    if (!strcmp(kind, "vector")) {
        float *vector;
        size_t n;
        source->skip = true;
        status = vector_from_json(content, source->param, &call->arena, &vector, &n, err);
        item->vector = status ? NULL : vector;
        if (!status)
            collections_check_vector(&state->collection, n, form_string(&call->form, "space", ""),
                                     source->param, &source->error);
    } else if (!strcmp(kind, "image")) {
        source->is_image = true;
        status = picture_from_json(content, source->param, &source->picture, err);
    } else {
        status = string_from_json(content, source->param, &source->text, err);
    }
    return status;
}

/* The pictures that came as files. */
static enum status read_pictures(struct call *call, struct state *state, size_t first,
                                 struct error *err)
{
    const struct form_value *pictures = form_value(&call->form, "image");
    const struct form_value *ids = form_value(&call->form, "id");
    const json_t *metadata = form_json(&call->form, "metadata");
    if (!pictures)
        return STATUS_OK;
    if (ids && ids->n != pictures->n)
        return error_set_param(err, STATUS_BAD_REQUEST, "id",
                               "'id' is given %zu times for %zu pictures", ids->n, pictures->n);
    for (size_t i = 0; i < pictures->n; i++) {
        struct embed_item *source = &state->sources[first + i];
        struct span id = ids ? ids->strings[i] : pictures->pictures[i].filename;
        if (!id.size)
            return error_set_param(err, STATUS_MISSING_FIELD, "id",
                                   "'id' is missing, and the picture has no file name");
        enum status status = read_id(id, "id", &state->items[first + i], err);
        if (!status && metadata)
            status = read_metadata(call, metadata, "metadata", &state->items[first + i], err);
        if (status)
            return status;
        source->is_image = true;
        source->picture = pictures->pictures[i];
        memcpy(source->param, source->picture.param, sizeof source->param);
    }
    return STATUS_OK;
}

static enum status read_items(struct call *call, struct state *state, struct error *err)
{
    const json_t *items = form_json(&call->form, "items");
    const struct form_value *pictures = form_value(&call->form, "image");
    if (!items && !pictures)
        return error_set_param(err, STATUS_MISSING_FIELD, "items", "'items' is missing: %s",
                               post_fields[0].help);
    if (items && !json_is_array(items))
        return error_set_param(err, STATUS_WRONG_TYPE, "items", "'items' must be a list, not %s",
                               json_kind(items));
    size_t n_entries = items ? json_array_size(items) : 0;
    state->n = n_entries + (pictures ? pictures->n : 0);
    if (!state->n)
        return error_set_param(err, STATUS_UNPROCESSABLE, "items", "'items' must not be empty");
    enum status status = call_admit(call, state->n, "items", err);
    if (status)
        return status;
    state->items = arena_zalloc(&call->arena, state->n, sizeof *state->items);
    state->sources = arena_zalloc(&call->arena, state->n, sizeof *state->sources);
    if (!state->items || !state->sources)
        return error_no_memory(err, "the items");
    for (size_t i = 0; i < n_entries && !status; i++)
        status = read_entry(call, state, i, json_array_get(items, i), err);
    return status ? status : read_pictures(call, state, n_entries, err);
}

static enum status post_finish(struct call *call, struct error *err);

static enum status post_begin(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct state *state = store ? arena_zalloc(&call->arena, 1, sizeof *state) : NULL;
    if (!state)
        return store ? error_no_memory(err, "the request") : err->status;
    call->state = state;
    call->release_state = release_state;
    enum status status = collections_get(call, store, &state->collection, err);
    if (!status)
        status = read_items(call, state, err);
    if (status)
        return status;
    const struct embed_item *first = NULL; /* that needs the model */
    for (size_t i = 0; i < state->n && !first; i++)
        first = state->sources[i].skip ? NULL : &state->sources[i];
    if (first && collections_use_model(call, &state->collection, first->param, err))
        return err->status;
    bool submitted;
    status = embed_submit(call, state->sources, state->n, "items", &submitted, err);
    if (!status && !submitted)
        status = post_finish(call, err);
    return status;
}

static void put_errors(struct call *call, const struct state *state)
{
    json_begin_list(&call->out, "errors");
    for (size_t i = 0; i < state->n; i++) {
        if (!state->sources[i].error.status)
            continue;
        json_begin_object(&call->out, NULL);
        json_put_integer(&call->out, "index", (long long)i);
        json_put_text(&call->out, "id", state->items[i].id.data, state->items[i].id.size);
        json_put_error(&call->out, "error", &state->sources[i].error);
        json_end_object(&call->out);
    }
    json_end_list(&call->out);
}

static enum status post_finish(struct call *call, struct error *err)
{
    struct state *state = call->state;
    struct item *items = arena_zalloc(&call->arena, state->n, sizeof *items);
    if (!items)
        return error_no_memory(err, "the items");
    size_t n = 0, added = 0, updated = 0;
    for (size_t i = 0; i < state->n; i++) {
        struct embed_item *source = &state->sources[i];
        const float *vector = source->skip ? state->items[i].vector : embed_result(call, source);
        if (source->error.status)
            continue;
        items[n] = (struct item){
            .id = state->items[i].id.data, .vector = vector, .metadata = state->items[i].metadata};
        if (source->is_image && source->bytes.size <= STORE_BLOB_MAX) {
            items[n].blob = source->bytes.data;
            items[n].blob_bytes = source->bytes.size;
        }
        n++;
    }
    if (!n && state->n == 1) {
        *err = state->sources[0].error;
        return err->status;
    }
    enum status status = STATUS_OK;
    if (n)
        status = store_put(collections_store(call, err), state->collection.name, items, n, &added,
                           &updated, err);
    if (status)
        return status;
    json_put_integer(&call->out, "added", (long long)added);
    json_put_integer(&call->out, "updated", (long long)updated);
    if (n < state->n)
        put_errors(call, state);
    return STATUS_OK;
}

/* ---- reading and removing -----------------------------------------------------------------------
 */

static const struct field get_fields[] = {
    {"vector", FIELD_BOOLEAN, .help = "give the vector too"},
    {NULL},
};

static const struct field list_fields[] = {
    {"limit", FIELD_INTEGER, .min = 1, .max = LIST_LIMIT_MAX, .help = "items of one page"},
    {"after", FIELD_STRING, .help = "the cursor: 'next' of the page before"},
    {"vector", FIELD_BOOLEAN, .help = "give the vectors too"},
    {NULL},
};

static const struct field item_reply[] = {
    {"id", FIELD_STRING, FIELD_REQUIRED},
    {"metadata", FIELD_OBJECT, FIELD_REQUIRED},
    {"vector", FIELD_VECTOR},
    {NULL},
};

static const struct field list_reply[] = {
    {"items", FIELD_ANY, FIELD_REQUIRED,
     .schema = "'type': 'array', 'items': {'$ref': '#/components/schemas/Item'}"},
    {"next", FIELD_STRING, FIELD_REQUIRED, .help = "'after' of the next page; null: no more",
     .schema = "'type': ['string', 'null']"},
    {NULL},
};

static const struct field delete_reply[] = {
    {"id", FIELD_STRING, FIELD_REQUIRED},
    {"deleted", FIELD_BOOLEAN, FIELD_REQUIRED},
    {NULL},
};

static void put_item_members(struct json_writer *out, const struct stored_item *item, size_t dim)
{
    json_put_string(out, "id", item->id);
    json_put_raw(out, "metadata", item->metadata, strlen(item->metadata));
    if (item->vector)
        json_put_floats(out, "vector", item->vector, dim);
}

static enum status get_item(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection collection = {0};
    if (!store || collections_get(call, store, &collection, err))
        return err->status;
    struct stored_item *item = NULL;
    enum status status = store_item(store, collection.name, call_param(call, 1),
                                    form_boolean(&call->form, "vector", false), &item, err);
    if (!status) {
        put_item_members(&call->out, item, collection.dim);
        stored_items_free(item, 1);
    }
    collection_release(&collection);
    return status;
}

static const char *picture_type(const unsigned char *bytes, size_t size)
{
    if (size >= 2 && bytes[0] == 0xFF && bytes[1] == 0xD8)
        return "image/jpeg";
    if (size >= 4 && !memcmp(bytes, "\x89PNG", 4))
        return "image/png";
    if (size >= 12 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "WEBP", 4))
        return "image/webp";
    return "application/octet-stream";
}

static enum status get_item_image(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection collection = {0};
    if (!store || collections_get(call, store, &collection, err))
        return err->status;
    void *bytes = NULL;
    size_t size = 0;
    enum status status =
        store_blob(store, collection.name, call_param(call, 1), &bytes, &size, err);
    if (!status) {
        reply_header(&call->reply, "X-Content-Type-Options", "nosniff");
        status = call_reply_bytes(call, picture_type(bytes, size), bytes, size, err);
        free(bytes);
    }
    collection_release(&collection);
    return status;
}

static enum status delete_item(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    if (!store || store_remove(store, call_param(call, 0), call_param(call, 1), err))
        return err->status;
    json_put_string(&call->out, "id", call_param(call, 1));
    json_put_bool(&call->out, "deleted", true);
    return STATUS_OK;
}

static enum status list_items(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection collection = {0};
    if (!store || collections_get(call, store, &collection, err))
        return err->status;
    size_t limit = (size_t)form_integer(&call->form, "limit", LIST_LIMIT_DEFAULT);
    struct stored_item *items = NULL;
    size_t n = 0;
    /* One more than asked for tells whether there is a next page. */
    enum status status =
        store_scan(store, collection.name, form_string(&call->form, "after", NULL).data, limit + 1,
                   form_boolean(&call->form, "vector", false), &items, &n, err);
    if (!status) {
        struct json_writer *out = &call->out;
        size_t shown = n < limit ? n : limit;
        json_begin_list(out, "items");
        for (size_t i = 0; i < shown; i++) {
            json_begin_object(out, NULL);
            put_item_members(out, &items[i], collection.dim);
            json_end_object(out);
        }
        json_end_list(out);
        if (n > limit)
            json_put_string(out, "next", items[limit - 1].id);
        else
            json_put_null(out, "next");
        stored_items_free(items, n);
    }
    collection_release(&collection);
    return status;
}

const struct endpoint endpoint_items_post = {
    .method = "POST",
    .path = "/v1/collections/{collection}/items",
    .id = "addItems",
    .tag = "collections",
    .summary = "Embed and add items",
    .body = BODY_FORMS,
    .fields = post_fields,
    .reply = post_reply,
    .example =
        "{'items': [{'id': 'a', 'image': '" EXAMPLE_PICTURE "', 'metadata': {'colour': 'red'}}]}",
    .begin = post_begin,
    .finish = post_finish,
};

const struct endpoint endpoint_items_list = {
    .method = "GET",
    .path = "/v1/collections/{collection}/items",
    .id = "listItems",
    .tag = "collections",
    .summary = "Items in the order of their ids, page by page",
    .fields = list_fields,
    .reply = list_reply,
    .begin = list_items,
};

const struct endpoint endpoint_item_get = {
    .method = "GET",
    .path = "/v1/collections/{collection}/items/{id}",
    .id = "getItem",
    .tag = "collections",
    .summary = "One item",
    .fields = get_fields,
    .reply = item_reply,
    .begin = get_item,
};

const struct endpoint endpoint_item_image = {
    .method = "GET",
    .path = "/v1/collections/{collection}/items/{id}/image",
    .id = "getItemImage",
    .tag = "collections",
    .summary = "An item's picture, as it was sent",
    .reply_types = {"image/jpeg", "image/png", "image/webp", "application/octet-stream"},
    .begin = get_item_image,
};

const struct endpoint endpoint_item_delete = {
    .method = "DELETE",
    .path = "/v1/collections/{collection}/items/{id}",
    .id = "deleteItem",
    .tag = "collections",
    .summary = "Remove one item",
    .reply = delete_reply,
    .begin = delete_item,
};
