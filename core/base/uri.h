/*
 * uri.h: a URI as it may be shown: without the secrets in it.
 */
#ifndef VLMD_CORE_BASE_URI_H
#define VLMD_CORE_BASE_URI_H

#include <stddef.h>

/* Copies uri to out (cut to fit, always ended), with `***` for the user and password before an '@'
 * and for the value of a `password` or `sslpassword` parameter. What only looks like a URI loses
 * rather too much than too little. */
void uri_hide_secret(char *out, size_t size, const char *uri);

#endif
