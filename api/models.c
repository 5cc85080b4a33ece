/*
 * models.c: GET /v1/models, GET /v1/models/{model}, /info and /version: what is served, and within
 * which bounds.
 */
#include <stdio.h>
#include <string.h>

#include "api/endpoint.h"
#include "core/base/size.h"
#include "core/weights/binder.h"

static const struct field models_reply[] = {
    {"object", FIELD_STRING, FIELD_REQUIRED, .schema = "'const': 'list'"},
    {"data", FIELD_ANY, FIELD_REQUIRED,
     .schema = "'type': 'array', 'items': {'$ref': '#/components/schemas/Model'}"},
    {NULL},
};

static const struct field model_reply[] = {
    {"id", FIELD_STRING, FIELD_REQUIRED},
    {"object", FIELD_STRING, FIELD_REQUIRED, .schema = "'const': 'model'"},
    {"created", FIELD_INTEGER, FIELD_REQUIRED, .help = "always 0"},
    {"owned_by", FIELD_STRING, FIELD_REQUIRED},
    {"tasks", FIELD_STRINGS, FIELD_REQUIRED, .help = "what it can do"},
    {"architecture", FIELD_STRING, FIELD_REQUIRED, .help = "as in its config.json"},
    {"dtype", FIELD_STRING, FIELD_REQUIRED, .help = "what its layers compute in"},
    {"layers", FIELD_OBJECT, FIELD_REQUIRED, .help = "how many are kept in which dtype",
     .schema = "'type': 'object', 'additionalProperties': {'type': 'integer'}"},
    {"parameters", FIELD_INTEGER, FIELD_REQUIRED},
    {"revision", FIELD_STRING, .help = "a hash of its files"},
    {"dimensions", FIELD_INTEGER, .help = "of its embeddings"},
    {"context_length", FIELD_INTEGER, .help = "tokens that it takes"},
    {"prompt", FIELD_STRING,
     .help = "of a model that converses: what a question about a picture becomes"},
    {NULL},
};

static const struct field info_reply[] = {
    {"name", FIELD_STRING, FIELD_REQUIRED},
    {"engine", FIELD_STRING, FIELD_REQUIRED, .help = "the kernels that run"},
    {"version", FIELD_STRING, FIELD_REQUIRED},
    {"models", FIELD_ANY, FIELD_REQUIRED,
     .schema = "'type': 'array', 'items': {'$ref': '#/components/schemas/Model'}"},
    {"missing_models", FIELD_ANY, FIELD_REQUIRED, .help = "those that are not there (yet)",
     .schema = "'type': 'array', 'items': {'type': 'object', 'properties': {'id': {'type': "
               "'string'}, 'state': {'enum': ['waiting', 'loading', 'failed']}, 'progress': "
               "{'type': 'number'}, 'error': {'type': 'string'}}, 'required': ['id', 'state']}"},
    {"defaults", FIELD_OBJECT, FIELD_REQUIRED, .help = "which model answers, by task",
     .schema = "'type': 'object', 'additionalProperties': {'type': 'string'}"},
    {"limits", FIELD_OBJECT, FIELD_REQUIRED,
     .schema = "'type': 'object', 'additionalProperties': {'type': 'integer'}"},
    {NULL},
};

static const struct field version_reply[] = {
    {"name", FIELD_STRING, FIELD_REQUIRED},
    {"version", FIELD_STRING, FIELD_REQUIRED},
    {"compiler", FIELD_STRING, FIELD_REQUIRED},
    {NULL},
};

/* What the model computes in, and how many of its layers are kept in which form. */
static void put_dtype(struct json_writer *out, const struct model *model)
{
    size_t counts[N_WEIGHT_FORMS];
    json_put_string(out, "dtype", weight_form_name(model->dtype));
    bound_count_forms(model->bound, counts);
    json_begin_object(out, "layers");
    for (enum weight_form form = 0; form < N_WEIGHT_FORMS; form++)
        if (counts[form])
            json_put_integer(out, weight_form_name(form), (long long)counts[form]);
    json_end_object(out);
}

/* A question about one picture through the model's chat template. */
static void put_prompt(struct json_writer *out, const struct model *model)
{
    enum { PROMPT_BYTES_MAX = 1 << 14 };
    static const char question[] = "{question}";
    const struct chat_part parts[] = {{NULL, 0}, {question, sizeof question - 1}};
    const struct chat_message message = {"user", parts, ARRAY_LENGTH(parts)};
    struct buffer text;
    struct error err;
    buffer_init(&text, PROMPT_BYTES_MAX);
    if (model->chat && !chat_template_render(model->chat, &message, 1, &text, &err) && text.data)
        json_put_text(out, "prompt", text.data, text.size);
    buffer_release(&text);
}

static void put_model_members(struct json_writer *out, const struct model *model)
{
    json_put_string(out, "id", model->name);
    json_put_string(out, "object", "model");
    json_put_integer(out, "created", 0);
    json_put_string(out, "owned_by", "vlmd");
    json_begin_list(out, "tasks");
    for (int task = 0; task < N_TASKS; task++)
        if (model_tasks(model) & 1u << task)
            json_put_string(out, NULL, task_name(task));
    json_end_list(out);
    json_put_string(out, "architecture", model->architecture->name);
    put_dtype(out, model);
    json_put_integer(out, "parameters", (long long)model->n_parameters);
    if (model->checkpoint)
        json_put_string(out, "revision", model->checkpoint->revision);
    if (model->traits.embed_dim)
        json_put_integer(out, "dimensions", (long long)model->traits.embed_dim);
    if (model->traits.context_length)
        json_put_integer(out, "context_length", (long long)model->traits.context_length);
    put_prompt(out, model);
}

