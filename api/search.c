/*
 * search.c: POST /v1/collections/{collection}/search: the items nearest to a text, a picture, a
 * vector or a sum of them, for one query or several, optionally put in order again by a matching
 * model that looks at each found picture.
 *
 *   begin    queries → embedding job                  (vectors go straight on)
 *   search   embeddings → the store's top candidates → the reply, or a matching job
 *   rerank   match probabilities → the reply
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/queries.h"

#define QUERY_PART                                                                                 \
    "{'type': 'object', 'properties': {'text': {'type': 'string'}, 'image': {'type': ['string', "  \
    "'object']}, 'vector': {'type': 'array', 'items': {'type': 'number'}}, 'weight': {'type': "    \
    "'number', 'minimum': -100, 'maximum': 100}}, 'additionalProperties': false}"
#define QUERY_SCHEMA "'anyOf': [" QUERY_PART ", {'type': 'array', 'items': " QUERY_PART "}]"

static const struct field fields[] = {
    {"text", FIELD_STRING, .help = "what to look for, in words"},
    {"image", FIELD_IMAGE, .help = "a picture to find similar ones of"},
    {"vector", FIELD_VECTOR, .help = "an embedding of the collection's space"},
    {"query", FIELD_ANY,
     .help = "a weighted sum: [{text or image or vector, weight?}]; a negative weight leads away "
             "(\"this, but not that\")",
     .schema = QUERY_SCHEMA},
    {"queries", FIELD_ANY,
     .help = "several such queries at once: a list of what 'query' takes; the reply then has "
             "'queries' in place of 'results'",
     .schema = "'type': ['array', 'null'], 'items': {" QUERY_SCHEMA "}"},
    {"space", FIELD_STRING, .help = "the embedding space of the vectors, to be checked"},
    {"top_k", FIELD_INTEGER, .min = 1, .max = STORE_TOP_K_MAX, .help = "how many to give (10)"},
    {"min_score", FIELD_NUMBER, .help = "leave out what scores below"},
    {"filter", FIELD_OBJECT, .help = "conditions on the metadata"},
    {"exact", FIELD_BOOLEAN, .help = "compare with every vector, also where a graph covers them"},
    {"rerank", FIELD_ANY,
     .help = "true, or the name of a matching model: order the best "
             "candidates by how well their pictures match the text",
     .schema = "'type': ['boolean', 'string', 'null']"},
    {"rerank_candidates", FIELD_INTEGER, .min = 1, .max = RERANK_CANDIDATES_MAX,
     .help = "how many candidates to look at again; default: top_k, at least 20"},
    {NULL},
};

#define RESULTS_SCHEMA                                                                             \
    "'type': 'array', 'items': {'type': 'object', 'properties': {'id': {'type': 'string'}, "       \
    "'score': {'type': ['number', 'null']}, 'similarity': {'type': 'number'}, 'metadata': "        \
    "{'type': 'object'}, 'error': {'$ref': '#/components/schemas/Fault'}}, 'required': ['id', "    \
    "'metadata']}"

static const struct field reply[] = {
    {"results", FIELD_ANY,
     .help = "[{id, score, metadata}], best first; re-ranked: score is the probability of a "
             "match, similarity the vectors' score",
     .schema = RESULTS_SCHEMA},
    {"queries", FIELD_ANY,
     .help = "[{results}], or {error} where a query cannot be searched for; only to 'queries'",
     .schema = "'type': 'array', 'items': {'type': 'object', 'properties': {'results': "
               "{" RESULTS_SCHEMA "}, 'error': {'$ref': '#/components/schemas/Fault'}}}"},
    {"space", FIELD_STRING, FIELD_REQUIRED, .help = "the collection's embedding space"},
    {"rerank_model", FIELD_STRING, .help = "the matching model, where one was asked for"},
    {NULL},
};

enum { STAGE_EMBED, STAGE_RERANK };

struct candidate {
    struct stored_item *item;
    size_t work; /* SIZE_MAX = not scored */
    float match; /* -1 = not scored */
    struct error error;
};

struct state {
    struct collection collection;
    struct queries queries;
    size_t top_k, n_candidates;
    bool wants_rerank;
    const char *rerank_model; /* NULL = the default */
    struct lane *embed_lane;
    struct found *found; /* [n_ready]: of the queries without error */
    size_t n_ready;
    struct candidate *candidates; /* the first n_candidates of found[0], or fewer */
    size_t n_scored;              /* entries of candidates */
};

static void release_state(void *data)
{
    struct state *state = data;
    collection_release(&state->collection);
    for (size_t i = 0; i < state->n_ready && state->found; i++)
        found_release(&state->found[i]);
}

/* ---- the request --------------------------------------------------------------------------------
 */

