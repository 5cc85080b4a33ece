/*
 * test_tokenizer_bad.c: broken tokenizer files are refused with a sentence, broken texts are too,
 * and nothing of either crashes. The files are the goldens' tokenizers, cut, edited or damaged.
 */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer.h"

static char folder[] = "/tmp/vlmd_tokenizer_XXXXXX";

static void write_file(const char *name, const char *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    fclose(file);
}

static void remove_files(void)
{
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "vocab.txt",
                                        "vocab.json",
                                        "merges.txt"};
    char path[256];
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

static char *read_golden(const char *name, const char *file, size_t *size)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizers/%s/%s", getenv("VLMD_TEST_DATA"), name, file);
    FILE *in = fopen(path, "rb");
    ck_assert_msg(in != NULL, "%s", path);
    char *text = malloc(1 << 20);
    *size = fread(text, 1, 1 << 20, in);
    fclose(in);
    return text;
}

/* Opens the folder; on success a few texts go through and back. */
static enum status try_folder(struct error *err)
{
    static const char text[] =
        "A b\tc <s>1\xE2\x96\x81\xC3\xA9 e\xCC\x81 \xF0\x9F\x98\x80 [x] <0x41>";
    memset(err, 0, sizeof *err);
    struct tokenizer *tokenizer = tokenizer_open(folder, err);
    if (!tokenizer) {
        ck_assert_int_ne(err->status, STATUS_OK);
        ck_assert_msg(strlen(err->message) > 10, "a refusal without a sentence");
        return err->status;
    }
    struct encode_options options = {.add_special_tokens = true};
    struct tokens tokens;
    struct error fault;
    for (size_t size = 0; size < sizeof text; size++) {
        if (!utf8_valid(text, size) ||
            tokenizer_encode(tokenizer, text, size, &options, &tokens, &fault))
            continue;
        struct buffer out;
        buffer_init(&out, 1 << 20);
        tokenizer_decode(tokenizer, tokens.ids, tokens.n, size % 2, &out, &fault);
        ck_assert(utf8_valid(out.data, out.size));
        buffer_release(&out);
        tokens_release(&tokens);
    }
    tokenizer_free(tokenizer);
    return STATUS_OK;
}

static const char *const json_names[] = {"bert_uncased", "clip",        "llama3",
                                         "llama_first",  "mixed_split", "mixed_wordpiece",
                                         "siglip",       "xlmr"};

START_TEST(truncated_files_are_refused)
{
    size_t size;
    char *text = read_golden(json_names[_i], "tokenizer.json", &size);
    while (size && text[size - 1] == '\n')
        size--;
    struct error err;
    for (size_t k = 0; k < 60; k++) {
        size_t cut = k < 30 ? k : size - 1 - (k - 30) * (size / 32);
        write_file("tokenizer.json", text, cut);
        ck_assert_msg(try_folder(&err) == STATUS_BAD_CHECKPOINT, "cut at %zu", cut);
        ck_assert_ptr_nonnull(strstr(err.message, "tokenizer.json"));
    }
    free(text);
}
END_TEST

START_TEST(damaged_files_never_crash)
{
    size_t size, opened = 0;
    char *text = read_golden(json_names[_i], "tokenizer.json", &size);
    unsigned random = 12345u + (unsigned)_i;
    struct error err;
    for (int round = 0; round < 40; round++) {
        char *copy = malloc(size);
        memcpy(copy, text, size);
        for (int k = 0; k < 1 + round % 4; k++) {
            random = random * 1664525u + 1013904223u;
            size_t at = (size_t)random % size;
            random = random * 1664525u + 1013904223u;
            /* Half of the time near the start, where the settings are; mostly ASCII. */
            copy[k % 2 ? at % (size < 2000 ? size : 2000) : at] =
                "0123456789{}[]\",:-ate"[random >> 8 & 15];
        }
        write_file("tokenizer.json", copy, size);
        opened += try_folder(&err) == STATUS_OK;
        free(copy);
    }
    ck_assert_uint_lt(opened, 40);
    free(text);
}
END_TEST

/* One edit: the value at `path` (dots, numbers for lists) becomes `value` ("-": it goes), and the
 * refusal must say `says`. */
