/*
 * settings.h: every setting of the process, in one table.
 *
 * Adding a setting is one line in SETTINGS: SETTING(type, name, default, help). It is then a field of
 * struct settings, a key of the configuration file (`name = value`), an environment variable
 * (VLMD_NAME) and a `--set name=value`; `vlmd config` prints it and `vlmd config --sample` documents
 * it. A flag beats the environment beats the file beats the default.
 *
 * Types: text (a string, "" = not set), list (strings; a repeated key adds one, `;` separates several in
 * one value; a stronger source replaces the whole list), number (a whole number ≥ 0; K, M, G multiply by
 * 1024), flag (true/false, yes/no, on/off, 1/0).
 */
#ifndef VLMD_CONFIG_SETTINGS_H
#define VLMD_CONFIG_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

/* clang-format off */
#define SETTINGS(SETTING)                                                                          \
    SETTING(text,   listen,             "127.0.0.1:8080", "address:port to serve on; port 0 takes a free one, [::1]:8080 is IPv6, unix:/path a local socket") \
    SETTING(list,   model,              "",     "NAME=DIR (or DIR) of a checkpoint to serve; may be repeated") \
    SETTING(text,   models_dir,         "",     "a directory whose sub-directories are checkpoints to serve") \
    SETTING(text,   embedded_dir,       "",     "where the embedded models are; empty = where they were installed") \
    SETTING(list,   default_model,      "",     "TASK=NAME: which model answers a task when a request names none; may be repeated") \
    SETTING(text,   store,              "",     "where collections are kept: sqlite:PATH, postgresql://USER:PASSWORD@HOST/DATABASE (shared by several servers) or memory:; empty = sqlite:<data home>/vlmd/collections.db") \
    SETTING(number, graph_from,         "100000", "collections of so many items are searched over a graph, not exactly; 0 = never") \
    SETTING(text,   hub_url,            "https://huggingface.co", "where `vlmd pull` finds checkpoints") \
    SETTING(number, threads,            "0",    "threads of forward passes; 0 = the cores (and cgroup quota) there are") \
    SETTING(text,   engine,             "auto", "kernels of forward passes: auto (the best that the chip has), amx, avx512bf16, avx512vnni, avx512, avx2, portable or openblas") \
    SETTING(list,   dtype,              "auto", "what layers compute in: auto (f32; bf16 for 16-bit checkpoints over 1 GiB), f32, bf16, int8 or int4; NAME=DTYPE for one model; may be repeated") \
    SETTING(text,   cache_dir,          "",     "where large models' weights are kept in their dtype for the next start; empty = <cache home>/vlmd, none = nowhere") \
    SETTING(number, workers,            "0",    "threads that decode pictures, tokenise and render replies; 0 = as many as the cores, at least 2") \
    SETTING(number, http_threads,       "1",    "threads that read and write sockets") \
    SETTING(number, max_batch,          "32",   "most items in one forward pass") \
    SETTING(number, batch_wait_us,      "0",    "how long an idle model waits for company before a pass, in microseconds") \
    SETTING(number, max_queue,          "1024", "items that may wait per model; more are refused") \
    SETTING(number, max_sequences,      "64",   "generations under way at once per model, beams counted") \
    SETTING(number, prefill_chunk,      "128",  "tokens of new prompts that run between two tokens of texts being written; 0 = whole prompts") \
    SETTING(number, kv_cache_mb,        "1024",  "memory for the caches of running generations, per model, in MiB") \
    SETTING(number, feature_cache_mb,   "32",   "memory for features of pictures and texts seen before, per model, in MiB; 0 = none") \
    SETTING(number, idle_unload_s,      "0",    "a model unused for so long gives its memory back until it is asked again; 0 = never") \
    SETTING(number, max_connections,    "1024", "open connections; further ones wait to be accepted") \
    SETTING(number, max_connections_per_client, "0", "of one address; more are closed at once; 0 = no bound") \
    SETTING(number, max_inflight,       "512",  "requests under way at once; more are refused") \
    SETTING(number, max_inflight_mb,    "512",  "bytes of request bodies held at once, in MiB; more are refused") \
    SETTING(number, max_body_mb,        "32",   "the longest request body, in MiB") \
    SETTING(number, max_pixels,         "64M",  "the largest picture, in pixels (width × height)") \
    SETTING(number, max_items,          "1024", "pictures, texts or labels in one request") \
    SETTING(number, max_text_bytes,     "64K",  "the longest single text, in bytes") \
    SETTING(number, max_reply_mb,       "64",   "the longest reply, in MiB") \
    SETTING(number, max_tokens,         "0",    "most tokens that one generation may ask for; 0 = what the model allows") \
    SETTING(text,   caption_instruction, "Describe this image.", "what a model that converses is asked for a caption where the request has no prompt") \
    SETTING(number, request_timeout_s,  "60",   "a request not answered by then gets 504; 0 = none") \
    SETTING(number, body_timeout_s,     "30",   "a body not received by then gets 408; also closes idle connections") \
    SETTING(number, drain_s,            "20",   "after SIGTERM, how long requests under way may take to finish") \
    SETTING(number, stall_s,            "60",   "a model with work but no progress for so long makes /readyz fail") \
    SETTING(number, overload_status,    "429",  "status of a refusal for load: 429 or 503") \
    SETTING(list,   api_key,            "",     "NAME:KEY that clients must send (Authorization: Bearer KEY or X-API-Key); may be repeated; none = open") \
    SETTING(number, key_rate_per_minute,"0",    "requests per minute for each key; 0 = no bound") \
    SETTING(list,   cors_allow_origins, "",     "scheme://host:port of a web page elsewhere that may call this server; may be repeated; * = any") \
    SETTING(flag,   gzip,               "on",   "send texts over 1 KB compressed to clients that take gzip or deflate") \
    SETTING(text,   tls_cert,           "",     "PEM file with the certificate (and its chain); with tls_key, HTTPS is served instead of HTTP") \
    SETTING(text,   tls_key,            "",     "PEM file with the certificate's key") \
    SETTING(flag,   trust_forwarded,    "off",  "log the client's address from X-Forwarded-For; only behind a proxy that sets it") \
    SETTING(text,   log_format,         "text", "text or json") \
    SETTING(text,   log_level,          "info", "error, info (a line per request) or debug")
