/*
 * settings.c: the table of settings.h as data, and the readers that fill it.
 *
 * A value is parsed by its type and stored at its offset; who set it is remembered per setting, so
 * that sources can be read in any order. Called by the main thread before anything is started.
 */
#include "config/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/uri.h"

enum setting_type { TYPE_text, TYPE_list, TYPE_number, TYPE_flag };

struct setting {
    const char *name;
    enum setting_type type;
    const char *fallback;
    const char *help;
    size_t offset;
};

static const struct setting table[] = {
#define SETTING_ROW(type, name, fallback, help)                                                    \
    {#name, TYPE_##type, fallback, help, offsetof(struct settings, name)},
    SETTINGS(SETTING_ROW)
#undef SETTING_ROW
};
enum { N_SETTINGS = ARRAY_LENGTH(table) };

struct setting_source_map {
    enum setting_source of[N_SETTINGS];
};

static const char *const source_names[] = {"default", "file", "environment", "flag"};

static void *field(const struct settings *settings, const struct setting *setting)
{
    return (char *)settings + setting->offset;
}

static const struct setting *setting_find(const char *name)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

static void list_release(struct setting_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct setting_list){0};
}

/* Adds the `;`-separated parts of value to the list. */
static enum status list_add(struct setting_list *list, const char *name, const char *value,
                            struct error *err)
{
    while (*value) {
        size_t size = strcspn(value, ";");
        const char *part = value;
        value += size + (value[size] == ';');
        while (size && isspace((unsigned char)*part)) {
            part++;
            size--;
        }
        while (size && isspace((unsigned char)part[size - 1]))
            size--;
        if (size == 0)
            continue;
        if (list->n == SETTING_LIST_MAX)
            return error_set(err, STATUS_BAD_CONFIG, "%s: more than %d values", name,
                             SETTING_LIST_MAX);
        char **items = realloc_array(list->items, list->n + 1, sizeof *items);
        if (!items)
            return error_no_memory(err, "settings");
        list->items = items;
        items[list->n] = strndup(part, size);
        if (!items[list->n])
            return error_no_memory(err, "settings");
        list->n++;
    }
    return STATUS_OK;
}

static bool parse_number(const char *value, size_t *out)
{
    if (!isdigit((unsigned char)value[0]))
        return false;
    errno = 0;
    char *end;
    unsigned long long number = strtoull(value, &end, 10);
    unsigned shift = 0;
    if (*end == 'K' || *end == 'k')
        shift = 10;
    else if (*end == 'M' || *end == 'm')
        shift = 20;
    else if (*end == 'G' || *end == 'g')
        shift = 30;
    if (errno || end[shift ? 1 : 0] != '\0' || number > (SIZE_MAX >> 1 >> shift))
        return false;
    *out = (size_t)number << shift;
    return true;
}

static bool parse_flag(const char *value, bool *out)
{
    static const struct {
        const char *word;
        bool flag;
    } words[] = {{"true", true},   {"yes", true}, {"on", true},   {"1", true},
                 {"false", false}, {"no", false}, {"off", false}, {"0", false}};
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (strcasecmp(words[i].word, value) == 0) {
            *out = words[i].flag;
            return true;
        }
    return false;
}

enum status settings_set(struct settings *settings, const char *name, const char *value,
                         enum setting_source source, struct error *err)
{
    const struct setting *setting = setting_find(name);
    if (!setting)
        return error_set_param(err, STATUS_BAD_CONFIG, name,
                               "there is no setting '%s'; `vlmd config` prints those there are",
                               name);
    if (strlen(value) >= SETTING_VALUE_MAX)
        return error_set_param(err, STATUS_BAD_CONFIG, name, "%s: longer than %d bytes", name,
                               SETTING_VALUE_MAX - 1);
    enum setting_source *from = &settings->sources->of[setting - table];
    if (source < *from)
        return STATUS_OK;

    void *target = field(settings, setting);
    switch (setting->type) {
    case TYPE_text: {
        char *copy = strdup(value);
        if (!copy)
            return error_no_memory(err, "settings");
        free(*(char **)target);
        *(char **)target = copy;
        break;
    }
    case TYPE_list:
        if (source > *from)
            list_release(target);
        if (list_add(target, name, value, err))
            return err->status;
        break;
    case TYPE_number:
        if (!parse_number(value, target))
            return error_set_param(err, STATUS_BAD_CONFIG, name,
                                   "%s: expected a whole number such as 16 or 64M, found '%s'",
                                   name, value);
        break;
    case TYPE_flag:
        if (!parse_flag(value, target))
            return error_set_param(err, STATUS_BAD_CONFIG, name,
                                   "%s: expected true or false, found '%s'", name, value);
        break;
    }
    *from = source;
    return STATUS_OK;
}

enum status settings_init(struct settings *settings, struct error *err)
{
    *settings = (struct settings){0};
    settings->sources = calloc(1, sizeof *settings->sources);
    if (!settings->sources)
        return error_no_memory(err, "settings");
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (settings_set(settings, table[i].name, table[i].fallback, SOURCE_DEFAULT, err)) {
            settings_release(settings);
            return err->status;
        }
    return STATUS_OK;
}

void settings_release(struct settings *settings)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (table[i].type == TYPE_text)
            free(*(char **)field(settings, &table[i]));
        else if (table[i].type == TYPE_list)
            list_release(field(settings, &table[i]));
    }
    free(settings->sources);
    *settings = (struct settings){0};
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t size = strlen(text);
    while (size && isspace((unsigned char)text[size - 1]))
        text[--size] = '\0';
    return text;
}

