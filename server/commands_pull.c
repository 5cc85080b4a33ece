/*
 * commands_pull.c: `vlmd pull NAME`: a checkpoint from a hub, into a directory that `vlmd serve`
 * takes.
 *
 * The hub's layout is Hugging Face's:
 *   GET <hub>/api/models/<name>/tree/<revision>       [{path, size, lfs: {oid: SHA-256, size}}]
 *   GET <hub>/<name>/resolve/<revision>/<path>        the bytes, often by way of a redirect
 * Only what vlmd reads is fetched: settings, tokenizer and safetensors of the top directory. Each
 * file is written as NAME.part, which a later pull continues, checked, and then given its name.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "server/client.h"
#include "server/commands.h"
#include "server/download.h"
#include "server/sha256.h"

enum {
    LISTING_BYTES_MAX = 32 << 20,
    CONFIG_BYTES_MAX = 1 << 20,
    LIST_BYTES_MAX = 1 << 20,
    URL_MAX = 2048,
    FILES_MAX = 512,
    NAME_MAX_BYTES = 200
};

struct wanted {
    char name[NAME_MAX_BYTES + 1];
    uint64_t size;
    char sha256[65]; /* "" = the hub does not say */
};

struct pull {
    const char *hub, *name, *revision;
    char directory[2048];
    struct downloader *downloader;
    struct wanted files[FILES_MAX];
    size_t n_files;
    uint64_t total, done_before; /* bytes of all files; of those that are finished */
    const char *current;
    uint64_t shown_ns;
    bool terminal;
};

/* ---- what to fetch ------------------------------------------------------------------------------
 */

