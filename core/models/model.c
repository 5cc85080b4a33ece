/*
 * model.c: opening a checkpoint directory as a model, and the steps that are the same for most
 * architectures.
 */
#include "core/models/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/models/models_internal.h"
#include "core/weights/binder.h"
#include "core/weights/cache.h"

static const char *const task_names[N_TASKS] = {
#define TASK_NAME(id, name) [TASK_##id] = name,
    TASK_LIST(TASK_NAME)
#undef TASK_NAME
};

const char *task_name(enum task task)
{
    return (unsigned)task < N_TASKS ? task_names[task] : "?";
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static enum status refuse_architecture(const char *name, struct error *err)
{
    char known[ERROR_MESSAGE_MAX] = "";
    const struct architecture *each;
    for (size_t i = 0, used = 0; (each = architecture_at(i)) && used < sizeof known; i++) {
        int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", each->name);
        used += n > 0 ? (size_t)n : 0;
    }
    return error_set(err, STATUS_BAD_CHECKPOINT,
                     "the architecture '%s' is not supported; these are: %s", name, known);
}

/* The tokenizer, or NULL where the directory has none. */
static enum status open_tokenizer(const struct checkpoint *checkpoint, struct tokenizer **out,
                                  struct error *err)
{
    static const char *const files[] = {"tokenizer.json", "vocab.txt", "vocab.json"};
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++)
        if (checkpoint_has_file(checkpoint, files[i])) {
            *out = tokenizer_open(checkpoint->directory, err);
            return *out ? STATUS_OK : err->status;
        }
    return STATUS_OK;
}

bool model_options_parse_dtype(struct model_options *options, const char *text)
{
    options->dtype_is_auto = strcmp(text, "auto") == 0;
    return options->dtype_is_auto || weight_form_parse(text, &options->dtype);
}

enum weight_form model_auto_form(const struct tensor_set *tensors)
{
    enum { WIDENED_BYTES_MAX = 1 << 30 }; /* as stored */
    size_t wide = 0, narrow = 0;
    const struct tensor_view *view;
    for (size_t i = 0; tensor_set_at(tensors, i, &view); i++) {
        wide += view->dtype == DTYPE_F32 ? view->n_elements * 4 : 0;
        narrow += view->dtype == DTYPE_BF16 || view->dtype == DTYPE_F16 ? view->n_elements * 2 : 0;
    }
    return narrow > wide && narrow > WIDENED_BYTES_MAX && nn_engine_is_fast(WEIGHT_BF16)
               ? WEIGHT_BF16
               : WEIGHT_F32;
}

static enum status load(struct model *model, const char *directory,
                        const struct model_options *options, struct error *err)
{
    model->checkpoint = checkpoint_open(directory, err);
    if (!model->checkpoint)
        return err->status;
    struct tensor_set *tensors = model->checkpoint->tensors;
    if (options->progress && tensors) {
        atomic_store(&options->progress->total_bytes, tensor_set_bytes(tensors));
        tensor_set_watch(tensors, &options->progress->bytes);
    }
    const char *name = checkpoint_architecture(model->checkpoint, err);
    if (!name)
        return err->status;
    const struct architecture *architecture = architecture_find(name);
    if (!architecture)
        return refuse_architecture(name, err);
    enum status status = generation_params_load(model->checkpoint, &model->generation, err);
    if (!status)
        status = open_tokenizer(model->checkpoint, &model->tokenizer, err);
    if (!status && (architecture->tasks & TASK_BIT(CHAT)))
        status = chat_template_open(directory, architecture->plain_template, &model->chat, err);
    model->dtype = options->dtype_is_auto ? model_auto_form(tensors) : options->dtype;
    if (model->dtype != WEIGHT_F32 && options->cache_folder &&
        tensor_set_bytes(tensors) >= options->cache_bytes_min)
        model->cache = weight_cache_open(options->cache_folder, directory, tensors, model->dtype,
                                         options->pool);
    const struct weight_plan plan = {
        .form = model->dtype, .pool = options->pool, .cache = model->cache};
    tensor_set_plan(tensors, &plan);
    if (!status)
        status = architecture->load(model, err);
    tensor_set_plan(tensors, NULL);
    weight_cache_finish(model->cache, !status);
    if (!status && model->dtype != WEIGHT_F32)
        tensor_set_page_out(tensors); /* the layers have copies; what is still read comes back */
    if (!status)
        model->architecture = architecture;
    if (tensors)
        tensor_set_watch(tensors, NULL);
    return status;
}

