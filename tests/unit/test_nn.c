/*
 * test_nn.c: every operation of core/nn against a plain loop in double, over random shapes with 0,
 * 1 and odd sizes and unaligned pointers.
 */
#include <stdio.h>

#include "nn_reference.h"

/* ---- dtypes and activations ------------------------------------------------------------------ */

START_TEST(dtypes_convert_exactly)
{
    ck_assert_uint_eq(dtype_size(DTYPE_BF16), 2);
    ck_assert_str_eq(dtype_name(DTYPE_I64), "I64");
    for (int dtype = 0; dtype < N_DTYPES; dtype++)
        ck_assert(dtype_size(dtype) > 0 && strcmp(dtype_name(dtype), "?") != 0);
    unsigned char bytes[1 + 2 * 65536];
    static float values[65536];
    for (uint32_t i = 0; i < 65536; i++) {
        bytes[1 + 2 * i] = (unsigned char)(i & 255);
        bytes[2 + 2 * i] = (unsigned char)(i >> 8);
    }
    dtype_to_f32(bytes + 1, DTYPE_F16, 65536, values);
    for (uint32_t i = 0; i < 65536; i++) {
        int exponent = (int)(i >> 10 & 31);
        double fraction = i & 1023;
        double want = exponent == 31  ? (fraction > 0 ? NAN : INFINITY)
                      : exponent == 0 ? ldexp(fraction, -24)
                                      : ldexp(1024 + fraction, exponent - 25);
        if (i & 0x8000)
            want = -want;
        if (isnan(want))
            ck_assert(isnan(values[i]));
        else
            ck_assert_msg(values[i] == want && !signbit(values[i]) == !signbit(want),
                          "half %04x: %g, not %g", i, values[i], want);
    }
    dtype_to_f32(bytes + 1, DTYPE_BF16, 65536, values);
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        ck_assert(bits == i << 16 || isnan(values[i]));
    }
}
END_TEST

START_TEST(activations_have_their_config_names)
{
    static const struct {
        const char *name;
        enum activation want;
    } rows[] = {
        {"gelu", ACTIVATION_GELU},
        {"gelu_new", ACTIVATION_GELU_TANH},
        {"gelu_fast", ACTIVATION_GELU_TANH},
        {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"quick_gelu", ACTIVATION_QUICK_GELU},
        {"relu", ACTIVATION_RELU},
        {"silu", ACTIVATION_SILU},
        {"swish", ACTIVATION_SILU},
        {"tanh", ACTIVATION_TANH},
        {"sigmoid", ACTIVATION_SIGMOID},
    };
    enum activation got = N_ACTIVATIONS;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_msg(activation_parse(rows[i].name, &got), "%s", rows[i].name);
        ck_assert_msg(got == rows[i].want, "%s", rows[i].name);
    }
    ck_assert(!activation_parse("GELU", &got));
    ck_assert(!activation_parse("", &got));
    ck_assert(!activation_parse(NULL, &got));
}
END_TEST

/* 2e-6: a few units in the last place of f32, the error of a chain of three or four roundings. Near
 * zero results of large negative x the bound is absolute, 1e-7 of the activation's scale. */
START_TEST(activations_match_libm)
{
    enum { N = 40001 };
    float *x = floats_random(N, 1, 1), *y = floats_random(N, 2, 1);
    for (int i = 0; i < N; i++)
        x[i] = i < 20001 ? (float)(i - 10000) * 2e-3f : random_float(i % 2 ? 100.0f : 1e-3f);
    for (int activation = 0; activation < N_ACTIVATIONS; activation++) {
        memcpy(y, x, N * sizeof *y);
        nn_activate(&compute, activation, y, N);
        for (int i = 0; i < N; i++) {
            double want = activation_reference(activation, x[i]);
            ck_assert_msg(close_to(y[i], want, 2e-6, fabs(x[i]) < 1 ? 0 : 0.1),
                          "activation %d of %g: %.9g, not %.9g", activation, x[i], y[i], want);
        }
    }
    float extreme[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 0.0f};
    for (int activation = 0; activation < N_ACTIVATIONS; activation++) {
        float out[6];
        memcpy(out, extreme, sizeof out);
        nn_activate(&compute, activation, out, 6);
        ck_assert_msg(isnan(out[2]), "activation %d loses NaN", activation);
        ck_assert(!isnan(out[3]) && !isnan(out[4]));
        ck_assert(close_to(out[3], activation_reference(activation, 3e38), 1e-6, 0));
        ck_assert(close_to(out[4], activation_reference(activation, -3e38), 1e-6, 1e-6));
        ck_assert(close_to(out[5], activation_reference(activation, 0), 1e-6, 0));
    }
    floats_free(x);
    floats_free(y);
}
END_TEST

