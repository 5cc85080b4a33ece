/*
 * filter.c: which metadata a search wants.
 *
 *   filter    = {"and": [filter…]} | {"or": [filter…]} | {"not": filter} | {key: condition, …}
 *   condition = a plain value (equality) | {"gt"|"gte"|"lt"|"lte": value, "in": [value…], "exists":
 * bool, "prefix": text, "ne": value}; several in one object must all hold
 *
 * Keys with dots reach into nested objects ("exif.iso") where no member has that very name. Numbers
 * compare with numbers, texts with texts; unlike kinds never compare. Several keys in one object
 * must all match.
 */
#include <string.h>

#include "core/base/size.h"
#include "core/index/store_internal.h"

enum { FILTER_DEPTH_MAX = 16, FILTER_NODES_MAX = 1000 };

static const char *const operators[] = {"gt", "gte", "lt", "lte", "in", "exists", "prefix", "ne"};

static bool is_operator(const char *key)
{
    for (size_t i = 0; i < ARRAY_LENGTH(operators); i++)
        if (!strcmp(operators[i], key))
            return true;
    return false;
}

static enum status check_condition(const char *name, const json_t *condition, struct error *err)
{
    const char *operator;
    json_t *value;
    if (!json_is_object(condition))
        return json_is_array(condition)
                   ? error_set_param(err, STATUS_BAD_REQUEST, "filter",
                                     "filter: '%s' is compared with a list; use {\"in\": […]}",
                                     name)
                   : STATUS_OK;
    if (json_object_size(condition) == 0)
        return error_set_param(err, STATUS_BAD_REQUEST, "filter",
                               "filter: '%s' has an empty condition", name);
    json_object_foreach((json_t *)condition, operator, value)
    {
        bool fits = true;
        if (!is_operator(operator))
            return error_set_param(
                err, STATUS_BAD_REQUEST, "filter",
                "filter: '%s' has the unknown operator '%s'; there are gt, gte, lt, "
                "lte, in, exists, prefix and ne",
                name, operator);
        if (!strcmp(operator, "in"))
            fits = json_is_array(value) && json_array_size(value) <= FILTER_NODES_MAX;
        else if (!strcmp(operator, "exists"))
            fits = json_is_boolean(value);
        else if (!strcmp(operator, "prefix"))
            fits = json_is_string(value);
        else if (strcmp(operator, "ne"))
            fits = json_is_number(value) || json_is_string(value);
        if (!fits)
            return error_set_param(
                err, STATUS_BAD_REQUEST, "filter",
                "filter: the value of '%s' for '%s' has the wrong type", operator, name);
    }
    return STATUS_OK;
}

static enum status check(const json_t *filter, int depth, size_t *nodes, struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(filter))
        return error_set_param(err, STATUS_WRONG_TYPE, "filter", "filter: expected an object");
    if (depth > FILTER_DEPTH_MAX || (*nodes += json_object_size(filter)) > FILTER_NODES_MAX)
        return error_set_param(err, STATUS_OUT_OF_RANGE, "filter",
                               "filter: more than %d levels or %d conditions", FILTER_DEPTH_MAX,
                               FILTER_NODES_MAX);
    json_object_foreach((json_t *)filter, key, value)
    {
        if (!strcmp(key, "not")) {
            if (check(value, depth + 1, nodes, err))
                return err->status;
        } else if (!strcmp(key, "and") || !strcmp(key, "or")) {
            size_t i;
            const json_t *part;
            if (!json_is_array(value))
                return error_set_param(err, STATUS_WRONG_TYPE, "filter",
                                       "filter: '%s' expects a list of filters", key);
            json_array_foreach(value, i,
                               part) if (check(part, depth + 1, nodes, err)) return err->status;
        } else if (check_condition(key, value, err)) {
            return err->status;
        }
    }
    return STATUS_OK;
}

enum status filter_check(const json_t *filter, struct error *err)
{
    size_t nodes = 0;
    return check(filter, 0, &nodes, err);
}

/* ---- applying
 * ------------------------------------------------------------------------------------- */

static const json_t *lookup(const json_t *metadata, const char *key)
{
    const json_t *found = json_object_get(metadata, key);
    const char *dot;
    while (!found && json_is_object(metadata) && (dot = strchr(key, '.'))) {
        char name[256];
        size_t size = (size_t)(dot - key);
        if (size >= sizeof name)
            return NULL;
        memcpy(name, key, size);
        name[size] = '\0';
        metadata = json_object_get(metadata, name);
        key = dot + 1;
        found = json_object_get(metadata, key);
    }
    return found;
}

static bool equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) /* 1 equals 1.0 */
        return json_number_value(a) == json_number_value(b);
    return a && json_equal(a, b);
}

/* -1, 0, 1; false: not comparable. */
static bool compare(const json_t *a, const json_t *b, int *order)
{
    if (json_is_number(a) && json_is_number(b)) {
        double x = json_number_value(a), y = json_number_value(b);
        *order = (x > y) - (x < y);
        return true;
    }
    if (json_is_string(a) && json_is_string(b)) {
        int c = strcmp(json_string_value(a), json_string_value(b));
        *order = (c > 0) - (c < 0);
        return true;
    }
    return false;
}

static bool holds(const char *operator, const json_t * wanted, const json_t *found)
{
    int order;
    if (!strcmp(operator, "exists"))
        return (found != NULL) == json_is_true(wanted);
    if (!strcmp(operator, "ne"))
        return !equal(found, wanted);
    if (!strcmp(operator, "prefix"))
        return json_is_string(found) &&
               !strncmp(json_string_value(found), json_string_value(wanted),
                        json_string_length(wanted));
    if (!strcmp(operator, "in")) {
        size_t i;
        const json_t *one;
        json_array_foreach(wanted, i, one) if (equal(found, one)) return true;
        return false;
    }
    if (!found || !compare(found, wanted, &order))
        return false;
    if (!strcmp(operator, "gt"))
        return order > 0;
    if (!strcmp(operator, "gte"))
        return order >= 0;
    if (!strcmp(operator, "lt"))
        return order < 0;
    return order <= 0;
}

bool filter_matches(const json_t *filter, const json_t *metadata)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)filter, key, value)
    {
        size_t i;
        const json_t *part;
        if (!strcmp(key, "not")) {
            if (filter_matches(value, metadata))
                return false;
        } else if (!strcmp(key, "and")) {
            json_array_foreach(value, i, part) if (!filter_matches(part, metadata)) return false;
        } else if (!strcmp(key, "or")) {
            bool any = false;
            json_array_foreach(value, i, part) any = any || filter_matches(part, metadata);
            if (!any)
                return false;
        } else {
            const json_t *found = lookup(metadata, key);
            const char *operator;
            json_t *wanted;
            if (!json_is_object(value)) {
                if (!equal(found, value))
                    return false;
                continue;
            }
            json_object_foreach(value, operator,
                                wanted) if (!holds(operator, wanted, found)) return false;
        }
    }
    return true;
}
