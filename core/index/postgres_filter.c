/*
 * postgres_filter.c: filter.c's language as SQL over jsonb.
 *
 * The shape of a filter becomes SQL text made of the constant pieces below; every key and value is
 * a parameter. Each piece is true or false for every item, never null, so that `not` means what it
 * says. Numbers compare as doubles and texts byte by byte, as in filter.c; `facts` was written by
 * the same JSON library (postgres.c), so that a number that it took is one here.
 *
 * Two things are not said in SQL, and left to the caller: values that are lists or objects (jsonb
 * takes [1] and [1.0] for equal), and keys of more than DOTS_MAX dots.
 */
#include <string.h>

#include "core/base/size.h"
#include "core/index/postgres_internal.h"

enum { DOTS_MAX = 8, PART_MAX = 255 /* as filter.c has it */, VALUE_SQL_MAX = 4096 };

struct translation {
    struct buffer *sql;
    struct parameters *parameters;
    bool failed;
};

static void put(struct translation *t, const char *text)
{
    t->failed = t->failed || !buffer_puts(t->sql, text);
}

/* Text that lives as long as the parameters. */
static int bind_owned(struct translation *t, char *text, bool is_json)
{
    struct parameters *p = t->parameters;
    if (!text || p->n_own == POSTGRES_PARAMETERS_MAX) {
        free(text);
        t->failed = true;
        return 0;
    }
    p->own[p->n_own++] = text;
    return is_json ? bind_json(p, text) : bind_text(p, text);
}

/* The member that a key means, as SQL: its own name, else (with dots) the ways into nested objects,
 * as filter.c's lookup() takes them. */
static void say_member(struct translation *t, const char *key, struct buffer *out)
{
    char way[VALUE_SQL_MAX] = "facts";
    bool fits = buffer_puts(out, "COALESCE(");
    for (int dots = 0;; dots++) {
        fits = fits && buffer_printf(out, "%s%s->$%d", dots ? ", " : "", way,
                                     bind_owned(t, strdup(key), false));
        const char *dot = strchr(key, '.');
        if (!dot)
            break;
        if (dot - key > PART_MAX)
            break; /* lookup() gives up here too */
        size_t used = strlen(way);
        if (dots == DOTS_MAX) {
            fits = false;
            break;
        }
        int part = bind_owned(t, strndup(key, (size_t)(dot - key)), false);
        snprintf(way + used, sizeof way - used, "->$%d", part);
        key = dot + 1;
    }
    t->failed = t->failed || !fits || !buffer_puts(out, ")");
}

/* `member` (SQL) equals a plain value. */
static void say_equal(struct translation *t, const char *member, const json_t *value)
{
    if (json_is_number(value)) {
        int n = bind_double(t->parameters, json_number_value(value));
        t->failed =
            t->failed ||
            !buffer_printf(t->sql,
                           "COALESCE(CASE WHEN jsonb_typeof(%s) = 'number' THEN (%s)::float8"
                           " = $%d END, false)",
                           member, member, n);
    } else if (json_is_array(value) || json_is_object(value)) {
        t->failed = true;
    } else {
        int n = bind_owned(t, json_dumps(value, JSON_ENCODE_ANY), true);
        t->failed = t->failed || !buffer_printf(t->sql, "(%s IS NOT DISTINCT FROM $%d)", member, n);
    }
}

static void say_any(struct translation *t, const char *member, const json_t *values)
{
    size_t i;
    const json_t *value;
    put(t, "(false");
    json_array_foreach(values, i, value)
    {
        put(t, " OR ");
        say_equal(t, member, value);
    }
    put(t, ")");
}