static const struct edit {
    const char *base, *path, *value, *says;
} edits[] = {
    {"clip", "model", "-", "model"},
    {"clip", "model", "[]", "model"},
    {"clip", "model.type", "\"Neural\"", "'type'"},
    {"clip", "model.type", "7", "'type'"},
    {"clip", "model.vocab", "[]", "'vocab'"},
    {"clip", "model.vocab.!", "-1", "the id of token '!'"},
    {"clip", "model.vocab.!", "1.5", "the id of token '!'"},
    {"clip", "model.vocab.!", "\"0\"", "the id of token '!'"},
    {"clip", "model.vocab.!", "4194304", "the id of token '!'"},
    {"clip", "model.vocab.!", "9223372036854775807", "the id of token '!'"},
    {"clip", "model.vocab.!", "99999999999999999999", "integer"},
    {"clip", "model.vocab.!", "5", "the same id 5"},
    {"clip", "model.merges", "{}", "'merges'"},
    {"clip", "model.merges.0", "\"a\"", "merge 0"},
    {"clip", "model.merges.0", "\"a b c\"", "merge 0"},
    {"clip", "model.merges.0", "[\"a\"]", "merge 0"},
    {"clip", "model.merges.0", "[\"a\", 1]", "merge 0"},
    {"clip", "model.merges.0", "[\"a\", \"no such\"]", "'no such'"},
    {"clip", "model.merges.0", "null", "merge 0"},
    {"clip", "model.unk_token", "1", "'unk_token'"},
    {"clip", "model.end_of_word_suffix", "1", "'end_of_word_suffix'"},
    {"clip", "model.fuse_unk", "\"no\"", "'fuse_unk'"},
    {"clip", "normalizer", "\"NFC\"", "normalizer"},
    {"clip", "normalizer.type", "\"Magic\"", "'Magic'"},
    {"clip", "normalizer.type", "-", "'type'"},
    {"clip", "normalizer.normalizers", "1", "'normalizers'"},
    {"clip", "normalizer.normalizers.1.pattern", "{}", "'pattern'"},
    {"clip", "normalizer.normalizers.1.pattern", "{\"Regex\": \"(\"}", "'pattern'"},
    {"clip", "normalizer.normalizers.1.pattern", "{\"Regex\": \"[a&&b]\"}", "&&"},
    {"clip", "normalizer.normalizers.1.content", "null", "'content'"},
    {"clip", "pre_tokenizer.type", "\"UnicodeScripts\"", "'UnicodeScripts'"},
    {"clip", "pre_tokenizer.pretokenizers.0.behavior", "\"Lost\"", "'behavior'"},
    {"clip", "pre_tokenizer.pretokenizers.0.behavior", "-", "'behavior'"},
    {"clip", "pre_tokenizer.pretokenizers.0.invert", "null", "'invert'"},
    {"clip", "pre_tokenizer.pretokenizers.1.add_prefix_space", "0", "'add_prefix_space'"},
    {"clip", "decoder.type", "\"CTC\"", "'CTC'"},
    {"clip", "post_processor.type", "\"Glue\"", "'Glue'"},
    {"clip", "post_processor.cls", "-", "special token's id"},
    {"clip", "post_processor.cls.1", "-5", "special token's id"},
    {"clip", "post_processor.cls.1", "4000000", "special token's id"},
    {"clip", "added_tokens", "{}", "added_tokens"},
    {"clip", "added_tokens.0", "1", "added_tokens"},
    {"clip", "added_tokens.0.id", "-1", "'id'"},
    {"clip", "added_tokens.0.id", "4294967296", "'id'"},
    {"clip", "added_tokens.0.id", "844", "twice"},
    {"clip", "added_tokens.0.content", "-", "'content'"},
    {"clip", "added_tokens.0.special", "\"yes\"", "'special'"},
    {"bert_uncased", "model.unk_token", "-", "'unk_token'"},
    {"bert_uncased", "model.max_input_chars_per_word", "-1", "'max_input_chars_per_word'"},
    {"bert_uncased", "normalizer.lowercase", "-", "'lowercase'"},
    {"bert_uncased", "normalizer.strip_accents", "3", "'strip_accents'"},
    {"bert_uncased", "post_processor.single", "-", "'single'"},
    {"bert_uncased", "post_processor.single", "[]", "sequence A once"},
    {"bert_uncased", "post_processor.single.0", "{}", "without 'ids'"},
    {"bert_uncased", "post_processor.single.1.Sequence.id", "\"B\"", "sequence A once"},
    {"bert_uncased", "post_processor.special_tokens.[CLS].ids.0", "99999999", "special token"},
    {"bert_uncased", "decoder.cleanup", "-", "'cleanup'"},
    {"siglip", "model.vocab", "{}", "'vocab'"},
    {"siglip", "model.vocab", "[]", "'vocab'"},
    {"siglip", "model.vocab.3", "[\"x\"]", "entry 3"},
    {"siglip", "model.vocab.3", "[\"x\", \"1\"]", "entry 3"},
    {"siglip", "model.vocab.3", "[1, 1]", "entry 3"},
    {"siglip", "model.unk_id", "-1", "'unk_id'"},
    {"siglip", "model.unk_id", "100000", "'unk_id'"},
    {"siglip", "pre_tokenizer.replacement", "\"ab\"", "one character"},
    {"siglip", "pre_tokenizer.replacement", "\"\"", "one character"},
    {"siglip", "pre_tokenizer.prepend_scheme", "\"last\"", "'prepend_scheme'"},
    {"siglip", "pre_tokenizer.add_prefix_space", "false", "does not match"},
    {"xlmr", "normalizer.normalizers.0.precompiled_charsmap", "1", "precompiled_charsmap"},
    {"xlmr", "normalizer.normalizers.0.precompiled_charsmap", "\"*\"", "base64"},
    {"xlmr", "normalizer.normalizers.0.precompiled_charsmap", "\"AAA=\"", "cut short"},
    {"xlmr", "normalizer.normalizers.0.precompiled_charsmap", "\"/////w==\"", "cut short"},
    {"xlmr", "normalizer.normalizers.0.precompiled_charsmap", "\"AAAAAP8=\"", "not UTF-8"},
    {"llama_first", "decoder.decoders.3.start", "-1", "'start'"},
};

