/*
 * test_models_qwen.c: what is Qwen2.5-VL's own (its conversations: test_models_chat.c): how
 * pictures are sized; what broken checkpoints and prompts are told.
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
        golden_variant(folder, "qwen2.5-vl-flat-tiny", rows[i].file, rows[i].part, rows[i].key,
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
    golden_variant(folder, "qwen2.5-vl-flat-tiny", "tokenizer_config.json", NULL, "chat_template",
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
