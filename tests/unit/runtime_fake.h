/*
 * runtime_fake.h: a model without weights for the runtime's tests. Every result is a formula of its
 * input, so that a test can tell whether a batch mixed something up, and the passes can be held
 * back, made to fail and counted.
 *
 *   features        [1, 2]: the sum of the pixels, height · 1000 + width
 *   embedding       [2]: the sum of the ids, how many
 *   score           [2]: sum of the pictures' features + 10 · sum of the ids, embedding[0]
 *   logits          fake_logit(): by the last two tokens, the length and the first picture; the
 *                   same as TableModel in tests/reference/generation_goldens.py
 *
 * The sequence's cache holds the tokens themselves, so a cache that went to the wrong beam shows.
 */
#ifndef VLMD_TESTS_RUNTIME_FAKE_H
#define VLMD_TESTS_RUNTIME_FAKE_H

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/runtime/runtime.h"

enum { FAKE_VOCAB = 24, FAKE_BROKEN = -7777 };

/* What the fake model does and what it saw; one per model. */
struct fake {
    atomic_bool hold;    /* passes wait while it is set … */
    atomic_int n_inside; /* … and this many do */
    int hold_at_prefill; /* hold is set by the prefill of this number; 0 = none */
    atomic_int n_image_passes, n_images, n_text_passes, n_texts, n_pair_passes, n_prefills,
        n_decodes, max_images, max_rows, max_prompt_tokens;
    atomic_int us_per_image;
    atomic_int fail_above; /* passes over more items than this run out of memory; 0 = never */
    char order[256];       /* one letter a pass: i, t, p, f, d; only its lane writes */
    size_t n_order;
};

static inline void fake_pass(struct fake *fake, char letter)
{
    if (fake->n_order < sizeof fake->order - 1)
        fake->order[fake->n_order++] = letter;
    atomic_fetch_add(&fake->n_inside, 1);
    while (atomic_load(&fake->hold))
        nanosleep(&(struct timespec){0, 200000}, NULL);
    atomic_fetch_sub(&fake->n_inside, 1);
}

static inline void fake_max(atomic_int *max, int n)
{
    if (n > atomic_load(max))
        atomic_store(max, n);
}

static inline enum status fake_too_many(const struct fake *fake, size_t n, struct error *err)
{
    int most = atomic_load(&fake->fail_above);
    return most && n > (size_t)most ? error_no_memory(err, "a fake pass") : STATUS_OK;
}

static inline enum status fake_encode_images(const struct model *model,
                                             const struct compute *compute,
                                             const struct pixels *const *pixels, size_t n,
                                             struct features **out, struct error *err)
{
    struct fake *fake = model->state;
    fake_pass(fake, 'i');
    atomic_fetch_add(&fake->n_image_passes, 1);
    atomic_fetch_add(&fake->n_images, (int)n);
    fake_max(&fake->max_images, (int)n);
    long ns = 1000L * atomic_load(&fake->us_per_image) * (long)n;
    nanosleep(&(struct timespec){ns / 1000000000, ns % 1000000000}, NULL);
    (void)compute;
    if (fake_too_many(fake, n, err))
        return err->status;
    for (size_t i = 0; i < n; i++)
        if (pixels[i]->data[0] == FAKE_BROKEN)
            return error_set(err, STATUS_UNPROCESSABLE, "a broken fake picture");
    for (size_t i = 0; i < n; i++) {
        out[i] = features_new(1, 2);
        float sum = 0;
        for (size_t j = 0; j < 3 * pixels[i]->height * pixels[i]->width; j++)
            sum += pixels[i]->data[j];
        out[i]->rows[0] = sum;
        out[i]->rows[1] = (float)(pixels[i]->height * 1000 + pixels[i]->width);
    }
    return STATUS_OK;
}

static inline float fake_sum(const struct tokens *tokens)
{
    float sum = 0;
    for (size_t i = 0; i < tokens->n; i++)
        sum += (float)tokens->ids[i];
    return sum;
}

static inline enum status fake_encode_texts(const struct model *model,
                                            const struct compute *compute,
                                            const struct tokens *const *texts, size_t n, float *out,
                                            struct error *err)
{
    struct fake *fake = model->state;
    fake_pass(fake, 't');
    atomic_fetch_add(&fake->n_text_passes, 1);
    atomic_fetch_add(&fake->n_texts, (int)n);
    (void)compute;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = fake_sum(texts[i]);
        out[2 * i + 1] = (float)texts[i]->n;
    }
    return STATUS_OK;
}

static inline enum status fake_score_pairs(const struct model *model, const struct compute *compute,
                                           enum task task, const struct pair *pairs, size_t n,
                                           float *out, struct error *err)
{
    struct fake *fake = model->state;
    fake_pass(fake, 'p');
    atomic_fetch_add(&fake->n_pair_passes, 1);
    (void)compute;
    (void)task;
    for (size_t i = 0; i < n; i++)
        if (pairs[i].text->n && pairs[i].text->ids[0] == FAKE_BROKEN)
            return error_set(err, STATUS_UNPROCESSABLE, "a broken fake text");
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = 10 * fake_sum(pairs[i].text);
        for (size_t j = 0; j < pairs[i].n_images; j++)
            out[2 * i] += pairs[i].images[j]->rows[0];
        out[2 * i + 1] = pairs[i].text_embedding ? pairs[i].text_embedding[0] : -1;
    }
    return STATUS_OK;
}

