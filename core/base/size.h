/*
 * size.h: size arithmetic that cannot wrap. Everything that multiplies numbers from a file or a
 * client goes through these.
 */
#ifndef VLMD_CORE_BASE_SIZE_H
#define VLMD_CORE_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

/* *out = a * b, a + b; false (and *out untouched) when it would wrap. */
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

static inline bool size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

/* malloc of n × each bytes, NULL when that wraps. n = 0 gives a freeable non-NULL pointer. */
static inline void *alloc_array(size_t n, size_t each)
{
    size_t bytes;
    if (!size_mul(n, each, &bytes))
        return NULL;
    return malloc(bytes ? bytes : 1);
}

static inline void *realloc_array(void *old, size_t n, size_t each)
{
    size_t bytes;
    if (!size_mul(n, each, &bytes))
        return NULL;
    return realloc(old, bytes ? bytes : 1);
}

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))

#endif
