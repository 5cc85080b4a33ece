/*
 * test_store_drivers.c: what every kind of store must do alike, and what PostgreSQL's alone
 * promises.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/index/store_internal.h"
#include "tests/unit/store_world.h"

/* ---- both drivers
 * ---------------------------------------------------------------------------------------- */

/* Odd on purpose: numbers that doubles cannot tell apart or that vanish, texts that sort by bytes.
 */
static const char *const odd_metadata[] = {
    "{}",
    "{\"a\": null}",
    "{\"a\": true}",
    "{\"a\": 1}",
    "{\"a\": 1.0}",
    "{\"a\": 1e0}",
    "{\"a\": -0.0}",
    "{\"a\": 0}",
    "{\"a\": 1e-400}",
    "{\"a\": 1e308}",
    "{\"a\": 5e-324}",
    "{\"a\": 9007199254740993}",
    "{\"a\": 9007199254740992}",
    "{\"a\": 9223372036854775807}",
    "{\"a\": \"1\"}",
    "{\"a\": \"\"}",
    "{\"a\": \"Zebra\"}",
    "{\"a\": \"apple\"}",
    "{\"a\": \"apples\"}",
    "{\"a\": \"\xC3\xA4pfel\"}",
    "{\"a\": \"\xF0\x9F\x8D\x8E\"}",
    "{\"a\": \"%_\\\\\"}",
    "{\"a\": \"quote ' \\\" ; DROP TABLE items --\"}",
    "{\"a\": [1, 2]}",
    "{\"a\": [1.0, 2]}",
    "{\"a\": {\"b\": 1}}",
    "{\"a\": {\"b\": {\"c\": \"deep\"}}}",
    "{\"a.b\": 2, \"a\": {\"b\": 1}}",
    "{\"a\": {\"b.c\": 3}}",
    "{\"a.b\": {\"c\": 4}}",
    "{\"a\": {\"b\": null}}",
    "{\"\": 5, \"x'y\": 6, \"$1\": 7}",
    "{\"a\": 2, \"z\": \"yes\"}",
    "{ \"a\" :  3 , \"keep\" : \"spaces and order\", \"b\": [ ] }",
};

