/*
 * endpoints.c: the endpoints, one line each. The process adds its own (health, metrics) through
 * api_options.extra.
 */
#include "api/endpoints.h"

#include "core/base/size.h"

extern const struct endpoint endpoint_caption;
extern const struct endpoint endpoint_vqa;
extern const struct endpoint endpoint_match;
extern const struct endpoint endpoint_classify;
extern const struct endpoint endpoint_embeddings;
extern const struct endpoint endpoint_models;
extern const struct endpoint endpoint_model;
extern const struct endpoint endpoint_info;
extern const struct endpoint endpoint_version;

const struct endpoint *const endpoints[] = {
    &endpoint_caption, &endpoint_vqa,   &endpoint_match, &endpoint_classify, &endpoint_embeddings,
    &endpoint_models,  &endpoint_model, &endpoint_info,  &endpoint_version,
};

const size_t n_endpoints = ARRAY_LENGTH(endpoints);
