/*
 * uri.c: see uri.h.
 */
#include "core/base/uri.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

static void append(char *out, size_t size, size_t *used, const char *text, size_t n)
{
    for (size_t i = 0; i < n && *used + 1 < size; i++)
        out[(*used)++] = text[i];
}

/* The value of a secret parameter begins at p. */
static bool is_secret(const char *start, const char *p)
{
    static const char name[] = "password=";
    const size_t n = sizeof name - 1;
    return (size_t)(p - start) >= n && !strncasecmp(p - n, name, n);
}

void uri_hide_secret(char *out, size_t size, const char *uri)
{
    size_t used = 0;
    /* A password may itself hold '/', '?' or '@' that should have been escaped: the last '@' ends
     * it. */
    const char *authority = strncmp(uri, "sqlite:", 7) ? strstr(uri, "//") : NULL;
    const char *at = authority ? strrchr(authority, '@') : NULL;
    const char *p = uri;
    if (at) {
        append(out, size, &used, uri, (size_t)(authority + 2 - uri));
        append(out, size, &used, "***", 3);
        p = at;
    }
    while (*p) {
        append(out, size, &used, p++, 1);
        if (is_secret(uri, p) && p > uri) {
            append(out, size, &used, "***", 3);
            p += strcspn(p, "&# ");
        }
    }
    if (size)
        out[used] = '\0';
}
