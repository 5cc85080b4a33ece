/*
 * commands_top.c: `vlmd top`: what a running server is doing, from its /metrics: rates between two
 * looks, or since the start (--once, and where standard output is no terminal).
 *
 * A look is the page's text, cut in place into samples. Tables are drawn from the samples
 * themselves: a model or an endpoint is there when the page has it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/size.h"
#include "server/ask.h"
#include "server/commands.h"

enum {
    PAGE_BYTES_MAX = 16 << 20,
    SAMPLES_MAX = 1 << 17,
    TIMEOUT_S = 5,
    INTERVAL_S = 2,
    INTERVAL_S_MAX = 3600,
    NAME_SHOWN = 40,
    LABELS_MAX = 600
};

struct sample {
    const char *name, *labels; /* in the page; "" = no labels */
    double value;
};

struct look {
    struct buffer page;
    struct sample *samples;
    size_t n;
};

/* ---- reading -----------------------------------------------------------------------------------
 */

static void look_release(struct look *look)
{
    buffer_release(&look->page);
    free(look->samples);
    *look = (struct look){0};
}

/* name{labels} value */
static void take_sample(struct look *look, char *line)
{
    char *space = strrchr(line, ' ');
    if (*line == '#' || !space || look->n == SAMPLES_MAX)
        return;
    *space = '\0';
    struct sample *out = &look->samples[look->n++];
    *out = (struct sample){.name = line, .labels = "", .value = strtod(space + 1, NULL)};
    char *brace = strchr(line, '{');
    if (brace && space[-1] == '}') {
        *brace = '\0';
        space[-1] = '\0';
        out->labels = brace + 1;
    }
}

static enum status look_take(struct look *look, const struct settings *settings, struct error *err)
{
    int http_status;
    *look = (struct look){0};
    buffer_init(&look->page, PAGE_BYTES_MAX);
    enum status status =
        ask_server(settings, "/metrics", TIMEOUT_S, &look->page, &http_status, err);
    if (!status && http_status != 200)
        status = error_set(err, STATUS_UNAVAILABLE, "%s answers with status %d%s", settings->listen,
                           http_status,
                           http_status == 401 ? "; give a key: --set api_key=NAME:KEY" : "");
    size_t lines = 0;
    for (const char *at = look->page.data; !status && at; at = strchr(at + 1, '\n'))
        lines++;
    if (!status && !(look->samples = alloc_array(lines + 1, sizeof *look->samples)))
        status = error_no_memory(err, "the metrics");
    for (char *line = status ? NULL : look->page.data, *end; line; line = end) {
        if ((end = strchr(line, '\n')))
            *end++ = '\0';
        take_sample(look, line);
    }
    if (status)
        look_release(look);
    return status;
}

/* The sum of a metric's samples that have these labels first. */
static double value_of(const struct look *look, const char *name, const char *labels)
{
    double sum = 0;
    size_t n = strlen(labels);
    for (size_t i = 0; look && i < look->n; i++) {
        const struct sample *sample = &look->samples[i];
        if (!strcmp(sample->name, name) && !strncmp(sample->labels, labels, n) &&
            (!sample->labels[n] || (n && sample->labels[n] == ',')))
            sum += sample->value;
    }
    return sum;
}

/* ---- computing ---------------------------------------------------------------------------------
 */

/* Two looks; before NULL = since the start. */
struct span_of_time {
    const struct look *now, *before;
    double seconds;
};

static double grown(const struct span_of_time *span, const char *name, const char *labels)
{
    return value_of(span->now, name, labels) - value_of(span->before, name, labels);
}

static double rate(const struct span_of_time *span, const char *name, const char *labels)
{
    return span->seconds > 0 ? grown(span, name, labels) / span->seconds : 0;
}

/* The quantile of what came into a histogram, straight within a bucket; NAN: nothing came. */
static double quantile(const struct span_of_time *span, const char *name, const char *labels,
                       double q)
{
    char bucket[128], head[LABELS_MAX];
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    size_t n_head = (size_t)snprintf(head, sizeof head, "%s,le=\"", labels);
    snprintf(bucket + sizeof bucket / 2, sizeof bucket / 2, "%s_count", name);
    double total = grown(span, bucket + sizeof bucket / 2, labels), below = 0, low = 0;
    if (total <= 0 || n_head >= sizeof head)
        return NAN;
    for (size_t i = 0; i < span->now->n; i++) {
        const struct sample *sample = &span->now->samples[i];
        if (strcmp(sample->name, bucket) || strncmp(sample->labels, head, n_head))
            continue;
        double upto = grown(span, bucket, sample->labels);
        double high = strtod(sample->labels + n_head, NULL);
        if (upto >= q * total)
            return isfinite(high) && upto > below
                       ? low + (high - low) * (q * total - below) / (upto - below)
                       : low;
        below = upto;
        low = high;
    }
    return low;
}

