/*
 * captions.c: CIDEr-D and BLEU-4; see eval.h.
 *
 * A text becomes its n-grams, each a 64-bit hash in one sorted list per n with counts; everything
 * after that is merging of sorted lists.
 */
#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/eval/eval.h"

enum { ORDERS = 4 };

struct gram {
    uint64_t hash;
    double count;
};

struct grams {
    struct gram *list[ORDERS]; /* sorted by hash, one each */
    size_t n[ORDERS];
    size_t n_words;
};

static void grams_release(struct grams *grams)
{
    for (size_t k = 0; k < ORDERS; k++)
        free(grams->list[k]);
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = ((const struct gram *)a)->hash, y = ((const struct gram *)b)->hash;
    return (x > y) - (x < y);
}

/* Equal neighbours of a sorted list become one, their counts added. */
static size_t merge_equal(struct gram *list, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept && list[kept - 1].hash == list[i].hash)
            list[kept - 1].count += list[i].count;
        else
            list[kept++] = list[i];
    return kept;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static bool grams_of(const char *text, struct grams *out)
{
    size_t length = strlen(text), n = 0;
    *out = (struct grams){0};
    uint64_t *words = malloc((length / 2 + 1) * sizeof *words);
    if (!words)
        return false;
    for (size_t i = 0; i < length;) {
        uint64_t hash = 1469598103934665603u;
        size_t start = i;
        for (; i < length; i++) {
            unsigned char c = (unsigned char)text[i];
            if (c < 0x80 && !isalnum(c) && c != '\'')
                break;
            hash = (hash ^ (uint64_t)tolower(c)) * 1099511628211u; /* FNV-1a */
        }
        if (i > start)
            words[n++] = hash;
        else
            i++;
    }
    out->n_words = n;
    bool ok = true;
    for (size_t k = 0; k < ORDERS && ok; k++) {
        size_t count = n > k ? n - k : 0;
        struct gram *list = malloc((count + 1) * sizeof *list);
        out->list[k] = list;
        ok = list != NULL;
        for (size_t i = 0; i < count && ok; i++) {
            uint64_t hash = k + 1;
            for (size_t j = 0; j <= k; j++)
                hash = mix(hash, words[i + j]);
            list[i] = (struct gram){.hash = hash, .count = 1};
        }
        if (ok) {
            qsort(list, count, sizeof *list, by_hash);
            out->n[k] = merge_equal(list, count);
        }
    }
    free(words);
    if (!ok)
        grams_release(out);
    return ok;
}

/* All texts of a set: the candidate's grams first, then its references'. */
struct set {
    struct grams *texts;
    size_t *first; /* of each caption's texts; [n] = how many there are */
};

static void set_release(struct set *set, size_t n)
{
    for (size_t i = 0; set->first && set->texts && i < set->first[n]; i++)
        grams_release(&set->texts[i]);
    free(set->texts);
    free(set->first);
}

static bool set_open(struct set *out, const struct captioned *captions, size_t n)
{
    size_t total = 0;
    *out = (struct set){.first = malloc((n + 1) * sizeof *out->first)};
    if (!out->first)
        return false;
    for (size_t i = 0; i < n; i++) {
        out->first[i] = total;
        total += 1 + captions[i].n_references;
    }
    out->first[n] = 0;
    out->texts = calloc(total + 1, sizeof *out->texts);
    bool ok = out->texts != NULL;
    for (size_t i = 0, at = 0; i < n && ok; i++)
        for (size_t r = 0; r <= captions[i].n_references && ok; r++) {
            ok = grams_of(r ? captions[i].references[r - 1] : captions[i].candidate,
                          &out->texts[at++]);
            out->first[n] = at; /* so many are to be released */
        }
    if (!ok)
        set_release(out, n);
    return ok;
}

static const struct gram *find(const struct gram *list, size_t n, uint64_t hash)
{
    struct gram key = {.hash = hash};
    return bsearch(&key, list, n, sizeof key, by_hash);
}

/* ---- CIDEr-D ------------------------------------------------------------------------------------
 */

/* In how many captions' references each gram of order k stands: a sorted list. */
static struct gram *document_counts(const struct set *set, size_t n, size_t k, size_t *n_out)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t t = set->first[i] + 1; t < set->first[i + 1]; t++)
            total += set->texts[t].n[k];
    struct gram *counts = malloc((total + 1) * sizeof *counts);
    for (size_t i = 0; i < n && counts; i++) {
        size_t start = at;
        for (size_t t = set->first[i] + 1; t < set->first[i + 1]; t++) {
            if (set->texts[t].n[k])
                memcpy(counts + at, set->texts[t].list[k], set->texts[t].n[k] * sizeof *counts);
            at += set->texts[t].n[k];
        }
        qsort(counts + start, at - start, sizeof *counts, by_hash);
        at = start + merge_equal(counts + start, at - start);
        for (size_t j = start; j < at; j++)
            counts[j].count = 1;
    }
    if (counts) {
        qsort(counts, at, sizeof *counts, by_hash);
        at = merge_equal(counts, at);
    }
    *n_out = at;
    return counts;
}

