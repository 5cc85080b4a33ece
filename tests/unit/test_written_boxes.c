/*
 * test_written_boxes.c: what models are asked for boxes, and what is read out of what they write:
 * whole, damaged, cut at every byte, and random.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/written_boxes.h"

enum { WIDTH = 200, HEIGHT = 100 }; /* of the picture as the model saw it */

static struct box_label label_of(const char *text)
{
    return (struct box_label){text, strlen(text)};
}

START_TEST(prompts_are_as_the_families_document_them)
{
    static const struct {
        enum box_writing writing;
        bool is_expression;
        size_t n;
        const char *want;
    } rows[] = {
        {BOXES_AS_LOCATIONS, false, 1, "detect cat"},
        {BOXES_AS_LOCATIONS, false, 3, "detect cat ; a red dog ; café"},
        {BOXES_AS_LOCATIONS, true, 1, "detect cat"},
        {BOXES_AS_JSON, false, 1,
         "Outline the position of each cat and output all the coordinates in JSON format."},
        {BOXES_AS_JSON, false, 2,
         "Outline the position of each cat, each a red dog and output all the coordinates in JSON "
         "format."},
        {BOXES_AS_JSON, true, 1, "Locate cat, output its bbox coordinates using JSON format."},
    };
    const struct box_label names[] = {label_of("cat"), label_of("a red dog"), label_of("café")};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct buffer text;
        buffer_init(&text, 1000);
        ck_assert(
            written_boxes_prompt(rows[i].writing, names, rows[i].n, rows[i].is_expression, &text));
        ck_assert_str_eq(text.data, rows[i].want);
        buffer_release(&text);
        buffer_init(&text, strlen(rows[i].want) - 1);
        ck_assert(
            !written_boxes_prompt(rows[i].writing, names, rows[i].n, rows[i].is_expression, &text));
        buffer_release(&text);
    }
}
END_TEST

/* A box as "xmin ymin xmax ymax numbers|label" in pixels of WIDTH × HEIGHT, each ended by a line's
 * end. */
static void describe(const char *text, const struct written_box *boxes, size_t n,
                     struct buffer *out)
{
    for (size_t i = 0; i < n; i++) {
        const float *corners = boxes[i].corners;
        ck_assert(buffer_printf(out, "%.6g %.6g %.6g %.6g %.*s|%.*s\n",
                                (double)(corners[0] * WIDTH), (double)(corners[1] * HEIGHT),
                                (double)(corners[2] * WIDTH), (double)(corners[3] * HEIGHT),
                                (int)(boxes[i].end - boxes[i].begin), text + boxes[i].begin,
                                (int)boxes[i].label.size, boxes[i].label.data));
    }
}

static void check_read(enum box_writing writing, const char *text, const char *want)
{
    struct arena arena;
    struct written_box *boxes;
    struct error err = {0};
    struct buffer got;
    size_t n;
    arena_init(&arena, 0);
    buffer_init(&got, 10000);
    ck_assert(
        !written_boxes_read(writing, text, strlen(text), WIDTH, HEIGHT, &arena, &boxes, &n, &err));
    describe(text, boxes, n, &got);
    ck_assert_msg(strcmp(got.data ? got.data : "", want) == 0, "%s\ngave\n%s\nexpected\n%s", text,
                  got.data ? got.data : "", want);
    buffer_release(&got);
    arena_release(&arena);
}

#define LOC4 "<loc0256><loc0128><loc0512><loc0896>"
#define BOX4 "25 25 175 50 " LOC4

