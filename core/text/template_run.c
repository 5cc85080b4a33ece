/*
 * template_run.c: walks a template's tree. A scope is made for every turn of a loop, every macro
 * call and every block that is set; what is set in it is gone after it (as in Jinja: a namespace
 * carries values out of a loop). Macros see the outermost scope and their parameters.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/template_internal.h"

enum { BYTES_PER_STEP = 64, VARIABLE_BYTES_MAX = 1 << 26 };

json_t *run_fail(struct run *run, const char *format, ...)
{
    char text[ERROR_MESSAGE_MAX];
    if (run->failed)
        return NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    run->failed = true;
    error_set(run->err, STATUS_UNPROCESSABLE, "chat template, line %u: %s", run->line, text);
    return NULL;
}

json_t *run_no_memory(struct run *run)
{
    if (!run->failed)
        error_no_memory(run->err, "a template's text");
    run->failed = true;
    return NULL;
}

bool run_spend(struct run *run, size_t steps)
{
    if (run->failed)
        return false;
    if (steps > TEMPLATE_STEPS_MAX - run->steps) {
        run_fail(run, "it takes more than %d steps", TEMPLATE_STEPS_MAX);
        return false;
    }
    run->steps += steps;
    return true;
}

bool run_spend_bytes(struct run *run, size_t bytes)
{
    return run_spend(run, bytes / BYTES_PER_STEP + 1);
}

static bool enter(struct run *run)
{
    if (++run->depth <= TEMPLATE_CALLS_MAX)
        return run_spend(run, 1);
    run_fail(run, "expressions or macros are nested deeper than %d", TEMPLATE_CALLS_MAX);
    return false;
}

/* ---- variables ---------------------------------------------------------------------------------
 */

static struct variable *find_in(const struct scope *scope, const char *name)
{
    for (struct variable *each = scope->first; each; each = each->next)
        if (!strcmp(each->name, name))
            return each;
    return NULL;
}

static const struct variable *find(const struct run *run, const char *name)
{
    for (const struct scope *scope = run->scope; scope; scope = scope->outer) {
        const struct variable *found = find_in(scope, name);
        if (found)
            return found;
    }
    return NULL;
}

/* Takes the value; macro NULL for values. */
static void assign(struct run *run, const char *name, json_t *value, const struct node *macro)
{
    struct variable *variable = find_in(run->scope, name);
    if (!variable) {
        variable = run->spare;
        if (variable)
            run->spare = variable->next;
        else if (!run->failed)
            variable = arena_alloc(&run->arena, sizeof *variable);
        if (!variable) {
            json_decref(value);
            run_no_memory(run);
            return;
        }
        *variable = (struct variable){.name = name, .next = run->scope->first};
        run->scope->first = variable;
    }
    json_decref(variable->value);
    variable->value = value;
    variable->macro = macro;
}

static void scope_begin(struct run *run, struct scope *scope, struct scope *outer)
{
    *scope = (struct scope){.outer = outer};
    run->scope = scope;
}

static void scope_end(struct run *run, struct scope *scope, struct scope *back_to)
{
    for (struct variable *each = scope->first, *next; each; each = next) {
        next = each->next;
        json_decref(each->value);
        each->next = run->spare;
        run->spare = each;
    }
    run->scope = back_to;
}

/* ---- expressions -------------------------------------------------------------------------------
 */

static json_t *evaluate(struct run *run, const struct node *node);
static void execute(struct run *run, const struct node *node);

static bool truth(struct run *run, const struct node *node)
{
    json_t *value = evaluate(run, node);
    bool is_true = value_truth(value);
    json_decref(value);
    return is_true;
}

static void read_arguments(struct run *run, const struct node *node, struct arguments *out)
{
    *out = (struct arguments){0};
    for (; node && !run->failed; node = node->next) {
        size_t i = out->n + out->n_named;
        out->values[i] = evaluate(run, node->a);
        out->names[i] = node->name;
        if (node->name)
            out->n_named++;
        else
            out->n++;
    }
}

static void release_arguments(struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->n + arguments->n_named; i++)
        json_decref(arguments->values[i]);
}

json_t *argument(const struct arguments *arguments, size_t i, const char *name)
{
    if (i < arguments->n)
        return arguments->values[i];
    for (size_t k = arguments->n; name && k < arguments->n + arguments->n_named; k++)
        if (!strcmp(arguments->names[k], name))
            return arguments->values[k];
    return NULL;
}

/* Runs statements with their text kept apart. */
static json_t *capture(struct run *run, const struct node *body)
{
    struct buffer *out = run->out, text;
    buffer_init(&text, TEMPLATE_VALUE_BYTES_MAX);
    run->out = &text;
    execute(run, body);
    run->out = out;
    json_t *value = run->failed ? NULL : value_string(run, text.data, text.size);
    buffer_release(&text);
    return value;
}