/* ---- linear ---------------------------------------------------------------------------------- */

/* 2e-6 · sum |x w|: f32 accumulation in blocks stays far below the worst case n · 2^-24. */
static void check_linear(size_t rows, size_t n_out, size_t n_in, enum dtype dtype, bool has_bias,
                         enum activation activation, int residual_kind)
{
    size_t offset = random_below(4);
    float *x = floats_random(rows * n_in, offset, 1), *w = floats_random(n_out * n_in, offset, 1);
    float *bias = floats_random(n_out, 1, 1), *residual = floats_random(rows * n_out, 3, 1);
    float *y = floats_random(rows * n_out, offset, 1);
    float *y_before = floats_random(rows * n_out, 0, 1);
    memcpy(y_before, y, rows * n_out * sizeof *y);
    unsigned char *stored = malloc(n_out * n_in * 4 + 1);
    ck_assert_ptr_nonnull(stored);
    for (size_t i = 0; i < n_out * n_in; i++) {
        uint32_t bits;
        memcpy(&bits, &w[i], sizeof bits);
        if (dtype == DTYPE_BF16) {
            uint16_t high = (uint16_t)(bits >> 16);
            memcpy(stored + 1 + 2 * i, &high, sizeof high);
            bits &= 0xFFFF0000;
            memcpy(&w[i], &bits, sizeof bits);
        } else {
            memcpy(stored + 1 + 4 * i, &bits, sizeof bits);
        }
    }
    const void *weight = dtype == DTYPE_F32 && offset != 1 ? (const void *)w : stored + 1;
    struct linear linear;
    ck_assert_int_eq(linear_init(&linear, weight, dtype, has_bias ? bias : NULL, n_out, n_in, &err),
                     STATUS_OK);
    const float *plus = residual_kind == 0 ? NULL : residual_kind == 1 ? residual : y;
    nn_linear(&compute, &linear, x, rows, activation, plus, y);
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < n_out; o++) {
            double sum = has_bias ? bias[o] : 0, scale = fabs(sum);
            for (size_t i = 0; i < n_in; i++) {
                double term = (double)x[r * n_in + i] * w[o * n_in + i];
                sum += term;
                scale += fabs(term);
            }
            double want = activation_reference(activation, sum);
            if (plus)
                want += residual_kind == 1 ? residual[r * n_out + o] : y_before[r * n_out + o];
            ck_assert_msg(close_to(y[r * n_out + o], want, 2e-6, scale + 1),
                          "%zu x %zu x %zu, row %zu, out %zu: %.9g, not %.9g", rows, n_out, n_in, r,
                          o, y[r * n_out + o], want);
        }
    }
    linear_release(&linear);
    floats_free(x);
    floats_free(w);
    floats_free(bias);
    floats_free(residual);
    floats_free(y);
    floats_free(y_before);
    free(stored);
}

