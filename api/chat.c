/*
 * chat.c: POST /v1/chat/completions: OpenAI's protocol over models that caption pictures and answer
 * questions about them.
 *
 * A model that converses (TASK_CHAT) gets all messages, in order and with their pictures in their
 * places, through its own chat template.
 *
 * The rule for the others: the last picture, the last text. The text is that of the last `user`
 * message that has one (its parts joined by newlines), the picture the last one of all user
 * messages (the last few, for models that take several at once). A picture without a text asks for
 * a caption. With a text the model must answer questions (VQA); one that can only caption gets the
 * text as the caption's prompt. System and assistant messages are not used: these models have no
 * memory.
 *
 * What OpenAI's clients send and this server cannot do is refused unless it has the value that
 * changes nothing: a silent difference would be worse.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/generation.h"
#include "core/base/size.h"
#include "core/base/utf8.h"

enum { MESSAGES_MAX = 1024, PARTS_MAX = 1024, PARAM_MAX = 64, ID_MAX = 160 };

static const struct field fields[] = {
    {"messages", FIELD_ANY, FIELD_REQUIRED,
     .help = "[{role, content}]; content is a text or a list of {type: text, text} and {type: "
             "image_url, image_url: {url}}. A model that converses gets them all, earlier turns as "
             "its examples; of others, the last picture and the last text are used"},
    {"model", FIELD_STRING,
     .help = "the model to use; default: the server's for chat, or else for vqa, or for caption "
             "without a text"},
    {"max_completion_tokens", FIELD_INTEGER, .min = 1, .max = GENERATION_TOKENS_MAX,
     .help = "new tokens at most (max_tokens is the same)"},
    {"logprobs", FIELD_BOOLEAN, .help = "log probabilities of the tokens (not with beams)"},
    {"top_logprobs", FIELD_INTEGER, .min = 0, .max = TOP_LOGPROBS_MAX,
     .help = "with logprobs: the likeliest tokens in each place"},
    {"stream_options", FIELD_OBJECT, .help = "{include_usage}: usage in a last chunk"},
    {"frequency_penalty", FIELD_NUMBER, .help = "only 0; see repetition_penalty"},
    {"presence_penalty", FIELD_NUMBER, .help = "only 0; see repetition_penalty"},
    {"logit_bias", FIELD_OBJECT, .help = "only {}"},
    {"response_format", FIELD_OBJECT, .help = "only {type: text}"},
    {"tools", FIELD_ANY, .help = "only []"},
    {"tool_choice", FIELD_ANY, .help = "only none or auto"},
    {"functions", FIELD_ANY, .help = "only []"},
    {"function_call", FIELD_ANY, .help = "only none or auto"},
    {"modalities", FIELD_STRINGS, .help = "only [text]"},
    {"parallel_tool_calls", FIELD_BOOLEAN, FIELD_IGNORED, .help = "accepted and ignored"},
    {"service_tier", FIELD_STRING, FIELD_IGNORED, .help = "accepted and ignored"},
    {"store", FIELD_BOOLEAN, FIELD_IGNORED, .help = "accepted and ignored: nothing is stored"},
    {"metadata", FIELD_OBJECT, FIELD_IGNORED, .help = "accepted and ignored"},
    {"safety_identifier", FIELD_STRING, FIELD_IGNORED, .help = "accepted and ignored"},
    {"prompt_cache_key", FIELD_STRING, FIELD_IGNORED, .help = "accepted and ignored"},
    {NULL},
};

static const struct field reply[] = {
    {"id", FIELD_STRING, FIELD_REQUIRED, .help = "chatcmpl- and the request's id"},
    {"object", FIELD_STRING, FIELD_REQUIRED, .help = "chat.completion"},
    {"created", FIELD_INTEGER, FIELD_REQUIRED, .help = "seconds since 1970"},
    {"choices", FIELD_ANY, FIELD_REQUIRED,
     .help = "[{index, message: {role, content}, logprobs, finish_reason}]",
     .schema = "'type': 'array', 'items': {'type': 'object', "
               "'properties': {'index': {'type': 'integer'}, 'message': {'type': 'object'}, "
               "'logprobs': {'type': ['object', 'null']}, 'finish_reason': {'type': 'string'}}, "
               "'required': ['index', 'message', 'finish_reason']}"},
    {"usage", FIELD_OBJECT, FIELD_REQUIRED,
     .help = "prompt_tokens (of the text), completion_tokens, total_tokens",
     .schema = "'$ref': '#/components/schemas/Usage'"},
    {NULL},
};

struct chat {
    struct chat_message *messages; /* [n_messages] all of them */
    size_t n_messages;
    size_t text_bytes;        /* of all of them */
    struct span text;         /* the last user's; size 0 = none: a caption */
    struct picture *pictures; /* [n_pictures] in order */
    size_t n_pictures;
    char text_param[PARAM_MAX];
    char id[ID_MAX];
    long long created;
    bool include_usage, logprobs;
    size_t n_top;
    /* Of a stream. */
    size_t n_choices_begun;        /* those whose first delta is out */
    size_t n_logged;               /* tokens of the choice whose log-probabilities are out */
    const struct generated *ended; /* the choice whose rest is being sent; NULL: it is written */
};

