/*
 * file_internal.h: reading a checkpoint's small files, with a stated maximum.
 */
#ifndef VLMD_CORE_WEIGHTS_FILE_INTERNAL_H
#define VLMD_CORE_WEIGHTS_FILE_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/error.h"

/* config.json and its like; the shard index of a very large model stays far below this. */
enum { JSON_FILE_BYTES_MAX = 64 << 20 };

/* "directory/name", to be freed; NULL when out of memory. */
char *path_join(const char *directory, const char *name);

/* True when there is a regular file of this name. */
bool file_exists(const char *directory, const char *name);

/* Reads directory/name, which must hold a JSON object, as a new reference in *out.
 * STATUS_BAD_CHECKPOINT names the file, line and fault; STATUS_IO when it cannot be read. */
enum status json_file_load(const char *directory, const char *name, json_t **out,
                           struct error *err);

#endif
