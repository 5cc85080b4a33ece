/*
 * folder.c: see folder.h. Changes come from inotify, which watches single directories: each has its
 * watch before it is read, and a new one is walked when it appears, so a file is seen by the one
 * or by the other. A file counts when its writer closes it or it is moved into place; what was only
 * half there when it was walked comes again then.
 */
#include "server/folder.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"

enum {
    DEPTH_MAX = 64,
    SETTLE_MS = 200, /* so long nothing more must come */
    SETTLES_MAX = 20,
    EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ONLYDIR |
             IN_DONT_FOLLOW | IN_EXCL_UNLINK,
};

struct folder {
    char *path;
    int watch_fd;   /* -1: not watched */
    char **watched; /* [n_watched] by watch descriptor: a relative path; NULL = none */
    size_t n_watched;
};

struct walk {
    struct folder *folder;
    struct paths *out;
    void (*fault)(void *context, const char *path, const char *message);
    void *context;
};

/* ---- lists -------------------------------------------------------------------------------------
 */

enum status paths_add(struct paths *paths, char *path, struct error *err)
{
    if (path && paths->n == paths->capacity) {
        size_t capacity = paths->capacity ? paths->capacity * 2 : 64;
        char **items = realloc_array(paths->items, capacity, sizeof *items);
        if (!items) {
            free(path);
            path = NULL;
        } else {
            paths->items = items;
            paths->capacity = capacity;
        }
    }
    if (!path)
        return error_no_memory(err, "the list of pictures");
    paths->items[paths->n++] = path;
    return STATUS_OK;
}

void paths_release(struct paths *paths)
{
    for (size_t i = 0; i < paths->n; i++)
        free(paths->items[i]);
    free(paths->items);
    *paths = (struct paths){0};
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void paths_sort(struct paths *paths)
{
    size_t n = 0;
    if (paths->n)
        qsort(paths->items, paths->n, sizeof *paths->items, by_bytes);
    for (size_t i = 0; i < paths->n; i++) {
        if (n && !strcmp(paths->items[n - 1], paths->items[i]))
            free(paths->items[i]);
        else
            paths->items[n++] = paths->items[i];
    }
    paths->n = n;
}

/* ---- the walk ----------------------------------------------------------------------------------
 */

static bool is_picture_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp"};
    size_t size = strlen(name);
    for (size_t i = 0; i < ARRAY_LENGTH(endings); i++) {
        size_t n = strlen(endings[i]);
        if (size > n && !strcasecmp(name + size - n, endings[i]))
            return true;
    }
    return false;
}

/* a/b, or b where a is empty; NULL: out of memory. */
static char *join(const char *a, const char *b)
{
    char *path;
    return asprintf(&path, *a ? "%s/%s" : "%s%s", a, b) < 0 ? NULL : path;
}

static enum status watch_directory(struct folder *folder, const char *full, const char *relative,
                                   struct error *err)
{
    if (folder->watch_fd < 0)
        return STATUS_OK;
    int wd = inotify_add_watch(folder->watch_fd, full, EVENTS);
    if (wd < 0 && errno == ENOSPC)
        return error_set(err, STATUS_UNAVAILABLE,
                         "cannot watch %s: the system's bound of watched directories is reached "
                         "(sysctl fs.inotify.max_user_watches)",
                         full);
    if (wd < 0)
        return STATUS_OK; /* gone again, or not readable, which the walk will tell */
    if ((size_t)wd >= folder->n_watched) {
        size_t n = (size_t)wd + 64;
        char **watched = realloc_array(folder->watched, n, sizeof *watched);
        if (!watched)
            return error_no_memory(err, "the watched directories");
        memset(watched + folder->n_watched, 0, (n - folder->n_watched) * sizeof *watched);
        folder->watched = watched;
        folder->n_watched = n;
    }
    free(folder->watched[wd]);
    folder->watched[wd] = strdup(relative);
    return folder->watched[wd] ? STATUS_OK : error_no_memory(err, "the watched directories");
}

static enum status walk_directory(const struct walk *walk, const char *relative, int depth,
                                  struct error *err);

static enum status walk_entry(const struct walk *walk, const char *directory, const char *relative,
                              const char *name, int depth, struct error *err)
{
    if (name[0] == '.')
        return STATUS_OK;
    char *path = join(directory, name), *below = join(relative, name);
    struct stat info;
    enum status status = STATUS_OK;
    if (!path || !below) {
        status = error_no_memory(err, "the list of pictures");
    } else if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        if (depth < DEPTH_MAX)
            status = walk_directory(walk, below, depth + 1, err);
        else if (walk->fault)
            walk->fault(walk->context, below, "the directory is nested too deep");
    } else if (is_picture_name(name) && stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
        status = paths_add(walk->out, below, err);
        below = NULL;
    }
    free(path);
    free(below);
    return status;
}