static const char *const filters[] = {
    "{}",
    "{\"a\": 1}",
    "{\"a\": 0}",
    "{\"a\": null}",
    "{\"a\": true}",
    "{\"a\": false}",
    "{\"a\": \"1\"}",
    "{\"a\": \"\"}",
    "{\"a\": 9007199254740993}",
    "{\"a\": {\"exists\": true}}",
    "{\"a\": {\"exists\": false}}",
    "{\"a\": {\"ne\": 1}}",
    "{\"a\": {\"ne\": \"apple\"}}",
    "{\"a\": {\"ne\": [1, 2]}}",
    "{\"a\": {\"ne\": {\"b\": 1}}}",
    "{\"a\": {\"gt\": 0}}",
    "{\"a\": {\"gte\": 0, \"lt\": 2}}",
    "{\"a\": {\"lt\": 1e-300}}",
    "{\"a\": {\"gt\": 9007199254740992}}",
    "{\"a\": {\"lte\": 9007199254740993}}",
    "{\"a\": {\"gt\": \"Z\"}}",
    "{\"a\": {\"gte\": \"apple\", \"lt\": \"apples\"}}",
    "{\"a\": {\"gt\": \"apples\"}}",
    "{\"a\": {\"lte\": \"\"}}",
    "{\"a\": {\"prefix\": \"app\"}}",
    "{\"a\": {\"prefix\": \"\"}}",
    "{\"a\": {\"prefix\": \"%\"}}",
    "{\"a\": {\"prefix\": \"%_\\\\\"}}",
    "{\"a\": {\"prefix\": \"\xC3\xA4\"}}",
    "{\"a\": {\"in\": []}}",
    "{\"a\": {\"in\": [1, \"1\", null, true]}}",
    "{\"a\": {\"in\": [[1, 2]]}}",
    "{\"a\": {\"in\": [{\"b\": 1}, 3]}}",
    "{\"a\": {\"in\": [9007199254740992, \"apple\"]}}",
    "{\"a.b\": 1}",
    "{\"a.b\": 2}",
    "{\"a.b\": null}",
    "{\"a.b.c\": \"deep\"}",
    "{\"a.b.c\": 3}",
    "{\"a.b.c\": 4}",
    "{\"a.b\": {\"exists\": true}}",
    "{\"a.b.c\": {\"exists\": false}}",
    "{\"a.b.c.d.e.f.g.h.i.j.k.l\": {\"exists\": false}}",
    "{\".\": {\"exists\": false}}",
    "{\"\": 5}",
    "{\"x'y\": 6}",
    "{\"$1\": 7}",
    "{\"a\": \"quote ' \\\" ; DROP TABLE items --\"}",
    "{\"'; DROP TABLE vlmd.collections; --\": 1}",
    "{\"a\": 2, \"z\": \"yes\"}",
    "{\"not\": {\"a\": 1}}",
    "{\"not\": {\"a\": {\"gt\": 0}}}",
    "{\"not\": {\"not\": {\"a\": {\"prefix\": \"a\"}}}}",
    "{\"and\": []}",
    "{\"or\": []}",
    "{\"or\": [{\"a\": 1}, {\"a\": {\"prefix\": \"Z\"}}]}",
    "{\"and\": [{\"a\": {\"gt\": 0}}, {\"not\": {\"a\": {\"in\": [1, 2]}}}]}",
    "{\"or\": [{\"a\": {\"in\": [[1, 2]]}}, {\"a\": {\"exists\": false}}], \"not\": {\"\": 5}}",
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

START_TEST(filters_take_what_filter_matches_takes)
{
    enum { N = ARRAY_LENGTH(odd_metadata) };
    struct store *store = store_world_open("c", 2, METRIC_DOT);
    char ids[N][8];
    float vectors[N][2];
    for (size_t i = 0; i < N; i++) {
        snprintf(ids[i], sizeof ids[i], "%02zu", i);
        vectors[i][0] = (float)i;
        vectors[i][1] = 1;
        ck_assert_msg(!store_world_put(store, ids[i], vectors[i], odd_metadata[i]), "%s: %s",
                      odd_metadata[i], err.message);
    }
    for (size_t f = 0; f < ARRAY_LENGTH(filters); f++) {
        json_t *filter = json_loads(filters[f], 0, NULL);
        ck_assert_msg(filter && !filter_check(filter, &err), "%s", filters[f]);
        static const size_t top_ks[] = {2, N};
        for (size_t k = 0; k < ARRAY_LENGTH(top_ks); k++) {
            struct found found;
            size_t wanted = 0;
            struct search search = {.vectors = (const float[]){1, 0},
                                    .n_queries = 1,
                                    .dim = 2,
                                    .top_k = top_ks[k],
                                    .min_score = -INFINITY,
                                    .filter = filters[f]};
            ck_assert_msg(!store_search(store, "c", &search, &found, &err), "%s: %s", filters[f],
                          err.message);
            for (size_t i = N; i-- > 0 && wanted < top_ks[k];) { /* best first */
                json_t *metadata = json_loads(odd_metadata[i], 0, NULL);
                if (filter_matches(filter, metadata)) {
                    ck_assert_msg(wanted < found.n && !strcmp(found.items[wanted].id, ids[i]),
                                  "%s: place %zu is %s, not %s with %s", filters[f], wanted,
                                  wanted < found.n ? found.items[wanted].id : "empty", ids[i],
                                  odd_metadata[i]);
                    ck_assert_str_eq(found.items[wanted].metadata, odd_metadata[i]);
                    wanted++;
                }
                json_decref(metadata);
            }
            ck_assert_msg(found.n == wanted, "%s: %zu found, %zu wanted", filters[f], found.n,
                          wanted);
            found_release(&found);
        }
        json_decref(filter);
    }
    store_close(store);
}
END_TEST

START_TEST(cursors_go_in_the_order_of_bytes)
{
    static const char *const ids[] = {"b",
                                      "B",
                                      "a/b",
                                      "a b",
                                      "\xC3\xA4",
                                      "~",
                                      "' OR 1=1--",
                                      "\\x00",
                                      "%",
                                      "a",
                                      "aa",
                                      "A\"",
                                      "\xE2\x80\xA8",
                                      "\xF0\x9F\x8D\x8E",
                                      "$1 ?1 :id",
                                      "\t"};
    enum { N = ARRAY_LENGTH(ids) };
    struct store *store = store_world_open("c", 1, METRIC_DOT);
    const float one = 1;
    const char *sorted[N];
    for (size_t i = 0; i < N; i++) {
        ck_assert_int_eq(store_world_put(store, ids[i], &one, NULL), STATUS_OK);
        sorted[i] = ids[i];
    }
    qsort(sorted, N, sizeof *sorted, by_text);
    char after[64] = "";
    for (size_t i = 0; i < N + 3; i += 3) {
        struct stored_item *page;
        size_t n;
        ck_assert_int_eq(store_scan(store, "c", i ? after : NULL, 3, true, &page, &n, &err),
                         STATUS_OK);
        ck_assert_uint_eq(n, i + 3 <= N ? 3 : i < N ? N - i : 0);
        for (size_t j = 0; j < n; j++) {
            ck_assert_str_eq(page[j].id, sorted[i + j]);
            ck_assert_str_eq(page[j].metadata, "{}");
            ck_assert_float_eq(page[j].vector[0], 1);
            snprintf(after, sizeof after, "%s", page[j].id);
        }
        stored_items_free(page, n);
    }
    store_close(store);
}
END_TEST

START_TEST(of_two_items_with_one_id_the_later_stays)
{
    struct store *store = store_world_open("c", 1, METRIC_DOT);
    const float vectors[] = {1, 2, 3, 4};
    struct item items[] = {{.id = "b", .vector = &vectors[0]},
                           {.id = "a", .vector = &vectors[1], .blob = "", .blob_bytes = 0},
                           {.id = "b", .vector = &vectors[2], .metadata = "{\"last\": true}"},
                           {.id = "c", .vector = &vectors[3]}};
    size_t added, updated;
    ck_assert_int_eq(store_put(store, "c", items, 4, &added, &updated, &err), STATUS_OK);
    ck_assert_uint_eq(added, 3);
    ck_assert_uint_eq(updated, 1);
    struct stored_item *item;
    ck_assert_int_eq(store_item(store, "c", "b", true, &item, &err), STATUS_OK);
    ck_assert_str_eq(item->metadata, "{\"last\": true}");
    ck_assert_float_eq(item->vector[0], 3);
    stored_items_free(item, 1);
    void *blob;
    size_t size = 9;
    ck_assert_int_eq(store_blob(store, "c", "a", &blob, &size, &err), STATUS_OK);
    ck_assert_uint_eq(size, 0);
    free(blob);
    struct collection info;
    ck_assert_int_eq(store_get(store, "c", &info, &err), STATUS_OK);
    ck_assert_uint_eq(info.count, 3);
    collection_release(&info);
    store_close(store);
}
END_TEST

START_TEST(equal_scores_come_in_the_order_of_the_last_put)
{
    struct store *store = store_world_open("c", 2, METRIC_COSINE);
    const float vectors[] = {0.6f, 0.8f, 1, 0};
    struct item items[] = {{.id = "z", .vector = vectors},
                           {.id = "m", .vector = vectors},
                           {.id = "a", .vector = vectors}};
    size_t added, updated;
    ck_assert_int_eq(store_put(store, "c", items, 3, &added, &updated, &err), STATUS_OK);
    ck_assert_int_eq(store_world_put(store, "b", vectors, NULL), STATUS_OK);
    ck_assert_int_eq(store_world_put(store, "m", vectors, NULL), STATUS_OK);
    struct found found[2];
    struct search search = {
        .vectors = vectors, .n_queries = 2, .dim = 2, .top_k = 10, .min_score = 0.5f};
    ck_assert_int_eq(store_search(store, "c", &search, found, &err), STATUS_OK);
    static const char *const want[] = {"z", "a", "b", "m"};
    for (size_t q = 0; q < 2; q++) {
        ck_assert_uint_eq(found[q].n, 4);
        for (size_t i = 0; i < 4; i++) {
            ck_assert_str_eq(found[q].items[i].id, want[i]);
            ck_assert_float_eq_tol(found[q].items[i].score, q ? 0.6f : 1, 1e-6f);
        }
        found_release(&found[q]);
    }
    search.min_score = 0.7f; /* too much for the second query */
    ck_assert_int_eq(store_search(store, "c", &search, found, &err), STATUS_OK);
    ck_assert_uint_eq(found[0].n, 4);
    ck_assert_uint_eq(found[1].n, 0);
    found_release(&found[0]);
    found_release(&found[1]);
    store_close(store);
}
END_TEST

START_TEST(hostile_texts_are_kept_literally_or_refused)
{
    const char *name = "x'; DROP SCHEMA vlmd CASCADE; --\"\\ \xF0\x9F\x90\x98";
    struct store *store = store_world_open(name, 1, METRIC_DOT);
    struct collection *list;
    size_t n, added, updated;
    ck_assert_int_eq(store_list(store, &list, &n, &err), STATUS_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(list[0].name, name);
    collection_release(&list[0]);
    free(list);

    /* The longest of everything, and one more. */
    static char id[STORE_ID_MAX + 2], metadata[STORE_METADATA_MAX + 2];
    const float one = 1;
    memset(id, 0, sizeof id);
    memset(id, 'i', STORE_ID_MAX);
    memset(metadata, 0, sizeof metadata);
    memset(metadata, 'x', STORE_METADATA_MAX);
    memcpy(metadata, "{\"k\": \"", 7);
    memcpy(metadata + STORE_METADATA_MAX - 2, "\"}", 2);
    struct item item = {.id = id, .vector = &one, .metadata = metadata};
    ck_assert_msg(!store_put(store, name, &item, 1, &added, &updated, &err), "%s", err.message);
    struct stored_item *back;
    ck_assert_int_eq(store_item(store, name, id, false, &back, &err), STATUS_OK);
    ck_assert_str_eq(back->metadata, metadata);
    stored_items_free(back, 1);
    id[STORE_ID_MAX] = 'i';
    ck_assert_int_eq(store_put(store, name, &item, 1, &added, &updated, &err), STATUS_OUT_OF_RANGE);
    ck_assert_int_eq(store_item(store, name, id, false, &back, &err), STATUS_NOT_FOUND);
    id[1] = '\0';
    memset(metadata + STORE_METADATA_MAX - 2, 'x', 2);
    memcpy(metadata + STORE_METADATA_MAX - 1, "\"}", 2);
    ck_assert_int_eq(store_put(store, name, &item, 1, &added, &updated, &err), STATUS_TOO_LONG);
    item.metadata = "{\"nul\": \"\\u0000\"}";
    ck_assert_int_eq(store_put(store, name, &item, 1, &added, &updated, &err), STATUS_WRONG_TYPE);

    /* As deep as the parser takes it. */
    char deep[4200];
    size_t used = (size_t)snprintf(deep, sizeof deep, "{\"k\": ");
    memset(deep + used, '[', 2000);
    memset(deep + used + 2000, ']', 2000);
    memcpy(deep + used + 4000, "}", 2);
    item.metadata = deep;
    ck_assert_msg(!store_put(store, name, &item, 1, &added, &updated, &err), "%s", err.message);

    static const char *const bad[] = {"\xFF", "\xC3", "\xED\xA0\x80"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct collection info;
        void *blob;
        size_t size;
        ck_assert_int_eq(store_get(store, bad[i], &info, &err), STATUS_NOT_FOUND);
        ck_assert_int_eq(store_drop(store, bad[i], &err), STATUS_NOT_FOUND);
        ck_assert_int_eq(store_item(store, name, bad[i], true, &back, &err), STATUS_NOT_FOUND);
        ck_assert_int_eq(store_blob(store, name, bad[i], &blob, &size, &err), STATUS_NOT_FOUND);
        ck_assert_int_eq(store_remove(store, name, bad[i], &err), STATUS_NOT_FOUND);
    }
    ck_assert_int_eq(store_drop(store, name, &err), STATUS_OK);
    ck_assert_int_eq(store_drop(store, name, &err), STATUS_NOT_FOUND);
    store_close(store);
}
END_TEST

START_TEST(results_of_too_many_bytes_are_refused)
{
    enum { N = 16, QUERIES = 20 };
    struct store *store = store_world_open("c", 1, METRIC_DOT);
    char *metadata = malloc(STORE_METADATA_MAX + 1);
    memset(metadata, 'x', STORE_METADATA_MAX);
    memcpy(metadata, "{\"k\": \"", 7);
    memcpy(metadata + STORE_METADATA_MAX - 2, "\"}", 3);
    const float ones[QUERIES] = {[0 ... QUERIES - 1] = 1};
    for (int i = 0; i < N; i++) {
        char id[8];
        snprintf(id, sizeof id, "%d", i);
        ck_assert_msg(!store_world_put(store, id, ones, metadata), "%s", err.message);
    }
    free(metadata);
    struct found found[QUERIES];
    struct search search = {.vectors = ones, .n_queries = QUERIES, .dim = 1, .top_k = N};
    ck_assert_int_eq(store_search(store, "c", &search, found, &err), STATUS_TOO_LONG);
    search.ids_only = true;
    ck_assert_msg(!store_search(store, "c", &search, found, &err), "%s", err.message);
    for (size_t q = 0; q < QUERIES; q++) {
        ck_assert_uint_eq(found[q].n, N);
        ck_assert_ptr_null(found[q].items[0].metadata);
        found_release(&found[q]);
    }
    search.ids_only = false;
    search.n_queries = 1;
    search.exact = true;
    ck_assert_int_eq(store_search(store, "c", &search, found, &err), STATUS_OK);
    ck_assert_uint_eq(strlen(found[0].items[N - 1].metadata), STORE_METADATA_MAX);
    found_release(&found[0]);
    store_close(store);
}
END_TEST

/* Two threads put and remove the same items in opposite orders. */
struct crowd {
    struct store *store;
    bool backwards;
    enum status status;
    char message[ERROR_MESSAGE_MAX];
};
enum { CROWD_ITEMS = 40, CROWD_ROUNDS = 30 };

static void *crowd_main(void *argument)
{
    struct crowd *crowd = argument;
    struct error fault;
    struct item items[CROWD_ITEMS];
    char ids[CROWD_ITEMS][8];
    float vectors[CROWD_ITEMS];
    for (int round = 0; round < CROWD_ROUNDS && !crowd->status; round++) {
        size_t added, updated;
        for (int i = 0; i < CROWD_ITEMS; i++) {
            snprintf(ids[i], sizeof ids[i], "%d", crowd->backwards ? CROWD_ITEMS - 1 - i : i);
            vectors[i] = (float)round;
            items[i] = (struct item){.id = ids[i], .vector = &vectors[i]};
        }
        crowd->status = store_put(crowd->store, "c", items, CROWD_ITEMS, &added, &updated, &fault);
        if (!crowd->status && round + 1 < CROWD_ROUNDS) {
            crowd->status = store_remove(crowd->store, "c", ids[round % CROWD_ITEMS], &fault);
            if (crowd->status == STATUS_NOT_FOUND) /* the other was faster */
                crowd->status = STATUS_OK;
        }
    }
    if (crowd->status)
        snprintf(crowd->message, sizeof crowd->message, "%s", fault.message);
    return NULL;
}

START_TEST(writers_of_the_same_items_do_not_hinder_each_other)
{
    struct store *store = store_world_open("c", 1, METRIC_DOT);
    struct crowd crowds[4];
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        crowds[i] = (struct crowd){.store = store, .backwards = i % 2};
        pthread_create(&threads[i], NULL, crowd_main, &crowds[i]);
    }
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < 4; i++)
        ck_assert_msg(!crowds[i].status, "%s", crowds[i].message);
    struct collection info;
    ck_assert_int_eq(store_get(store, "c", &info, &err), STATUS_OK);
    ck_assert_uint_eq(info.count,
                      CROWD_ITEMS); /* each one's last put came after its last removal */
    collection_release(&info);
    store_close(store);
}
END_TEST

