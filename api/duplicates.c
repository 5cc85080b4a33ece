/*
 * duplicates.c: POST /v1/collections/{collection}/duplicates: groups of items that are all but the
 * same, page by page.
 *
 * Two items belong together when their score reaches min_score; groups are what such pairs link. A
 * call looks at one page of items, in the order of ids, and searches for each one's neighbours; of
 * those beyond the page it looks for the neighbours too, so that a group is whole on the page of
 * its first member. A group that reaches back before the page was told there, and is left out. The
 * work of a call is bounded: LOOK_MAX searches of NEIGHBOURS_MAX results; a group that ran into it
 * says `complete: false`.
 */
#include <stdlib.h>
#include <string.h>

#include "api/collections.h"
#include "core/base/size.h"

enum {
    PAGE_DEFAULT = 1000,
    PAGE_MAX = 10000,
    LOOK_MAX = 4, /* times the page: searches of one call */
    NEIGHBOURS_MAX = 50,
    AT_ONCE = 32, /* searches that the store does together */
};

static const struct field fields[] = {
    {"min_score", FIELD_NUMBER, .min = -1, .max = 1,
     .help = "how alike two items must be: a cosine (0.95)"},
    {"limit", FIELD_INTEGER, .min = 1, .max = PAGE_MAX,
     .help = "items to look at in this call (1000)"},
    {"after", FIELD_STRING, .help = "the cursor: 'next' of the call before"},
    {NULL},
};

static const struct field reply[] = {
    {"groups", FIELD_ANY, FIELD_REQUIRED,
     .help =
         "[{items: [{id, score}], complete}]; score is an item's best with another of its group",
     .schema = "'type': 'array', 'items': {'type': 'object', 'properties': {'items': {'type': "
               "'array', 'items': {'type': 'object', 'properties': {'id': {'type': 'string'}, "
               "'score': {'type': 'number'}}, 'required': ['id', 'score']}}, 'complete': {'type': "
               "'boolean'}}, 'required': ['items', 'complete']}"},
    {"looked_at", FIELD_INTEGER, FIELD_REQUIRED, .help = "items of this page"},
    {"next", FIELD_STRING, .schema = "'type': ['string', 'null']",
     .help = "'after' of the next call; null: that was all"},
    {NULL},
};

/* An item that has a neighbour, or is on the page. */
struct node {
    char *id;      /* in the call's arena */
    size_t parent; /* towards the representative of its group */
    float score;   /* the best with a neighbour; -INFINITY: none */
    bool looked;   /* its own neighbours are known, or will be */
    /* of a representative: */
    bool is_told;    /* the group reaches before the page */
    bool incomplete; /* some member was not looked at */
    size_t next;     /* when rendering: members, first to last, as links */
};

struct state {
    struct call *call;
    const char *collection, *after;
    size_t dim;
    float min_score;
    json_t *index; /* id → number of its node */
    struct node *nodes;
    size_t n, capacity;
    size_t *queue; /* [n_queue] nodes beyond the page to look at, from `done` on */
    size_t n_queue, queue_capacity;
};

static size_t find(struct node *nodes, size_t i)
{
    while (nodes[i].parent != i)
        i = nodes[i].parent = nodes[nodes[i].parent].parent;
    return i;
}

static void join(struct node *nodes, size_t a, size_t b)
{
    a = find(nodes, a);
    b = find(nodes, b);
    if (b < a) {
        size_t swap = a;
        a = b;
        b = swap;
    }
    nodes[b].parent = a;
    nodes[a].is_told = nodes[a].is_told || nodes[b].is_told;
}

/* SIZE_MAX: out of memory. */
static size_t node_of(struct state *state, const char *id)
{
    json_t *number = json_object_get(state->index, id);
    if (number)
        return (size_t)json_integer_value(number);
    if (state->n == state->capacity) {
        size_t capacity = state->capacity * 2 + 64;
        struct node *nodes = realloc_array(state->nodes, capacity, sizeof *nodes);
        if (!nodes)
            return SIZE_MAX;
        state->nodes = nodes;
        state->capacity = capacity;
    }
    char *copy = arena_string(&state->call->arena, id, strlen(id));
    if (!copy || json_object_set_new(state->index, id, json_integer((json_int_t)state->n)))
        return SIZE_MAX;
    state->nodes[state->n] =
        (struct node){.id = copy,
                      .parent = state->n,
                      .score = -2,
                      .is_told = state->after && strcmp(id, state->after) <= 0};
    return state->n++;
}

