/*
 * queries.c: see queries.h. Wrong types make the request malformed as a whole; what only concerns
 * one of several queries (a broken picture, a vector of the wrong length) is that query's error.
 */
#include "api/queries.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- reading ------------------------------------------------------------------------------------
 */

static enum status allocate(struct call *call, size_t n, size_t n_parts, struct queries *out,
                            struct error *err)
{
    out->n = n;
    out->list = arena_zalloc(&call->arena, n, sizeof *out->list);
    out->items = arena_zalloc(&call->arena, n_parts, sizeof *out->items);
    out->weights = arena_zalloc(&call->arena, n_parts, sizeof *out->weights);
    out->vectors = arena_zalloc(&call->arena, n_parts, sizeof *out->vectors);
    return out->list && out->items && out->weights && out->vectors
               ? STATUS_OK
               : error_no_memory(err, "the queries");
}

/* A part's text, picture or vector is in its item; what is wrong with it alone goes into the item's
 * error. */
static void add_part(struct call *call, const struct collection *collection,
                     struct queries *queries, struct search_query *query, float weight,
                     const float *vector, size_t n)
{
    struct embed_item *item = &queries->items[queries->n_parts];
    queries->weights[queries->n_parts] = weight;
    queries->vectors[queries->n_parts++] = vector;
    query->n++;
    if (vector) {
        item->skip = true;
        collections_check_vector(collection, n, form_string(&call->form, "space", ""), item->param,
                                 &item->error);
    } else if (!item->is_image) {
        if (!item->text.size) {
            item->skip = true;
            error_set_param(&item->error, STATUS_UNPROCESSABLE, item->param, "'%s' is empty",
                            item->param);
        } else if (weight > 0 && !query->text.size) {
            query->text = item->text;
        }
    }
}

/* The fields `text`, `image` and `vector`. */
static enum status read_plain(struct call *call, const struct collection *collection,
                              const char *name, struct queries *out, struct error *err)
{
    const struct form_value *value = form_value(&call->form, name);
    if (allocate(call, 1, 1, out, err))
        return err->status;
    struct search_query *query = &out->list[0];
    struct embed_item *item = &out->items[0];
    snprintf(query->param, sizeof query->param, "%s", name);
    snprintf(item->param, sizeof item->param, "%s", name);
    bool is_vector = !strcmp(name, "vector");
    item->is_image = !strcmp(name, "image");
    if (item->is_image)
        item->picture = value->pictures[0];
    else if (!is_vector)
        item->text = form_string(&call->form, name, "");
    add_part(call, collection, out, query, 1, is_vector ? value->vector : NULL,
             is_vector ? value->n : 0);
    return STATUS_OK;
}

/* One object {"text" | "image" | "vector", "weight"?}. */
static enum status read_part(struct call *call, const struct collection *collection,
                             const json_t *part, const char *base, struct queries *out,
                             struct search_query *query, struct error *err)
{
    struct embed_item *item = &out->items[out->n_parts];
    const json_t *content = NULL;
    const char *kind = NULL, *name;
    json_t *value;
    double weight = 1;
    if (!json_is_object(part))
        return error_set_param(err, STATUS_WRONG_TYPE, base, "'%s' must be an object, not %s", base,
                               json_kind(part));
    json_object_foreach((json_t *)(uintptr_t)part, name, value)
    {
        if (!strcmp(name, "weight")) {
            weight = json_is_number(value) ? json_number_value(value) : NAN;
            if (!(fabs(weight) <= QUERY_WEIGHT_MAX))
                return error_set_param(err, STATUS_OUT_OF_RANGE, base,
                                       "'%s.weight' must be a number from -%d to %d", base,
                                       QUERY_WEIGHT_MAX, QUERY_WEIGHT_MAX);
        } else if (strcmp(name, "text") && strcmp(name, "image") && strcmp(name, "vector")) {
            return error_set_param(err, STATUS_UNKNOWN_FIELD, base,
                                   "unknown field '%.40s' in '%s'; a part of a query has text or "
                                   "image or vector, and weight",
                                   name, base);
        } else if (kind) {
            return error_set_param(err, STATUS_BAD_REQUEST, base,
                                   "'%s' has both '%s' and '%s'; give a part for each", base, kind,
                                   name);
        } else {
            kind = name;
            content = value;
        }
    }
    if (!kind)
        return error_set_param(err, STATUS_MISSING_FIELD, base,
                               "'%s' has none of text, image and vector", base);
    snprintf(item->param, sizeof item->param, "%.50s.%.8s", base, kind);
    float *vector = NULL;
    size_t n = 0;
    enum status status;
    if (!strcmp(kind, "vector"))
        status = vector_from_json(content, item->param, &call->arena, &vector, &n, err);
    else if ((item->is_image = !strcmp(kind, "image")))
        status = picture_from_json(content, item->param, &item->picture, err);
    else
        status = string_from_json(content, item->param, &item->text, err);
    if (!status)
        add_part(call, collection, out, query, (float)weight, vector, n);
    return status;
}

