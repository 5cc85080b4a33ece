/*
 * api_world.h: what suites of whole calls share: a runtime with the tiny reference checkpoints, a
 * store in memory, and calls to them without a socket.
 *
 * The world is one per process; api_world_open() and api_world_close() are a test case's fixture.
 */
#ifndef VLMD_TESTS_API_WORLD_H
#define VLMD_TESTS_API_WORLD_H

#include <check.h>
#include <jansson.h>

#include "api/endpoints.h"

/* Models: clip, captioner, answerer, matcher, and labeller (answers with one of three labels). */
extern struct runtime *runtime;
extern struct store *store;
extern struct api *api;
extern const struct api_options options;

void api_world_open(void);
void api_world_close(void);

/* Below tests/data; valid until the next call. */
char *data_path(const char *name);

struct reply {
    int status;
    json_t *json; /* owned; NULL where the body is not JSON */
    char *text;
    char retry_after[32];
};

void reply_free(struct reply *reply);

struct question {
    const char *method, *path, *query, *type;
    const char *body;
    size_t size;
    unsigned timeout_ms;
    uint64_t age_ns; /* how long ago its headers came */
    bool is_cancelled;
};

struct reply ask_with(struct api *asked, const struct question *question);
struct reply ask(const char *method, const char *path, const char *query, const char *type,
                 const char *body, size_t size);

/* A JSON body (malloc'd); in it, @name stands for the base64 of tests/data/images/name. */
char *expand(const char *template);
struct reply ask_json(const char *method, const char *path, const char *template);
struct reply post(const char *path, const char *template);
/* Expects 200. */
struct reply want(struct reply reply);

/* The wake of a call that waits on a semaphore (its context). */
void on_wake(void *semaphore);

/* What an answer must have. */
const char *string_at(const json_t *object, const char *key);
double number_at(const json_t *object, const char *key);

/* Runs a case whose fixture is the world; returns the exit status. */
int api_world_run(const char *name, void (*add)(TCase *tcase));

#endif
