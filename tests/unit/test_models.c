/*
 * test_models.c: every architecture against its golden: pictures to pixels to features, texts to
 * ids to embeddings, batches against single items; and the registry's table.
 */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/size.h"
#include "model_golden.h"

static const char *const checkpoints[] = {"clip-text-tiny",
                                          "clip-tiny",
                                          "openclip-rn-tiny",
                                          "openclip-vit-tiny",
                                          "clip-gelu-f16-sharded",
                                          "siglip-tiny",
                                          "siglip-spm-tiny",
                                          "metaclip2-tiny",
                                          "chinese-clip-tiny",
                                          "altclip-tiny",
                                          "openclip-roberta-tiny",
                                          "siglip2-naflex-tiny",
                                          "clip-vision-tiny",
                                          "vit-gpt2-tiny",
                                          "git-tiny",
                                          "qwen2.5-vl-tiny",
                                          "qwen2.5-vl-flat-tiny",
                                          "idefics-tiny",
                                          "idefics-base-tiny",
                                          "idefics-flat-tiny",
                                          "magic-tiny",
                                          "paligemma-tiny",
                                          "paligemma2-tiny",
                                          "blip-caption-tiny",
                                          "blip-vqa-tiny",
                                          "blip-itm-tiny",
                                          "blip2-itm-tiny",
                                          "vilt-vqa-tiny",
                                          "vilt-itr-tiny",
                                          "vilt-nlvr2-tiny",
                                          "vilt-mlm-tiny"};
/* The first of them have embeddings of texts; from the second on, of pictures, with the others that
 * have a golden of each picture's features. */
enum { N_TEXTS = 12, FIRST_WITH_FEATURES = 1, END_WITH_FEATURES = 26 };

/* What a picture's features are called in the goldens. */
static const char *features_name(const struct golden *golden)
{
    return golden->model->traits.embed_dim ? "image_embeds" : "image_states";
}

/* The pixels as the golden has them. */
static struct pixels golden_pixel_values(const struct golden *golden, const json_t *of)
{
    const struct tensor_view *view = golden_tensor(golden, of, "pixel_values");
    return (struct pixels){view->shape[1], view->shape[2], (float *)view->data};
}

START_TEST(pictures_become_the_reference_s_pixels)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    size_t n_equal = 0, n_all = 0;
    for (size_t i = 0; i < golden_count(&golden, "image"); i++) {
        const json_t *each = golden_case(&golden, "image", i);
        struct pixels want = golden_pixel_values(&golden, each), got;
        golden_pixels(&golden, each, &got);
        ck_assert_uint_eq(got.height, want.height);
        ck_assert_uint_eq(got.width, want.width);
        size_t n = 3 * got.height * got.width;
        for (size_t p = 0; p < n; p++) {
            /* One count of 255, after division by the smallest deviation in use (0.26). */
            ck_assert_msg(fabsf(got.data[p] - want.data[p]) <= 1.001f / 255 / 0.26f,
                          "%s: pixel %zu: %g, expected %g",
                          json_string_value(json_object_get(each, "picture")), p,
                          (double)got.data[p], (double)want.data[p]);
            n_equal += fabsf(got.data[p] - want.data[p]) < 1e-5f;
        }
        n_all += n;
        pixels_release(&got);
    }
    ck_assert_uint_ge(n_equal * 1000, n_all * 999);
    golden_close(&golden);
}
END_TEST

START_TEST(pictures_become_the_reference_s_features)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 32 };
    struct pixels pixels[MANY];
    const struct pixels *list[MANY];
    struct features *batch[MANY], *single;
    size_t n = golden_count(&golden, "image");
    for (size_t i = 0; i < n; i++) {
        pixels[i] = golden_pixel_values(&golden, golden_case(&golden, "image", i));
        list[i] = &pixels[i];
    }
    ck_assert_msg(!model->architecture->encode_images(model, &golden.compute, list, n, batch, &err),
                  "%s", err.message);
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, "image", i);
        const struct tensor_view *want = golden_tensor(&golden, each, features_name(&golden));
        ck_assert_uint_eq(batch[i]->n_rows * batch[i]->dim, want->n_elements);
        golden_close_to(batch[i]->rows, want->data, want->n_elements, "in a batch");
        ck_assert(!model->architecture->encode_images(model, &golden.compute, &list[i], 1, &single,
                                                      &err));
        arena_reset(&golden.arena);
        golden_close_to(single->rows, want->data, want->n_elements, "alone");
        features_unref(single);
        features_unref(batch[i]);
        single = golden_features(&golden, each); /* the whole way, from the file */
        golden_close_to(single->rows, want->data, want->n_elements, "from the file");
        features_unref(single);
    }
    golden_close(&golden);
}
END_TEST

