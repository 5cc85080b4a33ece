/*
 * generation.c: the generation parameters that the reference's generate() would use for a
 * checkpoint without being told anything: generation_config.json, or, where that file is absent,
 * the keys that old files keep in config.json (and in its decoder's part where unset there), over
 * the library's defaults.
 *
 * A limit needs care: with no max_length anywhere, 20 new tokens are made; a max_length that is set
 * counts the decoder's prompt.
 */
#include <limits.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"

/* What a configuration is looked up in, most important first. */
struct sources {
    const json_t *objects[2];
};

/* The first source that has the key with a value; an empty object's NULL otherwise. */
static const json_t *source_of(const struct sources *sources, const char *key)
{
    for (size_t i = 0; i < ARRAY_LENGTH(sources->objects); i++) {
        const json_t *value = json_object_get(sources->objects[i], key);
        if (value && !json_is_null(value))
            return sources->objects[i];
    }
    return NULL;
}

static enum status read_count(const struct sources *sources, const char *key, size_t *out,
                              struct error *err)
{
    long long value = (long long)*out;
    enum status status = config_int(source_of(sources, key), key, &value, err);
    if (status)
        return status;
    if (value < 0 || value > INT_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT, "generation key '%s': %lld is out of range",
                         key, value);
    *out = (size_t)value;
    return STATUS_OK;
}

static enum status read_float(const struct sources *sources, const char *key, float *out,
                              struct error *err)
{
    return config_float(source_of(sources, key), key, out, err);
}

static enum status read_eos(const struct sources *sources, struct generation_params *out,
                            struct error *err)
{
    const json_t *value = json_object_get(source_of(sources, "eos_token_id"), "eos_token_id");
    size_t n = json_is_array(value) ? json_array_size(value) : value ? 1 : 0;
    if (n > EOS_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "generation key 'eos_token_id': %zu tokens, more than %d", n, EOS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return error_set(
                err, STATUS_BAD_CHECKPOINT,
                "generation key 'eos_token_id': expected a token id or a list of them");
        out->eos_ids[i] = (int32_t)json_integer_value(id);
    }
    out->n_eos = n;
    return STATUS_OK;
}

bool generation_ban(struct generation_params *params, int32_t id)
{
    for (size_t i = 0; i < params->n_banned; i++)
        if (params->banned_ids[i] == id)
            return true;
    if (params->n_banned == BANNED_MAX)
        return false;
    params->banned_ids[params->n_banned++] = id;
    return true;
}

static bool is_eos(const struct generation_params *params, int32_t id)
{
    for (size_t i = 0; i < params->n_eos; i++)
        if (params->eos_ids[i] == id)
            return true;
    return false;
}

/* suppress_tokens: ids; bad_words_ids: lists of them, of which those of one token are heeded. */
static enum status read_banned(const struct sources *sources, struct generation_params *out,
                               struct error *err)
{
    static const char *const keys[] = {"suppress_tokens", "bad_words_ids"};
    for (size_t k = 0; k < ARRAY_LENGTH(keys); k++) {
        const json_t *list = json_object_get(source_of(sources, keys[k]), keys[k]), *each;
        size_t i;
        if (list && !json_is_array(list))
            return error_set(err, STATUS_BAD_CHECKPOINT, "generation key '%s': expected a list",
                             keys[k]);
        json_array_foreach(list, i, each)
        {
            if (k && json_is_array(each) && json_array_size(each) > 1)
                continue;
            const json_t *id = k ? json_array_get(each, 0) : each;
            if (!json_is_integer(id) || json_integer_value(id) < 0 ||
                json_integer_value(id) > INT32_MAX)
                return error_set(err, STATUS_BAD_CHECKPOINT,
                                 "generation key '%s': expected a list of %s", keys[k],
                                 k ? "lists of token ids" : "token ids");
            if (k && is_eos(out, (int32_t)json_integer_value(id))) /* so the library */
                continue;
            if (!generation_ban(out, (int32_t)json_integer_value(id)))
                return error_set(err, STATUS_BAD_CHECKPOINT,
                                 "generation key '%s': more than %d tokens are never to be written",
                                 keys[k], BANNED_MAX);
        }
    }
    return STATUS_OK;
}

