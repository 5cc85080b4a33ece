/*
 * test_weights.c: checkpoints that are broken in every way a file can be: each is refused with a
 * sentence that names what is wrong, and nothing is left behind.
 *
 * Broken files are made in a temporary directory, from the tiny checkpoints or from nothing.
 */
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/size.h"
#include "core/models/model.h"
#include "core/weights/binder.h"
#include "model_golden.h"

static char directory[64];

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/vlmd-weights-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void)
{
    static const char *const names[] = {"config.json",
                                        "model.safetensors",
                                        "model.safetensors.index.json",
                                        "a.safetensors",
                                        "b.safetensors",
                                        "pytorch_model.bin",
                                        "preprocessor_config.json",
                                        "processor_config.json",
                                        "generation_config.json"};
    char path[256];
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void put(const char *name, const void *bytes, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

/* A safetensors file of this header and n_data bytes 0, 1, 2 … */
static void put_safetensors(const char *name, const char *header, size_t n_data)
{
    size_t n = strlen(header);
    unsigned char *bytes = malloc(8 + n + n_data);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n + i] = (unsigned char)i;
    put(name, bytes, 8 + n + n_data);
    free(bytes);
}

static void copy_from(const char *checkpoint, const char *name)
{
    char folder[128];
    size_t size;
    snprintf(folder, sizeof folder, "checkpoints/%s", checkpoint);
    char *bytes = golden_file(folder, name, &size);
    put(name, bytes, size);
    free(bytes);
}

static void expect_set_fault(const char *part)
{
    struct error err = {0};
    struct tensor_set *set = tensor_set_open(directory, NULL, &err);
    ck_assert_msg(set == NULL, "opened, expected: %s", part);
    ck_assert_msg(strstr(err.message, part) != NULL, "'%s' does not say '%s'", err.message, part);
    ck_assert(err.status == STATUS_BAD_CHECKPOINT || err.status == STATUS_IO);
}

static void expect_model_fault(const char *part)
{
    struct error err = {0};
    struct model *model = model_open("broken", directory, &err);
    ck_assert_msg(model == NULL, "opened, expected: %s", part);
    ck_assert_msg(strstr(err.message, part) != NULL, "'%s' does not say '%s'", err.message, part);
}

/* ---- safetensors -------------------------------------------------------------------------------
 */

#define F32(name, shape, begin, end)                                                               \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

START_TEST(tensors_are_found_with_shape_and_data)
{
    struct error err = {0};
    put_safetensors("model.safetensors",
                    "{\"__metadata__\":{\"format\":\"pt\"}," F32("b", "[2,1]", "8", "16") "," F32(
                        "a", "[]", "0", "4") "," F32("none", "[0,7]", "4", "4") "}",
                    16);
    struct tensor_set *set = tensor_set_open(directory, NULL, &err);
    ck_assert_msg(set != NULL, "%s", err.message);
    ck_assert_uint_eq(tensor_set_count(set), 3);
    ck_assert_uint_eq(tensor_set_bytes(set), 12);
    const struct tensor_view *view = tensor_set_find(set, "b");
    ck_assert_ptr_nonnull(view);
    ck_assert_uint_eq(view->n_dims, 2);
    ck_assert_uint_eq(view->shape[0], 2);
    ck_assert_mem_eq(view->data, "\x08\x09\x0A", 3);
    ck_assert_uint_eq(tensor_set_find(set, "a")->n_elements, 1);
    ck_assert_uint_eq(tensor_set_find(set, "none")->n_elements, 0);
    ck_assert_ptr_null(tensor_set_find(set, "c"));
    ck_assert_str_eq(tensor_set_at(set, 0, &view), "a");
    ck_assert_ptr_null(tensor_set_at(set, 3, NULL));
    tensor_set_close(set);
}
END_TEST

static const struct {
    const char *header;
    size_t n_data;
    const char *fault;
} bad_headers[] = {
    {"", 0, "not valid JSON"},
    {"[]", 0, "not a JSON object"},
    {"{\"a\":", 0, "not valid JSON"},
    {"{\"a\":1}", 0, "'a'"},
    {"{\"a\":{}}", 0, "'a'"},
    {"{" F32("a", "[1]", "0", "4") "," F32("a", "[1]", "4", "8") "}", 8, "duplicate"},
    {"{" F32("a", "[2]", "0", "8") "," F32("b", "[1]", "4", "8") "}", 8, "overlap"},
    {"{" F32("a", "[2]", "0", "8") "}", 7, "truncated"},
    {"{" F32("a", "[2]", "0", "4") "}", 8, "do not fill"},
    {"{" F32("a", "[2]", "8", "0") "}", 8, "not a range"},
    {"{" F32("a", "[2]", "-8", "0") "}", 8, "not a range"},
    {"{" F32("a", "[2]", "0", "8.0") "}", 8, "not a range"},
    {"{" F32("a", "[2]", "0", "9223372036854775807") "}", 8, "truncated"},
    {"{" F32("a", "[-2]", "0", "8") "}", 8, "list of sizes"},
    {"{" F32("a", "[\"2\"]", "0", "8") "}", 8, "list of sizes"},
    {"{" F32("a", "[4611686018427387904,4]", "0", "8") "}", 8, "list of sizes"},
    {"{" F32("a", "[4611686018427387905]", "0", "4") "}", 8, "do not fill"},
    {"{" F32("a", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "8 dimensions"},
    {"{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'F99'"},
    {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "'a'"},
};

START_TEST(broken_headers_are_refused)
{
    put_safetensors("model.safetensors", bad_headers[_i].header, bad_headers[_i].n_data);
    expect_set_fault(bad_headers[_i].fault);
}
END_TEST

START_TEST(absurd_header_lengths_are_refused)
{
    put("model.safetensors", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F{}", 10);
    expect_set_fault("header claims");
    put("model.safetensors", "\x00\xC2\xEB\x0B\x00\x00\x00\x00{}", 10); /* 200 MB */
    expect_set_fault("header claims");
    put("model.safetensors", "\x03\x00\x00\x00\x00\x00\x00\x00{}", 10);
    expect_set_fault("truncated");
    put("model.safetensors", "", 0);
    expect_set_fault("too short");
    put("model.safetensors", "1234567", 7);
    expect_set_fault("too short");
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused)
{
    size_t size, n_header = 0;
    char *bytes = golden_file("checkpoints/clip-tiny", "model.safetensors", &size);
    for (int i = 7; i >= 0; i--)
        n_header = n_header << 8 | (unsigned char)bytes[i];
    for (size_t cut = 0; cut < size;) {
        struct error err = {0};
        put("model.safetensors", bytes, cut);
        struct tensor_set *set = tensor_set_open(directory, NULL, &err);
        ck_assert_msg(set == NULL, "cut at %zu of %zu: opened", cut, size);
        ck_assert_str_ne(err.message, "");
        cut += cut < 64 ? 1 : cut < n_header ? n_header / 61 + 1 : size / 37 + 1;
    }
    put("model.safetensors", bytes, size - 1);
    expect_set_fault("truncated");
    free(bytes);
}
END_TEST

START_TEST(shards_are_checked_against_their_index)
{
    struct error err = {0};
    put_safetensors("a.safetensors",
                    "{" F32("x", "[1]", "0", "4") "," F32("z", "[1]", "4", "8") "}", 8);
    put_safetensors("b.safetensors", "{" F32("y", "[1]", "0", "4") "}", 4);
    put_text("model.safetensors.index.json",
             "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
    struct tensor_set *set = tensor_set_open(directory, NULL, &err);
    ck_assert_msg(set != NULL, "%s", err.message);
    ck_assert_ptr_nonnull(tensor_set_find(set, "y"));
    ck_assert_ptr_null(tensor_set_find(set, "z")); /* not in the index */
    tensor_set_close(set);

    put_text("model.safetensors.index.json", "{\"weight_map\":{\"q\":\"a.safetensors\"}}");
    expect_set_fault("'q'");
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"c.safetensors\"}}");
    expect_set_fault("c.safetensors");
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"../a.safetensors\"}}");
    expect_set_fault("'x'");
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"x\":7}}");
    expect_set_fault("'x'");
    put_text("model.safetensors.index.json", "{}");
    expect_set_fault("weight_map");
    put_text("model.safetensors.index.json", "{");
    expect_set_fault("JSON");
}
END_TEST

START_TEST(pickles_are_refused_with_the_reason)
{
    expect_set_fault("no model.safetensors");
    put_text("pytorch_model.bin", "PK");
    expect_set_fault("pickle");
}
END_TEST

START_TEST(a_pipe_in_place_of_a_file_does_not_hang)
{
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    struct error err = {0};
    ck_assert_ptr_null(tensor_set_open(directory, "model.safetensors", &err));
    ck_assert_ptr_null(tensor_set_open(directory, NULL, &err));
}
END_TEST

START_TEST(the_fingerprint_depends_on_weights_not_on_files)
{
    struct error err = {0};
    put_safetensors("a.safetensors", "{" F32("x", "[1]", "0", "4") "}", 4);
    put_safetensors("b.safetensors", "{" F32("x", "[1]", "4", "8") "}", 8);
    put_safetensors("model.safetensors", "{ " F32("x", "[1]", "0", "4") " }", 4);
    struct tensor_set *a = tensor_set_open(directory, "a.safetensors", &err);
    struct tensor_set *b = tensor_set_open(directory, "b.safetensors", &err);
    struct tensor_set *c = tensor_set_open(directory, NULL, &err);
    ck_assert(a && b && c);
    ck_assert_uint_eq(tensor_set_fingerprint(a), tensor_set_fingerprint(c));
    ck_assert_uint_ne(tensor_set_fingerprint(a), tensor_set_fingerprint(b));
    tensor_set_close(a);
    tensor_set_close(b);
    tensor_set_close(c);
}
END_TEST

/* ---- binding -----------------------------------------------------------------------------------
 */

START_TEST(binding_names_the_tensor_at_fault)
{
    struct error err = {0};
    put_safetensors("model.safetensors",
                    "{" F32("a.weight", "[2,3]", "0", "24") "," F32(
                        "a.bias", "[2]", "24",
                        "32") ","
                              "\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[32,40]},"
                              "\"h\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[40,48]}}",
                    48);
    struct tensor_set *set = tensor_set_open(directory, NULL, &err);
    ck_assert_msg(set != NULL, "%s", err.message);
    struct linear linear = {0};
    const float *data = NULL;
    struct bound *bound = NULL;
    struct binder binder;

    binder_init(&binder, set, &err);
    bind_linear(&binder, &linear, 2, 3, true, "a");
    bind_tensor(&binder, &data, (const size_t[]){4, 0}, "h");
    ck_assert(!bind_optional(&binder, &data, (const size_t[]){4, 0}, "absent.%d", 1));
    bind_linear(&binder, &linear, 2, 3, true, "a"); /* counted once */
    ck_assert(!binder_finish(&binder, &bound));
    ck_assert_uint_eq(binder.n_parameters, 6 + 2 + 4);
    ck_assert_uint_eq(linear.n_in, 3);
    uint32_t bits;
    memcpy(&bits, &data[1], sizeof bits);
    ck_assert_uint_eq(bits, 0x2B2Au << 16); /* bytes 42, 43 */
    bound_free(bound);

    struct {
        const char *name;
        size_t n_out, n_in;
        const char *fault;
    } rows[] = {
        {"b", 2, 3, "tensor 'b.weight' [2, 3] is missing"},
        {"a", 3, 2, "tensor 'a.weight': expected [3, 2], found [2, 3]"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        binder_init(&binder, set, &err);
        bind_linear(&binder, &linear, rows[i].n_out, rows[i].n_in, true, "%s", rows[i].name);
        bind_tensor(&binder, &data, (const size_t[]){9, 0}, "later");
        ck_assert_int_eq(binder_finish(&binder, &bound), STATUS_BAD_CHECKPOINT);
        ck_assert_str_eq(err.message, rows[i].fault);
    }
    binder_init(&binder, set, &err);
    bind_tensor(&binder, &data, (const size_t[]){1, 0}, "i");
    ck_assert_int_eq(binder_finish(&binder, &bound), STATUS_BAD_CHECKPOINT);
    ck_assert_ptr_nonnull(strstr(err.message, "I64"));
    tensor_set_close(set);
}
END_TEST

START_TEST(fused_layers_are_their_parts_in_order)
{
    struct error err = {0};
    /* q and k adjacent, v elsewhere: joined by copying; q and k alone: in place. */
    const char *header = "{" F32("q.weight", "[2,2]", "0", "16") "," F32(
        "k.weight", "[2,2]", "16", "32") "," F32("v.weight", "[2,2]", "36", "52") "}";
    put_safetensors("model.safetensors", header, 52);
    struct tensor_set *set = tensor_set_open(directory, NULL, &err);
    ck_assert_msg(set != NULL, "%s", err.message);
    static const char *const names[] = {"q", "k", "v"};
    static const size_t n_outs[] = {2, 2, 2};
    for (size_t n = 2; n <= 3; n++) {
        struct linear linear = {0};
        struct bound *bound = NULL;
        struct binder binder;
        binder_init(&binder, set, &err);
        bind_linear_fused(&binder, &linear, n_outs, 2, false, names, n, "%s", "");
        ck_assert(!binder_finish(&binder, &bound));
        ck_assert_uint_eq(linear.n_out, 2 * n);
        for (size_t i = 0; i < n; i++) {
            char full[16];
            snprintf(full, sizeof full, "%s.weight", names[i]);
            ck_assert_mem_eq(linear.weight + 4 * i, tensor_set_find(set, full)->data, 16);
        }
        bound_free(bound);
    }
    tensor_set_close(set);
}
END_TEST

/* ---- config values -----------------------------------------------------------------------------
 */

START_TEST(config_values_are_typed)
{
    struct error err = {0};
    json_t *json = json_loads("{\"n\": 7, \"zero\": 0, \"big\": 4294967296, \"f\": 1e-5, \"s\": "
                              "\"gelu\", \"b\": true, \"null\": null, \"ids\": [5, 6], \"x\": {}, "
                              "\"bad\": \"swish9\", \"t_dict\": {\"n\": 1}, \"t\": {}}",
                              0, NULL);
    size_t n = 3;
    ck_assert(!config_size(json, "absent", &n, &err));
    ck_assert(!config_size(json, "null", &n, &err));
    ck_assert_uint_eq(n, 3);
    ck_assert(!config_size(json, "n", &n, &err));
    ck_assert_uint_eq(n, 7);
    static const char *const bad_sizes[] = {"zero", "big", "f", "s", "b", "ids", "x"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad_sizes); i++) {
        ck_assert_int_eq(config_size(json, bad_sizes[i], &n, &err), STATUS_BAD_CHECKPOINT);
        ck_assert_ptr_nonnull(strstr(err.message, bad_sizes[i]));
    }
    ck_assert_uint_eq(n, 7);
    float f = 0;
    ck_assert(!config_float(json, "n", &f, &err));
    ck_assert(!config_float(json, "f", &f, &err));
    ck_assert_float_eq(f, 1e-5f);
    ck_assert(config_float(json, "s", &f, &err));
    bool b = false;
    ck_assert(!config_bool(json, "b", &b, &err));
    ck_assert(b && config_bool(json, "n", &b, &err));
    const char *s = NULL;
    ck_assert(!config_string(json, "s", &s, &err));
    ck_assert(config_string(json, "n", &s, &err));
    int32_t id = 1;
    ck_assert(!config_token(json, "absent", &id, &err));
    ck_assert_int_eq(id, 1);
    ck_assert(!config_token(json, "ids", &id, &err));
    ck_assert_int_eq(id, 5);
    ck_assert(!config_token(json, "null", &id, &err));
    ck_assert_int_eq(id, -1);
    enum activation activation = ACTIVATION_NONE;
    ck_assert(!config_activation(json, "s", &activation, &err));
    ck_assert_int_eq(activation, ACTIVATION_GELU);
    ck_assert(config_activation(json, "bad", &activation, &err));
    ck_assert_ptr_nonnull(strstr(err.message, "swish9"));
    const json_t *object = NULL;
    ck_assert(!config_object_or_dict(json, "t", &object, &err));
    ck_assert_uint_eq(json_object_size(object), 1);
    ck_assert(!config_object(json, "absent", &object, &err));
    ck_assert(!config_size(object, "n", &n, &err));
    ck_assert(config_object(json, "n", &object, &err));
    json_decref(json);
}
END_TEST

/* ---- generation defaults -----------------------------------------------------------------------
 */

static const struct {
    const char *generation, *config; /* generation NULL = no such file */
    size_t max_length, max_new_tokens, num_beams;
    int32_t eos;
} generation_rows[] = {
    {NULL, "{}", 0, 20, 1, -1},
    {"{}", "{\"max_length\": 9}", 0, 20, 1, -1}, /* the file wins even when it is empty */
    {NULL, "{\"max_length\": 9, \"eos_token_id\": 4}", 9, 0, 1, 4},
    {NULL, "{\"text_config\": {\"num_beams\": 4, \"eos_token_id\": 3}}", 0, 20, 4, 3},
    {NULL, "{\"num_beams\": 2, \"text_config\": {\"num_beams\": 4}}", 0, 20, 2, -1},
    {"{\"max_new_tokens\": 5, \"max_length\": 50, \"eos_token_id\": [8, 9]}", "{}", 50, 5, 1, 8},
    {"{\"max_length\": null, \"num_beams\": 3}", "{}", 0, 20, 3, -1},
};

START_TEST(generation_defaults_are_the_reference_s)
{
    struct error err = {0};
    struct checkpoint checkpoint = {0};
    struct generation_params params;
    checkpoint.config = json_loads(generation_rows[_i].config, 0, NULL);
    if (generation_rows[_i].generation)
        checkpoint.generation = json_loads(generation_rows[_i].generation, 0, NULL);
    ck_assert_msg(!generation_params_load(&checkpoint, &params, &err), "%s", err.message);
    ck_assert_uint_eq(params.max_length, generation_rows[_i].max_length);
    ck_assert_uint_eq(params.max_new_tokens, generation_rows[_i].max_new_tokens);
    ck_assert_uint_eq(params.num_beams, generation_rows[_i].num_beams);
    ck_assert_int_eq(params.n_eos ? params.eos_ids[0] : -1, generation_rows[_i].eos);
    ck_assert_uint_eq(params.top_k, 50);
    ck_assert_float_eq(params.temperature, 1);
    json_decref(checkpoint.config);
    json_decref(checkpoint.generation);
}
END_TEST

static const char *const bad_generations[] = {
    "{\"max_length\": -1}",
    "{\"num_beams\": 0}",
    "{\"num_beams\": \"3\"}",
    "{\"eos_token_id\": [-1]}",
    "{\"early_stopping\": 3}",
    "{\"temperature\": \"hot\"}",
    "{\"top_p\": true}",
    "{\"repetition_penalty\": 0}",
    "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}",
};

START_TEST(wrong_generation_keys_are_named)
{
    struct error err = {0};
    struct generation_params params;
    struct checkpoint checkpoint = {.config = json_object()};
    checkpoint.generation = json_loads(bad_generations[_i], 0, NULL);
    ck_assert_ptr_nonnull(checkpoint.generation);
    ck_assert_int_eq(generation_params_load(&checkpoint, &params, &err), STATUS_BAD_CHECKPOINT);
    ck_assert_ptr_nonnull(
        strstr(err.message, json_object_iter_key(json_object_iter(checkpoint.generation))));
    json_decref(checkpoint.config);
    json_decref(checkpoint.generation);
}
END_TEST

/* ---- whole checkpoints -------------------------------------------------------------------------
 */

/* Edits of a tiny checkpoint's config.json: the value at path (dots) is replaced. */
static const struct {
    const char *checkpoint, *path, *value, *fault;
} bad_configs[] = {
    {"clip-tiny", "architectures", "[\"MysteryModel\"]", "'MysteryModel' is not supported"},
    {"clip-tiny", "architectures", "[]", "'architectures'"},
    {"clip-tiny", "architectures", "7", "'architectures'"},
    {"clip-tiny", "vision_config", "7", "'vision_config'"},
    {"clip-tiny", "vision_config.hidden_size", "65", "expected [65], found [60]"},
    {"clip-tiny", "vision_config.hidden_size", "\"60\"", "'hidden_size'"},
    {"clip-tiny", "vision_config.hidden_size", "2147483647", "vision_config"},
    {"clip-tiny", "vision_config.num_attention_heads", "7", "'num_attention_heads'"},
    {"clip-tiny", "vision_config.num_hidden_layers", "4",
     "'vision_model.encoder.layers.3.layer_norm1.weight' [60] is missing"},
    {"clip-tiny", "vision_config.num_hidden_layers", "2000000000", "'num_hidden_layers'"},
    {"clip-tiny", "vision_config.intermediate_size", "2147483647", "mlp.fc1.weight"},
    {"clip-tiny", "vision_config.patch_size", "50", "patch_size"},
    {"clip-tiny", "vision_config.patch_size", "8", "patch_embedding.weight"},
    {"clip-tiny", "vision_config.num_channels", "1", "'num_channels'"},
    {"clip-tiny", "vision_config.image_size", "56", "56"},
    {"clip-tiny", "vision_config.hidden_act", "\"mish9\"", "'mish9'"},
    {"clip-tiny", "text_config.vocab_size", "100", "token_embedding.weight"},
    {"clip-tiny", "text_config.max_position_embeddings", "25", "position_embedding.weight"},
    {"clip-tiny", "projection_dim", "-3", "'projection_dim'"},
    {"blip-caption-tiny", "text_config.bos_token_id", "4000", "'bos_token_id'"},
    {"blip-caption-tiny", "text_config.num_hidden_layers", "4", "encoder.layer.3"},
    {"blip-caption-tiny", "architectures", "[\"BlipForQuestionAnswering\"]", "hidden_size"},
    {"blip-caption-tiny", "architectures", "[\"BlipForImageTextRetrieval\"]", "text_encoder."},
    {"blip-itm-tiny", "image_text_hidden_size", "12", "vision_proj.weight"},
    {"blip-itm-tiny", "vision_config.image_size", "200", "200"},
    {"owlvit-tiny", "projection_dim", "33", "text_projection.weight"},
    {"owlvit-tiny", "text_config.hidden_size", "36", "'owlvit.text_model"},
    {"owlvit-tiny", "vision_config.image_size", "65536", "65536"},
    {"owlvit-tiny", "architectures", "[\"Owlv2ForObjectDetection\"]", "owlv2."},
    {"owlv2-tiny", "vision_config.patch_size", "1", "patch_embedding.weight"},
    {"owlv2-tiny", "architectures", "[\"CLIPSegForImageSegmentation\"]", "extract_layers"},
    {"clipseg-tiny", "extract_layers", "[0, 4]", "layers from 0 to 3"},
    {"clipseg-tiny", "extract_layers", "[-1]", "'extract_layers'"},
    {"clipseg-tiny", "extract_layers", "[]", "'extract_layers'"},
    {"clipseg-tiny", "extract_layers", "7", "'extract_layers'"},
    {"clipseg-tiny", "extract_layers", "[0, 1, 2, 3]", "decoder.reduces.3.weight"},
    {"clipseg-tiny", "decoder_num_attention_heads", "3", "'decoder_num_attention_heads'"},
    {"clipseg-tiny", "reduce_dim", "2147483644", "decoder."},
    {"clipseg-tiny", "use_complex_transposed_convolution", "false", "transposed_convolution"},
    {"clipseg-simple-tiny", "use_complex_transposed_convolution", "true", "transposed_convolution"},
    {"clipseg-tiny", "vision_config.patch_size", "40", "patch_embedding.weight"},
    {"clipseg-tiny", "vision_config.patch_size", "3", "'patch_size'"},
    {"chinese-clip-tiny", "text_config.max_position_embeddings", "24",
     "position_embeddings.weight"},
    {"chinese-clip-tiny", "text_config.type_vocab_size", "2", "token_type_embeddings.weight"},
    {"chinese-clip-tiny", "text_config.num_attention_heads", "7", "'num_attention_heads'"},
    {"chinese-clip-tiny", "architectures", "[\"AltCLIPModel\"]", "text_model.roberta."},
    {"altclip-tiny", "text_config.pad_token_id", "20", "'pad_token_id'"},
    {"altclip-tiny", "text_config.pad_token_id", "-2147483648", "'pad_token_id'"},
    {"altclip-tiny", "text_config.project_dim", "32", "transformation.weight"},
    {"altclip-tiny", "text_config.num_hidden_layers", "3", "encoder.layer.2"},
    {"metaclip2-tiny", "projection_dim", "30", "visual_projection.weight"},
    {"clip-vision-tiny", "projection_dim", "20", "visual_projection.weight"},
    {"clip-vision-tiny", "architectures", "[\"CLIPTextModelWithProjection\"]", "text_model."},
    {"siglip2-naflex-tiny", "vision_config.num_patches", "37", "'num_patches'"},
    {"siglip2-naflex-tiny", "vision_config.num_patches", "49", "position_embedding.weight"},
    {"siglip2-naflex-tiny", "vision_config.patch_size", "8", "preprocessor config"},
    {"siglip2-naflex-tiny", "vision_config.patch_size", "2147483647", "patch_size"},
    {"siglip2-naflex-tiny", "vision_config.vision_use_head", "false", "'vision_use_head'"},
    {"vit-gpt2-tiny", "encoder.model_type", "\"deit\"", "'deit'"},
    {"vit-gpt2-tiny", "decoder.model_type", "\"trocr\"", "'trocr'"},
    {"vit-gpt2-tiny", "decoder.n_embd", "2147483647", "decoder"},
    {"vit-gpt2-tiny", "decoder.n_embd", "44", "enc_to_dec_proj.weight"},
    {"vit-gpt2-tiny", "decoder.n_head", "7", "decoder"},
    {"vit-gpt2-tiny", "decoder.n_layer", "4", "decoder.transformer.h.3"},
    {"vit-gpt2-tiny", "decoder.n_inner", "95", "mlp.c_fc.weight"},
    {"vit-gpt2-tiny", "decoder_start_token_id", "999999", "'decoder_start_token_id'"},
    {"vit-gpt2-tiny", "encoder.image_size", "49", "49"},
    {"magic-tiny", "n_head", "7", "'num_attention_heads'"},
    {"magic-tiny", "n_embd", "2147483647", "'num_attention_heads'"},
    {"magic-tiny", "n_layer", "100000", "'num_hidden_layers'"},
    {"magic-tiny", "vocab_size", "2147483647", "'vocab_size'"},
    {"magic-tiny", "add_cross_attention", "true", "'add_cross_attention'"},
    {"magic-tiny", "n_positions", "91", "no tokenizer"},
    {"paligemma-tiny", "text_config.model_type", "\"gemma3\"", "'gemma3'"},
    {"paligemma-tiny", "text_config.model_type", "\"gemma2\"", "pre_feedforward_layernorm"},
    {"paligemma2-tiny", "text_config.query_pre_attn_scalar", "0", "'query_pre_attn_scalar'"},
    {"paligemma2-tiny", "text_config.attn_logit_softcapping", "-1", "'attn_logit_softcapping'"},
    {"paligemma2-tiny", "text_config.final_logit_softcapping", "\"x\"",
     "'final_logit_softcapping'"},
    {"paligemma2-tiny", "text_config.sliding_window", "-5", "'sliding_window'"},
    {"paligemma2-tiny", "text_config.layer_types", "[\"full_attention\"]", "'layer_types'"},
    {"paligemma2-tiny", "text_config.layer_types",
     "[\"full_attention\", \"chunked_attention\", \"full_attention\", 7]", "'chunked_attention'"},
    {"paligemma2-tiny", "text_config.num_hidden_layers", "5", "'layer_types'"},
    {"paligemma2-tiny", "text_config.hidden_activation", "\"square\"", "'hidden_activation'"},
    {"paligemma-tiny", "text_config.head_dim", "16", "q_proj.weight"},
    {"paligemma-tiny", "text_config.num_key_value_heads", "3", "cannot share"},
    {"paligemma-tiny", "text_config.max_position_embeddings", "18", "'max_position_embeddings'"},
    {"paligemma-tiny", "text_config.vocab_size", "2147483647", "embed_tokens.weight"},
    {"paligemma-tiny", "text_config.use_bidirectional_attention", "false",
     "'use_bidirectional_attention'"},
    {"paligemma-tiny", "vision_config.image_size", "49", "49"},
    {"paligemma-tiny", "projection_dim", "43", "'projection_dim'"},
    {"git-tiny", "vision_config.image_size", "48", "48"},
    {"git-tiny", "num_image_with_embedding", "6", "'num_image_with_embedding'"},
    {"blip2-itm-tiny", "num_query_tokens", "6", "query_tokens"},
    {"blip2-itm-tiny", "num_query_tokens", "2147483647", "'num_query_tokens'"},
    {"blip2-itm-tiny", "qformer_config.cross_attention_frequency", "1", "layer.1.crossattention"},
    {"blip2-itm-tiny", "qformer_config.cross_attention_frequency", "0",
     "'cross_attention_frequency'"},
    {"blip2-itm-tiny", "vision_config.hidden_size", "49", "vision_config"},
    {"git-tiny", "bos_token_id", "5000", "'bos_token_id'"},
    {"git-tiny", "hidden_size", "39", "visual_projection.0.weight"},
    {"git-tiny", "max_position_embeddings", "91", "position_embeddings.weight"},
};

static void edit_config(const char *path, const char *value)
{
    char file[256], part[64];
    snprintf(file, sizeof file, "%s/config.json", directory);
    json_t *config = json_load_file(file, 0, NULL), *at = config;
    ck_assert_ptr_nonnull(config);
    for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        at = json_object_get(at, part);
    }
    json_object_set_new(at, path, json_loads(value, JSON_DECODE_ANY, NULL));
    ck_assert_int_eq(json_dump_file(config, file, 0), 0);
    json_decref(config);
}

