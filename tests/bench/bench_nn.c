/*
 * bench_nn.c: how fast core/nn is: products, attention, row operations, and the layers of a CLIP
 * ViT-B/32 image tower with random weights.
 *
 *     bench_nn [ENGINE] [N_THREADS] [SECTION] [FORM] [BATCH]
 *
 * ENGINE as nn_engine_parse() takes it (default auto), N_THREADS 0 for all, SECTION one of
 * products, few, attention, rows, vit (default, or "all": all), FORM the weights': f32, bf16,
 * int8 or int4, BATCH the one batch (1, 8, 32) that vit takes. Times are the best of several runs,
 * so that what else the machine does counts little. With BENCH_CLOCK=cpu in the environment they
 * are CPU time divided by the number of threads: for comparing kernels on a busy machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/nn/nn.h"

static struct compute compute;

static bool cpu_clock;
static size_t batch_only; /* 0: all */
static enum weight_form form;

/* A layer over [n_out, n_in] floats in the form asked for; what is packed stays until the end. */
static void layer_init(struct linear *linear, const float *weight, const float *bias, size_t n_out,
                       size_t n_in)
{
    struct error err;
    size_t size = linear_packed_bytes(form, n_out, n_in);
    void *packed = size ? aligned_alloc(64, size) : NULL;
    if (!packed) {
        linear_init(linear, weight, DTYPE_F32, bias, n_out, n_in, &err);
        return;
    }
    linear_pack(compute.pool, form, weight, DTYPE_F32, n_out, n_in, packed);
    linear_init_packed(linear, form, packed, bias, n_out, n_in);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    double seconds = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    return cpu_clock ? seconds / (double)pool_threads(compute.pool) : seconds;
}

static float *random_floats(size_t n)
{
    static unsigned state = 1;
    float *floats = aligned_alloc(64, (n * sizeof *floats + 63) / 64 * 64);
    if (!floats) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        floats[i] = ((float)(state >> 8) * 0x1p-23f - 1.0f) * 0.05f;
    }
    return floats;
}

/* Seconds of the fastest call, of at least three and as many as fit into the budget. */
static double best_of(void (*run)(void *), void *context, double budget_s)
{
    double best = 1e9, start = now();
    for (int i = 0; i < 4 || now() - start < budget_s; i++) {
        double from = now();
        run(context);
        double time = now() - from;
        if (i > 0 && time < best)
            best = time;
    }
    return best;
}

/* ---- products -------------------------------------------------------------------------------- */

struct product {
    struct linear *linears;
    size_t n_linears, next; /* several, where each call shall find its weights outside the caches */
    const float *x;
    float *y;
    size_t n_rows;
};

static void run_product(void *context)
{
    struct product *product = context;
    nn_linear(&compute, &product->linears[product->next++ % product->n_linears], product->x,
              product->n_rows, ACTIVATION_NONE, NULL, product->y);
}

static double time_product(size_t n_rows, size_t n_out, size_t n_in, size_t weight_bytes,
                           double budget_s)
{
    size_t each = form ? linear_packed_bytes(form, n_out, n_in) : n_out * n_in * sizeof(float);
    size_t n = weight_bytes > each ? weight_bytes / each : 1;
    struct linear *linears = calloc(n, sizeof *linears);
    float *weight = random_floats((form ? 1 : n) * n_out * n_in), *bias = random_floats(n_out);
    for (size_t i = 0; i < n; i++)
        layer_init(&linears[i], weight + (form ? 0 : i * n_out * n_in), bias, n_out, n_in);
    struct product product = {
        linears, n, 0, random_floats(n_rows * n_in), random_floats(n_rows * n_out), n_rows};
    double time = best_of(run_product, &product, budget_s);
    free((float *)product.x);
    free(product.y);
    for (size_t i = 0; i < n; i++)
        free((void *)linears[i].packed);
    free(weight);
    free(bias);
    free(linears);
    return time;
}

