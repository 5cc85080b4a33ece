/*
 * arguments.h: the command line of a subcommand, split into settings, request fields and operands.
 */
#ifndef VLMD_SERVER_ARGUMENTS_H
#define VLMD_SERVER_ARGUMENTS_H

#include "config/settings.h"

enum { OPERANDS_MAX = 4096, FIELDS_MAX = 64 };

struct arguments {
    struct settings settings; /* file, environment and flags applied */
    char **operands;          /* borrowed from argv */
    size_t n_operands;
    /* --some-field VALUE of commands that send a request: its name with underscores, its value */
    struct {
        char name[64];
        const char *value;
    } fields[FIELDS_MAX];
    size_t n_fields;
    const char *draw; /* --draw: the picture to write; NULL = none */
    const char *html; /* --html: search's contact sheet to write; NULL = none */
    bool json;        /* print the whole reply */
    bool help;        /* -h, --help */
    bool sample;      /* config --sample */
    bool list;        /* pull --list */
    bool once;        /* top --once */
    bool watch;       /* index: follow the folder */
    bool prune;       /* index: remove what has vanished from it */
    int argc;         /* what it was read from, to read it again (serve, on SIGHUP) */
    char **argv;
};

/* Reads argv[0..argc) (the words after the subcommand). with_fields: unknown --options are request
 * fields rather than an error. The environment and the --config file are applied too. */
enum status arguments_parse(struct arguments *arguments, int argc, char **argv, bool with_fields,
                            struct error *err);
void arguments_release(struct arguments *arguments);

#endif
