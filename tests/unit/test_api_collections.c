/*
 * test_api_collections.c: whole calls to collections: what they keep and find, and what they
 * refuse.
 */
#include <math.h>
#include <string.h>

#include "api_world.h"
#include "core/base/size.h"

START_TEST(collections_keep_embed_search_and_rerank)
{
    struct reply reply = ask_json("PUT", "/v1/collections/my%20pets", "{}");
    ck_assert_int_eq(reply.status, 201);
    ck_assert_str_eq(string_at(reply.json, "name"), "my pets");
    ck_assert_str_eq(string_at(reply.json, "model"), "clip");
    reply_free(&reply);
    reply = want(ask("PUT", "/v1/collections/my%20pets", "", NULL, NULL, 0));
    reply_free(&reply);
    reply = ask_json("PUT", "/v1/collections/my%20pets", "{\"dimensions\": 3}");
    ck_assert_int_eq(reply.status, 409);
    reply_free(&reply);
    reply = ask_json("PUT", "/v1/collections/my%20pets", "{\"precision\": \"f64\"}");
    ck_assert_int_eq(reply.status, 400);
    ck_assert_str_eq(string_at(json_object_get(reply.json, "error"), "param"), "precision");
    reply_free(&reply);

    reply = want(post("/v1/collections/my%20pets/items",
                      "{\"items\": [{\"id\": \"photo\", \"image\": \"@photo_97x61.jpg\", "
                      "\"metadata\": {\"n\": 1, \"x\": 0.1}}, {\"id\": \"wide\", \"image\": "
                      "\"@wide_200x150.jpg\", \"metadata\": {\"n\": 2}}, {\"id\": \"broken\", "
                      "\"image\": \"aGVsbG8=\"}, {\"id\": \"words\", \"text\": \"a cat\"}]}"));
    ck_assert(number_at(reply.json, "added") == 3);
    const json_t *error = json_array_get(json_object_get(reply.json, "errors"), 0);
    ck_assert_str_eq(string_at(error, "id"), "broken");
    ck_assert(number_at(error, "index") == 2);
    reply_free(&reply);

    reply = want(post("/v1/collections/my%20pets/search", "{\"image\": \"@wide_200x150.jpg\"}"));
    const json_t *first = json_array_get(json_object_get(reply.json, "results"), 0);
    ck_assert_str_eq(string_at(first, "id"), "wide");
    ck_assert(fabs(number_at(first, "score") - 1) < 1e-4);
    ck_assert_str_eq(string_at(reply.json, "model"), "clip");
    reply_free(&reply);
    reply = want(
        post("/v1/collections/my%20pets/search", "{\"text\": \"a cat\", \"filter\": {\"n\": 1}}"));
    ck_assert_uint_eq(json_array_size(json_object_get(reply.json, "results")), 1);
    first = json_array_get(json_object_get(reply.json, "results"), 0);
    ck_assert(number_at(json_object_get(first, "metadata"), "x") == 0.1);
    reply_free(&reply);

    reply = want(post("/v1/collections/my%20pets/search", "{\"text\": \"a cat\", \"rerank\": "
                                                          "true}"));
    ck_assert_str_eq(string_at(reply.json, "rerank_model"), "matcher");
    ck_assert_str_eq(string_at(reply.json, "model"), "clip");
    const json_t *results = json_object_get(reply.json, "results");
    ck_assert_uint_eq(json_array_size(results), 3);
    struct reply match = want(post("/v1/match", "{\"image\": \"@wide_200x150.jpg\", \"texts\": "
                                                "\"a cat\"}"));
    double probability =
        json_number_value(json_array_get(json_object_get(match.json, "scores"), 0));
    for (size_t i = 0; i < 3; i++) {
        const json_t *row = json_array_get(results, i);
        if (!strcmp(string_at(row, "id"), "wide"))
            ck_assert(fabs(number_at(row, "score") - probability) < 1e-5);
        if (!strcmp(string_at(row, "id"), "words")) { /* it has no picture */
            ck_assert_uint_eq(i, 2);
            ck_assert(json_is_null(json_object_get(row, "score")));
            ck_assert_ptr_nonnull(json_object_get(row, "error"));
        }
    }
    reply_free(&match);
    reply_free(&reply);

    reply = want(ask("GET", "/v1/collections/my%20pets/items", "limit=2", NULL, NULL, 0));
    ck_assert_uint_eq(json_array_size(json_object_get(reply.json, "items")), 2);
    ck_assert_str_eq(string_at(reply.json, "next"), "wide");
    reply_free(&reply);
    reply =
        want(ask("GET", "/v1/collections/my%20pets/items", "limit=2&after=wide", NULL, NULL, 0));
    ck_assert_uint_eq(json_array_size(json_object_get(reply.json, "items")), 1);
    ck_assert(json_is_null(json_object_get(reply.json, "next")));
    reply_free(&reply);
    reply = want(ask("GET", "/v1/collections/my%20pets/items/photo", "vector=1", NULL, NULL, 0));
    ck_assert(json_is_array(json_object_get(reply.json, "vector")));
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/my%20pets/items/photo", "", NULL, NULL, 0));
    reply_free(&reply);
    reply = ask("DELETE", "/v1/collections/my%20pets/items/photo", "", NULL, NULL, 0);
    ck_assert_int_eq(reply.status, 404);
    reply_free(&reply);
    reply = want(ask("GET", "/v1/collections", "", NULL, NULL, 0));
    ck_assert(number_at(json_array_get(json_object_get(reply.json, "collections"), 0), "count") ==
              2);
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/my%20pets", "", NULL, NULL, 0));
    reply_free(&reply);
}
END_TEST

