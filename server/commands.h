/*
 * commands.h: the subcommands. Adding one is one function and one line in main.c's table.
 *
 * A command returns the process's exit status: 0 fine, 1 failure, 2 usage. It prints results on
 * standard output and one `vlmd: …` line on standard error when it fails.
 */
#ifndef VLMD_SERVER_COMMANDS_H
#define VLMD_SERVER_COMMANDS_H

#include "server/arguments.h"

enum { EXIT_FINE = 0, EXIT_FAULT = 1, EXIT_USAGE = 2 };

/* May take arguments->settings (arguments_release() is still called). */
int command_serve(struct arguments *arguments);
int command_caption(struct arguments *arguments);
int command_ask(struct arguments *arguments);
int command_match(struct arguments *arguments);
int command_classify(struct arguments *arguments);
int command_detect(struct arguments *arguments);
int command_segment(struct arguments *arguments);
int command_embed(struct arguments *arguments);
int command_index(struct arguments *arguments);
int command_export(struct arguments *arguments);
int command_import(struct arguments *arguments);
int command_search(struct arguments *arguments);
int command_eval(struct arguments *arguments);
int command_models(struct arguments *arguments);
int command_inspect(struct arguments *arguments);
int command_info(struct arguments *arguments);
int command_config(struct arguments *arguments);
int command_pull(struct arguments *arguments);
int command_top(struct arguments *arguments);
int command_healthcheck(struct arguments *arguments);

/* "vlmd: message" on standard error; returns EXIT_FAULT. */
int command_fail(const struct error *err);
/* The same for a wrong command line, pointing to --help; returns EXIT_USAGE. */
int command_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
