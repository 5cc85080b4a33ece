/*
 * multipart.c: see multipart.h.
 */
#include "api/multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/base/utf8.h"

bool header_parameter(const char *header, size_t size, const char *name, char *out, size_t out_size)
{
    size_t name_size = strlen(name);
    size_t i = 0;
    while (i < size && header[i] != ';')
        i++;
    while (i < size) {
        i++; /* the semicolon */
        while (i < size && (header[i] == ' ' || header[i] == '\t'))
            i++;
        size_t key = i;
        while (i < size && header[i] != '=' && header[i] != ';')
            i++;
        bool wanted = i - key == name_size && !strncasecmp(header + key, name, name_size);
        if (i == size || header[i] == ';')
            continue;
        i++; /* '=' */
        size_t n = 0;
        if (i < size && header[i] == '"') {
            for (i++; i < size && header[i] != '"'; i++) {
                if (header[i] == '\\' && i + 1 < size &&
                    (header[i + 1] == '"' || header[i + 1] == '\\'))
                    i++;
                if (wanted && n + 1 < out_size)
                    out[n] = header[i];
                n++;
            }
            if (i == size)
                return false; /* no closing quote */
            i++;
            while (i < size && header[i] != ';')
                i++;
        } else {
            for (; i < size && header[i] != ';' && header[i] != ' ' && header[i] != '\t'; i++) {
                if (wanted && n + 1 < out_size)
                    out[n] = header[i];
                n++;
            }
            while (i < size && header[i] != ';')
                i++;
        }
        if (wanted) {
            if (n + 1 > out_size)
                return false;
            out[n] = '\0';
            return true;
        }
    }
    return false;
}

/* The delimiter at or after `from`: sets *after behind it and *last where it is the closing one.
 * NULL when there is none. What only starts like the delimiter is data. */
static const char *find_delimiter(const struct multipart *multipart, const char *from,
                                  bool at_start, const char **after, bool *last)
{
    enum { PADDING_MAX = 32 }; /* RFC 2046 allows blanks behind a boundary */
    const char *end = multipart->end;
    while (from < end) {
        const char *hit;
        size_t skip = at_start ? 2 : 0; /* the first delimiter needs no CRLF before it */
        if (at_start && (size_t)(end - from) >= multipart->delimiter_size - 2 &&
            !memcmp(from, multipart->delimiter + 2, multipart->delimiter_size - 2)) {
            hit = from;
        } else {
            skip = 0;
            hit =
                memmem(from, (size_t)(end - from), multipart->delimiter, multipart->delimiter_size);
        }
        at_start = false;
        if (!hit)
            return NULL;
        const char *next = hit + multipart->delimiter_size - skip;
        if (end - next >= 2 && next[0] == '-' && next[1] == '-') {
            *after = next + 2;
            *last = true;
            return hit;
        }
        const char *line = next;
        while (line < end && line - next < PADDING_MAX && (*line == ' ' || *line == '\t'))
            line++;
        if (end - line >= 2 && line[0] == '\r' && line[1] == '\n') {
            *after = line + 2;
            *last = false;
            return hit;
        }
        from = hit + 2;
    }
    return NULL;
}

enum status multipart_init(struct multipart *out, const char *content_type, const char *body,
                           size_t size, struct error *err)
{
    char boundary[FORM_BOUNDARY_MAX + 1];
    if (!header_parameter(content_type, strlen(content_type), "boundary", boundary,
                          sizeof boundary) ||
        !boundary[0])
        return error_set(err, STATUS_BAD_REQUEST,
                         "Content-Type multipart/form-data needs a boundary of 1 to %d characters",
                         FORM_BOUNDARY_MAX);
    for (const char *c = boundary; *c; c++)
        if (*c < ' ' || *c > '~')
            return error_set(err, STATUS_BAD_REQUEST,
                             "the multipart boundary may only hold printable ASCII");
    out->delimiter_size =
        (size_t)snprintf(out->delimiter, sizeof out->delimiter, "\r\n--%s", boundary);
    out->end = body + size;
    if (!find_delimiter(out, body, true, &out->at, &out->is_last))
        return error_set(err, STATUS_BAD_REQUEST,
                         "the multipart body does not hold the boundary of its Content-Type");
    return STATUS_OK;
}

