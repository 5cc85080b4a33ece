/*
 * fuzz.c: see fuzz.h.
 */
#include "fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/endpoints.h"

static char directory[64];

void fuzz_clear(void)
{
    DIR *list = opendir(directory);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        unlink(path); /* refuses "." and ".." */
    }
    if (list)
        closedir(list);
}

static void remove_directory(void)
{
    fuzz_clear();
    rmdir(directory);
}

const char *fuzz_directory(void)
{
    if (!*directory) {
        snprintf(directory, sizeof directory, "%s/vlmd-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        if (!mkdtemp(directory))
            exit(1);
        atexit(remove_directory);
    }
    return directory;
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file))
        exit(1);
    return path;
}

void fuzz_link(const char *source, const char *except)
{
    const char *root = getenv("VLMD_TEST_DATA");
    char from[PATH_MAX], relative[PATH_MAX], to[PATH_MAX];
    snprintf(relative, sizeof relative, "%s/%s", root ? root : "tests/data", source);
    if (!realpath(relative, from))
        exit(1);
    DIR *list = opendir(from);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        char path[2 * PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        snprintf(to, sizeof to, "%s/%s", fuzz_directory(), entry->d_name);
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, except) && symlink(path, to))
            exit(1);
    }
    if (list)
        closedir(list);
}

void fuzz_world_open(struct fuzz_world *world)
{
    static const struct api_options options = {
        .max_pixels = 1 << 18,
        .max_items = 16,
        .max_text_bytes = 4000,
        .max_reply_bytes = 4 << 20,
        .max_tokens = 4,
        .version = "fuzz",
    };
    static const struct runtime_options runtime_options = {.threads = 1, .max_queue = 64};
    struct error err = {0};
    world->runtime = runtime_new(&runtime_options, &err);
    world->store = store_open(&(struct store_options){.uri = "memory:"}, &err);
    world->api = api_new(&options, world->runtime, world->store, &err);
    if (!world->runtime || !world->store || !world->api)
        exit(1);
}

void fuzz_world_close(struct fuzz_world *world)
{
    api_free(world->api);
    store_close(world->store);
    runtime_free(world->runtime);
}

static void on_wake(void *semaphore)
{
    sem_post(semaphore);
}

void fuzz_call(struct fuzz_world *world, const char *method, const char *path, const char *query,
               const char *content_type, const void *body, size_t body_bytes)
{
    struct error err = {0};
    struct route route = {0};
    if (api_route(world->api, method, path, &route, &err))
        return;
    const struct http_request request = {
        .query = query,
        .content_type = content_type,
        .body = body,
        .body_bytes = body_bytes,
        .request_id = "fuzz",
        .received_ns = clock_ns(),
    };
    sem_t woken;
    sem_init(&woken, 0, 0);
    struct call *call = call_new(world->api, &route, &request, on_wake, &woken, &err);
    if (call) {
        while (!call_step(call))
            sem_wait(&woken);
        if (call_reply(call)->status < 200 || call_reply(call)->status == 500)
            abort(); /* a fault of ours, whatever was asked */
        call_free(call);
    }
    sem_destroy(&woken);
}
