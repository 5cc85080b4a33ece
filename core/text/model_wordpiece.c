/*
 * model_wordpiece.c: WordPiece (the longest piece first, Devlin et al., arXiv:1810.04805) and
 * WordLevel (the word or nothing). A word that is too long or cannot be spelt is one unknown token.
 * The longest piece is found by one walk along the vocabulary, so a word costs its length times
 * the longest token at most.
 */
#include "core/text/text_internal.h"

static enum status put_unknown(const struct model *model, struct id_list *out, struct error *err)
{
    if (model->unk_id < 0)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the text has a word that the tokenizer's vocabulary lacks, and it has "
                         "no token for the unknown");
    return id_list_add(out, (int32_t)model->unk_id) ? STATUS_OK : error_no_memory(err, "token ids");
}

enum status model_wordpiece(const struct model *model, const char *word, size_t size,
                            struct model_scratch *scratch, struct id_list *out, struct error *err)
{
    (void)scratch;
    size_t n_chars = 0;
    for (size_t i = 0; i < size; i++)
        n_chars += ((unsigned char)word[i] & 0xC0) != 0x80;
    if (n_chars > model->max_word_chars)
        return put_unknown(model, out, err);
    size_t kept = out->n;
    for (size_t start = 0; start < size;) {
        struct prefix_cursor cursor = {0};
        bool going = true;
        if (start > 0)
            for (size_t i = 0; i < model->prefix.size && going; i++)
                going = prefix_step(&model->index, &cursor, (unsigned char)model->prefix.data[i]);
        size_t end = start;
        int32_t id = -1;
        for (size_t i = start; i < size && going; i++) {
            going = prefix_step(&model->index, &cursor, (unsigned char)word[i]);
            const struct prefix_entry *entry = going ? prefix_end(&model->index, &cursor) : NULL;
            if (entry) {
                id = (int32_t)entry->value;
                end = i + 1;
            }
        }
        if (id < 0) {
            out->n = kept;
            return put_unknown(model, out, err);
        }
        if (!id_list_add(out, id))
            return error_no_memory(err, "token ids");
        start = end;
    }
    return STATUS_OK;
}

enum status model_wordlevel(const struct model *model, const char *word, size_t size,
                            struct model_scratch *scratch, struct id_list *out, struct error *err)
{
    (void)scratch;
    int64_t id = vocab_id(&model->vocab, word, size);
    if (id < 0)
        return put_unknown(model, out, err);
    return id_list_add(out, (int32_t)id) ? STATUS_OK : error_no_memory(err, "token ids");
}
