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
    tcase_add_test(tcase, collections_refuse_what_does_not_fit);
}

int main(void)
{
    return api_world_run("api_collections", add_tests);
}
