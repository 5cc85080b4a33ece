/*
 * items_add.c: POST /v1/collections/{collection}/items: embeds and adds items.
 *
 * Three ways in. A JSON body or a form is a batch: malformed as a whole (wrong types, no id: 400)
 * or one transaction, where a broken picture, an over-long text or a vector without direction
 * concerns its own item only. A body of lines (application/x-ndjson, one item a line) may be longer
 * than fits into memory: the server hands it in pieces, each call takes some whole lines from the
 * front (read_lines), adds what can be added in one transaction, and says how far it came
 * (call_lines). There even a malformed line concerns itself only.
 *
 * What comes out is `added`, `updated` and `errors`, or (always for lines, for batches with
 * `lines`) a line of JSON for each item and a last one with the sums:
 *
 *   {"line":1,"id":"a","ok":true}
 *   {"line":2,"id":"b","ok":false,"error":{…}}
 *   {"done":true,"lines":2,"added":1,"updated":0,"failed":1}
 *
 * An item that is answered with ok is on the disk. Pictures are kept as they were sent, for
 * re-ranking and thumbnails; with a `vector` beside it a picture is only kept (that is how an
 * export comes back without a model).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/collections.h"
#include "api/embed.h"
#include "core/base/size.h"
#include "core/image/image.h"

enum {
    LINES_MAX = 1024,    /* of one call */
    LINES_WORKS_MAX = 32 /* of them that the model has to embed: a forward pass or so */
};

static const struct field post_fields[] = {
    {"items", FIELD_ANY,
     .help = "[{id, image or text or vector, metadata?}]; a vector is a list of numbers or base64 "
             "of little-endian f32, and may have its image beside it",
     .schema = "'type': ['array', 'null'], 'items': {'type': 'object', "
               "'properties': {'id': {'type': 'string'}, "
               "'image': {'$ref': '#/components/schemas/Picture'}, 'text': {'type': 'string'}, "
               "'vector': {'type': ['array', 'string'], 'items': {'type': 'number'}}, "
               "'metadata': {'type': 'object'}}, 'required': ['id']}"},
    {"image", FIELD_IMAGES, .help = "pictures, for bodies that carry them as files"},
    {"id", FIELD_STRINGS, .help = "their ids, in order; default: the file names"},
    {"metadata", FIELD_OBJECT, .help = "of the pictures in 'image'"},
    {"space", FIELD_STRING, .help = "the embedding space of the vectors, to be checked"},
    {"lines", FIELD_BOOLEAN,
     .help = "answer with a line of JSON for each item; a body of lines is answered so always"},
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
    size_t line;          /* 1 for the first; of a batch: the item's place */
    const char *metadata; /* JSON, NULL = none */
    const float *vector;  /* given, or computed in finish() */
    bool is_settings;     /* an export's first line: nothing to add */
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

/* A picture beside a vector: nothing is computed from it, so it is only looked at. */
static enum status read_kept_picture(struct call *call, const json_t *value, const char *param,
                                     struct embed_item *source, struct error *err)
{
    enum status status = picture_from_json(value, param, &source->picture, err);
    if (!status)
        status = call_picture_bytes(call, &source->picture, &source->bytes, err);
    if (!status && image_sniff(source->bytes.data, source->bytes.size) == IMAGE_UNKNOWN)
        status = error_set_param(err, STATUS_UNKNOWN_IMAGE, param,
                                 "'%s' is no JPEG, PNG or WebP picture", param);
    source->is_image = !status;
    return status;
}

/* The members of an entry: id, metadata, and what is to be embedded, kept or taken as it is. */
struct entry {
    const json_t *id, *metadata, *image, *text, *vector;
};

static enum status read_members(const json_t *value, const char *base, struct entry *out,
                                struct error *err)
{
    const struct {
        const char *name;
        const json_t **member;
    } members[] = {{"id", &out->id},
                   {"metadata", &out->metadata},
                   {"image", &out->image},
                   {"text", &out->text},
                   {"vector", &out->vector}};
    char param[64];
    if (!json_is_object(value))
        return error_set_param(err, STATUS_WRONG_TYPE, base, "'%s' must be an object, not %s", base,
                               json_kind(value));
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        const json_t **slot = NULL;
        for (size_t i = 0; i < ARRAY_LENGTH(members); i++)
            if (!strcmp(members[i].name, name))
                slot = members[i].member;
        snprintf(param, sizeof param, "%s.%.20s", base, name);
        if (!slot)
            return error_set_param(err, STATUS_UNKNOWN_FIELD, param,
                                   "unknown field '%s'; an item has id, image or text or vector, "
                                   "and metadata",
                                   param);
        *slot = member;
    }
    if (json_is_null(out->metadata))
        out->metadata = NULL;
    snprintf(param, sizeof param, "%s.id", base);
    if (!out->id)
        return error_set_param(err, STATUS_MISSING_FIELD, param, "'%s' is missing", param);
    if (!out->image && !out->text && !out->vector)
        return error_set_param(err, STATUS_MISSING_FIELD, base,
                               "'%s' has none of image, text and vector", base);
    const char *other = out->image ? "image" : "vector";
    snprintf(param, sizeof param, "%s.text", base);
    if (out->text && (out->image || out->vector))
        return error_set_param(err, STATUS_BAD_REQUEST, param,
                               "'%s' has both 'text' and '%s'; give one", base, other);
    return STATUS_OK;
}

