/*
 * test_models_idefics.c: what is IDEFICS' own (its conversations: test_models_chat.c): how they are
 * written where the checkpoint has no template, and what broken checkpoints and prompts are told.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "model_golden.h"

/* ---- conversations as text ---------------------------------------------------------------------
 */

#define FAKE "<fake_token_around_image>"

START_TEST(conversations_without_a_template_are_written_as_the_processor_has_them)
{
    const struct chat_part said[] = {{"Be short.", 9}}, first[] = {{0}, {0}, {"what is it?", 11}};
    const struct chat_part answer[] = {{"a cat", 5}}, alone[] = {{0}};
    const struct chat_part last[] = {{"and", 3}, {"this?", 5}, {0}, {"why?", 4}};
    const struct chat_message messages[] = {{"system", said, 1},      {"user", first, 3},
                                            {"assistant", answer, 1}, {"user", alone, 1},
                                            {"user", alone, 1},       {"user", last, 4}};
    static const struct {
        const char *checkpoint, *want;
    } rows[] = {
        {"idefics-tiny",
         "<s>Be short.\nUser:" FAKE "<image>" FAKE "<image>" FAKE
         "what is it?<end_of_utterance>\nAssistant: a cat<end_of_utterance>\nUser:" FAKE
         "<image>" FAKE "<end_of_utterance>\nUser:" FAKE "<image>" FAKE
         "<end_of_utterance>\nUser: and\nthis?" FAKE "<image>" FAKE
         "why?<end_of_utterance>\nAssistant:"},
        {"idefics-base-tiny", "<s>Be short.\n" FAKE "<image>" FAKE "<image>" FAKE
                              "Question: what is it? Answer: a cat\n" FAKE "<image>" FAKE
                              "<image>" FAKE "Question: and Answer:Question: this? Answer:" FAKE
                              "<image>" FAKE "Question: why? Answer:"},
    };
    struct golden golden;
    golden_open(&golden, rows[_i].checkpoint);
    struct buffer text;
    struct error err = {0};
    buffer_init(&text, 4096);
    ck_assert_msg(
        !chat_template_render(golden.model->chat, messages, ARRAY_LENGTH(messages), &text, &err),
        "%s", err.message);
    ck_assert_str_eq(text.data, rows[_i].want);
    buffer_release(&text);
    golden_close(&golden);
}
END_TEST

START_TEST(a_turn_s_end_ends_what_is_written)
{
    static const struct {
        const char *checkpoint;
        size_t n_eos;
    } rows[] = {{"idefics-tiny", 2}, {"idefics-base-tiny", 1}, {"idefics-flat-tiny", 2}};
    struct golden golden;
    golden_open(&golden, rows[_i].checkpoint);
    const struct generation_params *params = &golden.model->generation;
    ck_assert_uint_eq(params->n_eos, rows[_i].n_eos);
    ck_assert_int_eq(params->eos_ids[0], 2);
    if (params->n_eos > 1)
        ck_assert_int_eq(params->eos_ids[1],
                         tokenizer_id(golden.model->tokenizer, "<end_of_utterance>"));
    ck_assert_uint_eq(params->n_banned, 2); /* pictures' tokens */
    ck_assert_int_eq(params->banned_ids[0], tokenizer_id(golden.model->tokenizer, "<image>"));
    golden_close(&golden);
}
END_TEST

/* ---- prompts -----------------------------------------------------------------------------------
 */

/* The logits after a text about pictures. */
static enum status ask(struct golden *golden, const char *text, struct features *const *images,
                       size_t n_images, float *logits, struct error *err)
{
    struct tokens tokens;
    struct sequence sequence;
    ck_assert(!model_tokenize(golden->model, TASK_CHAT, text, strlen(text), &tokens, err));
    const struct prompt prompt = {.images = images, .n_images = n_images, .text = &tokens};
    enum status status = golden->model->architecture->prefill(
        golden->model, &golden->compute, TASK_CHAT, &prompt, &sequence, 1, logits, err);
    arena_reset(&golden->arena);
    tokens_release(&tokens);
    if (!status)
        sequence_release(&sequence);
    return status;
}