static enum status read_header(struct part *out, const char *line, size_t size, bool *named,
                               struct error *err)
{
    const char *colon = memchr(line, ':', size);
    if (!colon)
        return error_set(err, STATUS_BAD_REQUEST, "a multipart part has a header without a colon");
    size_t key = (size_t)(colon - line);
    const char *value = colon + 1;
    size_t value_size = size - key - 1;
    while (value_size && (*value == ' ' || *value == '\t')) {
        value++;
        value_size--;
    }
    if (key == 19 && !strncasecmp(line, "Content-Disposition", key)) {
        if (value_size < 9 || strncasecmp(value, "form-data", 9))
            return error_set(err, STATUS_BAD_REQUEST,
                             "a multipart part's Content-Disposition must be form-data");
        if (!header_parameter(value, value_size, "name", out->name, sizeof out->name))
            return error_set(err, STATUS_BAD_REQUEST,
                             "a multipart part has no name, or one over %zu bytes",
                             sizeof out->name - 1);
        char filename[1024];
        if (header_parameter(value, value_size, "filename", filename, sizeof filename)) {
            out->is_file = true;
            utf8_clean(out->filename, sizeof out->filename, filename, strlen(filename));
        }
        *named = true;
    } else if (key == 12 && !strncasecmp(line, "Content-Type", key)) {
        utf8_clean(out->type, sizeof out->type, value, value_size);
        if (!strncasecmp(out->type, "multipart/", 10))
            return error_set(err, STATUS_UNSUPPORTED_MEDIA,
                             "nested multipart is not accepted; send each file as its own part");
    } else if (key == 25 && !strncasecmp(line, "Content-Transfer-Encoding", key)) {
        if (!(value_size == 6 && !strncasecmp(value, "binary", 6)) &&
            !(value_size == 4 && !strncasecmp(value, "8bit", 4)) &&
            !(value_size == 4 && !strncasecmp(value, "7bit", 4)))
            return error_set(err, STATUS_UNSUPPORTED_MEDIA,
                             "a multipart part has a Content-Transfer-Encoding; send it as binary");
    }
    return STATUS_OK;
}

enum status multipart_next(struct multipart *multipart, struct part *out, bool *more,
                           struct error *err)
{
    *more = false;
    if (multipart->is_last)
        return STATUS_OK;

    struct part part = {0};
    bool named = false;
    const char *at = multipart->at, *end = multipart->end;
    const char *headers_end = end - at > FORM_PART_HEADER_MAX ? at + FORM_PART_HEADER_MAX : end;
    for (;;) {
        const char *line_end = memmem(at, (size_t)(headers_end - at), "\r\n", 2);
        if (!line_end)
            return error_set(err, STATUS_BAD_REQUEST,
                             headers_end == end
                                 ? "the multipart body ends within a part's headers"
                                 : "a multipart part has more than %d bytes of headers",
                             FORM_PART_HEADER_MAX);
        size_t size = (size_t)(line_end - at);
        if (size) {
            enum status status = read_header(&part, at, size, &named, err);
            if (status)
                return status;
        }
        at = line_end + 2;
        if (!size)
            break;
    }
    if (!named)
        return error_set(err, STATUS_BAD_REQUEST,
                         "a multipart part has no Content-Disposition header");

    /* An empty part's delimiter may begin with the CRLF that ended the headers. */
    const char *after, *data_end = find_delimiter(multipart, at, true, &after, &multipart->is_last);
    if (!data_end)
        return error_set(err, STATUS_BAD_REQUEST,
                         "the multipart body ends before its closing boundary (in part '%s')",
                         part.name);
    part.data = (struct span){at, (size_t)(data_end - at)};
    multipart->at = after;
    *out = part;
    *more = true;
    return STATUS_OK;
}