START_TEST(linear_matches_plain_loop)
{
    static const size_t sizes[][3] = {
        {0, 5, 5},       {1, 1, 1},      {1, 1, 0},     {3, 0, 4},       {2, 3, 0},
        {1, 769, 768},   {2, 100, 33},   {3, 17, 65},   {5, 31, 7},      {7, 48, 512},
        {8, 129, 1000},  {16, 257, 130}, {17, 63, 47},  {50, 192, 100},  {64, 64, 64},
        {129, 300, 70},  {300, 33, 20},  {131, 257, 3}, {12, 1000, 513}, {1, 3000, 5},
        {70, 250, 3073}, {19, 7, 9001},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        check_linear(sizes[i][0], sizes[i][1], sizes[i][2], i % 3 == 2 ? DTYPE_BF16 : DTYPE_F32,
                     i % 4 != 3, (enum activation)(i % N_ACTIVATIONS), (int)(i % 3));
    for (int i = 0; i < 40; i++)
        check_linear(random_below(i % 2 ? 80 : 18), random_below(150), random_below(300),
                     random_below(4) ? DTYPE_F32 : DTYPE_BF16, random_below(2),
                     (enum activation)random_below(N_ACTIVATIONS), (int)random_below(3));
}
END_TEST

START_TEST(linear_refuses_integer_weights)
{
    int64_t weight[4] = {0};
    struct linear linear = {0};
    ck_assert_int_eq(linear_init(&linear, weight, DTYPE_I64, NULL, 2, 2, &err),
                     STATUS_BAD_CHECKPOINT);
    ck_assert_int_eq(linear_init(&linear, weight, DTYPE_F32, NULL, SIZE_MAX / 2, 3, &err),
                     STATUS_BAD_CHECKPOINT);
    linear_release(NULL);
    linear_release(&linear);
}
END_TEST

/* ---- norms ----------------------------------------------------------------------------------- */

START_TEST(norms_match_plain_loop)
{
    static const size_t dims[] = {1, 2, 3, 7, 16, 17, 63, 256, 769, 1000, 20000};
    for (size_t at = 0; at < 2 * sizeof dims / sizeof dims[0]; at++) {
        size_t dim = dims[at / 2], rows = dim > 5000 ? 3 : 1 + random_below(40);
        bool rms = at % 2;
        float *x = floats_random(rows * dim, random_below(4), 2),
              *y = floats_random(rows * dim, 1, 1);
        float *weight = floats_random(dim, 2, 1), *bias = floats_random(dim, 3, 1);
        for (size_t i = 0; i < rows * dim; i++)
            x[i] += 5; /* a mean that is large beside the deviation */
        struct norm norm = {weight, rms ? NULL : bias, dim, 1e-5f};
        (rms ? nn_rms_norm : nn_layer_norm)(&compute, &norm, x, rows, y);
        for (size_t r = 0; r < rows; r++) {
            double mean = 0, squares = 0;
            for (size_t d = 0; d < dim && !rms; d++)
                mean += x[r * dim + d] / (double)dim;
            for (size_t d = 0; d < dim; d++)
                squares += (x[r * dim + d] - mean) * (x[r * dim + d] - mean) / (double)dim;
            for (size_t d = 0; d < dim; d++) {
                double want = (x[r * dim + d] - mean) / sqrt(squares + norm.eps) * weight[d];
                want += rms ? 0 : bias[d];
                /* the mean's own rounding counts as much as it exceeds the deviation */
                double scale = 1 + 0.1 * fabs(mean) / sqrt(squares + norm.eps);
                ck_assert_msg(close_to(y[r * dim + d], want, 1e-5, scale), "dim %zu: %g, not %g",
                              dim, y[r * dim + d], want);
            }
        }
        if (!rms) { /* as bf16 they are the same, rounded */
            uint16_t *narrow = malloc(rows * dim * sizeof *narrow);
            ck_assert_ptr_nonnull(narrow);
            nn_layer_norm_rows(&compute, &norm, x, rows, (struct nn_rows){narrow, DTYPE_BF16});
            float *copy = floats_random(rows * dim, 0, 1);
            memcpy(copy, y, rows * dim * sizeof *copy);
            uint16_t *wanted = floats_to_bf16(copy, rows * dim);
            ck_assert_mem_eq(narrow, wanted, rows * dim * sizeof *narrow);
            floats_free(copy);
            free(wanted);
            free(narrow);
        }
        /* in place gives the same bits */
        (rms ? nn_rms_norm : nn_layer_norm)(&compute, &norm, x, rows, x);
        ck_assert_mem_eq(x, y, rows * dim * sizeof *x);
        floats_free(x);
        floats_free(y);
        floats_free(weight);
        floats_free(bias);
    }
}
END_TEST

START_TEST(rows_add_normalise_and_softmax)
{
    for (size_t n = 0; n < 70; n += n < 20 ? 1 : 13) {
        size_t rows = 1 + random_below(5);
        float *x = floats_random(rows * n, random_below(4), 10), *y = floats_random(rows * n, 1, 1);
        memcpy(y, x, rows * n * sizeof *x);
        nn_add(&compute, y, x, rows * n);
        for (size_t i = 0; i < rows * n; i++)
            ck_assert(y[i] == 2 * x[i]);
        nn_l2_normalize_rows(y, rows, n);
        for (size_t r = 0; r < rows && n; r++) {
            double squares = 0;
            for (size_t i = 0; i < n; i++)
                squares += (double)x[r * n + i] * x[r * n + i];
            for (size_t i = 0; i < n; i++)
                ck_assert(close_to(y[r * n + i], x[r * n + i] / sqrt(squares), 1e-6, 1e-6));
        }
        memcpy(y, x, rows * n * sizeof *x);
        nn_softmax_rows(y, rows, n);
        for (size_t r = 0; r < rows && n; r++) {
            double sum = 0;
            float max = -INFINITY;
            for (size_t i = 0; i < n; i++)
                max = fmaxf(max, x[r * n + i]);
            for (size_t i = 0; i < n; i++)
                sum += exp((double)x[r * n + i] - max);
            for (size_t i = 0; i < n; i++)
                ck_assert(
                    close_to(y[r * n + i], exp((double)x[r * n + i] - max) / sum, 3e-6, 1e-20));
        }
        floats_free(x);
        floats_free(y);
    }
    float masked[4] = {-INFINITY, 1, -INFINITY, 1}, nothing[2] = {-INFINITY, -INFINITY};
    nn_softmax_rows(masked, 1, 4);
    ck_assert(masked[0] == 0 && masked[1] == 0.5f && masked[2] == 0 && masked[3] == 0.5f);
    nn_softmax_rows(nothing, 1, 2);
    ck_assert(nothing[0] == 0 && nothing[1] == 0);
    float zero[3] = {0};
    nn_l2_normalize_rows(zero, 1, 3);
    ck_assert(zero[0] == 0);
}
END_TEST

/* ---- attention ------------------------------------------------------------------------------- */

static void attention_reference(const struct attention_shape *shape,
                                const struct attention_item *item, size_t head, size_t i,
                                double *out)
{
    size_t dim = shape->head_dim, kv_head = head / (shape->n_heads / shape->n_kv_heads);
    double max = -INFINITY, sum = 0;
    double *scores = malloc((item->n_kv + 1) * sizeof *scores);
    ck_assert_ptr_nonnull(scores);
    for (size_t j = 0; j < item->n_kv; j++) {
        double dot = 0;
        for (size_t d = 0; d < dim; d++)
            dot += (double)((const float *)item->q)[i * item->q_stride + head * dim + d] *
                   ((const float *)item->k)[j * item->kv_stride + kv_head * dim + d];
        scores[j] = dot * shape->scale;
        if (shape->cap > 0)
            scores[j] = shape->cap * tanh(scores[j] / shape->cap);
        scores[j] += item->key_bias ? item->key_bias[j] : 0;
        if (shape->causal && j + item->n_q > item->n_kv + i)
            scores[j] = -INFINITY;
        max = fmax(max, scores[j]);
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t j = 0; j < item->n_kv && max > -INFINITY; j++) {
        double weight = exp(scores[j] - max);
        sum += weight;
        for (size_t d = 0; d < dim; d++)
            out[d] += weight * ((const float *)item->v)[j * item->kv_stride + kv_head * dim + d];
    }
    for (size_t d = 0; d < dim; d++)
        out[d] = sum > 0 ? out[d] / sum : 0;
    free(scores);
}

/* Keeps rows as nn_keep_heads() does, and makes them what bf16 holds if that is what it keeps. */
static void *keep(const struct attention_shape *shape, const void *rows, size_t n, enum dtype dtype)
{
    size_t n_heads = shape->n_kv_heads, dim = shape->head_dim;
    char *kept = malloc((n * n_heads * dim + 1) * dtype_size(dtype));
    ck_assert_ptr_nonnull(kept);
    nn_keep_heads(&compute, rows, n, n_heads, dim, dtype, kept);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < n_heads * dim; i++) {
            size_t at = (i / dim * n + j) * dim + i % dim;
            float before = ((const float *)rows)[j * n_heads * dim + i], now;
            dtype_to_f32(kept + at * dtype_size(dtype), dtype, 1, &now);
            ck_assert(fabsf(now - before) <= (dtype == DTYPE_F32 ? 0 : fabsf(before) / 256));
            ((float *)rows)[j * n_heads * dim + i] = now;
        }
    return kept;
}

