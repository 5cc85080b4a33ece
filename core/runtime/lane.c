/*
 * lane.c: a lane's thread, and a work's way through the stages. See runtime_internal.h for the
 * picture and the invariants.
 *
 * One round of the thread: take what has arrived, drop what was cancelled or is too late, run one
 * batch of one waiting stage (the stages take turns), then one decode step of everything that
 * generates. So neither a burst of pictures nor long texts hold the other up for more than one
 * batch. Before each of the two the lane waits for its turn on the pool, and looks at the inbox
 * again once it has it.
 */
#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/runtime/runtime_internal.h"

/* Every how many batches works of the lower priority come first. */
enum { BATCH_PRIORITY_SHARE = 4 };
static const double RATE_FADE_S = 20;
/* How long a pass may keep running sequences from their next token, or another model from its turn;
 * and how long after its last pass a model counts as one that may want it. */
static const double STALL_S = 0.25;
static const uint64_t RECENT_NS = 5000000000u;
/* The weight of the newest pass in the measured pace. */
static const double PACE_SHARE = 0.3;

/* ---- lists --------------------------------------------------------------------------------------
 */

void list_append(struct work_list *list, struct work_state *state)
{
    state->next = NULL;
    state->previous = list->last;
    *(list->last ? &list->last->next : &list->first) = state;
    list->last = state;
    list->n++;
}

void list_remove(struct work_list *list, struct work_state *state)
{
    *(state->previous ? &state->previous->next : &list->first) = state->next;
    *(state->next ? &state->next->previous : &list->last) = state->previous;
    state->next = state->previous = NULL;
    list->n--;
}

struct work_list *stage_list(struct lane *lane, enum stage stage, const struct work_state *state)
{
    return &lane->waiting[stage][state->job->job->priority == PRIORITY_BATCH];
}

struct stage_walk stage_walk(struct lane *lane, enum stage stage)
{
    bool batch_first = ++lane->n_batches[stage] % BATCH_PRIORITY_SHARE == 0;
    struct work_list *lists = lane->waiting[stage];
    return (struct stage_walk){lists[batch_first].first, lists[!batch_first].first};
}

struct work_state *stage_walk_next(struct stage_walk *walk)
{
    if (!walk->next) {
        walk->next = walk->other;
        walk->other = NULL;
    }
    struct work_state *state = walk->next;
    if (state)
        walk->next = state->next;
    return state;
}

/* Another model has work, or had some a moment ago. */
static bool shares_the_pool(const struct lane *lane)
{
    uint64_t now = clock_ns();
    const struct lane *other;
    for (size_t i = 0; (other = runtime_at(lane->runtime, i)); i++) {
        uint64_t beat = atomic_load(&other->heartbeat_ns);
        if (other != lane && beat && (atomic_load(&other->n_jobs) || now < beat + RECENT_NS))
            return true;
    }
    return false;
}

size_t batch_limit(const struct lane *lane, enum stage stage)
{
    size_t max_batch = lane->runtime->options.max_batch;
    if (!lane->decoding.n && !shares_the_pool(lane))
        return max_batch;
    double pace = lane->item_seconds[stage];
    if (!(pace > 0))
        return max_batch > 4 ? max_batch / 4 : 1;
    double n = STALL_S / pace;
    return n < 1 ? 1 : n < (double)max_batch ? (size_t)n : max_batch;
}

/* ---- passes -------------------------------------------------------------------------------------
 */

void pass_reset(struct lane *lane)
{
    lane->n_items = lane->n_places = lane->n_members = 0;
    lane->pass_number++;
}

void pass_add_member(struct lane *lane, struct work_state *state)
{
    if (state->member_of == lane->pass_number)
        return;
    state->member_of = lane->pass_number;
    lane->members[lane->n_members++] = state;
    work_start(lane, state);
}

