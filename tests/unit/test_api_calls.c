/*
 * test_api_calls.c: whole calls without a socket: the endpoints on the tiny reference checkpoints
 * against their goldens, and what faults give.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api_world.h"
#include "core/base/size.h"

static json_t *golden(const char *name)
{
    json_error_t fault;
    json_t *value = json_load_file(data_path(name), 0, &fault);
    ck_assert_msg(value != NULL, "%s: %s", name, fault.text);
    return value;
}

/* ---- the tables ---------------------------------------------------------------------------------
 */

START_TEST(every_endpoint_is_complete)
{
    for (size_t i = 0; i < n_endpoints; i++) {
        const struct endpoint *endpoint = endpoints[i];
        ck_assert_msg(endpoint->method && endpoint->path && endpoint->id && endpoint->summary &&
                          endpoint->tag && endpoint->begin,
                      "endpoint %zu", i);
        for (size_t k = 0; k < i; k++)
            ck_assert_msg(strcmp(endpoints[k]->id, endpoint->id) &&
                              (strcmp(endpoints[k]->path, endpoint->path) ||
                               strcmp(endpoints[k]->method, endpoint->method)),
                          "%s is there twice", endpoint->id);
        const struct field *tables[ENDPOINT_TABLES_MAX], *seen[FORM_FIELDS_MAX];
        size_t n = endpoint_tables(endpoint, tables), n_seen = 0;
        for (size_t t = 0; t < n; t++)
            for (const struct field *field = tables[t]; field->name; field++) {
                ck_assert_msg(field->help && *field->help, "%s: %s", endpoint->id, field->name);
                ck_assert_msg(field->min <= field->max || field->max == 0, "%s: %s", endpoint->id,
                              field->name);
                for (size_t k = 0; k < n_seen; k++)
                    ck_assert_msg(strcmp(seen[k]->name, field->name), "%s: %s is there twice",
                                  endpoint->id, field->name);
                ck_assert_uint_lt(n_seen, FORM_FIELDS_MAX);
                seen[n_seen++] = field;
            }
    }
}
END_TEST

START_TEST(openapi_describes_every_endpoint)
{
    struct reply reply = want(ask("GET", "/openapi.json", "", NULL, NULL, 0));
    const json_t *paths = json_object_get(reply.json, "paths");
    for (size_t i = 0; i < n_endpoints; i++) {
        char method[8] = "";
        for (size_t k = 0; endpoints[i]->method[k]; k++)
            method[k] = (char)(endpoints[i]->method[k] | 0x20);
        const json_t *operation =
            json_object_get(json_object_get(paths, endpoints[i]->path), method);
        ck_assert_str_eq(string_at(operation, "operationId"), endpoints[i]->id);
        const json_t *content = json_object_get(
            json_object_get(json_object_get(operation, "responses"), "200"), "content");
        ck_assert_int_eq(json_object_get(content, "text/event-stream") != NULL,
                         endpoints[i]->delta != NULL);
        ck_assert_msg(endpoints[i]->reply || endpoints[i]->reply_types[0],
                      "%s does not tell what it replies", endpoints[i]->id);
        bool takes_json = endpoints[i]->body & BODY_JSON;
        ck_assert_msg(takes_json == (endpoints[i]->example != NULL), "%s needs an example",
                      endpoints[i]->id);
    }
    ck_assert_ptr_nonnull(json_object_get(reply.json, "components"));
    ck_assert_str_eq(string_at(reply.json, "openapi"), "3.1.0");
    reply_free(&reply);
}
END_TEST