/* An entry of `items`, or a line; `base` names it in errors. */
static enum status read_entry(struct call *call, struct state *state, size_t i, const char *base,
                              const json_t *value, struct error *err)
{
    struct new_item *item = &state->items[i];
    struct embed_item *source = &state->sources[i];
    struct entry entry = {0};
    enum status status = read_members(value, base, &entry, err);
    if (status)
        return status;
    char param[64];
    struct span text;
    snprintf(param, sizeof param, "%s.id", base);
    status = string_from_json(entry.id, param, &text, err);
    if (!status)
        status = read_id(text, param, item, err);
    snprintf(param, sizeof param, "%s.metadata", base);
    if (!status && entry.metadata)
        status = read_metadata(call, entry.metadata, param, item, err);
    if (status)
        return status;

    snprintf(source->param, sizeof source->param, "%s.%s", base,
             entry.vector  ? "vector"
             : entry.image ? "image"
                           : "text");
    if (entry.vector) {
        float *vector;
        size_t n;
        source->skip = true;
        status = vector_from_json(entry.vector, source->param, &call->arena, &vector, &n, err);
        item->vector = status ? NULL : vector;
        if (!status)
            collections_check_vector(&state->collection, n, form_string(&call->form, "space", ""),
                                     source->param, &source->error);
        snprintf(param, sizeof param, "%s.image", base);
        if (!status && entry.image && !source->error.status)
            read_kept_picture(call, entry.image, param, source, &source->error);
    } else if (entry.image) {
        source->is_image = true;
        status = picture_from_json(entry.image, source->param, &source->picture, err);
    } else {
        status = string_from_json(entry.text, source->param, &source->text, err);
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
    for (size_t i = 0; i < n_entries && !status; i++) {
        char base[32];
        snprintf(base, sizeof base, "items[%zu]", i);
        status = read_entry(call, state, i, base, json_array_get(items, i), err);
    }
    for (size_t i = 0; i < state->n; i++)
        state->items[i].line = i + 1;
    return status ? status : read_pictures(call, state, n_entries, err);
}

/* ---- lines --------------------------------------------------------------------------------------
 */

/* The first line of an export: the settings of the collection that it came from. */
static enum status check_settings(const struct state *state, const json_t *settings,
                                  struct error *err)
{
    const char *space = json_string_value(json_object_get(settings, "space"));
    const json_t *dim = json_object_get(settings, "dimensions");
    if (!space || !json_is_integer(dim))
        return error_set_param(err, STATUS_WRONG_TYPE, "collection",
                               "'collection' must be an object with space and dimensions");
    return collections_check_vector(&state->collection, (size_t)json_integer_value(dim),
                                    (struct span){space, strlen(space)}, "collection", err);
}

/* The next line, without its end; false behind the last. */
static bool next_line(const char **at, const char *end, struct span *out)
{
    if (*at == end)
        return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *out = (struct span){*at, (size_t)((stop ? stop : end) - *at)};
    *at = stop ? stop + 1 : end;
    while (out->size && strchr(" \t\r", out->data[out->size - 1]))
        out->size--;
    return true;
}

/* Reads one line into item i. What is wrong with it becomes its error; only what concerns the whole
 * body is returned. */
static enum status read_line(struct call *call, struct state *state, size_t i, struct span line,
                             struct error *err)
{
    struct new_item *item = &state->items[i];
    struct embed_item *source = &state->sources[i];
    struct error *fault = &source->error;
    char base[32];
    snprintf(base, sizeof base, "line %zu", item->line);
    json_t *value = form_parse_json(&call->form, line, base, fault);
    if (!value) {
        source->skip = true;
        return fault->status == STATUS_NO_MEMORY ? (*err = *fault, err->status) : STATUS_OK;
    }
    const json_t *settings = json_object_get(value, "collection");
    if (settings && json_object_size(value) == 1) {
        item->is_settings = source->skip = true;
        return check_settings(state, settings, err);
    }
    struct error found;
    enum status status = read_entry(call, state, i, base, value, &found);
    if (!status && !source->skip && !call->lane) {
        status = collections_use_model(call, &state->collection, source->param, &found);
        if (status && status_info(status)->http_status >= 500) {
            *err = found;
            return status;
        }
    }
    if (status) {
        *fault = found;
        source->skip = true;
    } else if (source->skip) {
        /* A vector was copied out of the JSON, which takes a hundred times its room. */
        const char *id = arena_string(&call->arena, item->id.data, item->id.size);
        if (!id)
            return error_no_memory(err, "the items");
        item->id.data = id;
        form_forget_json(&call->form);
    }
    return fault->status == STATUS_NO_MEMORY ? (*err = *fault, err->status) : STATUS_OK;
}

/* How many works one call may have: what fits into the queue now, at least one. */
static size_t works_max(const struct call *call)
{
    size_t room = call->lane ? lane_room(call->lane) : LINES_WORKS_MAX;
    return room < 1 ? 1 : room < LINES_WORKS_MAX ? room : LINES_WORKS_MAX;
}

static enum status read_lines(struct call *call, struct state *state, struct error *err)
{
    state->items = arena_zalloc(&call->arena, LINES_MAX, sizeof *state->items);
    state->sources = arena_zalloc(&call->arena, LINES_MAX, sizeof *state->sources);
    if (!state->items || !state->sources)
        return error_no_memory(err, "the items");
    const char *body = call->request.body, *at = body, *end = body + call->request.body_bytes;
    struct span line;
    size_t works = 0;
    while (state->n < LINES_MAX && works < works_max(call) && next_line(&at, end, &line)) {
        call->lines.lines++;
        if (!line.size)
            continue;
        state->items[state->n].line = call->request.lines_before + call->lines.lines;
        enum status status = read_line(call, state, state->n, line, err);
        if (status)
            return status;
        works += !state->sources[state->n++].skip;
    }
    call->lines.bytes = (size_t)(at - body);
    return STATUS_OK;
}

/* ---- adding -------------------------------------------------------------------------------------
 */

/* Puts items[0..n) in one transaction; one that the store refuses gets its error, and the others
 * are put in halves. Fails only for what is no item's fault. */
static enum status put_items(struct call *call, const struct state *state, const struct item *items,
                             struct embed_item *const *sources, size_t n, struct error *err)
{
    if (!n)
        return STATUS_OK;
    size_t added, updated;
    struct error fault;
    enum status status =
        store_put(api_store(call->api), state->collection.name, items, n, &added, &updated, &fault);
    if (!status) {
        call->lines.added += added;
        call->lines.updated += updated;
        return STATUS_OK;
    }
    bool is_items = status_info(status)->http_status < 500 && status != STATUS_NOT_FOUND;
    if (is_items && n == 1) {
        sources[0]->error = fault;
        return STATUS_OK;
    }
    if (!is_items) {
        *err = fault;
        return status;
    }
    size_t half = n / 2;
    status = put_items(call, state, items, sources, half, err);
    return status ? status : put_items(call, state, items + half, sources + half, n - half, err);
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

/* A line for each item; of a batch, which is one call, also the last. */
static enum status reply_lines(struct call *call, const struct state *state, struct error *err)
{
    struct buffer *out = call_reply_buffer(call, LINES_TYPE);
    bool fine = true;
    for (size_t i = 0; i < state->n && fine; i++) {
        const struct new_item *item = &state->items[i];
        const struct error *fault = &state->sources[i].error;
        if (item->is_settings)
            continue;
        struct json_writer line;
        json_writer_init(&line, out);
        json_begin_object(&line, NULL);
        json_put_integer(&line, "line", (long long)item->line);
        if (item->id.data)
            json_put_text(&line, "id", item->id.data, item->id.size);
        json_put_bool(&line, "ok", !fault->status);
        if (fault->status)
            json_put_error(&line, "error", fault);
        json_end_object(&line);
        fine = !json_writer_failed(&line) && buffer_puts(out, "\n");
    }
    if (fine && !call->form.is_lines)
        fine = lines_end(out, &call->lines, NULL);
    return fine ? STATUS_OK : error_no_memory(err, "the reply");
}

static enum status post_finish(struct call *call, struct error *err)
{
    struct state *state = call->state;
    struct item *items = arena_zalloc(&call->arena, state->n, sizeof *items);
    struct embed_item **sources = arena_zalloc(&call->arena, state->n, sizeof *sources);
    if (!items || !sources)
        return error_no_memory(err, "the items");
    size_t n = 0;
    for (size_t i = 0; i < state->n; i++) {
        struct embed_item *source = &state->sources[i];
        const float *vector = source->skip ? state->items[i].vector : embed_result(call, source);
        if (source->error.status || state->items[i].is_settings)
            continue;
        items[n] = (struct item){
            .id = state->items[i].id.data, .vector = vector, .metadata = state->items[i].metadata};
        if (source->is_image && source->bytes.size <= STORE_BLOB_MAX) {
            items[n].blob = source->bytes.data;
            items[n].blob_bytes = source->bytes.size;
        }
        sources[n++] = source;
    }
    enum status status = put_items(call, state, items, sources, n, err);
    if (status)
        return status;
    for (size_t i = 0; i < state->n; i++)
        call->lines.failed += state->sources[i].error.status != STATUS_OK;
    if (call->form.is_lines || form_boolean(&call->form, "lines", false))
        return reply_lines(call, state, err);
    if (state->n == 1 && call->lines.failed) {
        *err = state->sources[0].error;
        return err->status;
    }
    json_put_integer(&call->out, "added", (long long)call->lines.added);
    json_put_integer(&call->out, "updated", (long long)call->lines.updated);
    if (call->lines.failed)
        put_errors(call, state);
    return STATUS_OK;
}

static enum status post_begin(struct call *call, struct error *err)
{
    struct store *store;
    struct state *state = collections_begin(call, sizeof *state, release_state, &store, err);
    if (!state)
        return err->status;
    enum status status = collections_get(call, store, &state->collection, err);
    if (!status)
        status = call->form.is_lines ? read_lines(call, state, err) : read_items(call, state, err);
    if (status)
        return status;
    if (!call->form.is_lines)
        call->lines.lines = state->n;
    const struct embed_item *first = NULL; /* that needs the model */
    for (size_t i = 0; i < state->n && !first; i++)
        first = state->sources[i].skip ? NULL : &state->sources[i];
    if (first && !call->lane && collections_use_model(call, &state->collection, first->param, err))
        return err->status;
    bool submitted;
    status = embed_submit(call, state->sources, state->n, "items", &submitted, err);
    if (!status && !submitted)
        status = post_finish(call, err);
    return status;
}

const struct endpoint endpoint_items_post = {
    .method = "POST",
    .path = "/v1/collections/{collection}/items",
    .id = "addItems",
    .tag = "collections",
    .summary = "Embed and add items",
    .body = BODY_FORMS | BODY_LINES,
    .fields = post_fields,
    .reply = post_reply,
    .reply_types = {LINES_TYPE},
    .example =
        "{'items': [{'id': 'a', 'image': '" EXAMPLE_PICTURE "', 'metadata': {'colour': 'red'}}]}",
    .begin = post_begin,
    .finish = post_finish,
};
