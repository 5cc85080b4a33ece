/*
 * bench_search.c: the embedded store with a million vectors: adds, exact search beside the memory's
 * bandwidth, many queries at once, the graph's recall and speed, memory, closing and opening.
 *
 *     bench_search [N [DIM [f32|f16|int8 [FILE]]]]
 *     python3 tests/http/postgres.py bench_search …    the same on PostgreSQL (VLMD_TEST_POSTGRES)
 *
 * In the environment, GRAPH_FROM is the store's graph_from (100000), BENCH_DB a database that is
 * left there, to be measured again without adding, and with OPENS=1 only its opening is measured.
 *
 * The vectors are made like those of encoders: a few thousand clusters of unlike sizes, whose
 * centers and whose insides vary much in some directions and less and less in others, and noise.
 * FILE gets them as raw f32, then 200 queries, for faiss_search.py.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/index/store.h"
#include "core/nn/pool.h"

enum { CLUSTERS = 3000, RANK = 64, BATCH = 1000, QUERIES = 200, TOP_K = 10, MANY = 32, OPENS = 5 };

static size_t dim = 512;
static float *centers, *directions; /* [CLUSTERS, dim], [RANK, dim] */
static struct error err;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* Uniform in [-1, 1). */
static float next(uint64_t *state)
{
    return (float)(int32_t)(mix(*state += 0x9E3779B97F4A7C15u) >> 32) * 0x1p-31f;
}

static void normalize(float *x)
{
    float squares = 0;
    for (size_t i = 0; i < dim; i++)
        squares += x[i] * x[i];
    for (size_t i = 0; i < dim; i++)
        x[i] /= sqrtf(squares);
}

static void make_world(void)
{
    uint64_t state = 1;
    centers = alloc_array(CLUSTERS * dim, sizeof *centers);
    directions = alloc_array(RANK * dim, sizeof *directions);
    if (!centers || !directions)
        exit(1);
    for (size_t i = 0; i < RANK; i++) {
        for (size_t d = 0; d < dim; d++)
            directions[i * dim + d] = next(&state);
        normalize(directions + i * dim);
    }
    for (size_t i = 0; i < CLUSTERS; i++) {
        memset(centers + i * dim, 0, dim * sizeof *centers);
        for (size_t r = 0; r < RANK; r++) {
            float amount = next(&state) / (1 + (float)r / 16);
            for (size_t d = 0; d < dim; d++)
                centers[i * dim + d] += amount * directions[r * dim + d];
        }
        normalize(centers + i * dim);
    }
}

/* Vector number i; always the same. */
static void make_vector(size_t i, float *out)
{
    uint64_t state = mix(i + 12345);
    float u = 0.5f + 0.5f * next(&state); /* some clusters are much larger than others */
    const float *center = centers + (size_t)(u * u * (CLUSTERS - 1)) * dim;
    for (size_t d = 0; d < dim; d++)
        out[d] = center[d] + 0.03f * next(&state);
    for (size_t r = 0; r < RANK; r++) {
        float amount = 0.4f / (1 + (float)r / 8) * next(&state);
        for (size_t d = 0; d < dim; d++)
            out[d] += amount * directions[r * dim + d];
    }
    normalize(out);
}

static double resident_mb(const char *what)
{
    char line[128];
    double kb = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, what, strlen(what)))
            kb = atof(line + strlen(what));
    if (file)
        fclose(file);
    return kb / 1024;
}

static void fail(const char *what)
{
    fprintf(stderr, "bench_search: %s: %s\n", what, err.message);
    exit(1);
}

/* ---- the memory ---------------------------------------------------------------------------------
 */

enum { READ_MB = 1024, READ_PIECE = 1 << 20 };
static volatile long read_sink;

static void read_piece(void *context, size_t i)
{
    typedef long wide __attribute__((vector_size(64)));
    const wide *at = (const wide *)((const char *)context + i * READ_PIECE);
    wide a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t j = 0; j < READ_PIECE / sizeof *at; j += 4) {
        a ^= at[j];
        b ^= at[j + 1];
        c ^= at[j + 2];
        d ^= at[j + 3];
    }
    a ^= b ^ c ^ d;
    read_sink = a[0];
}

/* Bytes per second at which the pool's threads read memory together. */
static double bandwidth(struct pool *pool)
{
    char *memory = aligned_alloc(2 << 20, (size_t)READ_MB << 20);
    if (!memory)
        exit(1);
    madvise(memory, (size_t)READ_MB << 20, MADV_HUGEPAGE);
    memset(memory, 1, (size_t)READ_MB << 20);
    double best = 1e9;
    for (int i = 0; i < 8; i++) {
        double start = now();
        pool_run(pool, ((size_t)READ_MB << 20) / READ_PIECE, read_piece, memory);
        best = fmin(best, now() - start);
    }
    free(memory);
    return ((double)READ_MB * (1 << 20)) / best;
}

