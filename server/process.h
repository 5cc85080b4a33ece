/*
 * process.h: what the process is made of: settings → runtime, store, api. Opened by `serve` and by the
 * subcommands that compute, which differ only in whether a socket is in front.
 */
#ifndef VLMD_SERVER_PROCESS_H
#define VLMD_SERVER_PROCESS_H

#include <stdatomic.h>

#include "api/api.h"
#include "config/settings.h"
#include "server/admission.h"
#include "server/metrics.h"

struct process {
    struct settings settings;
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

/* Takes the settings (even on failure). The API answers from here on, models come with
 * process_load_models(). */
enum status process_open(struct process *process, struct settings *settings, unsigned parts,
                         struct error *err);
/* Opens every model that `model`, `models_dir` or, with neither, `embedded_dir` names. The message names
 * the directory at fault. `loaded` (may be NULL) is called after each. */
enum status process_load_models(struct process *process, void (*loaded)(const struct model *model),
                                struct error *err);
void process_close(struct process *process);

#endif