/* More pictures than one part of its convolutions holds (148 of this size). */
START_TEST(a_resnet_s_large_batches_are_as_small_ones)
{
    struct golden golden;
    golden_open(&golden, "openclip-rn-tiny");
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 300 };
    struct pixels pixels[2];
    const struct pixels *list[MANY];
    struct features *batch[MANY];
    for (size_t i = 0; i < 2; i++)
        pixels[i] = golden_pixel_values(&golden, golden_case(&golden, "image", i));
    for (size_t i = 0; i < MANY; i++)
        list[i] = &pixels[i % 3 == 0];
    ck_assert_msg(
        !model->architecture->encode_images(model, &golden.compute, list, MANY, batch, &err), "%s",
        err.message);
    for (size_t i = 0; i < MANY; i++) {
        const struct tensor_view *want =
            golden_tensor(&golden, golden_case(&golden, "image", i % 3 == 0), "image_embeds");
        golden_close_to(batch[i]->rows, want->data, want->n_elements, "one of many");
        features_unref(batch[i]);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(texts_become_the_reference_s_ids_and_embeddings)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 32, DIM = 64 };
    struct tokens tokens[MANY];
    const struct tokens *list[MANY];
    float batch[MANY * DIM], single[DIM];
    size_t n = golden_count(&golden, "text"), dim = model->traits.embed_dim;
    ck_assert_uint_le(dim, DIM);
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, "text", i);
        const json_t *text = json_object_get(each, "text");
        struct tokens want = golden_ids(json_object_get(each, "input_ids"));
        ck_assert_msg(!model_tokenize(model, TASK_EMBED, json_string_value(text),
                                      json_string_length(text), &tokens[i], &err),
                      "%s", err.message);
        ck_assert_uint_eq(tokens[i].n, want.n);
        ck_assert_mem_eq(tokens[i].ids, want.ids, want.n * sizeof *want.ids);
        tokens_release(&want);
        list[i] = &tokens[i];
    }
    ck_assert(!model->architecture->encode_texts(model, &golden.compute, list, n, batch, &err));
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *want =
            golden_tensor(&golden, golden_case(&golden, "text", i), "text_embeds");
        ck_assert_uint_eq(dim, want->n_elements);
        golden_close_to(batch + i * dim, want->data, dim, "in a batch");
        ck_assert(
            !model->architecture->encode_texts(model, &golden.compute, &list[i], 1, single, &err));
        arena_reset(&golden.arena);
        golden_close_to(single, want->data, dim, "alone");
        tokens_release(&tokens[i]);
    }
    golden_close(&golden);
}
END_TEST

/* What a causal tower computes once is what it computes for each. */
START_TEST(texts_that_begin_alike_are_as_each_alone)
{
    static const char *const texts[] = {"a photo of a cat", "a photo of a cat", "a photo of a",
                                        "a photo of a dog on the grass", "a photo of a car"};
    enum { N = ARRAY_LENGTH(texts), DIM = 64 };
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    const struct model *model = golden.model;
    struct error err = {0};
    struct tokens tokens[N];
    const struct tokens *list[N];
    float batch[N * DIM], single[DIM];
    size_t dim = model->traits.embed_dim;
    for (size_t i = 0; i < N; i++) {
        ck_assert(!model_tokenize(model, TASK_EMBED, texts[i], strlen(texts[i]), &tokens[i], &err));
        list[i] = &tokens[i];
    }
    ck_assert(!model->architecture->encode_texts(model, &golden.compute, list, N, batch, &err));
    for (size_t i = 0; i < N; i++) {
        ck_assert(
            !model->architecture->encode_texts(model, &golden.compute, &list[i], 1, single, &err));
        golden_close_to(batch + i * dim, single, dim, texts[i]);
        tokens_release(&tokens[i]);
    }
    arena_reset(&golden.arena);
    golden_close(&golden);
}
END_TEST

START_TEST(dual_encoders_give_the_reference_s_scale)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    double want = json_real_value(json_object_get(golden.json, "logit_scale_exp"));
    ck_assert_double_le(fabs((double)golden.model->traits.logit_scale - want), 1e-5 * want);
    double bias = json_real_value(json_object_get(golden.json, "logit_bias")); /* absent: 0 */
    ck_assert_double_eq_tol((double)golden.model->traits.logit_bias, bias, 1e-6);
    ck_assert_int_eq(golden.model->traits.sigmoid_scores, bias != 0);
    golden_close(&golden);
}
END_TEST

