/*
 * test_nn_packed.c: linear layers and convolutions over packed weights, in every form and with
 * every engine of this chip, against plain loops in double over the same rounded numbers.
 */
#include <stdio.h>

#include "core/nn/packed.h"
#include "nn_reference.h"

static double bf16_round(double value)
{
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
    memcpy(&narrow, &bits, sizeof bits);
    return narrow;
}

/* To 5 significant bits, as int4's scales have. */
static float scale_round(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + (1 << 18)) & 0xFFF80000;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

/* The weights as the form holds them. */
static void round_weights(enum weight_form form, const float *w, size_t n_out, size_t n_in,
                          double *out)
{
    for (size_t o = 0; o < n_out; o++) {
        const float *row = w + o * n_in;
        double *to = out + o * n_in;
        size_t group = form == WEIGHT_INT4 ? 32 : n_in;
        for (size_t k = 0; k < n_in; k++) {
            if (form == WEIGHT_BF16) {
                to[k] = bf16_round(row[k]);
                continue;
            }
            if (k % group == 0) {
                float most = 0;
                for (size_t j = k; j < k + group && j < n_in; j++)
                    most = fabsf(row[j]) > fabsf(most) ? row[j] : most;
                float step = form == WEIGHT_INT8 ? fabsf(most) / 127 : scale_round(most / -8);
                float factor = form == WEIGHT_INT8 ? 127 / fabsf(most) : 1 / step;
                for (size_t j = k; j < k + group && j < n_in; j++) {
                    double whole = step != 0 ? rintf(row[j] * factor) : 0;
                    if (form == WEIGHT_INT4)
                        whole = fmin(7, fmax(-8, whole));
                    to[j] = whole * step;
                }
            }
        }
    }
}

/* To 127 steps of the largest of each 32, as few rows against int4 are. */
static void round_groups(const float *x, size_t n_in, double *out)
{
    for (size_t k = 0; k < n_in; k += INT4_GROUP) {
        float most = 0;
        for (size_t j = k; j < k + INT4_GROUP && j < n_in; j++)
            most = fmaxf(most, fabsf(x[j]));
        for (size_t j = k; j < k + INT4_GROUP && j < n_in; j++)
            out[j] = most > 0 ? (double)rintf(x[j] * (127 / most)) * (most / 127) : 0;
    }
}

/* What a row of x, of n_rows, becomes for engines that have the form's units. */
static void round_row(enum weight_form form, size_t n_rows, const float *x, size_t n_in,
                      double *out)
{
    if (form == WEIGHT_INT4 && n_rows <= INT4_FEW_ROWS && nn_engine_has_units(WEIGHT_INT8)) {
        round_groups(x, n_in, out);
        return;
    }
    float low = 0, high = 0;
    for (size_t k = 0; k < n_in; k++) {
        low = fminf(low, x[k]);
        high = fmaxf(high, x[k]);
    }
    float step = high / 255 - low / 255, factor = 1 / step;
    /* bytes 0 … 255: of a row from -a to a, both ends are half a step beyond */
    float zero = step > 0 ? floorf(-low * factor + 0.5f) : 0;
    for (size_t k = 0; k < n_in; k++)
        out[k] = !nn_engine_has_units(form) ? x[k]
                 : form != WEIGHT_INT8      ? bf16_round(x[k])
                 : step > 0 ? (double)(fminf(255, rintf(x[k] * factor) + zero) - zero) * step
                            : 0;
}

struct product {
    size_t rows, n_out, n_in;
    bool has_bias;
    enum activation activation;
    int residual; /* none, another, y itself */
};

