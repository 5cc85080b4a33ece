/*
 * download.c: see download.h.
 */
#include "server/download.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"

enum { ATTEMPTS = 5, CONNECT_TIMEOUT_S = 20, STALL_S = 30, REDIRECTS_MAX = 8 };

/* curl.h checks the types of options by macros around these names. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

struct downloader {
    void *library;
    CURL *curl;
    const char *token;
    char fault[CURL_ERROR_SIZE];
    __typeof__(curl_easy_init) *init;
    __typeof__(curl_easy_cleanup) *cleanup;
    __typeof__(curl_easy_reset) *reset;
    __typeof__(curl_easy_setopt) *setopt;
    __typeof__(curl_easy_perform) *perform;
    __typeof__(curl_easy_getinfo) *getinfo;
    __typeof__(curl_easy_strerror) *strerror;
};

static bool find_functions(struct downloader *d)
{
    const struct {
        void *slot;
        const char *name;
    } wanted[] = {
        {&d->init, "curl_easy_init"},         {&d->cleanup, "curl_easy_cleanup"},
        {&d->reset, "curl_easy_reset"},       {&d->setopt, "curl_easy_setopt"},
        {&d->perform, "curl_easy_perform"},   {&d->getinfo, "curl_easy_getinfo"},
        {&d->strerror, "curl_easy_strerror"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wanted); i++) {
        void *found = dlsym(d->library, wanted[i].name);
        if (!found)
            return false;
        memcpy(wanted[i].slot, &found, sizeof found);
    }
    return true;
}

struct downloader *downloader_new(const char *token, struct error *err)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
    struct downloader *d = calloc(1, sizeof *d);
    if (!d) {
        error_no_memory(err, "downloading");
        return NULL;
    }
    d->token = token;
    for (size_t i = 0; i < ARRAY_LENGTH(names) && !d->library; i++)
        d->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (d->library && find_functions(d))
        d->curl = d->init();
    if (!d->curl) {
        error_set(err, STATUS_UNAVAILABLE,
                  "downloading needs libcurl, which is not installed (Debian: libcurl4)");
        downloader_free(d);
        return NULL;
    }
    return d;
}

void downloader_free(struct downloader *d)
{
    if (!d)
        return;
    if (d->curl)
        d->cleanup(d->curl);
    if (d->library)
        dlclose(d->library);
    free(d);
}

/* What every request has in common. */
static void prepare(struct downloader *d, const char *url)
{
    /* A server that is asked by HTTPS may not send us on to plain HTTP. */
    const char *redirects = strncmp(url, "https:", 6) ? "http,https" : "https";
    d->reset(d->curl);
    d->fault[0] = '\0';
    d->setopt(d->curl, CURLOPT_URL, url);
    d->setopt(d->curl, CURLOPT_ERRORBUFFER, d->fault);
    d->setopt(d->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    d->setopt(d->curl, CURLOPT_REDIR_PROTOCOLS_STR, redirects);
    d->setopt(d->curl, CURLOPT_FOLLOWLOCATION, 1L);
    d->setopt(d->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    d->setopt(d->curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
    d->setopt(d->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    d->setopt(d->curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    d->setopt(d->curl, CURLOPT_NOSIGNAL, 1L);
    d->setopt(d->curl, CURLOPT_USERAGENT, "vlmd/" VLMD_VERSION);
    if (d->token && d->token[0]) {
        /* Bound to the first host by libcurl, unlike a header. */
        d->setopt(d->curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        d->setopt(d->curl, CURLOPT_XOAUTH2_BEARER, d->token);
    }
}

static long response_code(struct downloader *d)
{
    long code = 0;
    d->getinfo(d->curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
}

static enum status refused(const char *url, long code, struct error *err)
{
    if (code == 401 || code == 403)
        return error_set(
            err, STATUS_UNAUTHORIZED,
            "%.300s: not allowed (status %ld); it does not exist, or a token with access "
            "to it is needed in HF_TOKEN",
            url, code);
    return error_set(err, code == 404 ? STATUS_NOT_FOUND : STATUS_IO,
                     "%.300s: the server answered with status %ld", url, code);
}

/* ---- texts --------------------------------------------------------------------------------------
 */

static size_t take_text(char *data, size_t one, size_t n, void *context)
{
    (void)one;
    return buffer_append(context, data, n) ? n : 0;
}

enum status download_text(struct downloader *d, const char *url, struct buffer *out,
                          struct error *err)
{
    prepare(d, url);
    d->setopt(d->curl, CURLOPT_WRITEFUNCTION, take_text);
    d->setopt(d->curl, CURLOPT_WRITEDATA, out);
    CURLcode rc = d->perform(d->curl);
    if (rc == CURLE_WRITE_ERROR)
        return error_set(err, STATUS_IO, "%.300s: the reply is over %zu bytes", url,
                         out->max_bytes);
    if (rc)
        return error_set(err, STATUS_IO, "%.300s: %s", url,
                         d->fault[0] ? d->fault : d->strerror(rc));
    long code = response_code(d);
    return code == 200 ? STATUS_OK : refused(url, code, err);
}

/* ---- files --------------------------------------------------------------------------------------
 */

struct transfer {
    struct downloader *downloader;
    FILE *file;
    uint64_t done, size;
    int fault; /* errno of writing; 0 = none */
    bool checked, too_long;
    download_progress *progress;
    void *context;
};

static size_t take_bytes(char *data, size_t one, size_t n, void *context)
{
    struct transfer *t = context;
    (void)one;
    if (!t->checked) {
        long code = response_code(t->downloader);
        if (code != 200 && code != 206)
            return n; /* an error's text: dropped */
        /* 200 to a request for a range: the server sends everything. */
        if (code == 200 && t->done) {
            if (fflush(t->file) || ftruncate(fileno(t->file), 0) || fseek(t->file, 0, SEEK_SET)) {
                t->fault = errno;
                return 0;
            }
            t->done = 0;
        }
        t->checked = true;
    }
    if (n > t->size - t->done) {
        t->too_long = true;
        return 0;
    }
    if (fwrite(data, 1, n, t->file) != n) {
        t->fault = errno ? errno : EIO;
        return 0;
    }
    t->done += n;
    t->progress(t->context, t->done, t->size);
    return n;
}

static enum status attempt(struct transfer *t, const char *url, bool *again, struct error *err)
{
    struct downloader *d = t->downloader;
    prepare(d, url);
    t->checked = false;
    d->setopt(d->curl, CURLOPT_WRITEFUNCTION, take_bytes);
    d->setopt(d->curl, CURLOPT_WRITEDATA, t);
    char range[32];
    snprintf(range, sizeof range, "%llu-", (unsigned long long)t->done);
    if (t->done)
        d->setopt(d->curl, CURLOPT_RANGE, range);
    CURLcode rc = d->perform(d->curl);
    long code = response_code(d);
    *again = false;
    if (t->fault)
        return error_set(err, STATUS_IO, "cannot write: %s", strerror(t->fault));
    if (t->too_long)
        return error_set(err, STATUS_IO, "%.300s: more bytes came than the hub said", url);
    if (!rc && (code == 200 || code == 206) && t->done == t->size)
        return STATUS_OK;
    *again = rc || code / 100 == 5 || code == 429 || code == 200 || code == 206;
    if (rc)
        return error_set(err, STATUS_IO, "%.300s: %s", url,
                         d->fault[0] ? d->fault : d->strerror(rc));
    if (code == 200 || code == 206)
        return error_set(err, STATUS_IO, "%.300s: %llu of %llu bytes came", url,
                         (unsigned long long)t->done, (unsigned long long)t->size);
    return refused(url, code, err);
}

enum status download_file(struct downloader *d, const char *url, const char *path, uint64_t size,
                          download_progress *progress, void *context, struct error *err)
{
    FILE *file = fopen(path, "abe");
    if (!file)
        return error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    struct transfer t = {
        .downloader = d, .file = file, .size = size, .progress = progress, .context = context};
    enum status status = STATUS_OK;
    off_t there = fseek(file, 0, SEEK_END) ? -1 : ftello(file);
    if (there < 0 || ((uint64_t)there > size && ftruncate(fileno(file), 0)))
        status = error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    t.done = there > 0 && (uint64_t)there <= size ? (uint64_t)there : 0;
    bool again = true;
    for (int i = 0; !status && t.done < size && again; i++) {
        status = attempt(&t, url, &again, err);
        if (!status || !again || i + 1 == ATTEMPTS)
            break;
        fflush(file);
        nanosleep(&(struct timespec){.tv_nsec = 200000000l << i < 900000000l ? 200000000l << i
                                                                             : 900000000l},
                  NULL);
        status = STATUS_OK;
    }
    if (fclose(file) && !status)
        status = error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    return status;
}
