/*
 * base64.c: see base64.h.
 */
#include "api/base64.h"

#include <stdint.h>

/* 64 = not in the alphabet, 65 = a line break, 66 = padding. */
enum { BAD = 64, SKIP = 65, PAD = 66 };

static unsigned char value_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return (unsigned char)(c - 'A');
    if (c >= 'a' && c <= 'z')
        return (unsigned char)(c - 'a' + 26);
    if (c >= '0' && c <= '9')
        return (unsigned char)(c - '0' + 52);
    if (c == '+' || c == '-')
        return 62;
    if (c == '/' || c == '_')
        return 63;
    if (c == '\r' || c == '\n')
        return SKIP;
    return c == '=' ? PAD : BAD;
}

size_t base64_decoded_max(size_t n)
{
    return n / 4 * 3 + 3;
}

size_t base64_encoded_size(size_t n)
{
    return n / 3 * 4 + (n % 3 ? 4 : 0);
}

bool base64_decode(const char *text, size_t n, unsigned char *out, size_t *size, size_t *at)
{
    unsigned char table[256];
    for (int c = 0; c < 256; c++)
        table[c] = value_of((unsigned char)c);
    const unsigned char *in = (const unsigned char *)text;
    size_t i = 0, written = 0;
    uint32_t bits = 0;
    unsigned held = 0, pads = 0; /* characters of the current group of four; '=' seen */
    for (; i < n; i++) {
        if (held == 0 && pads == 0) {
            while (n - i >= 4) {
                unsigned a = table[in[i]], b = table[in[i + 1]], c = table[in[i + 2]],
                         d = table[in[i + 3]];
                if ((a | b | c | d) & 0x40)
                    break;
                out[written] = (unsigned char)(a << 2 | b >> 4);
                out[written + 1] = (unsigned char)(b << 4 | c >> 2);
                out[written + 2] = (unsigned char)(c << 6 | d);
                written += 3;
                i += 4;
            }
            if (i == n)
                break;
        }
        unsigned v = table[in[i]];
        if (v == SKIP)
            continue;
        if (v == PAD) {
            if (held + pads < 2 || held + pads >= 4)
                goto bad;
            pads++;
            continue;
        }
        if (v == BAD || pads)
            goto bad;
        bits = bits << 6 | v;
        if (++held == 4) {
            out[written++] = (unsigned char)(bits >> 16);
            out[written++] = (unsigned char)(bits >> 8);
            out[written++] = (unsigned char)bits;
            held = 0;
            bits = 0;
        }
    }
    if (held == 1 || (pads && held + pads != 4))
        goto bad;
    if (held == 2) {
        out[written++] = (unsigned char)(bits >> 4);
    } else if (held == 3) {
        out[written++] = (unsigned char)(bits >> 10);
        out[written++] = (unsigned char)(bits >> 2);
    }
    *size = written;
    return true;
bad:
    *at = i;
    return false;
}

void base64_encode(const void *data, size_t n, char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = data;
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t bits = (uint32_t)in[i] << 16;
        if (have > 1)
            bits |= (uint32_t)in[i + 1] << 8;
        if (have > 2)
            bits |= in[i + 2];
        *out++ = alphabet[bits >> 18];
        *out++ = alphabet[bits >> 12 & 63];
        *out++ = have > 1 ? alphabet[bits >> 6 & 63] : '=';
        *out++ = have > 2 ? alphabet[bits & 63] : '=';
    }
}
