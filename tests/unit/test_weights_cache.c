/*
 * test_weights_cache.c: models whose packed weights come from a file: it is made once, used
 * afterwards, and whatever is wrong with it only means that it is made again.
 */
#include <check.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model_golden.h"

enum { DIM = 64 };
static char root[64], folder[128], checkpoint[128], file[512];

static void run(const char *format, const char *argument)
{
    char command[1024];
    snprintf(command, sizeof command, format, argument);
    ck_assert_int_eq(system(command), 0);
}

static void set_up(void)
{
    snprintf(root, sizeof root, "/tmp/vlmd-cache-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(folder, sizeof folder, "%s/deep/cache", root);
    snprintf(checkpoint, sizeof checkpoint, "%s/clip", root);
    char command[1024];
    snprintf(command, sizeof command, "cp -r '%s/checkpoints/clip-tiny' '%s'", golden_data(),
             checkpoint);
    ck_assert_int_eq(system(command), 0);
}

static void tear_down(void)
{
    run("chmod -R u+w '%s'", root);
    run("rm -rf '%s'", root);
}

/* Opens the model with the cache and embeds a text: the outcome must not depend on the file. */
static void embed(enum weight_form form, const char *where, float out[DIM])
{
    struct error err = {0};
    struct compute compute;
    struct arena arena;
    ck_assert_int_eq(golden_compute_init(&compute, &arena), STATUS_OK);
    const struct model_options options = {
        .dtype = form, .pool = compute.pool, .cache_folder = where};
    struct model *model = model_open_as("cached", checkpoint, &options, &err);
    ck_assert_msg(model != NULL, "%s", err.message);
    ck_assert_uint_le(model->traits.embed_dim, DIM);
    memset(out, 0, DIM * sizeof *out);
    struct tokens tokens = {0};
    ck_assert(!model_tokenize(model, TASK_EMBED, "a cat", 5, &tokens, &err));
    const struct tokens *list = &tokens;
    ck_assert(!model->architecture->encode_texts(model, &compute, &list, 1, out, &err));
    tokens_release(&tokens);
    model_free(model);
    arena_release(&arena);
}

/* The one file there is; its inode, which a file that is made anew does not keep. */
static struct stat find_file(void)
{
    char pattern[256];
    glob_t found;
    struct stat info;
    snprintf(pattern, sizeof pattern, "%s/*.pack", folder);
    ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
    ck_assert_uint_eq(found.gl_pathc, 1);
    snprintf(file, sizeof file, "%s", found.gl_pathv[0]);
    globfree(&found);
    ck_assert_int_eq(stat(file, &info), 0);
    return info;
}

static void change_file(long at, unsigned char flip)
{
    FILE *stream = fopen(file, "r+b");
    ck_assert_ptr_nonnull(stream);
    ck_assert_int_eq(fseek(stream, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(stream);
    ck_assert_int_ge(byte, 0);
    ck_assert_int_eq(fseek(stream, -1, SEEK_CUR), 0);
    fputc(byte ^ flip, stream);
    fclose(stream);
}

START_TEST(a_file_is_made_once_and_used_afterwards)
{
    float plain[DIM], first[DIM], second[DIM];
    for (enum weight_form form = WEIGHT_BF16; form < N_WEIGHT_FORMS; form++) {
        embed(form, NULL, plain);
        embed(form, folder, first);
        struct stat made = find_file();
        ck_assert_int_eq(made.st_mode & 0777, 0600);
        embed(form, folder, second);
        ck_assert_uint_eq(find_file().st_ino, made.st_ino);
        ck_assert_mem_eq(plain, first, sizeof plain);
        ck_assert_mem_eq(plain, second, sizeof plain);
        ck_assert_int_eq(unlink(file), 0);
    }
    embed(WEIGHT_F32, folder, plain); /* nothing is packed */
    glob_t none;
    char pattern[256];
    snprintf(pattern, sizeof pattern, "%s/*", folder);
    ck_assert_int_eq(glob(pattern, 0, NULL, &none), GLOB_NOMATCH);
}
END_TEST

START_TEST(damage_means_that_it_is_made_again)
{
    static const long places[] = {0,   8,   12,  16,   24, 32, 40,  48,  56,
                                  128, 200, 999, 5000, -1, -8, -20, -100};
    float want[DIM], got[DIM];
    embed(WEIGHT_BF16, folder, want);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct stat before = find_file();
        change_file(places[i], 0x10);
        embed(WEIGHT_BF16, folder, got);
        ck_assert_mem_eq(want, got, sizeof want);
        embed(WEIGHT_BF16, folder, got); /* a damaged weight is seen late: the next start writes */
        ck_assert_mem_eq(want, got, sizeof want);
        struct stat after = find_file();
        ck_assert_msg(after.st_ino != before.st_ino ||
                          after.st_mtim.tv_nsec != before.st_mtim.tv_nsec,
                      "damage at %ld is not seen", places[i]);
        embed(WEIGHT_BF16, folder, got);
        ck_assert_uint_eq(find_file().st_ino, after.st_ino);
    }
}
END_TEST

START_TEST(files_cut_grown_or_foreign_are_made_again)
{
    static const char *const faults[] = {
        "truncate -s 0 '%s'",
        "truncate -s 10 '%s'",
        "truncate -s 127 '%s'",
        "truncate -s 5000 '%s'",
        "truncate -s -1 '%s'",
        "truncate -s +64 '%s'",
        "head -c 9000 /dev/zero > '%s'",
        "cp /proc/self/status '%s'",
        "rm '%s' && mkfifo '%s.p' && mv '%s.p' '%s'",
    };
    float want[DIM], got[DIM];
    embed(WEIGHT_INT8, folder, want);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        char command[4096];
        find_file();
        snprintf(command, sizeof command, faults[i], file, file, file, file);
        ck_assert_int_eq(system(command), 0);
        embed(WEIGHT_INT8, folder, got);
        ck_assert_mem_eq(want, got, sizeof want);
        struct stat made = find_file();
        ck_assert(S_ISREG(made.st_mode) && made.st_size > 5000);
        embed(WEIGHT_INT8, folder, got);
        ck_assert_mem_eq(want, got, sizeof want);
        ck_assert_uint_eq(find_file().st_ino, made.st_ino);
    }
}
END_TEST

START_TEST(another_checkpoint_gets_another_file)
{
    float want[DIM], got[DIM];
    embed(WEIGHT_BF16, folder, want);
    struct stat before = find_file();
    run("touch -d '2001-01-01' '%s/model.safetensors'", checkpoint);
    embed(WEIGHT_BF16, folder, got);
    ck_assert_mem_eq(want, got, sizeof want);
    struct stat after = find_file();
    ck_assert(before.st_mtim.tv_nsec != after.st_mtim.tv_nsec);
}
END_TEST

START_TEST(no_cache_never_fails_a_start)
{
    float want[DIM], got[DIM];
    char other[520];
    embed(WEIGHT_BF16, NULL, want);
    embed(WEIGHT_BF16, "/proc/none/cache", got);
    ck_assert_mem_eq(want, got, sizeof want);
    embed(WEIGHT_BF16, "", got);
    ck_assert_mem_eq(want, got, sizeof want);
    snprintf(other, sizeof other, "%s/model.safetensors", checkpoint); /* a file, no folder */
    embed(WEIGHT_BF16, other, got);
    ck_assert_mem_eq(want, got, sizeof want);

    /* somebody else is making it: not waited for, and left alone */
    embed(WEIGHT_BF16, folder, got);
    find_file();
    ck_assert_int_eq(unlink(file), 0);
    snprintf(other, sizeof other, "%s.new", file);
    int fd = open(other, O_RDWR | O_CREAT, 0600);
    ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
    embed(WEIGHT_BF16, folder, got);
    ck_assert_mem_eq(want, got, sizeof want);
    ck_assert_int_eq(access(file, F_OK), -1);
    ck_assert_int_eq(access(other, F_OK), 0);
    close(fd); /* what a process that died left behind is taken over */
    embed(WEIGHT_BF16, folder, got);
    ck_assert_mem_eq(want, got, sizeof want);
    find_file();
    ck_assert_int_eq(access(other, F_OK), -1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("weights_cache");
    TCase *tcase = tcase_create("cache");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_file_is_made_once_and_used_afterwards);
    tcase_add_test(tcase, damage_means_that_it_is_made_again);
    tcase_add_test(tcase, files_cut_grown_or_foreign_are_made_again);
    tcase_add_test(tcase, another_checkpoint_gets_another_file);
    tcase_add_test(tcase, no_cache_never_fails_a_start);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
