/*
 * metrics.c: see metrics.h. Reading is not a snapshot: each number is right by itself.
 */
#include "server/metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/process.h"

void metrics_init(struct metrics *metrics)
{
    memset(metrics, 0, sizeof *metrics);
    for (size_t i = 0; i <= METRICS_ROUTES_MAX; i++) {
        histogram_init(&metrics->routes[i].seconds, &histogram_seconds);
    }
}

void metrics_count(struct metrics *metrics, const struct api *api, const struct endpoint *endpoint,
                   int status, double seconds, size_t bytes_in, size_t bytes_out)
{
    size_t row = METRICS_ROUTES_MAX;
    for (size_t i = 0; i < METRICS_ROUTES_MAX && api_endpoint_at(api, i); i++)
        if (api_endpoint_at(api, i) == endpoint)
            row = i;
    struct route_metrics *route = &metrics->routes[row];
    if (status >= METRICS_STATUS_MIN && status <= METRICS_STATUS_MAX)
        atomic_fetch_add(&route->status[status - METRICS_STATUS_MIN], 1);
    histogram_add(&route->seconds, seconds);
    atomic_fetch_add(&metrics->bytes_in, bytes_in);
    atomic_fetch_add(&metrics->bytes_out, bytes_out);
}

/* ---- the page ----------------------------------------------------------------------------------
 */

