/*
 * written_boxes.c: see written_boxes.h. Reading takes time linear in the text: JSON is tried from
 * one "{" to the next, since a box's object holds no other.
 */
#include "core/models/written_boxes.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/base/size.h"

/* ---- asking ------------------------------------------------------------------------------------
 */

bool written_boxes_prompt(enum box_writing writing, const struct box_label *names, size_t n,
                          bool is_expression, struct buffer *out)
{
    bool as_json = writing == BOXES_AS_JSON;
    const char *begin = !as_json        ? "detect "
                        : is_expression ? "Locate "
                                        : "Outline the position of each ";
    const char *end = !as_json        ? ""
                      : is_expression ? ", output its bbox coordinates using JSON format."
                                      : " and output all the coordinates in JSON format.";
    bool ok = buffer_puts(out, begin);
    for (size_t i = 0; i < n && ok; i++) {
        ok = i == 0 || buffer_puts(out, as_json ? ", each " : " ; ");
        ok = ok && buffer_append(out, names[i].data, names[i].size);
    }
    return ok && buffer_puts(out, end);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

struct reader {
    const char *text;
    size_t size;
    struct arena *arena;
    struct written_box *boxes; /* [capacity] */
    size_t n, capacity;
};

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct box_label trim(const char *data, size_t size)
{
    while (size && is_blank(data[0])) {
        data++;
        size--;
    }
    while (size && is_blank(data[size - 1]))
        size--;
    return (struct box_label){data, size};
}

/* Takes a box of corners in parts of the picture, if it is one. */
static void add(struct reader *reader, const double corners[4], size_t begin, size_t end,
                struct box_label label)
{
    for (size_t i = 0; i < 4; i++)
        if (!isfinite(corners[i]))
            return;
    if (corners[2] < corners[0] || corners[3] < corners[1] || corners[0] >= 1 || corners[1] >= 1 ||
        corners[2] < 0 || corners[3] < 0 || reader->n == reader->capacity)
        return;
    struct written_box *box = &reader->boxes[reader->n++];
    *box = (struct written_box){.begin = begin, .end = end, .label = label};
    for (size_t i = 0; i < 4; i++)
        box->corners[i] = (float)fmin(fmax(corners[i], 0), 1);
}

/* "<loc0123>" or "<seg012>" at text[at]: its number, and *at past it; -1: there is none. */
static int read_word(const struct reader *reader, const char *head, size_t n_digits, size_t *at)
{
    size_t n_head = strlen(head), n = n_head + n_digits + 1, left = reader->size - *at;
    const char *word = reader->text + *at;
    if (left < n || memcmp(word, head, n_head) != 0 || word[n - 1] != '>')
        return -1;
    int number = 0;
    for (size_t i = n_head; i < n - 1; i++) {
        if (word[i] < '0' || word[i] > '9')
            return -1;
        number = number * 10 + (word[i] - '0');
    }
    *at += n;
    return number;
}

static void read_locations(struct reader *reader)
{
    enum { STEPS = 1024 };
    for (size_t at = 0; at < reader->size;) {
        /* 1. A run of locations. */
        size_t begin = at, n_run = 0;
        double run[4] = {0};
        bool fits = true;
        for (int each; (each = read_word(reader, "<loc", 4, &at)) >= 0; n_run++) {
            fits &= each < STEPS;
            if (n_run < 4)
                run[n_run] = (double)each / STEPS;
        }
        if (!n_run) {
            at++;
            continue;
        }
        /* 2. What it is of: up to the next one. */
        size_t end = at;
        while (read_word(reader, "<seg", 3, &at) >= 0)
            ;
        size_t label = at;
        while (at < reader->size && reader->text[at] != ';' &&
               (reader->size - at < 4 || memcmp(reader->text + at, "<loc", 4) != 0))
            at++;
        const double corners[4] = {run[1], run[0], run[3], run[2]};
        if (n_run == 4 && fits)
            add(reader, corners, begin, end, trim(reader->text + label, at - label));
    }
}

/* The object that text[begin, end) begins with, as a box where it is one. */
static enum status read_object(struct reader *reader, size_t begin, size_t end, size_t width,
                               size_t height, struct error *err)
{
    static const char *const keys[] = {"bbox_2d", "bbox"};
    const char *text = reader->text + begin;
    json_t *object = json_loadb(text, end - begin, JSON_DISABLE_EOF_CHECK, NULL);
    enum status status = STATUS_OK;
    for (size_t k = 0; k < ARRAY_LENGTH(keys) && object; k++) {
        const json_t *numbers = json_object_get(object, keys[k]);
        const json_t *label = json_object_get(object, "label");
        double corners[4];
        if (json_array_size(numbers) != ARRAY_LENGTH(corners))
            continue;
        for (size_t i = 0; i < ARRAY_LENGTH(corners); i++) {
            const json_t *number = json_array_get(numbers, i);
            corners[i] = json_is_number(number)
                             ? json_number_value(number) / (double)(i % 2 ? height : width)
                             : NAN;
        }
        /* Where the numbers stand: a string that is the key can only be the key's own, or a value
         * of another key; then the first list after it is still the only one. */
        const char *key = memmem(text, end - begin, keys[k], strlen(keys[k]));
        const char *open = key ? memchr(key, '[', end - begin - (size_t)(key - text)) : NULL;
        const char *close = open ? memchr(open, ']', end - begin - (size_t)(open - text)) : NULL;
        if (!close)
            continue;
        struct box_label said = {"", 0};
        if (json_is_string(label)) {
            struct box_label trimmed = trim(json_string_value(label), json_string_length(label));
            said.size = trimmed.size;
            said.data = arena_string(reader->arena, trimmed.data, trimmed.size);
            if (!said.data)
                status = error_no_memory(err, "a box's label");
        }
        if (!status)
            add(reader, corners, begin + (size_t)(open - text) + 1, begin + (size_t)(close - text),
                said);
        break;
    }
    json_decref(object);
    return status;
}

static enum status read_json(struct reader *reader, size_t width, size_t height, struct error *err)
{
    const char *text = reader->text, *at = memchr(text, '{', reader->size);
    enum status status = STATUS_OK;
    while (at && !status) {
        size_t begin = (size_t)(at - text);
        const char *next = memchr(at + 1, '{', reader->size - begin - 1);
        status = read_object(reader, begin, next ? (size_t)(next - text) : reader->size, width,
                             height, err);
        at = next;
    }
    return status;
}

enum status written_boxes_read(enum box_writing writing, const char *text, size_t size,
                               size_t width, size_t height, struct arena *arena,
                               struct written_box **out, size_t *n, struct error *err)
{
    enum { BOX_BYTES_MIN = 18 }; /* {"bbox":[0,0,0,0]} */
    struct reader reader = {
        .text = text, .size = size, .arena = arena, .capacity = size / BOX_BYTES_MIN};
    reader.boxes = arena_array(arena, reader.capacity, sizeof *reader.boxes);
    if (!reader.boxes)
        return error_no_memory(err, "the boxes");
    enum status status = STATUS_OK;
    if (writing == BOXES_AS_LOCATIONS)
        read_locations(&reader);
    else if (writing == BOXES_AS_JSON && size && width && height)
        status = read_json(&reader, width, height, err);
    if (!status) {
        *out = reader.boxes;
        *n = reader.n;
    }
    return status;
}

/* ---- whose it is -------------------------------------------------------------------------------
 */

static bool is_same(const char *a, const char *b, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i]))
            return false;
    return true;
}

/* Letters and digits, and all of what is not ASCII. */
static bool is_of_word(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

/* Whether `part` stands in `whole` where a word begins. */
static bool contains(struct box_label whole, struct box_label part)
{
    for (size_t at = 0; part.size && at + part.size <= whole.size; at++) {
        bool begins = at == 0 || !is_of_word(whole.data[at - 1]) || !is_of_word(part.data[0]);
        if (begins && is_same(whole.data + at, part.data, part.size))
            return true;
    }
    return false;
}

size_t written_box_name(const struct box_label *label, const struct box_label *names, size_t n)
{
    if (n == 1)
        return 0;
    enum { LABEL_BYTES_MAX = 1024 }; /* comparing takes the product of both lengths */
    struct box_label said = trim(label->data, label->size);
    size_t best = SIZE_MAX;
    if (!said.size || said.size > LABEL_BYTES_MAX)
        return best;
    for (size_t i = 0; i < n; i++) {
        struct box_label name = trim(names[i].data, names[i].size);
        if (name.size == said.size && is_same(name.data, said.data, said.size))
            return i;
        if ((contains(said, name) || contains(name, said)) &&
            (best == SIZE_MAX || name.size > names[best].size))
            best = i;
    }
    return best;
}
