/*
 * pieces.c: a text cut in spans, the lists that models fill, and their scratch memory. One call of
 * encode or decode owns each; nothing is shared.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/text_internal.h"

void pieces_init(struct pieces *pieces)
{
    *pieces = (struct pieces){0};
    buffer_init(&pieces->text, TOKENIZER_WORK_BYTES_MAX);
}

void pieces_release(struct pieces *pieces)
{
    buffer_release(&pieces->text);
    free(pieces->items);
    pieces_init(pieces);
}

void pieces_clear(struct pieces *pieces)
{
    pieces->text.size = 0;
    pieces->n = 0;
}

bool pieces_add(struct pieces *pieces, struct piece piece)
{
    if (pieces->n == pieces->capacity) {
        size_t capacity = pieces->capacity ? 2 * pieces->capacity : 64;
        struct piece *items = realloc_array(pieces->items, capacity, sizeof *items);
        if (!items)
            return false;
        pieces->items = items;
        pieces->capacity = capacity;
    }
    pieces->items[pieces->n++] = piece;
    return true;
}

bool pieces_copy(struct pieces *pieces, const char *data, size_t size, int32_t id, bool first)
{
    size_t start = pieces->text.size;
    return buffer_append(&pieces->text, data, size) &&
           pieces_add(pieces, (struct piece){start, size, id, first});
}

enum status text_no_room(struct error *err, const struct buffer *buffer)
{
    if (buffer->size > buffer->max_bytes / 2)
        return error_set(err, STATUS_TOO_LONG,
                         "the text grows past %zu bytes while it is tokenized", buffer->max_bytes);
    return error_no_memory(err, "the text");
}

bool id_list_add(struct id_list *list, int32_t id)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        int32_t *ids = realloc_array(list->ids, capacity, sizeof *ids);
        if (!ids)
            return false;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return true;
}

void *model_scratch_get(struct model_scratch *scratch, size_t n, size_t each)
{
    size_t bytes;
    if (!size_mul(n, each, &bytes))
        return NULL;
    if (bytes > scratch->bytes) {
        void *memory = malloc(bytes);
        if (!memory)
            return NULL;
        free(scratch->memory);
        scratch->memory = memory;
        scratch->bytes = bytes;
    }
    return scratch->memory;
}

void model_scratch_release(struct model_scratch *scratch)
{
    free(scratch->memory);
    buffer_release(&scratch->text);
    *scratch = (struct model_scratch){0};
}
