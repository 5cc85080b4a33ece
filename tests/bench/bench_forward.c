/*
 * bench_forward.c: the speed of a checkpoint's forward passes, without server or decoding.
 *
 *   bench_forward [--dtype DTYPE] [--cache FOLDER] [--pass NAME] [--seconds S] [--threads N]
 *                 [--engine NAME] DIR [BATCH…]
 *
 * (f32; batches 1, 8, 32 unless given; weights converted into memory unless there is a cache; all
 * passes, or those whose printed names begin with NAME; 2 seconds for each.)
 *
 * Prints load time, resident memory, pictures/s of encode_images, texts/s of encode_texts, pairs/s
 * of score_pairs, prompts/s and tokens/s of prefill and decode, and captions/s of a picture and 20
 * tokens together, for what the model has. Inputs
 * are synthetic: the time does not depend on them. Threads: as many as the process may use
 * (taskset limits them) unless told.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/stats.h"
#include "core/models/model.h"

enum { BATCH_MAX = 256, TEXT_TOKENS = 12, DECODE_TOKENS = 20 };
static double seconds_each = 2;
static const char *only_pass = "";

struct bench {
    const struct model *model;
    struct compute compute;
    struct error err;
    struct pixels pixels;
    struct tokens text;
    struct tokens texts[2];
    struct features *features[BATCH_MAX];
};

static double now(void)
{
    return (double)clock_ns() * 1e-9;
}

/* Processor time of all threads: unlike the wall clock, it hardly depends on what else runs. */
static double cpu_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double resident_mb(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static bool wanted(const char *what)
{
    return strncmp(what, only_pass, strlen(only_pass)) == 0;
}

/* Repeats a pass over n items for about seconds_each; prints items/s of the fastest and of all. */
static int report(struct bench *bench, const char *what, size_t n,
                  enum status (*pass)(struct bench *bench, size_t n, double *items))
{
    double best = 0, items = 0, all = 0, begin = now(), cpu = cpu_now();
    size_t n_passes = 0;
    if (!wanted(what))
        return 0;
    do {
        double start = now();
        items = (double)n;
        if (pass(bench, n, &items)) {
            fprintf(stderr, "%s: %s\n", what, bench->err.message);
            return 1;
        }
        double rate = items / (now() - start);
        arena_reset(bench->compute.scratch);
        best = rate > best ? rate : best;
        if (n_passes++ == 0) { /* the first pass faults pages in */
            begin = now();
            cpu = cpu_now();
        } else {
            all += items;
        }
    } while (n_passes < 2 || now() - begin < seconds_each);
    printf("%-22s batch %3zu  %10.2f /s  (best pass %.2f /s, %.2f ms of processor time each)\n",
           what, n, all / (now() - begin), best, (cpu_now() - cpu) * 1e3 / all);
    return 0;
}

static enum status images_pass(struct bench *bench, size_t n, double *items)
{
    const struct pixels *list[BATCH_MAX] = {0};
    struct features *out[BATCH_MAX];
    (void)items;
    for (size_t i = 0; i < n; i++)
        list[i] = &bench->pixels;
    enum status status = bench->model->architecture->encode_images(bench->model, &bench->compute,
                                                                   list, n, out, &bench->err);
    for (size_t i = 0; i < n && !status; i++)
        features_unref(out[i]);
    return status;
}

static enum status encode_texts(struct bench *bench, size_t n)
{
    const struct tokens *list[BATCH_MAX];
    for (size_t i = 0; i < n; i++)
        list[i] = &bench->texts[i % 2];
    float *out =
        arena_array(bench->compute.scratch, n * bench->model->traits.embed_dim, sizeof *out);
    if (!out)
        return error_no_memory(&bench->err, "embeddings");
    return bench->model->architecture->encode_texts(bench->model, &bench->compute, list, n, out,
                                                    &bench->err);
}

/* As many words as give TEXT_TOKENS with a start and an end, alike or (what a batch's texts begin
 * with alike may be computed once) not. */
static enum status texts_pass_of(struct bench *bench, size_t n, bool alike)
{
    static const char *const words[2][2] = {{"a a a a a a a a a a", "o o o o o o o o o o"},
                                            {"a a a a a a a a a a", "a a a a a a a a a o"}};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < 2 && !status; i++)
        status = model_tokenize(bench->model, TASK_EMBED, words[alike][i], strlen(words[alike][i]),
                                &bench->texts[i], &bench->err);
    if (!status)
        status = encode_texts(bench, n);
    for (size_t i = 0; i < 2; i++)
        tokens_release(&bench->texts[i]);
    return status;
}

