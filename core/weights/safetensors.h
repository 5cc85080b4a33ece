/*
 * safetensors.h: the tensors of a checkpoint, memory-mapped.
 *
 * File layout (https://github.com/huggingface/safetensors): u64 little-endian header length n, n
 * bytes of JSON {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]},
 * "__metadata__": {..}}, then the data that the offsets count from. A directory holds
 * model.safetensors, or shards named by model.safetensors.index.json ("weight_map"). Every offset,
 * shape and size is checked against the file before anything is returned. Maps are read-only and
 * shared; a set is immutable after opening and may be read by any thread.
 */
#ifndef VLMD_CORE_WEIGHTS_SAFETENSORS_H
#define VLMD_CORE_WEIGHTS_SAFETENSORS_H

#include <stdatomic.h>

#include "core/nn/nn.h"

enum { TENSOR_DIMS_MAX = 8 };

/* One tensor in the map: borrowed from the set it came from; data may be unaligned. */
struct tensor_view {
    enum dtype dtype;       /* N_DTYPES for those of the format that nothing here computes with */
    const char *dtype_name; /* as the file has it; static */
    size_t n_dims;
    size_t shape[TENSOR_DIMS_MAX];
    const void *data;
    size_t n_elements;
};

struct tensor_set;

/* What a set's linear layers are to be kept in, for who binds them (see binder.h): asked for by who
 * opens a model, carried here past the architecture's own code. Borrowed, and needed while the set
 * is bound alone; NULL (the default) is f32. */
struct weight_cache;
struct weight_plan {
    enum weight_form form;
    struct pool *pool;          /* that converts; NULL = the calling thread */
    struct weight_cache *cache; /* where packed weights may be found and left; NULL = none */
};
void tensor_set_plan(struct tensor_set *set, const struct weight_plan *plan);
const struct weight_plan *tensor_set_planned(const struct tensor_set *set);

/* file_name: NULL for the standard names, else the one file to open
 * ("open_clip_model.safetensors"). STATUS_BAD_CHECKPOINT names the file (and tensor) at fault;
 * pickled weights (pytorch_model.bin alone) are refused with the reason. */
struct tensor_set *tensor_set_open(const char *directory, const char *file_name, struct error *err);
void tensor_set_close(struct tensor_set *set);

/* Gives the memory that the maps take back to the system; what is read again comes back from the
 * files by itself. Any thread, also while others read. */
void tensor_set_page_out(const struct tensor_set *set);

/* NULL when there is no such tensor. The view lives as long as the set. */
const struct tensor_view *tensor_set_find(const struct tensor_set *set, const char *name);

size_t tensor_set_count(const struct tensor_set *set);
/* The i-th tensor's name in the order of names, NULL past the end; *view (may be NULL) is its view.
 */
const char *tensor_set_at(const struct tensor_set *set, size_t i, const struct tensor_view **view);
size_t tensor_set_bytes(const struct tensor_set *set); /* of all tensors' data */

/* Counts the bytes of the tensors that a model has taken into use, for who watches it load; NULL =
 * nobody. The counter may be read by any thread and outlives the watching. */
void tensor_set_watch(struct tensor_set *set, atomic_size_t *n_bytes);
void tensor_set_note_use(const struct tensor_set *set, const struct tensor_view *view);

/* 64 bits over all headers and samples of the data: the same weights give the same number on every
 * machine, cheaply (a start must not read gigabytes). */
uint64_t tensor_set_fingerprint(const struct tensor_set *set);
/* The same and what the file system tells of the files (inode, size, time of change): changes
 * whenever they might have. */
uint64_t tensor_set_identity(const struct tensor_set *set);

#endif
