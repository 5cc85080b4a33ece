/*
 * generate.c: see generate.h.
 *
 * A generation is either `streams` (greedy: one; sampled: n of them, each with its own random
 * stream) or a beam search. Stop strings are looked for in the whole text after each token: text
 * may change backwards (word pieces join, spaces are cleaned up), and decoding a text again costs
 * far less than a decode step.
 */
#include "core/runtime/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/runtime/beam.h"
#include "core/runtime/logits.h"
#include "core/runtime/sampler.h"

enum { DEFAULT_NEW_TOKENS = 20, TEXT_BYTES_MAX = 1 << 24 };

struct stream {
    int32_t *ids;             /* [n_ids], the decoder's prompt first */
    float *logprobs;          /* [n_ids - n_prompt] */
    struct token_choice *top; /* [n_ids - n_prompt, work->n_top] */
    float *scratch;           /* [capacity] */
    size_t *text_ends; /* [n_ids - n_prompt]: bytes of text with this token; with stops only */
    size_t n_ids, capacity;
    size_t n_emitted;
    double log_p; /* of all tokens so far, the end token included */
    size_t n_scored;
    struct sequence sequence;

    int32_t next; /* fed: the token to take */
    float next_log_p;
    struct token_choice next_top[TOP_LOGPROBS_MAX];
    struct error fault; /* of the feed */

    bool finished;
    enum finish_reason finish;
    size_t text_bytes;
};

struct generation {
    const struct model *model;
    enum task task;
    struct work *work;
    struct generation_params params;
    size_t n_vocab, n_prompt, max_length;
    int32_t *prompt; /* [n_prompt] */
    size_t width;
    size_t n_results;
    struct buffer text; /* scratch of the stop search */
    struct error fault; /* of the stop search inside a beam search */

    struct stream *streams; /* [width]; NULL in beam search */
    size_t *live;           /* [n_live] streams that go on, in order */
    size_t n_live;

    struct beam_search *beams;          /* NULL otherwise */
    struct sequence *sequences, *spare; /* [width] */
    size_t *parents, *n_uses;           /* [width] */
    int32_t *tokens;                    /* [width] */
    struct error *faults;               /* [width] of the feeds */
    bool begun;                         /* every beam has a sequence of its own */
};

/* ---- lifecycle ----------------------------------------------------------------------------------
 */

static enum status resolve_params(struct generation *generation, size_t max_sequences,
                                  struct error *err)
{
    struct generation_params *params = &generation->params;
    params->n = params->n ? params->n : 1;
    params->num_beams = params->num_beams ? params->num_beams : 1;
    if (params->n_eos > EOS_MAX)
        params->n_eos = EOS_MAX;
    if (!(params->temperature > 0) || isinf(params->temperature))
        params->do_sample = false; /* 0: the most likely token */
    if (params->num_beams > 1 && params->n > params->num_beams)
        return error_set_param(err, STATUS_UNPROCESSABLE, "n",
                               "n is %zu, but a beam search of %zu beams gives at most as many",
                               params->n, params->num_beams);
    bool copies = params->num_beams == 1 && !params->do_sample;
    generation->width = params->num_beams > 1 ? params->num_beams : copies ? 1 : params->n;
    generation->n_results = params->n;
    if (generation->width > max_sequences || params->n > max_sequences)
        return error_set_param(err, STATUS_UNPROCESSABLE, params->num_beams > 1 ? "num_beams" : "n",
                               "%zu sequences at once are asked for; at most %zu are run",
                               generation->width > params->n ? generation->width : params->n,
                               max_sequences);
    size_t new_tokens = params->max_new_tokens;
    if (!new_tokens && !params->max_length)
        new_tokens = DEFAULT_NEW_TOKENS;
    generation->max_length = params->max_length;
    if (new_tokens && !size_add(generation->n_prompt, new_tokens, &generation->max_length))
        generation->max_length = SIZE_MAX;
    size_t context = generation->model->traits.context_length;
    if (context && generation->max_length > context)
        generation->max_length = context;
    if (generation->n_prompt >= generation->max_length)
        return error_set(err, STATUS_TOO_LONG,
                         "the prompt has %zu tokens and leaves no room: prompt and text may have "
                         "%zu tokens together",
                         generation->n_prompt, generation->max_length);
    return STATUS_OK;
}