static enum status read_rerank(struct call *call, struct state *state, struct error *err)
{
    const json_t *rerank = form_json(&call->form, "rerank");
    if (!rerank || json_is_false(rerank))
        return STATUS_OK;
    if (json_is_string(rerank)) {
        const char *text = json_string_value(rerank);
        if (!strcmp(text, "false") || !strcmp(text, "0"))
            return STATUS_OK;
        if (strcmp(text, "true") && strcmp(text, "1"))
            state->rerank_model = text;
    } else if (!json_is_true(rerank)) {
        return error_set_param(err, STATUS_WRONG_TYPE, "rerank",
                               "'rerank' must be a boolean or a model's name, not %s",
                               json_kind(rerank));
    }
    if (state->queries.is_list)
        return error_set_param(err, STATUS_UNPROCESSABLE, "rerank",
                               "'rerank' takes one query; it cannot go with 'queries'");
    if (!state->queries.list[0].text.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "rerank",
                               "'rerank' compares pictures with a text; it needs 'text', or a "
                               "'query' with a text of positive weight");
    /* Found now, so that a missing model is told before the search is done; begin() goes back to
     * the embedding model. */
    enum status status = call_use_model(call, state->rerank_model, TASK_MATCH, err);
    if (status) {
        error_name_param(err, "rerank");
        return status;
    }
    state->wants_rerank = true;
    long long least = state->top_k < 20 ? 20 : (long long)state->top_k;
    if (least > RERANK_CANDIDATES_MAX)
        least = RERANK_CANDIDATES_MAX;
    state->n_candidates = (size_t)form_integer(&call->form, "rerank_candidates", least);
    return STATUS_OK;
}

static enum status search(struct call *call, struct error *err);

static enum status begin(struct call *call, struct error *err)
{
    struct store *store;
    struct state *state = collections_begin(call, sizeof *state, release_state, &store, err);
    if (!state)
        return err->status;
    state->top_k = (size_t)form_integer(&call->form, "top_k", SEARCH_TOP_K_DEFAULT);
    enum status status = collections_get(call, store, &state->collection, err);
    if (!status)
        status = queries_read(call, &state->collection, &state->queries, err);
    if (!status)
        status = read_rerank(call, state, err);
    call->lane = NULL;
    call->model = NULL;
    bool submitted = false;
    if (!status)
        status = queries_submit(call, &state->collection, &state->queries, &submitted, err);
    if (status)
        return status;
    state->embed_lane = call->lane;
    return submitted ? STATUS_OK : search(call, err);
}

/* ---- the search ---------------------------------------------------------------------------------
 */

static void put_found(struct json_writer *out, const struct found *found)
{
    json_begin_list(out, "results");
    for (size_t i = 0; i < found->n; i++) {
        const struct stored_item *item = &found->items[i];
        json_begin_object(out, NULL);
        json_put_string(out, "id", item->id);
        json_put_float(out, "score", item->score);
        json_put_raw(out, "metadata", item->metadata, strlen(item->metadata));
        json_end_object(out);
    }
    json_end_list(out);
}

static void put_candidates(struct json_writer *out, const struct state *state)
{
    json_begin_list(out, "results");
    for (size_t i = 0; i < state->n_scored && i < state->top_k; i++) {
        const struct candidate *candidate = &state->candidates[i];
        const struct stored_item *item = candidate->item;
        json_begin_object(out, NULL);
        json_put_string(out, "id", item->id);
        if (candidate->match >= 0)
            json_put_float(out, "score", candidate->match);
        else
            json_put_null(out, "score");
        json_put_float(out, "similarity", item->score);
        if (candidate->error.status)
            json_put_error(out, "error", &candidate->error);
        json_put_raw(out, "metadata", item->metadata, strlen(item->metadata));
        json_end_object(out);
    }
    json_end_list(out);
}

static void put_queries(struct json_writer *out, const struct state *state)
{
    json_begin_list(out, "queries");
    for (size_t i = 0, ready = 0; i < state->queries.n; i++) {
        const struct search_query *query = &state->queries.list[i];
        json_begin_object(out, NULL);
        if (query->error.status)
            json_put_error(out, "error", &query->error);
        else
            put_found(out, &state->found[ready++]);
        json_end_object(out);
    }
    json_end_list(out);
}

static void put_results(struct call *call)
{
    struct state *state = call->state;
    struct json_writer *out = &call->out;
    if (state->wants_rerank)
        put_candidates(out, state);
    else if (state->queries.is_list)
        put_queries(out, state);
    else
        put_found(out, &state->found[0]);
    json_put_string(out, "space", state->collection.space);
    if (state->wants_rerank)
        json_put_string(out, "rerank_model", call->model->name);
    /* `model` is the one that embedded the query. */
    call->lane = state->embed_lane;
    call->model = state->embed_lane ? lane_model(state->embed_lane) : NULL;
}

