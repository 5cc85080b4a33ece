/*
 * checkpoint.c: opens a checkpoint directory and reads typed values from its JSON.
 */
#include "core/weights/checkpoint.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/size.h"
#include "core/weights/file_internal.h"

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Reads an optional file: *out stays NULL when it is absent. */
static enum status load_optional(const char *directory, const char *name, json_t **out,
                                 struct error *err)
{
    return file_exists(directory, name) ? json_file_load(directory, name, out, err) : STATUS_OK;
}

/* As the reference orders them: processor_config.json's "image_processor" first. */
static enum status load_preprocessor(const char *directory, json_t **out, struct error *err)
{
    json_t *processor = NULL;
    enum status status = load_optional(directory, "processor_config.json", &processor, err);
    if (status)
        return status;
    json_t *nested = json_object_get(processor, "image_processor");
    if (nested && !json_is_null(nested)) {
        if (json_is_object(nested))
            *out = json_incref(nested);
        else
            status = error_set(err, STATUS_BAD_CHECKPOINT,
                               "processor_config.json: 'image_processor' is not an object");
    } else {
        status = load_optional(directory, "preprocessor_config.json", out, err);
    }
    json_decref(processor);
    return status;
}

static uint64_t mix(uint64_t hash, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001B3ull;
    return hash;
}

static enum status mix_json(uint64_t *hash, const json_t *json, struct error *err)
{
    if (!json)
        return STATUS_OK;
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return error_no_memory(err, "the checkpoint's revision");
    *hash = mix(*hash, text, strlen(text) + 1);
    free(text);
    return STATUS_OK;
}

static enum status compute_revision(struct checkpoint *checkpoint, struct error *err)
{
    uint64_t hash = tensor_set_fingerprint(checkpoint->tensors);
    enum status status = mix_json(&hash, checkpoint->config, err);
    if (!status)
        status = mix_json(&hash, checkpoint->preprocessor, err);
    if (!status)
        snprintf(checkpoint->revision, sizeof checkpoint->revision, "%016llx",
                 (unsigned long long)hash);
    return status;
}

static const char open_clip_config[] = "open_clip_config.json";
static const char open_clip_weights[] = "open_clip_model.safetensors";

bool checkpoint_is_directory(const char *directory)
{
    return file_exists(directory, "config.json") || file_exists(directory, open_clip_config);
}

/* config.json or, by the rule at the head of checkpoint.h, open_clip_config.json. */
static enum status load_config(struct checkpoint *checkpoint, struct error *err)
{
    const char *directory = checkpoint->directory;
    if (!checkpoint_is_directory(directory))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%s has neither config.json nor open_clip_config.json: not a checkpoint "
                         "directory",
                         directory);
    enum status status = load_optional(directory, "config.json", &checkpoint->config, err);
    if (status || !file_exists(directory, open_clip_config))
        return status;
    bool has_weights = file_exists(directory, "model.safetensors") ||
                       file_exists(directory, "model.safetensors.index.json");
    if (checkpoint->config && json_object_get(checkpoint->config, "architectures") && has_weights)
        return STATUS_OK;
    json_decref(checkpoint->config);
    checkpoint->config = NULL;
    checkpoint->is_open_clip = true;
    return json_file_load(directory, open_clip_config, &checkpoint->config, err);
}

static enum status load_files(struct checkpoint *checkpoint, struct error *err)
{
    const char *directory = checkpoint->directory;
    struct stat info;
    if (stat(directory, &info) < 0)
        return error_set(err, STATUS_NOT_FOUND, "%s: %s", directory, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s is not a directory", directory);
    enum status status = load_config(checkpoint, err);
    if (!status)
        status = load_preprocessor(directory, &checkpoint->preprocessor, err);
    if (!status)
        status = load_optional(directory, "generation_config.json", &checkpoint->generation, err);
    if (status)
        return status;
    checkpoint->tensors =
        tensor_set_open(directory, checkpoint->is_open_clip ? open_clip_weights : NULL, err);
    if (!checkpoint->tensors)
        return err->status;
    return compute_revision(checkpoint, err);
}

struct checkpoint *checkpoint_open(const char *directory, struct error *err)
{
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    char *copy = strdup(directory);
    if (!checkpoint || !copy) {
        free(checkpoint);
        free(copy);
        error_no_memory(err, "a checkpoint");
        return NULL;
    }
    checkpoint->directory = copy;
    if (load_files(checkpoint, err)) {
        checkpoint_free(checkpoint);
        return NULL;
    }
    return checkpoint;
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    json_decref(checkpoint->config);
    json_decref(checkpoint->preprocessor);
    json_decref(checkpoint->generation);
    tensor_set_close(checkpoint->tensors);
    free(checkpoint->directory);
    free(checkpoint);
}

const char *checkpoint_architecture(const struct checkpoint *checkpoint, struct error *err)
{
    if (checkpoint->is_open_clip)
        return "OpenCLIP";
    const json_t *list = json_object_get(checkpoint->config, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name)
        error_set(err, STATUS_BAD_CHECKPOINT,
                  "%s/config.json: 'architectures' does not name an architecture",
                  checkpoint->directory);
    return name;
}

bool checkpoint_has_file(const struct checkpoint *checkpoint, const char *name)
{
    return file_exists(checkpoint->directory, name);
}

enum status checkpoint_read_json(const struct checkpoint *checkpoint, const char *name,
                                 json_t **out, struct error *err)
{
    *out = NULL;
    return load_optional(checkpoint->directory, name, out, err);
}

/* ---- typed reads ------------------------------------------------------------------------------
 */

static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static enum status wrong_type(struct error *err, const char *key, const char *expected)
{
    return error_set(err, STATUS_BAD_CHECKPOINT, "config key '%s': expected %s", key, expected);
}

enum status config_size(const json_t *object, const char *key, size_t *out, struct error *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > INT32_MAX)
        return wrong_type(err, key, "a whole number from 1 to 2147483647");
    *out = (size_t)json_integer_value(value);
    return STATUS_OK;
}

