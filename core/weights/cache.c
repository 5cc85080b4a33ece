/*
 * cache.c: see cache.h.
 *
 *   open ──the file is good──→ READING ──a weight is missing or damaged──→ STALE
 *     └──else──→ WRITING ──finish(loaded)──→ READING
 *
 * 1. READING, STALE: `base` maps `size` bytes of a finished file; entries[] is inside it and
 * checked.
 * 2. WRITING: `base` maps room for the largest file there could be; the file behind it reaches to
 *    `used` or further, and nothing past its end is touched (that would be SIGBUS): each room is
 *    allocated on the disk before it is handed out.
 * 3. A STALE file is removed by finish(), and made anew at the next start.
 */
#include "core/weights/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/nn/packed.h"

enum { ENTRIES_MAX = 1 << 16, ALIGNMENT = 64, SUM_CHUNK = 1 << 18 };
static const char magic[8] = "vlmdpack";

struct header {
    char magic[8];
    uint32_t version, form;
    uint64_t identity; /* of the checkpoint's files */
    uint64_t n_entries, index_at, file_bytes;
    uint64_t index_sum, header_sum; /* of what stands before it */
    char zero[64];
};

struct entry {
    uint64_t source, at, bytes, sum, n_out, n_in;
    uint64_t form;
};

enum cache_state { CACHE_READING, CACHE_STALE, CACHE_WRITING };

struct weight_cache {
    enum cache_state state;
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    struct pool *pool;
    int fd; /* WRITING; holds the lock of the temporary file */
    unsigned char *base;
    size_t size;          /* of the map */
    size_t used;          /* WRITING: where the next weight goes */
    struct header header; /* READING: as found; WRITING: as it will be */
    struct entry *entries;
    size_t n_entries;
    size_t next; /* weights are asked for in the order in which they were added */
};

/* ---- sums --------------------------------------------------------------------------------------
 */

/* Two running sums a lane, so that the order counts: enough to find damage, at the speed of memory.
 */
static uint64_t sum_of(const void *from, size_t bytes)
{
    uint64_t first[4] = {1, 2, 3, 4}, second[4] = {0}, words[4];
    const unsigned char *at = from;
    for (; bytes >= sizeof words; bytes -= sizeof words, at += sizeof words) {
        memcpy(words, at, sizeof words);
        for (int i = 0; i < 4; i++) {
            first[i] += words[i];
            second[i] += first[i];
        }
    }
    memset(words, 0, sizeof words);
    memcpy(words, at, bytes);
    uint64_t sum = bytes;
    for (int i = 0; i < 4; i++) {
        first[i] += words[i];
        sum = (sum ^ first[i]) * 0x9E3779B97F4A7C15u;
        sum = (sum ^ (second[i] + first[i])) * 0x9E3779B97F4A7C15u;
    }
    return sum ^ sum >> 29;
}

struct sum_job {
    const unsigned char *from;
    size_t bytes;
    uint64_t *sums; /* of each chunk */
};

static void sum_chunk(void *context, size_t i)
{
    struct sum_job *job = context;
    size_t at = i * SUM_CHUNK, left = job->bytes - at;
    job->sums[i] = sum_of(job->from + at, left < SUM_CHUNK ? left : SUM_CHUNK);
}

/* 0 also where there was no memory to compute it. */
static uint64_t sum_of_weight(struct pool *pool, const void *from, size_t bytes)
{
    size_t n = (bytes + SUM_CHUNK - 1) / SUM_CHUNK;
    struct sum_job job = {from, bytes, alloc_array(n, sizeof *job.sums)};
    if (!job.sums)
        return 0;
    if (pool)
        pool_run(pool, n, sum_chunk, &job);
    else
        for (size_t i = 0; i < n; i++)
            sum_chunk(&job, i);
    uint64_t sum = sum_of(job.sums, n * sizeof *job.sums);
    free(job.sums);
    return sum;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static bool make_folders(char *path)
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        bool fine = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!fine)
            return false;
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* folder/<the directory's name>-<hash of its path>-<form>.pack */
static bool name_file(struct weight_cache *cache, const char *folder, const char *directory,
                      enum weight_form form)
{
    char path[PATH_MAX];
    if (!realpath(directory, path))
        return false;
    uint64_t hash = sum_of(path, strlen(path));
    const char *slash = strrchr(path, '/');
    int n = snprintf(cache->path, sizeof cache->path, "%s/%.64s-%016llx-%s.pack", folder,
                     slash ? slash + 1 : path, (unsigned long long)hash, weight_form_name(form));
    if (n < 0 || (size_t)n >= sizeof cache->path)
        return false;
    snprintf(cache->temporary, sizeof cache->temporary, "%s.new", cache->path);
    return true;
}

