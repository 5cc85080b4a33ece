/*
 * job.c: see job.h.
 */
#include "core/runtime/job.h"

#include <stdlib.h>

#include "core/base/size.h"

struct job *job_new(enum task task, size_t n_works)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->works = calloc(n_works ? n_works : 1, sizeof *job->works);
    if (!job->works) {
        free(job);
        return NULL;
    }
    job->task = task;
    job->n_works = n_works;
    atomic_init(&job->cancelled, false);
    return job;
}

void work_clear(struct work *work)
{
    for (size_t i = 0; i < work->n_images; i++) {
        pixels_release(&work->images[i]);
        if (work->features)
            features_unref(work->features[i]);
    }
    free(work->images);
    free(work->features);
    for (size_t i = 0; i < work->n_texts; i++)
        tokens_release(&work->texts[i]);
    free(work->texts);
    for (size_t i = 0; i < work->n_stops; i++)
        free(work->stops[i]);
    free(work->text_embeddings);
    free(work->outputs);
    for (size_t i = 0; i < work->n_generated; i++) {
        free(work->generated[i].ids);
        free(work->generated[i].logprobs);
        free(work->generated[i].top);
    }
    free(work->generated);
    *work = (struct work){0};
}

void job_free(struct job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->n_works; i++)
        work_clear(&job->works[i]);
    free(job->works);
    free(job);
}

size_t work_pairs(const struct work *work)
{
    return work->n_texts ? work->n_texts : 1;
}

enum status work_set_images(struct work *work, size_t n, struct error *err)
{
    struct pixels *images = calloc(n ? n : 1, sizeof *images);
    struct features **features = calloc(n ? n : 1, sizeof(struct features *));
    if (!images || !features) {
        free(images);
        free(features);
        return error_no_memory(err, "a request's pictures");
    }
    work->images = images;
    work->features = features;
    work->n_images = n;
    return STATUS_OK;
}

enum status work_set_texts(struct work *work, size_t n, struct error *err)
{
    struct tokens *texts = calloc(n ? n : 1, sizeof *texts);
    if (!texts)
        return error_no_memory(err, "a request's texts");
    work->texts = texts;
    work->n_texts = n;
    return STATUS_OK;
}
