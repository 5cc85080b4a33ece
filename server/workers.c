/*
 * workers.c: a FIFO of tickets under one mutex.
 */
#include "server/workers.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/base/size.h"

struct workers {
    pthread_mutex_t mutex; /* guards first, last, stop; taken alone */
    pthread_cond_t more;
    struct ticket *first, *last;
    bool stop;
    size_t n_threads;
    pthread_t threads[];
};

static void *worker_main(void *argument)
{
    struct workers *workers = argument;
    pthread_mutex_lock(&workers->mutex);
    for (;;) {
        struct ticket *ticket = workers->first;
        if (ticket) {
            workers->first = ticket->next;
            if (!workers->first)
                workers->last = NULL;
            pthread_mutex_unlock(&workers->mutex);
            ticket->next = NULL;
            ticket->run(ticket);
            pthread_mutex_lock(&workers->mutex);
        } else if (workers->stop) {
            break;
        } else {
            pthread_cond_wait(&workers->more, &workers->mutex);
        }
    }
    pthread_mutex_unlock(&workers->mutex);
    return NULL;
}

struct workers *workers_new(size_t n_threads, struct error *err)
{
    struct workers *workers = calloc(1, sizeof *workers + n_threads * sizeof workers->threads[0]);
    if (!workers) {
        error_no_memory(err, "the worker pool");
        return NULL;
    }
    pthread_mutex_init(&workers->mutex, NULL);
    pthread_cond_init(&workers->more, NULL);
    for (size_t i = 0; i < n_threads; i++) {
        if (pthread_create(&workers->threads[i], NULL, worker_main, workers)) {
            error_set(err, STATUS_INTERNAL, "cannot start worker thread %zu of %zu", i + 1,
                      n_threads);
            workers_free(workers);
            return NULL;
        }
        workers->n_threads++;
    }
    return workers;
}

void workers_free(struct workers *workers)
{
    if (!workers)
        return;
    pthread_mutex_lock(&workers->mutex);
    workers->stop = true;
    pthread_cond_broadcast(&workers->more);
    pthread_mutex_unlock(&workers->mutex);
    for (size_t i = 0; i < workers->n_threads; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->more);
    pthread_mutex_destroy(&workers->mutex);
    free(workers);
}

void workers_push(struct workers *workers, struct ticket *ticket)
{
    ticket->next = NULL;
    pthread_mutex_lock(&workers->mutex);
    if (workers->last)
        workers->last->next = ticket;
    else
        workers->first = ticket;
    workers->last = ticket;
    pthread_cond_signal(&workers->more);
    pthread_mutex_unlock(&workers->mutex);
}
