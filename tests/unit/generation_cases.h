/*
 * generation_cases.h: reads tests/data/goldens/generation.json (made by
 * tests/reference/generation_goldens.py) for the tests of sampling, beam search and the runtime.
 */
#ifndef VLMD_TESTS_GENERATION_CASES_H
#define VLMD_TESTS_GENERATION_CASES_H

#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/models/model.h"

static inline json_t *generation_goldens(void)
{
    char path[4096];
    const char *data = getenv("VLMD_TEST_DATA");
    snprintf(path, sizeof path, "%s/goldens/generation.json", data ? data : "tests/data");
    json_error_t fault;
    json_t *golden = json_load_file(path, 0, &fault);
    ck_assert_msg(golden != NULL, "%s: %s", path, fault.text);
    return golden;
}

static inline double case_number(const json_t *settings, const char *key, double otherwise)
{
    const json_t *value = json_object_get(settings, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static inline size_t case_size(const json_t *settings, const char *key, size_t otherwise)
{
    return (size_t)case_number(settings, key, (double)otherwise);
}

/* generate()'s keyword arguments as our parameters. */
static inline struct generation_params case_params(const json_t *settings)
{
    struct generation_params params;
    generation_params_default(&params);
    params.max_length = case_size(settings, "max_length", 0);
    params.max_new_tokens = case_size(settings, "max_new_tokens", 0);
    params.min_length = case_size(settings, "min_length", 0);
    params.min_new_tokens = case_size(settings, "min_new_tokens", 0);
    params.num_beams = case_size(settings, "num_beams", 1);
    params.n = case_size(settings, "num_return_sequences", 1);
    params.temperature = (float)case_number(settings, "temperature", 1);
    params.top_k = case_size(settings, "top_k", 50);
    params.top_p = (float)case_number(settings, "top_p", 1);
    params.repetition_penalty = (float)case_number(settings, "repetition_penalty", 1);
    params.length_penalty = (float)case_number(settings, "length_penalty", 1);
    params.no_repeat_ngram_size = case_size(settings, "no_repeat_ngram_size", 0);
    const json_t *early = json_object_get(settings, "early_stopping");
    params.early_stopping = json_is_string(early) ? 2 : json_is_true(early);
    const json_t *eos = json_object_get(settings, "eos_token_id");
    params.n_eos = json_is_integer(eos);
    params.eos_ids[0] = (int32_t)json_integer_value(eos);
    for (size_t i = 0; i < json_array_size(eos); i++)
        params.eos_ids[params.n_eos++] = (int32_t)json_integer_value(json_array_get(eos, i));
    const json_t *single = json_object_get(settings, "suppress_tokens");
    for (size_t i = 0; i < json_array_size(single); i++)
        generation_ban(&params, (int32_t)json_integer_value(json_array_get(single, i)));
    const json_t *words = json_object_get(settings, "bad_words_ids");
    for (size_t i = 0; i < json_array_size(words); i++)
        generation_ban(&params,
                       (int32_t)json_integer_value(json_array_get(json_array_get(words, i), 0)));
    return params;
}

/* A list of ids into room for `max` of them; returns how many. */
static inline size_t case_ids(const json_t *list, int32_t *ids, size_t max)
{
    size_t n = json_array_size(list);
    ck_assert_uint_le(n, max);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

#endif
