/*
 * serve.c: `vlmd serve`: opens the process, puts the sockets in front, waits for a signal, drains.
 *
 * SIGTERM and SIGINT, whichever thread they find, drain and exit 0.
 */
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "server/commands.h"
#include "server/http.h"
#include "server/log.h"

static void model_loaded(const struct model *model)
{
    log_write(LOG_DEBUG, "loaded %s (%s, %.1fM parameters)", model->name, model->architecture->name,
              (double)model->n_parameters / 1e6);
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

/* The stop flag: posted by the first signal. A handler and not sigwait(), because libraries
 * (OpenBLAS) start threads before main() can block anything, and a signal that finds one of those
 * while this thread does not wait yet would end the process by its default action. */
static sem_t stop;
static volatile sig_atomic_t stop_signal;

static void note_signal(int number)
{
    int fault = errno;
    stop_signal = number;
    sem_post(&stop);
    errno = fault;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sem_init(&stop, 0, 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
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
    /* The socket opens before the models do: /healthz answers at once, /readyz when they are there.
     */
    struct http_server *server = http_start(&process, &err);
    if (!server) {
        process_close(&process);
        return command_fail(&err);
    }
    int rc = EXIT_FINE;
    if (process_load_models(&process, model_loaded, &err)) {
        rc = command_fail(&err);
    } else {
        fprintf(stdout, "vlmd %s ready on %s%s with %zu model%s in %.2f s\n", VLMD_VERSION,
                http_scheme(server), http_address(server), runtime_count(process.runtime),
                runtime_count(process.runtime) == 1 ? "" : "s",
                (double)(clock_ns() - process.started_ns) / 1e9);
        fflush(stdout);
        while (sem_wait(&stop) && errno == EINTR)
            ;
        log_write(LOG_INFO, "%s: finishing what is under way", strsignal(stop_signal));
    }
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
