/*
 * checkpoint.h: a Hugging Face directory: its JSON files and its tensors.
 *
 * Two layouts: that of transformers (config.json, model.safetensors…), and OpenCLIP's
 * (open_clip_config.json, open_clip_model.safetensors). A directory that has both files (timm's
 * uploads: a config.json of timm's own; LAION's: the same model twice) is OpenCLIP's where
 * config.json names no architecture or its weights are not there.
 *
 * Everything tunable in the models comes from here; typed readers give defaults for absent keys and
 * a clear error for wrong ones. Immutable after opening.
 */
#ifndef VLMD_CORE_WEIGHTS_CHECKPOINT_H
#define VLMD_CORE_WEIGHTS_CHECKPOINT_H

#include <jansson.h>

#include "core/weights/safetensors.h"

struct checkpoint {
    char *directory;
    json_t *config;       /* config.json, or open_clip_config.json */
    bool is_open_clip;    /* which of them */
    json_t *preprocessor; /* processor_config.json's "image_processor", or (as the reference orders
                             them) preprocessor_config.json; NULL when absent */
    json_t *generation;   /* generation_config.json; NULL when absent */
    struct tensor_set *tensors;
    char revision[17]; /* 16 hex digits over config, preprocessor, weights: an embedding space's
                          name; the same for the same files on every machine */
};

/* NULL: STATUS_NOT_FOUND (no such directory), STATUS_BAD_CHECKPOINT, STATUS_IO, STATUS_NO_MEMORY.
 */
struct checkpoint *checkpoint_open(const char *directory, struct error *err);
void checkpoint_free(struct checkpoint *checkpoint);

/* True when a directory has what checkpoint_open() starts from. */
bool checkpoint_is_directory(const char *directory);

/* architectures[0] of config.json, "OpenCLIP" in that layout; NULL and an error when absent. */
const char *checkpoint_architecture(const struct checkpoint *checkpoint, struct error *err);

/* True when the directory has a regular file of this name. */
bool checkpoint_has_file(const struct checkpoint *checkpoint, const char *name);

/* Reads another JSON file of the directory: a new reference in *out, NULL when there is none. */
enum status checkpoint_read_json(const struct checkpoint *checkpoint, const char *name,
                                 json_t **out, struct error *err);

/* Typed reads of object[key]; *out keeps its value (the default) when the key is absent or null.
 * Wrong type or range (sizes: 1 … 2^31) is STATUS_BAD_CHECKPOINT naming the key. */
enum status config_size(const json_t *object, const char *key, size_t *out, struct error *err);
enum status config_int(const json_t *object, const char *key, long long *out, struct error *err);
enum status config_float(const json_t *object, const char *key, float *out, struct error *err);
enum status config_bool(const json_t *object, const char *key, bool *out, struct error *err);
/* The string is borrowed from the object. */
enum status config_string(const json_t *object, const char *key, const char **out,
                          struct error *err);
/* A sub-object; NULL when absent, which all of these readers take as an empty object. */
enum status config_object(const json_t *object, const char *key, const json_t **out,
                          struct error *err);
/* The same for CLIP's family, whose old files have "text_config_dict" beside "text_config": where
 * `<key>_dict` is given it alone counts, as in the reference. */
enum status config_object_or_dict(const json_t *object, const char *key, const json_t **out,
                                  struct error *err);
/* A token id, or -1 (*out keeps its default when the key is absent, becomes -1 when null). A list
 * gives its first element. */
enum status config_token(const json_t *object, const char *key, int32_t *out, struct error *err);
/* id2label: the names of n classes, by number. *labels is a new array (to be freed) of borrowed
 * strings; without the key it has the reference's two, "LABEL_0" and "LABEL_1". */
enum status config_labels(const json_t *object, const char ***labels, size_t *n, struct error *err);
/* An activation's name; one that we don't have is refused by name. */
enum status config_activation(const json_t *object, const char *key, enum activation *out,
                              struct error *err);

#endif