static bool enqueue(struct state *state, size_t node)
{
    if (state->n_queue == state->queue_capacity) {
        size_t capacity = state->queue_capacity * 2 + 64;
        size_t *queue = realloc_array(state->queue, capacity, sizeof *queue);
        if (!queue)
            return false;
        state->queue = queue;
        state->queue_capacity = capacity;
    }
    state->queue[state->n_queue++] = node;
    return true;
}

/* One item's neighbours. */
static enum status link_neighbours(struct state *state, size_t node, const struct found *found,
                                   struct error *err)
{
    for (size_t i = 0; i < found->n; i++) {
        const struct stored_item *item = &found->items[i];
        if (!strcmp(item->id, state->nodes[node].id))
            continue;
        size_t other = node_of(state, item->id);
        if (other == SIZE_MAX)
            return error_no_memory(err, "groups");
        struct node *a = &state->nodes[node], *b = &state->nodes[other];
        a->score = item->score > a->score ? item->score : a->score;
        b->score = item->score > b->score ? item->score : b->score;
        join(state->nodes, node, other);
        /* Of what was told on an earlier page no more needs to be known. */
        if (!b->looked && !b->is_told) {
            b->looked = true;
            if (!enqueue(state, other))
                return error_no_memory(err, "groups");
        }
    }
    return STATUS_OK;
}

/* The neighbours of n nodes, whose vectors [n, dim] are given. */
static enum status look(struct state *state, const size_t *nodes, const float *vectors, size_t n,
                        struct error *err)
{
    struct found found[AT_ONCE];
    const struct search search = {.vectors = vectors,
                                  .n_queries = n,
                                  .dim = state->dim,
                                  .top_k = NEIGHBOURS_MAX + 1, /* itself is one */
                                  .min_score = state->min_score,
                                  .ids_only = true};
    enum status status = call_check_alive(state->call, err);
    if (!status)
        status = store_search(api_store(state->call->api), state->collection, &search, found, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++) {
        if (!status)
            status = link_neighbours(state, nodes[i], &found[i], err);
        found_release(&found[i]);
    }
    return status;
}

static enum status look_at_page(struct state *state, const struct stored_item *items, size_t n,
                                float *vectors, struct error *err)
{
    size_t nodes[AT_ONCE], *page = alloc_array(n, sizeof *page);
    enum status status = page ? STATUS_OK : error_no_memory(err, "groups");
    for (size_t i = 0; i < n && !status; i++) { /* first all, so that none is queued */
        page[i] = node_of(state, items[i].id);
        if (page[i] == SIZE_MAX)
            status = error_no_memory(err, "groups");
        else
            state->nodes[page[i]].looked = true;
    }
    for (size_t at = 0, now; at < n && !status; at += now) {
        now = n - at < AT_ONCE ? n - at : AT_ONCE;
        for (size_t i = 0; i < now; i++) {
            nodes[i] = page[at + i];
            memcpy(vectors + i * state->dim, items[at + i].vector, state->dim * sizeof *vectors);
        }
        status = look(state, nodes, vectors, now, err);
    }
    free(page);
    return status;
}