/* A candidate's picture and the text as a work; its own error where that is not possible. */
static enum status prepare_candidate(struct call *call, struct candidate *candidate,
                                     struct work *work, struct error *err)
{
    const struct state *state = call->state;
    void *bytes = NULL;
    size_t size = 0;
    enum status status = store_blob(api_store(call->api), state->collection.name,
                                    candidate->item->id, &bytes, &size, err);
    if (status == STATUS_NOT_FOUND)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the item was added without a picture, so it cannot be compared");
    work->kind = WORK_PAIR;
    if (!status)
        status = work_set_texts(work, 1, err);
    if (!status)
        status = work_set_images(work, 1, err);
    if (!status)
        status = call_pixels_from_bytes(call, (struct span){bytes, size}, "image", &work->images[0],
                                        err);
    if (!status)
        status = call_tokens(call, TASK_MATCH, state->queries.list[0].text, "text", &work->texts[0],
                             err);
    if (status)
        work_clear(work);
    free(bytes);
    return status;
}

static enum status submit_rerank(struct call *call, struct error *err)
{
    struct state *state = call->state;
    enum status status = call_use_model(call, state->rerank_model, TASK_MATCH, err);
    if (status)
        return status;
    const struct found *found = &state->found[0];
    size_t n = found->n < state->n_candidates ? found->n : state->n_candidates;
    state->candidates = arena_zalloc(&call->arena, n, sizeof *state->candidates);
    if (!state->candidates)
        return error_no_memory(err, "the candidates");
    state->n_scored = n;
    if (!n) {
        put_results(call);
        return STATUS_OK;
    }
    status = call_admit(call, n, "rerank", err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_MATCH, n, err);
    if (!job)
        return err->status;
    size_t ready = 0;
    for (size_t i = 0; i < n; i++) {
        struct candidate *candidate = &state->candidates[i];
        candidate->item = &found->items[i];
        candidate->match = -1;
        candidate->work = SIZE_MAX;
        if (!prepare_candidate(call, candidate, &job->works[ready], &candidate->error))
            candidate->work = ready++;
    }
    if (!ready) {
        job_free(job);
        put_results(call);
        return STATUS_OK;
    }
    job->n_works = ready;
    if (!call->has_priority)
        job->priority = PRIORITY_INTERACTIVE;
    call->stage = STAGE_RERANK;
    call_submit(call, job);
    return STATUS_OK;
}

/* All queries without error in one search of the store. */
static enum status search_store(struct call *call, const float *vectors, struct error *err)
{
    struct state *state = call->state;
    struct buffer filter;
    buffer_init(&filter, STORE_METADATA_MAX);
    const json_t *conditions = form_json(&call->form, "filter");
    if (conditions) {
        struct json_writer writer;
        json_writer_init(&writer, &filter);
        json_put_value(&writer, NULL, conditions);
        if (json_writer_failed(&writer)) {
            buffer_release(&filter);
            return error_set_param(err, STATUS_OUT_OF_RANGE, "filter", "'filter' is too large");
        }
    }
    size_t top_k = state->top_k;
    if (state->wants_rerank && state->n_candidates > top_k)
        top_k = state->n_candidates;
    const struct search query = {
        .vectors = vectors,
        .n_queries = state->n_ready,
        .dim = state->collection.dim,
        .top_k = top_k,
        .min_score = (float)form_number(&call->form, "min_score", -INFINITY),
        .filter = filter.data,
        .exact = form_boolean(&call->form, "exact", false),
    };
    enum status status =
        store_search(api_store(call->api), state->collection.name, &query, state->found, err);
    buffer_release(&filter);
    return status;
}

static enum status search(struct call *call, struct error *err)
{
    struct state *state = call->state;
    float *vectors;
    size_t n;
    enum status status =
        queries_vectors(call, &state->collection, &state->queries, &vectors, &n, err);
    if (status)
        return status;
    state->found = arena_zalloc(&call->arena, n, sizeof *state->found);
    state->n_ready = n;
    if (!state->found)
        return error_no_memory(err, "the results");
    if (n)
        status = search_store(call, vectors, err);
    if (status)
        return status;
    if (state->wants_rerank)
        return submit_rerank(call, err);
    put_results(call);
    return STATUS_OK;
}

static int by_match(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->match != y->match)
        return (x->match < y->match) - (x->match > y->match);
    return (x->item->score < y->item->score) - (x->item->score > y->item->score);
}

static enum status finish(struct call *call, struct error *err)
{
    struct state *state = call->state;
    if (call->stage == STAGE_EMBED)
        return search(call, err);
    for (size_t i = 0; i < state->n_scored; i++) {
        struct candidate *candidate = &state->candidates[i];
        if (candidate->work == SIZE_MAX)
            continue;
        const struct work *work = &call->job->works[candidate->work];
        if (work->error.status)
            candidate->error = work->error;
        else
            candidate->match = work->outputs[0];
    }
    qsort(state->candidates, state->n_scored, sizeof *state->candidates, by_match);
    put_results(call);
    return STATUS_OK;
}

const struct endpoint endpoint_search = {
    .method = "POST",
    .path = "/v1/collections/{collection}/search",
    .id = "search",
    .tag = "collections",
    .summary = "Find a collection's items by text, picture, vector or a sum of them",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'text': 'a square', 'top_k': 3}",
    .begin = begin,
    .finish = finish,
};
