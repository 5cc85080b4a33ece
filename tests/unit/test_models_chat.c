/*
 * test_models_chat.c: models that converse against their goldens: all of a checkpoint's
 * conversations in one batch, each alone, and with prompts in pieces; the template's words and
 * places for pictures.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "model_golden.h"

static const char *const checkpoints[] = {"qwen2.5-vl-tiny", "qwen2.5-vl-flat-tiny", "idefics-tiny",
                                          "idefics-base-tiny", "idefics-flat-tiny"};
enum { N_CHECKPOINTS = ARRAY_LENGTH(checkpoints), MANY = 16, PICTURES_MAX = 4 };

/* A conversation under way, greedily. */
struct run {
    const json_t *golden;
    struct tokens prompt;
    struct features *features[PICTURES_MAX];
    size_t n_features, n, n_max;
    int32_t *ids; /* [n] new ones */
    struct sequence sequence;
};

static size_t collect_runs(struct golden *golden, struct run *runs)
{
    size_t n = 0;
    for (size_t i = 0; i < golden_count(golden, "chat"); i++) {
        const json_t *each = golden_case(golden, "chat", i);
        if (strcmp(json_string_value(json_object_get(each, "run")), "greedy") != 0)
            continue;
        const json_t *pictures = json_object_get(each, "pictures");
        struct run *run = &runs[n++];
        ck_assert_uint_le(n, MANY);
        *run = (struct run){.golden = each, .n_features = json_array_size(pictures)};
        run->prompt = golden_ids(json_object_get(each, "start_ids"));
        run->n_max = golden_tensor(golden, each, "logits")->shape[0];
        run->ids = malloc(run->n_max * sizeof *run->ids);
        for (size_t k = 0; k < run->n_features; k++) {
            json_t *one = json_object();
            json_object_set(one, "picture", json_array_get(pictures, k));
            run->features[k] = golden_features(golden, one);
            json_decref(one);
        }
    }
    ck_assert_uint_ge(n, 6);
    return n;
}

static void release_run(struct run *run)
{
    for (size_t k = 0; k < run->n_features; k++)
        features_unref(run->features[k]);
    tokens_release(&run->prompt);
    sequence_release(&run->sequence);
    free(run->ids);
}

static struct prompt prompt_of(const struct run *run, size_t from, size_t to)
{
    return (struct prompt){run->features, run->n_features, &run->prompt, NULL, from, to};
}

/* Compares a step's logits and takes the likeliest token. */
static void advance(const struct golden *golden, struct run *run, const float *logits)
{
    size_t vocab = golden->model->traits.vocab_size, best = 0;
    const struct tensor_view *want = golden_tensor(golden, run->golden, "logits");
    ck_assert_uint_eq(want->shape[1], vocab);
    golden_close_to(logits, (const float *)want->data + run->n * vocab, vocab, "logits");
    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    run->ids[run->n++] = (int32_t)best;
}

static void check_result(const struct golden *golden, const struct run *run)
{
    struct error err = {0};
    struct tokens want = golden_ids(json_array_get(json_object_get(run->golden, "sequences"), 0));
    ck_assert_uint_eq(run->prompt.n + run->n, want.n);
    ck_assert_mem_eq(run->ids, want.ids + run->prompt.n, run->n * sizeof *run->ids);
    tokens_release(&want);
    struct buffer text;
    buffer_init(&text, 4096);
    ck_assert(
        !model_detokenize(golden->model, TASK_CHAT, &run->prompt, run->ids, run->n, &text, &err));
    ck_assert_str_eq(text.data,
                     json_string_value(json_array_get(json_object_get(run->golden, "texts"), 0)));
    buffer_release(&text);
}

/* Decodes all runs to their ends, together. */
static void decode_all(struct golden *golden, struct run *runs, size_t n, float *logits)
{
    const struct model *model = golden->model;
    struct error err = {0};
    for (;;) {
        struct sequence *sequences[MANY];
        struct run *of[MANY];
        int32_t tokens[MANY];
        size_t n_now = 0;
        for (size_t i = 0; i < n; i++)
            if (runs[i].n < runs[i].n_max) {
                sequences[n_now] = &runs[i].sequence;
                tokens[n_now] = runs[i].ids[runs[i].n - 1];
                of[n_now++] = &runs[i];
            }
        if (!n_now)
            return;
        ck_assert_msg(!model->architecture->decode(model, &golden->compute, sequences, tokens,
                                                   n_now, logits, &err),
                      "%s", err.message);
        arena_reset(&golden->arena);
        for (size_t i = 0; i < n_now; i++)
            advance(golden, of[i], logits + i * model->traits.vocab_size);
    }
}

START_TEST(conversations_of_a_batch_are_the_reference_s)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    struct error err = {0};
    struct run runs[MANY];
    struct prompt prompts[MANY];
    struct sequence sequences[MANY];
    size_t n = collect_runs(&golden, runs), vocab = golden.model->traits.vocab_size;
    float *logits = malloc(n * vocab * sizeof *logits);
    for (size_t i = 0; i < n; i++)
        prompts[i] = prompt_of(&runs[i], 0, 0);
    ck_assert_msg(!golden.model->architecture->prefill(golden.model, &golden.compute, TASK_CHAT,
                                                       prompts, sequences, n, logits, &err),
                  "%s", err.message);
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++) {
        runs[i].sequence = sequences[i];
        advance(&golden, &runs[i], logits + i * vocab);
    }
    decode_all(&golden, runs, n, logits);
    for (size_t i = 0; i < n; i++) {
        check_result(&golden, &runs[i]);
        release_run(&runs[i]);
    }
    free(logits);
    golden_close(&golden);
}
END_TEST