enum status pass_reserve_floats(struct lane *lane, size_t n, size_t each, struct error *err)
{
    size_t n_floats;
    if (!size_mul(n, each, &n_floats))
        return error_no_memory(err, "a pass's results");
    if (n_floats <= lane->n_floats)
        return STATUS_OK;
    float *floats = alloc_array(n_floats, sizeof *floats);
    if (!floats)
        return error_no_memory(err, "a pass's results");
    free(lane->floats);
    lane->floats = floats;
    lane->n_floats = n_floats;
    return STATUS_OK;
}

static void update_rate(struct lane *lane, uint64_t now)
{
    double seconds = (double)(now - lane->rate_mark_ns) * 1e-9, fade = exp(-seconds / RATE_FADE_S);
    lane->rate_mark_ns = now;
    lane->rate_works = lane->rate_works * fade + (double)lane->n_finished;
    lane->rate_seconds = lane->rate_seconds * fade + seconds;
    lane->n_finished = 0;
    if (lane->rate_seconds > 0)
        atomic_store(&lane->works_per_second, lane->rate_works / lane->rate_seconds);
}

/* Runs the pass over some of the items; the failure, if any, is in *error. */
static enum status pass_try(struct lane *lane, pass_function pass, size_t start, size_t n,
                            struct error *error)
{
    *error = (struct error){0};
    enum status status = pass(lane, start, n, error);
    arena_reset(&lane->scratch);
    if (status && !error->status)
        error_set(error, status, "the pass failed");
    atomic_store(&lane->heartbeat_ns, clock_ns());
    return status;
}

void pass_run(struct lane *lane, enum stage stage, pass_function pass)
{
    uint64_t started = clock_ns();
    if (!pass_try(lane, pass, 0, lane->n_items, &lane->errors[0])) {
        for (size_t i = 0; i < lane->n_items; i++)
            lane->errors[i].status = STATUS_OK;
    } else if (lane->n_items > 1) {
        /* One item may be at fault, or there is no memory for so many: one by one. */
        for (size_t i = 0; i < lane->n_items; i++)
            pass_try(lane, pass, i, 1, &lane->errors[i]);
    }
    uint64_t now = clock_ns();
    double pace = (double)(now - started) * 1e-9 / (double)lane->n_items;
    double *known = &lane->item_seconds[stage];
    *known = *known > 0 ? *known + PACE_SHARE * (pace - *known) : pace;
    bool counted[N_TASKS] = {false}; /* a pass may serve several tasks */
    for (size_t i = 0; i < lane->n_members; i++) {
        struct job_state *job_state = lane->members[i]->job;
        struct job *job = job_state->job;
        if (!counted[job->task])
            histogram_add(&lane->stats.by_task[job->task].forward_seconds,
                          (double)(now - started) * 1e-9);
        counted[job->task] = true;
        if (job_state->counted_pass != lane->pass_number)
            job->forward_ns += now - started;
        job_state->counted_pass = lane->pass_number;
        if (job->batch_size < lane->n_members)
            job->batch_size = lane->n_members;
    }
    atomic_fetch_add(&lane->stats.passes, 1);
    histogram_add(&lane->stats.batch_size, (double)lane->n_members);
    update_rate(lane, now);
}

/* ---- a work's way -------------------------------------------------------------------------------
 */

void work_start(struct lane *lane, struct work_state *state)
{
    if (state->started)
        return;
    state->started = true;
    atomic_fetch_sub(&lane->stats.queue_depth, 1);
    atomic_fetch_add(&lane->stats.running, 1);
    struct job *job = state->job->job;
    uint64_t now = clock_ns();
    if (!job->started_ns)
        job->started_ns = now;
    histogram_add(&lane->stats.by_task[job->task].queue_seconds,
                  (double)(now - job->submitted_ns) * 1e-9);
    const struct work *work = state->work;
    size_t n_texts = work->kind == WORK_GENERATE ? 1 : work->n_texts, n_tokens = 0;
    for (size_t i = 0; i < n_texts; i++)
        n_tokens += work->texts[i].n;
    job->n_prompt_tokens += n_tokens;
    atomic_fetch_add(&lane->stats.tokens_prompt, n_tokens);
}

