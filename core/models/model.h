/*
 * model.h: what an architecture is, and what a loaded model offers to the runtime.
 *
 * Every system of the mission is made of up to four batched passes; an architecture fills in the
 * ones it has:
 *
 *   encode_images   pictures                     → features   (one refcounted block a picture)
 *   encode_texts    token sequences              → embeddings
 *   score_pairs     (features, text) pairs       → outputs    (match, class scores, boxes, mask)
 *   prefill/decode  (features, prompt) sequences → logits     (generation, one token a step)
 *
 * plus per-request steps that run on the worker threads: `preprocess` (picture → pixels),
 * `tokenize` (text → tokens for a task), `detokenize`. The runtime knows nothing else of a model;
 * the API reads `traits`. Adding an architecture is one file that ends with one `const struct
 * architecture`, and one line in registry.c.
 *
 * A loaded model is immutable; its functions may be called by any thread, each pass with the
 * caller's own compute.
 */
#ifndef VLMD_CORE_MODELS_MODEL_H
#define VLMD_CORE_MODELS_MODEL_H

#include <stdatomic.h>

#include "core/image/processor.h"
#include "core/models/written_boxes.h"
#include "core/text/chat_template.h"
#include "core/text/tokenizer.h"
#include "core/weights/checkpoint.h"

#define TASK_LIST(TASK)                                                                            \
    TASK(CAPTION, "caption")                                                                       \
    TASK(VQA, "vqa")                                                                               \
    TASK(MATCH, "match")                                                                           \
    TASK(CLASSIFY, "classify")                                                                     \
    TASK(EMBED, "embed")                                                                           \
    TASK(DETECT, "detect")                                                                         \
    TASK(SEGMENT, "segment")                                                                       \
    TASK(GROUND, "ground")                                                                         \
    TASK(FILL, "fill")                                                                             \
    TASK(CHAT, "chat")

enum task {
#define TASK_ENUM(id, name) TASK_##id,
    TASK_LIST(TASK_ENUM)
#undef TASK_ENUM
        N_TASKS
};
#define TASK_BIT(id) (1u << TASK_##id)
const char *task_name(enum task task);

/* ---- what passes between the passes -----------------------------------------------------------
 */

/* What the vision tower gives for one picture: [n_rows, dim], e.g. patch tokens, or one pooled and
 * L2-normalised embedding (n_rows = 1, dual encoders). Immutable once made; shared by count. */
struct features {
    atomic_uint n_refs;
    size_t n_rows, dim;
    size_t grid_height, grid_width; /* where rows are places in a picture of any shape, reading
                                       order; else 0 */
    float rows[];
};
struct features *features_new(size_t n_rows, size_t dim); /* one reference; NULL: out of memory */
struct features *features_ref(struct features *features);
void features_unref(struct features *features); /* NULL is fine */

/* A picture (or several) and a text, to be scored together. */
struct pair {
    struct features *const *images; /* usually one; NLVR2 has two */
    size_t n_images;
    const struct tokens *text;   /* NULL: detection and segmentation by example: images[1] stands
                                    for the text */
    const float *text_embedding; /* [embed_dim] where pairs_by_embedding, else NULL */
};

/* ---- generation -------------------------------------------------------------------------------
 */

/* Keys and values that a sequence attends to and never writes: a picture's, for cross-attention.
 * Shared by the beams of a group. */
struct kv_shared {
    atomic_uint n_refs;
    size_t n_rows; /* picture (or question) tokens */
    size_t n_floats;
    float data[]; /* in the architecture's own layout */
};
struct kv_shared *kv_shared_new(size_t n_rows, size_t n_floats);
struct kv_shared *kv_shared_ref(struct kv_shared *shared);
void kv_shared_unref(struct kv_shared *shared); /* NULL is fine */

