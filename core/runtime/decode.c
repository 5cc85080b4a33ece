/*
 * decode.c: continuous batching. Prompts are taken in their order as far as sequences and key/value
 * cache allow; every decode step then runs all sequences of all works, whatever their lengths and
 * settings, max_batch at a time; finished ones leave and make room at once. While some are running,
 * long prompts are run in pieces (prefill_chunk), one piece between two steps.
 *
 * Memory: a work reserves, when its prompt is taken, what its sequences can grow to. What a token
 * takes is learned from the lane's first prompt, which is therefore taken alone. Where the prompt's
 * own length in the cache is not known before its pass (pictures as tokens), the reservation is
 * corrected after it; only that correction can go past the bound, and nothing is taken until what
 * runs has made up for it.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/runtime/runtime_internal.h"

enum { ROOM_TOKENS_MIN = 16, FEED_COST = 64 /* of looking at one score, in multiplications */ };

static size_t mul_capped(size_t a, size_t b)
{
    size_t product;
    return size_mul(a, b, &product) ? product : SIZE_MAX;
}

static size_t add_capped(size_t a, size_t b)
{
    size_t sum;
    return size_add(a, b, &sum) ? sum : SIZE_MAX;
}

/* What the work can come to hold with a prompt of n_prompt tokens in the cache. */
static size_t kv_need(const struct lane *lane, const struct generation *generation, size_t n_prompt)
{
    size_t n_tokens = add_capped(n_prompt, generation_n_steps_max(generation));
    size_t bytes =
        mul_capped(mul_capped(n_tokens, lane->kv_token_bytes), generation_width(generation));
    return add_capped(bytes, lane->kv_cross_bytes);
}

/* Before the prompt's pass: at most how many tokens the prompt will have in the cache. */
static size_t prompt_estimate(const struct lane *lane, const struct work_state *state)
{
    size_t n = generation_n_prompt(state->generation);
    if (lane->kv_has_cross || lane->model->architecture->place_images)
        return n;
    if (n < state->work->texts[0].n)
        n = state->work->texts[0].n;
    for (size_t i = 0; i < state->work->n_images; i++)
        n = add_capped(n, state->work->features[i]->n_rows);
    return n;
}

void decode_forget(struct lane *lane, struct work_state *state)
{
    sequence_release(&state->prefilled);
    if (state->kv_bytes) {
        atomic_fetch_sub(&lane->stats.kv_bytes, state->kv_bytes);
        lane->n_sequences -= generation_width(state->generation);
        state->kv_bytes = 0;
    }
    generation_free(state->generation);
    state->generation = NULL;
}

static void emit_token(void *context, const struct new_token *token)
{
    struct work_state *state = context;
    struct job *job = state->job->job;
    if (job->on_token)
        job->on_token(job, state->work, token, job->context);
}

static size_t count_tokens(const struct work *work)
{
    size_t n = 0;
    for (size_t i = 0; i < work->n_generated; i++)
        n += work->generated[i].n;
    return n;
}

/* A work's generation (in no list) is over. */
static void conclude(struct lane *lane, struct work_state *state)
{
    struct error err = {0};
    if (generation_finish(state->generation, &err)) {
        work_fail(lane, state, &err);
        return;
    }
    size_t n = count_tokens(state->work);
    state->job->job->n_generated_tokens += n;
    atomic_fetch_add(&lane->stats.tokens_generated, n);
    work_finish(lane, state);
}

/* ---- prompts ------------------------------------------------------------------------------------
 */

static enum status prefill_pass(struct lane *lane, size_t start, size_t n, struct error *err)
{
    for (size_t i = start; i < start + n; i++) {
        const struct work_state *state = lane->places[i].state;
        if (state->n_prefilled)
            lane->fresh[i].n_tokens = state->prefilled.n_tokens; /* whatever an attempt has left */
        else
            lane->fresh[i] = (struct sequence){0};
    }
    return lane->model->architecture->prefill(
        lane->model, &lane->compute, lane->task, lane->prompts + start, lane->fresh + start, n,
        lane->floats + start * lane->model->traits.vocab_size, err);
}

