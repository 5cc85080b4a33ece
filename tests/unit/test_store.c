/*
 * test_store.c: collections keep what they acknowledged, refuse what does not fit, and find what is
 * near: the same whichever driver keeps them, then what SQLite's alone promises.
 */
#include <check.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/index/matrix.h"
#include "core/index/store.h"
#include "tests/unit/store_world.h"

static struct store *open_with(const char *name, size_t dim)
{
    return store_world_open(name, dim, METRIC_COSINE);
}

#define put store_world_put

START_TEST(items_survive_a_reopening)
{
    struct store *store = open_with("c", 2);
    const float a[] = {3, 4}, b[] = {-1, 0};
    size_t added = 9, updated = 9;
    struct item items[] = {{.id = "a/'\"; DROP TABLE items",
                            .vector = a,
                            .metadata = "{\"k\": 1}",
                            .blob = "picture",
                            .blob_bytes = 7},
                           {.id = "b", .vector = b}};
    ck_assert_int_eq(store_put(store, "c", items, 2, &added, &updated, &err), STATUS_OK);
    ck_assert_uint_eq(added, 2);
    items[0].metadata = "{\"k\": 2}";
    ck_assert_int_eq(store_put(store, "c", items, 1, &added, &updated, &err), STATUS_OK);
    ck_assert_uint_eq(updated, 1);
    store_close(store);

    store = store_open(&(struct store_options){.uri = store_uri}, &err);
    ck_assert_ptr_nonnull(store);
    struct stored_item *item;
    ck_assert_int_eq(store_item(store, "c", items[0].id, true, &item, &err), STATUS_OK);
    ck_assert_str_eq(item->metadata, "{\"k\": 2}");
    ck_assert_float_eq_tol(item->vector[0], 0.6f, 1e-6f);
    stored_items_free(item, 1);
    void *blob;
    size_t size;
    ck_assert_int_eq(store_blob(store, "c", items[0].id, &blob, &size, &err), STATUS_OK);
    ck_assert_mem_eq(blob, "picture", 7);
    free(blob);
    ck_assert_int_eq(store_blob(store, "c", "b", &blob, &size, &err), STATUS_NOT_FOUND);
    ck_assert_int_eq(store_remove(store, "c", "b", &err), STATUS_OK);
    ck_assert_int_eq(store_remove(store, "c", "b", &err), STATUS_NOT_FOUND);
    struct collection info;
    ck_assert_int_eq(store_get(store, "c", &info, &err), STATUS_OK);
    ck_assert_uint_eq(info.count, 1);
    collection_release(&info);
    ck_assert_int_eq(store_drop(store, "c", &err), STATUS_OK);
    ck_assert_int_eq(store_get(store, "c", &info, &err), STATUS_NOT_FOUND);
    store_close(store);
}
END_TEST

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