/* One sequence under way: its self-attention cache. Written only by the lane that runs it. */
struct sequence {
    size_t n_tokens; /* in the cache */
    size_t capacity; /* tokens there is room for */
    size_t n_layers, dim;
    ptrdiff_t shift;         /* the next token's position is n_tokens + shift; 0 but where a
                                picture's rows share positions (M-RoPE) */
    float *kv;               /* [n_layers][keys, values][capacity][dim]; see sequence_kv() */
    struct kv_shared *cross; /* NULL for decoder-only models */
};
void sequence_init(struct sequence *sequence, size_t n_layers, size_t dim);
/* Room for n_tokens in all; keeps what is there. */
enum status sequence_reserve(struct sequence *sequence, size_t n_tokens, struct error *err);
/* Row 0 of a layer's keys (which = 0) or values (which = 1); rows are dim floats apart. */
float *sequence_kv(const struct sequence *sequence, size_t layer, int which);
/* A copy that shares `cross`: how a beam splits. */
enum status sequence_fork(struct sequence *out, const struct sequence *from, struct error *err);
void sequence_release(struct sequence *sequence);

struct generation_params;

struct prompt {
    struct features *const *images;
    size_t n_images;
    const struct tokens *text; /* as `tokenize` made it for the task; never NULL */
    /* Optional, for models that attend to the picture crosswise: *picture_kv is what an earlier
     * prefill of this model put there for the same picture, or NULL. A pass that computes it puts a
     * reference there; whatever comes of the pass, what is there is the caller's. */
    struct kv_shared **picture_kv;
    /* The piece of the text to run: tokens [from, to); to 0 = the end. Other pieces than the whole
     * only where struct architecture.prefill_in_pieces. From > 0: the sequence holds what is
     * before. */
    size_t from, to;
    const struct generation_params *params; /* the request's; NULL = the model's own */
};

/* What generate() would use for this checkpoint; a request overrides single fields of a copy.
 * max_length counts the decoder's prompt, as generate() does. */
enum { EOS_MAX = 8, BANNED_MAX = 32 };
struct generation_params {
    size_t max_length;     /* 0 = not set */
    size_t max_new_tokens; /* 0 = not set; wins over max_length */
    bool unbounded;        /* neither is from the checkpoint: they are the library's 20 */
    size_t min_length, min_new_tokens;
    size_t num_beams;
    size_t n; /* num_return_sequences */
    bool do_sample;
    float temperature;
    size_t top_k;             /* 0 = off */
    float top_p;              /* 1 = off */
    float repetition_penalty; /* 1 = off */
    float length_penalty;
    size_t no_repeat_ngram_size;
    int early_stopping; /* 0 false, 1 true, 2 "never" */
    uint64_t seed;
    int32_t eos_ids[EOS_MAX];
    size_t n_eos;
    int32_t pad_id;                 /* -1 = none */
    int32_t banned_ids[BANNED_MAX]; /* never written: suppress_tokens, bad_words_ids of one token */
    size_t n_banned;
    float alpha, beta; /* guided models (traits.is_guided): see magic.c */
};

/* ---- the model --------------------------------------------------------------------------------
 */

struct model;

struct model_traits {
    size_t embed_dim;  /* of encode_texts and of 1-row features; 0 = no embeddings */
    float logit_scale; /* dual encoders: logits = scale · cosine + bias */
    float logit_bias;
    bool sigmoid_scores;              /* SigLIP: independent probabilities rather than a softmax */
    size_t n_outputs;                 /* floats that score_pairs gives for one pair */
    bool pairs_by_example;            /* a pair's second picture may stand for its text (detection,
                                         segmentation            by example) */
    bool pairs_by_embedding;          /* score_pairs wants text embeddings beside the tokens */
    bool match_cosine;                /* a match's second output is a cosine */
    size_t context_length;            /* longest text in tokens */
    size_t max_images;                /* that one prompt or pair may hold; 0 means 1 */
    size_t image_height, image_width; /* of pixels; 0 = varies */
    const char *const *labels;        /* names of class scores [n_outputs], or NULL */
    size_t vocab_size; /* token ids are below this; what prefill/decode give logits for */
    bool is_guided;    /* generation chooses among top_k candidates by alpha and beta: no beams */
    enum box_writing box_writing;   /* detection by generation: the form of the boxes written */
    size_t mask_height, mask_width; /* segmentation: n_outputs = mask_height · mask_width */
};

struct architecture {
    const char *name;    /* architectures[0] in config.json */
    const char *summary; /* one line for people */
    uint32_t tasks;      /* TASK_BIT(…) | … */

