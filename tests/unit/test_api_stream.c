/*
 * test_api_stream.c: streamed replies without a socket: what is sent while a text grows and changes
 * at its end, readers that are slow or in another thread, faults before and after the first byte,
 * cancelling.
 *
 * The model is the tiny captioner with a script instead of a detokenizer: after n tokens the text
 * is what the script says. Decode steps can be made to wait for the test, so that it sees every
 * token by itself.
 */
#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/endpoints.h"
#include "core/base/size.h"
#include "core/base/utf8.h"

enum { N_TOKENS = 30, LONG_PIECE = 3000 };

static struct runtime *runtime;
static struct api *api;
static char *picture; /* base64 */

/* ---- the model ----------------------------------------------------------------------------------
 */

static struct architecture scripted;
static enum status (*real_decode)(const struct model *, const struct compute *,
                                  struct sequence *const *, const int32_t *, size_t, float *,
                                  struct error *);

static struct {
    const char *const *texts; /* by number of tokens, from 1; NULL: LONG_PIECE bytes a token */
    size_t n_texts;           /* after them the last stays */
    size_t fails_at;          /* tokens; 0 = never */
    bool waits;               /* each decode step waits for `go` */
} script;
static sem_t go;

static enum status script_detokenize(const struct model *model, enum task task,
                                     const struct tokens *prompt, const int32_t *ids, size_t n,
                                     struct buffer *out, struct error *err)
{
    (void)model, (void)task, (void)prompt, (void)ids;
    if (script.fails_at && n >= script.fails_at)
        return error_set(err, STATUS_INTERNAL, "the script fails here");
    bool fine = true;
    if (script.texts && n)
        fine = buffer_puts(out, script.texts[(n < script.n_texts ? n : script.n_texts) - 1]);
    for (size_t i = 0; !script.texts && fine && i < n * LONG_PIECE; i++)
        fine = buffer_append(out, &"0123456789abcdef\""[i % 17], 1);
    return fine ? STATUS_OK : error_no_memory(err, "a script");
}

static enum status script_decode(const struct model *model, const struct compute *compute,
                                 struct sequence *const *sequences, const int32_t *tokens, size_t n,
                                 float *logits, struct error *err)
{
    if (script.waits)
        sem_wait(&go);
    return real_decode(model, compute, sequences, tokens, n, logits, err);
}

