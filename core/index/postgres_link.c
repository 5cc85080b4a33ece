/*
 * postgres_link.c: one connection: sending without blocking, waiting with a deadline, and
 * PostgreSQL's errors in our words. See postgres_internal.h.
 *
 * A wait never outlasts the link's deadline, whatever the network does; a link that missed one is
 * broken and closed, which also ends what the server was doing for it.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/stats.h"
#include "core/index/postgres_internal.h"

enum { OID_TEXT = 25, OID_BYTEA = 17, OID_INT8 = 20, OID_FLOAT8 = 701, OID_JSONB = 3802 };

/* ---- parameters
 * ------------------------------------------------------------------------------------------ */

void parameters_init(struct parameters *parameters)
{
    parameters->n = parameters->n_own = 0;
    parameters->overflow = false;
}

void parameters_release(struct parameters *parameters)
{
    for (int i = 0; i < parameters->n_own; i++)
        free(parameters->own[i]);
    parameters_init(parameters);
}

static int bind_value(struct parameters *parameters, const void *value, size_t size, int format,
                      Oid type)
{
    if (parameters->n == POSTGRES_PARAMETERS_MAX || size > INT32_MAX) {
        parameters->overflow = true;
        return parameters->n;
    }
    int i = parameters->n++;
    parameters->values[i] = value;
    parameters->lengths[i] = (int)size;
    parameters->formats[i] = format;
    parameters->types[i] = type;
    return i + 1;
}

/* Room for a value in network order that lives as long as the parameters. */
static void *own_bytes(struct parameters *parameters, size_t size)
{
    void *bytes = parameters->n_own < POSTGRES_PARAMETERS_MAX ? malloc(size) : NULL;
    if (bytes)
        parameters->own[parameters->n_own++] = bytes;
    else
        parameters->overflow = true;
    return bytes;
}

int bind_text(struct parameters *parameters, const char *text)
{
    return bind_value(parameters, text, strlen(text), 1, OID_TEXT);
}

int bind_json(struct parameters *parameters, const char *text)
{
    return bind_value(parameters, text, strlen(text), 0, OID_JSONB);
}

int bind_bytes(struct parameters *parameters, const void *bytes, size_t size)
{
    return bind_value(parameters, bytes, size, 1, OID_BYTEA);
}

int bind_integer(struct parameters *parameters, int64_t value)
{
    uint64_t *swapped = own_bytes(parameters, sizeof *swapped);
    if (swapped)
        *swapped = htobe64((uint64_t)value);
    return bind_value(parameters, swapped, sizeof *swapped, 1, OID_INT8);
}

int bind_double(struct parameters *parameters, double value)
{
    uint64_t bits, *swapped = own_bytes(parameters, sizeof *swapped);
    memcpy(&bits, &value, sizeof bits);
    if (swapped)
        *swapped = htobe64(bits);
    return bind_value(parameters, swapped, sizeof *swapped, 1, OID_FLOAT8);
}

/* pgvector's binary form: the number of dimensions and a zero as 16 bits, then 32-bit floats. */
int bind_vector(struct parameters *parameters, const float *vector, size_t dim)
{
    size_t size = 4 + dim * sizeof(float);
    unsigned char *bytes = own_bytes(parameters, size);
    if (bytes) {
        const uint16_t head[2] = {htobe16((uint16_t)dim), 0};
        memcpy(bytes, head, sizeof head);
        for (size_t i = 0; i < dim; i++) {
            uint32_t bits;
            memcpy(&bits, &vector[i], sizeof bits);
            bits = htobe32(bits);
            memcpy(bytes + 4 + 4 * i, &bits, sizeof bits);
        }
    }
    return bind_value(parameters, bytes, size, 1, 0);
}

/* ---- results
 * --------------------------------------------------------------------------------------------- */

int64_t column_integer(const PGresult *result, int row, int column)
{
    uint64_t bits = 0;
    if (PQgetlength(result, row, column) == sizeof bits)
        memcpy(&bits, PQgetvalue(result, row, column), sizeof bits);
    return (int64_t)be64toh(bits);
}