/* The neighbours of neighbours, until there are no more or n_max were looked at. */
static enum status look_beyond(struct state *state, size_t n_max, float *vectors, struct error *err)
{
    size_t done = 0;
    enum status status = STATUS_OK;
    while (!status && done < state->n_queue && done < n_max) {
        size_t nodes[AT_ONCE], n = 0;
        for (; !status && n < AT_ONCE && done < state->n_queue && done < n_max; done++) {
            struct stored_item *item;
            struct error gone;
            size_t node = state->queue[done];
            if (state->nodes[find(state->nodes, node)].is_told)
                continue;
            status = store_item(api_store(state->call->api), state->collection,
                                state->nodes[node].id, true, &item, &gone);
            if (status == STATUS_NOT_FOUND) {
                status = STATUS_OK;
                continue;
            }
            if (status) {
                *err = gone;
                break;
            }
            memcpy(vectors + n * state->dim, item->vector, state->dim * sizeof *vectors);
            nodes[n++] = node;
            stored_items_free(item, 1);
        }
        if (!status && n)
            status = look(state, nodes, vectors, n, err);
    }
    for (; done < state->n_queue; done++)
        state->nodes[find(state->nodes, state->queue[done])].incomplete = true;
    return status;
}

/* A representative has the smallest number of its group, so members follow it. */
static enum status put_groups(struct state *state, struct error *err)
{
    struct json_writer *out = &state->call->out;
    struct node *nodes = state->nodes;
    size_t *last = alloc_array(state->n, sizeof *last); /* members so far, of representatives */
    if (!last)
        return error_no_memory(err, "groups");
    for (size_t i = 0; i < state->n; i++) {
        size_t first = find(nodes, i);
        nodes[i].next = SIZE_MAX;
        if (first != i)
            nodes[last[first]].next = i;
        last[first] = i;
    }
    json_begin_list(out, "groups");
    for (size_t i = 0; i < state->n; i++) {
        if (nodes[i].parent != i || nodes[i].next == SIZE_MAX || nodes[i].is_told)
            continue;
        json_begin_object(out, NULL);
        json_begin_list(out, "items");
        for (size_t j = i; j != SIZE_MAX; j = nodes[j].next) {
            json_begin_object(out, NULL);
            json_put_string(out, "id", nodes[j].id);
            json_put_float(out, "score", nodes[j].score);
            json_end_object(out);
        }
        json_end_list(out);
        json_put_bool(out, "complete", !nodes[i].incomplete);
        json_end_object(out);
    }
    json_end_list(out);
    free(last);
    return STATUS_OK;
}

static enum status group(struct state *state, size_t limit, struct error *err)
{
    struct call *call = state->call;
    struct stored_item *items = NULL;
    size_t n = 0;
    float *vectors = NULL;
    /* One more than asked for tells whether there is a next page. */
    enum status status = store_scan(api_store(call->api), state->collection, state->after,
                                    limit + 1, true, &items, &n, err);
    size_t shown = n < limit ? n : limit;
    if (!status && (!(state->index = json_object()) ||
                    !(vectors = alloc_array(AT_ONCE * state->dim, sizeof *vectors))))
        status = error_no_memory(err, "groups");
    if (!status)
        status = look_at_page(state, items, shown, vectors, err);
    if (!status)
        status = look_beyond(state, LOOK_MAX * limit, vectors, err);
    if (!status)
        status = put_groups(state, err);
    if (!status) {
        json_put_integer(&call->out, "looked_at", (long long)shown);
        if (n > limit)
            json_put_string(&call->out, "next", items[limit - 1].id);
        else
            json_put_null(&call->out, "next");
    }
    free(vectors);
    stored_items_free(items, n);
    return status;
}

static enum status begin(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct collection collection = {0};
    if (!store || collections_get(call, store, &collection, err))
        return err->status;
    struct state state = {.call = call,
                          .collection = collection.name,
                          .after = form_string(&call->form, "after", NULL).data,
                          .dim = collection.dim,
                          .min_score = (float)form_number(&call->form, "min_score", 0.95)};
    enum status status =
        group(&state, (size_t)form_integer(&call->form, "limit", PAGE_DEFAULT), err);
    json_decref(state.index);
    free(state.nodes);
    free(state.queue);
    collection_release(&collection);
    return status;
}

const struct endpoint endpoint_duplicates = {
    .method = "POST",
    .path = "/v1/collections/{collection}/duplicates",
    .id = "findDuplicates",
    .tag = "collections",
    .summary = "Groups of items that are all but the same",
    .body = BODY_JSON | BODY_OPTIONAL,
    .fields = fields,
    .reply = reply,
    .example = "{'min_score': 0.9}",
    .begin = begin,
};