static void bench_products(void)
{
    static const size_t rows[] = {50, 400, 1600, 577};
    static const size_t weights[][2] = {{768, 768},  {2304, 768}, {3072, 768},
                                        {768, 3072}, {512, 768},  {2048, 11008}};
    printf("products, GFLOP/s (weights of the last call still in the caches)\n  %8s", "rows");
    for (size_t w = 0; w < 6; w++)
        printf(" %5zu<-%-5zu", weights[w][0], weights[w][1]);
    printf("\n");
    for (size_t r = 0; r < 4; r++) {
        printf("  %8zu", rows[r]);
        for (size_t w = 0; w < 6; w++) {
            size_t n_out = weights[w][0], n_in = weights[w][1];
            double time = time_product(rows[r], n_out, n_in, 0, 0.15);
            printf("  %11.1f", 2e-9 * (double)(rows[r] * n_out * n_in) / time);
            fflush(stdout);
        }
        printf("\n");
    }
}

static void bench_few(void)
{
    printf("few rows against 256 MB of weights [3072, 768], GB/s of weights read\n");
    for (size_t rows = 1; rows <= 32; rows = rows < 4    ? rows + 1
                                             : rows < 16 ? rows + 4
                                                         : rows * 2) {
        double time = time_product(rows, 3072, 768, (size_t)256 << 20, 0.2);
        printf("  %8zu  %6.1f GB/s  %6.1f GFLOP/s\n", rows,
               1e-9 * (double)(form ? linear_packed_bytes(form, 3072, 768) : 3072 * 768 * 4) / time,
               2e-9 * (double)rows * 3072 * 768 / time);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

struct attention {
    struct attention_shape shape;
    struct attention_item items[32];
    size_t n_items;
};

static void run_attention(void *context)
{
    struct attention *attention = context;
    struct error err;
    nn_attention(&compute, &attention->shape, attention->items, attention->n_items, &err);
}

static void bench_attention(void)
{
    static const struct {
        const char *what;
        size_t n_items, n_q, n_kv, n_heads, n_kv_heads, dim;
    } rows[] = {
        {"ViT-B/32", 1, 50, 50, 12, 12, 64},
        {"ViT-B/32, batch 32", 32, 50, 50, 12, 12, 64},
        {"ViT-B/16 at 384", 1, 577, 577, 12, 12, 64},
        {"ViT-B/16 at 384, batch 4", 4, 577, 577, 12, 12, 64},
        {"decode, 600 keys", 1, 1, 600, 12, 12, 64},
        {"decode, 600 keys, batch 16", 16, 1, 600, 12, 12, 64},
        {"decode, 2000 keys, 16/2 heads", 1, 1, 2000, 16, 2, 128},
    };
    printf("attention\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct attention run = {
            .shape = {rows[i].n_heads, rows[i].n_kv_heads, rows[i].dim, 0.125f, false, form},
            .n_items = rows[i].n_items};
        size_t width = rows[i].n_heads * rows[i].dim, kv_width = rows[i].n_kv_heads * rows[i].dim;
        float *q = random_floats(32 * rows[i].n_q * width),
              *k = random_floats(32 * rows[i].n_kv * kv_width);
        float *v = random_floats(32 * rows[i].n_kv * kv_width),
              *out = random_floats(32 * rows[i].n_q * width);
        for (size_t at = 0; at < rows[i].n_items; at++)
            run.items[at] = (struct attention_item){q + at * rows[i].n_q * width,
                                                    rows[i].n_q,
                                                    width,
                                                    k + at * rows[i].n_kv * kv_width,
                                                    v + at * rows[i].n_kv * kv_width,
                                                    rows[i].n_kv,
                                                    kv_width,
                                                    out + at * rows[i].n_q * width,
                                                    width,
                                                    NULL};
        double time = best_of(run_attention, &run, 0.15);
        double flop = 4.0 * (double)(rows[i].n_items * rows[i].n_q * rows[i].n_kv * width);
        printf("  %-30s  %9.1f us  %6.1f GFLOP/s\n", rows[i].what, time * 1e6, flop / time * 1e-9);
        free(q);
        free(k);
        free(v);
        free(out);
    }
}

/* ---- row operations -------------------------------------------------------------------------- */

struct rows {
    float *x, *again; /* activations start from the same values each time */
    struct norm norm;
    enum activation activation;
};

enum { N_ROWS = 400, DIM = 768 };

static void run_layer_norm(void *context)
{
    struct rows *rows = context;
    nn_layer_norm(&compute, &rows->norm, rows->x, N_ROWS, rows->x);
}

static void run_softmax(void *context)
{
    struct rows *rows = context;
    nn_softmax_rows(rows->x, N_ROWS, DIM);
}

static void run_activation(void *context)
{
    struct rows *rows = context;
    memcpy(rows->x, rows->again, (size_t)N_ROWS * DIM * sizeof *rows->x);
    nn_activate(&compute, rows->activation, rows->x, (size_t)N_ROWS * DIM);
}

static void bench_rows(void)
{
    static const char *const names[] = {"gelu", "gelu_new", "quick_gelu",
                                        "silu", "tanh",     "sigmoid"};
    struct rows rows = {random_floats(N_ROWS * DIM),
                        random_floats(N_ROWS * DIM),
                        {random_floats(DIM), random_floats(DIM), DIM, 1e-5f},
                        ACTIVATION_NONE};
    double n = (double)N_ROWS * DIM * 1e-9;
    printf("row operations, %d x %d, 10^9 elements/s\n", N_ROWS, DIM);
    printf("  %-12s %6.2f\n", "layer_norm", n / best_of(run_layer_norm, &rows, 0.1));
    printf("  %-12s %6.2f  (on one thread)\n", "softmax", n / best_of(run_softmax, &rows, 0.1));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        activation_parse(names[i], &rows.activation);
        printf("  %-12s %6.2f\n", names[i], n / best_of(run_activation, &rows, 0.1));
    }
    free(rows.x);
    free(rows.again);
    free((float *)rows.norm.weight);
    free((float *)rows.norm.bias);
}

