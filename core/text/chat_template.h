/*
 * chat_template.h: a checkpoint's own way to write a conversation as one text, from its
 * chat_template.jinja, chat_template.json or tokenizer_config.json (in this order, as the library
 * looks), rendered by template.h.
 *
 * A template sees `messages` as the library's callers give them, each {role, content}: content is a
 * string, or a list of {type: text, text} and {type: image}; some templates take only the one form
 * and some only the other, which is found out when it is opened. Besides: add_generation_prompt
 * (true), the special tokens by name (bos_token …), and tools and documents, which are none.
 *
 * Immutable after opening; any thread may render.
 */
#ifndef VLMD_CORE_TEXT_CHAT_TEMPLATE_H
#define VLMD_CORE_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/buffer.h"
#include "core/base/error.h"

struct chat_template;

/* Text, or (data NULL) the next picture. */
struct chat_part {
    const char *text; /* valid UTF-8; borrowed */
    size_t size;
};

struct chat_message {
    const char *role; /* system, user, assistant */
    const struct chat_part *parts;
    size_t n_parts;
};

/* The directory's own, or, where it has none, `fallback` (NULL: *out is NULL then).
 * STATUS_BAD_CHECKPOINT names file, line and construct. */
enum status chat_template_open(const char *directory, const char *fallback,
                               struct chat_template **out, struct error *err);
void chat_template_free(struct chat_template *template); /* NULL is fine */

/* Whether it has places for pictures. */
bool chat_template_takes_images(const struct chat_template *template);

/* Appends the conversation's text, up to where the assistant begins. STATUS_UNPROCESSABLE with the
 * template's own words when it refuses (roles that don't alternate, say). */
enum status chat_template_render(const struct chat_template *template,
                                 const struct chat_message *messages, size_t n, struct buffer *out,
                                 struct error *err);

#endif