static void finish_job(struct lane *lane, struct job_state *job_state)
{
    struct job *job = job_state->job;
    job->finished_ns = clock_ns();
    free(job_state->digests);
    free(job_state);
    job->done(job, job->context); /* the job may be gone after this */
    atomic_fetch_sub(&lane->n_jobs, 1);
}

static void count_result(struct lane *lane, enum status status)
{
    struct lane_stats *stats = &lane->stats;
    switch (status) {
    case STATUS_OK:
        atomic_fetch_add(&stats->works, 1);
        break;
    case STATUS_CANCELLED:
        atomic_fetch_add(&stats->cancelled, 1);
        break;
    case STATUS_DEADLINE:
        atomic_fetch_add(&stats->expired, 1);
        break;
    default:
        atomic_fetch_add(&stats->failed, 1);
    }
}

void work_finish(struct lane *lane, struct work_state *state)
{
    struct work *work = state->work;
    atomic_fetch_sub(state->started ? &lane->stats.running : &lane->stats.queue_depth, 1);
    decode_forget(lane, state);
    work->cached = work->n_images > 0 && !state->missed && !work->error.status;
    work->lane_state = NULL;
    count_result(lane, work->error.status);
    lane->n_finished += !work->error.status; /* what was dropped tells nothing of the pace */
    if (--state->job->n_left == 0)
        finish_job(lane, state->job);
}

void work_fail(struct lane *lane, struct work_state *state, const struct error *error)
{
    state->work->error = *error;
    work_finish(lane, state);
}

static enum status lacks(const struct lane *lane, const char *what, struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED_TASK, "model '%s' (%s) %s", lane->model->name,
                     lane->model->architecture->name, what);
}

/* What a stage needs before a work may wait for it. */
static enum status enter_images(struct lane *lane, struct work *work, struct error *err)
{
    if (!lane->model->architecture->encode_images)
        return lacks(lane, "takes no pictures", err);
    if (!work->features && !(work->features = calloc(work->n_images, sizeof(struct features *))))
        return error_no_memory(err, "a request's features");
    return STATUS_OK;
}

static enum status enter_texts(struct lane *lane, struct work *work, struct error *err)
{
    if (!lane->model->architecture->encode_texts || !lane->model->traits.embed_dim)
        return lacks(lane, "does not embed texts", err);
    size_t n;
    if (!size_mul(work->n_texts, lane->model->traits.embed_dim, &n) ||
        !(work->text_embeddings = alloc_array(n, sizeof *work->text_embeddings)))
        return error_no_memory(err, "a request's embeddings");
    return STATUS_OK;
}

static enum status enter_pairs(struct lane *lane, struct work *work, struct error *err)
{
    if (!lane->model->architecture->score_pairs || !lane->model->traits.n_outputs)
        return lacks(lane, "does not score pictures with texts", err);
    size_t n;
    if (!size_mul(work_pairs(work), lane->model->traits.n_outputs, &n) ||
        !(work->outputs = alloc_array(n, sizeof *work->outputs)))
        return error_no_memory(err, "a request's scores");
    return STATUS_OK;
}

void work_advance(struct lane *lane, struct work_state *state, int stage)
{
    struct work *work = state->work;
    enum status status = STATUS_OK;
    state->cursor = 0;
    if (stage <= STAGE_IMAGES && work->n_images) {
        stage = STAGE_IMAGES;
        status = enter_images(lane, work, &work->error);
    } else if (stage <= STAGE_TEXTS && work->n_texts && state->text_digests) {
        stage = STAGE_TEXTS;
        status = enter_texts(lane, work, &work->error);
    } else if (stage <= STAGE_PAIRS && work->kind == WORK_PAIR &&
               (work->n_texts || lane->model->traits.pairs_by_example)) {
        stage = STAGE_PAIRS;
        status = enter_pairs(lane, work, &work->error);
    } else if (stage <= STAGE_PREFILL && work->kind == WORK_GENERATE) {
        stage = STAGE_PREFILL;
    } else {
        stage = N_STAGES;
    }
    if (status || stage == N_STAGES)
        work_finish(lane, state);
    else
        list_append(stage_list(lane, (enum stage)stage, state), state);
}