/* A beam search's view of stop strings. */
static bool stop_hits(void *context, const int32_t *ids, size_t n);

struct generation *generation_new(const struct model *model, enum task task, struct work *work,
                                  size_t max_sequences, struct error *err)
{
    if (work->n_texts < 1) {
        error_set(err, STATUS_BAD_REQUEST, "a generation needs a prompt");
        return NULL;
    }
    if (work->n_top > TOP_LOGPROBS_MAX) {
        error_set(err, STATUS_OUT_OF_RANGE, "at most %d likeliest tokens are noted",
                  TOP_LOGPROBS_MAX);
        return NULL;
    }
    struct generation *generation = calloc(1, sizeof *generation);
    if (!generation)
        goto no_memory;
    generation->model = model;
    generation->task = task;
    generation->work = work;
    generation->params = work->generation;
    generation->n_vocab = model->traits.vocab_size;
    buffer_init(&generation->text, TEXT_BYTES_MAX);

    const struct tokens *text = &work->texts[0];
    size_t room;
    if (!size_add(text->n, 1, &room) ||
        !(generation->prompt = alloc_array(room, sizeof *generation->prompt)))
        goto no_memory;
    if (model->architecture->decoder_prompt) {
        generation->n_prompt =
            model->architecture->decoder_prompt(model, task, text, generation->prompt);
    } else {
        if (text->n)
            memcpy(generation->prompt, text->ids, text->n * sizeof *text->ids);
        generation->n_prompt = text->n;
    }
    if (resolve_params(generation, max_sequences, err))
        goto fail;

    size_t width = generation->width;
    if (generation->params.num_beams > 1) {
        struct beam_stop stop = {stop_hits, generation};
        generation->beams = beam_new(&generation->params, generation->prompt, generation->n_prompt,
                                     generation->max_length, generation->n_vocab,
                                     work->n_stops ? &stop : NULL, err);
        if (!generation->beams)
            goto fail;
        generation->sequences = calloc(width, sizeof *generation->sequences);
        generation->spare = calloc(width, sizeof *generation->spare);
        generation->parents = calloc(width, sizeof *generation->parents);
        generation->n_uses = calloc(width, sizeof *generation->n_uses);
        generation->tokens = calloc(width, sizeof *generation->tokens);
        generation->faults = calloc(width, sizeof *generation->faults);
        if (!generation->sequences || !generation->spare || !generation->parents ||
            !generation->n_uses || !generation->tokens || !generation->faults)
            goto no_memory;
        return generation;
    }
    generation->streams = calloc(width, sizeof *generation->streams);
    generation->live = calloc(width, sizeof *generation->live);
    if (!generation->streams || !generation->live)
        goto no_memory;
    return generation;
no_memory:
    error_no_memory(err, "a generation");
fail:
    generation_free(generation);
    return NULL;
}

void generation_free(struct generation *generation)
{
    if (!generation)
        return;
    for (size_t i = 0; generation->streams && i < generation->width; i++) {
        struct stream *stream = &generation->streams[i];
        free(stream->ids);
        free(stream->logprobs);
        free(stream->top);
        free(stream->scratch);
        free(stream->text_ends);
        sequence_release(&stream->sequence);
    }
    for (size_t i = 0; generation->sequences && i < generation->width; i++)
        sequence_release(&generation->sequences[i]);
    free(generation->streams);
    free(generation->live);
    beam_free(generation->beams);
    free(generation->sequences);
    free(generation->spare);
    free(generation->parents);
    free(generation->n_uses);
    free(generation->tokens);
    free(generation->faults);
    free(generation->prompt);
    buffer_release(&generation->text);
    free(generation);
}

