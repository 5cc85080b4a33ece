/*
 * router.h: matches a method and a path against a table of endpoints.
 */
#ifndef VLMD_API_ROUTER_H
#define VLMD_API_ROUTER_H

#include "api/endpoint.h"

/* See api_route() in api.h. Parameters must decode to valid UTF-8 without NUL
 * (STATUS_BAD_REQUEST). */
enum status router_find(const struct endpoint *const *endpoints, size_t n, const char *method,
                        const char *path, struct route *out, struct error *err);

#endif
