/*
 * blip_text.c: BLIP's text sides: caption and answer decoders, question encoder, matching. See
 * blip.c for the reference page.
 *
 * Pictures and texts that occur several times in a batch (one picture with many texts, beams'
 * shared picture) are computed once.
 */
#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/blip_internal.h"

static enum status check_features(const struct blip *blip, struct features *const *images,
                                  size_t n_images, struct error *err)
{
    if (n_images != 1)
        return error_set(err, STATUS_UNPROCESSABLE, "this model looks at one picture, not %zu",
                         n_images);
    if (images[0]->dim != blip->config.vision.dim)
        return error_set(err, STATUS_INTERNAL, "features of %zu floats, expected %zu",
                         images[0]->dim, blip->config.vision.dim);
    return STATUS_OK;
}

/* The index of a picture among the first *n sources, added when it is not there. */
static size_t add_source(struct bert_source *sources, size_t *n, const struct features *image)
{
    for (size_t i = 0; i < *n; i++)
        if (sources[i].rows == image->rows)
            return i;
    sources[*n] = (struct bert_source){.rows = image->rows, .n_rows = image->n_rows};
    return (*n)++;
}

/* ---- the decoder -------------------------------------------------------------------------------
 */

/* rows [n, dim] → logits [n, vocab_size] */
static enum status head_forward(const struct blip *blip, const struct compute *compute,
                                const float *rows, size_t n, float *logits, struct error *err)
{
    const struct bert_config *config = &blip->config.text;
    float *inner = arena_array(compute->scratch, n * config->dim, sizeof *inner);
    if (!inner)
        return error_no_memory(err, "a forward pass's activations");
    nn_linear(compute, &blip->head.dense, rows, n, config->activation, NULL, inner);
    nn_layer_norm(compute, &blip->head.norm, inner, n, inner);
    nn_linear(compute, &blip->head.decoder, inner, n, ACTIVATION_NONE, NULL, logits);
    return STATUS_OK;
}

/* Runs the decoder over items that continue their sequences → logits after each item's last token.
 */
static enum status decoder_forward(const struct blip *blip, const struct compute *compute,
                                   const struct bert_item *items, size_t n, float *logits,
                                   struct error *err)
{
    float *x;
    if (bert_forward_last(&blip->text_decoder, compute, items, n, &x, err))
        return err->status;
    return head_forward(blip, compute, x, n, logits, err);
}

/* Starts n sequences whose cross-attention is sources[of[i]] (or continues those that have tokens)
 * and runs their prompts. */
static enum status start_sequences(const struct blip *blip, const struct compute *compute,
                                   const struct bert_source *sources, size_t n_sources,
                                   const size_t *of, struct bert_item *items,
                                   struct sequence *sequences, size_t n, float *logits,
                                   struct error *err)
{
    enum { ROOM = 24 }; /* tokens that most captions and answers fit in */
    enum status status = STATUS_OK;
    struct kv_shared **cross = arena_zalloc(compute->scratch, n_sources, sizeof(*cross));
    if (!cross)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n_sources && !status; i++) {
        cross[i] = sources[i].kv ? kv_shared_ref(sources[i].kv)
                                 : bert_cross_kv(&blip->text_decoder, compute, &sources[i], err);
        if (!cross[i])
            status = err->status;
    }
    for (size_t i = 0; i < n && !status; i++) {
        status = sequence_reserve(&sequences[i], sequences[i].n_tokens + items[i].n + ROOM, err);
        if (!sequences[i].cross)
            sequences[i].cross = kv_shared_ref(cross[of[i]]);
        items[i].sequence = &sequences[i];
    }
    for (size_t i = 0; i < n_sources; i++)
        kv_shared_unref(cross[i]);
    if (!status)
        status = decoder_forward(blip, compute, items, n, logits, err);
    for (size_t i = 0; i < n && status; i++)
        if (!sequences[i].n_tokens)
            sequence_release(&sequences[i]);
    return status;
}

