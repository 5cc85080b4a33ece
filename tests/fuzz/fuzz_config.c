/*
 * fuzz_config.c: a config.json that says anything over weights and tokenizer files that are sound;
 * where the model opens, it is asked about a picture.
 *
 * Input: a byte that picks the checkpoint of tests/data, then the file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/model.h"
#include "core/runtime/runtime.h"
#include "fuzz.h"

static const char *const checkpoints[] = {
    "blip-caption-tiny", "blip-itm-tiny",    "blip-vqa-tiny",     "clip-tiny",       "clipseg-tiny",
    "owlv2-tiny",        "openclip-rn-tiny", "openclip-vit-tiny", "owlvit-tiny",     "siglip-tiny",
    "vilt-mlm-tiny",     "vilt-vqa-tiny",    "idefics-flat-tiny", "paligemma2-tiny",
};

/* An 8 × 8 grey PNG, as every endpoint takes it. */
#define PICTURE                                                                                    \
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAU0lEQVR42gFIALf/AAAePFp4lrTSAAMhP117mbfV"     \
    "AAYkQmB+nLrYAAknRWOBn73bAAwqSGaEosDeAA8tS2mHpcPhABIwTmyKqMbkABUzUW+Nq8nnxSUc4ZRGfNEAAAAA"     \
    "SUVORK5CYII="

static void ask(struct fuzz_world *world)
{
    static const char *const calls[][2] = {
        {"/v1/caption", "{\"image\": \"" PICTURE "\"}"},
        {"/v1/vqa", "{\"image\": \"" PICTURE "\", \"question\": \"a cat?\"}"},
        {"/v1/match", "{\"image\": \"" PICTURE "\", \"texts\": \"a cat\"}"},
        {"/v1/classify", "{\"image\": \"" PICTURE "\", \"labels\": [\"a cat\", \"dogs\"]}"},
        {"/v1/detect", "{\"image\": \"" PICTURE "\", \"queries\": \"a cat\"}"},
        {"/v1/segment", "{\"image\": \"" PICTURE "\", \"prompts\": \"a cat\"}"},
        {"/v1/chat/completions",
         "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\", "
         "\"image_url\": "
         "{\"url\": \"data:image/png;base64," PICTURE
         "\"}}, {\"type\": \"text\", \"text\": \"a cat?\"}, "
         "{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64," PICTURE
         "\"}}]}]}"},
        {"/v1/fill", "{\"image\": \"" PICTURE "\", \"text\": \"a [MASK]\"}"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(calls); i++)
        fuzz_call(world, "POST", calls[i][0], "", "application/json", calls[i][1],
                  strlen(calls[i][1]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    static size_t linked = SIZE_MAX;
    size_t picked = data[0] % ARRAY_LENGTH(checkpoints);
    bool is_open_clip = !strncmp(checkpoints[picked], "openclip", 8);
    const char *file = is_open_clip ? "open_clip_config.json" : "config.json";
    if (linked != picked) {
        char source[64];
        snprintf(source, sizeof source, "checkpoints/%s", checkpoints[picked]);
        fuzz_clear();
        fuzz_link(source, file);
        linked = picked;
    }
    fuzz_file(file, data + 1, size - 1);
    struct error err = {0};
    struct model *model = model_open("fuzz", fuzz_directory(), &err);
    if (!model)
        return 0;
    struct fuzz_world world;
    fuzz_world_open(&world);
    if (!runtime_add(world.runtime, model, &err))
        ask(&world);
    fuzz_world_close(&world);
    return 0;
}
