/*
 * rotary.c: rotary position embeddings.
 */
#include "core/nn/rotary.h"

#include <math.h>

void nn_rotary_table_sections(const float *positions, size_t n_positions, const size_t *sections,
                              size_t n_kinds, size_t dim, float theta, float *cosines, float *sines)
{
    size_t half = dim / 2, kind = 0, end = n_kinds > 0 ? sections[0] : 0;
    for (size_t i = 0; i < half; i++) {
        while (i >= end && kind + 1 < n_kinds)
            end += sections[++kind];
        float frequency = 1.0f / powf(theta, (float)(2 * i) / (float)dim);
        for (size_t p = 0; p < n_positions; p++) {
            float angle = positions[kind * n_positions + p] * frequency;
            cosines[p * half + i] = cosf(angle);
            sines[p * half + i] = sinf(angle);
        }
    }
}

void nn_rotary_table(const float *positions, size_t n_positions, size_t dim, float theta,
                     float *cosines, float *sines)
{
    size_t whole = dim / 2;
    nn_rotary_table_sections(positions, n_positions, &whole, 1, dim, theta, cosines, sines);
}

void nn_rotary_table_axes(const float *positions, size_t n_positions, size_t n_kinds, size_t dim,
                          float theta, float *cosines, float *sines)
{
    size_t half = dim / 2, row = n_kinds * half;
    for (size_t i = 0; i < half; i++) {
        float frequency = 1.0f / powf(theta, (float)(2 * i) / (float)dim);
        for (size_t kind = 0; kind < n_kinds; kind++)
            for (size_t p = 0; p < n_positions; p++) {
                float angle = positions[kind * n_positions + p] * frequency;
                cosines[p * row + kind * half + i] = cosf(angle);
                sines[p * row + kind * half + i] = sinf(angle);
            }
    }
}

struct rotary_job {
    float *x;
    size_t n_rows, row_stride, n_heads, head_dim, dim;
    const float *cosines, *sines;
    size_t second, step; /* pair i: features step · i and second + step · i */
};

enum { CHUNK_ROWS = 8 };

static void rotary_rows(void *context, size_t chunk)
{
    const struct rotary_job *job = context;
    size_t half = job->dim / 2;
    for (size_t row = chunk * CHUNK_ROWS; row < job->n_rows && row < (chunk + 1) * CHUNK_ROWS;
         row++) {
        const float *cosines = job->cosines + row * half, *sines = job->sines + row * half;
        for (size_t head = 0; head < job->n_heads; head++) {
            float *x = job->x + row * job->row_stride + head * job->head_dim;
            float *second = x + job->second;
            for (size_t i = 0; i < half; i++) {
                float a = x[i * job->step], b = second[i * job->step];
                x[i * job->step] = a * cosines[i] - b * sines[i];
                second[i * job->step] = b * cosines[i] + a * sines[i];
            }
        }
    }
}

void nn_rotary(const struct compute *compute, enum rotary_pairs pairs, float *x, size_t n_rows,
               size_t row_stride, size_t n_heads, size_t head_dim, size_t dim, const float *cosines,
               const float *sines)
{
    bool halves = pairs == ROTARY_HALVES;
    struct rotary_job job = {
        .x = x,
        .n_rows = n_rows,
        .row_stride = row_stride,
        .n_heads = n_heads,
        .head_dim = head_dim,
        .dim = dim,
        .cosines = cosines,
        .sines = sines,
        .second = halves ? dim / 2 : 1,
        .step = halves ? 1 : 2,
    };
    pool_run(compute->pool, (n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS, rotary_rows, &job);
}