START_TEST(pictures_and_their_places_must_be_as_many)
{
    struct golden golden;
    golden_open(&golden, "idefics-tiny");
    struct error err = {0};
    float *logits = malloc(golden.model->traits.vocab_size * sizeof *logits);
    json_t *one = json_pack("{s:s}", "picture", "photo_97x61.jpg");
    struct features *image = golden_features(&golden, one);
    struct features *images[] = {image, image};
    ck_assert_int_eq(ask(&golden, "<s>x", images, 1, logits, &err), STATUS_UNPROCESSABLE);
    ck_assert_ptr_nonnull(strstr(err.message, "places for 0 pictures, but there are 1"));
    ck_assert_int_eq(ask(&golden, "<s><image>", NULL, 0, logits, &err), STATUS_UNPROCESSABLE);
    ck_assert_int_eq(ask(&golden, "<s><image>", images, 2, logits, &err), STATUS_UNPROCESSABLE);
    ck_assert_msg(!ask(&golden, "<s><image><image>", images, 2, logits, &err), "%s", err.message);
    struct features *other = features_new(3, 7);
    ck_assert_int_eq(ask(&golden, "<s><image>", &other, 1, logits, &err), STATUS_INTERNAL);
    features_unref(other);
    features_unref(image);
    json_decref(one);
    free(logits);
    golden_close(&golden);
}
END_TEST

/* ---- broken checkpoints ------------------------------------------------------------------------
 */

static char folder[] = "/tmp/vlmd-idefics-XXXXXX";

