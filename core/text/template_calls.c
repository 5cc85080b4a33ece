/*
 * template_calls.c: the filters, tests, methods and functions that templates may call, one row
 * each.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/size.h"
#include "core/text/template_internal.h"

/* ---- filters of all kinds ----------------------------------------------------------------------
 */

static json_t *filter_tojson(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *indent = argument(a, 1, "indent"), *ascii = argument(a, 0, "ensure_ascii");
    size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
    if (!of)
        return run_fail(run, "what has no value cannot be written as JSON");
    if (json_is_integer(indent) && json_integer_value(indent) >= 0 &&
        json_integer_value(indent) < 32)
        flags |= JSON_INDENT((size_t)json_integer_value(indent));
    if (value_truth(ascii))
        flags |= JSON_ENSURE_ASCII;
    if (value_truth(argument(a, 3, "sort_keys")))
        flags |= JSON_SORT_KEYS;
    char *text = json_dumps(of, flags);
    if (!text)
        return run_no_memory(run);
    json_t *value = value_string(run, text, strlen(text));
    free(text);
    return value;
}

static json_t *filter_length(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    size_t n = value_length(of);
    if (json_is_string(of) && !run_spend_bytes(run, json_string_length(of)))
        return NULL;
    return n == SIZE_MAX ? run_fail(run, "%s has no length", value_kind(of))
                         : json_integer((json_int_t)n);
}

static json_t *filter_default(struct run *run, json_t *of, const struct arguments *a)
{
    (void)run;
    bool by_truth = value_truth(argument(a, 1, "boolean"));
    bool keep = by_truth ? value_truth(of) : of != NULL;
    json_t *other = argument(a, 0, "default_value");
    return keep ? json_incref(of) : other ? json_incref(other) : json_string("");
}

static json_t *filter_string(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return value_text(run, of);
}

static json_t *filter_list(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *list = value_list(run, of);
    json_t *copy = list && run_spend(run, json_array_size(list)) ? json_copy(list) : NULL;
    json_decref(list);
    return copy ? copy : run_failed(run) ? NULL : run_no_memory(run);
}

static json_t *at_end(struct run *run, json_t *of, bool last)
{
    json_t *list = value_list(run, of);
    size_t n = json_array_size(list);
    json_t *item = n ? json_incref(json_array_get(list, last ? n - 1 : 0)) : NULL;
    json_decref(list);
    return item;
}

static json_t *filter_first(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return at_end(run, of, false);
}

static json_t *filter_last(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return at_end(run, of, true);
}

static json_t *filter_reverse(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *back = json_integer(-1);
    json_t *value = value_slice(run, of, NULL, NULL, back);
    json_decref(back);
    return value;
}

static json_t *filter_int(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *other = argument(a, 0, "default");
    if (json_is_boolean(of))
        return json_integer(json_is_true(of));
    if (json_is_integer(of))
        return json_incref(of);
    double value = json_is_real(of) ? json_real_value(of) : NAN;
    if (json_is_string(of)) {
        const char *text = json_string_value(of);
        char *end;
        errno = 0;
        long long integer = strtoll(text, &end, 10);
        if (end != text && !*end && !errno)
            return json_integer(integer);
        value = strtod(text, &end);
        if (end == text || *end)
            value = NAN;
    }
    if (fabs(value) < 9e18)
        return json_integer((json_int_t)value);
    (void)run;
    return other ? json_incref(other) : json_integer(0);
}

static json_t *filter_float(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *other = argument(a, 0, "default");
    (void)run;
    if (json_is_number(of))
        return json_real(json_number_value(of));
    char *end = NULL;
    const char *text = json_string_value(of);
    double value = text ? strtod(text, &end) : 0;
    if (text && end != text && !*end && isfinite(value))
        return json_real(value);
    return other ? json_incref(other) : json_real(0);
}