START_TEST(parameters_are_counted_once)
{
    struct golden golden;
    golden_open(&golden, checkpoints[_i]);
    size_t want = (size_t)json_integer_value(json_object_get(golden.json, "parameters"));
    ck_assert_uint_eq(golden.model->n_parameters, want);
    golden_close(&golden);
}
END_TEST

/* ---- matching ----------------------------------------------------------------------------------
 */

static const char *const matchers[] = {"blip-itm-tiny", "blip2-itm-tiny"};

START_TEST(matches_have_the_reference_s_probability_and_cosine)
{
    struct golden golden;
    golden_open(&golden, matchers[_i]);
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 32 };
    struct pair pairs[MANY];
    struct tokens tokens[MANY];
    struct features *features[MANY];
    float batch[2 * MANY], single[2];
    size_t n = golden_count(&golden, "match"), n_pictures = golden_count(&golden, "image");
    for (size_t p = 0; p < n_pictures; p++)
        features[p] = golden_features(&golden, golden_case(&golden, "image", p));
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, "match", i);
        const json_t *text = json_object_get(each, "text");
        ck_assert(!model_tokenize(model, TASK_MATCH, json_string_value(text),
                                  json_string_length(text), &tokens[i], &err));
        struct tokens want = golden_ids(json_object_get(each, "input_ids"));
        ck_assert_uint_eq(tokens[i].n, want.n);
        ck_assert_mem_eq(tokens[i].ids, want.ids, want.n * sizeof *want.ids);
        tokens_release(&want);
        size_t p = 0;
        while (!json_equal(json_object_get(golden_case(&golden, "image", p), "picture"),
                           json_object_get(each, "picture")))
            p++;
        pairs[i] = (struct pair){&features[p], 1, &tokens[i], NULL};
    }
    ck_assert_msg(!model->architecture->score_pairs(model, &golden.compute, TASK_MATCH, pairs, n,
                                                    batch, &err),
                  "%s", err.message);
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++) {
        const json_t *each = golden_case(&golden, "match", i);
        double probability = json_number_value(json_object_get(each, "probability"));
        double cosine = json_number_value(json_object_get(each, "cosine"));
        ck_assert(!model->architecture->score_pairs(model, &golden.compute, TASK_MATCH, &pairs[i],
                                                    1, single, &err));
        arena_reset(&golden.arena);
        ck_assert_double_eq_tol((double)batch[2 * i], probability, 1e-4 * probability);
        ck_assert_double_eq_tol((double)batch[2 * i + 1], cosine, 1e-5);
        ck_assert_double_eq_tol((double)single[0], probability, 1e-4 * probability);
        ck_assert_double_eq_tol((double)single[1], cosine, 1e-5);
        tokens_release(&tokens[i]);
    }
    for (size_t p = 0; p < n_pictures; p++)
        features_unref(features[p]);
    golden_close(&golden);
}
END_TEST

/* ---- generation --------------------------------------------------------------------------------
 */

struct generator {
    const char *checkpoint, *kind, *text_key;
    enum task task;
};
static const struct generator generators[] = {
    {"blip-caption-tiny", "caption", "prompt", TASK_CAPTION},
    {"blip-vqa-tiny", "vqa", "question", TASK_VQA},
    {"vit-gpt2-tiny", "caption", "prompt", TASK_CAPTION},
    {"git-tiny", "caption", "prompt", TASK_CAPTION},
    {"git-tiny", "vqa", "question", TASK_VQA},
    {"paligemma-tiny", "caption", "prompt", TASK_CAPTION},
    {"paligemma-tiny", "vqa", "question", TASK_VQA},
    {"paligemma2-tiny", "caption", "prompt", TASK_CAPTION},
    {"paligemma2-tiny", "vqa", "question", TASK_VQA},
};

