/*
 * test_nn_conv.c: convolutions, in f32 and over packed weights, against a plain loop in double;
 * pooling, interpolation and rotary embeddings against PyTorch's results
 * (tests/data/goldens/nn.json) and their definitions.
 */
#include <jansson.h>
#include <stdio.h>

#include "core/nn/conv.h"
#include "core/nn/interpolate.h"
#include "core/nn/rotary.h"
#include "nn_reference.h"

/* ---- convolutions ---------------------------------------------------------------------------- */

/* Weights as f32 are laid out; in another form they are packed, and rounded to 8 or 7 bits. */
static void *lay_out(struct conv2d *conv, enum weight_form form)
{
    struct linear *linear = &conv->linear;
    if (form == WEIGHT_F32) {
        ck_assert_int_eq(conv2d_prepare(conv, pool, &err), STATUS_OK);
        return NULL;
    }
    void *packed = aligned_alloc(64, linear_packed_bytes(form, linear->n_out, linear->n_in));
    ck_assert_ptr_nonnull(packed);
    linear_pack(pool, form, linear->weight, DTYPE_F32, linear->n_out, linear->n_in, packed);
    free(linear->owned);
    linear_init_packed(linear, form, packed, linear->bias, linear->n_out, linear->n_in);
    return packed;
}

static void check_conv_as(enum weight_form form, struct conv2d_shape shape, size_t n, size_t height,
                          size_t width, bool has_bias, bool has_norm, bool has_residual,
                          enum activation activation)
{
    static const double tolerances[N_WEIGHT_FORMS] = {3e-6, 8e-3, 3e-2};
    size_t kernel = shape.kernel_height * shape.kernel_width;
    size_t oh = conv2d_out_size(height, shape.kernel_height, shape.stride, shape.padding);
    size_t ow = conv2d_out_size(width, shape.kernel_width, shape.stride, shape.padding);
    float *weight = floats_random(shape.n_out * shape.n_in * kernel, 1, 1);
    float *bias = floats_random(shape.n_out, 1, 1),
          *x = floats_random(n * height * width * shape.n_in, 1, 1);
    float *y = floats_random(n * oh * ow * shape.n_out, 1, 1);
    float *residual = floats_random(n * oh * ow * shape.n_out, 1, 1);
    float *norm_values[4];
    for (int i = 0; i < 4; i++)
        norm_values[i] = floats_random(shape.n_out, 0, 1);
    for (size_t o = 0; o < shape.n_out; o++)
        norm_values[3][o] = fabsf(norm_values[3][o]) + 0.2f;
    struct batch_norm norm = {norm_values[0], norm_values[1], norm_values[2], norm_values[3],
                              1e-5f};
    struct conv2d conv;
    ck_assert_int_eq(conv2d_init(&conv, shape, weight, DTYPE_F32, has_bias ? bias : NULL,
                                 has_norm ? &norm : NULL, &err),
                     STATUS_OK);
    void *packed = lay_out(&conv, form);
    ck_assert_int_eq(nn_conv2d(&compute, &conv, x, n, height, width, activation,
                               has_residual ? residual : NULL, y, &err),
                     STATUS_OK);
    for (size_t at = 0; at < n * oh * ow; at++) {
        for (size_t o = 0; o < shape.n_out; o++) {
            double sum = has_bias ? bias[o] : 0, scale = 1;
            for (size_t k = 0; k < kernel; k++) {
                size_t py = at / ow % oh * shape.stride + k / shape.kernel_width;
                size_t px = at % ow * shape.stride + k % shape.kernel_width;
                if (py < shape.padding || py >= height + shape.padding || px < shape.padding ||
                    px >= width + shape.padding)
                    continue;
                for (size_t i = 0; i < shape.n_in; i++) {
                    double term = (double)x[((at / ow / oh * height + py - shape.padding) * width +
                                             px - shape.padding) *
                                                shape.n_in +
                                            i] *
                                  weight[(o * shape.n_in + i) * kernel + k];
                    sum += term;
                    scale += fabs(term);
                }
            }
            if (has_norm) {
                double factor = norm.weight[o] / sqrt(norm.variance[o] + norm.eps);
                sum = (sum - norm.mean[o]) * factor + norm.bias[o];
                scale = scale * fabs(factor) + 3;
            }
            if (has_residual)
                sum += residual[at * shape.n_out + o];
            double want = activation_reference(activation, sum);
            ck_assert_msg(close_to(y[at * shape.n_out + o], want, tolerances[form], scale),
                          "%s, %zu channels, kernel %zu, pixel %zu, output %zu: %g, not %g",
                          weight_form_name(form), shape.n_in, kernel, at, o,
                          y[at * shape.n_out + o], want);
        }
    }
    conv2d_release(&conv);
    free(packed);
    for (int i = 0; i < 4; i++)
        floats_free(norm_values[i]);
    floats_free(weight);
    floats_free(bias);
    floats_free(x);
    floats_free(y);
    floats_free(residual);
}