START_TEST(search_is_exact_and_filters_fill_top_k)
{
    enum { N = 500, DIM = 7, K = 5 };
    struct store *store = open_with("c", DIM);
    static float vectors[N][DIM];
    char ids[N][16], metadata[N][64];
    struct item items[N];
    srand(1);
    for (int i = 0; i < N; i++) {
        for (int d = 0; d < DIM; d++)
            vectors[i][d] = (float)rand() / (float)RAND_MAX - 0.5f;
        snprintf(ids[i], sizeof ids[i], "i%03d", i);
        snprintf(metadata[i], sizeof metadata[i], "{\"n\": %d, \"deep\": {\"even\": %s}}", i,
                 i % 2 ? "false" : "true");
        items[i] = (struct item){.id = ids[i], .vector = vectors[i], .metadata = metadata[i]};
    }
    size_t added, updated;
    ck_assert_int_eq(store_put(store, "c", items, N, &added, &updated, &err), STATUS_OK);
    ck_assert_int_eq(store_remove(store, "c", "i007", &err), STATUS_OK);

    const float query[DIM] = {1, -2, 3, 0.5f, -1, 2, 0.1f};
    static const struct {
        const char *filter;
        int step, max;
    } rows[] = {
        {NULL, 1, N},
        {"{\"deep.even\": true}", 2, N},
        {"{\"and\": [{\"n\": {\"lt\": 40}}, {\"deep.even\": true}]}", 2, 40},
        {"{\"n\": {\"gte\": 0, \"lt\": 3}}", 1, 3},
        {"{\"nothing\": {\"exists\": true}}", 1, 0},
    };
    for (size_t r = 0; r < ARRAY_LENGTH(rows); r++) {
        /* the plain way: all scores that the filter takes, sorted */
        float best[N];
        int n_best = 0;
        for (int i = 0; i < rows[r].max; i += rows[r].step) {
            double product = 0, length = 0, query_length = 0;
            for (int d = 0; d < DIM; d++) {
                product += (double)query[d] * vectors[i][d];
                length += (double)vectors[i][d] * vectors[i][d];
                query_length += (double)query[d] * query[d];
            }
            if (i != 7)
                best[n_best++] = (float)(product / sqrt(length * query_length));
        }
        qsort(best, (size_t)n_best, sizeof best[0], falling);
        if (n_best > K)
            n_best = K;
        struct search search = {.vectors = query,
                                .n_queries = 1,
                                .dim = DIM,
                                .top_k = K,
                                .min_score = -INFINITY,
                                .filter = rows[r].filter};
        struct found found;
        ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OK);
        ck_assert_msg((int)found.n == n_best, "row %zu: %zu results, wanted %d", r, found.n,
                      n_best);
        for (size_t i = 0; i < found.n; i++)
            ck_assert_msg(fabsf(found.items[i].score - best[i]) < 1e-5f,
                          "row %zu, result %zu is %s: %g, wanted %g", r, i, found.items[i].id,
                          (double)found.items[i].score, (double)best[i]);
        found_release(&found);
    }
    store_close(store);
}
END_TEST

/* Smaller forms only choose candidates: results and scores are those of the kept vectors. */
START_TEST(every_precision_finds_the_same)
{
    enum { N = 3000, DIM = 40, QUERIES = 5, K = 10 };
    struct store *store = store_open(&(struct store_options){.uri = "memory:"}, &err);
    static float vectors[N][DIM], queries[QUERIES][DIM];
    static char ids[N][16];
    static struct item items[N];
    srand(4);
    for (int i = 0; i < N; i++) {
        for (int d = 0; d < DIM; d++)
            vectors[i][d] = (float)rand() / (float)RAND_MAX - 0.5f;
        snprintf(ids[i], sizeof ids[i], "%d", i);
        items[i] = (struct item){.id = ids[i], .vector = vectors[i]};
    }
    for (int q = 0; q < QUERIES; q++)
        for (int d = 0; d < DIM; d++)
            queries[q][d] = (float)rand() / (float)RAND_MAX - 0.5f;
    struct found found[N_PRECISIONS][QUERIES];
    for (enum precision p = 0; p < N_PRECISIONS; p++) {
        size_t added, updated;
        bool created;
        struct collection settings = {.name = (char *)precision_name(p),
                                      .space = "external",
                                      .model = "",
                                      .dim = DIM,
                                      .precision = p};
        ck_assert_int_eq(store_create(store, &settings, &created, &err), STATUS_OK);
        ck_assert_int_eq(store_put(store, settings.name, items, N, &added, &updated, &err),
                         STATUS_OK);
        struct search search = {
            .vectors = queries[0], .n_queries = QUERIES, .dim = DIM, .top_k = K, .min_score = -1};
        ck_assert_int_eq(store_search(store, settings.name, &search, found[p], &err), STATUS_OK);
        for (int q = 0; q < QUERIES; q++) {
            ck_assert_uint_eq(found[p][q].n, K);
            for (int i = 0; i < K; i++) {
                ck_assert_str_eq(found[p][q].items[i].id, found[0][q].items[i].id);
                ck_assert_float_eq_tol(found[p][q].items[i].score, found[0][q].items[i].score,
                                       1e-6f);
            }
        }
    }
    for (enum precision p = 0; p < N_PRECISIONS; p++)
        for (int q = 0; q < QUERIES; q++)
            found_release(&found[p][q]);
    store_close(store);
}
END_TEST