static const char *data_path(const char *name)
{
    static char path[1024];
    const char *root = getenv("VLMD_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root ? root : "tests/data", name);
    return path;
}

static void open_world(void)
{
    static const struct api_options options = {
        .max_pixels = 1 << 20, .max_items = 8, .max_text_bytes = 2000, .max_reply_bytes = 1 << 20};
    struct error err = {0};
    runtime = runtime_new(&(struct runtime_options){.threads = 1, .max_queue = 16}, &err);
    ck_assert_msg(runtime != NULL, "%s", err.message);
    struct model *model = model_open("scripted", data_path("checkpoints/blip-caption-tiny"), &err);
    ck_assert_msg(model != NULL, "%s", err.message);
    scripted = *model->architecture;
    real_decode = scripted.decode;
    scripted.decode = script_decode;
    scripted.detokenize = script_detokenize;
    model->architecture = &scripted;
    ck_assert(!runtime_add(runtime, model, &err));
    api = api_new(&options, runtime, NULL, &err);
    ck_assert(api != NULL);
    sem_init(&go, 0, 0);

    static unsigned char bytes[1 << 16];
    FILE *file = fopen(data_path("images/photo_97x61.jpg"), "rb");
    ck_assert(file != NULL);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    picture = calloc(1, base64_encoded_size(size) + 1);
    base64_encode(bytes, size, picture);
}

static void close_world(void)
{
    api_free(api);
    runtime_free(runtime);
    free(picture);
    sem_destroy(&go);
}

/* ---- a listener ---------------------------------------------------------------------------------
 */

struct listener {
    struct call *call;
    sem_t woken, readable;
    bool reads;           /* at every ready() */
    bool cancels;         /* at the first ready() */
    size_t n_ready;       /* of the call's thread */
    size_t unread_max;    /* seen at a ready() */
    struct buffer stream; /* what was read */
    bool ended;
    char body[16384]; /* the request */
};

static void read_all(struct listener *listener)
{
    char piece[700];
    size_t n;
    while ((n = call_stream_read(listener->call, piece, sizeof piece, &listener->ended)))
        ck_assert(buffer_append(&listener->stream, piece, n));
}

static void on_wake(void *context)
{
    struct listener *listener = context;
    sem_post(&listener->woken);
}

static void on_ready(void *context)
{
    struct listener *listener = context;
    const struct stream *stream = &listener->call->stream;
    listener->n_ready++;
    if (listener->cancels && listener->n_ready == 1)
        call_cancel(listener->call);
    if (!listener->reads) { /* nobody else reads then, so this needs no lock */
        size_t unread = stream->out.size - stream->n_read;
        listener->unread_max = unread > listener->unread_max ? unread : listener->unread_max;
    } else {
        read_all(listener);
    }
    sem_post(&listener->readable);
}

/* A caption of N_TOKENS tokens. fields: more JSON members, or "". */
static void listen_to(struct listener *listener, const char *fields, bool allows)
{
    struct error err = {0};
    struct route route = {0};
    sem_init(&listener->woken, 0, 0);
    sem_init(&listener->readable, 0, 0);
    buffer_init(&listener->stream, 1 << 20);
    int size = snprintf(listener->body, sizeof listener->body,
                        "{\"image\": \"%s\", \"stream\": true, \"min_tokens\": %d, "
                        "\"max_tokens\": %d%s}",
                        picture, N_TOKENS, N_TOKENS, fields);
    ck_assert(size > 0 && (size_t)size < sizeof listener->body);
    ck_assert(!api_route(api, "POST", "/v1/caption", &route, &err));
    const struct http_request request = {.query = "",
                                         .content_type = "application/json",
                                         .body = listener->body,
                                         .body_bytes = (size_t)size,
                                         .request_id = "test",
                                         .received_ns = clock_ns()};
    listener->call = call_new(api, &route, &request, on_wake, listener, &err);
    ck_assert_msg(listener->call != NULL, "%s", err.message);
    if (allows)
        call_allow_stream(listener->call, on_ready);
}

static void run(struct listener *listener)
{
    bool is_first = true; /* the prompt's pass gives the first token */
    while (!call_step(listener->call)) {
        if (script.waits && !is_first)
            sem_post(&go);
        is_first = false;
        sem_wait(&listener->woken);
    }
    while (sem_trywait(&go) == 0)
        ; /* what was not needed */
}

static void leave(struct listener *listener)
{
    call_free(listener->call);
    buffer_release(&listener->stream);
    sem_destroy(&listener->woken);
    sem_destroy(&listener->readable);
}

/* Takes the stream apart: the deltas joined (in `text`), their number, the last event. */
struct events {
    struct buffer text;
    size_t n_deltas;
    json_t *last;
    bool is_error;
};

static struct events parse(struct listener *listener)
{
    struct events out = {0};
    buffer_init(&out.text, 1 << 20);
    ck_assert(listener->ended);
    ck_assert(utf8_valid(listener->stream.data, listener->stream.size));
    char *at = listener->stream.data;
    while (*at) {
        char *end = strstr(at, "\n\n");
        ck_assert_msg(end != NULL, "no end of an event: %s", at);
        *end = '\0';
        ck_assert(!out.last); /* so nothing comes after the last */
        out.is_error = !strncmp(at, "event: error\n", 13);
        at += out.is_error ? 13 : 0;
        ck_assert_msg(!strncmp(at, "data: ", 6), "no event: %s", at);
        json_t *value = json_loads(at + 6, 0, NULL);
        ck_assert_ptr_nonnull(value);
        const char *delta = json_string_value(json_object_get(value, "delta"));
        if (delta) {
            ck_assert_msg(!strstr(delta, "\xEF\xBF\xBD"), "a broken character: %s", delta);
            ck_assert(*delta != '\0');
            ck_assert(buffer_puts(&out.text, delta));
            out.n_deltas++;
            json_decref(value);
        } else {
            out.last = value;
        }
        at = end + 2;
    }
    ck_assert(out.last);
    return out;
}

static void events_free(struct events *events)
{
    buffer_release(&events->text);
    json_decref(events->last);
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "no '%s'", key);
    return text;
}

static const char *const plain[] = {"one", "one two", "one two three"};
#define SCRIPT(list, ...)                                                                          \
    do {                                                                                           \
        script = (typeof(script)){.texts = (list), .n_texts = ARRAY_LENGTH(list), __VA_ARGS__};    \
    } while (0)