static void check_attention(const struct attention_shape *shape, size_t n_items, size_t n_q_max,
                            size_t n_kv_max, bool exact, double tolerance)
{
    struct attention_item items[8];
    size_t width = shape->n_heads * shape->head_dim, kv_width = shape->n_kv_heads * shape->head_dim;
    bool is_kept = random_below(2) == 0;
    bool is_narrow = shape->head_dim <= ATTENTION_BF16_DIM && random_below(2) == 0;
    enum dtype dtype = is_narrow ? DTYPE_BF16 : DTYPE_F32;
    for (size_t at = 0; at < n_items; at++) {
        struct attention_item *item = &items[at];
        *item = (struct attention_item){
            .n_q = exact ? n_q_max : random_below(n_q_max + 1),
            .n_kv = exact ? n_kv_max : random_below(n_kv_max + 1),
            .q_stride = width + random_below(20),
            .kv_stride = kv_width + (is_kept ? 0 : random_below(20)),
            .out_stride = width + random_below(3),
        };
        item->q = floats_random(item->n_q * item->q_stride, random_below(4), 2);
        item->k = floats_random(item->n_kv * item->kv_stride, random_below(4), 2);
        item->v = floats_random(item->n_kv * item->kv_stride, random_below(4), 2);
        item->out = floats_random(item->n_q * item->out_stride, random_below(4), 2);
        if (random_below(2)) {
            float *bias = floats_random(item->n_kv, 1, 1);
            for (size_t j = 0; j < item->n_kv; j++)
                if (random_below(3) == 0)
                    bias[j] = -INFINITY;
            item->key_bias = bias;
        }
    }
    struct attention_item given[8];
    memcpy(given, items, n_items * sizeof *given);
    for (size_t at = 0; at < n_items && is_kept; at++) {
        given[at].k = keep(shape, items[at].k, items[at].n_kv, dtype);
        given[at].v = keep(shape, items[at].v, items[at].n_kv, dtype);
        given[at].kv_dtype = dtype;
        given[at].kv_stride = shape->head_dim;
        given[at].kv_head_stride = items[at].n_kv * shape->head_dim;
    }
    bool is_q_narrow = shape->head_dim <= ATTENTION_BF16_DIM && random_below(2) == 0;
    for (size_t at = 0; at < n_items; at++) {
        struct attention_item *item = &given[at];
        if (is_q_narrow) {
            item->q = floats_to_bf16((float *)item->q, item->n_q * item->q_stride);
            item->q_dtype = DTYPE_BF16;
        }
        if (is_narrow && !is_kept) {
            item->k = floats_to_bf16((float *)item->k, item->n_kv * item->kv_stride);
            item->v = floats_to_bf16((float *)item->v, item->n_kv * item->kv_stride);
            item->kv_dtype = DTYPE_BF16;
        }
    }
    ck_assert_int_eq(nn_attention(&compute, shape, given, n_items, &err), STATUS_OK);
    for (size_t at = 0; at < n_items; at++) {
        if (is_kept || is_narrow) {
            free((void *)given[at].k);
            free((void *)given[at].v);
        }
        if (is_q_narrow)
            free((void *)given[at].q);
    }
    double *want = malloc((shape->head_dim + 1) * sizeof *want), squares = 0, n_all = 0;
    ck_assert_ptr_nonnull(want);
    for (size_t at = 0; at < n_items; at++) {
        struct attention_item *item = &items[at];
        for (size_t i = 0; i < item->n_q; i++) {
            for (size_t head = 0; head < shape->n_heads; head++) {
                attention_reference(shape, item, head, i, want);
                const float *got = item->out + i * item->out_stride + head * shape->head_dim;
                for (size_t d = 0; d < shape->head_dim; d++, n_all++) {
                    squares += (got[d] - want[d]) * (got[d] - want[d]);
                    ck_assert_msg(close_to(got[d], want[d], tolerance, 1),
                                  "query %zu of %zu, %zu keys, head %zu: %g, not %g", i, item->n_q,
                                  item->n_kv, head, got[d], want[d]);
                }
            }
        }
        floats_free((float *)item->q);
        floats_free((float *)item->k);
        floats_free((float *)item->v);
        floats_free(item->out);
        if (item->key_bias)
            floats_free((float *)item->key_bias);
    }
    free(want);
    ck_assert_double_le(sqrt(squares), tolerance / 8 * sqrt(n_all)); /* most are far nearer */
}

