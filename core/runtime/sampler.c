/*
 * sampler.c: see sampler.h. The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood:
 * "Fast splittable pseudorandom number generators", 2014), applied once per coordinate.
 */
#include "core/runtime/sampler.h"

#include <math.h>

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

double sampler_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t draw)
{
    uint64_t bits = mix(mix(mix(mix(seed) ^ stream) ^ step) ^ draw);
    return ((double)(bits >> 12) + 0.5) * 0x1p-52;
}

bool sampler_draw(const float *scores, size_t n, double uniform, size_t *out)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (isnan(scores[i]))
            return false;
        max = scores[i] > max ? scores[i] : max;
    }
    if (isinf(max))
        return false;
    double total = 0;
    for (size_t i = 0; i < n; i++)
        if (scores[i] != -INFINITY)
            total += (double)expf(scores[i] - max);
    double target = uniform * total, sum = 0;
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        if (scores[i] == -INFINITY)
            continue;
        float mass = expf(scores[i] - max);
        if (mass <= 0)
            continue;
        last = i;
        sum += (double)mass;
        if (sum > target)
            break;
    }
    *out = last; /* rounding at the very end falls on the last one with any mass */
    return true;
}