/* How many tokens of prompts the next pass may run. */
static size_t piece_tokens(const struct lane *lane)
{
    size_t n = lane->runtime->options.prefill_chunk;
    bool cuts = n && lane->decoding.n && lane->model->architecture->prefill_in_pieces;
    return cuts ? n : SIZE_MAX;
}

static void collect_prompts(struct lane *lane)
{
    const struct runtime_options *options = &lane->runtime->options;
    size_t limit = lane->kv_known ? batch_limit(lane, STAGE_PREFILL) : 1;
    size_t n_sequences = lane->n_sequences;
    size_t kv_bytes = atomic_load(&lane->stats.kv_bytes);
    size_t budget = piece_tokens(lane);
    bool is_full = false; /* someone waits for room: whoever comes later must not take it */
    struct stage_walk walk = stage_walk(lane, STAGE_PREFILL);
    struct work_state *state;
    while (lane->n_items < limit && budget && (state = stage_walk_next(&walk))) {
        struct work *work = state->work;
        enum task task = state->job->job->task;
        if (lane->n_items && task != lane->task)
            continue;
        if (!state->n_prefilled) {
            size_t width = generation_width(state->generation);
            size_t need = kv_need(lane, state->generation, prompt_estimate(lane, state));
            is_full |= n_sequences > 0 && (width > options->max_sequences - n_sequences ||
                                           kv_bytes > options->kv_cache_bytes ||
                                           need > options->kv_cache_bytes - kv_bytes);
            if (is_full)
                continue;
            n_sequences += width;
            kv_bytes = add_capped(kv_bytes, need);
        }
        lane->task = task;
        size_t n_left = work->texts[0].n - state->n_prefilled;
        size_t n = n_left < budget ? n_left : budget;
        if (budget != SIZE_MAX)
            budget -= n;
        bool keeps = state->hashed && work->n_images == 1 && options->feature_cache_bytes &&
                     !state->n_prefilled;
        struct kv_shared **kv = &lane->picture_kv[lane->n_items];
        *kv = keeps ? kv_store_get(&lane->kept, &state->image_digests[0]) : NULL;
        lane->fresh[lane->n_items] = state->prefilled;
        lane->prompts[lane->n_items] = (struct prompt){.images = work->features,
                                                       .n_images = work->n_images,
                                                       .text = &work->texts[0],
                                                       .picture_kv = keeps ? kv : NULL,
                                                       .from = state->n_prefilled,
                                                       .to = state->n_prefilled + n,
                                                       .params = &work->generation};
        lane->places[lane->n_places++] = (struct place){state, 0, lane->n_items++};
        pass_add_member(lane, state);
    }
}

/* What the running sequences leave of the key/value cache. */
static size_t kv_room(const struct lane *lane)
{
    size_t max = lane->runtime->options.kv_cache_bytes;
    size_t reserved = atomic_load(&lane->stats.kv_bytes);
    return reserved < max ? max - reserved : 0;
}

/* Keeps the pass's pictures for the next prompt about them, as far as there is room. */
static void keep_pictures(struct lane *lane)
{
    for (size_t i = 0; i < lane->n_items; i++) {
        const struct work_state *state = lane->places[i].state;
        if (lane->picture_kv[i])
            kv_store_put(&lane->kept, &state->image_digests[0], lane->picture_kv[i], kv_room(lane));
        kv_shared_unref(lane->picture_kv[i]);
        lane->picture_kv[i] = NULL;
    }
}

static void learn_sizes(struct lane *lane, const struct sequence *sequence)
{
    size_t cross = sequence->cross ? mul_capped(sequence->cross->n_floats, sizeof(float)) : 0;
    lane->kv_known = true;
    lane->kv_has_cross |= sequence->cross != NULL;
    lane->kv_token_bytes = sequence->n_layers * 2 * sequence->dim * sizeof(float);
    lane->kv_cross_bytes = cross > lane->kv_cross_bytes ? cross : lane->kv_cross_bytes;
}

/* Reserves what the work will take with a prompt of n_prompt tokens in the cache, in place of what
 * it has reserved before. */
