/*
 * watcher.c: one epoll set and a list of what is in it, under one mutex.
 *
 * An event carries the watch's number. By the time it is handled the watch may have been removed
 * and freed, and another may stand at its address, so it counts only for the watch in the list that
 * has this number; the list is short enough to search (max_inflight) and events are rare.
 */
#include "server/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/stats.h"

enum { TICK_MS = 500, STOP = 0 };

struct watcher {
    int epoll_fd, stop_fd;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows and every watch in the list; taken alone */
    struct watch *first;
    uint64_t last_number; /* of a watch; STOP is none's */
};

/* Mutex held. */
static void unlink_watch(struct watcher *watcher, struct watch *watch)
{
    if (watch->hangup)
        epoll_ctl(watcher->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    if (watch->prev)
        watch->prev->next = watch->next;
    else
        watcher->first = watch->next;
    if (watch->next)
        watch->next->prev = watch->prev;
    watch->prev = watch->next = NULL;
    watch->active = false;
}

/* NULL: removed meanwhile. */
static struct watch *find_watch(const struct watcher *watcher, uint64_t number)
{
    struct watch *watch = watcher->first;
    while (watch && watch->number != number)
        watch = watch->next;
    return watch;
}

static void *watcher_main(void *argument)
{
    struct watcher *watcher = argument;
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(watcher->epoll_fd, events, 64, TICK_MS);
        if (n < 0 && errno != EINTR)
            return NULL;
        uint64_t now = clock_ns();
        pthread_mutex_lock(&watcher->mutex);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STOP) {
                pthread_mutex_unlock(&watcher->mutex);
                return NULL;
            }
            struct watch *watch = find_watch(watcher, events[i].data.u64);
            if (watch) {
                unlink_watch(watcher, watch);
                watch->events->gone(watch);
            }
        }
        for (struct watch *watch = watcher->first, *next; watch; watch = next) {
            next = watch->next;
            if (watch->deadline_ns && now >= watch->deadline_ns) {
                unlink_watch(watcher, watch);
                watch->events->late(watch);
            }
        }
        pthread_mutex_unlock(&watcher->mutex);
    }
}

struct watcher *watcher_new(struct error *err)
{
    struct watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher) {
        error_no_memory(err, "the connection watcher");
        return NULL;
    }
    watcher->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watcher->stop_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&watcher->mutex, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = STOP};
    if (watcher->epoll_fd < 0 || watcher->stop_fd < 0 ||
        epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, watcher->stop_fd, &event) ||
        pthread_create(&watcher->thread, NULL, watcher_main, watcher)) {
        error_set(err, STATUS_INTERNAL, "cannot start the connection watcher");
        if (watcher->epoll_fd >= 0)
            close(watcher->epoll_fd);
        if (watcher->stop_fd >= 0)
            close(watcher->stop_fd);
        pthread_mutex_destroy(&watcher->mutex);
        free(watcher);
        return NULL;
    }
    return watcher;
}

void watcher_free(struct watcher *watcher)
{
    if (!watcher)
        return;
    uint64_t one = 1;
    if (write(watcher->stop_fd, &one, sizeof one) == (ssize_t)sizeof one)
        pthread_join(watcher->thread, NULL);
    close(watcher->epoll_fd);
    close(watcher->stop_fd);
    pthread_mutex_destroy(&watcher->mutex);
    free(watcher);
}

void watcher_add(struct watcher *watcher, struct watch *watch, const struct watcher_events *events,
                 int fd, bool hangup, uint64_t deadline_ns)
{
    pthread_mutex_lock(&watcher->mutex);
    if (watch->active)
        unlink_watch(watcher, watch);
    *watch = (struct watch){.events = events,
                            .fd = fd,
                            .active = true,
                            .hangup = hangup,
                            .number = ++watcher->last_number,
                            .deadline_ns = deadline_ns,
                            .next = watcher->first};
    if (watcher->first)
        watcher->first->prev = watch;
    watcher->first = watch;
    struct epoll_event event = {.events = hangup ? EPOLLRDHUP : 0, .data.u64 = watch->number};
    /* A failure here (descriptor or memory limits) means that this client's leaving goes unnoticed:
     * its request is computed for nothing, as it would be without a watcher. EPOLLHUP and EPOLLERR
     * always count. */
    if (hangup)
        epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    pthread_mutex_unlock(&watcher->mutex);
}

void watcher_remove(struct watcher *watcher, struct watch *watch)
{
    pthread_mutex_lock(&watcher->mutex);
    if (watch->active)
        unlink_watch(watcher, watch);
    pthread_mutex_unlock(&watcher->mutex);
}

void watcher_hang_up(struct watcher *watcher)
{
    pthread_mutex_lock(&watcher->mutex);
    while (watcher->first) {
        struct watch *watch = watcher->first;
        bool hangup = watch->hangup;
        int fd = watch->fd;
        unlink_watch(watcher, watch);
        if (hangup)
            watch->events->gone(watch);
        else
            shutdown(fd, SHUT_RDWR); /* its body is awaited no longer */
    }
    pthread_mutex_unlock(&watcher->mutex);
}
