/*
 * process.c: from settings to a running api, in the order in which things depend on each other:
 * runtime, store, api, models; closed in the reverse order.
 */
#include "server/process.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "server/health.h"

static const struct endpoint *const process_endpoints[] = {
    &endpoint_healthz, &endpoint_health, &endpoint_livez,
    &endpoint_ping,    &endpoint_readyz, &endpoint_metrics,
};

/* "sqlite:<data home>/vlmd/collections.db"; its directory is made by the store. */
static enum status default_store(char out[PATH_MAX], struct error *err)
{
    const char *data_home = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = data_home && *data_home
                ? snprintf(out, PATH_MAX, "sqlite:%s/vlmd/collections.db", data_home)
            : home && *home
                ? snprintf(out, PATH_MAX, "sqlite:%s/.local/share/vlmd/collections.db", home)
                : snprintf(out, PATH_MAX, "sqlite:vlmd-collections.db");
    if (n < 0 || n >= PATH_MAX)
        return error_set_param(err, STATUS_BAD_CONFIG, "store",
                               "the default store's path is too long");
    return STATUS_OK;
}

/* Nowhere when there is no home, or its path is too long: a cache is never what a start fails by.
 */
static void choose_cache(const char *setting, char out[PATH_MAX])
{
    const char *cache_home = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (strcmp(setting, "none") == 0)
        out[0] = '\0';
    else if (setting[0])
        n = snprintf(out, PATH_MAX, "%s", setting);
    else if (cache_home && *cache_home)
        n = snprintf(out, PATH_MAX, "%s/vlmd", cache_home);
    else if (home && *home)
        n = snprintf(out, PATH_MAX, "%s/.cache/vlmd", home);
    if (n < 0 || n >= PATH_MAX)
        out[0] = '\0';
}

static enum status find_task(const char *text, size_t size, enum task *out, struct error *err)
{
    for (int i = 0; i < N_TASKS; i++)
        if (strlen(task_name(i)) == size && strncmp(task_name(i), text, size) == 0) {
            *out = (enum task)i;
            return STATUS_OK;
        }
    return error_set_param(err, STATUS_BAD_CONFIG, "default_model",
                           "default_model: expected TASK=NAME with a task such as caption or vqa, "
                           "found '%s'",
                           text);
}

static enum status fill_api_options(struct process *process, struct api_options *options,
                                    struct error *err)
{
    const struct settings *settings = &process->settings;
    if (settings->overload_status != 429 && settings->overload_status != 503)
        return error_set_param(err, STATUS_BAD_CONFIG, "overload_status",
                               "overload_status: expected 429 or 503, found %zu",
                               settings->overload_status);
    *options = (struct api_options){
        .max_pixels = settings->max_pixels,
        .max_items = settings->max_items,
        .max_text_bytes = settings->max_text_bytes,
        .max_reply_bytes = settings->max_reply_mb << 20,
        .max_tokens = settings->max_tokens,
        .caption_instruction = settings->caption_instruction,
        .request_timeout_s = (unsigned)settings->request_timeout_s,
        .overload_status = (int)settings->overload_status,
        .version = VLMD_VERSION,
        .extra = process_endpoints,
        .n_extra = ARRAY_LENGTH(process_endpoints),
        .process = process,
    };
    for (size_t i = 0; i < settings->default_model.n; i++) {
        const char *text = settings->default_model.items[i];
        size_t size = strcspn(text, "=");
        enum task task = TASK_CAPTION;
        if (find_task(text, size, &task, err))
            return err->status;
        options->default_models[task] = text[size] ? text + size + 1 : "";
    }
    return STATUS_OK;
}

/* ---- models ------------------------------------------------------------------------------------
 */

/* The dtype for a model of this name (NULL: for none in particular): NAME=DTYPE before DTYPE, and
 * what was said last. Every entry is looked at, so that a wrong one is found whatever models there
 * are. */
