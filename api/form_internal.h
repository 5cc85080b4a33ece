/*
 * form_internal.h: what form.c and form_values.c share.
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

#endif
