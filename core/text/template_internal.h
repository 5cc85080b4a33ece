/*
 * template_internal.h: what the parts of the template interpreter share.
 *
 *   template_lex.c     source → tokens, whitespace control
 *   template_parse.c   tokens → a tree of nodes (in the template's arena)
 *   template_run.c     walks the tree: statements, scopes, expressions
 *   template_values.c  what values do: truth, order, arithmetic, slices, as text
 *   template_calls.c, template_strings.c   filters, tests, methods, functions
 *
 * A value is a json_t with a reference of the holder's own; undefined is NULL. Functions that
 * return a value return a new reference, and on failure NULL with run->err set: so NULL alone says
 * nothing, run_failed() does.
 */
#ifndef VLMD_CORE_TEXT_TEMPLATE_INTERNAL_H
#define VLMD_CORE_TEXT_TEMPLATE_INTERNAL_H

#include <stdbool.h>

#include "core/base/arena.h"
#include "core/text/template.h"

/* ---- tokens ------------------------------------------------------------------------------------
 */

enum token_kind {
    TOKEN_END,
    TOKEN_DATA,        /* text to be written as it is */
    TOKEN_BLOCK_BEGIN, /* {% */
    TOKEN_BLOCK_END,
    TOKEN_PRINT_BEGIN, /* {{ */
    TOKEN_PRINT_END,
    TOKEN_NAME,
    TOKEN_STRING, /* unescaped */
    TOKEN_INTEGER,
    TOKEN_REAL,
    TOKEN_OPERATOR, /* one or two characters */
};

struct token {
    enum token_kind kind;
    unsigned line;
    const char *text; /* NUL-terminated copy, or a slice of the source (data) */
    size_t size;
    long long integer;
    double real;
};

/* All tokens of a source, ended by TOKEN_END, in the arena; NULL and an error. */
struct token *template_lex(struct arena *arena, const char *source, size_t size, struct error *err);

/* ---- the tree ----------------------------------------------------------------------------------
 */

enum node_kind {
    /* statements; `next` is the one after */
    NODE_DATA,     /* name[size] */
    NODE_PRINT,    /* a */
    NODE_IF,       /* a: condition, b: then, c: else */
    NODE_FOR,      /* name (and name2: pairs), a: what, b: body, c: else, d: condition */
    NODE_SET,      /* name, a: value; or name.name2 */
    NODE_SET_TEXT, /* name, b: body */
    NODE_MACRO,    /* name, a: parameters (NODE_ARGUMENT with defaults), b: body */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_VALUE,     /* value */
    NODE_NAME,      /* name */
    NODE_LIST,      /* a: items */
    NODE_DICT,      /* a: key, value, key, value … */
    NODE_FIELD,     /* a.name */
    NODE_ITEM,      /* a[b] */
    NODE_SLICE,     /* a[b:c:d] */
    NODE_CALL,      /* name(b …) */
    NODE_METHOD,    /* a.name(b …) */
    NODE_FILTER,    /* a | call(b …) */
    NODE_TEST,      /* a is call(b …) */
    NODE_ARGUMENT,  /* a, or name = a; in lists by next */
    NODE_NOT,       /* a */
    NODE_NEGATIVE,  /* a */
    NODE_AND,       /* a, b */
    NODE_OR,        /* a, b */
    NODE_CONDITION, /* a if b else c */
    NODE_COMPARE,   /* a name b; a chain a < b < c is an AND of two */
    NODE_BINARY,    /* a name b: + - * / // % ** ~ */
};

struct call_row; /* of template_calls.c */

struct node {
    enum node_kind kind;
    unsigned line;
    struct node *next;
    struct node *a, *b, *c, *d;
    const char *name, *name2;
    size_t size;
    json_t *value; /* owned by the template */
    const struct call_row *call;
};

struct template
{
    struct arena arena;
    struct node *body;
    json_t *constants; /* a list that owns all of them */
};

/* Parses the tokens into template->body. */
enum status template_parse(struct template *template, const struct token *tokens,
                           struct error *err);

/* ---- a rendering -------------------------------------------------------------------------------
 */