START_TEST(locations_become_boxes)
{
    static const char *const rows[][2] = {
        {"", ""},
        {"no cats", ""},
        {LOC4 " cat", BOX4 "|cat\n"},
        {LOC4 " cat ; <loc0000><loc0000><loc1023><loc1023> dog",
         "25 25 175 50 " LOC4 "|cat\n0 0 199.805 99.9023 "
         "<loc0000><loc0000><loc1023><loc1023>|dog\n"},
        {LOC4 "a red cat;" LOC4 "dog", BOX4 "|a red cat\n" BOX4 "|dog\n"},
        {LOC4 " ; " LOC4 "\n", BOX4 "|\n" BOX4 "|\n"},           /* no labels */
        {LOC4 " cat " LOC4 " dog", BOX4 "|cat\n" BOX4 "|dog\n"}, /* no separator */
        {"There: " LOC4 " cat.", BOX4 "|cat.\n"},
        {LOC4 "<seg000><seg127><seg001> cat ; x", BOX4 "|cat\n"},
        {LOC4 " ", BOX4 "|\n"},
        {"<loc0512><loc0100><loc0512><loc0100> thin",
         "19.5312 50 19.5312 50 "
         "<loc0512><loc0100><loc0512><loc0100>|thin\n"},
        /* damaged */
        {"<loc0256><loc0128><loc0512> cat ; " LOC4 " dog", BOX4 "|dog\n"},
        {"<loc0256>" LOC4 " cat", ""},
        {LOC4 LOC4 " cat", ""},
        {"<loc0256><loc0128> <loc0512><loc0896> cat", ""},
        {"<loc0512><loc0128><loc0256><loc0896> upside down", ""},
        {"<loc0256><loc0896><loc0512><loc0128> inside out", ""},
        {"<loc0256><loc0128><loc0512><loc1024> beyond", ""},
        {"<loc256><loc0128><loc0512><loc0896> short", ""},
        {"<loc-256><loc 128><loc+512><loc0x96> signs", ""},
        {"<loc<loc<loc", ""},
        {LOC4 "<loc01", BOX4 "|\n"},
        {LOC4 " a < b", BOX4 "|a < b\n"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        check_read(BOXES_AS_LOCATIONS, rows[i][0], rows[i][1]);
}
END_TEST

#define ONE "{\"bbox_2d\": [25, 25, 175, 50], \"label\": \"cat\"}"
#define GOT "25 25 175 50 25, 25, 175, 50|cat\n"

START_TEST(json_becomes_boxes)
{
    static const char *const rows[][2] = {
        {"", ""},
        {"There are no cats in the picture.", ""},
        {"[]", ""},
        {ONE, GOT},
        {"[" ONE "]", GOT},
        {"```json\n[\n\t" ONE ",\n\t" ONE "\n]\n```", GOT GOT},
        {"```json\n[\n\t" ONE ",\n\t" ONE "\n]\n```\nTwo cats (see {above}).", GOT GOT},
        {"[" ONE ", {\"bbox_2d\": [1, 2, 3, 4], \"label\": \"do", GOT}, /* cut off */
        {"[" ONE ", {\"bbox_2d\": [1, 2", GOT},
        {"[" ONE ", {", GOT},
        {"[" ONE ONE, GOT GOT}, /* no comma */
        {"{\"label\":\"dog\",\"bbox_2d\":[1.5,2.25,3,4e0]}", "1.5 2.25 3 4 1.5,2.25,3,4e0|dog\n"},
        {"{\"bbox\": [1, 2, 3, 4]}", "1 2 3 4 1, 2, 3, 4|\n"},
        {"{\"label\": \" caf\\u00e9 \\\"x\\\" \", \"bbox_2d\": [1, 2, 3, 4], \"score\": 0.5}",
         "1 2 3 4 1, 2, 3, 4|café \"x\"\n"},
        {"{\"bbox_2d\": [-10, -20, 500, 600], \"label\": \"all\"}", /* cut at the edges */
         "0 0 200 100 -10, -20, 500, 600|all\n"},
        {"{\"bbox_2d\": [0, 0, 1e300, 50]}", "0 0 200 50 0, 0, 1e300, 50|\n"},
        /* damaged, one by one */
        {"[{\"bbox_2d\": [1, 2, 3], \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": [1, 2, 3, 4, 5], \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": [1, 2, 3, \"4\"], \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": [1, 2, 3, null], \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": \"1, 2, 3, 4\", \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": [1, 2, 3, 4] \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"point_2d\": [1, 2], \"label\": \"a\"}, " ONE "]", GOT},
        {"[{\"bbox_2d\": [1, 2, 3, 1e999]}, " ONE "]", GOT},
        {"{\"bbox_2d\": [30, 2, 3, 4]}", ""}, /* ends before it begins */
        {"{\"bbox_2d\": [1, 40, 3, 4]}", ""},
        {"{\"bbox_2d\": [200, 0, 300, 50]}", ""}, /* beside the picture */
        {"{\"bbox_2d\": [-20, -20, -1, -1]}", ""},
        {"{{{{[[[[\"\"\"\"bbox_2d", ""},
        {"{\"boxes\": [" ONE "]}", GOT},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        check_read(BOXES_AS_JSON, rows[i][0], rows[i][1]);
}
END_TEST

START_TEST(labels_find_their_queries)
{
    static const char *const asked[] = {"cat", "a red Dog", "dog", "cars", "café"};
    static const struct {
        const char *label;
        size_t want;
    } rows[] = {
        {"cat", 0},       {" CAT \n", 0},  {"cats", 0},       {"a cat", 0},
        {"dog", 2},       {"Dog", 2},      {"a red dog", 1},  {"a red dogs' house", 1},
        {"red", 1},       {"car", 3},      {"CAFé", 4},       {"scat", SIZE_MAX},
        {"og", SIZE_MAX}, {"", SIZE_MAX},  {"   ", SIZE_MAX}, {"bird", SIZE_MAX},
        {"caf", 4},       {"é", SIZE_MAX},
    };
    struct box_label names[ARRAY_LENGTH(asked)];
    for (size_t i = 0; i < ARRAY_LENGTH(asked); i++)
        names[i] = label_of(asked[i]);
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        const struct box_label label = label_of(rows[i].label);
        size_t got = written_box_name(&label, names, ARRAY_LENGTH(names));
        ck_assert_msg(got == rows[i].want, "'%s' is %zd, expected %zd", rows[i].label, got,
                      rows[i].want);
        ck_assert_uint_eq(written_box_name(&label, names, 1), 0);
    }
    char *endless = malloc(1 << 20);
    ck_assert_ptr_nonnull(endless);
    memset(endless, 'a', 1 << 20);
    const struct box_label label = {endless, 1 << 20}, twice[] = {label, label};
    ck_assert_uint_eq(written_box_name(&label, twice, 2), SIZE_MAX);
    free(endless);
}
END_TEST

/* Reads a copy that ends where its memory ends, so that a checker sees every byte past it; what
 * comes must be boxes of the picture, in order, of numbers and labels that the text holds. */
static size_t read_anything(enum box_writing writing, const char *text, size_t size,
                            struct arena *arena)
{
    struct written_box *boxes = NULL;
    struct error err = {0};
    size_t n = 0, last = 0;
    char *copy = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, text, size);
    ck_assert(!written_boxes_read(writing, copy, size, WIDTH, HEIGHT, arena, &boxes, &n, &err));
    for (size_t i = 0; i < n; i++) {
        const struct written_box *box = &boxes[i];
        for (size_t k = 0; k < 4; k++)
            ck_assert(box->corners[k] >= 0 && box->corners[k] <= 1);
        ck_assert(box->corners[0] <= box->corners[2] && box->corners[1] <= box->corners[3]);
        ck_assert(last <= box->begin && box->begin < box->end && box->end <= size);
        last = box->end;
        ck_assert_uint_le(box->label.size, size);
    }
    free(copy);
    arena_reset(arena);
    return n;
}

START_TEST(texts_cut_at_any_byte_lose_only_what_is_cut)
{
    static const struct {
        enum box_writing writing;
        const char *text;
    } rows[] = {
        {BOXES_AS_LOCATIONS, LOC4 " cat ; " LOC4 "<seg001> dog"},
        {BOXES_AS_JSON, "```json\n[" ONE ", " ONE "]\n```"},
    };
    struct arena arena;
    arena_init(&arena, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        size_t n_before = 0, n = 0;
        for (size_t size = 0; size <= strlen(rows[i].text); size++) {
            n = read_anything(rows[i].writing, rows[i].text, size, &arena);
            ck_assert_uint_ge(n, n_before);
            ck_assert_uint_le(n, n_before + 1);
            n_before = n;
        }
        ck_assert_uint_eq(n, 2);
    }
    arena_release(&arena);
}
END_TEST

START_TEST(random_texts_are_read_without_harm)
{
    static const char *const pieces[] = {
        "<loc0256>",
        "<loc0896>",
        "<loc",
        "0012>",
        "<seg001>",
        " ; ",
        "cat",
        LOC4,
        LOC4 " x",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\"bbox_2d\"",
        ": ",
        "\"label\"",
        ", ",
        "1",
        "1e999",
        "-5",
        ONE,
        "\\",
        "\xff\xfe",
        "é",
        "\0",
        "```",
        "\\u0000",
        "\"bbox_2d\": [1, 2, 3, 4]",
        "<",
    };
    struct arena arena;
    uint64_t seed = 20251;
    size_t n_found = 0;
    arena_init(&arena, 0);
    for (size_t round = 0; round < 20000; round++) {
        char text[1024];
        size_t size = 0, n_pieces = 1 + round % 40;
        for (size_t i = 0; i < n_pieces; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const char *piece = pieces[(seed >> 33) % ARRAY_LENGTH(pieces)];
            size_t n = *piece ? strlen(piece) : 1; /* one is a NUL */
            if (size + n > sizeof text)
                break;
            memcpy(text + size, piece, n);
            size += n;
        }
        n_found += read_anything(BOXES_AS_LOCATIONS, text, size, &arena);
        n_found += read_anything(BOXES_AS_JSON, text, size, &arena);
        ck_assert_uint_eq(read_anything(BOXES_NOT_WRITTEN, text, size, &arena), 0);
    }
    ck_assert_uint_gt(n_found, 1000); /* it is not all noise */
    arena_release(&arena);
}
END_TEST

START_TEST(running_out_of_memory_is_a_status)
{
    struct arena arena;
    struct written_box *boxes = NULL;
    struct error err = {0};
    size_t n = 7;
    arena_init(&arena, 64);
    ck_assert_int_eq(written_boxes_read(BOXES_AS_LOCATIONS, LOC4 LOC4, strlen(LOC4 LOC4), WIDTH,
                                        HEIGHT, &arena, &boxes, &n, &err),
                     STATUS_NO_MEMORY);
    ck_assert_uint_eq(n, 7);
    arena_release(&arena);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("written_boxes");
    TCase *cases = tcase_create("written_boxes");
    tcase_add_test(cases, prompts_are_as_the_families_document_them);
    tcase_add_test(cases, locations_become_boxes);
    tcase_add_test(cases, json_becomes_boxes);
    tcase_add_test(cases, labels_find_their_queries);
    tcase_add_test(cases, texts_cut_at_any_byte_lose_only_what_is_cut);
    tcase_add_test(cases, random_texts_are_read_without_harm);
    tcase_add_test(cases, running_out_of_memory_is_a_status);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed != 0;
}