/* ---- the store ----------------------------------------------------------------------------------
 */

static double add_all(struct store *store, size_t n)
{
    struct item items[BATCH];
    float *vectors = alloc_array(BATCH * dim, sizeof *vectors);
    char ids[BATCH][24];
    double spent = 0;
    for (size_t at = 0; at < n; at += BATCH) {
        size_t now_n = n - at < BATCH ? n - at : BATCH, added, updated;
        for (size_t i = 0; i < now_n; i++) {
            make_vector(at + i, vectors + i * dim);
            snprintf(ids[i], sizeof ids[i], "picture-%zu.jpg", at + i);
            items[i] = (struct item){.id = ids[i], .vector = vectors + i * dim};
        }
        double start = now();
        if (store_put(store, "bench", items, now_n, &added, &updated, &err))
            fail("put");
        spent += now() - start;
    }
    free(vectors);
    return spent;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Searches one by one; the median time. found [QUERIES]. */
static double search_all(struct store *store, const float *queries, size_t n, bool exact,
                         struct found *found)
{
    double times[QUERIES];
    for (size_t i = 0; i < n; i++) {
        struct search search = {.vectors = queries + i * dim,
                                .n_queries = 1,
                                .dim = dim,
                                .top_k = TOP_K,
                                .min_score = -INFINITY,
                                .exact = exact};
        double start = now();
        if (store_search(store, "bench", &search, &found[i], &err))
            fail("search");
        times[i] = now() - start;
    }
    qsort(times, n, sizeof *times, by_value);
    return times[n / 2];
}

static void release_all(struct found *found, size_t n)
{
    for (size_t i = 0; i < n; i++)
        found_release(&found[i]);
}

static double recall(const struct found *truth, const struct found *found, size_t n)
{
    size_t right = 0, all = 0;
    for (size_t q = 0; q < n; q++)
        for (size_t i = 0; i < truth[q].n; i++, all++)
            for (size_t j = 0; j < found[q].n; j++)
                right += !strcmp(truth[q].items[i].id, found[q].items[j].id);
    return (double)right / (double)all;
}

static size_t indexed(struct store *store)
{
    struct collection info;
    if (store_get(store, "bench", &info, &err))
        fail("get");
    size_t n = info.indexed;
    collection_release(&info);
    return n;
}

static void measure(struct store *store, struct pool *pool, const float *queries, size_t n,
                    double vectors_mb)
{
    struct found truth[QUERIES], found[QUERIES];
    size_t n_exact = n > 200000 ? 40 : QUERIES;
    double speed = bandwidth(pool), ideal = vectors_mb * (1 << 20) / speed;
    search_all(store, queries, 3, true, found);
    release_all(found, 3);
    double one = search_all(store, queries, n_exact, true, truth);
    printf("exact, one query: %.1f ms; reading the vectors once at %.1f GB/s: %.1f ms (%.2fx)\n",
           one * 1e3, speed / 1e9, ideal * 1e3, one / ideal);
    struct search many = {.vectors = queries,
                          .n_queries = MANY,
                          .dim = dim,
                          .top_k = TOP_K,
                          .min_score = -INFINITY,
                          .exact = true};
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double start = now();
        if (store_search(store, "bench", &many, found, &err))
            fail("search");
        best = fmin(best, now() - start);
        release_all(found, MANY);
    }
    printf("exact, %d queries at once: %.0f ms, %.1fx as fast as one by one\n", MANY, best * 1e3,
           one * MANY / best);
    if (!indexed(store))
        goto out;
    search_all(store, queries, QUERIES, false, found);
    release_all(found, QUERIES);
    double graph = search_all(store, queries, QUERIES, false, found);
    printf("graph over %zu: %.3f ms, %.0fx as fast as exact, recall@%d %.4f\n", indexed(store),
           graph * 1e3, one / graph, TOP_K, recall(truth, found, n_exact));
    release_all(found, QUERIES);
out:
    release_all(truth, n_exact);
}

static void save(const char *path, size_t n, const float *queries)
{
    FILE *file = fopen(path, "wb");
    float *vector = alloc_array(dim, sizeof *vector);
    for (size_t i = 0; file && i < n; i++) {
        make_vector(i, vector);
        fwrite(vector, sizeof *vector, dim, file);
    }
    if (!file || fwrite(queries, sizeof *queries, QUERIES * dim, file) != QUERIES * dim ||
        fclose(file))
        exit(1);
    free(vector);
}