static json_t *filter_abs(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (json_is_integer(of) && json_integer_value(of) > -INT64_MAX)
        return json_integer(llabs(json_integer_value(of)));
    return json_is_real(of) ? json_real(fabs(json_real_value(of)))
                            : run_fail(run, "%s has no 'abs'", value_kind(of));
}

static json_t *filter_same(struct run *run, json_t *of, const struct arguments *a)
{
    (void)run, (void)a;
    return json_incref(of);
}

/* [[key, value], …] */
static json_t *do_items(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (!json_is_object(of))
        return of ? run_fail(run, "%s has no keys", value_kind(of)) : json_array();
    json_t *list = json_array();
    const char *key;
    size_t size;
    json_t *each;
    json_object_keylen_foreach(of, key, size, each)
    {
        json_t *pair = json_array();
        bool fine = run_spend(run, 1) && pair &&
                    !json_array_append_new(pair, json_stringn(key, size)) &&
                    !json_array_append(pair, each) && !json_array_append(list, pair);
        json_decref(pair);
        if (!fine)
            run_no_memory(run);
    }
    return list;
}

static json_t *do_keys(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    return json_is_object(of) ? value_list(run, of)
                              : run_fail(run, "%s has no keys", value_kind(of));
}

static json_t *do_values(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    if (!json_is_object(of))
        return run_fail(run, "%s has no keys", value_kind(of));
    json_t *list = json_array(), *each;
    const char *key;
    json_object_foreach(of, key, each) if (!run_spend(run, 1) || json_array_append(list, each))
        run_no_memory(run);
    return list;
}

static json_t *do_get(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *key = argument(a, 0, NULL), *other = argument(a, 1, "default");
    if (!json_is_object(of))
        return run_fail(run, "%s has no keys", value_kind(of));
    json_t *value = json_is_string(key)
                        ? json_object_getn(of, json_string_value(key), json_string_length(key))
                        : NULL;
    return json_incref(value ? value : other ? other : json_null());
}

static json_t *filter_dictsort(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *items = do_items(run, of, a);
    size_t n = json_array_size(items);
    if (!run_spend(run, n * n / 4))
        n = 0;
    for (size_t i = 1; i < n; i++) /* by insertion: dicts of templates are small */
        for (size_t k = i; k > 0; k--) {
            json_t *x = json_array_get(items, k - 1), *y = json_array_get(items, k);
            if (value_order(json_array_get(x, 0), json_array_get(y, 0)) <= 0)
                break;
            json_incref(x);
            json_array_set(items, k - 1, y);
            json_array_set_new(items, k, x);
        }
    return items;
}

static json_t *filter_unique(struct run *run, json_t *of, const struct arguments *a)
{
    (void)a;
    json_t *list = value_list(run, of), *out = json_array();
    for (size_t i = 0; i < json_array_size(list) && !run_failed(run); i++) {
        json_t *each = json_array_get(list, i);
        if (!value_contains(run, out, each) && !run_failed(run) && json_array_append(out, each))
            run_no_memory(run);
    }
    json_decref(list);
    return out;
}

/* A test by name as `select` and its like call it; *rest are the arguments after its name. */
static bool passes(struct run *run, json_t *value, const struct arguments *a, size_t at)
{
    const json_t *name = argument(a, at, NULL);
    if (!name)
        return value_truth(value);
    const struct call_row *test =
        json_is_string(name) ? call_find(CALL_TEST, json_string_value(name)) : NULL;
    if (!test) {
        run_fail(run, "the test '%.40s' is not supported",
                 json_is_string(name) ? json_string_value(name) : value_kind(name));
        return false;
    }
    struct arguments rest = {0};
    for (size_t i = at + 1; i < a->n; i++)
        rest.values[rest.n++] = a->values[i];
    json_t *result = call_run(run, test, value, &rest);
    bool is = value_truth(result);
    json_decref(result);
    return is;
}

