/*
 * commands_index.c: `vlmd index COLLECTION DIR`: a folder's pictures into a collection, and with
 * --watch the changes of the folder from then on.
 *
 * Each item's metadata says which file it was: `path`, `size`, `mtime_ns`, `sha256`. A file whose
 * size and time are those of its item is left alone; one that only looks newer is read and, where
 * its bytes are the same, gets its new time beside the vector that there is. So a run that was
 * broken off goes on where it was (each batch is one durable transaction), and a second run costs a
 * walk.
 *
 * Several senders take files from one list and send batches: while one batch is in the model's
 * forward pass, the pictures of the others are decoded.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/base/stats.h"
#include "core/base/utf8.h"
#include "server/client.h"
#include "server/commands.h"
#include "server/folder.h"
#include "server/sha256.h"

enum {
    BATCH_FILES = 32,
    BATCH_BYTES = 24 << 20,
    SENDERS_MAX = 16,
    RESULTS_BYTES_MAX = 16 << 20,
    FAULTS_SHOWN = 1000,
    PAGE = 1000, /* items of the collection that are listed at once */
    PROGRESS_NS = 100 * 1000 * 1000,
    WATCH_MS = 1000, /* how often a signal is looked for */
};

struct indexing {
    struct process *process;
    struct folder *folder;
    char *path, *items_path; /* /v1/collections/NAME, …/items */
    size_t max_file_bytes;
    bool prunes;
    json_t
        *known; /* id → metadata of the items that came from this folder; the senders only read */

    pthread_mutex_t mutex; /* guards what follows; taken alone */
    struct paths files;    /* to be looked at */
    size_t next, done;
    size_t added, updated, unchanged, vanished, n_faults;
    json_t *faults;  /* [{id, message}], the first FAULTS_SHOWN */
    json_t *learned; /* id → metadata of what was added meanwhile */
    uint64_t started_ns, shown_ns;
    struct error fault; /* what stops it all */
};

/* A file on its way. */
struct candidate {
    const char *id; /* the list's */
    size_t line;    /* in the batch; 0 = none */
    bool is_unchanged;
    json_t *metadata;
};

struct batch {
    struct buffer lines;
    struct candidate items[BATCH_FILES];
    size_t n, n_lines;
};

/* ---- telling -----------------------------------------------------------------------------------
 */

/* Any thread. */
static void note_fault(void *context, const char *id, const char *message)
{
    struct indexing *indexing = context;
    pthread_mutex_lock(&indexing->mutex);
    if (indexing->n_faults++ < FAULTS_SHOWN) {
        char shown[1024];
        utf8_clean(shown, sizeof shown, id, strlen(id));
        json_array_append_new(indexing->faults,
                              json_pack("{s:s, s:s}", "id", shown, "message", message));
    }
    pthread_mutex_unlock(&indexing->mutex);
}

/* Mutex held. */
static void show_progress(struct indexing *indexing)
{
    enum { WIDTH = 30 };
    static const char bar[] = "##############################";
    size_t n = indexing->files.n, done = indexing->done;
    uint64_t now_ns = clock_ns();
    if (!isatty(STDERR_FILENO) || !n || (done < n && now_ns < indexing->shown_ns + PROGRESS_NS))
        return;
    indexing->shown_ns = now_ns;
    size_t filled = done * WIDTH / n, computed = done - indexing->unchanged;
    double seconds = (double)(now_ns - indexing->started_ns) / 1e9;
    double rate = seconds > 0 ? (double)computed / seconds : 0;
    double left = done ? seconds / (double)done * (double)(n - done) : 0;
    fprintf(stderr, "\r[%.*s%*s] %zu/%zu  %.1f/s  %d:%02d left  ", (int)filled, bar,
            (int)(WIDTH - filled), "", done, n, rate, (int)(left / 60), (int)left % 60);
    if (done == n)
        fputc('\n', stderr);
}

static void print_faults(struct indexing *indexing)
{
    size_t i;
    const json_t *fault;
    json_array_foreach(indexing->faults, i, fault)
        printf("failed: %s: %s\n", json_string_value(json_object_get(fault, "id")),
               json_string_value(json_object_get(fault, "message")));
    if (indexing->n_faults > json_array_size(indexing->faults))
        printf("failed: and %zu more\n", indexing->n_faults - json_array_size(indexing->faults));
}