static void check_conv(struct conv2d_shape shape, size_t n, size_t height, size_t width,
                       bool has_bias, bool has_norm, bool has_residual, enum activation activation)
{
    for (enum weight_form form = WEIGHT_F32; form <= WEIGHT_INT8; form++)
        check_conv_as(form, shape, n, height, width, has_bias, has_norm, has_residual, activation);
}

START_TEST(convolutions_match_plain_loop)
{
    check_conv((struct conv2d_shape){32, 3, 3, 3, 2, 1}, 2, 14, 15, false, true, false,
               ACTIVATION_RELU);
    check_conv((struct conv2d_shape){17, 20, 3, 3, 1, 1}, 1, 7, 9, false, true, true,
               ACTIVATION_RELU);
    check_conv((struct conv2d_shape){33, 16, 1, 1, 1, 0}, 3, 5, 5, true, true, true,
               ACTIVATION_GELU);
    check_conv((struct conv2d_shape){9, 16, 1, 1, 2, 0}, 1, 8, 7, true, false, false,
               ACTIVATION_NONE);
    check_conv((struct conv2d_shape){5, 2, 7, 5, 3, 3}, 2, 11, 20, true, false, false,
               ACTIVATION_SILU);
    check_conv((struct conv2d_shape){1, 1, 1, 1, 1, 0}, 1, 1, 1, false, false, false,
               ACTIVATION_NONE);
    check_conv((struct conv2d_shape){4, 300, 3, 3, 1, 1}, 1, 6, 6, false, true, false,
               ACTIVATION_RELU);
    /* several panels of outputs, and more rows than one task has */
    check_conv((struct conv2d_shape){150, 37, 3, 3, 1, 1}, 2, 9, 11, false, true, true,
               ACTIVATION_RELU);
    check_conv((struct conv2d_shape){40, 5, 3, 3, 1, 2}, 1, 43, 41, true, false, false,
               ACTIVATION_RELU);
    check_conv((struct conv2d_shape){100, 9, 1, 1, 1, 0}, 2, 25, 23, true, false, true,
               ACTIVATION_SILU);
    check_conv((struct conv2d_shape){20, 3, 7, 7, 2, 3}, 1, 40, 45, false, true, false,
               ACTIVATION_RELU);
    for (int i = 0; i < 30; i++) {
        struct conv2d_shape shape = {1 + random_below(40), 1 + random_below(24),
                                     1 + random_below(4),  1 + random_below(4),
                                     1 + random_below(3),  random_below(3)};
        check_conv(shape, 1 + random_below(3), 4 + random_below(9), 4 + random_below(9),
                   random_below(2), random_below(2), random_below(2),
                   (enum activation)random_below(N_ACTIVATIONS));
    }
}
END_TEST