double column_double(const PGresult *result, int row, int column)
{
    int64_t bits = column_integer(result, row, column);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

bool column_bool(const PGresult *result, int row, int column)
{
    return PQgetlength(result, row, column) == 1 && *PQgetvalue(result, row, column);
}

char *column_copy(const PGresult *result, int row, int column)
{
    return strndup(PQgetvalue(result, row, column), (size_t)PQgetlength(result, row, column));
}

float *column_vector(const PGresult *result, int row, int column, size_t dim)
{
    const char *bytes = PQgetvalue(result, row, column);
    if ((size_t)PQgetlength(result, row, column) != 4 + dim * sizeof(float))
        return NULL;
    float *vector = alloc_array(dim, sizeof *vector);
    for (size_t i = 0; vector && i < dim; i++) {
        uint32_t bits;
        memcpy(&bits, bytes + 4 + 4 * i, sizeof bits);
        bits = be32toh(bits);
        memcpy(&vector[i], &bits, sizeof bits);
    }
    return vector;
}

/* ---- errors
 * ---------------------------------------------------------------------------------------------- */

/* What a class (or a whole code) of SQLSTATE means here; the first that fits. */
static const struct {
    const char *state;
    enum status status;
    bool broken; /* the link is of no more use */
} states[] = {
    {"08", STATUS_UNAVAILABLE, true},     /* connection lost */
    {"57P", STATUS_UNAVAILABLE, true},    /* shutting down, starting, terminated */
    {"57014", STATUS_UNAVAILABLE, false}, /* statement_timeout */
    {"53300", STATUS_UNAVAILABLE, true},  /* too many connections */
    {"25006", STATUS_UNAVAILABLE, true},  /* became a read-only standby */
    {"25P03", STATUS_UNAVAILABLE, true},  /* idle too long in a transaction */
    {"40", STATUS_UNAVAILABLE, false},    /* deadlock: may be tried again */
    {"55P03", STATUS_UNAVAILABLE, false}, /* a lock was not to be had */
    {"53100", STATUS_NO_SPACE, false},
    {"53200", STATUS_UNAVAILABLE, false}, /* out of its memory */
    {"42P01", STATUS_NOT_FOUND, false},   /* the table: dropped meanwhile */
    {"22000", STATUS_CONFLICT, false},    /* other dimensions: dropped and made anew meanwhile */
};

enum status link_error(struct link *link, const PGresult *result, struct error *err)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *message = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    enum status status = STATUS_IO;
    if (PQstatus(link->conn) != CONNECTION_OK || !state) {
        link->broken = true;
        status = STATUS_UNAVAILABLE;
    }
    for (size_t i = 0; state && i < ARRAY_LENGTH(states); i++)
        if (!strncmp(state, states[i].state, strlen(states[i].state))) {
            status = link->broken ? STATUS_UNAVAILABLE : states[i].status;
            link->broken |= states[i].broken;
            break;
        }
    if (!message || !*message)
        message = PQerrorMessage(link->conn);
    if (!*message)
        message = "the connection was lost";
    int size = (int)strlen(message); /* libpq ends its own with a new line */
    while (size && message[size - 1] == '\n')
        size--;
    return error_set(err, status,
                     status == STATUS_NO_SPACE
                         ? "the disk that holds the collections is full (%.*s)"
                         : "the collections' database: %.*s",
                     size, message);
}

/* ---- waiting
 * --------------------------------------------------------------------------------------------- */

void link_set_deadline(struct link *link, unsigned timeout_ms)
{
    link->deadline_ns = clock_ns() + timeout_ms * UINT64_C(1000000);
}

/* Until the socket can be read (or, where asked, written), or the deadline. */
static enum status wait_socket(struct link *link, short events, struct error *err)
{
    for (;;) {
        uint64_t now = clock_ns();
        if (now >= link->deadline_ns || (link->stop && atomic_load(link->stop))) {
            link->broken = link->is_silent = true;
            return error_set(err, STATUS_UNAVAILABLE,
                             "the collections' database does not answer in time");
        }
        uint64_t left_ms = (link->deadline_ns - now) / 1000000 + 1;
        struct pollfd fd = {.fd = PQsocket(link->conn), .events = events};
        /* Looks up now and then, where something else may end the wait. */
        int n = poll(&fd, 1, (int)(link->stop && left_ms > 200 ? 200 : left_ms));
        if (n > 0)
            return STATUS_OK;
        if (n < 0 && errno != EINTR) {
            link->broken = true;
            return error_set(err, STATUS_UNAVAILABLE, "the collections' database: %s",
                             strerror(errno));
        }
    }
}

