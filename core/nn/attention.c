/*
 * attention.c: attention cut into tasks: a block of queries of one head, or, where an item has few
 * queries (decoding), all of them for the heads that share one key/value head.
 */
#include <string.h>

#include "core/nn/kernels.h"

/* Up to so many queries, dot products beat lanes that are mostly empty; from TILES_QUERIES on it is
 * worth laying keys and values out as tiles. */
enum { FEW_QUERIES = 4, TILES_QUERIES = 16, HEAD_DIM_BLOCK_MAX = 1024 };

struct attention_job {
    const struct attention_shape *shape;
    const struct attention_item *items;
    size_t n_items;
};

static bool takes_tiles(const struct attention_shape *shape, size_t n_q)
{
    return shape->form != WEIGHT_F32 && kernels()->attention_tiles && n_q >= TILES_QUERIES &&
           shape->head_dim <= ATTENTION_TILES_DIM;
}

enum dtype nn_attention_dtype(const struct attention_shape *shape, size_t n_q)
{
    return takes_tiles(shape, n_q) ? DTYPE_BF16 : DTYPE_F32;
}

/* Lanes do not read queries of bf16. */
static bool is_few(const struct attention_job *job, const struct attention_item *item)
{
    return item->n_q <= FEW_QUERIES || job->shape->head_dim > HEAD_DIM_BLOCK_MAX ||
           (item->q_dtype == DTYPE_BF16 && !takes_tiles(job->shape, item->n_q));
}

/* Queries of a task: as many as a group takes, or, for tiles, blocks of nearly equal size. */
static size_t block_q(const struct attention_job *job, const struct attention_item *item)
{
    if (!takes_tiles(job->shape, item->n_q))
        return kernels()->group_rows;
    size_t n_blocks = (item->n_q + ATTENTION_TILES_Q - 1) / ATTENTION_TILES_Q;
    return ((item->n_q + n_blocks - 1) / n_blocks + 31) / 32 * 32;
}

static size_t item_tasks(const struct attention_job *job, const struct attention_item *item)
{
    if (item->n_q == 0)
        return 0;
    if (is_few(job, item))
        return job->shape->n_kv_heads;
    size_t each = block_q(job, item);
    return (item->n_q + each - 1) / each * job->shape->n_heads;
}

static void attention_task(void *context, size_t i)
{
    const struct attention_job *job = context;
    const struct attention_item *item = job->items;
    for (size_t n; i >= (n = item_tasks(job, item)); item++)
        i -= n;
    if (is_few(job, item)) {
        kernels()->attention_few(job->shape, item, i);
        return;
    }
    size_t each = block_q(job, item), blocks = (item->n_q + each - 1) / each;
    size_t head = i / blocks, q0 = i % blocks * each, n_q = min_size(each, item->n_q - q0);
    if (scratch_of_thread() && takes_tiles(job->shape, item->n_q)) {
        kernels()->attention_tiles(job->shape, item, head, q0, n_q);
    } else if (scratch_of_thread()) {
        kernels()->attention_block(job->shape, item, head, q0, n_q);
    } else if (q0 == 0 && head % (job->shape->n_heads / job->shape->n_kv_heads) == 0) {
        /* No memory for scratch: the way without, once for the whole item and key/value head. */
        kernels()->attention_few(job->shape, item,
                                 head / (job->shape->n_heads / job->shape->n_kv_heads));
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
    size_t n_tasks = 0, cost = 0;
    for (size_t i = 0; i < n_items; i++) {
        n_tasks += item_tasks(&job, &items[i]);
        cost += 2 * items[i].n_q * items[i].n_kv * shape->n_heads * shape->head_dim;
    }
    pool_run_sized(compute->pool, n_tasks, 2 * cost, attention_task, &job);
    return STATUS_OK;
}

enum { KEEP_ROWS = 16 };

struct keep_job {
    const float *rows;
    size_t n_rows, n_heads, head_dim;
    enum dtype dtype;
    void *to;
};

static void keep_rows(void *context, size_t i)
{
    const struct keep_job *job = context;
    size_t end = min_size(job->n_rows, (i + 1) * KEEP_ROWS), dim = job->head_dim;
    for (size_t row = i * KEEP_ROWS; row < end; row++) {
        const float *from = job->rows + row * job->n_heads * dim;
        for (size_t head = 0; head < job->n_heads; head++, from += dim) {
            size_t at = (head * job->n_rows + row) * dim;
            if (job->dtype == DTYPE_BF16)
                kernels()->f32_to_bf16(from, dim, (uint16_t *)job->to + at);
            else
                memcpy((float *)job->to + at, from, dim * sizeof *from);
        }
    }
}

void nn_keep_heads(const struct compute *compute, const float *rows, size_t n_rows, size_t n_heads,
                   size_t head_dim, enum dtype dtype, void *to)
{
    struct keep_job job = {rows, n_rows, n_heads, head_dim, dtype, to};
    pool_run_sized(compute->pool, (n_rows + KEEP_ROWS - 1) / KEEP_ROWS, n_rows * n_heads * head_dim,
                   keep_rows, &job);
}
