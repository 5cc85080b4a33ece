/*
 * cache.h: packed weights kept in a file, so that the next start maps what this one made.
 *
 * One file for a model's directory and form, "<name>-<hash of its path>-<form>.pack":
 *
 *   header   magic, PACK_VERSION, form, the identity of the checkpoint's files, where the index is,
 *            and a sum over all of these
 *   weights  as packed.h has them, each at a multiple of 64 bytes
 *   index    for each weight: which one (a hash of its source), form, shape, place, and its own sum
 *
 * Nothing here makes a start fail: a file that is missing, cut, of another version, of another
 * checkpoint, or damaged is made anew, and where none can be made (no home, a full or read-only
 * disk, another process at it) the weights are packed into memory. A file is written beside its
 * name and moved there when it is whole; the maps of who reads the old one stay good. What is
 * packed for a new file lies in the file's own map from the start: it is shared by all processes of
 * a machine, and the system may drop it from memory.
 *
 * Used by the thread that loads a model, alone.
 */
#ifndef VLMD_CORE_WEIGHTS_CACHE_H
#define VLMD_CORE_WEIGHTS_CACHE_H

#include "core/weights/safetensors.h"

struct weight_cache;

/* The file in `folder` (made when it is not there) for the checkpoint `directory` whose tensors
 * these are; NULL when there can be none. The pool checks sums. */
struct weight_cache *weight_cache_open(const char *folder, const char *directory,
                                       const struct tensor_set *tensors, enum weight_form form,
                                       struct pool *pool);
/* Unmaps: after everything that points into it. NULL is fine. */
void weight_cache_close(struct weight_cache *cache);

/* The packed weight [n_out, n_in] of this source and its form; NULL when the file does not have it
 * whole. */
const void *weight_cache_find(struct weight_cache *cache, uint64_t source, size_t n_out,
                              size_t n_in, enum weight_form *form);

/* Room for a weight that is packed now, in a file that is being made; NULL when there is none. Then
 * what it holds: a room that is not told of is used again. */
void *weight_cache_reserve(struct weight_cache *cache, size_t bytes);
void weight_cache_add(struct weight_cache *cache, uint64_t source, size_t n_out, size_t n_in,
                      enum weight_form form);

/* After the last weight: puts a new file in its place, or removes one that turned out bad. Whether
 * the model was loaded decides whether it is kept. */
void weight_cache_finish(struct weight_cache *cache, bool loaded);

/* Gives the pages of the map back to the system; what is read again comes back by itself. */
void weight_cache_page_out(const struct weight_cache *cache);

#endif
