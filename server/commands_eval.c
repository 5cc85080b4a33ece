/*
 * commands_eval.c: `vlmd eval DATASET`: how right the models are on a data set of one's own.
 *
 * The data set is JSON lines (or a folder with metadata.jsonl, as Hugging Face's imagefolder has
 * it): a row is a picture and what is true of it, and its fields say what is asked. Rows are asked
 * through the same API as a client's, several at once so that batches fill; the measures are those
 * of core/eval.
 */
#include <libgen.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/eval/eval.h"
#include "server/client.h"
#include "server/commands.h"
#include "server/evaluation.h"

enum { ASKERS_MAX = 64, SHOWN_ERRORS_MAX = 3 };

/* ---- the data set
 * --------------------------------------------------------------------------------
 */

static enum status read_rows(struct evaluation *evaluation, FILE *file, size_t limit,
                             struct error *err)
{
    char *line = NULL;
    size_t size = 0, n = 0, room = 0;
    ssize_t got;
    enum status status = STATUS_OK;
    while (!status && evaluation->n_rows < limit && (got = getline(&line, &size, file)) >= 0) {
        json_error_t fault;
        n++;
        if (strspn(line, " \t\r\n") == (size_t)got)
            continue;
        json_t *fields = json_loadb(line, (size_t)got, JSON_REJECT_DUPLICATES, &fault);
        if (!json_is_object(fields)) {
            json_decref(fields);
            status = error_set(err, STATUS_BAD_REQUEST, "line %zu is no JSON object: %s", n,
                               fields ? "it is something else" : fault.text);
            break;
        }
        if (evaluation->n_rows == room) {
            room = room ? 2 * room : 256;
            struct row *more = realloc(evaluation->rows, room * sizeof *more);
            if (!more) {
                json_decref(fields);
                status = error_no_memory(err, "the data set");
                break;
            }
            evaluation->rows = more;
        }
        evaluation->rows[evaluation->n_rows++] = (struct row){.fields = fields, .line = n};
    }
    free(line);
    if (!status && evaluation->n_rows == 0)
        status = error_set(err, STATUS_BAD_REQUEST, "it has no rows");
    return status;
}

static enum status open_data_set(struct evaluation *evaluation, const char *path, size_t limit,
                                 struct error *err)
{
    char name[4096];
    struct stat info;
    bool is_folder = !stat(path, &info) && S_ISDIR(info.st_mode);
    snprintf(name, sizeof name, is_folder ? "%s/metadata.jsonl" : "%s", path);
    FILE *file = fopen(name, "re");
    if (!file)
        return error_set(err, STATUS_NOT_FOUND, "cannot read %s", name);
    snprintf(evaluation->folder, sizeof evaluation->folder, "%s", dirname(name));
    enum status status = read_rows(evaluation, file, limit, err);
    fclose(file);
    if (status)
        error_prefix(err, "%s", path);
    return status;
}

static const struct eval_task *find_task(const struct evaluation *evaluation, const char *name,
                                         struct error *err)
{
    char names[256] = "";
    for (size_t i = 0; eval_task_at(i); i++) {
        const struct eval_task *task = eval_task_at(i);
        if (name ? !strcmp(task->name, name) : task->fits(evaluation->rows[0].fields))
            return task;
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", task->name);
    }
    error_set(err, STATUS_BAD_REQUEST,
              name ? "there is no task '%s' to evaluate; there are %s"
                   : "%sthe first row says nothing that can be asked: give question and answer, "
                     "label, texts and match, boxes, masks, or caption (tasks: %s)",
              name ? name : "", names);
    return NULL;
}

/* ---- asking
 * --------------------------------------------------------------------------------------
 */

static enum status ask(const struct evaluation *evaluation, struct row *row, struct error *err)
{
    json_t *body = json_object();
    object_add_fields(body, evaluation->arguments);
    enum status status = evaluation->task->ask(evaluation, row, body, err);
    if (!status)
        status = evaluation_add_picture(evaluation, row, body, err);
    if (!status)
        status = evaluation_call(evaluation, evaluation->task->path, body, &row->reply, err);
    json_decref(body);
    if (!status)
        status = evaluation->task->score(evaluation, row, err);
    return status;
}

