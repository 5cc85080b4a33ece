/*
 * regex.c: Oniguruma patterns on PCRE2, and matching of literals the same way.
 *
 * `tokenizers` compiles its patterns with Oniguruma. Their syntaxes differ little where tokenizers
 * go; regex_new() rewrites the rest:
 *   \s \S \h \H \w \uHHHH      Oniguruma's meaning, spelt out
 *   \p{L} and its like         with the code points that PCRE2's older Unicode lacks
 *   [a[bc]]                    a nested class is a union: the inner brackets go
 *   X{1,3}+                    not possessive there but repeated: (?:X{1,3})+
 *   [:punct:] [:space:] [:word:]  inside classes, likewise
 *   ^ $                        always at lines
 * Refused: && in a class, negated nested classes. A compiled pattern is read-only and shared by
 * all threads; a matcher belongs to one call.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"
#include "core/text/unicode.h"

struct regex {
    pcre2_code *code;
    pcre2_match_context *context;
};

enum { MATCH_LIMIT = 20000000, MATCH_HEAP_KIB = 131072 };

static const char word_items[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
static const char white_space[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char not_white_space[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";

static bool put_set(struct buffer *out, const struct unicode_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (!buffer_printf(out, "\\x{%x}-\\x{%x}", (unsigned)set->ranges[i].first,
                           (unsigned)set->ranges[i].last))
            return false;
    return true;
}

/* A class item, with brackets of its own outside a class. */
static bool put_item(struct buffer *out, bool in_class, bool negated, const char *items,
                     const struct unicode_set *set)
{
    return (in_class || buffer_puts(out, negated ? "[^" : "[")) && buffer_puts(out, items) &&
           (!set || put_set(out, set)) && (in_class || buffer_puts(out, "]"));
}

