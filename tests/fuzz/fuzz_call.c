/*
 * fuzz_call.c: whole requests to models that are sound: routes, query strings, JSON, multipart and
 * raw pictures, filters, collections.
 *
 * Input: method, path, query and content type, a line each (an empty content type is none), then
 * the body. What a call leaves in the store, later ones meet.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/model.h"
#include "core/runtime/runtime.h"
#include "fuzz.h"

static struct fuzz_world world;

static void open_world(void)
{
    static const char *const checkpoints[] = {"clip-tiny",     "blip-caption-tiny", "blip-itm-tiny",
                                              "blip-vqa-tiny", "owlvit-tiny",       "clipseg-tiny",
                                              "vilt-mlm-tiny"};
    fuzz_world_open(&world);
    const char *root = getenv("VLMD_TEST_DATA");
    for (size_t i = 0; i < ARRAY_LENGTH(checkpoints); i++) {
        char path[1024];
        struct error err = {0};
        snprintf(path, sizeof path, "%s/checkpoints/%s", root ? root : "tests/data",
                 checkpoints[i]);
        struct model *model = model_open(checkpoints[i], path, &err);
        if (!model || runtime_add(world.runtime, model, &err))
            exit(1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!world.api)
        open_world();
    char lines[4][2048];
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
        size_t n = end ? (size_t)(end - data) : 0;
        if (!end || n >= sizeof lines[i] || memchr(data, '\0', n))
            return 0;
        memcpy(lines[i], data, n);
        lines[i][n] = '\0';
        data += n + 1;
        size -= n + 1;
    }
    fuzz_call(&world, lines[0], lines[1], lines[2], *lines[3] ? lines[3] : NULL, data, size);
    return 0;
}
