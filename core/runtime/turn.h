/*
 * turn.h: whose pass it is: lanes take turns on the pool, first come, first served. Thread-safe.
 */
#ifndef VLMD_CORE_RUNTIME_TURN_H
#define VLMD_CORE_RUNTIME_TURN_H

#include <pthread.h>
#include <stdint.h>

struct turn {
    pthread_mutex_t mutex; /* guards both numbers; nothing else is locked under it */
    pthread_cond_t passed;
    uint64_t next, serving;
};

void turn_init(struct turn *turn);
void turn_release(struct turn *turn);
/* Draws a number and waits until it is called; turn_pass() calls the next one. */
void turn_take(struct turn *turn);
void turn_pass(struct turn *turn);

#endif
