/*
 * encode.c: the passes without a memory: pictures, texts, pairs. Each collects a batch from the
 * works that wait (asking the cache first), runs it, and sends the works on.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/runtime/runtime_internal.h"

/* Ends the works of the pass that had a failing item; sends on those that have all they need. */
static void settle(struct lane *lane, enum stage stage)
{
    for (size_t i = 0; i < lane->n_places; i++) {
        const struct place *place = &lane->places[i];
        if (lane->errors[place->item].status && !place->state->work->error.status)
            place->state->work->error = lane->errors[place->item];
    }
    for (size_t i = 0; i < lane->n_members; i++) {
        struct work_state *state = lane->members[i];
        const struct work *work = state->work;
        size_t needed = stage == STAGE_IMAGES  ? work->n_images
                        : stage == STAGE_TEXTS ? work->n_texts
                                               : work_pairs(work);
        if (!work->error.status && state->cursor < needed)
            continue; /* the next batch goes on with it */
        list_remove(stage_list(lane, stage, state), state);
        if (work->error.status)
            work_finish(lane, state);
        else
            work_advance(lane, state, stage + 1);
    }
}

static void add_place(struct lane *lane, struct work_state *state, size_t index, size_t item)
{
    lane->places[lane->n_places++] = (struct place){state, index, item};
    pass_add_member(lane, state);
}

static bool batch_full(const struct lane *lane, size_t limit)
{
    return lane->n_items >= limit ||
           lane->n_places >= PLACES_PER_BATCH * lane->runtime->options.max_batch;
}

/* ---- pictures -----------------------------------------------------------------------------------
 */

static enum status images_pass(struct lane *lane, size_t start, size_t n, struct error *err)
{
    return lane->model->architecture->encode_images(
        lane->model, &lane->compute, lane->pixels + start, n, lane->features + start, err);
}

/* The batch's item that shows the same picture or text, or n_items. */
static size_t find_item(const struct lane *lane, enum stage stage, const struct digest *digest)
{
    for (size_t i = 0; i < lane->n_places; i++) {
        const struct place *place = &lane->places[i];
        const struct digest *digests =
            stage == STAGE_IMAGES ? place->state->image_digests : place->state->text_digests;
        if (digest_equal(&digests[place->index], digest))
            return place->item;
    }
    return lane->n_items;
}

static void collect_images(struct lane *lane)
{
    size_t limit = batch_limit(lane, STAGE_IMAGES);
    size_t n_prompts = lane->waiting[STAGE_PREFILL][0].n + lane->waiting[STAGE_PREFILL][1].n;
    struct stage_walk walk = stage_walk(lane, STAGE_IMAGES);
    struct work_state *state;
    while (!batch_full(lane, limit) && (state = stage_walk_next(&walk))) {
        struct work *work = state->work;
        /* Features are large: not many more pictures ahead than prompts can be taken. */
        if (work->kind == WORK_GENERATE && n_prompts++ >= lane->runtime->options.max_batch)
            continue;
        bool is_member = false;
        for (; state->cursor < work->n_images && !batch_full(lane, limit); state->cursor++) {
            size_t i = state->cursor;
            if (work->features[i])
                continue;
            const struct digest *digest = &state->image_digests[i];
            work->features[i] = feature_cache_get(lane->cache, digest);
            if (work->features[i]) {
                atomic_fetch_add(&lane->stats.cache_hits, 1);
                work_start(lane, state);
                continue;
            }
            size_t item = find_item(lane, STAGE_IMAGES, digest);
            if (item == lane->n_items)
                lane->pixels[lane->n_items++] = &work->images[i];
            atomic_fetch_add(&lane->stats.cache_misses, 1);
            state->missed = true;
            add_place(lane, state, i, item);
            is_member = true;
        }
        if (!is_member && state->cursor == work->n_images) {
            list_remove(stage_list(lane, STAGE_IMAGES, state), state);
            work_advance(lane, state, STAGE_IMAGES + 1);
        }
    }
}

bool encode_images(struct lane *lane)
{
    pass_reset(lane);
    collect_images(lane);
    if (!lane->n_items)
        return false;
    memset(lane->features, 0, lane->n_items * sizeof *lane->features);
    pass_run(lane, STAGE_IMAGES, images_pass);
    for (size_t i = 0; i < lane->n_places; i++) {
        const struct place *place = &lane->places[i];
        struct features *features = lane->features[place->item];
        if (lane->errors[place->item].status)
            continue;
        place->state->work->features[place->index] = features_ref(features);
        feature_cache_put(lane->cache, &place->state->image_digests[place->index], features);
    }
    for (size_t i = 0; i < lane->n_items; i++)
        if (!lane->errors[i].status)
            features_unref(lane->features[i]);
    atomic_store(&lane->stats.cache_bytes, feature_cache_bytes(lane->cache));
    settle(lane, STAGE_IMAGES);
    return true;
}

/* ---- texts --------------------------------------------------------------------------------------
 */

static enum status texts_pass(struct lane *lane, size_t start, size_t n, struct error *err)
{
    return lane->model->architecture->encode_texts(
        lane->model, &lane->compute, lane->tokens + start, n,
        lane->floats + start * lane->model->traits.embed_dim, err);
}