/* ---- PostgreSQL
 * ------------------------------------------------------------------------------------------ */

START_TEST(two_stores_see_each_other_at_once)
{
    struct store *one = store_world_open("c", 2, METRIC_COSINE),
                 *two = store_world_open("c", 2, METRIC_COSINE);
    const float vector[] = {1, 0};
    struct stored_item *item;
    struct collection info;
    for (int i = 0; i < 50; i++) {
        char id[8];
        snprintf(id, sizeof id, "%d", i);
        ck_assert_int_eq(store_world_put(i % 2 ? one : two, id, vector, NULL), STATUS_OK);
        ck_assert_int_eq(store_item(i % 2 ? two : one, "c", id, true, &item, &err), STATUS_OK);
        stored_items_free(item, 1);
        struct found found;
        struct search search = {
            .vectors = vector, .n_queries = 1, .dim = 2, .top_k = 100, .min_score = 0};
        ck_assert_int_eq(store_search(i % 2 ? two : one, "c", &search, &found, &err), STATUS_OK);
        ck_assert_uint_eq(found.n, (size_t)i + 1);
        found_release(&found);
    }
    /* Dropped and made anew with other dimensions by the other. */
    ck_assert_int_eq(store_drop(two, "c", &err), STATUS_OK);
    ck_assert_int_eq(store_get(one, "c", &info, &err), STATUS_NOT_FOUND);
    ck_assert_int_eq(store_world_put(one, "x", vector, NULL), STATUS_NOT_FOUND);
    store_close(store_world_open("c", 1, METRIC_COSINE));
    ck_assert_int_eq(store_world_put(one, "x", vector, NULL), STATUS_OK);
    store_close(one);
    store_close(two);
}
END_TEST