static void put_models(struct call *call, const char *key)
{
    const struct runtime *runtime = api_runtime(call->api);
    json_begin_list(&call->out, key);
    for (size_t i = 0; runtime && i < runtime_count(runtime); i++) {
        json_begin_object(&call->out, NULL);
        put_model_members(&call->out, lane_model(runtime_at(runtime, i)));
        json_end_object(&call->out);
    }
    json_end_list(&call->out);
}

static enum status list_models(struct call *call, struct error *err)
{
    (void)err;
    json_put_string(&call->out, "object", "list");
    put_models(call, "data");
    return STATUS_OK;
}

static enum status get_model(struct call *call, struct error *err)
{
    const struct runtime *runtime = api_runtime(call->api);
    char names[ERROR_MESSAGE_MAX / 2] = "";
    for (size_t i = 0; runtime && i < runtime_count(runtime); i++) {
        const struct model *model = lane_model(runtime_at(runtime, i));
        if (!strcmp(model->name, call_param(call, 0))) {
            put_model_members(&call->out, model);
            return STATUS_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", model->name);
    }
    return error_set_param(err, STATUS_UNKNOWN_MODEL, "model",
                           "there is no model '%.100s'; there are: %s", call_param(call, 0), names);
}

/* The models that are not there (yet), and how far they are. */
static void put_missing(struct call *call)
{
    static const char *const names[] = {
        [MODEL_WAITING] = "waiting", [MODEL_LOADING] = "loading", [MODEL_FAILED] = "failed"};
    const struct runtime *runtime = api_runtime(call->api);
    const struct expected_model *expected;
    struct json_writer *out = &call->out;
    json_begin_list(out, "missing_models");
    for (size_t i = 0; runtime && (expected = runtime_expected(runtime, i)); i++) {
        int state = atomic_load(&expected->state);
        if (state == MODEL_READY)
            continue;
        json_begin_object(out, NULL);
        json_put_string(out, "id", expected->name);
        json_put_string(out, "state", names[state]);
        json_put_fixed(out, "progress", expected_share(expected), 3);
        if (state == MODEL_FAILED)
            json_put_string(out, "error", expected->why.message);
        json_end_object(out);
    }
    json_end_list(out);
}

static enum status info(struct call *call, struct error *err)
{
    (void)err;
    const struct api_options *options = api_options(call->api);
    struct json_writer *out = &call->out;
    json_put_string(out, "name", "vlmd");
    json_put_string(out, "engine", nn_engine_name());
    json_put_string(out, "version", options->version ? options->version : VLMD_VERSION);
    put_models(call, "models");
    put_missing(call);
    json_begin_object(out, "defaults");
    for (int task = 0; task < N_TASKS; task++) {
        struct error none = {0};
        struct runtime *runtime = api_runtime(call->api);
        struct lane *lane =
            runtime ? runtime_find(runtime, options->default_models[task], task, &none) : NULL;
        if (lane)
            json_put_string(out, task_name(task), lane_model(lane)->name);
    }
    json_end_object(out);
    json_begin_object(out, "limits");
    json_put_integer(out, "max_pixels", (long long)options->max_pixels);
    json_put_integer(out, "max_items", (long long)options->max_items);
    json_put_integer(out, "max_text_bytes", (long long)options->max_text_bytes);
    json_put_integer(out, "max_reply_bytes", (long long)options->max_reply_bytes);
    json_put_integer(out, "max_tokens", (long long)options->max_tokens);
    json_put_integer(out, "request_timeout_s", (long long)options->request_timeout_s);
    json_put_integer(out, "max_json_depth", FORM_JSON_DEPTH_MAX);
    json_put_integer(out, "max_json_values", FORM_JSON_VALUES_MAX);
    json_put_integer(out, "max_parts", FORM_PARTS_MAX);
    json_end_object(out);
    return STATUS_OK;
}

static enum status version(struct call *call, struct error *err)
{
    (void)err;
    const char *text = api_options(call->api)->version;
    json_put_string(&call->out, "name", "vlmd");
    json_put_string(&call->out, "version", text ? text : VLMD_VERSION);
    json_put_string(&call->out, "compiler", __VERSION__);
    return STATUS_OK;
}

const struct endpoint endpoint_models = {
    .method = "GET",
    .path = "/v1/models",
    .id = "listModels",
    .tag = "models",
    .summary = "The models that are served (OpenAI's list)",
    .inline_reply = true,
    .reply = models_reply,
    .begin = list_models,
};

const struct endpoint endpoint_model = {
    .method = "GET",
    .path = "/v1/models/{model}",
    .id = "getModel",
    .tag = "models",
    .summary = "One model",
    .inline_reply = true,
    .reply = model_reply,
    .begin = get_model,
};

const struct endpoint endpoint_info = {
    .method = "GET",
    .path = "/info",
    .id = "info",
    .tag = "process",
    .summary = "Models (those that are loading too), defaults per task and limits",
    .inline_reply = true,
    .reply = info_reply,
    .begin = info,
};

const struct endpoint endpoint_version = {
    .method = "GET",
    .path = "/version",
    .id = "version",
    .tag = "process",
    .summary = "The build",
    .inline_reply = true,
    .is_public = true,
    .reply = version_reply,
    .begin = version,
};