static void say_order(struct translation *t, const char *member, const char *comparison,
                      const json_t *value)
{
    bool is_number = json_is_number(value);
    int n = is_number ? bind_double(t->parameters, json_number_value(value))
                      : bind_owned(t, strdup(json_string_value(value)), false);
    t->failed = t->failed ||
                !(is_number ? buffer_printf(t->sql,
                                            "COALESCE(CASE WHEN jsonb_typeof(%s) = 'number' THEN "
                                            "(%s)::float8 %s $%d END, false)",
                                            member, member, comparison, n)
                            : buffer_printf(t->sql,
                                            "COALESCE(CASE WHEN jsonb_typeof(%s) = 'string' THEN "
                                            "((%s) #>> '{}') COLLATE \"C\" %s $%d END, false)",
                                            member, member, comparison, n));
}

static void say_condition(struct translation *t, const char *member, const char *operator,
                          const json_t * wanted)
{
    static const struct {
        const char *name, *sql;
    } comparisons[] = {{"gt", ">"}, {"gte", ">="}, {"lt", "<"}, {"lte", "<="}};
    for (size_t i = 0; i < ARRAY_LENGTH(comparisons); i++)
        if (!strcmp(operator, comparisons[i].name)) {
            say_order(t, member, comparisons[i].sql, wanted);
            return;
        }
    if (!strcmp(operator, "exists")) {
        t->failed = t->failed || !buffer_printf(t->sql, "(%s IS %sNULL)", member,
                                                json_is_true(wanted) ? "NOT " : "");
    } else if (!strcmp(operator, "prefix")) {
        int n = bind_owned(t, strdup(json_string_value(wanted)), false);
        t->failed =
            t->failed || !buffer_printf(t->sql,
                                        "COALESCE(CASE WHEN jsonb_typeof(%s) = 'string' THEN "
                                        "starts_with((%s) #>> '{}', $%d) END, false)",
                                        member, member, n);
    } else if (!strcmp(operator, "in")) {
        say_any(t, member, wanted);
    } else { /* ne */
        put(t, "NOT ");
        say_equal(t, member, wanted);
    }
}

static void say_filter(struct translation *t, const json_t *filter);

/* The filters of a list joined by AND or OR; `none` is what an empty list gives. */
static void say_list(struct translation *t, const json_t *list, const char *joint, const char *none)
{
    size_t i;
    const json_t *part;
    put(t, "(");
    put(t, none);
    json_array_foreach(list, i, part)
    {
        put(t, joint);
        say_filter(t, part);
    }
    put(t, ")");
}

static void say_key(struct translation *t, const char *key, const json_t *condition)
{
    struct buffer member;
    buffer_init(&member, VALUE_SQL_MAX);
    say_member(t, key, &member);
    if (t->failed) {
        buffer_release(&member);
        return;
    }
    if (json_is_object(condition)) {
        const char *operator;
        json_t *wanted;
        put(t, "(true");
        json_object_foreach((json_t *)condition, operator, wanted)
        {
            put(t, " AND ");
            say_condition(t, member.data, operator, wanted);
        }
        put(t, ")");
    } else {
        say_equal(t, member.data, condition);
    }
    buffer_release(&member);
}

static void say_filter(struct translation *t, const json_t *filter)
{
    const char *key;
    json_t *value;
    put(t, "(true");
    json_object_foreach((json_t *)filter, key, value)
    {
        if (t->failed)
            return;
        put(t, " AND ");
        if (!strcmp(key, "not")) {
            put(t, "NOT ");
            say_filter(t, value);
        } else if (!strcmp(key, "and")) {
            say_list(t, value, " AND ", "true");
        } else if (!strcmp(key, "or")) {
            say_list(t, value, " OR ", "false");
        } else {
            say_key(t, key, value);
        }
    }
    put(t, ")");
}

bool filter_to_sql(const json_t *filter, struct buffer *sql, struct parameters *parameters)
{
    struct translation t = {.sql = sql, .parameters = parameters};
    const size_t size = sql->size;
    const int n = parameters->n, n_own = parameters->n_own;
    say_filter(&t, filter);
    if (!t.failed && !parameters->overflow)
        return true;
    while (parameters->n_own > n_own)
        free(parameters->own[--parameters->n_own]);
    parameters->n = n;
    parameters->overflow = false;
    if (sql->data) {
        sql->size = size;
        sql->data[size] = '\0';
    }
    return false;
}
