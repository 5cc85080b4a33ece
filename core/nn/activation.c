/*
 * activation.c: the functions between linear layers, under the names config.json calls them by.
 */
#include <math.h>
#include <string.h>

#include "core/nn/nn.h"
#include "core/nn/nn_internal.h"

/* transformers' ACT2FN, as far as published checkpoints use it. */
static const struct {
    const char *name;
    enum activation activation;
} names[] = {
    {"gelu", ACTIVATION_GELU},
    {"gelu_python", ACTIVATION_GELU},
    {"gelu_new", ACTIVATION_GELU_TANH},
    {"gelu_fast", ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
    {"gelu_python_tanh", ACTIVATION_GELU_TANH},
    {"gelu_accurate", ACTIVATION_GELU_TANH},
    {"quick_gelu", ACTIVATION_QUICK_GELU},
    {"relu", ACTIVATION_RELU},
    {"silu", ACTIVATION_SILU},
    {"swish", ACTIVATION_SILU},
    {"tanh", ACTIVATION_TANH},
    {"sigmoid", ACTIVATION_SIGMOID},
    {"linear", ACTIVATION_NONE},
};

bool activation_parse(const char *name, enum activation *out)
{
    for (size_t i = 0; name && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].activation;
            return true;
        }
    }
    return false;
}

void activate(enum activation activation, float *x, size_t n)
{
    switch (activation) {
    case ACTIVATION_GELU:
        for (size_t i = 0; i < n; i++)
            x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
        break;
    case ACTIVATION_GELU_TANH:
        for (size_t i = 0; i < n; i++)
            x[i] =
                0.5f * x[i] * (1.0f + tanhf(0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
        break;
    case ACTIVATION_QUICK_GELU:
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] / (1.0f + expf(-1.702f * x[i]));
        break;
    case ACTIVATION_RELU:
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] < 0.0f ? 0.0f : x[i];
        break;
    case ACTIVATION_SILU:
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] / (1.0f + expf(-x[i]));
        break;
    case ACTIVATION_TANH:
        for (size_t i = 0; i < n; i++)
            x[i] = tanhf(x[i]);
        break;
    case ACTIVATION_SIGMOID:
        for (size_t i = 0; i < n; i++)
            x[i] = 1.0f / (1.0f + expf(-x[i]));
        break;
    case ACTIVATION_NONE:
    case N_ACTIVATIONS:
        break;
    }
}

enum { ACTIVATE_CHUNK = 16384 };

struct activate_job {
    enum activation activation;
    float *x;
    size_t n;
};

static void activate_chunk(void *context, size_t i)
{
    struct activate_job *job = context;
    size_t from = i * ACTIVATE_CHUNK;
    size_t n = job->n - from < ACTIVATE_CHUNK ? job->n - from : ACTIVATE_CHUNK;
    activate(job->activation, job->x + from, n);
}

void nn_activate(const struct compute *compute, enum activation activation, float *x, size_t n)
{
    struct activate_job job = {activation, x, n};
    pool_run(compute->pool, (n + ACTIVATE_CHUNK - 1) / ACTIVATE_CHUNK, activate_chunk, &job);
}