static inline uint32_t fake_mix(uint32_t h, uint32_t x)
{
    h = (h ^ x) * 0x9E3779B1u;
    return h ^ (h >> 15);
}

/* In [-4, 4), in steps that f32 holds exactly; the end tokens (1, 2) gain with the length. */
static inline float fake_logit(uint32_t seed, int32_t last2, int32_t last, size_t length,
                               int32_t id)
{
    uint32_t h = fake_mix(fake_mix(fake_mix(seed, (uint32_t)last2), (uint32_t)last), (uint32_t)id);
    h = fake_mix(h, 77);
    float logit = (float)(h >> 16) / 8192.0f - 4.0f;
    if (id == 1 || id == 2)
        logit += (float)length * 0.25f - 2.0f;
    return logit;
}

static inline void fake_logits(const struct sequence *sequence, float *logits)
{
    const float *ids = sequence_kv(sequence, 0, 0);
    size_t n = sequence->n_tokens;
    uint32_t seed = (uint32_t)sequence->cross->data[0];
    for (int32_t id = 0; id < FAKE_VOCAB; id++)
        logits[id] = fake_logit(seed, n > 1 ? (int32_t)ids[n - 2] : 0, (int32_t)ids[n - 1], n, id);
}

static inline enum status fake_prefill(const struct model *model, const struct compute *compute,
                                       enum task task, const struct prompt *prompts,
                                       struct sequence *sequences, size_t n, float *logits,
                                       struct error *err)
{
    struct fake *fake = model->state;
    fake_pass(fake, 'f');
    if (atomic_fetch_add(&fake->n_prefills, 1) + 1 == fake->hold_at_prefill)
        atomic_store(&fake->hold, true);
    (void)compute;
    (void)task;
    if (fake_too_many(fake, n, err)) {
        for (size_t i = 0; i < n; i++)
            if (prompts[i].from) /* as far as it came */
                sequences[i].n_tokens++;
        return err->status;
    }
    for (size_t i = 0; i < n; i++)
        if (prompts[i].text->ids[0] == FAKE_BROKEN)
            return error_set(err, STATUS_UNPROCESSABLE, "a broken fake prompt");
    for (size_t i = 0; i < n; i++) {
        size_t from = prompts[i].from, to = prompts[i].to ? prompts[i].to : prompts[i].text->n;
        if (!from) {
            sequence_init(&sequences[i], 1, 1);
            sequences[i].cross = kv_shared_new(1, 1);
            sequences[i].cross->data[0] = prompts[i].n_images ? prompts[i].images[0]->rows[0] : 0;
        }
        ck_assert(sequences[i].n_tokens == from && from < to && to <= prompts[i].text->n);
        ck_assert(!sequence_reserve(&sequences[i], to, err));
        for (size_t j = from; j < to; j++)
            sequence_kv(&sequences[i], 0, 0)[j] = (float)prompts[i].text->ids[j];
        sequences[i].n_tokens = to;
        fake_max(&fake->max_prompt_tokens, (int)(to - from));
        fake_logits(&sequences[i], logits + i * FAKE_VOCAB);
    }
    return STATUS_OK;
}

static inline enum status fake_decode(const struct model *model, const struct compute *compute,
                                      struct sequence *const *sequences, const int32_t *tokens,
                                      size_t n, float *logits, struct error *err)
{
    struct fake *fake = model->state;
    fake_pass(fake, 'd');
    atomic_fetch_add(&fake->n_decodes, 1);
    fake_max(&fake->max_rows, (int)n);
    (void)compute;
    for (size_t i = 0; i < n; i++) {
        enum status status = sequence_reserve(sequences[i], sequences[i]->n_tokens + 1, err);
        if (status)
            return status;
        sequence_kv(sequences[i], 0, 0)[sequences[i]->n_tokens++] = (float)tokens[i];
        fake_logits(sequences[i], logits + i * FAKE_VOCAB);
    }
    if (fake_too_many(fake, n, err)) /* after the caches were touched, as real ones may fail */
        return err->status;
    return STATUS_OK;
}

/* Token v is two letters, the same in upper and lower case: Aa, Bb, … */
static inline enum status fake_detokenize(const struct model *model, enum task task,
                                          const struct tokens *prompt, const int32_t *ids, size_t n,
                                          struct buffer *out, struct error *err)
{
    (void)model;
    (void)task;
    (void)prompt;
    (void)err;
    for (size_t i = 0; i < n; i++)
        buffer_printf(out, "%c%c", 'A' + ids[i], 'a' + ids[i]);
    return STATUS_OK;
}

static inline void fake_free(struct model *model)
{
    (void)model; /* the state is the test's */
}

