/*
 * packed.h: weights in the forms that a chip's narrow units multiply.
 *
 * A packed weight [n_out, n_in] is one run of bytes, the same for every engine of x86, that can lie
 * anywhere at a multiple of 64 bytes: in memory or in a mapped file. It is a row of blocks of
 * PACK_OUT outputs (the last one filled up with zeros), and within a block the inputs go from first
 * to last, filled up with zeros to a multiple of PACK_IN. 64 bytes hold, for each of the block's
 * outputs, a word of 32 bits: what one step of vdpbf16ps, vpdpbusd or a row of a tile takes.
 *
 *   bf16   [k / 2][16] words of 2 inputs, rounded to nearest even.
 *   int8   [k / 4][16] words of 4 signed inputs, then float scale[16] and int32_t sum[16] (of the
 *          integers), so that Σ (x - zero) w = Σ x w - zero · sum.
 *   int4   [k / 8][16] words of 2 × 4 inputs, then bf16 scale[k / INT4_GROUP][16]. Bits 16 h + 4 p
 *          and on of word j are input 8 j + 2 p + h: moved right by 4 p, both halves are bf16's
 *          pair, and every other nibble is a byte of int8's words. A weight is (nibble - 8) · its
 *          group's scale; scales have 5 significant bits, so that this is a bf16.
 *
 * What a form holds, in bytes per weight: 2, 1, 0.5625.
 */
#ifndef VLMD_CORE_NN_PACKED_H
#define VLMD_CORE_NN_PACKED_H

#include "core/nn/nn.h"

/* Of this layout, and of the rules by which weights are rounded: goes up when either changes, so
 * that what was kept in files (core/weights/cache.h) is made anew. */
enum { PACK_VERSION = 2 };

/* PACK_IN_MAX: the longest rows that are packed; longer ones stay f32. INT4_FEW_ROWS: products of
 * so many rows against int4 take the units of int8 where the chip has them. */
enum { PACK_OUT = 16, PACK_IN = 64, PACK_IN_MAX = 32768, INT4_GROUP = 32, INT4_FEW_ROWS = 12 };

static inline size_t packed_in(size_t n_in)
{
    return (n_in + PACK_IN - 1) / PACK_IN * PACK_IN;
}

/* Of one block of PACK_OUT outputs. */
static inline size_t packed_block_bytes(enum weight_form form, size_t n_in)
{
    size_t k = packed_in(n_in);
    return form == WEIGHT_BF16   ? k * PACK_OUT * 2
           : form == WEIGHT_INT8 ? k * PACK_OUT + 2 * PACK_OUT * 4
                                 : k * PACK_OUT / 2 + k / INT4_GROUP * PACK_OUT * 2;
}

#endif
