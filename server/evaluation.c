/*
 * evaluation.c: what the tasks of `vlmd eval` ask and how they are judged.
 */
#include "server/evaluation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/base64.h"
#include "core/base/size.h"
#include "core/eval/eval.h"
#include "core/image/image.h"
#include "server/client.h"

/* ---- rows
 * ----------------------------------------------------------------------------------------
 */

static enum status bad_row(struct error *err, const char *what)
{
    return error_set(err, STATUS_BAD_REQUEST, "expected %s", what);
}

static bool has(const json_t *fields, const char *key)
{
    return json_object_get(fields, key) != NULL;
}

/* The strings of a field that is one or a list of them; false where it is something else. *out is
 * malloc'd, the strings are borrowed. */
static bool strings_of(const json_t *value, const char ***out, size_t *n)
{
    bool is_list = json_is_array(value);
    *n = is_list ? json_array_size(value) : 1;
    *out = *n ? malloc(*n * sizeof **out) : NULL;
    for (size_t i = 0; *out && i < *n; i++) {
        (*out)[i] = json_string_value(is_list ? json_array_get(value, i) : value);
        if (!(*out)[i]) {
            free((void *)*out);
            *out = NULL;
        }
    }
    return *out != NULL;
}

/* The path of a file that a row names. */
static void path_of(const struct evaluation *evaluation, const char *name, char out[8192])
{
    snprintf(out, 8192, "%s%s%s", name[0] == '/' ? "" : evaluation->folder,
             name[0] == '/' ? "" : "/", name);
}

static enum status encode_file(const struct evaluation *evaluation, const char *name, json_t **out,
                               struct error *err)
{
    char path[8192], *bytes;
    size_t size;
    path_of(evaluation, name, path);
    if (file_read(path, evaluation->process->settings.max_body_mb << 20, &bytes, &size, err))
        return err->status;
    char *text = base64_text(bytes, size);
    free(bytes);
    *out = text ? json_string(text) : NULL;
    free(text);
    return *out ? STATUS_OK : error_no_memory(err, "a picture");
}

static const char *picture_of(const struct row *row)
{
    const char *name = json_string_value(json_object_get(row->fields, "image"));
    return name ? name : json_string_value(json_object_get(row->fields, "file_name"));
}

enum status evaluation_add_picture(const struct evaluation *evaluation, const struct row *row,
                                   json_t *body, struct error *err)
{
    json_t *image;
    const char *name = picture_of(row);
    if (!name)
        return bad_row(err, "`image` or `file_name` with the name of a picture");
    if (encode_file(evaluation, name, &image, err))
        return err->status;
    json_object_set_new(body, "image", image);
    return STATUS_OK;
}

enum status evaluation_call(const struct evaluation *evaluation, const char *path,
                            const json_t *body, json_t **reply, struct error *err)
{
    char *text = json_dumps(body, JSON_COMPACT);
    enum status status = text ? STATUS_OK : error_no_memory(err, "a request");
    int http_status = 0;
    while (!status) {
        status = client_request(evaluation->process, "POST", path, "", "application/json", text,
                                strlen(text), &http_status, reply, err);
        if (status || http_status / 100 == 2)
            break;
        const json_t *error = json_object_get(*reply, "error");
        const char *message = json_string_value(json_object_get(error, "message"));
        const char *code = json_string_value(json_object_get(error, "code"));
        bool is_full = code && !strcmp(code, status_info(STATUS_QUEUE_FULL)->code);
        if (!is_full)
            status = error_set(err, STATUS_UNPROCESSABLE, "%s", message ? message : "it failed");
        json_decref(*reply);
        *reply = NULL;
        if (is_full)
            usleep(10000);
    }
    free(text);
    return status;
}

/* Adds a name that is not there yet. */
static void add_label(json_t *labels, json_t *seen, const char *name)
{
    if (!name || json_object_get(seen, name))
        return;
    json_object_set_new(seen, name, json_integer((json_int_t)json_array_size(labels)));
    json_array_append_new(labels, json_string(name));
}

