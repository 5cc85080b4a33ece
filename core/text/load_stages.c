/*
 * load_stages.c: normalizers, pre-tokenizers and decoders from their JSON. Sequences are flattened
 * into one list each. A component we don't have is refused by name.
 */
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

/* Room for all stages of a kind, taken once. */
static bool reserve_stage(struct json_reader *r, const char *where, void *list, size_t n,
                          size_t each)
{
    void **items = list;
    if (!*items && !(*items = arena_zalloc(r->arena, TOKENIZER_STAGES_MAX, each))) {
        error_no_memory(r->err, r->file);
        return false;
    }
    if (n >= TOKENIZER_STAGES_MAX)
        return json_fault(r, where, "has more than %d parts", TOKENIZER_STAGES_MAX);
    return true;
}

static bool keep_regex(struct tokenizer *t, struct json_reader *r, struct regex *regex)
{
    if (t->n_regexes == t->regexes_capacity) {
        size_t capacity = t->regexes_capacity ? 2 * t->regexes_capacity : 8;
        struct regex **regexes = realloc_array(t->regexes, capacity, sizeof *regexes);
        if (!regexes) {
            regex_free(regex);
            error_no_memory(r->err, r->file);
            return false;
        }
        t->regexes = regexes;
        t->regexes_capacity = capacity;
    }
    t->regexes[t->n_regexes++] = regex;
    return true;
}

static bool load_regex(struct tokenizer *t, struct json_reader *r, const char *where,
                       struct str text, struct pattern *out)
{
    struct error fault;
    out->regex = regex_new(text.data, text.size, &fault);
    if (!out->regex) {
        if (fault.status != STATUS_BAD_CHECKPOINT) {
            *r->err = fault;
            return false;
        }
        return json_fault(r, where, "'pattern' %s: %s", text.data, fault.message);
    }
    out->trims_spaces = str_is(text, "\\A +| +\\z", 9);
    return keep_regex(t, r, out->regex);
}

/* {"String": …} or {"Regex": …} */
static bool load_pattern(struct tokenizer *t, struct json_reader *r, const json_t *node,
                         const char *where, struct pattern *out)
{
    const json_t *pattern = json_object_get(node, "pattern");
    const json_t *string = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (json_is_string(string))
        return json_copy_string(r, string, &out->literal);
    struct str text;
    if (!json_is_string(regex))
        return json_fault(r, where, "'pattern' must be {\"String\": …} or {\"Regex\": …}");
    return json_copy_string(r, regex, &text) && load_regex(t, r, where, text, out);
}

static bool load_sequence(struct tokenizer *t, struct json_reader *r, const json_t *node,
                          const char *where, const char *key, int nesting,
                          bool (*load)(struct tokenizer *, struct json_reader *, const json_t *,
                                       int))
{
    const json_t *list = json_object_get(node, key);
    if (!json_is_array(list))
        return json_fault(r, where, "'%s' must be a list", key);
    if (nesting >= TOKENIZER_NESTING_MAX)
        return json_fault(r, where, "Sequences nest deeper than %d", TOKENIZER_NESTING_MAX);
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) if (!load(t, r, item, nesting + 1)) return false;
    return true;
}

