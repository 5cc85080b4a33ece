/*
 * postgres_search.c: search in the shared store: by the inner product, exactly where a collection
 * is small, by its graph index where there is one; where the index gives too few (a rare filter,
 * many removed items), exactly again, so that top_k is full.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/index/postgres_internal.h"

enum {
    SQL_BYTES = 1024,         /* of a statement without its filter */
    FILTER_SQL_MAX = 1 << 20, /* of a filter said in SQL */
    INDEX_TOP_K_MAX = 100,    /* more results than a graph search is good for are found exactly */
};

/* ---- search
 * -----------------------------------------------------------------------------------------------
 */

struct query {
    const float *vector; /* [dim] */
    const struct search *search;
    const json_t *filter;
    bool by_index;
    size_t limit; /* rows to ask for: top_k, or more where the filter is looked at here */
    size_t bytes; /* of metadata that may still come */
};

/* Asks for the best rows: id, metadata, score, whether metadata were left out for their bytes.
 * *looked: the filter was said in SQL. The statement is planned each time, since what is best
 * depends on the limit and the filter. An index is only used where the order is by the bare
 * operator. */
static enum status ask(struct link *link, const struct target *target, const struct query *query,
                       PGresult **out, bool *looked, struct error *err)
{
    struct parameters parameters;
    struct buffer sql, where;
    parameters_init(&parameters);
    buffer_init(&sql, FILTER_SQL_MAX + SQL_BYTES);
    buffer_init(&where, FILTER_SQL_MAX);
    bind_vector(&parameters, query->vector, target->dim);
    bind_integer(&parameters, (int64_t)query->limit);
    bind_integer(&parameters, (int64_t)query->bytes);
    *looked = !query->filter || filter_to_sql(query->filter, &where, &parameters);
    /* The sum runs over the rows in their order, and knows the sizes without reading the texts. */
    bool fits = buffer_printf(
        &sql,
        "SELECT id, CASE WHEN bytes <= $3 AND %s THEN metadata END, score, bytes > $3 FROM"
        " (SELECT id, metadata, score,"
        "  sum(octet_length(metadata)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes FROM"
        "  (SELECT id, metadata, -(vector <#> $1) AS score FROM vlmd.items_%lld WHERE %s"
        "   ORDER BY %s LIMIT $2) best) counted",
        query->search->ids_only && *looked ? "false" : "true", (long long)target->key,
        where.size ? where.data : "true",
        query->by_index ? "vector <#> $1" : "(vector <#> $1) + 0, key");
    enum status status = fits ? link_run(link, NULL, sql.data, &parameters, out, err)
                              : error_no_memory(err, "a search");
    buffer_release(&where);
    buffer_release(&sql);
    parameters_release(&parameters);
    return status;
}

static bool wants(const json_t *filter, const PGresult *result, int row)
{
    json_t *metadata =
        json_loadb(PQgetvalue(result, row, 1), (size_t)PQgetlength(result, row, 1), 0, NULL);
    bool fits = filter_matches(filter, metadata);
    json_decref(metadata);
    return fits;
}

/* Of the rows those that are good enough, and that the filter takes where SQL did not say it. */
static enum status pick(const PGresult *result, struct query *query, bool looked, struct found *out,
                        struct error *err)
{
    const struct search *search = query->search;
    const bool with_text = !search->ids_only || !looked;
    enum status status = STATUS_OK;
    for (int row = 0; !status && row < PQntuples(result) && out->n < search->top_k; row++) {
        struct stored_item *item = &out->items[out->n];
        if ((float)column_double(result, row, 2) < search->min_score)
            break;
        if (with_text && column_bool(result, row, 3))
            return store_too_much(err);
        if (!looked && !wants(query->filter, result, row))
            continue;
        *item =
            (struct stored_item){.id = column_copy(result, row, 0),
                                 .metadata = search->ids_only ? NULL : column_copy(result, row, 1),
                                 .score = (float)column_double(result, row, 2)};
        out->n++;
        if (!item->id || (!search->ids_only && !item->metadata))
            status = error_no_memory(err, "a search");
        else if (!search->ids_only)
            query->bytes -= (size_t)PQgetlength(result, row, 1);
    }
    return status;
}

static enum status find_nearest(struct link *link, const struct target *target, struct query *query,
                                struct found *out, struct error *err)
{
    const struct search *search = query->search;
    const size_t bytes = query->bytes;
    for (;;) {
        PGresult *result;
        bool looked;
        enum status status = ask(link, target, query, &result, &looked, err);
        if (status)
            return status;
        size_t rows = (size_t)PQntuples(result);
        bool low = rows && (float)column_double(result, (int)rows - 1, 2) < search->min_score;
        out->items = alloc_array(rows < search->top_k ? rows : search->top_k, sizeof *out->items);
        status =
            out->items ? pick(result, query, looked, out, err) : error_no_memory(err, "a search");
        PQclear(result);
        if (status || out->n == search->top_k || low || (!query->by_index && rows < query->limit))
            return status;
        /* Too few: the graph was left early, or the filter is looked at here. */
        found_release(out);
        query->limit = query->by_index ? query->limit : query->limit * 4;
        query->by_index = false;
        query->bytes = bytes;
    }
}

enum status postgres_search(void *state, const char *collection, const struct search *search,
                            const json_t *filter, struct found *out, struct error *err)
{
    struct target target;
    struct link *link = postgres_lease_for(state, collection, &target, NULL, err);
    if (!link)
        return err->status;
    enum status status = target.dim == search->dim ? STATUS_OK : store_changed(collection, err);
    size_t bytes = STORE_RESULT_BYTES_MAX;
    for (size_t i = 0; !status && i < search->n_queries; i++) {
        struct query query = {.vector = search->vectors + i * target.dim,
                              .search = search,
                              .filter = filter,
                              .by_index = target.is_indexed && !search->exact &&
                                          search->top_k <= INDEX_TOP_K_MAX,
                              .limit = search->top_k,
                              .bytes = bytes};
        status = find_nearest(link, &target, &query, &out[i], err);
        bytes = query.bytes;
    }
    links_return(state, link);
    return postgres_translate(status, collection, err);
}