static json_t *call_macro(struct run *run, const struct node *macro,
                          const struct arguments *arguments)
{
    struct scope scope, *back_to = run->scope;
    scope_begin(run, &scope, run->globals);
    size_t i = 0;
    for (const struct node *each = macro->a; each && !run->failed; each = each->next, i++) {
        json_t *value = json_incref(argument(arguments, i, each->name));
        if (!value && each->a)
            value = evaluate(run, each->a);
        assign(run, each->name, value, NULL);
    }
    if (arguments->n > i)
        run_fail(run, "the macro '%.40s' takes %zu arguments, not %zu", macro->name, i,
                 arguments->n);
    json_t *text = run->failed ? NULL : capture(run, macro->b);
    scope_end(run, &scope, back_to);
    return text;
}

static json_t *call(struct run *run, const struct node *node)
{
    struct arguments arguments;
    const struct variable *variable = node->kind == NODE_CALL ? find(run, node->name) : NULL;
    json_t *of = node->a ? evaluate(run, node->a) : NULL, *value = NULL;
    read_arguments(run, node->b, &arguments);
    run->line = node->line;
    if (run->failed)
        value = NULL;
    else if (variable && variable->macro)
        value = call_macro(run, variable->macro, &arguments);
    else if (node->call)
        value = call_run(run, node->call, of, &arguments);
    else
        run_fail(run, "'%.40s' is not yet defined here", node->name);
    release_arguments(&arguments);
    json_decref(of);
    return value;
}

static json_t *compare(struct run *run, const struct node *node)
{
    json_t *a = evaluate(run, node->a), *b = run->failed ? NULL : evaluate(run, node->b);
    const char *operator= node->name;
    bool is = false;
    run->line = node->line;
    if (run->failed) {
        is = false;
    } else if (!strcmp(operator, "in") || !strcmp(operator, "not in")) {
        is = value_contains(run, b, a) == (operator[0] == 'i');
    } else if (operator[1] == '=' &&(operator[0] == '=' || operator[0] == '!')) {
        if (run_spend_bytes(run, json_is_string(a) ? json_string_length(a) : 1))
            is = value_equal(a, b) == (operator[0] == '=');
    } else {
        int order = value_order(a, b);
        if (order == 2)
            run_fail(run, "%s and %s have no order", value_kind(a), value_kind(b));
        is = (operator[0] == '<' && order<0) || (operator[0] == '>' && order> 0) ||
             (operator[1] == '=' && !order);
    }
    json_decref(a);
    json_decref(b);
    return run->failed ? NULL : value_bool(is);
}

static json_t *make_list(struct run *run, const struct node *items)
{
    json_t *list = json_array();
    for (; items && list && !run->failed; items = items->next) {
        json_t *value = evaluate(run, items->a);
        if (!run->failed && json_array_append_new(list, value ? value : json_null()))
            run_no_memory(run);
    }
    return value_own(run, list);
}

static json_t *make_dict(struct run *run, const struct node *items)
{
    json_t *dict = json_object();
    for (; items && dict && !run->failed; items = items->next->next) {
        json_t *key = evaluate(run, items->a);
        json_t *value = run->failed ? NULL : evaluate(run, items->next->a);
        if (!run->failed && !json_is_string(key))
            run_fail(run, "a dict's key must be a string, not %s", value_kind(key));
        if (run->failed)
            json_decref(value);
        else if (json_object_setn_new(dict, json_string_value(key), json_string_length(key),
                                      value ? value : json_null()))
            run_no_memory(run);
        json_decref(key);
    }
    return value_own(run, dict);
}

static json_t *negative(struct run *run, const struct node *node)
{
    json_t *value = evaluate(run, node->a), *zero = json_integer(0), *out = NULL;
    if (!run->failed && zero)
        out = json_is_number(value) ? value_binary(run, "-", zero, value)
                                    : run_fail(run, "%s has no '-'", value_kind(value));
    json_decref(value);
    json_decref(zero);
    return out;
}

/* What takes the values of two (or more) parts. */
static json_t *of_parts(struct run *run, const struct node *node)
{
    json_t *parts[4] = {NULL}, *out = NULL;
    const struct node *nodes[] = {node->a, node->b, node->c, node->d};
    for (size_t i = 0; i < ARRAY_LENGTH(parts) && !run->failed; i++)
        parts[i] = nodes[i] ? evaluate(run, nodes[i]) : NULL;
    run->line = node->line;
    if (run->failed)
        out = NULL;
    else if (node->kind == NODE_FIELD)
        out = value_field(run, parts[0], node->name);
    else if (node->kind == NODE_ITEM)
        out = value_item(run, parts[0], parts[1]);
    else if (node->kind == NODE_SLICE)
        out = value_slice(run, parts[0], parts[1], parts[2], parts[3]);
    else
        out = value_binary(run, node->name, parts[0], parts[1]);
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++)
        json_decref(parts[i]);
    return out;
}

