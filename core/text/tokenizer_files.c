/*
 * tokenizer_files.c: which files of a checkpoint make its tokenizer.
 *
 * tokenizer.json is taken as it is. Without it, the pipeline that transformers' BertTokenizer,
 * CLIPTokenizer or GPT2Tokenizer would build from vocab.txt or vocab.json + merges.txt is written
 * down as the same JSON and read by the same loader. tokenizer_config.json and
 * special_tokens_map.json give the special tokens to add, the clean-up flag and the longest input.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

enum status text_read_file(const char *directory, const char *name, char **data, size_t *size,
                           struct error *err)
{
    char path[PATH_MAX];
    *data = NULL;
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return error_set(err, STATUS_IO, "the path of %s is too long", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return STATUS_OK;
        return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    }
    struct stat info;
    char *text = NULL;
    enum status status = STATUS_OK;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = error_set(err, STATUS_IO, "%s is not a file", path);
    } else if (info.st_size > TOKENIZER_FILE_BYTES_MAX) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: larger than %d bytes", name,
                           TOKENIZER_FILE_BYTES_MAX);
    } else if (!(text = malloc((size_t)info.st_size + 1))) {
        status = error_no_memory(err, name);
    }
    size_t have = 0;
    while (!status && have < (size_t)info.st_size) {
        ssize_t got = read(fd, text + have, (size_t)info.st_size - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            status = error_set(err, STATUS_IO, "cannot read %s: %s", path,
                               got < 0 ? strerror(errno) : "it became shorter");
        else
            have += (size_t)got;
    }
    close(fd);
    if (status) {
        free(text);
        return status;
    }
    text[have] = '\0';
    *data = text;
    *size = have;
    return STATUS_OK;
}

enum status text_read_json(const char *directory, const char *name, size_t flags, json_t **root,
                           struct error *err)
{
    char *text;
    size_t size = 0;
    *root = NULL;
    enum status status = text_read_file(directory, name, &text, &size, err);
    if (status || !text)
        return status;
    json_error_t fault;
    *root = json_loadb(text, size, flags | JSON_ALLOW_NUL, &fault);
    free(text);
    if (!*root)
        return json_error_code(&fault) == json_error_out_of_memory || !fault.text[0]
                   ? error_no_memory(err, name)
                   : error_set(err, STATUS_BAD_CHECKPOINT, "%s: line %d: %s", name, fault.line,
                               fault.text);
    if (!json_is_object(*root)) {
        json_decref(*root);
        *root = NULL;
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s: must be an object", name);
    }
    return STATUS_OK;
}

/* ---- special tokens ---- */

/* The named tokens in transformers' order, and what the classes default to. */
static const struct named {
    const char *key, *bert, *clip, *gpt2;
} named_tokens[] = {
    {"bos_token", NULL, "<|startoftext|>", "<|endoftext|>"},
    {"eos_token", NULL, "<|endoftext|>", "<|endoftext|>"},
    {"unk_token", "[UNK]", "<|endoftext|>", "<|endoftext|>"},
    {"sep_token", "[SEP]", NULL, NULL},
    {"pad_token", "[PAD]", "<|endoftext|>", NULL},
    {"cls_token", "[CLS]", NULL, NULL},
    {"mask_token", "[MASK]", NULL, NULL},
};
enum { N_NAMED = sizeof named_tokens / sizeof named_tokens[0] };

enum family { FAMILY_OTHER, FAMILY_BERT, FAMILY_CLIP, FAMILY_GPT2 };

/* All that is read while opening. */
struct files {
    const char *directory;
    json_t *config, *map; /* tokenizer_config.json, special_tokens_map.json; NULL: absent */
    json_t *added; /* added_tokens.json in the form of added_tokens_decoder; NULL: does not count */
    enum family family;
    const char *class_name; /* NULL: not said */
};

static const char *content_of(const json_t *token)
{
    return json_is_object(token) ? json_string_value(json_object_get(token, "content"))
                                 : json_string_value(token);
}