static void collect_texts(struct lane *lane)
{
    size_t limit = batch_limit(lane, STAGE_TEXTS), dim = lane->model->traits.embed_dim;
    struct stage_walk walk = stage_walk(lane, STAGE_TEXTS);
    struct work_state *state;
    while (!batch_full(lane, limit) && (state = stage_walk_next(&walk))) {
        struct work *work = state->work;
        bool is_member = false;
        for (; state->cursor < work->n_texts && !batch_full(lane, limit); state->cursor++) {
            size_t i = state->cursor;
            const struct digest *digest = &state->text_digests[i];
            struct features *cached = feature_cache_get(lane->cache, digest);
            if (cached) {
                memcpy(work->text_embeddings + i * dim, cached->rows, dim * sizeof(float));
                features_unref(cached);
                atomic_fetch_add(&lane->stats.cache_hits, 1);
                work_start(lane, state);
                continue;
            }
            size_t item = find_item(lane, STAGE_TEXTS, digest);
            if (item == lane->n_items)
                lane->tokens[lane->n_items++] = &work->texts[i];
            atomic_fetch_add(&lane->stats.cache_misses, 1);
            add_place(lane, state, i, item);
            is_member = true;
        }
        if (!is_member && state->cursor == work->n_texts) {
            list_remove(stage_list(lane, STAGE_TEXTS, state), state);
            work_advance(lane, state, STAGE_TEXTS + 1);
        }
    }
}

bool encode_texts(struct lane *lane)
{
    pass_reset(lane);
    collect_texts(lane);
    if (!lane->n_items)
        return false;
    size_t dim = lane->model->traits.embed_dim;
    struct error err = {0};
    if (pass_reserve_floats(lane, lane->n_items, dim, &err)) {
        for (size_t i = 0; i < lane->n_items; i++)
            lane->errors[i] = err;
    } else {
        pass_run(lane, STAGE_TEXTS, texts_pass);
    }
    for (size_t i = 0; i < lane->n_places; i++) {
        const struct place *place = &lane->places[i];
        if (lane->errors[place->item].status)
            continue;
        const float *row = lane->floats + place->item * dim;
        memcpy(place->state->work->text_embeddings + place->index * dim, row, dim * sizeof *row);
        struct features *copy =
            lane->runtime->options.feature_cache_bytes ? features_new(1, dim) : NULL;
        if (!copy)
            continue;
        memcpy(copy->rows, row, dim * sizeof *row);
        feature_cache_put(lane->cache, &place->state->text_digests[place->index], copy);
        features_unref(copy);
    }
    atomic_store(&lane->stats.cache_bytes, feature_cache_bytes(lane->cache));
    settle(lane, STAGE_TEXTS);
    return true;
}

/* ---- pairs --------------------------------------------------------------------------------------
 */

static enum status pairs_pass(struct lane *lane, size_t start, size_t n, struct error *err)
{
    return lane->model->architecture->score_pairs(
        lane->model, &lane->compute, lane->task, lane->pairs + start, n,
        lane->floats + start * lane->model->traits.n_outputs, err);
}

/* Pairs of one task, that of the first work. */
static void collect_pairs(struct lane *lane)
{
    size_t limit = batch_limit(lane, STAGE_PAIRS), dim = lane->model->traits.embed_dim;
    struct stage_walk walk = stage_walk(lane, STAGE_PAIRS);
    struct work_state *state;
    while (!batch_full(lane, limit) && (state = stage_walk_next(&walk))) {
        struct work *work = state->work;
        enum task task = state->job->job->task;
        if (lane->n_items && task != lane->task)
            continue;
        lane->task = task;
        for (; state->cursor < work_pairs(work) && !batch_full(lane, limit); state->cursor++) {
            size_t i = state->cursor;
            lane->pairs[lane->n_items] = (struct pair){
                .images = work->features,
                .n_images = work->n_images,
                .text = work->n_texts ? &work->texts[i] : NULL,
                .text_embedding = work->text_embeddings ? work->text_embeddings + i * dim : NULL,
            };
            add_place(lane, state, i, lane->n_items++);
        }
    }
}

bool score_pairs(struct lane *lane)
{
    pass_reset(lane);
    collect_pairs(lane);
    if (!lane->n_items)
        return false;
    size_t n_outputs = lane->model->traits.n_outputs;
    struct error err = {0};
    if (pass_reserve_floats(lane, lane->n_items, n_outputs, &err)) {
        for (size_t i = 0; i < lane->n_items; i++)
            lane->errors[i] = err;
    } else {
        pass_run(lane, STAGE_PAIRS, pairs_pass);
    }
    for (size_t i = 0; i < lane->n_places; i++) {
        const struct place *place = &lane->places[i];
        if (!lane->errors[place->item].status)
            memcpy(place->state->work->outputs + place->index * n_outputs,
                   lane->floats + place->item * n_outputs, n_outputs * sizeof(float));
    }
    settle(lane, STAGE_PAIRS);
    return true;
}