/* What both prefills need: initialised sequences, room for items, sources and which source each
 * item looks at. */
struct batch {
    struct bert_item *items;
    struct bert_source *sources;
    size_t *of;
    size_t n_sources;
};

/* What an earlier prompt about the picture left, if it fits. */
static struct kv_shared *given_kv(const struct blip *blip, const struct prompt *prompt)
{
    struct kv_shared *kv = prompt->picture_kv ? *prompt->picture_kv : NULL;
    /* the encoder's, where there is one, have the decoder's shape */
    return kv && bert_cross_fits(&blip->text_decoder, kv, prompt->images[0]->n_rows) ? kv : NULL;
}

/* Leaves the pictures' keys and values to the prompts that asked for them. */
static void leave_kv(const struct batch *batch, const struct prompt *prompts, size_t n,
                     struct kv_shared *const *kv)
{
    for (size_t i = 0; i < n; i++)
        if (prompts[i].picture_kv && !*prompts[i].picture_kv && kv[batch->of[i]])
            *prompts[i].picture_kv = kv_shared_ref(kv[batch->of[i]]);
}

static enum status batch_init(struct batch *batch, const struct blip *blip,
                              const struct compute *compute, const struct prompt *prompts,
                              struct sequence *sequences, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!prompts[i].from)
            sequence_init(&sequences[i], blip->config.text.n_layers, blip->config.text.dim);
    struct arena *scratch = compute->scratch;
    *batch = (struct batch){.items = arena_zalloc(scratch, n, sizeof *batch->items),
                            .sources = arena_zalloc(scratch, n, sizeof *batch->sources),
                            .of = arena_zalloc(scratch, n, sizeof *batch->of)};
    if (!batch->items || !batch->sources || !batch->of)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = check_features(blip, prompts[i].images, prompts[i].n_images, err);
        if (!status)
            status = check_tokens(prompts[i].text, blip->config.text.vocab_size,
                                  blip->config.text.n_positions, err);
        if (status)
            return status;
        size_t from = prompts[i].from, to = prompts[i].to ? prompts[i].to : prompts[i].text->n;
        if (!from) { /* later pieces have it in their sequence */
            batch->of[i] = add_source(batch->sources, &batch->n_sources, prompts[i].images[0]);
            struct bert_source *source = &batch->sources[batch->of[i]];
            source->kv = source->kv ? source->kv : given_kv(blip, &prompts[i]);
        }
        batch->items[i] = (struct bert_item){
            .ids = prompts[i].text->ids + from, .n = to - from, .source = batch->of[i]};
    }
    return STATUS_OK;
}

enum status blip_prefill_caption(const struct model *model, const struct compute *compute,
                                 enum task task, const struct prompt *prompts,
                                 struct sequence *sequences, size_t n, float *logits,
                                 struct error *err)
{
    const struct blip *blip = model->state;
    struct batch batch;
    (void)task;
    enum status status = batch_init(&batch, blip, compute, prompts, sequences, n, err);
    if (status)
        return status;
    status = start_sequences(blip, compute, batch.sources, batch.n_sources, batch.of, batch.items,
                             sequences, n, logits, err);
    for (size_t i = 0; i < n && !status; i++) /* a sequence's own are its picture's */
        if (prompts[i].picture_kv && !*prompts[i].picture_kv)
            *prompts[i].picture_kv = kv_shared_ref(sequences[i].cross);
    return status;
}

/* VQA: computes the encoder's keys and values of the pictures for those who keep them. kv: [n],
 * NULL where nobody does; the caller's references. */
static enum status make_kv(const struct blip *blip, const struct compute *compute,
                           const struct prompt *prompts, size_t n, struct batch *batch,
                           struct kv_shared **kv, struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        struct bert_source *source = &batch->sources[batch->of[i]];
        if (source->kv || !prompts[i].picture_kv)
            continue;
        source->kv = bert_cross_kv(&blip->text_encoder, compute, source, err);
        kv[batch->of[i]] = source->kv;
        if (!source->kv)
            return err->status;
    }
    return STATUS_OK;
}