/* The setting `key`: of special_tokens_map.json where that counts, else of the configuration. */
static const json_t *special_setting(const struct files *f, const char *key)
{
    const json_t *value = NULL;
    if (f->map && !json_object_get(f->config, "added_tokens_decoder"))
        value = json_object_get(f->map, key);
    return value ? value : json_object_get(f->config, key);
}

/* The content of a named token, NULL when there is none. */
static const char *named_token(const struct files *f, size_t row)
{
    const struct named *named = &named_tokens[row];
    const json_t *value = special_setting(f, named->key);
    if (value)
        return content_of(value); /* null: none */
    return f->family == FAMILY_BERT   ? named->bert
           : f->family == FAMILY_CLIP ? named->clip
           : f->family == FAMILY_GPT2 ? named->gpt2
                                      : NULL;
}

static bool is_named(const struct files *f, const char *content)
{
    for (size_t row = 0; row < N_NAMED; row++) {
        const char *other = named_token(f, row);
        if (other && strcmp(other, content) == 0)
            return true;
    }
    return false;
}

/* Appends {"content": …, flags}; special ones only when their content is new. */
static bool put_special(json_t *list, const json_t *token, const char *content)
{
    json_t *node = json_is_object(token) ? json_copy((json_t *)token) : json_object();
    bool ok = node && json_object_set_new(node, "content", json_string(content)) == 0 &&
              json_object_set_new(node, "special", json_true()) == 0 &&
              json_object_set_new(node, "only_if_new", json_true()) == 0;
    json_object_del(node, "id");
    return json_array_append_new(list, node) == 0 && ok;
}

static int compare_ids(const void *a, const void *b)
{
    long long x = strtoll(*(const char *const *)a, NULL, 10);
    long long y = strtoll(*(const char *const *)b, NULL, 10);
    return x < y ? -1 : x > y;
}

/* added_tokens_decoder, {"id": {"content", …}}, by ascending id. */
static enum status put_decoder_tokens(const struct files *f, json_t *list, struct error *err)
{
    json_t *decoder = json_object_get(f->config, "added_tokens_decoder");
    if (!decoder)
        decoder = f->added;
    if (!json_is_object(decoder))
        return STATUS_OK;
    size_t n = json_object_size(decoder), i = 0;
    const char **keys = calloc(n ? n : 1, sizeof *keys);
    if (!keys)
        return error_no_memory(err, "tokenizer_config.json");
    for (void *it = json_object_iter(decoder); it && i < n; it = json_object_iter_next(decoder, it))
        keys[i++] = json_object_iter_key(it);
    qsort(keys, i, sizeof *keys, compare_ids);
    enum status status = STATUS_OK;
    bool ok = true;
    for (size_t k = 0; k < i && ok; k++) {
        const json_t *token = json_object_get(decoder, keys[k]);
        const char *content = json_is_object(token) ? content_of(token) : NULL;
        if (!content) {
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "tokenizer_config.json: added_tokens_decoder: token %.32s must be "
                               "an object with a string 'content'",
                               keys[k]);
            break;
        }
        json_t *node = json_copy((json_t *)token);
        json_object_del(node, "id");
        if (is_named(f, content))
            ok = node && json_object_set_new(node, "special", json_true()) == 0;
        ok = json_array_append_new(list, node) == 0 && ok;
    }
    free(keys);
    return ok ? status : error_no_memory(err, "tokenizer_config.json");
}

/* added_tokens.json, {"content": id}, of old files without added_tokens_decoder. */
static enum status read_added(struct files *f, struct error *err)
{
    json_t *all = NULL, *id;
    const char *content;
    enum status status = text_read_json(f->directory, "added_tokens.json", 0, &all, err);
    if (status || !all)
        return status;
    bool ok = (f->added = json_object()) != NULL;
    json_object_foreach(all, content, id)
    {
        char key[24];
        if (!json_is_integer(id) || json_integer_value(id) < 0) {
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "added_tokens.json: '%.64s' must have a token id", content);
            break;
        }
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(id));
        bool special = is_named(f, content);
        ok = ok && json_object_set_new(f->added, key,
                                       json_pack("{s:s, s:b, s:b}", "content", content, "special",
                                                 special, "normalized", !special)) == 0;
    }
    json_decref(all);
    return status || ok ? status : error_no_memory(err, "added_tokens.json");
}