/* ---- messages -----------------------------------------------------------------------------------
 */

static enum status wrong_kind(const char *param, const char *want, const json_t *found,
                              struct error *err)
{
    return error_set_param(err, STATUS_WRONG_TYPE, param, "'%s' must be %s, not %s", param, want,
                           json_kind(found));
}

static enum status read_picture(const json_t *part, const char *param, struct picture *out,
                                struct error *err)
{
    char name[PARAM_MAX];
    const json_t *image = json_object_get(part, "image_url");
    const json_t *url = json_is_object(image) ? json_object_get(image, "url") : image;
    snprintf(name, sizeof name, "%.40s.image_url", param);
    if (!json_is_string(url))
        return error_set_param(err, STATUS_WRONG_TYPE, name,
                               "'%s' must be an object with a 'url' (a data: URL), not %s", name,
                               json_kind(json_is_object(image) ? url : image));
    return picture_from_json(url, name, out, err);
}

/* Appends a text part to the texts of one message. */
static enum status join_text(struct call *call, struct span *text, struct span more,
                             struct error *err)
{
    if (!more.size)
        return STATUS_OK;
    size_t size = text->size + (text->size ? 1 : 0) + more.size;
    char *joined = arena_alloc(&call->arena, size + 1);
    if (!joined)
        return error_no_memory(err, "a message");
    if (text->size) {
        memcpy(joined, text->data, text->size);
        joined[text->size] = '\n';
    }
    memcpy(joined + size - more.size, more.data, more.size);
    joined[size] = '\0';
    *text = (struct span){joined, size};
    return STATUS_OK;
}

/* One part of a message: appended to what the message has, and its text to *text. */
static enum status read_part(struct call *call, struct chat *chat, const json_t *part,
                             const char *param, struct chat_part *out, struct span *text,
                             struct error *err)
{
    bool is_user = !strcmp(chat->messages[chat->n_messages].role, "user");
    if (!json_is_object(part))
        return wrong_kind(param, "an object", part, err);
    const char *type = json_string_value(json_object_get(part, "type"));
    if (type && !strcmp(type, "image_url") && is_user) {
        *out = (struct chat_part){NULL, 0};
        return read_picture(part, param, &chat->pictures[chat->n_pictures++], err);
    }
    if (!type || (strcmp(type, "text") && strcmp(type, "input_text")))
        return error_set_param(err, STATUS_UNPROCESSABLE, param,
                               "'%s' has the type '%.32s'; text%s understood", param,
                               type ? type : "", is_user ? " and image_url are" : " is");
    char name[PARAM_MAX];
    struct span more;
    snprintf(name, sizeof name, "%.40s.text", param);
    if (string_from_json(json_object_get(part, "text"), name, &more, err))
        return err->status;
    *out = (struct chat_part){more.data ? more.data : "", more.size};
    chat->text_bytes += more.size;
    return join_text(call, text, more, err);
}