/* A query: one part, or a list of them. */
static enum status read_query(struct call *call, const struct collection *collection,
                              const json_t *json, const char *param, struct queries *out,
                              struct search_query *query, struct error *err)
{
    query->first = out->n_parts;
    snprintf(query->param, sizeof query->param, "%s", param);
    if (!json_is_array(json))
        return read_part(call, collection, json, param, out, query, err);
    size_t n = json_array_size(json);
    if (n == 0 || n > QUERY_PARTS_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, param,
                               "'%s' has %zu parts; expected 1 to %d", param, n, QUERY_PARTS_MAX);
    for (size_t i = 0; i < n; i++) {
        char base[64];
        snprintf(base, sizeof base, "%.40s[%zu]", param, i);
        if (read_part(call, collection, json_array_get(json, i), base, out, query, err))
            return err->status;
    }
    return STATUS_OK;
}

static size_t count_parts(const json_t *query)
{
    return json_is_array(query) ? json_array_size(query) : 1;
}

static enum status read_list(struct call *call, const struct collection *collection,
                             const json_t *json, struct queries *out, struct error *err)
{
    if (!json_is_array(json))
        return error_set_param(err, STATUS_WRONG_TYPE, "queries",
                               "'queries' must be a list, not %s", json_kind(json));
    size_t n = json_array_size(json), n_parts = 0;
    if (n == 0 || n > STORE_QUERIES_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "queries",
                               "'queries' has %zu; expected 1 to %d", n, STORE_QUERIES_MAX);
    for (size_t i = 0; i < n; i++)
        n_parts += count_parts(json_array_get(json, i));
    enum status status = call_admit(call, n_parts, "queries", err);
    if (!status)
        status = allocate(call, n, n_parts, out, err);
    out->is_list = true;
    for (size_t i = 0; i < n && !status; i++) {
        char param[32];
        snprintf(param, sizeof param, "queries[%zu]", i);
        status =
            read_query(call, collection, json_array_get(json, i), param, out, &out->list[i], err);
    }
    return status;
}

enum status queries_read(struct call *call, const struct collection *collection,
                         struct queries *out, struct error *err)
{
    static const char *const names[] = {"text", "image", "vector", "query", "queries"};
    const struct form *form = &call->form;
    const char *given = NULL;
    *out = (struct queries){0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!form_has(form, names[i]))
            continue;
        if (given)
            return error_set_param(err, STATUS_BAD_REQUEST, given,
                                   "give only one of 'text', 'image', 'vector', 'query' and "
                                   "'queries'; 'query' takes several parts");
        given = names[i];
    }
    if (!given)
        return error_set_param(err, STATUS_MISSING_FIELD, "text",
                               "one of 'text', 'image', 'vector', 'query' and 'queries' is needed");
    const json_t *json = form_json(form, given);
    if (!strcmp(given, "queries"))
        return read_list(call, collection, json, out, err);
    if (strcmp(given, "query"))
        return read_plain(call, collection, given, out, err);
    enum status status = allocate(call, 1, count_parts(json), out, err);
    return status ? status : read_query(call, collection, json, "query", out, &out->list[0], err);
}

