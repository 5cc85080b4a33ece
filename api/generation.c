/*
 * generation.c: see generation.h. A request's fields change single values of what generate() would
 * use for the checkpoint:
 *   temperature 0 is greedy (or beam search), above 0 samples; top_p, or the sampler's top_k, given
 *   without a temperature samples at the checkpoint's own; num_beams above 1 is beam search, which
 *   does not sample;
 *   in guided models top_k is the number of candidates, and nothing but a temperature samples.
 */
#include "api/generation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/size.h"

const struct field generation_fields[] = {
    {"max_tokens", FIELD_INTEGER, .min = 1, .max = GENERATION_TOKENS_MAX,
     .help = "new tokens at most"},
    {"min_tokens", FIELD_INTEGER, .min = 1, .max = GENERATION_TOKENS_MAX,
     .help = "new tokens at least"},
    {"num_beams", FIELD_INTEGER, .min = 1, .max = GENERATION_BEAMS_MAX,
     .help = "beam search of this width; 1 = none"},
    {"length_penalty", FIELD_NUMBER, .min = -10, .max = 10,
     .help = "beam search: above 0 favours longer texts"},
    {"temperature", FIELD_NUMBER, .min = 0, .max = 10,
     .help = "0 = the likeliest token each time; above 0 samples"},
    {"top_k", FIELD_INTEGER, .min = 0, .max = 1000000,
     .help = "sample among this many likeliest tokens; 0 = all (vqa: how many answers to give; "
             "MaGiC: choose among so many, 1 to 64, 45 by default)"},
    {"top_p", FIELD_NUMBER, .min = 1e-6, .max = 1,
     .help = "sample among the likeliest tokens that together have this probability"},
    {"repetition_penalty", FIELD_NUMBER, .min = 0.01, .max = 100,
     .help = "above 1 makes tokens that were there less likely"},
    {"alpha", FIELD_NUMBER, .min = 0, .max = 1,
     .help =
         "MaGiC: how much a token counts against it that is like what was said; 0.1 by default"},
    {"beta", FIELD_NUMBER, .min = 0, .max = 1000,
     .help = "MaGiC: how much the picture counts; 2 by default, 0 = the language model alone"},
    {"seed", FIELD_INTEGER, .min = 0, .max = 9007199254740991.0,
     .help = "makes sampling repeatable"},
    {"stop", FIELD_STRINGS, .max = STOPS_MAX, .help = "texts before which generation ends"},
    {"n", FIELD_INTEGER, .min = 1, .max = GENERATION_BEAMS_MAX, .help = "how many texts to give"},
    {"stream", FIELD_BOOLEAN,
     .help = "the text as it comes, as server-sent events (beams, n above 1: at once at the end)"},
    {NULL},
};

static enum status read_stops(struct call *call, struct work *work, struct error *err)
{
    const struct form_value *stop = form_value(&call->form, "stop");
    for (size_t i = 0; stop && i < stop->n; i++) {
        struct span text = stop->strings[i];
        if (!text.size || text.size > GENERATION_STOP_BYTES_MAX)
            return error_set_param(err, STATUS_OUT_OF_RANGE, "stop",
                                   "'stop' texts must have 1 to %d bytes",
                                   GENERATION_STOP_BYTES_MAX);
        char *copy = malloc(text.size + 1);
        if (!copy)
            return error_no_memory(err, "stop texts");
        memcpy(copy, text.data, text.size + 1);
        work->stops[work->n_stops++] = copy;
    }
    return STATUS_OK;
}