enum status evaluation_prepare(struct evaluation *evaluation, struct error *err)
{
    json_t *seen = json_object();
    evaluation->labels = json_array();
    if (!seen || !evaluation->labels) {
        json_decref(seen);
        return error_no_memory(err, "the labels");
    }
    for (size_t i = 0; i < evaluation->n_rows; i++) {
        const json_t *fields = evaluation->rows[i].fields, *each;
        size_t k;
        add_label(evaluation->labels, seen, json_string_value(json_object_get(fields, "label")));
        json_array_foreach(json_object_get(fields, "boxes"), k, each)
            add_label(evaluation->labels, seen, json_string_value(json_object_get(each, "label")));
    }
    json_decref(seen);
    return STATUS_OK;
}

void evaluation_release(struct evaluation *evaluation)
{
    for (size_t i = 0; i < evaluation->n_rows; i++) {
        json_decref(evaluation->rows[i].fields);
        json_decref(evaluation->rows[i].reply);
    }
    free(evaluation->rows);
    json_decref(evaluation->labels);
}

/* ---- vqa
 * -----------------------------------------------------------------------------------------
 */

static bool vqa_fits(const json_t *fields)
{
    return has(fields, "question") && (has(fields, "answer") || has(fields, "answers"));
}

static enum status vqa_ask(const struct evaluation *evaluation, const struct row *row, json_t *body,
                           struct error *err)
{
    (void)evaluation;
    json_t *question = json_object_get(row->fields, "question");
    if (!json_is_string(question))
        return bad_row(err, "`question`, a string");
    json_object_set(body, "question", question);
    return STATUS_OK;
}

static enum status vqa_score(const struct evaluation *evaluation, struct row *row,
                             struct error *err)
{
    (void)evaluation;
    const char *answer = json_string_value(json_object_get(row->reply, "answer")), **truths;
    const json_t *truth = json_object_get(row->fields, "answers");
    size_t n;
    if (!strings_of(truth ? truth : json_object_get(row->fields, "answer"), &truths, &n))
        return bad_row(err, "`answer`, a string, or `answers`, a list of them");
    row->scores[0] = answer_score(answer ? answer : "", truths, n);
    free((void *)truths);
    return STATUS_OK;
}

/* ---- classify
 * ------------------------------------------------------------------------------------
 */

static bool classify_fits(const json_t *fields)
{
    return has(fields, "label");
}

static enum status classify_ask(const struct evaluation *evaluation, const struct row *row,
                                json_t *body, struct error *err)
{
    json_t *labels = json_object_get(row->fields, "labels");
    if (!json_is_string(json_object_get(row->fields, "label")))
        return bad_row(err, "`label`, a string");
    /* A copy: rows are asked by several threads. */
    json_object_set_new(body, "labels", json_deep_copy(labels ? labels : evaluation->labels));
    return STATUS_OK;
}

static enum status classify_score(const struct evaluation *evaluation, struct row *row,
                                  struct error *err)
{
    (void)evaluation, (void)err;
    const char *truth = json_string_value(json_object_get(row->fields, "label"));
    const json_t *labels = json_object_get(row->reply, "labels");
    for (size_t i = 0; i < 5 && i < json_array_size(labels); i++) {
        const char *label = json_string_value(json_object_get(json_array_get(labels, i), "label"));
        if (label && !strcmp(label, truth)) {
            row->scores[0] = i == 0;
            row->scores[1] = 1;
        }
    }
    return STATUS_OK;
}

/* ---- match
 * ---------------------------------------------------------------------------------------
 */

static bool match_fits(const json_t *fields)
{
    return has(fields, "texts") && has(fields, "match");
}

static enum status match_ask(const struct evaluation *evaluation, const struct row *row,
                             json_t *body, struct error *err)
{
    (void)evaluation;
    json_t *texts = json_object_get(row->fields, "texts");
    const json_t *match = json_object_get(row->fields, "match");
    if (!json_is_array(texts) || !json_is_integer(match) || json_integer_value(match) < 0 ||
        (size_t)json_integer_value(match) >= json_array_size(texts))
        return bad_row(err, "`texts`, a list, and `match`, the index of the one that fits");
    json_object_set(body, "texts", texts);
    return STATUS_OK;
}

