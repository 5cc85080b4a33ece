/*
 * listen.c: see listen.h.
 */
#include "server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
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

static bool unix_address(const char *address, struct sockaddr_un *out)
{
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    return !strncmp(address, "unix:", 5) && address[5] &&
           (size_t)snprintf(out->sun_path, sizeof out->sun_path, "%s", address + 5) <
               sizeof out->sun_path;
}

static int connect_unix(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int listen_unix(const char *address, char *bound, size_t bound_size, struct error *err)
{
    struct sockaddr_un local;
    struct stat info;
    if (!unix_address(address, &local)) {
        error_set_param(err, STATUS_BAD_CONFIG, "listen",
                        "listen: a local socket's path has 1 to %zu bytes",
                        sizeof local.sun_path - 1);
        return -1;
    }
    int other = connect_unix(&local);
    if (other >= 0) {
        close(other);
        errno = EADDRINUSE;
    } else {
        if (!stat(local.sun_path, &info) && S_ISSOCK(info.st_mode))
            unlink(local.sun_path); /* left behind by a process that is gone */
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !bind(fd, (struct sockaddr *)&local, sizeof local) && !listen(fd, BACKLOG)) {
            snprintf(bound, bound_size, "%s", address);
            return fd;
        }
        int fault = errno;
        if (fd >= 0)
            close(fd);
        errno = fault;
    }
    error_set_param(err, STATUS_BAD_CONFIG, "listen", "cannot listen on %s: %s", address,
                    strerror(errno));
    return -1;
}

void listen_forget(const char *address)
{
    struct sockaddr_un local;
    if (unix_address(address, &local))
        unlink(local.sun_path);
}

static void limit_time(int fd, unsigned timeout_s)
{
    struct timeval timeout = {.tv_sec = timeout_s};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

/* "host:port" cut in two, the brackets of an IPv6 address taken off; host is "" where none is
 * named. */
struct host_port {
    char host[256];
    const char *port;
};

static bool host_port_of(const char *address, struct host_port *out)
{
    const char *colon = strrchr(address, ':');
    size_t size = colon ? (size_t)(colon - address) : 0;
    if (!colon || !colon[1] || size >= sizeof out->host)
        return false;
    if (size >= 2 && address[0] == '[' && address[size - 1] == ']') {
        address++;
        size -= 2;
    }
    memcpy(out->host, address, size);
    out->host[size] = '\0';
    out->port = colon + 1;
    return true;
}

int listen_connect(const char *listen, unsigned timeout_s)
{
    struct sockaddr_un local;
    if (unix_address(listen, &local)) {
        int fd = connect_unix(&local);
        if (fd >= 0)
            limit_time(fd, timeout_s);
        return fd;
    }
    struct host_port at;
    if (!host_port_of(listen, &at))
        return -1;
    /* A server that listens everywhere is asked on the loopback. */
    bool anywhere = !*at.host || !strcmp(at.host, "0.0.0.0") || !strcmp(at.host, "::");
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (getaddrinfo(anywhere ? NULL : at.host, at.port, &hints, &list))
        return -1;
    int fd = -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0)
            limit_time(fd, timeout_s);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

int listen_open(const char *address, char *bound, size_t bound_size, struct error *err)
{
    if (!strncmp(address, "unix:", 5))
        return listen_unix(address, bound, bound_size, err);
    struct host_port at;
    if (!host_port_of(address, &at)) {
        error_set_param(err, STATUS_BAD_CONFIG, "listen",
                        "listen: expected address:port such as 127.0.0.1:8080, found '%s'",
                        address);
        return -1;
    }

    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(*at.host ? at.host : NULL, at.port, &hints, &list);
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
