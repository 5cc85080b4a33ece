/*
 * binder.c: checks and converts tensors for the forward passes.
 *
 * Invariants: 1. once `status` is set nothing is bound any more; 2. everything that was allocated
 * is in `bound`, so freeing it undoes all; 3. an f32 tensor that lies aligned in the map is never
 * copied.
 */
#include "core/weights/binder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/weights/cache.h"

enum { NAME_BYTES_MAX = 256 };

/* The error of int8 weights, relative to them, from which on a layer is kept in bf16. Weights that
 * are spread like a bell lose 0.01; a block of outputs in which few weights are large beside the
 * rest loses more. */
static const double INT8_ERROR_MAX = 0.02;

struct owned {
    struct owned *next;
    struct linear linear; /* to be released; zeroed when this holds only data */
    struct conv2d conv;   /* likewise */
    void *data;           /* floats, or a packed weight */
};

struct bound {
    struct owned *first;
    unsigned char *seen; /* [tensor_set_count]: 1 = counted in n_parameters; gone after finish */
};

void binder_init(struct binder *binder, const struct tensor_set *tensors, struct error *err)
{
    static const struct weight_plan plain = {.form = WEIGHT_F32};
    const struct weight_plan *plan = tensor_set_planned(tensors);
    *binder = (struct binder){.tensors = tensors, .plan = plan ? plan : &plain, .err = err};
    binder->bound = calloc(1, sizeof *binder->bound);
    if (binder->bound)
        binder->bound->seen = calloc(tensor_set_count(tensors) + 1, 1);
    if (!binder->bound || !binder->bound->seen)
        binder->status = error_no_memory(err, "the weight table");
}

void bound_free(struct bound *bound)
{
    if (!bound)
        return;
    for (struct owned *owned = bound->first, *next; owned; owned = next) {
        next = owned->next;
        linear_release(&owned->linear);
        conv2d_release(&owned->conv);
        free(owned->data);
        free(owned);
    }
    free(bound->seen);
    free(bound);
}

enum status binder_finish(struct binder *binder, struct bound **out)
{
    if (binder->status) {
        bound_free(binder->bound);
    } else {
        free(binder->bound->seen);
        binder->bound->seen = NULL;
        *out = binder->bound;
    }
    binder->bound = NULL;
    return binder->status;
}

void bound_count_forms(const struct bound *bound, size_t counts[N_WEIGHT_FORMS])
{
    memset(counts, 0, N_WEIGHT_FORMS * sizeof *counts);
    for (const struct owned *owned = bound ? bound->first : NULL; owned; owned = owned->next) {
        if (owned->linear.n_out)
            counts[owned->linear.form]++;
        else if (owned->conv.linear.n_out)
            counts[owned->conv.linear.form]++;
    }
}

void bind_fault(struct binder *binder, const char *format, ...)
{
    if (binder->status)
        return;
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    binder->status = error_set(binder->err, STATUS_BAD_CHECKPOINT, "%s", text);
}

/* ---- finding and checking ----------------------------------------------------------------------
 */

static bool format_name(struct binder *binder, char *out, const char *format, va_list args)
{
    if (binder->status)
        return false;
    int n = vsnprintf(out, NAME_BYTES_MAX, format, args);
    if (n < 0 || n >= NAME_BYTES_MAX)
        bind_fault(binder, "a tensor's name is longer than %d bytes", NAME_BYTES_MAX - 1);
    return !binder->status;
}

static size_t format_shape(char *out, size_t size, const size_t *dims, size_t n_dims)
{
    size_t used = 0;
    for (size_t i = 0; i < n_dims; i++) {
        int n = snprintf(out + used, size - used, "%s%zu", i ? ", " : "", dims[i]);
        if (n < 0 || (size_t)n >= size - used)
            break;
        used += (size_t)n;
    }
    out[used] = '\0';
    return used;
}