static json_t *choose(struct run *run, json_t *of, const struct arguments *a, bool by_field,
                      bool wanted)
{
    json_t *list = value_list(run, of), *out = json_array();
    const json_t *field = by_field ? argument(a, 0, NULL) : NULL;
    if (by_field && !json_is_string(field))
        run_fail(run, "expected a field's name, found %s", value_kind(field));
    for (size_t i = 0; i < json_array_size(list) && run_spend(run, 1); i++) {
        json_t *each = json_array_get(list, i);
        json_t *value = by_field ? json_object_get(each, json_string_value(field)) : each;
        if (passes(run, value, a, by_field ? 1 : 0) == wanted && !run_failed(run) &&
            json_array_append(out, each))
            run_no_memory(run);
    }
    json_decref(list);
    return out ? out : run_no_memory(run);
}

#define CHOOSE_CALL(function, by_field, wanted)                                                    \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        return choose(run, of, a, by_field, wanted);                                               \
    }
CHOOSE_CALL(filter_select, false, true)
CHOOSE_CALL(filter_reject, false, false)
CHOOSE_CALL(filter_selectattr, true, true)
CHOOSE_CALL(filter_rejectattr, true, false)

static json_t *filter_map(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *field = argument(a, SIZE_MAX, "attribute"), *name = argument(a, 0, NULL);
    json_t *other = argument(a, SIZE_MAX, "default");
    const struct call_row *filter =
        json_is_string(name) ? call_find(CALL_FILTER, json_string_value(name)) : NULL;
    struct arguments rest = {0};
    if (!json_is_string(field) && !filter)
        return run_fail(run, "'map' needs a field ('attribute') or a filter that is supported");
    for (size_t i = 1; i < a->n; i++)
        rest.values[rest.n++] = a->values[i];
    json_t *list = value_list(run, of), *out = json_array();
    for (size_t i = 0; i < json_array_size(list) && run_spend(run, 1); i++) {
        json_t *each = json_array_get(list, i), *value;
        if (filter)
            value = call_run(run, filter, each, &rest);
        else if (!(value = json_incref(json_object_get(each, json_string_value(field)))))
            value = json_incref(other);
        if (!run_failed(run) && json_array_append_new(out, value ? value : json_null()))
            run_no_memory(run);
    }
    json_decref(list);
    return out ? out : run_no_memory(run);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

#define TEST_CALL(function, condition)                                                             \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        (void)run, (void)of, (void)a;                                                              \
        return value_bool(condition);                                                              \
    }
TEST_CALL(test_defined, of != NULL)
TEST_CALL(test_undefined, of == NULL)
TEST_CALL(test_none, json_is_null(of))
TEST_CALL(test_string, json_is_string(of))
TEST_CALL(test_number, json_is_number(of) || json_is_boolean(of))
TEST_CALL(test_integer, json_is_integer(of))
TEST_CALL(test_float, json_is_real(of))
TEST_CALL(test_boolean, json_is_boolean(of))
TEST_CALL(test_true, json_is_true(of))
TEST_CALL(test_false, json_is_false(of))
TEST_CALL(test_mapping, json_is_object(of))
TEST_CALL(test_iterable, !of || value_length(of) != SIZE_MAX)
TEST_CALL(test_sequence, of &&value_length(of) != SIZE_MAX)
TEST_CALL(test_odd, json_is_integer(of) && json_integer_value(of) % 2 != 0)
TEST_CALL(test_even, json_is_integer(of) && json_integer_value(of) % 2 == 0)
TEST_CALL(test_equal, value_equal(of, argument(a, 0, NULL)))
TEST_CALL(test_unequal, !value_equal(of, argument(a, 0, NULL)))
TEST_CALL(test_in, value_contains(run, argument(a, 0, NULL), of))
TEST_CALL(test_callable, false)

static json_t *test_divisible(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *by = argument(a, 0, NULL);
    if (!json_is_integer(of) || !json_is_integer(by) || !json_integer_value(by))
        return run_fail(run, "'divisibleby' is for whole numbers, and not 0");
    return value_bool(json_integer_value(by) == -1 ||
                      json_integer_value(of) % json_integer_value(by) == 0);
}