/* clang-format on */

enum setting_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };

enum { SETTING_LIST_MAX = 256, SETTING_VALUE_MAX = 4096, SETTING_FILE_MAX = 1 << 20 };

struct setting_list {
    char **items;
    size_t n;
};


struct settings {
#define SETTING_FIELD(type, name, fallback, help) SETTING_FIELD_##type(name)
#define SETTING_FIELD_text(name) char *name;
#define SETTING_FIELD_list(name) struct setting_list name;
#define SETTING_FIELD_number(name) size_t name;
#define SETTING_FIELD_flag(name) bool name;
    SETTINGS(SETTING_FIELD)
#undef SETTING_FIELD
    struct setting_source_map *sources;
};

/* All defaults. */
enum status settings_init(struct settings *settings, struct error *err);
void settings_release(struct settings *settings);

/* One value. A weaker source does not replace a stronger one (and that is no error). Fails with
 * STATUS_BAD_CONFIG naming the key and what it accepts. */
enum status settings_set(struct settings *settings, const char *name, const char *value,
                         enum setting_source source, struct error *err);
/* "key=value", as --set has it. */
enum status settings_set_pair(struct settings *settings, const char *pair,
                              enum setting_source source, struct error *err);
/* A file of `key = value` lines; `#` opens a comment. Errors name file and line. */
enum status settings_read_file(struct settings *settings, const char *path, struct error *err);
/* Every VLMD_… variable; an unknown one is an error, so that a typo does not pass silently. */
enum status settings_read_environment(struct settings *settings, char *const *environment,
                                      struct error *err);

/* The name of the first setting at or after *i whose value differs, with *i set past it; NULL = none. */
const char *settings_difference(const struct settings *a, const struct settings *b, size_t *i);

/* `name = value   # source`, one line each (the secrets of keys and of the store's URL are hidden). */
bool settings_print(const struct settings *settings, struct buffer *out);
/* The commented sample file, config/vlmd.conf. */
bool settings_print_sample(struct buffer *out);

#endif
