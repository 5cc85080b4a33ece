/*
 * percent.h: percent-decoding of paths and query strings (RFC 3986; '+' is a space in queries).
 */
#ifndef VLMD_API_PERCENT_H
#define VLMD_API_PERCENT_H

#include <stdbool.h>
#include <stddef.h>

/* Decodes text[0..n) to out[0..n) (never longer); false on a malformed escape. */
bool percent_decode(const char *text, size_t n, bool plus_is_space, char *out, size_t *size);

#endif
