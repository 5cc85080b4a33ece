/*
 * loading.c: the models that are expected, and their loading. See runtime.h.
 *
 *   WAITING ──runtime_load()──→ LOADING ──→ READY (it has a lane)
 *                                  └──────→ FAILED (why is written before the state)
 */
#include <stdlib.h>
#include <string.h>

#include "core/runtime/runtime_internal.h"

enum { LOADING_S_MAX = 60 };

enum status runtime_expect(struct runtime *runtime, const char *name, const char *directory,
                           const struct model_options *options, struct error *err)
{
    size_t n = atomic_load(&runtime->n_expected);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(runtime->expected[i]->name, name))
            return error_set(err, STATUS_BAD_CONFIG,
                             "two models are named '%s': %s and %s; give one another name with "
                             "NAME=DIR",
                             name, runtime->expected[i]->directory, directory);
    if (n == LANES_MAX)
        return error_set(err, STATUS_BAD_CONFIG, "at most %d models are served", LANES_MAX);
    struct expected_model *expected = calloc(1, sizeof *expected);
    if (expected) {
        expected->options = *options;
        expected->options.pool = runtime->pool;
        expected->options.progress = &expected->progress;
        expected->name = strdup(name);
        expected->directory = strdup(directory);
    }
    if (!expected || !expected->name || !expected->directory) {
        if (expected) {
            free(expected->name);
            free(expected->directory);
        }
        free(expected);
        return error_no_memory(err, "a model's place");
    }
    runtime->expected[n] = expected;
    atomic_store(&runtime->n_expected, n + 1);
    return STATUS_OK;
}

const struct expected_model *runtime_expected(const struct runtime *runtime, size_t i)
{
    return i < atomic_load(&runtime->n_expected) ? runtime->expected[i] : NULL;
}

enum status runtime_load(struct runtime *runtime, size_t i, struct error *err)
{
    struct expected_model *expected = runtime->expected[i];
    if (!atomic_load(&runtime->loading_since_ns))
        atomic_store(&runtime->loading_since_ns, clock_ns());
    atomic_store(&expected->state, MODEL_LOADING);
    struct model *model =
        model_open_as(expected->name, expected->directory, &expected->options, err);
    if (!model) {
        expected->why = *err;
    } else if (runtime_add(runtime, model, err)) {
        model_free(model);
        error_prefix(err, "model '%s' (%s)", expected->name, expected->directory);
        expected->why = *err;
    }
    atomic_store(&expected->state, expected->why.status ? MODEL_FAILED : MODEL_READY);
    return expected->why.status;
}

double expected_share(const struct expected_model *expected)
{
    double bytes = (double)atomic_load(&expected->progress.bytes);
    double total = (double)atomic_load(&expected->progress.total_bytes);
    if (atomic_load(&expected->state) == MODEL_READY)
        return 1;
    return total > 0 && bytes < total ? bytes / total : bytes > 0 ? 1 : 0;
}

unsigned runtime_loading_s(const struct runtime *runtime)
{
    unsigned long long since = atomic_load(&runtime->loading_since_ns);
    size_t n = atomic_load(&runtime->n_expected);
    double done = 0;
    for (size_t i = 0; i < n; i++)
        done += atomic_load(&runtime->expected[i]->state) == MODEL_FAILED
                    ? 1
                    : expected_share(runtime->expected[i]);
    if (!since || !n || done >= (double)n)
        return 1;
    if (done <= 0)
        return 2; /* nothing can be told from yet */
    double seconds = (double)(clock_ns() - since) * 1e-9 * ((double)n - done) / done + 1;
    return seconds < LOADING_S_MAX ? (unsigned)seconds : LOADING_S_MAX;
}

enum status loading_explain(const struct runtime *runtime, const char *name, struct error *err)
{
    const struct expected_model *expected, *failed = NULL;
    size_t n_left = 0;
    for (size_t i = 0; (expected = runtime_expected(runtime, i)); i++) {
        int state = atomic_load(&expected->state);
        if (name && strcmp(expected->name, name))
            continue;
        n_left += state == MODEL_WAITING || state == MODEL_LOADING;
        failed = state == MODEL_FAILED ? expected : failed;
        if (name && n_left)
            return error_set_param(err, STATUS_LOADING, "model",
                                   "model '%.100s' is still loading (%.0f %% of its weights are "
                                   "there)",
                                   name, 100 * expected_share(expected));
    }
    if (!name && n_left)
        return error_set(err, STATUS_LOADING,
                         "models are still loading (%zu to come), and none that does this is there "
                         "yet",
                         n_left);
    if (name && failed)
        return error_set_param(err, STATUS_UNAVAILABLE, "model", "it could not be loaded: %s",
                               failed->why.message);
    return STATUS_OK;
}

void loading_release(struct runtime *runtime)
{
    size_t n = atomic_load(&runtime->n_expected);
    for (size_t i = 0; i < n; i++) {
        free(runtime->expected[i]->name);
        free(runtime->expected[i]->directory);
        free(runtime->expected[i]);
    }
}
