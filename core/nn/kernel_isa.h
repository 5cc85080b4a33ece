/*
 * kernel_isa.h: the names of the kernels of the instruction set this file is compiled for.
 */
#ifndef VLMD_CORE_NN_KERNEL_ISA_H
#define VLMD_CORE_NN_KERNEL_ISA_H

#include "core/nn/kernels.h"

/* KERNEL_ISA comes from meson.build: amx, avx512bf16, … portable. */
#define KERNEL_PASTE(name, isa)  name##_##isa
#define KERNEL_EXPAND(name, isa) KERNEL_PASTE(name, isa)
#define KERNEL(name)             KERNEL_EXPAND(name, KERNEL_ISA)
/* What a set that has packed products alone takes from the set below it (KERNEL_BASE, of its own
 * where it has all). */
#define BASE_KERNEL(name) KERNEL_EXPAND(name, KERNEL_BASE)

void KERNEL(linear_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                          size_t n_out);
bool KERNEL(packed_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                          size_t n_out);
bool KERNEL(packed_wide)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                         size_t n_out);
bool KERNEL(conv_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                        size_t n_out);
bool KERNEL(winograd_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                            size_t n_out);
void KERNEL(attention_block)(const struct attention_shape *shape, const struct attention_item *item,
                             size_t head, size_t q0, size_t n_q);
void KERNEL(attention_few)(const struct attention_shape *shape, const struct attention_item *item,
                           size_t kv_head);
void KERNEL(attention_tiles)(const struct attention_shape *shape, const struct attention_item *item,
                             size_t head, size_t q0, size_t n_q);
double KERNEL(bf16_gain)(void);
void KERNEL(activate)(enum activation activation, float *x, size_t n);
void KERNEL(softmax_row)(float *x, size_t n);
float KERNEL(log_sum_row)(const float *x, size_t n);
void KERNEL(layer_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16);
void KERNEL(rms_norm_row)(const struct norm *norm, const float *x, float *y, uint16_t *y_bf16);
void KERNEL(f32_to_bf16)(const float *src, size_t n, uint16_t *dst);
void BASE_KERNEL(dtype_to_f32)(const void *src, enum dtype dtype, size_t n, float *dst);
void KERNEL(dot_rows)(enum dot_form form, const void *rows, const float *scales, size_t n,
                      size_t dim, const float *query, float *scores);

#endif