struct model *model_open(const char *name, const char *directory, struct error *err)
{
    static const struct model_options plain = {.dtype = WEIGHT_F32};
    return model_open_as(name, directory, &plain, err);
}

struct model *model_open_as(const char *name, const char *directory,
                            const struct model_options *options, struct error *err)
{
    struct model *model = calloc(1, sizeof *model);
    char *copy = strdup(name);
    if (!model || !copy) {
        free(model);
        free(copy);
        error_no_memory(err, "a model");
        return NULL;
    }
    model->name = copy;
    if (load(model, directory, options, err)) {
        if (err->status != STATUS_NOT_FOUND)
            error_prefix(err, "model '%s' (%s)", name, directory);
        model_free(model);
        return NULL;
    }
    return model;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    if (model->architecture && model->architecture->free)
        model->architecture->free(model);
    model_free(model->guide);
    bound_free(model->bound);
    weight_cache_close(model->cache);
    tokenizer_free(model->tokenizer);
    chat_template_free(model->chat);
    checkpoint_free(model->checkpoint);
    free(model->name);
    free(model);
}

void model_page_out(const struct model *model)
{
    if (model->checkpoint && model->checkpoint->tensors)
        tensor_set_page_out(model->checkpoint->tensors);
    weight_cache_page_out(model->cache);
    if (model->guide)
        model_page_out(model->guide);
}

/* ---- preprocessing -----------------------------------------------------------------------------
 */

enum status model_load_processor(struct model *model, const struct image_processor *defaults,
                                 size_t image_size, struct error *err)
{
    return model_use_processor(model, model->checkpoint->preprocessor, defaults, image_size, err);
}

enum status model_use_processor(struct model *model, const json_t *config,
                                const struct image_processor *defaults, size_t image_size,
                                struct error *err)
{
    struct image_processor processor = *defaults;
    if (config) {
        enum status status = image_processor_parse(config, defaults, &processor, err);
        if (status)
            return error_prefix(err, "preprocessor config");
    } else if (image_size) {
        if (processor.shortest_edge)
            processor.shortest_edge = image_size;
        if (processor.height)
            processor.height = processor.width = image_size;
        if (processor.crop_height)
            processor.crop_height = processor.crop_width = image_size;
    }
    size_t height = 0, width = 0;
    if (processor.do_center_crop) {
        height = processor.crop_height;
        width = processor.crop_width;
    } else if (processor.do_resize) {
        height = processor.height;
        width = processor.width;
    }
    if (image_size && height && width && (height != image_size || width != image_size))
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "the preprocessor config gives pictures of %zu x %zu pixels, but "
                         "config.json's vision 'image_size' is %zu",
                         width, height, image_size);
    model->processor = processor;
    model->traits.image_height = image_size ? image_size : height;
    model->traits.image_width = image_size ? image_size : width;
    return STATUS_OK;
}

enum status model_preprocess(const struct model *model, const struct image *image,
                             struct pixels *out, struct error *err)
{
    struct pixels pixels = {0};
    enum status status = model->architecture->preprocess
                             ? model->architecture->preprocess(model, image, &pixels, err)
                             : image_processor_apply(&model->processor, image, &pixels, err);
    if (status)
        return status;
    const struct model_traits *traits = &model->traits;
    if ((traits->image_height && pixels.height != traits->image_height) ||
        (traits->image_width && pixels.width != traits->image_width)) {
        status = error_set(err, STATUS_UNPROCESSABLE,
                           "this model's preprocessing makes the picture %zu x %zu pixels, but "
                           "the model takes only %zu x %zu",
                           pixels.width, pixels.height, traits->image_width, traits->image_height);
        pixels_release(&pixels);
        return status;
    }
    pixels.picture_height = image->height;
    pixels.picture_width = image->width;
    *out = pixels;
    return STATUS_OK;
}

/* ---- text --------------------------------------------------------------------------------------
 */

enum status check_tokens(const struct tokens *tokens, size_t n_vocab, size_t n_max,
                         struct error *err)
{
    if (tokens->n == 0)
        return error_set(err, STATUS_UNPROCESSABLE, "the text has no tokens");
    if (tokens->n > n_max)
        return error_set(err, STATUS_TOO_LONG, "the text has %zu tokens, the model takes %zu",
                         tokens->n, n_max);
    for (size_t i = 0; i < tokens->n; i++)
        if (tokens->ids[i] < 0 || (size_t)tokens->ids[i] >= n_vocab)
            return error_set(err, STATUS_UNPROCESSABLE,
                             "the tokenizer gives the id %d, the model's vocabulary has %zu "
                             "entries: they do not belong together",
                             (int)tokens->ids[i], n_vocab);
    return STATUS_OK;
}

