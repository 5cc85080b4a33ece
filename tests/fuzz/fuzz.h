/*
 * fuzz.h: what a fuzz target is, and files for those whose code under test reads them.
 *
 * A target defines LLVMFuzzerTestOneInput() (libFuzzer's entry point: bytes in, 0 out, never a
 * crash, a leak or a hang). `./dev fuzz` links targets with libFuzzer, which makes up inputs;
 * `./dev test` links them with replay.c, which runs the seeds and whatever once broke something.
 */
#ifndef VLMD_TESTS_FUZZ_H
#define VLMD_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A directory of this process in memory where there is such a place, removed at exit. */
const char *fuzz_directory(void);
void fuzz_clear(void); /* removes what is in it */

/* The path `name` in it, with these bytes. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);

/* Links every regular file of tests/data/<source> but `except` into the directory. */
void fuzz_link(const char *source, const char *except);

/* A server's inside: a runtime with one thread, a store in memory, and the api over both. */
struct fuzz_world {
    struct runtime *runtime;
    struct store *store;
    struct api *api;
};
void fuzz_world_open(struct fuzz_world *world);
void fuzz_world_close(struct fuzz_world *world);

/* One whole call; its reply is only looked at for being there. content_type may be NULL. */
void fuzz_call(struct fuzz_world *world, const char *method, const char *path, const char *query,
               const char *content_type, const void *body, size_t body_bytes);

#endif
