/*
 * bench_onednn.c: our matrix products beside oneDNN's, the same shapes in the same run.
 *
 *     bench_onednn [SECONDS]
 *
 * y[M, N] = x[M, K] · weightᵀ + bias, in f32, bf16 and int8, with all threads that the process may
 * use; SECONDS (0.1) for each figure, the two in turn, the fastest call counts. oneDNN has its
 * weights in the layout that it asks for (format `any`), x in the product's own type (bf16; u8
 * without zero points) and writes f32; a scale per output in int8. Ours take x as f32, as layers
 * hand it on, so that rounding it is in their time. One row meets weights that lie outside the
 * caches: 256 MB of them, one layer after another.
 *
 * Built where oneDNN's C interface of 2.x is (Debian's libdnnl-dev; -Donednn=disabled leaves it
 * out). Nothing else links that library.
 */
#include <math.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/nn/nn.h"

enum { COPIES_MAX = 128, FEW_BYTES = 256 << 20 };
static struct compute compute;
static dnnl_engine_t engine;
static dnnl_stream_t stream;
static double seconds = 0.1;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *allocate(size_t bytes)
{
    void *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!block) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return block;
}

static float *random_floats(size_t n)
{
    static unsigned state = 1;
    float *floats = allocate(n * sizeof *floats);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        floats[i] = ((float)(state >> 8) * 0x1p-23f - 1.0f) * 0.05f;
    }
    return floats;
}

/* One product, by both. The weights are the same; what differs is who laid them out. */
struct product {
    size_t m, n, k, n_copies, next;
    enum weight_form form;
    float *x, *y, *weight, *bias, *scaled_bias;
    struct linear ours[COPIES_MAX];
    dnnl_primitive_t theirs;
    dnnl_memory_t src, bias_memory, dst, packed[COPIES_MAX];
    void *packed_data[COPIES_MAX], *src_data;
};

/* ---- oneDNN ---------------------------------------------------------------------------------- */

static void check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return;
    fprintf(stderr, "oneDNN: %s fails with %d\n", what, (int)status);
    exit(1);
}

static dnnl_memory_desc_t matrix(size_t rows, size_t columns, dnnl_data_type_t type,
                                 dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t desc;
    const dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    check(dnnl_memory_desc_init_by_tag(&desc, 2, dims, type, tag), "a matrix");
    return desc;
}

static dnnl_memory_t memory(const dnnl_memory_desc_t *desc, void *data)
{
    dnnl_memory_t made;
    check(dnnl_memory_create(&made, desc, engine, data), "memory");
    return made;
}

/* From one matrix to another of another layout or type; values times scale. */
static void reorder(dnnl_memory_t from, const dnnl_memory_desc_t *from_desc, dnnl_memory_t to,
                    const dnnl_memory_desc_t *to_desc, float scale)
{
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    check(dnnl_primitive_attr_set_output_scales(attr, 1, 0, &scale), "a scale");
    check(dnnl_reorder_primitive_desc_create(&desc, from_desc, engine, to_desc, engine, attr),
          "a reorder");
    check(dnnl_primitive_create(&primitive, desc), "a reorder");
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    check(dnnl_primitive_execute(primitive, stream, 2, args), "a reorder");
    check(dnnl_stream_wait(stream), "a reorder");
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
    dnnl_primitive_attr_destroy(attr);
}

/* What 0.05, the largest weight and input, becomes as an integer. */
static const float weight_step = 0.05f / 127, input_step = 0.05f / 127;

