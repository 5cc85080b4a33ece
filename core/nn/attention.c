/*
 * attention.c: softmax(scale · q kᵀ + mask) v, a block of queries of one head at a time, with the
 * running maximum and sum of "online" softmax (Milakov and Gimelshein, 2018) over blocks of keys,
 * so that one block of scores is all that is ever stored.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/nn/nn.h"
#include "core/nn/nn_internal.h"

enum { BLOCK_Q = 64, BLOCK_KV = 256 };

struct attention_job {
    const struct attention_shape *shape;
    const struct attention_item *items;
    size_t n_items;
};

static void attention_block(const struct attention_shape *shape, const struct attention_item *item,
                            size_t head, size_t q0, size_t n_q)
{
    float scores[BLOCK_Q * BLOCK_KV], max[BLOCK_Q], sum[BLOCK_Q];
    size_t dim = shape->head_dim;
    size_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const float *q = item->q + q0 * item->q_stride + head * dim;
    const float *k = item->k + kv_head * dim, *v = item->v + kv_head * dim;
    float *out = item->out + q0 * item->out_stride + head * dim;
    for (size_t i = 0; i < n_q; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
        memset(out + i * item->out_stride, 0, dim * sizeof *out);
    }
    for (size_t k0 = 0; k0 < item->n_kv; k0 += BLOCK_KV) {
        size_t n_k = min_size(BLOCK_KV, item->n_kv - k0);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_q, (int)n_k, (int)dim,
                    shape->scale, q, (int)item->q_stride, k + k0 * item->kv_stride,
                    (int)item->kv_stride, 0, scores, BLOCK_KV);
        for (size_t i = 0; i < n_q; i++) {
            float *row = scores + i * BLOCK_KV;
            if (item->key_bias)
                for (size_t j = 0; j < n_k; j++)
                    row[j] += item->key_bias[k0 + j];
            if (shape->causal)
                for (size_t j = 0; j < n_k; j++)
                    if (k0 + j + item->n_q > item->n_kv + q0 + i)
                        row[j] = -INFINITY;
            float top = max[i];
            for (size_t j = 0; j < n_k; j++)
                top = row[j] > top ? row[j] : top;
            float shift = top == -INFINITY ? 0 : top;
            float keep = expf(max[i] - shift), total = 0;
            for (size_t j = 0; j < n_k; j++)
                total += row[j] = expf(row[j] - shift);
            max[i] = top;
            sum[i] = sum[i] * keep + total;
            for (size_t d = 0; d < dim; d++)
                out[i * item->out_stride + d] *= keep;
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n_q, (int)dim, (int)n_k, 1,
                    scores, BLOCK_KV, v + k0 * item->kv_stride, (int)item->kv_stride, 1, out,
                    (int)item->out_stride);
    }
    for (size_t i = 0; i < n_q; i++)
        for (size_t d = 0; d < dim; d++)
            out[i * item->out_stride + d] *= sum[i] > 0 ? 1 / sum[i] : 0;
}

static void attention_task(void *context, size_t i)
{
    const struct attention_job *job = context;
    size_t head = i % job->shape->n_heads, block = i / job->shape->n_heads;
    for (size_t at = 0; at < job->n_items; at++) {
        const struct attention_item *item = &job->items[at];
        size_t blocks = (item->n_q + BLOCK_Q - 1) / BLOCK_Q;
        if (block < blocks) {
            size_t q0 = block * BLOCK_Q;
            attention_block(job->shape, item, head, q0, min_size(BLOCK_Q, item->n_q - q0));
            return;
        }
        block -= blocks;
    }
}

enum status nn_attention(const struct compute *compute, const struct attention_shape *shape,
                         const struct attention_item *items, size_t n_items, struct error *err)
{
    if (shape->n_kv_heads == 0 || shape->n_heads % shape->n_kv_heads != 0)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "%zu attention heads cannot share %zu key/value heads", shape->n_heads,
                         shape->n_kv_heads);
    struct attention_job job = {shape, items, n_items};
    size_t n_blocks = 0;
    for (size_t i = 0; i < n_items; i++)
        n_blocks += (items[i].n_q + BLOCK_Q - 1) / BLOCK_Q;
    pool_run(compute->pool, n_blocks * shape->n_heads, attention_task, &job);
    return STATUS_OK;
}