START_TEST(models_info_and_version_tell_what_is_served)
{
    struct reply reply = want(ask("GET", "/v1/models", "", NULL, NULL, 0));
    const json_t *data = json_object_get(reply.json, "data");
    ck_assert_uint_eq(json_array_size(data), 5);
    ck_assert_str_eq(string_at(json_array_get(data, 0), "id"), "clip");
    ck_assert_str_eq(string_at(json_array_get(data, 0), "architecture"), "CLIPModel");
    ck_assert_str_eq(string_at(json_array_get(data, 0), "dtype"), "f32");
    ck_assert_ptr_null(json_object_get(reply.json, "timings"));
    reply_free(&reply);
    reply = want(ask("GET", "/v1/models/matcher", "", NULL, NULL, 0));
    ck_assert_str_eq(string_at(reply.json, "id"), "matcher");
    reply_free(&reply);
    reply = ask("GET", "/v1/models/gpt", "", NULL, NULL, 0);
    ck_assert_int_eq(reply.status, 404);
    ck_assert_ptr_nonnull(strstr(reply.text, "captioner"));
    reply_free(&reply);
    reply = want(ask("GET", "/info", "", NULL, NULL, 0));
    ck_assert_str_eq(string_at(json_object_get(reply.json, "defaults"), "vqa"), "answerer");
    ck_assert(number_at(json_object_get(reply.json, "limits"), "max_items") == 8);
    reply_free(&reply);
    reply = want(ask("GET", "/version", "", NULL, NULL, 0));
    ck_assert_str_eq(string_at(reply.json, "version"), "test");
    reply_free(&reply);
}
END_TEST

/* ---- endpoints ----------------------------------------------------------------------------------
 */

START_TEST(captions_and_answers_are_the_references)
{
    static const struct {
        const char *file, *path, *kind, *answer;
    } sets[] = {
        {"goldens/blip-caption-tiny.json", "/v1/caption", "caption", "caption"},
        {"goldens/blip-vqa-tiny.json", "/v1/vqa", "vqa", "answer"},
    };
    static const char *const settings[][2] = {{"num_beams", "num_beams"},
                                              {"num_return_sequences", "n"},
                                              {"repetition_penalty", "repetition_penalty"},
                                              {"length_penalty", "length_penalty"},
                                              {"max_new_tokens", "max_tokens"}};
    for (size_t s = 0; s < ARRAY_LENGTH(sets); s++) {
        json_t *file = golden(sets[s].file), *item;
        size_t i, n_asked = 0;
        json_array_foreach(json_object_get(file, "cases"), i, item)
        {
            if (strcmp(string_at(item, "kind"), sets[s].kind))
                continue;
            json_t *body = json_object(), *value;
            const char *key;
            bool known = true;
            json_object_foreach(json_object_get(item, "settings"), key, value)
            {
                size_t k = 0;
                while (k < ARRAY_LENGTH(settings) && strcmp(settings[k][0], key))
                    k++;
                known = known && k < ARRAY_LENGTH(settings);
                if (known)
                    json_object_set(body, settings[k][1], value);
            }
            if (known) {
                char picture[128];
                snprintf(picture, sizeof picture, "@%s", string_at(item, "picture"));
                json_object_set_new(body, "image", json_string(picture));
                if (json_is_string(json_object_get(item, "prompt")))
                    json_object_set(body, "prompt", json_object_get(item, "prompt"));
                if (json_is_string(json_object_get(item, "question")))
                    json_object_set(body, "question", json_object_get(item, "question"));
                char *text = json_dumps(body, 0);
                struct reply reply = want(post(sets[s].path, text));
                const char *expected = json_string_value(
                    json_array_get(json_object_get(item, "texts_without_prompt"), 0));
                ck_assert_ptr_nonnull(expected);
                ck_assert_msg(!strcmp(string_at(reply.json, sets[s].answer), expected),
                              "%s: %s, wanted '%s'", string_at(item, "case"), reply.text, expected);
                reply_free(&reply);
                free(text);
                n_asked++;
            }
            json_decref(body);
        }
        ck_assert_uint_gt(n_asked, 2);
        json_decref(file);
    }
}
END_TEST

START_TEST(a_caption_is_the_same_in_all_body_forms)
{
    struct reply json = want(post("/v1/caption", "{\"image\": \"@photo_97x61.jpg\"}"));
    FILE *file = fopen(data_path("images/photo_97x61.jpg"), "rb");
    static char picture[1 << 20], body[(1 << 20) + 1000];
    size_t size = fread(picture, 1, sizeof picture, file);
    fclose(file);
    struct reply raw =
        want(ask("POST", "/v1/caption", "max_tokens=50", "image/jpeg", picture, size));
    size_t n = (size_t)sprintf(body, "--B\r\nContent-Disposition: form-data; name=\"max_tokens\""
                                     "\r\n\r\n50\r\n--B\r\nContent-Disposition: form-data; "
                                     "name=\"image\"; filename=\"x.jpg\"\r\n\r\n");
    memcpy(body + n, picture, size);
    n += size;
    n += (size_t)sprintf(body + n, "\r\n--B--\r\n");
    struct reply parts =
        want(ask("POST", "/v1/caption", "", "multipart/form-data; boundary=B", body, n));
    ck_assert_str_eq(string_at(raw.json, "caption"), string_at(json.json, "caption"));
    ck_assert_str_eq(string_at(parts.json, "caption"), string_at(json.json, "caption"));
    ck_assert_str_eq(string_at(parts.json, "model"), "captioner");
    ck_assert(number_at(json_object_get(parts.json, "timings"), "batch_size") == 1);
    reply_free(&json);
    reply_free(&raw);
    reply_free(&parts);
}
END_TEST

