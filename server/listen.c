/*
 * listen.c: see listen.h.
 */
#include "server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

static void describe(int fd, char *out, size_t out_size)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&address, &size) ||
        getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV)) {
        snprintf(out, out_size, "?");
        return;
    }
    snprintf(out, out_size, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

int listen_open(const char *address, char *bound, size_t bound_size, struct error *err)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t host_size = colon ? (size_t)(colon - address) : 0;
    if (!colon || colon[1] == '\0' || host_size >= sizeof host) {
        error_set_param(err, STATUS_BAD_CONFIG, "listen",
                        "listen: expected address:port such as 127.0.0.1:8080, found '%s'",
                        address);
        return -1;
    }
    memcpy(host, address, host_size);
    host[host_size] = '\0';
    char *name = host;
    if (host_size >= 2 && host[0] == '[' && host[host_size - 1] == ']') {
        host[host_size - 1] = '\0';
        name++;
    }

    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(*name ? name : NULL, colon + 1, &hints, &list);
    if (rc) {
        error_set_param(err, STATUS_BAD_CONFIG, "listen", "listen: cannot resolve '%s': %s",
                        address, gai_strerror(rc));
        return -1;
    }
    int fd = -1, fault = 0;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int on = 1;
        if (fd < 0) {
            fault = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, BACKLOG)) {
            fault = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        error_set_param(err, STATUS_BAD_CONFIG, "listen", "cannot listen on %s: %s", address,
                        strerror(fault));
        return -1;
    }
    describe(fd, bound, bound_size);
    return fd;
}
