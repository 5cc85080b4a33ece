/*
 * bench_tokenizer.c: how fast texts become tokens and tokens texts.
 *
 *     bench_tokenizer DIRECTORY [TEXT_FILE] [SECONDS]
 *
 * Loads the tokenizer of a checkpoint, then encodes the file's lines (without a file: a built-in
 * paragraph) again and again; then one long text without spaces, to show that the cost per byte
 * stays. Prints tokens and megabytes a second of one core's time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/text/tokenizer.h"

static const char paragraph[] =
    "A photo of two dogs and a small cat sitting on a wooden bench in front of a red brick house.\n"
    "What colour is the car parked on the left side of the street? How many people are near it?\n"
    "Ein Bild von einer Straße mit Bäumen, 3 Fahrrädern und einem Café.\n"
    "一只猫坐在桌子上。 Кошка сидит на столе. 😀 👍🏽\n";

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static char *read_text(const char *path, size_t *size)
{
    if (!path) {
        *size = sizeof paragraph - 1;
        return strdup(paragraph);
    }
    FILE *file = fopen(path, "rb");
    char *text = malloc(64 << 20);
    *size = file && text ? fread(text, 1, 64 << 20, file) : 0;
    if (file)
        fclose(file);
    return text;
}

/* Encodes each line once; returns the tokens. */
static size_t encode_lines(const struct tokenizer *tokenizer, const char *text, size_t size)
{
    struct encode_options options = {.add_special_tokens = true};
    size_t n = 0;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - (text + at)) : size - at;
        struct tokens tokens;
        struct error err;
        if (!tokenizer_encode(tokenizer, text + at, length, &options, &tokens, &err)) {
            n += tokens.n;
            tokens_release(&tokens);
        }
        at += length + 1;
    }
    return n;
}

static void bench_lines(const struct tokenizer *tokenizer, const char *text, size_t size,
                        double seconds)
{
    size_t n_tokens = 0, n_bytes = 0;
    double start = now_s(), spent = 0;
    while (spent < seconds) {
        n_tokens += encode_lines(tokenizer, text, size);
        n_bytes += size;
        spent = now_s() - start;
    }
    printf("encode lines       %10.0f tokens/s %8.2f MB/s\n", (double)n_tokens / spent,
           (double)n_bytes / spent / 1e6);
}

/* One text of `size` bytes made of `unit`. */
static void bench_long(const struct tokenizer *tokenizer, const char *unit, size_t size)
{
    char *text = malloc(size);
    size_t n_unit = strlen(unit), used = 0;
    struct encode_options options = {.add_special_tokens = true};
    struct tokens tokens;
    struct error err;
    if (!text)
        return;
    for (; used + n_unit <= size; used += n_unit)
        memcpy(text + used, unit, n_unit);
    double start = now_s();
    enum status status = tokenizer_encode(tokenizer, text, used, &options, &tokens, &err);
    double spent = now_s() - start;
    if (status) {
        printf("'%s' x %zu: %s\n", unit, size / n_unit, err.message);
    } else {
        printf("%-8s x %8zu %10zu tokens   %8.2f MB/s %8.3f s", unit, used / n_unit, tokens.n,
               (double)used / spent / 1e6, spent);
        struct buffer out;
        buffer_init(&out, 1 << 28);
        start = now_s();
        status = tokenizer_decode(tokenizer, tokens.ids, tokens.n, true, &out, &err);
        printf("   decode %8.3f s\n", now_s() - start);
        buffer_release(&out);
        tokens_release(&tokens);
    }
    free(text);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [TEXT_FILE] [SECONDS]\n", argv[0]);
        return 2;
    }
    struct error err = {0};
    double start = now_s();
    struct tokenizer *tokenizer = tokenizer_open(argv[1], &err);
    if (!tokenizer) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("load               %10.1f ms, %zu tokens in the vocabulary\n", 1e3 * (now_s() - start),
           tokenizer_vocab_size(tokenizer));
    size_t size;
    char *text = read_text(argc > 2 && *argv[2] ? argv[2] : NULL, &size);
    bench_lines(tokenizer, text, size, argc > 3 ? atof(argv[3]) : 1);
    static const char *const units[] = {"abcdefghij",       "a", " ", " a", "日本",
                                        "\xCC\x81\xCC\xA3", "!"};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        for (size_t bytes = 10000; bytes <= 1000000; bytes *= 10)
            bench_long(tokenizer, units[i], bytes);
    free(text);
    tokenizer_free(tokenizer);
    return 0;
}