static json_t *evaluate_kind(struct run *run, const struct node *node)
{
    json_t *value;
    switch (node->kind) {
    case NODE_VALUE:
        return json_incref(node->value);
    case NODE_NAME: {
        const struct variable *variable = find(run, node->name);
        return variable ? json_incref(variable->value) : NULL;
    }
    case NODE_LIST:
        return make_list(run, node->a);
    case NODE_DICT:
        return make_dict(run, node->a);
    case NODE_CALL:
    case NODE_METHOD:
    case NODE_FILTER:
    case NODE_TEST:
        return call(run, node);
    case NODE_NOT: {
        bool is = truth(run, node->a);
        return run->failed ? NULL : value_bool(!is);
    }
    case NODE_NEGATIVE:
        return negative(run, node);
    case NODE_AND:
    case NODE_OR:
        value = evaluate(run, node->a);
        if (run->failed || value_truth(value) == (node->kind == NODE_OR))
            return value;
        json_decref(value);
        return evaluate(run, node->b);
    case NODE_CONDITION:
        if (truth(run, node->b))
            return evaluate(run, node->a);
        return node->c && !run->failed ? evaluate(run, node->c) : NULL;
    case NODE_COMPARE:
        return compare(run, node);
    default:
        return of_parts(run, node);
    }
}

static json_t *evaluate(struct run *run, const struct node *node)
{
    if (!enter(run))
        return NULL;
    run->line = node->line;
    json_t *value = evaluate_kind(run, node);
    run->depth--;
    if (!run->failed)
        return value;
    json_decref(value);
    return NULL;
}

/* ---- statements --------------------------------------------------------------------------------
 */

static void set_item(json_t *object, const char *key, json_t *value)
{
    if (value)
        json_object_set(object, key, value);
}

static json_t *loop_values(struct run *run, const json_t *items, size_t i)
{
    size_t n = json_array_size(items);
    json_t *loop = json_object();
    const struct {
        const char *key;
        json_t *value;
    } values[] = {{"index", json_integer((json_int_t)i + 1)},
                  {"index0", json_integer((json_int_t)i)},
                  {"revindex", json_integer((json_int_t)(n - i))},
                  {"revindex0", json_integer((json_int_t)(n - i - 1))},
                  {"length", json_integer((json_int_t)n)},
                  {"first", json_boolean(i == 0)},
                  {"last", json_boolean(i + 1 == n)}};
    bool fine = loop != NULL;
    for (size_t k = 0; k < ARRAY_LENGTH(values); k++)
        fine = !json_object_set_new(loop, values[k].key, values[k].value) && fine;
    if (!fine) {
        json_decref(loop);
        return run_no_memory(run);
    }
    if (i)
        set_item(loop, "previtem", json_array_get(items, i - 1));
    if (i + 1 < n)
        set_item(loop, "nextitem", json_array_get(items, i + 1));
    return loop;
}

static void bind_item(struct run *run, const struct node *node, json_t *item)
{
    if (!node->name2) {
        assign(run, node->name, json_incref(item), NULL);
        return;
    }
    if (!json_is_array(item) || json_array_size(item) != 2) {
        run_fail(run, "a loop over pairs found %s", value_kind(item));
        return;
    }
    assign(run, node->name, json_incref(json_array_get(item, 0)), NULL);
    assign(run, node->name2, json_incref(json_array_get(item, 1)), NULL);
}

/* The items that the loop's condition lets through. */
static json_t *chosen_items(struct run *run, const struct node *node)
{
    json_t *of = evaluate(run, node->a);
    json_t *items = run->failed ? NULL : value_list(run, of);
    json_decref(of);
    if (!items || !node->d)
        return items;
    json_t *chosen = json_array();
    for (size_t i = 0; i < json_array_size(items) && chosen && !run->failed; i++) {
        struct scope scope, *back_to = run->scope;
        json_t *item = json_array_get(items, i);
        scope_begin(run, &scope, back_to);
        bind_item(run, node, item);
        if (!run->failed && truth(run, node->d) && json_array_append(chosen, item))
            run_no_memory(run);
        scope_end(run, &scope, back_to);
    }
    json_decref(items);
    return chosen ? chosen : run_no_memory(run);
}

