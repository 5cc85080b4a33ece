/*
 * runtime_internal.h: a lane's insides, shared by runtime.c (submission and registry), lane.c (the
 * thread and a work's way), encode.c (pictures, texts, pairs) and decode.c (prompts and tokens).
 *
 * A work's way, one stage at a time (work_advance):
 *
 *   inbox → IMAGES ─→ TEXTS ─→ PAIRS ───────────────→ done     what a work doesn't need it skips
 *                 └──────────→ PREFILL → decoding ──→ done
 *
 * 1. A job is in the inbox (under the mutex) or its unfinished works are each in exactly one list
 *    of the lane (the lane's thread only).
 * 2. stats.queue_depth counts works that no pass or cache has served yet (`started` false),
 *    stats.running the others; a work leaves both in work_finish() and nowhere else.
 * 3. job->done is called when the last of its works has finished; the lane has forgotten the job
 *    before. n_jobs falls after that call.
 * 4. Passes are made only while the lane has the turn. Between a pass's collection and its end no
 *    work changes lists.
 * 5. While a lane has works, one of its stages can make progress: prompts wait for room only while
 *    something is decoding or a prompt that has its room is being run in pieces. So the thread
 * sleeps on nothing but an empty inbox.
 */
#ifndef VLMD_CORE_RUNTIME_RUNTIME_INTERNAL_H
#define VLMD_CORE_RUNTIME_RUNTIME_INTERNAL_H

#include <pthread.h>

#include "core/nn/nn.h"
#include "core/runtime/feature_cache.h"
#include "core/runtime/generate.h"
#include "core/runtime/kv_store.h"
#include "core/runtime/runtime.h"
#include "core/runtime/turn.h"

enum { LANES_MAX = 256, N_PRIORITIES = 2 };

enum stage { STAGE_IMAGES, STAGE_TEXTS, STAGE_PAIRS, STAGE_PREFILL, N_STAGES };

/* A work under way; in one allocation with its job's. */
struct work_state {
    struct job_state *job;
    struct work *work;
    struct work_state *next, *previous; /* in its list */
    struct digest *image_digests;       /* [n_images] */
    struct digest *text_digests;        /* [n_texts]; NULL where texts are not embedded */
    bool started;
    bool missed;   /* some picture was not in the cache */
    bool hashed;   /* image_digests are set */
    size_t cursor; /* pictures, texts or pairs of this stage that passes have taken */
    struct generation *generation;
    size_t kv_bytes;           /* reserved for it */
    size_t n_prefilled;        /* tokens of its prompt that earlier pieces have run … */
    struct sequence prefilled; /* … into here */
    uint64_t last_token_ns;
    uint64_t member_of; /* the last pass it was listed in as a member */
};

struct job_state {
    struct job *job;
    struct job_state *next; /* in the inbox */
    size_t n_left;          /* works not finished */
    uint64_t counted_pass;  /* the last pass counted in forward_ns */
    struct digest *digests;
    struct work_state works[];
};

struct work_list {
    struct work_state *first, *last;
    size_t n;
};

/* One place in a batch: item `item` of the pass is entry `index` of a work (several places may
 * share an item: the same picture twice). */
struct place {
    struct work_state *state;
    size_t index;
    size_t item;
};

/* One row of a decode step. */
struct row {
    struct work_state *state;
    size_t index; /* of its generation */
};

struct lane {
    struct runtime *runtime;
    struct model *model;
    pthread_t thread;

    /* Any thread. */
    struct lane_stats stats;
    atomic_size_t n_jobs; /* submitted, done not yet returned */
    atomic_ullong heartbeat_ns;
    _Atomic double works_per_second;

    pthread_mutex_t mutex; /* guards the inbox and stop; last in the order */
    pthread_cond_t arrived;
    struct job_state *inbox_first, *inbox_last;
    size_t inbox_works;
    bool stop;

    /* The lane's thread only, from here on. */
    struct arena scratch;
    struct compute compute;
    struct feature_cache *cache;
    struct work_list waiting[N_STAGES][N_PRIORITIES];
    struct work_list decoding;
    size_t n_sequences;           /* of all decoding works */
    unsigned n_batches[N_STAGES]; /* for the share of PRIORITY_BATCH */
    enum stage next_stage;
    double item_seconds[N_STAGES + 1]; /* measured, fading; 0 = not yet */

    /* What one token, and one sequence's shared part, takes; learned from the first prompt. */
    bool kv_known, kv_has_cross;
    size_t kv_token_bytes, kv_cross_bytes;
    struct kv_store kept;

