/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer small enough to write rows down by hand: the id of a byte is its value, '_' is nothing, and some characters are
 * special. */
#ifndef ORR_TEST_TINY_H
#define ORR_TEST_TINY_H

#include "text/text.h"

#include <stdlib.h>

static int tiny_encode(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count)
{
    (void)t;
    *ids = malloc(size * sizeof(**ids) + 1);
    *count = 0;
    for (size_t i = 0; i < size; i++)
        if (text[i] != '_')
            (*ids)[(*count)++] = (unsigned char)text[i];
    return 0;
}

static int32_t tiny_special(const struct orr_tokenizer *t, enum orr_special special)
{
    (void)t;
    return special == ORR_SPECIALS ? -1 : "?^$.<>#"[special];     /* in the order of the enumeration */
}

static const struct orri_tokenizer_class tiny_class = {.name = "tiny", .encode = tiny_encode, .special = tiny_special};
static const struct orr_tokenizer tiny = {.class = &tiny_class, .vocab_size = 256};

#endif