START_TEST(configs_that_do_not_fit_are_refused_by_name)
{
    copy_from(bad_configs[_i].checkpoint, "config.json");
    if (strcmp(bad_configs[_i].checkpoint, "magic-tiny") != 0) /* its guide has it */
        copy_from(bad_configs[_i].checkpoint, "preprocessor_config.json");
    copy_from(bad_configs[_i].checkpoint, "model.safetensors");
    edit_config(bad_configs[_i].path, bad_configs[_i].value);
    expect_model_fault(bad_configs[_i].fault);
}
END_TEST

START_TEST(a_checkpoint_without_tokenizer_or_processor_opens)
{
    struct error err = {0};
    copy_from("clip-tiny", "config.json");
    copy_from("clip-tiny", "model.safetensors");
    struct model *model = model_open("bare", directory, &err);
    ck_assert_msg(model != NULL, "%s", err.message);
    ck_assert_uint_eq(model->processor.crop_height, 49); /* the config's image_size */
    struct tokens tokens;
    ck_assert_int_eq(model_tokenize(model, TASK_EMBED, "a", 1, &tokens, &err),
                     STATUS_UNPROCESSABLE);
    ck_assert_ptr_nonnull(strstr(err.message, "tokenizer"));
    ck_assert_uint_eq(strlen(model->checkpoint->revision), 16);
    model_free(model);
}
END_TEST

