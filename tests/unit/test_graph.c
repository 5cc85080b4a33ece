/*
 * test_graph.c: large collections: the graph finds what exact search finds, while it is built and
 * after restarts, kills, removals and damage; changes are seen by the searches after them.
 */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/index/store.h"
#include "core/nn/pool.h"

enum { DIM = 24, GRAPH_FROM = 300, K = 10 };

static struct error err;
static char directory[] = "/tmp/vlmd-graph-XXXXXX", path[64], uri[80];
static struct pool *pool;

static void setup(void)
{
    strcpy(strrchr(directory, '-') + 1, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/c.db", directory);
    snprintf(uri, sizeof uri, "sqlite:%s", path);
    pool = pool_new(2, &err);
}

static void teardown(void)
{
    DIR *list = opendir(directory);
    char name[400];
    for (struct dirent *entry; list && (entry = readdir(list));) {
        snprintf(name, sizeof name, "%s/%s", directory, entry->d_name);
        unlink(name);
    }
    closedir(list);
    rmdir(directory);
    pool_free(pool);
}

static struct store *open_store(enum precision precision)
{
    const struct store_options options = {.uri = uri, .pool = pool, .graph_from = GRAPH_FROM};
    struct store *store = store_open(&options, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    struct collection settings = {
        .name = "c", .space = "external", .model = "", .dim = DIM, .precision = precision};
    bool created;
    ck_assert_msg(store_create(store, &settings, &created, &err) == STATUS_OK, "%s", err.message);
    return store;
}

/* Vector number i, always the same: around one of some centres. */
static void make_vector(int i, float out[DIM])
{
    unsigned seed = (unsigned)i * 2654435761u + 1, center = (unsigned)i % 37 + 5;
    for (int d = 0; d < DIM; d++)
        out[d] = (float)rand_r(&center) / (float)RAND_MAX - 0.5f +
                 0.8f * ((float)rand_r(&seed) / (float)RAND_MAX - 0.5f);
}

static void put(struct store *store, int first, int n)
{
    static _Thread_local float vectors[500][DIM];
    static _Thread_local char ids[500][16];
    struct item items[500];
    for (int at = 0, now; at < n; at += now) {
        size_t added, updated;
        now = n - at < 500 ? n - at : 500;
        for (int i = 0; i < now; i++) {
            make_vector(first + at + i, vectors[i]);
            snprintf(ids[i], sizeof ids[i], "%d", first + at + i);
            items[i] = (struct item){.id = ids[i], .vector = vectors[i]};
        }
        struct error mine;
        enum status status = store_put(store, "c", items, (size_t)now, &added, &updated, &mine);
        ck_assert_msg(status == STATUS_OK, "%s", mine.message);
    }
}

static struct collection describe(struct store *store)
{
    struct collection info;
    ck_assert_int_eq(store_get(store, "c", &info, &err), STATUS_OK);
    struct collection numbers = {.count = info.count, .indexed = info.indexed};
    collection_release(&info);
    return numbers;
}

/* Until the builder has nothing to do. */
static void wait_indexed(struct store *store)
{
    for (int i = 0; i < 6000; i++) {
        struct collection info = describe(store);
        if (info.indexed == info.count)
            return;
        usleep(10000);
    }
    ck_abort_msg("the graph was not built");
}

static struct found search_for(struct store *store, int i, size_t k, bool exact)
{
    float query[DIM];
    struct found found;
    struct error mine;
    make_vector(i, query);
    const struct search search = {
        .vectors = query, .n_queries = 1, .dim = DIM, .top_k = k, .min_score = -2, .exact = exact};
    enum status status = store_search(store, "c", &search, &found, &mine);
    ck_assert_msg(status == STATUS_OK, "%s", mine.message);
    return found;
}

/* The share of the exact top K that a search finds; scores must be right in any case. */
static double recall(struct store *store, int first_query, int n)
{
    int right = 0;
    for (int q = 0; q < n; q++) {
        struct found truth = search_for(store, first_query + q, K, true),
                     found = search_for(store, first_query + q, K, false);
        ck_assert_uint_eq(truth.n, K);
        ck_assert_uint_eq(found.n, K);
        for (size_t i = 0; i < K; i++) {
            for (size_t j = 0; j < K; j++)
                right += !strcmp(truth.items[i].id, found.items[j].id);
            ck_assert(!i || found.items[i].score <= found.items[i - 1].score);
            ck_assert(found.items[i].score <= truth.items[i].score + 1e-5f);
        }
        found_release(&truth);
        found_release(&found);
    }
    return (double)right / (n * K);
}

/* Items that their own vectors don't find: nodes that no other leads to. */
static int n_lost(struct store *store, int n)
{
    int lost = 0;
    for (int i = 0; i < n; i++) {
        struct found found = search_for(store, i, 1, false);
        lost += found.n != 1 || atoi(found.items[0].id) != i;
        found_release(&found);
    }
    return lost;
}

START_TEST(the_graph_finds_what_exact_search_finds)
{
    enum precision precision = (enum precision)_i;
    struct store *store = open_store(precision);
    put(store, 0, 2000);
    ck_assert(recall(store, 100000, 10) > 0.9); /* while it is built */
    wait_indexed(store);
    ck_assert_uint_eq(describe(store).indexed, 2000);
    double now = recall(store, 100000, 30);
    ck_assert_msg(now >= 0.95, "recall %g", now);
    ck_assert_int_le(n_lost(store, 1000), 2);
    store_close(store);

    store = open_store(precision); /* not built again */
    ck_assert_uint_eq(describe(store).indexed, 2000);
    ck_assert(recall(store, 100000, 30) >= 0.95);
    put(store, 2000, 100);
    struct found found = search_for(store, 2050, 1, false);
    ck_assert_str_eq(found.items[0].id, "2050");
    found_release(&found);
    store_close(store);
}
END_TEST

static void remove_item(struct store *store, int i)
{
    char id[16];
    struct error mine;
    snprintf(id, sizeof id, "%d", i);
    enum status status = store_remove(store, "c", id, &mine);
    ck_assert_msg(status == STATUS_OK, "%s", mine.message);
}

START_TEST(removed_items_stay_away_and_results_full)
{
    struct store *store = open_store(PRECISION_F32);
    put(store, 0, 3000);
    wait_indexed(store);
    for (int i = 0; i < 3000; i += 2)
        remove_item(store, i);
    put(store, 1, 200); /* replaces, adds */
    for (int q = 0; q < 40; q++) {
        struct found found = search_for(store, q * 60, 200, false);
        ck_assert_uint_eq(found.n, 200);
        for (size_t i = 0; i < found.n; i++)
            ck_assert(atoi(found.items[i].id) % 2 || atoi(found.items[i].id) <= 200);
        found_release(&found);
    }
    wait_indexed(store);
    sleep(1); /* for the rows to be moved together */
    wait_indexed(store);
    double now = recall(store, 100000, 30);
    ck_assert_msg(now >= 0.95, "recall %g", now);
    store_close(store);
    store = open_store(PRECISION_F32);
    ck_assert(recall(store, 100000, 30) >= 0.95);
    for (int i = 1; i < 3000; i++) /* until nothing is left */
        if (i % 2 || i <= 200)
            remove_item(store, i);
    struct found found = search_for(store, 5, K, false);
    ck_assert_uint_eq(found.n, 0);
    found_release(&found);
    put(store, 0, 1000);
    wait_indexed(store);
    ck_assert(recall(store, 100000, 20) >= 0.95);
    store_close(store);
}
END_TEST

static void copy_file(const char *from, const char *to)
{
    char buffer[4096];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    ck_assert(in && out);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, in)) > 0;)
        fwrite(buffer, 1, n, out);
    fclose(in);
    fclose(out);
}

