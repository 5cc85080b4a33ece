/*
 * health.h: what load balancers ask: is the process alive, may it be sent work.
 */
#ifndef VLMD_SERVER_HEALTH_H
#define VLMD_SERVER_HEALTH_H

#include "api/endpoint.h"

/* GET /healthz (and its aliases): 200 while the process answers at all. */
extern const struct endpoint endpoint_healthz, endpoint_health, endpoint_livez, endpoint_ping;
/* GET /readyz: 200 when models are loaded, every lane makes progress, and no drain is under way;
 * else 503 with the reason. */
extern const struct endpoint endpoint_readyz;

#endif