/* One character. */
static bool get_char(struct json_reader *r, const json_t *node, const char *where, const char *key,
                     struct str *out, uint32_t *code)
{
    return json_get_string(r, node, where, key, true, out) &&
           ((out->size && utf8_decode(out->data, out->size, code) == out->size) ||
            json_fault(r, where, "'%s' must be one character", key));
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Layout of the charsmap: u32 little-endian size of the double array in bytes, the array, then
 * NUL-terminated UTF-8 strings. */
static bool load_charsmap(struct json_reader *r, const json_t *node, struct normalizer *out)
{
    const char *where = "normalizer Precompiled";
    const json_t *value = json_object_get(node, "precompiled_charsmap");
    const char *text = json_string_value(value);
    if (!text)
        return json_fault(r, where, "'precompiled_charsmap' must be a string");
    size_t n_text = json_string_length(value);
    while (n_text && text[n_text - 1] == '=')
        n_text--;
    unsigned char *bytes = arena_alloc(r->arena, n_text / 4 * 3 + 3);
    if (!bytes) {
        error_no_memory(r->err, r->file);
        return false;
    }
    size_t size = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < n_text; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0)
            return json_fault(r, where, "'precompiled_charsmap' is not base64");
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            bytes[size++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    if (size == 0) /* SentencePiece without normalisation */
        return true;
    size_t trie_bytes = 0;
    if (size >= 4)
        trie_bytes =
            bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    if (size < 4 || trie_bytes > size - 4 || trie_bytes % 4)
        return json_fault(r, where, "'precompiled_charsmap' is cut short");
    const unsigned char *array = bytes + 4;
    const char *strings = (const char *)array + trie_bytes;
    size_t strings_size = size - 4 - trie_bytes;
    uint32_t *units = arena_array(r->arena, trie_bytes / 4, sizeof *units);
    if (!units) {
        error_no_memory(r->err, r->file);
        return false;
    }
    for (size_t i = 0; i < trie_bytes / 4; i++)
        units[i] = array[4 * i] | (uint32_t)array[4 * i + 1] << 8 |
                   (uint32_t)array[4 * i + 2] << 16 | (uint32_t)array[4 * i + 3] << 24;
    if (!utf8_valid(strings, strings_size))
        return json_fault(r, where, "'precompiled_charsmap' has strings that are not UTF-8");
    out->charsmap.units = units;
    out->charsmap.n_units = trie_bytes / 4;
    out->charsmap.strings = (struct str){strings, strings_size};
    return true;
}

bool load_normalizer(struct tokenizer *t, struct json_reader *r, const json_t *node, int nesting)
{
    static const struct {
        const char *type;
        enum normalizer_kind kind;
        int form;
    } plain[] = {
        {"NFC", NORMALIZER_FORM, NORMAL_NFC},
        {"NFD", NORMALIZER_FORM, NORMAL_NFD},
        {"NFKC", NORMALIZER_FORM, NORMAL_NFKC},
        {"NFKD", NORMALIZER_FORM, NORMAL_NFKD},
        {"Lowercase", NORMALIZER_LOWERCASE, 0},
        {"BertNormalizer", NORMALIZER_BERT, 0},
        {"StripAccents", NORMALIZER_STRIP_ACCENTS, 0},
        {"Strip", NORMALIZER_STRIP, 0},
        {"Replace", NORMALIZER_REPLACE, 0},
        {"Prepend", NORMALIZER_PREPEND, 0},
        {"Nmt", NORMALIZER_NMT, 0},
        {"Precompiled", NORMALIZER_PRECOMPILED, 0},
        {"ByteLevel", NORMALIZER_BYTE_LEVEL, 0},
    };
    const char *type = json_get_type(r, node, "normalizer");
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, r, node, "normalizer Sequence", "normalizers", nesting,
                             load_normalizer);
    size_t row = 0;
    while (row < ARRAY_LENGTH(plain) && strcmp(plain[row].type, type) != 0)
        row++;
    if (row == ARRAY_LENGTH(plain))
        return json_fault(r, "normalizer", "type '%s' is not supported", type);
    if (!reserve_stage(r, "normalizer", &t->normalizers, t->n_normalizers, sizeof *t->normalizers))
        return false;
    struct normalizer *n = &t->normalizers[t->n_normalizers];
    char where[64];
    snprintf(where, sizeof where, "normalizer %s", type);
    n->kind = plain[row].kind;
    n->form = plain[row].form;
    bool ok = true;
    switch (n->kind) {
    case NORMALIZER_BERT:
        ok = json_get_bool(r, node, where, "clean_text", -1, &n->clean_text) &&
             json_get_bool(r, node, where, "handle_chinese_chars", -1, &n->chinese_chars) &&
             json_get_bool(r, node, where, "lowercase", -1, &n->lowercase) &&
             json_get_bool(r, node, where, "strip_accents", n->lowercase, &n->strip_accents);
        break;
    case NORMALIZER_STRIP:
        ok = json_get_bool(r, node, where, "strip_left", -1, &n->strip_left) &&
             json_get_bool(r, node, where, "strip_right", -1, &n->strip_right);
        break;
    case NORMALIZER_REPLACE:
        ok = load_pattern(t, r, node, where, &n->pattern) &&
             json_get_string(r, node, where, "content", true, &n->content);
        break;
    case NORMALIZER_PREPEND:
        ok = json_get_string(r, node, where, "prepend", true, &n->content);
        break;
    case NORMALIZER_PRECOMPILED:
        ok = load_charsmap(r, node, n);
        break;
    default:
        break;
    }
    t->n_normalizers += ok;
    return ok;
}

