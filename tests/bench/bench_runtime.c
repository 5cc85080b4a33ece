/*
 * bench_runtime.c: what batching and the feature cache bring on a generative checkpoint.
 *
 *     bench_runtime DIRECTORY [N_TOKENS [N_CONCURRENT [THREADS [DTYPE]]]]
 *
 * Prints tokens per second of N_CONCURRENT captions (or answers) of N_TOKENS one after another and
 * at once, of new pictures and of cached ones, and the time of a first and of a second request
 * about one picture. Medians of rounds that take all of them in turn, after one that does not
 * count.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/runtime/runtime.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_done;

static void on_done(struct job *job, void *context)
{
    (void)job;
    (void)context;
    pthread_mutex_lock(&mutex);
    n_done++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wait_for(int n)
{
    pthread_mutex_lock(&mutex);
    while (n_done < n)
        pthread_cond_wait(&changed, &mutex);
    n_done = 0;
    pthread_mutex_unlock(&mutex);
}

static void fail(const char *what, const struct error *err)
{
    fprintf(stderr, "bench_runtime: %s: %s\n", what, err->message);
    exit(1);
}

/* A job about picture number `seed`: noise, so that no two are the same. */
static struct job *new_job(const struct model *model, enum task task, unsigned seed,
                           size_t n_tokens)
{
    struct error err = {0};
    struct job *job = job_new(task, 1);
    if (!job)
        exit(1);
    struct work *work = &job->works[0];
    struct image image = {.width = 320, .height = 240};
    image.rgb = malloc(image.width * image.height * 3);
    for (size_t i = 0; i < image.width * image.height * 3; i++)
        image.rgb[i] = (uint8_t)((i * 2654435761u + seed * 40503u) >> 13);
    const char *text = task == TASK_VQA ? "what is to be seen here?" : "";
    if (work_set_images(work, 1, &err) || work_set_texts(work, 1, &err) ||
        model_preprocess(model, &image, &work->images[0], &err) ||
        model_tokenize(model, task, text, strlen(text), &work->texts[0], &err))
        fail("request", &err);
    image_release(&image);
    work->kind = WORK_GENERATE;
    work->generation = model->generation;
    work->generation.max_new_tokens = n_tokens;
    work->generation.n_eos = 0; /* random weights may end at once */
    job->done = on_done;
    return job;
}

static double cpu_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Wall seconds, and those of the processor, which other programs disturb less. */
struct seconds {
    double wall, cpu;
};

static struct seconds run(struct lane *lane, struct job **jobs, int n, bool at_once)
{
    double cpu = cpu_seconds();
    struct error err = {0};
    uint64_t started = clock_ns();
    for (int i = 0; i < n; i++) {
        if (runtime_submit(lane, jobs[i], &err))
            fail("submit", &err);
        if (!at_once)
            wait_for(1);
    }
    if (at_once)
        wait_for(n);
    struct seconds seconds = {(double)(clock_ns() - started) * 1e-9, cpu_seconds() - cpu};
    for (int i = 0; i < n; i++) {
        if (jobs[i]->works[0].error.status)
            fail("work", &jobs[i]->works[0].error);
        job_free(jobs[i]);
    }
    return seconds;
}

/* What a round takes in turn, N_CONCURRENT each; CACHED: the pictures of the one before. */
enum { ONE_BY_ONE, ONE_BY_ONE_CACHED, AT_ONCE, AT_ONCE_CACHED, FIRST, AGAIN, N_KINDS };
enum { N_ROUNDS = 5 };
static const double ENOUGH_S = 15; /* no further round after so long */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct seconds median(const struct seconds *rounds, size_t n)
{
    double wall[N_ROUNDS], cpu[N_ROUNDS];
    for (size_t i = 0; i < n; i++) {
        wall[i] = rounds[i].wall;
        cpu[i] = rounds[i].cpu;
    }
    qsort(wall, n, sizeof *wall, compare_doubles);
    qsort(cpu, n, sizeof *cpu, compare_doubles);
    return (struct seconds){wall[n / 2], cpu[n / 2]};
}

