/*
 * runtime.h: the shared runtime: one lane per model, one pool of cores under all of them.
 *
 *   runtime_submit → the lane's bounded queue → batcher → passes on the shared pool → job->done
 *
 * A lane is a thread that owns one model's queue, batches, running sequences, activations and
 * feature cache. It never waits while idle; while a pass runs, arrivals gather for the next (at
 * most max_batch works, and at most batch_wait_us where that is set). Lanes take turns on the pool,
 * pass by pass, first come first served, so that no model starves another; where several are busy a
 * pass takes no more items than a quarter of a second lasts, so that a quick model does not wait
 * long for a slow one. Works whose job was cancelled or whose deadline has passed are dropped
 * before the next pass or decode step.
 *
 * Thread-safe: everything here may be called from any thread, except new/add/free.
 */
#ifndef VLMD_CORE_RUNTIME_RUNTIME_H
#define VLMD_CORE_RUNTIME_RUNTIME_H

#include "core/base/stats.h"
#include "core/runtime/job.h"

struct runtime;
struct lane;

struct runtime_options {
    size_t threads;        /* of the pool; 0 = as many as there are cores */
    size_t max_batch;      /* works (and pairs, texts) in one pass */
    size_t batch_wait_us;  /* how long an idle lane waits for company; 0 = not at all */
    size_t idle_unload_ms; /* a model unused for so long gives its memory back; 0 = never */
    size_t max_queue;      /* items waiting per model; a job that would go past it is refused */
    size_t prefill_chunk; /* tokens of prompts that are run between two tokens of running sequences,
                             where the model can cut prompts; 0 = whole prompts */
    size_t max_sequences; /* running generations (beams counted) per model */
    size_t feature_cache_bytes; /* per model; 0 = no cache */
    size_t kv_cache_bytes; /* bound of all running sequences' caches, per model; what they leave
                              holds the latest pictures' keys and values (see kv_store.h) */
};

struct runtime *runtime_new(const struct runtime_options *options, struct error *err);
/* Stops all lanes (running works get STATUS_DRAINING) and frees them and their models. */
void runtime_free(struct runtime *runtime);

/* Takes the model; starts its lane. STATUS_BAD_CONFIG when the name is already served. */
enum status runtime_add(struct runtime *runtime, struct model *model, struct error *err);

/* ---- models that are yet to come --------------------------------------------------------------
 *
 * A model that is expected has a place from then on, so that whoever asks for it while it loads is
 * told to come back (STATUS_LOADING), and why it is missing when loading failed. One thread expects
 * and loads; any may look.
 */

enum model_state { MODEL_WAITING, MODEL_LOADING, MODEL_READY, MODEL_FAILED };

struct expected_model {
    char *name, *directory;
    struct model_options options;
    atomic_int state; /* enum model_state */
    struct model_progress progress;
    struct error why; /* fixed once the state is MODEL_FAILED */
};

/* Everything is copied; pool and progress of the options are the runtime's own. STATUS_BAD_CONFIG
 * when the name is taken or there are too many. */
enum status runtime_expect(struct runtime *runtime, const char *name, const char *directory,
                           const struct model_options *options, struct error *err);
/* In the order of runtime_expect(); NULL past the end. They stay, whatever becomes of them. */
const struct expected_model *runtime_expected(const struct runtime *runtime, size_t i);
/* Opens the i-th one and starts its lane. What fails is noted there too. */
enum status runtime_load(struct runtime *runtime, size_t i, struct error *err);
/* How much of a model's weights is there, 0 to 1. */
double expected_share(const struct expected_model *expected);
/* Seconds until all should be loaded, from how long it took so far; at least 1. */
unsigned runtime_loading_s(const struct runtime *runtime);

size_t runtime_count(const struct runtime *runtime);
struct lane *runtime_at(const struct runtime *runtime, size_t i);
/* By name; name NULL (or "") = the first model that has the task. STATUS_UNKNOWN_MODEL lists the
 * models there are; STATUS_UNSUPPORTED_TASK names the models that have it. STATUS_LOADING while it
 * (or, without a name, whoever may have the task) is yet to come; STATUS_UNAVAILABLE with the
 * reason where it could not be loaded. */
struct lane *runtime_find(const struct runtime *runtime, const char *name, enum task task,
                          struct error *err);
const struct model *lane_model(const struct lane *lane);
struct pool *runtime_pool(const struct runtime *runtime);

/* Queues the job; on success job->done will be called. STATUS_QUEUE_FULL (the message has the
 * depth), STATUS_DRAINING. On failure the job stays the caller's and done is not called. */
enum status runtime_submit(struct lane *lane, struct job *job, struct error *err);

/* STATUS_QUEUE_FULL (as runtime_submit would give it) when n_items more would not fit now, or would
 * wait past their deadline (0 = none) at the rate measured; STATUS_DRAINING: what admission asks
 * before a picture is decoded. */
enum status lane_check_room(struct lane *lane, size_t n_items, uint64_t deadline_ns,
                            struct error *err);

/* How many items would fit into the queue now. */
size_t lane_room(const struct lane *lane);

/* Seconds until a full queue should have room, from the measured service rate; at least 1. */
unsigned lane_retry_after_s(const struct lane *lane);

/* Refuses new jobs from now on; returns at once. runtime_idle: nothing queued or running. */
void runtime_drain(struct runtime *runtime);
bool runtime_idle(const struct runtime *runtime);

/* False when the lane has work but has not finished a pass for stall_s seconds: what /readyz asks.
 */
bool lane_alive(const struct lane *lane, unsigned stall_s);

/* Counters for /metrics and /info; read without locks. */
struct lane_stats {
    atomic_size_t queue_depth; /* items waiting */
    atomic_size_t running;     /* works in passes or decoding */
    atomic_ullong works, failed, cancelled, expired, refused;
    atomic_ullong passes, tokens_prompt, tokens_generated;
    atomic_ullong cache_hits, cache_misses;
    atomic_ullong unloads;               /* times that the model's memory was given back */
    atomic_size_t cache_bytes, kv_bytes; /* kv: reserved by running sequences */
    atomic_size_t kv_kept_bytes;         /* of pictures, kept for the next prompt */
    struct histogram batch_size;
    struct task_stats {
        struct histogram queue_seconds, preprocess_seconds, forward_seconds, first_token_seconds,
            inter_token_seconds, total_seconds;
    } by_task[N_TASKS]; /* where the model has the task */
};
const struct lane_stats *lane_stats(const struct lane *lane);
/* A request that the lane worked for is done: how long its pictures took to decode and resize (0:
 * it had none), and all of it. Any thread. */
void lane_count_request(struct lane *lane, enum task task, double preprocess_s, double total_s);

#endif