START_TEST(old_and_damaged_graph_files_do_no_harm)
{
    char file[80], old[80];
    snprintf(file, sizeof file, "%s-graph-1", path);
    snprintf(old, sizeof old, "%s/old", directory);
    struct store *store = open_store(PRECISION_F32);
    put(store, 0, 2000);
    wait_indexed(store);
    store_close(store);
    copy_file(file, old);
    store = open_store(PRECISION_F32);
    for (int i = 0; i < 300; i++)
        remove_item(store, i);
    put(store, 1500, 1500);
    store_close(store);

    copy_file(old, file); /* as after a kill before it was written */
    store = open_store(PRECISION_F32);
    struct collection info = describe(store);
    ck_assert_uint_eq(info.count, 2700);
    ck_assert_uint_gt(info.indexed, 0);
    ck_assert(recall(store, 100000, 30) > 0.9);
    wait_indexed(store);
    ck_assert(recall(store, 100000, 30) >= 0.95);
    store_close(store);

    FILE *damaged = fopen(file, "r+b");
    fseek(damaged, 0, SEEK_END);
    long bytes = ftell(damaged);
    fseek(damaged, bytes / 2, SEEK_SET);
    fputc(0x5A, damaged);
    fputc(0xA5, damaged);
    fclose(damaged);
    store = open_store(PRECISION_F32);
    ck_assert_uint_eq(describe(store).count, 2700);
    wait_indexed(store);
    ck_assert(recall(store, 100000, 30) >= 0.95);
    store_close(store);
    ck_assert_int_eq(truncate(file, bytes / 3), 0);
    store = open_store(PRECISION_F32);
    ck_assert(recall(store, 100000, 10) > 0.9);
    store_close(store);
}
END_TEST

