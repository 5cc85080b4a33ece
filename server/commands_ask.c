/*
 * commands_ask.c: the subcommands that ask the models about pictures, right here: each makes the
 * request that an HTTP client would make and prints the part of the reply that a person wants.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/client.h"
#include "server/commands.h"

/* Opens the process and runs `work` on it. */
static int with_process(struct arguments *arguments,
                        enum status (*work)(struct process *process, struct arguments *arguments,
                                            struct error *err))
{
    struct process process;
    struct error err;
    if (process_open(&process, &arguments->settings, PROCESS_MODELS, &err))
        return command_fail(&err);
    enum status status = work(&process, arguments, &err);
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}

/* One picture as the raw body of a request; list_name/list[0..n) go into the query string, with the
 * options. */
static enum status ask_picture(struct process *process, const struct arguments *arguments,
                               const char *path, const char *picture, const char *list_name,
                               char *const *list, size_t n, json_t **reply, struct error *err)
{
    char *bytes = NULL;
    size_t size = 0;
    struct buffer query;
    buffer_init(&query, 1 << 20);
    enum status status =
        file_read(picture, process->settings.max_body_mb << 20, &bytes, &size, err);
    if (!status) {
        bool ok = query_add_fields(&query, arguments);
        for (size_t i = 0; i < n && ok; i++)
            ok = query_add(&query, list_name, list[i]);
        status = ok ? client_call(process, "POST", path, query.data, "application/octet-stream",
                                  bytes, size, reply, err)
                    : error_set(err, STATUS_TOO_LONG, "the command line is too long");
        if (status)
            error_prefix(err, "%s", picture);
    }
    buffer_release(&query);
    free(bytes);
    return status;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* ---- caption ------------------------------------------------------------------------------------
 */

static enum status caption_work(struct process *process, struct arguments *arguments,
                                struct error *err)
{
    for (size_t i = 0; i < arguments->n_operands; i++) {
        json_t *reply;
        if (ask_picture(process, arguments, "/v1/caption", arguments->operands[i], "", NULL, 0,
                        &reply, err))
            return err->status;
        const json_t *captions = json_object_get(reply, "captions");
        const char *before = arguments->n_operands > 1 ? arguments->operands[i] : "";
        if (arguments->json) {
            print_json(reply);
        } else if (json_array_size(captions) > 1) {
            size_t index;
            const json_t *caption;
            json_array_foreach(captions, index, caption) printf(
                "%s%s%s\n", before, *before ? ": " : "",
                json_is_string(caption) ? json_string_value(caption) : text_of(caption, "caption"));
        } else {
            printf("%s%s%s\n", before, *before ? ": " : "", text_of(reply, "caption"));
        }
        json_decref(reply);
    }
    return STATUS_OK;
}

int command_caption(struct arguments *arguments)
{
    return with_process(arguments, caption_work);
}

/* ---- ask, match, classify
 * ------------------------------------------------------------------------ */

static enum status ask_work(struct process *process, struct arguments *arguments, struct error *err)
{
    json_t *reply;
    if (ask_picture(process, arguments, "/v1/vqa", arguments->operands[0], "question",
                    arguments->operands + 1, 1, &reply, err))
        return err->status;
    if (arguments->json)
        print_json(reply);
    else
        printf("%s\n", text_of(reply, "answer"));
    json_decref(reply);
    return STATUS_OK;
}

int command_ask(struct arguments *arguments)
{
    return with_process(arguments, ask_work);
}

static enum status match_work(struct process *process, struct arguments *arguments,
                              struct error *err)
{
    json_t *reply;
    if (ask_picture(process, arguments, "/v1/match", arguments->operands[0], "texts",
                    arguments->operands + 1, arguments->n_operands - 1, &reply, err))
        return err->status;
    if (arguments->json) {
        print_json(reply);
    } else {
        const json_t *scores = json_object_get(reply, "scores");
        for (size_t i = 0; i < json_array_size(scores); i++)
            printf("%.4f  %s\n", json_number_value(json_array_get(scores, i)),
                   arguments->operands[i + 1]);
    }
    json_decref(reply);
    return STATUS_OK;
}

int command_match(struct arguments *arguments)
{
    return with_process(arguments, match_work);
}

static enum status classify_work(struct process *process, struct arguments *arguments,
                                 struct error *err)
{
    json_t *reply;
    if (ask_picture(process, arguments, "/v1/classify", arguments->operands[0], "labels",
                    arguments->operands + 1, arguments->n_operands - 1, &reply, err))
        return err->status;
    if (arguments->json) {
        print_json(reply);
    } else {
        size_t i;
        const json_t *label;
        json_array_foreach(json_object_get(reply, "labels"), i, label)
            printf("%.4f  %s\n", number_of(label, "score"), text_of(label, "label"));
    }
    json_decref(reply);
    return STATUS_OK;
}

int command_classify(struct arguments *arguments)
{
    return with_process(arguments, classify_work);
}

/* ---- embed
 * ----------------------------------------------------------------------------------------- */

/* A file becomes {"image": base64}, anything else {"text": …}. */
static json_t *embed_input(const char *operand, size_t max_bytes, struct error *err)
{
    if (!is_file(operand))
        return json_pack("{s:s}", "text", operand);
    char *bytes;
    size_t size;
    if (file_read(operand, max_bytes, &bytes, &size, err))
        return NULL;
    char *text = base64_text(bytes, size);
    free(bytes);
    json_t *input = text ? json_pack("{s:s}", "image", text) : NULL;
    free(text);
    if (!input)
        error_no_memory(err, "a picture");
    return input;
}

static enum status embed_work(struct process *process, struct arguments *arguments,
                              struct error *err)
{
    json_t *body = json_pack("{s:[]}", "input"), *reply = NULL;
    json_t *inputs = json_object_get(body, "input");
    object_add_fields(body, arguments);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < arguments->n_operands && !status; i++) {
        json_t *input =
            embed_input(arguments->operands[i], process->settings.max_body_mb << 20, err);
        if (!input)
            status = err->status;
        else
            json_array_append_new(inputs, input);
    }
    if (!status)
        status = client_call_json(process, "POST", "/v1/embeddings", body, &reply, err);
    if (!status && arguments->json)
        print_json(reply);
    size_t i;
    const json_t *item;
    if (!status && !arguments->json) {
        json_array_foreach(json_object_get(reply, "data"), i, item)
        {
            const json_t *vector = json_object_get(item, "embedding");
            if (!vector) {
                status = error_set(err, STATUS_UNPROCESSABLE, "%s: %s", arguments->operands[i],
                                   text_of(json_object_get(item, "error"), "message"));
                break;
            }
            json_dumpf(vector, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
            putchar('\n');
        }
    }
    json_decref(reply);
    json_decref(body);
    return status;
}

int command_embed(struct arguments *arguments)
{
    return with_process(arguments, embed_work);
}