/* The content of the message that chat->n_messages counts next. */
static enum status read_content(struct call *call, struct chat *chat, const json_t *content,
                                const char *param, struct error *err)
{
    struct chat_message *message = &chat->messages[chat->n_messages];
    struct span text = {"", 0};
    enum status status = STATUS_OK;
    size_t n = json_array_size(content);
    struct chat_part *parts = arena_zalloc(&call->arena, n + 1, sizeof *parts);
    if (!parts)
        return error_no_memory(err, "the messages");
    message->parts = parts;
    if (json_is_string(content)) {
        status = string_from_json(content, param, &text, err);
        parts[message->n_parts++] = (struct chat_part){text.data ? text.data : "", text.size};
        chat->text_bytes += text.size;
    } else if (!json_is_array(content)) {
        return wrong_kind(param, "a string or a list of parts", content, err);
    }
    for (size_t i = 0; i < n && !status; i++) {
        char name[PARAM_MAX];
        snprintf(name, sizeof name, "%.32s[%zu]", param, i);
        status = read_part(call, chat, json_array_get(content, i), name, &parts[message->n_parts++],
                           &text, err);
    }
    if (!status && text.size && !strcmp(message->role, "user")) {
        chat->text = text;
        memcpy(chat->text_param, param, strlen(param) + 1);
    }
    return status;
}

/* Pictures and parts are counted before anything is read: they bound the memory. */
static enum status check_messages(struct call *call, const json_t *messages, size_t *n_parts,
                                  struct error *err)
{
    if (!json_is_array(messages))
        return wrong_kind("messages", "a list", messages, err);
    size_t n = json_array_size(messages);
    if (!n)
        return error_set_param(err, STATUS_UNPROCESSABLE, "messages",
                               "'messages' must not be empty");
    for (size_t i = 0; i < n; i++)
        *n_parts += json_array_size(json_object_get(json_array_get(messages, i), "content"));
    size_t max = api_options(call->api)->max_items;
    if (n > MESSAGES_MAX || *n_parts > PARTS_MAX || n > max || *n_parts > max)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "messages",
                               "'messages' holds %zu messages with %zu parts; at most %zu are "
                               "allowed",
                               n, *n_parts, max < PARTS_MAX ? max : PARTS_MAX);
    return STATUS_OK;
}

/* What the model's template calls a role; NULL: it is none. */
static const char *known_role(const char *role)
{
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"}};
    for (size_t i = 0; role && i < ARRAY_LENGTH(roles); i++)
        if (!strcmp(role, roles[i][0]))
            return roles[i][1];
    return NULL;
}

static enum status read_message(struct call *call, struct chat *chat, size_t i,
                                const json_t *message, struct error *err)
{
    char param[PARAM_MAX];
    snprintf(param, sizeof param, "messages[%zu]", i);
    if (!json_is_object(message))
        return wrong_kind(param, "an object", message, err);
    const char *given = json_string_value(json_object_get(message, "role"));
    const char *role = known_role(given);
    if (!role)
        return error_set_param(err, STATUS_UNPROCESSABLE, param,
                               "'%s' has the role '%.32s'; system, user and assistant are "
                               "understood",
                               param, given ? given : "");
    const json_t *content = json_object_get(message, "content");
    chat->messages[chat->n_messages] = (struct chat_message){.role = role};
    snprintf(param, sizeof param, "messages[%zu].content", i);
    if ((content && !json_is_null(content)) || strcmp(role, "assistant") != 0)
        if (read_content(call, chat, content, param, err))
            return err->status;
    chat->n_messages++;
    return STATUS_OK;
}

static enum status read_messages(struct call *call, struct chat *chat, struct error *err)
{
    const json_t *messages = form_json(&call->form, "messages");
    size_t n_parts = 0, n = json_array_size(messages);
    if (check_messages(call, messages, &n_parts, err))
        return err->status;
    chat->pictures = arena_zalloc(&call->arena, n_parts + 1, sizeof *chat->pictures);
    chat->messages = arena_zalloc(&call->arena, n, sizeof *chat->messages);
    if (!chat->pictures || !chat->messages)
        return error_no_memory(err, "the messages");
    for (size_t i = 0; i < n; i++)
        if (read_message(call, chat, i, json_array_get(messages, i), err))
            return err->status;
    return STATUS_OK;
}

