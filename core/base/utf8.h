/*
 * utf8.h: the little UTF-8 handling that everything needs (Unicode properties are utf8proc's).
 */
#ifndef VLMD_CORE_BASE_UTF8_H
#define VLMD_CORE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point of text[0..size). Returns the bytes used (1..4) and sets *code, or 0 when
 * the bytes are not valid UTF-8 (overlong, surrogate, above U+10FFFF, cut) or size is 0. */
size_t utf8_decode(const char *text, size_t size, uint32_t *code);

/* Writes `code` (at most U+10FFFF) to out[0..4); returns the bytes written. */
size_t utf8_encode(uint32_t code, char out[4]);

bool utf8_valid(const char *text, size_t size);

/* How many bytes at the start of text[0..size) end on a code point border, leaving out a cut
 * sequence at the end (what a stream may send now). Invalid bytes count as complete. */
size_t utf8_complete(const char *text, size_t size);

/* Copies text to out as a printable line: valid UTF-8, control characters as spaces, invalid bytes
 * as '?', cut at a code point border to fit out_size with its terminating NUL. */
void utf8_clean(char *out, size_t out_size, const char *text, size_t size);

#endif