static void progress(struct evaluation *evaluation, size_t done)
{
    static const char bar[] = "##############################";
    if (!isatty(STDERR_FILENO))
        return;
    double seconds = (double)(clock_ns() - evaluation->started_ns) / 1e9;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    int filled = (int)(done * 30 / evaluation->n_rows);
    fprintf(stderr, "\r[%-30.*s] %zu/%zu  %.1f rows/s  %.0f s left ", filled, bar, done,
            evaluation->n_rows, rate, rate > 0 ? (double)(evaluation->n_rows - done) / rate : 0.0);
    if (done == evaluation->n_rows)
        fputc('\n', stderr);
}

/* One of several that take the next row until there is none. */
static void *asker(void *context)
{
    struct evaluation *evaluation = context;
    for (;;) {
        size_t i = atomic_fetch_add(&evaluation->next_row, 1);
        if (i >= evaluation->n_rows)
            return NULL;
        struct row *row = &evaluation->rows[i];
        struct error err = {0};
        row->failed = ask(evaluation, row, &err) != STATUS_OK;
        pthread_mutex_lock(&evaluation->lock);
        if (row->failed && evaluation->n_failed++ < SHOWN_ERRORS_MAX)
            fprintf(stderr, "vlmd: line %zu: %s\n", row->line, err.message);
        progress(evaluation, ++evaluation->n_done);
        pthread_mutex_unlock(&evaluation->lock);
    }
}

