/*
 * commands_copy.c: `vlmd export` and `vlmd import`: a collection into a file of JSON lines, and out
 * of it. The lines are those of the api (api/export.c, api/items_add.c); both go through a file of
 * any size with little memory.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/stats.h"
#include "server/client.h"
#include "server/commands.h"

enum { PIECE_BYTES = 2 << 20, RESULTS_BYTES_MAX = 1 << 30, FAULTS_SHOWN = 1000 };

static bool is_standard(const char *path)
{
    return !strcmp(path, "-");
}

/* ---- export ------------------------------------------------------------------------------------
 */

struct exporting {
    FILE *file;
    size_t lines;
};

static bool write_piece(void *context, const char *data, size_t size)
{
    struct exporting *exporting = context;
    size_t before = exporting->lines;
    for (const char *at = data; (at = memchr(at, '\n', size - (size_t)(at - data))); at++)
        exporting->lines++;
    if (isatty(STDERR_FILENO) && before / 1000 != exporting->lines / 1000)
        fprintf(stderr, "\r%zu items ", exporting->lines - 1);
    return fwrite(data, 1, size, exporting->file) == size;
}

/* Into `path`.part first, so that a file of that name is always a whole one. */
int command_export(struct arguments *arguments)
{
    const char *path = arguments->operands[1];
    bool standard = is_standard(path);
    struct exporting exporting = {.file = standard ? stdout : NULL};
    struct process process;
    struct error err;
    struct buffer query;
    char *part = NULL, *from = NULL;
    if (process_open(&process, &arguments->settings, PROCESS_STORE, &err))
        return command_fail(&err);
    enum status status = STATUS_OK;
    buffer_init(&query, 1 << 16);
    from = collection_path(arguments->operands[0], "/export");
    if (!from || !query_add_fields(&query, arguments) || asprintf(&part, "%s.part", path) < 0)
        status = error_no_memory(&err, "the request");
    /* All of it, in the shortest form, unless the options say else. */
    const char *const defaults[][2] = {{"encoding", "base64"}, {"images", "true"}};
    for (size_t i = 0; i < 2 && !status; i++) {
        bool given = false;
        for (size_t f = 0; f < arguments->n_fields; f++)
            given |= !strcmp(arguments->fields[f].name, defaults[i][0]);
        if (!given && !query_add(&query, defaults[i][0], defaults[i][1]))
            status = error_no_memory(&err, "the request");
    }
    if (!status && !standard && !(exporting.file = fopen(part, "we")))
        status = error_set(&err, STATUS_IO, "cannot write %s: %s", part, strerror(errno));
    if (!status) {
        status = client_stream(&process, from, query.data, write_piece, &exporting, &err);
        bool written = fflush(exporting.file) == 0 && status != STATUS_CANCELLED;
        if (written && !status && !standard)
            written = fsync(fileno(exporting.file)) == 0;
        int reason = errno;
        if (!standard && fclose(exporting.file) && written) {
            written = false;
            reason = errno;
        }
        if (!written)
            status = error_set(&err, STATUS_IO, "cannot write %s: %s", part, strerror(reason));
        if (!status && !standard && rename(part, path))
            status = error_set(&err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
        if (status && !standard)
            unlink(part);
    }
    if (!status)
        fprintf(stderr, "%s%zu items\n", isatty(STDERR_FILENO) ? "\r" : "",
                exporting.lines ? exporting.lines - 1 : 0);
    buffer_release(&query);
    free(from);
    free(part);
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}

/* ---- import ------------------------------------------------------------------------------------
 */

struct importing {
    struct process *process;
    char *path, *items_path;
    struct buffer piece;
    struct call_lines sums;
    json_t *faults; /* the first FAULTS_SHOWN result lines that are not ok */
    uint64_t started_ns;
};

/* The collection is made as the file's first line says, where it does not exist. */
static enum status make_collection(struct importing *importing, const char *line, size_t size,
                                   struct error *err)
{
    static const char *const settings[] = {"metric", "precision", "thumbnail"};
    int http_status;
    json_t *reply = NULL, *body = json_object();
    json_t *head = json_loadb(line, size, 0, NULL), *from = json_object_get(head, "collection");
    enum status status = client_request(importing->process, "GET", importing->path, "", NULL, NULL,
                                        0, &http_status, &reply, err);
    json_decref(reply);
    if (!status && http_status == 404 && !from)
        status = error_set(err, STATUS_NOT_FOUND,
                           "there is no such collection, and the file's first line does not "
                           "describe it");
    if (!status && http_status == 404) {
        for (size_t i = 0; i < 3; i++)
            json_object_set(body, settings[i], json_object_get(from, settings[i]));
        const json_t *model = json_object_get(from, "model");
        const char *name = json_is_string(model) ? "model" : "dimensions";
        json_object_set(body, name, json_object_get(from, name));
        status = client_call_json(importing->process, "PUT", importing->path, body, &reply, err);
        if (!status)
            json_decref(reply);
    }
    json_decref(head);
    json_decref(body);
    return status;
}

static void note_faults(struct importing *importing, const struct buffer *results)
{
    const char *at = results->data, *end = at + results->size;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        json_t *line = json_loadb(at, (size_t)((stop ? stop : end) - at), 0, NULL);
        if (!json_is_true(json_object_get(line, "ok")) &&
            json_array_size(importing->faults) < FAULTS_SHOWN)
            json_array_append(importing->faults, line);
        json_decref(line);
        at = stop ? stop + 1 : end;
    }
}