/* The field that bounds the length: OpenAI's has two names. */
static enum status length_field(const struct form *form, const char **name, struct error *err)
{
    *name = form_has(form, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
    if (form_has(form, "max_completion_tokens") && form_has(form, "max_tokens"))
        return error_set_param(err, STATUS_BAD_REQUEST, *name,
                               "give either 'max_tokens' or 'max_completion_tokens', not both");
    return STATUS_OK;
}

/* alpha, beta and top_k of a guided model; on others the first two are refused. */
static enum status read_guidance(const struct call *call, struct generation_params *params,
                                 struct error *err)
{
    static const char *const names[] = {"alpha", "beta"};
    const struct form *form = &call->form;
    for (size_t i = 0; i < ARRAY_LENGTH(names) && !call->model->traits.is_guided; i++)
        if (form_has(form, names[i]))
            return error_set_param(err, STATUS_UNPROCESSABLE, names[i],
                                   "'%s' is for models that another one guides (MaGiC); '%s' (%s) "
                                   "is none",
                                   names[i], call->model->name, call->model->architecture->name);
    if (!call->model->traits.is_guided)
        return STATUS_OK;
    long long k = form_integer(form, "top_k", 1);
    if (k < 1 || k > GENERATION_CANDIDATES_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "top_k",
                               "this model chooses among 'top_k' candidates: 1 to %d, not %lld",
                               GENERATION_CANDIDATES_MAX, k);
    if (form_integer(form, "num_beams", 1) > 1)
        return error_set_param(err, STATUS_UNPROCESSABLE, "num_beams",
                               "this model is guided by a picture token by token, which is no beam "
                               "search: leave 'num_beams' out");
    params->alpha = (float)form_number(form, "alpha", (double)params->alpha);
    params->beta = (float)form_number(form, "beta", (double)params->beta);
    return STATUS_OK;
}

enum status generation_read(struct call *call, struct work *work, enum generation_style style,
                            struct error *err)
{
    bool top_k_samples = style != GENERATION_TOP_K_ANSWERS;
    const struct form *form = &call->form;
    struct generation_params params = call->model->generation;
    size_t max_tokens = api_options(call->api)->max_tokens;
    if (style == GENERATION_N_SAMPLES && params.unbounded && call->model->chat)
        params.max_new_tokens =
            CHAT_TOKENS_DEFAULT; /* the library's 20 are not what clients expect */

    /* 1. Length. */
    const char *length;
    if (length_field(form, &length, err))
        return err->status;
    if (form_has(form, length)) {
        params.max_new_tokens = (size_t)form_integer(form, length, 0);
        if (max_tokens && params.max_new_tokens > max_tokens)
            return error_set_param(err, STATUS_OUT_OF_RANGE, length,
                                   "'%s' is %zu; this server allows at most %zu", length,
                                   params.max_new_tokens, max_tokens);
    } else if (max_tokens && params.max_new_tokens > max_tokens) {
        params.max_new_tokens = max_tokens;
    }
    if (form_has(form, "min_tokens")) {
        params.min_new_tokens = (size_t)form_integer(form, "min_tokens", 0);
        if (params.max_new_tokens && params.min_new_tokens > params.max_new_tokens)
            return error_set_param(err, STATUS_UNPROCESSABLE, "min_tokens",
                                   "'min_tokens' is above the %zu tokens that are allowed",
                                   params.max_new_tokens);
    }