/* ---- embedding ----------------------------------------------------------------------------------
 */

enum status queries_submit(struct call *call, const struct collection *collection,
                           struct queries *queries, bool *submitted, struct error *err)
{
    const struct embed_item *first = NULL; /* that needs the model */
    for (size_t i = 0; i < queries->n_parts && !first; i++)
        first = queries->items[i].skip ? NULL : &queries->items[i];
    *submitted = false;
    if (!first)
        return STATUS_OK;
    enum status status = collections_use_model(call, collection, first->param, err);
    return status ? status
                  : embed_submit(call, queries->items, queries->n_parts,
                                 queries->is_list ? "queries" : first->param, submitted, err);
}

/* out += weight · vector, of length 1 first where the metric is cosine. */
static enum status add_vector(const struct collection *collection, const float *vector,
                              float weight, const char *param, float *out, struct error *err)
{
    double squares = 0, scale = weight;
    for (size_t i = 0; i < collection->dim; i++)
        squares += (double)vector[i] * (double)vector[i];
    if (collection->metric == METRIC_COSINE) {
        if (!(squares > 0 && isfinite(squares)))
            return error_set_param(err, STATUS_UNPROCESSABLE, param, "'%s' has no direction",
                                   param);
        scale /= sqrt(squares);
    }
    for (size_t i = 0; i < collection->dim; i++)
        out[i] += (float)(scale * (double)vector[i]);
    return STATUS_OK;
}

static enum status sum_parts(struct call *call, const struct collection *collection,
                             struct queries *queries, const struct search_query *query, float *out,
                             struct error *err)
{
    double lengths = 0, squares = 0;
    memset(out, 0, collection->dim * sizeof *out);
    for (size_t i = query->first; i < query->first + query->n; i++) {
        struct embed_item *item = &queries->items[i];
        const float *vector = queries->vectors[i];
        if (!item->error.status && !vector)
            vector = embed_result(call, item);
        if (item->error.status) {
            *err = item->error;
            return err->status;
        }
        if (add_vector(collection, vector, queries->weights[i], item->param, out, err))
            return err->status;
        lengths += fabs((double)queries->weights[i]);
    }
    for (size_t i = 0; i < collection->dim; i++)
        squares += (double)out[i] * (double)out[i];
    /* What is left of unit vectors by rounding alone is no direction. */
    if (collection->metric == METRIC_COSINE && !(sqrt(squares) > 1e-6 * lengths))
        return error_set_param(err, STATUS_UNPROCESSABLE, query->param,
                               "the parts of '%s' cancel out: no direction is left to search in",
                               query->param);
    return STATUS_OK;
}

enum status queries_vectors(struct call *call, const struct collection *collection,
                            struct queries *queries, float **out, size_t *n_ready,
                            struct error *err)
{
    size_t floats;
    float *vectors = size_mul(queries->n, collection->dim, &floats)
                         ? arena_array(&call->arena, floats, sizeof *vectors)
                         : NULL;
    if (!vectors)
        return error_no_memory(err, "the queries");
    size_t n = 0;
    for (size_t q = 0; q < queries->n; q++) {
        struct search_query *query = &queries->list[q];
        if (!sum_parts(call, collection, queries, query, vectors + n * collection->dim,
                       &query->error)) {
            n++;
        } else if (!queries->is_list) {
            *err = query->error;
            return err->status;
        }
    }
    *out = vectors;
    *n_ready = n;
    return STATUS_OK;
}