/* ---- what is known -----------------------------------------------------------------------------
 */

/* Lists the collection, and remembers the items whose file lies (or lay) in this folder. */
static enum status learn_items(struct indexing *indexing, struct error *err)
{
    size_t root = strlen(folder_path(indexing->folder));
    struct buffer query;
    buffer_init(&query, 1 << 14);
    enum status status = STATUS_OK;
    bool more = true;
    json_t *reply = NULL;
    buffer_printf(&query, "limit=%d", PAGE);
    while (more && !status) {
        status = client_call(indexing->process, "GET", indexing->items_path, query.data, NULL, NULL,
                             0, &reply, err);
        if (status)
            break;
        size_t i;
        json_t *item;
        json_array_foreach(json_object_get(reply, "items"), i, item)
        {
            const char *id = json_string_value(json_object_get(item, "id"));
            json_t *metadata = json_object_get(item, "metadata");
            const char *path = json_string_value(json_object_get(metadata, "path"));
            if (id && path && !strncmp(path, folder_path(indexing->folder), root) &&
                path[root] == '/' && !strcmp(path + root + 1, id))
                json_object_set(indexing->known, id, metadata);
        }
        const char *next = json_string_value(json_object_get(reply, "next"));
        query.size = 0;
        more = next != NULL;
        if (next && !(buffer_printf(&query, "limit=%d", PAGE) && query_add(&query, "after", next)))
            status = error_no_memory(err, "the collection's items");
        json_decref(reply);
    }
    buffer_release(&query);
    return status;
}

static long long number_of(const json_t *metadata, const char *key)
{
    return json_integer_value(json_object_get(metadata, key));
}

/* ---- sending -----------------------------------------------------------------------------------
 */

/* Appends one line; takes the metadata. */
static enum status add_line(struct batch *batch, const char *id, json_t *metadata,
                            const char *vector, const char *bytes, size_t size, struct error *err)
{
    char *image = base64_text(bytes, size), *head = NULL;
    json_t *line = json_pack("{s:s, s:O}", "id", id, "metadata", metadata);
    if (line && vector)
        json_object_set_new(line, "vector", json_string(vector));
    head = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    /* The picture is put in as it is: base64 needs no escapes. */
    bool fine = image && head && buffer_append(&batch->lines, head, strlen(head) - 1) &&
                buffer_puts(&batch->lines, ",\"image\":\"") && buffer_puts(&batch->lines, image) &&
                buffer_puts(&batch->lines, "\"}\n");
    free(image);
    free(head);
    if (!fine) {
        json_decref(metadata);
        return error_no_memory(err, "a picture");
    }
    struct candidate *item = &batch->items[batch->n - 1];
    item->line = ++batch->n_lines;
    item->metadata = metadata;
    return STATUS_OK;
}

/* The vector that the item has, as base64 (malloc'd): its file was only touched. NULL: it has none.
 */
static char *stored_vector(struct indexing *indexing, const char *id)
{
    struct buffer rest;
    struct error ignored;
    json_t *reply = NULL;
    char *path = NULL, *text = NULL;
    buffer_init(&rest, 1 << 14);
    float *values = NULL;
    if (query_add(&rest, "", id) &&
        asprintf(&path, "%s/%s", indexing->items_path, rest.data + 1) > 0 &&
        !client_call(indexing->process, "GET", path, "vector=true", NULL, NULL, 0, &reply,
                     &ignored)) {
        const json_t *vector = json_object_get(reply, "vector");
        size_t n = json_array_size(vector);
        values = n ? alloc_array(n, sizeof *values) : NULL;
        for (size_t i = 0; values && i < n; i++)
            values[i] = (float)json_number_value(json_array_get(vector, i));
        text = values ? base64_text(values, n * sizeof *values) : NULL;
    }
    json_decref(reply);
    buffer_release(&rest);
    free(values);
    free(path);
    return text;
}