static json_t *ordered(struct run *run, const json_t *of, const struct arguments *a, int want,
                       bool or_equal)
{
    int order = value_order(of, argument(a, 0, NULL));
    if (order == 2)
        return run_fail(run, "%s and %s have no order", value_kind(of),
                        value_kind(argument(a, 0, NULL)));
    return value_bool(order == want || (or_equal && !order));
}

#define ORDER_CALL(function, want, or_equal)                                                       \
    static json_t *function(struct run *run, json_t *of, const struct arguments *a)                \
    {                                                                                              \
        return ordered(run, of, a, want, or_equal);                                                \
    }
ORDER_CALL(test_less, -1, false)
ORDER_CALL(test_less_equal, -1, true)
ORDER_CALL(test_greater, 1, false)
ORDER_CALL(test_greater_equal, 1, true)

/* ---- functions ---------------------------------------------------------------------------------
 */

static json_t *make_dict(struct run *run, json_t *of, const struct arguments *a)
{
    (void)of;
    json_t *made = json_object();
    for (size_t i = a->n; i < a->n + a->n_named && made; i++)
        if (json_object_set_new(made, a->names[i], value_copy(run, a->values[i])))
            run_no_memory(run);
    return value_own(run, made);
}

static json_t *function_namespace(struct run *run, json_t *of, const struct arguments *a)
{
    json_t *made = make_dict(run, of, a);
    if (made && json_array_append(run->namespaces, made)) {
        json_decref(made);
        return run_no_memory(run);
    }
    return made;
}

static json_t *function_range(struct run *run, json_t *of, const struct arguments *a)
{
    long long bounds[3] = {0, 0, 1};
    (void)of;
    for (size_t i = 0; i < a->n && i < ARRAY_LENGTH(bounds); i++) {
        if (!json_is_integer(a->values[i]))
            return run_fail(run, "'range' takes whole numbers, not %s", value_kind(a->values[i]));
        bounds[i] = json_integer_value(a->values[i]);
    }
    if (a->n < 1 || a->n > 3 || !bounds[2])
        return run_fail(run, "'range' takes one to three numbers, the third not 0");
    if (a->n == 1) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    json_t *list = json_array();
    for (long long at = bounds[0]; list && (bounds[2] > 0 ? at < bounds[1] : at > bounds[1]);) {
        if (json_array_size(list) >= TEMPLATE_ITEMS_MAX)
            run_fail(run, "a range of more than %d numbers", TEMPLATE_ITEMS_MAX);
        if (!run_spend(run, 1))
            break;
        if (json_array_append_new(list, json_integer(at)))
            run_no_memory(run);
        if (__builtin_add_overflow(at, bounds[2], &at))
            break;
    }
    return list ? list : run_no_memory(run);
}

static json_t *function_raise(struct run *run, json_t *of, const struct arguments *a)
{
    const json_t *text = argument(a, 0, "message");
    (void)of;
    return run_fail(run, "%.200s", json_is_string(text) ? json_string_value(text) : "it refuses");
}

static json_t *function_now(struct run *run, json_t *of, const struct arguments *a)
{
    enum { FORMAT_MAX = 64 };
    struct text format;
    char text[256];
    struct tm parts;
    time_t now = time(NULL);
    (void)of;
    if (!string_argument(run, argument(a, 0, "format"), &format))
        return NULL;
    if (format.size > FORMAT_MAX || !localtime_r(&now, &parts))
        return run_fail(run, "a time's format of more than %d bytes", FORMAT_MAX);
    size_t n = strftime(text, sizeof text, format.data, &parts);
    return value_string(run, text, n);
}

/* ---- the table ---------------------------------------------------------------------------------
 */

