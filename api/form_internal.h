/*
 * form_internal.h: what form.c, form_json.c and form_values.c share.
 */
#ifndef VLMD_API_FORM_INTERNAL_H
#define VLMD_API_FORM_INTERNAL_H

#include "api/form.h"

/* "'param' must be <want>, not <found>" */
enum status field_wrong_type(const char *param, const char *want, const char *found,
                             struct error *err);

/* A picture given as text: a data: URL, an http(s) URL, or base64. */
enum status picture_from_text(struct span text, const char *param, struct picture *out,
                              struct error *err);

/* Parses a client's JSON; NULL: STATUS_BAD_JSON with the field (of the outermost object) that the
 * fault is in, or STATUS_NO_MEMORY. flags: jansson's. */
json_t *form_read_json(const char *text, size_t size, size_t flags, struct error *err);

#endif
