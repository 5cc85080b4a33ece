/*
 * api.c: what outlives a request: options, runtime, store and the table of endpoints. Immutable
 * after api_new(), so any thread may use it.
 */
#include <stdlib.h>
#include <string.h>

#include "api/endpoints.h"
#include "api/router.h"
#include "core/base/size.h"

struct api {
    struct api_options options;
    struct runtime *runtime;
    struct store *store;
    size_t n_endpoints;
    const struct endpoint *endpoints[];
};

struct api *api_new(const struct api_options *options, struct runtime *runtime, struct store *store,
                    struct error *err)
{
    size_t n;
    struct api *api = NULL;
    if (size_add(n_endpoints, options->n_extra, &n))
        api = calloc(1, sizeof *api + n * sizeof *api->endpoints);
    if (!api) {
        error_no_memory(err, "the endpoints");
        return NULL;
    }
    api->options = *options;
    api->runtime = runtime;
    api->store = store;
    for (size_t i = 0; i < n_endpoints; i++)
        api->endpoints[api->n_endpoints++] = endpoints[i];
    for (size_t i = 0; i < options->n_extra; i++)
        api->endpoints[api->n_endpoints++] = options->extra[i];
    return api;
}

void api_free(struct api *api)
{
    free(api);
}

struct runtime *api_runtime(const struct api *api)
{
    return api->runtime;
}

struct store *api_store(const struct api *api)
{
    return api->store;
}

const struct api_options *api_options(const struct api *api)
{
    return &api->options;
}

const struct endpoint *api_endpoint_at(const struct api *api, size_t i)
{
    return i < api->n_endpoints ? api->endpoints[i] : NULL;
}

enum status api_route(const struct api *api, const char *method, const char *path,
                      struct route *out, struct error *err)
{
    return router_find(api->endpoints, api->n_endpoints, method, path, out, err);
}