START_TEST(match_gives_the_references_probability_and_cosine)
{
    json_t *file = golden("goldens/blip-itm-tiny.json"), *item;
    size_t i, n_asked = 0;
    json_array_foreach(json_object_get(file, "cases"), i, item)
    {
        if (strcmp(string_at(item, "kind"), "match") ||
            strlen(string_at(item, "text")) > options.max_text_bytes)
            continue;
        char picture[128];
        snprintf(picture, sizeof picture, "@%s", string_at(item, "picture"));
        json_t *body = json_pack("{s:s, s:[O, s]}", "image", picture, "texts",
                                 json_object_get(item, "text"), "something else");
        char *text = json_dumps(body, 0);
        struct reply reply = want(post("/v1/match", text));
        const json_t *scores = json_object_get(reply.json, "scores");
        const json_t *cosines = json_object_get(reply.json, "cosine");
        ck_assert_uint_eq(json_array_size(scores), 2);
        ck_assert(fabs(json_number_value(json_array_get(scores, 0)) -
                       number_at(item, "probability")) < 1e-4);
        ck_assert(fabs(json_number_value(json_array_get(cosines, 0)) - number_at(item, "cosine")) <
                  1e-4);
        reply_free(&reply);
        free(text);
        json_decref(body);
        n_asked++;
    }
    ck_assert_uint_gt(n_asked, 1);
    json_decref(file);
}
END_TEST

static double dot(const json_t *a, const json_t *b)
{
    double sum = 0;
    ck_assert_uint_eq(json_array_size(a), json_array_size(b));
    for (size_t i = 0; i < json_array_size(a); i++)
        sum += json_number_value(json_array_get(a, i)) * json_number_value(json_array_get(b, i));
    return sum;
}

START_TEST(embeddings_stand_alone_and_are_normalised)
{
    struct reply reply =
        want(post("/v1/embeddings", "{\"input\": [\"a cat\", {\"text\": \"a cat\"}, {\"image\": "
                                    "\"@photo_97x61.jpg\"}, {\"image\": \"aGVsbG8=\"}, {\"image\": "
                                    "\"***\"}, {\"image\": \"http://x/y.jpg\"}]}"));
    const json_t *data = json_object_get(reply.json, "data");
    ck_assert_uint_eq(json_array_size(data), 6);
    const json_t *vectors[3];
    for (size_t i = 0; i < 3; i++) {
        vectors[i] = json_object_get(json_array_get(data, i), "embedding");
        ck_assert(fabs(dot(vectors[i], vectors[i]) - 1) < 1e-5);
    }
    ck_assert(json_equal(vectors[0], vectors[1]));
    static const char *const codes[] = {"unsupported_image_format", "bad_base64", "unprocessable"};
    for (size_t i = 3; i < 6; i++) {
        const json_t *error = json_object_get(json_array_get(data, i), "error");
        char param[32];
        snprintf(param, sizeof param, "input[%zu]", i);
        ck_assert_str_eq(string_at(error, "code"), codes[i - 3]);
        ck_assert_str_eq(string_at(error, "param"), param);
    }
    ck_assert(!strncmp(string_at(reply.json, "space"), "clip@", 5));
    ck_assert(number_at(json_object_get(reply.json, "usage"), "prompt_tokens") > 4);

    struct reply cut = want(post("/v1/embeddings", "{\"input\": \"a cat\", \"dimensions\": 5, "
                                                   "\"encoding_format\": \"base64\"}"));
    const char *text = string_at(json_array_get(json_object_get(cut.json, "data"), 0), "embedding");
    unsigned char bytes[64];
    size_t size, at;
    ck_assert(base64_decode(text, strlen(text), bytes, &size, &at));
    ck_assert_uint_eq(size, 20);
    float first[5], length = 0;
    memcpy(first, bytes, sizeof first);
    for (size_t i = 0; i < 5; i++)
        length += first[i] * first[i];
    ck_assert(fabsf(length - 1) < 1e-5f);
    ck_assert((double)first[0] * json_number_value(json_array_get(vectors[0], 0)) > 0);
    reply_free(&cut);
    reply_free(&reply);
}
END_TEST

