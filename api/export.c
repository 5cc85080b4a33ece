/*
 * export.c: GET /v1/collections/{collection}/export: a collection as lines of JSON, however large.
 *
 *   {"collection":{"name":"pets","space":…,"dimensions":512,…}}
 *   {"id":"cat.jpg","metadata":{…},"vector":[…],"image":"base64…"}
 *   …
 *
 * What comes out goes in again at POST …/items (items_add.c), into a collection of the same space.
 * The items are read page by page while the client takes them, so memory does not depend on their
 * number. One that is there all the time comes exactly once, in the order of ids; what is added or
 * removed meanwhile may be in it or not. A fault after the beginning is a last line with `error`.
 */
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/collections.h"

enum { PAGE_BYTES = 128 << 10, PAGE_ITEMS_MAX = 256 };

static const struct field fields[] = {
    {"encoding", FIELD_STRING,
     .help = "of the vectors: float (default), or base64 of little-endian f32, which is half as "
             "long",
     .schema = "'enum': ['float', 'base64', null]"},
    {"images", FIELD_BOOLEAN, .help = "give the pictures that are kept, too (false)"},
    {NULL},
};

struct state {
    struct collection collection;
    bool is_base64, with_images, is_begun;
    char *after; /* the last id that went out; NULL at first */
};

static void release_state(void *data)
{
    struct state *state = data;
    collection_release(&state->collection);
    free(state->after);
}

static enum status begin(struct call *call, struct error *err)
{
    struct store *store;
    struct state *state = collections_begin(call, sizeof *state, release_state, &store, err);
    if (!state)
        return err->status;
    const char *encoding = form_string(&call->form, "encoding", "float").data;
    state->is_base64 = !strcmp(encoding, "base64");
    if (!state->is_base64 && strcmp(encoding, "float"))
        return error_set_param(err, STATUS_OUT_OF_RANGE, "encoding",
                               "'encoding' must be float or base64, not '%.64s'", encoding);
    state->with_images = form_boolean(&call->form, "images", false);
    return collections_get(call, store, &state->collection, err);
}

static bool put_base64(struct json_writer *out, const char *key, const void *bytes, size_t size)
{
    size_t n = base64_encoded_size(size);
    char *text = malloc(n + 1);
    if (!text)
        return false;
    base64_encode(bytes, size, text);
    json_put_text(out, key, text, n);
    free(text);
    return true;
}

static enum status put_image(struct call *call, const char *id, struct json_writer *out,
                             struct error *err)
{
    const struct state *state = call->state;
    void *bytes;
    size_t size;
    struct error fault;
    enum status status =
        store_blob(api_store(call->api), state->collection.name, id, &bytes, &size, &fault);
    if (status == STATUS_NOT_FOUND) /* it has none, or is gone by now */
        return STATUS_OK;
    if (status) {
        *err = fault;
        return status;
    }
    bool fine = put_base64(out, "image", bytes, size);
    free(bytes);
    return fine ? STATUS_OK : error_no_memory(err, "a picture");
}

static enum status put_item(struct call *call, const struct stored_item *item, struct buffer *out,
                            struct error *err)
{
    const struct state *state = call->state;
    struct json_writer line;
    enum status status = STATUS_OK;
    size_t dim = state->collection.dim;
    json_writer_init(&line, out);
    json_begin_object(&line, NULL);
    json_put_string(&line, "id", item->id);
    json_put_raw(&line, "metadata", item->metadata, strlen(item->metadata));
    if (!state->is_base64)
        json_put_floats(&line, "vector", item->vector, dim);
    else if (!put_base64(&line, "vector", item->vector, dim * sizeof *item->vector))
        status = error_no_memory(err, "a vector");
    if (!status && state->with_images)
        status = put_image(call, item->id, &line, err);
    json_end_object(&line);
    if (!status && (json_writer_failed(&line) || !buffer_puts(out, "\n")))
        status = error_set(err, STATUS_UNPROCESSABLE,
                           "item '%.100s' is longer than a reply may be (max_reply_mb)", item->id);
    return status;
}

static enum status put_settings(const struct state *state, struct buffer *out, struct error *err)
{
    struct json_writer line;
    json_writer_init(&line, out);
    json_begin_object(&line, NULL);
    json_begin_object(&line, "collection");
    collections_put_members(&line, &state->collection, true);
    json_end_object(&line);
    json_end_object(&line);
    return json_writer_failed(&line) || !buffer_puts(out, "\n")
               ? error_no_memory(err, "the collection's settings")
               : STATUS_OK;
}

static enum status more(struct call *call, struct buffer *out, bool *ended, struct error *err)
{
    struct state *state = call->state;
    enum status status = STATUS_OK;
    if (!state->is_begun) {
        state->is_begun = true;
        return put_settings(state, out, err);
    }
    size_t item_bytes = state->collection.dim * (state->is_base64 ? 6 : 12) + 256;
    size_t limit = PAGE_BYTES / item_bytes + 1;
    limit = limit < PAGE_ITEMS_MAX ? limit : PAGE_ITEMS_MAX;
    struct stored_item *items;
    size_t n = 0, done = 0;
    status = store_scan(api_store(call->api), state->collection.name, state->after, limit, true,
                        &items, &n, err);
    if (status)
        return status;
    /* With pictures a page may become long: then the rest of it is read again later. */
    for (; done < n && !status && out->size < PAGE_BYTES; done++)
        status = put_item(call, &items[done], out, err);
    char *after = done ? strdup(items[done - 1].id) : NULL;
    *ended = n < limit && done == n;
    if (!status && done && !after)
        status = error_no_memory(err, "an id");
    if (!status && after) {
        free(state->after);
        state->after = after;
    } else {
        free(after);
    }
    stored_items_free(items, n);
    return status;
}

const struct endpoint endpoint_export = {
    .method = "GET",
    .path = "/v1/collections/{collection}/export",
    .id = "exportCollection",
    .tag = "collections",
    .summary = "The collection as lines of JSON, to be added elsewhere",
    .fields = fields,
    .reply_types = {LINES_TYPE},
    .begin = begin,
    .more = more,
};