/* Reads the file and decides: nothing to do, a line in the batch, or a fault of its own. */
static enum status look_at(struct indexing *indexing, struct batch *batch, const char *id,
                           struct error *err)
{
    struct stat info;
    char *path, *bytes = NULL;
    size_t size = 0;
    struct error fault;
    enum status status = STATUS_OK;
    if (asprintf(&path, "%s/%s", folder_path(indexing->folder), id) < 0)
        return error_no_memory(err, "a path");
    const json_t *known = json_object_get(indexing->known, id);
    bool is_there = stat(path, &info) == 0 && S_ISREG(info.st_mode);
    long long mtime_ns = is_there ? info.st_mtim.tv_sec * 1000000000ll + info.st_mtim.tv_nsec : 0;
    batch->items[batch->n++] = (struct candidate){.id = id};
    bool is_unchanged = is_there && known && number_of(known, "mtime_ns") == mtime_ns &&
                        number_of(known, "size") == (long long)info.st_size;
    batch->items[batch->n - 1].is_unchanged = is_unchanged;
    if (!is_there || is_unchanged) { /* gone again: it is looked for later */
        free(path);
        return STATUS_OK;
    }
    if (file_read(path, indexing->max_file_bytes, &bytes, &size, &fault)) {
        note_fault(indexing, id, fault.message);
        free(path);
        return STATUS_OK;
    }
    char hash[SHA256_TEXT];
    struct sha256 sha256;
    sha256_init(&sha256);
    sha256_add(&sha256, bytes, size);
    if (sha256_end(&sha256, hash, err)) {
        free(bytes);
        free(path);
        return err->status;
    }
    json_t *metadata = json_pack("{s:s, s:I, s:I, s:s}", "path", path, "size", (json_int_t)size,
                                 "mtime_ns", (json_int_t)mtime_ns, "sha256", hash);
    const char *before = json_string_value(json_object_get(known, "sha256"));
    char *vector = before && !strcmp(before, hash) ? stored_vector(indexing, id) : NULL;
    if (!metadata)
        note_fault(indexing, id, "the path is not valid UTF-8");
    else
        status = add_line(batch, id, metadata, vector, bytes, size, err);
    free(vector);
    free(bytes);
    free(path);
    return status;
}

/* Sends the batch and counts what became of it. */
static enum status send_batch(struct indexing *indexing, struct batch *batch, struct error *err)
{
    struct buffer results;
    struct call_lines sums = {0};
    buffer_init(&results, RESULTS_BYTES_MAX);
    enum status status = STATUS_OK;
    if (batch->n_lines)
        status = client_lines(indexing->process, indexing->items_path, batch->lines.data,
                              batch->lines.size, &sums, &results, err);
    bool ok[BATCH_FILES + 1] = {false};
    const char *at = results.data, *end = at + results.size;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        json_t *line = json_loadb(at, (size_t)((stop ? stop : end) - at), 0, NULL);
        const json_t *error = json_object_get(line, "error");
        size_t number = (size_t)number_of(line, "line");
        for (size_t i = 0; i < batch->n && error; i++)
            if (batch->items[i].line == number)
                note_fault(indexing, batch->items[i].id,
                           json_string_value(json_object_get(error, "message")));
        if (!error && number <= BATCH_FILES)
            ok[number] = true;
        json_decref(line);
        at = stop ? stop + 1 : end;
    }
    pthread_mutex_lock(&indexing->mutex);
    for (size_t i = 0; i < batch->n; i++) {
        struct candidate *item = &batch->items[i];
        if (item->line && ok[item->line])
            json_object_set(indexing->learned, item->id, item->metadata);
        json_decref(item->metadata);
        indexing->unchanged += item->is_unchanged;
    }
    indexing->added += sums.added;
    indexing->updated += sums.updated;
    if (!status)
        indexing->done += batch->n;
    show_progress(indexing);
    pthread_mutex_unlock(&indexing->mutex);
    batch->n = batch->n_lines = batch->lines.size = 0;
    buffer_release(&results);
    return status;
}

static const char *take_file(struct indexing *indexing)
{
    pthread_mutex_lock(&indexing->mutex);
    bool more = !indexing->fault.status && indexing->next < indexing->files.n;
    const char *id = more ? indexing->files.items[indexing->next++] : NULL;
    pthread_mutex_unlock(&indexing->mutex);
    return id;
}

