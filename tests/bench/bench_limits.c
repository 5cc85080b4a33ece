/*
 * bench_limits.c: what this chip can do at most, to hold other figures against.
 *
 *     bench_limits [SECONDS]
 *
 * For each unit that multiplies (as core/nn's engines name them) operations per second with all
 * operands in registers, then what memory gives when 256 MB are read, each with all threads that
 * the process may use and with one. The fastest of many runs, SECONDS (0.3) for each figure.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/nn/nn.h"
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("amx-tile")
#include "core/nn/kernel_amx.h"
#pragma GCC pop_options
#endif

enum { N_SUMS = 12, N_STEPS = 20000, TASKS_PER_THREAD = 4 };

/* Each adds N_STEPS times N_SUMS products to as many sums: more than a unit has under way at once.
 * The asm keeps the sums alive, and the compiler from seeing what they are; they have names of
 * their own because GCC puts an array of them into memory. */
#define LIVES(variable, where) __asm__ volatile("" : "+" where(variable))
#define EACH_SUM(what)                                                                             \
    what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7) what(8) what(9) what(10)       \
        what(11)
#define SUM_BEGIN(i) sum##i = a,
#define REPEAT(type, where, zero, add)                                                             \
    type a = zero, b = zero, EACH_SUM(SUM_BEGIN) end = zero;                                       \
    LIVES(a, where);                                                                               \
    LIVES(b, where);                                                                               \
    for (size_t step = 0; step < N_STEPS; step++) {                                                \
        EACH_SUM(add)                                                                              \
    }                                                                                              \
    (void)end

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void f32_avx2(void)
{
#define ADD(i)                                                                                     \
    sum##i = _mm256_fmadd_ps(a, b, sum##i);                                                        \
    LIVES(sum##i, "x");
    REPEAT(__m256, "x", _mm256_setzero_ps(), ADD);
#undef ADD
}

__attribute__((target("avx512f"))) static void f32_avx512(void)
{
#define ADD(i)                                                                                     \
    sum##i = _mm512_fmadd_ps(a, b, sum##i);                                                        \
    LIVES(sum##i, "v");
    REPEAT(__m512, "v", _mm512_setzero_ps(), ADD);
#undef ADD
}

__attribute__((target("avx512f,avx512bf16"))) static void bf16_avx512bf16(void)
{
#define ADD(i)                                                                                     \
    sum##i = _mm512_dpbf16_ps(sum##i, (__m512bh)(a), (__m512bh)(b));                               \
    LIVES(sum##i, "v");
    REPEAT(__m512, "v", _mm512_setzero_ps(), ADD);
#undef ADD
}

__attribute__((target("avx512f,avx512vnni"))) static void int8_avx512vnni(void)
{
#define ADD(i)                                                                                     \
    sum##i = _mm512_dpbusd_epi32(sum##i, a, b);                                                    \
    LIVES(sum##i, "v");
    REPEAT(__m512i, "v", _mm512_setzero_si512(), ADD);
#undef ADD
}

/* Four sums: the tiles are eight, and each product takes two more. What they hold (zeros, as
 * configured) is never looked at. */
#define REPEAT_TILES(product)                                                                      \
    tiles_begin();                                                                                 \
    for (size_t step = 0; step < N_STEPS * N_SUMS / 4; step++) {                                   \
        product(0, 4, 6);                                                                          \
        product(1, 4, 7);                                                                          \
        product(2, 5, 6);                                                                          \
        product(3, 5, 7);                                                                          \
    }                                                                                              \
    _tile_release()

__attribute__((target("amx-tile,amx-bf16"))) static void bf16_amx(void)
{
    REPEAT_TILES(_tile_dpbf16ps);
}

__attribute__((target("amx-tile,amx-int8"))) static void int8_amx(void)
{
    REPEAT_TILES(_tile_dpbusd);
}
#endif

typedef float four_floats __attribute__((vector_size(16)));

#if defined(__x86_64__)
#define VECTOR "x"
#elif defined(__aarch64__)
#define VECTOR "w"
#else
#define VECTOR "m"
#endif

static void f32_portable(void)
{
#define ADD(i)                                                                                     \
    sum##i += a * b;                                                                               \
    LIVES(sum##i, VECTOR);
    REPEAT(four_floats, VECTOR, (four_floats){0}, ADD);
#undef ADD
}

static const struct unit {
    enum nn_engine engine; /* that has it; the first of a form that the chip has is its fastest */
    const char *form;
    void (*run)(void);
    double operations; /* of one product: two a multiplication */
} units[] = {
#if defined(__x86_64__)
    {NN_ENGINE_AVX512, "f32", f32_avx512, 2 * 16},
    {NN_ENGINE_AVX2, "f32", f32_avx2, 2 * 8},
#endif
    {NN_ENGINE_PORTABLE, "f32", f32_portable, 2 * 4},
#if defined(__x86_64__)
    {NN_ENGINE_AMX, "bf16", bf16_amx, 2 * 16 * 16 * 32},
    {NN_ENGINE_AVX512BF16, "bf16", bf16_avx512bf16, 2 * 32},
    {NN_ENGINE_AMX, "int8", int8_amx, 2 * 16 * 16 * 64},
    {NN_ENGINE_AVX512VNNI, "int8", int8_avx512vnni, 2 * 64},
#endif
};

/* ---- reading --------------------------------------------------------------------------------- */

enum { READ_PARTS = 64, READ_WORDS = (256 << 20) / 8 / READ_PARTS };
static uint64_t *read_from;
static _Atomic uint64_t read_sum;

static void read_part(void *context, size_t i)
{
    const uint64_t *from = read_from + i * READ_WORDS;
    uint64_t sums[8] = {0};
    (void)context;
    /* four places at a time, as a panel of weights is read: one stream does not fill the bus */
    for (size_t at = 0; at < READ_WORDS / 4; at += 8)
        for (size_t stream = 0; stream < READ_WORDS; stream += READ_WORDS / 4) {
            __builtin_prefetch(from + stream + at + 128);
            for (size_t k = 0; k < 8; k++)
                sums[k] += from[stream + at + k];
        }
    for (size_t k = 0; k < 8; k++)
        read_sum += sums[k];
}

/* ---- measuring ------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void unit_task(void *context, size_t i)
{
    (void)i;
    ((const struct unit *)context)->run();
}

/* Seconds of the fastest of the runs that fit into the time; the first is not counted. */
static double best_of(struct pool *pool, size_t n, void (*task)(void *, size_t), void *context,
                      double seconds)
{
    double best = 1e9, start = now();
    for (int i = 0; i < 3 || now() - start < seconds; i++) {
        double from = now();
        pool_run(pool, n, task, context);
        double time = now() - from;
        best = i > 0 && time < best ? time : best;
    }
    return best;
}

static double unit_rate(struct pool *pool, const struct unit *unit, double seconds)
{
    size_t n = TASKS_PER_THREAD * pool_threads(pool);
    return unit->operations * N_SUMS * N_STEPS * (double)n /
           best_of(pool, n, unit_task, (void *)unit, seconds);
}

static double read_rate(struct pool *pool, double seconds)
{
    return 8.0 * READ_WORDS * READ_PARTS / best_of(pool, READ_PARTS, read_part, NULL, seconds);
}

int main(int argc, char **argv)
{
    struct error err;
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 0.3;
    struct pool *all = pool_new(0, &err), *one = pool_new(1, &err);
    read_from = malloc((size_t)8 * READ_WORDS * READ_PARTS);
    if (!all || !one || !read_from) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    for (size_t i = 0; i < (size_t)READ_WORDS * READ_PARTS; i++)
        read_from[i] = i;
    printf("limits of this chip with %zu threads and with one\n", pool_threads(all));
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (!nn_engine_choose(units[i].engine))
            continue; /* not on this chip; where it is, the process now has the right to use it */
        printf("%s by %s: %.1f %.1f GFLOP/s\n", units[i].form, nn_engine_name(),
               unit_rate(all, &units[i], seconds) * 1e-9,
               unit_rate(one, &units[i], seconds) * 1e-9);
        fflush(stdout);
    }
    printf("memory reads: %.1f %.1f GB/s\n", read_rate(all, seconds) * 1e-9,
           read_rate(one, seconds) * 1e-9);
    free(read_from);
    pool_free(one);
    pool_free(all);
    return 0;
}
