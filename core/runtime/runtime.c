/*
 * runtime.c: the registry of lanes, and how a job gets into one. The rest is in lane.c, encode.c
 * and decode.c; runtime_internal.h has the picture.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/runtime/runtime_internal.h"

enum {
    DEFAULT_MAX_BATCH = 32,
    DEFAULT_MAX_QUEUE = 1024,
    DEFAULT_MAX_SEQUENCES = 64,
    RETRY_AFTER_S_MAX = 60,
};
/* Of the time that a request has left, how much may be spent before it is done, as things look. */
static const double TIME_SHARE = 0.5;
static const size_t DEFAULT_KV_CACHE_BYTES = (size_t)512 << 20;

/* ---- registry -----------------------------------------------------------------------------------
 */

struct runtime *runtime_new(const struct runtime_options *options, struct error *err)
{
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (!runtime) {
        error_no_memory(err, "the runtime");
        return NULL;
    }
    runtime->options = *options;
    struct runtime_options *filled = &runtime->options;
    if (!filled->max_batch)
        filled->max_batch = DEFAULT_MAX_BATCH;
    if (!filled->max_queue)
        filled->max_queue = DEFAULT_MAX_QUEUE;
    if (!filled->max_sequences)
        filled->max_sequences = DEFAULT_MAX_SEQUENCES;
    if (!filled->kv_cache_bytes)
        filled->kv_cache_bytes = DEFAULT_KV_CACHE_BYTES;
    turn_init(&runtime->turn);
    atomic_init(&runtime->draining, false);
    atomic_init(&runtime->n_lanes, 0);
    if (digest_key_init(&runtime->digest_key, err) ||
        !(runtime->pool = pool_new(options->threads, err))) {
        turn_release(&runtime->turn);
        free(runtime);
        return NULL;
    }
    return runtime;
}

void runtime_free(struct runtime *runtime)
{
    if (!runtime)
        return;
    atomic_store(&runtime->draining, true);
    size_t n = atomic_load(&runtime->n_lanes);
    for (size_t i = 0; i < n; i++)
        lane_stop(runtime->lanes[i]);
    for (size_t i = 0; i < n; i++)
        lane_free(runtime->lanes[i]);
    loading_release(runtime);
    pool_free(runtime->pool);
    turn_release(&runtime->turn);
    free(runtime);
}

enum status runtime_add(struct runtime *runtime, struct model *model, struct error *err)
{
    size_t n = atomic_load(&runtime->n_lanes);
    for (size_t i = 0; i < n; i++)
        if (strcmp(runtime->lanes[i]->model->name, model->name) == 0)
            return error_set(err, STATUS_BAD_CONFIG, "a model named '%s' is served already",
                             model->name);
    if (n == LANES_MAX)
        return error_set(err, STATUS_BAD_CONFIG, "at most %d models are served", LANES_MAX);
    struct lane *lane = lane_new(runtime, model, err);
    if (!lane)
        return err->status;
    runtime->lanes[n] = lane;
    atomic_store(&runtime->n_lanes, n + 1);
    return STATUS_OK;
}

size_t runtime_count(const struct runtime *runtime)
{
    return atomic_load(&runtime->n_lanes);
}

struct lane *runtime_at(const struct runtime *runtime, size_t i)
{
    return i < runtime_count(runtime) ? runtime->lanes[i] : NULL;
}

static bool has_task(const struct lane *lane, enum task task)
{
    return model_tasks(lane->model) >> task & 1;
}

/* "'a', 'b', 'c'", cut short with "…": the models that have the task (all of them: N_TASKS). */
static void list_models(const struct runtime *runtime, enum task task, struct buffer *out)
{
    size_t n = runtime_count(runtime);
    bool cut = false, any = false;
    for (size_t i = 0; i < n && !cut; i++) {
        if (task != N_TASKS && !has_task(runtime->lanes[i], task))
            continue;
        cut = !buffer_printf(out, "%s'%s'", any ? ", " : "", runtime->lanes[i]->model->name);
        any = true;
    }
    if (cut) {
        out->max_bytes += 8;
        buffer_puts(out, ", …");
    } else if (!any) {
        buffer_puts(out, "none");
    }
}

