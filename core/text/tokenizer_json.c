/*
 * tokenizer_json.c: a whole tokenizer.json: the stages and the model (load_*.c), the added tokens
 * and the post-processor.
 *
 * Added tokens get their ids as the reference gives them: that of the vocabulary if the content is
 * there, else the next free one, whatever "id" says. Post-processors of one sequence come down to
 * ids put before and behind it, so that is all that is kept of them.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/text/text_internal.h"

enum { POST_IDS_MAX = 256 };

static bool no_memory(struct json_reader *r)
{
    error_no_memory(r->err, r->file);
    return false;
}

/* Flags as the reference's AddedToken has them when left out. */
static bool read_added(struct json_reader *r, const json_t *node, struct added_token *token)
{
    const char *where = "added_tokens";
    const json_t *id = json_object_get(node, "id");
    if (!json_is_object(node))
        return json_fault(r, where, "each must be an object");
    if (id && (!json_is_integer(id) || json_integer_value(id) < 0 ||
               json_integer_value(id) >= TOKENIZER_IDS_MAX))
        return json_fault(r, where, "'id' must be a whole number from 0 to %d",
                          TOKENIZER_IDS_MAX - 1);
    return json_get_string(r, node, where, "content", true, &token->content) &&
           json_get_bool(r, node, where, "single_word", 0, &token->single_word) &&
           json_get_bool(r, node, where, "lstrip", 0, &token->lstrip) &&
           json_get_bool(r, node, where, "rstrip", 0, &token->rstrip) &&
           json_get_bool(r, node, where, "special", 0, &token->special) &&
           json_get_bool(r, node, where, "normalized", !token->special, &token->normalized);
}

/* The id that the next content outside the vocabulary gets. */
static uint32_t next_added_id(const struct tokenizer *t)
{
    uint32_t next = (uint32_t)t->model.vocab.n_tokens;
    if (t->model.kind == MODEL_UNIGRAM)
        next = (uint32_t)t->model.vocab.n_ids;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= next)
            next = t->added[i].id + 1;
    return next;
}

static bool add_tokens(struct tokenizer *t, struct json_reader *r, const json_t *list, bool extra)
{
    uint32_t next = next_added_id(t);
    size_t n_before = SIZE_MAX; /* how many there were ahead of the first "only_if_new" */
    size_t i;
    json_t *node;
    json_array_foreach(list, i, node)
    {
        struct added_token token = {0};
        if (!read_added(r, node, &token))
            return false;
        struct str content = token.content;
        if (content.size == 0)
            continue;
        int64_t known = vocab_id(&t->added_vocab, content.data, content.size);
        if (extra && n_before == SIZE_MAX && json_is_true(json_object_get(node, "only_if_new")))
            n_before = t->n_added;
        if (known >= 0) {
            if (n_before != SIZE_MAX && (size_t)known < n_before)
                continue;
            struct added_token *old = &t->added[known];
            token.id = old->id;
            token.skipped = old->special || token.special;
            *old = token;
            continue;
        }
        int64_t id = vocab_id(&t->model.vocab, content.data, content.size);
        if (id < 0 && next >= TOKENIZER_IDS_MAX)
            return json_fault(r, "added_tokens", "there are too many");
        token.id = id >= 0 ? (uint32_t)id : next++;
        token.skipped = token.special;
        t->added[t->n_added] = token;
        vocab_put(&t->added_vocab, content, (uint32_t)t->n_added);
        t->n_added++;
    }
    return true;
}

/* Two different contents must not claim one id. */
static bool check_added_ids(struct json_reader *r, const json_t *list)
{
    size_t n = json_array_size(list), i;
    unsigned char *seen = calloc(TOKENIZER_IDS_MAX / 8, 1);
    json_t *node;
    bool ok = seen != NULL || no_memory(r);
    if (ok && n)
        json_array_foreach(list, i, node)
        {
            json_int_t id = json_integer_value(json_object_get(node, "id"));
            if (!json_object_get(node, "id") || id < 0 || id >= TOKENIZER_IDS_MAX)
                continue; /* read_added() says so */
            if (seen[id / 8] >> (id % 8) & 1) {
                ok = json_fault(r, "added_tokens", "the id %d is given twice", (int)id);
                break;
            }
            seen[id / 8] |= (unsigned char)(1 << (id % 8));
        }
    free(seen);
    return ok;
}

