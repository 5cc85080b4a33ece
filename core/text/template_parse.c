/*
 * template_parse.c: tokens to a tree, by recursive descent in Jinja's order of operators:
 *
 *   a if b else c → or → and → not → == != < > in … → + - → ~ → * / // % → ** → unary → postfix
 *
 * What the interpreter lacks is refused here, with its name and line.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/template_internal.h"

struct parser {
    struct template *template;
    const struct token *token;
    size_t depth;
    size_t n_loops;
    struct node *calls; /* all NODE_CALLs, by d */
    bool failed;
    struct error *err;
};

static struct node *parse_expression(struct parser *p);
static struct node *parse_statements(struct parser *p, const char *const *ends);

static struct node *fault_at(struct parser *p, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static struct node *fault_at(struct parser *p, unsigned line, const char *format, ...)
{
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!p->failed)
        error_set(p->err, STATUS_BAD_CHECKPOINT, "line %u: %s", line, text);
    p->failed = true;
    return NULL;
}

static struct node *no_memory(struct parser *p)
{
    if (!p->failed)
        error_no_memory(p->err, "a template");
    p->failed = true;
    return NULL;
}

static struct node *node_new(struct parser *p, enum node_kind kind, struct node *a, struct node *b)
{
    struct node *node = arena_zalloc(&p->template->arena, 1, sizeof *node);
    if (!node)
        return no_memory(p);
    node->kind = kind;
    node->line = p->token->line;
    node->a = a;
    node->b = b;
    return node;
}

static bool is_operator(const struct parser *p, const char *text)
{
    return p->token->kind == TOKEN_OPERATOR && strcmp(p->token->text, text) == 0;
}

static bool is_name(const struct parser *p, const char *text)
{
    return p->token->kind == TOKEN_NAME && strcmp(p->token->text, text) == 0;
}

static bool take_operator(struct parser *p, const char *text)
{
    bool is = is_operator(p, text);
    p->token += is;
    return is;
}

static bool take_name(struct parser *p, const char *text)
{
    bool is = is_name(p, text);
    p->token += is;
    return is;
}

static const char *token_text(const struct token *token)
{
    static const char *const kinds[] = {[TOKEN_END] = "the end of the template",
                                        [TOKEN_DATA] = "text",
                                        [TOKEN_BLOCK_BEGIN] = "'{%'",
                                        [TOKEN_BLOCK_END] = "'%}'",
                                        [TOKEN_PRINT_BEGIN] = "'{{'",
                                        [TOKEN_PRINT_END] = "'}}'",
                                        [TOKEN_STRING] = "a string",
                                        [TOKEN_INTEGER] = "a number",
                                        [TOKEN_REAL] = "a number",
                                        [TOKEN_NAME] = "a name",
                                        [TOKEN_OPERATOR] = "an operator"};
    return token->kind == TOKEN_NAME || token->kind == TOKEN_OPERATOR ? token->text
                                                                      : kinds[token->kind];
}

static bool expect_operator(struct parser *p, const char *text)
{
    if (take_operator(p, text))
        return true;
    fault_at(p, p->token->line, "expected '%s', found %.40s", text, token_text(p->token));
    return false;
}

/* A name that may be assigned to or called; NULL and a fault for others. */
static const char *take_identifier(struct parser *p)
{
    if (p->token->kind != TOKEN_NAME) {
        fault_at(p, p->token->line, "expected a name, found %.40s", token_text(p->token));
        return NULL;
    }
    return p->token++->text;
}

static bool deeper(struct parser *p)
{
    if (++p->depth <= TEMPLATE_DEPTH_MAX)
        return !p->failed;
    fault_at(p, p->token->line, "blocks or brackets are nested deeper than %d", TEMPLATE_DEPTH_MAX);
    return false;
}

/* ---- expressions -------------------------------------------------------------------------------
 */

static struct node *constant(struct parser *p, json_t *value)
{
    struct node *node = node_new(p, NODE_VALUE, NULL, NULL);
    if (!value || json_array_append_new(p->template->constants, value))
        return no_memory(p);
    if (node)
        node->value = value;
    return node;
}