START_TEST(what_does_not_fit_is_refused_by_name)
{
    struct store *store = open_with("c", 3);
    const float good[] = {1, 2, 3}, zero[] = {0, 0, 0}, bad[] = {1, NAN, 0};
    struct collection other = {.name = "c", .space = "clip@1", .model = "clip", .dim = 3};
    bool created;
    ck_assert_int_eq(store_create(store, &other, &created, &err), STATUS_CONFLICT);
    ck_assert_int_eq(put(store, "", good, NULL), STATUS_OUT_OF_RANGE);
    ck_assert_int_eq(put(store, "\xFF", good, NULL), STATUS_OUT_OF_RANGE);
    ck_assert_int_eq(put(store, "a", zero, NULL), STATUS_UNPROCESSABLE);
    ck_assert_int_eq(put(store, "a", bad, NULL), STATUS_UNPROCESSABLE);
    ck_assert_int_eq(put(store, "a", good, "[1]"), STATUS_WRONG_TYPE);
    ck_assert_int_eq(put(store, "a", good, "{"), STATUS_WRONG_TYPE);
    ck_assert_int_eq(put(store, "a", good, "{\"a\": 1}"), STATUS_OK);
    static const struct {
        const char *filter;
        enum status want;
    } rows[] = {
        {"{", STATUS_BAD_REQUEST},
        {"[]", STATUS_WRONG_TYPE},
        {"{\"a\": [1]}", STATUS_BAD_REQUEST},
        {"{\"a\": {\"near\": 1}}", STATUS_BAD_REQUEST},
        {"{\"a\": {}}", STATUS_BAD_REQUEST},
        {"{\"a\": {\"in\": 1}}", STATUS_BAD_REQUEST},
        {"{\"and\": {}}", STATUS_WRONG_TYPE},
        {"{\"not\": 1}", STATUS_WRONG_TYPE},
        {"{\"or\": [{\"a\": 2}, {\"a\": {\"in\": [1, \"x\"]}}]}", STATUS_OK},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct search search = {.vectors = good,
                                .n_queries = 1,
                                .dim = 3,
                                .top_k = 1,
                                .min_score = -1,
                                .filter = rows[i].filter};
        struct found found;
        ck_assert_msg(store_search(store, "c", &search, &found, &err) == rows[i].want, "row %zu",
                      i);
        if (!rows[i].want) {
            ck_assert_uint_eq(found.n, 1);
            found_release(&found);
        }
    }
    struct search search = {.vectors = good, .n_queries = 1, .dim = 2, .top_k = 1};
    struct found found;
    ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_WRONG_SPACE);
    search.dim = 3;
    search.n_queries = STORE_QUERIES_MAX + 1;
    ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OUT_OF_RANGE);
    search.n_queries = 200;
    search.top_k = STORE_RESULTS_MAX / 200 + 1;
    ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OUT_OF_RANGE);
    store_close(store);
    ck_assert_ptr_null(store_open(&(struct store_options){.uri = "redis:x"}, &err));
}
END_TEST

START_TEST(foreign_and_damaged_files_are_refused_unchanged)
{
    FILE *file = fopen(store_path, "w");
    fputs("this is certainly not a database, and it is longer than a page header of one hundred "
          "bytes.....",
          file);
    fclose(file);
    ck_assert_ptr_null(store_open(&(struct store_options){.uri = store_uri}, &err));
    ck_assert_ptr_nonnull(strstr(err.message, "no database"));
}
END_TEST