/* Whether a mapped file is whole and for this checkpoint: everything but the weights themselves. */
static bool check_file(struct weight_cache *cache)
{
    const struct header *want = &cache->header;
    struct header found;
    if (cache->size < sizeof found)
        return false;
    memcpy(&found, cache->base, sizeof found);
    size_t index_bytes;
    if (memcmp(found.magic, magic, sizeof magic) || found.version != want->version ||
        found.form != want->form || found.identity != want->identity ||
        found.header_sum != sum_of(&found, offsetof(struct header, header_sum)) ||
        found.file_bytes != cache->size || found.n_entries > ENTRIES_MAX ||
        found.index_at > cache->size || found.index_at % ALIGNMENT ||
        !size_mul(found.n_entries, sizeof(struct entry), &index_bytes) ||
        index_bytes != cache->size - found.index_at ||
        found.index_sum != sum_of(cache->base + found.index_at, index_bytes))
        return false;
    cache->entries = (struct entry *)(void *)(cache->base + found.index_at);
    cache->n_entries = found.n_entries;
    for (size_t i = 0; i < cache->n_entries; i++) {
        const struct entry *entry = &cache->entries[i];
        if (entry->at % ALIGNMENT || entry->at > found.index_at ||
            entry->bytes > found.index_at - entry->at || entry->form >= N_WEIGHT_FORMS ||
            entry->bytes == 0 ||
            entry->bytes !=
                linear_packed_bytes((enum weight_form)entry->form, entry->n_out, entry->n_in))
            return false;
    }
    return true;
}