static void remove_folder(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(impossible_configurations_are_refused_by_name)
{
    static const struct {
        const char *file, *part, *key, *value, *told;
    } rows[] = {
        {"config.json", NULL, "num_attention_heads", "0", "num_attention_heads"},
        {"config.json", NULL, "num_attention_heads", "7", "num_attention_heads"},
        {"config.json", NULL, "num_attention_heads", "12", "in pairs"},
        {"config.json", NULL, "num_key_value_heads", "1", "key/value heads"},
        {"config.json", NULL, "num_hidden_layers", "100000", "num_hidden_layers"},
        {"config.json", NULL, "num_hidden_layers", "4", "cross_layer_interval"},
        {"config.json", NULL, "num_hidden_layers", "6", "gated_cross_attn_layers.1"},
        {"config.json", NULL, "cross_layer_interval", "0", "cross_layer_interval"},
        {"config.json", NULL, "cross_layer_interval", "2", "cross_layer_interval"},
        {"config.json", NULL, "cross_layer_interval", "\"3\"", "cross_layer_interval"},
        {"config.json", NULL, "cross_layer_interval", "1", "gated_cross_attn_layers.1"},
        {"config.json", NULL, "hidden_size", "2000000000", "expected"},
        {"config.json", NULL, "intermediate_size", "2000000000", "expected"},
        {"config.json", NULL, "vocab_size", "2000000000", "embed_tokens.weight"},
        {"config.json", NULL, "additional_vocab_size", "-1", "additional_vocab_size"},
        {"config.json", NULL, "additional_vocab_size", "1.5", "additional_vocab_size"},
        {"config.json", NULL, "additional_vocab_size", "3", "additional_embedding.weight"},
        {"config.json", NULL, "alpha_type", "\"matrix\"", "'matrix'"},
        {"config.json", NULL, "alpha_type", "\"vector\"", "alpha_cross_attn"},
        {"config.json", NULL, "alpha_type", "7", "alpha_type"},
        {"config.json", NULL, "qk_layer_norms", "1", "qk_layer_norms"},
        {"config.json", NULL, "use_resampler", "\"yes\"", "use_resampler"},
        {"config.json", NULL, "rope_parameters", "{\"rope_type\": \"yarn\"}", "yarn"},
        {"config.json", NULL, "vision_config", "7", "vision_config"},
        {"config.json", NULL, "perceiver_config", "[]", "perceiver_config"},
        {"config.json", "vision_config", "embed_dim", "31", "num_attention_heads"},
        {"config.json", "vision_config", "embed_dim", "33", "class_embedding"},
        {"config.json", "vision_config", "image_size", "[24, 24]", "image_size"},
        {"config.json", "vision_config", "image_size", "32", "24 x 24 pixels"},
        {"config.json", "vision_config", "patch_size", "4", "patch_embedding.weight"},
        {"config.json", "vision_config", "patch_size", "25", "patch_size"},
        {"config.json", "vision_config", "num_channels", "4", "num_channels"},
        {"config.json", "vision_config", "hidden_act", "\"mish9\"", "'mish9'"},
        {"config.json", "perceiver_config", "resampler_n_latents", "4", "resampler.latents"},
        {"config.json", "perceiver_config", "resampler_n_latents", "0", "resampler_n_latents"},
        {"config.json", "perceiver_config", "resampler_depth", "2", "resampler.blocks.1.0"},
        {"config.json", "perceiver_config", "resampler_depth", "2000000000", "perceiver_config"},
        {"config.json", "perceiver_config", "resampler_n_heads", "2000000000", "q_proj.weight"},
        {"config.json", "perceiver_config", "resampler_head_dim", "2147483647", "q_proj.weight"},
        {"config.json", "perceiver_config", "qk_layer_norms_perceiver", "true", "q_layer_norm"},
        {"generation_config.json", NULL, "eos_token_id", "[2, 3, 4, 5, 6, 7, 8, 9]", "no room"},
        {"preprocessor_config.json", NULL, "image_size", "25", "25 x 25 pixels"},
        {"preprocessor_config.json", NULL, "image_size", "\"24\"", "image_size"},
        {"preprocessor_config.json", NULL, "image_size", "-1", "image_size"},
    };
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        json_t *value = json_loads(rows[i].value, JSON_DECODE_ANY, NULL);
        golden_variant(folder, "idefics-flat-tiny", rows[i].file, rows[i].part, rows[i].key, value);
        struct model *model = model_open("broken", folder, &err);
        ck_assert_msg(!model, "'%s': %s was taken", rows[i].key, rows[i].value);
        ck_assert_int_eq(err.status, STATUS_BAD_CHECKPOINT);
        ck_assert_msg(strstr(err.message, rows[i].told), "'%s': %s: %s", rows[i].key, rows[i].value,
                      err.message);
    }
    remove_folder();
}
END_TEST

/* What another configuration would bind. */
START_TEST(tensors_that_are_missing_are_named)
{
    static const struct {
        const char *checkpoint, *file, *key, *value, *told;
    } rows[] = {
        {"idefics-base-tiny", "config.json", "tie_word_embeddings", "false", "'lm_head.weight'"},
        {"idefics-base-tiny", "config.json", "use_resampler", "true",
         "perceiver_resampler.latents"},
        {"idefics-base-tiny", "config.json", "qk_layer_norms", "true", "cross_attn.q_layer_norm"},
    };
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        golden_variant(folder, rows[i].checkpoint, rows[i].file, NULL, rows[i].key,
                       json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        ck_assert_ptr_null(model_open("broken", folder, &err));
        ck_assert_int_eq(err.status, STATUS_BAD_CHECKPOINT);
        ck_assert_msg(strstr(err.message, rows[i].told) && strstr(err.message, "missing"), "%s",
                      err.message);
    }
    remove_folder();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models_idefics");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(
        tests, conversations_without_a_template_are_written_as_the_processor_has_them, 0, 2);
    tcase_add_loop_test(tests, a_turn_s_end_ends_what_is_written, 0, 3);
    tcase_add_test(tests, pictures_and_their_places_must_be_as_many);
    tcase_add_test(tests, impossible_configurations_are_refused_by_name);
    tcase_add_test(tests, tensors_that_are_missing_are_named);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
