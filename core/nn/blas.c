/*
 * blas.c: OpenBLAS as the engine `openblas` and the tests' oracle, loaded when it is asked for: our
 * own kernels need none of it, and it is three fifths of what the program would otherwise map and a
 * container would carry.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "core/nn/blas.h"

blas_sgemm *blas_product;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* It runs inside the pool's tasks: threads of its own would fight with the pool's. Which of its
 * kernels it takes is its own choice by CPUID (0.3.21 takes SkylakeX on every AVX-512 chip we saw;
 * the tests hold its results against plain loops); OPENBLAS_CORETYPE in the environment overrides
 * it. */
static void load(void)
{
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    void *threads = library ? dlsym(library, "openblas_set_num_threads") : NULL;
    void *product = library ? dlsym(library, "cblas_sgemm") : NULL;
    if (!threads || !product)
        return;
    void (*set_num_threads)(int);
    memcpy(&set_num_threads, &threads, sizeof threads);
    set_num_threads(1);
    memcpy(&blas_product, &product, sizeof product);
}

bool blas_load(void)
{
    pthread_once(&once, load);
    return blas_product != NULL;
}