START_TEST(conversations_alone_and_in_pieces_are_the_reference_s)
{
    static const size_t pieces[] = {0, 1, 7};
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    struct error err = {0};
    struct run runs[MANY];
    size_t n = collect_runs(&golden, runs), vocab = golden.model->traits.vocab_size;
    float *logits = malloc(vocab * sizeof *logits);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < ARRAY_LENGTH(pieces); k++) {
            struct run *run = &runs[i];
            size_t step = pieces[k] ? pieces[k] : run->prompt.n;
            for (size_t from = 0; from < run->prompt.n; from += step) {
                size_t to = from + step < run->prompt.n ? from + step : run->prompt.n;
                struct prompt prompt = prompt_of(run, from, to);
                ck_assert_msg(!golden.model->architecture->prefill(golden.model, &golden.compute,
                                                                   TASK_CHAT, &prompt,
                                                                   &run->sequence, 1, logits, &err),
                              "%s", err.message);
                arena_reset(&golden.arena);
            }
            run->n = 0;
            advance(&golden, run, logits);
            decode_all(&golden, run, 1, logits);
            check_result(&golden, run);
            sequence_release(&run->sequence);
        }
    for (size_t i = 0; i < n; i++)
        release_run(&runs[i]);
    free(logits);
    golden_close(&golden);
}
END_TEST

/* ---- prompts -----------------------------------------------------------------------------------
 */

START_TEST(pictures_get_as_many_places_as_they_take)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    const struct model *model = golden.model;
    for (size_t i = 0; i < golden_count(&golden, "chat"); i++) {
        const json_t *each = golden_case(&golden, "chat", i);
        const json_t *pictures = json_object_get(each, "pictures");
        struct tokens want = golden_ids(json_object_get(each, "start_ids")), got = {0};
        struct pixels pixels[PICTURES_MAX];
        struct error err = {0};
        size_t n = json_array_size(pictures);
        for (size_t k = 0; k < n; k++) {
            json_t *one = json_object();
            json_object_set(one, "picture", json_array_get(pictures, k));
            golden_pixels(&golden, one, &pixels[k]);
            json_decref(one);
        }
        const char *text = json_string_value(json_object_get(each, "prompt"));
        ck_assert(!model_tokenize(model, TASK_CHAT, text, strlen(text), &got, &err));
        if (n) { /* a picture too few, one too many: told, and the tokens as they were */
            struct tokens before = got;
            ck_assert_int_eq(model->architecture->place_images(model, pixels, n - 1, &got, &err),
                             STATUS_UNPROCESSABLE);
            ck_assert_ptr_nonnull(strstr(err.message, "places for"));
            ck_assert_ptr_eq(got.ids, before.ids);
        }
        ck_assert_msg(!model->architecture->place_images(model, pixels, n, &got, &err), "%s",
                      err.message);
        ck_assert_uint_eq(got.n, want.n);
        ck_assert_mem_eq(got.ids, want.ids, want.n * sizeof *want.ids);
        tokens_release(&got);
        tokens_release(&want);
        for (size_t k = 0; k < n; k++)
            pixels_release(&pixels[k]);
    }
    golden_close(&golden);
}
END_TEST

/* The messages of a golden as a client's. */
static struct chat_message *golden_messages(const json_t *golden, size_t *n)
{
    enum { PARTS_MAX = 8 };
    const json_t *messages = json_object_get(golden, "messages");
    *n = json_array_size(messages);
    struct chat_message *out = calloc(*n, sizeof *out);
    for (size_t i = 0; i < *n; i++) {
        const json_t *message = json_array_get(messages, i);
        const json_t *content = json_object_get(message, "content");
        struct chat_part *parts = calloc(PARTS_MAX, sizeof *parts);
        size_t n_parts = json_is_string(content) ? 1 : json_array_size(content);
        ck_assert_uint_le(n_parts, PARTS_MAX);
        for (size_t k = 0; k < n_parts; k++) {
            const json_t *text = json_is_string(content)
                                     ? content
                                     : json_object_get(json_array_get(content, k), "text");
            parts[k] = (struct chat_part){json_string_value(text), json_string_length(text)};
        }
        const char *role = json_string_value(json_object_get(message, "role"));
        out[i] = (struct chat_message){role, parts, n_parts};
    }
    return out;
}

START_TEST(conversations_become_the_reference_s_prompts)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    const struct model *model = golden.model;
    for (size_t i = 0; i < golden_count(&golden, "chat"); i++) {
        const json_t *each = golden_case(&golden, "chat", i);
        const char *prompt = json_string_value(json_object_get(each, "prompt"));
        struct tokens want = {0}, got = {0};
        struct error err = {0};
        size_t n;
        struct chat_message *messages = golden_messages(each, &n);
        ck_assert(!model_tokenize(model, TASK_CHAT, prompt, strlen(prompt), &want, &err));
        ck_assert_msg(!model_chat(model, messages, n, &got, &err), "%s", err.message);
        ck_assert_uint_eq(got.n, want.n);
        ck_assert_mem_eq(got.ids, want.ids, want.n * sizeof *want.ids);
        tokens_release(&got);
        tokens_release(&want);
        for (size_t k = 0; k < n; k++)
            free((void *)messages[k].parts);
        free(messages);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_chat");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, conversations_of_a_batch_are_the_reference_s, 0, N_CHECKPOINTS);
    tcase_add_loop_test(tests, conversations_alone_and_in_pieces_are_the_reference_s, 0,
                        N_CHECKPOINTS);
    tcase_add_loop_test(tests, pictures_get_as_many_places_as_they_take, 0, N_CHECKPOINTS);
    tcase_add_loop_test(tests, conversations_become_the_reference_s_prompts, 0, N_CHECKPOINTS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