/* 3e-6 · sum |x w| for sums in f32: everything else is exact. */
static void check_product(enum weight_form form, struct product p)
{
    size_t offset = random_below(4);
    float *x = floats_random(p.rows * p.n_in, offset, 1);
    float *w = floats_random(p.n_out * p.n_in, offset, 1), *bias = floats_random(p.n_out, 1, 1);
    float *residual = floats_random(p.rows * p.n_out, 3, 1);
    float *y = floats_random(p.rows * p.n_out, offset, 1);
    float *before = floats_random(p.rows * p.n_out, 0, 1);
    memcpy(before, y, p.rows * p.n_out * sizeof *y);
    double *rounded = calloc(p.n_out * p.n_in + 1, sizeof *rounded);
    double *row = calloc(p.n_in + 1, sizeof *row);
    size_t size = linear_packed_bytes(form, p.n_out, p.n_in);
    ck_assert(size > 0);
    void *packed = aligned_alloc(64, size);
    ck_assert(rounded && row && packed);
    struct linear linear;
    linear_pack(random_below(2) ? pool : NULL, form, w, DTYPE_F32, p.n_out, p.n_in, packed);
    linear_init_packed(&linear, form, packed, p.has_bias ? bias : NULL, p.n_out, p.n_in);
    ck_assert_int_eq(linear.form, form);
    round_weights(form, w, p.n_out, p.n_in, rounded);
    const float *plus = p.residual == 0 ? NULL : p.residual == 1 ? residual : y;
    /* rows of bf16, where the engine has them; y's then stay within its rounding */
    bool may_narrow = nn_linear_dtype(&linear) == DTYPE_BF16;
    bool is_x_narrow = may_narrow && random_below(2), is_y_narrow = may_narrow && random_below(2);
    uint16_t *x_narrow = is_x_narrow ? floats_to_bf16(x, p.rows * p.n_in) : NULL;
    uint16_t *y_narrow = malloc(is_y_narrow ? p.rows * p.n_out * sizeof *y_narrow + 1 : 1);
    ck_assert_ptr_nonnull(y_narrow);
    nn_linear_rows(
        &compute, &linear,
        is_x_narrow ? (struct nn_rows){x_narrow, DTYPE_BF16} : (struct nn_rows){x, DTYPE_F32},
        p.rows, p.activation, plus,
        is_y_narrow ? (struct nn_rows){y_narrow, DTYPE_BF16} : (struct nn_rows){y, DTYPE_F32});
    if (is_y_narrow)
        dtype_to_f32(y_narrow, DTYPE_BF16, p.rows * p.n_out, y);
    for (size_t r = 0; r < p.rows; r++) {
        round_row(form, p.rows, x + r * p.n_in, p.n_in, row);
        for (size_t o = 0; o < p.n_out; o++) {
            double sum = p.has_bias ? bias[o] : 0, scale = fabs(sum), want, got;
            for (size_t k = 0; k < p.n_in; k++) {
                double term = row[k] * rounded[o * p.n_in + k];
                sum += term;
                scale += fabs(term);
            }
            want = activation_reference(p.activation, sum);
            if (plus)
                want += p.residual == 1 ? residual[r * p.n_out + o] : before[r * p.n_out + o];
            got = y[r * p.n_out + o];
            double rounding = is_y_narrow ? fabs(want) / 256 : 0;
            ck_assert_msg(fabs(got - want) <= 3e-6 * (fabs(want) + scale + 0.1) + rounding,
                          "%s %s, %zu x %zu x %zu, row %zu, out %zu: %.9g, not %.9g",
                          nn_engine_name(), weight_form_name(form), p.rows, p.n_out, p.n_in, r, o,
                          got, want);
        }
    }
    floats_free(x);
    floats_free(w);
    floats_free(bias);
    floats_free(residual);
    floats_free(y);
    floats_free(before);
    free(x_narrow);
    free(y_narrow);
    free(rounded);
    free(row);
    free(packed);
}

START_TEST(packed_products_match_plain_loop)
{
    static const size_t sizes[][3] = {
        {1, 1, 1},      {1, 16, 64},    {2, 17, 65},     {3, 100, 31},   {4, 64, 768},
        {6, 63, 200},   {7, 130, 128},  {15, 15, 300},   {16, 65, 512},  {17, 48, 33},
        {31, 129, 64},  {33, 257, 130}, {50, 192, 100},  {97, 64, 1000}, {600, 20, 40},
        {70, 33, 9001}, {3, 40, 16384}, {40, 17, 18944}, {7, 20, 32768}, {33, 17, 32767},
    };
    for (enum weight_form form = WEIGHT_BF16; form < N_WEIGHT_FORMS; form++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check_product(form,
                          (struct product){sizes[i][0], sizes[i][1], sizes[i][2], i % 4 != 3,
                                           (enum activation)(i % N_ACTIVATIONS), (int)(i % 3)});
        for (int i = 0; i < 25; i++)
            check_product(form,
                          (struct product){random_below(i % 2 ? 80 : 20), 1 + random_below(150),
                                           1 + random_below(300), random_below(2),
                                           (enum activation)random_below(N_ACTIVATIONS),
                                           (int)random_below(3)});
    }
}
END_TEST

/* Only units make a form fast; what is measured is measured once. */
START_TEST(engines_know_what_is_fast)
{
    ck_assert(nn_engine_has_units(WEIGHT_F32) && nn_engine_is_fast(WEIGHT_F32));
    ck_assert(!nn_engine_has_units(N_WEIGHT_FORMS) && !nn_engine_is_fast(N_WEIGHT_FORMS));
    for (enum weight_form form = 0; form < N_WEIGHT_FORMS; form++) {
        bool is_fast = nn_engine_is_fast(form);
        ck_assert(nn_engine_has_units(form) || !is_fast);
        for (int i = 0; i < 100; i++)
            ck_assert(nn_engine_is_fast(form) == is_fast);
    }
    if (strcmp(nn_engine_name(), "amx") == 0)
        ck_assert(nn_engine_is_fast(WEIGHT_BF16));
}
END_TEST

