/*
 * evaluation.h: what `vlmd eval` works on, and the tasks that it knows. Adding one is one struct
 * eval_task and one line in evaluation.c's table.
 */
#ifndef VLMD_SERVER_EVALUATION_H
#define VLMD_SERVER_EVALUATION_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/arguments.h"
#include "server/process.h"

enum { EVAL_SCORES_MAX = 2 };

struct row {
    json_t *fields; /* owned */
    json_t *reply;  /* owned; NULL until it is asked */
    size_t line;    /* of the data set, from 1 */
    double scores[EVAL_SCORES_MAX];
    bool failed;
};

struct evaluation {
    const struct eval_task *task;
    const struct arguments *arguments;
    struct process *process;
    struct row *rows;
    size_t n_rows;
    char folder[4096]; /* that pictures' names are relative to */
    json_t *labels;    /* all that rows name, without repeats, in order */
    uint64_t started_ns;
    atomic_size_t next_row;
    pthread_mutex_t lock; /* n_done, n_failed, and the terminal */
    size_t n_done, n_failed;
};

struct eval_task {
    const char *name;
    const char *path;                    /* the endpoint */
    const char *scores[EVAL_SCORES_MAX]; /* each row's figures, reported as their mean */
    bool (*fits)(const json_t *fields);  /* whether a row asks this */
    /* The request's fields but the picture. NULL: `whole` asks by itself. */
    enum status (*ask)(const struct evaluation *evaluation, const struct row *row, json_t *body,
                       struct error *err);
    /* Fills row->scores from row->reply. */
    enum status (*score)(const struct evaluation *evaluation, struct row *row, struct error *err);
    /* Optional: figures of all rows together. */
    enum status (*whole)(struct evaluation *evaluation, json_t *figures, struct error *err);
};

const struct eval_task *eval_task_at(size_t i); /* NULL past the end */

/* Collects the labels. */
enum status evaluation_prepare(struct evaluation *evaluation, struct error *err);
void evaluation_release(struct evaluation *evaluation);

/* Sets "image" of a request: the row's `image` or `file_name`, read and encoded. */
enum status evaluation_add_picture(const struct evaluation *evaluation, const struct row *row,
                                   json_t *body, struct error *err);

/* One request, again and again while the queue is full. */
enum status evaluation_call(const struct evaluation *evaluation, const char *path,
                            const json_t *body, json_t **reply, struct error *err);

#endif