enum status settings_set_pair(struct settings *settings, const char *pair,
                              enum setting_source source, struct error *err)
{
    char *copy = strdup(pair);
    if (!copy)
        return error_no_memory(err, "settings");
    char *equals = strchr(copy, '=');
    enum status status;
    if (!equals) {
        status = error_set(err, STATUS_BAD_CONFIG, "expected key=value, found '%s'", pair);
    } else {
        *equals = '\0';
        status = settings_set(settings, trim(copy), trim(equals + 1), source, err);
    }
    free(copy);
    return status;
}

enum status settings_read_file(struct settings *settings, const char *path, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set(err, STATUS_BAD_CONFIG, "cannot read configuration file %s: %s", path,
                         strerror(errno));
    char line[SETTING_VALUE_MAX + 128];
    size_t number = 0;
    enum status status = STATUS_OK;
    while (!status && fgets(line, sizeof line, file)) {
        number++;
        size_t size = strlen(line);
        if (size + 1 == sizeof line && line[size - 1] != '\n') {
            status = error_set(err, STATUS_BAD_CONFIG, "the line is too long");
        } else {
            /* A comment starts a line or follows white space: keys and paths may hold a '#'. */
            for (char *c = line; *c; c++)
                if (*c == '#' && (c == line || isspace((unsigned char)c[-1]))) {
                    *c = '\0';
                    break;
                }
            char *text = trim(line);
            if (*text)
                status = settings_set_pair(settings, text, SOURCE_FILE, err);
        }
        if (status)
            error_prefix(err, "%s:%zu", path, number);
    }
    fclose(file);
    return status;
}

enum status settings_read_environment(struct settings *settings, char *const *environment,
                                      struct error *err)
{
    for (; *environment; environment++) {
        if (strncmp(*environment, "VLMD_", 5) != 0)
            continue;
        const char *equals = strchr(*environment, '=');
        char name[64];
        size_t size = equals ? (size_t)(equals - *environment) - 5 : 0;
        if (size == 0 || size >= sizeof name)
            continue;
        for (size_t i = 0; i < size; i++)
            name[i] = (char)tolower((unsigned char)(*environment)[5 + i]);
        name[size] = '\0';
        if (strncmp(name, "test_", 5) == 0)
            continue; /* the test suite's own variables */
        if (settings_set(settings, name, equals + 1, SOURCE_ENVIRONMENT, err))
            return error_prefix(err, "environment variable VLMD_%.*s", (int)size, *environment + 5);
    }
    return STATUS_OK;
}

static bool print_value(const struct settings *settings, const struct setting *setting,
                        struct buffer *out)
{
    const void *value = field(settings, setting);
    switch (setting->type) {
    case TYPE_text: {
        char shown[SETTING_VALUE_MAX];
        uri_hide_secret(shown, sizeof shown, *(char *const *)value);
        return buffer_puts(out, strcmp(setting->name, "store") ? *(char *const *)value : shown);
    }
    case TYPE_number:
        return buffer_printf(out, "%zu", *(const size_t *)value);
    case TYPE_flag:
        return buffer_puts(out, *(const bool *)value ? "true" : "false");
    case TYPE_list:
        break;
    }
    const struct setting_list *list = value;
    bool secret = strcmp(setting->name, "api_key") == 0;
    for (size_t i = 0; i < list->n; i++) {
        int shown = secret ? (int)strcspn(list->items[i], ":") : (int)strlen(list->items[i]);
        if (!buffer_printf(out, "%s%.*s%s", i ? "; " : "", shown, list->items[i],
                           secret ? ":…" : ""))
            return false;
    }
    return true;
}

static bool same_list(const struct setting_list *a, const struct setting_list *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = strcmp(a->items[i], b->items[i]) == 0;
    return same;
}

static bool same_value(const struct setting *setting, const void *a, const void *b)
{
    switch (setting->type) {
    case TYPE_text:
        return strcmp(*(char *const *)a, *(char *const *)b) == 0;
    case TYPE_list:
        return same_list(a, b);
    case TYPE_number:
        return *(const size_t *)a == *(const size_t *)b;
    default:
        return *(const bool *)a == *(const bool *)b;
    }
}

const char *settings_difference(const struct settings *a, const struct settings *b, size_t *i)
{
    while (*i < N_SETTINGS) {
        const struct setting *setting = &table[(*i)++];
        if (!same_value(setting, field(a, setting), field(b, setting)))
            return setting->name;
    }
    return NULL;
}

bool settings_print(const struct settings *settings, struct buffer *out)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        struct buffer value;
        buffer_init(&value, SETTING_LIST_MAX * SETTING_VALUE_MAX);
        bool ok =
            print_value(settings, &table[i], &value) &&
            buffer_printf(out, "%-20s = %-24s # %s\n", table[i].name, value.data ? value.data : "",
                          source_names[settings->sources->of[i]]);
        buffer_release(&value);
        if (!ok)
            return false;
    }
    return true;
}

bool settings_print_sample(struct buffer *out)
{
    if (!buffer_puts(out,
                     "# vlmd's settings with their defaults; made by `vlmd config --sample`.\n"
                     "# Each is also an environment variable (VLMD_ + the upper-case key) and a "
                     "`--set key=value`.\n"))
        return false;
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (!buffer_printf(out, "\n# %s\n#%s = %s\n", table[i].help, table[i].name,
                           table[i].fallback))
            return false;
    return true;
}
