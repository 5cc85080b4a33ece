/*
 * health.c: see health.h. Both answer on the HTTP thread, whatever the load.
 */
#include "server/health.h"

#include <stdio.h>

#include "server/process.h"

static enum status healthz_begin(struct call *call, struct error *err)
{
    static const char text[] = "ok\n";
    return call_reply_bytes(call, "text/plain; charset=utf-8", text, sizeof text - 1, err);
}

/* Immich's machine-learning client wants exactly "pong". */
static enum status ping_begin(struct call *call, struct error *err)
{
    static const char text[] = "pong";
    return call_reply_bytes(call, "text/plain; charset=utf-8", text, sizeof text - 1, err);
}

/* "models are still loading: clip 100 %, vqa 40 %, caption 0 %" */
static enum status still_loading(const struct runtime *runtime, struct error *err)
{
    char text[ERROR_MESSAGE_MAX - 64] = "";
    const struct expected_model *expected;
    for (size_t i = 0, used = 0; (expected = runtime_expected(runtime, i)); i++) {
        bool failed = atomic_load(&expected->state) == MODEL_FAILED;
        int n = failed ? snprintf(text + used, sizeof text - used, "%s%.100s failed",
                                  used ? ", " : "", expected->name)
                       : snprintf(text + used, sizeof text - used, "%s%.100s %.0f %%",
                                  used ? ", " : "", expected->name, 100 * expected_share(expected));
        if (n < 0 || (used += (size_t)n) >= sizeof text)
            break; /* cut short */
    }
    return error_set(err, STATUS_LOADING, "models are still loading: %s", text);
}

static enum status readyz_begin(struct call *call, struct error *err)
{
    struct process *process = call_process(call);
    if (atomic_load(&process->draining))
        return error_set(err, STATUS_DRAINING, "the server is shutting down");
    if (!atomic_load(&process->ready))
        return still_loading(process->runtime, err);
    for (size_t i = 0; i < runtime_count(process->runtime); i++) {
        const struct lane *lane = runtime_at(process->runtime, i);
        unsigned stall_s = (unsigned)process->settings.stall_s;
        if (stall_s && !lane_alive(lane, stall_s))
            return error_set(err, STATUS_UNAVAILABLE,
                             "model '%s' has made no progress for %u seconds",
                             lane_model(lane)->name, stall_s);
    }
    /* A database that is away is told but fails nothing: every replica would leave the balancer
     * with it, and models answer without it. */
    char text[ERROR_MESSAGE_MAX + 64];
    struct error away;
    int size = process->store && store_ready(process->store, &away)
                   ? snprintf(text, sizeof text, "ready, but for collections: %s\n", away.message)
                   : snprintf(text, sizeof text, "ready\n");
    return call_reply_bytes(call, "text/plain; charset=utf-8", text, (size_t)size, err);
}

#define HEALTH_ENDPOINT(route, operation, text, function)                                          \
    {                                                                                              \
        .method = "GET", .path = route, .id = operation, .tag = "process", .summary = text,        \
        .inline_reply = true, .is_public = true, .reply_types = {"text/plain"}, .begin = function, \
    }

const struct endpoint endpoint_healthz =
    HEALTH_ENDPOINT("/healthz", "healthz", "Alive: the process answers", healthz_begin);
const struct endpoint endpoint_health =
    HEALTH_ENDPOINT("/health", "health", "The same as /healthz", healthz_begin);
const struct endpoint endpoint_livez =
    HEALTH_ENDPOINT("/livez", "livez", "The same as /healthz", healthz_begin);
const struct endpoint endpoint_ping =
    HEALTH_ENDPOINT("/ping", "ping", "Alive, in Immich's words", ping_begin);
const struct endpoint endpoint_readyz = HEALTH_ENDPOINT(
    "/readyz", "readyz", "Ready: models are loaded and make progress", readyz_begin);