static enum status choose_dtype(const struct settings *settings, const char *name,
                                struct model_options *options, struct error *err)
{
    bool named = false;
    options->dtype_is_auto = true;
    for (size_t i = 0; i < settings->dtype.n; i++) {
        struct model_options choice = *options;
        const char *text = settings->dtype.items[i], *equals = strrchr(text, '=');
        if (!model_options_parse_dtype(&choice, equals ? equals + 1 : text))
            return error_set_param(
                err, STATUS_BAD_CONFIG, "dtype",
                "dtype: expected auto, f32, bf16, int8 or int4, or NAME= and one "
                "of them, found '%s'",
                text);
        size_t size = equals ? (size_t)(equals - text) : 0;
        if (equals ? name && strlen(name) == size && !memcmp(name, text, size) : !named)
            *options = choice;
        named = named || (equals && name && strlen(name) == size && !memcmp(name, text, size));
    }
    return STATUS_OK;
}

static enum status expect(struct process *process, const char *name, const char *directory,
                          struct error *err)
{
    enum { CACHE_BYTES_MIN = 64 << 20 };
    struct model_options options = {
        .cache_folder = process->cache_folder[0] ? process->cache_folder : NULL,
        .cache_bytes_min = CACHE_BYTES_MIN,
    };
    if (choose_dtype(&process->settings, name, &options, err))
        return err->status;
    return runtime_expect(process->runtime, name, directory, &options, err);
}

/* NAME=DIR, or DIR whose last part is the name. */
static enum status expect_named(struct process *process, const char *text, struct error *err)
{
    char name[NAME_MAX + 1], path[PATH_MAX];
    const char *equals = strchr(text, '=');
    struct stat info;
    /* A directory whose own name holds a '=' is still a directory. */
    if (equals && equals > text && stat(text, &info) != 0) {
        size_t size = (size_t)(equals - text);
        if (size > NAME_MAX)
            return error_set_param(err, STATUS_BAD_CONFIG, "model", "model: the name is too long");
        memcpy(name, text, size);
        name[size] = '\0';
        return expect(process, name, equals + 1, err);
    }
    if (!realpath(text, path))
        return error_set_param(err, STATUS_BAD_CONFIG, "model", "model: cannot open '%s': %s", text,
                               strerror(errno));
    const char *slash = strrchr(path, '/');
    snprintf(name, sizeof name, "%.*s", NAME_MAX, slash && slash[1] ? slash + 1 : "model");
    return expect(process, name, text, err);
}

static int keep_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Every sub-directory that has a config.json, in the order of names. */
static enum status expect_directory(struct process *process, const char *directory,
                                    struct error *err)
{
    struct dirent **entries = NULL;
    int n = scandir(directory, &entries, keep_visible, alphasort);
    if (n < 0)
        return error_set_param(err, STATUS_BAD_CONFIG, "models_dir", "cannot read %s: %s",
                               directory, strerror(errno));
    enum status status = STATUS_OK;
    size_t found = 0;
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        if (!status &&
            snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name) < PATH_MAX &&
            checkpoint_is_directory(path)) {
            found++;
            status = expect(process, entries[i]->d_name, path, err);
        }
        free(entries[i]);
    }
    free(entries);
    if (!status && !found)
        return error_set_param(err, STATUS_BAD_CONFIG, "models_dir",
                               "%s has no sub-directory with a config.json or an "
                               "open_clip_config.json",
                               directory);
    return status;
}

/* The embedded models: where the setting says, else where they were installed, else beside the
 * sources that this binary was built from. */
static const char *embedded_directory(const struct process *process)
{
    if (process->settings.embedded_dir[0])
        return process->settings.embedded_dir;
    return access(VLMD_INSTALLED_MODELS, F_OK) == 0 ? VLMD_INSTALLED_MODELS : VLMD_SOURCE_MODELS;
}

static enum status expect_models(struct process *process, struct error *err)
{
    const struct settings *settings = &process->settings;
    for (size_t i = 0; i < settings->model.n; i++)
        if (expect_named(process, settings->model.items[i], err))
            return err->status;
    if (settings->models_dir[0])
        return expect_directory(process, settings->models_dir, err);
    if (!settings->model.n)
        return expect_directory(process, embedded_directory(process), err);
    return STATUS_OK;
}

/* ---- the process -------------------------------------------------------------------------------
 */

