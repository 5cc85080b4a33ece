/*
 * tokenizer.h: text to token ids and back, as the checkpoint's own files define it.
 *
 * Reads `tokenizer.json` (normalizer, pre-tokenizer, model BPE / WordPiece / Unigram / WordLevel,
 * post-processor, decoder, added tokens), or, where that is absent, vocab.txt (BERT) or vocab.json
 * + merges.txt (CLIP, GPT-2) with tokenizer_config.json and special_tokens_map.json. Ids are those
 * of Hugging Face's `tokenizers` 0.23; special tokens are added and texts decoded as transformers 5
 * does it. Not there: the CTC decoder, the UnicodeScripts pre-tokenizer, BPE dropout (ignored),
 * pairs of texts, truncation from the left.
 *
 * A tokenizer is immutable after opening and may be used by any number of threads; each call owns
 * its scratch memory. Time is linear in the text (n log n within a word of BPE).
 */
#ifndef VLMD_CORE_TEXT_TOKENIZER_H
#define VLMD_CORE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

struct tokenizer;

/* Token ids in order; `ids` is owned (malloc). `truncated` tells that max_length cut the text. */
struct tokens {
    int32_t *ids;
    size_t n;
    bool truncated;
};

struct encode_options {
    bool add_special_tokens; /* run the post-processor ([CLS] … [SEP], <|startoftext|> …) */
    size_t max_length; /* truncate to this many, special tokens included, from the right; 0 = no
                          bound */
};

/* Opens the tokenizer of a checkpoint directory. STATUS_BAD_CHECKPOINT (naming file and key) for a
 * malformed file or a component we don't have, STATUS_IO, STATUS_NO_MEMORY. */
struct tokenizer *tokenizer_open(const char *directory, struct error *err);
void tokenizer_free(struct tokenizer *tokenizer);

/* text[0..size) may hold anything, NUL included. *out is written on success only; give it back with
 * tokens_release(). STATUS_BAD_REQUEST: not UTF-8; STATUS_TOO_LONG: over 2 MiB, or over 96 MiB once
 * normalized; STATUS_OUT_OF_RANGE: max_length has no room for the special tokens;
 * STATUS_UNPROCESSABLE: a character that the vocabulary lacks, where it has no unknown token, or a
 * pattern that takes too long; STATUS_NO_MEMORY. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size,
                             const struct encode_options *options, struct tokens *out,
                             struct error *err);
void tokens_release(struct tokens *tokens);

/* Appends the text of ids[0..n) to *out, as `decode(ids, skip_special_tokens,
 * clean_up_tokenization_spaces)` of the reference gives it (the clean-up flag is the one in
 * tokenizer_config.json, absent = false, and not heeded for BPE, as in transformers 5). Ids outside
 * the vocabulary give nothing. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n,
                             bool skip_special_tokens, struct buffer *out, struct error *err);

/* -1 when there is no such token. */
int32_t tokenizer_id(const struct tokenizer *tokenizer, const char *token);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);
size_t tokenizer_vocab_size(const struct tokenizer *tokenizer); /* added tokens included */

/* What tokenizer_config.json says; SIZE_MAX when absent or "very large". */
size_t tokenizer_model_max_length(const struct tokenizer *tokenizer);

#endif