size_t generation_width(const struct generation *generation)
{
    return generation->width;
}

size_t generation_n_prompt(const struct generation *generation)
{
    return generation->n_prompt;
}

size_t generation_n_steps_max(const struct generation *generation)
{
    return generation->max_length - generation->n_prompt - 1; /* the last token is never decoded */
}

/* ---- stop strings -------------------------------------------------------------------------------
 */

/* Puts the text of ids into generation->text; finds where its earliest stop string begins (SIZE_MAX
 * = none). */
static enum status find_stop(struct generation *generation, const int32_t *ids, size_t n,
                             size_t *at, struct error *err)
{
    const struct work *work = generation->work;
    struct buffer *text = &generation->text;
    text->size = 0;
    enum status status =
        model_detokenize(generation->model, generation->task, &work->texts[0], ids, n, text, err);
    if (status)
        return status;
    *at = SIZE_MAX;
    for (size_t i = 0; text->size && i < work->n_stops; i++) {
        size_t size = strlen(work->stops[i]);
        const char *hit = size ? memmem(text->data, text->size, work->stops[i], size) : NULL;
        if (hit && (size_t)(hit - text->data) < *at)
            *at = (size_t)(hit - text->data);
    }
    return STATUS_OK;
}

/* How many bytes at the text's end may be the beginning of a stop string. */
static size_t held_bytes(const struct generation *generation)
{
    const struct work *work = generation->work;
    const struct buffer *text = &generation->text;
    size_t held = 0;
    for (size_t i = 0; i < work->n_stops; i++) {
        size_t size = strlen(work->stops[i]);
        for (size_t n = size ? size - 1 : 0; n > held; n--)
            if (n <= text->size && memcmp(text->data + text->size - n, work->stops[i], n) == 0)
                held = n;
    }
    return held;
}

static bool stop_hits(void *context, const int32_t *ids, size_t n)
{
    struct generation *generation = context;
    size_t at = SIZE_MAX;
    if (!generation->fault.status)
        find_stop(generation, ids, n, &at, &generation->fault);
    return at != SIZE_MAX;
}

/* ---- greedy and sampling ------------------------------------------------------------------------
 */

static bool is_eos(const struct generation_params *params, int32_t id)
{
    for (size_t i = 0; i < params->n_eos; i++)
        if (params->eos_ids[i] == id)
            return true;
    return false;
}

static enum status stream_reserve(struct generation *generation, struct stream *stream,
                                  struct error *err)
{
    if (stream->n_ids < stream->capacity)
        return STATUS_OK;
    size_t capacity = stream->capacity ? stream->capacity : 32;
    while (capacity <= stream->n_ids)
        if (!size_mul(capacity, 2, &capacity))
            return error_no_memory(err, "a text");
    void *grown = realloc_array(stream->ids, capacity, sizeof *stream->ids);
    if (grown)
        stream->ids = grown;
    bool fine = grown != NULL;
    grown = realloc_array(stream->logprobs, capacity, sizeof *stream->logprobs);
    if (grown)
        stream->logprobs = grown;
    fine &= grown != NULL;
    grown = realloc_array(stream->scratch, capacity, sizeof *stream->scratch);
    if (grown)
        stream->scratch = grown;
    fine &= grown != NULL;
    size_t n_top = generation->work->n_top, top_bytes;
    if (n_top && size_mul(n_top, sizeof *stream->top, &top_bytes)) {
        grown = realloc_array(stream->top, capacity, top_bytes);
        if (grown)
            stream->top = grown;
        fine &= grown != NULL;
    }
    if (generation->work->n_stops) {
        grown = realloc_array(stream->text_ends, capacity, sizeof *stream->text_ends);
        if (grown)
            stream->text_ends = grown;
        fine &= grown != NULL;
    }
    if (!fine)
        return error_no_memory(err, "a text");
    stream->capacity = capacity;
    return STATUS_OK;
}

