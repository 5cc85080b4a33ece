/*
 * kernels.c: which kernels run, and the scratch they use.
 *
 * The choice is made once, at the first use or by nn_engine_choose(), and read by every thread.
 */
#include "core/nn/kernels.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/nn/blas.h"

/* What every set has, and (below) the table of a set: those above avx512 differ from it in packed
 * products and attention by tiles alone and take the rest from `base`. */
#define BASE_KERNELS(isa)                                                                          \
    void linear_block_##isa(const struct linear_job *, size_t, size_t, size_t, size_t);            \
    bool conv_block_##isa(const struct conv_job *, size_t, size_t, size_t, size_t);                \
    bool winograd_block_##isa(const struct conv_job *, size_t, size_t, size_t, size_t);            \
    void attention_block_##isa(const struct attention_shape *, const struct attention_item *,      \
                               size_t, size_t, size_t);                                            \
    void attention_few_##isa(const struct attention_shape *, const struct attention_item *,        \
                             size_t);                                                              \
    void activate_##isa(enum activation, float *, size_t);                                         \
    void softmax_row_##isa(float *, size_t);                                                       \
    float log_sum_row_##isa(const float *, size_t);                                                \
    void layer_norm_row_##isa(const struct norm *, const float *, float *, uint16_t *);            \
    void rms_norm_row_##isa(const struct norm *, const float *, float *, uint16_t *);              \
    void f32_to_bf16_##isa(const float *, size_t, uint16_t *);                                     \
    void dtype_to_f32_##isa(const void *, enum dtype, size_t, float *);                            \
    void dot_rows_##isa(enum dot_form, const void *, const float *, size_t, size_t, const float *, \
                        float *);

#define KERNELS(isa, base, n_lanes, n_vecs, rows_at_once, tiles, gain, ...)                        \
    bool packed_block_##isa(const struct linear_job *, size_t, size_t, size_t, size_t);            \
    static const struct kernels kernels_##isa = {                                                  \
        .name = #isa,                                                                              \
        .lanes = n_lanes,                                                                          \
        .linear_block = linear_block_##base,                                                       \
        .conv_block = conv_block_##base,                                                           \
        .winograd_block = winograd_block_##base,                                                   \
        .group_rows = (n_vecs) * (n_lanes),                                                        \
        .packed_block = packed_block_##isa,                                                        \
        .packed_rows = rows_at_once,                                                               \
        .bf16_gain = gain,                                                                         \
        .units = {[WEIGHT_F32] = true, __VA_ARGS__},                                               \
        .attention_block = attention_block_##base,                                                 \
        .attention_few = attention_few_##base,                                                     \
        .attention_tiles = tiles,                                                                  \
        .activate = activate_##base,                                                               \
        .softmax_row = softmax_row_##base,                                                         \
        .log_sum_row = log_sum_row_##base,                                                         \
        .layer_norm_row = layer_norm_row_##base,                                                   \
        .rms_norm_row = rms_norm_row_##base,                                                       \
        .f32_to_bf16 = f32_to_bf16_##base,                                                         \
        .dtype_to_f32 = dtype_to_f32_##base,                                                       \
        .dot_rows = dot_rows_##base,                                                               \
    };

#if defined(__x86_64__)
BASE_KERNELS(avx512)
void attention_tiles_amx(const struct attention_shape *, const struct attention_item *, size_t,
                         size_t, size_t);
KERNELS(amx, avx512, 16, 4, 32, attention_tiles_amx,
        NULL, [WEIGHT_BF16] = true, [WEIGHT_INT8] = true, [WEIGHT_INT4] = true)
double bf16_gain_avx512bf16(void);
KERNELS(avx512bf16, avx512, 16, 4, 6, NULL,
        bf16_gain_avx512bf16, [WEIGHT_BF16] = true, [WEIGHT_INT8] = true, [WEIGHT_INT4] = true)
KERNELS(avx512vnni, avx512, 16, 4, 6, NULL, NULL, [WEIGHT_INT8] = true)
KERNELS(avx512, avx512, 16, 4, 12, NULL, NULL, )
BASE_KERNELS(avx2)
KERNELS(avx2, avx2, 8, 3, 4, NULL, NULL, )
#endif
BASE_KERNELS(portable)
#if defined(__aarch64__)
KERNELS(portable, portable, 4, 4, 4, NULL, NULL, )
#else
KERNELS(portable, portable, 4, 3, 2, NULL, NULL, )
#endif

#if defined(__x86_64__)
/* Linux lends a process the tile registers when it asks; threads started afterwards have them too.
 */
static bool amx_granted(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* GCC's own list of CPU features lacks tiles: CPUID leaf 7. */
static bool amx_present(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) &&
           (d >> 25 & 1);
}
#endif

