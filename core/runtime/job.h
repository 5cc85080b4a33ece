/*
 * job.h: what one request asks of one model, and what comes back.
 *
 * A job is a list of works; each work is one item (a picture to embed, a picture with texts to
 * score, a picture with a prompt to generate from) and stands alone: it has its own error, and a
 * fault in one leaves the others untouched. The API fills a job on a worker thread, hands it to
 * runtime_submit(), and may look at it again when `done` was called. Between the two only the
 * model's lane touches it, but for `cancelled`, which any thread may set.
 */
#ifndef VLMD_CORE_RUNTIME_JOB_H
#define VLMD_CORE_RUNTIME_JOB_H

#include "core/models/model.h"

enum work_kind {
    WORK_ENCODE,   /* images → features and texts → text_embeddings; either may be empty */
    WORK_PAIR,     /* all images together with each text → outputs [work_pairs(), n_outputs] */
    WORK_GENERATE, /* all images with texts[0] as the prompt → generated[n] */
};

enum finish_reason { FINISH_STOP, FINISH_LENGTH };

enum { TOP_LOGPROBS_MAX = 20 };

/* A token that could have been chosen; id -1 = there are no more with a probability above 0. */
struct token_choice {
    int32_t id;
    float logprob;
};

/* A token as it is streamed. */
struct new_token {
    int32_t id;
    float logprob;
    const struct token_choice *top; /* [work->n_top] likeliest first */
};

/* One generated sequence: the new tokens only, without the end token. A stop string may begin in
 * the middle of a token: `ids` then go up to the token that completed it, and text_bytes says how
 * much of their text (as model_detokenize gives it) comes before it. */
struct generated {
    int32_t *ids;
    float *logprobs;          /* [n] the model's log-probability of each; NULL after beam search */
    struct token_choice *top; /* [n, work->n_top] the likeliest in its place; NULL likewise */
    size_t n;
    float score; /* beam search: the sequence's score as generate() returns it; else the mean log p
                    of its tokens, the end token's included */
    enum finish_reason finish;
    size_t text_bytes; /* SIZE_MAX = all of it */
};

enum { STOPS_MAX = 16 };

struct work {
    /* in; owned by the job */
    enum work_kind kind;
    struct pixels *images; /* [n_images] preprocessed */
    size_t n_images;
    struct tokens *texts; /* [n_texts] */
    size_t n_texts;
    struct generation_params generation; /* WORK_GENERATE */
    char *stops[STOPS_MAX];              /* stop strings, owned; generation ends before one */
    size_t n_stops;
    size_t n_top; /* WORK_GENERATE: how many of the likeliest tokens to note in each place, at most
                     TOP_LOGPROBS_MAX */

    /* out; owned by the job */
    struct error error;         /* status STATUS_OK, or why this item failed */
    struct features **features; /* [n_images]; one that is set at submission is used as it is;
                                   gone (NULL) after a generation */
    float *text_embeddings;     /* [n_texts, embed_dim] */
    float *outputs;             /* [work_pairs(), n_outputs] */
    struct generated *generated;
    size_t n_generated;
    bool cached; /* every picture's features came from the cache */

    void *lane_state; /* the lane's own while the work is under way */
};

enum priority { PRIORITY_INTERACTIVE, PRIORITY_BATCH };

struct job {
    enum task task;
    enum priority priority;
    struct work *works;
    size_t n_works;
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0 = none */
    atomic_bool cancelled;

    /* Called exactly once after a successful runtime_submit(), on the lane's thread, when every
     * work has its result or error. Must not block. */
    void (*done)(struct job *job, void *context);
    /* Optional, for streaming: called on the lane's thread for each new token (greedy and sampling,
     * n = 1), in order. A token whose text may yet turn out to belong to a stop string is held back
     * until that is settled; what is left of a text at its end comes with `generated`. Must not
     * block. */
    void (*on_token)(struct job *job, struct work *work, const struct new_token *token,
                     void *context);
    void *context;

    /* out: how long it took */
    uint64_t submitted_ns, started_ns, finished_ns; /* CLOCK_MONOTONIC; started_ns 0 = never */
    uint64_t forward_ns;                            /* time in passes that this job took part in */
    uint64_t first_token_ns;                        /* when, CLOCK_MONOTONIC; 0 = none */
    size_t batch_size; /* the most works, its own included, that shared a pass with it; 0 = it
                          needed none (all from the cache) */
    size_t n_prompt_tokens, n_generated_tokens;
};

/* A job of n_works zeroed works; NULL: out of memory. */
struct job *job_new(enum task task, size_t n_works);
/* Frees the job, its works and everything they own. NULL is fine. */
void job_free(struct job *job);

/* Frees what the work owns; it is zeroed again. */
void work_clear(struct work *work);

/* How many pairs a WORK_PAIR has: one per text; without texts (traits.pairs_by_example) one, of its
 * pictures alone. */
size_t work_pairs(const struct work *work);

/* Room for n pictures / texts in a work (zeroed, to be filled by preprocess / tokenize). */
enum status work_set_images(struct work *work, size_t n, struct error *err);
enum status work_set_texts(struct work *work, size_t n, struct error *err);

#endif
