/*
 * template.h: Jinja templates, as far as checkpoints' chat templates use them.
 *
 * Follows Jinja2 3.1 as transformers 5 sets it up (trim_blocks, lstrip_blocks, loop controls): if,
 * for (with else, if and loop.…), set (also of a block and of a namespace's field), macro, break,
 * continue, raw, generation; expressions with all of Jinja's operators, slices, conditions; the
 * filters, tests, methods and functions in template_calls.c. Not there: inheritance, includes,
 * recursive loops, call and filter blocks, formatting (% on strings), tuples (they are lists); a
 * template that needs what is not there is refused when it is compiled, with the construct and its
 * line.
 *
 * Values are jansson's: a template reads JSON and writes text. What it can spend is bounded
 * (TEMPLATE_…): an endless loop ends in an error. A compiled template is immutable and may be
 * rendered by any number of threads at once.
 */
#ifndef VLMD_CORE_TEXT_TEMPLATE_H
#define VLMD_CORE_TEXT_TEMPLATE_H

#include <jansson.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

enum {
    TEMPLATE_BYTES_MAX = 1 << 20,         /* of source */
    TEMPLATE_DEPTH_MAX = 100,             /* of nested blocks and brackets, and of nested values */
    TEMPLATE_CALLS_MAX = 1000,            /* of expressions, blocks and macros within each other */
    TEMPLATE_STEPS_MAX = 2 * 1000 * 1000, /* of one rendering; 64 bytes of text cost one, too */
    TEMPLATE_VALUE_BYTES_MAX = 1 << 24,   /* of one string that it makes */
    TEMPLATE_ITEMS_MAX = 1 << 17,         /* of one list that it makes */
};

struct template;

/* STATUS_BAD_CHECKPOINT names the construct and the line; STATUS_NO_MEMORY. */
struct template *template_compile(const char *source, size_t size, struct error *err);
void template_free(struct template *template);

/* Appends the text for these variables (an object; borrowed, never changed) to *out.
 * STATUS_UNPROCESSABLE: the template's own raise_exception(), a value of the wrong kind, or too
 * much of what is bounded above; STATUS_TOO_LONG: past out->max_bytes. What was appended by then is
 * left there. */
enum status template_render(const struct template *template, const json_t *variables,
                            struct buffer *out, struct error *err);

#endif