START_TEST(format_1_is_brought_up_to_date)
{
    sqlite3 *db;
    const float a[] = {0.6f, 0.8f};
    ck_assert_int_eq(sqlite3_open(store_path, &db), SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_exec(db,
                     "PRAGMA application_id = 1986817380; PRAGMA user_version = 1;"
                     "CREATE TABLE collections(key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
                     " space TEXT NOT NULL, model TEXT NOT NULL, dim INTEGER NOT NULL,"
                     " metric INTEGER NOT NULL, created INTEGER NOT NULL);"
                     "CREATE TABLE items(key INTEGER PRIMARY KEY, collection INTEGER NOT NULL,"
                     " id TEXT NOT NULL, vector BLOB NOT NULL, metadata TEXT NOT NULL,"
                     " UNIQUE(collection, id));"
                     "CREATE TABLE pictures(key INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"
                     "INSERT INTO collections VALUES(3, 'c', 'external', '', 2, 0, 77);"
                     "INSERT INTO items VALUES(5, 3, 'a', x'9a99193fcdcc4c3f', '{\"k\":1}');"
                     "INSERT INTO pictures VALUES(5, 'picture');",
                     NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(db);
    struct store *store = open_with("c", 2);
    struct stored_item *item;
    ck_assert_int_eq(store_item(store, "c", "a", true, &item, &err), STATUS_OK);
    ck_assert_str_eq(item->metadata, "{\"k\":1}");
    ck_assert_mem_eq(item->vector, a, sizeof a);
    stored_items_free(item, 1);
    void *blob;
    size_t size;
    ck_assert_int_eq(store_blob(store, "c", "a", &blob, &size, &err), STATUS_OK);
    ck_assert_uint_eq(size, 7);
    free(blob);
    ck_assert_int_eq(put(store, "b", a, NULL), STATUS_OK);
    struct search search = {.vectors = a, .n_queries = 1, .dim = 2, .top_k = 5, .min_score = -1};
    struct found found;
    ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_OK);
    ck_assert_uint_eq(found.n, 2);
    ck_assert_str_eq(found.items[0].id, "a"); /* ties: the earlier put */
    found_release(&found);
    store_close(store);
    store = store_open(&(struct store_options){.uri = store_uri}, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    store_close(store);
}
END_TEST

static void on_file(const char *sql)
{
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(store_path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* Format 2 is the present one without sums. */
START_TEST(format_2_gets_checksums)
{
    const float a[] = {0.6f, 0.8f};
    struct store *store = open_with("c", 2);
    ck_assert_int_eq(put(store, "a", a, "{\"k\":1}"), STATUS_OK);
    store_close(store);
    on_file("ALTER TABLE items DROP COLUMN sum; ALTER TABLE vectors DROP COLUMN sum;"
            "ALTER TABLE pictures DROP COLUMN sum; PRAGMA user_version = 2");
    store = store_open(&(struct store_options){.uri = store_uri}, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    struct stored_item *item;
    ck_assert_int_eq(store_item(store, "c", "a", true, &item, &err), STATUS_OK);
    ck_assert_mem_eq(item->vector, a, sizeof a);
    stored_items_free(item, 1);
    store_close(store);
    on_file("UPDATE vectors SET vector = x'0000803F00000000'");
    ck_assert_ptr_null(store_open(&(struct store_options){.uri = store_uri}, &err));
    ck_assert_ptr_nonnull(strstr(err.message, "row 1 of table vectors does not fit its checksum"));
}
END_TEST

START_TEST(a_changed_row_is_told_and_can_be_put_again)
{
    const float a[] = {0.6f, 0.8f};
    struct stored_item *item;
    struct search search = {.vectors = a, .n_queries = 1, .dim = 2, .top_k = 1, .min_score = -1};
    struct found found;
    struct store *store = open_with("c", 2);
    ck_assert_int_eq(put(store, "a", a, "{\"k\":1}"), STATUS_OK);
    store_close(store);
    on_file("UPDATE items SET metadata = '{\"k\":2}'");
    store = store_open(&(struct store_options){.uri = store_uri}, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    ck_assert_int_eq(store_item(store, "c", "a", false, &item, &err), STATUS_IO);
    ck_assert_ptr_nonnull(strstr(err.message, "item 'a' does not fit its checksum"));
    ck_assert_int_eq(store_search(store, "c", &search, &found, &err), STATUS_IO);
    ck_assert_int_eq(put(store, "a", a, "{\"k\":3}"), STATUS_OK);
    ck_assert_int_eq(store_item(store, "c", "a", false, &item, &err), STATUS_OK);
    ck_assert_str_eq(item->metadata, "{\"k\":3}");
    stored_items_free(item, 1);
    ck_assert_int_eq(store_remove(store, "c", "a", &err), STATUS_OK);
    store_close(store);
}
END_TEST

START_TEST(collections_without_pictures_drop_them)
{
    struct store *store = store_open(&(struct store_options){.uri = store_uri}, &err);
    struct collection settings = {.name = "c", .space = "external", .model = "", .dim = 1};
    bool created;
    ck_assert_int_eq(store_create(store, &settings, &created, &err), STATUS_OK);
    const float one = 1;
    struct item item = {.id = "a", .vector = &one, .blob = "picture", .blob_bytes = 7};
    size_t added, updated, size;
    ck_assert_int_eq(store_put(store, "c", &item, 1, &added, &updated, &err), STATUS_OK);
    void *blob;
    ck_assert_int_eq(store_blob(store, "c", "a", &blob, &size, &err), STATUS_NOT_FOUND);
    settings.keeps_pictures = true;
    ck_assert_int_eq(store_create(store, &settings, &created, &err), STATUS_CONFLICT);
    settings.keeps_pictures = false;
    settings.precision = PRECISION_INT8;
    ck_assert_int_eq(store_create(store, &settings, &created, &err), STATUS_CONFLICT);
    store_close(store);
}
END_TEST

START_TEST(a_second_process_is_told)
{
    struct store *store = open_with("c", 2);
    pid_t child = fork();
    if (child == 0) {
        struct error child_err = {0};
        struct store *second = store_open(&(struct store_options){.uri = store_uri}, &child_err);
        _exit(!second && strstr(child_err.message, "another process") ? 0 : 1);
    }
    int how;
    waitpid(child, &how, 0);
    ck_assert_int_eq(WEXITSTATUS(how), 0);
    store_close(store);
}
END_TEST

START_TEST(acknowledged_items_survive_kill)
{
    for (int round = 0; round < 5; round++) {
        int pipes[2];
        ck_assert_int_eq(pipe(pipes), 0);
        pid_t child = fork();
        if (child == 0) {
            struct store *store = open_with("c", 2);
            for (int i = 0;; i++) {
                char id[16];
                const float vector[] = {1, (float)i};
                snprintf(id, sizeof id, "%d-%d", round, i);
                if (put(store, id, vector, NULL) || write(pipes[1], &i, sizeof i) < 0)
                    _exit(1);
            }
        }
        close(pipes[1]);
        int last = -1, i;
        for (int n = 0; n < 20 + 7 * round && read(pipes[0], &i, sizeof i) == (ssize_t)sizeof i;
             n++)
            last = i;
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(pipes[0], &i, sizeof i) == (ssize_t)sizeof i)
            last = i;
        close(pipes[0]);
        struct store *store = open_with("c", 2);
        for (i = 0; i <= last; i++) {
            char id[16];
            struct stored_item *item;
            snprintf(id, sizeof id, "%d-%d", round, i);
            ck_assert_msg(store_item(store, "c", id, true, &item, &err) == STATUS_OK, "%s", id);
            stored_items_free(item, 1);
        }
        store_close(store);
    }
}
END_TEST

START_TEST(matrix_stays_right_under_random_changes)
{
    enum { KEYS = 300 };
    struct matrix matrix;
    float model[KEYS + 1] = {0};
    bool there[KEYS + 1] = {false};
    matrix_init(&matrix, 1, PRECISION_F32);
    srand(2);
    for (int step = 0; step < 20000; step++) {
        int key = 1 + rand() % KEYS;
        if (rand() % 3) {
            model[key] = (float)rand();
            there[key] = true;
            ck_assert(matrix_reserve(&matrix, 1));
            matrix_set(&matrix, key, &model[key]);
        } else {
            matrix_remove(&matrix, key);
            there[key] = false;
        }
    }
    size_t n = 0;
    for (int key = 1; key <= KEYS; key++) {
        uint32_t row = matrix_find(&matrix, key);
        ck_assert_int_eq(row != UINT32_MAX, there[key]);
        if (there[key])
            ck_assert_float_eq(*(const float *)matrix_row(&matrix, row), model[key]);
        n += there[key];
    }
    ck_assert_uint_eq(matrix.n, n);
    matrix_release(&matrix);
}
END_TEST

static void add_shared(TCase *tcase)
{
    tcase_add_test(tcase, items_survive_a_reopening);
    tcase_add_test(tcase, search_is_exact_and_filters_fill_top_k);
    tcase_add_test(tcase, every_precision_finds_the_same);
    tcase_add_test(tcase, what_does_not_fit_is_refused_by_name);
    tcase_add_test(tcase, collections_without_pictures_drop_them);
    tcase_add_test(tcase, acknowledged_items_survive_kill);
}

static void add_sqlite(TCase *tcase)
{
    tcase_add_test(tcase, foreign_and_damaged_files_are_refused_unchanged);
    tcase_add_test(tcase, format_1_is_brought_up_to_date);
    tcase_add_test(tcase, format_2_gets_checksums);
    tcase_add_test(tcase, a_changed_row_is_told_and_can_be_put_again);
    tcase_add_test(tcase, a_second_process_is_told);
    tcase_add_test(tcase, matrix_stays_right_under_random_changes);
}

int main(void)
{
    return store_world_main("store", add_shared, add_sqlite, NULL);
}
