/*
 * client.h: a request without a socket: how subcommands use the same api that HTTP clients do.
 */
#ifndef VLMD_SERVER_CLIENT_H
#define VLMD_SERVER_CLIENT_H

#include <jansson.h>

#include "server/arguments.h"
#include "api/form.h"
#include "server/process.h"

/* Sends one request and waits. *reply is the parsed JSON (to be json_decref'ed), whatever the
 * status; *http_status tells. A reply that is no JSON is an error. */
enum status client_request(struct process *process, const char *method, const char *path,
                           const char *query, const char *content_type, const void *body,
                           size_t body_bytes, int *http_status, json_t **reply, struct error *err);

/* The same, where any status but 2xx is an error (with the reply's message). */
enum status client_call(struct process *process, const char *method, const char *path,
                        const char *query, const char *content_type, const void *body,
                        size_t body_bytes, json_t **reply, struct error *err);
enum status client_call_json(struct process *process, const char *method, const char *path,
                             const json_t *body, json_t **reply, struct error *err);

/* Sends lines (whole ones) and waits for all of them; the result lines are appended. A full queue
 * is asked again. `sums` goes on from what it holds. */
enum status client_lines(struct process *process, const char *path, const char *body, size_t size,
                         struct call_lines *sums, struct buffer *results, struct error *err);

/* GETs a reply of any length; take() gets it piece by piece, and may return false: STATUS_CANCELLED
 * then, and err is as before. */
enum status client_stream(struct process *process, const char *path, const char *query,
                          bool (*take)(void *context, const char *data, size_t size), void *context,
                          struct error *err);

/* "/v1/collections/NAME" + rest, NAME percent-encoded; malloc'd. NULL: out of memory. */
char *collection_path(const char *name, const char *rest);

/* Appends "&name=value" ("name=value" to an empty query), percent-encoded. False: too long or no
 * memory. */
bool query_add(struct buffer *query, const char *name, const char *value);
/* …all the command line's request fields. */
bool query_add_fields(struct buffer *query, const struct arguments *arguments);
/* …as members of a JSON object: numbers, true and false by their look, other values as strings. */
bool object_add_fields(json_t *object, const struct arguments *arguments);

/* A whole file ("-" = standard input); *data is malloc'd. Above max_bytes: an error. */
enum status file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                      struct error *err);
bool is_file(const char *path);

/* A malloc'd base64 text; NULL: out of memory. */
char *base64_text(const void *data, size_t size);

/* Pretty JSON on standard output. */
void print_json(const json_t *value);

#endif
