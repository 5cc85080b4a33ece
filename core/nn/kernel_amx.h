/*
 * kernel_amx.h: the tile registers, for the kernel files that are compiled with AMX.
 */
#ifndef VLMD_CORE_NN_KERNEL_AMX_H
#define VLMD_CORE_NN_KERNEL_AMX_H

#include <immintrin.h>
#include <stdint.h>

enum { TILE_ROWS = 16, TILE_BYTES = 1024 };

/* All eight tiles are 16 rows of 64 bytes. Given back at the block's end (_tile_release), so that a
 * thread that does other things is not switched with their 8 KB. */
static inline void tiles_begin(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

/* Before tiles are loaded from what was just stored: GCC does not know that they read memory. */
static inline void tiles_see_memory(void)
{
    __asm__ volatile("" ::: "memory");
}

#endif