static bool get_behavior(struct json_reader *r, const json_t *node, const char *where,
                         const char *absent, enum split_behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const json_t *value = json_object_get(node, "behavior");
    const char *name = value ? json_string_value(value) : absent;
    for (size_t i = 0; name && i < ARRAY_LENGTH(names); i++)
        if (strcmp(names[i], name) == 0) {
            *out = (enum split_behavior)i;
            return true;
        }
    return json_fault(r, where,
                      "'behavior' must be Removed, Isolated, MergedWithPrevious, "
                      "MergedWithNext or Contiguous");
}

static bool get_scheme(struct json_reader *r, const json_t *node, const char *where,
                       enum prepend_scheme *out)
{
    bool add_prefix_space;
    const json_t *value = json_object_get(node, "prepend_scheme");
    const char *name = value ? json_string_value(value) : "always";
    if (!json_get_bool(r, node, where, "add_prefix_space", 1, &add_prefix_space))
        return false;
    if (name && strcmp(name, "always") == 0)
        *out = PREPEND_ALWAYS;
    else if (name && strcmp(name, "first") == 0)
        *out = PREPEND_FIRST;
    else if (name && strcmp(name, "never") == 0)
        *out = PREPEND_NEVER;
    else
        return json_fault(r, where, "'prepend_scheme' must be always, first or never");
    if (!add_prefix_space && *out != PREPEND_NEVER)
        return json_fault(r, where, "'add_prefix_space' does not match 'prepend_scheme'");
    return true;
}

/* A stage that splits at a class of characters. */
static void class_stage(struct pretokenizer *p, enum char_class char_class,
                        enum split_behavior behavior)
{
    p->kind = PRETOKENIZER_CLASS;
    p->char_class = char_class;
    p->behavior = behavior;
}

