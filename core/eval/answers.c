/*
 * answers.c: comparing answers as VQA v2 does; see eval.h.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/eval/eval.h"

static const char *const numbers[] = {"zero", "one",   "two",   "three", "four", "five",
                                      "six",  "seven", "eight", "nine",  "ten"};

static bool is_article(const char *word)
{
    return !strcmp(word, "a") || !strcmp(word, "an") || !strcmp(word, "the");
}

/* Appends a word, and a space before it. */
static void put_word(char out[ANSWER_MAX], const char *word)
{
    char digits[8];
    if (!*word || is_article(word))
        return;
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++)
        if (!strcmp(word, numbers[i])) {
            snprintf(digits, sizeof digits, "%zu", i);
            word = digits;
        }
    size_t at = strlen(out);
    snprintf(out + at, ANSWER_MAX - at, "%s%s", at ? " " : "", word);
}

void answer_normalize(const char *text, char out[ANSWER_MAX])
{
    char word[ANSWER_MAX];
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0;; i++) {
        unsigned char c = (unsigned char)text[i];
        bool in_number = (c == '.' || c == ',') && i > 0 && isdigit((unsigned char)text[i - 1]) &&
                         isdigit((unsigned char)text[i + 1]);
        if (c && (c >= 0x80 || isalnum(c) || (in_number && c == '.'))) {
            if (n + 1 < sizeof word)
                word[n++] = (char)tolower(c);
        } else if (!in_number && c != '\'') { /* 1,000 is 1000; it's is its */
            word[n] = '\0';
            put_word(out, word);
            n = 0;
        }
        if (!c)
            break;
    }
}

double answer_score(const char *answer, const char *const *truths, size_t n)
{
    char mine[ANSWER_MAX], truth[ANSWER_MAX];
    size_t agreeing = 0;
    answer_normalize(answer, mine);
    for (size_t i = 0; i < n; i++) {
        answer_normalize(truths[i], truth);
        agreeing += !strcmp(mine, truth);
    }
    if (n < 10)
        return agreeing > 0;
    /* Leaving out each person once: `agreeing` times one of those who agree is gone. */
    double with = agreeing >= 3 ? 1 : (double)agreeing / 3;
    double without = agreeing >= 4 ? 1 : agreeing ? ((double)agreeing - 1) / 3 : 0;
    return ((double)agreeing * without + (double)(n - agreeing) * with) / (double)n;
}