enum status blip_prefill_vqa(const struct model *model, const struct compute *compute,
                             enum task task, const struct prompt *prompts,
                             struct sequence *sequences, size_t n, float *logits, struct error *err)
{
    const struct blip *blip = model->state;
    size_t dim = blip->config.text.dim, n_total = 0;
    struct batch batch;
    (void)task;
    enum status status = batch_init(&batch, blip, compute, prompts, sequences, n, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        n_total += batch.items[i].n;

    /* 1. the questions, looking at their pictures */
    float *questions = arena_array(compute->scratch, n_total * dim, sizeof *questions);
    struct kv_shared **kv = arena_zalloc(compute->scratch, n, sizeof(*kv));
    if (!questions || !kv)
        return error_no_memory(err, "a batch of questions");
    status = make_kv(blip, compute, prompts, n, &batch, kv, err);
    if (!status)
        status = bert_forward(&blip->text_encoder, compute, batch.items, n, batch.sources,
                              batch.n_sources, questions, err);
    if (!status)
        leave_kv(&batch, prompts, n, kv);
    for (size_t i = 0; i < n; i++)
        kv_shared_unref(kv[i]);
    if (status)
        return status;

    /* 2. the answers, looking at their questions */
    for (size_t i = 0, row = 0; i < n; i++) {
        batch.sources[i] =
            (struct bert_source){.rows = questions + row * dim, .n_rows = batch.items[i].n};
        row += batch.items[i].n;
        batch.of[i] = i;
        batch.items[i] = (struct bert_item){.ids = &blip->config.bos_id, .n = 1};
    }
    return start_sequences(blip, compute, batch.sources, n, batch.of, batch.items, sequences, n,
                           logits, err);
}

enum status blip_decode(const struct model *model, const struct compute *compute,
                        struct sequence *const *sequences, const int32_t *tokens, size_t n,
                        float *logits, struct error *err)
{
    const struct blip *blip = model->state;
    struct bert_item *items = arena_zalloc(compute->scratch, n, sizeof *items);
    if (!items)
        return error_no_memory(err, "a batch");
    for (size_t i = 0; i < n; i++) {
        enum status status = sequence_reserve(sequences[i], sequences[i]->n_tokens + 1, err);
        if (status)
            return status;
        items[i] = (struct bert_item){.ids = &tokens[i], .n = 1, .sequence = sequences[i]};
    }
    return decoder_forward(blip, compute, items, n, logits, err);
}

/* ---- matching ----------------------------------------------------------------------------------
 */

/* The first rows of the items' outputs → rows [n, dim]. */
static enum status encode_first_rows(const struct blip *blip, const struct compute *compute,
                                     const struct bert_item *items, size_t n,
                                     const struct bert_source *sources, size_t n_sources,
                                     float *rows, struct error *err)
{
    size_t dim = blip->config.text.dim, n_total = 0;
    for (size_t i = 0; i < n; i++)
        n_total += items[i].n;
    float *x = arena_array(compute->scratch, n_total * dim, sizeof *x);
    if (!x)
        return error_no_memory(err, "a forward pass's activations");
    enum status status =
        bert_forward(&blip->text_encoder, compute, items, n, sources, n_sources, x, err);
    for (size_t i = 0, row = 0; i < n && !status; row += items[i++].n)
        memcpy(rows + i * dim, x + row * dim, dim * sizeof *x);
    return status;
}

/* out[i][1] = cosine of pair i. Each distinct text goes through the encoder once. */
static enum status score_cosines(const struct blip *blip, const struct compute *compute,
                                 const struct pair *pairs, const struct bert_item *items, size_t n,
                                 const struct bert_source *sources, size_t n_sources, float *out,
                                 struct error *err)
{
    struct arena *scratch = compute->scratch;
    size_t dim = blip->config.text.dim, vision_dim = blip->config.vision.dim;
    size_t e = blip->config.projection_dim, n_texts = 0;
    struct bert_item *texts = arena_array(scratch, n, sizeof *texts);
    size_t *text_of = arena_array(scratch, n, sizeof *text_of);
    float *rows = arena_array(scratch, n * dim, sizeof *rows);
    float *class_rows = arena_array(scratch, n_sources * vision_dim, sizeof *class_rows);
    float *text_embeddings = arena_array(scratch, n * e, sizeof *text_embeddings);
    float *image_embeddings = arena_array(scratch, n_sources * e, sizeof *image_embeddings);
    if (!texts || !text_of || !rows || !class_rows || !text_embeddings || !image_embeddings)
        return error_no_memory(err, "a batch of pairs");