static void theirs_init(struct product *p)
{
    static const dnnl_data_type_t weight_types[] = {
        [WEIGHT_F32] = dnnl_f32, [WEIGHT_BF16] = dnnl_bf16, [WEIGHT_INT8] = dnnl_s8};
    dnnl_data_type_t weight_type = weight_types[p->form],
                     input_type = p->form == WEIGHT_INT8 ? dnnl_u8 : weight_type;
    bool integers = p->form == WEIGHT_INT8;
    dnnl_memory_desc_t src = matrix(p->m, p->k, input_type, dnnl_ab),
                       any = matrix(p->k, p->n, weight_type, dnnl_format_tag_any),
                       bias = matrix(1, p->n, dnnl_f32, dnnl_ab),
                       dst = matrix(p->m, p->n, dnnl_f32, dnnl_ab),
                       plain_src = matrix(p->m, p->k, dnnl_f32, dnnl_ab),
                       plain_weight = matrix(p->k, p->n, dnnl_f32, dnnl_ba);
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t desc;
    check(dnnl_matmul_desc_init(&matmul, &src, &any, &bias, &dst), "a product");
    check(dnnl_primitive_attr_create(&attr), "attributes");
    float *scales = random_floats(p->n);
    p->scaled_bias = random_floats(p->n);
    for (size_t i = 0; i < p->n; i++) {
        scales[i] = integers ? weight_step * input_step : 1;
        p->scaled_bias[i] = p->bias[i] / scales[i]; /* 2.x scales the sum with the bias in it */
    }
    if (integers)
        check(dnnl_primitive_attr_set_output_scales(attr, (dnnl_dim_t)p->n, 2, scales), "scales");
    check(dnnl_primitive_desc_create(&desc, &matmul, attr, engine, NULL), "a product");
    check(dnnl_primitive_create(&p->theirs, desc), "a product");
    const dnnl_memory_desc_t *laid = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    dnnl_memory_t from = memory(&plain_weight, p->weight);
    for (size_t i = 0; i < p->n_copies; i++) {
        p->packed_data[i] = allocate(dnnl_memory_desc_get_size(laid));
        p->packed[i] = memory(laid, p->packed_data[i]);
        reorder(from, &plain_weight, p->packed[i], laid, integers ? 1 / weight_step : 1);
    }
    dnnl_memory_destroy(from);
    p->src_data = allocate(dnnl_memory_desc_get_size(&src));
    p->src = memory(&src, p->src_data);
    from = memory(&plain_src, p->x);
    reorder(from, &plain_src, p->src, &src, integers ? 1 / input_step : 1);
    dnnl_memory_destroy(from);
    p->bias_memory = memory(&bias, p->scaled_bias);
    p->dst = memory(&dst, p->y);
    free(scales);
    dnnl_primitive_desc_destroy(desc);
    dnnl_primitive_attr_destroy(attr);
}

static void theirs_run(struct product *p)
{
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->src},
                                    {DNNL_ARG_WEIGHTS, p->packed[p->next++ % p->n_copies]},
                                    {DNNL_ARG_BIAS, p->bias_memory},
                                    {DNNL_ARG_DST, p->dst}};
    check(dnnl_primitive_execute(p->theirs, stream, 4, args), "a product");
    check(dnnl_stream_wait(stream), "a product");
}

static void theirs_release(struct product *p)
{
    for (size_t i = 0; i < p->n_copies; i++) {
        dnnl_memory_destroy(p->packed[i]);
        free(p->packed_data[i]);
    }
    dnnl_memory_destroy(p->src);
    dnnl_memory_destroy(p->bias_memory);
    dnnl_memory_destroy(p->dst);
    dnnl_primitive_destroy(p->theirs);
    free(p->src_data);
    free(p->scaled_bias);
}

/* ---- ours ------------------------------------------------------------------------------------ */

static void ours_init(struct product *p)
{
    struct error err;
    size_t size = linear_packed_bytes(p->form, p->n, p->k);
    for (size_t i = 0; i < p->n_copies; i++) {
        if (size) {
            void *packed = allocate(size);
            linear_pack(compute.pool, p->form, p->weight, DTYPE_F32, p->n, p->k, packed);
            linear_init_packed(&p->ours[i], p->form, packed, p->bias, p->n, p->k);
        } else {
            float *weight = random_floats(p->n * p->k);
            for (size_t at = 0; at < p->n * p->k; at++)
                weight[at] = p->weight[at];
            linear_init(&p->ours[i], weight, DTYPE_F32, p->bias, p->n, p->k, &err);
        }
    }
}

static void ours_run(struct product *p)
{
    nn_linear(&compute, &p->ours[p->next++ % p->n_copies], p->x, p->m, ACTIVATION_NONE, NULL, p->y);
}

static void ours_release(struct product *p)
{
    for (size_t i = 0; i < p->n_copies; i++)
        free((void *)(p->form == WEIGHT_F32 ? (const void *)p->ours[i].weight
                                            : (const void *)p->ours[i].packed));
}

/* ---- side by side ---------------------------------------------------------------------------- */

