/*
 * fuzz_tokenizer.c: a tokenizer.json that says anything, and a text put through it and back.
 *
 * Input: the text, a NUL, the file.
 */
#include <string.h>

#include "core/text/tokenizer.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, '\0', size) : NULL;
    if (!end)
        return 0;
    fuzz_file("tokenizer.json", end + 1, size - (size_t)(end - data) - 1);
    struct error err = {0};
    struct tokenizer *tokenizer = tokenizer_open(fuzz_directory(), &err);
    if (!tokenizer)
        return 0;
    struct tokens tokens;
    const struct encode_options options = {.add_special_tokens = true, .max_length = 64};
    if (tokenizer_encode(tokenizer, (const char *)data, (size_t)(end - data), &options, &tokens,
                         &err) == STATUS_OK) {
        struct buffer text;
        buffer_init(&text, 1 << 20);
        (void)tokenizer_decode(tokenizer, tokens.ids, tokens.n, true, &text, &err);
        buffer_release(&text);
        tokens_release(&tokens);
    }
    tokenizer_free(tokenizer);
    return 0;
}