START_TEST(attention_matches_plain_loop)
{
    for (int i = 0; i < 60; i++) {
        size_t n_kv_heads = 1 + random_below(4), dim = i % 3 ? 1 + random_below(80) : 64;
        struct attention_shape shape = {n_kv_heads * (1 + random_below(3)), n_kv_heads, dim,
                                        1 / sqrtf((float)dim), random_below(2)};
        shape.cap = i % 4 == 1 ? 0.5f + (float)random_below(3) : 0;
        check_attention(&shape, random_below(4), i % 2 ? 5 : 90, i % 5 ? 100 : 700, false, 1e-5);
    }
}
END_TEST

START_TEST(attention_takes_edges)
{
    struct attention_shape shape = {3, 3, 17, 0.25f, false}, causal = shape;
    causal.causal = true;
    static const size_t sizes[][2] = {{0, 5},   {5, 0},    {1, 1}, {1, 600},
                                      {2, 513}, {65, 257}, {9, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        shape.cap = causal.cap = i % 2 ? 1.0f : 0;
        check_attention(&shape, 2, sizes[i][0], sizes[i][1], true, 1e-5);
        check_attention(&causal, 2, sizes[i][0], sizes[i][1], true, 1e-5);
    }
    struct attention_shape wrong = {4, 3, 8, 1, false};
    ck_assert_int_eq(nn_attention(&compute, &wrong, NULL, 0, &err), STATUS_BAD_CHECKPOINT);
}
END_TEST

/* In forms narrower than f32 queries, keys, values and weights are rounded to bf16 where the chip
 * has tiles: each by up to 2^-9 of itself, values up to 2 here. With other engines the bound is
 * loose. */
START_TEST(attention_in_bf16_stays_near)
{
    for (int i = 0; i < 60; i++) {
        size_t n_kv_heads = 1 + random_below(3), dim = i % 3 ? 1 + random_below(130) : 64;
        struct attention_shape shape = {n_kv_heads * (1 + random_below(3)),
                                        n_kv_heads,
                                        dim,
                                        1 / sqrtf((float)dim),
                                        random_below(2),
                                        WEIGHT_BF16,
                                        i % 3 == 1 ? 0.5f + (float)random_below(3) : 0};
        check_attention(&shape, random_below(3), i % 4 ? 70 : 700, i % 5 ? 100 : 700, false, 3e-2);
    }
    static const size_t sizes[][2] = {{16, 0},   {16, 1},   {17, 31},  {32, 192},
                                      {33, 193}, {48, 64},  {320, 65}, {321, 32},
                                      {64, 384}, {65, 385}, {90, 40}};
    static const size_t dims[] = {1, 16, 31, 32, 33, 64, 80, 256, 257};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int causal = 0; causal < 2; causal++) {
            size_t dim = dims[random_below(sizeof dims / sizeof dims[0])];
            struct attention_shape shape = {2, 1, dim, 1 / sqrtf((float)dim), causal, WEIGHT_INT8};
            check_attention(&shape, 2, sizes[i][0], sizes[i][1], true, 3e-2);
        }
}
END_TEST