static enum status reserve(struct lane *lane, struct work_state *state, size_t n_prompt,
                           struct error *err)
{
    const struct runtime_options *options = &lane->runtime->options;
    const struct generation *generation = state->generation;
    size_t need = kv_need(lane, generation, n_prompt);
    if (need > options->kv_cache_bytes)
        return error_set_param(
            err, STATUS_UNPROCESSABLE, "max_tokens",
            "this generation may need %zu MB of key/value cache (%zu sequences of up to %zu "
            "tokens); the server has %zu MB: ask for fewer tokens or beams",
            need / 1000000 + 1, generation_width(generation),
            add_capped(n_prompt, generation_n_steps_max(generation)),
            options->kv_cache_bytes / 1000000);
    if (!state->kv_bytes)
        lane->n_sequences += generation_width(generation);
    atomic_fetch_sub(&lane->stats.kv_bytes, state->kv_bytes);
    state->kv_bytes = need ? need : 1;
    atomic_fetch_add(&lane->stats.kv_bytes, state->kv_bytes);
    return STATUS_OK;
}

/* The prompt's pass is done: reserves what the work will take, and chooses its first tokens. */
static void begin(struct lane *lane, struct work_state *state, size_t item)
{
    struct sequence *sequence = &lane->fresh[item];
    struct generation *generation = state->generation;
    state->prefilled = (struct sequence){0};
    for (size_t i = 0; i < state->work->n_images; i++) { /* not needed any more, and large */
        features_unref(state->work->features[i]);
        state->work->features[i] = NULL;
    }

    struct error err = {0};
    if (reserve(lane, state, sequence->n_tokens, &err)) {
        sequence_release(sequence);
        work_fail(lane, state, &err);
        return;
    }

    state->work->cached = state->work->n_images > 0 && !state->missed; /* a stream tells at once */
    struct token_sink sink = {emit_token, state};
    bool done = false;
    enum status status =
        generation_begin(generation, sequence, lane->floats + item * lane->model->traits.vocab_size,
                         &sink, &done, &err);
    state->last_token_ns = clock_ns();
    struct job *job = state->job->job;
    if (!job->first_token_ns)
        job->first_token_ns = state->last_token_ns;
    histogram_add(&lane->stats.by_task[job->task].first_token_seconds,
                  (double)(state->last_token_ns - job->submitted_ns) * 1e-9);
    if (status)
        work_fail(lane, state, &err);
    else if (done)
        conclude(lane, state);
    else
        list_append(&lane->decoding, state);
}

bool prefill(struct lane *lane)
{
    pass_reset(lane);
    collect_prompts(lane);
    if (!lane->n_items)
        return false;
    struct error err = {0};
    if (pass_reserve_floats(lane, lane->n_items, lane->model->traits.vocab_size, &err)) {
        for (size_t i = 0; i < lane->n_items; i++)
            lane->errors[i] = err;
    } else {
        pass_run(lane, STAGE_PREFILL, prefill_pass);
    }
    keep_pictures(lane);
    for (size_t i = 0; i < lane->n_places; i++) {
        struct work_state *state = lane->places[i].state;
        size_t item = lane->places[i].item;
        size_t to = lane->prompts[item].to;
        bool failed = lane->errors[item].status != STATUS_OK;
        if (!failed)
            learn_sizes(lane, &lane->fresh[item]);
        if (!failed || state->n_prefilled)
            state->prefilled = lane->fresh[item];
        if (!failed && to < state->work->texts[0].n) { /* more pieces to come */
            failed = reserve(lane, state, prompt_estimate(lane, state), &lane->errors[item]);
            state->n_prefilled = to;
            if (!failed)
                continue;
        }
        list_remove(stage_list(lane, STAGE_PREFILL, state), state);
        if (failed)
            work_fail(lane, state, &lane->errors[item]);
        else
            begin(lane, state, item);
    }
    kv_store_shrink(&lane->kept, kv_room(lane)); /* running sequences come first */
    atomic_store(&lane->stats.kv_kept_bytes, lane->kept.bytes);
    return true;
}

/* ---- decode steps -------------------------------------------------------------------------------
 */