/* Seconds of the fastest call; the first is not counted. Threads of who ran before go to sleep. */
static double fastest(void (*run)(struct product *), struct product *p)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    nanosleep(&pause, NULL);
    double best = 1e9, begin = now();
    for (size_t i = 0; i < 3 || now() - begin < seconds / 2; i++) {
        double from = now();
        run(p);
        double time = now() - from;
        best = i > 0 && time < best ? time : best;
    }
    return best;
}

/* Both must have multiplied the same: the largest difference relative to the largest result. */
static double disagreement(struct product *p)
{
    float *theirs = allocate(p->m * p->n * sizeof *theirs);
    theirs_run(p);
    for (size_t i = 0; i < p->m * p->n; i++)
        theirs[i] = p->y[i];
    ours_run(p);
    double most = 0, worst = 0;
    for (size_t i = 0; i < p->m * p->n; i++) {
        double difference = fabs((double)theirs[i] - (double)p->y[i]);
        most = fabs((double)theirs[i]) > most ? fabs((double)theirs[i]) : most;
        worst = difference > worst ? difference : worst;
    }
    free(theirs);
    return worst / most;
}

static int compare(enum weight_form form, size_t m, size_t n, size_t k)
{
    static struct product p;
    size_t bytes = n * k * (form == WEIGHT_F32 ? 4 : form == WEIGHT_BF16 ? 2 : 1);
    p = (struct product){m, n, k, .n_copies = 1, .form = form};
    if (m == 1)
        p.n_copies = FEW_BYTES / bytes < COPIES_MAX ? FEW_BYTES / bytes : COPIES_MAX;
    p.x = random_floats(m * k);
    for (size_t i = 0; i < m * k; i++)
        p.x[i] = fabsf(p.x[i]); /* u8 has no sign */
    p.y = random_floats(m * n);
    p.weight = random_floats(n * k);
    p.bias = random_floats(n);
    theirs_init(&p);
    ours_init(&p);
    double apart = disagreement(&p), ours = 1e9, theirs = 1e9;
    for (int round = 0; round < 2; round++) {
        double time = fastest(theirs_run, &p);
        theirs = time < theirs ? time : theirs;
        time = fastest(ours_run, &p);
        ours = time < ours ? time : ours;
    }
    double operations = 2.0 * (double)(m * n * k);
    printf("%-5s %5zu %5zu %5zu %9.1f %9.1f GFLOP/s %6.2f", weight_form_name(form), m, n, k,
           operations / theirs * 1e-9, operations / ours * 1e-9, theirs / ours);
    if (m == 1)
        printf("   %.1f and %.1f GB/s", (double)bytes / theirs * 1e-9, (double)bytes / ours * 1e-9);
    printf("\n");
    fflush(stdout);
    theirs_release(&p);
    ours_release(&p);
    free(p.x);
    free(p.y);
    free(p.weight);
    free(p.bias);
    if (apart < (form == WEIGHT_F32 ? 1e-4 : 2e-2))
        return 0;
    fprintf(stderr, "the results differ by %.2g of the largest\n", apart);
    return 1;
}

int main(int argc, char **argv)
{
    static const size_t rows[] = {1, 50, 400, 577, 1600, 2308},
                        weights[][2] = {{768, 768}, {3072, 768}, {768, 3072}};
    struct error err;
    struct arena arena;
    int failed = 0;
    if (argc > 1)
        seconds = strtod(argv[1], NULL);
    arena_init(&arena, 0);
    compute = (struct compute){pool_new(0, &err), &arena};
    if (!compute.pool) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(dnnl_engine_create(&engine, dnnl_cpu, 0), "an engine");
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "a stream");
    const dnnl_version_t *version = dnnl_version();
    printf(
        "oneDNN %d.%d.%d and vlmd's %s, %zu threads\nform      M     N     K    oneDNN      vlmd "
        "       vlmd : oneDNN\n",
        version->major, version->minor, version->patch, nn_engine_name(),
        pool_threads(compute.pool));
    for (enum weight_form form = WEIGHT_F32; form <= WEIGHT_INT8; form++)
        for (size_t m = 0; m < sizeof rows / sizeof rows[0]; m++)
            for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++)
                failed |= compare(form, rows[m], weights[w][0], weights[w][1]);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    pool_free(compute.pool);
    arena_release(&arena);
    return failed;
}
