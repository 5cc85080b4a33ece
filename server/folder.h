/*
 * folder.h: the pictures under a directory, now and as they change.
 *
 * Pictures are regular files with a picture's ending; hidden files and directories and links to
 * directories are left out. Paths are relative to the folder. One thread.
 */
#ifndef VLMD_SERVER_FOLDER_H
#define VLMD_SERVER_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/error.h"

struct paths {
    char **items;
    size_t n, capacity;
};
/* Takes the path (malloc'd; NULL = out of memory, as when the list cannot grow). */
enum status paths_add(struct paths *paths, char *path, struct error *err);
void paths_release(struct paths *paths);
/* Sorts by bytes; of equal ones only one stays. */
void paths_sort(struct paths *paths);

struct folder;

/* with_watch: changes are noted from here on, so that none is missed after a walk. */
struct folder *folder_open(const char *path, bool with_watch, struct error *err);
void folder_close(struct folder *folder);
/* Absolute, links resolved. */
const char *folder_path(const struct folder *folder);

/* All pictures. A directory that cannot be read is told to fault() and left out. */
enum status folder_walk(struct folder *folder, struct paths *out,
                        void (*fault)(void *context, const char *path, const char *message),
                        void *context, struct error *err);

/* Waits until something has changed and then a moment for more; at most wait_ms for the first. *out:
 * pictures that were written whole (closed, or moved here) or are gone. *is_lost: changes were missed
 * or whole directories have gone; walk again. */
enum status folder_changes(struct folder *folder, int wait_ms, struct paths *out, bool *is_lost,
                           struct error *err);

#endif