size_t count_token(const struct tokens *tokens, int32_t id)
{
    size_t n = 0;
    for (size_t i = 0; i < tokens->n; i++)
        n += tokens->ids[i] == id;
    return n;
}

enum status check_image_places(const struct tokens *tokens, int32_t image_id, size_t n_images,
                               struct error *err)
{
    size_t n_places = count_token(tokens, image_id);
    return n_places == n_images
               ? STATUS_OK
               : error_set(err, STATUS_UNPROCESSABLE,
                           "the prompt has places for %zu pictures, but there are %zu: the text "
                           "may not hold the model's own picture token",
                           n_places, n_images);
}

enum status tokenize_conversation(const struct model *model, enum task task, const char *text,
                                  size_t size, struct tokens *out, struct error *err)
{
    struct encode_options options = {0};
    (void)task;
    return tokenizer_encode(model->tokenizer, text, size, &options, out, err);
}

enum status detokenize_conversation(const struct model *model, enum task task,
                                    const struct tokens *prompt, const int32_t *ids, size_t n,
                                    struct buffer *out, struct error *err)
{
    (void)task, (void)prompt;
    return tokenizer_decode(model->tokenizer, ids, n, true, out, err);
}

enum status model_tokenize(const struct model *model, enum task task, const char *text, size_t size,
                           struct tokens *out, struct error *err)
{
    if (!model->tokenizer)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the model '%s' has no tokenizer in its directory, so it takes no text",
                         model->name);
    struct tokens tokens = {0};
    enum status status;
    size_t n_max = model->traits.context_length;
    if (model->architecture->tokenize) {
        status = model->architecture->tokenize(model, task, text, size, &tokens, err);
    } else {
        size_t n_tokenizer = tokenizer_model_max_length(model->tokenizer);
        struct encode_options options = {.add_special_tokens = true,
                                         .max_length = n_tokenizer < n_max ? n_tokenizer : n_max};
        status = tokenizer_encode(model->tokenizer, text, size, &options, &tokens, err);
    }
    if (status)
        return status;
    status = check_tokens(&tokens, model->traits.vocab_size ? model->traits.vocab_size : INT32_MAX,
                          n_max ? n_max : SIZE_MAX, err);
    if (status)
        tokens_release(&tokens);
    else
        *out = tokens;
    return status;
}

enum status model_chat(const struct model *model, const struct chat_message *messages, size_t n,
                       struct tokens *out, struct error *err)
{
    enum { CHAT_BYTES_MAX = 1 << 24 };
    if (!model->tokenizer || !model->chat)
        return error_set(err, STATUS_UNPROCESSABLE,
                         "the model '%s' has no %s in its directory, so it takes no conversation",
                         model->name, model->tokenizer ? "chat template" : "tokenizer");
    struct buffer text;
    struct tokens tokens = {0};
    struct encode_options options = {0};
    buffer_init(&text, CHAT_BYTES_MAX);
    enum status status = chat_template_render(model->chat, messages, n, &text, err);
    if (!status)
        status = tokenizer_encode(model->tokenizer, text.data ? text.data : "", text.size, &options,
                                  &tokens, err);
    buffer_release(&text);
    if (status)
        return status;
    status = check_tokens(&tokens, model->traits.vocab_size, model->traits.context_length, err);
    if (status)
        tokens_release(&tokens);
    else
        *out = tokens;
    return status;
}