static enum status texts_pass(struct bench *bench, size_t n, double *items)
{
    (void)items;
    return texts_pass_of(bench, n, false);
}

static enum status alike_pass(struct bench *bench, size_t n, double *items)
{
    (void)items;
    return texts_pass_of(bench, n, true);
}

static enum status pairs_pass(struct bench *bench, size_t n, double *items)
{
    const struct model_traits *traits = &bench->model->traits;
    float *embedding = NULL; /* any will do */
    if (traits->pairs_by_embedding &&
        !(embedding = arena_zalloc(bench->compute.scratch, traits->embed_dim, sizeof *embedding)))
        return error_no_memory(&bench->err, "scores");
    struct pair pairs[BATCH_MAX];
    (void)items;
    for (size_t i = 0; i < n; i++)
        pairs[i] = (struct pair){&bench->features[i], 1, &bench->text, embedding};
    float *out =
        arena_array(bench->compute.scratch, n * bench->model->traits.n_outputs, sizeof *out);
    if (!out)
        return error_no_memory(&bench->err, "scores");
    return bench->model->architecture->score_pairs(bench->model, &bench->compute, TASK_MATCH, pairs,
                                                   n, out, &bench->err);
}

static enum task generating_task(const struct model *model)
{
    return model->architecture->tasks & TASK_BIT(CAPTION) ? TASK_CAPTION : TASK_VQA;
}

static enum status start(struct bench *bench, size_t n, struct sequence *sequences, float *logits)
{
    struct prompt prompts[BATCH_MAX];
    for (size_t i = 0; i < n; i++)
        prompts[i] = (struct prompt){&bench->features[i], 1, &bench->text};
    return bench->model->architecture->prefill(bench->model, &bench->compute,
                                               generating_task(bench->model), prompts, sequences, n,
                                               logits, &bench->err);
}

static enum status prefill_pass(struct bench *bench, size_t n, double *items)
{
    static struct sequence sequences[BATCH_MAX];
    (void)items;
    float *logits = malloc(n * bench->model->traits.vocab_size * sizeof *logits);
    if (!logits)
        return error_no_memory(&bench->err, "logits");
    enum status status = start(bench, n, sequences, logits);
    for (size_t i = 0; i < n && !status; i++)
        sequence_release(&sequences[i]);
    free(logits);
    return status;
}

/* DECODE_TOKENS steps of n sequences; the prefill is not counted. */
static int report_decode(struct bench *bench, size_t n)
{
    static struct sequence sequences[BATCH_MAX];
    struct sequence *list[BATCH_MAX];
    int32_t tokens[BATCH_MAX];
    if (!wanted("decode tokens"))
        return 0;
    float *logits = malloc(n * bench->model->traits.vocab_size * sizeof *logits);
    enum status status =
        logits ? start(bench, n, sequences, logits) : error_no_memory(&bench->err, "logits");
    arena_reset(bench->compute.scratch);
    if (!status) {
        for (size_t i = 0; i < n; i++) {
            list[i] = &sequences[i];
            tokens[i] = 5;
        }
        double begin = now(), cpu = cpu_now();
        for (size_t t = 0; t < DECODE_TOKENS && !status; t++) {
            status = bench->model->architecture->decode(bench->model, &bench->compute, list, tokens,
                                                        n, logits, &bench->err);
            arena_reset(bench->compute.scratch);
        }
        double made = (double)(n * DECODE_TOKENS);
        printf("%-22s batch %3zu  %10.1f /s  (%.2f ms of processor time each)\n", "decode tokens",
               n, made / (now() - begin), (cpu_now() - cpu) * 1e3 / made);
        for (size_t i = 0; i < n; i++)
            sequence_release(&sequences[i]);
    }
    free(logits);
    if (status)
        fprintf(stderr, "decode: %s\n", bench->err.message);
    return status ? 1 : 0;
}