START_TEST(collections_have_settings)
{
    struct reply reply =
        ask_json("PUT", "/v1/collections/small",
                 "{\"precision\": \"int8\", \"thumbnail\": false, \"metric\": \"dot\"}");
    ck_assert_int_eq(reply.status, 201);
    ck_assert_str_eq(string_at(reply.json, "precision"), "int8");
    ck_assert(json_is_false(json_object_get(reply.json, "thumbnail")));
    reply_free(&reply);
    reply = want(post("/v1/collections/small/items",
                      "{\"items\": [{\"id\": \"p\", \"image\": \"@photo_97x61.jpg\"}]}"));
    reply_free(&reply);
    reply = ask("GET", "/v1/collections/small/items/p/image", "", NULL, NULL, 0);
    ck_assert_int_eq(reply.status, 404);
    reply_free(&reply);
    reply = want(post("/v1/collections/small/search", "{\"image\": \"@photo_97x61.jpg\"}"));
    const json_t *first = json_array_get(json_object_get(reply.json, "results"), 0);
    ck_assert(fabs(number_at(first, "score") - 1) < 1e-4);
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/small", "", NULL, NULL, 0));
    reply_free(&reply);
}
END_TEST

static const json_t *result(const json_t *reply, size_t i)
{
    return json_array_get(json_object_get(reply, "results"), i);
}

