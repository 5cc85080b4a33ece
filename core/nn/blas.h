/*
 * blas.h: OpenBLAS, loaded when its engine is chosen. Not in nn_internal.h, as the kernels, which
 * are compiled apart, need no header of it.
 */
#ifndef VLMD_CORE_NN_BLAS_H
#define VLMD_CORE_NN_BLAS_H

#include <cblas.h>
#include <stdbool.h>

/* OpenBLAS's product of f32 matrices; NULL until blas_load() has been true. */
typedef __typeof__(cblas_sgemm) blas_sgemm;
extern blas_sgemm *blas_product;
/* Loads it, once for the process; any thread. False: it is not installed. */
bool blas_load(void);

#endif
