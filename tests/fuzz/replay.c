/*
 * replay.c: runs a fuzz target on the files and directories of files that the command line names;
 * the last line counts them. Where a sanitizer or a signal ends it, the line before says on what.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fuzz.h"

static size_t replay(const char *path)
{
    struct stat info;
    if (stat(path, &info)) {
        perror(path);
        exit(1);
    }
    if (S_ISDIR(info.st_mode)) {
        size_t n = 0;
        DIR *list = opendir(path);
        for (struct dirent *entry; list && (entry = readdir(list));) {
            char name[PATH_MAX];
            snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
            n += entry->d_name[0] != '.' ? replay(name) : 0;
        }
        if (list)
            closedir(list);
        return n;
    }
    size_t size = (size_t)info.st_size;
    uint8_t *data = malloc(size ? size : 1); /* of the exact size: a byte too far is seen */
    FILE *file = fopen(path, "rb");
    if (!data || !file || fread(data, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    size_t n = 0;
    for (int i = 1; i < argc; i++)
        n += replay(argv[i]);
    printf("%zu tests passed\n", n);
    return n ? 0 : 1;
}
