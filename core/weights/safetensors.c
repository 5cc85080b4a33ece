/*
 * safetensors.c: maps the files of a checkpoint and indexes their tensors by name.
 *
 * Data flow: tensor_set_open() finds the file or the shards → map_file() maps one read-only →
 * read_header() turns its JSON header into entries, each checked by itself (dtype, shape, offsets
 * inside the data) → check_overlap() looks at the file's entries together → the set is sorted by
 * name for tensor_set_find().
 *
 * Nothing outside the header is read while opening but the samples of tensor_set_fingerprint(), so
 * the time to open does not depend on the size of the weights. The maps stay until
 * tensor_set_close(); a file that is cut by somebody while it is served cannot be guarded against
 * here (replace checkpoints by renaming, as every downloader does).
 *
 * Limits: SHARDS_MAX files, TENSORS_MAX tensors, HEADER_BYTES_MAX as in the format's own library.
 */
#include "core/weights/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/weights/file_internal.h"

enum { SHARDS_MAX = 1024, TENSORS_MAX = 1 << 20, HEADER_BYTES_MAX = 100000000 };

struct map {
    char *file_name;
    unsigned char *base;
    size_t size;
    uint64_t identity; /* by what the file system tells */
};

struct entry {
    char *name;
    struct tensor_view view;
    size_t begin, end; /* in its file's data */
};

struct tensor_set {
    struct map *maps;
    size_t n_maps;
    struct entry *entries; /* by name */
    size_t n_entries, capacity;
    size_t bytes;
    uint64_t fingerprint;
    atomic_size_t *n_used; /* bytes; NULL = nobody watches */
    const struct weight_plan *plan;
};

/* The dtypes of the format. Those that no model computes with are kept in the set, so that a stray
 * tensor does no harm; binding one fails by name. */
static const struct {
    const char *name;
    size_t bytes;
    enum dtype dtype;
} dtypes[] = {
    {"F32", 4, DTYPE_F32},    {"F16", 2, DTYPE_F16},    {"BF16", 2, DTYPE_BF16},
    {"I64", 8, DTYPE_I64},    {"I32", 4, DTYPE_I32},    {"U8", 1, DTYPE_U8},
    {"BOOL", 1, DTYPE_BOOL},  {"F64", 8, N_DTYPES},     {"I16", 2, N_DTYPES},
    {"I8", 1, N_DTYPES},      {"U16", 2, N_DTYPES},     {"U32", 4, N_DTYPES},
    {"U64", 8, N_DTYPES},     {"F8_E4M3", 1, N_DTYPES}, {"F8_E5M2", 1, N_DTYPES},
    {"F8_E8M0", 1, N_DTYPES},
};

/* ---- one file ---------------------------------------------------------------------------------
 */