static size_t argmax(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* One greedy run under way. */
struct run {
    const json_t *golden;
    struct tokens tokens;
    struct features *features;
    struct sequence *sequence;
    int32_t ids[64];
    size_t n_start, n;
    bool done;
};

static void advance(const struct golden *golden, struct run *run, const float *logits)
{
    const struct generation_params *params = &golden->model->generation;
    size_t vocab = golden->model->traits.vocab_size, step = run->n - run->n_start;
    const struct tensor_view *want = golden_tensor(golden, run->golden, "logits");
    ck_assert_uint_eq(want->shape[1], vocab);
    ck_assert_uint_lt(step, want->shape[0]);
    golden_close_to(logits, (const float *)want->data + step * vocab, vocab, "logits");
    int32_t id = (int32_t)argmax(logits, vocab);
    run->ids[run->n++] = id;
    run->done = id == params->eos_ids[0] || run->n - run->n_start == params->max_new_tokens;
}

/* Runs n prompts, each of a sequence, a token at a time, every other one a round later than its
 * neighbour: new ones and continued ones share passes. logits: [n, vocab_size]. */
static void prefill_in_pieces(struct golden *golden, enum task task, const struct prompt *prompts,
                              struct sequence *sequences, size_t n, float *logits)
{
    enum { MANY = 16 };
    const struct model *model = golden->model;
    size_t vocab = model->traits.vocab_size, n_left = n;
    float *each = malloc(n * vocab * sizeof *each);
    for (size_t round = 0; n_left; round++) {
        struct prompt pieces[MANY];
        struct sequence continued[MANY] = {0};
        struct error err = {0};
        size_t of[MANY], n_pieces = 0;
        for (size_t i = 0; i < n; i++) {
            size_t from = round - i % 2;
            if (round < i % 2 || from >= prompts[i].text->n)
                continue;
            pieces[n_pieces] = prompts[i];
            pieces[n_pieces].from = from;
            pieces[n_pieces].to = from + 1;
            if (from)
                continued[n_pieces] = sequences[i];
            of[n_pieces++] = i;
        }
        ck_assert_msg(!model->architecture->prefill(model, &golden->compute, task, pieces,
                                                    continued, n_pieces, each, &err),
                      "%s", err.message);
        arena_reset(&golden->arena);
        for (size_t i = 0; i < n_pieces; i++) {
            sequences[of[i]] = continued[i];
            memcpy(logits + of[i] * vocab, each + i * vocab, vocab * sizeof *each);
            n_left -= pieces[i].to == pieces[i].text->n;
        }
    }
    free(each);
}

/* With prompts as a whole, and (the second half of the loop) in pieces where they may be. */
START_TEST(greedy_generation_is_the_reference_s)
{
    bool in_pieces = (size_t)_i >= ARRAY_LENGTH(generators);
    const struct generator *generator = &generators[(size_t)_i % ARRAY_LENGTH(generators)];
    struct golden golden;
    golden_open(&golden, generator->checkpoint);
    const struct model *model = golden.model;
    struct error err = {0};
    enum { MANY = 16 };
    struct run runs[MANY] = {0};
    struct prompt prompts[MANY];
    struct sequence sequences[MANY];
    size_t n = 0, vocab = model->traits.vocab_size;
    ck_assert_uint_eq(model->generation.n_eos, 1);
    ck_assert_uint_eq(model->generation.max_new_tokens, 20);
    for (size_t i = 0; i < golden_count(&golden, generator->kind); i++) {
        const json_t *each = golden_case(&golden, generator->kind, i);
        if (strcmp(json_string_value(json_object_get(each, "run")), "greedy") != 0)
            continue;
        ck_assert_uint_lt(n, MANY);
        struct run *run = &runs[n];
        const json_t *text = json_object_get(each, generator->text_key);
        run->golden = each;
        run->sequence = &sequences[n];
        run->features = golden_features(&golden, each);
        const char *prompt = json_is_string(text) ? json_string_value(text) : "";
        ck_assert(
            !model_tokenize(model, generator->task, prompt, strlen(prompt), &run->tokens, &err));
        struct tokens start = golden_ids(json_object_get(each, "start_ids"));
        run->n_start = run->tokens.n;
        if (model->architecture->decoder_prompt)
            run->n_start =
                model->architecture->decoder_prompt(model, generator->task, &run->tokens, run->ids);
        else
            memcpy(run->ids, run->tokens.ids, run->tokens.n * sizeof *run->ids);
        run->n = run->n_start;
        ck_assert_uint_eq(run->n_start, start.n);
        ck_assert_mem_eq(run->ids, start.ids, start.n * sizeof *start.ids);
        tokens_release(&start);
        prompts[n++] = (struct prompt){&run->features, 1, &run->tokens};
    }

    /* All of them in one batch; they leave as they end. */
    float *logits = malloc(n * vocab * sizeof *logits);
    if (in_pieces && model->architecture->prefill_in_pieces)
        prefill_in_pieces(&golden, generator->task, prompts, sequences, n, logits);
    else
        ck_assert_msg(!model->architecture->prefill(model, &golden.compute, generator->task,
                                                    prompts, sequences, n, logits, &err),
                      "%s", err.message);
    arena_reset(&golden.arena);
    for (size_t i = 0; i < n; i++)
        advance(&golden, &runs[i], logits + i * vocab);
    for (;;) {
        struct sequence *under_way[MANY];
        int32_t tokens[MANY];
        size_t of[MANY], n_under_way = 0;
        for (size_t i = 0; i < n; i++)
            if (!runs[i].done) {
                under_way[n_under_way] = runs[i].sequence;
                tokens[n_under_way] = runs[i].ids[runs[i].n - 1];
                of[n_under_way++] = i;
            }
        if (!n_under_way)
            break;
        ck_assert(!model->architecture->decode(model, &golden.compute, under_way, tokens,
                                               n_under_way, logits, &err));
        arena_reset(&golden.arena);
        for (size_t i = 0; i < n_under_way; i++)
            advance(&golden, &runs[of[i]], logits + i * vocab);
    }

    for (size_t i = 0; i < n; i++) {
        struct run *run = &runs[i];
        struct tokens want =
            golden_ids(json_array_get(json_object_get(run->golden, "sequences"), 0));
        ck_assert_uint_eq(run->n, want.n);
        ck_assert_mem_eq(run->ids, want.ids, want.n * sizeof *want.ids);
        struct buffer text;
        buffer_init(&text, 4096);
        ck_assert(!model_detokenize(model, generator->task, &run->tokens, run->ids + run->n_start,
                                    run->n - run->n_start, &text, &err));
        ck_assert_str_eq(text.data ? text.data : "",
                         json_string_value(json_array_get(
                             json_object_get(run->golden, "texts_without_prompt"), 0)));
        buffer_release(&text);
        tokens_release(&want);
        tokens_release(&run->tokens);
        features_unref(run->features);
        sequence_release(run->sequence);
    }
    free(logits);
    golden_close(&golden);
}
END_TEST

START_TEST(a_forked_sequence_goes_on_like_its_origin)
{
    struct golden golden;
    golden_open(&golden, "blip-caption-tiny");
    const struct model *model = golden.model;
    struct error err = {0};
    struct features *features = golden_features(&golden, golden_case(&golden, "image", 1));
    struct tokens tokens;
    ck_assert(!model_tokenize(model, TASK_CAPTION, "", 0, &tokens, &err));
    struct prompt prompt = {&features, 1, &tokens};
    size_t vocab = model->traits.vocab_size;
    float *a = malloc(vocab * sizeof *a), *b = malloc(vocab * sizeof *b);
    struct sequence origin, fork;
    ck_assert(!model->architecture->prefill(model, &golden.compute, TASK_CAPTION, &prompt, &origin,
                                            1, a, &err));
    ck_assert(!sequence_fork(&fork, &origin, &err));
    ck_assert_ptr_eq(fork.cross, origin.cross);
    ck_assert_ptr_ne(fork.kv, origin.kv);
    struct sequence *list[] = {&origin};
    int32_t token = 20;
    for (int i = 0; i < 30; i++) /* past the first capacity, so that the cache moves */
        ck_assert(!model->architecture->decode(model, &golden.compute, list, &token, 1, a, &err));
    list[0] = &fork;
    sequence_release(&origin);
    for (int i = 0; i < 30; i++)
        ck_assert(!model->architecture->decode(model, &golden.compute, list, &token, 1, b, &err));
    ck_assert_mem_eq(a, b, vocab * sizeof *a);

    /* The model has 40 positions: the next steps end in an error, not in a read past the table. */
    enum status status = STATUS_OK;
    for (int i = 0; i < 30 && !status; i++)
        status = model->architecture->decode(model, &golden.compute, list, &token, 1, b, &err);
    ck_assert_int_eq(status, STATUS_TOO_LONG);
    ck_assert_uint_eq(fork.n_tokens, 40);
    token = 100000;
    ck_assert(model->architecture->decode(model, &golden.compute, list, &token, 1, b, &err));
    sequence_release(&fork);
    tokens_release(&tokens);
    features_unref(features);
    free(a);
    free(b);
    golden_close(&golden);
}
END_TEST

/* ---- the registry ------------------------------------------------------------------------------
 */

/* The architectures of all checkpoints that have a golden. */
static size_t find_goldens(char names[][64], size_t max)
{
    char path[512];
    snprintf(path, sizeof path, "%s/checkpoints", golden_data());
    DIR *directory = opendir(path);
    ck_assert_ptr_nonnull(directory);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        snprintf(path, sizeof path, "%s/goldens/%s.json", golden_data(), entry->d_name);
        if (access(path, R_OK))
            continue;
        struct error err = {0};
        snprintf(path, sizeof path, "%s/checkpoints/%s", golden_data(), entry->d_name);
        struct checkpoint *checkpoint = checkpoint_open(path, &err);
        const char *name = checkpoint ? checkpoint_architecture(checkpoint, &err) : NULL;
        if (name && n < max)
            snprintf(names[n++], sizeof names[0], "%s", name);
        checkpoint_free(checkpoint);
    }
    closedir(directory);
    return n;
}

