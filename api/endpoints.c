/*
 * endpoints.c: the endpoints, one line each. The process adds its own (health, metrics) through
 * api_options.extra.
 */
#include "api/endpoints.h"

#include "core/base/size.h"

extern const struct endpoint endpoint_caption;

const struct endpoint *const endpoints[] = {
    &endpoint_caption,
};

const size_t n_endpoints = ARRAY_LENGTH(endpoints);