    /* Reads the config and binds weights; sets model->state, traits, processor, generation. Leaves
     * nothing behind on failure (free is not called then). */
    enum status (*load)(struct model *model, struct error *err);
    void (*free)(struct model *model);

    /* Optional; NULL = image_processor_apply() with model->processor. */
    enum status (*preprocess)(const struct model *model, const struct image *image,
                              struct pixels *out, struct error *err);
    /* Optional; NULL = tokenizer_encode() with special tokens, cut at context_length. For a
     * generating task the result is the decoder's (or question encoder's) input. */
    enum status (*tokenize)(const struct model *model, enum task task, const char *text,
                            size_t size, struct tokens *out, struct error *err);
    /* Optional; NULL = the new tokens' text, special tokens skipped, trimmed (where the prompt is
     * the decoder's beginning: the text of both, less the prompt's). `prompt` is what `tokenize`
     * gave or NULL, ids[0..n) are the new tokens. */
    enum status (*detokenize)(const struct model *model, enum task task,
                              const struct tokens *prompt, const int32_t *ids, size_t n,
                              struct buffer *out, struct error *err);

    /* Optional, of TASK_CHAT: how a conversation is written where the checkpoint has no chat
     * template of its own. */
    const char *plain_template;

    /* Optional; for pictures that stand in the text as tokens, as many as they have rows: makes the
     * room for those of images[n] in *tokens, which has one in each one's place. What else it finds
     * there is STATUS_UNPROCESSABLE. Called once, before prefill; NULL: the text is complete. */
    enum status (*place_images)(const struct model *model, const struct pixels *images, size_t n,
                                struct tokens *tokens, struct error *err);
    /* n ≥ 1 pictures of any sizes that preprocess gives → out[n], one reference each. */
    enum status (*encode_images)(const struct model *model, const struct compute *compute,
                                 const struct pixels *const *pixels, size_t n,
                                 struct features **out, struct error *err);
    /* n ≥ 1 texts → out [n, embed_dim], L2-normalised for dual encoders. */
    enum status (*encode_texts)(const struct model *model, const struct compute *compute,
                                const struct tokens *const *texts, size_t n, float *out,
                                struct error *err);
    /* n ≥ 1 pairs → out [n, n_outputs]. The task fixes what the floats mean: match: probability,
     * cosine; vqa: a probability per label; fill: of the surest [MASK] its position among the
     * tokens, the token's id and its probability (position -1: there is no mask). */
    enum status (*score_pairs)(const struct model *model, const struct compute *compute,
                               enum task task, const struct pair *pairs, size_t n, float *out,
                               struct error *err);
    /* Detection: the boxes that score_pairs gives logits for, [n_outputs] of xmin, ymin, xmax, ymax
     * in pixels of the upright picture (width × height) that the features were made of; they may
     * reach over its edges. */
    void (*boxes)(const struct model *model, const struct features *features, size_t width,
                  size_t height, float *out);
    /* n ≥ 1 new sequences (initialised here): runs the prompts, fills the caches → the logits after
     * each prompt's last token, [n, vocab_size]. All or nothing: on failure no new sequence holds
     * memory; one that was continued (prompt.from) may have n_tokens changed, not what it held. */
    enum status (*prefill)(const struct model *model, const struct compute *compute, enum task task,
                           const struct prompt *prompts, struct sequence *sequences, size_t n,
                           float *logits, struct error *err);
    /* A long prompt may be run a piece at a time between other sequences' tokens: its tokens look
     * at none after them. False: prompts always come whole (a bidirectional prefix, a question's
     * own encoder). */
    bool prefill_in_pieces;
    /* n ≥ 1 sequences of any lengths, one new token each → the logits after it [n, vocab_size]. */
    enum status (*decode)(const struct model *model, const struct compute *compute,
                          struct sequence *const *sequences, const int32_t *tokens, size_t n,
                          float *logits, struct error *err);
    /* Generation: the tokens that the decoder starts from for this prompt (what counts towards
     * max_length and the repetition penalty), copied to out (room for prompt->n + 1); returns how
     * many. NULL = the prompt itself. */
    size_t (*decoder_prompt)(const struct model *model, enum task task, const struct tokens *prompt,
                             int32_t *out);
};