static void put_head(struct buffer *out, const char *name, const char *type, const char *help)
{
    buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_histogram(struct buffer *out, const char *name, const char *labels,
                          const struct histogram *histogram)
{
    unsigned long long total = 0;
    for (size_t i = 0; i < histogram->bounds->n; i++) {
        total += atomic_load(&histogram->buckets[i]);
        buffer_printf(out, "%s_bucket{%s,le=\"%g\"} %llu\n", name, labels,
                      histogram->bounds->bounds[i], total);
    }
    total += atomic_load(&histogram->buckets[histogram->bounds->n]);
    buffer_printf(out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, total);
    buffer_printf(out, "%s_sum{%s} %.6f\n%s_count{%s} %llu\n", name, labels,
                  (double)atomic_load(&histogram->sum_millionths) / 1e6, name, labels, total);
}

/* Model names come from the command line: quotes and backslashes are escaped. */
static void model_label(char *out, size_t size, const char *name)
{
    size_t used = (size_t)snprintf(out, size, "model=\"");
    for (; *name && used + 4 < size; name++) {
        if (*name == '"' || *name == '\\')
            out[used++] = '\\';
        out[used++] = *name == '\n' ? ' ' : *name;
    }
    out[used++] = '"';
    out[used] = '\0';
}

static void put_routes(struct buffer *out, const struct metrics *metrics, const struct api *api)
{
    put_head(out, "vlmd_requests_total", "counter", "Finished requests by endpoint and status.");
    for (size_t i = 0; i <= METRICS_ROUTES_MAX; i++) {
        const struct endpoint *endpoint = i < METRICS_ROUTES_MAX ? api_endpoint_at(api, i) : NULL;
        if (!endpoint && i < METRICS_ROUTES_MAX)
            continue;
        for (int s = 0; s <= METRICS_STATUS_MAX - METRICS_STATUS_MIN; s++) {
            unsigned n = atomic_load(&metrics->routes[i].status[s]);
            if (n)
                buffer_printf(out,
                              "vlmd_requests_total{method=\"%s\",path=\"%s\",status=\"%d\"} %u\n",
                              endpoint ? endpoint->method : "", endpoint ? endpoint->path : "",
                              s + METRICS_STATUS_MIN, n);
        }
    }
    put_head(out, "vlmd_request_seconds", "histogram",
             "Time from a request's headers to its reply's last byte.");
    for (size_t i = 0; i < METRICS_ROUTES_MAX && api_endpoint_at(api, i); i++) {
        const struct endpoint *endpoint = api_endpoint_at(api, i);
        char labels[256];
        snprintf(labels, sizeof labels, "method=\"%s\",path=\"%s\"", endpoint->method,
                 endpoint->path);
        put_histogram(out, "vlmd_request_seconds", labels, &metrics->routes[i].seconds);
    }
}

#define LANE_COUNTERS(ROW)                                                                         \
    ROW(queue_depth, "vlmd_queue_depth", "gauge", "Items that wait.")                              \
    ROW(running, "vlmd_running", "gauge", "Items in passes or decoding.")                          \
    ROW(works, "vlmd_items_total", "counter", "Items finished.")                                   \
    ROW(failed, "vlmd_items_failed_total", "counter", "Items that ended in an error.")             \
    ROW(cancelled, "vlmd_items_cancelled_total", "counter", "Items whose client went away.")       \
    ROW(expired, "vlmd_items_expired_total", "counter", "Items whose deadline passed.")            \
    ROW(refused, "vlmd_items_refused_total", "counter", "Items refused by a full queue.")          \
    ROW(passes, "vlmd_passes_total", "counter", "Forward passes.")                                 \
    ROW(tokens_prompt, "vlmd_prompt_tokens_total", "counter", "Prompt tokens computed.")           \
    ROW(tokens_generated, "vlmd_generated_tokens_total", "counter", "Tokens generated.")           \
    ROW(cache_hits, "vlmd_feature_cache_hits_total", "counter", "Features found in the cache.")    \
    ROW(cache_misses, "vlmd_feature_cache_misses_total", "counter", "Features computed.")          \
    ROW(cache_bytes, "vlmd_feature_cache_bytes", "gauge", "Memory of cached features.")            \
    ROW(unloads, "vlmd_unloads_total", "counter",                                                  \
        "Times an unused model's memory was given back.")                                          \
    ROW(kv_kept_bytes, "vlmd_kv_kept_bytes", "gauge",                                              \
        "Keys and values kept of the latest pictures.")                                            \
    ROW(kv_bytes, "vlmd_kv_cache_bytes", "gauge", "Memory of running generations' caches.")

#define TASK_HISTOGRAMS(ROW)                                                                       \
    ROW(queue_seconds, "vlmd_queue_seconds", "Time from submission to the first pass.")            \
    ROW(preprocess_seconds, "vlmd_preprocess_seconds",                                             \
        "Time of decoding, resizing and normalising a request's pictures.")                        \
    ROW(forward_seconds, "vlmd_forward_seconds", "Time of one forward pass.")                      \
    ROW(first_token_seconds, "vlmd_time_to_first_token_seconds",                                   \
        "Time from submission to the first generated token.")                                      \
    ROW(inter_token_seconds, "vlmd_inter_token_seconds", "Time between two generated tokens.")     \
    ROW(total_seconds, "vlmd_total_seconds", "Time from a request's headers to its whole reply.")

/* A histogram of every model and task; offset: where in struct task_stats. */
static void put_task_histogram(struct buffer *out, const struct runtime *runtime, const char *name,
                               const char *help, size_t offset)
{
    char label[300], labels[340];
    const struct lane *lane;
    put_head(out, name, "histogram", help);
    for (size_t i = 0; (lane = runtime_at(runtime, i)); i++) {
        model_label(label, sizeof label, lane_model(lane)->name);
        for (enum task task = 0; task < N_TASKS; task++) {
            const void *stats = (const char *)&lane_stats(lane)->by_task[task] + offset;
            if (!(model_tasks(lane_model(lane)) >> task & 1))
                continue;
            snprintf(labels, sizeof labels, "%s,task=\"%s\"", label, task_name(task));
            put_histogram(out, name, labels, stats);
        }
    }
}

static void put_lanes(struct buffer *out, const struct runtime *runtime)
{
    char label[300];
    const struct lane *lane;
#define PUT_COUNTER(field, metric, type, help)                                                     \
    put_head(out, metric, type, help);                                                             \
    for (size_t i = 0; (lane = runtime_at(runtime, i)); i++) {                                     \
        model_label(label, sizeof label, lane_model(lane)->name);                                  \
        buffer_printf(out, metric "{%s} %llu\n", label,                                            \
                      (unsigned long long)atomic_load(&lane_stats(lane)->field));                  \
    }
    LANE_COUNTERS(PUT_COUNTER)
#undef PUT_COUNTER
    put_head(out, "vlmd_batch_size", "histogram", "Items that shared a forward pass.");
    for (size_t i = 0; (lane = runtime_at(runtime, i)); i++) {
        model_label(label, sizeof label, lane_model(lane)->name);
        put_histogram(out, "vlmd_batch_size", label, &lane_stats(lane)->batch_size);
    }
#define PUT_HISTOGRAM(field, metric, help)                                                         \
    put_task_histogram(out, runtime, metric, help, offsetof(struct task_stats, field));
    TASK_HISTOGRAMS(PUT_HISTOGRAM)
#undef PUT_HISTOGRAM
}

/* Resident bytes, from /proc/self/statm's second number. */
static unsigned long long resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static enum status metrics_begin(struct call *call, struct error *err)
{
    struct process *process = call_process(call);
    struct buffer *out = call_reply_buffer(call, "text/plain; version=0.0.4; charset=utf-8");
    if (!out)
        return error_no_memory(err, "the metrics page");
    const struct metrics *metrics = &process->metrics;
    const struct admission *admission = &process->admission;
    put_head(out, "vlmd_build_info", "gauge", "The version that runs.");
    buffer_printf(out, "vlmd_build_info{version=\"%s\"} 1\n", api_options(process->api)->version);
    put_head(out, "vlmd_uptime_seconds", "gauge", "Time since the start.");
    buffer_printf(out, "vlmd_uptime_seconds %.3f\n",
                  (double)(clock_ns() - process->started_ns) / 1e9);
    put_head(out, "vlmd_resident_bytes", "gauge", "Resident memory of the process.");
    buffer_printf(out, "vlmd_resident_bytes %llu\n", resident_bytes());
    struct error away;
    put_head(out, "vlmd_collections_ready", "gauge", "1; 0 while their database is away.");
    buffer_printf(out, "vlmd_collections_ready %d\n",
                  !process->store || !store_ready(process->store, &away));
    put_head(out, "vlmd_requests_in_flight", "gauge", "Requests under way.");
    buffer_printf(out, "vlmd_requests_in_flight %zu\n", atomic_load(&admission->requests));
    put_head(out, "vlmd_request_bytes_in_flight", "gauge", "Bytes of bodies under way.");
    buffer_printf(out, "vlmd_request_bytes_in_flight %zu\n", atomic_load(&admission->bytes));
    put_head(out, "vlmd_refused_total", "counter", "Requests refused at the door, by reason.");
    buffer_printf(out,
                  "vlmd_refused_total{reason=\"load\"} %llu\nvlmd_refused_total{reason=\"key\"} "
                  "%llu\nvlmd_refused_total{reason=\"rate\"} %llu\n",
                  atomic_load(&admission->refused_load), atomic_load(&admission->refused_key),
                  atomic_load(&admission->refused_rate));
    put_head(out, "vlmd_hangups_total", "counter", "Clients gone before their reply was sent.");
    buffer_printf(out, "vlmd_hangups_total %llu\n", atomic_load(&metrics->hangups));
    put_head(out, "vlmd_received_bytes_total", "counter", "Bytes of request bodies.");
    buffer_printf(out, "vlmd_received_bytes_total %llu\n", atomic_load(&metrics->bytes_in));
    put_head(out, "vlmd_sent_bytes_total", "counter", "Bytes of reply bodies.");
    buffer_printf(out, "vlmd_sent_bytes_total %llu\n", atomic_load(&metrics->bytes_out));
    put_routes(out, metrics, process->api);
    put_lanes(out, process->runtime);
    return STATUS_OK;
}

const struct endpoint endpoint_metrics = {
    .method = "GET",
    .path = "/metrics",
    .id = "metrics",
    .tag = "process",
    .summary = "Counters and histograms in Prometheus' text format",
    .inline_reply = true,
    .reply_types = {"text/plain"},
    .begin = metrics_begin,
};
