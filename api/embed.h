/*
 * embed.h: pictures and texts to embeddings, for the endpoints that need them (embeddings,
 * collections): each item has its own error, and only those that can be computed become works.
 */
#ifndef VLMD_API_EMBED_H
#define VLMD_API_EMBED_H

#include "api/endpoint.h"

struct embed_item {
    bool is_image;
    struct picture picture;
    struct span text;
    char param[64];     /* "input[3]": what errors name */
    struct error error; /* why there is no embedding; status STATUS_OK otherwise */
    struct span bytes;  /* the picture's bytes once they were decoded */
    size_t work;        /* its work in the job; SIZE_MAX = none */
    bool skip;          /* needs no embedding (it came with a vector) */
};

/* Prepares a job for the items and submits it where any could be prepared (*submitted tells). The
 * call has its model, and admission is done here, before any picture is decoded. Fails only for
 * what concerns the request as a whole. */
enum status embed_submit(struct call *call, struct embed_item *items, size_t n, const char *param,
                         bool *submitted, struct error *err);

/* Each item's embedding [embed_dim] out of the finished job: borrowed from it. NULL: item->error
 * says why. */
const float *embed_result(struct call *call, struct embed_item *item);

/* Tokens of the item's text; 0 for pictures. */
size_t embed_text_tokens(const struct call *call, const struct embed_item *item);
bool embed_text_truncated(const struct call *call, const struct embed_item *item);

#endif