/* The tokens that transformers adds on top of the vocabulary or of tokenizer.json. */
static enum status extra_tokens(const struct files *f, json_t **out, struct error *err)
{
    json_t *list = json_array();
    if (!list)
        return error_no_memory(err, "special tokens");
    enum status status = put_decoder_tokens(f, list, err);
    bool ok = true;
    for (size_t row = 0; row < N_NAMED && ok; row++) {
        const char *content = named_token(f, row);
        if (content)
            ok = put_special(list, special_setting(f, named_tokens[row].key), content);
    }
    static const char *const more[] = {"extra_special_tokens", "additional_special_tokens"};
    for (size_t k = 0; k < 2 && ok; k++) {
        const json_t *tokens = special_setting(f, more[k]);
        size_t i;
        json_t *token;
        json_array_foreach(tokens, i, token) if (ok && content_of(token)) ok =
            put_special(list, token, content_of(token));
    }
    if (!status && !ok)
        status = error_no_memory(err, "special tokens");
    if (status) {
        json_decref(list);
        return status;
    }
    *out = list;
    return STATUS_OK;
}

/* ---- vocabulary files ---- */

/* The next line of text (without its end), as Rust's lines() has it; false at the end. */
static bool next_line(const char *text, size_t size, size_t *at, struct str *line)
{
    if (*at >= size)
        return false;
    const char *end = memchr(text + *at, '\n', size - *at);
    size_t n = end ? (size_t)(end - (text + *at)) : size - *at;
    *line = (struct str){text + *at, n};
    *at += n + (end != NULL);
    if (end && n && line->data[n - 1] == '\r')
        line->size--;
    return true;
}

static struct str trim_end(struct str line)
{
    while (line.size) {
        size_t at = line.size - 1;
        while (at && ((unsigned char)line.data[at] & 0xC0) == 0x80)
            at--;
        uint32_t code;
        if (!utf8_decode(line.data + at, line.size - at, &code) ||
            !unicode_set_has(&unicode_whitespace, code))
            break;
        line.size = at;
    }
    return line;
}

/* vocab.txt: a token a line, the id is the line. */
static enum status lines_to_vocab(const char *text, size_t size, json_t **out, struct error *err)
{
    json_t *vocab = json_object();
    size_t at = 0;
    json_int_t id = 0;
    struct str line;
    bool ok = vocab != NULL;
    if (!utf8_valid(text, size) || memchr(text, 0, size)) {
        json_decref(vocab);
        return error_set(err, STATUS_BAD_CHECKPOINT, "vocab.txt: is not UTF-8 text");
    }
    while (ok && next_line(text, size, &at, &line)) {
        line = trim_end(line);
        char *key = strndup(line.data, line.size);
        ok = key && json_object_set_new(vocab, key, json_integer(id++)) == 0;
        free(key);
    }
    if (!ok) {
        json_decref(vocab);
        return error_no_memory(err, "vocab.txt");
    }
    *out = vocab;
    return STATUS_OK;
}

static enum status lines_to_merges(const char *text, size_t size, json_t **out, struct error *err)
{
    json_t *merges = json_array();
    size_t at = 0;
    struct str line;
    bool ok = merges != NULL;
    if (!utf8_valid(text, size)) {
        json_decref(merges);
        return error_set(err, STATUS_BAD_CHECKPOINT, "merges.txt: is not UTF-8 text");
    }
    while (ok && next_line(text, size, &at, &line))
        if (line.size < 8 || memcmp(line.data, "#version", 8) != 0)
            ok = json_array_append_new(merges, json_stringn(line.data, line.size)) == 0;
    if (!ok) {
        json_decref(merges);
        return error_no_memory(err, "merges.txt");
    }
    *out = merges;
    return STATUS_OK;
}