START_TEST(classify_follows_the_models_own_cosines)
{
    struct reply reply = want(post("/v1/classify", "{\"image\": \"@photo_97x61.jpg\", \"labels\": "
                                                   "[\"cat\", \"dog\", \"car\"], \"template\": "
                                                   "\"a {} here\"}"));
    struct reply vectors = want(post(
        "/v1/embeddings", "{\"input\": [{\"image\": \"@photo_97x61.jpg\"}, \"a cat here\", \"a dog "
                          "here\", \"a car here\"]}"));
    json_t *file = golden("goldens/clip-tiny.json");
    const json_t *labels = json_object_get(reply.json, "labels");
    const json_t *data = json_object_get(vectors.json, "data");
    static const char *const names[] = {"cat", "dog", "car"};
    double expected[3], sum = 0, total = 0, last = 1;
    for (size_t i = 0; i < 3; i++)
        sum += expected[i] = exp(number_at(file, "logit_scale_exp") *
                                 dot(json_object_get(json_array_get(data, 0), "embedding"),
                                     json_object_get(json_array_get(data, i + 1), "embedding")));
    ck_assert_uint_eq(json_array_size(labels), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *row = json_array_get(labels, i);
        size_t k = 0;
        while (strcmp(names[k], string_at(row, "label")))
            k++;
        ck_assert(fabs(number_at(row, "score") - expected[k] / sum) < 1e-5);
        ck_assert(number_at(row, "score") <= last);
        last = number_at(row, "score");
        total += last;
    }
    ck_assert(fabs(total - 1) < 1e-5);
    reply_free(&vectors);
    reply_free(&reply);

    json_t *item;
    size_t i, n_asked = 0;
    json_array_foreach(json_object_get(file, "cases"), i, item)
    {
        if (strcmp(string_at(item, "kind"), "classify"))
            continue;
        char picture[128];
        snprintf(picture, sizeof picture, "@%s", string_at(item, "picture"));
        json_t *body = json_pack("{s:s, s:O, s:O}", "image", picture, "labels",
                                 json_object_get(item, "labels"), "template",
                                 json_object_get(item, "template"));
        char *text = json_dumps(body, 0);
        reply = want(post("/v1/classify", text));
        const json_t *best = json_object_get(item, "best_first");
        for (size_t k = 0; k < json_array_size(best); k++) {
            const json_t *row = json_array_get(json_object_get(reply.json, "labels"), k);
            ck_assert_str_eq(string_at(row, "label"), string_at(json_array_get(best, k), "label"));
            ck_assert(fabs(number_at(row, "score") - number_at(json_array_get(best, k), "score")) <
                      1e-4);
        }
        reply_free(&reply);
        free(text);
        json_decref(body);
        n_asked++;
    }
    ck_assert_uint_gt(n_asked, 1);
    json_decref(file);
}
END_TEST

START_TEST(generation_fields_steer)
{
    struct reply beams = want(post("/v1/caption", "{\"image\": \"@wide_200x150.jpg\", "
                                                  "\"num_beams\": 3, \"n\": 2}"));
    const json_t *captions = json_object_get(beams.json, "captions");
    ck_assert_uint_eq(json_array_size(captions), 2);
    ck_assert_str_eq(string_at(json_array_get(captions, 0), "caption"),
                     string_at(beams.json, "caption"));
    reply_free(&beams);
    static const char sample[] = "{\"image\": \"@wide_200x150.jpg\", \"temperature\": 3, "
                                 "\"seed\": 5, \"n\": 4}";
    struct reply one = want(post("/v1/caption", sample)), two = want(post("/v1/caption", sample));
    ck_assert(
        json_equal(json_object_get(one.json, "captions"), json_object_get(two.json, "captions")));
    ck_assert_uint_eq(json_array_size(json_object_get(one.json, "captions")), 4);
    reply_free(&one);
    reply_free(&two);
    struct reply answers = want(post("/v1/vqa", "{\"image\": \"@wide_200x150.jpg\", \"question\": "
                                                "\"what?\", \"top_k\": 3}"));
    ck_assert_uint_eq(json_array_size(json_object_get(answers.json, "answers")), 3);
    reply_free(&answers);
}
END_TEST

