/* SPDX-License-Identifier: Apache-2.0 */
/* The text behind a prompt, as it grows: where it ends by a stop string, and what of it can be printed already. */
#ifndef TOOLS_GENERATED_H
#define TOOLS_GENERATED_H

#include "tools/tools.h"

struct generated {
    char *text;                 /* [size] malloc'ed                                          */
    size_t size, printed;
    bool stopped;               /* a stop string was found: the text ends before it          */
};

/* What `count` further tokens add, up to the first of the stop strings. ORR_ENOMEM. */
int generated_add(struct generated *g, const struct orr_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                  const struct list *stops);

/* Prints what has not been printed: all of it where the text is complete, else but what may become a stop string. */
void generated_print(struct generated *g, const struct list *stops, bool complete);

void generated_free(struct generated *g);

#endif