struct variable {
    struct variable *next;
    const char *name;
    json_t *value;
    const struct node *macro; /* NODE_MACRO; value is NULL then */
};

struct scope {
    struct scope *outer;
    struct variable *first;
};

struct run {
    struct error *err;
    bool failed;
    unsigned line; /* of the statement or expression under way */
    size_t steps, depth;
    struct arena arena;     /* variables */
    struct variable *spare; /* of scopes that ended */
    struct scope *scope, *globals;
    struct buffer *out; /* where text goes: the caller's, or a block's */
    json_t *namespaces; /* a list: those whose fields may be set */
    int leaving;        /* 0, NODE_BREAK or NODE_CONTINUE */
};

static inline bool run_failed(const struct run *run)
{
    return run->failed;
}
/* Notes the first failure, with the line; returns NULL. */
json_t *run_fail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
json_t *run_no_memory(struct run *run);
/* Counts work; false (and failed) when there was too much. */
bool run_spend(struct run *run, size_t steps);
bool run_spend_bytes(struct run *run, size_t bytes);

/* Arguments of a call, evaluated. */
enum { ARGUMENTS_MAX = 8 };
struct arguments {
    size_t n, n_named;
    json_t *values[ARGUMENTS_MAX];
    const char *names[ARGUMENTS_MAX]; /* of the n_named after the n plain ones */
};
/* Argument i, or that of the name; NULL when absent. Borrowed. */
json_t *argument(const struct arguments *arguments, size_t i, const char *name);

/* ---- values ------------------------------------------------------------------------------------
 */

/* A list or dict that was just made: NULL, and released, when it is nested too deep. */
json_t *value_own(struct run *run, json_t *made);
/* What a namespace may hold: a copy, so that nothing can contain itself; none for undefined. */
json_t *value_copy(struct run *run, const json_t *value);

json_t *value_string(struct run *run, const char *text, size_t size); /* valid UTF-8 */
/* What was gathered for a string, as one; `fine`: all of it was. Releases the buffer. */
json_t *value_gathered(struct run *run, bool fine, struct buffer *text);
json_t *value_bool(bool value);
bool value_truth(const json_t *value);
bool value_equal(const json_t *a, const json_t *b);
/* -1, 0, 1; 2: they have no order. */
int value_order(const json_t *a, const json_t *b);
bool value_contains(struct run *run, const json_t *in, const json_t *value);
/* Characters, items or keys; SIZE_MAX: it has no length. */
size_t value_length(const json_t *value);
/* A list of what a loop goes over (a list itself, a dict's keys, a string's characters). */
json_t *value_list(struct run *run, json_t *value);
json_t *value_binary(struct run *run, const char *operator, const json_t * a, const json_t *b);
json_t *value_item(struct run *run, json_t *of, const json_t *at);
json_t *value_field(struct run *run, json_t *of, const char *name);
json_t *value_slice(struct run *run, json_t *of, const json_t *from, const json_t *to,
                    const json_t *step);
/* As Python's str() and repr(). */
bool value_write(struct run *run, const json_t *value, struct buffer *out);
bool value_repr(struct run *run, const json_t *value, struct buffer *out);
json_t *value_text(struct run *run, const json_t *value); /* str() as a value */
const char *value_kind(const json_t *value);              /* for messages */

/* ---- calls -------------------------------------------------------------------------------------
 */

/* A string argument, borrowed; false and failed for another kind. */
struct text {
    const char *data;
    size_t size;
};
bool string_argument(struct run *run, const json_t *value, struct text *out);

enum call_kind { CALL_FILTER, CALL_TEST, CALL_METHOD, CALL_FUNCTION };
struct call_row {
    enum call_kind kind;
    const char *name;
    json_t *(*run)(struct run *run, json_t *of, const struct arguments *arguments);
};
extern const struct call_row template_string_calls[];
extern const size_t n_template_string_calls;
/* NULL: there is none. */
const struct call_row *call_find(enum call_kind kind, const char *name);
/* `of` is what a filter, test or method is applied to (borrowed; undefined is NULL). */
json_t *call_run(struct run *run, const struct call_row *call, json_t *of,
                 const struct arguments *arguments);

#endif