static enum status read_early_stopping(const struct sources *sources, int *out, struct error *err)
{
    const json_t *value = json_object_get(source_of(sources, "early_stopping"), "early_stopping");
    if (!value)
        return STATUS_OK;
    if (json_is_boolean(value))
        *out = json_is_true(value);
    else if (json_is_string(value))
        *out = 2; /* the only string that the reference takes is "never" */
    else
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "generation key 'early_stopping': expected true, false or \"never\"");
    return STATUS_OK;
}

void generation_params_default(struct generation_params *out)
{
    *out = (struct generation_params){
        .max_new_tokens = 20,
        .num_beams = 1,
        .n = 1,
        .temperature = 1,
        .top_k = 50,
        .top_p = 1,
        .repetition_penalty = 1,
        .length_penalty = 1,
        .pad_id = -1,
    };
}

/* The decoder's part of config.json, in the reference's order of names. */
static const json_t *decoder_config(const json_t *config)
{
    static const char *const names[] = {"decoder", "generator", "text_config"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const json_t *part = json_object_get(config, names[i]);
        if (json_is_object(part) && json_object_size(part))
            return part;
    }
    return NULL;
}

static struct sources sources_of(const struct checkpoint *checkpoint)
{
    if (checkpoint->generation)
        return (struct sources){{checkpoint->generation, NULL}};
    return (struct sources){{checkpoint->config, decoder_config(checkpoint->config)}};
}

enum status generation_token_load(const struct checkpoint *checkpoint, const char *key,
                                  int32_t *out, struct error *err)
{
    struct sources sources = sources_of(checkpoint);
    return config_token(source_of(&sources, key), key, out, err);
}

enum status generation_params_load(const struct checkpoint *checkpoint,
                                   struct generation_params *out, struct error *err)
{
    struct sources sources = sources_of(checkpoint);
    struct generation_params params;
    generation_params_default(&params);
    size_t max_new_tokens = 0;
    enum status status = STATUS_OK;
    struct {
        const char *key;
        size_t *out;
    } counts[] = {
        {"max_length", &params.max_length},  {"max_new_tokens", &max_new_tokens},
        {"min_length", &params.min_length},  {"min_new_tokens", &params.min_new_tokens},
        {"num_beams", &params.num_beams},    {"top_k", &params.top_k},
        {"num_return_sequences", &params.n}, {"no_repeat_ngram_size", &params.no_repeat_ngram_size},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(counts) && !status; i++)
        status = read_count(&sources, counts[i].key, counts[i].out, err);
    struct {
        const char *key;
        float *out;
    } floats[] = {
        {"temperature", &params.temperature},
        {"top_p", &params.top_p},
        {"repetition_penalty", &params.repetition_penalty},
        {"length_penalty", &params.length_penalty},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(floats) && !status; i++)
        status = read_float(&sources, floats[i].key, floats[i].out, err);
    if (!status)
        status = config_bool(source_of(&sources, "do_sample"), "do_sample", &params.do_sample, err);
    if (!status)
        status = read_early_stopping(&sources, &params.early_stopping, err);
    if (!status)
        status = read_eos(&sources, &params, err);
    if (!status)
        status = read_banned(&sources, &params, err);
    if (!status)
        status =
            config_token(source_of(&sources, "pad_token_id"), "pad_token_id", &params.pad_id, err);
    if (status)
        return status;

    params.unbounded = !max_new_tokens && !params.max_length;
    if (max_new_tokens)
        params.max_new_tokens = max_new_tokens;
    else if (params.max_length)
        params.max_new_tokens = 0;
    if (params.num_beams == 0 || params.n == 0)
        return error_set(
            err, STATUS_BAD_CHECKPOINT,
            "generation keys 'num_beams' and 'num_return_sequences' must be at least 1");
    if (!(params.repetition_penalty > 0) || !(params.temperature >= 0))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "generation keys 'repetition_penalty' and 'temperature' must be positive");
    *out = params;
    return STATUS_OK;
}