static void ask_all(struct evaluation *evaluation)
{
    pthread_t threads[ASKERS_MAX];
    size_t n = 0, wanted = evaluation->process->settings.max_batch;
    wanted = wanted > ASKERS_MAX ? ASKERS_MAX : wanted;
    for (; n < wanted && n < evaluation->n_rows; n++)
        if (pthread_create(&threads[n], NULL, asker, evaluation))
            break;
    if (n == 0)
        asker(evaluation);
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

/* ---- what is printed
 * -----------------------------------------------------------------------------
 */

static void add_kinds(const struct evaluation *evaluation, json_t *report)
{
    json_t *kinds = json_object();
    for (size_t i = 0; i < evaluation->n_rows; i++) {
        const struct row *row = &evaluation->rows[i];
        const char *kind = json_string_value(json_object_get(row->fields, "kind"));
        if (!kind || row->failed || !evaluation->task->scores[0])
            continue;
        json_t *entry = json_object_get(kinds, kind);
        if (!entry) {
            entry = json_pack("{s:i, s:f}", "rows", 0, evaluation->task->scores[0], 0.0);
            json_object_set_new(kinds, kind, entry);
        }
        double n = (double)json_integer_value(json_object_get(entry, "rows"));
        double mean = json_number_value(json_object_get(entry, evaluation->task->scores[0]));
        json_object_set_new(entry, "rows", json_integer((json_int_t)n + 1));
        json_object_set_new(entry, evaluation->task->scores[0],
                            json_real((mean * n + row->scores[0]) / (n + 1)));
    }
    if (json_object_size(kinds))
        json_object_set_new(report, "kinds", kinds);
    else
        json_decref(kinds);
}

static enum status make_report(struct evaluation *evaluation, json_t **out, struct error *err)
{
    const struct eval_task *task = evaluation->task;
    json_t *figures = json_object();
    const char *model = "";
    size_t n = evaluation->n_rows - evaluation->n_failed;
    double sums[EVAL_SCORES_MAX] = {0};
    enum status status = task->whole && n ? task->whole(evaluation, figures, err) : STATUS_OK;
    double seconds = (double)(clock_ns() - evaluation->started_ns) / 1e9;
    for (size_t i = 0; i < evaluation->n_rows; i++) {
        const struct row *row = &evaluation->rows[i];
        if (row->failed)
            continue;
        const char *name = json_string_value(json_object_get(row->reply, "model"));
        model = name ? name : model;
        for (size_t k = 0; k < EVAL_SCORES_MAX; k++)
            sums[k] += row->scores[k];
    }
    for (size_t k = 0; k < EVAL_SCORES_MAX && task->scores[k]; k++)
        json_object_set_new(figures, task->scores[k], json_real(n ? sums[k] / (double)n : 0));
    *out = json_pack("{s:s, s:s, s:I, s:I, s:f, s:o}", "task", task->name, "model", model, "rows",
                     (json_int_t)evaluation->n_rows, "failed", (json_int_t)evaluation->n_failed,
                     "rows_per_second", (double)evaluation->n_rows / fmax(seconds, 1e-9), "figures",
                     figures);
    if (*out)
        add_kinds(evaluation, *out);
    return status;
}

static void print_report(const json_t *report)
{
    const char *name, *kind;
    json_t *value, *entry;
    printf("%s: %lld rows, %lld failed, model %s, %.1f rows/s\n",
           json_string_value(json_object_get(report, "task")),
           (long long)json_integer_value(json_object_get(report, "rows")),
           (long long)json_integer_value(json_object_get(report, "failed")),
           json_string_value(json_object_get(report, "model")),
           json_number_value(json_object_get(report, "rows_per_second")));
    json_object_foreach(json_object_get(report, "figures"), name, value)
        printf("  %-22s %.4f\n", name, json_number_value(value));
    json_object_foreach(json_object_get(report, "kinds"), kind, entry)
    {
        const char *of = json_object_iter_key(json_object_iter_at(entry, "rows"));
        json_object_foreach(entry, of, value) if (strcmp(of, "rows"))
            printf("    %-20s %.4f  (%lld rows)\n", kind, json_number_value(value),
                   (long long)json_integer_value(json_object_get(entry, "rows")));
    }
}

/* Each row with what was answered and how right it is, for looking at what went wrong. */
static enum status write_rows(const struct evaluation *evaluation, const char *path,
                              struct error *err)
{
    FILE *file = fopen(path, "we");
    for (size_t i = 0; file && i < evaluation->n_rows; i++) {
        const struct row *row = &evaluation->rows[i];
        json_object_set(row->fields, "reply", row->reply ? row->reply : json_null());
        for (size_t k = 0; k < EVAL_SCORES_MAX && evaluation->task->scores[k]; k++)
            json_object_set_new(row->fields, evaluation->task->scores[k],
                                row->failed ? json_null() : json_real(row->scores[k]));
        json_dumpf(row->fields, file, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fputc('\n', file);
    }
    bool ok = file && !ferror(file);
    if (file && fclose(file))
        ok = false;
    return ok ? STATUS_OK : error_set(err, STATUS_IO, "cannot write %s", path);
}

/* ---- the command
 * ---------------------------------------------------------------------------------
 */

/* An option of the command itself: no field of the requests. */
static const char *take_option(struct arguments *arguments, const char *name)
{
    for (size_t i = 0; i < arguments->n_fields; i++)
        if (!strcmp(arguments->fields[i].name, name)) {
            const char *value = arguments->fields[i].value;
            memmove(&arguments->fields[i], &arguments->fields[i + 1],
                    (arguments->n_fields - i - 1) * sizeof arguments->fields[0]);
            arguments->n_fields--;
            return value;
        }
    return NULL;
}

static enum status evaluate(struct evaluation *evaluation, const char *out, struct error *err)
{
    evaluation->started_ns = clock_ns();
    if (evaluation->task->ask)
        ask_all(evaluation);
    json_t *report = NULL;
    enum status status = make_report(evaluation, &report, err);
    if (!status && evaluation->n_failed == evaluation->n_rows)
        status = error_set(err, STATUS_UNPROCESSABLE, "no row could be asked");
    if (!status && evaluation->arguments->json)
        print_json(report);
    else if (!status)
        print_report(report);
    json_decref(report);
    if (!status && out)
        status = write_rows(evaluation, out, err);
    return status;
}

int command_eval(struct arguments *arguments)
{
    struct process process;
    struct error err = {0};
    const char *task = take_option(arguments, "task"), *limit = take_option(arguments, "limit");
    const char *out = take_option(arguments, "out");
    char *end = NULL;
    unsigned long long rows = limit ? strtoull(limit, &end, 10) : SIZE_MAX;
    if (limit && (*end || !rows || *limit == '-'))
        return command_usage("--limit: expected a number of rows, found '%s'", limit);
    struct evaluation evaluation = {.arguments = arguments, .process = &process};
    pthread_mutex_init(&evaluation.lock, NULL);
    enum status status = open_data_set(&evaluation, arguments->operands[0], rows, &err);
    if (!status && !(evaluation.task = find_task(&evaluation, task, &err)))
        status = err.status;
    if (!status)
        status = evaluation_prepare(&evaluation, &err);
    if (!status) {
        status = process_open(&process, &arguments->settings, PROCESS_MODELS, &err);
        if (!status) {
            status = evaluate(&evaluation, out, &err);
            process_close(&process);
        }
    }
    evaluation_release(&evaluation);
    pthread_mutex_destroy(&evaluation.lock);
    return status ? command_fail(&err) : EXIT_FINE;
}