/* What is no number stays in its own query. */
START_TEST(attention_in_bf16_keeps_what_is_no_number)
{
    enum { N = 70, DIM = 40 };
    struct attention_shape shape = {1, 1, DIM, 0.2f, false, WEIGHT_BF16};
    float *q = floats_random(N * DIM, 1, 1), *k = floats_random(N * DIM, 2, 1);
    float *v = floats_random(N * DIM, 3, 1), *out = floats_random(N * DIM, 0, 1);
    q[37 * DIM + 5] = NAN;
    struct attention_item item = {q, N, DIM, k, v, N, DIM, out, DIM, NULL};
    ck_assert_int_eq(nn_attention(&compute, &shape, &item, 1, &err), STATUS_OK);
    for (size_t i = 0; i < N * DIM; i++)
        ck_assert_msg(i / DIM == 37 ? isnan(out[i]) : isfinite(out[i]), "%zu: %g", i, out[i]);
    floats_free(q);
    floats_free(k);
    floats_free(v);
    floats_free(out);
}
END_TEST

/* Scores far apart and far from zero: the running maximum must keep exp() in range. A score
 * of 1000 is only known to 1e-4, which is the tolerance's size. */
START_TEST(attention_survives_large_scores)
{
    struct attention_shape shape = {1, 1, 8, 40.0f, false};
    check_attention(&shape, 3, 70, 600, true, 5e-4);
    check_attention(&shape, 3, 1, 600, true, 5e-4);
    shape.form = WEIGHT_BF16; /* whichever key wins, results are means of values */
    shape.scale = 1;
    check_attention(&shape, 3, 70, 600, true, 4e-2);
}
END_TEST