/* A work's first step in the lane: what can be refused is refused before anything is computed. */
static void work_enter(struct lane *lane, struct work_state *state)
{
    struct work *work = state->work;
    const struct architecture *architecture = lane->model->architecture;
    if (work->kind == WORK_GENERATE) {
        struct error err = {0};
        if (!architecture->prefill || !architecture->decode || !lane->model->traits.vocab_size)
            lacks(lane, "generates no text", &err);
        else if (!architecture->place_images || !work->n_texts ||
                 !architecture->place_images(lane->model, work->images, work->n_images,
                                             &work->texts[0], &err))
            state->generation = generation_new(lane->model, state->job->job->task, work,
                                               lane->runtime->options.max_sequences, &err);
        if (!state->generation) {
            work_fail(lane, state, &err);
            return;
        }
    }
    work_advance(lane, state, STAGE_IMAGES);
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

static bool has_works(const struct lane *lane)
{
    size_t n = lane->decoding.n;
    for (int stage = 0; stage < N_STAGES; stage++)
        n += lane->waiting[stage][0].n + lane->waiting[stage][1].n;
    return n > 0;
}

static struct timespec time_after_us(size_t us)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)(us / 1000000);
    time.tv_nsec += (long)(us % 1000000) * 1000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec++;
    }
    return time;
}

/* Gives back what an unused model takes: weights (they come back from their files page by page),
 * activations, pictures' keys and values. The feature cache stays. */
static void unload(struct lane *lane)
{
    size_t max_bytes = lane->scratch.max_bytes;
    arena_release(&lane->scratch);
    arena_init(&lane->scratch, max_bytes);
    free(lane->floats);
    lane->floats = NULL;
    lane->n_floats = 0;
    kv_store_shrink(&lane->kept, 0);
    atomic_store(&lane->stats.kv_kept_bytes, 0);
    model_page_out(lane->model);
    malloc_trim(0);
    atomic_fetch_add(&lane->stats.unloads, 1);
}

/* Sleeps until there is a job (or the end), with the mutex held before and after. */
static void wait_for_job(struct lane *lane)
{
    size_t idle_ms = lane->runtime->options.idle_unload_ms;
    struct timespec until = time_after_us(idle_ms < SIZE_MAX / 1000 ? idle_ms * 1000 : SIZE_MAX);
    bool may_unload = idle_ms > 0 && atomic_load(&lane->stats.passes) > 0;
    while (!lane->inbox_first && !lane->stop) {
        if (!may_unload) {
            pthread_cond_wait(&lane->arrived, &lane->mutex);
        } else if (pthread_cond_timedwait(&lane->arrived, &lane->mutex, &until) == ETIMEDOUT &&
                   !lane->inbox_first && !lane->stop) {
            may_unload = false;
            pthread_mutex_unlock(&lane->mutex);
            unload(lane);
            pthread_mutex_lock(&lane->mutex);
        }
    }
}

/* Moves the inbox into the stages; may sleep first while there is nothing at all to do. False:
 * stop. */