/* ---- changes and searches at once ---------------------------------------------------------------
 */

static struct store *shared;
static atomic_bool over;

/* Puts and removes items of its own; each is found from its acknowledgement on, and not after its
 * removal's. */
static void *changer(void *context)
{
    int base = *(int *)context;
    unsigned seed = (unsigned)base;
    for (int round = 0; !atomic_load(&over); round++) {
        int i = base + round % 2000;
        bool exact = rand_r(&seed) % 2;
        put(shared, i, 1);
        struct found found = search_for(shared, i, 3, exact);
        char id[16];
        bool there = false;
        snprintf(id, sizeof id, "%d", i);
        for (size_t j = 0; j < found.n; j++)
            there = there || !strcmp(found.items[j].id, id);
        ck_assert_msg(there, "%s is missing", id);
        found_release(&found);
        if (rand_r(&seed) % 3)
            continue;
        remove_item(shared, i);
        found = search_for(shared, i, 3, exact);
        for (size_t j = 0; j < found.n; j++)
            ck_assert_msg(strcmp(found.items[j].id, id), "%s is still there", id);
        found_release(&found);
    }
    return NULL;
}

static void *searcher(void *context)
{
    (void)context;
    for (int q = 0; !atomic_load(&over); q++) {
        struct found found = search_for(shared, 500000 + q, K, q % 4 == 0);
        ck_assert_uint_eq(found.n, K);
        found_release(&found);
    }
    return NULL;
}

START_TEST(changes_are_seen_by_the_searches_after_them)
{
    enum { CHANGERS = 3, SEARCHERS = 2 };
    pthread_t threads[CHANGERS + SEARCHERS];
    int bases[CHANGERS];
    shared = open_store(PRECISION_F32);
    put(shared, 900000, 1500);
    atomic_store(&over, false);
    for (int i = 0; i < CHANGERS; i++) {
        bases[i] = (i + 1) * 10000;
        pthread_create(&threads[i], NULL, changer, &bases[i]);
    }
    for (int i = 0; i < SEARCHERS; i++)
        pthread_create(&threads[CHANGERS + i], NULL, searcher, NULL);
    sleep(3);
    atomic_store(&over, true);
    for (int i = 0; i < CHANGERS + SEARCHERS; i++)
        pthread_join(threads[i], NULL);
    store_close(shared);
}
END_TEST

START_TEST(a_killed_process_leaves_graph_and_rows_in_step)
{
    int next = 0;
    for (int round = 0; round < 4; round++) {
        int pipes[2];
        ck_assert_int_eq(pipe(pipes), 0);
        pool_free(pool); /* threads are not forked */
        pool = NULL;
        pid_t child = fork();
        pool = pool_new(2, &err);
        if (child == 0) {
            struct store *store = open_store(PRECISION_INT8);
            for (int i = next;; i += 50) {
                put(store, i, 50);
                if (i >= 50)
                    remove_item(store, i - 1);
                int acknowledged = i + 50;
                if (write(pipes[1], &acknowledged, sizeof acknowledged) < 0)
                    _exit(1);
            }
        }
        close(pipes[1]);
        int i;
        for (int n = 0; n < 8 + 7 * round && read(pipes[0], &i, sizeof i) == (ssize_t)sizeof i; n++)
            next = i;
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(pipes[0], &i, sizeof i) == (ssize_t)sizeof i)
            next = i;
        close(pipes[0]);
        struct store *store = open_store(PRECISION_INT8);
        int lost = 0;
        for (int at = 0; at + 1 < next; at++) { /* the very last may have been removed */
            struct found found = search_for(store, at, 1, true);
            bool there = found.n && atoi(found.items[0].id) == at;
            ck_assert_msg(there == (at % 50 != 49), "%d is %s", at, there ? "there" : "gone");
            found_release(&found);
            found = search_for(store, at, 1, false);
            lost += there && atoi(found.items[0].id) != at;
            found_release(&found);
        }
        ck_assert_int_le(lost, 5);
        /* so that some rounds begin with a file */
        if (round % 2 && describe(store).count >= GRAPH_FROM)
            wait_indexed(store);
        store_close(store);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("graph");
    TCase *tcase = tcase_create("graph");
    tcase_set_timeout(tcase, 240);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, the_graph_finds_what_exact_search_finds, 0, N_PRECISIONS);
    tcase_add_test(tcase, removed_items_stay_away_and_results_full);
    tcase_add_test(tcase, old_and_damaged_graph_files_do_no_harm);
    tcase_add_test(tcase, changes_are_seen_by_the_searches_after_them);
    tcase_add_test(tcase, a_killed_process_leaves_graph_and_rows_in_step);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
