/*
 * test_tokenizer.c: tokenizers against the goldens of tests/reference/tokenizer_goldens.py: the
 * ids and texts that `tokenizers` and transformers give, for every family over one nasty corpus.
 */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/text/tokenizer.h"

static const char *const names[] = {
    "bert_cased_files",
    "bert_uncased",
    "bert_uncased_files",
    "clip",
    "clip_files",
    "gpt2",
    "gpt2_files",
    "llama3",
    "llama_first",
    "llama_legacy",
    "mixed_bpe",
    "mixed_split",
    "mixed_wordlevel",
    "mixed_wordpiece",
    "qwen2",
    "siglip",
    "xlmr",
};

static json_t *load(const char *name, const char *file)
{
    char path[1024];
    json_error_t fault;
    snprintf(path, sizeof path, "%s/tokenizers/%s/%s", getenv("VLMD_TEST_DATA"), name, file);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &fault);
    ck_assert_msg(root != NULL, "%s: %s", path, fault.text);
    return root;
}

static struct tokenizer *open_named(const char *name)
{
    char path[1024];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/tokenizers/%s", getenv("VLMD_TEST_DATA"), name);
    struct tokenizer *tokenizer = tokenizer_open(path, &err);
    ck_assert_msg(tokenizer != NULL, "%s", err.message);
    return tokenizer;
}

static uint64_t fnv(const void *data, size_t size)
{
    const unsigned char *p = data;
    uint64_t value = 0xCBF29CE484222325u;
    for (size_t i = 0; i < size; i++)
        value = (value ^ p[i]) * 0x100000001B3u;
    return value;
}

/* Whether a golden (a list of ids or a string, or {"n", "fnv"} of its bytes) is this. */
static bool same_hash(const json_t *want, const void *data, size_t size, size_t n)
{
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv(data, size));
    return (size_t)json_integer_value(json_object_get(want, "n")) == n &&
           strcmp(json_string_value(json_object_get(want, "fnv")), hash) == 0;
}

static void check_ids(const char *name, size_t row, const json_t *want, const struct tokens *got)
{
    if (json_is_object(want)) {
        ck_assert_msg(same_hash(want, got->ids, got->n * sizeof *got->ids, got->n),
                      "%s, text %zu: %zu ids differ", name, row, got->n);
        return;
    }
    size_t n = json_array_size(want);
    for (size_t i = 0; i < n && i < got->n; i++)
        ck_assert_msg(json_integer_value(json_array_get(want, i)) == got->ids[i],
                      "%s, text %zu, id %zu: want %d, got %d", name, row, i,
                      (int)json_integer_value(json_array_get(want, i)), got->ids[i]);
    ck_assert_msg(n == got->n, "%s, text %zu: want %zu ids, got %zu", name, row, n, got->n);
}

static void check_decode(const char *name, size_t row, const struct tokenizer *tokenizer,
                         const struct tokens *tokens, bool skip, const json_t *want)
{
    struct buffer text;
    struct error err = {0};
    buffer_init(&text, 1 << 24);
    ck_assert_int_eq(tokenizer_decode(tokenizer, tokens->ids, tokens->n, skip, &text, &err), 0);
    bool same = json_is_object(want)
                    ? same_hash(want, text.data, text.size, text.size)
                    : json_string_length(want) == text.size &&
                          memcmp(json_string_value(want), text.data, text.size) == 0;
    ck_assert_msg(same, "%s, text %zu, skip %d: want '%s', got '%s'", name, row, skip,
                  json_is_string(want) ? json_string_value(want) : "(long)", text.data);
    buffer_release(&text);
}

START_TEST(tokenizer_agrees_with_reference)
{
    const char *name = names[_i];
    struct tokenizer *tokenizer = open_named(name);
    json_t *goldens = load(name, "goldens.json"), *corpus = load("", "corpus.json");
    size_t max_length = (size_t)json_integer_value(json_object_get(goldens, "max_length"));
    json_t *rows = json_object_get(goldens, "rows");
    ck_assert_uint_eq(json_array_size(rows), json_array_size(corpus));
    ck_assert_uint_gt(json_array_size(rows), 100);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const json_t *text = json_array_get(corpus, i);
        struct error err = {0};
        struct tokens tokens;
        for (int special = 0; special < 2; special++) {
            struct encode_options options = {.add_special_tokens = special == 1};
            enum status status =
                tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                 &options, &tokens, &err);
            ck_assert_msg(status == STATUS_OK, "%s, text %zu: %s", name, i, err.message);
            ck_assert(!tokens.truncated);
            check_ids(name, i, json_array_get(row, (size_t)special), &tokens);
            if (special) {
                check_decode(name, i, tokenizer, &tokens, false, json_array_get(row, 3));
                check_decode(name, i, tokenizer, &tokens, true, json_array_get(row, 4));
            }
            size_t whole = tokens.n;
            tokens_release(&tokens);
            if (!special)
                continue;
            options.max_length = max_length;
            status = tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                      &options, &tokens, &err);
            ck_assert_msg(status == STATUS_OK, "%s, text %zu: %s", name, i, err.message);
            ck_assert(tokens.truncated == (whole > max_length));
            check_ids(name, i, json_array_get(row, 2), &tokens);
            tokens_release(&tokens);
        }
    }
    json_decref(goldens);
    json_decref(corpus);
    tokenizer_free(tokenizer);
}
END_TEST

