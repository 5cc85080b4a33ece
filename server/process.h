/*
 * process.h: what the process is made of: settings → runtime, store, api. Opened by `serve` and by
 * the subcommands that compute, which differ only in whether a socket is in front.
 */
#ifndef VLMD_SERVER_PROCESS_H
#define VLMD_SERVER_PROCESS_H

#include <limits.h>
#include <stdatomic.h>

#include "api/api.h"
#include "config/settings.h"
#include "server/admission.h"
#include "server/metrics.h"

struct process {
    struct settings settings;
    char cache_folder[PATH_MAX]; /* for converted weights; "" = none */
    struct runtime *runtime;
    struct store *store; /* NULL when a subcommand does not need it */
    struct api *api;
    struct admission admission;
    struct metrics metrics;
    atomic_bool ready;    /* models are loaded */
    atomic_bool draining; /* SIGTERM came */
    uint64_t started_ns;
};

enum process_parts {
    PROCESS_MODELS = 1, /* open the models that the settings name */
    PROCESS_STORE = 2,  /* open the collections */
};

/* Takes the settings (even on failure). The API answers from here on; the models that the settings
 * name are expected (a directory that is not there is refused here) and come with
 * process_load_models(). */
enum status process_open(struct process *process, struct settings *settings, unsigned parts,
                         struct error *err);
/* Opens every model that `model`, `models_dir` or, with neither, `embedded_dir` name, one after
 * another; each answers as soon as it is there. One that `model` names must load: the message names
 * the directory at fault. One that lies in a directory and does not is left out, as long as another
 * one loads; its place (runtime_expected) says why. STATUS_DRAINING when `draining` is set
 * meanwhile. */
struct load_events { /* may be NULL, and so may each */
    void (*loaded)(const struct model *model);
    void (*failed)(const struct error *why);
};
enum status process_load_models(struct process *process, const struct load_events *events,
                                struct error *err);
void process_close(struct process *process);

#endif
