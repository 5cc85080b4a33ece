/*
 * test_template.c: templates against jinja2's own output (template_goldens.py); what is refused
 * when a template is compiled, with its line; bounds on what a template can spend; where a
 * checkpoint's chat template is looked for.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/text/chat_template.h"
#include "core/text/template.h"

static json_t *goldens(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/goldens/templates.json", getenv("VLMD_TEST_DATA"));
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, NULL);
    ck_assert_msg(json != NULL, "%s cannot be read", path);
    return json;
}

static enum status render(const char *source, size_t size, const json_t *variables,
                          struct buffer *out, struct error *err)
{
    struct template *template = template_compile(source, size, err);
    if (!template)
        return err->status;
    enum status status = template_render(template, variables, out, err);
    template_free(template);
    return status;
}

START_TEST(templates_are_rendered_like_jinja_s)
{
    json_t *golden = goldens(), *each;
    size_t i;
    int n_bad = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, each)
    {
        const char *name = json_string_value(json_object_get(each, "case"));
        const json_t *of = json_object_get(each, "of"), *want = json_object_get(each, "text");
        const char *source = name;
        json_t *variables = json_incref(json_object_get(golden, "variables"));
        if (of) {
            source = json_string_value(
                json_object_get(json_object_get(golden, "templates"), json_string_value(of)));
            json_decref(variables);
            variables =
                json_pack("{s:O, s:b, s:n, s:n}", "messages", json_object_get(each, "messages"),
                          "add_generation_prompt", 1, "tools", "documents");
            json_object_update(variables, json_object_get(golden, "special"));
        }
        struct buffer out;
        struct error err = {0};
        buffer_init(&out, 1 << 20);
        enum status status = render(source, strlen(source), variables, &out, &err);
        bool is_bad = !want != (status != STATUS_OK) ||
                      (want && strcmp(out.data ? out.data : "", json_string_value(want)) != 0);
        if (is_bad)
            fprintf(stderr, "%s\n  got:  %s\n  want: %s\n", name, status ? err.message : out.data,
                    want ? json_string_value(want) : "(refused)");
        n_bad += is_bad;
        buffer_release(&out);
        json_decref(variables);
    }
    ck_assert_uint_gt(i, 200);
    ck_assert_int_eq(n_bad, 0);
    json_decref(golden);
}
END_TEST

START_TEST(what_is_not_there_is_named_with_its_line)
{
    static const struct {
        const char *source, *told;
    } rows[] = {
        {"a\n{{ x | frobnicate }}", "line 2: the filter 'frobnicate'"},
        {"{{ x is frobnicated }}", "line 1: the test 'frobnicated'"},
        {"\n\n{{ x.frobnicate() }}", "line 3: the method 'frobnicate'"},
        {"{{ frobnicate(1) }}", "the function 'frobnicate'"},
        {"{% include 'x' %}", "the statement 'include'"},
        {"{% extends 'x' %}", "the statement 'extends'"},
        {"{% for x in y recursive %}{% endfor %}", "recursive"},
        {"{% for a, b, c in y %}{% endfor %}", "more than pairs"},
        {"{% if x %}\n\na", "line 1: a block that begins here has no 'endif'"},
        {"{% for x in y %}", "no 'endfor'"},
        {"{% endif %}", "endif"},
        {"{% break %}", "in no loop"},
        {"{{ x", "'{{' has no end"},
        {"{% if x", "'{%' has no end"},
        {"{# x", "'{#' has no end"},
        {"{{ 'x }}", "a string has no end"},
        {"{{ x ! y }}", "a character that no expression has"},
        {"{{ }}", "expected an expression"},
        {"{{ (1 }}", "expected"},
        {"{{ x[] }}", "index"},
        {"{% set = 1 %}", "expected a name"},
        {"{{ 99999999999999999999 }}", "too large"},
        {"{% raw %}x", "endraw"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        struct template *template = template_compile(rows[i].source, strlen(rows[i].source), &err);
        ck_assert_msg(!template, "'%s' was taken", rows[i].source);
        ck_assert_int_eq(err.status, STATUS_BAD_CHECKPOINT);
        ck_assert_msg(strstr(err.message, rows[i].told), "'%s': %s", rows[i].source, err.message);
    }
}
END_TEST

/* Repeats `part` n times between two others. */
static char *repeated(const char *before, const char *part, size_t n, const char *after)
{
    size_t size = strlen(part);
    char *text = malloc(strlen(before) + n * size + strlen(after) + 1), *at = text;
    at = stpcpy(at, before);
    while (n--)
        at = stpcpy(at, part);
    stpcpy(at, after);
    return text;
}

