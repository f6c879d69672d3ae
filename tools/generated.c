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

/* The bytes of further tokens, behind those that there are. */
static int decode_more(struct generated *g, const struct orr_tokenizer *tokenizer, const int32_t *tokens, size_t count)
{
    char *more;
    size_t size;

    ORR_TRY(orr_tokenizer_decode(tokenizer, tokens, count, &more, &size));
    char *text = realloc(g->text, g->size + size + 1);
    if (text) {
        memcpy(text + g->size, more, size);
        g->text = text;
        g->size += size;
    }
    free(more);
    return text ? ORR_OK : command_fail(ORR_ENOMEM, "generate: no room for the text");
}

int generated_add(struct generated *g, const struct orr_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                  const struct list *stops)
{
    size_t overlap = longest_stop(stops), before = g->size;

    ORR_TRY(decode_more(g, tokenizer, tokens, count));
    size_t end = find_stop(stops, g->text, before > overlap ? before - overlap : 0, g->size);
    g->stopped = end < g->size;
    g->size = end;
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