/* ---- the layers of ViT-B/32 ------------------------------------------------------------------ */

enum { N_LAYERS = 12, WIDTH = 768, HIDDEN = 3072, N_HEADS = 12, PATCH_IN = 3072, TOKENS = 50 };

struct vit {
    struct linear patch, qkv[N_LAYERS], out[N_LAYERS], fc1[N_LAYERS], fc2[N_LAYERS];
    struct norm norm;
    size_t batch;
    const float *pictures[32];
    float *x, *y, *wide, *patches; /* y and wide: of bf16 where that is enough */
    double products_s, attention_s, rows_s;
};

static void vit_linear(struct linear *linear, size_t n_out, size_t n_in)
{
    layer_init(linear, random_floats(n_out * n_in), random_floats(n_out), n_out, n_in);
}

static void vit_pass(void *context)
{
    struct vit *vit = context;
    size_t n = vit->batch * TOKENS;
    struct attention_shape shape = {N_HEADS, N_HEADS, WIDTH / N_HEADS, 0.125f, false, form};
    struct attention_item items[32];
    struct error err;
    double t0 = now(), t1;
#define SPENT(what) (t1 = now(), vit->what += t1 - t0, t0 = t1)
    nn_patches(&compute, vit->pictures, vit->batch, 3, 224, 224, 32, vit->patches);
    SPENT(rows_s);
    nn_linear(&compute, &vit->patch, vit->patches, vit->batch * 49, ACTIVATION_NONE, NULL, vit->x);
    SPENT(products_s);
    enum dtype dtype = nn_linear_dtype(&vit->fc2[0]), q_dtype = nn_attention_dtype(&shape, TOKENS);
    struct nn_rows x = {vit->x, DTYPE_F32}, attended = {vit->y, DTYPE_F32},
                   normed = {vit->y, dtype}, inner = {vit->wide, dtype}, qkv = {vit->wide, q_dtype};
    char *q = qkv.data;
    size_t each = dtype_size(q_dtype);
    for (size_t i = 0; i < vit->batch; i++, q += TOKENS * 3 * WIDTH * each)
        items[i] = (struct attention_item){
            .q = q,
            .n_q = TOKENS,
            .q_stride = 3 * WIDTH,
            .k = q + WIDTH * each,
            .v = q + 2 * WIDTH * each,
            .n_kv = TOKENS,
            .kv_stride = 3 * WIDTH,
            .out = vit->y + i * TOKENS * WIDTH,
            .out_stride = WIDTH,
            .q_dtype = q_dtype,
            .kv_dtype = q_dtype,
        };
    for (size_t layer = 0; layer < N_LAYERS; layer++) {
        nn_layer_norm_rows(&compute, &vit->norm, vit->x, n, normed);
        SPENT(rows_s);
        nn_linear_rows(&compute, &vit->qkv[layer], normed, n, ACTIVATION_NONE, NULL, qkv);
        SPENT(products_s);
        nn_attention(&compute, &shape, items, vit->batch, &err);
        SPENT(attention_s);
        nn_linear_rows(&compute, &vit->out[layer], attended, n, ACTIVATION_NONE, vit->x, x);
        SPENT(products_s);
        nn_layer_norm_rows(&compute, &vit->norm, vit->x, n, normed);
        SPENT(rows_s);
        nn_linear_rows(&compute, &vit->fc1[layer], normed, n, ACTIVATION_QUICK_GELU, NULL, inner);
        nn_linear_rows(&compute, &vit->fc2[layer], inner, n, ACTIVATION_NONE, vit->x, x);
        SPENT(products_s);
    }
}