/* ---- the other fields ---------------------------------------------------------------------------
 */

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

/* Fields that may only say what is so anyway. */
static enum status check_neutral(const struct form *form, struct error *err)
{
    static const char *const numbers[] = {"frequency_penalty", "presence_penalty"};
    static const char *const lists[] = {"tools", "functions"};
    static const char *const choices[] = {"tool_choice", "function_call"};
    const char *bad = NULL, *only = "0";
    for (size_t i = 0; i < ARRAY_LENGTH(numbers) && !bad; i++)
        if (form_number(form, numbers[i], 0) != 0)
            bad = numbers[i];
    for (size_t i = 0; i < ARRAY_LENGTH(lists) && !bad; i++) {
        const json_t *list = form_json(form, lists[i]);
        if (list && (!json_is_array(list) || json_array_size(list)))
            bad = lists[i], only = "[]";
    }
    for (size_t i = 0; i < ARRAY_LENGTH(choices) && !bad; i++) {
        const json_t *choice = form_json(form, choices[i]);
        if (choice && !is_text(choice, "none") && !is_text(choice, "auto"))
            bad = choices[i], only = "none or auto";
    }
    if (!bad && json_object_size(form_json(form, "logit_bias")))
        bad = "logit_bias", only = "{}";
    const json_t *format = form_json(form, "response_format");
    if (!bad && format && !is_text(json_object_get(format, "type"), "text"))
        bad = "response_format", only = "{\"type\": \"text\"}";
    const struct form_value *modalities = form_value(form, "modalities");
    if (!bad && modalities && (modalities->n != 1 || strcmp(modalities->strings[0].data, "text")))
        bad = "modalities", only = "[\"text\"]";
    return bad ? error_set_param(err, STATUS_UNPROCESSABLE, bad,
                                 "'%s' is not supported; leave it out or give %s", bad, only)
               : STATUS_OK;
}

static enum status read_options(struct call *call, struct chat *chat, struct error *err)
{
    const struct form *form = &call->form;
    bool streams = form_boolean(form, "stream", false);
    const json_t *options = form_json(form, "stream_options");
    if (check_neutral(form, err))
        return err->status;
    if (options && !streams)
        return error_set_param(err, STATUS_UNPROCESSABLE, "stream_options",
                               "'stream_options' is only for 'stream': true");
    const json_t *include_usage = json_object_get(options, "include_usage");
    if (include_usage && !json_is_boolean(include_usage) && !json_is_null(include_usage))
        return wrong_kind("stream_options.include_usage", "a boolean", include_usage, err);
    chat->include_usage = json_is_true(include_usage);
    chat->logprobs = form_boolean(form, "logprobs", false);
    chat->n_top = (size_t)form_integer(form, "top_logprobs", 0);
    if (chat->n_top && !chat->logprobs)
        return error_set_param(err, STATUS_UNPROCESSABLE, "top_logprobs",
                               "'top_logprobs' is only for 'logprobs': true");
    return STATUS_OK;
}

/* Which model, and for what. */
static enum status choose_model(struct call *call, const struct chat *chat, enum task *task,
                                struct error *err)
{
    const char *name = form_string(&call->form, "model", NULL).data;
    struct error other;
    *task = TASK_CHAT;
    if (!call_use_model(call, name, TASK_CHAT, &other))
        return STATUS_OK;
    *task = chat->text.size ? TASK_VQA : TASK_CAPTION;
    enum status status = call_use_model(call, name, *task, err);
    if (status == STATUS_UNSUPPORTED_TASK && *task == TASK_VQA) {
        *task = TASK_CAPTION; /* a text, and nobody who answers: the caption's prompt */
        status = call_use_model(call, name, TASK_CAPTION, &other) ? err->status : STATUS_OK;
    }
    if (!status && !chat->n_pictures)
        status = error_set_param(err, STATUS_UNPROCESSABLE, "messages",
                                 "no user message has a picture (an image_url part): model '%.64s' "
                                 "answers about pictures",
                                 call->model->name);
    return status;
}

