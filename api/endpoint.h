/*
 * endpoint.h: what an endpoint is, and what it may use of the call that it answers.
 *
 * An endpoint is one file that ends in one `const struct endpoint`, and one line in endpoints.c
 * (the process's own, such as health and metrics, come in through api_options.extra). Its field
 * table is the request's schema: types, bounds, coercion of multipart and query values, error
 * messages and openapi.json all come from it.
 *
 *   begin()   reads call->form, prepares works, and either writes the reply or calls call_submit()
 *   finish()  runs when the submitted job is done; it may submit again (search: embed, search,
 *             rerank), or writes the reply
 *
 * Both run on a worker thread (begin of an inline endpoint on an HTTP thread: it must not block or
 * compute). The reply is written with call->out, a JSON object that the call opens and closes and
 * to which it adds `model` and `timings`; or as other bytes with call_reply_bytes().
 */
#ifndef VLMD_API_ENDPOINT_H
#define VLMD_API_ENDPOINT_H

#include <pthread.h>

#include "api/api.h"
#include "api/form.h"
#include "api/render.h"
#include "api/stream.h"
#include "core/base/arena.h"

enum {
    BODY_JSON = 1,
    BODY_MULTIPART = 2,
    BODY_IMAGE = 4, /* a raw picture; it becomes the first picture field of the table */
    BODY_FORMS = BODY_JSON | BODY_MULTIPART | BODY_IMAGE,
    BODY_OPTIONAL = 8, /* an empty body is fine */
    BODY_LINES = 16,   /* lines of JSON (LINES_TYPE), any number of them; see api.h */
};

/* A picture for examples. */
#define EXAMPLE_PICTURE                                                                            \
    "data:image/png;base64,"                                                                       \
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAHElEQVR42m"                                   \
    "M4YaMBR3JIiIGaEgs04EgOCVFRAgAEcEJBGHHlbAAAAABJRU5ErkJggg=="

struct endpoint {
    const char *method; /* GET, POST, PUT, DELETE */
    const char *path;   /* /v1/collections/{collection}/items/{id} */
    const char *id;     /* operationId */
    const char *tag;    /* groups them in openapi.json */
    const char *summary;
    unsigned body;                   /* BODY_…; 0 = no body is read */
    const struct field *fields;      /* ended by a NULL name; NULL = none */
    const struct field *more_fields; /* a block shared by several endpoints, likewise */
    /* For openapi.json only: the reply's fields (NULL = it is no JSON), content types of other
     * replies, whether it may answer 201, and a request's JSON body, written with ' for ". */
    const struct field *reply;
    const char *reply_types[6];
    bool creates;
    const char *example;
    bool uses_model;   /* `model` is a field; call->lane is found before begin() runs */
    enum task task;    /* where uses_model: what the model must be able to do */
    bool inline_reply; /* begin() always answers, is cheap, and may run on the HTTP thread */
    bool is_public;    /* needs no API key (health) */
    enum status (*begin)(struct call *call, struct error *err);
    enum status (*finish)(struct call *call, struct error *err);
    /* Optional: new text of a stream's choice, as one JSON object. NULL: it cannot stream. Its
     * finish() then sends the rest with stream_text(); the usual reply goes as the last event. */
    void (*delta)(struct call *call, struct json_writer *out, size_t choice, struct span text);
    /* Optional: the reply is bytes of any number, of type reply_types[0], read as the client takes
     * them. After begin(), more() appends the next (a step's worth), again and again until *ended.
     */
    enum status (*more)(struct call *call, struct buffer *out, bool *ended, struct error *err);
};

struct call {
    struct api *api;
    const struct endpoint *endpoint;
    struct route route;
    struct http_request request;