/* Chooses the stream's next token from the logits after its last. */
static void stream_feed(struct generation *generation, size_t i, float *logits)
{
    const struct generation_params *params = &generation->params;
    struct stream *stream = &generation->streams[i];
    size_t n_vocab = generation->n_vocab, chosen;
    if (!logits_untouched(params))
        logits_process(params, stream->ids, stream->n_ids, generation->n_prompt, logits, n_vocab,
                       stream->scratch);
    float log_sum = logits_log_sum(logits, n_vocab);
    if (isnan(log_sum)) {
        error_set(&stream->fault, STATUS_INTERNAL, "the model's scores are not numbers");
        return;
    }
    logits_top(logits, n_vocab, log_sum, generation->work->n_top, stream->next_top);
    if (!params->do_sample) {
        chosen = logits_argmax(logits, n_vocab);
        stream->next_log_p = logits[chosen] - log_sum;
    } else {
        /* The chosen token's own logit is needed after the warpers have changed it, so it is got
         * back from the temperature rather than from a copy of the row. */
        if (logits_warp(params, 1, logits, n_vocab, &stream->fault))
            return;
        double uniform = sampler_uniform(params->seed, i, stream->n_ids - generation->n_prompt, 0);
        if (!sampler_draw(logits, n_vocab, uniform, &chosen)) {
            error_set(&stream->fault, STATUS_INTERNAL, "the model's scores are not numbers");
            return;
        }
        stream->next_log_p = logits[chosen] * params->temperature - log_sum;
    }
    stream->next = (int32_t)chosen;
}

/* Sends what is certain to stay. */
static void stream_emit(struct generation *generation, struct stream *stream,
                        const struct token_sink *sink)
{
    if (!sink || !sink->emit || generation->n_results != 1)
        return;
    size_t n_new = stream->n_ids - generation->n_prompt, sure = SIZE_MAX;
    if (generation->work->n_stops && stream->finished)
        sure = stream->text_bytes;
    else if (generation->work->n_stops)
        sure = generation->text.size - held_bytes(generation);
    while (stream->n_emitted < n_new &&
           (sure == SIZE_MAX || stream->text_ends[stream->n_emitted] <= sure)) {
        size_t i = stream->n_emitted++;
        struct new_token token = {stream->ids[generation->n_prompt + i], stream->logprobs[i],
                                  stream->top + i * generation->work->n_top};
        sink->emit(sink->context, &token);
    }
}

/* Takes the token that was fed. */
static enum status stream_take(struct generation *generation, struct stream *stream,
                               const struct token_sink *sink, struct error *err)
{
    if (stream->fault.status) {
        *err = stream->fault;
        return err->status;
    }
    stream->log_p += (double)stream->next_log_p;
    stream->n_scored++;
    if (is_eos(&generation->params, stream->next)) {
        stream->finished = true;
        stream->finish = FINISH_STOP;
        stream_emit(generation, stream, sink);
        return STATUS_OK;
    }
    enum status status = stream_reserve(generation, stream, err);
    if (status)
        return status;
    size_t n_new = stream->n_ids - generation->n_prompt;
    size_t n_top = generation->work->n_top;
    stream->logprobs[n_new] = stream->next_log_p;
    if (n_top)
        memcpy(stream->top + n_new * n_top, stream->next_top, n_top * sizeof *stream->top);
    stream->ids[stream->n_ids++] = stream->next;
    if (generation->work->n_stops) {
        size_t at;
        status = find_stop(generation, stream->ids + generation->n_prompt, n_new + 1, &at, err);
        if (status)
            return status;
        stream->text_ends[n_new] = generation->text.size;
        if (at != SIZE_MAX) {
            stream->finished = true;
            stream->finish = FINISH_STOP;
            stream->text_bytes = at;
        }
    }
    if (!stream->finished && stream->n_ids >= generation->max_length) {
        stream->finished = true;
        stream->finish = FINISH_LENGTH;
    }
    stream_emit(generation, stream, sink);
    return STATUS_OK;
}

