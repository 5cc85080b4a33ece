/*
 * store_world.c: see store_world.h.
 */
#include "tests/unit/store_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct error err;
char store_path[64], store_uri[512];
size_t store_graph_from;

static void setup_sqlite(void)
{
    snprintf(store_path, sizeof store_path, "/tmp/vlmd-store-XXXXXX");
    int fd = mkstemp(store_path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(store_uri, sizeof store_uri, "sqlite:%s", store_path);
}

static void teardown_sqlite(void)
{
    static const char *const endings[] = {"", "-wal", "-shm"};
    char name[80];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", store_path, endings[i]);
        unlink(name);
    }
}

static void setup_postgres(void)
{
    snprintf(store_uri, sizeof store_uri, "%s", getenv("VLMD_TEST_POSTGRES"));
    const struct store_options options = {.uri = store_uri, .graph_from = store_graph_from};
    struct store *store = store_open(&options, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    struct collection *list;
    size_t n;
    ck_assert_msg(!store_list(store, &list, &n, &err), "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        ck_assert_msg(!store_drop(store, list[i].name, &err), "%s", err.message);
        collection_release(&list[i]);
    }
    free(list);
    store_close(store);
}

static void teardown_postgres(void)
{
}

struct store *store_world_open(const char *name, size_t dim, enum metric metric)
{
    const struct store_options options = {.uri = store_uri, .graph_from = store_graph_from};
    struct store *store = store_open(&options, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    struct collection settings = {.name = (char *)name,
                                  .space = "external",
                                  .model = "",
                                  .dim = dim,
                                  .metric = metric,
                                  .keeps_pictures = true};
    bool created = false;
    ck_assert_msg(!store_create(store, &settings, &created, &err), "%s", err.message);
    return store;
}

enum status store_world_put(struct store *store, const char *id, const float *vector,
                            const char *metadata)
{
    size_t added, updated;
    struct item item = {.id = id, .vector = vector, .metadata = metadata};
    return store_put(store, "c", &item, 1, &added, &updated, &err);
}

static void add_case(Suite *suite, const char *name, void (*setup)(void), void (*teardown)(void),
                     void (*shared)(TCase *), void (*own)(TCase *))
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    shared(tcase);
    if (own)
        own(tcase);
    suite_add_tcase(suite, tcase);
}

int store_world_main(const char *name, void (*shared)(TCase *), void (*sqlite)(TCase *),
                     void (*postgres)(TCase *))
{
    Suite *suite = suite_create(name);
    add_case(suite, "sqlite", setup_sqlite, teardown_sqlite, shared, sqlite);
    if (getenv("VLMD_TEST_POSTGRES"))
        add_case(suite, "postgresql", setup_postgres, teardown_postgres, shared, postgres);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
