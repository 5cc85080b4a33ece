/*
 * fuzz_boxes.c: what a model may write when it is asked for boxes, read in either form, and its
 * labels matched against queries.
 *
 * Input: the text.
 */
#include <stdlib.h>

#include "core/base/size.h"
#include "core/models/written_boxes.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct box_label names[] = {
        {"cat", 3}, {"a red dog", 9}, {"", 0}, {"\xc3\xa9", 2}};
    struct arena arena;
    arena_init(&arena, 0);
    for (int writing = BOXES_NOT_WRITTEN; writing <= BOXES_AS_JSON; writing++) {
        struct written_box *boxes = NULL;
        struct error err = {0};
        size_t n = 0;
        if (written_boxes_read((enum box_writing)writing, (const char *)data, size, 640, 480,
                               &arena, &boxes, &n, &err))
            abort();
        for (size_t i = 0; i < n; i++) {
            const float *box = boxes[i].corners;
            size_t name = written_box_name(&boxes[i].label, names, ARRAY_LENGTH(names));
            if (!(0 <= box[0] && box[0] <= box[2] && box[2] <= 1 && 0 <= box[1] &&
                  box[1] <= box[3] && box[3] <= 1) ||
                boxes[i].begin >= boxes[i].end || boxes[i].end > size ||
                (name != SIZE_MAX && name >= ARRAY_LENGTH(names)))
                abort();
        }
    }
    arena_release(&arena);
    return 0;
}