/* The conversation as the model's template has it. */
static enum status fill_conversation(struct call *call, const struct chat *chat,
                                     struct tokens *tokens, struct error *err)
{
    size_t max = api_options(call->api)->max_text_bytes;
    if (chat->text_bytes > max)
        return error_set_param(err, STATUS_TOO_LONG, "messages",
                               "'messages' hold %zu bytes of text; at most %zu are allowed",
                               chat->text_bytes, max);
    if (model_chat(call->model, chat->messages, chat->n_messages, tokens, err))
        return error_name_param(err, "messages");
    return STATUS_OK;
}

static enum status fill_work(struct call *call, const struct chat *chat, enum task task,
                             struct work *work, struct error *err)
{
    size_t max_images = call->model->traits.max_images ? call->model->traits.max_images : 1;
    size_t n = chat->n_pictures < max_images ? chat->n_pictures : max_images;
    if (task == TASK_CHAT && n < chat->n_pictures)
        return error_set_param(err, STATUS_UNPROCESSABLE, "messages",
                               "'messages' hold %zu pictures; model '%.64s' takes %zu",
                               chat->n_pictures, call->model->name, max_images);
    bool is_labels = task == TASK_VQA && call->model->traits.labels;
    work->n_top = chat->n_top;
    enum status status = generation_read(call, work, GENERATION_N_SAMPLES, err);
    work->kind = is_labels ? WORK_PAIR : WORK_GENERATE;
    if (!status && chat->logprobs && (is_labels || work->generation.num_beams > 1))
        status = error_set_param(
            err, STATUS_UNPROCESSABLE, "logprobs", "'logprobs' cannot be had from %s",
            is_labels ? "a model with a fixed list of answers" : "beam search");
    if (!status)
        status = work_set_texts(work, 1, err);
    if (!status && task == TASK_CHAT)
        status = fill_conversation(call, chat, &work->texts[0], err);
    else if (!status)
        status = call_tokens(call, task, chat->text, chat->text_param, &work->texts[0], err);
    if (!status)
        status = work_set_images(work, n, err);
    for (size_t i = 0; i < n && !status; i++)
        status =
            call_pixels(call, &chat->pictures[chat->n_pictures - n + i], &work->images[i], err);
    return status;
}

static enum status begin(struct call *call, struct error *err)
{
    struct chat *chat = arena_zalloc(&call->arena, 1, sizeof *chat);
    if (!chat)
        return error_no_memory(err, "a chat");
    call->state = chat;
    chat->text.data = "";
    snprintf(chat->id, sizeof chat->id, "chatcmpl-%s", call->request.request_id);
    chat->created = (long long)time(NULL);
    enum task task = TASK_CAPTION;
    enum status status = read_options(call, chat, err);
    if (!status)
        status = read_messages(call, chat, err);
    if (!status)
        status = choose_model(call, chat, &task, err);
    if (!status)
        status = call_admit(call, 1, "messages", err);
    if (status)
        return status;
    struct job *job = call_job(call, task, 1, err);
    if (!job)
        return err->status;
    if (fill_work(call, chat, task, &job->works[0], err)) {
        job_free(job);
        return err->status;
    }
    call_submit(call, job);
    return STATUS_OK;
}

/* ---- replies ------------------------------------------------------------------------------------
 */

static void put_head(struct call *call, struct json_writer *out, const char *object)
{
    const struct chat *chat = call->state;
    json_put_string(out, "id", chat->id);
    json_put_string(out, "object", object);
    json_put_integer(out, "created", chat->created);
}

/* Tokens with their log-probabilities: a stream's, or those of a text that is done. */
struct token_list {
    const int32_t *ids;
    const float *logprobs;
    const struct token_choice *top; /* [n, n_top] or NULL */
};

static bool decode(struct call *call, const int32_t *ids, size_t n, struct buffer *out)
{
    struct error err;
    out->size = 0;
    return tokenizer_decode(call->model->tokenizer, ids, n, false, out, &err) == STATUS_OK;
}