static enum status streams_advance(struct generation *generation, const struct token_sink *sink,
                                   bool *done, struct error *err)
{
    size_t n = 0;
    for (size_t row = 0; row < generation->n_live; row++) {
        struct stream *stream = &generation->streams[generation->live[row]];
        enum status status = stream_take(generation, stream, sink, err);
        if (status)
            return status;
        if (stream->finished)
            sequence_release(&stream->sequence);
        else
            generation->live[n++] = generation->live[row];
    }
    generation->n_live = n;
    *done = n == 0;
    return STATUS_OK;
}

static enum status streams_begin(struct generation *generation, struct sequence *sequence,
                                 float *logits, struct error *err)
{
    size_t width = generation->width;
    float *copy = width > 1 ? alloc_array(generation->n_vocab, sizeof *copy) : NULL;
    if (width > 1 && !copy) {
        sequence_release(sequence);
        return error_no_memory(err, "a row of logits");
    }
    generation->streams[0].sequence = *sequence;
    *sequence = (struct sequence){0};
    enum status status = STATUS_OK;
    for (size_t i = 0; !status && i < width; i++) {
        struct stream *stream = &generation->streams[i];
        if (i > 0)
            status = sequence_fork(&stream->sequence, &generation->streams[0].sequence, err);
        stream->text_bytes = SIZE_MAX;
        stream->n_ids = generation->n_prompt;
        if (!status)
            status = stream_reserve(generation, stream, err);
        if (status)
            break;
        memcpy(stream->ids, generation->prompt, generation->n_prompt * sizeof *stream->ids);
        generation->live[generation->n_live++] = i;
        if (i + 1 < width) {
            memcpy(copy, logits, generation->n_vocab * sizeof *copy);
            stream_feed(generation, i, copy);
        } else {
            stream_feed(generation, i, logits);
        }
    }
    free(copy);
    return status;
}

/* ---- beam search --------------------------------------------------------------------------------
 */

/* Gives each new beam the cache of its parent: the last that wants it takes it, the others copy. */
static enum status beams_reorder(struct generation *generation, struct error *err)
{
    size_t width = generation->width;
    memset(generation->n_uses, 0, width * sizeof *generation->n_uses);
    for (size_t i = 0; i < width; i++) {
        if (!generation->begun)
            generation->parents[i] = 0; /* all beams have the prompt's cache */
        generation->n_uses[generation->parents[i]]++;
    }
    for (size_t i = 0; i < width; i++)
        if (generation->n_uses[i] == 0)
            sequence_release(&generation->sequences[i]);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < width; i++) {
        size_t parent = generation->parents[i];
        generation->spare[i] = (struct sequence){0};
        if (--generation->n_uses[parent] == 0) {
            generation->spare[i] = generation->sequences[parent];
            generation->sequences[parent] = (struct sequence){0};
        } else if (!status) {
            status = sequence_fork(&generation->spare[i], &generation->sequences[parent], err);
        }
    }
    struct sequence *moved = generation->sequences;
    generation->sequences = generation->spare;
    generation->spare = moved;
    generation->begun = true;
    return status;
}

static enum status beams_advance(struct generation *generation, bool *done, struct error *err)
{
    for (size_t i = 0; i < generation->width; i++)
        if (generation->faults[i].status) {
            *err = generation->faults[i];
            return err->status;
        }
    enum status status =
        beam_advance(generation->beams, generation->parents, generation->tokens, done, err);
    if (!status && generation->fault.status) {
        *err = generation->fault;
        return err->status;
    }
    if (status || *done)
        return status;
    return beams_reorder(generation, err);
}

