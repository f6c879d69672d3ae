/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of texts: n-grams of words (BLEU) or characters (chrF) that a hypothesis and its reference share. */
#include <orrery/scores.h>

#include "core/core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLEU_ORDER = 4, CHRF_ORDER = 6 };

/* ---- characters ------------------------------------------------------------------------------------ */

/* Decodes the character of UTF-8 (RFC 3629) at a text that ends in a zero byte: its size in bytes. A byte that begins none is one by
 * itself, of a value above Unicode's. */
static size_t decode(const char *text, uint32_t *character)
{
    const unsigned char *p = (const unsigned char *)text;
    const size_t size = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    uint32_t c = size > 1 ? p[0] & (0x7fu >> size) : p[0];

    for (size_t i = 1; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *character = 0x110000u + p[0];
            return 1;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    const bool bad = size == 0 || (size == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) ||
                     (size == 4 && (c < 0x10000 || c > 0x10ffff));
    *character = bad ? 0x110000u + p[0] : c;
    return bad ? 1 : size;
}

/* White space as Unicode has it, and the separators of ASCII. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- n-grams --------------------------------------------------------------------------------------- */

/* Words or characters, as numbers. */
struct symbols {
    uint32_t *at;
    int64_t count;
};

struct gram {
    const uint32_t *at;
    int n;
};

static int by_symbols(const void *a, const void *b)
{
    const struct gram *x = a, *y = b;

    for (int i = 0; i < x->n; i++)
        if (x->at[i] != y->at[i])
            return x->at[i] < y->at[i] ? -1 : 1;
    return 0;
}

/* The n-grams of the symbols, sorted: returns how many. */
static int64_t sorted_grams(const struct symbols *s, int n, struct gram *grams)
{
    const int64_t count = s->count >= n ? s->count - n + 1 : 0;

    for (int64_t i = 0; i < count; i++)
        grams[i] = (struct gram){s->at + i, n};
    qsort(grams, (size_t)count, sizeof(*grams), by_symbols);
    return count;
}

/* How many of both are equal, each used once. */
static int64_t common(const struct gram *a, int64_t a_count, const struct gram *b, int64_t b_count)
{
    int64_t i = 0, k = 0, equal = 0;

    while (i < a_count && k < b_count) {
        int sign = by_symbols(&a[i], &b[k]);
        equal += sign == 0;
        i += sign <= 0;
        k += sign >= 0;
    }
    return equal;
}

/* n-grams of the hypothesis, of the reference, and of both. */
struct grams {
    int64_t hypothesis, reference, common;
};

/* Adds those of 1 ... orders symbols to sums[orders]. */
static int add_grams(const struct symbols *hypothesis, const struct symbols *reference, int orders, struct grams *sums)
{
    struct gram *a = orri_alloc((size_t)(hypothesis->count + reference->count + 1) * sizeof(*a));

    if (!a)
        return ORR_ENOMEM;
    struct gram *b = a + hypothesis->count;
    for (int n = 1; n <= orders; n++) {
        const int64_t x = sorted_grams(hypothesis, n, a), y = sorted_grams(reference, n, b);
        sums[n - 1].hypothesis += x;
        sums[n - 1].reference += y;
        sums[n - 1].common += common(a, x, b, y);
    }
    free(a);
    return 0;
}

static int check(int64_t count)
{
    return count < 1 ? orri_fail(ORR_EINVAL, "scores", "%lld texts", (long long)count) : 0;
}

/* ---- words: the tokenizer of mteval-v13a ----------------------------------------------------------- */

/* Replaces all of one string by another that is no longer. */
static void replace(char *text, const char *from, const char *to)
{
    const size_t m = strlen(from), n = strlen(to);
    char *out = text;

    for (const char *in = text; *in;) {
        if (strncmp(in, from, m) == 0) {
            out = (char *)memcpy(out, to, n) + n;
            in += m;
        } else {
            *out++ = *in++;
        }
    }
    *out = '\0';
}

/* Ends a text behind its last character that is no white space. */
static void strip_end(char *text)
{
    size_t end = 0;
    uint32_t c;

    for (size_t at = 0; text[at];) {
        at += decode(text + at, &c);
        if (!is_space(c))
            end = at;
    }
    text[end] = '\0';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_mark(char c)
{
    return c == '.' || c == ',';
}

/* Punctuation and symbols of ASCII but ' - . and , */
static bool is_symbol(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
           (c >= ':' && c <= '@') || c == '/';
}

/* Each of the following writes a text to `out` with blanks put in, at most three characters for one. */
static void part_symbols(const char *in, char *out)
{
    for (; *in; in++) {
        if (is_symbol(*in)) {
            *out++ = ' ';
            *out++ = *in;
            *out++ = ' ';
        } else {
            *out++ = *in;
        }
    }
    *out = '\0';
}

/* "x." becomes "x . ", unless x is a digit. */
static void part_mark_behind(const char *in, char *out)
{
    while (*in) {
        const bool parted = !is_digit(in[0]) && is_mark(in[1]);
        *out++ = *in++;
        if (parted) {
            *out++ = ' ';
            *out++ = *in++;
            *out++ = ' ';
        }
    }
    *out = '\0';
}

/* ".x" becomes " . x", unless x is a digit. */
static void part_mark_before(const char *in, char *out)
{
    while (*in) {
        const bool parted = is_mark(in[0]) && in[1] && !is_digit(in[1]);
        if (parted)
            *out++ = ' ';
        *out++ = *in++;
        if (parted) {
            *out++ = ' ';
            *out++ = *in++;
        }
    }
    *out = '\0';
}

/* "1-" becomes "1 - ". */
static void part_dash(const char *in, char *out)
{
    while (*in) {
        const bool parted = is_digit(in[0]) && in[1] == '-';
        *out++ = *in++;
        if (parted) {
            *out++ = ' ';
            *out++ = *in++;
            *out++ = ' ';
        }
    }
    *out = '\0';
}

/* The text with blanks between its words: malloc'ed. */
static char *part_words(const char *text)
{
    enum { GROWTH = 3 * 2 * 2 * 2 };    /* a character becomes three, then two become four, four and four */
    char *a = orri_alloc(GROWTH * (strlen(text) + 3)), *b = orri_alloc(GROWTH * (strlen(text) + 3));

    if (!a || !b) {
        free(a);
        free(b);
        return NULL;
    }
    strcpy(a, text);
    strip_end(a);
    replace(a, "<skipped>", "");
    replace(a, "-\n", "");
    replace(a, "\n", " ");
    replace(a, "&quot;", "\"");
    replace(a, "&amp;", "&");
    replace(a, "&lt;", "<");
    replace(a, "&gt;", ">");
    b[0] = ' ';
    strcat(strcpy(b + 1, a), " ");
    part_symbols(b, a);
    part_mark_behind(a, b);
    part_mark_before(b, a);
    part_dash(a, b);
    free(a);
    return b;
}

struct word {
    const char *at;
    size_t size;
    uint32_t *number;       /* where its number goes */
};

/* Finds the words between white space: words[], if not NULL. Returns how many. */
static int64_t split_words(const char *text, struct word *words)
{
    int64_t count = 0;
    const char *begin = NULL;
    uint32_t c;

    for (;; ) {
        const size_t size = decode(text, &c);
        const bool gap = *text == '\0' || is_space(c);
        if (!gap && !begin)
            begin = text;
        if (gap && begin) {
            if (words)
                words[count] = (struct word){begin, (size_t)(text - begin), NULL};
            count++;
            begin = NULL;
        }
        if (*text == '\0')
            return count;
        text += size;
    }
}

static int by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int sign = memcmp(x->at, y->at, x->size < y->size ? x->size : y->size);

    return sign ? sign : (x->size > y->size) - (x->size < y->size);
}

/* Gives equal words of both texts one number. words[count] and numbers[count] have room for them. */
static void number_words(const char *hypothesis, const char *reference, struct word *words, uint32_t *numbers)
{
    const int64_t first = split_words(hypothesis, words), count = first + split_words(reference, words + first);
    uint32_t number = 0;

    for (int64_t i = 0; i < count; i++)
        words[i].number = &numbers[i];
    qsort(words, (size_t)count, sizeof(*words), by_bytes);
    for (int64_t i = 0; i < count; i++) {
        number += i > 0 && by_bytes(&words[i - 1], &words[i]) != 0;
        *words[i].number = number;
    }
}

/* ---- BLEU ------------------------------------------------------------------------------------------ */

/* Adds the n-grams of a segment whose words are parted. */
static int add_parted(const char *hypothesis, const char *reference, struct grams *sums, struct orr_bleu *bleu)
{
    const int64_t x = split_words(hypothesis, NULL), y = split_words(reference, NULL);
    struct word *words = orri_calloc((size_t)(x + y + 1), sizeof(*words));
    uint32_t *numbers = orri_calloc((size_t)(x + y + 1), sizeof(*numbers));
    int rc = ORR_ENOMEM;

    if (words && numbers) {
        number_words(hypothesis, reference, words, numbers);
        rc = add_grams(&(struct symbols){numbers, x}, &(struct symbols){numbers + x, y}, BLEU_ORDER, sums);
    }
    bleu->words += x;
    bleu->reference_words += y;
    free(words);
    free(numbers);
    return rc;
}

static int add_segment(const char *hypothesis, const char *reference, struct grams *sums, struct orr_bleu *bleu)
{
    char *a = part_words(hypothesis), *b = part_words(reference);
    int rc = a && b ? add_parted(a, b, sums, bleu) : ORR_ENOMEM;

    free(a);
    free(b);
    return rc;
}

/* The precisions, and the sum of their logarithms; -INFINITY where one is 0. */
static double smooth(const struct grams *sums, struct orr_bleu *bleu)
{
    double logs = 0, halves = 1;

    for (int n = 0; n < BLEU_ORDER; n++) {
        if (sums[n].hypothesis == 0)
            return -INFINITY;
        if (sums[n].common == 0)
            halves *= 2;
        bleu->precision[n] = sums[n].common ? 100 * (double)sums[n].common / (double)sums[n].hypothesis
                                            : 100 / (halves * (double)sums[n].hypothesis);
        logs += log(bleu->precision[n]);
    }
    return logs;
}

int orr_score_bleu(const char *const *hypotheses, const char *const *references, int64_t count, struct orr_bleu *bleu)
{
    struct grams sums[BLEU_ORDER] = {0};
    int64_t any = 0;

    *bleu = (struct orr_bleu){.brevity = 1};
    ORR_TRY(check(count));
    for (int64_t i = 0; i < count; i++)
        ORR_TRY(add_segment(hypotheses[i], references[i], sums, bleu));
    if (bleu->words < bleu->reference_words)
        bleu->brevity = bleu->words ? exp(1 - (double)bleu->reference_words / (double)bleu->words) : 0;
    for (int n = 0; n < BLEU_ORDER; n++)
        any += sums[n].common;
    if (any)
        bleu->score = bleu->brevity * exp(smooth(sums, bleu) / BLEU_ORDER);
    return 0;
}

/* ---- chrF ------------------------------------------------------------------------------------------ */

/* The characters that are no white space: s->at is malloc'ed. */
static int characters(const char *text, struct symbols *s)
{
    s->count = 0;
    s->at = orri_alloc((strlen(text) + 1) * sizeof(*s->at));
    if (!s->at)
        return ORR_ENOMEM;
    while (*text) {
        uint32_t c;
        text += decode(text, &c);
        if (!is_space(c))
            s->at[s->count++] = c;
    }
    return 0;
}

static int add_characters(const char *hypothesis, const char *reference, struct grams *sums)
{
    struct symbols a = {0}, b = {0};
    struct grams grams[CHRF_ORDER] = {0};
    int rc = characters(hypothesis, &a);

    if (rc == 0)
        rc = characters(reference, &b);
    if (rc == 0)
        rc = add_grams(&a, &b, CHRF_ORDER, grams);
    for (int n = 0; n < CHRF_ORDER; n++) {
        sums[n].hypothesis += grams[n].reference ? grams[n].hypothesis : 0;     /* sacreBLEU counts no others */
        sums[n].reference += grams[n].reference;
        sums[n].common += grams[n].common;
    }
    free(a.at);
    free(b.at);
    return rc;
}

int orr_score_chrf(const char *const *hypotheses, const char *const *references, int64_t count, double *score)
{
    struct grams sums[CHRF_ORDER] = {0};
    double precision = 0, recall = 0, orders = 0;

    ORR_TRY(check(count));
    for (int64_t i = 0; i < count; i++)
        ORR_TRY(add_characters(hypotheses[i], references[i], sums));
    for (int n = 0; n < CHRF_ORDER; n++) {
        if (sums[n].hypothesis == 0 || sums[n].reference == 0)
            continue;
        precision += (double)sums[n].common / (double)sums[n].hypothesis;
        recall += (double)sums[n].common / (double)sums[n].reference;
        orders++;
    }
    *score = precision + recall > 0 ? 100 * 5 * precision * recall / (4 * precision + recall) / orders : 0;
    return 0;
}

/* ---- equal texts ----------------------------------------------------------------------------------- */

int orr_score_exact(const char *const *hypotheses, const char *const *references, int64_t count, double *score)
{
    int64_t equal = 0;

    ORR_TRY(check(count));
    for (int64_t i = 0; i < count; i++)
        equal += strcmp(hypotheses[i], references[i]) == 0;
    *score = (double)equal / (double)count;
    return 0;
}