START_TEST(directories_that_are_no_checkpoints_are_refused)
{
    struct error err = {0};
    ck_assert_ptr_null(model_open("x", "/nonexistent/model", &err));
    ck_assert_int_eq(err.status, STATUS_NOT_FOUND);
    expect_model_fault("config.json");
    put_text("config.json", "");
    expect_model_fault("JSON");
    put_text("config.json", "not json");
    expect_model_fault("JSON");
    put_text("config.json", "[1, 2]");
    expect_model_fault("object");
    put_text("config.json", "{\"architectures\": [\"CLIPModel\"]}");
    expect_model_fault("no model.safetensors");
    put_text("generation_config.json", "{\"num_beams\": 0}");
    put_safetensors("model.safetensors", "{}", 0);
    expect_model_fault("num_beams");
    put_text("generation_config.json", "{\"suppress_tokens\": 7}");
    expect_model_fault("suppress_tokens");
    put_text("generation_config.json", "{\"suppress_tokens\": [[7]]}");
    expect_model_fault("suppress_tokens");
    put_text("generation_config.json", "{\"bad_words_ids\": [7, [2, 3], []]}");
    expect_model_fault("bad_words_ids");
    put_text("generation_config.json", "{\"bad_words_ids\": [[-7]]}");
    expect_model_fault("bad_words_ids");
    put_text("generation_config.json", "{}");
    expect_model_fault("is missing");
    put_text("processor_config.json", "{\"image_processor\": 3}");
    expect_model_fault("image_processor");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("weights");
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, setup, teardown);
    tcase_add_test(files, tensors_are_found_with_shape_and_data);
    tcase_add_loop_test(files, broken_headers_are_refused, 0, ARRAY_LENGTH(bad_headers));
    tcase_add_test(files, absurd_header_lengths_are_refused);
    tcase_add_test(files, a_file_cut_anywhere_is_refused);
    tcase_add_test(files, shards_are_checked_against_their_index);
    tcase_add_test(files, pickles_are_refused_with_the_reason);
    tcase_add_test(files, a_pipe_in_place_of_a_file_does_not_hang);
    tcase_add_test(files, the_fingerprint_depends_on_weights_not_on_files);
    tcase_add_test(files, binding_names_the_tensor_at_fault);
    tcase_add_test(files, fused_layers_are_their_parts_in_order);
    tcase_add_test(files, config_values_are_typed);
    tcase_add_loop_test(files, generation_defaults_are_the_reference_s, 0,
                        ARRAY_LENGTH(generation_rows));
    tcase_add_loop_test(files, wrong_generation_keys_are_named, 0, ARRAY_LENGTH(bad_generations));
    tcase_add_loop_test(files, configs_that_do_not_fit_are_refused_by_name, 0,
                        ARRAY_LENGTH(bad_configs));
    tcase_add_test(files, a_checkpoint_without_tokenizer_or_processor_opens);
    tcase_add_test(files, directories_that_are_no_checkpoints_are_refused);
    suite_add_tcase(suite, files);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
