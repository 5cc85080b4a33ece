/*
 * serve.c: `vlmd serve`: opens the process, puts the sockets in front, has the models loaded by a
 * thread of their own, waits for a signal, drains.
 *
 * SIGTERM and SIGINT, whichever thread they find, drain and exit 0. SIGHUP reads the settings again
 * and takes those over that can change under way (reloadable[]); a fault in them changes nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "server/commands.h"
#include "server/http.h"
#include "server/log.h"

static void model_loaded(const struct model *model)
{
    log_write(LOG_DEBUG, "loaded %s (%s, %.1fM parameters)", model->name, model->architecture->name,
              (double)model->n_parameters / 1e6);
}

static void model_failed(const struct error *why)
{
    log_write(LOG_ERROR, "left out: %s", why->message);
}

/* Every connection is a descriptor: take as many as we may have. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit); /* if not, max_connections is less */
    }
}

/* What the main thread waits for: signals, and the end of loading. A handler and not sigwait(),
 * because libraries (OpenBLAS) start threads before main() can block anything, and a signal that
 * finds one of those while this thread does not wait yet would end the process by its default
 * action. */
static sem_t news;
static volatile sig_atomic_t stop_signal, reload_wanted;
static atomic_bool loading;

static void note_signal(int number)
{
    int fault = errno;
    if (number == SIGHUP)
        reload_wanted = 1;
    else
        stop_signal = number;
    sem_post(&news);
    errno = fault;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sem_init(&news, 0, 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a bound on file sizes is a full disk, no reason to die */
}

/* ---- loading ------------------------------------------------------------------------------------
 */

struct loader {
    pthread_t thread;
    struct process *process;
    enum status status;
    struct error err;
};

static void *loader_main(void *argument)
{
    static const struct load_events events = {model_loaded, model_failed};
    struct loader *loader = argument;
    pthread_setname_np(pthread_self(), "loader");
    loader->status = process_load_models(loader->process, &events, &loader->err);
    atomic_store(&loading, false);
    sem_post(&news);
    return NULL;
}

static void print_ready(const struct process *process, const struct http_server *server)
{
    size_t n = runtime_count(process->runtime);
    fprintf(stdout, "vlmd %s ready on %s%s with %zu model%s in %.2f s\n", VLMD_VERSION,
            http_scheme(server), http_address(server), n, n == 1 ? "" : "s",
            (double)(clock_ns() - process->started_ns) / 1e9);
    fflush(stdout);
}

/* ---- reloading ----------------------------------------------------------------------------------
 */

static const char *const reloadable[] = {"api_key", "key_rate_per_minute", "log_level"};

static bool is_reloadable(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(reloadable); i++)
        if (!strcmp(name, reloadable[i]))
            return true;
    return false;
}

static void swap(void *a, void *b, size_t size)
{
    char kept[sizeof(struct setting_list)];
    memcpy(kept, a, size);
    memcpy(a, b, size);
    memcpy(b, kept, size);
}

/* The command line's sources once more: file and environment as they are now. */
static void reload(struct process *process, const struct arguments *arguments)
{
    struct arguments fresh;
    struct error err;
    if (arguments_parse(&fresh, arguments->argc, arguments->argv, false, &err)) {
        log_write(LOG_ERROR, "SIGHUP: nothing is changed: %s", err.message);
        return;
    }
    struct settings *now = &process->settings, *new = &fresh.settings;
    char *format = now->log_format; /* stays */
    if (log_open(new->log_level, format, &err) ||
        (admission_reload(&process->admission, new, &err) &&
         (log_open(now->log_level, format, &(struct error){0}), true))) {
        log_write(LOG_ERROR, "SIGHUP: nothing is changed: %s", err.message);
        arguments_release(&fresh);
        return;
    }
    const char *name;
    for (size_t i = 0; (name = settings_difference(now, new, &i));)
        log_write(LOG_INFO, "SIGHUP: %s is %s", name,
                  is_reloadable(name) ? "changed" : "different now and waits for a restart");
    swap(&now->api_key, &new->api_key, sizeof now->api_key);
    swap(&now->key_rate_per_minute, &new->key_rate_per_minute, sizeof now->key_rate_per_minute);
    swap(&now->log_level, &new->log_level, sizeof now->log_level);
    log_write(LOG_INFO, "SIGHUP: settings are read again; %zu API keys", now->api_key.n);
    arguments_release(&fresh);
}

/* ---- the process's life -------------------------------------------------------------------------
 */

/* Until a signal that ends it, or the end of loading; reloads meanwhile. */
static void wait_for_news(struct process *process, const struct arguments *arguments)
{
    while (sem_wait(&news) && errno == EINTR)
        ;
    if (reload_wanted) {
        reload_wanted = 0;
        reload(process, arguments);
    }
}

/* Loads, then serves until a signal. Returns the exit status. */
static int run(struct process *process, struct http_server *server,
               const struct arguments *arguments)
{
    struct loader loader = {.process = process};
    atomic_store(&loading, true);
    if (pthread_create(&loader.thread, NULL, loader_main, &loader)) {
        error_set(&loader.err, STATUS_NO_MEMORY, "no thread could be started");
        return command_fail(&loader.err);
    }
    while (atomic_load(&loading) && !stop_signal)
        wait_for_news(process, arguments);
    if (atomic_load(&loading)) { /* it looks at `draining` between two models */
        atomic_store(&process->draining, true);
        log_write(LOG_INFO, "%s while models are loading", strsignal(stop_signal));
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += (time_t)process->settings.drain_s;
        if (pthread_timedjoin_np(loader.thread, NULL, &until))
            _exit(EXIT_FINE); /* nothing was served yet that could be lost */
        return EXIT_FINE;
    }
    pthread_join(loader.thread, NULL);
    if (loader.status)
        return command_fail(&loader.err);
    print_ready(process, server);
    while (!stop_signal)
        wait_for_news(process, arguments);
    log_write(LOG_INFO, "%s: finishing what is under way", strsignal(stop_signal));
    return EXIT_FINE;
}

int command_serve(struct arguments *arguments)
{
    struct error err;
    struct process process;
    catch_signals();
    raise_descriptor_limit();

    if (log_open(arguments->settings.log_level, arguments->settings.log_format, &err) ||
        process_open(&process, &arguments->settings, PROCESS_STORE, &err))
        return command_fail(&err);
    if (store_ready(process.store, &err))
        log_write(LOG_ERROR, "collections wait: %s", err.message);
    /* The socket opens before the models do: /healthz answers at once, /readyz when they are there.
     */
    struct http_server *server = http_start(&process, &err);
    if (!server) {
        process_close(&process);
        return command_fail(&err);
    }
    int rc = run(&process, server, arguments);
    atomic_store(&process.draining, true);
    if (!http_wait_idle(server, rc ? 0 : (unsigned)process.settings.drain_s) && !rc)
        log_write(LOG_ERROR, "requests still under way after %zu s are cancelled",
                  process.settings.drain_s);
    runtime_drain(process.runtime);
    if (!http_stop(server)) {
        log_write(LOG_ERROR, "a request does not come to its end; leaving without it");
        _exit(EXIT_FAULT);
    }
    process_close(&process);
    return rc;
}