START_TEST(architectures_offer_what_their_tasks_need)
{
    static char goldens[64][64];
    size_t n_goldens = find_goldens(goldens, ARRAY_LENGTH(goldens));
    const struct architecture *each;
    for (size_t i = 0; (each = architecture_at(i)); i++) {
        ck_assert_ptr_eq(architecture_find(each->name), each); /* unique names */
        ck_assert_msg(each->summary && each->tasks && each->load && each->free &&
                          (each->encode_images || each->tasks == TASK_BIT(EMBED)),
                      "%s", each->name);
        if (each->tasks & TASK_BIT(EMBED))
            ck_assert_msg(each->encode_images || each->encode_texts, "%s", each->name);
        if (each->tasks & TASK_BIT(CLASSIFY))
            ck_assert_msg(each->encode_images && each->encode_texts, "%s", each->name);
        if (each->tasks & (TASK_BIT(MATCH)))
            ck_assert_msg(each->score_pairs || each->encode_texts, "%s", each->name);
        if (each->tasks & TASK_BIT(CAPTION))
            ck_assert_msg(each->prefill != NULL, "%s", each->name);
        if (each->tasks & (TASK_BIT(DETECT) | TASK_BIT(GROUND)) && !each->prefill)
            ck_assert_msg(each->score_pairs && each->boxes, "%s", each->name);
        if (each->tasks & TASK_BIT(SEGMENT) && !each->prefill)
            ck_assert_msg(each->score_pairs != NULL, "%s", each->name);
        ck_assert_msg(!each->prefill == !each->decode, "%s", each->name);
        bool has_golden = false;
        for (size_t c = 0; c < n_goldens && !has_golden; c++)
            has_golden = strcmp(goldens[c], each->name) == 0;
        ck_assert_msg(has_golden, "%s has no golden", each->name);
    }
    ck_assert_ptr_null(architecture_find("CLIPmodel"));
    for (int task = 0; task < N_TASKS; task++)
        ck_assert_str_ne(task_name((enum task)task), "?");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models");
    TCase *encoders = tcase_create("encoders");
    tcase_set_timeout(encoders, 60);
    int n = ARRAY_LENGTH(checkpoints), n_texts = N_TEXTS;
    tcase_add_loop_test(encoders, pictures_become_the_reference_s_pixels, FIRST_WITH_FEATURES, n);
    tcase_add_loop_test(encoders, pictures_become_the_reference_s_features, FIRST_WITH_FEATURES,
                        END_WITH_FEATURES);
    tcase_add_test(encoders, a_resnet_s_large_batches_are_as_small_ones);
    tcase_add_loop_test(encoders, texts_become_the_reference_s_ids_and_embeddings, 0, n_texts);
    tcase_add_loop_test(encoders, texts_that_begin_alike_are_as_each_alone, 0, n_texts);
    tcase_add_loop_test(encoders, dual_encoders_give_the_reference_s_scale, 1, n_texts);
    tcase_add_loop_test(encoders, parameters_are_counted_once, 0, n);
    tcase_add_loop_test(encoders, matches_have_the_reference_s_probability_and_cosine, 0,
                        ARRAY_LENGTH(matchers));
    tcase_add_test(encoders, architectures_offer_what_their_tasks_need);
    TCase *generation = tcase_create("generation");
    tcase_add_loop_test(generation, greedy_generation_is_the_reference_s, 0,
                        2 * ARRAY_LENGTH(generators));
    tcase_add_test(generation, a_forked_sequence_goes_on_like_its_origin);
    suite_add_tcase(suite, encoders);
    suite_add_tcase(suite, generation);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
