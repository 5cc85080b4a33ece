/*
 * test_api_form.c: request bodies in their three forms, and what malformed ones get: the status and
 * the field that is named. Rows of {name, input, want}; the generated ones are hostile.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/endpoint.h"
#include "api/multipart.h"
#include "api/percent.h"
#include "api/router.h"
#include "core/base/size.h"

static const struct field all_types[] = {
    {"image", FIELD_IMAGE, .help = "a picture"},
    {"images", FIELD_IMAGES, .help = "pictures"},
    {"text", FIELD_STRING, .help = "a text"},
    {"texts", FIELD_STRINGS, .max = 3, .help = "texts"},
    {"count", FIELD_INTEGER, .min = 1, .max = 100, .help = "a count"},
    {"ratio", FIELD_NUMBER, .min = 0, .max = 1, .help = "a ratio"},
    {"flag", FIELD_BOOLEAN, .help = "a flag"},
    {"filter", FIELD_OBJECT, .help = "an object"},
    {"vector", FIELD_VECTOR, .help = "numbers"},
    {"any", FIELD_ANY, .help = "anything"},
    {"user", FIELD_STRING, FIELD_IGNORED},
    {NULL},
};

static const struct field one_required[] = {
    {"question", FIELD_STRING, FIELD_REQUIRED, .help = "a question"},
    {NULL},
};

struct parsed {
    struct arena arena;
    struct form form;
    struct error err;
    enum status status;
};

static void parse(struct parsed *out, const struct field *table, const char *query,
                  const char *content_type, const char *body, size_t size)
{
    *out = (struct parsed){0};
    arena_init(&out->arena, 64 << 20);
    const struct form_request request = {
        .tables = &table,
        .n_tables = 1,
        .body_forms = BODY_FORMS,
        .query = query,
        .content_type = content_type,
        .body = body,
        .body_bytes = size,
        .max_items = 8,
    };
    out->status = form_parse(&out->form, &out->arena, &request, &out->err);
    if (out->status) {
        ck_assert_int_eq(out->status, out->err.status);
        ck_assert_msg(out->err.message[0] != '\0', "an error without a message");
    }
}

static void release(struct parsed *parsed)
{
    form_release(&parsed->form);
    arena_release(&parsed->arena);
}

/* As expected param: whichever field of the table, or none. */
static const char a_field[] = "any field";

static void expect(const char *name, const struct field *table, const char *query,
                   const char *content_type, const char *body, size_t size, enum status status,
                   const char *param)
{
    struct parsed parsed;
    parse(&parsed, table, query, content_type, body, size);
    ck_assert_msg(parsed.status == status, "%s: %s (%s), wanted %s", name,
                  status_info(parsed.status)->name, parsed.err.message, status_info(status)->name);
    if (param == a_field) {
        const struct field *field = table;
        while (field->name && strcmp(field->name, parsed.err.param))
            field++;
        param = field->name;
    }
    ck_assert_msg(!strcmp(parsed.err.param, param ? param : ""), "%s: param '%s', wanted '%s'",
                  name, parsed.err.param, param ? param : "");
    release(&parsed);
}

/* ---- JSON ---------------------------------------------------------------------------------------
 */