enum status config_int(const json_t *object, const char *key, long long *out, struct error *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_integer(value))
        return wrong_type(err, key, "a whole number");
    *out = json_integer_value(value);
    return STATUS_OK;
}

enum status config_float(const json_t *object, const char *key, float *out, struct error *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_number(value) || !isfinite((float)json_number_value(value)))
        return wrong_type(err, key, "a number");
    *out = (float)json_number_value(value);
    return STATUS_OK;
}

enum status config_bool(const json_t *object, const char *key, bool *out, struct error *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_boolean(value))
        return wrong_type(err, key, "true or false");
    *out = json_is_true(value);
    return STATUS_OK;
}

enum status config_string(const json_t *object, const char *key, const char **out,
                          struct error *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return STATUS_OK;
    if (!json_is_string(value))
        return wrong_type(err, key, "a string");
    *out = json_string_value(value);
    return STATUS_OK;
}

enum status config_object(const json_t *object, const char *key, const json_t **out,
                          struct error *err)
{
    const json_t *value = get(object, key);
    if (value && !json_is_object(value))
        return wrong_type(err, key, "an object");
    *out = value; /* reads from NULL give defaults, as from an empty object */
    return STATUS_OK;
}

enum status config_object_or_dict(const json_t *object, const char *key, const json_t **out,
                                  struct error *err)
{
    char dict_key[64];
    snprintf(dict_key, sizeof dict_key, "%s_dict", key);
    return config_object(object, get(object, dict_key) ? dict_key : key, out, err);
}

enum status config_token(const json_t *object, const char *key, int32_t *out, struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        return STATUS_OK;
    if (json_is_array(value))
        value = json_array_get(value, 0);
    if (!value || json_is_null(value)) {
        *out = -1;
        return STATUS_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < -1 ||
        json_integer_value(value) > INT32_MAX)
        return wrong_type(err, key, "a token id");
    *out = (int32_t)json_integer_value(value);
    return STATUS_OK;
}

static enum status read_labels(const json_t *map, const char **labels, size_t n, struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value)
    {
        char *end;
        errno = 0;
        unsigned long long i = strtoull(key, &end, 10);
        if (errno || end == key || *end || key[0] == '-' || i >= n || labels[i] ||
            !json_is_string(value))
            return error_set(
                err, STATUS_BAD_CHECKPOINT,
                "config key 'id2label': '%s' is not a number from 0 to %zu with a name", key,
                n - 1);
        labels[i] = json_string_value(value);
    }
    return STATUS_OK;
}

enum status config_labels(const json_t *object, const char ***labels, size_t *n, struct error *err)
{
    static const char *const usual[] = {"LABEL_0", "LABEL_1"};
    const json_t *map = NULL;
    enum status status = config_object(object, "id2label", &map, err);
    if (status)
        return status;
    size_t count = json_object_size(map);
    bool absent = count == 0;
    if (absent)
        count = ARRAY_LENGTH(usual);
    const char **names = calloc(count, sizeof *names);
    if (!names)
        return error_no_memory(err, "the names of classes");
    if (absent)
        memcpy(names, usual, sizeof usual);
    else
        status = read_labels(map, names, count, err);
    if (status) {
        free(names);
        return status;
    }
    *labels = names;
    *n = count;
    return STATUS_OK;
}

enum status config_activation(const json_t *object, const char *key, enum activation *out,
                              struct error *err)
{
    const char *name = NULL;
    enum status status = config_string(object, key, &name, err);
    if (!status && name && !activation_parse(name, out))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "config key '%s': the activation '%s' is not supported", key, name);
    return status;
}