/* n new pictures to texts of DECODE_TOKENS tokens, from a prompt of one: all that captions cost. */
static enum status caption_pass(struct bench *bench, size_t n, double *items)
{
    static struct sequence sequences[BATCH_MAX];
    static struct features *features[BATCH_MAX];
    const struct architecture *architecture = bench->model->architecture;
    const struct pixels *list[BATCH_MAX];
    struct prompt prompts[BATCH_MAX];
    struct sequence *going[BATCH_MAX];
    struct tokens text = {.ids = bench->text.ids, .n = 1};
    int32_t tokens[BATCH_MAX];
    (void)items;
    float *logits = malloc(n * bench->model->traits.vocab_size * sizeof *logits);
    if (!logits)
        return error_no_memory(&bench->err, "logits");
    for (size_t i = 0; i < n; i++) {
        list[i] = &bench->pixels;
        prompts[i] = (struct prompt){&features[i], 1, &text};
        going[i] = &sequences[i];
        tokens[i] = 5;
    }
    enum status status =
        architecture->encode_images(bench->model, &bench->compute, list, n, features, &bench->err);
    arena_reset(bench->compute.scratch);
    if (!status) {
        status = architecture->prefill(bench->model, &bench->compute, TASK_CAPTION, prompts,
                                       sequences, n, logits, &bench->err);
        for (size_t t = 1; t < DECODE_TOKENS && !status; t++) {
            arena_reset(bench->compute.scratch);
            status = architecture->decode(bench->model, &bench->compute, going, tokens, n, logits,
                                          &bench->err);
        }
        for (size_t i = 0; i < n; i++) {
            sequence_release(&sequences[i]);
            features_unref(features[i]);
        }
    }
    free(logits);
    return status;
}

/* Features for the passes that need them. */
static int make_features(struct bench *bench, size_t n)
{
    const struct pixels *list = &bench->pixels;
    for (size_t i = 0; i < n; i++) {
        if (bench->features[i])
            continue;
        if (bench->model->architecture->encode_images(bench->model, &bench->compute, &list, 1,
                                                      &bench->features[i], &bench->err)) {
            fprintf(stderr, "%s\n", bench->err.message);
            return 1;
        }
        arena_reset(bench->compute.scratch);
    }
    return 0;
}

static int run(struct bench *bench, const size_t *batches, size_t n_batches)
{
    const struct architecture *architecture = bench->model->architecture;
    int failed = 0;
    for (size_t i = 0; i < n_batches && !failed; i++)
        failed = report(bench, "encode_images", batches[i], images_pass);
    for (size_t i = 0; i < n_batches && !failed && architecture->encode_texts; i++)
        failed = report(bench, "encode_texts", batches[i], texts_pass) ||
                 report(bench, "encode_texts, alike", batches[i], alike_pass);
    bool needs_features = (architecture->score_pairs && wanted("score_pairs")) ||
                          (architecture->prefill && (wanted("prefill") || wanted("decode")));
    for (size_t i = 0; i < n_batches && !failed && needs_features; i++) {
        failed = make_features(bench, batches[i]);
        if (!failed && architecture->score_pairs)
            failed = report(bench, "score_pairs", batches[i], pairs_pass);
        if (!failed && architecture->prefill)
            failed = report(bench, "prefill prompts", batches[i], prefill_pass) ||
                     report_decode(bench, batches[i]);
    }
    for (size_t i = 0; i < n_batches && !failed && architecture->prefill &&
                       architecture->tasks & TASK_BIT(CAPTION);
         i++)
        failed = report(bench, "captions of 20 tokens", batches[i], caption_pass);
    return failed;
}

