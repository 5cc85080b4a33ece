/*
 * commands_store.c: `vlmd index` and `vlmd search`: a folder of pictures into a collection, and out
 * of it by words or by a picture.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/base/stats.h"
#include "server/client.h"
#include "server/commands.h"

enum { INDEX_BATCH = 32, INDEX_BATCH_BYTES = 24 << 20, DEPTH_MAX = 64, FAULTS_SHOWN = 20 };

/* ---- the walk
 * ------------------------------------------------------------------------------------- */

struct paths {
    char **items; /* relative to the folder */
    size_t n;
};

static void paths_release(struct paths *paths)
{
    for (size_t i = 0; i < paths->n; i++)
        free(paths->items[i]);
    free(paths->items);
}

static bool is_picture_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp"};
    size_t size = strlen(name);
    for (size_t i = 0; i < ARRAY_LENGTH(endings); i++) {
        size_t n = strlen(endings[i]);
        if (size > n && !strcasecmp(name + size - n, endings[i]))
            return true;
    }
    return false;
}

/* Adds the pictures under root/relative. Hidden files and links to directories are left out. */
static enum status walk(const char *root, const char *relative, int depth, struct paths *paths,
                        struct error *err)
{
    char *directory, *below;
    if (asprintf(&directory, "%s/%s", root, relative) < 0)
        return error_no_memory(err, "the list of pictures");
    struct dirent **entries = NULL;
    int n = scandir(directory, &entries, NULL, alphasort);
    enum status status = STATUS_OK;
    if (n < 0)
        status = error_set(err, STATUS_IO, "cannot read the directory %s", directory);
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        struct stat info;
        char *path = NULL;
        if (!status && name[0] != '.') {
            if (asprintf(&below, *relative ? "%s/%s" : "%s%s", relative, name) < 0 ||
                asprintf(&path, "%s/%s", root, below) < 0) {
                status = error_no_memory(err, "the list of pictures");
            } else if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode) && depth < DEPTH_MAX) {
                status = walk(root, below, depth + 1, paths, err);
                free(below);
            } else if (is_picture_name(name) && stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
                char **items = realloc_array(paths->items, paths->n + 1, sizeof *items);
                if (items) {
                    paths->items = items;
                    items[paths->n++] = below;
                } else {
                    free(below);
                    status = error_no_memory(err, "the list of pictures");
                }
            } else {
                free(below);
            }
            free(path);
        }
        free(entries[i]);
    }
    free(entries);
    free(directory);
    return status;
}

/* ---- index
 * ---------------------------------------------------------------------------------------- */

struct indexing {
    struct process *process;
    const char *directory;
    char *items_path; /* /v1/collections/NAME/items */
    struct paths paths;
    size_t done, added, updated, n_faults;
    json_t *faults; /* [{id, message}], the first FAULTS_SHOWN */
    uint64_t started_ns;
};

static void note_fault(struct indexing *indexing, const char *id, const char *message)
{
    if (indexing->n_faults++ < FAULTS_SHOWN)
        json_array_append_new(indexing->faults,
                              json_pack("{s:s, s:s}", "id", id, "message", message));
}

static void show_progress(const struct indexing *indexing)
{
    if (!isatty(STDERR_FILENO) || !indexing->paths.n)
        return;
    enum { WIDTH = 30 };
    size_t filled = indexing->done * WIDTH / indexing->paths.n;
    double seconds = (double)(clock_ns() - indexing->started_ns) / 1e9;
    double rate = seconds > 0 ? (double)indexing->done / seconds : 0;
    fprintf(stderr, "\r[%.*s%*s] %zu/%zu  %.1f/s  %.0f s left ", (int)filled,
            "##############################", (int)(WIDTH - filled), "", indexing->done,
            indexing->paths.n, rate,
            rate > 0 ? (double)(indexing->paths.n - indexing->done) / rate : 0.0);
    if (indexing->done == indexing->paths.n)
        fputc('\n', stderr);
}

/* Sends items [first, first + n) of the list as one request. */
static enum status send_batch(struct indexing *indexing, json_t *items, struct error *err)
{
    json_t *body = json_pack("{s:O}", "items", items), *reply;
    if (!body)
        return error_no_memory(err, "a batch of pictures");
    enum status status =
        client_call_json(indexing->process, "POST", indexing->items_path, body, &reply, err);
    json_decref(body);
    if (status)
        return status;
    indexing->added += (size_t)json_integer_value(json_object_get(reply, "added"));
    indexing->updated += (size_t)json_integer_value(json_object_get(reply, "updated"));
    size_t i;
    const json_t *fault;
    json_array_foreach(json_object_get(reply, "errors"), i, fault)
    {
        const char *id = json_string_value(json_object_get(fault, "id"));
        const json_t *inner = json_object_get(fault, "error");
        const char *message = json_string_value(json_object_get(inner ? inner : fault, "message"));
        note_fault(indexing, id ? id : "?", message ? message : "?");
    }
    json_decref(reply);
    return STATUS_OK;
}