/* What each token is matched as and decoded from, and the indexes to find them by. */
static bool index_added(struct tokenizer *t, struct json_reader *r)
{
    struct prefix_entry *raw = arena_array(r->arena, t->n_added, sizeof *raw);
    struct prefix_entry *normalized = arena_array(r->arena, t->n_added, sizeof *normalized);
    if (!raw || !normalized)
        return no_memory(r);
    struct buffer text, spare;
    buffer_init(&text, TOKENIZER_WORK_BYTES_MAX);
    buffer_init(&spare, TOKENIZER_WORK_BYTES_MAX);
    size_t n_raw = 0, n_normalized = 0;
    bool ok = true;
    for (size_t i = 0; i < t->n_added && ok; i++) {
        struct added_token *token = &t->added[i];
        token->shown = token->content;
        if (token->normalized && t->n_normalizers) {
            bool first = true;
            ok = !normalize(t, token->content.data, token->content.size, &text, &spare, &first,
                            r->err);
            if (!ok)
                break;
            char *copy = arena_string(r->arena, text.data ? text.data : "", text.size);
            if (!copy) {
                ok = no_memory(r);
                break;
            }
            token->shown = (struct str){copy, text.size};
        }
        struct prefix_entry entry = {token->shown, (uint32_t)i};
        if (token->normalized)
            normalized[n_normalized++] = entry;
        else
            raw[n_raw++] = entry;
        if (token->id >= t->added_ids_end)
            t->added_ids_end = token->id + 1;
    }
    buffer_release(&text);
    buffer_release(&spare);
    if (!ok)
        return false;
    prefix_index_init(&t->raw_index, raw, n_raw);
    prefix_index_init(&t->normalized_index, normalized, n_normalized);
    t->added_by_id = arena_zalloc(r->arena, t->added_ids_end, sizeof *t->added_by_id);
    if (!t->added_by_id)
        return no_memory(r);
    for (size_t i = 0; i < t->n_added; i++) {
        t->added_by_id[t->added[i].id] = (uint32_t)i + 1;
        /* Decoding skips by the shown string. */
        struct str shown = t->added[i].shown, content = t->added[i].content;
        if (!str_is(shown, content.data, content.size)) {
            int64_t other = vocab_id(&t->added_vocab, shown.data, shown.size);
            t->added[i].skipped = other >= 0 && t->added[other].special;
        }
    }
    return true;
}

static bool load_added(struct tokenizer *t, struct json_reader *r, const json_t *list,
                       const json_t *extra)
{
    if (list && !json_is_null(list) && !json_is_array(list))
        return json_fault(r, "added_tokens", "must be a list");
    size_t n = json_array_size(list) + json_array_size(extra);
    if (n > TOKENIZER_IDS_MAX)
        return json_fault(r, "added_tokens", "there are too many");
    t->added = arena_zalloc(r->arena, n, sizeof *t->added);
    if (!t->added || !vocab_init(&t->added_vocab, r->arena, n, n))
        return no_memory(r);
    return check_added_ids(r, list) && add_tokens(t, r, list, false) &&
           add_tokens(t, r, extra, true) && index_added(t, r);
}

/* ---- the post-processor ---- */

struct post {
    int32_t before[POST_IDS_MAX], after[POST_IDS_MAX]; /* `before` is kept last first */
    size_t n_before, n_after;
};

static bool put_id(struct tokenizer *t, struct json_reader *r, const json_t *id, int32_t *ids,
                   size_t *n)
{
    json_int_t value = json_integer_value(id);
    bool known = json_is_integer(id) && value >= 0 && value < TOKENIZER_IDS_MAX &&
                 (((size_t)value < t->model.vocab.n_ids && t->model.vocab.by_id[value].data) ||
                  ((size_t)value < t->added_ids_end && t->added_by_id[value]));
    if (!known)
        return json_fault(r, "post_processor", "a special token's id is not in the vocabulary");
    if (*n == POST_IDS_MAX)
        return json_fault(r, "post_processor", "adds more than %d tokens", POST_IDS_MAX);
    ids[(*n)++] = (int32_t)value;
    return true;
}

