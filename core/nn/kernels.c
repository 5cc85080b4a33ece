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

#define KERNELS(isa, n_lanes, n_vecs)                                                              \
    bool linear_block_##isa(const struct linear_job *, size_t, size_t, size_t, size_t);            \
    void attention_block_##isa(const struct attention_shape *, const struct attention_item *,      \
                               size_t, size_t, size_t);                                            \
    void attention_few_##isa(const struct attention_shape *, const struct attention_item *,        \
                             size_t);                                                              \
    void activate_##isa(enum activation, float *, size_t);                                         \
    void softmax_row_##isa(float *, size_t);                                                       \
    void layer_norm_row_##isa(const struct norm *, const float *, float *);                        \
    void rms_norm_row_##isa(const struct norm *, const float *, float *);                          \
    void dtype_to_f32_##isa(const void *, enum dtype, size_t, float *);                            \
    void dot_rows_##isa(enum dot_form, const void *, const float *, size_t, size_t, const float *, \
                        float *);                                                                  \
    static const struct kernels kernels_##isa = {                                                  \
        .name = #isa,                                                                              \
        .lanes = n_lanes,                                                                          \
        .linear_block = linear_block_##isa,                                                        \
        .group_rows = (n_vecs) * (n_lanes),                                                        \
        .attention_block = attention_block_##isa,                                                  \
        .attention_few = attention_few_##isa,                                                      \
        .activate = activate_##isa,                                                                \
        .softmax_row = softmax_row_##isa,                                                          \
        .layer_norm_row = layer_norm_row_##isa,                                                    \
        .rms_norm_row = rms_norm_row_##isa,                                                        \
        .dtype_to_f32 = dtype_to_f32_##isa,                                                        \
        .dot_rows = dot_rows_##isa,                                                                \
    };

#if defined(__x86_64__)
KERNELS(avx512, 16, 4)
KERNELS(avx2, 8, 3)
#endif
#if defined(__aarch64__)
KERNELS(portable, 4, 4)
#else
KERNELS(portable, 4, 3)
#endif

static const struct kernels *kernels_of(enum nn_engine engine)
{
    switch (engine) {
#if defined(__x86_64__)
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
        for (enum nn_engine best = NN_ENGINE_AVX512; best <= NN_ENGINE_PORTABLE; best++)
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
    [NN_ENGINE_AUTO] = "auto",         [NN_ENGINE_AVX512] = "avx512",     [NN_ENGINE_AVX2] = "avx2",
    [NN_ENGINE_PORTABLE] = "portable", [NN_ENGINE_OPENBLAS] = "openblas",
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
    if (!found)
        return false;
    atomic_store_explicit(&chosen, found, memory_order_release);
    atomic_store_explicit(&products_by_blas, engine == NN_ENGINE_OPENBLAS, memory_order_relaxed);
    return true;
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