struct lane *runtime_find(const struct runtime *runtime, const char *name, enum task task,
                          struct error *err)
{
    size_t n = runtime_count(runtime);
    struct lane *named = NULL;
    for (size_t i = 0; i < n; i++) {
        struct lane *lane = runtime->lanes[i];
        if (name && *name) {
            if (strcmp(lane->model->name, name) == 0)
                named = lane;
        } else if (has_task(lane, task)) {
            return lane;
        }
    }
    if (named && has_task(named, task))
        return named;
    if (!named && loading_explain(runtime, name && *name ? name : NULL, err))
        return NULL;
    struct buffer models;
    buffer_init(&models, ERROR_MESSAGE_MAX / 2);
    bool is_unknown = name && *name && !named;
    list_models(runtime, is_unknown ? N_TASKS : task, &models);
    const char *list = models.data ? models.data : "none";
    if (is_unknown)
        error_set_param(err, STATUS_UNKNOWN_MODEL, "model",
                        "there is no model '%.100s'; served are: %s", name, list);
    else if (named)
        error_set_param(err, STATUS_UNSUPPORTED_TASK, "model",
                        "model '%.100s' (%s) does not do '%s'; models that do: %s", name,
                        named->model->architecture->name, task_name(task), list);
    else
        error_set_param(err, STATUS_UNSUPPORTED_TASK, "model", "no model served does '%s'",
                        task_name(task));
    buffer_release(&models);
    return NULL;
}

const struct model *lane_model(const struct lane *lane)
{
    return lane->model;
}

struct pool *runtime_pool(const struct runtime *runtime)
{
    return runtime->pool;
}

const struct lane_stats *lane_stats(const struct lane *lane)
{
    return &lane->stats;
}

void lane_count_request(struct lane *lane, enum task task, double preprocess_s, double total_s)
{
    struct task_stats *stats = &lane->stats.by_task[task];
    if (preprocess_s > 0)
        histogram_add(&stats->preprocess_seconds, preprocess_s);
    histogram_add(&stats->total_seconds, total_s);
}

/* ---- admission ----------------------------------------------------------------------------------
 */

static enum status queue_full(const struct lane *lane, size_t depth, size_t n, struct error *err)
{
    size_t max = lane->runtime->options.max_queue;
    if (n > max)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "%zu items are more than the queue of model '%s' ever holds (%zu)", n,
                         lane->model->name, max);
    return error_set(err, STATUS_QUEUE_FULL,
                     "the queue of model '%s' is full: %zu of %zu items are waiting, and this "
                     "request has %zu",
                     lane->model->name, depth, max, n);
}

static enum status draining(struct error *err)
{
    return error_set(err, STATUS_DRAINING, "the server is shutting down and takes no new work");
}

/* Behind a queue that lasts longer than the request does it would only be computed in part, or not
 * at all, and in the place of one that could still be answered. */
static enum status check_time(struct lane *lane, size_t n, uint64_t deadline_ns, struct error *err)
{
    double rate = atomic_load(&lane->works_per_second);
    size_t depth = atomic_load(&lane->stats.queue_depth);
    uint64_t now = clock_ns();
    if (!deadline_ns || now >= deadline_ns || !depth || !(rate > 0))
        return STATUS_OK;
    double left = (double)(deadline_ns - now) * 1e-9;
    double wait = (double)(depth + atomic_load(&lane->stats.running) + n) / rate;
    if (wait <= TIME_SHARE * left)
        return STATUS_OK;
    atomic_fetch_add(&lane->stats.refused, 1);
    return error_set(err, STATUS_QUEUE_FULL,
                     "the queue of model '%s' has %zu items and takes about %.1f seconds; this "
                     "request has %.1f left",
                     lane->model->name, depth, wait, left);
}

enum status lane_check_room(struct lane *lane, size_t n_items, uint64_t deadline_ns,
                            struct error *err)
{
    if (atomic_load(&lane->runtime->draining))
        return draining(err);
    if (check_time(lane, n_items, deadline_ns, err))
        return err->status;
    size_t max = lane->runtime->options.max_queue, depth = atomic_load(&lane->stats.queue_depth);
    if (n_items > max || depth > max - n_items) {
        atomic_fetch_add(&lane->stats.refused, 1);
        return queue_full(lane, depth, n_items, err);
    }
    return STATUS_OK;
}

size_t lane_room(const struct lane *lane)
{
    size_t max = lane->runtime->options.max_queue, depth = atomic_load(&lane->stats.queue_depth);
    return depth < max ? max - depth : 0;
}

/* Takes n places in the queue, all or none. */
static enum status take_places(struct lane *lane, size_t n, struct error *err)
{
    size_t max = lane->runtime->options.max_queue, depth = atomic_load(&lane->stats.queue_depth);
    do
        if (n > max || depth > max - n) {
            atomic_fetch_add(&lane->stats.refused, 1);
            return queue_full(lane, depth, n, err);
        }
    while (!atomic_compare_exchange_weak(&lane->stats.queue_depth, &depth, depth + n));
    return STATUS_OK;
}

static bool embeds_texts(const struct lane *lane, const struct work *work)
{
    return work->kind == WORK_ENCODE ||
           (work->kind == WORK_PAIR && lane->model->traits.pairs_by_embedding);
}

