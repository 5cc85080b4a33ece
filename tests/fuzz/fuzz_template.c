/*
 * fuzz_template.c: a chat template that says anything, compiled and, where it compiles, rendered
 * with a conversation whose contents are strings and with one whose contents are lists.
 *
 * Input: the template's source.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/template.h"
#include "fuzz.h"

#define COMMON                                                                                     \
    "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\","            \
    "\"tools\": null, \"documents\": null, \"x\": {\"y\": [1, -2.5, \"z\", false, null]},"         \
    "\"n\": 7, \"text\": \" A naïve 🐈 \","

static const char *const variables[] = {
    "{" COMMON "\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"},"
    "{\"role\": \"user\", \"content\": \"What is it?\"},"
    "{\"role\": \"assistant\", \"content\": \"A cat\\n\"}, {\"role\": \"user\", \"content\": "
    "\"\"}]}",
    "{" COMMON "\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"},"
    "{\"type\": \"text\", \"text\": \"What is it?\"}]},"
    "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"A cat\"}]}]}",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *values[ARRAY_LENGTH(variables)];
    struct error err = {0};
    struct template *template = template_compile((const char *)data, size, &err);
    for (size_t i = 0; i < ARRAY_LENGTH(variables) && template; i++) {
        if (!values[i] && !(values[i] = json_loads(variables[i], 0, NULL)))
            abort();
        char *before = json_dumps(values[i], JSON_SORT_KEYS);
        struct buffer out;
        buffer_init(&out, 1 << 20);
        template_render(template, values[i], &out, &err);
        buffer_release(&out);
        char *after = json_dumps(values[i], JSON_SORT_KEYS);
        if (before && after && strcmp(before, after) != 0)
            abort(); /* variables are never changed */
        free(before);
        free(after);
    }
    template_free(template);
    return 0;
}