START_TEST(json_bodies_get_the_status_and_name_the_field)
{
    static const struct {
        const char *name, *body;
        enum status status;
        const char *param;
    } rows[] = {
        {"empty object", "{}", STATUS_OK, NULL},
        {"not JSON", "hello", STATUS_BAD_JSON, NULL},
        {"cut", "{\"text\": \"a", STATUS_BAD_JSON, "text"},
        {"cut after backslash", "{\"text\": \"a\\", STATUS_BAD_JSON, "text"},
        {"trailing garbage", "{} {}", STATUS_BAD_JSON, NULL},
        {"a list", "[1]", STATUS_BAD_REQUEST, NULL},
        {"a string", "\"x\"", STATUS_BAD_JSON, NULL},
        {"duplicate keys", "{\"text\": \"a\", \"text\": \"b\"}", STATUS_BAD_JSON, "text"},
        {"escaped NUL", "{\"text\": \"a\\u0000b\"}", STATUS_BAD_JSON, "text"},
        {"invalid UTF-8", "{\"text\": \"\xff\"}", STATUS_BAD_JSON, "text"},
        {"lone surrogate", "{\"text\": \"\\ud800\"}", STATUS_BAD_JSON, "text"},
        {"overlong", "{\"text\": \"\xc0\x80\"}", STATUS_BAD_JSON, "text"},
        {"NaN", "{\"ratio\": NaN}", STATUS_BAD_JSON, "ratio"},
        {"Infinity", "{\"ratio\": Infinity}", STATUS_BAD_JSON, "ratio"},
        {"huge real", "{\"ratio\": 1e999}", STATUS_BAD_JSON, "ratio"},
        {"huge integer", "{\"count\": 99999999999999999999}", STATUS_BAD_JSON, "count"},
        {"null is absent", "{\"text\": null}", STATUS_OK, NULL},
        {"unknown", "{\"txet\": \"a\"}", STATUS_UNKNOWN_FIELD, "txet"},
        {"user is ignored", "{\"user\": 12}", STATUS_OK, NULL},
        {"text not string", "{\"text\": 1}", STATUS_WRONG_TYPE, "text"},
        {"text list", "{\"text\": [\"a\"]}", STATUS_WRONG_TYPE, "text"},
        {"integer as real", "{\"count\": 1.0}", STATUS_WRONG_TYPE, "count"},
        {"integer as string", "{\"count\": \"1\"}", STATUS_WRONG_TYPE, "count"},
        {"integer below", "{\"count\": 0}", STATUS_OUT_OF_RANGE, "count"},
        {"integer at its maximum", "{\"count\": 100}", STATUS_OK, NULL},
        {"integer above", "{\"count\": 101}", STATUS_OUT_OF_RANGE, "count"},
        {"integer far below", "{\"count\": -9223372036854775808}", STATUS_OUT_OF_RANGE, "count"},
        {"number may be an integer", "{\"ratio\": 1}", STATUS_OK, NULL},
        {"number above", "{\"ratio\": 1.0001}", STATUS_OUT_OF_RANGE, "ratio"},
        {"boolean as number", "{\"flag\": 1}", STATUS_WRONG_TYPE, "flag"},
        {"strings as string", "{\"texts\": \"a\"}", STATUS_OK, NULL},
        {"strings empty", "{\"texts\": []}", STATUS_UNPROCESSABLE, "texts"},
        {"strings at their maximum", "{\"texts\": [\"a\",\"b\",\"c\"]}", STATUS_OK, NULL},
        {"strings above", "{\"texts\": [\"a\",\"b\",\"c\",\"d\"]}", STATUS_OUT_OF_RANGE, "texts"},
        {"strings of wrong type", "{\"texts\": {}}", STATUS_WRONG_TYPE, "texts"},
        {"one string of wrong type", "{\"texts\": [\"a\", 2]}", STATUS_WRONG_TYPE, "texts[1]"},
        {"object", "{\"filter\": {\"a\": [1]}}", STATUS_OK, NULL},
        {"object as list", "{\"filter\": []}", STATUS_WRONG_TYPE, "filter"},
        {"vector", "{\"vector\": [1, 2.5, -3e-2]}", STATUS_OK, NULL},
        {"vector empty", "{\"vector\": []}", STATUS_UNPROCESSABLE, "vector"},
        {"vector with a string", "{\"vector\": [1, \"2\"]}", STATUS_WRONG_TYPE, "vector"},
        {"vector past f32", "{\"vector\": [1e200]}", STATUS_OUT_OF_RANGE, "vector"},
        {"image as number", "{\"image\": 5}", STATUS_WRONG_TYPE, "image"},
        {"image as list", "{\"image\": [\"aa\"]}", STATUS_WRONG_TYPE, "image"},
        {"image as b64", "{\"image\": {\"b64\": \"aaaa\"}}", STATUS_OK, NULL},
        {"image as other object", "{\"image\": {\"c64\": \"aaaa\"}}", STATUS_WRONG_TYPE, "image"},
        {"image as both", "{\"image\": {\"b64\": \"a\", \"url\": \"b\"}}", STATUS_WRONG_TYPE,
         "image"},
        {"image as b64 number", "{\"image\": {\"b64\": 1}}", STATUS_WRONG_TYPE, "image"},
        {"data URL", "{\"image\": \"data:image/png;base64,aaaa\"}", STATUS_OK, NULL},
        {"data URL without comma", "{\"image\": \"data:image/png;base64\"}", STATUS_BAD_BASE64,
         "image"},
        {"data URL not base64", "{\"image\": \"data:image/png,aaaa\"}", STATUS_BAD_BASE64, "image"},
        {"images, one wrong", "{\"images\": [\"aaaa\", 1]}", STATUS_WRONG_TYPE, "images[1]"},
        {"images, too many", "{\"images\": [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}",
         STATUS_OUT_OF_RANGE, "images"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        expect(rows[i].name, all_types, "", "application/json", rows[i].body, strlen(rows[i].body),
               rows[i].status, rows[i].param);
    expect("NUL in the body", all_types, "", "application/json", "{\"text\": \"a\0b\"}", 15,
           STATUS_BAD_JSON, "text");
    expect("empty body", all_types, "", "application/json", "", 0, STATUS_BAD_REQUEST, NULL);
    expect("missing", one_required, "", "application/json", "{}", 2, STATUS_MISSING_FIELD,
           "question");
}
END_TEST

START_TEST(json_depth_and_size_are_bounded)
{
    size_t size = 10 << 20;
    char *body = malloc(size + 64);
    memset(body, '[', size);
    expect("a bomb of lists", all_types, "", "application/json", body, size, STATUS_BAD_JSON, NULL);
    for (size_t i = 0; i + 5 <= size; i += 5)
        memcpy(body + i, "{\"a\":", 5);
    expect("a bomb of objects", all_types, "", "application/json", body, size, STATUS_BAD_JSON,
           "a");
    memcpy(body, "{\"any\":[", 8);
    for (size_t i = 8; i < size; i++)
        body[i] = i % 2 ? ',' : '1';
    expect("millions of values", all_types, "", "application/json", body, size, STATUS_BAD_JSON,
           "any");

    /* 10 MB in one string are fine; brackets and escapes in it are not structure. */
    memset(body, '[', size);
    memcpy(body, "{\"text\":\"\\\"{", 12);
    memcpy(body + size - 4, "\\\\\"}", 4);
    expect("a long string", all_types, "", "application/json", body, size, STATUS_OK, NULL);

    for (int depth = FORM_JSON_DEPTH_MAX - 2; depth <= FORM_JSON_DEPTH_MAX; depth++) {
        size_t n = (size_t)sprintf(body, "{\"any\":");
        memset(body + n, '[', (size_t)depth);
        memset(body + n + depth, ']', (size_t)depth);
        n += 2 * (size_t)depth;
        body[n++] = '}';
        expect("at the depth", all_types, "", "application/json", body, n,
               depth < FORM_JSON_DEPTH_MAX ? STATUS_OK : STATUS_BAD_JSON,
               depth < FORM_JSON_DEPTH_MAX ? NULL : "any");
    }
    free(body);
}
END_TEST

START_TEST(json_cut_anywhere_is_refused)
{
    static const char body[] =
        "{\"text\":\"a\\\"\\u00e9\",\"texts\":[\"b\"],\"count\":12,\"vector\":"
        "[1.5],\"filter\":{\"a\":null},\"flag\":true}";
    for (size_t cut = 1; cut < sizeof body - 1; cut++)
        expect("cut", all_types, "", "application/json", body, cut, STATUS_BAD_JSON, a_field);
    expect("whole", all_types, "", "application/json", body, sizeof body - 1, STATUS_OK, NULL);
}
END_TEST

/* ---- query strings ------------------------------------------------------------------------------
 */

START_TEST(query_values_are_coerced_like_json)
{
    static const struct {
        const char *name, *query;
        enum status status;
        const char *param;
    } rows[] = {
        {"plain", "text=what+is%20it&count=7&ratio=0.25&flag=true", STATUS_OK, NULL},
        {"no value", "text", STATUS_OK, NULL},
        {"empty pairs", "&&text=a&", STATUS_OK, NULL},
        {"bad escape", "text=%4", STATUS_BAD_REQUEST, "text"},
        {"bad escape in a name", "%zz=1", STATUS_BAD_REQUEST, NULL},
        {"NUL", "text=a%00b", STATUS_BAD_REQUEST, "text"},
        {"invalid UTF-8", "text=%ff", STATUS_BAD_REQUEST, "text"},
        {"unknown", "texr=a", STATUS_UNKNOWN_FIELD, "texr"},
        {"twice", "text=a&text=b", STATUS_BAD_REQUEST, "text"},
        {"a list", "texts=a&texts=b", STATUS_OK, NULL},
        {"a list too long", "texts=a&texts=b&texts=c&texts=d", STATUS_OUT_OF_RANGE, "texts"},
        {"integer", "count=1e1", STATUS_WRONG_TYPE, "count"},
        {"integer empty", "count=", STATUS_WRONG_TYPE, "count"},
        {"integer with a blank", "count=+1", STATUS_WRONG_TYPE, "count"},
        {"integer hex", "count=0x10", STATUS_WRONG_TYPE, "count"},
        {"integer huge", "count=99999999999999999999", STATUS_OUT_OF_RANGE, "count"},
        {"integer range", "count=1000", STATUS_OUT_OF_RANGE, "count"},
        {"number nan", "ratio=nan", STATUS_WRONG_TYPE, "ratio"},
        {"number inf", "ratio=inf", STATUS_WRONG_TYPE, "ratio"},
        {"number hex", "ratio=0x1p3", STATUS_WRONG_TYPE, "ratio"},
        {"number huge", "ratio=1e999", STATUS_OUT_OF_RANGE, "ratio"},
        {"boolean", "flag=yes", STATUS_WRONG_TYPE, "flag"},
        {"object", "filter=%7B%22a%22%3A1%7D", STATUS_OK, NULL},
        {"object not JSON", "filter=a", STATUS_BAD_JSON, "filter"},
        {"object as list", "filter=[]", STATUS_WRONG_TYPE, "filter"},
        {"vector", "vector=[1,2]", STATUS_OK, NULL},
        {"any as text", "any=hello", STATUS_OK, NULL},
        {"any as JSON", "any=[1]", STATUS_OK, NULL},
        {"picture and query", "image=aaaa", STATUS_BAD_REQUEST, "image"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        expect(rows[i].name, all_types, rows[i].query, "image/jpeg", "\xff\xd8", 2, rows[i].status,
               rows[i].param);
    expect("both", all_types, "text=a", "application/json", "{\"text\":\"b\"}", 12,
           STATUS_BAD_REQUEST, "text");
}
END_TEST

START_TEST(query_and_raw_picture_arrive_whole)
{
    struct parsed parsed;
    parse(&parsed, all_types, "text=what+is%20it%3F&texts=a&texts=%C3%A9&count=+7&ratio=.5&flag=0",
          "image/jpeg; q=1", "\xff\xd8\0x", 4);
    ck_assert_int_eq(parsed.status, STATUS_WRONG_TYPE); /* "+7" is " 7" */
    release(&parsed);
    parse(&parsed, all_types, "text=what+is%20it%3F&texts=a&texts=%C3%A9&count=7&ratio=.5&flag=0",
          "application/octet-stream", "\xff\xd8\0x", 4);
    ck_assert_int_eq(parsed.status, STATUS_OK);
    ck_assert_str_eq(form_string(&parsed.form, "text", "").data, "what is it?");
    ck_assert_uint_eq(form_value(&parsed.form, "texts")->n, 2);
    ck_assert_str_eq(form_value(&parsed.form, "texts")->strings[1].data, "\xC3\xA9");
    ck_assert_int_eq(form_integer(&parsed.form, "count", 0), 7);
    ck_assert(form_number(&parsed.form, "ratio", 0) == 0.5);
    ck_assert(!form_boolean(&parsed.form, "flag", true));
    const struct picture *picture = form_value(&parsed.form, "image")->pictures;
    ck_assert_int_eq(picture->form, PICTURE_BYTES);
    ck_assert_uint_eq(picture->bytes.size, 4);
    ck_assert_str_eq(picture->param, "image");
    release(&parsed);
}
END_TEST

START_TEST(content_types_that_are_not_known_are_refused)
{
    static const struct {
        const char *type;
        enum status status;
    } rows[] = {
        {NULL, STATUS_UNSUPPORTED_MEDIA},
        {"", STATUS_UNSUPPORTED_MEDIA},
        {"text/plain", STATUS_UNSUPPORTED_MEDIA},
        {"application/x-www-form-urlencoded", STATUS_UNSUPPORTED_MEDIA},
        {"application/jsonx", STATUS_UNSUPPORTED_MEDIA},
        {"application/json; charset=latin1", STATUS_UNSUPPORTED_MEDIA},
        {"application/json; charset=\"UTF-8\"", STATUS_OK},
        {"APPLICATION/JSON", STATUS_OK},
        {"multipart/form-data", STATUS_BAD_REQUEST},
        {"multipart/form-data; boundary=", STATUS_BAD_REQUEST},
        {"multipart/form-data; boundary=\"", STATUS_BAD_REQUEST},
        {"multipart/form-data; boundary=a\x01", STATUS_BAD_REQUEST},
        {"multipart/form-data; boundary=abc", STATUS_BAD_REQUEST},
        {"multipart/mixed; boundary=abc", STATUS_UNSUPPORTED_MEDIA},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        expect(rows[i].type ? rows[i].type : "none", all_types, "", rows[i].type, "{}", 2,
               rows[i].status, NULL);
}
END_TEST

/* ---- multipart ----------------------------------------------------------------------------------
 */

#define PART(name) "--B\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n"
#define FILE_PART(name, file)                                                                      \
    "--B\r\nContent-Disposition: form-data; name=\"" name "\"; filename=\"" file "\"\r\n"          \
    "Content-Type: image/png\r\n\r\n"

START_TEST(multipart_bodies_get_the_status_and_name_the_field)
{
    static const struct {
        const char *name, *body;
        enum status status;
        const char *param;
    } rows[] = {
        {"no parts", "--B--", STATUS_OK, NULL},
        {"one", PART("text") "a\r\n--B--\r\n", STATUS_OK, NULL},
        {"preamble and epilogue", "hi\r\n" PART("text") "a\r\n--B--\r\nbye", STATUS_OK, NULL},
        {"blanks behind the boundary",
         "--B  \r\nContent-Disposition: form-data; name=text\r\n\r\n"
         "a\r\n--B--",
         STATUS_OK, NULL},
        {"empty value", PART("text") "\r\n--B--", STATUS_OK, NULL},
        {"value without its own line end", PART("text") "--B--", STATUS_OK, NULL},
        {"boundary as a prefix of data", PART("text") "a\r\n--Bad\r\n--B--", STATUS_OK, NULL},
        {"no end", PART("text") "a", STATUS_BAD_REQUEST, NULL},
        {"no end, boundary only", PART("text") "a\r\n--B", STATUS_BAD_REQUEST, NULL},
        {"another boundary", "--C\r\n\r\n", STATUS_BAD_REQUEST, NULL},
        {"ends within headers", "--B\r\nContent-Disposition: form-data", STATUS_BAD_REQUEST, NULL},
        {"no headers", "--B\r\n\r\na\r\n--B--", STATUS_BAD_REQUEST, NULL},
        {"header without colon", "--B\r\nabc\r\n\r\na\r\n--B--", STATUS_BAD_REQUEST, NULL},
        {"no name", "--B\r\nContent-Disposition: form-data\r\n\r\na\r\n--B--", STATUS_BAD_REQUEST,
         NULL},
        {"name without an end",
         "--B\r\nContent-Disposition: form-data; name=\"text\r\n\r\na\r\n--B--", STATUS_BAD_REQUEST,
         NULL},
        {"attachment", "--B\r\nContent-Disposition: attachment; name=text\r\n\r\na\r\n--B--",
         STATUS_BAD_REQUEST, NULL},
        {"nested",
         "--B\r\nContent-Disposition: form-data; name=text\r\nContent-Type: multipart/mixed; "
         "boundary=C\r\n\r\n--C--\r\n--B--",
         STATUS_UNSUPPORTED_MEDIA, NULL},
        {"transfer encoding",
         "--B\r\nContent-Disposition: form-data; name=text\r\nContent-Transfer-Encoding: base64"
         "\r\n\r\nYQ==\r\n--B--",
         STATUS_UNSUPPORTED_MEDIA, NULL},
        {"unknown", PART("txt") "a\r\n--B--", STATUS_UNKNOWN_FIELD, "txt"},
        {"invalid UTF-8", PART("text") "\xff\r\n--B--", STATUS_BAD_REQUEST, "text"},
        {"twice", PART("text") "a\r\n" PART("text") "b\r\n--B--", STATUS_BAD_REQUEST, "text"},
        {"integer", PART("count") "x\r\n--B--", STATUS_WRONG_TYPE, "count"},
        {"range", PART("count") "101\r\n--B--", STATUS_OUT_OF_RANGE, "count"},
        {"picture", FILE_PART("image", "a.png") "\xff\xfe\r\n--B--", STATUS_OK, NULL},
        {"picture as text", PART("image") "aaaa\r\n--B--", STATUS_OK, NULL},
        {"two of one picture", FILE_PART("image", "a") "x\r\n" FILE_PART("image", "b") "y\r\n--B--",
         STATUS_BAD_REQUEST, "image"},
        {"user is ignored", PART("user") "me\r\n--B--", STATUS_OK, NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        expect(rows[i].name, all_types, "", "multipart/form-data; boundary=B", rows[i].body,
               strlen(rows[i].body), rows[i].status, rows[i].param);
}
END_TEST

START_TEST(multipart_parts_arrive_whole)
{
    static const char body[] =
        FILE_PART("images", "caf\xC3\xA9 \\\"1\\\".png") "\r\n--\0\r\n--Bx\r\n" FILE_PART(
            "images",
            "b.png") "second\r\n" PART("texts") "one\r\n" PART("texts") "\r\n" PART("vector") "[1, "
                                                                                              "2]"
                                                                                              "\r\n"
                                                                                              "--B-"
                                                                                              "-";
    struct parsed parsed;
    parse(&parsed, all_types, "count=3", "multipart/form-data; charset=x; boundary=\"B\"", body,
          sizeof body - 1);
    ck_assert_msg(parsed.status == STATUS_OK, "%s", parsed.err.message);
    const struct form_value *images = form_value(&parsed.form, "images");
    ck_assert_uint_eq(images->n, 2);
    ck_assert_uint_eq(images->pictures[0].bytes.size, 11);
    ck_assert(!memcmp(images->pictures[0].bytes.data, "\r\n--\0\r\n--Bx", 11));
    ck_assert_str_eq(images->pictures[0].filename.data, "caf\xC3\xA9 \"1\".png");
    ck_assert_str_eq(images->pictures[1].param, "images[1]");
    ck_assert_uint_eq(form_value(&parsed.form, "texts")->n, 2);
    ck_assert_str_eq(form_value(&parsed.form, "texts")->strings[0].data, "one");
    ck_assert_uint_eq(form_value(&parsed.form, "texts")->strings[1].size, 0);
    ck_assert_uint_eq(form_value(&parsed.form, "vector")->n, 2);
    ck_assert_int_eq(form_integer(&parsed.form, "count", 0), 3);
    release(&parsed);
}
END_TEST

START_TEST(multipart_cut_anywhere_is_refused)
{
    static const char body[] = FILE_PART("image", "a.png") "abc\r\n" PART("text") "x\r\n--B--";
    for (size_t cut = 1; cut < sizeof body - 1; cut++)
        expect("cut", all_types, "", "multipart/form-data; boundary=B", body, cut,
               STATUS_BAD_REQUEST, NULL);
}
END_TEST

START_TEST(multipart_is_bounded)
{
    size_t size = 10 << 20;
    char *body = malloc(size + 256);
    size_t n = 0;
    for (int i = 0; i < 100000; i++)
        n += (size_t)sprintf(body + n, "%s\r\n", PART("user") "a");
    n += (size_t)sprintf(body + n, "--B--");
    expect("100,000 parts", all_types, "", "multipart/form-data; boundary=B", body, n,
           STATUS_BAD_REQUEST, NULL);

    n = (size_t)sprintf(body, "--B\r\nContent-Disposition: form-data; name=text; x=");
    memset(body + n, 'y', FORM_PART_HEADER_MAX);
    n += FORM_PART_HEADER_MAX;
    n += (size_t)sprintf(body + n, "\r\n\r\na\r\n--B--");
    expect("a long header", all_types, "", "multipart/form-data; boundary=B", body, n,
           STATUS_BAD_REQUEST, NULL);

    n = (size_t)sprintf(body, "%s", PART("text"));
    /* What starts like a delimiter again and again; short, because a sanitizer looks at all that is
     * left each time. */
    while (n < 100000)
        n += (size_t)sprintf(body + n, "\r\n--Bx");
    expect("near-delimiters", all_types, "", "multipart/form-data; boundary=B", body, n,
           STATUS_BAD_REQUEST, NULL);
    memset(body, '-', size);
    expect("all dashes", all_types, "", "multipart/form-data; boundary=-----------", body, size,
           STATUS_OK, NULL); /* "--" boundary "--": closed at once */

    char type[256];
    for (int length = FORM_BOUNDARY_MAX; length <= FORM_BOUNDARY_MAX + 1; length++) {
        char boundary[FORM_BOUNDARY_MAX + 2];
        memset(boundary, 'b', sizeof boundary);
        boundary[length] = '\0';
        sprintf(type, "multipart/form-data; boundary=%s", boundary);
        n = (size_t)sprintf(body, "--%s--", boundary);
        expect("a long boundary", all_types, "", type, body, n,
               length <= FORM_BOUNDARY_MAX ? STATUS_OK : STATUS_BAD_REQUEST, NULL);
    }
    free(body);
}
END_TEST

/* ---- faults of all kinds ------------------------------------------------------------------------
 */

static const char mixed_parts[] =
    "pre\r\n" FILE_PART("images", "a.png") "\r\n--\xff\r\n" PART("texts") "one\r\n" PART(
        "vector") "[1, 2]\r\n" PART("any") "{\"a\": [1, \"x\"]}\r\n" PART("count") "7\r\n--B--";
static const char mixed_json[] =
    "{\"image\":{\"b64\":\"aGk=\"},\"texts\":[\"\\u00e9\",\"b\"],\"count\":12,\"vector\":[1.5,-2],"
    "\"filter\":{\"a\":null},\"flag\":true,\"any\":[{\"text\":\"c\"}],\"ratio\":0.5}";

START_TEST(damaged_bodies_are_refused_or_read_but_never_more)
{
    static const struct {
        const char *type, *body;
        size_t size;
    } seeds[] = {
        {"multipart/form-data; boundary=B", mixed_parts, sizeof mixed_parts - 1},
        {"application/json", mixed_json, sizeof mixed_json - 1},
    };
    uint32_t random = 12345;
    for (size_t s = 0; s < ARRAY_LENGTH(seeds); s++) {
        expect("undamaged", all_types, "", seeds[s].type, seeds[s].body, seeds[s].size, STATUS_OK,
               NULL);
        for (int round = 0; round < 4000; round++) {
            /* Of its exact size, so that a sanitizer sees a byte read past it. */
            char *body = malloc(seeds[s].size);
            memcpy(body, seeds[s].body, seeds[s].size);
            for (int k = 0; k <= round % 4; k++) {
                random = random * 1664525 + 1013904223;
                size_t at = (random >> 8) % seeds[s].size;
                static const char bytes[] = "\r\n-B\"\\{}[],:;= \xff\x00\x01"
                                            "e9";
                body[at] = bytes[(random >> 3) % sizeof bytes];
            }
            struct parsed parsed;
            parse(&parsed, all_types, "", seeds[s].type, body, seeds[s].size);
            release(&parsed);
            free(body);
        }
    }
}
END_TEST

static size_t allocations_left;

static void *failing_malloc(size_t size)
{
    if (!allocations_left)
        return NULL;
    allocations_left--;
    return malloc(size);
}

START_TEST(memory_that_runs_out_is_a_status)
{
    const struct field *table = all_types;
    struct form_request request = {.tables = &table,
                                   .n_tables = 1,
                                   .body_forms = BODY_FORMS,
                                   .query = "text=a",
                                   .max_items = 8};
    for (int form = 0; form < 2; form++) {
        request.content_type = form ? "multipart/form-data; boundary=B" : "application/json";
        request.body = form ? mixed_parts : mixed_json;
        request.body_bytes = strlen(request.body);
        bool done = false;
        for (size_t n = 0; n < 200 && !done; n++) {
            struct arena arena;
            struct form parsed;
            struct error err = {0};
            arena_init(&arena, 64 * (n + 1));
            enum status status = form_parse(&parsed, &arena, &request, &err);
            ck_assert_msg(!status || status == STATUS_NO_MEMORY, "%s", err.message);
            done = !status;
            form_release(&parsed);
            arena_release(&arena);
        }
        ck_assert(done);
        done = false;
        for (size_t n = 0; n < 2000 && !done; n++) {
            struct arena arena;
            struct form parsed;
            struct error err = {0};
            arena_init(&arena, 0);
            allocations_left = n;
            json_set_alloc_funcs(failing_malloc, free);
            enum status status = form_parse(&parsed, &arena, &request, &err);
            form_release(&parsed);
            json_set_alloc_funcs(malloc, free);
            /* jansson calls some allocations that fail in its lexer a syntax error. */
            ck_assert_msg(!status || status == STATUS_NO_MEMORY || status == STATUS_BAD_JSON,
                          "%zu: %s", n, err.message);
            done = !status;
            arena_release(&arena);
        }
        ck_assert(done);
    }
}
END_TEST

/* ---- base64, percent, router --------------------------------------------------------------------
 */

START_TEST(base64_reads_what_clients_send_and_nothing_else)
{
    static const struct {
        const char *text, *want; /* NULL = refused */
        size_t at;
    } rows[] = {
        {"", "", 0},
        {"YQ==", "a", 0},
        {"YWI=", "ab", 0},
        {"YWJj", "abc", 0},
        {"YQ", "a", 0},
        {"YWI", "ab", 0},
        {"YW\r\nJj", "abc", 0},
        {"YWJj\n", "abc", 0},
        {"Pz8_Pj4-", "\?\?\?>>>", 0},
        {"Pz8/Pj4+", "\?\?\?>>>", 0},
        {"YWJjZGVm\nZ2g=", "abcdefgh", 0},
        {"Y", NULL, 1},
        {"Y===", NULL, 1},
        {"YQ=", NULL, 3},
        {"YQ==YQ==", NULL, 4},
        {"YW Jj", NULL, 2},
        {"YWJ*", NULL, 3},
        {"=", NULL, 0},
        {"YWJj=", NULL, 4},
        {"YQ===", NULL, 4},
        {"YWJ\xff", NULL, 3},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        unsigned char out[64];
        size_t size = 99, at = 99, n = strlen(rows[i].text);
        bool ok = base64_decode(rows[i].text, n, out, &size, &at);
        ck_assert_msg(ok == (rows[i].want != NULL), "row %zu", i);
        if (ok) {
            ck_assert_uint_eq(size, strlen(rows[i].want));
            ck_assert(!memcmp(out, rows[i].want, size));
            ck_assert_uint_le(size, base64_decoded_max(n));
        } else {
            ck_assert_msg(at == rows[i].at, "row %zu: at %zu", i, at);
        }
    }
    for (size_t n = 0; n < 70; n++) {
        unsigned char in[70], back[80];
        char text[100];
        size_t size, at;
        for (size_t k = 0; k < n; k++)
            in[k] = (unsigned char)(k * 37 + n);
        base64_encode(in, n, text);
        ck_assert(base64_decode(text, base64_encoded_size(n), back, &size, &at));
        ck_assert_uint_eq(size, n);
        ck_assert(!memcmp(in, back, n));
    }
}
END_TEST

static const struct endpoint route_table[] = {
    {.method = "GET", .path = "/v1/collections", .id = "a"},
    {.method = "PUT", .path = "/v1/collections/{c}", .id = "b"},
    {.method = "GET", .path = "/v1/collections/{c}", .id = "c"},
    {.method = "POST", .path = "/v1/collections/{c}/items", .id = "d"},
    {.method = "GET", .path = "/v1/collections/{c}/items/{id}", .id = "e"},
    {.method = "GET", .path = "/", .id = "f"},
};

START_TEST(router_matches_paths_and_decodes_names)
{
    static const struct {
        const char *method, *path;
        enum status status;
        const char *id, *first, *second;
    } rows[] = {
        {"GET", "/", STATUS_OK, "f", "", ""},
        {"GET", "/v1/collections", STATUS_OK, "a", "", ""},
        {"HEAD", "/v1/collections", STATUS_OK, "a", "", ""},
        {"GET", "/v1/collections/", STATUS_NOT_FOUND, "", "", ""},
        {"GET", "/v1/collections/x", STATUS_OK, "c", "x", ""},
        {"PUT", "/v1/collections/a%2Fb%20c", STATUS_OK, "b", "a/b c", ""},
        {"PUT", "/v1/collections/a+b", STATUS_OK, "b", "a+b", ""},
        {"GET", "/v1/collections/x/items/caf%C3%A9", STATUS_OK, "e", "x", "caf\xC3\xA9"},
        {"GET", "/v1/collections/x/items/y/z", STATUS_NOT_FOUND, "", "", ""},
        {"DELETE", "/v1/collections/x", STATUS_METHOD_NOT_ALLOWED, "", "", ""},
        {"get", "/v1/collections", STATUS_METHOD_NOT_ALLOWED, "", "", ""},
        {"GET", "/v1/collections/%", STATUS_BAD_REQUEST, "", "", ""},
        {"GET", "/v1/collections/%ff", STATUS_BAD_REQUEST, "", "", ""},
        {"GET", "/v1/collections/%00", STATUS_BAD_REQUEST, "", "", ""},
        {"GET", "", STATUS_NOT_FOUND, "", "", ""},
        {"GET", "*", STATUS_NOT_FOUND, "", "", ""},
        {"GET", "//v1/collections", STATUS_NOT_FOUND, "", "", ""},
    };
    const struct endpoint *table[ARRAY_LENGTH(route_table)];
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        table[i] = &route_table[i];
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct route route = {0};
        struct error err = {0};
        enum status status =
            router_find(table, ARRAY_LENGTH(table), rows[i].method, rows[i].path, &route, &err);
        ck_assert_msg(status == rows[i].status, "%s %s: %s", rows[i].method, rows[i].path,
                      err.message);
        if (!status)
            ck_assert_str_eq(route.endpoint->id, rows[i].id);
        ck_assert_str_eq(route.params[0], rows[i].first);
        ck_assert_str_eq(route.params[1], rows[i].second);
        if (status == STATUS_METHOD_NOT_ALLOWED && strcmp(rows[i].method, "get"))
            ck_assert_str_eq(route.allow, "PUT, GET, HEAD");
    }
    char path[8 * ROUTE_PARAM_BYTES_MAX] = "/v1/collections/";
    size_t n = strlen(path);
    memset(path + n, 'x', ROUTE_PARAM_BYTES_MAX - 1);
    struct route route = {0};
    struct error err = {0};
    ck_assert_int_eq(router_find(table, ARRAY_LENGTH(table), "GET", path, &route, &err), STATUS_OK);
    path[n + ROUTE_PARAM_BYTES_MAX - 1] = 'x';
    ck_assert_int_eq(router_find(table, ARRAY_LENGTH(table), "GET", path, &route, &err),
                     STATUS_BAD_REQUEST);
    memset(path + n, 'x', 7 * ROUTE_PARAM_BYTES_MAX);
    ck_assert_int_eq(router_find(table, ARRAY_LENGTH(table), "GET", path, &route, &err),
                     STATUS_BAD_REQUEST);
}
END_TEST

/* ---- replies ------------------------------------------------------------------------------------
 */

START_TEST(replies_are_valid_json_and_bounded)
{
    struct buffer buffer;
    struct json_writer out;
    buffer_init(&buffer, 4096);
    json_writer_init(&out, &buffer);
    json_begin_object(&out, NULL);
    json_put_string(&out, "s\"\\", "a\"b\\c\n\x01\xff\xC3\xA9");
    json_put_float(&out, "f", 0.1f);
    json_put_double(&out, "d", 0.1);
    json_put_float(&out, "nan", NAN);
    json_put_floats(&out, "v", (const float[]){1, 2.5f, -3e-20f}, 3);
    json_begin_list(&out, "l");
    json_put_integer(&out, NULL, -5);
    json_put_bool(&out, NULL, true);
    json_put_null(&out, NULL);
    json_end_list(&out);
    json_t *value = json_loads("{\"a\": [1.0, 2, {}, \"x\"], \"b\": 0.1}", 0, NULL);
    json_put_value(&out, "value", value);
    json_end_object(&out);
    ck_assert(!json_writer_failed(&out));
    json_error_t fault;
    json_t *back = json_loadb(buffer.data, buffer.size, JSON_REJECT_DUPLICATES, &fault);
    ck_assert_msg(back != NULL, "%s: %s", fault.text, buffer.data);
    ck_assert_str_eq(json_string_value(json_object_get(back, "s\"\\")),
                     "a\"b\\c\n\x01\xEF\xBF\xBD\xC3\xA9");
    ck_assert((float)json_real_value(json_object_get(back, "f")) == 0.1f);
    ck_assert(json_real_value(json_object_get(back, "d")) == 0.1);
    ck_assert(json_is_null(json_object_get(back, "nan")));
    ck_assert(json_equal(json_object_get(back, "value"), value));
    json_decref(value);
    json_decref(back);
    buffer_release(&buffer);

    buffer_init(&buffer, 10);
    json_writer_init(&out, &buffer);
    json_put_string(&out, NULL, "123456789");
    ck_assert(json_writer_failed(&out));
    buffer_release(&buffer);
}
END_TEST

START_TEST(errors_have_one_shape)
{
    struct http_reply reply = {0};
    struct error err = {0};
    error_set_param(&err, STATUS_QUEUE_FULL, "image", "the queue is full (12 items)");
    reply_error(&reply, &(struct api_options){.overload_status = 503}, &err, 7);
    ck_assert_int_eq(reply.status, 503);
    ck_assert_str_eq(reply.headers[0].name, "Retry-After");
    ck_assert_str_eq(reply.headers[0].value, "7");
    ck_assert_str_eq(
        reply.body.data,
        "{\"error\":{\"type\":\"rate_limit_error\",\"code\":\"queue_full\",\"message\":"
        "\"the queue is full (12 items)\",\"param\":\"image\"}}");
    error_set(&err, STATUS_NOT_FOUND, "no");
    reply_error(&reply, NULL, &err, 0);
    ck_assert_int_eq(reply.status, 404);
    ck_assert_uint_eq(reply.n_headers, 0);
    ck_assert_ptr_nonnull(strstr(reply.body.data, "\"param\":null"));
    reply_release(&reply);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_form");
    TCase *tcase = tcase_create("api_form");
    tcase_add_test(tcase, json_bodies_get_the_status_and_name_the_field);
    tcase_add_test(tcase, json_depth_and_size_are_bounded);
    tcase_add_test(tcase, json_cut_anywhere_is_refused);
    tcase_add_test(tcase, query_values_are_coerced_like_json);
    tcase_add_test(tcase, query_and_raw_picture_arrive_whole);
    tcase_add_test(tcase, content_types_that_are_not_known_are_refused);
    tcase_add_test(tcase, multipart_bodies_get_the_status_and_name_the_field);
    tcase_add_test(tcase, multipart_parts_arrive_whole);
    tcase_add_test(tcase, multipart_cut_anywhere_is_refused);
    tcase_add_test(tcase, multipart_is_bounded);
    tcase_add_test(tcase, damaged_bodies_are_refused_or_read_but_never_more);
    tcase_add_test(tcase, memory_that_runs_out_is_a_status);
    tcase_add_test(tcase, base64_reads_what_clients_send_and_nothing_else);
    tcase_add_test(tcase, router_matches_paths_and_decodes_names);
    tcase_add_test(tcase, replies_are_valid_json_and_bounded);
    tcase_add_test(tcase, errors_have_one_shape);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