    for (size_t i = 0, t; i < n; i++) {
        const struct tokens *text = pairs[i].text;
        for (t = 0; t < n_texts; t++)
            if (texts[t].n == text->n &&
                memcmp(texts[t].ids, text->ids, text->n * sizeof *text->ids) == 0)
                break;
        if (t == n_texts)
            texts[n_texts++] = (struct bert_item){.ids = text->ids, .n = text->n};
        text_of[i] = t;
    }
    enum status status = encode_first_rows(blip, compute, texts, n_texts, NULL, 0, rows, err);
    if (status)
        return status;
    nn_linear(compute, &blip->text_projection, rows, n_texts, ACTIVATION_NONE, NULL,
              text_embeddings);
    nn_l2_normalize_rows(text_embeddings, n_texts, e);

    for (size_t i = 0; i < n_sources; i++)
        memcpy(class_rows + i * vision_dim, sources[i].rows, vision_dim * sizeof *class_rows);
    nn_linear(compute, &blip->vision_projection, class_rows, n_sources, ACTIVATION_NONE, NULL,
              image_embeddings);
    nn_l2_normalize_rows(image_embeddings, n_sources, e);

    for (size_t i = 0; i < n; i++) {
        const float *a = image_embeddings + items[i].source * e;
        const float *b = text_embeddings + text_of[i] * e;
        float dot = 0;
        for (size_t d = 0; d < e; d++)
            dot += a[d] * b[d];
        out[2 * i + 1] = dot;
    }
    return STATUS_OK;
}

enum status blip_score_pairs(const struct model *model, const struct compute *compute,
                             enum task task, const struct pair *pairs, size_t n, float *out,
                             struct error *err)
{
    const struct blip *blip = model->state;
    struct arena *scratch = compute->scratch;
    size_t dim = blip->config.text.dim, n_sources = 0;
    struct bert_item *items = arena_array(scratch, n, sizeof *items);
    struct bert_source *sources = arena_array(scratch, n, sizeof *sources);
    float *rows = arena_array(scratch, n * dim, sizeof *rows);
    float *logits = arena_array(scratch, 2 * n, sizeof *logits);
    (void)task;
    if (!items || !sources || !rows || !logits)
        return error_no_memory(err, "a batch of pairs");
    for (size_t i = 0; i < n; i++) {
        enum status status = check_features(blip, pairs[i].images, pairs[i].n_images, err);
        if (!status)
            status = check_tokens(pairs[i].text, blip->config.text.vocab_size,
                                  blip->config.text.n_positions, err);
        if (status)
            return status;
        items[i] =
            (struct bert_item){.ids = pairs[i].text->ids,
                               .n = pairs[i].text->n,
                               .source = add_source(sources, &n_sources, pairs[i].images[0])};
    }
    enum status status = encode_first_rows(blip, compute, items, n, sources, n_sources, rows, err);
    if (status)
        return status;
    nn_linear(compute, &blip->match_head, rows, n, ACTIVATION_NONE, NULL, logits);
    nn_softmax_rows(logits, n, 2);
    status = score_cosines(blip, compute, pairs, items, n, sources, n_sources, out, err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        out[2 * i] = logits[2 * i + 1];
    return STATUS_OK;
}
