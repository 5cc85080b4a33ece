/*
 * packed.c: brings weights into the forms of packed.h, a block of outputs to a task.
 */
#include "core/nn/packed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/nn/kernels.h"

static const char *const form_names[N_WEIGHT_FORMS] = {
    [WEIGHT_F32] = "f32",
    [WEIGHT_BF16] = "bf16",
    [WEIGHT_INT8] = "int8",
    [WEIGHT_INT4] = "int4",
};

const char *weight_form_name(enum weight_form form)
{
    return (unsigned)form < N_WEIGHT_FORMS ? form_names[form] : "?";
}

bool weight_form_parse(const char *name, enum weight_form *out)
{
    for (enum weight_form form = 0; form < N_WEIGHT_FORMS; form++) {
        if (strcmp(name, form_names[form]) == 0) {
            *out = form;
            return true;
        }
    }
    return false;
}

size_t linear_packed_bytes(enum weight_form form, size_t n_out, size_t n_in)
{
    size_t n;
    if (form == WEIGHT_F32 || n_in == 0 || n_in > PACK_IN_MAX ||
        !size_mul((n_out + PACK_OUT - 1) / PACK_OUT, packed_block_bytes(form, n_in), &n))
        return 0;
    return n;
}

/* ---- packing --------------------------------------------------------------------------------- */

enum { CHUNK = 256 }; /* inputs at a time; a multiple of INT4_GROUP and PACK_IN */

struct pack_job {
    enum weight_form form;
    const unsigned char *weight;
    enum dtype dtype;
    size_t n_out, n_in;
    unsigned char *to;
    _Atomic uint32_t worst; /* int8: the largest error of a block, in millionths */
};

