/*
 * test_models_qwen.c: Qwen2.5-VL's conversations against their goldens: all of a checkpoint's in
 * one batch, each alone, and with prompts in pieces; how pictures are sized; what broken
 * checkpoints and prompts are told.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/models/qwen2_5_vl_vision.h"
#include "model_golden.h"

static const char *const checkpoints[] = {"qwen2.5-vl-tiny", "qwen2.5-vl-flat-tiny"};
enum { N_CHECKPOINTS = sizeof checkpoints / sizeof checkpoints[0], MANY = 8, PICTURES_MAX = 4 };

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

/* ---- pictures' sizes ---------------------------------------------------------------------------
 */

START_TEST(pictures_are_sized_like_the_reference_s)
{
    /* smart_resize(height, width, factor, min_pixels, max_pixels) of transformers 5 */
    static const struct {
        size_t width, height, factor, min, max, want_width, want_height;
    } rows[] = {
        {640, 480, 28, 3136, 1003520, 644, 476},    {1, 1, 28, 3136, 1003520, 56, 56},
        {4000, 3000, 28, 3136, 1003520, 1148, 840}, {200, 1, 28, 3136, 1003520, 812, 28},
        {42, 70, 28, 784, 1003520, 56, 56},         {14, 14, 28, 1, 1003520, 28, 28},
        {13, 2600, 28, 3136, 1003520, 28, 812},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct qwen_resize resize = {rows[i].factor, rows[i].min, rows[i].max};
        struct error err = {0};
        size_t width = 0, height = 0;
        ck_assert(
            !qwen_smart_resize(&resize, rows[i].width, rows[i].height, &width, &height, &err));
        ck_assert_msg(width == rows[i].want_width && height == rows[i].want_height,
                      "%zu x %zu became %zu x %zu", rows[i].width, rows[i].height, width, height);
    }
    struct qwen_resize resize = {28, 3136, 1003520};
    struct error err = {0};
    size_t width, height;
    ck_assert_int_eq(qwen_smart_resize(&resize, 201, 1, &width, &height, &err),
                     STATUS_UNPROCESSABLE);
    ck_assert_ptr_nonnull(strstr(err.message, "200"));
}
END_TEST

/* ---- prompts -----------------------------------------------------------------------------------
 */

START_TEST(pictures_get_as_many_places_as_they_have_rows)
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

START_TEST(more_pictures_than_tokens_fit_are_refused)
{
    struct golden golden;
    golden_open(&golden, "qwen2.5-vl-flat-tiny"); /* 512 positions */
    const struct model *model = golden.model;
    enum { N = 40 };
    static struct pixels pixels[N];
    static char text[N * 16 + 1];
    struct tokens tokens;
    struct error err = {0};
    for (size_t i = 0; i < N; i++) {
        pixels[i] = (struct pixels){.height = 48, .width = 48}; /* 16 rows each */
        strcat(text, "<|image_pad|>");
    }
    ck_assert(!model_tokenize(model, TASK_CHAT, text, strlen(text), &tokens, &err));
    ck_assert_int_eq(model->architecture->place_images(model, pixels, N, &tokens, &err),
                     STATUS_TOO_LONG);
    ck_assert_ptr_nonnull(strstr(err.message, "640 tokens"));
    ck_assert_uint_eq(tokens.n, N);
    tokens_release(&tokens);
    golden_close(&golden);
}
END_TEST

/* ---- broken checkpoints ------------------------------------------------------------------------
 */

/* A copy of a checkpoint with one of its JSON files changed; links for the rest. */
static void write_variant(const char *to, const char *from, const char *file, const char *part,
                          const char *key, json_t *value)
{
    static const char *const files[] = {"config.json",           "preprocessor_config.json",
                                        "model.safetensors",     "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json"};
    char source[600], target[600];
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        snprintf(source, sizeof source, "%s/checkpoints/%s/%s", golden_data(), from, files[i]);
        snprintf(target, sizeof target, "%s/%s", to, files[i]);
        unlink(target);
        if (strcmp(files[i], file) != 0) {
            ck_assert_int_eq(symlink(source, target), 0);
            continue;
        }
        json_t *json = json_load_file(source, 0, NULL);
        ck_assert_ptr_nonnull(json);
        json_object_set_new(part ? json_object_get(json, part) : json, key, value);
        ck_assert_int_eq(json_dump_file(json, target, 0), 0);
        json_decref(json);
    }
}