static bool take_inbox(struct lane *lane, bool may_sleep)
{
    const struct runtime_options *options = &lane->runtime->options;
    bool idle = may_sleep && !has_works(lane);
    pthread_mutex_lock(&lane->mutex);
    if (idle) {
        wait_for_job(lane);
        struct timespec until = time_after_us(options->batch_wait_us);
        while (options->batch_wait_us && lane->inbox_works < options->max_batch && !lane->stop)
            if (pthread_cond_timedwait(&lane->arrived, &lane->mutex, &until) == ETIMEDOUT)
                break;
        lane->rate_mark_ns = clock_ns();
        atomic_store(&lane->heartbeat_ns, lane->rate_mark_ns);
    }
    struct job_state *job_state = lane->inbox_first;
    lane->inbox_first = lane->inbox_last = NULL;
    lane->inbox_works = 0;
    bool stop = lane->stop;
    pthread_mutex_unlock(&lane->mutex);

    for (struct job_state *next; job_state; job_state = next) {
        next = job_state->next;
        size_t n_works = job_state->job->n_works;
        if (n_works == 0)
            finish_job(lane, job_state);
        for (size_t i = 0; i < n_works; i++) /* the last one may end the job */
            work_enter(lane, &job_state->works[i]);
    }
    return !stop;
}

/* Why a work should not be computed any more; false = it should. */
static bool is_dead(const struct work_state *state, uint64_t now, bool stopping, struct error *err)
{
    const struct job *job = state->job->job;
    if (atomic_load(&job->cancelled))
        error_set(err, STATUS_CANCELLED, "the client went away");
    else if (job->deadline_ns && now >= job->deadline_ns)
        error_set(err, STATUS_DEADLINE, "the request's time ran out %s",
                  state->started ? "before its result was complete" : "while it waited its turn");
    else if (stopping)
        error_set(err, STATUS_DRAINING, "the server is shutting down");
    return err->status != STATUS_OK;
}

static void sweep_list(struct lane *lane, struct work_list *list, uint64_t now, bool stopping)
{
    for (struct work_state *state = list->first, *next; state; state = next) {
        struct error err = {0};
        next = state->next;
        if (is_dead(state, now, stopping, &err)) {
            list_remove(list, state);
            work_fail(lane, state, &err);
        }
    }
}

/* Drops what was cancelled or is too late; everything when stopping. */
static void sweep(struct lane *lane, bool stopping)
{
    uint64_t now = clock_ns();
    for (int stage = 0; stage < N_STAGES; stage++)
        for (int priority = 0; priority < N_PRIORITIES; priority++)
            sweep_list(lane, &lane->waiting[stage][priority], now, stopping);
    sweep_list(lane, &lane->decoding, now, stopping);
}

static void run_waiting_stage(struct lane *lane)
{
    static bool (*const run[N_STAGES])(struct lane *) = {
        [STAGE_IMAGES] = encode_images,
        [STAGE_TEXTS] = encode_texts,
        [STAGE_PAIRS] = score_pairs,
        [STAGE_PREFILL] = prefill,
    };
    for (int i = 0; i < N_STAGES; i++) {
        enum stage stage = lane->next_stage;
        lane->next_stage = (enum stage)((stage + 1) % N_STAGES);
        if (run[stage](lane))
            return;
    }
}

static void *lane_main(void *argument)
{
    struct lane *lane = argument;
    struct turn *turn = &lane->runtime->turn;
    char name[16]; /* what top -H shows */
    snprintf(name, sizeof name, "lane %s", lane->model->name);
    pthread_setname_np(pthread_self(), name);
    while (take_inbox(lane, true)) {
        turn_take(turn);
        bool stop = !take_inbox(lane, false);
        sweep(lane, false);
        if (!stop)
            run_waiting_stage(lane);
        turn_pass(turn);
        if (stop)
            break;
        if (!lane->decoding.n)
            continue;
        turn_take(turn);
        sweep(lane, false);
        decode_step(lane);
        turn_pass(turn);
    }
    sweep(lane, true);
    return NULL;
}

/* ---- lifecycle ----------------------------------------------------------------------------------
 */

