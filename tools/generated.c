/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/generated.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where in text[from .. size) the first of the stop strings begins; size: there is none. */
static size_t find_stop(const struct list *stops, const char *text, size_t from, size_t size)
{
    size_t found = size;

    for (int i = 0; i < stops->count; i++) {
        const char *at = memmem(text + from, size - from, stops->item[i], strlen(stops->item[i]));
        if (at && (size_t)(at - text) < found)
            found = (size_t)(at - text);
    }
    return found;
}

static size_t longest_stop(const struct list *stops)
{
    size_t longest = 0;

    for (int i = 0; i < stops->count; i++)
        longest = strlen(stops->item[i]) > longest ? strlen(stops->item[i]) : longest;
    return longest;
}

/* Bytes at the end of a text that a stop string may begin with. */
static size_t may_become_stop(const struct list *stops, const char *text, size_t size)
{
    size_t held = 0;

    for (int i = 0; i < stops->count; i++)
        for (size_t n = strlen(stops->item[i]) - 1; n > held; n--)
            if (n <= size && memcmp(text + size - n, stops->item[i], n) == 0)
                held = n;
    return held;
}

/* What the pending tokens add to the text of those before them: `more`, without which it is `size` bytes long. Ids that the tokenizer has no
 * token for give nothing. */
static int decode_pending(const struct generated *g, const struct orr_tokenizer *tokenizer, char **more, size_t *size)
{
    int32_t known[GENERATED_ALONG + GENERATED_PENDING];
    size_t before = 0, count = 0, skipped;
    char *text;

    for (int i = 0; i < g->along + g->pending; i++) {
        before = i == g->along ? count : before;
        if (g->last[i] < orr_tokenizer_vocab_size(tokenizer))
            known[count++] = g->last[i];
    }
    ORR_TRY(orr_tokenizer_decode(tokenizer, known, before, &text, &skipped));
    free(text);
    ORR_TRY(orr_tokenizer_decode(tokenizer, known, count, more, size));
    skipped = skipped < *size ? skipped : *size;
    memmove(*more, *more + skipped, *size - skipped + 1);
    *size -= skipped;
    return ORR_OK;
}

static void forget_pending(struct generated *g)
{
    int all = g->along + g->pending, first = all > GENERATED_ALONG ? all - GENERATED_ALONG : 0;

    memmove(g->last, g->last + first, (size_t)(all - first) * sizeof(*g->last));
    g->along = all - first;
    g->pending = 0;
}

/* Whether a text ends within a character, which more tokens may complete. */
static bool is_unfinished(const char *text, size_t size)
{
    return size >= 3 && memcmp(text + size - 3, "\xef\xbf\xbd", 3) == 0;
}

/* The bytes of the pending tokens, behind those that there are; unless `whatever`, only where they end with a character. */
static int take_pending(struct generated *g, const struct orr_tokenizer *tokenizer, bool whatever)
{
    char *more;
    size_t size;

    if (g->pending == 0)
        return ORR_OK;
    ORR_TRY(decode_pending(g, tokenizer, &more, &size));
    if (!whatever && g->pending < GENERATED_PENDING && is_unfinished(more, size)) {
        free(more);
        return ORR_OK;
    }
    char *text = realloc(g->text, g->size + size + 1);
    if (text) {
        memcpy(text + g->size, more, size);
        g->text = text;
        g->size += size;
    }
    free(more);
    forget_pending(g);
    return text ? ORR_OK : command_fail(ORR_ENOMEM, "generate: no room for the text");
}

void generated_begin(struct generated *g, const int32_t *tokens, size_t count)
{
    size_t first = count > GENERATED_ALONG ? count - GENERATED_ALONG : 0;

    g->along = (int)(count - first);
    memcpy(g->last, tokens + first, (count - first) * sizeof(*tokens));
}

static void stop(struct generated *g, const struct list *stops, size_t before)
{
    size_t overlap = longest_stop(stops), end = find_stop(stops, g->text, before > overlap ? before - overlap : 0, g->size);

    g->stopped = end < g->size;
    g->size = end;
}

int generated_add(struct generated *g, const struct orr_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                  const struct list *stops)
{
    for (size_t i = 0; i < count && !g->stopped; i++) {
        size_t before = g->size;
        g->last[g->along + g->pending++] = tokens[i];
        ORR_TRY(take_pending(g, tokenizer, false));
        stop(g, stops, before);
    }
    return ORR_OK;
}

int generated_end(struct generated *g, const struct orr_tokenizer *tokenizer, const struct list *stops)
{
    size_t before = g->size;

    if (g->stopped)
        return ORR_OK;
    ORR_TRY(take_pending(g, tokenizer, true));
    stop(g, stops, before);
    return ORR_OK;
}

void generated_print(struct generated *g, const struct list *stops, bool complete)
{
    size_t end = complete || g->stopped ? g->size : g->size - may_become_stop(stops, g->text, g->size);

    if (end > g->printed)
        fwrite(g->text + g->printed, 1, end - g->printed, stdout);
    g->printed = end;
}

void generated_free(struct generated *g)
{
    free(g->text);
    *g = (struct generated){0};
}
