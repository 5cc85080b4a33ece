/*
 * sampler.h: random numbers and draws for sampled generation.
 *
 * The generator is counter-based: a number is a pure function of (seed, stream, step, draw). So a
 * sequence's text depends on its request's seed and on its place in it alone, never on what else
 * shares the batch. Stateless; any thread.
 */
#ifndef VLMD_CORE_RUNTIME_SAMPLER_H
#define VLMD_CORE_RUNTIME_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In (0, 1), evenly spread, 52 bits. */
double sampler_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t draw);

/* Draws i with probability softmax(scores)[i] by the inverse of the cumulative sum in order of i;
 * `uniform` is in (0, 1). scores of -INFINITY are never drawn. False when no score is finite or one
 * is not a number. */
bool sampler_draw(const float *scores, size_t n, double uniform, size_t *out);

#endif
