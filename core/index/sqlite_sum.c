/*
 * sqlite_sum.c: checksums of rows, as functions of SQL, so that each statement that reads a row
 * also checks it (invariant 4 of sqlite_internal.h). SQLite itself notices damaged pages only where
 * their structure breaks; a flipped bit in a vector would be a wrong result.
 *
 *   checksum(table, value, …)      of the values' bytes and kinds
 *   checked(sum, table, value, …)  1, or the error of a damaged page; a picture may have no sum
 *
 * A vector that is named twice in a statement is fetched and copied twice by SQLite, so the one
 * that reads them all asks sqlite_check_vector() instead.
 *
 * The hash is made for speed (a million vectors are checked when the store opens) and for faults,
 * not for enemies: each 8 bytes go into one of four states by steps that can be undone, so that
 * what differs in one word never gives the same sum.
 */
#include <stdio.h>
#include <string.h>

#include "core/index/sqlite_internal.h"

#define FACTOR UINT64_C(0x9E3779B97F4A7C15)

static uint64_t step(uint64_t state, uint64_t word)
{
    state = (state ^ word) * FACTOR;
    return state ^ state >> 29;
}

static uint64_t word_at(const unsigned char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static uint64_t add_bytes(uint64_t sum, const unsigned char *at, size_t size)
{
    uint64_t a = sum, b = ~sum, c = sum + FACTOR, d = ~sum + FACTOR, last = 0;
    sum = step(sum, size);
    for (; size >= 32; at += 32, size -= 32) {
        a = step(a, word_at(at));
        b = step(b, word_at(at + 8));
        c = step(c, word_at(at + 16));
        d = step(d, word_at(at + 24));
    }
    for (; size >= 8; at += 8, size -= 8)
        a = step(a, word_at(at));
    if (size)
        memcpy(&last, at, size);
    return step(step(step(step(step(sum, a), b), c), d), last);
}

static uint64_t add_number(uint64_t sum, int64_t value)
{
    return step(step(sum, SQLITE_INTEGER), (uint64_t)value);
}

/* type: SQLite's, of text, of a blob or (with 0 bytes) of anything else. */
static uint64_t add_typed(uint64_t sum, int type, const void *bytes, size_t size)
{
    return add_bytes(step(sum, (uint64_t)type), bytes, bytes ? size : 0);
}

static int64_t sum_of(int n, sqlite3_value **values)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        int type = sqlite3_value_type(values[i]);
        if (type == SQLITE_INTEGER) {
            sum = add_number(sum, sqlite3_value_int64(values[i]));
        } else {
            const void *bytes =
                type == SQLITE_TEXT ? sqlite3_value_text(values[i]) : sqlite3_value_blob(values[i]);
            sum = add_typed(sum, type, bytes, (size_t)sqlite3_value_bytes(values[i]));
        }
    }
    return (int64_t)sum;
}

static void describe_row(char *text, size_t size, const char *table, int64_t key)
{
    snprintf(text, size,
             "row %lld of table %s does not fit its checksum; restore a copy of the file, or give "
             "the row up: delete what has this key from items, vectors and pictures",
             (long long)key, table);
}

static void checksum(sqlite3_context *context, int n, sqlite3_value **values)
{
    sqlite3_result_int64(context, sum_of(n, values));
}

static void checked(sqlite3_context *context, int n, sqlite3_value **values)
{
    char text[256];
    const char *table = (const char *)sqlite3_value_text(values[1]);
    bool fits = sqlite3_value_type(values[0]) == SQLITE_NULL
                    ? table && !strcmp(table, "pictures") /* kept before format 3 */
                    : sqlite3_value_int64(values[0]) == sum_of(n - 1, values + 1);
    if (fits) {
        sqlite3_result_int(context, 1);
        return;
    }
    if (n > 3 && sqlite3_value_type(values[3]) == SQLITE_TEXT)
        snprintf(text, sizeof text, "item '%.100s' does not fit its checksum; put it again",
                 (const char *)sqlite3_value_text(values[3]));
    else
        describe_row(text, sizeof text, table ? table : "", sqlite3_value_int64(values[2]));
    sqlite3_result_error(context, text, -1);
    sqlite3_result_error_code(context, SQLITE_CORRUPT);
}

enum status sqlite_check_vector(sqlite3_stmt *row, struct error *err)
{
    static const char table[] = "vectors";
    int64_t key = sqlite3_column_int64(row, 0);
    int type = sqlite3_column_type(row, 1);
    const void *vector = sqlite3_column_blob(row, 1);
    uint64_t sum = add_typed(0, SQLITE_TEXT, table, sizeof table - 1);
    sum = add_number(add_number(sum, key), sqlite3_column_int64(row, 2));
    sum = add_typed(sum, type, vector, (size_t)sqlite3_column_bytes(row, 1));
    if (sqlite3_column_type(row, 3) == SQLITE_INTEGER &&
        sqlite3_column_int64(row, 3) == (int64_t)sum)
        return STATUS_OK;
    char text[256];
    describe_row(text, sizeof text, table, key);
    return error_set(err, STATUS_IO, "the collections' file is damaged: %s", text);
}

bool sqlite_add_sums(sqlite3 *db)
{
    const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC;
    return !sqlite3_create_function(db, "checksum", -1, flags, NULL, checksum, NULL, NULL) &&
           !sqlite3_create_function(db, "checked", -1, flags, NULL, checked, NULL, NULL);
}