/* Where a token will be: in the vocabulary or behind it. Only the order of `extra` counts then. */
static json_int_t future_id(const json_t *vocab, const json_t *extra, const char *content)
{
    const json_t *id = json_object_get(vocab, content);
    if (id)
        return json_integer_value(id);
    json_int_t next = (json_int_t)json_object_size(vocab);
    size_t n = json_array_size(extra);
    for (size_t i = 0; i < n; i++) {
        const char *other = content_of(json_array_get(extra, i));
        if (!other || json_object_get(vocab, other))
            continue;
        bool again = false;
        for (size_t k = 0; k < i && !again; k++)
            again = strcmp(content_of(json_array_get(extra, k)), other) == 0;
        if (again)
            continue;
        if (strcmp(other, content) == 0)
            return next;
        next++;
    }
    return -1;
}

static bool config_bool(const struct files *f, const char *key, bool absent)
{
    const json_t *value = json_object_get(f->config, key);
    return json_is_boolean(value) ? json_is_true(value) : absent;
}

/* What BertTokenizer builds. Takes the reference of vocab. */
static json_t *bert_json(const struct files *f, json_t *vocab, const json_t *extra)
{
    const char *unk = named_token(f, 2), *sep = named_token(f, 3), *cls = named_token(f, 5);
    const json_t *strip = json_object_get(f->config, "strip_accents");
    cls = cls ? cls : "[CLS]";
    sep = sep ? sep : "[SEP]";
    json_int_t cls_id = future_id(vocab, extra, cls), sep_id = future_id(vocab, extra, sep);
    return json_pack(
        "{s:{s:s, s:b, s:b, s:o, s:b}, s:{s:s}, s:{s:s, s:s, s:b},"
        " s:{s:s, s:s, s:s, s:i, s:o}, s:{s:s, s:[s,I], s:[s,I]}}",
        "normalizer", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars",
        config_bool(f, "tokenize_chinese_chars", true), "strip_accents",
        json_is_boolean(strip) ? json_boolean(json_is_true(strip)) : json_null(), "lowercase",
        config_bool(f, "do_lower_case", true), "pre_tokenizer", "type", "BertPreTokenizer",
        "decoder", "type", "WordPiece", "prefix", "##", "cleanup", 1, "model", "type", "WordPiece",
        "unk_token", unk ? unk : "None", "continuing_subword_prefix", "##",
        "max_input_chars_per_word", 100, "vocab", vocab, "post_processor", "type", "BertProcessing",
        "cls", cls, cls_id, "sep", sep, sep_id);
}

/* What CLIPTokenizer builds. Takes the references of vocab and merges. */
static json_t *clip_json(const struct files *f, json_t *vocab, json_t *merges, const json_t *extra)
{
    const char *bos = named_token(f, 0), *eos = named_token(f, 1), *unk = named_token(f, 2);
    bos = bos ? bos : "<|startoftext|>";
    eos = eos ? eos : "<|endoftext|>";
    json_int_t bos_id = future_id(vocab, extra, bos), eos_id = future_id(vocab, extra, eos);
    return json_pack(
        "{s:{s:s, s:[{s:s}, {s:s, s:{s:s}, s:s}, {s:s}]},"
        " s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]},"
        " s:{s:s}, s:{s:s, s:s, s:s, s:s, s:b, s:o, s:o}, s:{s:s, s:[s,I], s:[s,I]}}",
        "normalizer", "type", "Sequence", "normalizers", "type", "NFC", "type", "Replace",
        "pattern", "Regex", "\\s+", "content", " ", "type", "Lowercase", "pre_tokenizer", "type",
        "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
        "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"
        "[^\\s\\p{L}\\p{N}]+",
        "behavior", "Removed", "invert", 1, "type", "ByteLevel", "add_prefix_space", 0,
        "trim_offsets", 1, "use_regex", 1, "decoder", "type", "ByteLevel", "model", "type", "BPE",
        "unk_token", unk ? unk : "None", "continuing_subword_prefix", "", "end_of_word_suffix",
        "</w>", "fuse_unk", 0, "vocab", vocab, "merges", merges, "post_processor", "type",
        "RobertaProcessing", "cls", bos, bos_id, "sep", eos, eos_id);
}