START_TEST(long_vectors_are_searched_exactly_or_refused)
{
    static float vector[16001];
    for (size_t i = 0; i < ARRAY_LENGTH(vector); i++)
        vector[i] = 1;
    static const size_t dims[] = {1501, 2001, 16000};
    for (size_t i = 0; i < ARRAY_LENGTH(dims); i++) {
        struct store *store = store_world_open("c", dims[i], METRIC_COSINE);
        ck_assert_msg(!store_world_put(store, "a", vector, NULL), "%s", err.message);
        struct found found;
        struct search search = {.vectors = vector, .n_queries = 1, .dim = dims[i], .top_k = 1};
        ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OK);
        ck_assert_uint_eq(found.n, 1);
        ck_assert_float_eq_tol(found.items[0].score, 1, 1e-4f);
        found_release(&found);
        ck_assert_int_eq(store_drop(store, "c", &err), STATUS_OK);
        store_close(store);
    }
    struct store *store = store_open(&(struct store_options){.uri = store_uri}, &err);
    struct collection settings = {.name = "c", .space = "external", .model = "", .dim = 16001};
    bool created;
    ck_assert_int_eq(store_create(store, &settings, &created, &err), STATUS_OUT_OF_RANGE);
    ck_assert_ptr_nonnull(strstr(err.message, "16000"));
    store_close(store);
}
END_TEST