/* TemplateProcessing: a list of {"Sequence": …} and {"SpecialToken": {"id": name}}. */
static bool load_template(struct tokenizer *t, struct json_reader *r, const json_t *node,
                          struct post *post)
{
    const char *where = "post_processor TemplateProcessing";
    const json_t *single = json_object_get(node, "single");
    const json_t *specials = json_object_get(node, "special_tokens");
    if (!json_is_array(single))
        return json_fault(r, where, "'single' must be a list");
    bool seen = false;
    int32_t before[POST_IDS_MAX];
    size_t n_before = 0, i;
    json_t *piece;
    json_array_foreach(single, i, piece)
    {
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *name =
            json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (sequence) {
            const char *which = json_string_value(json_object_get(sequence, "id"));
            if (seen || !which || strcmp(which, "A") != 0)
                return json_fault(r, where, "'single' must have sequence A once");
            seen = true;
            continue;
        }
        const json_t *ids = json_object_get(name ? json_object_get(specials, name) : NULL, "ids");
        if (!json_is_array(ids))
            return json_fault(r, where, "'single' has a special token without 'ids'");
        size_t k;
        json_t *id;
        json_array_foreach(ids, k,
                           id) if (!(seen ? put_id(t, r, id, post->after, &post->n_after)
                                          : put_id(t, r, id, before, &n_before))) return false;
    }
    if (!seen)
        return json_fault(r, where, "'single' must have sequence A once");
    while (n_before) {
        if (post->n_before == POST_IDS_MAX)
            return json_fault(r, where, "adds more than %d tokens", POST_IDS_MAX);
        post->before[post->n_before++] = before[--n_before];
    }
    return true;
}

static bool load_post(struct tokenizer *t, struct json_reader *r, const json_t *node, int nesting,
                      struct post *post)
{
    const char *type = json_get_type(r, node, "post_processor");
    if (!type)
        return false;
    if (strcmp(type, "ByteLevel") == 0)
        return true; /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(t, r, node, post);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        const json_t *cls = json_object_get(node, "cls"), *sep = json_object_get(node, "sep");
        return put_id(t, r, json_array_get(cls, 1), post->before, &post->n_before) &&
               put_id(t, r, json_array_get(sep, 1), post->after, &post->n_after);
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(node, "processors");
        if (!json_is_array(list) || nesting >= TOKENIZER_NESTING_MAX)
            return json_fault(r, "post_processor Sequence",
                              "'processors' must be a list, at most %d deep",
                              TOKENIZER_NESTING_MAX);
        size_t i;
        json_t *item;
        json_array_foreach(list, i,
                           item) if (!load_post(t, r, item, nesting + 1, post)) return false;
        return true;
    }
    return json_fault(r, "post_processor", "type '%s' is not supported", type);
}

static bool keep_post(struct tokenizer *t, struct json_reader *r, const struct post *post)
{
    t->prefix_ids = arena_array(r->arena, post->n_before, sizeof *t->prefix_ids);
    t->suffix_ids = arena_array(r->arena, post->n_after, sizeof *t->suffix_ids);
    if (!t->prefix_ids || !t->suffix_ids)
        return no_memory(r);
    for (size_t i = 0; i < post->n_before; i++)
        t->prefix_ids[i] = post->before[post->n_before - 1 - i];
    memcpy(t->suffix_ids, post->after, post->n_after * sizeof *t->suffix_ids);
    t->n_prefix_ids = post->n_before;
    t->n_suffix_ids = post->n_after;
    return true;
}

static bool present(const json_t *node)
{
    return node && !json_is_null(node);
}

enum status tokenizer_load_json(struct tokenizer *t, const json_t *root, const json_t *extra,
                                const char *file, struct error *err)
{
    struct json_reader reader = {&t->arena, file, err}, *r = &reader;
    if (!json_is_object(root))
        return error_set(err, STATUS_BAD_CHECKPOINT, "%s: must be an object", file);
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
    const json_t *post_processor = json_object_get(root, "post_processor");
    const json_t *decoder = json_object_get(root, "decoder");
    struct post post = {.n_before = 0};
    t->has_decoder = present(decoder);
    bool ok = load_model(t, r, json_object_get(root, "model")) &&
              (!present(normalizer) || load_normalizer(t, r, normalizer, 0)) &&
              (!present(pre_tokenizer) || load_pretokenizer(t, r, pre_tokenizer, 0)) &&
              (!present(decoder) || load_decoder(t, r, decoder, 0)) &&
              load_added(t, r, json_object_get(root, "added_tokens"), extra) &&
              (!present(post_processor) || load_post(t, r, post_processor, 0, &post)) &&
              keep_post(t, r, &post);
    return ok ? STATUS_OK : err->status;
}