static const struct call_row rows[] = {
    {CALL_FILTER, "tojson", filter_tojson},
    {CALL_FILTER, "length", filter_length},
    {CALL_FILTER, "count", filter_length},
    {CALL_FILTER, "default", filter_default},
    {CALL_FILTER, "d", filter_default},
    {CALL_FILTER, "first", filter_first},
    {CALL_FILTER, "last", filter_last},
    {CALL_FILTER, "reverse", filter_reverse},
    {CALL_FILTER, "list", filter_list},
    {CALL_FILTER, "string", filter_string},
    {CALL_FILTER, "int", filter_int},
    {CALL_FILTER, "float", filter_float},
    {CALL_FILTER, "abs", filter_abs},
    {CALL_FILTER, "safe", filter_same},
    {CALL_FILTER, "items", do_items},
    {CALL_FILTER, "dictsort", filter_dictsort},
    {CALL_FILTER, "unique", filter_unique},
    {CALL_FILTER, "map", filter_map},
    {CALL_FILTER, "select", filter_select},
    {CALL_FILTER, "reject", filter_reject},
    {CALL_FILTER, "selectattr", filter_selectattr},
    {CALL_FILTER, "rejectattr", filter_rejectattr},

    {CALL_TEST, "defined", test_defined},
    {CALL_TEST, "undefined", test_undefined},
    {CALL_TEST, "none", test_none},
    {CALL_TEST, "None", test_none},
    {CALL_TEST, "string", test_string},
    {CALL_TEST, "number", test_number},
    {CALL_TEST, "integer", test_integer},
    {CALL_TEST, "float", test_float},
    {CALL_TEST, "boolean", test_boolean},
    {CALL_TEST, "true", test_true},
    {CALL_TEST, "false", test_false},
    {CALL_TEST, "True", test_true},
    {CALL_TEST, "False", test_false},
    {CALL_TEST, "mapping", test_mapping},
    {CALL_TEST, "iterable", test_iterable},
    {CALL_TEST, "sequence", test_sequence},
    {CALL_TEST, "callable", test_callable},
    {CALL_TEST, "odd", test_odd},
    {CALL_TEST, "even", test_even},
    {CALL_TEST, "divisibleby", test_divisible},
    {CALL_TEST, "equalto", test_equal},
    {CALL_TEST, "eq", test_equal},
    {CALL_TEST, "==", test_equal},
    {CALL_TEST, "sameas", test_equal},
    {CALL_TEST, "ne", test_unequal},
    {CALL_TEST, "!=", test_unequal},
    {CALL_TEST, "in", test_in},
    {CALL_TEST, "lt", test_less},
    {CALL_TEST, "le", test_less_equal},
    {CALL_TEST, "gt", test_greater},
    {CALL_TEST, "ge", test_greater_equal},

    {CALL_METHOD, "items", do_items},
    {CALL_METHOD, "keys", do_keys},
    {CALL_METHOD, "values", do_values},
    {CALL_METHOD, "get", do_get},

    {CALL_FUNCTION, "namespace", function_namespace},
    {CALL_FUNCTION, "dict", make_dict},
    {CALL_FUNCTION, "range", function_range},
    {CALL_FUNCTION, "raise_exception", function_raise},
    {CALL_FUNCTION, "strftime_now", function_now},
};

const struct call_row *call_find(enum call_kind kind, const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        if (rows[i].kind == kind && !strcmp(rows[i].name, name))
            return &rows[i];
    for (size_t i = 0; i < n_template_string_calls; i++)
        if (template_string_calls[i].kind == kind && !strcmp(template_string_calls[i].name, name))
            return &template_string_calls[i];
    return NULL;
}

json_t *call_run(struct run *run, const struct call_row *call, json_t *of,
                 const struct arguments *arguments)
{
    json_t *value = run_spend(run, 1) ? call->run(run, of, arguments) : NULL;
    if (!run->failed)
        return value;
    json_decref(value);
    return NULL;
}
