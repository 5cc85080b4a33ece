/*
 * api_world.c: see api_world.h.
 */
#include "api_world.h"

#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "core/base/size.h"

struct runtime *runtime;
struct store *store;
struct api *api;

const struct api_options options = {
    .max_pixels = 1 << 20,
    .max_items = 8,
    .max_text_bytes = 2000,
    .max_reply_bytes = 1 << 20,
    .max_tokens = 60,
    .version = "test",
};

char *data_path(const char *name)
{
    static char path[1024];
    const char *root = getenv("VLMD_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root ? root : "tests/data", name);
    return path;
}

/* A model that answers with one of three labels: the shortest questions get the first. */
static const char *const answer_labels[] = {"yes", "no", "two"};
static struct architecture labeller;

static enum status score_labels(const struct model *model, const struct compute *compute,
                                enum task task, const struct pair *pairs, size_t n, float *out,
                                struct error *err)
{
    (void)model, (void)compute, (void)err;
    ck_assert_int_eq(task, TASK_VQA);
    for (size_t i = 0; i < n; i++) {
        out[3 * i] = 0.25f;
        out[3 * i + 1] = pairs[i].n_images == 2 ? 0.5f : 0.125f;
        out[3 * i + 2] = 0.0625f;
    }
    return STATUS_OK;
}

static void add_labeller(void)
{
    struct error err = {0};
    struct model *model = model_open("labeller", data_path("checkpoints/blip-vqa-tiny"), &err);
    ck_assert_msg(model != NULL, "%s", err.message);
    labeller = *model->architecture;
    labeller.tasks = TASK_BIT(VQA);
    labeller.score_pairs = score_labels;
    model->architecture = &labeller;
    model->traits.labels = answer_labels;
    model->traits.n_outputs = 3;
    model->traits.max_images = 2;
    ck_assert(!runtime_add(runtime, model, &err));
}

void api_world_open(void)
{
    static const char *const models[][2] = {
        {"clip", "checkpoints/clip-tiny"},
        {"captioner", "checkpoints/blip-caption-tiny"},
        {"answerer", "checkpoints/blip-vqa-tiny"},
        {"matcher", "checkpoints/blip-itm-tiny"},
    };
    struct error err = {0};
    runtime = runtime_new(&(struct runtime_options){.threads = 1, .max_queue = 16}, &err);
    ck_assert_msg(runtime != NULL, "%s", err.message);
    for (size_t i = 0; i < ARRAY_LENGTH(models); i++) {
        struct model *model = model_open(models[i][0], data_path(models[i][1]), &err);
        ck_assert_msg(model != NULL, "%s", err.message);
        ck_assert(!runtime_add(runtime, model, &err));
    }
    add_labeller();
    store = store_open(&(struct store_options){.uri = "memory:"}, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    api = api_new(&options, runtime, store, &err);
    ck_assert(api != NULL);
}

void api_world_close(void)
{
    api_free(api);
    store_close(store);
    runtime_free(runtime);
}

void reply_free(struct reply *reply)
{
    json_decref(reply->json);
    free(reply->text);
}

void on_wake(void *context)
{
    sem_post(context);
}

struct reply ask_with(struct api *asked, const struct question *question)
{
    struct reply out = {0};
    struct error err = {0};
    struct route route = {0};
    if (api_route(asked, question->method, question->path, &route, &err)) {
        struct http_reply reply = {0};
        reply_error(&reply, &options, &err, 1);
        out.status = reply.status;
        out.json = json_loadb(reply.body.data, reply.body.size, 0, NULL);
        out.text = strdup(reply.body.data);
        reply_release(&reply);
        return out;
    }
    const struct http_request request = {
        .query = question->query ? question->query : "",
        .content_type = question->type,
        .body = question->body,
        .body_bytes = question->size,
        .request_id = "test",
        .received_ns = clock_ns() - question->age_ns,
        .timeout_ms = question->timeout_ms,
    };
    sem_t woken;
    sem_init(&woken, 0, 0);
    struct call *call = call_new(asked, &route, &request, on_wake, &woken, &err);
    ck_assert_msg(call != NULL, "%s", err.message);
    if (question->is_cancelled)
        call_cancel(call);
    while (!call_step(call))
        sem_wait(&woken);
    const struct http_reply *reply = call_reply(call);
    out.status = reply->status;
    ck_assert_ptr_nonnull(reply->body.data);
    json_error_t fault;
    out.json = json_loadb(reply->body.data, reply->body.size, JSON_REJECT_DUPLICATES, &fault);
    ck_assert_msg(out.json != NULL, "%s in %s", fault.text, reply->body.data);
    out.text = strdup(reply->body.data);
    for (size_t i = 0; i < reply->n_headers; i++)
        if (!strcmp(reply->headers[i].name, "Retry-After"))
            snprintf(out.retry_after, sizeof out.retry_after, "%s", reply->headers[i].value);
    call_free(call);
    sem_destroy(&woken);
    return out;
}

struct reply ask(const char *method, const char *path, const char *query, const char *type,
                 const char *body, size_t size)
{
    return ask_with(api, &(struct question){.method = method,
                                            .path = path,
                                            .query = query,
                                            .type = type,
                                            .body = body,
                                            .size = size});
}

char *expand(const char *template)
{
    struct buffer out;
    buffer_init(&out, 8 << 20);
    for (const char *at = template; *at;) {
        if (*at != '@') {
            buffer_append(&out, at++, 1);
            continue;
        }
        char name[128];
        size_t n = strspn(++at, "abcdefghijklmnopqrstuvwxyz0123456789_.");
        snprintf(name, sizeof name, "images/%.*s", (int)n, at);
        at += n;
        FILE *file = fopen(data_path(name), "rb");
        ck_assert_msg(file != NULL, "no %s", name);
        static unsigned char bytes[1 << 20];
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        char *text = malloc(base64_encoded_size(size));
        base64_encode(bytes, size, text);
        buffer_append(&out, text, base64_encoded_size(size));
        free(text);
    }
    size_t size;
    return buffer_take(&out, &size);
}

struct reply ask_json(const char *method, const char *path, const char *template)
{
    char *body = expand(template);
    struct reply reply = ask(method, path, "", "application/json", body, strlen(body));
    free(body);
    return reply;
}

struct reply post(const char *path, const char *template)
{
    return ask_json("POST", path, template);
}

struct reply want(struct reply reply)
{
    ck_assert_msg(reply.status == 200, "%d: %s", reply.status, reply.text);
    return reply;
}

const char *string_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "no string '%s'", key);
    return text;
}

double number_at(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_number(value), "no number '%s'", key);
    return json_number_value(value);
}

int api_world_run(const char *name, void (*add)(TCase *tcase))
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_add_unchecked_fixture(tcase, api_world_open, api_world_close);
    add(tcase);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