START_TEST(endless_and_huge_templates_end_in_an_error)
{
    static const struct {
        const char *before, *part;
        size_t n;
        const char *after, *told;
    } rows[] = {
        {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "", 0,
         "", "steps"},
        {"{% for i in range(10000000000) %}{% endfor %}", "", 0, "", "a range of more than"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "", 0, "", "nested deeper"},
        {"{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}"
         "{% set ns.x = ns.x + ns.x %}{% endfor %}",
         "", 0, "", "more than"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(100000) %}"
         "{% set ns.x = [ns.x] %}{% endfor %}",
         "", 0, "", "nested deeper"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{% for i in range(999) %}"
         "{% set ns.x = ns %}{% endfor %}",
         "", 0, "", "nested deeper"},
        {"{{ 'aaaaaaaaaa' * 1000000000 }}", "", 0, "", "more than"},
        {"{% for i in range(100000) %}0123456789012345678901234567890123456789{% endfor %}", "", 0,
         "", "bytes of text"},
        {"{{ ", "(", 5000, "1 }}", "nested deeper"},
        {"{{ ", "[", 5000, "1 }}", "nested deeper"},
        {"{{ ", "not ", 5000, "1 }}", "nested deeper"},
        {"{{ ", "-", 5000, "1 }}", "nested deeper"},
        {"", "{% if 1 %}", 5000, "", "nested deeper"},
        {"{{ 1", " + 1", 200000, " }}", "nested deeper"},
        {"{{ 'a'", " | trim", 100000, " }}", "nested deeper"},
        {"{{ d", ".x", 200000, " }}", "nested deeper"},
        {"{{ 2 ** 4000 }}", "", 0, "", "too large"},
        {"{{ 1", "0", 400, " }}", "too large"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        struct buffer out;
        char *source = repeated(rows[i].before, rows[i].part, rows[i].n, rows[i].after);
        json_t *variables = json_object();
        buffer_init(&out, 1 << 20);
        ck_assert_msg(render(source, strlen(source), variables, &out, &err), "row %zu was taken",
                      i);
        ck_assert_msg(strstr(err.message, rows[i].told), "row %zu: %s", i, err.message);
        buffer_release(&out);
        json_decref(variables);
        free(source);
    }
    char *large = repeated("", "x", TEMPLATE_BYTES_MAX + 1, "");
    struct error err = {0};
    ck_assert_ptr_null(template_compile(large, TEMPLATE_BYTES_MAX + 1, &err));
    struct template *largest = template_compile(large, TEMPLATE_BYTES_MAX, &err);
    ck_assert_ptr_nonnull(largest);
    template_free(largest);
    free(large);
}
END_TEST

/* Cut anywhere, and with a byte changed, a template is taken or refused, and rendered or not. */
START_TEST(broken_templates_are_refused_and_nothing_else)
{
    json_t *golden = goldens(), *variables = json_object_get(golden, "variables"), *each;
    const char *name;
    json_object_foreach(json_object_get(golden, "templates"), name, each)
    {
        size_t size = json_string_length(each);
        char *source = strdup(json_string_value(each));
        for (size_t i = 0; i < size; i++) {
            static const char bytes[] = "{}%'\"([|.\n\0";
            for (size_t k = 0; k <= 1; k++) {
                char was = source[i];
                struct error err = {0};
                struct buffer out;
                buffer_init(&out, 1 << 16);
                if (k)
                    source[i] = bytes[i % (sizeof bytes - 1)];
                render(source, k ? size : i, variables, &out, &err);
                source[i] = was;
                buffer_release(&out);
            }
        }
        free(source);
    }
    json_decref(golden);
}
END_TEST

/* ---- chat templates of directories -------------------------------------------------------------
 */

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

START_TEST(chat_templates_are_found_where_the_library_looks)
{
    static const struct {
        const char *name, *text, *want; /* want NULL: none there; "!…": refused with these words */
    } rows[] = {
        {"tokenizer_config.json", "{}", NULL},
        {"tokenizer_config.json", "{\"chat_template\": \"T {{ messages[0].content }}\"}", "T hi"},
        {"chat_template.json", "{\"chat_template\": \"J {{ messages[0].content }}\"}", "J hi"},
        {"chat_template.jinja", "F {{ messages[0].content }}{{ bos_token }}", "F hi"},
        {"tokenizer_config.json", "{\"bos_token\": {\"content\": \"<s>\"}}", "F hi<s>"},
        {"chat_template.jinja", "{% for m in messages %}{{ m.content[0].text }}{% endfor %}", "hi"},
        {"chat_template.jinja", "\n{{ messages | pprint }}", "!line 2: the filter 'pprint'"},
        {"chat_template.jinja", "nothing of what is said", "!leaves out"},
        {"chat_template.jinja", "{{ raise_exception('never') }}", "!never"},
    };
    char folder[] = "/tmp/vlmd-template-XXXXXX", command[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct error err = {0};
        struct chat_template *chat = NULL;
        write_file(folder, rows[i].name, rows[i].text);
        enum status status = chat_template_open(folder, NULL, &chat, &err);
        if (!rows[i].want) {
            ck_assert(!status && !chat);
            status = chat_template_open(folder, "P {{ messages[0].content }}", &chat, &err);
            ck_assert_msg(!status && chat, "%s", err.message); /* the caller's instead */
        } else if (rows[i].want[0] == '!') {
            ck_assert_int_eq(status, STATUS_BAD_CHECKPOINT);
            ck_assert_msg(strstr(err.message, rows[i].want + 1) && strstr(err.message, "jinja"),
                          "%s", err.message);
        } else {
            ck_assert_msg(!status && chat, "%s", err.message);
            struct chat_part part = {"hi", 2}, image[] = {{NULL, 0}, {"hi", 2}};
            struct chat_message message = {"user", &part, 1}, picture = {"user", image, 2};
            struct buffer out;
            buffer_init(&out, 1000);
            ck_assert(!chat_template_render(chat, &message, 1, &out, &err));
            ck_assert_str_eq(out.data, rows[i].want);
            ck_assert(!chat_template_takes_images(chat));
            ck_assert_int_eq(chat_template_render(chat, &picture, 1, &out, &err),
                             STATUS_UNPROCESSABLE);
            ck_assert_ptr_nonnull(strstr(err.message, "no place for pictures"));
            buffer_release(&out);
        }
        chat_template_free(chat);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("template");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, templates_are_rendered_like_jinja_s);
    tcase_add_test(tests, what_is_not_there_is_named_with_its_line);
    tcase_add_test(tests, endless_and_huge_templates_end_in_an_error);
    tcase_add_test(tests, broken_templates_are_refused_and_nothing_else);
    tcase_add_test(tests, chat_templates_are_found_where_the_library_looks);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