/* "(" is taken: arguments up to ")". */
static struct node *parse_arguments(struct parser *p)
{
    struct node *first = NULL, **last = &first;
    size_t n = 0;
    bool has_named = false;
    while (!p->failed && !take_operator(p, ")")) {
        if (first && !expect_operator(p, ","))
            return NULL;
        if (take_operator(p, ")"))
            break;
        if (is_operator(p, "*") || is_operator(p, "**"))
            return fault_at(p, p->token->line, "arguments by '%s' are not supported",
                            p->token->text);
        const char *name = NULL;
        if (p->token->kind == TOKEN_NAME && p->token[1].kind == TOKEN_OPERATOR &&
            !strcmp(p->token[1].text, "=")) {
            name = p->token->text;
            p->token += 2;
        }
        if (has_named && !name)
            return fault_at(p, p->token->line, "a plain argument after a named one");
        has_named |= name != NULL;
        struct node *argument = node_new(p, NODE_ARGUMENT, parse_expression(p), NULL);
        if (p->failed || !argument)
            return NULL;
        argument->name = name;
        *last = argument;
        last = &argument->next;
        if (++n > ARGUMENTS_MAX)
            return fault_at(p, p->token->line, "more than %d arguments", ARGUMENTS_MAX);
    }
    return first;
}

/* Items up to the closing operator, each an expression; n_all counts them. */
static struct node *parse_items(struct parser *p, const char *close, bool is_dict, size_t *n_all)
{
    struct node *first = NULL, **last = &first;
    *n_all = 0;
    while (!p->failed && !take_operator(p, close)) {
        if (first && !expect_operator(p, ","))
            return NULL;
        if (take_operator(p, close))
            break;
        for (int part = 0; part < (is_dict ? 2 : 1); part++) {
            if (part && !expect_operator(p, ":"))
                return NULL;
            struct node *item = node_new(p, NODE_ARGUMENT, parse_expression(p), NULL);
            if (p->failed || !item)
                return NULL;
            *last = item;
            last = &item->next;
        }
        ++*n_all;
    }
    return first;
}

/* "(" is taken: a tuple, or an expression in brackets. */
static struct node *parse_bracketed(struct parser *p)
{
    if (take_operator(p, ")"))
        return node_new(p, NODE_LIST, NULL, NULL);
    struct node *first = parse_expression(p);
    if (take_operator(p, ")"))
        return first;
    if (p->failed || !expect_operator(p, ","))
        return NULL;
    size_t n;
    struct node *item = node_new(p, NODE_ARGUMENT, first, NULL);
    struct node *rest = parse_items(p, ")", false, &n);
    if (item)
        item->next = rest;
    return node_new(p, NODE_LIST, item, NULL);
}

static struct node *parse_call(struct parser *p, const char *name, unsigned line)
{
    struct node *node = node_new(p, NODE_CALL, NULL, parse_arguments(p));
    if (!node)
        return NULL;
    node->line = line;
    node->name = name;
    node->call = call_find(CALL_FUNCTION, name); /* NULL: a macro; checked at the end */
    node->d = p->calls;
    p->calls = node;
    return node;
}

static struct node *parse_primary(struct parser *p)
{
    const struct token *token = p->token;
    size_t n;
    switch (token->kind) {
    case TOKEN_NAME:
        p->token++;
        if (!strcmp(token->text, "true") || !strcmp(token->text, "True"))
            return constant(p, json_true());
        if (!strcmp(token->text, "false") || !strcmp(token->text, "False"))
            return constant(p, json_false());
        if (!strcmp(token->text, "none") || !strcmp(token->text, "None"))
            return constant(p, json_null());
        if (take_operator(p, "("))
            return parse_call(p, token->text, token->line);
        struct node *node = node_new(p, NODE_NAME, NULL, NULL);
        if (node)
            node->name = token->text;
        return node;
    case TOKEN_STRING: {
        struct buffer joined; /* 'a' 'b' is one string */
        buffer_init(&joined, TEMPLATE_BYTES_MAX);
        bool fine = true;
        for (; p->token->kind == TOKEN_STRING; p->token++)
            fine = fine && buffer_append(&joined, p->token->text, p->token->size);
        json_t *value = fine ? json_stringn(joined.data ? joined.data : "", joined.size) : NULL;
        buffer_release(&joined);
        return constant(p, value);
    }
    case TOKEN_INTEGER:
        p->token++;
        return constant(p, json_integer(token->integer));
    case TOKEN_REAL:
        p->token++;
        return constant(p, json_real(token->real));
    default:
        break;
    }
    if (take_operator(p, "("))
        return parse_bracketed(p);
    if (take_operator(p, "["))
        return node_new(p, NODE_LIST, parse_items(p, "]", false, &n), NULL);
    if (take_operator(p, "{"))
        return node_new(p, NODE_DICT, parse_items(p, "}", true, &n), NULL);
    return fault_at(p, token->line, "expected an expression, found %.40s", token_text(token));
}