START_TEST(queries_are_sums_and_come_together)
{
    struct reply reply = ask_json("PUT", "/v1/collections/sums", "{\"dimensions\": 3}");
    reply_free(&reply);
    reply = want(post("/v1/collections/sums/items",
                      "{\"items\": [{\"id\": \"x\", \"vector\": [2,0,0]}, {\"id\": \"y\", "
                      "\"vector\": [0,1,0]}, {\"id\": \"xy\", \"vector\": [1,1,0]}, {\"id\": "
                      "\"z\", \"vector\": [0,0,-1]}]}"));
    reply_free(&reply);
    /* The parts count by their weights, not by their lengths. */
    reply = want(post("/v1/collections/sums/search",
                      "{\"query\": [{\"vector\": [50,0,0]}, {\"vector\": [0,0.1,0], \"weight\": "
                      "1}], \"top_k\": 1}"));
    ck_assert_str_eq(string_at(result(reply.json, 0), "id"), "xy");
    ck_assert(fabs(number_at(result(reply.json, 0), "score") - 1) < 1e-5);
    reply_free(&reply);
    /* this, but not that */
    reply = want(post("/v1/collections/sums/search",
                      "{\"query\": [{\"vector\": [1,1,0]}, {\"vector\": [1,0,0], \"weight\": "
                      "-0.9}], \"top_k\": 4}"));
    ck_assert_str_eq(string_at(result(reply.json, 0), "id"), "y");
    ck_assert_str_eq(string_at(result(reply.json, 3), "id"), "x");
    reply_free(&reply);
    reply = want(post("/v1/collections/sums/search",
                      "{\"queries\": [{\"vector\": [1,0,0]}, {\"vector\": [1,0]}, [{\"vector\": "
                      "[0,0,1], \"weight\": -2}], [{\"vector\": [1,0,0]}, {\"vector\": [1,0,0], "
                      "\"weight\": -1}]], \"top_k\": 2}"));
    const json_t *queries = json_object_get(reply.json, "queries");
    ck_assert_uint_eq(json_array_size(queries), 4);
    ck_assert_str_eq(string_at(result(json_array_get(queries, 0), 0), "id"), "x");
    ck_assert_str_eq(string_at(result(json_array_get(queries, 0), 1), "id"), "xy");
    ck_assert_str_eq(string_at(json_object_get(json_array_get(queries, 1), "error"), "param"),
                     "queries[1].vector");
    ck_assert_str_eq(string_at(result(json_array_get(queries, 2), 0), "id"), "z");
    ck_assert_ptr_nonnull(strstr(
        string_at(json_object_get(json_array_get(queries, 3), "error"), "message"), "cancel out"));
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/sums", "", NULL, NULL, 0));
    reply_free(&reply);

    /* A text and a picture together, through the model. */
    reply = ask_json("PUT", "/v1/collections/mixed", "{}");
    reply_free(&reply);
    reply = want(post("/v1/collections/mixed/items",
                      "{\"items\": [{\"id\": \"photo\", \"image\": \"@photo_97x61.jpg\"}, "
                      "{\"id\": \"wide\", \"image\": \"@wide_200x150.jpg\"}]}"));
    reply_free(&reply);
    struct reply plain =
        want(post("/v1/collections/mixed/search", "{\"image\": \"@wide_200x150.jpg\"}"));
    reply = want(post("/v1/collections/mixed/search",
                      "{\"queries\": [{\"image\": \"@wide_200x150.jpg\"}, [{\"image\": "
                      "\"@wide_200x150.jpg\", \"weight\": 3}, {\"text\": \"a cat\", \"weight\": "
                      "0}], {\"image\": \"aGVsbG8=\"}]}"));
    queries = json_object_get(reply.json, "queries");
    for (size_t q = 0; q < 2; q++)
        for (size_t i = 0; i < 2; i++)
            ck_assert(fabs(number_at(result(json_array_get(queries, q), i), "score") -
                           number_at(result(plain.json, i), "score")) < 1e-5);
    ck_assert_str_eq(string_at(json_object_get(json_array_get(queries, 2), "error"), "param"),
                     "queries[2].image");
    reply_free(&reply);
    reply_free(&plain);
    reply = want(post("/v1/collections/mixed/search",
                      "{\"query\": [{\"image\": \"@wide_200x150.jpg\"}, {\"text\": \"a cat\"}], "
                      "\"rerank\": true}"));
    ck_assert_str_eq(string_at(reply.json, "rerank_model"), "matcher");
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/mixed", "", NULL, NULL, 0));
    reply_free(&reply);
}
END_TEST