static enum status map_file(const char *directory, const char *file_name, struct map *out,
                            struct error *err)
{
    enum status status = STATUS_OK;
    struct map map = {.file_name = strdup(file_name)};
    char *path = path_join(directory, file_name);
    int fd = -1;
    if (!map.file_name || !path) {
        status = error_no_memory(err, "a path");
        goto out;
    }
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
    if (info.st_size < 8) {
        status = error_set(err, STATUS_BAD_CHECKPOINT,
                           "%s: %lld bytes is too short for a safetensors file", path,
                           (long long)info.st_size);
        goto out;
    }
    map.size = (size_t)info.st_size;
    map.identity = ((uint64_t)info.st_ino * 31 + (uint64_t)info.st_size) * 31 +
                   (uint64_t)info.st_mtim.tv_sec * 1000000007 + (uint64_t)info.st_mtim.tv_nsec;
    void *base = mmap(NULL, map.size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        status = error_set(err, STATUS_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        goto out;
    }
    map.base = base;
    madvise(base, map.size, MADV_WILLNEED); /* only a hint: read ahead while the headers parse */
out:
    if (fd >= 0)
        close(fd);
    free(path);
    if (status)
        free(map.file_name);
    else
        *out = map;
    return status;
}

static enum status entry_fault(struct error *err, const struct map *map, const char *name,
                               const char *fault)
{
    return error_set(err, STATUS_BAD_CHECKPOINT, "%s: tensor '%s': %s", map->file_name, name,
                     fault);
}

static bool read_size(const json_t *value, size_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

/* Checks one header entry; data [0, n_data) are the bytes that offsets count from. */
static enum status read_entry(const struct map *map, const char *name, const json_t *fields,
                              const unsigned char *data, size_t n_data, struct entry *out,
                              struct error *err)
{
    const char *dtype = json_string_value(json_object_get(fields, "dtype"));
    const json_t *shape = json_object_get(fields, "shape");
    const json_t *offsets = json_object_get(fields, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return entry_fault(err, map, name, "expected dtype, shape and two data_offsets");

    struct tensor_view view = {.n_elements = 1, .dtype = N_DTYPES};
    size_t element_bytes = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(dtypes); i++)
        if (strcmp(dtypes[i].name, dtype) == 0) {
            view.dtype = dtypes[i].dtype;
            view.dtype_name = dtypes[i].name;
            element_bytes = dtypes[i].bytes;
        }
    if (!view.dtype_name)
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s: tensor '%s': unknown dtype '%s'",
                         map->file_name, name, dtype);

    view.n_dims = json_array_size(shape);
    if (view.n_dims > TENSOR_DIMS_MAX)
        return entry_fault(err, map, name, "more than 8 dimensions");
    for (size_t i = 0; i < view.n_dims; i++)
        if (!read_size(json_array_get(shape, i), &view.shape[i]) ||
            !size_mul(view.n_elements, view.shape[i], &view.n_elements))
            return entry_fault(err, map, name, "the shape is not a list of sizes");

    size_t begin, end, bytes;
    if (!read_size(json_array_get(offsets, 0), &begin) ||
        !read_size(json_array_get(offsets, 1), &end) || begin > end)
        return entry_fault(err, map, name, "data_offsets are not a range");
    if (end > n_data)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%s: tensor '%s' ends at byte %zu of %zu: the file is truncated",
                         map->file_name, name, end, n_data);
    if (!size_mul(view.n_elements, element_bytes, &bytes) || bytes != end - begin)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%s: tensor '%s': its shape and dtype %s do not fill its %zu bytes",
                         map->file_name, name, dtype, end - begin);
    view.data = data + begin;
    *out = (struct entry){.view = view, .begin = begin, .end = end};
    return STATUS_OK;
}

static enum status set_add(struct tensor_set *set, const char *name, struct entry entry,
                           struct error *err)
{
    if (set->n_entries == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 256;
        struct entry *grown = realloc_array(set->entries, capacity, sizeof *grown);
        if (!grown)
            return error_no_memory(err, "the list of tensors");
        set->entries = grown;
        set->capacity = capacity;
    }
    entry.name = strdup(name);
    if (!entry.name)
        return error_no_memory(err, "a tensor's name");
    set->entries[set->n_entries++] = entry;
    set->bytes += entry.end - entry.begin;
    return STATUS_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* No two tensors of one file may share bytes; entries[0..n) are that file's. */
static enum status check_overlap(const struct map *map, struct entry *entries, size_t n,
                                 struct error *err)
{
    if (n)
        qsort(entries, n, sizeof *entries, by_offset);
    for (size_t i = 1; i < n; i++)
        if (entries[i].begin < entries[i - 1].end)
            return error_set(err, STATUS_BAD_CHECKPOINT, "%s: tensors '%s' and '%s' overlap",
                             map->file_name, entries[i - 1].name, entries[i].name);
    return STATUS_OK;
}

/* Adds the tensors of a mapped file; with weight_map only those that it assigns to this file. */
static enum status read_header(struct tensor_set *set, const struct map *map,
                               const json_t *weight_map, struct error *err)
{
    uint64_t n_header = 0;
    for (int i = 7; i >= 0; i--)
        n_header = n_header << 8 | map->base[i];
    if (n_header > HEADER_BYTES_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%s: its header claims %llu bytes, more than any safetensors file has",
                         map->file_name, (unsigned long long)n_header);
    if (n_header > map->size - 8)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%s: its header claims %llu bytes, the file has %zu: it is truncated",
                         map->file_name, (unsigned long long)n_header, map->size);
    const unsigned char *data = map->base + 8 + n_header;
    size_t n_data = map->size - 8 - (size_t)n_header;