static void bench_vit(void)
{
    static struct vit vit;
    vit_linear(&vit.patch, WIDTH, PATCH_IN);
    for (size_t i = 0; i < N_LAYERS; i++) {
        vit_linear(&vit.qkv[i], 3 * WIDTH, WIDTH);
        vit_linear(&vit.out[i], WIDTH, WIDTH);
        vit_linear(&vit.fc1[i], HIDDEN, WIDTH);
        vit_linear(&vit.fc2[i], WIDTH, HIDDEN);
    }
    vit.norm = (struct norm){random_floats(WIDTH), random_floats(WIDTH), WIDTH, 1e-5f};
    vit.x = random_floats(32 * TOKENS * WIDTH);
    vit.y = random_floats(32 * TOKENS * WIDTH);
    vit.wide = random_floats(32 * TOKENS * HIDDEN);
    vit.patches = random_floats(32 * 49 * PATCH_IN);
    for (size_t i = 0; i < 32; i++)
        vit.pictures[i] = random_floats(3 * 224 * 224);
    printf("ViT-B/32 image tower\n");
    for (vit.batch = 1; vit.batch <= 32; vit.batch = vit.batch == 1 ? 8 : vit.batch * 4) {
        if (batch_only && vit.batch != batch_only)
            continue;
        vit.products_s = vit.attention_s = vit.rows_s = 0;
        double time = best_of(vit_pass, &vit, vit.batch > 8 ? 3 : 1);
        double all = vit.products_s + vit.attention_s + vit.rows_s;
        printf(
            "  batch %2zu  %6.1f pictures/s  (products %.1f %%, attention %.1f %%, rest %.1f %%)\n",
            vit.batch, (double)vit.batch / time, 100 * vit.products_s / all,
            100 * vit.attention_s / all, 100 * vit.rows_s / all);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct error err;
    enum nn_engine engine = NN_ENGINE_AUTO;
    if (argc > 1 && (!nn_engine_parse(argv[1], &engine) || !nn_engine_choose(engine))) {
        fprintf(stderr, "no engine '%s' on this chip\n", argv[1]);
        return 2;
    }
    struct arena arena;
    arena_init(&arena, 0);
    compute.pool = pool_new(argc > 2 ? (size_t)atoi(argv[2]) : 0, &err);
    compute.scratch = &arena;
    if (!compute.pool) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const char *clock_name = getenv("BENCH_CLOCK");
    cpu_clock = clock_name && strcmp(clock_name, "cpu") == 0;
    static const struct {
        const char *name;
        void (*run)(void);
    } sections[] = {{"products", bench_products},
                    {"few", bench_few},
                    {"attention", bench_attention},
                    {"rows", bench_rows},
                    {"vit", bench_vit}};
    if (argc > 4 && !weight_form_parse(argv[4], &form)) {
        fprintf(stderr, "no form '%s': f32, bf16, int8 or int4\n", argv[4]);
        return 2;
    }
    batch_only = argc > 5 ? (size_t)atoi(argv[5]) : 0;
    printf("engine %s, weights %s, %zu threads\n", nn_engine_name(), weight_form_name(form),
           pool_threads(compute.pool));
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
        if (argc < 4 || strcmp(argv[3], "all") == 0 || strcmp(argv[3], sections[i].name) == 0)
            sections[i].run();
    pool_free(compute.pool);
    arena_release(&arena);
    return 0;
}
