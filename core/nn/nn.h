/*
 * nn.h: the operations that forward passes are written in.
 *
 * Activations are f32, row-major, [n_rows, dim], "packed": the rows of all sequences of a batch one
 * after another, without padding. Weights are read-only and borrowed from the checkpoint's map
 * where their dtype allows it. All operations take a `struct compute`: the pool that they are
 * spread over and the arena from which they take scratch memory. Operations that need scratch
 * return STATUS_NO_MEMORY without having written their output; the others cannot fail.
 */
#ifndef VLMD_CORE_NN_NN_H
#define VLMD_CORE_NN_NN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/nn/pool.h"

struct compute {
    struct pool *pool;
    struct arena *scratch; /* owned by the lane that runs the pass; reset by it after the pass */
};

/* ---- what runs it
 * --------------------------------------------------------------------------------
 *
 * Kernels are compiled for several instruction sets and chosen at run time by what the chip has.
 * The choice holds for the whole process; make it before the first forward pass.
 */

enum nn_engine {
    NN_ENGINE_AUTO,       /* the best that the chip runs */
    NN_ENGINE_AMX,        /* AVX512BF16 and tiles for bf16 and int8 */
    NN_ENGINE_AVX512BF16, /* AVX512VNNI and products of bf16 */
    NN_ENGINE_AVX512VNNI, /* AVX512 and products of int8 */
    NN_ENGINE_AVX512,     /* F, BW, DQ, VL */
    NN_ENGINE_AVX2,       /* with FMA */
    NN_ENGINE_PORTABLE,
    NN_ENGINE_OPENBLAS, /* linear layers by OpenBLAS, the rest as AUTO */
    N_NN_ENGINES
};
bool nn_engine_parse(const char *name, enum nn_engine *out); /* "auto", "avx512", … */
bool nn_engine_choose(enum nn_engine engine); /* false: not on this chip, or not installed */
const char *nn_engine_name(void);             /* what runs now, for people */

/* ---- linear layers ----------------------------------------------------------------------------
 */

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_U8,
    DTYPE_BOOL,
    N_DTYPES
};
size_t dtype_size(enum dtype dtype);      /* bytes per element */
const char *dtype_name(enum dtype dtype); /* "F32", as safetensors writes it */
/* Converts n elements of a floating dtype to f32; src need not be aligned. */
void dtype_to_f32(const void *src, enum dtype dtype, size_t n, float *dst);

enum activation {
    ACTIVATION_NONE,
    ACTIVATION_GELU,       /* exact, by erf */
    ACTIVATION_GELU_TANH,  /* "gelu_new", "gelu_pytorch_tanh", "gelu_fast" */
    ACTIVATION_QUICK_GELU, /* x · sigmoid(1.702 x) */
    ACTIVATION_RELU,
    ACTIVATION_SILU,
    ACTIVATION_TANH,
    ACTIVATION_SIGMOID,
    N_ACTIVATIONS
};
/* By the name config.json uses ("gelu", "quick_gelu", …); false when we don't have it. */
bool activation_parse(const char *name, enum activation *out);
void nn_activate(const struct compute *compute, enum activation activation, float *x, size_t n);

/* What a layer's weights are kept in, and so what it computes in. bf16: products of bf16, summed in
 * f32. int8: weights to a step per output, activations to a step per row, summed exactly; where the
 * chip has no such unit, weights alone. int4: weights to a step per output and 32 inputs,
 * activations as for bf16, or of few rows to 8 bits with a step per 32. Norms, softmax and what
 * lies between the layers are f32 in all of them; attention's products: see attention_shape.
 */
enum weight_form { WEIGHT_F32, WEIGHT_BF16, WEIGHT_INT8, WEIGHT_INT4, N_WEIGHT_FORMS };
const char *weight_form_name(enum weight_form form); /* "f32", "bf16", … */
bool weight_form_parse(const char *name, enum weight_form *out);
/* Whether the engine that runs now multiplies this form by units of its own: rounds the rows to it.
 * is_fast: and faster than f32, which for bf16 by AVX512-BF16 is measured, at the first call. */
bool nn_engine_has_units(enum weight_form form);
bool nn_engine_is_fast(enum weight_form form);

/* y = x · weightᵀ + bias. Filled by linear_init…(); treat as opaque. */
struct linear {
    enum weight_form form;
    const float *weight; /* WEIGHT_F32: [n_out, n_in] */
    const void *packed;  /* other forms: see packed.h */
    const float *bias;   /* [n_out] or NULL */
    size_t n_out, n_in;
    void *owned; /* converted weight, freed by linear_release(); NULL when used in place */
};

/* Takes weight [n_out, n_in] of any floating dtype and bias (f32, or NULL): f32 is used in place
 * (borrowed), f16 and bf16 are converted once into owned memory. `weight` may be unaligned. */
enum status linear_init(struct linear *linear, const void *weight, enum dtype dtype,
                        const float *bias, size_t n_out, size_t n_in, struct error *err);
void linear_release(struct linear *linear);

/* The bytes of a weight's packed form; 0 for shapes (rows longer than 32,768) that stay f32. */
size_t linear_packed_bytes(enum weight_form form, size_t n_out, size_t n_in);
/* Packs a weight as linear_init() takes it into `to` (linear_packed_bytes(), 64-byte aligned), over
 * all threads of the pool (NULL: the calling one). For int8 the worst error over blocks of 16
 * outputs, as the root of its square relative to the weights'; else 0. */
double linear_pack(struct pool *pool, enum weight_form form, const void *weight, enum dtype dtype,
                   size_t n_out, size_t n_in, void *to);