enum status tokenize_after(const struct model *model, int32_t start_id, const char *text,
                           size_t size, struct tokens *out, struct error *err)
{
    size_t n_max = model->traits.context_length; /* the start, the text, and one more at least */
    struct encode_options options = {.max_length = n_max > 2 ? n_max - 2 : 0};
    struct tokens tokens = {0};
    if (size && options.max_length) {
        enum status status = tokenizer_encode(model->tokenizer, text, size, &options, &tokens, err);
        if (status)
            return status;
    }
    int32_t *ids = alloc_array(tokens.n + 1, sizeof *ids);
    if (!ids) {
        tokens_release(&tokens);
        return error_no_memory(err, "a prompt");
    }
    ids[0] = start_id;
    if (tokens.n)
        memcpy(ids + 1, tokens.ids, tokens.n * sizeof *ids);
    *out = (struct tokens){.ids = ids, .n = tokens.n + 1, .truncated = tokens.truncated};
    tokens_release(&tokens);
    return STATUS_OK;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The text of prompt and new tokens together, less the prompt's own: a new token may be glued to
 * the prompt's last word. *begin is where the new text begins. */
static enum status decode_continuation(const struct model *model, const struct tokens *prompt,
                                       const int32_t *ids, size_t n, struct buffer *out,
                                       size_t *begin, struct error *err)
{
    struct buffer start;
    int32_t *all = alloc_array(prompt->n + n, sizeof *all);
    if (!all)
        return error_no_memory(err, "the reply's text");
    memcpy(all, prompt->ids, prompt->n * sizeof *all);
    if (n)
        memcpy(all + prompt->n, ids, n * sizeof *all);
    buffer_init(&start, out->max_bytes);
    enum status status = tokenizer_decode(model->tokenizer, all, prompt->n + n, true, out, err);
    if (!status)
        status = tokenizer_decode(model->tokenizer, all, prompt->n, true, &start, err);
    if (!status && start.size) {
        if (out->size >= start.size && memcmp(out->data, start.data, start.size) == 0) {
            *begin = start.size;
        } else { /* the prompt reads differently with what follows: the new tokens alone */
            buffer_release(out);
            buffer_init(out, start.max_bytes);
            status = tokenizer_decode(model->tokenizer, ids, n, true, out, err);
        }
    }
    buffer_release(&start);
    free(all);
    return status;
}

enum status model_detokenize(const struct model *model, enum task task, const struct tokens *prompt,
                             const int32_t *ids, size_t n, struct buffer *out, struct error *err)
{
    if (model->architecture->detokenize)
        return model->architecture->detokenize(model, task, prompt, ids, n, out, err);
    if (!model->tokenizer)
        return error_set(err, STATUS_UNPROCESSABLE, "the model '%s' has no tokenizer", model->name);
    struct buffer text;
    buffer_init(&text, out->max_bytes);
    size_t begin = 0;
    bool continues = prompt && !model->architecture->decoder_prompt;
    enum status status = continues ? decode_continuation(model, prompt, ids, n, &text, &begin, err)
                                   : tokenizer_decode(model->tokenizer, ids, n, true, &text, err);
    if (!status && text.data) {
        size_t end = text.size;
        while (begin < end && is_space(text.data[begin]))
            begin++;
        while (end > begin && is_space(text.data[end - 1]))
            end--;
        if (!buffer_append(out, text.data + begin, end - begin))
            status = error_no_memory(err, "the reply's text");
    }
    buffer_release(&text);
    return status;
}

/* ---- configuration that several families share --------------------------------------------------
 */

enum status config_check_layers(size_t dim, size_t n_heads, size_t n_layers, struct error *err)
{
    enum { LAYERS_MAX = 512 };
    if (n_heads == 0 || dim % n_heads)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "'num_attention_heads' is %zu, which does not divide the width %zu",
                         n_heads, dim);
    if (n_layers > LAYERS_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT, "'num_hidden_layers' is %zu, more than %d",
                         n_layers, LAYERS_MAX);
    return STATUS_OK;
}

enum status config_check_picture(size_t image_size, size_t patch_size, struct error *err)
{
    enum { EDGE_MAX = 1 << 16 };
    if (patch_size > image_size || image_size > EDGE_MAX)
        return error_set(err, STATUS_BAD_CHECKPOINT,
                         "image_size %zu with patch_size %zu is not possible", image_size,
                         patch_size);
    return STATUS_OK;
}

enum status config_picture(const json_t *json, size_t *image_size, size_t *patch_size,
                           struct error *err)
{
    size_t n_channels = 3;
    enum status status = config_size(json, "image_size", image_size, err);
    if (!status)
        status = config_size(json, "patch_size", patch_size, err);
    if (!status)
        status = config_size(json, "num_channels", &n_channels, err);
    if (!status && n_channels != 3)
        status = error_set(err, STATUS_BAD_CHECKPOINT, "'num_channels' is %zu, only 3 is supported",
                           n_channels);
    return status ? status : config_check_picture(*image_size, *patch_size, err);
}
