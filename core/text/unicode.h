/*
 * unicode.h: character classes, case and normal forms as the `tokenizers` library has them.
 *
 * The sets are tables made from the library itself (unicode_tables.c); decompositions come from
 * utf8proc. All functions are pure.
 */
#ifndef VLMD_CORE_TEXT_UNICODE_H
#define VLMD_CORE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buffer.h"

struct unicode_range {
    uint32_t first, last; /* inclusive */
};

struct unicode_set {
    const struct unicode_range *ranges; /* ascending, not touching */
    size_t n;
};

struct unicode_pair {
    uint32_t from, to;
};

/* \p{name}: the code points that PCRE2's older Unicode does not have in it. */
struct unicode_property {
    const char *name;
    const struct unicode_set *set;
};

extern const struct unicode_set unicode_bert_removed, unicode_nonspacing, unicode_combining,
    unicode_punctuation, unicode_whitespace, unicode_numeric, unicode_word, unicode_not_normalized,
    unicode_new_word;
extern const struct unicode_pair unicode_lower[];
extern const size_t n_unicode_lower;
extern const struct unicode_property unicode_properties[];
extern const size_t n_unicode_properties;

bool unicode_set_has(const struct unicode_set *set, uint32_t code);

/* Full lower case of one code point, without context; returns how many of out[0..2) are set. */
size_t unicode_to_lower(uint32_t code, uint32_t out[2]);

enum normal_form { NORMAL_NFC, NORMAL_NFD, NORMAL_NFKC, NORMAL_NFKD };

/* Appends the normal form of the valid UTF-8 text[0..size) to *out. Linear but for runs of
 * combining marks (n log n). false when out of memory or past out's maximum. */
bool unicode_normalize(struct buffer *out, const char *text, size_t size, enum normal_form form);

#endif