START_TEST(convolutions_refuse_what_they_cannot_do)
{
    float weight[4] = {0};
    struct conv2d conv = {0};
    static const struct conv2d_shape shapes[] = {
        {0, 1, 1, 1, 1, 0}, {1, 0, 1, 1, 1, 0},    {1, 1, 0, 1, 1, 0},
        {1, 1, 1, 1, 0, 0}, {1, 5000, 3, 3, 1, 0}, {1, SIZE_MAX / 2, 3, 3, 1, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        ck_assert_int_eq(conv2d_init(&conv, shapes[i], weight, DTYPE_F32, NULL, NULL, &err),
                         STATUS_BAD_CHECKPOINT);
    ck_assert_int_eq(conv2d_init(&conv, (struct conv2d_shape){1, 1, 1, 1, 1, 0}, weight, DTYPE_I32,
                                 NULL, NULL, &err),
                     STATUS_BAD_CHECKPOINT);
    conv2d_release(&conv);
    conv2d_release(NULL);
    ck_assert_uint_eq(conv2d_out_size(2, 3, 1, 0), 0);
    ck_assert_uint_eq(conv2d_out_size(2, 3, 1, 1), 2);
    ck_assert_uint_eq(conv2d_out_size(224, 3, 2, 1), 112);
    ck_assert_uint_eq(conv2d_out_size(5, 1, 0, 0), 0);
}
END_TEST

START_TEST(channels_go_last)
{
    float *pictures[2] = {floats_random(3 * 5 * 7, 1, 1), floats_random(3 * 5 * 7, 2, 1)};
    float out[2 * 5 * 7 * 3];
    nn_channels_last(&compute, (const float *const *)pictures, 2, 3, 5, 7, out);
    for (size_t n = 0; n < 2; n++)
        for (size_t c = 0; c < 3; c++)
            for (size_t i = 0; i < 35; i++)
                ck_assert(out[(n * 35 + i) * 3 + c] == pictures[n][c * 35 + i]);
    floats_free(pictures[0]);
    floats_free(pictures[1]);
}
END_TEST

/* ---- goldens --------------------------------------------------------------------------------- */

static json_t *goldens_load(void)
{
    char path[1024];
    const char *data = getenv("VLMD_TEST_DATA");
    json_error_t fault;
    snprintf(path, sizeof path, "%s/goldens/nn.json", data ? data : "tests/data");
    json_t *goldens = json_load_file(path, 0, &fault);
    ck_assert_msg(goldens != NULL, "%s: %s", path, fault.text);
    return goldens;
}

static size_t golden_size(const json_t *of, const char *key, size_t i)
{
    return (size_t)json_integer_value(json_array_get(json_object_get(of, key), i));
}

/* Two copies of the case's input one after another, so that batches are covered. */
static float *golden_floats(const json_t *of, const char *key, size_t copies, size_t *n)
{
    const json_t *list = json_object_get(of, key);
    *n = json_array_size(list);
    float *floats = floats_random(copies * *n, 1, 1);
    for (size_t i = 0; i < copies * *n; i++)
        floats[i] = (float)json_number_value(json_array_get(list, i % *n));
    return floats;
}

START_TEST(interpolation_matches_pytorch)
{
    json_t *goldens = goldens_load(), *of;
    size_t i;
    ck_assert_uint_ge(json_array_size(json_object_get(goldens, "interpolate")), 10);
    json_array_foreach(json_object_get(goldens, "interpolate"), i, of)
    {
        size_t n, n_want, height = golden_size(of, "size", 0), width = golden_size(of, "size", 1);
        float *x = golden_floats(of, "x", 1, &n), *want = golden_floats(of, "y", 1, &n_want);
        float *y = floats_random(n_want, 1, 1);
        bool cubic = strcmp(json_string_value(json_object_get(of, "mode")), "bicubic") == 0;
        nn_interpolate(&compute, cubic ? INTERPOLATION_BICUBIC : INTERPOLATION_BILINEAR, x, height,
                       width, 3, golden_size(of, "out_size", 0), golden_size(of, "out_size", 1), y);
        for (size_t at = 0; at < n_want; at++)
            ck_assert_msg(close_to(y[at], want[at], 2e-6, 1), "case %zu, %zu: %g, not %g", i, at,
                          y[at], want[at]);
        if (n == n_want)
            ck_assert_mem_eq(x, y, n * sizeof *x);
        floats_free(x);
        floats_free(y);
        floats_free(want);
    }
    json_decref(goldens);
}
END_TEST

START_TEST(pooling_matches_pytorch)
{
    json_t *goldens = goldens_load(), *of;
    size_t i;
    ck_assert_uint_ge(json_array_size(json_object_get(goldens, "pools")), 4);
    json_array_foreach(json_object_get(goldens, "pools"), i, of)
    {
        size_t n, n_want, height = golden_size(of, "size", 0), width = golden_size(of, "size", 1);
        size_t channels = golden_size(of, "size", 2);
        size_t size = golden_size(of, "window", 0), stride = golden_size(of, "window", 1);
        float *x = golden_floats(of, "x", 2, &n), *want = golden_floats(of, "y", 2, &n_want);
        float *y = floats_random(2 * n_want, 1, 1);
        if (strcmp(json_string_value(json_object_get(of, "kind")), "avg") == 0)
            nn_avg_pool2d(&compute, x, 2, height, width, channels, size, stride, y);
        else
            nn_max_pool2d(&compute, x, 2, height, width, channels, size, stride,
                          golden_size(of, "window", 2), y);
        for (size_t at = 0; at < 2 * n_want; at++)
            ck_assert_msg(close_to(y[at], want[at], 1e-6, 1), "case %zu, %zu: %g, not %g", i, at,
                          y[at], want[at]);
        floats_free(x);
        floats_free(y);
        floats_free(want);
    }
    json_decref(goldens);
}
END_TEST

/* ---- rotary ---------------------------------------------------------------------------------- */

START_TEST(rotary_turns_pairs)
{
    enum { ROWS = 11, HEADS = 3, HEAD_DIM = 10, DIM = 8, STRIDE = 33 };
    float positions[ROWS], cosines[ROWS * DIM / 2], sines[ROWS * DIM / 2];
    for (int r = 0; r < ROWS; r++)
        positions[r] = (float)(r * r);
    nn_rotary_table(positions, ROWS, DIM, 10000.0f, cosines, sines);
    for (int kind = 0; kind < 2; kind++) {
        float *x = floats_random(ROWS * STRIDE, 1, 1), *before = floats_random(ROWS * STRIDE, 0, 1);
        memcpy(before, x, ROWS * STRIDE * sizeof *x);
        nn_rotary(&compute, kind ? ROTARY_ADJACENT : ROTARY_HALVES, x, ROWS, STRIDE, HEADS,
                  HEAD_DIM, DIM, cosines, sines);
        for (int r = 0; r < ROWS; r++) {
            for (int at = 0; at < STRIDE; at++) {
                int feature = at % HEAD_DIM;
                double want = before[r * STRIDE + at];
                if (at < HEADS * HEAD_DIM && feature < DIM) {
                    int pair = kind ? feature / 2 : feature % (DIM / 2);
                    bool second = kind ? feature % 2 : feature >= DIM / 2;
                    int other = at + (kind ? 1 : DIM / 2) * (second ? -1 : 1);
                    double angle = positions[r] * pow(10000, -2.0 * pair / DIM);
                    want = before[r * STRIDE + at] * cos(angle) +
                           before[r * STRIDE + other] * sin(angle) * (second ? 1 : -1);
                }
                ck_assert_msg(close_to(x[r * STRIDE + at], want, 2e-5, 1), "row %d, %d: %g, not %g",
                              r, at, x[r * STRIDE + at], want);
            }
        }
        floats_free(x);
        floats_free(before);
    }
}
END_TEST

START_TEST(rotary_sections_take_their_positions)
{
    enum { ROWS = 4, DIM = 16 };
    float positions[3][ROWS] = {{0, 1, 2, 3}, {5, 5, 6, 6}, {9, 10, 9, 10}};
    static const size_t sections[] = {2, 3, 3};
    float cosines[ROWS * DIM / 2], sines[ROWS * DIM / 2], one_cos[ROWS * DIM / 2],
        one_sin[ROWS * DIM / 2];
    nn_rotary_table_sections(positions[0], ROWS, sections, 3, DIM, 1e6f, cosines, sines);
    for (int kind = 0; kind < 3; kind++) {
        nn_rotary_table(positions[kind], ROWS, DIM, 1e6f, one_cos, one_sin);
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < DIM / 2; i++)
                if ((i < 2 ? 0 : i < 5 ? 1 : 2) == kind)
                    ck_assert(cosines[r * DIM / 2 + i] == one_cos[r * DIM / 2 + i] &&
                              sines[r * DIM / 2 + i] == one_sin[r * DIM / 2 + i]);
    }
}
END_TEST

static Suite *suite_of_engine(void)
{
    Suite *suite = suite_create(nn_engine_name());
    TCase *tcase = tcase_create("nn_conv");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, convolutions_match_plain_loop);
    tcase_add_test(tcase, convolutions_refuse_what_they_cannot_do);
    tcase_add_test(tcase, channels_go_last);
    tcase_add_test(tcase, interpolation_matches_pytorch);
    tcase_add_test(tcase, pooling_matches_pytorch);
    tcase_add_test(tcase, rotary_turns_pairs);
    tcase_add_test(tcase, rotary_sections_take_their_positions);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    int failed = 0;
    for (enum nn_engine engine = NN_ENGINE_AMX; engine <= NN_ENGINE_PORTABLE; engine++) {
        if (!nn_engine_choose(engine)) {
            printf("skipped: engine %d, which this chip lacks\n", (int)engine);
            continue;
        }
        SRunner *runner = srunner_create(suite_of_engine());
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        failed += srunner_ntests_failed(runner);
        srunner_free(runner);
    }
    return failed ? 1 : 0;
}