static void *sender_main(void *argument)
{
    struct indexing *indexing = argument;
    struct batch *batch = calloc(1, sizeof *batch);
    struct error err;
    enum status status = batch ? STATUS_OK : error_no_memory(&err, "a batch of pictures");
    const char *id = NULL;
    if (batch)
        buffer_init(&batch->lines,
                    BATCH_BYTES + (indexing->max_file_bytes + 4096) / 3 * 4 + (1 << 20));
    while (!status && (id = take_file(indexing))) {
        status = look_at(indexing, batch, id, &err);
        if (!status && (batch->n == BATCH_FILES || batch->lines.size > BATCH_BYTES))
            status = send_batch(indexing, batch, &err);
    }
    if (!status && batch->n)
        status = send_batch(indexing, batch, &err);
    if (status) {
        pthread_mutex_lock(&indexing->mutex);
        if (!indexing->fault.status)
            indexing->fault = err;
        pthread_mutex_unlock(&indexing->mutex);
    }
    for (size_t i = 0; batch && i < batch->n; i++)
        json_decref(batch->items[i].metadata);
    if (batch)
        buffer_release(&batch->lines);
    free(batch);
    return NULL;
}

/* Brings the collection up to the files of the list. */
static enum status index_files(struct indexing *indexing, struct error *err)
{
    pthread_t threads[SENDERS_MAX];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = (cores > 0 ? (size_t)cores : 1) + 1, started = 0;
    size_t wanted = (indexing->files.n + BATCH_FILES - 1) / BATCH_FILES;
    n = n < SENDERS_MAX ? n : SENDERS_MAX;
    n = n < wanted ? n : wanted;
    indexing->next = indexing->done = 0;
    indexing->started_ns = clock_ns();
    indexing->learned = json_object();
    if (!indexing->learned)
        return error_no_memory(err, "the collection's items");
    while (started < n && !pthread_create(&threads[started], NULL, sender_main, indexing))
        started++;
    if (!started && n)
        sender_main(indexing);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    json_object_update(indexing->known, indexing->learned);
    json_decref(indexing->learned);
    indexing->learned = NULL;
    if (indexing->fault.status)
        *err = indexing->fault;
    return indexing->fault.status;
}

/* ---- files that are gone -----------------------------------------------------------------------
 */

static bool is_gone(const struct indexing *indexing, const char *id)
{
    struct stat info;
    char *path;
    if (asprintf(&path, "%s/%s", folder_path(indexing->folder), id) < 0)
        return false;
    bool gone = stat(path, &info) != 0 && (errno == ENOENT || errno == ENOTDIR);
    free(path);
    return gone;
}

static enum status drop_item(struct indexing *indexing, const char *id, struct error *err)
{
    struct buffer rest;
    char *path = NULL;
    json_t *reply = NULL;
    int http_status;
    buffer_init(&rest, 1 << 14);
    enum status status = STATUS_OK;
    if (!query_add(&rest, "", id) ||
        asprintf(&path, "%s/%s", indexing->items_path, rest.data + 1) < 0)
        status = error_no_memory(err, "an item");
    if (!status)
        status = client_request(indexing->process, "DELETE", path, "", NULL, NULL, 0, &http_status,
                                &reply, err);
    if (!status && http_status != 200 && http_status != 404)
        note_fault(indexing, id, "it could not be removed");
    json_decref(reply);
    buffer_release(&rest);
    free(path);
    return status;
}