/* What GPT2Tokenizer builds. Takes the references of vocab and merges. */
static json_t *gpt2_json(const struct files *f, json_t *vocab, json_t *merges, const json_t *extra)
{
    json_t *root = json_pack("{s:{s:s, s:b, s:b, s:b}, s:{s:s}, s:{s:s, s:s, s:s, s:b, s:o, s:o}}",
                             "pre_tokenizer", "type", "ByteLevel", "add_prefix_space",
                             config_bool(f, "add_prefix_space", false), "trim_offsets", 1,
                             "use_regex", 1, "decoder", "type", "ByteLevel", "model", "type", "BPE",
                             "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk",
                             0, "vocab", vocab, "merges", merges);
    json_t *single = json_array(), *specials = json_object();
    const char *ends[2] = {
        config_bool(f, "add_bos_token", false) ? named_token(f, 0) : NULL,
        config_bool(f, "add_eos_token", false) ? named_token(f, 1) : NULL,
    };
    bool ok = root && single && specials;
    for (int i = 0; i < 2 && ok; i++) {
        if (i == 1)
            ok = json_array_append_new(
                     single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0)) == 0;
        if (!ok || !ends[i])
            continue;
        ok =
            json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", ends[i],
                                                    "type_id", 0)) == 0 &&
            json_object_set_new(specials, ends[i],
                                json_pack("{s:[I]}", "ids", future_id(vocab, extra, ends[i]))) == 0;
    }
    json_t *post = json_pack("{s:s, s:o, s:o}", "type", "TemplateProcessing", "single", single,
                             "special_tokens", specials);
    if (!ok || !post || json_object_set_new(root, "post_processor", post) != 0) {
        json_decref(root);
        return NULL;
    }
    return root;
}

/* The JSON of a tokenizer that has none, from its vocabulary files. */
static enum status build_json(struct files *f, json_t **root, json_t **extra, struct error *err)
{
    char *text = NULL, *merges_text = NULL;
    size_t size = 0, merges_size = 0;
    json_t *vocab = NULL, *merges = NULL;
    enum status status = text_read_file(f->directory, "vocab.txt", &text, &size, err);
    if (status)
        return status;
    if (text && (f->family == FAMILY_BERT || !f->class_name)) {
        f->family = FAMILY_BERT;
        status = lines_to_vocab(text, size, &vocab, err);
    } else if (f->family == FAMILY_CLIP || f->family == FAMILY_GPT2 || !f->class_name) {
        status = text_read_json(f->directory, "vocab.json", 0, &vocab, err);
        if (!status)
            status = text_read_file(f->directory, "merges.txt", &merges_text, &merges_size, err);
        if (!status && vocab && merges_text) {
            if (f->family == FAMILY_OTHER)
                f->family = json_object_get(vocab, "<|startoftext|>") ? FAMILY_CLIP : FAMILY_GPT2;
            status = lines_to_merges(merges_text, merges_size, &merges, err);
        } else if (!status) {
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "%s: has neither tokenizer.json nor vocab.txt nor vocab.json with "
                               "merges.txt",
                               f->directory);
        }
    } else {
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "%s: has no tokenizer.json, and the vocabulary files of tokenizer_class "
                           "'%.64s' can't be read",
                           f->directory, f->class_name);
    }
    free(text);
    free(merges_text);
    if (!status)
        status = read_added(f, err);
    if (!status)
        status = extra_tokens(f, extra, err);
    if (status) {
        json_decref(vocab);
        json_decref(merges);
        return status;
    }
    *root = f->family == FAMILY_BERT   ? bert_json(f, vocab, *extra)
            : f->family == FAMILY_CLIP ? clip_json(f, vocab, merges, *extra)
                                       : gpt2_json(f, vocab, merges, *extra);
    return *root ? STATUS_OK : error_no_memory(err, "the tokenizer's vocabulary");
}