/* The lane's view of a job. The digests are made here, on the submitter's thread. */
static struct job_state *job_state_new(struct lane *lane, struct job *job)
{
    size_t bytes, n_digests = 0;
    for (size_t i = 0; i < job->n_works; i++)
        n_digests += job->works[i].n_images +
                     (embeds_texts(lane, &job->works[i]) ? job->works[i].n_texts : 0);
    if (!size_mul(job->n_works, sizeof(struct work_state), &bytes) ||
        !size_add(bytes, sizeof(struct job_state), &bytes))
        return NULL;
    struct job_state *job_state = calloc(1, bytes);
    struct digest *digests = alloc_array(n_digests, sizeof *digests);
    if (!job_state || !digests) {
        free(job_state);
        free(digests);
        return NULL;
    }
    job_state->job = job;
    job_state->n_left = job->n_works;
    job_state->digests = digests;
    const struct digest_key *key = &lane->runtime->digest_key;
    for (size_t i = 0; i < job->n_works; i++) {
        struct work *work = &job->works[i];
        struct work_state *state = &job_state->works[i];
        *state = (struct work_state){.job = job_state, .work = work, .image_digests = digests};
        state->hashed = work->n_images > 0;
        for (size_t j = 0; j < work->n_images; j++, digests++) {
            if (!work->features || !work->features[j])
                *digests = digest_pixels(key, &work->images[j]);
            else
                state->hashed = false; /* features of who knows what */
        }
        if (embeds_texts(lane, work)) {
            state->text_digests = digests;
            for (size_t j = 0; j < work->n_texts; j++)
                *digests++ = digest_tokens(key, &work->texts[j]);
        }
        work->lane_state = state;
    }
    return job_state;
}

static void job_state_free(struct job_state *job_state)
{
    for (size_t i = 0; i < job_state->job->n_works; i++)
        job_state->job->works[i].lane_state = NULL;
    free(job_state->digests);
    free(job_state);
}

/* False when the lane has stopped. */
static bool deliver(struct lane *lane, struct job_state *job_state)
{
    pthread_mutex_lock(&lane->mutex);
    bool fine = !lane->stop;
    if (fine) {
        *(lane->inbox_last ? &lane->inbox_last->next : &lane->inbox_first) = job_state;
        lane->inbox_last = job_state;
        lane->inbox_works += job_state->job->n_works;
        pthread_cond_signal(&lane->arrived);
    }
    pthread_mutex_unlock(&lane->mutex);
    return fine;
}

enum status runtime_submit(struct lane *lane, struct job *job, struct error *err)
{
    /* Counted first and only then asked about draining, so that who drains and then sees an idle
     * runtime has seen this job. */
    if (atomic_fetch_add(&lane->n_jobs, 1) == 0)
        atomic_store(&lane->heartbeat_ns, clock_ns());
    enum status status;
    struct job_state *job_state = NULL;
    if (atomic_load(&lane->runtime->draining)) {
        status = draining(err);
        goto refused;
    }
    status = check_time(lane, job->n_works, job->deadline_ns, err);
    if (!status)
        status = take_places(lane, job->n_works, err);
    if (status)
        goto refused;
    job->submitted_ns = clock_ns();
    job_state = job_state_new(lane, job);
    if (!job_state) {
        status = error_no_memory(err, "a job");
        goto give_back;
    }
    if (!deliver(lane, job_state)) {
        job_state_free(job_state);
        status = draining(err);
        goto give_back;
    }
    return STATUS_OK;
give_back:
    atomic_fetch_sub(&lane->stats.queue_depth, job->n_works);
refused:
    atomic_fetch_sub(&lane->n_jobs, 1);
    return status;
}

/* ---- health -------------------------------------------------------------------------------------
 */

unsigned lane_retry_after_s(const struct lane *lane)
{
    double rate = atomic_load(&lane->works_per_second);
    size_t depth = atomic_load(&lane->stats.queue_depth);
    if (!(rate > 0))
        return depth ? 2 : 1; /* nothing has been measured yet */
    /* Half the queue: those who were refused come back spread over the other half. */
    double seconds = ceil((double)depth / 2 / rate);
    if (seconds > RETRY_AFTER_S_MAX)
        return RETRY_AFTER_S_MAX;
    return seconds < 1 ? 1 : (unsigned)seconds;
}

void runtime_drain(struct runtime *runtime)
{
    atomic_store(&runtime->draining, true);
}

bool runtime_idle(const struct runtime *runtime)
{
    size_t n = runtime_count(runtime);
    for (size_t i = 0; i < n; i++)
        if (atomic_load(&runtime->lanes[i]->n_jobs))
            return false;
    return true;
}

bool lane_alive(const struct lane *lane, unsigned stall_s)
{
    if (!atomic_load(&lane->n_jobs))
        return true;
    uint64_t now = clock_ns(), beat = atomic_load(&lane->heartbeat_ns);
    return now < beat || now - beat <= (uint64_t)stall_s * 1000000000u;
}