    json_error_t fault;
    json_t *header =
        json_loadb((const char *)map->base + 8, (size_t)n_header, JSON_REJECT_DUPLICATES, &fault);
    if (!header)
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s: its header is not valid JSON: %s",
                         map->file_name, fault.text);
    enum status status = STATUS_OK;
    size_t first = set->n_entries;
    const char *name;
    json_t *fields;
    if (!json_is_object(header)) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: its header is not a JSON object",
                           map->file_name);
        goto out;
    }
    if (json_object_size(header) > TENSORS_MAX) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: more than %d tensors", map->file_name,
                           TENSORS_MAX);
        goto out;
    }
    json_object_foreach(header, name, fields)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        struct entry entry;
        status = read_entry(map, name, fields, data, n_data, &entry, err);
        if (status)
            goto out;
        if (weight_map) {
            const char *file = json_string_value(json_object_get(weight_map, name));
            if (!file || strcmp(file, map->file_name) != 0)
                continue;
        }
        status = set_add(set, name, entry, err);
        if (status)
            goto out;
    }
    status = check_overlap(map, set->entries + first, set->n_entries - first, err);
out:
    json_decref(header);
    return status;
}

static enum status add_file(struct tensor_set *set, const char *directory, const char *file_name,
                            const json_t *weight_map, struct error *err)
{
    struct map *grown = realloc_array(set->maps, set->n_maps + 1, sizeof *grown);
    if (!grown)
        return error_no_memory(err, "the list of weight files");
    set->maps = grown;
    enum status status = map_file(directory, file_name, &set->maps[set->n_maps], err);
    if (status)
        return status;
    return read_header(set, &set->maps[set->n_maps++], weight_map, err);
}

/* ---- shards -----------------------------------------------------------------------------------
 */

static enum status add_shards(struct tensor_set *set, const char *directory, const char *index_name,
                              struct error *err)
{
    json_t *index = NULL;
    enum status status = json_file_load(directory, index_name, &index, err);
    if (status)
        return status;
    const json_t *weight_map = json_object_get(index, "weight_map");
    const char *tensor;
    json_t *value;
    if (!json_is_object(weight_map)) {
        status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: 'weight_map' is missing", index_name);
        goto out;
    }
    json_object_foreach((json_t *)weight_map, tensor, value)
    {
        const char *file = json_string_value(value);
        if (!file || !file[0] || strchr(file, '/') || file[0] == '.') {
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "%s: tensor '%s' is not assigned to a file of this directory",
                               index_name, tensor);
            goto out;
        }
        bool known = false;
        for (size_t i = 0; i < set->n_maps && !known; i++)
            known = strcmp(set->maps[i].file_name, file) == 0;
        if (known)
            continue;
        if (set->n_maps == SHARDS_MAX) {
            status = error_set(err, STATUS_BAD_CHECKPOINT, "%s: more than %d files", index_name,
                               SHARDS_MAX);
            goto out;
        }
        status = add_file(set, directory, file, weight_map, err);
        if (status)
            goto out;
    }
    if (set->n_entries)
        qsort(set->entries, set->n_entries, sizeof *set->entries, by_name);
    json_object_foreach((json_t *)weight_map, tensor, value)
    {
        if (!tensor_set_find(set, tensor)) {
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "%s assigns tensor '%s' to %s, which does not hold it", index_name,
                               tensor, json_string_value(value));
            goto out;
        }
    }
out:
    json_decref(index);
    return status;
}

/* Says why a directory without safetensors cannot be used. */
static enum status refuse_other_weights(const char *directory, struct error *err)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                          "model.pt",          "model.pth",
                                          "pytorch_model.pt",  "open_clip_pytorch_model.bin"};
    static const char *const others[] = {"tf_model.h5", "flax_model.msgpack", "model.onnx"};
    for (size_t i = 0; i < ARRAY_LENGTH(pickles); i++)
        if (file_exists(directory, pickles[i]))
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "%s has its weights as a pickle (%s), which runs code of its author "
                             "when it is read and is therefore not read; convert it with "
                             "save_pretrained(safe_serialization=True) to model.safetensors",
                             directory, pickles[i]);
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
        if (file_exists(directory, others[i]))
            return error_set(err, STATUS_BAD_CHECKPOINT,
                             "%s has only %s; model.safetensors (or its shards with "
                             "model.safetensors.index.json) is needed",
                             directory, others[i]);
    return error_set(err, STATUS_BAD_CHECKPOINT,
                     "%s has no model.safetensors and no model.safetensors.index.json", directory);
}

/* ---- fingerprint -------------------------------------------------------------------------------
 */

static uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * 0x100000001B3ull; /* FNV-1a */
    return hash;
}

static uint64_t mix_size(uint64_t hash, size_t value)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    return mix_bytes(hash, bytes, sizeof bytes);
}

