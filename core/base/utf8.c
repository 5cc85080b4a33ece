/*
 * utf8.c: see utf8.h. The table of legal sequences follows RFC 3629 §4.
 */
#include "core/base/utf8.h"

#include <string.h>

size_t utf8_decode(const char *text, size_t size, uint32_t *code)
{
    const unsigned char *p = (const unsigned char *)text;
    if (size == 0)
        return 0;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || size < n)
        return 0;
    uint32_t value = p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (p[i] & 0x3Fu);
    }
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[n] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        return 0;
    *code = value;
    return n;
}

size_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[n] | code);
    return n;
}

bool utf8_valid(const char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint32_t code;
        size_t n = utf8_decode(text + i, size - i, &code);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

size_t utf8_complete(const char *text, size_t size)
{
    /* Look back over at most three continuation bytes for a lead byte that wants more. */
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        unsigned char c = (unsigned char)text[size - back];
        if ((c & 0xC0) == 0x80)
            continue;
        size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 1;
        return want > back ? size - back : size;
    }
    return size;
}

void utf8_clean(char *out, size_t out_size, const char *text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        uint32_t code;
        size_t n = utf8_decode(text + i, size - i, &code);
        size_t take = n ? n : 1;
        if (used + take >= out_size)
            break;
        if (n == 0)
            out[used++] = '?';
        else if (code < 0x20 || (code >= 0x7F && code < 0xA0))
            out[used++] = ' ';
        else {
            memcpy(out + used, text + i, n);
            used += n;
        }
        i += take;
    }
    if (out_size)
        out[used] = '\0';
}