/* a1 … a3 are a chain: only neighbours are alike enough. */
START_TEST(duplicates_are_grouped_page_by_page)
{
    struct reply reply = ask_json("PUT", "/v1/collections/twins", "{\"dimensions\": 2}");
    reply_free(&reply);
    reply = want(post("/v1/collections/twins/items",
                      "{\"items\": [{\"id\": \"a1\", \"vector\": [1,0]}, {\"id\": \"a2\", "
                      "\"vector\": [0.95,0.312]}, {\"id\": \"a3\", \"vector\": [0.8,0.6]}, "
                      "{\"id\": \"b1\", \"vector\": [-1,0]}, {\"id\": \"b2\", \"vector\": "
                      "[-3,0]}, {\"id\": \"c\", \"vector\": [0,-1]}]}"));
    reply_free(&reply);
    static const struct {
        const char *body, *next;
        size_t n_groups, n_items;
    } rows[] = {
        {"{\"min_score\": 0.94}", NULL, 2, 3},
        {"{\"min_score\": 0.94, \"limit\": 1}", "a1", 1, 3},
        {"{\"min_score\": 0.94, \"limit\": 2, \"after\": \"a1\"}", "a3", 0, 0},
        {"{\"min_score\": 0.94, \"limit\": 3, \"after\": \"a2\"}", "b2", 1, 2},
        {"{\"min_score\": 0.9999, \"limit\": 100}", NULL, 1, 2},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        reply = want(post("/v1/collections/twins/duplicates", rows[i].body));
        const json_t *groups = json_object_get(reply.json, "groups");
        ck_assert_msg(json_array_size(groups) == rows[i].n_groups, "row %zu: %zu groups", i,
                      json_array_size(groups));
        if (rows[i].n_groups) {
            const json_t *items = json_object_get(json_array_get(groups, 0), "items");
            ck_assert_uint_eq(json_array_size(items), rows[i].n_items);
            ck_assert(json_is_true(json_object_get(json_array_get(groups, 0), "complete")));
            for (size_t j = 0; j < rows[i].n_items; j++)
                ck_assert(number_at(json_array_get(items, j), "score") >= 0.94 - 1e-6);
        }
        if (rows[i].next)
            ck_assert_str_eq(string_at(reply.json, "next"), rows[i].next);
        else
            ck_assert(json_is_null(json_object_get(reply.json, "next")));
        reply_free(&reply);
    }
    reply = ask_json("POST", "/v1/collections/none/duplicates", "{}");
    ck_assert_int_eq(reply.status, 404);
    reply_free(&reply);
    reply = want(ask("DELETE", "/v1/collections/twins", "", NULL, NULL, 0));
    reply_free(&reply);
}
END_TEST