START_TEST(impossible_configurations_are_refused_by_name)
{
    static const struct {
        const char *file, *part, *key, *value, *told;
    } rows[] = {
        {"config.json", NULL, "num_attention_heads", "0", "num_attention_heads"},
        {"config.json", NULL, "num_attention_heads", "7", "num_attention_heads"},
        {"config.json", NULL, "num_key_value_heads", "3", "share"},
        {"config.json", NULL, "num_hidden_layers", "100000", "num_hidden_layers"},
        {"config.json", NULL, "hidden_size", "2000000000", "mrope_section"},
        {"config.json", NULL, "intermediate_size", "2000000000", "expected"},
        {"config.json", NULL, "vocab_size", "2000000000", "expected"},
        {"config.json", NULL, "vocab_size", "300", "image_token_id"},
        {"config.json", NULL, "image_token_id", "-1", "image_token_id"},
        {"config.json", NULL, "rope_theta", "0", "rope_theta"},
        {"config.json", NULL, "use_sliding_window", "true", ""},
        {"config.json", NULL, "rope_scaling", "{\"type\": \"yarn\"}", "yarn"},
        {"config.json", NULL, "rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [1, 1, 1]}",
         "mrope_section"},
        {"config.json", NULL, "rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [4]}",
         "mrope_section"},
        {"config.json", NULL, "rope_scaling", "{\"mrope_section\": [5, -2, 1]}", "mrope_section"},
        {"config.json", NULL, "rope_scaling", "{\"mrope_section\": \"all\"}", "mrope_section"},
        {"config.json", "vision_config", "num_heads", "0", "num_heads"},
        {"config.json", "vision_config", "num_heads", "20", "multiples of 4"},
        {"config.json", "vision_config", "depth", "513", "num_hidden_layers"},
        {"config.json", "vision_config", "patch_size", "2000000", "too large"},
        {"config.json", "vision_config", "patch_size", "7", "patch_size"},
        {"config.json", "vision_config", "spatial_merge_size", "0", "spatial_merge_size"},
        {"config.json", "vision_config", "window_size", "11", "window_size"},
        {"config.json", "vision_config", "out_hidden_size", "41", "out_hidden_size"},
        {"config.json", "vision_config", "fullatt_block_indexes", "[\"1\"]",
         "fullatt_block_indexes"},
        {"config.json", "vision_config", "fullatt_block_indexes", "3", "fullatt_block_indexes"},
        {"config.json", "vision_config", "in_chans", "4", "in_channels"},
        {"preprocessor_config.json", NULL, "min_pixels", "0", "min_pixels"},
        {"preprocessor_config.json", NULL, "min_pixels", "100000000", "max_pixels"},
        {"preprocessor_config.json", NULL, "merge_size", "3", "merge_size"},
    };
    char folder[] = "/tmp/vlmd-qwen-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        json_t *value = json_loads(rows[i].value, JSON_DECODE_ANY, NULL);
        write_variant(folder, "qwen2.5-vl-flat-tiny", rows[i].file, rows[i].part, rows[i].key,
                      value);
        struct model *model = model_open("broken", folder, &err);
        if (!*rows[i].told) { /* windows that begin past the last layer are none */
            ck_assert_msg(model != NULL, "%s", err.message);
            model_free(model);
            continue;
        }
        ck_assert_msg(!model, "'%s': %s was taken", rows[i].key, rows[i].value);
        ck_assert_int_eq(err.status, STATUS_BAD_CHECKPOINT);
        ck_assert_msg(strstr(err.message, rows[i].told), "'%s': %s: %s", rows[i].key, rows[i].value,
                      err.message);
    }
    char command[600];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(without_a_template_a_question_stands_plainly_behind_its_pictures)
{
    static const char want[] = "Be short.\n<|vision_start|><|image_pad|><|vision_end|>"
                               "<|vision_start|><|image_pad|><|vision_end|>"
                               "Question: what is it? Answer: a cat\nQuestion: why? Answer:";
    const struct chat_part said[] = {{"Be short.", 9}}, first[] = {{0}, {0}, {"what is it?", 11}};
    const struct chat_part answer[] = {{"a cat", 5}}, second[] = {{"why?", 4}};
    const struct chat_message messages[] = {
        {"system", said, 1}, {"user", first, 3}, {"assistant", answer, 1}, {"user", second, 1}};
    char folder[] = "/tmp/vlmd-qwen-XXXXXX", command[600];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    write_variant(folder, "qwen2.5-vl-flat-tiny", "tokenizer_config.json", NULL, "chat_template",
                  json_null());
    struct error err = {0};
    struct model *model = model_open("plain", folder, &err);
    ck_assert_msg(model != NULL, "%s", err.message);
    struct tokens got = {0}, wanted = {0};
    struct encode_options options = {0};
    ck_assert_msg(!model_chat(model, messages, ARRAY_LENGTH(messages), &got, &err), "%s",
                  err.message);
    ck_assert(!tokenizer_encode(model->tokenizer, want, sizeof want - 1, &options, &wanted, &err));
    ck_assert_uint_eq(got.n, wanted.n);
    ck_assert_mem_eq(got.ids, wanted.ids, wanted.n * sizeof *wanted.ids);
    tokens_release(&got);
    tokens_release(&wanted);
    model_free(model);
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_qwen");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, conversations_of_a_batch_are_the_reference_s, 0, N_CHECKPOINTS);
    tcase_add_loop_test(tests, conversations_alone_and_in_pieces_are_the_reference_s, 0,
                        N_CHECKPOINTS);
    tcase_add_loop_test(tests, pictures_get_as_many_places_as_they_have_rows, 0, N_CHECKPOINTS);
    tcase_add_test(tests, pictures_are_sized_like_the_reference_s);
    tcase_add_test(tests, more_pictures_than_tokens_fit_are_refused);
    tcase_add_test(tests, impossible_configurations_are_refused_by_name);
    tcase_add_test(tests, without_a_template_a_question_stands_plainly_behind_its_pictures);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