static double weight(const struct gram *gram, const struct gram *documents, size_t n_documents,
                     double log_n)
{
    const struct gram *seen = find(documents, n_documents, gram->hash);
    return gram->count * (log_n - (seen ? log(seen->count) : 0));
}

/* The clipped cosine of a candidate and a reference for one order. */
static double similarity(const struct grams *a, const struct grams *b, size_t k,
                         const struct gram *documents, size_t n_documents, double log_n)
{
    double product = 0, norm_a = 0, norm_b = 0;
    for (size_t i = 0; i < a->n[k]; i++) {
        double mine = weight(&a->list[k][i], documents, n_documents, log_n);
        const struct gram *other = find(b->list[k], b->n[k], a->list[k][i].hash);
        double theirs = other ? weight(other, documents, n_documents, log_n) : 0;
        product += fmin(mine, theirs) * theirs;
        norm_a += mine * mine;
    }
    for (size_t i = 0; i < b->n[k]; i++) {
        double theirs = weight(&b->list[k][i], documents, n_documents, log_n);
        norm_b += theirs * theirs;
    }
    double gap = (double)a->n_words - (double)b->n_words;
    return norm_a > 0 && norm_b > 0
               ? product / sqrt(norm_a * norm_b) * exp(-gap * gap / (2 * 6.0 * 6.0))
               : 0;
}

double captions_cider(const struct captioned *captions, size_t n)
{
    struct set set;
    if (n == 0)
        return 0;
    if (!set_open(&set, captions, n))
        return -1;
    double sum = 0, log_n = log((double)n);
    bool ok = true;
    for (size_t k = 0; k < ORDERS && ok; k++) {
        size_t n_documents;
        struct gram *documents = document_counts(&set, n, k, &n_documents);
        ok = documents != NULL;
        for (size_t i = 0; i < n && ok; i++)
            for (size_t t = set.first[i] + 1; t < set.first[i + 1]; t++)
                sum += similarity(&set.texts[set.first[i]], &set.texts[t], k, documents,
                                  n_documents, log_n) /
                       (double)captions[i].n_references;
        free(documents);
    }
    set_release(&set, n);
    return ok ? 10 * sum / ORDERS / (double)n : -1;
}

/* ---- BLEU-4 -------------------------------------------------------------------------------------
 */

double captions_bleu(const struct captioned *captions, size_t n)
{
    struct set set;
    if (n == 0)
        return 0;
    if (!set_open(&set, captions, n))
        return -1;
    double matched[ORDERS] = {0}, total[ORDERS] = {0}, length = 0, nearest_length = 0;
    for (size_t i = 0; i < n; i++) {
        const struct grams *mine = &set.texts[set.first[i]];
        size_t nearest = 0;
        for (size_t t = set.first[i] + 1; t < set.first[i + 1]; t++) {
            size_t words = set.texts[t].n_words;
            size_t gap = words > mine->n_words ? words - mine->n_words : mine->n_words - words;
            size_t best =
                nearest > mine->n_words ? nearest - mine->n_words : mine->n_words - nearest;
            if (t == set.first[i] + 1 || gap < best || (gap == best && words < nearest))
                nearest = words;
        }
        length += (double)mine->n_words;
        nearest_length += (double)nearest;
        for (size_t k = 0; k < ORDERS; k++)
            for (size_t g = 0; g < mine->n[k]; g++) {
                double most = 0;
                for (size_t t = set.first[i] + 1; t < set.first[i + 1]; t++) {
                    const struct gram *other =
                        find(set.texts[t].list[k], set.texts[t].n[k], mine->list[k][g].hash);
                    most = fmax(most, other ? other->count : 0);
                }
                matched[k] += fmin(most, mine->list[k][g].count);
                total[k] += mine->list[k][g].count;
            }
    }
    set_release(&set, n);
    double sum = 0;
    for (size_t k = 0; k < ORDERS; k++) {
        if (matched[k] == 0)
            return 0;
        sum += log(matched[k] / total[k]) / ORDERS;
    }
    return exp(sum + fmin(0, 1 - nearest_length / length));
}
