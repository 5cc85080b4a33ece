/*
 * turn.c: a ticket lock that sleeps.
 */
#include "core/runtime/turn.h"

void turn_init(struct turn *turn)
{
    pthread_mutex_init(&turn->mutex, NULL);
    pthread_cond_init(&turn->passed, NULL);
    turn->next = turn->serving = 0;
}

void turn_release(struct turn *turn)
{
    pthread_mutex_destroy(&turn->mutex);
    pthread_cond_destroy(&turn->passed);
}

void turn_take(struct turn *turn)
{
    pthread_mutex_lock(&turn->mutex);
    uint64_t number = turn->next++;
    while (turn->serving != number)
        pthread_cond_wait(&turn->passed, &turn->mutex);
    pthread_mutex_unlock(&turn->mutex);
}

void turn_pass(struct turn *turn)
{
    pthread_mutex_lock(&turn->mutex);
    turn->serving++;
    pthread_cond_broadcast(&turn->passed); /* few lanes; each looks for its own number */
    pthread_mutex_unlock(&turn->mutex);
}
