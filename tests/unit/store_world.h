/*
 * store_world.h: what tests of the store share: a fresh store for each test, whichever driver keeps
 * it.
 *
 * On SQLite always; on PostgreSQL where VLMD_TEST_POSTGRES names one (tests/http/postgres.py starts
 * it), which is emptied before each test.
 */
#ifndef VLMD_TESTS_UNIT_STORE_WORLD_H
#define VLMD_TESTS_UNIT_STORE_WORLD_H

#include <check.h>

#include "core/index/store.h"

extern struct error err;
extern char store_path[64]; /* SQLite's file */
extern char store_uri[512];
extern size_t store_graph_from; /* 0 as long as a test says nothing else */

/* Opens the test's store and makes the collection where it is not there. */
struct store *store_world_open(const char *name, size_t dim, enum metric metric);
/* One item into the collection "c". */
enum status store_world_put(struct store *store, const char *id, const float *vector,
                            const char *metadata);

/* Runs the tests that are added by `shared` once per driver, and those of one driver (NULL: none).
 * The result is main's. */
int store_world_main(const char *name, void (*shared)(TCase *), void (*sqlite)(TCase *),
                     void (*postgres)(TCase *));

#endif