    /* Service rate: works and busy seconds, both fading. */
    double rate_works, rate_seconds;
    uint64_t rate_mark_ns;
    size_t n_finished; /* since the mark */

    /* A pass's operands, [max_batch] (places and members: [PLACES_PER_BATCH · max_batch], rows:
     * [max_sequences]). */
    size_t n_items, n_places, n_members;
    uint64_t pass_number;
    struct place *places;
    struct work_state **members;
    struct error *errors;
    const struct pixels **pixels;
    struct features **features;
    const struct tokens **tokens;
    struct pair *pairs;
    struct prompt *prompts;
    struct kv_shared **picture_kv; /* of the prompts: given or made */
    struct sequence *fresh;
    struct sequence **sequences;
    size_t *lengths;
    int32_t *new_tokens;
    struct row *rows;
    enum task task; /* of the pass */
    float *floats;  /* what the pass gives: embeddings, outputs or logits */
    size_t n_floats;
};

enum { PLACES_PER_BATCH = 4 };

struct runtime {
    struct runtime_options options;
    struct pool *pool;
    struct digest_key digest_key;
    struct turn turn;
    atomic_bool draining;
    atomic_size_t n_lanes; /* set after the lane's pointer */
    struct lane *lanes[LANES_MAX];
    atomic_size_t n_expected; /* set after the pointer */
    struct expected_model *expected[LANES_MAX];
    atomic_ullong loading_since_ns; /* 0 = nothing was loaded yet */
};

/* ---- loading.c ----------------------------------------------------------------------------------
 */

/* Why a model is missing: by name, or (NULL) because those that may have a task are yet to come.
 * STATUS_OK: it is not expected. */
enum status loading_explain(const struct runtime *runtime, const char *name, struct error *err);
void loading_release(struct runtime *runtime);

/* ---- lane.c -------------------------------------------------------------------------------------
 */

/* Builds the lane and starts its thread; takes the model only on success. */
struct lane *lane_new(struct runtime *runtime, struct model *model, struct error *err);
/* Tells the thread to stop after its pass; returns at once. */
void lane_stop(struct lane *lane);
/* Stops the thread, fails what is left with STATUS_DRAINING, frees lane and model. */
void lane_free(struct lane *lane);

void list_append(struct work_list *list, struct work_state *state);
void list_remove(struct work_list *list, struct work_state *state);
struct work_list *stage_list(struct lane *lane, enum stage stage, const struct work_state *state);

/* Moves a work (in no list now) to the first stage at or after `stage` that it needs, or finishes
 * it. */
void work_advance(struct lane *lane, struct work_state *state, int stage);
/* Ends a work that is in no list: with its results, or with work->error. May call job->done. */
void work_finish(struct lane *lane, struct work_state *state);
/* The same with an error. */
void work_fail(struct lane *lane, struct work_state *state, const struct error *error);
/* The first time that a pass or the cache serves a work. */
void work_start(struct lane *lane, struct work_state *state);

/* Iterates over a stage's works, the one priority and then the other; *state NULL at first. The
 * current one may be removed once the next was asked for. */
struct stage_walk {
    struct work_state *next, *other;
};
struct stage_walk stage_walk(struct lane *lane, enum stage stage);
struct work_state *stage_walk_next(struct stage_walk *walk);
/* How many items a pass of a waiting stage takes now: while sequences are decoding, whose next
 * tokens wait for it, or other models want the pool too, no more than take STALL_S seconds at the
 * pace measured (but one). */
size_t batch_limit(const struct lane *lane, enum stage stage);

/* A pass over items [start, start + n), all or nothing. */
typedef enum status (*pass_function)(struct lane *lane, size_t start, size_t n, struct error *err);
/* Runs it over [0, n_items) for a stage (N_STAGES: decoding); when that fails, item by item.
 * errors[i] tells which failed. */
void pass_run(struct lane *lane, enum stage stage, pass_function pass);
/* Lists a work as a member of the pass being collected (once). */
void pass_add_member(struct lane *lane, struct work_state *state);
void pass_reset(struct lane *lane);
/* Room for n floats in lane->floats. */
enum status pass_reserve_floats(struct lane *lane, size_t n, size_t each, struct error *err);

/* ---- encode.c, decode.c: one batch each; false = there was nothing to run -----------------------
 */
bool encode_images(struct lane *lane);
bool encode_texts(struct lane *lane);
bool score_pairs(struct lane *lane);
bool prefill(struct lane *lane);
void decode_step(struct lane *lane);
/* Gives back what a generating work holds. */
void decode_forget(struct lane *lane, struct work_state *state);

#endif
