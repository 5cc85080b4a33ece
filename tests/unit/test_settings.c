/*
 * test_settings.c: sources override each other as documented; faults name the key.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"

static struct settings settings;
static struct error err;

static void setup(void)
{
    ck_assert_int_eq(settings_init(&settings, &err), STATUS_OK);
}

static void teardown(void)
{
    settings_release(&settings);
}

START_TEST(flag_beats_environment_beats_file_beats_default)
{
    char path[] = "/tmp/vlmd-settings-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    dprintf(fd, "# comment\nmax_batch = 7\n\n  max_queue=9 # why\nmodel = a=/x#y\nmodel = b\n"
                "threads = 3\n");
    close(fd);
    char *environment[] = {"PATH=/bin", "VLMD_MAX_QUEUE=11", "VLMD_THREADS=5", NULL};
    ck_assert_int_eq(settings_set(&settings, "threads", "6", SOURCE_FLAG, &err), STATUS_OK);
    ck_assert_int_eq(settings_read_environment(&settings, environment, &err), STATUS_OK);
    ck_assert_int_eq(settings_read_file(&settings, path, &err), STATUS_OK);
    unlink(path);
    ck_assert_uint_eq(settings.max_batch, 7);
    ck_assert_uint_eq(settings.max_queue, 11);
    ck_assert_uint_eq(settings.threads, 6);
    ck_assert_uint_eq(settings.model.n, 2);
    ck_assert_str_eq(settings.model.items[0], "a=/x#y");
    ck_assert_str_eq(settings.listen, "127.0.0.1:8080");
    /* a stronger source replaces the list; the same one adds to it */
    ck_assert_int_eq(settings_set(&settings, "model", "c", SOURCE_FLAG, &err), STATUS_OK);
    ck_assert_int_eq(settings_set(&settings, "model", "d; e", SOURCE_FLAG, &err), STATUS_OK);
    ck_assert_uint_eq(settings.model.n, 3);
    ck_assert_str_eq(settings.model.items[2], "e");
}
END_TEST

START_TEST(faults_name_key_and_place)
{
    static const struct {
        const char *pair, *want;
    } rows[] = {
        {"max_batch=x", "max_batch"},   {"max_batch=-1", "max_batch"},
        {"max_batch=1T", "max_batch"},  {"max_batch=99999999999G", "max_batch"},
        {"max_batch", "key=value"},     {"no_such=1", "no_such"},
        {"max_batch=", "whole number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_int_eq(settings_set_pair(&settings, rows[i].pair, SOURCE_FLAG, &err),
                         STATUS_BAD_CONFIG);
        ck_assert_msg(strstr(err.message, rows[i].want) != NULL, "row %zu: %s", i, err.message);
    }
    char *environment[] = {"VLMD_MAX_BACH=1", NULL};
    ck_assert_int_eq(settings_read_environment(&settings, environment, &err), STATUS_BAD_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.message, "VLMD_MAX_BACH"));
    ck_assert_int_eq(settings_read_file(&settings, "/nonexistent", &err), STATUS_BAD_CONFIG);
}
END_TEST

START_TEST(sample_reads_back_as_the_defaults_and_hides_keys)
{
    struct buffer out;
    buffer_init(&out, 1 << 20);
    ck_assert(settings_print_sample(&out));
    ck_assert_ptr_nonnull(strstr(out.data, "\n#max_batch = 32\n"));
    buffer_release(&out);
    ck_assert_int_eq(settings_set(&settings, "api_key", "web:s3cret", SOURCE_FLAG, &err), 0);
    ck_assert(settings_print(&settings, &out));
    ck_assert_ptr_null(strstr(out.data, "s3cret"));
    ck_assert_ptr_nonnull(strstr(out.data, "web:"));
    buffer_release(&out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("settings");
    TCase *tcase = tcase_create("settings");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, flag_beats_environment_beats_file_beats_default);
    tcase_add_test(tcase, faults_name_key_and_place);
    tcase_add_test(tcase, sample_reads_back_as_the_defaults_and_hides_keys);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
