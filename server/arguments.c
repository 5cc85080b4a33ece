/*
 * arguments.c: long options only, `--name value` or `--name=value`; `--` ends them.
 */
#include "server/arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"

/* Options that are settings under a shorter or dashed name. */
static const struct {
    const char *option, *setting;
} shortcuts[] = {
    {"listen", "listen"}, {"model", "model"}, {"models-dir", "models_dir"}, {"store", "store"}};

static const char *shortcut(const char *name, size_t size)
{
    for (size_t i = 0; i < ARRAY_LENGTH(shortcuts); i++)
        if (strlen(shortcuts[i].option) == size && !strncmp(shortcuts[i].option, name, size))
            return shortcuts[i].setting;
    return NULL;
}

static bool is_word(const char *name, size_t size, const char *word)
{
    return strlen(word) == size && !strncmp(name, word, size);
}

static enum status add_field(struct arguments *arguments, const char *name, size_t size,
                             const char *value, struct error *err)
{
    if (arguments->n_fields == FIELDS_MAX || size >= sizeof arguments->fields[0].name)
        return error_set(err, STATUS_BAD_CONFIG, "too many or too long options at --%.*s",
                         (int)size, name);
    char *out = arguments->fields[arguments->n_fields].name;
    for (size_t i = 0; i < size; i++)
        out[i] = name[i] == '-' ? '_' : name[i];
    out[size] = '\0';
    arguments->fields[arguments->n_fields++].value = value;
    return STATUS_OK;
}

/* `--model-name`: which served model answers; `--model NAME=DIR` is the setting. */
static enum status take_option(struct arguments *arguments, const char *name, size_t size,
                               const char *value, bool with_fields, const char **config,
                               struct error *err)
{
    const char *setting = shortcut(name, size);
    if (setting)
        return settings_set(&arguments->settings, setting, value, SOURCE_FLAG, err);
    if (is_word(name, size, "set"))
        return settings_set_pair(&arguments->settings, value, SOURCE_FLAG, err);
    if (is_word(name, size, "config")) {
        *config = value;
        return STATUS_OK;
    }
    if (with_fields && is_word(name, size, "model-name"))
        return add_field(arguments, "model", 5, value, err);
    if (with_fields && is_word(name, size, "draw")) {
        arguments->draw = value;
        return STATUS_OK;
    }
    if (with_fields && is_word(name, size, "html")) {
        arguments->html = value;
        return STATUS_OK;
    }
    if (with_fields)
        return add_field(arguments, name, size, value, err);
    return error_set(err, STATUS_BAD_CONFIG, "there is no option --%.*s", (int)size, name);
}

enum status arguments_parse(struct arguments *arguments, int argc, char **argv, bool with_fields,
                            struct error *err)
{
    *arguments = (struct arguments){.argc = argc, .argv = argv};
    if (settings_init(&arguments->settings, err))
        return err->status;
    arguments->operands = alloc_array((size_t)argc + 1, sizeof *arguments->operands);
    if (!arguments->operands) {
        error_no_memory(err, "the command line");
        goto fail;
    }
    struct {
        const char *word;
        bool *flag;
    } flags[] = {{"json", &arguments->json},     {"help", &arguments->help},
                 {"sample", &arguments->sample}, {"list", &arguments->list},
                 {"once", &arguments->once},     {"watch", &arguments->watch},
                 {"prune", &arguments->prune}};
    const char *config = NULL;
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (options && !strcmp(word, "--")) {
            options = false;
            continue;
        }
        if (options && !strcmp(word, "-h")) {
            arguments->help = true;
            continue;
        }
        if (!options || strncmp(word, "--", 2) != 0) {
            arguments->operands[arguments->n_operands++] = argv[i];
            continue;
        }
        const char *name = word + 2;
        size_t size = strcspn(name, "=");
        bool is_flag = false;
        for (size_t f = 0; f < ARRAY_LENGTH(flags); f++)
            if (!name[size] && is_word(name, size, flags[f].word))
                is_flag = *flags[f].flag = true;
        if (is_flag)
            continue;
        if (!name[size] && i + 1 == argc) {
            error_set(err, STATUS_BAD_CONFIG, "option %s needs a value", word);
            goto fail;
        }
        const char *value = name[size] ? name + size + 1 : argv[++i];
        if (take_option(arguments, name, size, value, with_fields, &config, err))
            goto fail;
    }
    if (settings_read_environment(&arguments->settings, environ, err) ||
        (config && settings_read_file(&arguments->settings, config, err)))
        goto fail;
    return STATUS_OK;
fail:
    arguments_release(arguments);
    return err->status;
}

void arguments_release(struct arguments *arguments)
{
    settings_release(&arguments->settings);
    free(arguments->operands);
    *arguments = (struct arguments){0};
}
