/*
 * nn_internal.h: what the files of core/nn share.
 */
#ifndef VLMD_CORE_NN_NN_INTERNAL_H
#define VLMD_CORE_NN_NN_INTERNAL_H

#include "core/nn/nn.h"

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Whether linear layers are left to OpenBLAS (nn_engine_choose). */
bool engine_uses_blas(void);

#endif