/* "[" is taken. */
static struct node *parse_subscript(struct parser *p, struct node *of)
{
    struct node *parts[3] = {NULL};
    bool is_slice = false;
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
        if (!is_operator(p, ":") && !is_operator(p, "]"))
            parts[i] = parse_expression(p);
        if (p->failed || !take_operator(p, ":"))
            break;
        is_slice = true;
    }
    if (p->failed || !expect_operator(p, "]"))
        return NULL;
    if (!is_slice && !parts[0])
        return fault_at(p, p->token->line, "expected an index in '[]'");
    struct node *node = node_new(p, is_slice ? NODE_SLICE : NODE_ITEM, of, parts[0]);
    if (node) {
        node->c = parts[1];
        node->d = parts[2];
    }
    return node;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    while (!p->failed) {
        unsigned line = p->token->line;
        if (take_operator(p, "[")) {
            node = parse_subscript(p, node);
        } else if (take_operator(p, ".")) {
            if (p->token->kind == TOKEN_INTEGER) {
                struct node *index = constant(p, json_integer(p->token->integer));
                p->token++;
                node = node_new(p, NODE_ITEM, node, index);
                continue;
            }
            const char *name = take_identifier(p);
            if (!name)
                return NULL;
            bool is_call = take_operator(p, "(");
            const struct call_row *method = is_call ? call_find(CALL_METHOD, name) : NULL;
            if (is_call && !method)
                return fault_at(p, line, "the method '%.40s' is not supported", name);
            node = node_new(p, is_call ? NODE_METHOD : NODE_FIELD, node,
                            is_call ? parse_arguments(p) : NULL);
            if (node) {
                node->name = name;
                node->call = method;
            }
        } else if (is_operator(p, "(")) {
            return fault_at(p, line, "only names and methods can be called");
        } else {
            break;
        }
    }
    return p->failed ? NULL : node;
}

static struct node *parse_filter(struct parser *p, struct node *of)
{
    unsigned line = p->token->line;
    const char *name = take_identifier(p);
    const struct call_row *filter = name ? call_find(CALL_FILTER, name) : NULL;
    if (name && !filter)
        return fault_at(p, line, "the filter '%.40s' is not supported", name);
    struct node *arguments = name && take_operator(p, "(") ? parse_arguments(p) : NULL;
    struct node *node = node_new(p, NODE_FILTER, of, arguments);
    if (node)
        node->call = filter;
    return node;
}

static struct node *parse_unary(struct parser *p, bool with_filters);

static struct node *parse_test(struct parser *p, struct node *of)
{
    static const char *const after[] = {"else", "or", "and", "is", "if", "in", "not"};
    unsigned line = p->token->line;
    bool negated = take_name(p, "not");
    const char *name = is_operator(p, "==") ? p->token++->text : take_identifier(p);
    const struct call_row *test = name ? call_find(CALL_TEST, name) : NULL;
    if (name && !test)
        return fault_at(p, line, "the test '%.40s' is not supported", name);
    struct node *arguments = NULL;
    bool takes_one = p->token->kind == TOKEN_STRING || p->token->kind == TOKEN_INTEGER ||
                     p->token->kind == TOKEN_REAL || p->token->kind == TOKEN_NAME ||
                     is_operator(p, "[") || is_operator(p, "{");
    for (size_t i = 0; i < ARRAY_LENGTH(after); i++)
        takes_one = takes_one && !is_name(p, after[i]);
    if (name && take_operator(p, "("))
        arguments = parse_arguments(p);
    else if (name && takes_one)
        arguments = node_new(p, NODE_ARGUMENT, parse_postfix(p, parse_primary(p)), NULL);
    struct node *node = node_new(p, NODE_TEST, of, arguments);
    if (node)
        node->call = test;
    return negated ? node_new(p, NODE_NOT, node, NULL) : node;
}

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    struct node *node = NULL;
    if (!deeper(p))
        return NULL;
    if (take_operator(p, "-"))
        node = node_new(p, NODE_NEGATIVE, parse_unary(p, false), NULL);
    else if (take_operator(p, "+"))
        node = parse_unary(p, false);
    else
        node = parse_primary(p);
    node = p->failed ? NULL : parse_postfix(p, node);
    while (with_filters && !p->failed) {
        if (take_operator(p, "|"))
            node = parse_filter(p, node);
        else if (take_name(p, "is"))
            node = parse_test(p, node);
        else
            break;
    }
    p->depth--;
    return p->failed ? NULL : node;
}

