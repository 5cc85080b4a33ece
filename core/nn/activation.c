/*
 * activation.c: the functions between linear layers, under the names config.json calls them by.
 */
#include <string.h>

#include "core/nn/kernels.h"

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
    kernels()->activate(job->activation, job->x + from, n);
}

void nn_activate(const struct compute *compute, enum activation activation, float *x, size_t n)
{
    if (activation == ACTIVATION_NONE)
        return;
    struct activate_job job = {activation, x, n};
    pool_run(compute->pool, (n + ACTIVATE_CHUNK - 1) / ACTIVATE_CHUNK, activate_chunk, &job);
}