static void lane_release(struct lane *lane)
{
    feature_cache_free(lane->cache);
    kv_store_shrink(&lane->kept, 0);
    arena_release(&lane->scratch);
    free(lane->places);
    free(lane->members);
    free(lane->errors);
    free(lane->pixels);
    free(lane->features);
    free(lane->tokens);
    free(lane->pairs);
    free(lane->prompts);
    free(lane->picture_kv);
    free(lane->fresh);
    free(lane->sequences);
    free(lane->lengths);
    free(lane->new_tokens);
    free(lane->rows);
    free(lane->floats);
    pthread_mutex_destroy(&lane->mutex);
    pthread_cond_destroy(&lane->arrived);
    free(lane);
}

static void init_stats(struct lane_stats *stats)
{
    histogram_init(&stats->batch_size, &histogram_counts);
    for (size_t i = 0; i < N_TASKS; i++) {
        struct task_stats *task = &stats->by_task[i];
        histogram_init(&task->queue_seconds, &histogram_seconds);
        histogram_init(&task->preprocess_seconds, &histogram_seconds);
        histogram_init(&task->forward_seconds, &histogram_seconds);
        histogram_init(&task->first_token_seconds, &histogram_seconds);
        histogram_init(&task->inter_token_seconds, &histogram_seconds);
        histogram_init(&task->total_seconds, &histogram_seconds);
    }
}

/* Arrays for the largest pass. */
static bool alloc_operands(struct lane *lane)
{
    size_t n = lane->runtime->options.max_batch, n_places;
    if (!size_mul(n, PLACES_PER_BATCH, &n_places))
        return false;
    lane->places = calloc(n_places, sizeof *lane->places);
    lane->members = calloc(n_places, sizeof(struct work_state *));
    lane->errors = calloc(n, sizeof *lane->errors);
    lane->pixels = calloc(n, sizeof(const struct pixels *));
    lane->features = calloc(n, sizeof(struct features *));
    lane->tokens = calloc(n, sizeof(const struct tokens *));
    lane->pairs = calloc(n, sizeof *lane->pairs);
    lane->prompts = calloc(n, sizeof *lane->prompts);
    lane->picture_kv = calloc(n, sizeof(struct kv_shared *));
    lane->fresh = calloc(n, sizeof *lane->fresh);
    lane->sequences = calloc(n, sizeof(struct sequence *));
    lane->lengths = calloc(n, sizeof *lane->lengths);
    lane->new_tokens = calloc(n, sizeof *lane->new_tokens);
    lane->rows = calloc(lane->runtime->options.max_sequences, sizeof *lane->rows);
    lane->cache = feature_cache_new(lane->runtime->options.feature_cache_bytes);
    return lane->places && lane->members && lane->errors && lane->pixels && lane->features &&
           lane->tokens && lane->pairs && lane->prompts && lane->picture_kv && lane->fresh &&
           lane->sequences && lane->lengths && lane->new_tokens && lane->rows && lane->cache;
}

struct lane *lane_new(struct runtime *runtime, struct model *model, struct error *err)
{
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane) {
        error_no_memory(err, "a model's lane");
        return NULL;
    }
    lane->runtime = runtime;
    lane->model = model;
    init_stats(&lane->stats);
    arena_init(&lane->scratch, 0);
    lane->compute = (struct compute){.pool = runtime->pool, .scratch = &lane->scratch};
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lane->arrived, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&lane->mutex, NULL);
    if (!alloc_operands(lane)) {
        error_no_memory(err, "a model's lane");
        lane_release(lane);
        return NULL;
    }
    if (pthread_create(&lane->thread, NULL, lane_main, lane)) {
        error_set(err, STATUS_NO_MEMORY, "no thread could be started for model '%s'", model->name);
        lane_release(lane);
        return NULL;
    }
    return lane;
}

void lane_stop(struct lane *lane)
{
    pthread_mutex_lock(&lane->mutex);
    lane->stop = true;
    pthread_cond_signal(&lane->arrived);
    pthread_mutex_unlock(&lane->mutex);
}

void lane_free(struct lane *lane)
{
    lane_stop(lane);
    pthread_join(lane->thread, NULL);
    model_free(lane->model);
    lane_release(lane);
}