/* Operators of two sides, loosest first; all group to the left. */
static const char *const levels[][5] = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};

static struct node *parse_binary(struct parser *p, size_t level)
{
    if (level == ARRAY_LENGTH(levels))
        return parse_unary(p, true);
    struct node *node = parse_binary(p, level + 1);
    for (size_t i = 0; !p->failed && levels[level][i];) {
        if (!take_operator(p, levels[level][i])) {
            i++;
            continue;
        }
        node = node_new(p, NODE_BINARY, node, parse_binary(p, level + 1));
        if (node)
            node->name = levels[level][i];
        i = 0;
    }
    return p->failed ? NULL : node;
}

static const char *take_comparison(struct parser *p)
{
    static const char *const operators[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (size_t i = 0; i < ARRAY_LENGTH(operators); i++)
        if (take_operator(p, operators[i]))
            return operators[i];
    if (take_name(p, "in"))
        return "in";
    if (is_name(p, "not") && p->token[1].kind == TOKEN_NAME && !strcmp(p->token[1].text, "in")) {
        p->token += 2;
        return "not in";
    }
    return NULL;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *left = parse_binary(p, 0), *all = NULL;
    const char *operator;
    while (!p->failed && (operator= take_comparison(p))) {
        struct node *right = parse_binary(p, 0);
        struct node *compare = node_new(p, NODE_COMPARE, left, right);
        if (!compare)
            return NULL;
        compare->name = operator;
        all = all ? node_new(p, NODE_AND, all, compare) : compare;
        left = right;
    }
    return p->failed ? NULL : all ? all : left;
}

static struct node *parse_not(struct parser *p)
{
    if (!take_name(p, "not"))
        return parse_compare(p);
    struct node *node = deeper(p) ? node_new(p, NODE_NOT, parse_not(p), NULL) : NULL;
    p->depth--;
    return node;
}

static struct node *parse_and(struct parser *p)
{
    struct node *node = parse_not(p);
    while (!p->failed && take_name(p, "and"))
        node = node_new(p, NODE_AND, node, parse_not(p));
    return node;
}

static struct node *parse_or(struct parser *p)
{
    struct node *node = parse_and(p);
    while (!p->failed && take_name(p, "or"))
        node = node_new(p, NODE_OR, node, parse_and(p));
    return node;
}

static struct node *parse_expression(struct parser *p)
{
    if (!deeper(p))
        return NULL;
    struct node *node = parse_or(p);
    while (!p->failed && take_name(p, "if")) {
        struct node *condition = parse_or(p);
        node = node_new(p, NODE_CONDITION, node, condition);
        if (node && take_name(p, "else"))
            node->c = parse_expression(p);
    }
    p->depth--;
    return p->failed ? NULL : node;
}

/* An expression, or several with commas: a tuple. */
static struct node *parse_tuple(struct parser *p)
{
    struct node *first = parse_expression(p);
    if (p->failed || !is_operator(p, ","))
        return first;
    struct node *items = node_new(p, NODE_ARGUMENT, first, NULL);
    struct node **last = items ? &items->next : NULL;
    while (!p->failed && take_operator(p, ",") && p->token->kind != TOKEN_BLOCK_END) {
        struct node *item = node_new(p, NODE_ARGUMENT, parse_expression(p), NULL);
        if (!item)
            return NULL;
        *last = item;
        last = &item->next;
    }
    return node_new(p, NODE_LIST, items, NULL);
}

/* ---- statements --------------------------------------------------------------------------------
 */

static bool end_tag(struct parser *p)
{
    if (p->token->kind != TOKEN_BLOCK_END) {
        fault_at(p, p->token->line, "expected '%%}', found %.40s", token_text(p->token));
        return false;
    }
    p->token++;
    return true;
}

/* The statements up to "{% end %}", which is taken with its tag's end. */
static struct node *parse_body(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct node *body = parse_statements(p, ends);
    if (!p->failed) {
        p->token++;
        end_tag(p);
    }
    return body;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    if (!deeper(p))
        return NULL;
    struct node *node = node_new(p, NODE_IF, parse_tuple(p), NULL);
    if (p->failed || !end_tag(p))
        return NULL;
    node->b = parse_statements(p, ends);
    if (p->failed)
        return NULL;
    if (take_name(p, "elif")) {
        node->c = parse_if(p);
    } else if (take_name(p, "else")) {
        if (end_tag(p))
            node->c = parse_body(p, "endif");
    } else {
        p->token++;
        end_tag(p);
    }
    p->depth--;
    return p->failed ? NULL : node;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct node *node = node_new(p, NODE_FOR, NULL, NULL);
    bool in_brackets = take_operator(p, "(");
    const char *name = take_identifier(p), *name2 = NULL;
    if (name && take_operator(p, ","))
        name2 = take_identifier(p);
    if (!p->failed && is_operator(p, ","))
        return fault_at(p, p->token->line, "loops over more than pairs are not supported");
    if (p->failed || (in_brackets && !expect_operator(p, ")")))
        return NULL;
    if (!take_name(p, "in"))
        return fault_at(p, p->token->line, "expected 'in', found %.40s", token_text(p->token));
    node->name = name;
    node->name2 = name2;
    node->a = parse_or(p); /* "if" begins the loop's condition */
    if (!p->failed && take_name(p, "if"))
        node->d = parse_expression(p);
    if (!p->failed && is_name(p, "recursive"))
        return fault_at(p, p->token->line, "recursive loops are not supported");
    if (p->failed || !end_tag(p))
        return NULL;
    p->n_loops++;
    node->b = parse_statements(p, ends);
    p->n_loops--;
    if (p->failed)
        return NULL;
    if (take_name(p, "else")) {
        if (end_tag(p))
            node->c = parse_body(p, "endfor");
    } else {
        p->token++;
        end_tag(p);
    }
    return p->failed ? NULL : node;
}

static struct node *parse_set(struct parser *p)
{
    struct node *node = node_new(p, NODE_SET, NULL, NULL);
    const char *name = take_identifier(p);
    if (!name)
        return NULL;
    node->name = name;
    if (take_operator(p, ".") && !(node->name2 = take_identifier(p)))
        return NULL;
    if (is_operator(p, ","))
        return fault_at(p, p->token->line, "setting several names at once is not supported");
    if (take_operator(p, "=")) {
        node->a = parse_tuple(p);
        return !p->failed && end_tag(p) ? node : NULL;
    }
    if (node->name2 || is_operator(p, "|"))
        return fault_at(p, p->token->line, "expected '=', found %.40s", token_text(p->token));
    node->kind = NODE_SET_TEXT;
    if (end_tag(p))
        node->b = parse_body(p, "endset");
    return p->failed ? NULL : node;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *node = node_new(p, NODE_MACRO, NULL, NULL);
    const char *name = take_identifier(p);
    if (!name || !expect_operator(p, "("))
        return NULL;
    node->name = name;
    struct node **last = &node->a;
    size_t n = 0, n_loops = p->n_loops;
    while (!p->failed && !take_operator(p, ")")) {
        if (node->a && !expect_operator(p, ","))
            return NULL;
        struct node *parameter = node_new(p, NODE_ARGUMENT, NULL, NULL);
        const char *of = take_identifier(p);
        if (!of || !parameter)
            return NULL;
        parameter->name = of;
        if (take_operator(p, "="))
            parameter->a = parse_expression(p);
        *last = parameter;
        last = &parameter->next;
        if (++n > ARGUMENTS_MAX)
            return fault_at(p, p->token->line, "more than %d parameters", ARGUMENTS_MAX);
    }
    p->n_loops = 0; /* a macro's body is in none */
    if (!p->failed && end_tag(p))
        node->b = parse_body(p, "endmacro");
    p->n_loops = n_loops;
    return p->failed ? NULL : node;
}

static struct node *parse_leave(struct parser *p, enum node_kind kind)
{
    if (!p->n_loops)
        return fault_at(p, p->token->line, "'%s' is in no loop",
                        kind == NODE_BREAK ? "break" : "continue");
    struct node *node = node_new(p, kind, NULL, NULL);
    return end_tag(p) ? node : NULL;
}

/* The statement (or, for `generation`, statements) of the tag that was opened. */
static struct node *parse_block(struct parser *p)
{
    const struct token *name = p->token;
    if (name->kind != TOKEN_NAME)
        return fault_at(p, name->line, "expected a statement, found %.40s", token_text(name));
    p->token++;
    if (!strcmp(name->text, "if"))
        return parse_if(p);
    if (!strcmp(name->text, "for"))
        return parse_for(p);
    if (!strcmp(name->text, "set"))
        return parse_set(p);
    if (!strcmp(name->text, "macro"))
        return parse_macro(p);
    if (!strcmp(name->text, "break"))
        return parse_leave(p, NODE_BREAK);
    if (!strcmp(name->text, "continue"))
        return parse_leave(p, NODE_CONTINUE);
    if (!strcmp(name->text, "generation")) /* marks the assistant's words for training */
        return end_tag(p) ? parse_body(p, "endgeneration") : NULL;
    return fault_at(p, name->line, "the statement '%.40s' is not supported", name->text);
}

/* Statements up to a tag that begins with one of `ends` (its name is the current token then), or,
 * with ends NULL, the template's end. */
static struct node *parse_statements(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **last = &first;
    unsigned begin = ends ? p->token[-1].line : 0; /* of the tag that opened the block */
    if (!deeper(p))
        return NULL;
    while (!p->failed) {
        struct node *node = NULL;
        const struct token *token = p->token;
        if (token->kind == TOKEN_END) {
            if (ends)
                return fault_at(p, begin, "a block that begins here has no '%s'",
                                ends[ends[1] ? ends[2] ? 2 : 1 : 0]);
            break;
        }
        p->token++;
        if (token->kind == TOKEN_DATA) {
            node = node_new(p, NODE_DATA, NULL, NULL);
            if (node) {
                node->name = token->text;
                node->size = token->size;
            }
        } else if (token->kind == TOKEN_PRINT_BEGIN) {
            node = node_new(p, NODE_PRINT, parse_tuple(p), NULL);
            if (!p->failed && p->token->kind != TOKEN_PRINT_END)
                fault_at(p, p->token->line, "expected '}}', found %.40s", token_text(p->token));
            p->token += !p->failed;
        } else {
            for (size_t i = 0; ends && ends[i]; i++)
                if (is_name(p, ends[i])) {
                    p->depth--;
                    return first;
                }
            node = parse_block(p);
        }
        *last = node;
        while (*last) /* `generation` gives its whole body */
            last = &(*last)->next;
    }
    p->depth--;
    return p->failed ? NULL : first;
}

/* ---- macros ------------------------------------------------------------------------------------
 */

/* Whether the template has a macro of this name anywhere. */
static bool has_macro(const struct token *tokens, const char *name)
{
    for (; tokens->kind != TOKEN_END; tokens++)
        if (tokens->kind == TOKEN_NAME && !strcmp(tokens->text, "macro") &&
            tokens[1].kind == TOKEN_NAME && !strcmp(tokens[1].text, name))
            return true;
    return false;
}

/* Every name that is called must be a function or a macro. */
static void check_calls(struct parser *p, const struct token *tokens)
{
    for (const struct node *call = p->calls; call; call = call->d)
        if (!call->call && !has_macro(tokens, call->name))
            fault_at(p, call->line, "the function '%.40s' is not supported", call->name);
}

enum status template_parse(struct template *template, const struct token *tokens, struct error *err)
{
    struct parser parser = {.template = template, .token = tokens, .err = err};
    template->body = parse_statements(&parser, NULL);
    if (!parser.failed)
        check_calls(&parser, tokens);
    return parser.failed ? err->status : STATUS_OK;
}