static enum status index_all(struct indexing *indexing, struct error *err)
{
    size_t max_bytes = indexing->process->settings.max_body_mb << 20, batch_bytes = 0;
    json_t *items = json_array();
    enum status status = STATUS_OK;
    for (size_t i = 0; i < indexing->paths.n && !status; i++) {
        const char *id = indexing->paths.items[i];
        char *path, *bytes = NULL, *text = NULL;
        size_t size = 0;
        if (asprintf(&path, "%s/%s", indexing->directory, id) < 0) {
            status = error_no_memory(err, "a path");
            break;
        }
        if (file_read(path, max_bytes / 4 * 3, &bytes, &size, err)) {
            note_fault(indexing, id, err->message);
        } else if (!(text = base64_text(bytes, size))) {
            status = error_no_memory(err, "a picture");
        } else {
            json_t *item =
                json_pack("{s:s, s:s, s:{s:s}}", "id", id, "image", text, "metadata", "path", path);
            if (item)
                json_array_append_new(items, item);
            else
                note_fault(indexing, id, "the path is not valid UTF-8");
            batch_bytes += size;
        }
        free(text);
        free(bytes);
        free(path);
        bool last = i + 1 == indexing->paths.n;
        if (!status &&
            (last || json_array_size(items) == INDEX_BATCH || batch_bytes > INDEX_BATCH_BYTES)) {
            if (json_array_size(items))
                status = send_batch(indexing, items, err);
            json_array_clear(items);
            batch_bytes = 0;
            indexing->done = i + 1;
            show_progress(indexing);
        }
    }
    json_decref(items);
    return status;
}

int command_index(struct arguments *arguments)
{
    struct process process;
    struct error err;
    struct indexing indexing = {.process = &process, .directory = arguments->operands[1]};
    if (process_open(&process, &arguments->settings, PROCESS_MODELS | PROCESS_STORE, &err))
        return command_fail(&err);
    const char *name = arguments->operands[0];
    char *path = collection_path(name, "");
    json_t *settings = json_object(), *reply = NULL;
    enum status status = STATUS_OK;
    indexing.items_path = collection_path(name, "/items");
    indexing.faults = json_array();
    indexing.started_ns = clock_ns();
    if (!path || !settings || !indexing.items_path || !indexing.faults ||
        !object_add_fields(settings, arguments))
        status = error_no_memory(&err, "the request");
    if (!status)
        status = walk(indexing.directory, "", 0, &indexing.paths, &err);
    if (!status)
        status = client_call_json(&process, "PUT", path, settings, &reply, &err);
    if (!status)
        status = index_all(&indexing, &err);
    if (!status) {
        double seconds = (double)(clock_ns() - indexing.started_ns) / 1e9;
        printf("%zu pictures: %zu added, %zu updated, %zu failed, %.1f s\n", indexing.paths.n,
               indexing.added, indexing.updated, indexing.n_faults, seconds);
        size_t i;
        const json_t *fault;
        json_array_foreach(indexing.faults, i, fault)
            printf("failed: %s: %s\n", json_string_value(json_object_get(fault, "id")),
                   json_string_value(json_object_get(fault, "message")));
    }
    json_decref(reply);
    json_decref(settings);
    json_decref(indexing.faults);
    free(path);
    free(indexing.items_path);
    paths_release(&indexing.paths);
    process_close(&process);
    return status ? command_fail(&err) : indexing.n_faults ? EXIT_FAULT : EXIT_FINE;
}

/* ---- search
 * --------------------------------------------------------------------------------------- */

static enum status search_body(const struct arguments *arguments, size_t max_bytes, json_t *body,
                               struct error *err)
{
    const char *query = arguments->operands[1];
    if (!is_file(query)) {
        if (json_object_set_new(body, "text", json_string(query)))
            return error_set(err, STATUS_BAD_REQUEST, "the text is not valid UTF-8");
        return STATUS_OK;
    }
    char *bytes;
    size_t size;
    if (file_read(query, max_bytes, &bytes, &size, err))
        return err->status;
    char *text = base64_text(bytes, size);
    free(bytes);
    int rc = json_object_set_new(body, "image", text ? json_string(text) : NULL);
    free(text);
    return rc ? error_no_memory(err, "the query picture") : STATUS_OK;
}

int command_search(struct arguments *arguments)
{
    struct process process;
    struct error err;
    if (process_open(&process, &arguments->settings, PROCESS_MODELS | PROCESS_STORE, &err))
        return command_fail(&err);
    char *path = collection_path(arguments->operands[0], "/search");
    json_t *body = json_object(), *reply = NULL;
    enum status status = STATUS_OK;
    if (!path || !body || !object_add_fields(body, arguments))
        status = error_no_memory(&err, "the request");
    if (!status)
        status = search_body(arguments, process.settings.max_body_mb << 20, body, &err);
    if (!status)
        status = client_call_json(&process, "POST", path, body, &reply, &err);
    if (!status && arguments->json)
        print_json(reply);
    size_t i;
    const json_t *result;
    if (!status && !arguments->json)
        json_array_foreach(json_object_get(reply, "results"), i, result)
            printf("%.4f  %s\n", json_number_value(json_object_get(result, "score")),
                   json_string_value(json_object_get(result, "id")));
    json_decref(reply);
    json_decref(body);
    free(path);
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}