/* Items of this folder (of `only`, where given) whose file is gone: removed, or only counted. */
static enum status look_for_gone(struct indexing *indexing, const struct paths *only,
                                 struct error *err)
{
    struct paths gone = {0};
    enum status status = STATUS_OK;
    const char *id;
    json_t *metadata;
    if (only) {
        for (size_t i = 0; i < only->n && !status; i++)
            if (json_object_get(indexing->known, only->items[i]) &&
                is_gone(indexing, only->items[i]))
                status = paths_add(&gone, strdup(only->items[i]), err);
    } else {
        json_object_foreach(indexing->known, id, metadata)
        {
            if (!status && is_gone(indexing, id))
                status = paths_add(&gone, strdup(id), err);
        }
    }
    for (size_t i = 0; i < gone.n && !status; i++) {
        json_object_del(indexing->known, gone.items[i]);
        if (indexing->prunes)
            status = drop_item(indexing, gone.items[i], err);
        indexing->vanished++;
    }
    paths_release(&gone);
    return status;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static void print_sums(struct indexing *indexing, size_t n_files, double seconds)
{
    printf("%zu pictures: %zu added, %zu updated, %zu unchanged, %zu failed, %.1f s\n", n_files,
           indexing->added, indexing->updated, indexing->unchanged, indexing->n_faults, seconds);
    if (indexing->vanished)
        printf(indexing->prunes ? "%zu vanished, and were removed\n"
                                : "%zu vanished (--prune removes them)\n",
               indexing->vanished);
    print_faults(indexing);
    fflush(stdout);
}

/* One round over the files of the list. */
static enum status one_round(struct indexing *indexing, const struct paths *only_gone,
                             struct error *err)
{
    uint64_t began_ns = clock_ns();
    indexing->added = indexing->updated = indexing->unchanged = indexing->vanished = 0;
    enum status status = index_files(indexing, err);
    if (!status)
        status = look_for_gone(indexing, only_gone, err);
    bool is_news = !only_gone || indexing->added || indexing->updated || indexing->vanished ||
                   indexing->n_faults;
    if (!status && is_news)
        print_sums(indexing, indexing->files.n, (double)(clock_ns() - began_ns) / 1e9);
    return status;
}

static void forget_faults(struct indexing *indexing)
{
    json_array_clear(indexing->faults);
    indexing->n_faults = 0;
}

static enum status follow(struct indexing *indexing, struct error *err)
{
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    enum status status = STATUS_OK;
    while (!stopped && !status) {
        bool is_lost;
        paths_release(&indexing->files);
        status = folder_changes(indexing->folder, WATCH_MS, &indexing->files, &is_lost, err);
        forget_faults(indexing);
        if (!status && is_lost) {
            paths_release(&indexing->files);
            status = folder_walk(indexing->folder, &indexing->files, note_fault, indexing, err);
        }
        if (!status && (is_lost || indexing->files.n))
            status = one_round(indexing, is_lost ? NULL : &indexing->files, err);
    }
    return status;
}

static enum status run_index(struct indexing *indexing, const struct arguments *arguments,
                             bool *any_failed, struct error *err)
{
    json_t *settings = json_object(), *reply = NULL;
    if (!settings || !object_add_fields(settings, arguments)) {
        json_decref(settings);
        return error_no_memory(err, "the request");
    }
    enum status status =
        client_call_json(indexing->process, "PUT", indexing->path, settings, &reply, err);
    json_decref(settings);
    json_decref(reply);
    if (!status)
        status = folder_walk(indexing->folder, &indexing->files, note_fault, indexing, err);
    if (!status)
        status = learn_items(indexing, err);
    if (!status)
        status = one_round(indexing, NULL, err);
    *any_failed = indexing->n_faults > 0;
    if (!status && arguments->watch) {
        printf("watching %s\n", folder_path(indexing->folder));
        fflush(stdout);
        status = follow(indexing, err);
        *any_failed = false; /* each round has told its own */
    }
    return status;
}

int command_index(struct arguments *arguments)
{
    struct process process;
    struct error err;
    const char *name = arguments->operands[0];
    struct folder *folder = folder_open(arguments->operands[1], arguments->watch, &err);
    if (!folder)
        return command_fail(&err);
    if (process_open(&process, &arguments->settings, PROCESS_MODELS | PROCESS_STORE, &err)) {
        folder_close(folder);
        return command_fail(&err);
    }
    struct indexing indexing = {
        .process = &process,
        .folder = folder,
        .path = collection_path(name, ""),
        .items_path = collection_path(name, "/items"),
        .max_file_bytes = (process.settings.max_body_mb << 20) / 4 * 3,
        .prunes = arguments->prune,
        .known = json_object(),
        .faults = json_array(),
    };
    pthread_mutex_init(&indexing.mutex, NULL);
    enum status status = STATUS_OK;
    bool any_failed = false;
    if (!indexing.path || !indexing.items_path || !indexing.known || !indexing.faults)
        status = error_no_memory(&err, "the collection");
    if (!status)
        status = run_index(&indexing, arguments, &any_failed, &err);
    json_decref(indexing.known);
    json_decref(indexing.faults);
    free(indexing.path);
    free(indexing.items_path);
    paths_release(&indexing.files);
    pthread_mutex_destroy(&indexing.mutex);
    folder_close(folder);
    process_close(&process);
    return status ? command_fail(&err) : any_failed ? EXIT_FAULT : EXIT_FINE;
}
