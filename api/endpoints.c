/*
 * endpoints.c: the endpoints, one line each. The process adds its own (health, metrics) through
 * api_options.extra.
 */
#include "api/endpoints.h"

#include "core/base/size.h"

extern const struct endpoint endpoint_caption;
extern const struct endpoint endpoint_vqa;
extern const struct endpoint endpoint_fill;
extern const struct endpoint endpoint_chat;
extern const struct endpoint endpoint_match;
extern const struct endpoint endpoint_classify;
extern const struct endpoint endpoint_detect;
extern const struct endpoint endpoint_ground;
extern const struct endpoint endpoint_segment;
extern const struct endpoint endpoint_embeddings;
extern const struct endpoint endpoint_predict;
extern const struct endpoint endpoint_collection_put;
extern const struct endpoint endpoint_collection_get;
extern const struct endpoint endpoint_collection_delete;
extern const struct endpoint endpoint_collections;
extern const struct endpoint endpoint_export;
extern const struct endpoint endpoint_items_post;
extern const struct endpoint endpoint_items_list;
extern const struct endpoint endpoint_item_get;
extern const struct endpoint endpoint_item_image;
extern const struct endpoint endpoint_item_delete;
extern const struct endpoint endpoint_search;
extern const struct endpoint endpoint_duplicates;
extern const struct endpoint endpoint_models;
extern const struct endpoint endpoint_model;
extern const struct endpoint endpoint_info;
extern const struct endpoint endpoint_version;
extern const struct endpoint endpoint_openapi;
extern const struct endpoint endpoint_page;
extern const struct endpoint endpoint_docs;
extern const struct endpoint endpoint_page_file;

/* clang-format off */
const struct endpoint *const endpoints[] = {
    &endpoint_caption,
    &endpoint_vqa,
    &endpoint_fill,
    &endpoint_chat,
    &endpoint_match,
    &endpoint_classify,
    &endpoint_detect,
    &endpoint_ground,
    &endpoint_segment,
    &endpoint_embeddings,
    &endpoint_predict,
    &endpoint_collection_put,
    &endpoint_collection_get,
    &endpoint_collection_delete,
    &endpoint_collections,
    &endpoint_export,
    &endpoint_items_post,
    &endpoint_items_list,
    &endpoint_item_get,
    &endpoint_item_image,
    &endpoint_item_delete,
    &endpoint_search,
    &endpoint_duplicates,
    &endpoint_models,
    &endpoint_model,
    &endpoint_info,
    &endpoint_version,
    &endpoint_openapi,
    &endpoint_page,
    &endpoint_docs,
    &endpoint_page_file,
};
/* clang-format on */

const size_t n_endpoints = ARRAY_LENGTH(endpoints);