START_TEST(collections_refuse_what_does_not_fit)
{
    struct reply reply = ask_json("PUT", "/v1/collections/own", "{\"dimensions\": 3}");
    ck_assert_int_eq(reply.status, 201);
    reply_free(&reply);
    reply = ask_json("PUT", "/v1/collections/clips", "{}");
    ck_assert_int_eq(reply.status, 201);
    reply_free(&reply);
    static const struct {
        const char *path, *body;
        int status;
        const char *param;
    } rows[] = {
        {"/v1/collections/own/items", "{}", 400, "items"},
        {"/v1/collections/own/items", "{\"items\": {}}", 400, "items"},
        {"/v1/collections/own/items", "{\"items\": []}", 422, "items"},
        {"/v1/collections/own/items", "{\"items\": [1]}", 400, "items[0]"},
        {"/v1/collections/own/items", "{\"items\": [{\"vector\": [1,2,3]}]}", 400, "items[0].id"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": 1, \"vector\": [1,2,3]}]}", 400,
         "items[0].id"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"\", \"vector\": [1,2,3]}]}", 400,
         "items[0].id"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"a\"}]}", 400, "items[0]"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"a\", \"x\": 1}]}", 400,
         "items[0].x"},
        {"/v1/collections/own/items",
         "{\"items\": [{\"id\": \"a\", \"vector\": [1,2,3], \"text\": \"b\"}]}", 400,
         "items[0].text"},
        {"/v1/collections/own/items",
         "{\"items\": [{\"id\": \"a\", \"vector\": [1,2,3], \"metadata\": []}]}", 400,
         "items[0].metadata"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"a\", \"vector\": [1,2]}]}", 422,
         "items[0].vector"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"a\", \"vector\": [1,2,true]}]}", 400,
         "items[0].vector"},
        {"/v1/collections/own/items", "{\"items\": [{\"id\": \"a\", \"text\": \"b\"}]}", 422,
         "items[0].text"},
        {"/v1/collections/own/items",
         "{\"space\": \"other\", \"items\": [{\"id\": \"a\", \"vector\": [1,2,3]}]}", 422, "space"},
        {"/v1/collections/own/search", "{}", 400, "text"},
        {"/v1/collections/own/search", "{\"query\": {}}", 400, "query"},
        {"/v1/collections/own/search", "{\"query\": []}", 400, "query"},
        {"/v1/collections/own/search", "{\"query\": [1]}", 400, "query[0]"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [1,2,3], \"weight\": 101}}", 400,
         "query"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [1,2,3], \"weight\": \"1\"}}", 400,
         "query"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [1,2,3], \"near\": 1}}", 400,
         "query"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [1,2,3], \"text\": \"a\"}}", 400,
         "query"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [1,2]}}", 422, "query.vector"},
        {"/v1/collections/own/search", "{\"query\": {\"text\": \"a\"}}", 422, "query.text"},
        {"/v1/collections/own/search", "{\"query\": {\"vector\": [0,0,0]}}", 422, "query.vector"},
        {"/v1/collections/own/search", "{\"queries\": {}}", 400, "queries"},
        {"/v1/collections/own/search", "{\"queries\": []}", 400, "queries"},
        {"/v1/collections/own/search", "{\"queries\": [{\"vector\": [1,2,3]}, 7]}", 400,
         "queries[1]"},
        {"/v1/collections/own/search",
         "{\"queries\": [{\"vector\": [1,2,3]}], \"vector\": [1,2,3]}", 400, "vector"},
        {"/v1/collections/clips/search", "{\"queries\": [{\"text\": \"a\"}], \"rerank\": true}",
         422, "rerank"},
        {"/v1/collections/own/duplicates", "{\"min_score\": 2}", 400, "min_score"},
        {"/v1/collections/own/search", "{\"text\": \"a\"}", 422, "text"},
        {"/v1/collections/own/search", "{\"text\": \"a\", \"vector\": [1,2,3]}", 400, "text"},
        {"/v1/collections/own/search", "{\"vector\": [1,2]}", 422, "vector"},
        {"/v1/collections/own/search", "{\"vector\": [1,2,3], \"top_k\": 0}", 400, "top_k"},
        {"/v1/collections/own/search", "{\"vector\": [1,2,3], \"filter\": []}", 400, "filter"},
        {"/v1/collections/own/search", "{\"vector\": [1,2,3], \"rerank\": true}", 422, "rerank"},
        {"/v1/collections/clips/search", "{\"text\": \"a\", \"rerank\": 1}", 400, "rerank"},
        {"/v1/collections/clips/search", "{\"text\": \"a\", \"rerank\": \"clip\"}", 422, "rerank"},
        {"/v1/collections/clips/search", "{\"text\": \"\"}", 422, "text"},
        {"/v1/collections/clips/search", "{\"image\": \"aGVsbG8=\"}", 422, "image"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        reply = post(rows[i].path, rows[i].body);
        ck_assert_msg(reply.status == rows[i].status, "row %zu (%s): %d %s", i, rows[i].body,
                      reply.status, reply.text);
        ck_assert_msg(
            !strcmp(string_at(json_object_get(reply.json, "error"), "param"), rows[i].param),
            "row %zu: %s", i, reply.text);
        reply_free(&reply);
    }
    reply = ask_json("PUT", "/v1/collections/x", "{\"metric\": \"l2\"}");
    ck_assert_int_eq(reply.status, 400);
    reply_free(&reply);
    reply = want(post("/v1/collections/own/items", "{\"items\": [{\"id\": \"a\", \"vector\": "
                                                   "[1,2,3]}]}"));
    reply_free(&reply);
    reply = want(post("/v1/collections/own/search", "{\"vector\": [1,2,3]}"));
    ck_assert_uint_eq(json_array_size(json_object_get(reply.json, "results")), 1);
    reply_free(&reply);
    for (size_t i = 0; i < 2; i++) {
        reply = want(
            ask("DELETE", i ? "/v1/collections/own" : "/v1/collections/clips", "", NULL, NULL, 0));
        reply_free(&reply);
    }
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, collections_keep_embed_search_and_rerank);
    tcase_add_test(tcase, collections_have_settings);
    tcase_add_test(tcase, queries_are_sums_and_come_together);
    tcase_add_test(tcase, duplicates_are_grouped_page_by_page);
    tcase_add_test(tcase, collections_refuse_what_does_not_fit);
}

int main(void)
{
    return api_world_run("api_collections", add_tests);
}