bool load_pretokenizer(struct tokenizer *t, struct json_reader *r, const json_t *node, int nesting)
{
    const char *type = json_get_type(r, node, "pre_tokenizer");
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, r, node, "pre_tokenizer Sequence", "pretokenizers", nesting,
                             load_pretokenizer);
    if (!reserve_stage(r, "pre_tokenizer", &t->pretokenizers, t->n_pretokenizers + 1,
                       sizeof *t->pretokenizers))
        return false;
    struct pretokenizer *p = &t->pretokenizers[t->n_pretokenizers];
    char where[64];
    snprintf(where, sizeof where, "pre_tokenizer %s", type);
    bool ok = true;
    if (strcmp(type, "BertPreTokenizer") == 0) {
        class_stage(p, CLASS_WHITESPACE, SPLIT_REMOVED);
        class_stage(p + 1, CLASS_PUNCTUATION, SPLIT_ISOLATED);
        t->n_pretokenizers++;
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        class_stage(p, CLASS_WHITESPACE, SPLIT_REMOVED);
    } else if (strcmp(type, "Whitespace") == 0) {
        p->kind = PRETOKENIZER_WORDS;
        p->behavior = SPLIT_ISOLATED;
    } else if (strcmp(type, "Punctuation") == 0) {
        class_stage(p, CLASS_PUNCTUATION, SPLIT_ISOLATED);
        ok = get_behavior(r, node, where, "Isolated", &p->behavior);
    } else if (strcmp(type, "Digits") == 0) {
        bool individual;
        ok = json_get_bool(r, node, where, "individual_digits", -1, &individual);
        if (ok)
            class_stage(p, CLASS_NUMERIC, individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
    } else if (strcmp(type, "CharDelimiterSplit") == 0 || strcmp(type, "Delimiter") == 0) {
        struct str delimiter;
        class_stage(p, CLASS_CODE, SPLIT_REMOVED);
        ok = get_char(r, node, where, "delimiter", &delimiter, &p->code);
    } else if (strcmp(type, "FixedLength") == 0) {
        p->kind = PRETOKENIZER_FIXED_LENGTH;
        p->behavior = SPLIT_ISOLATED;
        ok = json_get_size(r, node, where, "length", TOKENIZER_TEXT_BYTES_MAX, &p->length) &&
             (p->length > 0 || json_fault(r, where, "'length' must be above 0"));
    } else if (strcmp(type, "Split") == 0) {
        p->kind = PRETOKENIZER_SPLIT;
        ok = load_pattern(t, r, node, where, &p->pattern) &&
             get_behavior(r, node, where, NULL, &p->behavior) &&
             json_get_bool(r, node, where, "invert", -1, &p->invert);
    } else if (strcmp(type, "ByteLevel") == 0) {
        p->kind = PRETOKENIZER_BYTE_LEVEL;
        ok = json_get_bool(r, node, where, "add_prefix_space", -1, &p->add_prefix_space) &&
             json_get_bool(r, node, where, "use_regex", 1, &p->use_regex) &&
             load_regex(t, r, where, (struct str){byte_level_pattern, strlen(byte_level_pattern)},
                        &p->pattern);
    } else if (strcmp(type, "Metaspace") == 0) {
        uint32_t code;
        p->kind = PRETOKENIZER_METASPACE;
        ok = get_char(r, node, where, "replacement", &p->replacement, &code) &&
             get_scheme(r, node, where, &p->scheme) &&
             json_get_bool(r, node, where, "split", 1, &p->split);
    } else {
        return json_fault(r, "pre_tokenizer", "type '%s' is not supported", type);
    }
    t->n_pretokenizers += ok;
    return ok;
}

bool load_decoder(struct tokenizer *t, struct json_reader *r, const json_t *node, int nesting)
{
    const char *type = json_get_type(r, node, "decoder");
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(t, r, node, "decoder Sequence", "decoders", nesting, load_decoder);
    if (!reserve_stage(r, "decoder", &t->decoders, t->n_decoders, sizeof *t->decoders))
        return false;
    struct decoder *d = &t->decoders[t->n_decoders];
    char where[64];
    snprintf(where, sizeof where, "decoder %s", type);
    uint32_t code;
    bool ok = true;
    if (strcmp(type, "ByteLevel") == 0) {
        d->kind = DECODER_BYTE_LEVEL;
    } else if (strcmp(type, "ByteFallback") == 0) {
        d->kind = DECODER_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        d->kind = DECODER_FUSE;
    } else if (strcmp(type, "BPEDecoder") == 0) {
        d->kind = DECODER_BPE;
        ok = json_get_string(r, node, where, "suffix", true, &d->pattern.literal);
    } else if (strcmp(type, "WordPiece") == 0) {
        d->kind = DECODER_WORDPIECE;
        ok = json_get_string(r, node, where, "prefix", true, &d->content) &&
             json_get_bool(r, node, where, "cleanup", -1, &d->cleanup);
    } else if (strcmp(type, "Metaspace") == 0) {
        d->kind = DECODER_METASPACE;
        ok = get_char(r, node, where, "replacement", &d->replacement, &code) &&
             get_scheme(r, node, where, &d->scheme);
    } else if (strcmp(type, "Replace") == 0) {
        d->kind = DECODER_REPLACE;
        ok = load_pattern(t, r, node, where, &d->pattern) &&
             json_get_string(r, node, where, "content", true, &d->content);
    } else if (strcmp(type, "Strip") == 0) {
        d->kind = DECODER_STRIP;
        ok = get_char(r, node, where, "content", &d->content, &code) &&
             json_get_size(r, node, where, "start", SIZE_MAX / 4, &d->start) &&
             json_get_size(r, node, where, "stop", SIZE_MAX / 4, &d->stop);
    } else {
        return json_fault(r, "decoder", "type '%s' is not supported", type);
    }
    t->n_decoders += ok;
    return ok;
}