static enum status flush(struct link *link, struct error *err)
{
    int rc;
    while ((rc = PQflush(link->conn)) == 1) {
        /* The server may want to be read before it reads on. */
        if (wait_socket(link, POLLIN | POLLOUT, err))
            return err->status;
        if (!PQconsumeInput(link->conn))
            return link_error(link, NULL, err);
    }
    return rc ? link_error(link, NULL, err) : STATUS_OK;
}

/* *out = NULL: the end of a statement's results. */
static enum status next_result(struct link *link, PGresult **out, struct error *err)
{
    if (flush(link, err))
        return err->status;
    while (PQisBusy(link->conn)) {
        if (wait_socket(link, POLLIN, err))
            return err->status;
        if (!PQconsumeInput(link->conn))
            return link_error(link, NULL, err);
    }
    *out = PQgetResult(link->conn);
    return STATUS_OK;
}

static bool is_fine(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* Reads a whole answer; the last result is kept, the first error told. */
static enum status finish(struct link *link, PGresult **out, struct error *err)
{
    PGresult *kept = NULL, *result;
    enum status status;
    while (!(status = next_result(link, &result, err)) && result) {
        if (!kept || is_fine(kept)) {
            PQclear(kept);
            kept = result;
        } else {
            PQclear(result);
        }
    }
    if (!status && (!kept || !is_fine(kept)))
        status = link_error(link, kept, err);
    if (!status && out)
        *out = kept;
    else
        PQclear(kept);
    return status;
}

/* ---- statements
 * ------------------------------------------------------------------------------------------ */

enum status link_prepare(struct link *link, const char *name, const char *sql, int n_parameters,
                         const Oid *types, struct error *err)
{
    for (int i = 0; i < link->n_prepared; i++)
        if (!strcmp(link->prepared[i], name))
            return STATUS_OK;
    if (link->n_prepared == POSTGRES_PREPARED_MAX) {
        if (!PQsendQuery(link->conn, "DEALLOCATE ALL"))
            return link_error(link, NULL, err);
        if (finish(link, NULL, err))
            return err->status;
        link->n_prepared = 0;
    }
    if (!PQsendPrepare(link->conn, name, sql, n_parameters, types))
        return link_error(link, NULL, err);
    if (finish(link, NULL, err))
        return err->status;
    snprintf(link->prepared[link->n_prepared++], sizeof link->prepared[0], "%s", name);
    return STATUS_OK;
}

enum status link_send(struct link *link, const char *name, const struct parameters *parameters,
                      struct error *err)
{
    if (parameters->overflow)
        return error_no_memory(err, "a statement");
    return PQsendQueryPrepared(link->conn, name, parameters->n, parameters->values,
                               parameters->lengths, parameters->formats, 1)
               ? STATUS_OK
               : link_error(link, NULL, err);
}

enum status link_run(struct link *link, const char *name, const char *sql,
                     const struct parameters *parameters, PGresult **out, struct error *err)
{
    if (parameters && parameters->overflow)
        return error_no_memory(err, "a statement");
    if (name) {
        if (link_prepare(link, name, sql, parameters->n, parameters->types, err) ||
            link_send(link, name, parameters, err))
            return err->status;
    } else if (!(parameters ? PQsendQueryParams(link->conn, sql, parameters->n, parameters->types,
                                                parameters->values, parameters->lengths,
                                                parameters->formats, 1)
                            : PQsendQuery(link->conn, sql))) {
        return link_error(link, NULL, err);
    }
    return finish(link, out, err);
}

enum status link_end(struct link *link, enum status status, struct error *err)
{
    if (!status)
        return link_run(link, NULL, "COMMIT", NULL, NULL, err);
    struct error ignored;
    if (!link->broken && PQtransactionStatus(link->conn) != PQTRANS_IDLE)
        link_run(link, NULL, "ROLLBACK", NULL, NULL, &ignored);
    return status;
}

/* ---- pipelines
 * ------------------------------------------------------------------------------------------- */

enum status link_pipeline(struct link *link, struct error *err)
{
    return PQenterPipelineMode(link->conn) ? STATUS_OK : link_error(link, NULL, err);
}

enum status link_sync(struct link *link, struct error *err)
{
    return PQpipelineSync(link->conn) ? flush(link, err) : link_error(link, NULL, err);
}

enum status link_take(struct link *link, PGresult **out, struct error *err)
{
    PGresult *result = NULL, *end = NULL;
    if (next_result(link, &result, err))
        return err->status;
    if (!result || !is_fine(result)) {
        enum status status = link_error(link, result, err);
        PQclear(result);
        return status;
    }
    enum status status = next_result(link, &end, err);
    PQclear(end);
    if (!status && out)
        *out = result;
    else
        PQclear(result);
    return status;
}

void link_leave_pipeline(struct link *link)
{
    struct error ignored;
    while (!link->broken && !PQexitPipelineMode(link->conn)) {
        PGresult *result = NULL;
        if (next_result(link, &result, &ignored))
            break;
        PQclear(result);
        if (PQstatus(link->conn) != CONNECTION_OK) /* nothing more will come */
            link->broken = true;
    }
}

/* ---- connecting
 * ------------------------------------------------------------------------------------------ */

/* What every session wants. No JIT: it costs more than a search. A graph is walked more widely than
 * by pgvector's default of 40, for recall (0.97 of the best ten where 40 gives 0.8). An operator
 * who turned synchronous_commit off for the whole server did not mean the promise of an
 * acknowledged add. */
static const char session_sql[] =
    "SET jit = off; SET client_min_messages = error; SET statement_timeout = 20000;"
    "SET idle_in_transaction_session_timeout = 60000; SET tcp_keepalives_idle = 30;"
    "SET hnsw.ef_search = 400;"
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'";

bool link_alive(struct link *link)
{
    struct pollfd fd = {.fd = PQsocket(link->conn), .events = POLLIN};
    if (link->broken || fd.fd < 0)
        return false;
    /* An idle connection has nothing to say but its end, or a notice. */
    while (poll(&fd, 1, 0) > 0)
        if (!PQconsumeInput(link->conn) || PQstatus(link->conn) != CONNECTION_OK)
            return false;
    return true;
}

void link_close(struct link *link)
{
    if (!link)
        return;
    PQfinish(link->conn);
    free(link);
}

static enum status connect_within(struct link *link, struct error *err)
{
    PostgresPollingStatusType next = PGRES_POLLING_WRITING;
    while (PQstatus(link->conn) != CONNECTION_BAD) {
        if (wait_socket(link, next == PGRES_POLLING_READING ? POLLIN : POLLOUT, err))
            return err->status;
        next = PQconnectPoll(link->conn);
        if (next == PGRES_POLLING_OK)
            return STATUS_OK;
        if (next == PGRES_POLLING_FAILED)
            break;
    }
    return link_error(link, NULL, err);
}

struct link *link_open(const char *uri, unsigned timeout_ms, const atomic_bool *stop,
                       struct error *err)
{
    /* What stands before dbname is a default that the URL may overrule; what follows is not. */
    static const char *const names[] = {"fallback_application_name", "tcp_user_timeout", "dbname",
                                        "client_encoding", NULL};
    const char *const values[] = {"vlmd", "20000", uri, "UTF8", NULL};
    struct link *link = calloc(1, sizeof *link);
    if (link)
        link->conn = PQconnectStartParams(names, values, 1);
    if (!link || !link->conn) {
        free(link);
        error_no_memory(err, "a connection");
        return NULL;
    }
    link->stop = stop;
    link_set_deadline(link, timeout_ms);
    if (connect_within(link, err))
        goto fail;
    if (PQsetnonblocking(link->conn, 1)) {
        link_error(link, NULL, err);
        goto fail;
    }
    if (link_run(link, NULL, session_sql, NULL, NULL, err) || schema_check(link, err))
        goto fail;
    return link;
fail:
    link_close(link);
    return NULL;
}