/* The container of the last step of a path, and that step. */
static json_t *walk(json_t *node, char *path, char **last)
{
    for (char *dot; (dot = strchr(path, '.')); path = dot + 1) {
        *dot = '\0';
        node = json_is_array(node) ? json_array_get(node, (size_t)atoi(path))
                                   : json_object_get(node, path);
        ck_assert_msg(node != NULL, "no %s", path);
    }
    *last = path;
    return node;
}

START_TEST(edited_files_are_refused_by_name)
{
    const struct edit *edit = &edits[_i];
    size_t size;
    char *text = read_golden(edit->base, "tokenizer.json", &size);
    json_error_t fault;
    json_t *root = json_loadb(text, size, JSON_ALLOW_NUL, &fault);
    ck_assert_ptr_nonnull(root);
    char path[128], *last;
    snprintf(path, sizeof path, "%s", edit->path);
    json_t *node = walk(root, path, &last);
    /* Some values cannot be held by jansson: a mark goes in, then the text over it. */
    static const char mark[] = "\"THE MARK\"";
    if (strcmp(edit->value, "-") == 0)
        json_object_del(node, last);
    else if (json_is_array(node))
        json_array_set_new(node, (size_t)atoi(last), json_string("THE MARK"));
    else
        json_object_set_new(node, last, json_string("THE MARK"));
    char *dump = json_dumps(root, JSON_COMPACT);
    char *at = strstr(dump, mark);
    struct buffer out;
    buffer_init(&out, 1 << 24);
    if (at) {
        buffer_append(&out, dump, (size_t)(at - dump));
        buffer_puts(&out, edit->value);
        buffer_puts(&out, at + strlen(mark));
    } else {
        buffer_puts(&out, dump);
    }
    write_file("tokenizer.json", out.data, out.size);
    struct error err;
    enum status status = try_folder(&err);
    ck_assert_msg(status == STATUS_BAD_CHECKPOINT, "%s = %s: status %d", edit->path, edit->value,
                  status);
    ck_assert_msg(strstr(err.message, edit->says) != NULL, "%s = %s: %s", edit->path, edit->value,
                  err.message);
    buffer_release(&out);
    free(dump);
    json_decref(root);
    free(text);
}
END_TEST

START_TEST(nesting_and_lists_have_a_bound)
{
    struct error err;
    struct buffer out;
    buffer_init(&out, 1 << 24);
    for (int deep = 0; deep < 2; deep++) {
        out.size = 0;
        buffer_puts(&out,
                    "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"a\"},"
                    "\"normalizer\":");
        if (deep) {
            for (int i = 0; i < 1000; i++)
                buffer_puts(&out, "{\"type\":\"Sequence\",\"normalizers\":[");
            for (int i = 0; i < 1000; i++)
                buffer_puts(&out, "]}");
        } else {
            buffer_puts(&out, "{\"type\":\"Sequence\",\"normalizers\":[");
            for (int i = 0; i < 65; i++)
                buffer_puts(&out, i ? ",{\"type\":\"NFC\"}" : "{\"type\":\"NFC\"}");
            buffer_puts(&out, "]}");
        }
        buffer_puts(&out, "}");
        write_file("tokenizer.json", out.data, out.size);
        ck_assert_int_eq(try_folder(&err), STATUS_BAD_CHECKPOINT);
        ck_assert_msg(strstr(err.message, deep ? "deeper" : "more than 64") != NULL, "%s",
                      err.message);
    }
    buffer_release(&out);
}
END_TEST