static enum status match_score(const struct evaluation *evaluation, struct row *row,
                               struct error *err)
{
    (void)evaluation, (void)err;
    const json_t *scores = json_object_get(row->reply, "scores");
    size_t best = 0, n = json_array_size(scores);
    for (size_t i = 1; i < n; i++)
        if (json_number_value(json_array_get(scores, i)) >
            json_number_value(json_array_get(scores, best)))
            best = i;
    row->scores[0] = n && best == (size_t)json_integer_value(json_object_get(row->fields, "match"));
    return STATUS_OK;
}

/* ---- caption
 * -------------------------------------------------------------------------------------
 */

static bool caption_fits(const json_t *fields)
{
    return has(fields, "caption") || has(fields, "captions") || has(fields, "text");
}

static const json_t *captions_of(const struct row *row)
{
    static const char *const keys[] = {"captions", "caption", "text"};
    const json_t *value = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(keys) && !value; i++)
        value = json_object_get(row->fields, keys[i]);
    return value;
}

static enum status caption_ask(const struct evaluation *evaluation, const struct row *row,
                               json_t *body, struct error *err)
{
    (void)evaluation, (void)body;
    const char **truths;
    size_t n;
    if (!strings_of(captions_of(row), &truths, &n))
        return bad_row(err, "`caption`, a string, or `captions`, a list of them");
    free((void *)truths);
    return STATUS_OK;
}

static enum status caption_score(const struct evaluation *evaluation, struct row *row,
                                 struct error *err)
{
    (void)evaluation;
    if (!json_is_string(json_object_get(row->reply, "caption")))
        return error_set(err, STATUS_UNPROCESSABLE, "the reply has no caption");
    return STATUS_OK;
}

static enum status caption_whole(struct evaluation *evaluation, json_t *figures, struct error *err)
{
    struct captioned *captions = calloc(evaluation->n_rows, sizeof *captions);
    size_t n = 0;
    for (size_t i = 0; captions && i < evaluation->n_rows; i++) {
        const struct row *row = &evaluation->rows[i];
        const char **truths;
        size_t n_truths;
        if (row->failed || !strings_of(captions_of(row), &truths, &n_truths))
            continue;
        captions[n++] = (struct captioned){
            .candidate = json_string_value(json_object_get(row->reply, "caption")),
            .references = truths,
            .n_references = n_truths,
        };
    }
    double cider = captions ? captions_cider(captions, n) : -1;
    double bleu = captions ? captions_bleu(captions, n) : -1;
    for (size_t i = 0; i < n; i++)
        free((void *)captions[i].references);
    free(captions);
    if (cider < 0 || bleu < 0)
        return error_no_memory(err, "the captions");
    json_object_set_new(figures, "CIDEr-D", json_real(cider));
    json_object_set_new(figures, "BLEU-4", json_real(bleu));
    return STATUS_OK;
}

/* ---- detect
 * --------------------------------------------------------------------------------------
 */

static bool detect_fits(const json_t *fields)
{
    return has(fields, "boxes");
}

/* {"xmin", "ymin", "xmax", "ymax"} or a list of the four. */
static bool box_of(const json_t *value, struct eval_box *out)
{
    static const char *const keys[4] = {"xmin", "ymin", "xmax", "ymax"};
    float at[4];
    for (size_t i = 0; i < 4; i++) {
        const json_t *number =
            json_is_array(value) ? json_array_get(value, i) : json_object_get(value, keys[i]);
        if (!json_is_number(number))
            return false;
        at[i] = (float)json_number_value(number);
    }
    out->xmin = at[0], out->ymin = at[1], out->xmax = at[2], out->ymax = at[3];
    return true;
}

static enum status detect_ask(const struct evaluation *evaluation, const struct row *row,
                              json_t *body, struct error *err)
{
    const json_t *boxes = json_object_get(row->fields, "boxes"), *each;
    struct eval_box box;
    size_t i;
    if (!json_is_array(boxes))
        return bad_row(err, "`boxes`, a list of {label, box}");
    json_array_foreach(
        boxes, i, each) if (!json_is_string(json_object_get(each, "label")) ||
                            !box_of(json_object_get(each, "box"),
                                    &box)) return bad_row(err, "each of `boxes` to be {label, box: "
                                                               "{xmin, ymin, xmax, ymax}}");
    const json_t *queries = json_object_get(row->fields, "queries");
    json_object_set_new(body, "queries", json_deep_copy(queries ? queries : evaluation->labels));
    if (!has(body, "threshold")) /* the curve wants the weak ones as well */
        json_object_set_new(body, "threshold", json_real(0.01));
    return STATUS_OK;
}

