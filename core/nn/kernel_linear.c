/*
 * kernel_linear.c: one block of y = activation(x · weightᵀ + bias) + residual.
 *
 * Rows in full vectors go through the lanes form, the rest (and everything, when there are few)
 * through the dot form. What follows the product is done on LANES_STEP outputs at a time, while
 * they are in the first cache, and each output is written once.
 */
#include "core/nn/kernel_finish.h"
#include "core/nn/kernel_tile.h"

static void few_rows(const struct linear_job *job, size_t row, size_t n_rows, size_t out, size_t n)
{
    size_t n_in = job->linear->n_in;
    const float *rows[LANES];
    _Alignas(64) float values[LANES * LANES_STEP];
    while (n_rows > 0) {
        size_t now = min_size(LANES, n_rows);
        for (size_t r = 0; r < now; r++) {
            rows[r] = job->x + (row + r) * n_in;
            memset(values + r * LANES_STEP + n, 0, (LANES_STEP - n) * sizeof *values);
        }
        dot_product(rows, now, job->linear->weight + out * n_in, n_in, n, n_in, values, LANES_STEP);
        finish(job, NULL, values, LANES_STEP, row, now, out, n);
        row += now;
        n_rows -= now;
    }
}

/* Turns sums, columns[n][vecs · LANES] for n <= LANES_STEP outputs, into the first n_rows rows of
 * results. */
static void finish_columns(const struct linear_job *job, const float *columns, size_t vecs,
                           size_t row, size_t n_rows, size_t out, size_t n)
{
    _Alignas(64) float values[LANES_MAX * LANES_STEP];
    for (size_t v = 0; v < vecs; v++) {
        for (size_t c = 0; c < LANES_STEP; c += LANES) {
            vec block[LANES];
            for (size_t i = 0; i < LANES; i++)
                block[i] = c + i < n ? vec_load(columns + ((c + i) * vecs + v) * LANES) : (vec){0};
            vec_transpose(block);
            for (size_t i = 0; i < LANES; i++)
                vec_store(values + (v * LANES + i) * LANES_STEP + c, block[i]);
        }
    }
    finish(job, NULL, values, LANES_STEP, row, n_rows, out, n);
}

/* One group of packed rows against LANES_STEP outputs. */
static void group_rows(const struct linear_job *job, const float *packed, size_t vecs, size_t row,
                       size_t out, size_t n)
{
    size_t n_in = job->linear->n_in, n_rows = vecs * LANES;
    _Alignas(64) float columns[LANES_STEP * LANES_MAX];
    /* Where the results go, to have the lines at hand when they come. */
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n; c += 16)
            __builtin_prefetch(job->y + (row + r) * job->linear->n_out + out + c, 1);
    lanes_product(vecs, job->linear->weight + out * n_in, n_in, 1, n, packed, n_in, columns, false);
    finish_columns(job, columns, vecs, row, n_rows, out, n);
}

/* A group of rows too long to lie packed as a whole: a stretch of them at a time, the sums of all
 * the task's outputs kept meanwhile. */
static void long_rows(const struct linear_job *job, float *scratch, size_t vecs, size_t row,
                      size_t out, size_t n_out)
{
    size_t n_in = job->linear->n_in, width = vecs * LANES;
    size_t n_parts = (n_in + LINEAR_LONG - 1) / LINEAR_LONG, step = (n_in + n_parts - 1) / n_parts;
    float *packed = scratch, *columns = scratch + LANES_MAX * LINEAR_LONG;
    for (size_t k = 0; k < n_in; k += step) {
        size_t n_k = min_size(step, n_in - k);
        const float *rows[LANES_MAX];
        for (size_t i = 0; i < width; i++)
            rows[i] = job->x + (row + i) * n_in + k;
        lanes_pack(vecs, rows, n_k, 1, packed);
        lanes_product(vecs, job->linear->weight + out * n_in + k, n_in, 1, n_out, packed, n_k,
                      columns, k > 0);
    }
    for (size_t o = 0; o < n_out; o += LANES_STEP)
        finish_columns(job, columns + o * width, vecs, row, width, out + o,
                       min_size(LANES_STEP, n_out - o));
}

/* Packs n_rows rows, group after group; rows of a block stay packed in the thread's scratch while
 * its tasks of the same job go over the outputs. */
static const float *pack_rows(const struct linear_job *job, struct scratch *scratch, size_t row,
                              size_t vecs)
{
    size_t n_in = job->linear->n_in;
    if (n_in == 0 || vecs > SCRATCH_FLOATS / LANES / n_in)
        return NULL;
    if (scratch->job_id == job->id && scratch->row == row)
        return scratch->floats;
    scratch->job_id = job->id;
    scratch->row = row;
    float *to = scratch->floats;
    for (size_t v = 0; v < vecs;) {
        size_t group = group_vecs(vecs - v), from = row + v * LANES;
        const float *rows[LANES_MAX];
        for (size_t i = 0; i < group * LANES; i++)
            rows[i] = job->x + (from + i) * n_in;
        lanes_pack(group, rows, n_in, 1, to);
        to += group * LANES * n_in;
        v += group;
    }
    return scratch->floats;
}

void KERNEL(linear_block)(const struct linear_job *job, size_t row, size_t n_rows, size_t out,
                          size_t n_out)
{
    size_t n_in = job->linear->n_in, vecs = n_rows / LANES; /* the rest is few_rows()'s */
    bool is_long = linear_is_long(job);
    struct scratch *scratch = vecs ? scratch_of_thread() : NULL;
    const float *packed = NULL;
    if (scratch && !is_long)
        packed = pack_rows(job, scratch, row, vecs);
    if (!scratch || (!is_long && !packed))
        vecs = 0;
    if (is_long && vecs) {
        scratch->job_id = 0;
        for (size_t v = 0, group; v < vecs; v += group) {
            group = group_vecs(vecs - v);
            long_rows(job, scratch->floats, group, row + v * LANES, out, n_out);
        }
    }
    for (size_t end = out + n_out; out < end; out += LANES_STEP) {
        size_t n = min_size(LANES_STEP, end - out);
        for (size_t v = 0, group; packed && v < vecs; v += group) {
            group = group_vecs(vecs - v);
            group_rows(job, packed + v * LANES * n_in, group, row + v * LANES, out, n);
        }
        if (n_rows > vecs * LANES)
            few_rows(job, row + vecs * LANES, n_rows - vecs * LANES, out, n);
    }
}
