/*
 * template_lex.c: a template's source as tokens, with Jinja's whitespace control: "-" at a tag's
 * inner edge takes all blanks on that side; a block's or comment's tag takes the blanks before it
 * when they begin its line (lstrip_blocks) and one newline after it (trim_blocks), unless it has a
 * "+" there. One newline at the source's end is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/base/utf8.h"
#include "core/text/template_internal.h"

struct lexer {
    struct arena *arena;
    const char *source;
    size_t size, at;
    unsigned line;
    struct token *tokens;
    size_t n, capacity;
    struct error *err;
};

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool fault(struct lexer *lexer, const char *what)
{
    error_set(lexer->err, STATUS_BAD_CHECKPOINT, "line %u: %s", lexer->line, what);
    return false;
}

static bool no_memory(struct lexer *lexer)
{
    error_no_memory(lexer->err, "a template");
    return false;
}

static struct token *add(struct lexer *lexer, enum token_kind kind)
{
    if (lexer->n == lexer->capacity) {
        size_t capacity = lexer->capacity ? 2 * lexer->capacity : 64;
        struct token *grown = arena_array(lexer->arena, capacity, sizeof *grown);
        if (!grown) {
            no_memory(lexer);
            return NULL;
        }
        if (lexer->n)
            memcpy(grown, lexer->tokens, lexer->n * sizeof *grown);
        lexer->tokens = grown;
        lexer->capacity = capacity;
    }
    struct token *token = &lexer->tokens[lexer->n++];
    *token = (struct token){.kind = kind, .line = lexer->line, .text = ""};
    return token;
}

static bool starts(const struct lexer *lexer, size_t at, const char *with)
{
    size_t n = strlen(with);
    return n <= lexer->size - at && memcmp(lexer->source + at, with, n) == 0;
}

static void advance(struct lexer *lexer, size_t to)
{
    for (; lexer->at < to; lexer->at++)
        lexer->line += lexer->source[lexer->at] == '\n';
}

static bool add_data(struct lexer *lexer, size_t from, size_t to)
{
    struct token *token = from < to ? add(lexer, TOKEN_DATA) : NULL;
    if (!token)
        return from >= to;
    token->text = lexer->source + from;
    token->size = to - from;
    return true;
}

/* Where the data before a tag at `tag` ends. */
static size_t data_end(const struct lexer *lexer, size_t from, size_t tag, char mark, bool is_print)
{
    size_t end = tag;
    if (mark == '-') {
        while (end > from && is_blank(lexer->source[end - 1]))
            end--;
        return end;
    }
    if (is_print || mark == '+')
        return tag;
    while (end > from && is_blank(lexer->source[end - 1]) && lexer->source[end - 1] != '\n')
        end--;
    bool begins_line = end == 0 || lexer->source[end - 1] == '\n';
    return begins_line ? end : tag;
}

/* After a tag's end: what "-" or trim_blocks takes. */
static void skip_after(struct lexer *lexer, char mark, bool is_print)
{
    size_t at = lexer->at;
    if (mark == '-') {
        while (at < lexer->size && is_blank(lexer->source[at]))
            at++;
    } else if (!is_print && mark != '+' && at < lexer->size && lexer->source[at] == '\n') {
        at++;
    }
    advance(lexer, at);
}

/* ---- inside a tag ------------------------------------------------------------------------------
 */

static bool lex_string(struct lexer *lexer)
{
    char quote = lexer->source[lexer->at];
    size_t end = lexer->at + 1, n = 0;
    while (end < lexer->size && lexer->source[end] != quote)
        end += lexer->source[end] == '\\' ? 2 : 1;
    if (end >= lexer->size)
        return fault(lexer, "a string has no end");
    struct token *token = add(lexer, TOKEN_STRING);
    char *text = token ? arena_alloc(lexer->arena, end - lexer->at) : NULL;
    if (!text)
        return token ? no_memory(lexer) : false;
    for (size_t i = lexer->at + 1; i < end; i++) {
        char c = lexer->source[i];
        if (c != '\\') {
            text[n++] = c;
            continue;
        }
        c = lexer->source[++i];
        static const char escapes[] = "n\nt\tr\r0\0b\bf\fv\va\a\\\\'\'\"\"";
        const char *found = NULL;
        for (size_t k = 0; k + 1 < sizeof escapes && !found; k += 2)
            if (escapes[k] == c)
                found = &escapes[k + 1];
        char *stop = NULL;
        char digits[5] = "";
        size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : 0;
        if (n_digits && end - i > n_digits) {
            memcpy(digits, lexer->source + i + 1, n_digits);
            unsigned long code = strtoul(digits, &stop, 16);
            if (stop != digits + n_digits || !code || (code >= 0xD800 && code < 0xE000))
                return fault(lexer, "an escape in a string is malformed");
            n += utf8_encode((uint32_t)code, text + n);
            i += n_digits;
        } else if (found) {
            text[n++] = *found;
        } else if (c != '\n') { /* as Python: both characters stay */
            text[n++] = '\\';
            text[n++] = c;
        }
    }
    text[n] = '\0';
    token->text = text;
    token->size = n;
    advance(lexer, end + 1);
    return true;
}

