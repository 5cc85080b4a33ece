/*
 * nn_reference.h: what the tests of core/nn compare with: plain loops in double, and random input
 * that is the same in every run.
 */
#ifndef VLMD_TESTS_NN_REFERENCE_H
#define VLMD_TESTS_NN_REFERENCE_H

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/nn/nn.h"

/* A test case's fixture: what passes compute with. */
static struct pool *pool;
static struct arena arena;
static struct compute compute;
static struct error err;

static void set_up(void)
{
    pool = pool_new(2, &err);
    ck_assert_ptr_nonnull(pool);
    arena_init(&arena, 0);
    compute = (struct compute){pool, &arena};
}

static void tear_down(void)
{
    pool_free(pool);
    arena_release(&arena);
}

static uint64_t random_state = 88172645463325252u;

static inline uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 2685821657736338717u;
}

static inline size_t random_below(size_t n)
{
    return (size_t)((random_next() >> 33) % n);
}

/* Uniform in [-scale, scale). */
static inline float random_float(float scale)
{
    return ((float)(random_next() >> 40) * 0x1p-23f - 1.0f) * scale;
}

/* n random floats, deliberately `offset` floats off their allocation's alignment. Past the end lies
 * a guard that the sanitizer watches. Free with floats_free(). */
static inline float *floats_random(size_t n, size_t offset, float scale)
{
    float *base = malloc((n + offset + 1) * sizeof *base);
    ck_assert_ptr_nonnull(base);
    base += offset + 1;
    uint32_t stored = (uint32_t)offset + 1;
    memcpy(base - 1, &stored, sizeof stored);
    for (size_t i = 0; i < n; i++)
        base[i] = random_float(scale);
    return base;
}

static inline void floats_free(float *floats)
{
    uint32_t stored;
    memcpy(&stored, floats - 1, sizeof stored);
    free(floats - stored);
}

static inline double activation_reference(enum activation activation, double x)
{
    switch (activation) {
    case ACTIVATION_GELU:
        return 0.5 * x * erfc(-x * sqrt(0.5));
    case ACTIVATION_GELU_TANH: {
        /* 1 + tanh(u) = 2 / (1 + exp(-2u)), without cancellation */
        double u = sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
        return x / (1 + exp(-2 * u));
    }
    case ACTIVATION_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case ACTIVATION_TANH:
        return tanh(x);
    case ACTIVATION_SIGMOID:
        return 1 / (1 + exp(-x));
    default:
        return x;
    }
}

/* Numbers as bf16, to nearest even; what they have become is written back. free() is the caller's.
 */
static inline uint16_t *floats_to_bf16(float *x, size_t n)
{
    uint16_t *narrow = malloc(n ? n * sizeof *narrow : 1);
    ck_assert_ptr_nonnull(narrow);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
        memcpy(x + i, &bits, sizeof bits);
        narrow[i] = (uint16_t)(bits >> 16);
    }
    return narrow;
}

/* |got - want| <= tolerance · (|want| + scale). */
static inline bool close_to(double got, double want, double tolerance, double scale)
{
    return fabs(got - want) <= tolerance * (fabs(want) + scale);
}

#endif
