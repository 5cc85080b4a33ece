/*
 * kernel_gain.c: whether products of bf16 by AVX512-BF16 are faster than those of f32, which the
 * chip does not tell: twice as fast on some, slower on others.
 */
#include <immintrin.h>
#include <time.h>

#include "core/nn/kernel_isa.h"

static double seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* The times of the same number of instructions, each the best of several, as the thread may be
 * interrupted; one of bf16 multiplies twice as many numbers. */
double KERNEL(bf16_gain)(void)
{
    enum { ROUNDS = 12, STEPS = 500, CHAINS = 12 };
    double wide = 1, narrow = 1;
    __m512i one = _mm512_set1_epi32(0x3F803F80);
    for (int round = 0; round < ROUNDS; round++) {
        __m512 sums[2][CHAINS] = {0};
        double start = seconds_now();
        for (int step = 0; step < STEPS; step++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                sums[0][i] = _mm512_fmadd_ps((__m512)one, (__m512)one, sums[0][i]);
                __asm__ volatile("" : "+v"(sums[0][i])); /* each is done */
            }
        double middle = seconds_now();
        for (int step = 0; step < STEPS; step++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
                sums[1][i] = _mm512_dpbf16_ps(sums[1][i], (__m512bh)one, (__m512bh)one);
                __asm__ volatile("" : "+v"(sums[1][i]));
            }
        double end = seconds_now();
        wide = middle - start < wide ? middle - start : wide;
        narrow = end - middle < narrow ? end - middle : narrow;
    }
    return narrow > 0 ? 2 * wide / narrow : 0;
}