static void random_vector(unsigned *seed, float *out, size_t dim)
{
    for (size_t d = 0; d < dim; d++)
        out[d] = (float)rand_r(seed) / (float)RAND_MAX - 0.5f;
}

/* Past the size from which there is a graph index: built while adds go on, and good. */
START_TEST(a_big_collection_is_indexed_behind_the_adds)
{
    enum { N = 5500, DIM = 8, BATCH = 500, QUERIES = 20, K = 10 };
    store_graph_from = 5000;
    struct store *store = store_world_open("c", DIM, METRIC_COSINE);
    static float vectors[N][DIM];
    char ids[BATCH][8], metadata[BATCH][32];
    struct item items[BATCH];
    unsigned seed = 5;
    for (int first = 0; first < N; first += BATCH) {
        for (int i = 0; i < BATCH; i++) {
            random_vector(&seed, vectors[first + i], DIM);
            snprintf(ids[i], sizeof ids[i], "%05d", first + i);
            snprintf(metadata[i], sizeof metadata[i], "{\"n\": %d}", first + i);
            items[i] =
                (struct item){.id = ids[i], .vector = vectors[first + i], .metadata = metadata[i]};
        }
        size_t added, updated;
        ck_assert_msg(!store_put(store, "c", items, BATCH, &added, &updated, &err), "%s",
                      err.message);
    }
    /* Searches are right before, while and after it is built; so is a drop. */
    size_t right = 0, wanted = 0;
    for (int round = 0; round < 2; round++) {
        for (int q = 0; q < QUERIES; q++) {
            float query[DIM];
            random_vector(&seed, query, DIM);
            struct found found, all;
            struct search search = {
                .vectors = query, .n_queries = 1, .dim = DIM, .top_k = K, .min_score = -INFINITY};
            ck_assert_msg(!store_search(store, "c", &search, &found, &err), "%s", err.message);
            ck_assert_uint_eq(found.n, K);
            search.top_k = 1000; /* more than the graph is asked for: exact */
            ck_assert_int_eq(store_search(store, "c", &search, &all, &err), STATUS_OK);
            ck_assert_uint_eq(all.n, 1000);
            for (size_t i = 0; i < K; i++)
                for (size_t j = 0; j < K; j++)
                    right += !strcmp(found.items[i].id, all.items[j].id);
            wanted += K;
            found_release(&found);
            found_release(&all);
            /* A filter that hardly any item passes still fills top_k. */
            search.top_k = K;
            search.filter = "{\"n\": {\"lt\": 10}}";
            ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OK);
            ck_assert_uint_eq(found.n, K);
            found_release(&found);
        }
        if (!round)
            sleep(3);
    }
    ck_assert_msg(right * 100 >= wanted * 95, "%zu of %zu", right, wanted);
    ck_assert_msg(!store_drop(store, "c", &err), "%s", err.message);
    store_graph_from = 0;
    store_close(store);
}
END_TEST