static const struct architecture fake_architecture = {
    .name = "FakeModel",
    .summary = "a model for tests",
    .tasks = TASK_BIT(CAPTION) | TASK_BIT(EMBED) | TASK_BIT(MATCH) | TASK_BIT(CLASSIFY),
    .free = fake_free,
    .encode_images = fake_encode_images,
    .encode_texts = fake_encode_texts,
    .score_pairs = fake_score_pairs,
    .prefill = fake_prefill,
    .prefill_in_pieces = true,
    .decode = fake_decode,
    .detokenize = fake_detokenize,
};

static inline struct model *fake_model(const char *name, struct fake *fake)
{
    struct model *model = calloc(1, sizeof *model);
    model->name = strdup(name);
    model->architecture = &fake_architecture;
    model->state = fake;
    model->traits.embed_dim = 2;
    model->traits.n_outputs = 2;
    model->traits.vocab_size = FAKE_VOCAB;
    model->traits.max_images = 4;
    generation_params_default(&model->generation);
    model->generation.eos_ids[0] = 1;
    model->generation.n_eos = 1;
    return model;
}

/* ---- jobs that can be waited for ----------------------------------------------------------------
 */

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int n_done;
};

static inline void waiter_init(struct waiter *waiter)
{
    pthread_mutex_init(&waiter->mutex, NULL);
    pthread_cond_init(&waiter->changed, NULL);
    waiter->n_done = 0;
}

static inline void waiter_done(struct job *job, void *context)
{
    struct waiter *waiter = context;
    (void)job;
    pthread_mutex_lock(&waiter->mutex);
    waiter->n_done++;
    pthread_cond_broadcast(&waiter->changed);
    pthread_mutex_unlock(&waiter->mutex);
}

static inline void waiter_wait(struct waiter *waiter, int n_done)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&waiter->mutex);
    while (waiter->n_done < n_done)
        ck_assert_msg(!pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &until),
                      "only %d of %d jobs were done in 30 s", waiter->n_done, n_done);
    pthread_mutex_unlock(&waiter->mutex);
}

static inline struct job *fake_job(struct waiter *waiter, enum task task, enum work_kind kind,
                                   size_t n_works)
{
    struct job *job = job_new(task, n_works);
    for (size_t i = 0; i < n_works; i++)
        job->works[i].kind = kind;
    job->done = waiter_done;
    job->context = waiter;
    return job;
}

/* Pictures 1 × 1 whose features are `values`. */
static inline void fake_images(struct work *work, size_t n, const int *values)
{
    struct error err = {0};
    ck_assert(!work_set_images(work, n, &err));
    for (size_t i = 0; i < n; i++) {
        work->images[i] = (struct pixels){1, 1, calloc(3, sizeof(float))};
        work->images[i].data[0] = (float)values[i];
    }
}

static inline void fake_image(struct work *work, int value)
{
    fake_images(work, 1, &value);
}

static inline void fake_text(struct tokens *tokens, size_t n, const int32_t *ids)
{
    tokens->ids = malloc((n ? n : 1) * sizeof *ids);
    if (n)
        memcpy(tokens->ids, ids, n * sizeof *ids);
    tokens->n = n;
}

static inline void fake_texts(struct work *work, size_t n, const int32_t *firsts)
{
    struct error err = {0};
    ck_assert(!work_set_texts(work, n, &err));
    for (size_t i = 0; i < n; i++)
        fake_text(&work->texts[i], 1, &firsts[i]);
}

/* A caption of a picture with a one-token prompt, by the model's own settings. */
static inline struct job *fake_caption(struct waiter *waiter, const struct model *model,
                                       int picture, int32_t prompt, size_t max_new_tokens)
{
    struct job *job = fake_job(waiter, TASK_CAPTION, WORK_GENERATE, 1);
    fake_image(&job->works[0], picture);
    fake_texts(&job->works[0], 1, &prompt);
    job->works[0].generation = model->generation;
    job->works[0].generation.max_new_tokens = max_new_tokens;
    return job;
}

static inline void submit(struct lane *lane, struct job *job)
{
    struct error err = {0};
    ck_assert_msg(!runtime_submit(lane, job, &err), "%s", err.message);
}

static inline struct runtime *fake_runtime(struct runtime_options options)
{
    struct error err = {0};
    if (!options.threads)
        options.threads = 2;
    struct runtime *runtime = runtime_new(&options, &err);
    ck_assert_msg(runtime != NULL, "%s", err.message);
    return runtime;
}

static inline struct lane *fake_lane(struct runtime *runtime, const char *name, struct fake *fake)
{
    struct error err = {0};
    ck_assert_msg(!runtime_add(runtime, fake_model(name, fake), &err), "%s", err.message);
    return runtime_at(runtime, runtime_count(runtime) - 1);
}

/* Waits until the model is held inside a pass. */
static inline void wait_inside(struct fake *fake)
{
    for (int i = 0; i < 100000 && !atomic_load(&fake->n_inside); i++)
        nanosleep(&(struct timespec){0, 200000}, NULL);
    ck_assert_int_eq(atomic_load(&fake->n_inside), 1);
}

#endif
