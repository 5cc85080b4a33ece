/*
 * dtype.c: element types as safetensors names them, and their conversion to f32.
 */
#include "core/nn/kernels.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[N_DTYPES] = {
    [DTYPE_F32] = {"F32", 4},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_I64] = {"I64", 8},   [DTYPE_I32] = {"I32", 4}, [DTYPE_U8] = {"U8", 1},
    [DTYPE_BOOL] = {"BOOL", 1},
};

size_t dtype_size(enum dtype dtype)
{
    return (unsigned)dtype < N_DTYPES ? dtypes[dtype].size : 0;
}

const char *dtype_name(enum dtype dtype)
{
    return (unsigned)dtype < N_DTYPES ? dtypes[dtype].name : "?";
}

void dtype_to_f32(const void *src, enum dtype dtype, size_t n, float *dst)
{
    kernels()->dtype_to_f32(src, dtype, n, dst);
}