/* In the order of names, so that it does not depend on how the tensors lie in files; of each
 * tensor's data the first, middle and last SAMPLE bytes. */
static uint64_t compute_fingerprint(const struct tensor_set *set)
{
    enum { SAMPLE = 64 };
    uint64_t hash = 0xCBF29CE484222325ull;
    for (size_t i = 0; i < set->n_entries; i++) {
        const struct entry *entry = &set->entries[i];
        const struct tensor_view *view = &entry->view;
        hash = mix_bytes(hash, entry->name, strlen(entry->name) + 1);
        hash = mix_bytes(hash, view->dtype_name, strlen(view->dtype_name) + 1);
        hash = mix_size(hash, view->n_dims);
        for (size_t d = 0; d < view->n_dims; d++)
            hash = mix_size(hash, view->shape[d]);
        const unsigned char *data = view->data;
        size_t size = entry->end - entry->begin;
        size_t n = size < SAMPLE ? size : SAMPLE;
        hash = mix_bytes(hash, data, n);
        hash = mix_bytes(hash, data + (size - n) / 2, n);
        hash = mix_bytes(hash, data + size - n, n);
    }
    return hash;
}

/* ---- the set ----------------------------------------------------------------------------------
 */

struct tensor_set *tensor_set_open(const char *directory, const char *file_name, struct error *err)
{
    static const char *const whole = "model.safetensors";
    static const char *const index = "model.safetensors.index.json";
    struct tensor_set *set = calloc(1, sizeof *set);
    if (!set) {
        error_no_memory(err, "a tensor set");
        return NULL;
    }
    enum status status;
    if (file_name)
        status = add_file(set, directory, file_name, NULL, err);
    else if (file_exists(directory, whole))
        status = add_file(set, directory, whole, NULL, err);
    else if (file_exists(directory, index))
        status = add_shards(set, directory, index, err);
    else
        status = refuse_other_weights(directory, err);
    if (status) {
        tensor_set_close(set);
        return NULL;
    }
    if (set->n_entries)
        qsort(set->entries, set->n_entries, sizeof *set->entries, by_name);
    set->fingerprint = compute_fingerprint(set);
    return set;
}

void tensor_set_page_out(const struct tensor_set *set)
{
    for (size_t i = 0; i < set->n_maps; i++)
        madvise(set->maps[i].base, set->maps[i].size, MADV_DONTNEED);
}

void tensor_set_close(struct tensor_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n_entries; i++)
        free(set->entries[i].name);
    free(set->entries);
    for (size_t i = 0; i < set->n_maps; i++) {
        munmap(set->maps[i].base, set->maps[i].size);
        free(set->maps[i].file_name);
    }
    free(set->maps);
    free(set);
}

const struct tensor_view *tensor_set_find(const struct tensor_set *set, const char *name)
{
    if (!set->n_entries)
        return NULL;
    struct entry key = {.name = (char *)name};
    const struct entry *found =
        bsearch(&key, set->entries, set->n_entries, sizeof *set->entries, by_name);
    return found ? &found->view : NULL;
}

size_t tensor_set_count(const struct tensor_set *set)
{
    return set->n_entries;
}

const char *tensor_set_at(const struct tensor_set *set, size_t i, const struct tensor_view **view)
{
    if (i >= set->n_entries)
        return NULL;
    if (view)
        *view = &set->entries[i].view;
    return set->entries[i].name;
}

size_t tensor_set_bytes(const struct tensor_set *set)
{
    return set->bytes;
}

void tensor_set_watch(struct tensor_set *set, atomic_size_t *n_bytes)
{
    set->n_used = n_bytes;
}

void tensor_set_note_use(const struct tensor_set *set, const struct tensor_view *view)
{
    if (set->n_used)
        atomic_fetch_add(set->n_used, view->n_elements * dtype_size(view->dtype));
}

uint64_t tensor_set_fingerprint(const struct tensor_set *set)
{
    return set->fingerprint;
}

void tensor_set_plan(struct tensor_set *set, const struct weight_plan *plan)
{
    set->plan = plan;
}

const struct weight_plan *tensor_set_planned(const struct tensor_set *set)
{
    return set->plan;
}

uint64_t tensor_set_identity(const struct tensor_set *set)
{
    uint64_t identity = set->fingerprint;
    for (size_t i = 0; i < set->n_maps; i++)
        identity = (identity ^ set->maps[i].identity) * 0x9E3779B97F4A7C15u;
    return identity;
}
