/*
 * text_internal.h: what the files of core/text share: bounds, vocabulary, pieces, pipeline stages.
 *
 * A text runs through: added tokens (raw) → normalizer → added tokens (normalized) →
 * pre-tokenizers → model → truncation → post-processor; ids run back through the decoders. Text
 * under way is a `struct pieces`: one byte buffer and spans of it, some of which are tokens
 * already. Each stage reads one and fills the next.
 *
 * Everything a tokenizer owns lives in its arena, save the compiled patterns, which are listed for
 * release. Nothing is written after tokenizer_open().
 */
#ifndef VLMD_CORE_TEXT_INTERNAL_H
#define VLMD_CORE_TEXT_INTERNAL_H

#include <jansson.h>

#include "core/base/arena.h"
#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/text/tokenizer.h"

/* Every bound on what a file or a client can make us hold. */
enum {
    TOKENIZER_FILE_BYTES_MAX = 128 << 20,
    TOKENIZER_TEXT_BYTES_MAX = 2 << 20,  /* one text to encode */
    TOKENIZER_WORK_BYTES_MAX = 96 << 20, /* the same while normalizers and decoders grow it */
    TOKENIZER_IDS_MAX = 1 << 22,         /* ids are below this */
    TOKENIZER_STAGES_MAX = 64,           /* normalizers, pre-tokenizers, decoders: each */
    TOKENIZER_NESTING_MAX = 8,           /* Sequence in Sequence */
    TOKENIZER_PATTERN_BYTES_MAX = 1 << 16,
};

/* Borrowed bytes, not NUL-terminated. data == NULL means "absent". */
struct str {
    const char *data;
    size_t size;
};

static inline bool str_is(struct str a, const char *data, size_t size)
{
    return a.size == size && (size == 0 || __builtin_memcmp(a.data, data, size) == 0);
}

/* ---- vocab.c ---- */

/* Two-way map of token and id. A token has one id (the last put); an id has one token. */
struct vocab {
    struct str *by_id; /* [n_ids], data NULL where there is a hole */
    size_t n_ids;
    size_t n_tokens; /* distinct tokens */
    uint32_t *slots; /* [n_slots], id + 1, 0 = empty */
    size_t n_slots;  /* a power of two */
};

/* Room for ids below n_ids and n_tokens tokens. false when out of memory. */
bool vocab_init(struct vocab *vocab, struct arena *arena, size_t n_ids, size_t n_tokens);
/* `token` is borrowed and must outlive the vocab; id < n_ids. */
void vocab_put(struct vocab *vocab, struct str token, uint32_t id);
int64_t vocab_id(const struct vocab *vocab, const char *token, size_t size); /* -1: none */

/* Sorted strings, for walking a text byte by byte along all strings that start here. */
struct prefix_entry {
    struct str string;
    uint32_t value;
};
struct prefix_index {
    struct prefix_entry *entries; /* [n], bytewise ascending */
    size_t n;
    uint32_t first[257]; /* entries starting with byte b: first[b] .. first[b + 1] */
};
struct prefix_cursor {
    uint32_t low, high; /* entries that share the bytes walked */
    uint32_t depth;
};

/* Sorts entries[0..n) in place (borrowed); of equal strings the one with the largest value stays.
 */
void prefix_index_init(struct prefix_index *index, struct prefix_entry *entries, size_t n);
/* Walks one byte; false when no string goes on with it (the cursor is spent then). Start from
 * {0}. */
bool prefix_step(const struct prefix_index *index, struct prefix_cursor *cursor,
                 unsigned char byte);
/* The entry that ends where the cursor is, or NULL. */
const struct prefix_entry *prefix_end(const struct prefix_index *index,
                                      const struct prefix_cursor *cursor);

/* ---- pieces.c ---- */

struct piece {
    size_t start, size; /* span of the buffer */
    int32_t id;         /* an added token's id, or -1: still text */
    bool first;         /* the original text starts with this (Metaspace "first") */
};
struct pieces {
    struct buffer text;
    struct piece *items;
    size_t n, capacity;
};

