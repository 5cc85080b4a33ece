/*
 * nn_internal.h: what the files of core/nn share.
 */
#ifndef VLMD_CORE_NN_NN_INTERNAL_H
#define VLMD_CORE_NN_NN_INTERNAL_H

#include <cblas.h>

#include "core/nn/nn.h"

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Whether linear layers are left to OpenBLAS (nn_engine_choose). */
bool engine_uses_blas(void);

/* OpenBLAS's product of f32 matrices; NULL until blas_load() has been true. */
typedef __typeof__(cblas_sgemm) blas_sgemm;
extern blas_sgemm *blas_product;
/* Loads it, once for the process; any thread. False: it is not installed. */
bool blas_load(void);

#endif
