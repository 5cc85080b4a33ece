/*
 * base64.h: RFC 4648 base64, both alphabets, as clients really send it: line breaks (as the base64
 * tool writes them) are skipped and missing padding is accepted; anything else is refused.
 */
#ifndef VLMD_API_BASE64_H
#define VLMD_API_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* An upper bound of the decoded size of n characters, and the exact encoded size of n bytes. */
size_t base64_decoded_max(size_t n);
size_t base64_encoded_size(size_t n);

/* Decodes text[0..n) to out[0..base64_decoded_max(n)); false when it is not base64, *at is the
 * position of the fault then. */
bool base64_decode(const char *text, size_t n, unsigned char *out, size_t *size, size_t *at);

/* Writes base64_encoded_size(n) characters (standard alphabet, padded), no NUL. */
void base64_encode(const void *data, size_t n, char *out);

#endif
