/*
 * endpoints.h: the list of all endpoints, and how their field tables are put together.
 */
#ifndef VLMD_API_ENDPOINTS_H
#define VLMD_API_ENDPOINTS_H

#include "api/endpoint.h"

extern const struct endpoint *const endpoints[];
extern const size_t n_endpoints;

enum { ENDPOINT_TABLES_MAX = 4 };
/* An endpoint's own tables and the common ones (`model`, `user`); returns how many. */
size_t endpoint_tables(const struct endpoint *endpoint,
                       const struct field *tables[ENDPOINT_TABLES_MAX]);

#endif