/* \p{Name}, \P{Name}, \p{^Name}; `at` is behind the p. Returns the bytes used, 0 = not ours. */
static size_t put_property(struct buffer *out, bool in_class, bool negated, const char *at,
                           size_t size, bool *ok)
{
    size_t i = 0;
    if (size == 0 || at[0] != '{')
        return 0;
    i++;
    bool caret = i < size && at[i] == '^';
    if (caret)
        i++;
    size_t name = i;
    while (i < size && at[i] != '}')
        i++;
    if (i == size || i - name > 32)
        return 0;
    negated ^= caret;
    const struct unicode_set *set = NULL;
    for (size_t k = 0; k < n_unicode_properties; k++)
        if (strlen(unicode_properties[k].name) == i - name &&
            memcmp(unicode_properties[k].name, at + name, i - name) == 0)
            set = unicode_properties[k].set;
    char items[48];
    snprintf(items, sizeof items, "\\%c{%.*s}", in_class && negated ? 'P' : 'p', (int)(i - name),
             at + name);
    /* A negated property inside a class cannot be narrowed: there the newest code points stay. */
    *ok = put_item(out, in_class, negated, items, in_class && negated ? NULL : set);
    return i + 1;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The escape at pattern[0..size), pattern[0] == '\\'. Returns the bytes used. */
static size_t put_escape(struct buffer *out, const char *pattern, size_t size, bool in_class,
                         bool *ok)
{
    if (size < 2) {
        *ok = buffer_puts(out, "\\");
        return size;
    }
    switch (pattern[1]) {
    case 's':
        *ok = put_item(out, in_class, false, white_space, NULL);
        return 2;
    case 'S':
        *ok = put_item(out, in_class, false, not_white_space, NULL);
        return 2;
    case 'h':
        *ok = put_item(out, in_class, false, "0-9a-fA-F", NULL);
        return 2;
    case 'H':
        *ok = put_item(out, in_class, false,
                       "\\x{0}-\\x{2f}\\x{3a}-\\x{40}\\x{47}-\\x{60}"
                       "\\x{67}-\\x{10ffff}",
                       NULL);
        return 2;
    case 'w':
        *ok = put_item(out, in_class, false, word_items, &unicode_new_word);
        return 2;
    case 'W':
        if (in_class)
            break;
        *ok = put_item(out, false, true, word_items, &unicode_new_word);
        return 2;
    case 'u':
        if (size >= 6 && is_hex(pattern[2]) && is_hex(pattern[3]) && is_hex(pattern[4]) &&
            is_hex(pattern[5])) {
            *ok = buffer_printf(out, "\\x{%.4s}", pattern + 2);
            return 6;
        }
        break;
    case 'p':
    case 'P': {
        size_t used = put_property(out, in_class, pattern[1] == 'P', pattern + 2, size - 2, ok);
        if (used)
            return 2 + used;
        break;
    }
    }
    *ok = buffer_append(out, pattern, 2);
    return 2;
}

/* \p{name} with what PCRE2 lacks of it, inside a class. */
static bool put_class_property(struct buffer *out, const char *name)
{
    if (!buffer_printf(out, "\\p{%s}", name))
        return false;
    for (size_t i = 0; i < n_unicode_properties; i++)
        if (strcmp(unicode_properties[i].name, name) == 0)
            return put_set(out, unicode_properties[i].set);
    return true;
}

/* [:name:] inside a class. Returns the bytes used. */
static size_t put_posix(struct buffer *out, const char *pattern, size_t size, bool *ok)
{
    if (size >= 9 && memcmp(pattern, "[:punct:]", 9) == 0) {
        *ok = put_class_property(out, "P") && put_class_property(out, "S");
        return 9;
    }
    if (size >= 9 && memcmp(pattern, "[:space:]", 9) == 0) {
        *ok = buffer_puts(out, white_space);
        return 9;
    }
    if (size >= 8 && memcmp(pattern, "[:word:]", 8) == 0) {
        *ok = put_item(out, true, false, word_items, &unicode_new_word);
        return 8;
    }
    const char *end = memmem(pattern, size, ":]", 2);
    size_t n = end ? (size_t)(end - pattern) + 2 : 1;
    *ok = buffer_append(out, pattern, n);
    return n;
}

/* Puts "(?:" at `at` and ")" at the end. */
static bool wrap(struct buffer *out, size_t at)
{
    if (!buffer_puts(out, "(?:"))
        return false;
    memmove(out->data + at + 3, out->data + at, out->size - 3 - at);
    memcpy(out->data + at, "(?:", 3);
    return buffer_puts(out, ")");
}

/* Is pattern[at..] an interval {n}, {n,}, {,m}, {n,m}? Its length, or 0. */
static size_t interval(const char *pattern, size_t size)
{
    size_t i = 1;
    while (i < size && ((pattern[i] >= '0' && pattern[i] <= '9') || pattern[i] == ','))
        i++;
    return i > 1 && i < size && pattern[i] == '}' ? i + 1 : 0;
}

static enum status translate(const char *pattern, size_t size, struct buffer *out,
                             struct error *err)
{
    size_t class_depth = 0, atom = 0; /* where the last atom starts in *out */
    size_t groups[256], n_groups = 0;
    bool ok = true;
    for (size_t i = 0; i < size && ok;) {
        char c = pattern[i];
        bool in_class = class_depth > 0;
        if (c == '\\') {
            if (!in_class)
                atom = out->size;
            i += put_escape(out, pattern + i, size - i, in_class, &ok);
        } else if (in_class) {
            if (c == '[' && i + 1 < size && pattern[i + 1] == ':') {
                i += put_posix(out, pattern + i, size - i, &ok);
            } else if (c == '[') {
                if (i + 1 < size && pattern[i + 1] == '^')
                    return error_set(err, STATUS_BAD_CHECKPOINT,
                                     "a negated class inside a class isn't supported");
                class_depth++;
                i++;
            } else if (c == ']') {
                if (--class_depth == 0)
                    ok = buffer_puts(out, "]");
                i++;
            } else if (c == '&' && i + 1 < size && pattern[i + 1] == '&') {
                return error_set(err, STATUS_BAD_CHECKPOINT,
                                 "an intersection (&&) of classes isn't supported");
            } else {
                ok = buffer_append(out, &c, 1);
                i++;
            }
        } else if (c == '[') {
            atom = out->size;
            class_depth = 1;
            size_t n = i + 1 < size && pattern[i + 1] == '^' ? 2 : 1;
            if (i + n < size && pattern[i + n] == ']') { /* a ] that comes first is literal */
                ok = buffer_append(out, pattern + i, n) && buffer_puts(out, "\\]");
                n++;
            } else {
                ok = buffer_append(out, pattern + i, n);
            }
            i += n;
        } else if (c == '{' && interval(pattern + i, size - i)) {
            size_t n = interval(pattern + i, size - i);
            ok = buffer_append(out, pattern + i, n);
            i += n;
            if (ok && i < size && pattern[i] == '+')
                ok = wrap(out, atom);
        } else {
            if (c == '(') {
                if (n_groups == sizeof groups / sizeof groups[0])
                    return error_set(err, STATUS_BAD_CHECKPOINT, "it nests too deeply");
                groups[n_groups++] = out->size;
            } else if (c == ')') {
                atom = n_groups ? groups[--n_groups] : out->size;
            } else if (!strchr("+*?|^$", c) && ((unsigned char)c & 0xC0) != 0x80) {
                atom = out->size;
            }
            ok = buffer_append(out, &c, 1);
            i++;
        }
    }
    return ok ? STATUS_OK : error_no_memory(err, "a pattern");
}

struct regex *regex_new(const char *pattern, size_t size, struct error *err)
{
    struct regex *regex = NULL;
    struct buffer text;
    buffer_init(&text, 16 * TOKENIZER_PATTERN_BYTES_MAX);
    if (size > TOKENIZER_PATTERN_BYTES_MAX) {
        error_set(err, STATUS_BAD_CHECKPOINT, "it is longer than %d bytes",
                  TOKENIZER_PATTERN_BYTES_MAX);
        goto out;
    }
    if (translate(pattern, size, &text, err))
        goto out;
    regex = calloc(1, sizeof *regex);
    pcre2_compile_context *options = pcre2_compile_context_create(NULL);
    if (regex)
        regex->context = pcre2_match_context_create(NULL);
    if (!regex || !options || !regex->context) {
        error_no_memory(err, "a pattern");
        pcre2_compile_context_free(options);
        goto failed;
    }
    pcre2_set_newline(options, PCRE2_NEWLINE_LF);
    pcre2_set_match_limit(regex->context, MATCH_LIMIT);
    pcre2_set_heap_limit(regex->context, MATCH_HEAP_KIB);
    int code;
    PCRE2_SIZE where;
    regex->code = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.size,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &code, &where, options);
    pcre2_compile_context_free(options);
    if (!regex->code) {
        PCRE2_UCHAR message[128] = "";
        pcre2_get_error_message(code, message, sizeof message);
        error_set(err, STATUS_BAD_CHECKPOINT, "%s", (const char *)message);
        goto failed;
    }
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE); /* where it can't, the interpreter does */
out:
    buffer_release(&text);
    return regex;
