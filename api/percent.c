/*
 * percent.c: see percent.h.
 */
#include "api/percent.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool percent_decode(const char *text, size_t n, bool plus_is_space, char *out, size_t *size)
{
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '+' && plus_is_space) {
            c = ' ';
        } else if (c == '%') {
            if (n - i < 3)
                return false;
            int high = hex_value(text[i + 1]), low = hex_value(text[i + 2]);
            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        }
        out[written++] = c;
    }
    *size = written;
    return true;
}