static bool lex_number(struct lexer *lexer)
{
    size_t end = lexer->at;
    bool is_real = false;
    char text[64];
    while (end < lexer->size && (is_digit(lexer->source[end]) || lexer->source[end] == '_'))
        end++;
    if (end + 1 < lexer->size && lexer->source[end] == '.' && is_digit(lexer->source[end + 1])) {
        is_real = true;
        for (end++; end < lexer->size && is_digit(lexer->source[end]);)
            end++;
    }
    if (end < lexer->size && (lexer->source[end] == 'e' || lexer->source[end] == 'E')) {
        size_t digits = end + 1;
        if (digits < lexer->size && (lexer->source[digits] == '-' || lexer->source[digits] == '+'))
            digits++;
        if (digits < lexer->size && is_digit(lexer->source[digits])) {
            is_real = true;
            for (end = digits; end < lexer->size && is_digit(lexer->source[end]);)
                end++;
        }
    }
    size_t n = 0;
    for (size_t i = lexer->at; i < end; i++)
        if (lexer->source[i] != '_' && n + 1 < sizeof text)
            text[n++] = lexer->source[i];
    text[n] = '\0';
    struct token *token = add(lexer, is_real ? TOKEN_REAL : TOKEN_INTEGER);
    if (!token)
        return false;
    errno = 0;
    if (is_real)
        token->real = strtod(text, NULL);
    else
        token->integer = strtoll(text, NULL, 10);
    if (errno)
        return fault(lexer, "a number is too large");
    advance(lexer, end);
    return true;
}

static bool lex_operator(struct lexer *lexer)
{
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            "<",  ">",  "=",  ".",  ":",  "|",  ","};
    for (size_t i = 0; i < ARRAY_LENGTH(operators); i++) {
        if (!starts(lexer, lexer->at, operators[i]))
            continue;
        struct token *token = add(lexer, TOKEN_OPERATOR);
        if (!token)
            return false;
        token->text = operators[i];
        token->size = strlen(operators[i]);
        advance(lexer, lexer->at + token->size);
        return true;
    }
    return fault(lexer, "a character that no expression has");
}

static bool lex_name(struct lexer *lexer)
{
    size_t end = lexer->at;
    while (end < lexer->size && (is_name_start(lexer->source[end]) || is_digit(lexer->source[end])))
        end++;
    struct token *token = add(lexer, TOKEN_NAME);
    if (!token)
        return false;
    token->size = end - lexer->at;
    token->text = arena_string(lexer->arena, lexer->source + lexer->at, token->size);
    if (!token->text)
        return no_memory(lexer);
    advance(lexer, end);
    return true;
}