/* ---- pictures -------------------------------------------------------------------------------- */

START_TEST(patches_follow_convolution_order)
{
    static const size_t sizes[][4] = {{3, 32, 48, 16}, {3, 33, 35, 8}, {1, 5, 5, 5},
                                      {2, 7, 9, 2},    {3, 4, 4, 5},   {3, 6, 6, 1}};
    for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
        size_t channels = sizes[at][0], height = sizes[at][1], width = sizes[at][2];
        size_t patch = sizes[at][3], rows = height / patch, columns = width / patch;
        const float *pictures[3];
        for (int i = 0; i < 3; i++)
            pictures[i] = floats_random(channels * height * width, 1, 1);
        size_t dim = channels * patch * patch;
        float *out = floats_random(3 * rows * columns * dim, 1, 1);
        nn_patches(&compute, pictures, 3, channels, height, width, patch, out);
        for (size_t n = 0; n < 3; n++)
            for (size_t row = 0; row < rows; row++)
                for (size_t column = 0; column < columns; column++)
                    for (size_t i = 0; i < dim; i++) {
                        size_t channel = i / (patch * patch), y = i / patch % patch, x = i % patch;
                        ck_assert(out[((n * rows + row) * columns + column) * dim + i] ==
                                  pictures[n][(channel * height + row * patch + y) * width +
                                              column * patch + x]);
                    }
        for (int i = 0; i < 3; i++)
            floats_free((float *)pictures[i]);
        floats_free(out);
    }
}
END_TEST

START_TEST(engines_have_names)
{
    static const char *const names[] = {"auto",   "amx",  "avx512bf16", "avx512vnni",
                                        "avx512", "avx2", "portable",   "openblas"};
    enum nn_engine engine;
    for (size_t i = 0; i < N_NN_ENGINES; i++) {
        ck_assert(nn_engine_parse(names[i], &engine));
        ck_assert_uint_eq(engine, i);
    }
    ck_assert(!nn_engine_parse("mkl", &engine));
    ck_assert(!nn_engine_parse(NULL, &engine));
    ck_assert(!nn_engine_choose(N_NN_ENGINES));
    ck_assert_str_ne(nn_engine_name(), "auto");
}
END_TEST

static Suite *suite_of_engine(enum nn_engine engine)
{
    Suite *suite = suite_create(engine == NN_ENGINE_AUTO ? "nn (auto)" : nn_engine_name());
    TCase *tcase = tcase_create("nn");
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, dtypes_convert_exactly);
    tcase_add_test(tcase, activations_have_their_config_names);
    tcase_add_test(tcase, activations_match_libm);
    tcase_add_test(tcase, linear_matches_plain_loop);
    tcase_add_test(tcase, linear_refuses_integer_weights);
    tcase_add_test(tcase, norms_match_plain_loop);
    tcase_add_test(tcase, rows_add_normalise_and_softmax);
    tcase_add_test(tcase, attention_matches_plain_loop);
    tcase_add_test(tcase, attention_takes_edges);
    tcase_add_test(tcase, attention_in_bf16_stays_near);
    tcase_add_test(tcase, attention_in_bf16_keeps_what_is_no_number);
    tcase_add_test(tcase, attention_survives_large_scores);
    tcase_add_test(tcase, patches_follow_convolution_order);
    tcase_add_test(tcase, engines_have_names);
    suite_add_tcase(suite, tcase);
    return suite;
}

/* Everything once with each engine that this chip has. */
int main(void)
{
    int failed = 0;
    for (enum nn_engine engine = 0; engine < N_NN_ENGINES; engine++) {
        if (engine == NN_ENGINE_AVX512BF16 || engine == NN_ENGINE_AVX512VNNI)
            continue; /* differ from avx512 in packed products alone: test_nn_packed.c */
        if (!nn_engine_choose(engine)) {
            printf("skipped: engine %d, which this chip lacks\n", (int)engine);
            continue;
        }
        SRunner *runner = srunner_create(suite_of_engine(engine));
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        failed += srunner_ntests_failed(runner);
        srunner_free(runner);
    }
    return failed ? 1 : 0;
}