static bool has_end(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* model-00001-of-00003.safetensors */
static bool is_shard(const char *name)
{
    size_t used = 0;
    return sscanf(name, "model-%*5[0-9]-of-%*5[0-9].safetensors%zn", &used), used == strlen(name);
}

static bool is_setting(const char *name)
{
    static const char *const names[] = {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "open_clip_config.json",
        "merges.txt",
        "chat_template.json",
        "chat_template.jinja",
        "spiece.model",
        "README.md",
        "LICENSE",
        "image_processor_config.json",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

static enum status add_file(struct pull *pull, const json_t *entry, const char *name,
                            struct error *err)
{
    if (pull->n_files == FILES_MAX)
        return error_set(err, STATUS_IO, "%s has over %d files", pull->name, FILES_MAX);
    struct wanted *file = &pull->files[pull->n_files];
    const json_t *lfs = json_object_get(entry, "lfs");
    const json_t *size = json_object_get(lfs ? lfs : entry, "size");
    const char *hash = json_string_value(json_object_get(lfs, "oid"));
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return error_set(err, STATUS_IO, "the hub does not tell the size of %s", name);
    snprintf(file->name, sizeof file->name, "%s", name);
    file->size = (uint64_t)json_integer_value(size);
    /* Git's own ids are no SHA-256 of the bytes. */
    snprintf(file->sha256, sizeof file->sha256, "%s",
             hash && strspn(hash, "0123456789abcdef") == 64 && strlen(hash) == 64 ? hash : "");
    pull->total += file->size;
    pull->n_files++;
    return STATUS_OK;
}

/* …/resolve/<revision>/<file> */
static enum status file_url(const struct pull *pull, const char *file, char url[URL_MAX],
                            struct error *err)
{
    int n =
        snprintf(url, URL_MAX, "%s/%s/resolve/%s/%s", pull->hub, pull->name, pull->revision, file);
    return (size_t)n < URL_MAX ? STATUS_OK
                               : error_set(err, STATUS_BAD_CONFIG, "hub_url is too long");
}

/* Whether config.json is transformers', which names the model's class: timm's, in OpenCLIP's
 * repositories, belongs to weights of the picture tower alone (core/weights/checkpoint.h). */
static enum status read_config(struct pull *pull, bool *names_class, struct error *err)
{
    char url[URL_MAX];
    struct buffer text;
    buffer_init(&text, CONFIG_BYTES_MAX);
    enum status status = file_url(pull, "config.json", url, err);
    if (!status)
        status = download_text(pull->downloader, url, &text, err);
    if (!status) {
        json_t *config = json_loadb(text.data ? text.data : "", text.size, 0, NULL);
        *names_class = json_object_get(config, "architectures") != NULL;
        json_decref(config);
    }
    buffer_release(&text);
    return status;
}

static const char open_clip_weights[] = "open_clip_model.safetensors";

/* One file, else shards and their index, or OpenCLIP's; pickles never. */
static enum status choose_files(struct pull *pull, const json_t *tree, struct error *err)
{
    bool whole = false, index = false, config = false, open_config = false, open = false;
    const char *pickle = NULL;
    size_t i;
    json_t *entry;
    json_array_foreach(tree, i, entry)
    {
        const char *path = json_string_value(json_object_get(entry, "path"));
        if (!path)
            continue;
        whole |= !strcmp(path, "model.safetensors");
        index |= !strcmp(path, "model.safetensors.index.json");
        config |= !strcmp(path, "config.json");
        open_config |= !strcmp(path, "open_clip_config.json");
        open |= !strcmp(path, open_clip_weights);
        if (has_end(path, ".bin") || has_end(path, ".pt") || has_end(path, ".pth") ||
            has_end(path, ".ckpt") || has_end(path, ".pkl"))
            pickle = path;
    }
    open = open && open_config;
    if (open && config && (whole || index)) {
        bool names_class;
        if (read_config(pull, &names_class, err))
            return err->status;
        open = !names_class;
    }
    config |= open_config;
    if (!open && !whole && !index && pickle)
        return error_set(
            err, STATUS_UNPROCESSABLE,
            "%s has its weights only as a Python pickle (%.100s), which can run any code when "
            "it is read; vlmd takes safetensors: look for another revision (--revision "
            "refs/pr/1 …) or convert it",
            pull->name, pickle);
    if ((!open && !whole && !index) || !config)
        return error_set(err, STATUS_UNPROCESSABLE, "%s has no %s", pull->name,
                         config ? "model.safetensors" : "config.json");
    json_array_foreach(tree, i, entry)
    {
        const char *path = json_string_value(json_object_get(entry, "path"));
        const char *type = json_string_value(json_object_get(entry, "type"));
        if (!path || strchr(path, '/') || strlen(path) > NAME_MAX_BYTES ||
            (type && strcmp(type, "file")))
            continue;
        bool weights = open    ? !strcmp(path, open_clip_weights)
                       : whole ? !strcmp(path, "model.safetensors")
                               : is_shard(path) || !strcmp(path, "model.safetensors.index.json");
        if ((weights || is_setting(path)) && add_file(pull, entry, path, err))
            return err->status;
    }
    return STATUS_OK;
}

static enum status list_files(struct pull *pull, struct error *err)
{
    char url[URL_MAX];
    struct buffer text;
    buffer_init(&text, LISTING_BYTES_MAX);
    int n = snprintf(url, sizeof url, "%s/api/models/%s/tree/%s", pull->hub, pull->name,
                     pull->revision);
    enum status status = (size_t)n < sizeof url
                             ? download_text(pull->downloader, url, &text, err)
                             : error_set(err, STATUS_BAD_CONFIG, "hub_url is too long");
    if (!status) {
        json_error_t fault;
        json_t *tree =
            json_loadb(text.data ? text.data : "", text.size, JSON_REJECT_DUPLICATES, &fault);
        status = json_is_array(tree)
                     ? choose_files(pull, tree, err)
                     : error_set(err, STATUS_IO, "%s: that is no list of files", url);
        json_decref(tree);
    }
    buffer_release(&text);
    return status;
}

/* ---- fetching -----------------------------------------------------------------------------------
 */

static void show_progress(void *context, uint64_t done, uint64_t total)
{
    static const char full[] = "##############################";
    struct pull *pull = context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (!pull->terminal || (now_ns - pull->shown_ns < 100000000u && done < total))
        return;
    pull->shown_ns = now_ns;
    double part = pull->total ? (double)(pull->done_before + done) / (double)pull->total : 1;
    int width = (int)sizeof full - 1, filled = (int)(part * width);
    fprintf(stderr, "\r[%.*s%*s] %3d %%  %.1f of %.1f MB  %-40.40s", filled, full, width - filled,
            "", (int)(100 * part), (double)(pull->done_before + done) / 1e6,
            (double)pull->total / 1e6, pull->current);
}

static enum status check_file(const struct wanted *file, const char *path, struct error *err)
{
    if (!file->sha256[0])
        return STATUS_OK;
    FILE *in = fopen(path, "re");
    if (!in)
        return error_set(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
    struct sha256 hash;
    char found[SHA256_TEXT];
    unsigned char piece[65536];
    size_t n;
    sha256_init(&hash);
    while ((n = fread(piece, 1, sizeof piece, in)) > 0)
        sha256_add(&hash, piece, n);
    fclose(in);
    if (sha256_end(&hash, found, err))
        return err->status;
    if (strcmp(found, file->sha256))
        return error_set(
            err, STATUS_IO,
            "%s: its SHA-256 is %s, but the hub says %s; what came was removed: pull again",
            file->name, found, file->sha256);
    return STATUS_OK;
}

static bool is_there(const struct wanted *file, const char *path)
{
    struct stat info;
    struct error ignored;
    return !stat(path, &info) && S_ISREG(info.st_mode) && (uint64_t)info.st_size == file->size &&
           !check_file(file, path, &ignored);
}

static enum status fetch_file(struct pull *pull, const struct wanted *file, struct error *err)
{
    char url[URL_MAX], path[sizeof pull->directory + NAME_MAX_BYTES + 8];
    char part[sizeof path + 8];
    if (file_url(pull, file->name, url, err))
        return err->status;
    snprintf(path, sizeof path, "%s/%s", pull->directory, file->name);
    snprintf(part, sizeof part, "%s.part", path);
    if (is_there(file, path))
        return STATUS_OK;
    pull->current = file->name;
    enum status status =
        download_file(pull->downloader, url, part, file->size, show_progress, pull, err);
    if (!status && check_file(file, part, err)) {
        unlink(part);
        status = err->status;
    }
    if (!status && rename(part, path))
        status = error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    return status;
}

/* ---- the command --------------------------------------------------------------------------------
 */

/* owner/name or name, of letters, digits, dots, dashes and underscores; no part begins with a dot.
 */
static bool is_name(const char *name)
{
    size_t slashes = 0;
    for (const char *at = name; *at; at++) {
        bool starts = at == name || at[-1] == '/';
        slashes += *at == '/';
        if (!(isalnum((unsigned char)*at) || (!starts && strchr("._-/", *at))) || slashes > 1)
            return false;
    }
    return *name && name[strlen(name) - 1] != '/' && strlen(name) <= NAME_MAX_BYTES;
}

static bool is_revision(const char *text)
{
    return *text && strlen(text) <= NAME_MAX_BYTES && !strstr(text, "..") &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") ==
               strlen(text);
}

static int pull_all(struct pull *pull)
{
    struct error err;
    char url_revision[3 * NAME_MAX_BYTES + 1], *out = url_revision;
    for (const char *at = pull->revision; *at; at++) /* refs/pr/1 is one part of the path */
        out += snprintf(out, 4, *at == '/' ? "%%2F" : "%c", *at);
    *out = '\0';
    pull->revision = url_revision;
    if (list_files(pull, &err))
        return command_fail(&err);
    if (mkdir(pull->directory, 0777) && errno != EEXIST) {
        error_set(&err, STATUS_IO, "cannot make %s: %s", pull->directory, strerror(errno));
        return command_fail(&err);
    }
    for (size_t i = 0; i < pull->n_files; i++) {
        enum status status = fetch_file(pull, &pull->files[i], &err);
        if (status) {
            if (pull->terminal)
                fputc('\n', stderr);
            return command_fail(&err);
        }
        pull->done_before += pull->files[i].size;
    }
    if (pull->terminal)
        fputc('\n', stderr);
    const char *slash = strrchr(pull->name, '/');
    printf("%s: %zu files, %.1f MB in %s\nvlmd serve --model %s=%s\n", pull->name, pull->n_files,
           (double)pull->total / 1e6, pull->directory, slash ? slash + 1 : pull->name,
           pull->directory);
    return EXIT_FINE;
}

/* config/models.list without its comments. */
static int print_list(void)
{
    const char *path = access(VLMD_INSTALLED_LIST, F_OK) ? VLMD_SOURCE_LIST : VLMD_INSTALLED_LIST;
    struct error err;
    char *text;
    size_t size;
    if (file_read(path, LIST_BYTES_MAX, &text, &size, &err))
        return command_fail(&err);
    for (char *line = text, *end; *line; line = end) {
        end = strchrnul(line, '\n');
        end += *end == '\n';
        if (*line != '#')
            fwrite(line, 1, (size_t)(end - line), stdout);
    }
    free(text);
    return EXIT_FINE;
}

int command_pull(struct arguments *arguments)
{
    if (arguments->list)
        return print_list();
    if (!arguments->n_operands)
        return command_usage("usage: vlmd pull NAME, or vlmd pull --list");
    const char *name = arguments->operands[0], *slash = strrchr(name, '/'), *to = NULL;
    struct pull *pull = calloc(1, sizeof *pull);
    struct error err;
    int rc = EXIT_USAGE;
    if (!pull) {
        error_no_memory(&err, "the pull");
        return command_fail(&err);
    }
    pull->hub = arguments->settings.hub_url;
    pull->name = name;
    pull->revision = "main";
    pull->terminal = isatty(STDERR_FILENO);
    for (size_t i = 0; i < arguments->n_fields; i++) {
        if (!strcmp(arguments->fields[i].name, "to")) {
            to = arguments->fields[i].value;
        } else if (!strcmp(arguments->fields[i].name, "revision")) {
            pull->revision = arguments->fields[i].value;
        } else {
            rc = command_usage("there is no option --%s", arguments->fields[i].name);
            goto out;
        }
    }
    if (!is_name(name)) {
        rc = command_usage("'%s' is no name such as google/siglip-base-patch16-224", name);
        goto out;
    }
    if (!is_revision(pull->revision)) {
        rc = command_usage("'%s' is no revision", pull->revision);
        goto out;
    }
    int n = to ? snprintf(pull->directory, sizeof pull->directory, "%s", to)
               : snprintf(pull->directory, sizeof pull->directory, "%s", slash ? slash + 1 : name);
    if (n <= 0 || (size_t)n >= sizeof pull->directory) {
        rc = command_usage("--to is too long");
        goto out;
    }
    pull->downloader = downloader_new(getenv("HF_TOKEN"), &err);
    rc = pull->downloader ? pull_all(pull) : command_fail(&err);
out:
    downloader_free(pull->downloader);
    free(pull);
    return rc;
}