failed:
    regex_free(regex);
    regex = NULL;
    goto out;
}

void regex_free(struct regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    pcre2_match_context_free(regex->context);
    free(regex);
}

bool matcher_init(struct matcher *matcher, const struct pattern *pattern, const char *text,
                  size_t size)
{
    *matcher = (struct matcher){pattern, text, size, .last_end = SIZE_MAX};
    if (!pattern->regex || pattern->trims_spaces)
        return true;
    matcher->match_data = pcre2_match_data_create_from_pattern(pattern->regex->code, NULL);
    return matcher->match_data != NULL;
}

void matcher_release(struct matcher *matcher)
{
    pcre2_match_data_free(matcher->match_data);
    matcher->match_data = NULL;
}

/* Spaces at either end: `\A +| +\z`. */
static int next_trim(struct matcher *m, size_t *start, size_t *end)
{
    if (m->at == 0) {
        size_t n = 0;
        while (n < m->size && m->text[n] == ' ')
            n++;
        if (n) {
            *start = 0;
            *end = m->at = n;
            return 1;
        }
    }
    size_t from = m->size;
    while (from > m->at && m->text[from - 1] == ' ')
        from--;
    m->at = m->size;
    *start = from;
    *end = m->size;
    return from < m->size;
}

static int next_literal(struct matcher *m, size_t *start, size_t *end)
{
    struct str literal = m->pattern->literal;
    if (literal.size == 0 || m->at >= m->size)
        return 0;
    const char *found = memmem(m->text + m->at, m->size - m->at, literal.data, literal.size);
    if (!found) {
        m->at = m->size;
        return 0;
    }
    *start = (size_t)(found - m->text);
    *end = m->at = *start + literal.size;
    return 1;
}

int matcher_next(struct matcher *m, size_t *start, size_t *end)
{
    if (m->pattern->trims_spaces)
        return next_trim(m, start, end);
    if (!m->pattern->regex)
        return next_literal(m, start, end);
    const struct regex *regex = m->pattern->regex;
    while (m->at <= m->size) {
        int n = pcre2_match(regex->code, (PCRE2_SPTR)m->text, m->size, m->at, PCRE2_NO_UTF_CHECK,
                            m->match_data, regex->context);
        if (n == PCRE2_ERROR_JIT_STACKLIMIT)
            n = pcre2_match(regex->code, (PCRE2_SPTR)m->text, m->size, m->at,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->match_data, regex->context);
        if (n == PCRE2_ERROR_NOMATCH) {
            m->at = m->size + 1;
            return 0;
        }
        if (n < 0)
            return -1;
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->match_data);
        size_t from = span[0], to = span[1];
        if (to < from || from < m->at || to > m->size) /* \K in a lookahead can do this */
            return -1;
        if (from == to && m->last_end == to) { /* no empty match right behind the last one */
            uint32_t code;
            size_t step = utf8_decode(m->text + m->at, m->size - m->at, &code);
            m->at += step ? step : 1;
            continue;
        }
        m->at = m->last_end = to;
        *start = from;
        *end = to;
        return 1;
    }
    return 0;
}
