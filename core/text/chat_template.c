/*
 * chat_template.c: see chat_template.h.
 */
#include "core/text/chat_template.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/template.h"
#include "core/text/text_internal.h"

struct chat_template {
    struct template *template;
    json_t *variables; /* what every conversation sees: special tokens and so on */
    bool takes_strings, takes_lists, takes_images;
};

/* ---- finding it --------------------------------------------------------------------------------
 */

/* The template in a file's "chat_template": a string, or a list of {name, template}. */
static const json_t *named_default(const json_t *value)
{
    const json_t *each;
    size_t i;
    if (!json_is_array(value))
        return value;
    json_array_foreach(value, i, each)
    {
        const char *name = json_string_value(json_object_get(each, "name"));
        if (name && !strcmp(name, "default"))
            return json_object_get(each, "template");
    }
    return NULL;
}

/* *text is NULL where the file has none. */
static enum status read_from_json(const json_t *json, const char *file, char **text, size_t *size,
                                  struct error *err)
{
    const json_t *value = named_default(json_object_get(json, "chat_template"));
    *text = NULL;
    if (!value || json_is_null(value))
        return STATUS_OK;
    if (!json_is_string(value))
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s: 'chat_template' must be a string", file);
    *size = json_string_length(value);
    *text = malloc(*size + 1);
    if (!*text)
        return error_no_memory(err, file);
    memcpy(*text, json_string_value(value), *size + 1);
    return STATUS_OK;
}

/* The template's text, to be freed, and the file that it is in. */
static enum status read_text(const char *directory, const json_t *tokenizer, char **text,
                             size_t *size, const char **file, struct error *err)
{
    json_t *json = NULL;
    *file = "chat_template.jinja";
    enum status status = text_read_file(directory, *file, text, size, err);
    if (status || *text)
        return status;
    *file = "chat_template.json";
    status = text_read_json(directory, *file, 0, &json, err);
    if (!status && json)
        status = read_from_json(json, *file, text, size, err);
    json_decref(json);
    if (status || *text)
        return status;
    *file = "tokenizer_config.json";
    return read_from_json(tokenizer, *file, text, size, err);
}

static enum status read_variables(const json_t *tokenizer, json_t **out, struct error *err)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    json_t *variables =
        json_pack("{s:b, s:n, s:n}", "add_generation_prompt", 1, "tools", "documents");
    bool fine = variables != NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(names) && fine; i++) {
        json_t *token = json_object_get(tokenizer, names[i]);
        if (json_is_object(token))
            token = json_object_get(token, "content");
        if (json_is_string(token))
            fine = !json_object_set(variables, names[i], token);
    }
    if (!fine) {
        json_decref(variables);
        return error_no_memory(err, "a chat template");
    }
    *out = variables;
    return STATUS_OK;
}

/* ---- what it takes -----------------------------------------------------------------------------
 */

static enum status render(const struct chat_template *chat, json_t *messages, struct buffer *out,
                          struct error *err)
{
    json_t *variables = messages ? json_copy(chat->variables) : NULL;
    if (!variables || json_object_set(variables, "messages", messages)) {
        json_decref(variables);
        return error_no_memory(err, "a conversation");
    }
    enum status status = template_render(chat->template, variables, out, err);
    json_decref(variables);
    return status;
}

/* Whether the words of one message come out as they are, and nothing of its list's shape. */
static bool understands(const struct chat_template *chat, json_t *content, struct buffer *out,
                        struct error *err)
{
    json_t *messages = json_pack("[{s:s, s:o}]", "role", "user", "content", content);
    bool fine = !render(chat, messages, out, err);
    json_decref(messages);
    return fine && out->size && memmem(out->data, out->size, "a word", 6) &&
           !memmem(out->data, out->size, "'type'", 6);
}