static enum status choose_engine(const char *name, struct error *err)
{
    enum nn_engine engine;
    if (!nn_engine_parse(name, &engine))
        return error_set_param(err, STATUS_BAD_CONFIG, "engine",
                               "engine: expected auto, amx, avx512bf16, avx512vnni, avx512, avx2, "
                               "portable or openblas, found '%s'",
                               name);
    if (!nn_engine_choose(engine))
        return error_set_param(
            err, STATUS_BAD_CONFIG, "engine", "engine: %s is not on this %s", name,
            engine == NN_ENGINE_OPENBLAS ? "system (Debian: libopenblas0)" : "chip");
    return STATUS_OK;
}

enum status process_open(struct process *process, struct settings *settings, unsigned parts,
                         struct error *err)
{
    *process = (struct process){.settings = *settings, .started_ns = clock_ns()};
    *settings = (struct settings){0};
    metrics_init(&process->metrics);
    const struct settings *s = &process->settings;
    const struct runtime_options runtime_options = {
        .threads = s->threads,
        .max_batch = s->max_batch ? s->max_batch : 1,
        .batch_wait_us = s->batch_wait_us,
        .max_queue = s->max_queue,
        .idle_unload_ms = s->idle_unload_s < SIZE_MAX / 1000 ? s->idle_unload_s * 1000 : SIZE_MAX,
        .prefill_chunk = s->prefill_chunk,
        .max_sequences = s->max_sequences,
        .feature_cache_bytes = s->feature_cache_mb << 20,
        .kv_cache_bytes = s->kv_cache_mb << 20,
    };
    choose_cache(s->cache_dir, process->cache_folder);
    struct api_options api_options;
    struct model_options model_options;
    if (choose_engine(s->engine, err) || choose_dtype(s, NULL, &model_options, err) ||
        admission_init(&process->admission, s, err) || fill_api_options(process, &api_options, err))
        goto fail;
    process->runtime = runtime_new(&runtime_options, err);
    if (!process->runtime || expect_models(process, err))
        goto fail;
    if (parts & PROCESS_STORE) {
        char uri[PATH_MAX];
        if (!s->store[0] && default_store(uri, err))
            goto fail;
        const struct store_options store_options = {.uri = s->store[0] ? s->store : uri,
                                                    .pool = runtime_pool(process->runtime),
                                                    .graph_from = s->graph_from};
        process->store = store_open(&store_options, err);
        if (!process->store)
            goto fail;
    }
    process->api = api_new(&api_options, process->runtime, process->store, err);
    if (!process->api)
        goto fail;
    if ((parts & PROCESS_MODELS) && process_load_models(process, NULL, err))
        goto fail;
    return STATUS_OK;
fail:
    process_close(process);
    return err->status;
}

void process_close(struct process *process)
{
    store_close(process->store); /* before the runtime, on whose pool it searches */
    runtime_free(process->runtime);
    api_free(process->api);
    admission_release(&process->admission);
    settings_release(&process->settings);
    *process = (struct process){0};
}

enum status process_load_models(struct process *process, const struct load_events *events,
                                struct error *err)
{
    struct runtime *runtime = process->runtime;
    const struct expected_model *expected;
    size_t n_named = process->settings.model.n;
    for (size_t i = 0; (expected = runtime_expected(runtime, i)); i++) {
        struct error why = {0};
        if (atomic_load(&process->draining))
            return error_set(err, STATUS_DRAINING, "the server is shutting down");
        if (!runtime_load(runtime, i, &why)) {
            if (events && events->loaded)
                events->loaded(lane_model(runtime_at(runtime, runtime_count(runtime) - 1)));
            continue;
        }
        bool is_last = !runtime_expected(runtime, i + 1);
        if (i < n_named || (is_last && !runtime_count(runtime))) {
            *err = why; /* asked for by name, or there is nothing to serve */
            return err->status;
        }
        if (events && events->failed)
            events->failed(&why);
    }
    for (int i = 0; i < N_TASKS; i++) {
        const char *name = api_options(process->api)->default_models[i];
        if (name && !runtime_find(runtime, name, (enum task)i, err))
            return error_prefix(err, "default_model");
    }
    atomic_store(&process->ready, true);
    return STATUS_OK;
}
