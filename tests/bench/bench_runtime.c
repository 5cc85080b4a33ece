/*
 * bench_runtime.c: what batching and the feature cache bring on a generative checkpoint.
 *
 *     bench_runtime DIRECTORY [N_TOKENS [N_CONCURRENT [THREADS [DTYPE]]]]
 *
 * Prints tokens per second of N_CONCURRENT captions (or answers) of N_TOKENS one after another and
 * at once, and the time of a first and of a second request about one picture.
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

/* Wall seconds; prints those of the processor too, which other programs disturb less. */
static double run(struct lane *lane, struct job **jobs, int n, bool at_once)
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
    double seconds = (double)(clock_ns() - started) * 1e-9;
    printf("    [%d %s: %.4f s of processor time]\n", n, at_once ? "at once" : "one by one",
           cpu_seconds() - cpu);
    for (int i = 0; i < n; i++) {
        if (jobs[i]->works[0].error.status)
            fail("work", &jobs[i]->works[0].error);
        job_free(jobs[i]);
    }
    return seconds;
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

    jobs[0] = new_job(model, task, 1, n_tokens); /* pages the weights in */
    run(lane, jobs, 1, true);
    double seconds[2];
    for (int at_once = 0; at_once <= 1; at_once++) {
        for (int i = 0; i < n; i++)
            jobs[i] = new_job(model, task, (unsigned)(100 + 1000 * at_once + i), n_tokens);
        seconds[at_once] = run(lane, jobs, n, at_once);
        printf("%d generations of %zu tokens, %s: %.2f s, %.1f tokens/s\n", n, n_tokens,
               at_once ? "at once" : "one by one", seconds[at_once],
               (double)n * (double)n_tokens / seconds[at_once]);
    }
    printf("  ratio %.2f\n", seconds[0] / seconds[1]);
    for (int i = 0; i < n; i++) /* the same pictures again: decoding alone */
        jobs[i] = new_job(model, task, (unsigned)(1100 + i), n_tokens);
    seconds[1] = run(lane, jobs, n, true);
    for (int i = 0; i < n; i++)
        jobs[i] = new_job(model, task, (unsigned)(1100 + i), n_tokens);
    seconds[0] = run(lane, jobs, n, false);
    printf("  pictures cached: one by one %.2f s, at once %.2f s, ratio %.2f\n", seconds[0],
           seconds[1], seconds[0] / seconds[1]);
    for (int again = 0; again <= 1; again++) {
        jobs[0] = new_job(model, task, 5000, 3);
        seconds[again] = run(lane, jobs, 1, true);
    }
    printf("one picture, 3 tokens: first %.1f ms, again %.1f ms, ratio %.2f\n", seconds[0] * 1e3,
           seconds[1] * 1e3, seconds[0] / seconds[1]);
    free(jobs);
    runtime_free(runtime);
    return 0;
}