static const struct kernels *kernels_of(enum nn_engine engine)
{
    switch (engine) {
#if defined(__x86_64__)
    case NN_ENGINE_AMX:
        return kernels_of(NN_ENGINE_AVX512BF16) && amx_present() && amx_granted() ? &kernels_amx
                                                                                  : NULL;
    case NN_ENGINE_AVX512BF16:
        return kernels_of(NN_ENGINE_AVX512VNNI) && __builtin_cpu_supports("avx512bf16")
                   ? &kernels_avx512bf16
                   : NULL;
    case NN_ENGINE_AVX512VNNI:
        return kernels_of(NN_ENGINE_AVX512) && __builtin_cpu_supports("avx512vnni")
                   ? &kernels_avx512vnni
                   : NULL;
    case NN_ENGINE_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                   ? &kernels_avx512
                   : NULL;
    case NN_ENGINE_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels_avx2
                                                                               : NULL;
#endif
    case NN_ENGINE_PORTABLE:
        return &kernels_portable;
    case NN_ENGINE_AUTO:
    case NN_ENGINE_OPENBLAS:
        for (enum nn_engine best = NN_ENGINE_AMX; best <= NN_ENGINE_PORTABLE; best++)
            if (kernels_of(best))
                return kernels_of(best);
        return NULL;
    default:
        return NULL;
    }
}

static _Atomic(const struct kernels *) chosen;
static atomic_bool products_by_blas;

const struct kernels *kernels(void)
{
    const struct kernels *now = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!now) {
        now = kernels_of(NN_ENGINE_AUTO);
        atomic_store_explicit(&chosen, now, memory_order_release);
    }
    return now;
}

bool engine_uses_blas(void)
{
    return atomic_load_explicit(&products_by_blas, memory_order_relaxed);
}

static const char *const engine_names[N_NN_ENGINES] = {
    [NN_ENGINE_AUTO] = "auto",
    [NN_ENGINE_AMX] = "amx",
    [NN_ENGINE_AVX512BF16] = "avx512bf16",
    [NN_ENGINE_AVX512VNNI] = "avx512vnni",
    [NN_ENGINE_AVX512] = "avx512",
    [NN_ENGINE_AVX2] = "avx2",
    [NN_ENGINE_PORTABLE] = "portable",
    [NN_ENGINE_OPENBLAS] = "openblas",
};

bool nn_engine_parse(const char *name, enum nn_engine *out)
{
    for (enum nn_engine engine = 0; name && engine < N_NN_ENGINES; engine++) {
        if (strcmp(name, engine_names[engine]) == 0) {
            *out = engine;
            return true;
        }
    }
    return false;
}

bool nn_engine_choose(enum nn_engine engine)
{
    const struct kernels *found = kernels_of(engine);
    if (!found || (engine == NN_ENGINE_OPENBLAS && !blas_load()))
        return false;
    atomic_store_explicit(&chosen, found, memory_order_release);
    atomic_store_explicit(&products_by_blas, engine == NN_ENGINE_OPENBLAS, memory_order_relaxed);
    return true;
}

bool nn_engine_has_units(enum weight_form form)
{
    return (unsigned)form < N_WEIGHT_FORMS && kernels()->units[form];
}

/* By AVX512-BF16 alone bf16 is twice as fast as f32 on some chips and slower on others. */
static bool bf16_gains(void)
{
    enum { UNKNOWN, GAINS, LOSES };
    static atomic_int known;
    int now = atomic_load_explicit(&known, memory_order_relaxed);
    if (now == UNKNOWN) {
        now = kernels()->bf16_gain() > 1.2 ? GAINS : LOSES;
        atomic_store_explicit(&known, now, memory_order_relaxed);
    }
    return now == GAINS;
}

bool nn_engine_is_fast(enum weight_form form)
{
    return nn_engine_has_units(form) &&
           (form != WEIGHT_BF16 || !kernels()->bf16_gain || bf16_gains());
}

const char *nn_engine_name(void)
{
    return engine_uses_blas() ? engine_names[NN_ENGINE_OPENBLAS] : kernels()->name;
}

/* ---- scratch --------------------------------------------------------------------------------- */

static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;
static bool scratch_keyed;
static _Thread_local struct scratch *scratch_mine;

static void scratch_make_key(void)
{
    scratch_keyed = pthread_key_create(&scratch_key, free) == 0;
}

/* The key's destructor frees it when the thread ends; the thread-local pointer is the fast way. */
struct scratch *scratch_of_thread(void)
{
    if (scratch_mine)
        return scratch_mine;
    pthread_once(&scratch_once, scratch_make_key);
    if (!scratch_keyed)
        return NULL;
    struct scratch *scratch = aligned_alloc(64, (sizeof *scratch + 63) / 64 * 64);
    if (!scratch)
        return NULL;
    scratch->job_id = 0;
    if (pthread_setspecific(scratch_key, scratch) != 0) {
        free(scratch);
        return NULL;
    }
    scratch_mine = scratch;
    return scratch;
}
