/*
 * daemon.c: the life of the HTTP server: libmicrohttpd's daemon with its options, the socket, TLS,
 * workers and watcher; and their end. What happens to a request is http.c's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server/client.h"
#include "server/http_internal.h"
#include "server/listen.h"
#include "server/log.h"

enum {
    CONNECTION_MEMORY = 64 << 10, /* of a connection's headers */
    TLS_FILE_BYTES_MAX = 1 << 20,
    STOP_WAIT_S = 10,
};

static void daemon_message(void *cls, const char *format, va_list args)
{
    (void)cls;
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    log_write(LOG_DEBUG, "http: %s", text);
}

/* The api decodes percent escapes itself: a %2F inside an id is no path separator. */
static size_t keep_escapes(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strlen(text);
}

/* ---- connections -------------------------------------------------------------------------------
 *
 * From its beginning, and from the end of a reply, to the end of a request's headers a connection
 * is under a watch of its own (MHD's socket context): MHD's timeout sees only those that send
 * nothing at all. After that the exchange has its watch.
 */

/* Watcher's thread: no request came, or its headers take too long. */
static void connection_late(struct watch *watch)
{
    shutdown(watch->fd, SHUT_RDWR);
}

int connection_fd(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

/* NULL: there was no memory for it. */
static struct watch *connection_watch(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void expect_headers(struct http_server *server, struct watch *watch, int fd)
{
    static const struct watcher_events events = {.late = connection_late};
    uint64_t timeout_s = server->process->settings.body_timeout_s;
    if (watch && timeout_s)
        watcher_add(server->watcher, watch, &events, fd, false,
                    clock_ns() + timeout_s * 1000000000ull);
}

void connection_idle(struct http_server *server, struct MHD_Connection *connection)
{
    expect_headers(server, connection_watch(connection), connection_fd(connection));
}

void connection_busy(struct http_server *server, struct MHD_Connection *connection)
{
    struct watch *watch = connection_watch(connection);
    if (watch)
        watcher_remove(server->watcher, watch);
}

static void connection_changed(void *cls, struct MHD_Connection *connection, void **context,
                               enum MHD_ConnectionNotificationCode what)
{
    struct http_server *server = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = calloc(1, sizeof(struct watch));
        expect_headers(server, *context, connection_fd(connection));
    } else if (*context) {
        watcher_remove(server->watcher, *context);
        free(*context);
        *context = NULL;
    }
}

static enum status read_tls_files(struct http_server *server, struct error *err)
{
    const struct settings *settings = &server->process->settings;
    if (!settings->tls_cert[0] && !settings->tls_key[0])
        return STATUS_OK;
    if (!settings->tls_cert[0] || !settings->tls_key[0])
        return error_set_param(err, STATUS_BAD_CONFIG, "tls_cert",
                               "tls_cert and tls_key must be given together");
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return error_set_param(err, STATUS_BAD_CONFIG, "tls_cert",
                               "this libmicrohttpd was built without TLS");
    size_t size;
    if (file_read(settings->tls_cert, TLS_FILE_BYTES_MAX, &server->tls_cert, &size, err) ||
        file_read(settings->tls_key, TLS_FILE_BYTES_MAX, &server->tls_key, &size, err))
        return err->status;
    return STATUS_OK;
}

static void server_free(struct http_server *server)
{
    workers_free(server->workers);
    watcher_free(server->watcher);
    listen_forget(server->address);
    free(server->tls_cert);
    free(server->tls_key);
    free(server);
}

struct http_server *http_start(struct process *process, struct error *err)
{
    const struct settings *settings = &process->settings;
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        error_no_memory(err, "the server");
        return NULL;
    }
    server->process = process;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n_workers = settings->workers ? settings->workers : cores > 2 ? (size_t)cores : 2;
    int listener = -1;
    server->workers = workers_new(n_workers, err);
    if (!server->workers)
        goto fail;
    server->watcher = watcher_new(err);
    if (!server->watcher)
        goto fail;
    listener = listen_open(settings->listen, server->address, sizeof server->address, err);
    if (listener < 0)
        goto fail;
    if (read_tls_files(server, err))
        goto fail;
    const struct MHD_OptionItem tls[] = {
        {server->tls_cert ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, server->tls_cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, server->tls_key},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned http_threads = settings->http_threads > 1 ? (unsigned)settings->http_threads : 0;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
            (server->tls_cert ? MHD_USE_TLS : 0),
        0, NULL, NULL, exchange_handle, server, MHD_OPTION_LISTEN_SOCKET, listener,
        MHD_OPTION_EXTERNAL_LOGGER, daemon_message, NULL, MHD_OPTION_URI_LOG_CALLBACK,
        exchange_open, server, MHD_OPTION_NOTIFY_COMPLETED, exchange_close, server,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)settings->max_connections_per_client,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)settings->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)settings->body_timeout_s + 5, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_THREAD_POOL_SIZE,
        http_threads, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    if (!server->daemon) {
        error_set(err, STATUS_INTERNAL, "libmicrohttpd cannot serve on %s%s", server->address,
                  server->tls_cert ? " with this certificate and key" : "");
        goto fail;
    }
    return server;
fail:
    if (listener >= 0)
        close(listener);
    server_free(server);
    return NULL;
}

const char *http_address(const struct http_server *server)
{
    return server->address;
}

const char *http_scheme(const struct http_server *server)
{
    return !strncmp(server->address, "unix:", 5) ? "" : server->tls_cert ? "https://" : "http://";
}

bool http_wait_idle(struct http_server *server, unsigned timeout_s)
{
    uint64_t end = clock_ns() + timeout_s * 1000000000ull;
    /* Requests count from their headers to their last byte, so a health probe in flight counts
     * too; that is gone at the next look. */
    while (atomic_load(&server->exchanges)) {
        if (clock_ns() >= end)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return true;
}

bool http_stop(struct http_server *server)
{
    if (!server)
        return true;
    int listener = MHD_quiesce_daemon(server->daemon);
    if (listener >= 0)
        close(listener);
    /* No connection may be suspended when MHD stops: what still waits is cancelled and comes back.
     */
    watcher_hang_up(server->watcher);
    if (!http_wait_idle(server, STOP_WAIT_S))
        return false;
    MHD_stop_daemon(server->daemon);
    server_free(server);
    return true;
}
