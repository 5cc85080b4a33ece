/*
 * commands_store.c: `vlmd search`: pictures out of a collection, by words or by a picture, as a
 * table and, with --html, as a contact sheet.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/client.h"
#include "server/commands.h"
#include "server/contact_sheet.h"

static enum status search_body(const struct arguments *arguments, size_t max_bytes, json_t *body,
                               struct error *err)
{
    const char *query = arguments->operands[1];
    if (!is_file(query)) {
        if (json_object_set_new(body, "text", json_string(query)))
            return error_set(err, STATUS_BAD_REQUEST, "the text is not valid UTF-8");
        return STATUS_OK;
    }
    char *bytes;
    size_t size;
    if (file_read(query, max_bytes, &bytes, &size, err))
        return err->status;
    char *text = base64_text(bytes, size);
    free(bytes);
    int rc = json_object_set_new(body, "image", text ? json_string(text) : NULL);
    free(text);
    return rc ? error_no_memory(err, "the query picture") : STATUS_OK;
}

int command_search(struct arguments *arguments)
{
    struct process process;
    struct error err;
    if (process_open(&process, &arguments->settings, PROCESS_MODELS | PROCESS_STORE, &err))
        return command_fail(&err);
    char *path = collection_path(arguments->operands[0], "/search");
    json_t *body = json_object(), *reply = NULL;
    enum status status = STATUS_OK;
    if (!path || !body || !object_add_fields(body, arguments))
        status = error_no_memory(&err, "the request");
    if (!status)
        status = search_body(arguments, process.settings.max_body_mb << 20, body, &err);
    if (!status)
        status = client_call_json(&process, "POST", path, body, &reply, &err);
    if (!status && arguments->json)
        print_json(reply);
    size_t i;
    const json_t *result;
    if (!status && !arguments->json)
        json_array_foreach(json_object_get(reply, "results"), i, result)
            printf("%.4f  %s\n", json_number_value(json_object_get(result, "score")),
                   json_string_value(json_object_get(result, "id")));
    if (!status && arguments->html)
        status = contact_sheet_write(arguments->html, &process, arguments->operands[0],
                                     arguments->operands[1], reply, &err);
    json_decref(reply);
    json_decref(body);
    free(path);
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}