/* A layer over a packed weight, which is borrowed. */
void linear_init_packed(struct linear *linear, enum weight_form form, const void *packed,
                        const float *bias, size_t n_out, size_t n_in);

/* y[n_rows, n_out] = activation(x[n_rows, n_in] · weightᵀ + bias) + residual. residual ([n_rows,
 * n_out], may be y itself) or NULL. x and y must not overlap. Rows are contiguous. */
void nn_linear(const struct compute *compute, const struct linear *linear, const float *x,
               size_t n_rows, enum activation activation, const float *residual, float *y);

/* Rows on their way from one operation to the next: f32, or bf16 where who reads them rounds them
 * to that or less anyway, which is half the bytes through the caches. The caller owns `data`. */
struct nn_rows {
    void *data;
    enum dtype dtype; /* DTYPE_F32 or DTYPE_BF16 */
};
/* What rows had better be that this layer reads or writes: only then they may be DTYPE_BF16. */
enum dtype nn_linear_dtype(const struct linear *linear);
void nn_linear_rows(const struct compute *compute, const struct linear *linear, struct nn_rows x,
                    size_t n_rows, enum activation activation, const float *residual,
                    struct nn_rows y);

/* ---- norms, embeddings, elementwise ------------------------------------------------------------
 */

struct norm {
    const float *weight; /* [dim] */
    const float *bias;   /* [dim]; NULL in RMS norms */
    size_t dim;
    float eps;
};
void nn_layer_norm(const struct compute *compute, const struct norm *norm, const float *x,
                   size_t n_rows, float *y); /* y may be x */
void nn_layer_norm_rows(const struct compute *compute, const struct norm *norm, const float *x,
                        size_t n_rows, struct nn_rows y);
void nn_rms_norm(const struct compute *compute, const struct norm *norm, const float *x,
                 size_t n_rows, float *y);
void nn_add(const struct compute *compute, float *x, const float *y, size_t n);      /* x += y */
void nn_multiply(const struct compute *compute, float *x, const float *y, size_t n); /* x *= y */
void nn_softmax_rows(float *x, size_t n_rows, size_t n); /* in place, max-subtracted */
float nn_log_sum(const float *x, size_t n); /* log of the sum of e^x; NaN when some x is */
void nn_l2_normalize_rows(float *x, size_t n_rows, size_t dim);

/* ---- attention ---------------------------------------------------------------------------------
 */

/* One sequence's attention: n_q query rows against n_kv key/value rows. Rows are `…_stride` floats
 * apart, a row holds the heads one after another (head h at offset h · head_dim), so q, k and v may
 * be slices of one fused projection or of a KV cache. */
struct attention_item {
    const void *q; /* float, or as q_dtype says */
    size_t n_q, q_stride;
    const void *k, *v; /* float, or as kv_dtype says */
    size_t n_kv, kv_stride;
    float *out; /* [n_q, n_heads · head_dim], rows out_stride apart */
    size_t out_stride;
    const float *key_bias; /* [n_kv] added to the scores of all heads and queries, or NULL (masks:
                              -INFINITY) */
    /* DTYPE_F32, or DTYPE_BF16 with head_dim <= ATTENTION_BF16_DIM. */
    enum dtype q_dtype, kv_dtype;
    size_t kv_head_stride; /* elements from a head to the next one, as nn_keep_heads() lays them
                              out; 0: head_dim */
};
enum { ATTENTION_BF16_DIM = 256 };

struct attention_shape {
    size_t n_heads;
    size_t n_kv_heads; /* = n_heads, or fewer in grouped-query attention */
    size_t head_dim;
    float scale; /* usually 1 / sqrt(head_dim) */
    bool causal; /* query i of an item sees keys 0 … n_kv - n_q + i */
    /* The layer's: unless it is f32, queries, keys, values and weights may be rounded to bf16 for
     * the products, on chips that multiply it faster. Softmax is f32 in all. */
    enum weight_form form;
    float cap; /* Gemma 2: scores s become cap · tanh(s / cap) before the mask; 0 = as they are */
};

/* softmax(scale · q kᵀ + mask) v for every item and head, spread over items × heads × blocks of
 * queries. The scores of a block are the only ones in memory. */
enum status nn_attention(const struct compute *compute, const struct attention_shape *shape,
                         const struct attention_item *items, size_t n_items, struct error *err);

/* What queries, keys and values of items of n_q queries and more had better be: DTYPE_BF16 where
 * they are multiplied as that anyway, and so need not be wider on their way. */
enum dtype nn_attention_dtype(const struct attention_shape *shape, size_t n_q);

/* Rows [n_rows, n_heads · head_dim] as f32 or bf16, one head's rows after another's: [n_heads]
 * [n_rows][head_dim]. A head's are then read in one run (and half the bytes, in bf16): for keys and
 * values that are attended to again and again. */
void nn_keep_heads(const struct compute *compute, const float *rows, size_t n_rows, size_t n_heads,
                   size_t head_dim, enum dtype dtype, void *to);

/* ---- pictures -----------------------------------------------------------------------------------
 */

/* Cuts planar pictures [3, height, width] into patch rows for a patch embedding (a convolution
 * whose stride is its kernel): for n pictures of one size, out is [n · (height/patch) ·
 * (width/patch), channels · patch · patch] in the order of a convolution weight [out, channels,
 * patch, patch] flattened. Remainders at the right and bottom edge are left out, as a convolution
 * does. */
void nn_patches(const struct compute *compute, const float *const *pictures, size_t n,
                size_t channels, size_t height, size_t width, size_t patch, float *out);

#endif
