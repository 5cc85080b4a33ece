/*
 * ask.c: see ask.h. HTTP/1.0, so that the body ends with the connection; TLS by GnuTLS, which
 * libmicrohttpd brings in any case.
 */
#include "server/ask.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/listen.h"

enum { REQUEST_BYTES_MAX = 1024 };

struct line {
    int fd;
    gnutls_session_t session; /* NULL: plain */
    gnutls_certificate_credentials_t trusted;
};

static enum status unavailable(const struct settings *settings, const char *why, struct error *err)
{
    return error_set(err, STATUS_UNAVAILABLE, "nothing answers at %s%s%s", settings->listen,
                     why ? ": " : "", why ? why : "");
}

static enum status start_tls(struct line *line, const struct settings *settings, struct error *err)
{
    int rc = gnutls_certificate_allocate_credentials(&line->trusted);
    if (rc < 0)
        return error_no_memory(err, "TLS");
    gnutls_certificate_set_verify_flags(line->trusted,
                                        GNUTLS_VERIFY_DISABLE_TIME_CHECKS |
                                            GNUTLS_VERIFY_DISABLE_TRUSTED_TIME_CHECKS);
    rc = gnutls_certificate_set_x509_trust_file(line->trusted, settings->tls_cert,
                                                GNUTLS_X509_FMT_PEM);
    if (rc <= 0)
        return error_set_param(err, STATUS_BAD_CONFIG, "tls_cert", "%.300s holds no certificate",
                               settings->tls_cert);
    if ((rc = gnutls_init(&line->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL)) < 0 ||
        (rc = gnutls_set_default_priority(line->session)) < 0 ||
        (rc = gnutls_credentials_set(line->session, GNUTLS_CRD_CERTIFICATE, line->trusted)) < 0)
        return error_no_memory(err, "TLS");
    gnutls_session_set_verify_cert(line->session, NULL, 0);
    gnutls_transport_set_int(line->session, line->fd);
    do
        rc = gnutls_handshake(line->session);
    while (rc < 0 && rc != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(rc));
    return rc < 0 ? unavailable(settings, gnutls_strerror(rc), err) : STATUS_OK;
}

static ssize_t line_send(struct line *line, const char *data, size_t size)
{
    return line->session ? gnutls_record_send(line->session, data, size)
                         : send(line->fd, data, size, MSG_NOSIGNAL);
}

/* 0 at the end, negative at a fault, the time-out too. */
static ssize_t line_receive(struct line *line, char *data, size_t size)
{
    ssize_t n = line->session ? gnutls_record_recv(line->session, data, size)
                              : recv(line->fd, data, size, 0);
    /* Who hangs up without TLS's own goodbye has ended all the same: HTTP/1.0. */
    return line->session && n == GNUTLS_E_PREMATURE_TERMINATION ? 0 : n;
}

static void line_close(struct line *line)
{
    if (line->session)
        gnutls_deinit(line->session);
    if (line->trusted)
        gnutls_certificate_free_credentials(line->trusted);
    close(line->fd);
}

/* Takes the head off what came; false while it is not all there. */
static bool split_head(struct buffer *reply, int *http_status)
{
    char *end = reply->size ? memmem(reply->data, reply->size, "\r\n\r\n", 4) : NULL;
    if (!end || sscanf(reply->data, "HTTP/1.%*1[01] %3d", http_status) != 1)
        return false;
    size_t head = (size_t)(end + 4 - reply->data);
    memmove(reply->data, end + 4, reply->size - head);
    reply->size -= head;
    reply->data[reply->size] = '\0';
    return true;
}

enum status ask_server(const struct settings *settings, const char *path, unsigned timeout_s,
                       struct buffer *body, int *http_status, struct error *err)
{
    struct line line = {.fd = listen_connect(settings->listen, timeout_s)};
    if (line.fd < 0)
        return unavailable(settings, NULL, err);
    char request[REQUEST_BYTES_MAX], block[16384];
    const char *key = settings->api_key.n ? strchr(settings->api_key.items[0], ':') : NULL;
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: localhost\r\n%s%s%s\r\n",
                        path, key ? "X-API-Key: " : "", key ? key + 1 : "", key ? "\r\n" : "");
    enum status status = STATUS_OK;
    if ((size_t)size >= sizeof request)
        status = error_set(err, STATUS_BAD_CONFIG, "the key is too long");
    if (!status && settings->tls_cert[0])
        status = start_tls(&line, settings, err);
    if (!status && line_send(&line, request, (size_t)size) != size)
        status = unavailable(settings, NULL, err);
    ssize_t n = 0;
    while (!status && (n = line_receive(&line, block, sizeof block)) > 0)
        if (!buffer_append(body, block, (size_t)n))
            status = error_set(err, STATUS_UNAVAILABLE, "the reply to %s is over %zu bytes", path,
                               body->max_bytes);
    if (!status && n < 0)
        status = unavailable(settings, "the reply did not come in time", err);
    if (!status && !split_head(body, http_status))
        status = unavailable(settings, "that is no HTTP (where it is HTTPS, set tls_cert)", err);
    line_close(&line);
    return status;
}