START_TEST(labels_are_answers_where_the_model_has_them)
{
    struct reply reply = want(post("/v1/vqa", "{\"image\": \"@photo_97x61.jpg\", \"question\": "
                                              "\"is it?\", \"model\": \"labeller\"}"));
    ck_assert_str_eq(string_at(reply.json, "answer"), "yes");
    ck_assert(number_at(reply.json, "score") == 0.25);
    ck_assert_uint_eq(json_array_size(json_object_get(reply.json, "answers")), 3);
    reply_free(&reply);
    reply = want(post("/v1/vqa", "{\"images\": [\"@photo_97x61.jpg\", \"@wide_200x150.jpg\"], "
                                 "\"question\": \"is it?\", \"model\": \"labeller\", "
                                 "\"top_k\": 2}"));
    ck_assert_str_eq(string_at(reply.json, "answer"), "no");
    const json_t *answers = json_object_get(reply.json, "answers");
    ck_assert_uint_eq(json_array_size(answers), 2);
    ck_assert_str_eq(string_at(json_array_get(answers, 1), "answer"), "yes");
    reply_free(&reply);
}
END_TEST

START_TEST(faults_get_their_status_and_name_the_field)
{
#define PHOTO "\"image\": \"@photo_97x61.jpg\""
    static const struct {
        const char *path, *body;
        int status;
        const char *code, *param;
    } rows[] = {
        {"/v1/caption", "{}", 400, "missing_field", "image"},
        {"/v1/caption", "{\"image\": \"***\"}", 400, "bad_base64", "image"},
        {"/v1/caption", "{\"image\": \"\"}", 422, "broken_image", "image"},
        {"/v1/caption", "{\"image\": \"aGVsbG8=\"}", 422, "unsupported_image_format", "image"},
        {"/v1/caption", "{\"image\": \"https://x/y\"}", 422, "unprocessable", "image"},
        {"/v1/caption", "{" PHOTO ", \"promt\": \"a\"}", 400, "unknown_field", "promt"},
        {"/v1/caption", "{" PHOTO ", \"model\": \"x\"}", 404, "model_not_found", "model"},
        {"/v1/caption", "{" PHOTO ", \"model\": \"clip\"}", 422, "task_not_supported", "model"},
        {"/v1/caption", "{" PHOTO ", \"max_tokens\": 61}", 400, "out_of_range", "max_tokens"},
        {"/v1/caption", "{" PHOTO ", \"max_tokens\": 0}", 400, "out_of_range", "max_tokens"},
        {"/v1/caption", "{" PHOTO ", \"max_tokens\": 2, \"min_tokens\": 3}", 422, "unprocessable",
         "min_tokens"},
        {"/v1/caption", "{" PHOTO ", \"n\": 2}", 422, "unprocessable", "n"},
        {"/v1/caption", "{" PHOTO ", \"num_beams\": 2, \"temperature\": 1}", 422, "unprocessable",
         "num_beams"},
        {"/v1/embeddings", "{\"input\": \"a\", \"stream\": true}", 400, "unknown_field", "stream"},
        {"/v1/caption", "{" PHOTO ", \"stop\": \"\"}", 400, "out_of_range", "stop"},
        {"/v1/caption", "{" PHOTO ", \"seed\": -1}", 400, "out_of_range", "seed"},
        {"/v1/vqa", "{" PHOTO "}", 400, "missing_field", "question"},
        {"/v1/vqa", "{\"question\": \"a\"}", 400, "missing_field", "image"},
        {"/v1/vqa", "{" PHOTO ", \"question\": \"\"}", 422, "unprocessable", "question"},
        {"/v1/vqa",
         "{\"images\": [\"@photo_97x61.jpg\", \"@photo_97x61.jpg\"], \"question\": \"a\"}", 422,
         "unprocessable", "images"},
        {"/v1/vqa", "{" PHOTO ", \"images\": [\"@photo_97x61.jpg\"], \"question\": \"a\"}", 400,
         "bad_request", "images"},
        {"/v1/match", "{" PHOTO ", \"texts\": []}", 422, "unprocessable", "texts"},
        {"/v1/match", "{" PHOTO ", \"texts\": [\"a\"], \"model\": \"clip\"}", 422,
         "task_not_supported", "model"},
        {"/v1/match", "{" PHOTO ", \"texts\": [1]}", 400, "wrong_type", "texts[0]"},
        {"/v1/classify", "{" PHOTO ", \"labels\": [\"a\"], \"template\": \"x\"}", 422,
         "unprocessable", "template"},
        {"/v1/classify", "{" PHOTO ", \"labels\": [\"a\", \"\"]}", 422, "unprocessable", "labels"},
        {"/v1/classify", "{" PHOTO ", \"labels\": [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}",
         400, "out_of_range", "labels"},
        {"/v1/embeddings", "{}", 400, "missing_field", "input"},
        {"/v1/embeddings", "{\"input\": []}", 422, "unprocessable", "input"},
        {"/v1/embeddings", "{\"input\": [1, 2]}", 422, "unprocessable", "input"},
        {"/v1/embeddings", "{\"input\": [[1]]}", 422, "unprocessable", "input[0]"},
        {"/v1/embeddings", "{\"input\": [true]}", 400, "wrong_type", "input[0]"},
        {"/v1/embeddings", "{\"input\": [{\"text\": \"a\", \"image\": \"b\"}]}", 400, "wrong_type",
         "input[0]"},
        {"/v1/embeddings", "{\"input\": \"a\", \"dimensions\": 9999}", 400, "out_of_range",
         "dimensions"},
        {"/v1/embeddings", "{\"input\": \"a\", \"encoding_format\": \"hex\"}", 400, "out_of_range",
         "encoding_format"},
        {"/v1/embeddings", "{\"input\": {\"image\": \"aGVsbG8=\"}}", 422,
         "unsupported_image_format", "input"},
        {"/v1/embeddings", "{\"input\": [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}", 400,
         "out_of_range", "input"},
        {"/v1/collections/nope/search", "{\"text\": \"a\"}", 404, "not_found", ""},
        {"/v1/collections/nope/items", "{\"items\": []}", 404, "not_found", ""},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct reply reply = post(rows[i].path, rows[i].body);
        const json_t *error = json_object_get(reply.json, "error");
        ck_assert_msg(reply.status == rows[i].status, "row %zu (%.80s): %d %s", i, rows[i].body,
                      reply.status, reply.text);
        ck_assert_msg(!strcmp(string_at(error, "code"), rows[i].code), "row %zu: %s", i,
                      reply.text);
        if (rows[i].param[0])
            ck_assert_msg(json_is_string(json_object_get(error, "param")) &&
                              !strcmp(string_at(error, "param"), rows[i].param),
                          "row %zu: %s", i, reply.text);
        reply_free(&reply);
    }
    char body[4000];
    int n =
        snprintf(body, sizeof body, "{\"input\": \"%*s\"}", (int)options.max_text_bytes + 1, "x");
    struct reply reply = ask("POST", "/v1/embeddings", "", "application/json", body, (size_t)n);
    ck_assert_int_eq(reply.status, 422);
    ck_assert_ptr_nonnull(strstr(reply.text, "input_too_long"));
    reply_free(&reply);
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, every_endpoint_is_complete);
    tcase_add_test(tcase, openapi_describes_every_endpoint);
    tcase_add_test(tcase, models_info_and_version_tell_what_is_served);
    tcase_add_test(tcase, captions_and_answers_are_the_references);
    tcase_add_test(tcase, a_caption_is_the_same_in_all_body_forms);
    tcase_add_test(tcase, match_gives_the_references_probability_and_cosine);
    tcase_add_test(tcase, embeddings_stand_alone_and_are_normalised);
    tcase_add_test(tcase, classify_follows_the_models_own_cosines);
    tcase_add_test(tcase, generation_fields_steer);
    tcase_add_test(tcase, labels_are_answers_where_the_model_has_them);
    tcase_add_test(tcase, faults_get_their_status_and_name_the_field);
}

int main(void)
{
    return api_world_run("api_calls", add_tests);
}
