/*
 * file.c: small files of a checkpoint. Only regular files are read, so a pipe or a device put in
 * the directory cannot make a load wait.
 */
#include "core/weights/file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"

char *path_join(const char *directory, const char *name)
{
    size_t n_directory = strlen(directory), n_name = strlen(name);
    char *path = alloc_array(n_directory + n_name + 2, 1);
    if (!path)
        return NULL;
    memcpy(path, directory, n_directory);
    path[n_directory] = '/';
    memcpy(path + n_directory + 1, name, n_name + 1);
    return path;
}

bool file_exists(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    struct stat info;
    bool found = path && stat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return found;
}

static enum status read_all(int fd, char *bytes, size_t size, const char *path, struct error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, bytes + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_set(err, STATUS_IO, "%s: %s", path,
                             got < 0 ? strerror(errno)
                                     : "the file became shorter while it was read");
        done += (size_t)got;
    }
    return STATUS_OK;
}

enum status json_file_load(const char *directory, const char *name, json_t **out, struct error *err)
{
    enum status status = STATUS_OK;
    char *bytes = NULL;
    int fd = -1;
    char *path = path_join(directory, name);
    if (!path)
        return error_no_memory(err, "a path");
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) < 0) {
        status = error_set(err, STATUS_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: not a regular file", path);
        goto out;
    }
    if (info.st_size > JSON_FILE_BYTES_MAX) {
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "%s: %lld bytes is more than the %d that a "
                           "JSON file of a checkpoint may have",
                           path, (long long)info.st_size, JSON_FILE_BYTES_MAX);
        goto out;
    }
    size_t size = (size_t)info.st_size;
    bytes = alloc_array(size, 1);
    if (!bytes) {
        status = error_no_memory(err, path);
        goto out;
    }
    status = read_all(fd, bytes, size, path, err);
    if (status)
        goto out;
    json_error_t fault;
    json_t *json = json_loadb(bytes, size, 0, &fault);
    if (!json) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s, line %d: not valid JSON: %s", path,
                           fault.line, fault.text);
        goto out;
    }
    if (!json_is_object(json)) {
        json_decref(json);
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: expected a JSON object", path);
        goto out;
    }
    *out = json;
out:
    if (fd >= 0)
        close(fd);
    free(bytes);
    free(path);
    return status;
}
