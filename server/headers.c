/*
 * headers.c: see headers.h.
 */
#include "server/headers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

const char *cors_allow(const struct setting_list *allowed, const char *origin)
{
    for (size_t i = 0; i < allowed->n && origin; i++) {
        if (!strcmp(allowed->items[i], "*"))
            return "*";
        if (!strcasecmp(allowed->items[i], origin))
            return origin;
    }
    return NULL;
}

/* A quality value is 0 when it has no digit but zeros: q=0, q=0.0 … */
static bool weighs_nothing(const char *parameters, size_t size)
{
    const char *q = memmem(parameters, size, "q=", 2);
    if (!q)
        return false;
    for (q += 2; q < parameters + size && (*q == '0' || *q == '.'); q++)
        ;
    return q == parameters + size || *q < '1' || *q > '9';
}

bool accepts_coding(const char *accept_encoding, const char *coding)
{
    bool any = false;
    for (const char *at = accept_encoding; at && *at;) {
        at += strspn(at, " \t,");
        size_t size = strcspn(at, ",");
        size_t name = strcspn(at, " \t;,");
        bool taken = !weighs_nothing(at + name, size - name);
        if (name == strlen(coding) && !strncasecmp(at, coding, name))
            return taken; /* said by name: that decides */
        if (name == 1 && *at == '*')
            any = taken;
        at += size;
    }
    return any;
}

bool trace_id(const char *traceparent, char out[TRACE_ID_SIZE])
{
    static const size_t widths[] = {2, 32, 16, 2};
    static const char digits[] = "0123456789abcdef";
    out[0] = '\0';
    const char *at = traceparent, *id = NULL;
    for (size_t i = 0; i < 4; i++) {
        if (!at || strspn(at, digits) != widths[i])
            return false;
        /* All zeros, and version ff, are not allowed. */
        if (strspn(at, i ? "0" : "f") == widths[i] && i < 3)
            return false;
        id = i == 1 ? at : id;
        at += widths[i];
        if (i < 3 && *at++ != '-')
            return false;
    }
    if (*at && *at != '-') /* later versions may append fields */
        return false;
    memcpy(out, id, TRACE_ID_SIZE - 1);
    out[TRACE_ID_SIZE - 1] = '\0';
    return true;
}

static bool is_address(const char *text)
{
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

void client_address(const struct sockaddr *peer, const char *forwarded, char out[ADDRESS_SIZE])
{
    out[0] = '\0';
    if (peer && peer->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, out,
                  ADDRESS_SIZE);
    else if (peer && peer->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, out,
                  ADDRESS_SIZE);
    else if (peer && peer->sa_family == AF_UNIX)
        snprintf(out, ADDRESS_SIZE, "unix");
    if (!forwarded)
        return;
    const char *last = strrchr(forwarded, ',');
    last = last ? last + 1 : forwarded;
    last += strspn(last, " \t[");
    char text[ADDRESS_SIZE];
    size_t size = strcspn(last, " \t]");
    if (size >= sizeof text)
        return;
    memcpy(text, last, size);
    text[size] = '\0';
    if (is_address(text))
        memcpy(out, text, size + 1);
}
