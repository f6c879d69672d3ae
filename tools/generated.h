/* SPDX-License-Identifier: Apache-2.0 */
/* The text behind a prompt, as it grows: where it ends by a stop string, and what of it can be printed already. */
#ifndef TOOLS_GENERATED_H
#define TOOLS_GENERATED_H

#include "tools/tools.h"

/* A token's text may depend on those before it: the blank that begins a word, a character of several tokens. */
enum { GENERATED_ALONG = 6, GENERATED_PENDING = 5 };

struct generated {
    char *text;                 /* [size] malloc'ed                                          */
    size_t size, printed;
    bool stopped;               /* a stop string was found: the text ends before it          */
    int along, pending;
    int32_t last[GENERATED_ALONG + GENERATED_PENDING];  /* `along` tokens whose text is there, then `pending` ones that end within a
                                                           character */
};

/* What the tokens of the prompt are. */
void generated_begin(struct generated *g, const int32_t *tokens, size_t count);

/* What `count` further tokens add, up to the first of the stop strings. ORR_ENOMEM. */
int generated_add(struct generated *g, const struct orr_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                  const struct list *stops);

/* What is left of tokens that more of them might have completed. */
int generated_end(struct generated *g, const struct orr_tokenizer *tokenizer, const struct list *stops);

/* Prints what has not been printed: all of it where the text is complete, else but what may become a stop string. */
void generated_print(struct generated *g, const struct list *stops, bool complete);

void generated_free(struct generated *g);

#endif