static enum status decode_pass(struct lane *lane, size_t start, size_t n, struct error *err)
{
    for (size_t i = start; i < start + n; i++)
        lane->lengths[i] = lane->sequences[i]->n_tokens;
    enum status status = lane->model->architecture->decode(
        lane->model, &lane->compute, lane->sequences + start, lane->new_tokens + start, n,
        lane->floats + start * lane->model->traits.vocab_size, err);
    for (size_t i = start; status && i < start + n; i++)
        lane->sequences[i]->n_tokens = lane->lengths[i]; /* as if it had not been tried */
    return status;
}

struct feed {
    struct lane *lane;
    size_t start;
};

static void feed_task(void *context, size_t i)
{
    const struct feed *feed = context;
    struct lane *lane = feed->lane;
    const struct row *row = &lane->rows[feed->start + i];
    if (!lane->errors[i].status)
        generation_feed(row->state->generation, row->index,
                        lane->floats + i * lane->model->traits.vocab_size);
}

/* Room for one more token: doubled, up to what the work reserved. */
static enum status make_room(struct sequence *sequence, size_t n_steps_max, struct error *err)
{
    if (sequence->n_tokens < sequence->capacity)
        return STATUS_OK;
    size_t more = sequence->n_tokens > ROOM_TOKENS_MIN ? sequence->n_tokens : ROOM_TOKENS_MIN;
    more = more > n_steps_max ? n_steps_max : more;
    return sequence_reserve(sequence, add_capped(sequence->n_tokens, more ? more : 1), err);
}

/* Rows [start, start + n) of the step. */
static void decode_rows(struct lane *lane, size_t start, size_t n)
{
    pass_reset(lane);
    struct error err = {0};
    for (size_t i = 0; i < n; i++) {
        const struct row *row = &lane->rows[start + i];
        lane->sequences[i] =
            generation_row(row->state->generation, row->index, &lane->new_tokens[i]);
        pass_add_member(lane, row->state);
    }
    lane->n_items = n;
    if (pass_reserve_floats(lane, n, lane->model->traits.vocab_size, &err)) {
        for (size_t i = 0; i < n; i++)
            lane->errors[i] = err;
    } else {
        pass_run(lane, N_STAGES, decode_pass);
    }
    struct feed feed = {lane, start};
    size_t cost = FEED_COST * n * lane->model->traits.vocab_size;
    pool_run_sized(lane->runtime->pool, n, cost, feed_task, &feed);
    for (size_t i = 0; i < n; i++) {
        struct work *work = lane->rows[start + i].state->work;
        if (lane->errors[i].status && !work->error.status)
            work->error = lane->errors[i];
    }
}

void decode_step(struct lane *lane)
{
    size_t n_rows = 0, max_batch = lane->runtime->options.max_batch;
    for (struct work_state *state = lane->decoding.first; state; state = state->next) {
        size_t n = generation_rows(state->generation), n_roomy = 0;
        size_t n_steps_max = generation_n_steps_max(state->generation);
        int32_t token;
        while (n_roomy < n && !make_room(generation_row(state->generation, n_roomy, &token),
                                         n_steps_max, &state->work->error))
            n_roomy++;
        if (n_roomy < n)
            continue; /* it has its error and leaves at the end of the step */
        for (size_t i = 0; i < n; i++)
            lane->rows[n_rows++] = (struct row){state, i};
    }
    for (size_t start = 0; start < n_rows; start += max_batch)
        decode_rows(lane, start, n_rows - start < max_batch ? n_rows - start : max_batch);

    uint64_t now = clock_ns();
    for (struct work_state *state = lane->decoding.first, *next; state; state = next) {
        next = state->next;
        struct token_sink sink = {emit_token, state};
        struct error err = state->work->error;
        bool done = false;
        if (!err.status)
            generation_advance(state->generation, &sink, &done, &err);
        histogram_add(&lane->stats.by_task[state->job->job->task].inter_token_seconds,
                      (double)(now - state->last_token_ns) * 1e-9);
        state->last_token_ns = now;
        if (!err.status && !done)
            continue;
        list_remove(&lane->decoding, state);
        if (err.status)
            work_fail(lane, state, &err);
        else
            conclude(lane, state);
    }
}