    /* 2. How tokens are chosen. */
    if (read_guidance(call, &params, err))
        return err->status;
    bool has_temperature = form_has(form, "temperature"), guided = call->model->traits.is_guided;
    bool wants_sampling = has_temperature ? form_number(form, "temperature", 0) > 0
                                          : form_has(form, "top_p") || (top_k_samples && !guided &&
                                                                        form_has(form, "top_k"));
    wants_sampling |= style == GENERATION_N_SAMPLES && !has_temperature &&
                      form_integer(form, "n", 1) > 1 && !form_has(form, "num_beams");
    bool wants_beams = form_has(form, "num_beams") && form_integer(form, "num_beams", 1) > 1;
    if (wants_sampling && wants_beams)
        return error_set_param(err, STATUS_UNPROCESSABLE, "num_beams",
                               "'num_beams' above 1 cannot be combined with sampling "
                               "(temperature, top_p, top_k)");
    if (form_has(form, "num_beams"))
        params.num_beams = (size_t)form_integer(form, "num_beams", 1);
    if (wants_sampling) {
        params.do_sample = true;
        params.num_beams = 1;
    } else if (has_temperature || wants_beams) {
        params.do_sample = false;
    }
    if (has_temperature && wants_sampling)
        params.temperature = (float)form_number(form, "temperature", 1);
    if (params.temperature <= 0)
        params.temperature = 1;
    if (top_k_samples || wants_sampling)
        params.top_k = (size_t)form_integer(form, "top_k", (long long)params.top_k);
    params.top_p = (float)form_number(form, "top_p", (double)params.top_p);
    params.repetition_penalty =
        (float)form_number(form, "repetition_penalty", (double)params.repetition_penalty);
    params.length_penalty =
        (float)form_number(form, "length_penalty", (double)params.length_penalty);
    if (form_has(form, "seed"))
        params.seed = (uint64_t)form_integer(form, "seed", 0);
    else if (params.do_sample && getrandom(&params.seed, sizeof params.seed, GRND_NONBLOCK) < 0)
        params.seed = clock_ns();

    /* 3. How many. */
    if (form_has(form, "n"))
        params.n = (size_t)form_integer(form, "n", 1);
    if (!params.num_beams)
        params.num_beams = 1;
    if (!params.n)
        params.n = 1;
    bool copies = style == GENERATION_N_SAMPLES && params.num_beams == 1; /* as OpenAI's */
    if (!params.do_sample && params.n > params.num_beams && !copies)
        return error_set_param(err, STATUS_UNPROCESSABLE, "n",
                               "'n' is %zu: several texts need num_beams of at least as many, or a "
                               "temperature above 0",
                               params.n);
    work->generation = params;
    enum status status = read_stops(call, work, err);
    if (!status && form_boolean(form, "stream", false))
        status =
            stream_want(call, params.max_new_tokens ? params.max_new_tokens : GENERATION_TOKENS_MAX,
                        work->n_top, err);
    return status;
}

static size_t trimmed(const char *text, size_t size)
{
    while (size && (text[size - 1] == ' ' || text[size - 1] == '\n' || text[size - 1] == '\t'))
        size--;
    return size;
}

enum status generation_text(struct call *call, const struct work *work, size_t i, struct span *text,
                            float *score, struct error *err)
{
    const struct generated *generated = &work->generated[i];
    struct buffer buffer;
    buffer_init(&buffer, api_options(call->api)->max_reply_bytes);
    enum status status = model_detokenize(call->model, call->job->task, &work->texts[0],
                                          generated->ids, generated->n, &buffer, err);
    size_t size = buffer.size;
    if (size > generated->text_bytes)
        size = trimmed(buffer.data, generated->text_bytes);
    if (!status) {
        text->data = arena_string(&call->arena, buffer.data ? buffer.data : "", size);
        text->size = size;
        *score = expf(generated->score);
        if (!text->data)
            status = error_no_memory(err, "a generated text");
    }
    buffer_release(&buffer);
    return status;
}

void generation_delta(struct call *call, struct json_writer *out, size_t choice, struct span text)
{
    (void)call, (void)choice;
    json_begin_object(out, NULL);
    json_put_text(out, "delta", text.data, text.size);
    json_end_object(out);
}

void generation_put_usage(struct json_writer *out, const struct job *job)
{
    long long prompt = (long long)job->n_prompt_tokens, new = (long long)job->n_generated_tokens;
    json_begin_object(out, "usage");
    json_put_integer(out, "prompt_tokens", prompt);
    json_put_integer(out, "completion_tokens", new);
    json_put_integer(out, "total_tokens", prompt + new);
    json_end_object(out);
}

const char *finish_reason_name(enum finish_reason reason)
{
    return reason == FINISH_LENGTH ? "length" : "stop";
}