/* What is no number stays none, in its own row alone; rows of zeros give zeros. */
START_TEST(packed_products_keep_what_is_no_number)
{
    enum { ROWS = 5, N_OUT = 20, N_IN = 70 };
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    float *w = floats_random(N_OUT * N_IN, 1, 1), y[ROWS * N_OUT];
    for (enum weight_form form = WEIGHT_BF16; form < N_WEIGHT_FORMS; form++) {
        void *packed = aligned_alloc(64, linear_packed_bytes(form, N_OUT, N_IN));
        ck_assert_ptr_nonnull(packed);
        struct linear linear;
        linear_pack(NULL, form, w, DTYPE_F32, N_OUT, N_IN, packed);
        linear_init_packed(&linear, form, packed, NULL, N_OUT, N_IN);
        for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
            float *x = floats_random(ROWS * N_IN, 2, 1);
            memset(x, 0, N_IN * sizeof *x);
            x[3 * N_IN + 69] = odd[i];
            nn_linear(&compute, &linear, x, ROWS, ACTIVATION_NONE, NULL, y);
            for (size_t r = 0; r < ROWS; r++)
                for (size_t o = 0; o < N_OUT; o++)
                    ck_assert_msg(r == 3 ? !isfinite(y[r * N_OUT + o])
                                         : isfinite(y[r * N_OUT + o]) && (r || y[o] == 0),
                                  "%s, row %zu: %g", weight_form_name(form), r, y[r * N_OUT + o]);
            floats_free(x);
        }
        free(packed);
    }
    floats_free(w);
}
END_TEST

START_TEST(packing_tells_what_int8_loses)
{
    enum { N_OUT = 30, N_IN = 256 };
    float *w = floats_random(N_OUT * N_IN, 0, 1);
    void *packed = aligned_alloc(64, linear_packed_bytes(WEIGHT_INT8, N_OUT, N_IN));
    ck_assert_ptr_nonnull(packed);
    double plain = linear_pack(pool, WEIGHT_INT8, w, DTYPE_F32, N_OUT, N_IN, packed);
    ck_assert(plain > 0.002 && plain < 0.006); /* uniform: 1 / (254 / sqrt 3 · 2 / sqrt 12 …) */
    w[17 * N_IN + 5] = 100;                    /* the rest of this output shares 1 step of 127 */
    ck_assert(linear_pack(pool, WEIGHT_INT8, w, DTYPE_F32, N_OUT, N_IN, packed) > 0.02);
    w[17 * N_IN + 5] = NAN;
    ck_assert(linear_pack(pool, WEIGHT_INT8, w, DTYPE_F32, N_OUT, N_IN, packed) == 1);
    free(packed);
    floats_free(w);
}
END_TEST

START_TEST(forms_have_names_and_bounds)
{
    enum weight_form got;
    for (enum weight_form form = 0; form < N_WEIGHT_FORMS; form++) {
        ck_assert(weight_form_parse(weight_form_name(form), &got));
        ck_assert_int_eq(got, form);
    }
    ck_assert(!weight_form_parse("fp4", &got));
    ck_assert_uint_eq(linear_packed_bytes(WEIGHT_F32, 16, 64), 0);
    ck_assert_uint_eq(linear_packed_bytes(WEIGHT_BF16, 16, 32769), 0);
    ck_assert_uint_eq(linear_packed_bytes(WEIGHT_BF16, SIZE_MAX, 64), 0);
    ck_assert_uint_eq(linear_packed_bytes(WEIGHT_BF16, 17, 65), 2 * 16 * 128 * 2);
    ck_assert_uint_eq(linear_packed_bytes(WEIGHT_INT4, 16, 64), 16 * 64 / 2 + 2 * 16 * 2);
}
END_TEST

static Suite *suite_of_engine(void)
{
    Suite *suite = suite_create(nn_engine_name());
    TCase *tcase = tcase_create("packed");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, packed_products_match_plain_loop);
    tcase_add_test(tcase, engines_know_what_is_fast);
    tcase_add_test(tcase, packed_products_keep_what_is_no_number);
    tcase_add_test(tcase, packing_tells_what_int8_loses);
    tcase_add_test(tcase, forms_have_names_and_bounds);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    int n_failed = 0;
    for (enum nn_engine engine = NN_ENGINE_AMX; engine <= NN_ENGINE_PORTABLE; engine++) {
        if (!nn_engine_choose(engine)) {
            printf("engine %d: not on this chip, skipped\n", (int)engine);
            continue;
        }
        SRunner *runner = srunner_create(suite_of_engine());
        srunner_run_all(runner, CK_NORMAL);
        n_failed += srunner_ntests_failed(runner);
        srunner_free(runner);
    }
    return n_failed != 0;
}