static enum status detect_score(const struct evaluation *evaluation, struct row *row,
                                struct error *err)
{
    (void)evaluation;
    return json_is_array(json_object_get(row->reply, "detections"))
               ? STATUS_OK
               : error_set(err, STATUS_UNPROCESSABLE, "the reply has no detections");
}

/* A label's number; those that no true box has do not count. */
static bool label_of(const json_t *numbers, const json_t *of, size_t *out)
{
    const char *name = json_string_value(json_object_get(of, "label"));
    const json_t *number = name ? json_object_get(numbers, name) : NULL;
    *out = (size_t)json_integer_value(number);
    return number != NULL;
}

/* Appends the boxes of one list; NULL: no memory. */
static struct eval_box *add_boxes(struct eval_box *boxes, size_t *n, const json_t *list,
                                  const json_t *numbers, size_t image)
{
    size_t i;
    const json_t *each;
    struct eval_box *more = realloc(boxes, (*n + json_array_size(list) + 1) * sizeof *boxes);
    if (!more) {
        free(boxes);
        return NULL;
    }
    json_array_foreach(list, i, each)
    {
        struct eval_box box = {.image = image,
                               .score = (float)json_number_value(json_object_get(each, "score"))};
        if (label_of(numbers, each, &box.label) && box_of(json_object_get(each, "box"), &box))
            more[(*n)++] = box;
    }
    return more;
}

static enum status detect_whole(struct evaluation *evaluation, json_t *figures, struct error *err)
{
    json_t *numbers = json_object();
    for (size_t i = 0; i < json_array_size(evaluation->labels); i++)
        json_object_set_new(numbers, json_string_value(json_array_get(evaluation->labels, i)),
                            json_integer((json_int_t)i));
    struct eval_box *found = calloc(1, sizeof *found), *truth = calloc(1, sizeof *truth);
    size_t n_found = 0, n_truth = 0;
    for (size_t i = 0; found && truth && i < evaluation->n_rows; i++) {
        const struct row *row = &evaluation->rows[i];
        if (row->failed)
            continue;
        found = add_boxes(found, &n_found, json_object_get(row->reply, "detections"), numbers, i);
        truth = add_boxes(truth, &n_truth, json_object_get(row->fields, "boxes"), numbers, i);
    }
    json_decref(numbers);
    double at50 = -1, mean = 0;
    for (int step = 0; found && truth && step < 10; step++) {
        double ap = boxes_average_precision(found, n_found, truth, n_truth, 0.5 + 0.05 * step);
        at50 = step ? at50 : ap;
        mean += ap / 10;
    }
    free(found);
    free(truth);
    if (at50 < 0)
        return error_no_memory(err, "the boxes");
    json_object_set_new(figures, "AP50", json_real(at50));
    json_object_set_new(figures, "AP", json_real(mean));
    return STATUS_OK;
}

/* ---- segment
 * -------------------------------------------------------------------------------------
 */

static bool segment_fits(const json_t *fields)
{
    return has(fields, "masks");
}

static enum status segment_ask(const struct evaluation *evaluation, const struct row *row,
                               json_t *body, struct error *err)
{
    (void)evaluation;
    const json_t *masks = json_object_get(row->fields, "masks"), *each;
    json_t *prompts = json_array();
    size_t i;
    bool ok = json_array_size(masks) > 0;
    json_array_foreach(masks, i, each)
    {
        json_t *prompt = json_object_get(each, "prompt");
        ok = ok && json_is_string(prompt) && json_is_string(json_object_get(each, "mask"));
        json_array_append(prompts, ok ? prompt : json_null());
    }
    json_object_set_new(body, "prompts", prompts);
    return ok ? STATUS_OK : bad_row(err, "`masks`, a list of {prompt, mask: the name of a PNG}");
}