/* Closes the store and opens it again, several times. */
static struct store *reopen(struct store *store, const struct store_options *options)
{
    double times[OPENS], processor[OPENS];
    for (size_t i = 0; i < OPENS; i++) {
        double start = now();
        store_close(store);
        if (i == 0)
            printf("closed in %.2f s\n", now() - start);
        clock_t clocks = clock();
        start = now();
        store = store_open(options, &err);
        if (!store)
            fail("open again");
        times[i] = now() - start;
        processor[i] = (double)(clock() - clocks) / CLOCKS_PER_SEC;
    }
    qsort(times, OPENS, sizeof *times, by_value);
    qsort(processor, OPENS, sizeof *processor, by_value);
    printf("opened again with %zu indexed in %.2f s (of %d times the middle one; %.2f to %.2f), "
           "%.2f s of processor time\n",
           indexed(store), times[OPENS / 2], OPENS, times[0], times[OPENS - 1],
           processor[OPENS / 2]);
    return store;
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    dim = argc > 2 ? strtoul(argv[2], NULL, 10) : 512;
    enum precision precision = PRECISION_F32;
    if (n == 0 || dim == 0 || (argc > 3 && !precision_parse(argv[3], &precision)))
        return 2;
    setlinebuf(stdout);
    make_world();
    float *queries = alloc_array(QUERIES * dim, sizeof *queries);
    for (size_t i = 0; i < QUERIES; i++)
        make_vector(n + i, queries + i * dim);
    if (argc > 4)
        save(argv[4], n, queries);

    const char *kept = getenv("BENCH_DB");
    char path[256], uri[300];
    if (kept)
        snprintf(path, sizeof path, "%s", kept);
    else
        snprintf(path, sizeof path, "/tmp/bench-%d.db", (int)getpid());
    snprintf(uri, sizeof uri, "sqlite:%s", path);
    const char *shared = getenv("VLMD_TEST_POSTGRES"), *from = getenv("GRAPH_FROM");
    struct pool *pool = pool_new(0, &err);
    const struct store_options options = {.uri = shared ? shared : uri,
                                          .pool = pool,
                                          .graph_from = from ? strtoul(from, NULL, 10) : 100000};
    double before_mb = resident_mb("VmRSS:");
    struct store *store = pool ? store_open(&options, &err) : NULL;
    struct collection settings = {
        .name = "bench", .space = "external", .model = "", .dim = dim, .precision = precision};
    bool created;
    if (!store || store_create(store, &settings, &created, &err))
        fail("open");
    double vectors_mb = (double)(n * dim *
                                 (precision == PRECISION_F32   ? 4
                                  : precision == PRECISION_F16 ? 2
                                                               : 1)) /
                        (1 << 20);
    printf("%zu vectors of %zu, %s, %zu threads\n", n, dim, precision_name(precision),
           pool_threads(pool));
    double start = now();
    if (getenv("OPENS")) {
        store_close(reopen(store, &options));
        return 0;
    }
    if (created) {
        double spent = add_all(store, n);
        printf("adds: %.0f/s, acknowledged durably in batches of %d\n", (double)n / spent, BATCH);
    }
    /* PostgreSQL shows a graph when it is whole. */
    for (size_t last = 0, at, idle = 0; (at = indexed(store)) < n && idle < 900; last = at) {
        idle = at == last ? idle + 1 : 0; /* collections without a graph stay at 0 */
        if (at == 0 && idle > 5 && (!shared || !options.graph_from))
            break;
        sleep(1);
    }
    printf("graph: %zu indexed %.0f s after the last add\n", indexed(store), now() - start);
    measure(store, pool, queries, n, vectors_mb);
    double mb = resident_mb("VmRSS:") - before_mb;
    printf("memory: %.0f MB for %.0f MB of vectors (%.2fx), at most %.0f MB\n", mb, vectors_mb,
           mb / vectors_mb, resident_mb("VmHWM:") - before_mb);
    store = reopen(store, &options);
    if (indexed(store))
        measure(store, pool, queries, n, vectors_mb);
    store_close(store);
    pool_free(pool);
    static const char *const ends[] = {"", "-wal", "-shm", "-graph-1"};
    for (size_t i = 0; !kept && i < ARRAY_LENGTH(ends); i++) {
        snprintf(uri, sizeof uri, "%s%s", path, ends[i]);
        unlink(uri);
    }
    return 0;
}
