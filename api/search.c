/*
 * search.c: POST /v1/collections/{collection}/search: the items nearest to a text, a picture or a
 * vector, optionally put in order again by a matching model that looks at each found picture.
 *
 *   begin    query → embedding job                    (a vector goes straight on)
 *   search   embedding → the store's top candidates → the reply, or a matching job
 *   rerank   match probabilities → the reply
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/collections.h"
#include "api/embed.h"

static const struct field fields[] = {
    {"text", FIELD_STRING, .help = "what to look for, in words"},
    {"image", FIELD_IMAGE, .help = "a picture to find similar ones of"},
    {"vector", FIELD_VECTOR, .help = "an embedding of the collection's space"},
    {"space", FIELD_STRING, .help = "the embedding space of 'vector', to be checked"},
    {"top_k", FIELD_INTEGER, .min = 1, .max = STORE_TOP_K_MAX, .help = "how many to give (10)"},
    {"min_score", FIELD_NUMBER, .help = "leave out what scores below"},
    {"filter", FIELD_OBJECT, .help = "conditions on the metadata"},
    {"rerank", FIELD_ANY,
     .help = "true, or the name of a matching model: order the best "
             "candidates by how well their pictures match the text",
     .schema = "'type': ['boolean', 'string', 'null']"},
    {"rerank_candidates", FIELD_INTEGER, .min = 1, .max = RERANK_CANDIDATES_MAX,
     .help = "how many candidates to look at again; default: top_k, at least 20"},
    {NULL},
};

static const struct field reply[] = {
    {"results", FIELD_ANY, FIELD_REQUIRED,
     .help = "[{id, score, metadata}], best first; re-ranked: score is the probability of a "
             "match, similarity the vectors' score",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'id': {'type': 'string'}, 'score': {'type': ['number', 'null']}, "
               "'similarity': {'type': 'number'}, 'metadata': {'type': 'object'}, "
               "'error': {'$ref': '#/components/schemas/Fault'}}, 'required': ['id', "
               "'metadata']}"},
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
    struct embed_item query;
    size_t top_k, n_candidates;
    bool wants_rerank;
    const char *rerank_model; /* NULL = the default */
    struct lane *embed_lane;
    struct stored_item *found;
    size_t n_found;
    struct candidate *candidates; /* the first n_candidates of found, or fewer */
    size_t n_scored;              /* entries of candidates */
};

static void release_state(void *data)
{
    struct state *state = data;
    collection_release(&state->collection);
    stored_items_free(state->found, state->n_found);
}

/* ---- the query ----------------------------------------------------------------------------------
 */

static enum status read_query(struct call *call, struct state *state, struct error *err)
{
    const struct form *form = &call->form;
    int n = form_has(form, "text") + form_has(form, "image") + form_has(form, "vector");
    if (!n)
        return error_set_param(err, STATUS_MISSING_FIELD, "text",
                               "one of 'text', 'image' and 'vector' is needed");
    if (n > 1)
        return error_set_param(err, STATUS_BAD_REQUEST, "text",
                               "give only one of 'text', 'image' and 'vector'");
    struct embed_item *query = &state->query;
    if (form_has(form, "vector")) {
        query->skip = true;
        return collections_check_vector(&state->collection, form_value(form, "vector")->n,
                                        form_string(form, "space", ""), "vector", err);
    }
    query->is_image = form_has(form, "image");
    snprintf(query->param, sizeof query->param, "%s", query->is_image ? "image" : "text");
    if (query->is_image)
        query->picture = form_value(form, "image")->pictures[0];
    else
        query->text = form_string(form, "text", "");
    if (!query->is_image && !query->text.size)
        return error_set_param(err, STATUS_UNPROCESSABLE, "text", "'text' is empty");
    return collections_use_model(call, &state->collection, query->param, err);
}

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
    if (!form_has(&call->form, "text"))
        return error_set_param(err, STATUS_UNPROCESSABLE, "rerank",
                               "'rerank' compares pictures with a text; it needs 'text'");
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

static enum status search(struct call *call, const float *vector, struct error *err);

static enum status begin(struct call *call, struct error *err)
{
    struct store *store = collections_store(call, err);
    struct state *state = store ? arena_zalloc(&call->arena, 1, sizeof *state) : NULL;
    if (!state)
        return store ? error_no_memory(err, "the request") : err->status;
    call->state = state;
    call->release_state = release_state;
    state->top_k = (size_t)form_integer(&call->form, "top_k", SEARCH_TOP_K_DEFAULT);
    enum status status = collections_get(call, store, &state->collection, err);
    if (!status)
        status = read_rerank(call, state, err);
    call->lane = NULL;
    call->model = NULL;
    if (!status)
        status = read_query(call, state, err);
    if (status)
        return status;
    state->embed_lane = call->lane;
    if (state->query.skip)
        return search(call, form_value(&call->form, "vector")->vector, err);

    bool submitted;
    status = embed_submit(call, &state->query, 1, state->query.param, &submitted, err);
    if (!status && !submitted) {
        *err = state->query.error;
        status = err->status;
    }
    return status;
}

/* ---- the search ---------------------------------------------------------------------------------
 */

static void put_results(struct call *call)
{
    struct state *state = call->state;
    struct json_writer *out = &call->out;
    json_begin_list(out, "results");
    size_t n = state->wants_rerank ? state->n_scored : state->n_found;
    for (size_t i = 0; i < n && i < state->top_k; i++) {
        const struct candidate *candidate = state->wants_rerank ? &state->candidates[i] : NULL;
        const struct stored_item *item = candidate ? candidate->item : &state->found[i];
        json_begin_object(out, NULL);
        json_put_string(out, "id", item->id);
        if (!candidate) {
            json_put_float(out, "score", item->score);
        } else {
            if (candidate->match >= 0)
                json_put_float(out, "score", candidate->match);
            else
                json_put_null(out, "score");
            json_put_float(out, "similarity", item->score);
            if (candidate->error.status)
                json_put_error(out, "error", &candidate->error);
        }
        json_put_raw(out, "metadata", item->metadata, strlen(item->metadata));
        json_end_object(out);
    }
    json_end_list(out);
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
        status = call_tokens(call, TASK_MATCH, state->query.text, "text", &work->texts[0], err);
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
    size_t n = state->n_found < state->n_candidates ? state->n_found : state->n_candidates;
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
        candidate->item = &state->found[i];
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
    job->priority = PRIORITY_INTERACTIVE;
    call->stage = STAGE_RERANK;
    call_submit(call, job);
    return STATUS_OK;
}

static enum status search(struct call *call, const float *vector, struct error *err)
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
        .vectors = vector,
        .n_queries = 1,
        .dim = state->collection.dim,
        .top_k = top_k,
        .min_score = (float)form_number(&call->form, "min_score", -INFINITY),
        .filter = filter.data,
    };
    struct found found;
    enum status status =
        store_search(api_store(call->api), state->collection.name, &query, &found, err);
    buffer_release(&filter);
    if (status)
        return status;
    state->found = found.items;
    state->n_found = found.n;
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
    if (call->stage == STAGE_EMBED) {
        const float *vector = embed_result(call, &state->query);
        if (vector)
            return search(call, vector, err);
        *err = state->query.error;
        return err->status;
    }
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
    .summary = "Find a collection's items by text, picture or vector",
    .body = BODY_FORMS,
    .fields = fields,
    .reply = reply,
    .example = "{'text': 'a square', 'top_k': 3}",
    .begin = begin,
    .finish = finish,
};
