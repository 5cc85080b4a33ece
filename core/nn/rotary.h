/*
 * rotary.h: rotary position embeddings (Su et al., 2021): pairs of a head's features are turned by
 * an angle that grows with the position.
 */
#ifndef VLMD_CORE_NN_ROTARY_H
#define VLMD_CORE_NN_ROTARY_H

#include "core/nn/nn.h"

/* Pair i turns by position · theta^(-2 i / dim), computed in f32 as the reference does. cosines and
 * sines are [n_positions, dim / 2]; dim is even. */
void nn_rotary_table(const float *positions, size_t n_positions, size_t dim, float theta,
                     float *cosines, float *sines);

/* The same with several positions to a row (Qwen2-VL's time, height, width): positions is
 * [n_kinds, n_positions]; the first sections[0] pairs turn by kind 0, the next sections[1] by kind
 * 1, and so on; the sections sum to dim / 2 (pairs past them turn by the last kind). */
void nn_rotary_table_sections(const float *positions, size_t n_positions, const size_t *sections,
                              size_t n_kinds, size_t dim, float theta, float *cosines,
                              float *sines);

/* Several positions to a row again, but each with frequencies of its own, as over heads of dim
 * features (the rows and columns of a vision tower): positions [n_kinds, n_positions] → cosines and
 * sines [n_positions, n_kinds · dim / 2], kind after kind. */
void nn_rotary_table_axes(const float *positions, size_t n_positions, size_t n_kinds, size_t dim,
                          float theta, float *cosines, float *sines);

enum rotary_pairs {
    ROTARY_HALVES,  /* i and i + dim / 2 (Llama, GPT-NeoX, Qwen, Gemma) */
    ROTARY_ADJACENT /* 2 i and 2 i + 1 (GPT-J, the paper) */
};

/* Turns, in place, the first `dim` features of each head: rows of n_heads heads of head_dim floats,
 * rows row_stride floats apart; row r uses row r of the tables. dim <= head_dim, even. */
void nn_rotary(const struct compute *compute, enum rotary_pairs pairs, float *x, size_t n_rows,
               size_t row_stride, size_t n_heads, size_t head_dim, size_t dim, const float *cosines,
               const float *sines);

#endif