/* Which pixels are at least half: of a reply's data URL, or of a file. */
static enum status read_mask(const struct evaluation *evaluation, const char *of, bool is_file_name,
                             struct image *out, struct error *err)
{
    size_t max = evaluation->process->settings.max_body_mb << 20, size = 0, at;
    char path[8192], *bytes = NULL;
    enum status status = STATUS_OK;
    if (is_file_name) {
        path_of(evaluation, of, path);
        status = file_read(path, max, &bytes, &size, err);
    } else {
        of = strchr(of, ',') ? strchr(of, ',') + 1 : of;
        bytes = malloc(base64_decoded_max(strlen(of)) + 1);
        if (!bytes)
            return error_no_memory(err, "a mask");
        if (!base64_decode(of, strlen(of), (unsigned char *)bytes, &size, &at))
            status = error_set(err, STATUS_INTERNAL, "the reply's mask is broken");
    }
    if (!status)
        status =
            image_decode(bytes, size, evaluation->process->settings.max_pixels, NULL, out, err);
    free(bytes);
    return status;
}

static enum status mask_iou(const struct evaluation *evaluation, const json_t *reply,
                            const json_t *truth, double *out, struct error *err)
{
    struct image found = {0}, wanted = {0};
    const char *mask = json_string_value(json_object_get(reply, "mask"));
    enum status status = read_mask(evaluation, json_string_value(json_object_get(truth, "mask")),
                                   true, &wanted, err);
    if (!status)
        status = mask ? read_mask(evaluation, mask, false, &found, err)
                      : error_set(err, STATUS_UNPROCESSABLE, "the reply has no mask");
    if (!status && (found.width != wanted.width || found.height != wanted.height))
        status = error_set(err, STATUS_BAD_REQUEST,
                           "the true mask has %zu × %zu pixels, the picture %zu × %zu",
                           wanted.width, wanted.height, found.width, found.height);
    size_t both = 0, either = 0;
    for (size_t i = 0; !status && i < found.width * found.height; i++) {
        bool a = found.rgb[3 * i] >= 128, b = wanted.rgb[3 * i] >= 128;
        both += a && b;
        either += a || b;
    }
    image_release(&found);
    image_release(&wanted);
    *out = either ? (double)both / (double)either : 1;
    return status;
}

static enum status segment_score(const struct evaluation *evaluation, struct row *row,
                                 struct error *err)
{
    const json_t *truths = json_object_get(row->fields, "masks");
    const json_t *masks = json_object_get(row->reply, "masks");
    size_t n = json_array_size(truths);
    for (size_t i = 0; i < n; i++) {
        double iou;
        if (mask_iou(evaluation, json_array_get(masks, i), json_array_get(truths, i), &iou, err))
            return err->status;
        row->scores[0] += iou / (double)n;
    }
    return STATUS_OK;
}

/* ---- retrieve
 * ------------------------------------------------------------------------------------
 *
 * Every row's first caption looks for its picture among all of the set, and the other way round.
 */

static bool retrieve_fits(const json_t *fields)
{
    (void)fields; /* captions mean captioning unless --task says otherwise */
    return false;
}

static enum status embed(struct evaluation *evaluation, const json_t *inputs, float **vectors,
                         size_t *dim, struct error *err)
{
    json_t *body = json_object(), *reply = NULL;
    object_add_fields(body, evaluation->arguments);
    json_object_set(body, "input", (json_t *)inputs);
    enum status status = evaluation_call(evaluation, "/v1/embeddings", body, &reply, err);
    json_decref(body);
    const json_t *data = json_object_get(reply, "data"), *each;
    size_t i, k;
    json_array_foreach(data, i, each)
    {
        const json_t *vector = json_object_get(each, "embedding"), *number;
        if (!vector) {
            status = error_set(
                err, STATUS_UNPROCESSABLE, "%s",
                json_string_value(json_object_get(json_object_get(each, "error"), "message")));
            break;
        }
        if (!*vectors) {
            *dim = json_array_size(vector);
            *vectors = calloc(2 * evaluation->n_rows, *dim * sizeof **vectors);
            if (!*vectors) {
                status = error_no_memory(err, "the embeddings");
                break;
            }
        }
        size_t at = i;
        json_array_foreach(vector, k, number)(*vectors)[at * *dim + k] =
            (float)json_number_value(number);
    }
    if (!evaluation->rows[0].reply) /* its model is the report's */
        evaluation->rows[0].reply = json_pack("{s:O}", "model", json_object_get(reply, "model"));
    json_decref(reply);
    return status;
}