static void count(struct binder *binder, const char *name, const struct tensor_view *view)
{
    /* The set is sorted by name: the index is found by halving, as in tensor_set_find(). */
    size_t low = 0, high = tensor_set_count(binder->tensors);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(tensor_set_at(binder->tensors, middle, NULL), name);
        if (order == 0) {
            if (!binder->bound->seen[middle]) {
                binder->n_parameters += view->n_elements;
                tensor_set_note_use(binder->tensors, view);
            }
            binder->bound->seen[middle] = 1;
            return;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
}

/* The tensor, if it is there with this shape and a floating dtype; else NULL and the fault. */
static const struct tensor_view *find(struct binder *binder, const char *name, const size_t *dims,
                                      size_t n_dims)
{
    if (binder->status)
        return NULL;
    const struct tensor_view *view = tensor_set_find(binder->tensors, name);
    if (!view) {
        char expected[128];
        format_shape(expected, sizeof expected, dims, n_dims);
        bind_fault(binder, "tensor '%s' [%s] is missing", name, expected);
        return NULL;
    }
    if (view->n_dims != n_dims || (n_dims && memcmp(view->shape, dims, n_dims * sizeof *dims))) {
        char expected[128], found[128];
        format_shape(expected, sizeof expected, dims, n_dims);
        format_shape(found, sizeof found, view->shape, view->n_dims);
        bind_fault(binder, "tensor '%s': expected [%s], found [%s]", name, expected, found);
        return NULL;
    }
    if (view->dtype != DTYPE_F32 && view->dtype != DTYPE_F16 && view->dtype != DTYPE_BF16) {
        bind_fault(binder, "tensor '%s': its dtype %s is not supported (F32, F16 or BF16 are)",
                   name, view->dtype_name);
        return NULL;
    }
    count(binder, name, view);
    return view;
}

static struct owned *own(struct binder *binder)
{
    struct owned *owned = calloc(1, sizeof *owned);
    if (!owned) {
        binder->status = error_no_memory(binder->err, "the weight table");
        return NULL;
    }
    owned->next = binder->bound->first;
    binder->bound->first = owned;
    return owned;
}

/* n floats that live as long as the model; NULL and a fault when out of memory. */
static float *own_floats(struct binder *binder, size_t n)
{
    struct owned *owned = own(binder);
    if (!owned)
        return NULL;
    owned->data = alloc_array(n, sizeof(float));
    if (!owned->data)
        binder->status = error_no_memory(binder->err, "converted weights");
    return owned->data;
}

/* Gives back what own_floats() gave, when what it was for has another copy. */
static void drop_floats(struct binder *binder, const float *floats)
{
    for (struct owned *owned = binder->bound->first; owned && floats; owned = owned->next) {
        if (owned->data == floats) {
            free(owned->data);
            owned->data = NULL;
            return;
        }
    }
}

static bool is_in_place(const struct tensor_view *view)
{
    return view->dtype == DTYPE_F32 && (uintptr_t)view->data % sizeof(float) == 0;
}

struct widen_job {
    const char *from;
    enum dtype dtype;
    size_t n;
    float *to;
};

enum { WIDEN_CHUNK = 1 << 16 };

static void widen_chunk(void *context, size_t i)
{
    const struct widen_job *job = context;
    size_t at = i * WIDEN_CHUNK, left = job->n - at;
    dtype_to_f32(job->from + at * dtype_size(job->dtype), job->dtype,
                 left < WIDEN_CHUNK ? left : WIDEN_CHUNK, job->to + at);
}

/* n elements as f32 that live as long as the model, or NULL and a fault. */
static float *widened(struct binder *binder, const void *from, enum dtype dtype, size_t n)
{
    struct widen_job job = {from, dtype, n, own_floats(binder, n)};
    size_t n_chunks = (n + WIDEN_CHUNK - 1) / WIDEN_CHUNK;
    if (!job.to)
        return NULL;
    if (binder->plan->pool && n_chunks > 1)
        pool_run(binder->plan->pool, n_chunks, widen_chunk, &job);
    else
        for (size_t i = 0; i < n_chunks; i++)
            widen_chunk(&job, i);
    return job.to;
}

static const float *as_f32(struct binder *binder, const struct tensor_view *view)
{
    if (is_in_place(view))
        return view->data;
    return widened(binder, view->data, view->dtype, view->n_elements);
}

static size_t count_dims(const size_t *dims)
{
    size_t n = 0;
    while (dims[n])
        n++;
    return n;
}

/* ---- binding -----------------------------------------------------------------------------------
 */

static void bind_f32(struct binder *binder, const float **out, const char *name, const size_t *dims,
                     size_t n_dims)
{
    const struct tensor_view *view = find(binder, name, dims, n_dims);
    const float *data = view ? as_f32(binder, view) : NULL;
    if (data)
        *out = data;
}

void bind_tensor(struct binder *binder, const float **out, const size_t *dims, const char *name,
                 ...)
{
    char full[NAME_BYTES_MAX];
    va_list args;
    va_start(args, name);
    if (format_name(binder, full, name, args))
        bind_f32(binder, out, full, dims, count_dims(dims));
    va_end(args);
}

bool bind_optional(struct binder *binder, const float **out, const size_t *dims, const char *name,
                   ...)
{
    char full[NAME_BYTES_MAX];
    va_list args;
    va_start(args, name);
    bool present = format_name(binder, full, name, args) && tensor_set_find(binder->tensors, full);
    va_end(args);
    if (present)
        bind_f32(binder, out, full, dims, count_dims(dims));
    return present && !binder->status;
}

/* ---- layers ------------------------------------------------------------------------------------
 */

/* Which weight it is, for the cache: its shape and some of its bytes. */
static uint64_t source_of(const struct tensor_view *view)
{
    enum { SAMPLES = 16 };
    size_t each = dtype_size(view->dtype), bytes = view->n_elements * each;
    uint64_t hash = view->n_elements * 8 + (uint64_t)view->dtype;
    for (size_t i = 0; i < SAMPLES && bytes >= sizeof hash; i++) {
        uint64_t word;
        memcpy(&word,
               (const char *)view->data + (bytes - sizeof word) / (SAMPLES - 1) * i / each * each,
               sizeof word);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    }
    return hash;
}

/* A layer's weight: what it is made of, and where it is once it has been laid out. */
struct source {
    uint64_t id;
    const void *weight;
    enum dtype dtype;
    size_t n_out, n_in;
};

/* Small layers gain nothing by being packed, and very long rows cannot be. */
static bool is_packed(const struct binder *binder, size_t n_out, size_t n_in)
{
    enum { SMALL = 16 };
    return n_out >= SMALL && n_in >= SMALL && linear_packed_bytes(binder->plan->form, n_out, n_in);
}

/* From the cache, before anything is laid out. */
static const void *find_packed(struct binder *binder, const struct source *source,
                               enum weight_form *form)
{
    return is_packed(binder, source->n_out, source->n_in)
               ? weight_cache_find(binder->plan->cache, source->id, source->n_out, source->n_in,
                                   form)
               : NULL;
}

/* Room for a packed weight: in a cache that is being made, or (owned->data) in memory. */
static void *room_for(struct binder *binder, struct owned *owned, size_t bytes)
{
    void *room = weight_cache_reserve(binder->plan->cache, bytes);
    return room ? room : (owned->data = aligned_alloc(64, bytes));
}

/* The weight packed by the plan; NULL where it stays f32 or (a fault) there was no memory. */
static const void *pack(struct binder *binder, struct owned *owned, const struct source *source,
                        enum weight_form *form)
{
    const struct weight_plan *plan = binder->plan;
    size_t n_out = source->n_out, n_in = source->n_in;
    *form = plan->form;
    if (!is_packed(binder, n_out, n_in))
        return NULL;
    void *room = room_for(binder, owned, linear_packed_bytes(*form, n_out, n_in));
    if (room && linear_pack(plan->pool, *form, source->weight, source->dtype, n_out, n_in, room) >
                    INT8_ERROR_MAX) {
        *form = WEIGHT_BF16;
        free(owned->data);
        owned->data = NULL;
        room = room_for(binder, owned, linear_packed_bytes(*form, n_out, n_in));
        if (room)
            linear_pack(plan->pool, *form, source->weight, source->dtype, n_out, n_in, room);
    }
    if (!room)
        binder->status = error_no_memory(binder->err, "converted weights");
    else if (!owned->data)
        weight_cache_add(plan->cache, source->id, n_out, n_in, *form);
    return room;
}

/* A layer over a weight that the cache has. */
static bool keep_found(struct binder *binder, struct linear *out, const struct source *source,
                       const float *bias)
{
    enum weight_form form;
    const void *packed = binder->status ? NULL : find_packed(binder, source, &form);
    struct owned *owned = packed ? own(binder) : NULL;
    if (!owned)
        return false;
    linear_init_packed(&owned->linear, form, packed, bias, source->n_out, source->n_in);
    *out = owned->linear;
    return true;
}

/* A layer, kept for bound_free(). True: it does not read source->weight any more. */
static bool keep_linear(struct binder *binder, struct linear *out, const struct source *source,
                        const float *bias)
{
    struct owned *owned = own(binder);
    if (!owned)
        return false;
    enum weight_form form;
    size_t n_out = source->n_out, n_in = source->n_in;
    const void *packed = pack(binder, owned, source, &form), *weight = source->weight;
    enum dtype dtype = source->dtype;
    if (!packed && !binder->status && dtype != DTYPE_F32) { /* linear_init() has one thread */
        weight = widened(binder, weight, dtype, n_out * n_in);
        dtype = DTYPE_F32;
    }
    if (packed)
        linear_init_packed(&owned->linear, form, packed, bias, n_out, n_in);
    else if (!binder->status)
        binder->status = linear_init(&owned->linear, weight, dtype, bias, n_out, n_in, binder->err);
    if (!binder->status)
        *out = owned->linear;
    return packed != NULL;
}

static void find_or_keep(struct binder *binder, struct linear *out, const struct source *source,
                         const float *bias)
{
    if (!keep_found(binder, out, source, bias) && !binder->status)
        keep_linear(binder, out, source, bias);
}

static void bind_shaped_linear(struct binder *binder, struct linear *out, const size_t *dims,
                               size_t n_dims, size_t n_in, const char *weight, const char *bias)
{
    const struct tensor_view *view = find(binder, weight, dims, n_dims);
    const float *bias_data = NULL;
    if (bias)
        bind_f32(binder, &bias_data, bias, dims, 1);
    if (view && !binder->status)
        find_or_keep(binder, out,
                     &(struct source){source_of(view), view->data, view->dtype, dims[0], n_in},
                     bias_data);
}

void bind_linear_tensors(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                         const char *weight, const char *bias)
{
    bind_shaped_linear(binder, out, (const size_t[]){n_out, n_in}, 2, n_in, weight, bias);
}

void bind_linear_transposed(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                            const char *weight, const char *bias)
{
    const struct tensor_view *view = find(binder, weight, (const size_t[]){n_in, n_out}, 2);
    const float *bias_data = NULL;
    if (bias)
        bind_f32(binder, &bias_data, bias, &n_out, 1);
    if (!view || binder->status)
        return;
    struct source source = {source_of(view), NULL, DTYPE_F32, n_out, n_in};
    if (keep_found(binder, out, &source, bias_data))
        return;
    const float *from = as_f32(binder, view);
    float *turned = from ? own_floats(binder, view->n_elements) : NULL;
    if (!turned)
        return;
    for (size_t i = 0; i < n_in; i++)
        for (size_t o = 0; o < n_out; o++)
            turned[o * n_in + i] = from[i * n_out + o];
    source.weight = turned;
    if (keep_linear(binder, out, &source, bias_data))
        drop_floats(binder, turned);
    if (from != view->data)
        drop_floats(binder, from);
}

void bind_conv_norm(struct binder *binder, struct conv2d *out, struct conv2d_shape shape, float eps,
                    const char *conv, const char *norm)
{
    struct batch_norm folded = {.eps = eps};
    char name[NAME_BYTES_MAX + 16];
    snprintf(name, sizeof name, "%s.weight", conv);
    const struct tensor_view *view =
        find(binder, name,
             (const size_t[]){shape.n_out, shape.n_in, shape.kernel_height, shape.kernel_width}, 4);
    const struct {
        const char *part;
        const float **to;
        bool is_parameter; /* rather than a statistic */
    } parts[] = {{"weight", &folded.weight, true},
                 {"bias", &folded.bias, true},
                 {"running_mean", &folded.mean, false},
                 {"running_var", &folded.variance, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
        size_t n_parameters = binder->n_parameters;
        snprintf(name, sizeof name, "%s.%s", norm, parts[i].part);
        bind_f32(binder, parts[i].to, name, &shape.n_out, 1);
        if (!parts[i].is_parameter)
            binder->n_parameters = n_parameters;
    }
    struct owned *owned = binder->status ? NULL : own(binder);
    if (!owned)
        return;
    binder->status =
        conv2d_init(&owned->conv, shape, view->data, view->dtype, NULL, &folded, binder->err);
    if (binder->status)
        return;
    /* folding costs little beside packing, so it is done either way */
    struct linear *linear = &owned->conv.linear;
    const struct source source = {source_of(view), linear->weight, DTYPE_F32, linear->n_out,
                                  linear->n_in};
    enum weight_form form;
    const void *packed = find_packed(binder, &source, &form);
    if (!packed)
        packed = pack(binder, owned, &source, &form);
    if (packed) {
        free(linear->owned);
        linear_init_packed(linear, form, packed, linear->bias, linear->n_out, linear->n_in);
    } else if (!binder->status) {
        binder->status = conv2d_prepare(&owned->conv, binder->plan->pool, binder->err);
    }
    if (!binder->status)
        *out = owned->conv;
}

void bind_linear_rows(struct binder *binder, struct linear *out, size_t n_total, size_t first,
                      size_t n_out, size_t n_in, const char *weight, const char *bias)
{
    const struct tensor_view *view = find(binder, weight, (const size_t[]){n_total, n_in}, 2);
    const float *bias_data = NULL;
    bind_f32(binder, &bias_data, bias, &n_total, 1);
    if (view && !binder->status) /* first + n_out ≤ n_total is the caller's */
        find_or_keep(
            binder, out,
            &(struct source){source_of(view) + first,
                             (const char *)view->data + first * n_in * dtype_size(view->dtype),
                             view->dtype, n_out, n_in},
            bias_data + first);
}

void bind_linear(struct binder *binder, struct linear *out, size_t n_out, size_t n_in,
                 bool with_bias, const char *name, ...)
{
    char prefix[NAME_BYTES_MAX], weight[NAME_BYTES_MAX + 8], bias[NAME_BYTES_MAX + 8];
    va_list args;
    va_start(args, name);
    if (format_name(binder, prefix, name, args)) {
        snprintf(weight, sizeof weight, "%s.weight", prefix);
        snprintf(bias, sizeof bias, "%s.bias", prefix);
        bind_linear_tensors(binder, out, n_out, n_in, weight, with_bias ? bias : NULL);
    }
    va_end(args);
}

void bind_patch_linear(struct binder *binder, struct linear *out, size_t n_out, size_t channels,
                       size_t patch, bool with_bias, const char *name, ...)
{
    char prefix[NAME_BYTES_MAX], weight[NAME_BYTES_MAX + 8], bias[NAME_BYTES_MAX + 8];
    va_list args;
    va_start(args, name);
    size_t n_in;
    if (!format_name(binder, prefix, name, args)) {
        /* the fault is kept */
    } else if (!size_mul(channels, patch, &n_in) || !size_mul(n_in, patch, &n_in)) {
        bind_fault(binder, "'%s': a patch of %zu x %zu is too large", prefix, patch, patch);
    } else {
        snprintf(weight, sizeof weight, "%s.weight", prefix);
        snprintf(bias, sizeof bias, "%s.bias", prefix);
        bind_shaped_linear(binder, out, (const size_t[]){n_out, channels, patch, patch}, 4, n_in,
                           weight, with_bias ? bias : NULL);
    }
    va_end(args);
}

void bind_frames_linear(struct binder *binder, struct linear *out, size_t n_out, size_t channels,
                        size_t frames, size_t patch, const char *name)
{
    char weight[NAME_BYTES_MAX];
    size_t n_in;
    if (!size_mul(channels, frames, &n_in) || !size_mul(n_in, patch, &n_in) ||
        !size_mul(n_in, patch, &n_in)) {
        bind_fault(binder, "'%s': patches of %zu x %zu x %zu are too large", name, frames, patch,
                   patch);
        return;
    }
    snprintf(weight, sizeof weight, "%s.weight", name);
    bind_shaped_linear(binder, out, (const size_t[]){n_out, channels, frames, patch, patch}, 5,
                       n_in, weight, NULL);
}

void bind_linear_fused(struct binder *binder, struct linear *out, const size_t *n_outs, size_t n_in,
                       bool with_bias, const char *const *names, size_t n_names, const char *prefix,
                       ...)
{
    enum { PARTS_MAX = 4 };
    const struct tensor_view *weights[PARTS_MAX], *biases[PARTS_MAX];
    char base[NAME_BYTES_MAX], full[2 * NAME_BYTES_MAX];
    va_list args;
    va_start(args, prefix);
    bool fine = format_name(binder, base, prefix, args);
    va_end(args);
    if (!fine || n_names == 0 || n_names > PARTS_MAX)
        return;
    size_t n_out = 0, n_weights = 0;
    uint64_t id = n_names;
    bool adjacent = true;
    for (size_t i = 0; i < n_names; i++) {
        snprintf(full, sizeof full, "%s%s.weight", base, names[i]);
        weights[i] = find(binder, full, (const size_t[]){n_outs[i], n_in}, 2);
        if (with_bias) {
            snprintf(full, sizeof full, "%s%s.bias", base, names[i]);
            biases[i] = find(binder, full, (const size_t[]){n_outs[i]}, 1);
        }
        if (binder->status)
            return;
        adjacent = adjacent && is_in_place(weights[i]) &&
                   (i == 0 || (const float *)weights[i - 1]->data + weights[i - 1]->n_elements ==
                                  (const float *)weights[i]->data);
        id = id * 31 + source_of(weights[i]);
        n_out += n_outs[i];
        n_weights += weights[i]->n_elements;
    }
    float *bias = with_bias ? own_floats(binder, n_out) : NULL;
    if (binder->status)
        return;
    for (size_t i = 0, row = 0; i < n_names && bias; row += n_outs[i++])
        dtype_to_f32(biases[i]->data, biases[i]->dtype, n_outs[i], bias + row);
    struct source source = {id, weights[0]->data, DTYPE_F32, n_out, n_in};
    if (keep_found(binder, out, &source, bias))
        return;
    float *joined = adjacent ? NULL : own_floats(binder, n_weights);
    if (binder->status)
        return;
    for (size_t i = 0, at = 0; i < n_names && joined; at += weights[i++]->n_elements)
        dtype_to_f32(weights[i]->data, weights[i]->dtype, weights[i]->n_elements, joined + at);
    source.weight = joined ? (const void *)joined : weights[0]->data;
    if (keep_linear(binder, out, &source, bias))
        drop_floats(binder, joined);
}

static void bind_scale_and_shift(struct binder *binder, struct norm *out, size_t dim, float eps,
                                 bool shifts, const char *name, va_list args)
{
    char prefix[NAME_BYTES_MAX], full[NAME_BYTES_MAX + 8];
    struct norm norm = {.dim = dim, .eps = eps};
    if (format_name(binder, prefix, name, args)) {
        snprintf(full, sizeof full, "%s.weight", prefix);
        bind_f32(binder, &norm.weight, full, &dim, 1);
        snprintf(full, sizeof full, "%s.bias", prefix);
        if (shifts)
            bind_f32(binder, &norm.bias, full, &dim, 1);
    }
    if (!binder->status)
        *out = norm;
}

void bind_norm(struct binder *binder, struct norm *out, size_t dim, float eps, const char *name,
               ...)
{
    va_list args;
    va_start(args, name);
    bind_scale_and_shift(binder, out, dim, eps, true, name, args);
    va_end(args);
}

void bind_rms_norm(struct binder *binder, struct norm *out, size_t dim, float eps, const char *name,
                   ...)
{
    va_list args;
    va_start(args, name);
    bind_scale_and_shift(binder, out, dim, eps, false, name, args);
    va_end(args);
}

void bind_norm_plus_one(struct binder *binder, struct norm *norm)
{
    float *weight = binder->status ? NULL : own_floats(binder, norm->dim);
    if (!weight)
        return;
    for (size_t i = 0; i < norm->dim; i++)
        weight[i] = 1 + norm->weight[i];
    norm->weight = weight;
}

void bind_row_table(struct binder *binder, struct row_table *out, size_t n_rows, size_t dim,
                    const char *name)
{
    const struct tensor_view *view = find(binder, name, (const size_t[]){n_rows, dim}, 2);
    if (view)
        *out = (struct row_table){view->data, view->dtype, n_rows, dim};
}

void row_table_read(const struct row_table *table, size_t i, float *out)
{
    size_t row_bytes = table->dim * dtype_size(table->dtype);
    dtype_to_f32((const char *)table->data + i * row_bytes, table->dtype, table->dim, out);
}

const char *bind_choose(const struct binder *binder, const char *const *names, size_t n_names)
{
    for (size_t i = 0; i < n_names; i++)
        if (tensor_set_find(binder->tensors, names[i]))
            return names[i];
    return names[n_names - 1];
}