void pieces_init(struct pieces *pieces);
void pieces_release(struct pieces *pieces);
void pieces_clear(struct pieces *pieces); /* keeps the memory */
bool pieces_add(struct pieces *pieces, struct piece piece);
/* Appends bytes and a piece that spans them. */
bool pieces_copy(struct pieces *pieces, const char *data, size_t size, int32_t id, bool first);

/* A failure of pieces_* or of a buffer: out of memory, or over TOKENIZER_WORK_BYTES_MAX. */
enum status text_no_room(struct error *err, const struct buffer *buffer);

/* ---- regex.c ---- */

struct regex;
/* Compiles an Oniguruma pattern; STATUS_BAD_CHECKPOINT for what PCRE2 can't do. Free with
 * regex_free(). */
struct regex *regex_new(const char *pattern, size_t size, struct error *err);
void regex_free(struct regex *regex);

/* A pattern of a stage: literal bytes or a regex. */
struct pattern {
    struct str literal;  /* data NULL: use regex */
    struct regex *regex; /* owned by the tokenizer's list */
    bool trims_spaces;   /* the regex is `\A +| +\z`, done by hand: it is quadratic otherwise */
};
/* One pass over text: matches in order, not overlapping. */
struct matcher {
    const struct pattern *pattern;
    const char *text;
    size_t size, at;
    size_t last_end; /* of the last match, SIZE_MAX before the first */
    void *match_data;
};
bool matcher_init(struct matcher *matcher, const struct pattern *pattern, const char *text,
                  size_t size);
void matcher_release(struct matcher *matcher);
/* 1: a match at [*start, *end); 0: no more; -1: gave up (work limit or memory). */
int matcher_next(struct matcher *matcher, size_t *start, size_t *end);

/* ---- stages ---- */

enum normalizer_kind {
    NORMALIZER_FORM,
    NORMALIZER_LOWERCASE,
    NORMALIZER_BERT,
    NORMALIZER_STRIP_ACCENTS,
    NORMALIZER_STRIP,
    NORMALIZER_REPLACE,
    NORMALIZER_PREPEND,
    NORMALIZER_NMT,
    NORMALIZER_PRECOMPILED,
    NORMALIZER_BYTE_LEVEL,
};
struct normalizer {
    enum normalizer_kind kind;
    int form; /* enum normal_form */
    bool clean_text, chinese_chars, strip_accents, lowercase;
    bool strip_left, strip_right;
    struct pattern pattern;
    struct str content; /* Replace, Prepend */
    struct {            /* Precompiled: SentencePiece's charsmap */
        const uint32_t *units;
        size_t n_units;
        struct str strings; /* NUL-terminated each */
    } charsmap;
};

enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
};
enum pretokenizer_kind {
    PRETOKENIZER_SPLIT,
    PRETOKENIZER_CLASS, /* split at single characters of a class */
    PRETOKENIZER_WORDS, /* \w+|[^\w\s]+ */
    PRETOKENIZER_BYTE_LEVEL,
    PRETOKENIZER_METASPACE,
    PRETOKENIZER_FIXED_LENGTH,
};
enum char_class {
    CLASS_WHITESPACE,
    CLASS_PUNCTUATION,
    CLASS_NUMERIC,
    CLASS_CODE, /* one code point */
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct pretokenizer {
    enum pretokenizer_kind kind;
    enum split_behavior behavior;
    bool invert;
    struct pattern pattern;
    enum char_class char_class;
    uint32_t code;
    bool add_prefix_space, use_regex; /* ByteLevel */
    enum prepend_scheme scheme;       /* Metaspace */
    bool split;
    struct str replacement;
    size_t length; /* FixedLength, in code points */
};

enum decoder_kind {
    DECODER_BPE,
    DECODER_BYTE_LEVEL,
    DECODER_BYTE_FALLBACK,
    DECODER_FUSE,
    DECODER_METASPACE,
    DECODER_REPLACE,
    DECODER_STRIP,
    DECODER_WORDPIECE,
};
struct decoder {
    enum decoder_kind kind;
    struct pattern pattern;
    struct str content; /* Replace; Strip's character; BPE's suffix; WordPiece's prefix */
    size_t start, stop; /* Strip */
    bool cleanup;       /* WordPiece */
    struct str replacement;
    enum prepend_scheme scheme;
};

enum model_kind { MODEL_BPE, MODEL_WORDPIECE, MODEL_WORDLEVEL, MODEL_UNIGRAM };
struct merge { /* a slot of the table; pair == UINT64_MAX: empty */
    uint64_t pair;
    uint32_t rank, id;
};
struct model {
    enum model_kind kind;
    struct vocab vocab;
    int64_t unk_id; /* -1: none */
    bool byte_fallback, fuse_unk, ignore_merges;
    int64_t byte_ids[256]; /* of <0x00> … <0xFF>, -1: none */
    struct str prefix, suffix;
    bool has_unk_token; /* BPE: named, though perhaps not in the vocabulary */
    struct merge *merges;
    size_t n_merge_slots;
    size_t max_word_chars;     /* WordPiece */
    struct prefix_index index; /* WordPiece, Unigram */
    const double *scores;      /* Unigram, [n_ids] */
    double unk_score;
};

struct added_token {
    struct str content;
    struct str shown; /* what decoding starts from: the content, normalized where it should be */
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
    bool skipped; /* by skip_special_tokens */
};

struct tokenizer {
    struct arena arena;
    struct regex **regexes;
    size_t n_regexes, regexes_capacity;
    struct normalizer *normalizers;
    size_t n_normalizers;
    struct pretokenizer *pretokenizers;
    size_t n_pretokenizers;
    struct model model;
    struct added_token *added; /* in the order they were added */
    size_t n_added;
    struct vocab added_vocab; /* content → index into added */
    uint32_t *added_by_id;    /* [added_ids_end], index + 1 into added, 0 = none */
    size_t added_ids_end;
    struct prefix_index raw_index, normalized_index; /* of added tokens, value = index into added */
    int32_t *prefix_ids, *suffix_ids;                /* the post-processor, flattened */
    size_t n_prefix_ids, n_suffix_ids;
    struct decoder *decoders;
    size_t n_decoders;
    bool has_decoder; /* without one tokens are joined by spaces */
    bool clip_decode; /* CLIPTokenizer: "</w>" becomes a space, then strip */
    bool clean_up;
    size_t model_max_length;
};

/* normalizer.c: text[0..size) through all normalizers into *out (cleared first). *first tells
 * whether the text's first byte is the original's first, and is updated. `spare` is scratch. */
enum status normalize(const struct tokenizer *tokenizer, const char *text, size_t size,
                      struct buffer *out, struct buffer *spare, bool *first, struct error *err);

/* pretokenizer.c: runs one stage, in → out (cleared first). */
enum status pretokenize(const struct pretokenizer *stage, const struct pieces *in,
                        struct pieces *out, struct error *err);
extern const char byte_level_pattern[];
/* The character that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t byte_level_code(unsigned char byte);
int byte_level_byte(uint32_t code);

/* ids under way */
struct id_list {
    int32_t *ids;
    size_t n, capacity;
};
bool id_list_add(struct id_list *list, int32_t id);

/* Scratch of a model, reused from word to word. */
struct model_scratch {
    void *memory;
    size_t bytes;
    struct buffer text;
};
void *model_scratch_get(struct model_scratch *scratch, size_t n, size_t each);
void model_scratch_release(struct model_scratch *scratch);

/* model_*.c: appends the ids of one word. */
enum status model_bpe(const struct model *model, const char *word, size_t size,
                      struct model_scratch *scratch, struct id_list *out, struct error *err);
enum status model_wordpiece(const struct model *model, const char *word, size_t size,
                            struct model_scratch *scratch, struct id_list *out, struct error *err);
enum status model_wordlevel(const struct model *model, const char *word, size_t size,
                            struct model_scratch *scratch, struct id_list *out, struct error *err);
enum status model_unigram(const struct model *model, const char *word, size_t size,
                          struct model_scratch *scratch, struct id_list *out, struct error *err);
/* The merge of two ids, or NULL. */
const struct merge *model_merge(const struct model *model, uint32_t left, uint32_t right);
size_t merge_slot(uint64_t pair, size_t n_slots);

/* added_tokens.c */
/* Splits text at added tokens (those with normalized == `normalized`) and appends the pieces. */
enum status added_tokens_split(const struct tokenizer *tokenizer, bool normalized, const char *text,
                               size_t size, bool first, struct pieces *out, struct error *err);

/* decoder.c: runs one stage. */
enum status decode_stage(const struct decoder *stage, const struct pieces *in, struct pieces *out,
                         struct error *err);
/* Appends text with every `from` replaced by `to`. */
bool replace_all(struct buffer *out, const char *text, size_t size, const char *from,
                 const char *to);
/* transformers' clean-up; with_do_not: the decoder's variant, which also turns " do not" into
 * " don't". In place. */
bool clean_up_text(struct buffer *text, size_t from, bool with_do_not);
/* Appends bytes, every maximal invalid part as U+FFFD. */
bool append_lossy(struct buffer *out, const char *data, size_t size);

/* ---- loading ---- */

/* tokenizer_json.c: reads the components of a parsed tokenizer.json into *tokenizer. `extra` (may
 * be NULL) is a list of further added tokens, {"content", …} as in the file; those with
 * "only_if_new" count only when the content was not added yet. */
enum status tokenizer_load_json(struct tokenizer *tokenizer, const json_t *root,
                                const json_t *extra, const char *file, struct error *err);

/* tokenizer_files.c: finds the files of a directory and fills *tokenizer. */
enum status tokenizer_load_directory(struct tokenizer *tokenizer, const char *directory,
                                     struct error *err);

/* tokenizer_files.c: reads directory/name whole. *data (free()) is NULL when the file is not there.
 */
enum status text_read_file(const char *directory, const char *name, char **data, size_t *size,
                           struct error *err);
/* The same as a JSON object; *root (json_decref()) is NULL when the file is not there. */
enum status text_read_json(const char *directory, const char *name, size_t flags, json_t **root,
                           struct error *err);

/* json_read.c: fields with the right type or a sentence that names them. All return false and fill
 * *err on failure; `where` is the path of the object, for the message. */
struct json_reader {
    struct arena *arena;
    const char *file;
    struct error *err;
};
bool json_fault(struct json_reader *r, const char *where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool json_get_bool(struct json_reader *r, const json_t *object, const char *where, const char *key,
                   int absent, bool *out); /* absent: 0, 1, or -1: required; null reads as absent */
bool json_get_string(struct json_reader *r, const json_t *object, const char *where,
                     const char *key, bool required, struct str *out); /* copied to the arena */
bool json_get_size(struct json_reader *r, const json_t *object, const char *where, const char *key,
                   size_t max, size_t *out);
/* Type name of a component, NULL (and *err) when it isn't an object with a string "type". */
const char *json_get_type(struct json_reader *r, const json_t *object, const char *where);
bool json_copy_string(struct json_reader *r, const json_t *string, struct str *out);

/* load_stages.c */
bool load_normalizer(struct tokenizer *tokenizer, struct json_reader *r, const json_t *node,
                     int nesting);
bool load_pretokenizer(struct tokenizer *tokenizer, struct json_reader *r, const json_t *node,
                       int nesting);
bool load_decoder(struct tokenizer *tokenizer, struct json_reader *r, const json_t *node,
                  int nesting);
/* load_model.c */
bool load_model(struct tokenizer *tokenizer, struct json_reader *r, const json_t *node);

#endif
