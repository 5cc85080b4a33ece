/*
 * postgres_schema.c: the shared store's tables, in a schema of their own.
 *
 *   vlmd.format          one row: the version of this layout
 *   vlmd.collections     settings, one row each
 *   vlmd.counts          how many items a collection has: the sum of POSTGRES_STRIPES rows, so that
 *                        writers do not queue for one
 *   vlmd.places          where a batch's keys begin: items keep the order in which they were added
 *   vlmd.items_<key>     one table per collection (made by postgres.c), named by its number and by
 *                        nothing that a client sent
 *
 * The first connection makes them under an advisory lock, so that several processes may start
 * together.
 */
#include <stdlib.h>
#include <string.h>

#include "core/index/postgres_internal.h"

enum { FORMAT = 1 };

static const char look_sql[] =
    "SELECT to_regclass('vlmd.format') IS NOT NULL, pg_is_in_recovery(),"
    " current_setting('server_encoding'),"
    " current_setting('server_version_num')::int8,"
    " (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
    " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')";

static const char create_sql[] =
    "CREATE EXTENSION IF NOT EXISTS vector;"
    "CREATE SCHEMA IF NOT EXISTS vlmd;"
    "CREATE TABLE vlmd.collections(key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    "  name text COLLATE \"C\" NOT NULL UNIQUE, space text NOT NULL, model text NOT NULL,"
    "  dim bigint NOT NULL, metric bigint NOT NULL, created bigint NOT NULL,"
    "  precision bigint NOT NULL, pictures boolean NOT NULL);"
    "CREATE TABLE vlmd.counts(collection bigint, stripe int, n bigint NOT NULL,"
    "  PRIMARY KEY(collection, stripe));"
    "CREATE SEQUENCE vlmd.places INCREMENT 1048576 CACHE 1;"
    "CREATE TABLE vlmd.format(version bigint NOT NULL);"
    "INSERT INTO vlmd.format VALUES(1)";

static enum status refuse(struct error *err, const char *why)
{
    return error_set_param(err, STATUS_BAD_CONFIG, "store", "the collections' database %s", why);
}

static enum status create(struct link *link, struct error *err)
{
    if (link_run(link, NULL, "BEGIN; SELECT pg_advisory_xact_lock(1986817380)", NULL, NULL, err))
        return err->status;
    struct parameters none;
    PGresult *result;
    parameters_init(&none);
    enum status status = link_run(link, NULL, look_sql, &none, &result, err);
    if (!status) {
        bool made = column_bool(result, 0, 0); /* by another process, while this one waited */
        PQclear(result);
        status = made ? STATUS_OK : link_run(link, NULL, create_sql, NULL, NULL, err);
    }
    if (!status)
        return link_run(link, NULL, "COMMIT", NULL, NULL, err);
    if (!link->broken) {
        struct error cause = *err, ignored;
        link_run(link, NULL, "ROLLBACK", NULL, NULL, &ignored);
        if (cause.status == STATUS_IO)
            return error_set_param(err, STATUS_BAD_CONFIG, "store",
                                   "the tables of the collections cannot be made: %s",
                                   cause.message);
        *err = cause;
    }
    return status;
}

static enum status check_format(struct link *link, struct error *err)
{
    struct parameters none;
    PGresult *result;
    parameters_init(&none);
    if (link_run(link, NULL, "SELECT version FROM vlmd.format", &none, &result, err))
        return err->status;
    int64_t version = PQntuples(result) == 1 ? column_integer(result, 0, 0) : 0;
    PQclear(result);
    if (version == FORMAT)
        return STATUS_OK;
    return error_set_param(
        err, STATUS_BAD_CONFIG, "store",
        "the collections' database has format %lld; this version reads format %d",
        (long long)version, FORMAT);
}

enum status schema_check(struct link *link, struct error *err)
{
    struct parameters none;
    PGresult *result;
    parameters_init(&none);
    if (link_run(link, NULL, look_sql, &none, &result, err))
        return err->status;
    bool made = column_bool(result, 0, 0), standby = column_bool(result, 0, 1);
    bool utf8 = PQgetlength(result, 0, 2) == 4 && !memcmp(PQgetvalue(result, 0, 2), "UTF8", 4);
    int64_t server = column_integer(result, 0, 3);
    bool has_vector = !PQgetisnull(result, 0, 4), available = column_bool(result, 0, 5);
    /* "0.6.2": the graph index came with 0.5. */
    int major = 0, minor = 0;
    if (has_vector) {
        char *end;
        major = (int)strtol(PQgetvalue(result, 0, 4), &end, 10);
        minor = *end == '.' ? (int)strtol(end + 1, NULL, 10) : 0;
    }
    PQclear(result);
    if (standby)
        return error_set(err, STATUS_UNAVAILABLE,
                         "the collections' database is a read-only standby");
    if (server < 120000)
        return refuse(err, "is older than PostgreSQL 12");
    if (!utf8)
        return refuse(err, "has another encoding than UTF8");
    if (!has_vector && !available)
        return refuse(err, "lacks the extension pgvector; install it on its server");
    if (has_vector && major == 0 && minor < 5)
        return refuse(err, "has a pgvector older than 0.5; ALTER EXTENSION vector UPDATE");
    if ((!made && create(link, err)) || check_format(link, err))
        return err->status;
    /* Walks on where a filter leaves too few. */
    return major == 0 && minor < 8
               ? STATUS_OK
               : link_run(link, NULL, "SET hnsw.iterative_scan = strict_order", NULL, NULL, err);
}