static enum status beams_finish(struct generation *generation, struct error *err)
{
    for (size_t i = 0; i < generation->n_results; i++) {
        struct generated *out = &generation->work->generated[i];
        const int32_t *ids;
        size_t n;
        beam_result(generation->beams, i, &ids, &n, &out->score);
        out->finish = FINISH_LENGTH;
        out->text_bytes = SIZE_MAX;
        if (n && is_eos(&generation->params, ids[n - 1])) {
            out->finish = FINISH_STOP;
            n--;
        } else if (generation->work->n_stops) {
            enum status status = find_stop(generation, ids, n, &out->text_bytes, err);
            if (status)
                return status;
            if (out->text_bytes != SIZE_MAX)
                out->finish = FINISH_STOP;
        }
        out->ids = alloc_array(n, sizeof *out->ids);
        if (!out->ids)
            return error_no_memory(err, "a text");
        if (n)
            memcpy(out->ids, ids, n * sizeof *ids);
        out->n = n;
    }
    return STATUS_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------
 */

enum status generation_begin(struct generation *generation, struct sequence *sequence,
                             float *logits, const struct token_sink *sink, bool *done,
                             struct error *err)
{
    if (!generation->beams) {
        enum status status = streams_begin(generation, sequence, logits, err);
        return status ? status : streams_advance(generation, sink, done, err);
    }
    generation->sequences[0] = *sequence;
    *sequence = (struct sequence){0};
    enum status status = beam_feed_prompt(generation->beams, logits, err);
    return status ? status : beams_advance(generation, done, err);
}

size_t generation_rows(const struct generation *generation)
{
    return generation->beams ? generation->width : generation->n_live;
}

struct sequence *generation_row(const struct generation *generation, size_t row, int32_t *token)
{
    if (generation->beams) {
        *token = generation->tokens[row];
        return &generation->sequences[row];
    }
    struct stream *stream = &generation->streams[generation->live[row]];
    *token = stream->ids[stream->n_ids - 1];
    return &stream->sequence;
}

void generation_feed(struct generation *generation, size_t row, float *logits)
{
    if (generation->beams)
        beam_feed(generation->beams, row, logits, &generation->faults[row]);
    else
        stream_feed(generation, generation->live[row], logits);
}

enum status generation_advance(struct generation *generation, const struct token_sink *sink,
                               bool *done, struct error *err)
{
    return generation->beams ? beams_advance(generation, done, err)
                             : streams_advance(generation, sink, done, err);
}

static enum status streams_finish(struct generation *generation, struct error *err)
{
    for (size_t i = 0; i < generation->n_results; i++) {
        struct generated *out = &generation->work->generated[i];
        /* Greedy with n > 1: the same text n times. */
        const struct stream *stream = &generation->streams[i < generation->width ? i : 0];
        size_t n = stream->n_ids - generation->n_prompt;
        out->ids = alloc_array(n, sizeof *out->ids);
        out->logprobs = alloc_array(n, sizeof *out->logprobs);
        size_t n_top = generation->work->n_top;
        out->top = n_top ? alloc_array(n * n_top, sizeof *out->top) : NULL;
        if (!out->ids || !out->logprobs || (n_top && !out->top))
            return error_no_memory(err, "a text");
        if (n) {
            memcpy(out->ids, stream->ids + generation->n_prompt, n * sizeof *out->ids);
            memcpy(out->logprobs, stream->logprobs, n * sizeof *out->logprobs);
            if (n_top)
                memcpy(out->top, stream->top, n * n_top * sizeof *out->top);
        }
        out->n = n;
        out->score = stream->n_scored ? (float)(stream->log_p / (double)stream->n_scored) : 0;
        out->finish = stream->finish;
        out->text_bytes = stream->text_bytes;
    }
    return STATUS_OK;
}

enum status generation_finish(struct generation *generation, struct error *err)
{
    struct work *work = generation->work;
    work->generated = calloc(generation->n_results, sizeof *work->generated);
    if (!work->generated)
        return error_no_memory(err, "a text");
    work->n_generated = generation->n_results;
    return generation->beams ? beams_finish(generation, err) : streams_finish(generation, err);
}
