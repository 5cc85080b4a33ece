/*
 * binder.h: from tensor names to the structs that forward passes use.
 *
 * A model's weight table is a list of bind_…() calls, each naming the field, the shape and the
 * tensor (a printf pattern). The first fault (absent tensor, other shape, other dtype) is kept,
 * later calls do nothing, and binder_finish() returns it: so the table reads as a table and every
 * tensor is checked. f32 tensors are used in place; f16 and bf16 ones are converted into memory
 * owned by the binder's `struct bound`, which lives as long as the model.
 *
 * Linear layers and convolutions are packed into the form that the set's plan asks for, where that
 * gains something: heads of a few outputs stay f32, and a layer whose weights int8 would hold too
 * coarsely (INT8_ERROR_MAX) becomes bf16. Norms, biases and embeddings are always f32.
 */
#ifndef VLMD_CORE_WEIGHTS_BINDER_H
#define VLMD_CORE_WEIGHTS_BINDER_H

#include "core/nn/conv.h"
#include "core/weights/checkpoint.h"

/* What binding allocated (converted tensors, linears' own forms); freed with the model. */
struct bound;

struct binder {
    const struct tensor_set *tensors;
    const struct weight_plan *plan;
    struct bound *bound;
    struct error *err;
    enum status status;  /* the first fault */
    size_t n_parameters; /* in the distinct tensors bound so far */
};

/* err receives the first fault. */
void binder_init(struct binder *binder, const struct tensor_set *tensors, struct error *err);

/* Hands what was allocated to the caller on success (*out), frees it on failure. */
enum status binder_finish(struct binder *binder, struct bound **out);
void bound_free(struct bound *bound);

/* How many layers are kept in each form. */
void bound_count_forms(const struct bound *bound, size_t counts[N_WEIGHT_FORMS]);

/* A tensor of exactly this shape as f32. dims ends with 0: (const size_t[]){768, 3, 32, 32, 0}. */
void bind_tensor(struct binder *binder, const float **out, const size_t *dims, const char *name,
                 ...) __attribute__((format(printf, 4, 5)));

/* A tensor that may be absent: true and bound when present. */
bool bind_optional(struct binder *binder, const float **out, const size_t *dims, const char *name,
                   ...) __attribute__((format(printf, 4, 5)));

/* "<name>.weight" [n_out, n_in] and, if with_bias, "<name>.bias" [n_out]. */
void bind_linear(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                 bool with_bias, const char *name, ...) __attribute__((format(printf, 6, 7)));

/* A patch embedding: "<name>.weight" [n_out, channels, patch, patch] as a product over flattened
 * patches, and, if with_bias, "<name>.bias" [n_out]. */
void bind_patch_linear(struct binder *binder, struct linear *out, size_t n_out, size_t channels,
                       size_t patch, bool with_bias, const char *name, ...)
    __attribute__((format(printf, 7, 8)));

/* By the tensors' whole names, for weights that are tied or parts of others; bias NULL = none. */
void bind_linear_tensors(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                         const char *weight, const char *bias);

/* A weight that the file has the other way round, [n_in, n_out] (x · weight): copied. */
void bind_linear_transposed(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                            const char *weight, const char *bias);

/* Rows first … first + n_out of a weight [n_total, n_in] and a bias [n_total]: a part of layers
 * that are stored as one (PyTorch's in_proj_weight). */
void bind_linear_rows(struct binder *binder, struct linear *out, size_t n_total, size_t first,
                      size_t n_out, size_t n_in, const char *weight, const char *bias);

/* The first of `names` that the checkpoint holds; the last one when it holds none (so that binding
 * it names what is missing). For tied weights and layouts that differ by age. */
const char *bind_choose(const struct binder *binder, const char *const *names, size_t n_names);

/* "<name>.weight" [dim] alone. */
void bind_rms_norm(struct binder *binder, struct norm *out, size_t dim, float eps, const char *name,
                   ...) __attribute__((format(printf, 5, 6)));

/* Gemma's norms, whose files hold what is to be added to 1: such a copy in place of a bound one. */
void bind_norm_plus_one(struct binder *binder, struct norm *norm);

/* A large table of which single rows are read (word embeddings): left in the map in its own dtype,
 * as a copy in f32 may take gigabytes. */
struct row_table {
    const void *data; /* borrowed from the map; may be unaligned */
    enum dtype dtype;
    size_t n_rows, dim;
};
void bind_row_table(struct binder *binder, struct row_table *out, size_t n_rows, size_t dim,
                    const char *name);
/* Row i, below n_rows, as f32 → out [dim]. */
void row_table_read(const struct row_table *table, size_t i, float *out);

/* A patch embedding over several frames: "<name>.weight" [n_out, channels, frames, patch, patch]
 * without a bias, as a product over flattened patches. */
void bind_frames_linear(struct binder *binder, struct linear *out, size_t n_out, size_t channels,
                        size_t frames, size_t patch, const char *name);

/* A fault of the model's own (sizes that do not go together), kept as the binder's first. */
void bind_fault(struct binder *binder, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Several layers of equal n_in as one product (q, k, v): `names` are put after the formatted
 * prefix; their n_outs are concatenated. Copies unless the tensors are adjacent in the map. */
void bind_linear_fused(struct binder *binder, struct linear *out, const size_t *n_outs, size_t n_in,
                       bool with_bias, const char *const *names, size_t n_names, const char *prefix,
                       ...) __attribute__((format(printf, 8, 9)));

/* "<conv>.weight" (no bias) with the batch norm "<norm>.{weight, bias, running_mean, running_var}"
 * that follows it folded in. Owned by the binder's bound, like the linears. */
void bind_conv_norm(struct binder *binder, struct conv2d *out, struct conv2d_shape shape, float eps,
                    const char *conv, const char *norm);

/* "<name>.weight" [dim] and "<name>.bias" [dim]. */
void bind_norm(struct binder *binder, struct norm *out, size_t dim, float eps, const char *name,
               ...) __attribute__((format(printf, 5, 6)));

#endif
