/*
 * status.h: every way a request or a file can fail, in one list.
 *
 * STATUS(name, http_status, type, code): `type` and `code` are what clients see in the error body
 * (DESIGN §4), `http_status` is what the server's edge sends. Core code only names the status; it
 * knows nothing else of HTTP. STATUS_OK is 0, so `if (status)` reads as "if it failed".
 */
#ifndef VLMD_CORE_BASE_STATUS_H
#define VLMD_CORE_BASE_STATUS_H

#define STATUS_LIST(STATUS)                                                                        \
    STATUS(OK, 200, "", "")                                                                        \
    /* 400: the request is malformed */                                                            \
    STATUS(BAD_REQUEST, 400, "invalid_request_error", "bad_request")                               \
    STATUS(BAD_JSON, 400, "invalid_request_error", "bad_json")                                     \
    STATUS(MISSING_FIELD, 400, "invalid_request_error", "missing_field")                           \
    STATUS(UNKNOWN_FIELD, 400, "invalid_request_error", "unknown_field")                           \
    STATUS(WRONG_TYPE, 400, "invalid_request_error", "wrong_type")                                 \
    STATUS(OUT_OF_RANGE, 400, "invalid_request_error", "out_of_range")                             \
    STATUS(BAD_BASE64, 400, "invalid_request_error", "bad_base64")                                 \
    /* who asks */                                                                                 \
    STATUS(UNAUTHORIZED, 401, "authentication_error", "invalid_api_key")                           \
    STATUS(FORBIDDEN, 403, "permission_error", "forbidden")                                        \
    /* what is asked for */                                                                        \
    STATUS(NOT_FOUND, 404, "not_found_error", "not_found")                                         \
    STATUS(UNKNOWN_MODEL, 404, "not_found_error", "model_not_found")                               \
    STATUS(METHOD_NOT_ALLOWED, 405, "invalid_request_error", "method_not_allowed")                 \
    STATUS(BODY_TIMEOUT, 408, "timeout_error", "body_timeout")                                     \
    STATUS(CONFLICT, 409, "conflict_error", "conflict")                                            \
    STATUS(LENGTH_REQUIRED, 411, "invalid_request_error", "length_required")                       \
    STATUS(BODY_TOO_LARGE, 413, "invalid_request_error", "body_too_large")                         \
    STATUS(UNSUPPORTED_MEDIA, 415, "invalid_request_error", "unsupported_media_type")              \
    /* 422: well-formed, but it cannot be done */                                                  \
    STATUS(UNKNOWN_IMAGE, 422, "invalid_request_error", "unsupported_image_format")                \
    STATUS(BROKEN_IMAGE, 422, "invalid_request_error", "broken_image")                             \
    STATUS(IMAGE_TOO_LARGE, 422, "invalid_request_error", "image_too_large")                       \
    STATUS(UNPROCESSABLE, 422, "invalid_request_error", "unprocessable")                           \
    STATUS(UNSUPPORTED_TASK, 422, "invalid_request_error", "task_not_supported")                   \
    STATUS(TOO_LONG, 422, "invalid_request_error", "input_too_long")                               \
    STATUS(WRONG_SPACE, 422, "invalid_request_error", "embedding_space_mismatch")                  \
    /* overload */                                                                                 \
    STATUS(QUEUE_FULL, 429, "rate_limit_error", "queue_full")                                      \
    STATUS(RATE_LIMITED, 429, "rate_limit_error", "rate_limited")                                  \
    STATUS(CANCELLED, 499, "cancelled", "client_closed_request")                                   \
    /* our side */                                                                                 \
    STATUS(INTERNAL, 500, "server_error", "internal_error")                                        \
    STATUS(NO_MEMORY, 500, "server_error", "out_of_memory")                                        \
    STATUS(BAD_CHECKPOINT, 500, "server_error", "bad_checkpoint")                                  \
    STATUS(IO, 500, "server_error", "io_error")                                                    \
    STATUS(BAD_CONFIG, 500, "server_error", "bad_config")                                          \
    STATUS(LOADING, 503, "unavailable_error", "loading")                                           \
    STATUS(DRAINING, 503, "unavailable_error", "draining")                                         \
    STATUS(UNAVAILABLE, 503, "unavailable_error", "unavailable")                                   \
    STATUS(DEADLINE, 504, "timeout_error", "deadline_exceeded")                                    \
    STATUS(NO_SPACE, 507, "server_error", "no_space")

enum status {
#define STATUS_ENUM(name, http, type, code) STATUS_##name,
    STATUS_LIST(STATUS_ENUM)
#undef STATUS_ENUM
        N_STATUS
};

/* One row of the list. status_info() never fails: an unknown value reads as STATUS_INTERNAL. */
struct status_info {
    const char *name;
    int http_status;
    const char *type;
    const char *code;
};

const struct status_info *status_info(enum status status);

#endif