/* In how many rows the true partner is among the best 1, 5, 10 of the other side. */
static void recall(const float *queries, const float *keys, size_t n, size_t dim, double out[3])
{
    for (size_t q = 0; q < n; q++) {
        double truth = 0;
        size_t better = 0;
        for (size_t k = 0; k < n + 1; k++) {
            size_t row = k ? k - 1 : q; /* the true one first: the rest is compared with it */
            double product = 0;
            for (size_t d = 0; d < dim; d++)
                product += (double)queries[q * dim + d] * (double)keys[row * dim + d];
            if (k == 0)
                truth = product;
            else
                better += row != q && product > truth;
        }
        out[0] += (better < 1) / (double)n;
        out[1] += (better < 5) / (double)n;
        out[2] += (better < 10) / (double)n;
    }
}

static enum status retrieve_whole(struct evaluation *evaluation, json_t *figures, struct error *err)
{
    enum { AT_ONCE = 16 };
    static const char *const names[2][3] = {
        {"text to image R@1", "text to image R@5", "text to image R@10"},
        {"image to text R@1", "image to text R@5", "image to text R@10"}};
    size_t n = evaluation->n_rows, dim = 0;
    float *images = NULL, *texts = NULL;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && !status; i += AT_ONCE) {
        json_t *pictures = json_array(), *captions = json_array();
        for (size_t j = i; j < n && j < i + AT_ONCE && !status; j++) {
            json_t *picture = json_object();
            const json_t *caption = captions_of(&evaluation->rows[j]);
            status = evaluation_add_picture(evaluation, &evaluation->rows[j], picture, err);
            if (json_is_array(caption))
                caption = json_array_get(caption, 0);
            if (!status && !json_is_string(caption))
                status = bad_row(err, "`caption`, a string, or `captions`, a list of them");
            json_array_append_new(pictures, picture);
            json_array_append(captions, (json_t *)caption);
            if (status)
                error_prefix(err, "line %zu", evaluation->rows[j].line);
        }
        float *at = images ? images + i * dim : NULL;
        if (!status)
            status = embed(evaluation, pictures, &at, &dim, err);
        images = images ? images : at;
        at = texts ? texts + i * dim : NULL;
        if (!status)
            status = embed(evaluation, captions, &at, &dim, err);
        texts = texts ? texts : at;
        json_decref(pictures);
        json_decref(captions);
    }
    double found[2][3] = {0};
    if (!status) {
        recall(texts, images, n, dim, found[0]);
        recall(images, texts, n, dim, found[1]);
        for (size_t side = 0; side < 2; side++)
            for (size_t k = 0; k < 3; k++)
                json_object_set_new(figures, names[side][k], json_real(found[side][k]));
    }
    free(images);
    free(texts);
    return status;
}

/* ---- the table
 * -----------------------------------------------------------------------------------
 */

/* clang-format off */
static const struct eval_task tasks[] = {
    {"vqa", "/v1/vqa", {"accuracy"}, vqa_fits, vqa_ask, vqa_score, NULL},
    {"match", "/v1/match", {"accuracy"}, match_fits, match_ask, match_score, NULL},
    {"detect", "/v1/detect", {NULL}, detect_fits, detect_ask, detect_score, detect_whole},
    {"segment", "/v1/segment", {"mIoU"}, segment_fits, segment_ask, segment_score, NULL},
    {"classify", "/v1/classify", {"top-1", "top-5"}, classify_fits, classify_ask, classify_score, NULL},
    {"caption", "/v1/caption", {NULL}, caption_fits, caption_ask, caption_score, caption_whole},
    {"retrieve", "/v1/embeddings", {NULL}, retrieve_fits, NULL, NULL, retrieve_whole},
};
/* clang-format on */

const struct eval_task *eval_task_at(size_t i)
{
    return i < ARRAY_LENGTH(tasks) ? &tasks[i] : NULL;
}