    /* What begin() and finish() work with. */
    struct arena arena; /* lives as long as the call */
    struct form form;
    struct lane *lane;         /* whose model answers; NULL = none */
    const struct model *model; /* lane_model(lane) */
    bool has_priority;         /* the request says which */
    enum priority priority;
    uint64_t deadline_ns;
    struct json_writer out;  /* inside the reply's object */
    struct job *job;         /* in finish(): the job that is done */
    void *state;             /* the endpoint's own, from the arena */
    struct call_lines lines; /* of a body of lines: how far begin() and finish() came */
    int stage;               /* the endpoint's own; 0 at first */
    /* Called when the call is freed, for what does not live in the arena. */
    void (*release_state)(void *state);

    /* The call's own. */
    int phase;
    struct http_reply reply;
    bool is_bytes; /* the reply is not call->out */
    struct call_timings timings;
    struct call_warning *warnings, **last_warning; /* in the arena */
    size_t n_warnings;
    size_t n_pictures, n_cached; /* works that had pictures; whose features were all known */
    struct lane *submit_lane;
    struct job *submit_job;
    struct stream stream;
    enum status outcome; /* once it is done */
    struct error fault;  /* likewise; outcome is its status */
    /* Guards what follows and the shared part of stream; last in the order. */
    pthread_mutex_t lock;
    struct job *running;
    bool cancelled;
    bool parked;   /* no step is under way: whoever has news calls wake */
    bool job_done; /* the submitted job has its results */
    void (*wake)(void *context);
    void *context;
};

/* A path parameter by position. */
const char *call_param(const struct call *call, size_t i);

/* Finds the model for a task by name (NULL = the server's default) and makes it the call's. */
enum status call_use_model(struct call *call, const char *name, enum task task, struct error *err);

/* Admission, before anything is decoded: n_items within max_items, and room for them in the lane's
 * queue (where the call has a lane). `param` names the field that holds them. */
enum status call_admit(struct call *call, size_t n_items, const char *param, struct error *err);

/* A picture's bytes (decoded into the arena where they came as base64). */
enum status call_picture_bytes(struct call *call, const struct picture *picture, struct span *out,
                               struct error *err);
/* …decoded and preprocessed for the call's model, into pixels that the caller releases (usually a
 * work's slot, which its job releases). */
enum status call_pixels(struct call *call, const struct picture *picture, struct pixels *out,
                        struct error *err);
enum status call_pixels_from_bytes(struct call *call, struct span bytes, const char *param,
                                   struct pixels *out, struct error *err);
/* A text as tokens of the call's model. Too long (max_text_bytes): STATUS_TOO_LONG. */
enum status call_tokens(struct call *call, enum task task, struct span text, const char *param,
                        struct tokens *out, struct error *err);

/* An instruction or question about n_images pictures as a generating model's prompt: a model that
 * converses gets it as a user's message after the pictures, others as call_tokens() has it. */
enum status call_prompt(struct call *call, enum task task, struct span text, const char *param,
                        size_t n_images, struct tokens *out, struct error *err);

/* Adds a sentence to the reply's `warnings`, once; what is too many is counted in the last one.
 * Texts that call_tokens() had to cut are warned of there. */
void call_warn(struct call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* STATUS_CANCELLED or STATUS_DEADLINE when nobody waits for the reply any more: for loops that
 * compute for long in begin() or finish(). */
enum status call_check_alive(struct call *call, struct error *err);

/* A job of the call's model with deadline and wake-up set; NULL: out of memory. The caller either
 * submits or frees it. */
struct job *call_job(struct call *call, enum task task, size_t n_works, struct error *err);
/* Takes the job; it is queued when begin() or finish() has returned STATUS_OK. Once per return. */
void call_submit(struct call *call, struct job *job);

/* A reply that is not the usual JSON object: bytes as they are. content_type is static.
 * call_reply_buffer gives the buffer to fill instead. */
enum status call_reply_bytes(struct call *call, const char *content_type, const void *data,
                             size_t size, struct error *err);
struct buffer *call_reply_buffer(struct call *call, const char *content_type);
/* Another status than 200 for a reply that is no error (201). */
void call_status(struct call *call, int status);

/* "model@revision" of the call's model, in the arena; NULL: out of memory. */
const char *call_space(struct call *call);

/* api_options.process */
void *call_process(const struct call *call);

#endif
