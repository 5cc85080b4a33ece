/*
 * dots.h: products of vectors with many rows that lie one after another: what searches are made of.
 *
 * Everything runs on the calling thread, so that whoever spreads a search over the pool decides
 * how.
 */
#ifndef VLMD_CORE_NN_DOTS_H
#define VLMD_CORE_NN_DOTS_H

#include <stddef.h>
#include <stdint.h>

/* What a row's numbers are. */
enum dot_form {
    DOT_F32,
    DOT_F16, /* IEEE half, finite */
    DOT_I8,  /* to be multiplied by the row's scale */
    N_DOT_FORMS
};
size_t dot_form_size(enum dot_form form); /* bytes of a number */

/* scores[i] = query [dim] · row i, for n rows of `dim` numbers each, without padding between them.
 * scales [n]: of DOT_I8 rows; else ignored. rows need not be aligned. */
void dot_rows(enum dot_form form, const void *rows, const float *scales, size_t n, size_t dim,
              const float *query, float *scores);

/* scores[n_queries, n] = queries [n_queries, dim] · rows [n, dim]ᵀ, all f32. Reads the rows once
 * for DOT_QUERIES_MAX queries, or fewer. `id` comes from dot_block_id(), once for the same queries:
 * they stay packed in the thread's scratch between calls. */
enum { DOT_QUERIES_MAX = 64 };
uint64_t dot_block_id(void);
void dot_block(uint64_t id, const float *queries, size_t n_queries, const float *rows, size_t n,
               size_t dim, float *scores);

/* A row as f32, as `form` keeps it (scaled). */
void dot_unpack(enum dot_form form, const void *row, float scale, size_t dim, float *out);
/* f32 into a row of `form`; gives its scale (1 but for DOT_I8). */
float dot_pack(enum dot_form form, const float *vector, size_t dim, void *row);

#endif
