/*
 * contact_sheet.h: a search's results as one HTML page that opens alone: thumbnails, scores, ids
 * and metadata.
 */
#ifndef VLMD_SERVER_CONTACT_SHEET_H
#define VLMD_SERVER_CONTACT_SHEET_H

#include <jansson.h>

#include "server/process.h"

/* Writes the page to the file ("-" = standard output). query: a text, or a picture's file, shown as
 * the title. reply: of the search. Thumbnails are made from the pictures that the collection keeps;
 * an item without one is shown without, and so is one whose picture breaks. The file is whole or
 * not there: it is written beside its place and moved. */
enum status contact_sheet_write(const char *path, struct process *process, const char *collection,
                                const char *query, const json_t *reply, struct error *err);

#endif
