/* SPDX-License-Identifier: Apache-2.0 */
/* What a kind of tokenizer is made of; lib/text/tokenizer.c lists the kinds. */
#ifndef ORRI_TEXT_H
#define ORRI_TEXT_H

#include <stdbool.h>

#include <orrery/tokenizer.h>

/* The functions do what their orr_tokenizer_ counterparts say. destroy frees what the struct points to, not the
 * struct; it may be NULL. */
struct orri_tokenizer_class {
    const char *name;
    bool ids_are_bytes;     /* text already is an array of 8-bit ids: nobody needs to encode it */
    int (*encode)(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count);
    int (*decode)(const struct orr_tokenizer *t, const int32_t *ids, size_t count, char **text, size_t *size);
    void (*destroy)(struct orr_tokenizer *t);
    /* NULL: it has no such tokens, or spells none. */
    int32_t (*special)(const struct orr_tokenizer *t, enum orr_special special);
    int32_t (*id)(const struct orr_tokenizer *t, const char *token);
    const char *(*token)(const struct orr_tokenizer *t, int32_t id);
};

/* The first member of a kind's own struct, where it has tables to keep. */
struct orr_tokenizer {
    const struct orri_tokenizer_class *class;
    int vocab_size;
};

extern const struct orri_tokenizer_class orri_tokenizer_bytes;
struct orr_tokenizer *orri_tokenizer_bytes_create(void);

#endif
