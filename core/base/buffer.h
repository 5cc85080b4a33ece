/*
 * buffer.h: a growing byte buffer with a stated maximum. Every buffer that a stranger can grow is
 * one of these. Not thread-safe.
 */
#ifndef VLMD_CORE_BASE_BUFFER_H
#define VLMD_CORE_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct buffer {
    char *data; /* NUL-terminated whenever not NULL */
    size_t size;
    size_t capacity;
    size_t max_bytes;
};

void buffer_init(struct buffer *buffer, size_t max_bytes);
void buffer_release(struct buffer *buffer);

/* false when past max_bytes or out of memory; the buffer is unchanged then. */
bool buffer_append(struct buffer *buffer, const void *data, size_t size);
bool buffer_puts(struct buffer *buffer, const char *text);
bool buffer_printf(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Hands the bytes (to be freed by free()) and their size to the caller; the buffer is empty after.
 * NULL when nothing was ever appended. */
char *buffer_take(struct buffer *buffer, size_t *size);

#endif