static void execute_for(struct run *run, const struct node *node)
{
    json_t *items = chosen_items(run, node);
    size_t n = json_array_size(items);
    for (size_t i = 0; i < n && !run->failed && run->leaving != NODE_BREAK; i++) {
        struct scope scope, *back_to = run->scope;
        run->leaving = 0;
        scope_begin(run, &scope, back_to);
        bind_item(run, node, json_array_get(items, i));
        if (!run->failed)
            assign(run, "loop", loop_values(run, items, i), NULL);
        execute(run, node->b);
        scope_end(run, &scope, back_to);
        run_spend(run, 1);
    }
    run->leaving = 0;
    if (items && !n)
        execute(run, node->c);
    json_decref(items);
}

static void execute_set(struct run *run, const struct node *node)
{
    json_t *value = evaluate(run, node->a);
    if (run->failed)
        return;
    if (!node->name2) {
        assign(run, node->name, value, NULL);
        return;
    }
    const struct variable *variable = find(run, node->name);
    bool is_namespace = false;
    for (size_t i = 0; variable && i < json_array_size(run->namespaces); i++)
        is_namespace |= json_array_get(run->namespaces, i) == variable->value;
    if (!is_namespace)
        run_fail(run, "'%.40s' is no namespace, so its fields cannot be set", node->name);
    else if (json_object_set_new(variable->value, node->name2, value_copy(run, value)))
        run_no_memory(run);
    json_decref(value);
}

static void execute_one(struct run *run, const struct node *node)
{
    json_t *value;
    struct scope scope, *back_to = run->scope;
    switch (node->kind) {
    case NODE_DATA:
        if (run_spend_bytes(run, node->size) && !buffer_append(run->out, node->name, node->size))
            run_fail(run, "more than %zu bytes of text", run->out->max_bytes);
        return;
    case NODE_PRINT:
        value = evaluate(run, node->a);
        if (!run->failed)
            value_write(run, value, run->out);
        json_decref(value);
        return;
    case NODE_IF:
        execute(run, truth(run, node->a) ? node->b : node->c);
        return;
    case NODE_FOR:
        execute_for(run, node);
        return;
    case NODE_SET:
        execute_set(run, node);
        return;
    case NODE_SET_TEXT:
        scope_begin(run, &scope, back_to);
        value = capture(run, node->b);
        scope_end(run, &scope, back_to);
        if (!run->failed)
            assign(run, node->name, value, NULL);
        return;
    case NODE_MACRO:
        assign(run, node->name, NULL, node);
        return;
    default:
        run->leaving = (int)node->kind;
        return;
    }
}

static void execute(struct run *run, const struct node *node)
{
    if (!node || !enter(run))
        return;
    for (; node && !run->failed && !run->leaving; node = node->next) {
        run->line = node->line;
        execute_one(run, node);
        run_spend(run, 1);
    }
    run->depth--;
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

struct template *template_compile(const char *source, size_t size, struct error *err)
{
    if (size > TEMPLATE_BYTES_MAX) {
        error_set(err, STATUS_BAD_CHECKPOINT, "a template of %zu bytes; at most %d are read", size,
                  TEMPLATE_BYTES_MAX);
        return NULL;
    }
    struct template *template = calloc(1, sizeof *template);
    if (!template) {
        error_no_memory(err, "a template");
        return NULL;
    }
    arena_init(&template->arena, 0);
    template->constants = json_array();
    char *text = arena_alloc(&template->arena, size + 1);
    size_t n = 0;
    for (size_t i = 0; text && i < size; i++) /* newlines are "\n" */
        if (source[i] != '\r')
            text[n++] = source[i];
        else if (i + 1 >= size || source[i + 1] != '\n')
            text[n++] = '\n';
    struct token *tokens = NULL;
    if (!text || !template->constants)
        error_no_memory(err, "a template");
    else
        tokens = template_lex(&template->arena, text, n, err);
    if (!tokens || template_parse(template, tokens, err)) {
        template_free(template);
        return NULL;
    }
    return template;
}

void template_free(struct template *template)
{
    if (!template)
        return;
    json_decref(template->constants);
    arena_release(&template->arena);
    free(template);
}

enum status template_render(const struct template *template, const json_t *variables,
                            struct buffer *out, struct error *err)
{
    struct run run = {.err = err, .out = out};
    struct scope globals;
    const char *key;
    json_t *value;
    arena_init(&run.arena, VARIABLE_BYTES_MAX);
    run.namespaces = json_array();
    scope_begin(&run, &globals, NULL);
    run.globals = &globals;
    if (!run.namespaces)
        run_no_memory(&run);
    json_object_foreach((json_t *)variables, key, value)
        assign(&run, key, json_incref(value), NULL);
    execute(&run, template->body);
    scope_end(&run, &globals, NULL);
    json_decref(run.namespaces);
    arena_release(&run.arena);
    return run.failed ? err->status : STATUS_OK;
}