/* {token, logprob, bytes}, left open. The token's text is what it adds to the one before it (-1:
 * none), so that the texts of all tokens together are the whole text; where that cannot be said (a
 * part of a character), what it is alone. */
static void put_token(struct call *call, struct json_writer *out, int32_t before, int32_t id,
                      float logprob)
{
    const int32_t ids[] = {before, id};
    struct buffer text, head;
    buffer_init(&text, api_options(call->api)->max_text_bytes);
    buffer_init(&head, api_options(call->api)->max_text_bytes);
    size_t skip = 0;
    if (before >= 0 && decode(call, ids, 1, &head) && decode(call, ids, 2, &text) &&
        text.size >= head.size && head.size && !memcmp(text.data, head.data, head.size))
        skip = head.size;
    else if (!decode(call, &id, 1, &text))
        text.size = 0;
    struct span own = {text.size ? text.data + skip : "", text.size - skip};
    json_begin_object(out, NULL);
    json_put_text(out, "token", own.data, own.size);
    json_put_float(out, "logprob", logprob);
    if (memmem(own.data, own.size, "\xEF\xBF\xBD", 3)) {
        json_put_null(out, "bytes");
    } else {
        json_begin_list(out, "bytes");
        for (size_t k = 0; k < own.size; k++)
            json_put_integer(out, NULL, (unsigned char)own.data[k]);
        json_end_list(out);
    }
    buffer_release(&text);
    buffer_release(&head);
}

/* `logprobs` of tokens [from, to); null where there are none. */
static void put_logprobs(struct call *call, struct json_writer *out, const struct token_list *list,
                         size_t from, size_t to)
{
    const struct chat *chat = call->state;
    if (!chat->logprobs || !list->logprobs || from >= to) {
        json_put_null(out, "logprobs");
        return;
    }
    json_begin_object(out, "logprobs");
    json_begin_list(out, "content");
    for (size_t i = from; i < to; i++) {
        int32_t before = i ? list->ids[i - 1] : -1;
        put_token(call, out, before, list->ids[i], list->logprobs[i]);
        json_begin_list(out, "top_logprobs");
        for (size_t k = 0; k < chat->n_top && list->top; k++) {
            const struct token_choice *choice = &list->top[i * chat->n_top + k];
            if (choice->id < 0)
                break;
            put_token(call, out, before, choice->id, choice->logprob);
            json_end_object(out);
        }
        json_end_list(out);
        json_end_object(out);
    }
    json_end_list(out);
    json_put_null(out, "refusal");
    json_end_object(out);
}

static struct token_list generated_tokens(const struct generated *generated)
{
    return (struct token_list){generated->ids, generated->logprobs, generated->top};
}

/* A chunk with one choice; text NULL = none. With it go the log-probabilities of the tokens that
 * came since the last one. */
static void put_chunk(struct call *call, struct json_writer *out, size_t choice,
                      const struct span *text, const char *finish_reason)
{
    struct chat *chat = call->state;
    json_begin_object(out, NULL);
    put_head(call, out, "chat.completion.chunk");
    json_put_string(out, "model", call->model->name);
    json_begin_list(out, "choices");
    json_begin_object(out, NULL);
    json_put_integer(out, "index", (long long)choice);
    json_begin_object(out, "delta");
    if (choice >= chat->n_choices_begun) {
        json_put_string(out, "role", "assistant");
        chat->n_choices_begun = choice + 1;
        if (!text)
            json_put_string(out, "content", "");
    }
    if (text)
        json_put_text(out, "content", text->data, text->size);
    json_end_object(out);
    const struct stream *stream = &call->stream;
    const struct generated *ended = chat->ended;
    struct token_list list = {stream->ids, stream->logprobs, stream->top};
    size_t n = stream->n_rendered;
    if (ended) {
        list = generated_tokens(ended);
        n = ended->n;
    }
    put_logprobs(call, out, &list, chat->n_logged, n);
    chat->n_logged = n > chat->n_logged ? n : chat->n_logged;
    if (finish_reason)
        json_put_string(out, "finish_reason", finish_reason);
    else
        json_put_null(out, "finish_reason");
    json_end_object(out);
    json_end_list(out);
    if (chat->include_usage)
        json_put_null(out, "usage");
    json_end_object(out);
}