struct model {
    char *name;
    const struct architecture *architecture;
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer; /* NULL when the checkpoint has none */
    struct chat_template *chat;  /* of TASK_CHAT: likewise */
    struct model *guide; /* another model that this one asks, owned; NULL for all but MaGiC */
    struct image_processor processor;
    struct generation_params generation;
    struct model_traits traits;
    uint32_t missing_tasks; /* of the architecture's, those that this checkpoint cannot do */
    size_t n_parameters;
    enum weight_form dtype; /* that its layers compute in, but for those that gain nothing by it */
    struct bound *bound;
    struct weight_cache *cache; /* what `bound` points into; or NULL */
    void *state;                /* the architecture's own */
};

/* TASK_BIT(…) | …: what the model can do. */
static inline uint32_t model_tasks(const struct model *model)
{
    return model->architecture->tasks & ~model->missing_tasks;
}

/* Opens a checkpoint directory under a name (copied). The architecture is read from config.json; an
 * unknown one is refused with those that are known (STATUS_BAD_CHECKPOINT). Weights stay in the
 * files' maps: the directory must not be changed in place while the model is open. */
struct model *model_open(const char *name, const char *directory, struct error *err);

/* The same with its layers in another dtype than f32. */
struct model_progress {
    atomic_size_t bytes, total_bytes; /* of weights; total 0: not known yet */
};
struct model_options {
    bool dtype_is_auto;     /* f32; bf16 for 16-bit checkpoints of more than 1 GiB where the engine
                               multiplies bf16 faster */
    enum weight_form dtype; /* otherwise */
    struct pool *pool;      /* that converts weights; NULL = the calling thread */
    const char *cache_folder; /* where converted weights are kept for the next start (see cache.h);
                                 NULL = nowhere; borrowed until the model is open */
    size_t cache_bytes_min;   /* of weights: smaller checkpoints convert in no time */
    struct model_progress *progress; /* tells any thread that looks how far loading has come; zeroed
                                        by the caller, NULL = nobody looks */
};
struct model *model_open_as(const char *name, const char *directory,
                            const struct model_options *options, struct error *err);
/* What `auto` stands for: exact, but for checkpoints stored in 16 bits whose f32 copy would take
 * gigabytes. Those compute in bf16 where the engine gains by it. */
enum weight_form model_auto_form(const struct tensor_set *tensors);
/* "auto", "f32", "bf16", "int8" or "int4". */
bool model_options_parse_dtype(struct model_options *options, const char *text);

void model_free(struct model *model);

/* Gives the memory that the model's files take back to the system; what is read again comes back by
 * itself. Any thread, also while others read. */
void model_page_out(const struct model *model);

/* The registry, in order; NULL past the end. */
const struct architecture *architecture_at(size_t i);
const struct architecture *architecture_find(const char *name);

/* The per-request steps, with the defaults filled in. */
enum status model_preprocess(const struct model *model, const struct image *image,
                             struct pixels *out, struct error *err);
enum status model_tokenize(const struct model *model, enum task task, const char *text, size_t size,
                           struct tokens *out, struct error *err);
/* A conversation as tokens, through the checkpoint's chat template, with one place for each of its
 * pictures (those that architecture.place_images then widens). For models with TASK_CHAT.
 * STATUS_UNPROCESSABLE with the template's words when it refuses; STATUS_TOO_LONG past
 * context_length. */
enum status model_chat(const struct model *model, const struct chat_message *messages, size_t n,
                       struct tokens *out, struct error *err);
enum status model_detokenize(const struct model *model, enum task task, const struct tokens *prompt,
                             const int32_t *ids, size_t n, struct buffer *out, struct error *err);

/* Adds a token to those that are never written; one that is there already stays once. False: there
 * is no room. */
bool generation_ban(struct generation_params *params, int32_t id);

/* The library's defaults: greedy, 20 new tokens. */
void generation_params_default(struct generation_params *out);

/* generation_config.json, else config.json's legacy keys, over the library's defaults. */
enum status generation_params_load(const struct checkpoint *checkpoint,
                                   struct generation_params *out, struct error *err);

#endif