static double mean(const struct span_of_time *span, const char *name, const char *labels)
{
    char text[128];
    snprintf(text, sizeof text, "%s_count", name);
    double count = grown(span, text, labels);
    snprintf(text, sizeof text, "%s_sum", name);
    return count > 0 ? grown(span, text, labels) / count : NAN;
}

/* The value of a label, escapes and all, cut to what fits. */
static void label_of(const char *labels, const char *name, char *out, size_t size)
{
    char head[32];
    snprintf(head, sizeof head, "%s=\"", name);
    const char *at = strstr(labels, head);
    at = at ? at + strlen(head) : "";
    size_t n = 0;
    while (*at && *at != '"' && n + 1 < size) {
        at += *at == '\\' && at[1];
        out[n++] = *at++;
    }
    out[n] = '\0';
}

/* ---- drawing -----------------------------------------------------------------------------------
 */

/* A number in a column; "–" for what is not there. */
static void put_number(struct buffer *out, int width, double value, int decimals)
{
    if (isnan(value))
        buffer_printf(out, "%*s", width + 2, "–"); /* 3 bytes, 1 column */
    else
        buffer_printf(out, "%*.*f", width, value >= 1000 ? 0 : decimals, value);
}

static void put_head(struct buffer *out, const struct span_of_time *span, const char *where)
{
    char version[32] = "", load[] = "reason=\"load\"", key[] = "reason=\"key\"",
         keyed[] = "reason=\"rate\"";
    for (size_t i = 0; i < span->now->n; i++)
        if (!strcmp(span->now->samples[i].name, "vlmd_build_info"))
            label_of(span->now->samples[i].labels, "version", version, sizeof version);
    double up = value_of(span->now, "vlmd_uptime_seconds", ""), requests = 0;
    for (size_t i = 0; i < span->now->n; i++)
        if (!strcmp(span->now->samples[i].name, "vlmd_requests_total"))
            requests += rate(span, "vlmd_requests_total", span->now->samples[i].labels);
    buffer_printf(out, "vlmd %s at %s, up %.0f d %02.0f:%02.0f:%02.0f, %.0f MB resident%s\n",
                  version, where, floor(up / 86400), floor(fmod(up, 86400) / 3600),
                  floor(fmod(up, 3600) / 60), floor(fmod(up, 60)),
                  value_of(span->now, "vlmd_resident_bytes", "") / 1e6,
                  span->before ? "" : "; rates since the start");
    buffer_printf(out,
                  "%.1f requests/s, %.0f under way, %.2f MB/s in, %.2f MB/s out; refused/s: %.1f "
                  "for load, %.1f without a key, %.1f by a key's rate; %.1f hang-ups/s\n",
                  requests, value_of(span->now, "vlmd_requests_in_flight", ""),
                  rate(span, "vlmd_received_bytes_total", "") / 1e6,
                  rate(span, "vlmd_sent_bytes_total", "") / 1e6,
                  rate(span, "vlmd_refused_total", load), rate(span, "vlmd_refused_total", key),
                  rate(span, "vlmd_refused_total", keyed), rate(span, "vlmd_hangups_total", ""));
}

/* Requests of an endpoint whose status begins with this digit, by the second. */
static double status_rate(const struct span_of_time *span, const char *labels, char digit)
{
    char head[LABELS_MAX];
    double sum = 0;
    size_t n = (size_t)snprintf(head, sizeof head, "%s,status=\"%c", labels, digit);
    for (size_t i = 0; i < span->now->n && n < sizeof head; i++) {
        const struct sample *sample = &span->now->samples[i];
        if (!strcmp(sample->name, "vlmd_requests_total") && !strncmp(sample->labels, head, n))
            sum += rate(span, sample->name, sample->labels);
    }
    return sum;
}

static void put_endpoints(struct buffer *out, const struct span_of_time *span)
{
    static const char seconds[] = "vlmd_request_seconds";
    buffer_printf(out, "\n%-*s %8s %8s %8s %9s %9s\n", NAME_SHOWN, "endpoint", "per s", "4xx/s",
                  "5xx/s", "p50 ms", "p95 ms");
    for (size_t i = 0; i < span->now->n; i++) {
        const struct sample *sample = &span->now->samples[i];
        if (strcmp(sample->name, "vlmd_request_seconds_count") || !sample->value)
            continue;
        char method[8], path[NAME_SHOWN];
        label_of(sample->labels, "method", method, sizeof method);
        label_of(sample->labels, "path", path, sizeof path);
        buffer_printf(out, "%-6s %-*.*s ", method, NAME_SHOWN - 7, NAME_SHOWN - 7, path);
        put_number(out, 8, rate(span, sample->name, sample->labels), 1);
        put_number(out, 9, status_rate(span, sample->labels, '4'), 1);
        put_number(out, 9, status_rate(span, sample->labels, '5'), 1);
        put_number(out, 10, 1e3 * quantile(span, seconds, sample->labels, 0.5), 1);
        put_number(out, 10, 1e3 * quantile(span, seconds, sample->labels, 0.95), 1);
        buffer_puts(out, "\n");
    }
}