/* The tokens of a tag up to its end, which is taken too. */
static bool lex_tag(struct lexer *lexer, bool is_print)
{
    const char *ends[] = {is_print ? "}}" : "%}", is_print ? "-}}" : "-%}",
                          is_print ? "+}}" : "+%}"};
    size_t n_open = 0; /* of braces: "}}" may end two dicts */
    for (;;) {
        while (lexer->at < lexer->size && is_blank(lexer->source[lexer->at]))
            advance(lexer, lexer->at + 1);
        if (lexer->at >= lexer->size)
            return fault(lexer, is_print ? "'{{' has no end" : "'{%' has no end");
        char c = lexer->source[lexer->at];
        for (size_t i = 0; i < ARRAY_LENGTH(ends) && !n_open; i++)
            if (starts(lexer, lexer->at, ends[i])) {
                if (!add(lexer, is_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END))
                    return false;
                advance(lexer, lexer->at + strlen(ends[i]));
                skip_after(lexer, i ? c : 0, is_print);
                return true;
            }
        n_open += c == '{';
        n_open -= c == '}' && n_open;
        bool fine = c == '"' || c == '\'' ? lex_string(lexer)
                    : is_digit(c)         ? lex_number(lexer)
                    : is_name_start(c)    ? lex_name(lexer)
                                          : lex_operator(lexer);
        if (!fine)
            return false;
    }
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

/* "{% raw %}" … "{% endraw %}" at a tag: its text as data. 0: it is none, 1: done, -1: a fault. */
static int lex_raw(struct lexer *lexer)
{
    const char *p = lexer->source + lexer->at + 2, *end = lexer->source + lexer->size;
    p += p < end && (*p == '-' || *p == '+');
    while (p < end && is_blank(*p))
        p++;
    if (end - p < 3 || memcmp(p, "raw", 3) != 0)
        return 0;
    p += 3;
    while (p < end && is_blank(*p))
        p++;
    char mark = p < end && (*p == '-' || *p == '+') ? *p++ : 0;
    if (end - p < 2 || memcmp(p, "%}", 2) != 0)
        return 0;
    advance(lexer, (size_t)(p + 2 - lexer->source));
    skip_after(lexer, mark, false);
    size_t from = lexer->at;
    for (size_t tag = from; tag + 2 <= lexer->size; tag++) {
        if (!starts(lexer, tag, "{%"))
            continue;
        p = lexer->source + tag + 2;
        char before = p < end && (*p == '-' || *p == '+') ? *p++ : 0, after = 0;
        while (p < end && is_blank(*p))
            p++;
        if (end - p < 6 || memcmp(p, "endraw", 6) != 0)
            continue;
        p += 6;
        while (p < end && is_blank(*p))
            p++;
        if (p < end && (*p == '-' || *p == '+'))
            after = *p++;
        if (end - p < 2 || memcmp(p, "%}", 2) != 0)
            continue;
        if (!add_data(lexer, from, data_end(lexer, from, tag, before, false)))
            return -1;
        advance(lexer, (size_t)(p + 2 - lexer->source));
        skip_after(lexer, after, false);
        return 1;
    }
    fault(lexer, "'raw' has no 'endraw'");
    return -1;
}

static bool lex_comment(struct lexer *lexer)
{
    const char *end = memmem(lexer->source + lexer->at + 2, lexer->size - lexer->at - 2, "#}", 2);
    if (!end)
        return fault(lexer, "'{#' has no end");
    size_t at = (size_t)(end - lexer->source);
    char mark = at > lexer->at + 2 && (end[-1] == '-' || end[-1] == '+') ? end[-1] : 0;
    advance(lexer, at + 2);
    skip_after(lexer, mark, false);
    return true;
}

struct token *template_lex(struct arena *arena, const char *source, size_t size, struct error *err)
{
    if (size && source[size - 1] == '\n')
        size--;
    struct lexer lexer = {.arena = arena, .source = source, .size = size, .line = 1, .err = err};
    while (lexer.at < size) {
        size_t tag = lexer.at, from = lexer.at;
        while (tag < size && !starts(&lexer, tag, "{%") && !starts(&lexer, tag, "{{") &&
               !starts(&lexer, tag, "{#"))
            tag++;
        if (tag >= size) {
            if (!add_data(&lexer, from, size))
                return NULL;
            break;
        }
        char kind = source[tag + 1], mark = tag + 2 < size ? source[tag + 2] : 0;
        mark = mark == '-' || mark == '+' ? mark : 0;
        bool is_print = kind == '{';
        if (!add_data(&lexer, from, data_end(&lexer, from, tag, mark, is_print)))
            return NULL;
        advance(&lexer, tag);
        bool fine;
        int raw = kind == '%' ? lex_raw(&lexer) : 0;
        if (raw) {
            fine = raw > 0;
        } else if (kind == '#') {
            fine = lex_comment(&lexer);
        } else {
            fine = add(&lexer, is_print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN) != NULL;
            advance(&lexer, tag + 2 + (mark ? 1 : 0));
            fine = fine && lex_tag(&lexer, is_print);
        }
        if (!fine)
            return NULL;
    }
    return add(&lexer, TOKEN_END) ? lexer.tokens : NULL;
}