static enum status walk_directory(const struct walk *walk, const char *relative, int depth,
                                  struct error *err)
{
    char *directory = join(walk->folder->path, relative);
    if (!directory)
        return error_no_memory(err, "the list of pictures");
    enum status status = watch_directory(walk->folder, directory, relative, err);
    DIR *stream = status ? NULL : opendir(directory);
    if (!status && !stream) {
        if (!*relative)
            status = error_set(err, STATUS_IO, "cannot read the directory %s: %s", directory,
                               strerror(errno));
        else if (walk->fault && errno != ENOENT)
            walk->fault(walk->context, relative, strerror(errno));
    }
    const struct dirent *entry;
    while (!status && stream && (entry = readdir(stream)))
        status = walk_entry(walk, directory, relative, entry->d_name, depth, err);
    if (stream)
        closedir(stream);
    free(directory);
    return status;
}

enum status folder_walk(struct folder *folder, struct paths *out,
                        void (*fault)(void *context, const char *path, const char *message),
                        void *context, struct error *err)
{
    const struct walk walk = {folder, out, fault, context};
    enum status status = walk_directory(&walk, "", 0, err);
    if (!status)
        paths_sort(out);
    return status;
}

/* ---- changes -----------------------------------------------------------------------------------
 */

/* A directory has gone: nothing below it is watched any more, whatever it is called now. */
static void forget_below(struct folder *folder, const char *relative)
{
    size_t size = strlen(relative);
    for (size_t wd = 0; wd < folder->n_watched; wd++) {
        const char *each = folder->watched[wd];
        if (each && !strncmp(each, relative, size) && (each[size] == '/' || !each[size]))
            inotify_rm_watch(folder->watch_fd, (int)wd); /* IN_IGNORED follows */
    }
}

static enum status take_event(struct folder *folder, const struct inotify_event *event,
                              struct paths *out, bool *is_lost, struct error *err)
{
    if (event->mask & IN_Q_OVERFLOW) {
        *is_lost = true;
        return STATUS_OK;
    }
    size_t wd = (size_t)event->wd;
    const char *parent = wd < folder->n_watched ? folder->watched[wd] : NULL;
    if (!parent)
        return STATUS_OK;
    if (event->mask & IN_IGNORED) {
        free(folder->watched[wd]);
        folder->watched[wd] = NULL;
        return STATUS_OK;
    }
    if (!event->len || event->name[0] == '.')
        return STATUS_OK;
    char *path = join(parent, event->name);
    if (!path)
        return error_no_memory(err, "a change");
    enum status status = STATUS_OK;
    if (event->mask & IN_ISDIR) {
        if (event->mask & (IN_MOVED_FROM | IN_DELETE)) {
            forget_below(folder, path);
            *is_lost = true;
        } else {
            const struct walk walk = {.folder = folder, .out = out};
            status = walk_directory(&walk, path, 0, err);
        }
    } else if (!(event->mask & IN_CREATE) && is_picture_name(event->name)) {
        status = paths_add(out, path, err);
        path = NULL;
    }
    free(path);
    return status;
}

/* What there is to read now. */
static enum status take_events(struct folder *folder, struct paths *out, bool *is_lost,
                               struct error *err)
{
    char buffer[16 << 10] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;
    enum status status = STATUS_OK;
    while (!status && (n = read(folder->watch_fd, buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0; at < n && !status;) {
            const struct inotify_event *event = (const struct inotify_event *)(buffer + at);
            status = take_event(folder, event, out, is_lost, err);
            at += (ssize_t)(sizeof *event + event->len);
        }
    return status;
}

enum status folder_changes(struct folder *folder, int wait_ms, struct paths *out, bool *is_lost,
                           struct error *err)
{
    struct pollfd poll_fd = {.fd = folder->watch_fd, .events = POLLIN};
    *is_lost = false;
    enum status status = STATUS_OK;
    for (int i = 0; i < SETTLES_MAX && !status && poll(&poll_fd, 1, i ? SETTLE_MS : wait_ms) > 0;
         i++)
        status = take_events(folder, out, is_lost, err);
    if (!status)
        paths_sort(out);
    return status;
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct folder *folder_open(const char *path, bool with_watch, struct error *err)
{
    struct folder *folder = calloc(1, sizeof *folder);
    if (!folder) {
        error_no_memory(err, "a folder");
        return NULL;
    }
    folder->watch_fd = -1;
    folder->path = realpath(path, NULL);
    if (!folder->path)
        error_set(err, STATUS_IO, "cannot read the directory %s: %s", path, strerror(errno));
    else if (with_watch && (folder->watch_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) < 0)
        error_set(err, STATUS_UNAVAILABLE, "cannot watch %s: %s", path, strerror(errno));
    if (folder->path && (!with_watch || folder->watch_fd >= 0))
        return folder;
    folder_close(folder);
    return NULL;
}

void folder_close(struct folder *folder)
{
    if (!folder)
        return;
    for (size_t i = 0; i < folder->n_watched; i++)
        free(folder->watched[i]);
    free(folder->watched);
    if (folder->watch_fd >= 0)
        close(folder->watch_fd);
    free(folder->path);
    free(folder);
}

const char *folder_path(const struct folder *folder)
{
    return folder->path;
}