static void put_models(struct buffer *out, const struct span_of_time *span)
{
    buffer_printf(out, "\n%-24s %7s %8s %8s %7s %9s %9s %9s %8s %8s\n", "model", "waiting",
                  "running", "items/s", "batch", "pass ms", "queue ms", "tokens/s", "first ms",
                  "cached %");
    for (size_t i = 0; i < span->now->n; i++) {
        const struct sample *sample = &span->now->samples[i];
        if (strcmp(sample->name, "vlmd_queue_depth"))
            continue;
        const char *labels = sample->labels;
        char name[25];
        label_of(labels, "model", name, sizeof name);
        double hits = grown(span, "vlmd_feature_cache_hits_total", labels),
               misses = grown(span, "vlmd_feature_cache_misses_total", labels);
        buffer_printf(out, "%-24s ", name);
        put_number(out, 7, sample->value, 0);
        put_number(out, 9, value_of(span->now, "vlmd_running", labels), 0);
        put_number(out, 9, rate(span, "vlmd_items_total", labels), 1);
        put_number(out, 8, mean(span, "vlmd_batch_size", labels), 1);
        put_number(out, 10, 1e3 * mean(span, "vlmd_forward_seconds", labels), 1);
        put_number(out, 10, 1e3 * mean(span, "vlmd_queue_seconds", labels), 1);
        put_number(out, 10, rate(span, "vlmd_generated_tokens_total", labels), 1);
        put_number(out, 9, 1e3 * mean(span, "vlmd_time_to_first_token_seconds", labels), 1);
        put_number(out, 9, hits + misses > 0 ? 100 * hits / (hits + misses) : NAN, 0);
        buffer_puts(out, "\n");
    }
}

/* On a terminal each picture is drawn over the last one. */
static bool draw(const struct span_of_time *span, const char *where, bool over)
{
    struct buffer out;
    buffer_init(&out, PAGE_BYTES_MAX);
    put_head(&out, span, where);
    put_endpoints(&out, span);
    put_models(&out, span);
    bool ok = out.data != NULL;
    fputs(over ? "\033[H" : "", stdout);
    for (char *line = out.data, *end; ok && *line; line = end + 1) {
        end = strchr(line, '\n');
        printf("%.*s%s\n", (int)(end - line), line, over ? "\033[K" : "");
    }
    fputs(over ? "\033[J" : "", stdout);
    buffer_release(&out);
    return fflush(stdout) == 0 && ok;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static int watch(const struct settings *settings, unsigned interval_s)
{
    struct look before = {0}, now;
    struct error err;
    fputs("\033[2J", stdout);
    for (;;) {
        struct span_of_time span = {.now = &now};
        if (look_take(&now, settings, &err)) {
            printf("\033[H%s\033[K\n\033[J", err.message);
            fflush(stdout);
            look_release(&before);
        } else {
            double up = value_of(&now, "vlmd_uptime_seconds", ""),
                   then = value_of(&before, "vlmd_uptime_seconds", "");
            bool same = before.n && then < up; /* it has not been started again */
            span.before = same ? &before : NULL;
            span.seconds = same ? up - then : up;
            bool ok = draw(&span, settings->listen, true);
            look_release(&before);
            before = now;
            if (!ok) {
                look_release(&before);
                return EXIT_FAULT;
            }
        }
        nanosleep(&(struct timespec){.tv_sec = interval_s}, NULL);
    }
}

int command_top(struct arguments *arguments)
{
    unsigned interval_s = INTERVAL_S;
    for (size_t i = 0; i < arguments->n_fields; i++) {
        char *end;
        unsigned long value = strtoul(arguments->fields[i].value, &end, 10);
        if (strcmp(arguments->fields[i].name, "interval"))
            return command_usage("there is no option --%s", arguments->fields[i].name);
        if (*end || value < 1 || value > INTERVAL_S_MAX)
            return command_usage("--interval takes seconds, 1 to %d", INTERVAL_S_MAX);
        interval_s = (unsigned)value;
    }
    if (!arguments->once && isatty(STDOUT_FILENO))
        return watch(&arguments->settings, interval_s);
    struct look now;
    struct error err;
    if (look_take(&now, &arguments->settings, &err))
        return command_fail(&err);
    struct span_of_time span = {.now = &now, .seconds = value_of(&now, "vlmd_uptime_seconds", "")};
    bool ok = draw(&span, arguments->settings.listen, false);
    look_release(&now);
    return ok ? EXIT_FINE : EXIT_FAULT;
}
