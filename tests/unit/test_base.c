/*
 * test_base.c: errors, UTF-8, arenas, buffers: what everything else stands on.
 */
#include <check.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/buffer.h"
#include "core/base/error.h"
#include "core/base/size.h"
#include "core/base/utf8.h"

START_TEST(statuses_have_unique_codes)
{
    for (int i = 0; i < N_STATUS; i++)
        for (int j = i + 1; j < N_STATUS; j++)
            ck_assert_str_ne(status_info(i)->code, status_info(j)->code);
    ck_assert_int_eq(status_info(-1)->http_status, 500);
}
END_TEST

START_TEST(error_message_is_always_clean_utf8)
{
    struct error err = {0};
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text);
    memcpy(long_text + ERROR_MESSAGE_MAX - 2, "\xF0\x9F\x98\x80", 4); /* an emoji across the cut */
    long_text[sizeof long_text - 1] = '\0';
    ck_assert_int_eq(error_set(&err, STATUS_IO, "%s", long_text), STATUS_IO);
    ck_assert(utf8_valid(err.message, strlen(err.message)));
    error_set_param(&err, STATUS_WRONG_TYPE, "top_k", "a\nb\xFF");
    ck_assert_str_eq(err.message, "a b?");
    error_prefix(&err, "file %d", 3);
    ck_assert_str_eq(err.message, "file 3: a b?");
    ck_assert_str_eq(err.param, "top_k");
}
END_TEST

START_TEST(utf8_refuses_what_rfc3629_refuses)
{
    static const struct {
        const char *bytes;
        bool valid;
    } rows[] = {
        {"", true},          {"a", true},         {"\xC3\xA9", true},         {"\xC0\x80", false},
        {"\xE2\x82", false}, {"\xED\xA0\x80", false}, {"\xF4\x90\x80\x80", false}, {"\xF0\x9F\x98\x80", true},
        {"\x80", false},     {"\xFF", false},     {"\xE0\x80\x80", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        ck_assert_msg(utf8_valid(rows[i].bytes, strlen(rows[i].bytes)) == rows[i].valid, "row %zu", i);
    for (uint32_t code = 1; code <= 0x10FFFF; code += 7) {
        if (code >= 0xD800 && code <= 0xDFFF)
            continue;
        char bytes[4];
        uint32_t back = 0;
        size_t n = utf8_encode(code, bytes);
        ck_assert_uint_eq(utf8_decode(bytes, n, &back), n);
        ck_assert_uint_eq(back, code);
        for (size_t cut = 1; cut < n; cut++)
            ck_assert_uint_eq(utf8_complete(bytes, cut), 0);
        ck_assert_uint_eq(utf8_complete(bytes, n), n);
    }
}
END_TEST

START_TEST(arena_keeps_its_bound_and_settles_on_one_chunk)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    ck_assert_ptr_null(arena_alloc(&arena, (1 << 20) + 1));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++) {
            unsigned char *piece = arena_alloc(&arena, 5000);
            ck_assert_ptr_nonnull(piece);
            ck_assert_uint_eq((size_t)piece % 64, 0);
            memset(piece, i, 5000);
        }
        arena_reset(&arena);
    }
    ck_assert_ptr_null(arena_array(&arena, (size_t)-1, 2));
    arena_release(&arena);
}
END_TEST

START_TEST(buffer_refuses_past_its_maximum)
{
    struct buffer buffer;
    buffer_init(&buffer, 10);
    ck_assert(buffer_append(&buffer, "0123456789", 10));
    ck_assert(!buffer_append(&buffer, "x", 1));
    ck_assert_str_eq(buffer.data, "0123456789");
    buffer_release(&buffer);
    ck_assert(!buffer_printf(&buffer, "%011d", 1));
    ck_assert(buffer_printf(&buffer, "%d-%s", 12, "ab"));
    ck_assert_str_eq(buffer.data, "12-ab");
    buffer_release(&buffer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *tcase = tcase_create("base");
    tcase_add_test(tcase, statuses_have_unique_codes);
    tcase_add_test(tcase, error_message_is_always_clean_utf8);
    tcase_add_test(tcase, utf8_refuses_what_rfc3629_refuses);
    tcase_add_test(tcase, arena_keeps_its_bound_and_settles_on_one_chunk);
    tcase_add_test(tcase, buffer_refuses_past_its_maximum);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