START_TEST(tokenizer_tells_its_vocabulary)
{
    struct tokenizer *clip = open_named("clip_files"), *bert = open_named("bert_cased_files");
    ck_assert_int_ge(tokenizer_id(clip, "<|startoftext|>"), 0);
    ck_assert(tokenizer_is_special(clip, tokenizer_id(clip, "<|endoftext|>")));
    ck_assert(!tokenizer_is_special(clip, tokenizer_id(clip, "a</w>")));
    ck_assert_int_eq(tokenizer_id(clip, "no such token"), -1);
    ck_assert(!tokenizer_is_special(clip, -1));
    ck_assert(!tokenizer_is_special(clip, 1 << 30));
    ck_assert_uint_eq(tokenizer_model_max_length(clip), 77);
    ck_assert_uint_eq(tokenizer_model_max_length(bert), SIZE_MAX); /* 1e30 in the file */
    /* [DEC] and [ENC] are not in vocab.txt: they come behind it. */
    ck_assert_uint_eq((size_t)tokenizer_id(bert, "[ENC]") + 1, tokenizer_vocab_size(bert));
    ck_assert_int_eq(tokenizer_id(bert, "[DEC]") + 1, tokenizer_id(bert, "[ENC]"));
    tokenizer_free(clip);
    tokenizer_free(bert);
    tokenizer_free(NULL);
}
END_TEST

/* The checkpoint says siglip2: its tokenizer.json's normalizer gets a Lowercase in front. */
START_TEST(tokenizer_of_siglip2_lowers_its_text)
{
    static const char json[] =
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"?\":0,\"a_b\":1},\"unk_token\":\"?\"},"
        "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}}";
    static const char *const files[][2] = {
        {"tokenizer.json", json},
        {"tokenizer_config.json", "{\"tokenizer_class\": \"GemmaTokenizer\"}"},
        {"config.json", "{\"model_type\": \"siglip2\"}"},
    };
    char folder[] = "/tmp/vlmd_siglip2_XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t n = 2; n <= 3; n++) { /* without and with the config.json */
        for (size_t i = 0; i < n; i++) {
            snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
            FILE *file = fopen(path, "w");
            ck_assert_ptr_nonnull(file);
            fputs(files[i][1], file);
            fclose(file);
        }
        struct error err = {0};
        struct tokenizer *tokenizer = tokenizer_open(folder, &err);
        ck_assert_msg(tokenizer != NULL, "%s", err.message);
        struct encode_options options = {0};
        struct tokens tokens;
        ck_assert_int_eq(tokenizer_encode(tokenizer, "A b", 3, &options, &tokens, &err), 0);
        ck_assert_int_eq(tokens.ids[0], n == 3);
        tokens_release(&tokens);
        tokenizer_free(tokenizer);
    }
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
        remove(path);
    }
    rmdir(folder);
}
END_TEST

START_TEST(tokenizer_refuses_bad_requests)
{
    struct tokenizer *tokenizer = open_named("clip");
    struct tokens tokens;
    struct error err = {0};
    struct encode_options options = {.add_special_tokens = true, .max_length = 1};
    ck_assert_int_eq(tokenizer_encode(tokenizer, "a", 1, &options, &tokens, &err),
                     STATUS_OUT_OF_RANGE);
    options.max_length = 2;
    ck_assert_int_eq(tokenizer_encode(tokenizer, "a", 1, &options, &tokens, &err), STATUS_OK);
    ck_assert_uint_eq(tokens.n, 2);
    ck_assert(tokens.truncated);
    tokens_release(&tokens);
    ck_assert_int_eq(tokenizer_encode(tokenizer, "a\xFF", 2, &options, &tokens, &err),
                     STATUS_BAD_REQUEST);
    size_t size = (2 << 20) + 1;
    char *text = calloc(size, 1);
    ck_assert_int_eq(tokenizer_encode(tokenizer, text, size, &options, &tokens, &err),
                     STATUS_TOO_LONG);
    free(text);
    tokenizer_free(tokenizer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *tcase = tcase_create("tokenizer");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, tokenizer_agrees_with_reference, 0, (int)ARRAY_LENGTH(names));
    tcase_add_test(tcase, tokenizer_tells_its_vocabulary);
    tcase_add_test(tcase, tokenizer_of_siglip2_lowers_its_text);
    tcase_add_test(tcase, tokenizer_refuses_bad_requests);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