static enum family family_of(const char *name)
{
    static const struct {
        const char *name;
        enum family family;
    } rows[] = {
        {"BertTokenizer", FAMILY_BERT},       {"BertTokenizerFast", FAMILY_BERT},
        {"CLIPTokenizer", FAMILY_CLIP},       {"CLIPTokenizerFast", FAMILY_CLIP},
        {"DistilBertTokenizer", FAMILY_BERT}, {"DistilBertTokenizerFast", FAMILY_BERT},
        {"ElectraTokenizer", FAMILY_BERT},    {"ElectraTokenizerFast", FAMILY_BERT},
        {"GPT2Tokenizer", FAMILY_GPT2},       {"GPT2TokenizerFast", FAMILY_GPT2},
    };
    for (size_t i = 0; name && i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i].family;
    return FAMILY_OTHER;
}

static void read_settings(struct tokenizer *t, const struct files *f)
{
    double length = json_number_value(json_object_get(f->config, "model_max_length"));
    if (length >= 1 && length < 1e9)
        t->model_max_length = (size_t)length;
    bool force = config_bool(
        f, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false);
    t->clean_up = config_bool(f, "clean_up_tokenization_spaces", false) &&
                  (t->model.kind != MODEL_BPE || force);
    t->clip_decode =
        f->family == FAMILY_CLIP ||
        (!f->class_name && t->model.kind == MODEL_BPE && str_is(t->model.suffix, "</w>", 4) &&
         t->n_decoders == 1 && t->decoders[0].kind == DECODER_BYTE_LEVEL);
}

/* Siglip2Tokenizer is Gemma's with the text in lower case, whatever tokenizer.json says: SigLIP 2
 * was trained so, and its files still name GemmaTokenizer. */
static enum status apply_siglip2(const struct files *f, json_t *root, struct error *err)
{
    bool siglip2 = f->class_name && strcmp(f->class_name, "Siglip2Tokenizer") == 0;
    if (!siglip2) {
        json_t *model;
        enum status status =
            text_read_json(f->directory, "config.json", JSON_DECODE_INT_AS_REAL, &model, err);
        if (status)
            return status;
        const char *type = json_string_value(json_object_get(model, "model_type"));
        siglip2 = type && strcmp(type, "siglip2") == 0;
        json_decref(model);
    }
    if (!siglip2)
        return STATUS_OK;
    json_t *list = json_pack("[{s:s}]", "type", "Lowercase");
    json_t *rest = json_object_get(root, "normalizer");
    bool ok = list != NULL;
    if (json_is_object(rest))
        ok = ok && json_array_append(list, rest) == 0;
    json_t *all = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
    ok = json_object_set_new(root, "normalizer", all) == 0 && ok;
    return ok ? STATUS_OK : error_no_memory(err, "tokenizer.json");
}

enum status tokenizer_load_directory(struct tokenizer *t, const char *directory, struct error *err)
{
    struct files f = {.directory = directory};
    json_t *root = NULL, *extra = NULL;
    const char *name = "tokenizer.json";
    /* Large whole numbers are common here ("very large" lengths). */
    enum status status =
        text_read_json(directory, "tokenizer_config.json", JSON_DECODE_INT_AS_REAL, &f.config, err);
    if (!status)
        status = text_read_json(directory, "special_tokens_map.json", JSON_DECODE_INT_AS_REAL,
                                &f.map, err);
    if (!status) {
        f.class_name = json_string_value(json_object_get(f.config, "tokenizer_class"));
        f.family = family_of(f.class_name);
        status = text_read_json(directory, name, 0, &root, err);
    }
    if (!status && root) {
        status = extra_tokens(&f, &extra, err);
        if (!status)
            status = apply_siglip2(&f, root, err);
    } else if (!status) {
        status = build_json(&f, &root, &extra, err);
        name = f.family == FAMILY_BERT ? "vocab.txt" : "vocab.json";
    }
    if (!status)
        status = tokenizer_load_json(t, root, extra, name, err);
    if (!status)
        read_settings(t, &f);
    json_decref(root);
    json_decref(extra);
    json_decref(f.config);
    json_decref(f.map);
    json_decref(f.added);
    malloc_trim(0); /* the parsed JSON was ten times what stays; the process keeps none of it */
    return status;
}