/* Tries a message of each form. None understood: what the template said of the first. */
static enum status try_forms(struct chat_template *chat, struct error *err)
{
    enum { PROBE_BYTES_MAX = 1 << 20 };
    struct error fault = {0}, other = {0};
    struct buffer words, list, with_image;
    buffer_init(&words, PROBE_BYTES_MAX);
    buffer_init(&list, PROBE_BYTES_MAX);
    buffer_init(&with_image, PROBE_BYTES_MAX);
    chat->takes_strings = understands(chat, json_string("a word"), &words, &fault);
    chat->takes_lists = understands(
        chat, json_pack("[{s:s, s:s}]", "type", "text", "text", "a word"), &list, &other);
    chat->takes_images = understands(chat,
                                     json_pack("[{s:s}, {s:s, s:s}]", "type", "image", "type",
                                               "text", "text", "a word"),
                                     &with_image, &other) &&
                         chat->takes_lists && with_image.size > list.size;
    buffer_release(&words);
    buffer_release(&list);
    buffer_release(&with_image);
    if (chat->takes_strings || chat->takes_lists)
        return STATUS_OK;
    if (!fault.status)
        fault = other;
    return error_set(err, STATUS_BAD_CHECKPOINT, "%s",
                     fault.status ? fault.message : "it leaves out what the user says");
}

enum status chat_template_open(const char *directory, const char *fallback,
                               struct chat_template **out, struct error *err)
{
    char *text = NULL;
    size_t size = 0;
    const char *file = "";
    json_t *tokenizer = NULL;
    struct chat_template *chat = NULL;
    *out = NULL;
    enum status status = text_read_json(directory, "tokenizer_config.json", 0, &tokenizer, err);
    if (!status)
        status = read_text(directory, tokenizer, &text, &size, &file, err);
    if (!status && !text && fallback) {
        file = "the architecture's own";
        size = strlen(fallback);
        text = strdup(fallback);
        status = text ? STATUS_OK : error_no_memory(err, "a chat template");
    }
    if (status || !text)
        goto out;
    chat = calloc(1, sizeof *chat);
    status = chat ? read_variables(tokenizer, &chat->variables, err)
                  : error_no_memory(err, "a chat template");
    if (status)
        goto out;
    chat->template = template_compile(text, size, err);
    status = chat->template ? try_forms(chat, err) : err->status;
    if (status == STATUS_BAD_CHECKPOINT)
        error_prefix(err, "%s: the chat template cannot be used", file);
    if (!status) {
        *out = chat;
        chat = NULL;
    }
out:
    chat_template_free(chat);
    json_decref(tokenizer);
    free(text);
    return status;
}

void chat_template_free(struct chat_template *chat)
{
    if (!chat)
        return;
    template_free(chat->template);
    json_decref(chat->variables);
    free(chat);
}

bool chat_template_takes_images(const struct chat_template *chat)
{
    return chat->takes_images;
}

/* ---- conversations -----------------------------------------------------------------------------
 */

static json_t *as_string(const struct chat_message *message)
{
    size_t size = 0;
    for (size_t i = 0; i < message->n_parts; i++)
        size += message->parts[i].size + 1;
    char *text = malloc(size + 1);
    size_t at = 0;
    for (size_t i = 0; text && i < message->n_parts; i++) {
        if (i)
            text[at++] = '\n';
        memcpy(text + at, message->parts[i].text, message->parts[i].size);
        at += message->parts[i].size;
    }
    json_t *value = text ? json_stringn(text, at) : NULL;
    free(text);
    return value;
}

static json_t *as_list(const struct chat_message *message)
{
    json_t *list = json_array();
    for (size_t i = 0; i < message->n_parts; i++) {
        const struct chat_part *part = &message->parts[i];
        json_t *value =
            part->text ? json_pack("{s:s, s:s%}", "type", "text", "text", part->text, part->size)
                       : json_pack("{s:s}", "type", "image");
        if (json_array_append_new(list, value)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

enum status chat_template_render(const struct chat_template *chat,
                                 const struct chat_message *messages, size_t n, struct buffer *out,
                                 struct error *err)
{
    json_t *list = json_array();
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && !status; i++) {
        const struct chat_message *message = &messages[i];
        bool has_image = false;
        for (size_t k = 0; k < message->n_parts; k++)
            has_image |= !message->parts[k].text;
        bool is_list =
            has_image || !chat->takes_strings || (message->n_parts > 1 && chat->takes_lists);
        if (has_image && !chat->takes_images) {
            status = error_set(err, STATUS_UNPROCESSABLE,
                               "the model's chat template has no place for pictures");
            break;
        }
        json_t *value = json_pack("{s:s, s:o}", "role", message->role, "content",
                                  is_list ? as_list(message) : as_string(message));
        if (json_array_append_new(list, value))
            status = error_no_memory(err, "a conversation");
    }
    if (!status)
        status = render(chat, list, out, err);
    json_decref(list);
    return status;
}