/* Inputs [k, k + CHUNK) of the block's outputs as f32, 0 past the ends. */
static void read_chunk(const struct pack_job *job, size_t block, size_t k,
                       float values[PACK_OUT][CHUNK])
{
    size_t each = dtype_size(job->dtype), n = k < job->n_in ? min_size(CHUNK, job->n_in - k) : 0;
    for (size_t i = 0; i < PACK_OUT; i++) {
        size_t out = block * PACK_OUT + i, valid = out < job->n_out ? n : 0;
        if (valid)
            dtype_to_f32(job->weight + (out * job->n_in + k) * each, job->dtype, valid, values[i]);
        memset(values[i] + valid, 0, (CHUNK - valid) * sizeof(float));
    }
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Nearest even; what isn't a number stays so. */
static inline uint32_t bf16_from(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return value == value ? rounded : (bits >> 16 | 64);
}

static void pack_bf16(const struct pack_job *job, size_t block, unsigned char *to)
{
    float values[PACK_OUT][CHUNK];
    size_t n_k = packed_in(job->n_in);
    for (size_t k = 0; k < n_k; k += CHUNK) {
        read_chunk(job, block, k, values);
        for (size_t j = 0; j < min_size(CHUNK, n_k - k); j += 2) {
            uint32_t words[PACK_OUT];
            for (size_t i = 0; i < PACK_OUT; i++)
                words[i] = bf16_from(values[i][j]) | bf16_from(values[i][j + 1]) << 16;
            memcpy(to + (k + j) * PACK_OUT * 2, words, sizeof words);
        }
    }
}

/* Returns the root of the squared error relative to the weights'. */
static double pack_int8(const struct pack_job *job, size_t block, unsigned char *to)
{
    float values[PACK_OUT][CHUNK], scale[PACK_OUT], factor[PACK_OUT], max[PACK_OUT] = {0};
    int32_t sum[PACK_OUT] = {0};
    double errors = 0, squares = 0;
    size_t n_k = packed_in(job->n_in);
    for (size_t k = 0; k < n_k; k += CHUNK) {
        read_chunk(job, block, k, values);
        for (size_t i = 0; i < PACK_OUT; i++)
            for (size_t j = 0; j < CHUNK; j++)
                max[i] = fabsf(values[i][j]) > max[i] ? fabsf(values[i][j]) : max[i];
    }
    for (size_t i = 0; i < PACK_OUT; i++) {
        scale[i] = max[i] / 127;
        factor[i] = max[i] > 1e-30f && isfinite(max[i]) ? 127 / max[i] : 0;
    }
    for (size_t k = 0; k < n_k; k += CHUNK) {
        read_chunk(job, block, k, values);
        float error = 0, square = 0;
        for (size_t j = 0; j < min_size(CHUNK, n_k - k); j += 4) {
            signed char words[PACK_OUT][4];
            for (size_t i = 0; i < PACK_OUT; i++) {
                for (size_t b = 0; b < 4; b++) {
                    float value = values[i][j + b], rounded = rintf(value * factor[i]);
                    int whole = rounded >= -127 && rounded <= 127 ? (int)rounded : 0;
                    float off = value - (float)whole * scale[i];
                    words[i][b] = (signed char)whole;
                    sum[i] += whole;
                    error += off * off;
                    square += value * value;
                }
            }
            memcpy(to + (k + j) * PACK_OUT, words, sizeof words);
        }
        errors += (double)error;
        squares += (double)square;
    }
    memcpy(to + n_k * PACK_OUT, scale, sizeof scale);
    memcpy(to + n_k * PACK_OUT + sizeof scale, sum, sizeof sum);
    if (!(squares > 0)) /* nothing but zeros is exact; what is no number cannot be held */
        return squares == 0 ? 0 : 1;
    return isfinite(squares) ? sqrt(errors / squares) : 1;
}

static void pack_int4(const struct pack_job *job, size_t block, unsigned char *to)
{
    float values[PACK_OUT][CHUNK];
    size_t n_k = packed_in(job->n_in);
    unsigned char *scales = to + n_k * PACK_OUT / 2;
    for (size_t k = 0; k < n_k; k += CHUNK) {
        read_chunk(job, block, k, values);
        for (size_t g = 0; g < min_size(CHUNK, n_k - k); g += INT4_GROUP) {
            uint32_t words[INT4_GROUP / 8][PACK_OUT] = {0};
            for (size_t i = 0; i < PACK_OUT; i++) {
                /* the largest weight is -8 steps, whichever its sign: 16 steps, none unused */
                float most = 0;
                for (size_t j = g; j < g + INT4_GROUP; j++)
                    most = fabsf(values[i][j]) > fabsf(most) ? values[i][j] : most;
                /* 5 bits of a scale, so that its product with a weight's 3 is exact in bf16 */
                uint32_t wide = (bits_of(most / -8) + (1 << 18)) & 0xFFF80000;
                uint16_t scale = (uint16_t)(wide >> 16);
                float step;
                memcpy(&step, &wide, sizeof step);
                float factor = fabsf(step) > 1e-30f && isfinite(step) ? 1 / step : 0;
                memcpy(scales + (((k + g) / INT4_GROUP) * PACK_OUT + i) * 2, &scale, sizeof scale);
                for (size_t j = 0; j < INT4_GROUP; j++) {
                    float rounded = rintf(values[i][g + j] * factor) + 8;
                    uint32_t nibble = rounded > 15 ? 15 : rounded > 0 ? (uint32_t)rounded : 0;
                    words[j / 8][i] |= nibble << (16 * (j % 2) + 4 * (j % 8 / 2));
                }
            }
            memcpy(to + (k + g) * PACK_OUT / 2, words, sizeof words);
        }
    }
}

static void pack_task(void *context, size_t block)
{
    struct pack_job *job = context;
    unsigned char *to = job->to + block * packed_block_bytes(job->form, job->n_in);
    if (job->form == WEIGHT_BF16) {
        pack_bf16(job, block, to);
    } else if (job->form == WEIGHT_INT4) {
        pack_int4(job, block, to);
    } else {
        uint32_t error = (uint32_t)(pack_int8(job, block, to) * 1e6);
        uint32_t worst = atomic_load_explicit(&job->worst, memory_order_relaxed);
        while (error > worst && !atomic_compare_exchange_weak(&job->worst, &worst, error))
            ;
    }
}

double linear_pack(struct pool *pool, enum weight_form form, const void *weight, enum dtype dtype,
                   size_t n_out, size_t n_in, void *to)
{
    struct pack_job job = {
        .form = form, .weight = weight, .dtype = dtype, .n_out = n_out, .n_in = n_in, .to = to};
    size_t n_blocks = (n_out + PACK_OUT - 1) / PACK_OUT;
    if (pool)
        pool_run(pool, n_blocks, pack_task, &job);
    else
        for (size_t i = 0; i < n_blocks; i++)
            pack_task(&job, i);
    return (double)atomic_load(&job.worst) * 1e-6;
}

void linear_init_packed(struct linear *linear, enum weight_form form, const void *packed,
                        const float *bias, size_t n_out, size_t n_in)
{
    *linear =
        (struct linear){.form = form, .packed = packed, .bias = bias, .n_out = n_out, .n_in = n_in};
}
