/*
 * graph_file.c: a graph in a file beside the database, so that it need not be built again.
 *
 *   header | keys [n] int64 | links [n][48] u32 | for nodes with upper levels: row, n_levels, links
 *
 * in this machine's byte order. A file is believed only as a whole (its checksum is of everything
 * behind the header), and its links only after each was checked; what the database no longer has is
 * seen by the keys.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "core/base/size.h"
#include "core/index/graph_internal.h"

struct header {
    char magic[8];
    uint32_t form, dim, n, entry, n_upper, crc;
};

static const char magic[8] = "vlmdHNS1";

/* ---- writing ------------------------------------------------------------------------------------
 */

struct writer {
    FILE *file;
    uLong crc;
    bool failed;
};

static void put(struct writer *writer, const void *data, size_t size)
{
    writer->crc = crc32_z(writer->crc, data, size);
    writer->failed = writer->failed || fwrite(data, 1, size, writer->file) != size;
}

static void put_links(struct writer *writer, const link_t *links, size_t max)
{
    uint32_t rows[LINKS_0];
    for (size_t i = 0; i < max; i++)
        rows[i] = link_read(&links[i]);
    put(writer, rows, max * sizeof *rows);
}

static void put_graph(struct writer *writer, const struct graph *graph, const int64_t *keys,
                      struct header *header)
{
    put(writer, keys, header->n * sizeof *keys);
    for (uint32_t row = 0; row < header->n; row++)
        put_links(writer, graph->chunks[row / CHUNK_NODES]->links[row % CHUNK_NODES], LINKS_0);
    for (uint32_t row = 0; row < header->n; row++) {
        const struct upper *upper = graph_upper(graph, row);
        if (!upper)
            continue;
        put(writer, &row, sizeof row);
        put(writer, &upper->n_levels, sizeof upper->n_levels);
        for (uint32_t l = 0; l < upper->n_levels; l++)
            put_links(writer, upper->links[l], LINKS);
        header->n_upper++;
    }
}

enum status graph_save(const struct graph *graph, const int64_t *keys, const char *path,
                       struct error *err)
{
    char fresh[4096];
    struct header header = {.form = graph->matrix->form,
                            .dim = (uint32_t)graph->matrix->dim,
                            .n = graph_covers(graph),
                            .entry = atomic_load(&graph->entry)};
    memcpy(header.magic, magic, sizeof magic);
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh)
        return error_set(err, STATUS_IO, "the graph's path is too long");
    struct writer writer = {.file = fopen(fresh, "we"), .crc = crc32(0, NULL, 0)};
    if (!writer.file)
        return error_set(err, STATUS_IO, "cannot write %s: %s", fresh, strerror(errno));
    /* The header comes twice: with its checksum when that is known. */
    writer.failed = fwrite(&header, sizeof header, 1, writer.file) != 1;
    put_graph(&writer, graph, keys, &header);
    header.crc = (uint32_t)writer.crc;
    bool failed = writer.failed || fseek(writer.file, 0, SEEK_SET) ||
                  fwrite(&header, sizeof header, 1, writer.file) != 1;
    failed = fclose(writer.file) || failed;
    if (failed || rename(fresh, path)) {
        int code = errno;
        unlink(fresh);
        return error_set(err, code == ENOSPC ? STATUS_NO_SPACE : STATUS_IO, "cannot write %s: %s",
                         path, strerror(code));
    }
    return STATUS_OK;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

struct graph_file {
    const struct header *map;
    size_t bytes;
};

void graph_file_close(struct graph_file *file)
{
    if (!file)
        return;
    munmap((void *)file->map, file->bytes);
    free(file);
}

static const int64_t *keys_of(const struct graph_file *file)
{
    return (const int64_t *)(file->map + 1);
}

static const uint32_t *links_of(const struct graph_file *file)
{
    return (const uint32_t *)(keys_of(file) + file->map->n);
}