START_TEST(growing_texts_have_a_bound)
{
    /* Every character becomes 6000: 96 MB are reached, the text is refused. */
    struct buffer out;
    struct error err = {0};
    buffer_init(&out, 1 << 20);
    buffer_puts(
        &out, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"a\"},"
              "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"");
    for (int i = 0; i < 6000; i++)
        buffer_puts(&out, "b");
    buffer_puts(&out, "\"}}");
    write_file("tokenizer.json", out.data, out.size);
    buffer_release(&out);
    struct tokenizer *tokenizer = tokenizer_open(folder, &err);
    ck_assert_msg(tokenizer != NULL, "%s", err.message);
    char *text = malloc(20000);
    memset(text, 'a', 20000);
    struct encode_options options = {0};
    struct tokens tokens;
    ck_assert_int_eq(tokenizer_encode(tokenizer, text, 20000, &options, &tokens, &err),
                     STATUS_TOO_LONG);
    ck_assert_int_eq(tokenizer_encode(tokenizer, text, 10, &options, &tokens, &err), STATUS_OK);
    tokens_release(&tokens);
    free(text);
    tokenizer_free(tokenizer);
}
END_TEST

START_TEST(wrong_vocabulary_files_are_refused)
{
    static const struct {
        const char *config, *vocab_txt, *vocab_json, *merges;
        const char *says;
    } rows[] = {
        {NULL, NULL, NULL, NULL, "has neither tokenizer.json"},
        {"{", NULL, NULL, NULL, "tokenizer_config.json"},
        {"[]", NULL, NULL, NULL, "must be an object"},
        {"{\"tokenizer_class\": \"RobertaTokenizer\"}", NULL, "{\"a\": 0}", "", "RobertaTokenizer"},
        {"{\"tokenizer_class\": \"CLIPTokenizer\"}", "a\n", NULL, NULL, "has neither"},
        {NULL, "a\n\xFF\n", NULL, NULL, "not UTF-8"},
        {NULL, NULL, "{\"a\": 0}", NULL, "has neither"},
        {NULL, NULL, "{\"a\": 0, \"b\": 0}", "", "same id"},
        {NULL, NULL, "{\"a\": 0, \"b\": 1}", "a b\n", "'ab'"},
        {NULL, NULL, "{\"a\": 0, \"b\": 1, \"ab\": 2}", "a b\n\n", "merge 1"},
        {NULL, NULL, "{\"a\": 0", "", "vocab.json"},
        {"{\"added_tokens_decoder\": {\"5\": 1}}", NULL, "{\"a\": 0}", "", "added_tokens_decoder"},
        {"{\"added_tokens_decoder\": {\"5\": {}}}", NULL, "{\"a\": 0}", "", "added_tokens_decoder"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        remove_files();
        if (rows[i].config)
            write_file("tokenizer_config.json", rows[i].config, strlen(rows[i].config));
        if (rows[i].vocab_txt)
            write_file("vocab.txt", rows[i].vocab_txt, strlen(rows[i].vocab_txt));
        if (rows[i].vocab_json)
            write_file("vocab.json", rows[i].vocab_json, strlen(rows[i].vocab_json));
        if (rows[i].merges)
            write_file("merges.txt", rows[i].merges, strlen(rows[i].merges));
        struct error err;
        ck_assert_msg(try_folder(&err) == STATUS_BAD_CHECKPOINT, "row %zu", i);
        ck_assert_msg(strstr(err.message, rows[i].says) != NULL, "row %zu: %s", i, err.message);
    }
    remove_files();
    write_file("vocab.txt", "", 0); /* no tokens at all: there is nothing for [CLS] */
    struct error err;
    ck_assert_int_ne(try_folder(&err), STATUS_NO_MEMORY);
}
END_TEST

START_TEST(random_bytes_never_crash)
{
    static const char *const names[] = {"bert_uncased", "clip", "llama3",
                                        "llama_legacy", "xlmr", "mixed_wordpiece"};
    char path[1024];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/tokenizers/%s", getenv("VLMD_TEST_DATA"), names[_i]);
    struct tokenizer *tokenizer = tokenizer_open(path, &err);
    ck_assert_msg(tokenizer != NULL, "%s", err.message);
    unsigned random = 99;
    char text[256];
    size_t refused = 0;
    for (int round = 0; round < 2000; round++) {
        size_t size = 0;
        while (size < 40 + (size_t)round % 200) {
            random = random * 1664525u + 1013904223u;
            if (round % 2) { /* any bytes */
                text[size++] = (char)(random >> 16);
                continue;
            }
            uint32_t code = random >> 8; /* any code points, small ones more often */
            code = code % (code & 1 ? 0x110000u : code & 2 ? 0x3100u : 0x250u);
            if (code < 0xD800 || code > 0xDFFF)
                size += utf8_encode(code, text + size);
        }
        struct encode_options options = {.add_special_tokens = round % 3 == 0,
                                         .max_length = round % 5 ? 0 : 20};
        struct tokens tokens;
        if (tokenizer_encode(tokenizer, text, size, &options, &tokens, &err)) {
            ck_assert_int_eq(err.status, STATUS_BAD_REQUEST);
            ck_assert(!utf8_valid(text, size));
            refused++;
            continue;
        }
        ck_assert(utf8_valid(text, size));
        struct buffer out;
        buffer_init(&out, 1 << 20);
        ck_assert_int_eq(tokenizer_decode(tokenizer, tokens.ids, tokens.n, false, &out, &err), 0);
        ck_assert(utf8_valid(out.data, out.size));
        out.size = 0;
        for (size_t i = 0; i < tokens.n; i++) { /* any ids at all */
            random = random * 1664525u + 1013904223u;
            tokens.ids[i] = (int32_t)(random % 3 ? random % 1000 : random);
        }
        ck_assert_int_eq(tokenizer_decode(tokenizer, tokens.ids, tokens.n, true, &out, &err), 0);
        ck_assert(utf8_valid(out.data, out.size));
        buffer_release(&out);
        tokens_release(&tokens);
    }
    ck_assert_uint_gt(refused, 500);
    tokenizer_free(tokenizer);
}
END_TEST

START_TEST(long_texts_stay_linear)
{
    /* A megabyte each; quadratic work would take minutes and trip the suite's time limit. */
    static const char *const names[] = {"bert_uncased", "clip", "llama_first", "qwen2", "xlmr"};
    static const char *const units[] = {"a", " ", "\xE2\x96\x81", "e\xCC\x81\xCC\xA3", "'", "\n"};
    char path[1024];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/tokenizers/%s", getenv("VLMD_TEST_DATA"), names[_i]);
    struct tokenizer *tokenizer = tokenizer_open(path, &err);
    ck_assert_msg(tokenizer != NULL, "%s", err.message);
    size_t size = 1 << 20;
    char *text = malloc(size + 8);
    for (size_t i = 0; i < ARRAY_LENGTH(units); i++) {
        size_t n = strlen(units[i]), used = 0;
        for (; used + n <= size; used += n)
            memcpy(text + used, units[i], n);
        text[used++] = 'x'; /* runs that must end at the end do not */
        struct encode_options options = {0};
        struct tokens tokens;
        ck_assert_int_eq(tokenizer_encode(tokenizer, text, used, &options, &tokens, &err), 0);
        tokens_release(&tokens);
    }
    free(text);
    tokenizer_free(tokenizer);
}
END_TEST

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    Suite *suite = suite_create("tokenizer_bad");
    TCase *tcase = tcase_create("tokenizer_bad");
    tcase_set_timeout(tcase, 60);
    int n_json = (int)ARRAY_LENGTH(json_names);
    tcase_add_loop_test(tcase, truncated_files_are_refused, 0, n_json);
    tcase_add_loop_test(tcase, damaged_files_never_crash, 0, n_json);
    tcase_add_loop_test(tcase, edited_files_are_refused_by_name, 0, (int)ARRAY_LENGTH(edits));
    tcase_add_test(tcase, nesting_and_lists_have_a_bound);
    tcase_add_test(tcase, growing_texts_have_a_bound);
    tcase_add_test(tcase, wrong_vocabulary_files_are_refused);
    tcase_add_loop_test(tcase, random_bytes_never_crash, 0, 6);
    tcase_add_loop_test(tcase, long_texts_stay_linear, 0, 5);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    remove_files();
    rmdir(folder);
    return failed ? 1 : 0;
}
