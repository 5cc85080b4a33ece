/*
 * download.h: fetching over HTTP by libcurl, for `vlmd pull`.
 *
 * libcurl is loaded when it is first needed: a server that never pulls neither needs it nor pays
 * for the thirty libraries that it brings. One thread.
 */
#ifndef VLMD_SERVER_DOWNLOAD_H
#define VLMD_SERVER_DOWNLOAD_H

#include <stdint.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

struct downloader;

/* token: sent as `Authorization: Bearer` to the host that is asked, not to those it redirects to;
 * NULL = none. Borrowed. STATUS_UNAVAILABLE where libcurl is not installed. */
struct downloader *downloader_new(const char *token, struct error *err);
void downloader_free(struct downloader *downloader);

/* The body of a GET, up to out->max_bytes. */
enum status download_text(struct downloader *downloader, const char *url, struct buffer *out,
                          struct error *err);

/* done of total bytes are there. */
typedef void download_progress(void *context, uint64_t done, uint64_t total);

/* Appends to the file at `path` until it has `size` bytes: what is there already is not fetched
 * again where the server knows ranges. Lost connections and 5xx are tried again, from where they
 * broke off. */
enum status download_file(struct downloader *downloader, const char *url, const char *path,
                          uint64_t size, download_progress *progress, void *context,
                          struct error *err);

#endif