static bool is_sound(const struct graph_file *file, const struct matrix *matrix)
{
    const struct header *header = file->map;
    if (file->bytes < sizeof *header || memcmp(header->magic, magic, sizeof magic) ||
        header->form != (uint32_t)matrix->form || header->dim != matrix->dim ||
        header->n > UINT32_MAX / 4 || (header->n && header->entry >= header->n))
        return false;
    size_t fixed =
        sizeof *header + (size_t)header->n * (sizeof(int64_t) + LINKS_0 * sizeof(uint32_t));
    return file->bytes >= fixed && crc32_z(crc32(0, NULL, 0), (const Bytef *)(header + 1),
                                           file->bytes - sizeof *header) == header->crc;
}

struct graph_file *graph_file_open(const char *path, const struct matrix *matrix,
                                   const int64_t **keys, size_t *n, struct error *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) || info.st_size < (off_t)sizeof(struct header)) {
        error_set(err, STATUS_IO, "%s: %s", path, fd < 0 ? strerror(errno) : "too short");
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct graph_file *file = malloc(sizeof *file);
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (!file || map == MAP_FAILED) {
        if (map != MAP_FAILED)
            munmap(map, (size_t)info.st_size);
        free(file);
        error_no_memory(err, "a graph");
        return NULL;
    }
    *file = (struct graph_file){map, (size_t)info.st_size};
    if (!is_sound(file, matrix)) {
        graph_file_close(file);
        error_set(err, STATUS_IO, "%s is damaged", path);
        return NULL;
    }
    *keys = keys_of(file);
    *n = file->map->n;
    return file;
}

/* False where a link leads nowhere. */
static bool copy_links(link_t *to, const uint32_t *from, size_t max, uint32_t n)
{
    bool fine = true;
    for (size_t i = 0; i < max; i++) {
        fine = fine && (from[i] == NO_ROW || from[i] < n);
        atomic_init(&to[i], fine ? from[i] : NO_ROW);
    }
    return fine;
}

static bool copy_upper(struct graph *graph, const struct graph_file *file)
{
    const uint32_t *at = links_of(file) + (size_t)file->map->n * LINKS_0;
    const uint32_t *end = (const uint32_t *)((const char *)file->map + file->bytes / 4 * 4);
    for (uint32_t i = 0; i < file->map->n_upper; i++) {
        if (end - at < 2 || at[0] >= file->map->n || at[1] == 0 || at[1] > LEVELS_MAX ||
            (size_t)(end - at - 2) < at[1] * (size_t)LINKS || graph_upper(graph, at[0]))
            return false;
        struct upper *upper = graph_add_upper(graph, at[0], at[1]);
        if (!upper)
            return false;
        for (uint32_t l = 0; l < at[1]; l++)
            if (!copy_links(upper->links[l], at + 2 + l * LINKS, LINKS, file->map->n))
                return false;
        at += 2 + at[1] * LINKS;
    }
    return true;
}

/* Every link of an upper level must lead to a node that is on it. */
static bool levels_agree(const struct graph *graph, uint32_t n)
{
    for (uint32_t row = 0; row < n; row++) {
        const struct upper *upper = graph_upper(graph, row);
        for (uint32_t l = 0; upper && l < upper->n_levels; l++)
            for (size_t i = 0; i < LINKS; i++) {
                uint32_t other = link_read(&upper->links[l][i]);
                if (other != NO_ROW && graph_level(graph, other) < l + 1)
                    return false;
            }
    }
    return true;
}

struct graph *graph_file_load(struct graph_file *file, const struct matrix *matrix,
                              struct error *err)
{
    uint32_t n = file->map->n;
    struct graph *graph = graph_new(matrix);
    if (!graph || !graph_reserve(graph, n)) {
        graph_free(graph);
        error_no_memory(err, "a graph");
        return NULL;
    }
    const uint32_t *links = links_of(file);
    bool fine = true;
    for (uint32_t row = 0; row < n && fine; row++)
        fine = copy_links(graph->chunks[row / CHUNK_NODES]->links[row % CHUNK_NODES],
                          links + (size_t)row * LINKS_0, LINKS_0, n);
    if (!fine || !copy_upper(graph, file) || !levels_agree(graph, n)) {
        graph_free(graph);
        error_set(err, STATUS_IO, "a graph's file is damaged");
        return NULL;
    }
    atomic_store(&graph->entry, n ? file->map->entry : NO_ROW);
    graph_publish(graph, n);
    return graph;
}