/* The first `size` bytes of the piece, whole lines, are added. */
static enum status send_piece(struct importing *importing, size_t size, struct error *err)
{
    struct buffer *piece = &importing->piece, results;
    buffer_init(&results, RESULTS_BYTES_MAX);
    enum status status = STATUS_OK;
    if (!importing->sums.lines) {
        const char *stop = memchr(piece->data, '\n', size);
        status = make_collection(importing, piece->data, stop ? (size_t)(stop - piece->data) : size,
                                 err);
    }
    size_t failed = importing->sums.failed;
    if (!status)
        status = client_lines(importing->process, importing->items_path, piece->data, size,
                              &importing->sums, &results, err);
    if (importing->sums.failed > failed)
        note_faults(importing, &results);
    buffer_release(&results);
    memmove(piece->data, piece->data + size, piece->size - size);
    piece->size -= size;
    if (!status && isatty(STDERR_FILENO)) {
        double seconds = (double)(clock_ns() - importing->started_ns) / 1e9;
        fprintf(stderr, "\r%zu lines, %.0f/s ", importing->sums.lines,
                (double)importing->sums.lines / seconds);
    }
    return status;
}

static enum status read_all(struct importing *importing, FILE *file, const char *path,
                            struct error *err)
{
    struct buffer *piece = &importing->piece;
    enum status status = STATUS_OK;
    char block[64 << 10];
    size_t n;
    while (!status && (n = fread(block, 1, sizeof block, file)) > 0) {
        if (!buffer_append(piece, block, n))
            return error_set(err, STATUS_BODY_TOO_LARGE,
                             "line %zu of %s is longer than %zu bytes (max_body_mb)",
                             importing->sums.lines + 1, path, piece->max_bytes);
        const char *stop =
            piece->size >= PIECE_BYTES ? memrchr(piece->data, '\n', piece->size) : NULL;
        if (stop)
            status = send_piece(importing, (size_t)(stop + 1 - piece->data), err);
    }
    if (!status && ferror(file))
        status = error_set(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
    if (!status && piece->size)
        status = send_piece(importing, piece->size, err);
    return status;
}

int command_import(struct arguments *arguments)
{
    const char *name = arguments->operands[0], *path = arguments->operands[1];
    FILE *file = is_standard(path) ? stdin : fopen(path, "re");
    struct process process;
    struct error err;
    if (!file) {
        error_set(&err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
        return command_fail(&err);
    }
    if (process_open(&process, &arguments->settings, PROCESS_MODELS | PROCESS_STORE, &err)) {
        fclose(file);
        return command_fail(&err);
    }
    struct importing importing = {
        .process = &process,
        .path = collection_path(name, ""),
        .items_path = collection_path(name, "/items"),
        .faults = json_array(),
        .started_ns = clock_ns(),
    };
    buffer_init(&importing.piece, PIECE_BYTES + (process.settings.max_body_mb << 20));
    enum status status = STATUS_OK;
    if (!importing.path || !importing.items_path || !importing.faults)
        status = error_no_memory(&err, "the request");
    if (!status)
        status = read_all(&importing, file, path, &err);
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    const struct call_lines *sums = &importing.sums;
    printf("%zu lines: %zu added, %zu updated, %zu failed, %.1f s\n", sums->lines, sums->added,
           sums->updated, sums->failed, (double)(clock_ns() - importing.started_ns) / 1e9);
    size_t i;
    const json_t *fault;
    json_array_foreach(importing.faults, i, fault) printf(
        "failed: line %lld: %s\n", (long long)json_integer_value(json_object_get(fault, "line")),
        json_string_value(json_object_get(json_object_get(fault, "error"), "message")));
    if (sums->failed > json_array_size(importing.faults))
        printf("failed: and %zu more\n", sums->failed - json_array_size(importing.faults));
    fclose(file);
    json_decref(importing.faults);
    buffer_release(&importing.piece);
    free(importing.path);
    free(importing.items_path);
    size_t failed = sums->failed;
    process_close(&process);
    return status ? command_fail(&err) : failed ? EXIT_FAULT : EXIT_FINE;
}