static void print_pair(const char *name, struct seconds one_by_one, struct seconds at_once,
                       size_t n_tokens)
{
    double n = (double)n_tokens;
    printf("%s: one by one %.0f tokens/s (%.1f ms of processor time), at once %.0f (%.1f ms): "
           "%.2f times as many, %.2f by processor time\n",
           name, n / one_by_one.wall, one_by_one.cpu * 1e3, n / at_once.wall, at_once.cpu * 1e3,
           one_by_one.wall / at_once.wall, one_by_one.cpu / at_once.cpu);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr,
                "usage: bench_runtime DIRECTORY [N_TOKENS [N_CONCURRENT [THREADS [DTYPE]]]]\n");
        return 2;
    }
    size_t n_tokens = argc > 2 ? strtoul(argv[2], NULL, 10) : 20;
    int n = argc > 3 ? atoi(argv[3]) : 16;
    struct error err = {0};
    struct runtime *runtime =
        runtime_new(&(struct runtime_options){.threads = argc > 4 ? strtoul(argv[4], NULL, 10) : 0,
                                              .max_batch = 32,
                                              .max_sequences = 64,
                                              .feature_cache_bytes = (size_t)64 << 20,
                                              .kv_cache_bytes = (size_t)2 << 30},
                    &err);
    struct model_options options = {0};
    if (argc > 5 && !model_options_parse_dtype(&options, argv[5])) {
        fprintf(stderr, "bench_runtime: '%s' is no dtype\n", argv[5]);
        return 2;
    }
    struct model *model = runtime ? model_open_as("bench", argv[1], &options, &err) : NULL;
    if (!model || runtime_add(runtime, model, &err))
        fail(argv[1], &err);
    enum task task = model->architecture->tasks & TASK_BIT(CAPTION) ? TASK_CAPTION : TASK_VQA;
    struct lane *lane = runtime_at(runtime, 0);
    struct job **jobs = calloc((size_t)n, sizeof *jobs);

    struct seconds rounds[N_KINDS][N_ROUNDS], medians[N_KINDS];
    unsigned seed = 1;
    jobs[0] = new_job(model, task, seed, n_tokens); /* pages the weights in */
    run(lane, jobs, 1, true);
    size_t n_rounds = 0;
    for (uint64_t started = clock_ns();
         n_rounds < N_ROUNDS && (double)(clock_ns() - started) * 1e-9 < ENOUGH_S; n_rounds++) {
        for (int kind = 0; kind < N_KINDS; kind++) {
            bool alone = kind >= FIRST, cached = kind & 1;
            int n_jobs = alone ? 1 : n;
            if (!cached)
                seed += (unsigned)n;
            for (int i = 0; i < n_jobs; i++)
                jobs[i] = new_job(model, task, seed + (unsigned)i, alone ? 3 : n_tokens);
            rounds[kind][n_rounds] = run(lane, jobs, n_jobs, kind >= AT_ONCE);
        }
    }
    for (int kind = 0; kind < N_KINDS; kind++)
        medians[kind] = median(rounds[kind], n_rounds);
    printf("%d generations of %zu tokens\n", n, n_tokens);
    size_t n_all = (size_t)n * n_tokens;
    print_pair("  new pictures", medians[ONE_BY_ONE], medians[AT_ONCE], n_all);
    print_pair("  cached", medians[ONE_BY_ONE_CACHED], medians[AT_ONCE_CACHED], n_all);
    printf("  one picture, 3 tokens: first %.2f ms, again %.2f ms, ratio %.2f\n",
           medians[FIRST].wall * 1e3, medians[AGAIN].wall * 1e3,
           medians[FIRST].wall / medians[AGAIN].wall);
    free(jobs);
    runtime_free(runtime);
    return 0;
}