START_TEST(a_database_that_is_away_is_told_without_its_password)
{
    static const struct {
        const char *uri;
        bool opens;
    } rows[] = {
        {"postgresql://joe:hunter2@127.0.0.1:1/nothing", true},
        {"postgres://joe:hunter2@/x?host=/nonexistent", true},
        {"postgresql://joe:hun%zzter2@127.0.0.1/x", false},
        {"postgresql://joe:hunter2@127.0.0.1:port/x", true},
        {"postgresql://joe@127.0.0.1/x?password=hunter2&nonsense=1", false},
        {"postgresq://joe:hunter2@127.0.0.1/x", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        err = (struct error){0};
        struct store *store = store_open(&(struct store_options){.uri = rows[i].uri}, &err);
        ck_assert_msg(!store == !rows[i].opens, "row %zu: %s", i, err.message);
        if (store) {
            struct collection *list;
            size_t n;
            ck_assert_int_eq(store_ready(store, &err), STATUS_UNAVAILABLE);
            ck_assert_int_eq(store_list(store, &list, &n, &err), STATUS_UNAVAILABLE);
            store_close(store);
        }
        ck_assert_ptr_null(strstr(err.message, "hunter2"));
        ck_assert_ptr_null(strstr(err.message, "ter2"));
        ck_assert_uint_gt(strlen(err.message), 20);
    }
    struct store *store = store_open(&(struct store_options){.uri = store_uri}, &err);
    ck_assert_ptr_nonnull(store);
    ck_assert_int_eq(store_ready(store, &err), STATUS_OK);
    store_close(store);
}
END_TEST

static void add_shared(TCase *tcase)
{
    tcase_add_test(tcase, filters_take_what_filter_matches_takes);
    tcase_add_test(tcase, cursors_go_in_the_order_of_bytes);
    tcase_add_test(tcase, of_two_items_with_one_id_the_later_stays);
    tcase_add_test(tcase, equal_scores_come_in_the_order_of_the_last_put);
    tcase_add_test(tcase, hostile_texts_are_kept_literally_or_refused);
    tcase_add_test(tcase, results_of_too_many_bytes_are_refused);
    tcase_add_test(tcase, writers_of_the_same_items_do_not_hinder_each_other);
}

static void add_postgres(TCase *tcase)
{
    tcase_add_test(tcase, two_stores_see_each_other_at_once);
    tcase_add_test(tcase, long_vectors_are_searched_exactly_or_refused);
    tcase_add_test(tcase, a_big_collection_is_indexed_behind_the_adds);
    tcase_add_test(tcase, a_database_that_is_away_is_told_without_its_password);
}

int main(void)
{
    return store_world_main("store drivers", add_shared, NULL, add_postgres);
}