int main(int argc, char **argv)
{
    static const size_t usual[] = {1, 8, 32};
    size_t batches[16], n_batches = 0;
    struct model_options options = {.dtype = WEIGHT_F32};
    enum nn_engine engine = NN_ENGINE_AUTO;
    size_t n_threads = 0;
    for (; argc > 2 && strncmp(argv[1], "--", 2) == 0; argv += 2, argc -= 2) {
        if (strcmp(argv[1], "--dtype") == 0 && model_options_parse_dtype(&options, argv[2]))
            continue;
        if (strcmp(argv[1], "--cache") == 0)
            options.cache_folder = argv[2];
        else if (strcmp(argv[1], "--pass") == 0)
            only_pass = argv[2];
        else if (strcmp(argv[1], "--seconds") == 0)
            seconds_each = strtod(argv[2], NULL);
        else if (strcmp(argv[1], "--threads") == 0)
            n_threads = strtoul(argv[2], NULL, 10);
        else if (strcmp(argv[1], "--engine") != 0 || !nn_engine_parse(argv[2], &engine))
            argc = 0; /* no such option, dtype or engine */
    }
    if (argc < 2) {
        fprintf(stderr, "usage: bench_forward [--dtype auto|f32|bf16|int8|int4] [--cache FOLDER] "
                        "[--pass NAME] [--seconds S] [--threads N] [--engine NAME] DIR [BATCH…]\n");
        return 2;
    }
    if (!nn_engine_choose(engine)) {
        fprintf(stderr, "this machine does not run that engine\n");
        return 1;
    }
    for (int i = 2; i < argc && n_batches < 16; i++) {
        long n = strtol(argv[i], NULL, 10);
        if (n < 1 || n > BATCH_MAX) {
            fprintf(stderr, "a batch is 1 to %d\n", BATCH_MAX);
            return 2;
        }
        batches[n_batches++] = (size_t)n;
    }
    if (!n_batches) {
        memcpy(batches, usual, sizeof usual);
        n_batches = sizeof usual / sizeof usual[0];
    }

    static struct bench bench;
    struct arena arena;
    arena_init(&arena, 0);
    double begin = now();
    struct model *model = model_open_as("bench", argv[1], &options, &bench.err);
    bench.model = model;
    bench.compute = (struct compute){model ? pool_new(n_threads, &bench.err) : NULL, &arena};
    if (!model || !bench.compute.pool) {
        fprintf(stderr, "%s\n", bench.err.message);
        model_free(model);
        return 1;
    }
    double loaded = now() - begin;
    size_t side = model->traits.image_height ? model->traits.image_height : 384;
    int32_t ids[TEXT_TOKENS];
    for (int32_t i = 0; i < TEXT_TOKENS; i++)
        ids[i] = i + 1;
    bench.text = (struct tokens){.ids = ids, .n = TEXT_TOKENS};
    bench.pixels = (struct pixels){side, side, calloc(3 * side * side, sizeof(float))};
    for (size_t i = 0; bench.pixels.data && i < 3 * side * side; i++)
        bench.pixels.data[i] = (float)(i % 251) / 125 - 1;
    printf("%s: %s in %s, %.1f million parameters, %zu threads, loaded in %.1f ms, %.0f MB of "
           "weights\n",
           argv[1], model->architecture->name, weight_form_name(model->dtype),
           (double)model->n_parameters / 1e6, pool_threads(bench.compute.pool), loaded * 1e3,
           (double)tensor_set_bytes(model->checkpoint->tensors) / 1e6);
    int failed = bench.pixels.data ? run(&bench, batches, n_batches) : 1;
    printf("resident memory        %.0f MB\n", resident_mb());
    for (size_t i = 0; i < BATCH_MAX; i++)
        features_unref(bench.features[i]);
    pixels_release(&bench.pixels);
    pool_free(bench.compute.pool);
    arena_release(&arena);
    model_free(model);
    return failed;
}
