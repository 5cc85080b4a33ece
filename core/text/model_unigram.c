/*
 * model_unigram.c: the unigram language model (Kudo, arXiv:1804.10959): the segmentation with the
 * largest sum of scores, by Viterbi over byte positions; unknown characters score ten below the
 * worst piece and neighbours fuse. Ties go to the path found first, as in the reference.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/text_internal.h"

enum { NOT_REACHED = -1 };

struct best { /* the best way to a position */
    double score;
    int32_t start; /* of its last piece, NOT_REACHED: none yet */
    int32_t id;
};

/* One piece of the result: its id, or the unknown's bytes, or the unknown. */
static bool put_piece(const struct model *model, const char *text, size_t size, struct id_list *out)
{
    int64_t id = vocab_id(&model->vocab, text, size);
    if (id >= 0)
        return id_list_add(out, (int32_t)id);
    if (model->byte_fallback) {
        bool all = true;
        for (size_t i = 0; i < size && all; i++)
            all = model->byte_ids[(unsigned char)text[i]] >= 0;
        for (size_t i = 0; i < size && all; i++)
            if (!id_list_add(out, (int32_t)model->byte_ids[(unsigned char)text[i]]))
                return false;
        if (all)
            return true;
    }
    return id_list_add(out, (int32_t)model->unk_id);
}

enum status model_unigram(const struct model *model, const char *word, size_t size,
                          struct model_scratch *scratch, struct id_list *out, struct error *err)
{
    struct best *best = model_scratch_get(scratch, size + 1, sizeof *best);
    if (!best)
        return error_no_memory(err, "a word");
    for (size_t i = 0; i <= size; i++)
        best[i] = (struct best){0, NOT_REACHED, 0};
    for (size_t start = 0; start < size;) {
        uint32_t code;
        size_t length = utf8_decode(word + start, size - start, &code);
        length = length ? length : 1;
        double so_far = best[start].score;
        bool has_single = false;
        struct prefix_cursor cursor = {0};
        for (size_t i = start; i < size; i++) {
            if (!prefix_step(&model->index, &cursor, (unsigned char)word[i]))
                break;
            const struct prefix_entry *entry = prefix_end(&model->index, &cursor);
            if (!entry)
                continue;
            double score = model->scores[entry->value] + so_far;
            struct best *target = &best[i + 1];
            if (target->start == NOT_REACHED || score > target->score)
                *target = (struct best){score, (int32_t)start, (int32_t)entry->value};
            has_single |= i + 1 - start == length;
        }
        if (!has_single) {
            if (model->unk_id < 0)
                return error_set(err, STATUS_UNPROCESSABLE,
                                 "the text has a character that the tokenizer's vocabulary lacks, "
                                 "and it has no token for the unknown");
            double score = model->unk_score + so_far;
            struct best *target = &best[start + length];
            if (target->start == NOT_REACHED || score > target->score)
                *target = (struct best){score, (int32_t)start, (int32_t)model->unk_id};
        }
        start += length;
    }
    /* Turn the links around: best[i].start becomes the end of the piece that starts at i. */
    int32_t end = (int32_t)size, next_end = -1, next_id = -1;
    while (end > 0) {
        int32_t start = best[end].start, id = best[end].id;
        best[end].start = next_end;
        best[end].id = next_id;
        next_end = end;
        next_id = id;
        end = start;
    }
    best[0].start = next_end;
    best[0].id = next_id;
    for (size_t at = 0; at < size;) {
        size_t stop = (size_t)best[at].start;
        bool unknown = best[at].id == model->unk_id;
        while (unknown && stop < size && best[stop].id == model->unk_id) /* fuse */
            stop = (size_t)best[stop].start;
        if (!put_piece(model, word + at, stop - at, out))
            return error_no_memory(err, "token ids");
        at = stop;
    }
    return STATUS_OK;
}
