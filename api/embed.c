/*
 * embed.c: see embed.h.
 */
#include "api/embed.h"

#include <stdint.h>
#include <stdlib.h>

/* Fills the next work; on failure it is emptied again, so that another item can take it. */
static enum status prepare(struct call *call, struct embed_item *item, struct work *work,
                           struct error *err)
{
    enum status status;
    work->kind = WORK_ENCODE;
    if (item->is_image) {
        status = call_picture_bytes(call, &item->picture, &item->bytes, err);
        if (!status)
            status = work_set_images(work, 1, err);
        if (!status)
            status = call_pixels_from_bytes(call, item->bytes, item->param, &work->images[0], err);
    } else {
        status = work_set_texts(work, 1, err);
        if (!status)
            status = call_tokens(call, TASK_EMBED, item->text, item->param, &work->texts[0], err);
    }
    if (status)
        work_clear(work);
    return status;
}

enum status embed_submit(struct call *call, struct embed_item *items, size_t n, const char *param,
                         bool *submitted, struct error *err)
{
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++)
        wanted += !items[i].skip;
    *submitted = false;
    if (!wanted) {
        for (size_t i = 0; i < n; i++)
            items[i].work = SIZE_MAX;
        return STATUS_OK;
    }
    enum status status = call_admit(call, wanted, param, err);
    if (status)
        return status;
    struct job *job = call_job(call, TASK_EMBED, wanted, err);
    if (!job)
        return err->status;
    size_t ready = 0;
    for (size_t i = 0; i < n; i++) {
        items[i].work = SIZE_MAX;
        if (items[i].skip)
            continue;
        if (!prepare(call, &items[i], &job->works[ready], &items[i].error))
            items[i].work = ready++;
    }
    if (!ready) {
        job_free(job);
        return STATUS_OK;
    }
    job->n_works = ready; /* the slots behind are empty */
    call_submit(call, job);
    *submitted = true;
    return STATUS_OK;
}

static const struct work *item_work(const struct call *call, const struct embed_item *item)
{
    return call->job && item->work < call->job->n_works ? &call->job->works[item->work] : NULL;
}

const float *embed_result(struct call *call, struct embed_item *item)
{
    const struct work *work = item_work(call, item);
    if (!work)
        return NULL;
    if (work->error.status) {
        item->error = work->error;
        return NULL;
    }
    if (!item->is_image)
        return work->text_embeddings;
    if (work->features[0]->n_rows != 1 || work->features[0]->dim != call->model->traits.embed_dim) {
        error_set(&item->error, STATUS_INTERNAL, "model '%.64s' gives no picture embedding",
                  call->model->name);
        return NULL;
    }
    return work->features[0]->rows;
}

size_t embed_text_tokens(const struct call *call, const struct embed_item *item)
{
    const struct work *work = item_work(call, item);
    return work && !item->is_image ? work->texts[0].n : 0;
}

bool embed_text_truncated(const struct call *call, const struct embed_item *item)
{
    const struct work *work = item_work(call, item);
    return work && !item->is_image && work->texts[0].truncated;
}
