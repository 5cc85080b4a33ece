/*
 * items.c: a collection's items, one by one: GET …/items (list), GET and DELETE …/items/{id}, GET
 * …/items/{id}/image (the picture as it was sent). Adding them is items_add.c.
 */
#include <stdlib.h>
#include <string.h>

#include "api/collections.h"

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