static void put_delta(struct call *call, struct json_writer *out, size_t choice, struct span text)
{
    put_chunk(call, out, choice, &text, NULL);
}

static enum status push_usage(struct call *call, struct error *err)
{
    struct json_writer *out = stream_open(call);
    json_begin_object(out, NULL);
    put_head(call, out, "chat.completion.chunk");
    json_put_string(out, "model", call->model->name);
    json_begin_list(out, "choices");
    json_end_list(out);
    generation_put_usage(out, call->job);
    json_end_object(out);
    return stream_push(call, err);
}

/* One choice, whole or as the rest of a stream. */
static enum status put_choice(struct call *call, size_t i, struct span text,
                              const struct generated *generated, struct error *err)
{
    struct json_writer *out = &call->out;
    struct chat *chat = call->state;
    const char *reason = generated ? finish_reason_name(generated->finish) : "stop";
    if (call->stream.wanted) {
        chat->ended = generated;
        if (i)
            chat->n_logged = 0;
        if (stream_text(call, i, text, err))
            return err->status;
        put_chunk(call, stream_open(call), i, NULL, reason);
        return stream_push(call, err);
    }
    json_begin_object(out, NULL);
    json_put_integer(out, "index", (long long)i);
    json_begin_object(out, "message");
    json_put_string(out, "role", "assistant");
    json_put_text(out, "content", text.data, text.size);
    json_put_null(out, "refusal");
    json_end_object(out);
    struct token_list list = {0};
    if (generated)
        list = generated_tokens(generated);
    put_logprobs(call, out, &list, 0, generated ? generated->n : 0);
    json_put_string(out, "finish_reason", reason);
    json_end_object(out);
    return STATUS_OK;
}

static enum status put_choices(struct call *call, const struct work *work, struct error *err)
{
    if (work->kind == WORK_PAIR) { /* the likeliest of the model's answers */
        const struct model_traits *traits = &call->model->traits;
        size_t best = 0;
        for (size_t i = 1; i < traits->n_outputs; i++)
            if (work->outputs[i] > work->outputs[best])
                best = i;
        struct span label = {traits->labels[best], strlen(traits->labels[best])};
        return put_choice(call, 0, label, NULL, err);
    }
    if (!work->n_generated)
        return error_set(err, STATUS_INTERNAL, "the model gave no text");
    enum status status = STATUS_OK;
    for (size_t i = 0; i < work->n_generated && !status; i++) {
        struct span text = {"", 0};
        float score;
        status = generation_text(call, work, i, &text, &score, err);
        if (!status)
            status = put_choice(call, i, text, &work->generated[i], err);
    }
    return status;
}

static enum status finish(struct call *call, struct error *err)
{
    const struct work *work = &call->job->works[0];
    const struct chat *chat = call->state;
    struct json_writer *out = &call->out;
    if (work->error.status) {
        *err = work->error;
        return err->status;
    }
    if (call->stream.wanted) {
        enum status status = put_choices(call, work, err);
        if (!status && chat->include_usage)
            status = push_usage(call, err);
        return status ? status : stream_close(call, "[DONE]", err);
    }
    put_head(call, out, "chat.completion");
    json_begin_list(out, "choices");
    if (put_choices(call, work, err))
        return err->status;
    json_end_list(out);
    generation_put_usage(out, call->job);
    return STATUS_OK;
}

const struct endpoint endpoint_chat = {
    .method = "POST",
    .path = "/v1/chat/completions",
    .id = "chat",
    .tag = "language",
    .summary = "Answer about pictures in a conversation, as OpenAI's",
    .body = BODY_JSON,
    .fields = fields,
    .more_fields = generation_fields,
    .reply = reply,
    .example = "{'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'what is it?'},"
               "{'type': 'image_url', 'image_url': {'url': '" EXAMPLE_PICTURE "'}}]}]}",
    .begin = begin,
    .finish = finish,
    .delta = put_delta,
};