/* ---- tests --------------------------------------------------------------------------------------
 */

START_TEST(each_token_is_sent_as_soon_as_its_text_is_settled)
{
    static const char *const texts[] = {
        "I",
        "I do",
        "I do n",    /* the clean-up of spaces will join this … */
        "I do n '",  /* … and this … */
        "I don't",   /* … here */
        "I don't  ", /* spaces at the end are trimmed from a finished text */
        "I don't eat \xEF\xBF\xBD",
        "I don't eat \xEF\xBF\xBD\xEF\xBF\xBD",
        "I don't eat \xE6\x97\xA5",     /* a character of three tokens */
        "I don't eat \xE6\x97\xA5\xE6", /* cut bytes, as they are */
        "I don't eat \xE6\x97\xA5\xE6\x9C",
        "I don't eat \xE6\x97\xA5\xE6\x9C\xAC",
    };
    static const char *const want[] = {"I", " do", "n't", " eat", " \xE6\x97\xA5", "\xE6\x9C\xAC"};
    SCRIPT(texts, .waits = true);
    struct listener listener = {.reads = true};
    listen_to(&listener, "", true);
    run(&listener);
    ck_assert_str_eq(call_reply(listener.call)->content_type, "text/event-stream");
    ck_assert_int_eq(call_reply(listener.call)->status, 200);
    char *copy = strdup(listener.stream.data);
    struct events events = parse(&listener);
    ck_assert_str_eq(events.text.data, texts[ARRAY_LENGTH(texts) - 1]);
    ck_assert_str_eq(text_at(events.last, "caption"), events.text.data);
    ck_assert_uint_eq(events.n_deltas, ARRAY_LENGTH(want));
    const char *at = copy;
    for (size_t i = 0; i < ARRAY_LENGTH(want); i++) {
        char event[128];
        snprintf(event, sizeof event, "data: {\"delta\":\"%s\"}\n\n", want[i]);
        ck_assert_msg(!strncmp(at, event, strlen(event)), "%s is not %s", at, event);
        at += strlen(event);
    }
    free(copy);
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(text_that_changes_after_it_was_sent_is_not_sent_twice)
{
    static const char *const texts[] = {"a b", "a b c", "a x y", "a x y z"};
    SCRIPT(texts, .waits = true);
    struct listener listener = {.reads = true};
    listen_to(&listener, "", true);
    run(&listener);
    struct events events = parse(&listener);
    ck_assert_str_eq(events.text.data, "a b cx y z"); /* what could still be sent */
    ck_assert_str_eq(text_at(events.last, "caption"), "a x y z");
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(a_reader_that_waits_costs_bounded_memory_and_loses_nothing)
{
    script = (typeof(script)){.waits = true};
    struct listener listener = {.reads = false};
    listen_to(&listener, "", true);
    run(&listener);
    read_all(&listener);
    /* Each byte takes at most two in JSON; the last two events come whatever is unread. */
    ck_assert_uint_lt(listener.n_ready, N_TOKENS);
    struct events events = parse(&listener);
    ck_assert_uint_eq(events.text.size, N_TOKENS * LONG_PIECE);
    ck_assert_str_eq(text_at(events.last, "caption"), events.text.data);
    ck_assert_uint_gt(N_TOKENS * LONG_PIECE, STREAM_UNREAD_MAX);
    ck_assert_uint_lt(events.n_deltas, N_TOKENS);
    ck_assert_uint_lt(listener.unread_max,
                      STREAM_UNREAD_MAX + 2 * (2 * N_TOKENS * LONG_PIECE - STREAM_UNREAD_MAX));
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(a_fault_before_the_first_byte_is_an_ordinary_error)
{
    SCRIPT(plain, .waits = true, .fails_at = 1);
    struct listener listener = {.reads = true};
    listen_to(&listener, "", true);
    run(&listener);
    const struct http_reply *reply = call_reply(listener.call);
    ck_assert_int_eq(reply->status, 500);
    ck_assert_str_eq(reply->content_type, "application/json");
    ck_assert_ptr_nonnull(strstr(reply->body.data, "the script fails here"));
    ck_assert_uint_eq(listener.n_ready, 0);
    leave(&listener);
}
END_TEST

START_TEST(a_fault_after_it_is_the_last_event)
{
    SCRIPT(plain, .waits = true, .fails_at = 3);
    struct listener listener = {.reads = true};
    listen_to(&listener, "", true);
    run(&listener);
    ck_assert_int_eq(call_outcome(listener.call), STATUS_INTERNAL);
    struct events events = parse(&listener);
    ck_assert(events.is_error);
    ck_assert_str_eq(events.text.data, "one two");
    ck_assert_str_eq(text_at(json_object_get(events.last, "error"), "message"),
                     "the script fails here");
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(a_cancelled_stream_stops_between_tokens)
{
    SCRIPT(plain, .waits = true);
    struct listener listener = {.reads = true, .cancels = true};
    listen_to(&listener, "", true);
    run(&listener);
    ck_assert_int_eq(call_outcome(listener.call), STATUS_CANCELLED);
    struct events events = parse(&listener);
    ck_assert(events.is_error);
    /* The step that is under way when the cancel comes may still give its token; no further one
     * runs. */
    if (strcmp(events.text.data, "one two") != 0)
        ck_assert_str_eq(events.text.data, "one");
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(what_may_begin_a_stop_string_is_held_back)
{
    static const char *const texts[] = {"one",
                                        "one two",
                                        "one two th",
                                        "one two the",
                                        "one two then s",
                                        "one two then st",
                                        "one two then stop"};
    SCRIPT(texts);
    struct listener listener = {.reads = true};
    listen_to(&listener, ", \"stop\": [\"then stop\", \"three\"]", true);
    run(&listener);
    struct events events = parse(&listener);
    ck_assert_str_eq(events.text.data, "one two");
    ck_assert_str_eq(text_at(events.last, "caption"), "one two");
    ck_assert_str_eq(text_at(events.last, "finish_reason"), "stop");
    events_free(&events);
    leave(&listener);
}
END_TEST

START_TEST(who_cannot_stream_gets_the_reply_whole)
{
    SCRIPT(plain);
    struct listener listener = {.reads = true};
    listen_to(&listener, "", false);
    run(&listener);
    const struct http_reply *reply = call_reply(listener.call);
    ck_assert_int_eq(reply->status, 200);
    ck_assert_str_eq(reply->content_type, "application/json");
    json_t *json = json_loadb(reply->body.data, reply->body.size, 0, NULL);
    ck_assert_str_eq(text_at(json, "caption"), "one two three");
    ck_assert_uint_eq(listener.n_ready, 0);
    json_decref(json);
    leave(&listener);
}
END_TEST

static void *reader_main(void *context)
{
    struct listener *listener = context;
    while (!listener->ended) {
        sem_wait(&listener->readable);
        read_all(listener);
    }
    return NULL;
}

static void on_ready_elsewhere(void *context)
{
    struct listener *listener = context;
    sem_post(&listener->readable);
}

START_TEST(a_reader_in_another_thread_sees_all)
{
    for (int round = 0; round < 30; round++) {
        SCRIPT(plain);
        struct listener listener = {.reads = false};
        listen_to(&listener, round % 3 == 2 ? ", \"num_beams\": 3" : "", true);
        call_allow_stream(listener.call, on_ready_elsewhere);
        pthread_t reader;
        ck_assert(!pthread_create(&reader, NULL, reader_main, &listener));
        run(&listener);
        pthread_join(reader, NULL);
        struct events events = parse(&listener);
        ck_assert_str_eq(events.text.data, "one two three");
        events_free(&events);
        leave(&listener);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_stream");
    TCase *tcase = tcase_create("streams");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, open_world, close_world);
    tcase_add_test(tcase, each_token_is_sent_as_soon_as_its_text_is_settled);
    tcase_add_test(tcase, text_that_changes_after_it_was_sent_is_not_sent_twice);
    tcase_add_test(tcase, a_reader_that_waits_costs_bounded_memory_and_loses_nothing);
    tcase_add_test(tcase, a_fault_before_the_first_byte_is_an_ordinary_error);
    tcase_add_test(tcase, a_fault_after_it_is_the_last_event);
    tcase_add_test(tcase, a_cancelled_stream_stops_between_tokens);
    tcase_add_test(tcase, what_may_begin_a_stop_string_is_held_back);
    tcase_add_test(tcase, who_cannot_stream_gets_the_reply_whole);
    tcase_add_test(tcase, a_reader_in_another_thread_sees_all);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