static bool open_finished(struct weight_cache *cache)
{
    int fd = open(cache->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct stat info;
    if (fd < 0)
        return false;
    /* what others put there is not trusted */
    bool fine = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
                (info.st_uid == geteuid() || info.st_uid == 0);
    void *base = fine ? mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (base == MAP_FAILED)
        return false;
    cache->base = base;
    cache->size = (size_t)info.st_size;
    madvise(base, cache->size, MADV_WILLNEED);
    if (check_file(cache)) {
        cache->state = CACHE_READING;
        return true;
    }
    munmap(cache->base, cache->size);
    cache->base = NULL;
    cache->entries = NULL;
    return false;
}

/* The temporary file, locked, so that two processes do not write into one. */
static bool open_new(struct weight_cache *cache, const struct tensor_set *tensors)
{
    struct stat ours, named;
    size_t n = tensor_set_count(tensors), most;
    /* no form takes more than bf16 for f32's half, plus what each weight is filled up with */
    if (!size_mul(n, 256 * 1024, &most) || !size_add(most, 4 * tensor_set_bytes(tensors), &most))
        return false;
    cache->fd = open(cache->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (cache->fd < 0)
        return false;
    /* the name may have been moved away by who held the lock before */
    if (flock(cache->fd, LOCK_EX | LOCK_NB) || fstat(cache->fd, &ours) ||
        stat(cache->temporary, &named) || ours.st_ino != named.st_ino ||
        ours.st_dev != named.st_dev || ftruncate(cache->fd, 0))
        return false;
    void *base = mmap(NULL, most, PROT_READ | PROT_WRITE, MAP_SHARED, cache->fd, 0);
    cache->entries = alloc_array(ENTRIES_MAX, sizeof *cache->entries); /* touched as it fills */
    if (base == MAP_FAILED || !cache->entries) {
        if (base != MAP_FAILED)
            munmap(base, most);
        unlink(cache->temporary);
        return false;
    }
    cache->base = base;
    cache->size = most;
    cache->used = sizeof cache->header;
    cache->state = CACHE_WRITING;
    return true;
}

struct weight_cache *weight_cache_open(const char *folder, const char *directory,
                                       const struct tensor_set *tensors, enum weight_form form,
                                       struct pool *pool)
{
    char folders[PATH_MAX];
    struct weight_cache *cache = calloc(1, sizeof *cache);
    if (!cache || strlen(folder) >= sizeof folders)
        goto none;
    cache->fd = -1;
    cache->pool = pool;
    cache->header = (struct header){
        .version = PACK_VERSION, .form = form, .identity = tensor_set_identity(tensors)};
    memcpy(cache->header.magic, magic, sizeof magic);
    snprintf(folders, sizeof folders, "%s", folder);
    if (!name_file(cache, folder, directory, form))
        goto none;
    if (open_finished(cache))
        return cache;
    if (make_folders(folders) && open_new(cache, tensors))
        return cache;
    if (cache->fd >= 0)
        close(cache->fd);
    free(cache->entries);
none:
    free(cache);
    return NULL;
}

void weight_cache_close(struct weight_cache *cache)
{
    if (!cache)
        return;
    if (cache->state == CACHE_WRITING) {
        unlink(cache->temporary);
        free(cache->entries);
    }
    if (cache->fd >= 0)
        close(cache->fd);
    munmap(cache->base, cache->size);
    free(cache);
}

/* ---- weights ----------------------------------------------------------------------------------
 */

const void *weight_cache_find(struct weight_cache *cache, uint64_t source, size_t n_out,
                              size_t n_in, enum weight_form *form)
{
    if (!cache || cache->state == CACHE_WRITING)
        return NULL;
    const struct entry *entry =
        cache->next < cache->n_entries ? &cache->entries[cache->next] : NULL;
    if (!entry || entry->source != source || entry->n_out != n_out || entry->n_in != n_in ||
        entry->sum != sum_of_weight(cache->pool, cache->base + entry->at, entry->bytes)) {
        cache->state = CACHE_STALE;
        return NULL;
    }
    cache->next++;
    *form = (enum weight_form)entry->form;
    return cache->base + entry->at;
}

void *weight_cache_reserve(struct weight_cache *cache, size_t bytes)
{
    if (!cache || cache->state != CACHE_WRITING || cache->n_entries == ENTRIES_MAX ||
        bytes > cache->size - cache->used ||
        posix_fallocate(cache->fd, (off_t)cache->used, (off_t)bytes))
        return NULL;
    return cache->base + cache->used;
}

void weight_cache_add(struct weight_cache *cache, uint64_t source, size_t n_out, size_t n_in,
                      enum weight_form form)
{
    size_t bytes = linear_packed_bytes(form, n_out, n_in);
    cache->entries[cache->n_entries++] =
        (struct entry){.source = source,
                       .at = cache->used,
                       .bytes = bytes,
                       .sum = sum_of_weight(cache->pool, cache->base + cache->used, bytes),
                       .n_out = n_out,
                       .n_in = n_in,
                       .form = form};
    cache->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Header and index, through the file: the last of its bytes are past what the map was allowed. */
static bool write_index(struct weight_cache *cache)
{
    struct header *header = &cache->header;
    size_t bytes = cache->n_entries * sizeof *cache->entries;
    header->n_entries = cache->n_entries;
    header->index_at = cache->used;
    header->file_bytes = cache->used + bytes;
    header->index_sum = sum_of(cache->entries, bytes);
    header->header_sum = sum_of(header, offsetof(struct header, header_sum));
    return ftruncate(cache->fd, (off_t)cache->used) == 0 &&
           pwrite(cache->fd, cache->entries, bytes, (off_t)cache->used) == (ssize_t)bytes &&
           pwrite(cache->fd, header, sizeof *header, 0) == (ssize_t)sizeof *header;
}

void weight_cache_finish(struct weight_cache *cache, bool loaded)
{
    if (!cache)
        return;
    if (cache->state == CACHE_READING && loaded && cache->next != cache->n_entries)
        cache->state = CACHE_STALE;
    if (cache->state == CACHE_STALE)
        unlink(cache->path);
    if (cache->state != CACHE_WRITING)
        return;
    if (!loaded || !cache->n_entries || !write_index(cache) ||
        rename(cache->temporary, cache->path) != 0)
        unlink(cache->temporary);
    mprotect(cache->base, cache->size, PROT_READ);
    free(cache->entries);
    cache->entries = NULL;
    cache->n_entries = cache->next = 0;
    cache->state = CACHE_READING;
    close(cache->fd); /* and with it the lock */
    cache->fd = -1;
}

void weight_cache_page_out(const struct weight_cache *cache)
{
    if (cache)
        madvise(cache->base, cache->size, MADV_DONTNEED);
}
