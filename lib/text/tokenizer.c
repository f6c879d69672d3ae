/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

struct orr_tokenizer *orr_tokenizer_open(const char *name)
{
    if (strcmp(name, orri_tokenizer_bytes.name) == 0)
        return orri_tokenizer_bytes_create();
    orri_remedy(orri_fail(ORR_EINVAL, "tokenizer", "there is none called \"%s\"", name), "this version has: %s",
                orri_tokenizer_bytes.name);
    return NULL;
}

void orr_tokenizer_destroy(struct orr_tokenizer *tokenizer)
{
    if (tokenizer && tokenizer->class->destroy)
        tokenizer->class->destroy(tokenizer);
    free(tokenizer);
}

const char *orr_tokenizer_name(const struct orr_tokenizer *tokenizer)
{
    return tokenizer->class->name;
}

int orr_tokenizer_vocab_size(const struct orr_tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

int orr_tokenizer_encode(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                         size_t *count)
{
    return tokenizer->class->encode(tokenizer, text, size, ids, count);
}

int orr_tokenizer_decode(const struct orr_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *size)
{
    return tokenizer->class->decode(tokenizer, ids, count, text, size);
}

/* ---- tokens with a meaning of their own ------------------------------------------------------------------- */

int32_t orr_tokenizer_special(const struct orr_tokenizer *tokenizer, enum orr_special special)
{
    return tokenizer->class->special ? tokenizer->class->special(tokenizer, special) : -1;
}

int32_t orr_tokenizer_id(const struct orr_tokenizer *tokenizer, const char *token)
{
    return tokenizer->class->id ? tokenizer->class->id(tokenizer, token) : -1;
}

const char *orr_tokenizer_token(const struct orr_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->class->token ? tokenizer->class->token(tokenizer, id) : NULL;
}

/* ---- whole inputs ------------------------------------------------------------------------------------------ */

void orr_encoding_free(struct orr_encoding *e)
{
    free(e->ids);
    free(e->types);
    free(e->words);
    *e = (struct orr_encoding){0};
}

/* Behind what there is: a piece of text, whose tokens are of a type and a word. */
static int append(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t type, int32_t word,
                  struct orr_encoding *e)
{
    int32_t *piece;
    size_t count;

    ORR_TRY(orr_tokenizer_encode(tokenizer, text, size, &piece, &count));
    size_t n = e->count + count, bytes = (n ? n : 1) * sizeof(*piece);
    int32_t *ids = realloc(e->ids, bytes);
    e->ids = ids ? ids : e->ids;
    int32_t *types = realloc(e->types, bytes);
    e->types = types ? types : e->types;
    int32_t *words = realloc(e->words, bytes);
    e->words = words ? words : e->words;
    if (!ids || !types || !words) {
        free(piece);
        return orri_fail(ORR_ENOMEM, "tokenizer", "no room for %zu ids", n);
    }
    for (size_t i = 0; i < count; i++) {
        ids[e->count + i] = piece[i];
        types[e->count + i] = type;
        words[e->count + i] = word;
    }
    e->count = n;
    free(piece);
    return ORR_OK;
}

int orr_tokenizer_encode_input(const struct orr_tokenizer *tokenizer, const char *first, size_t first_size, const char *second,
                               size_t second_size, struct orr_encoding *encoding)
{
    *encoding = (struct orr_encoding){0};
    int status = append(tokenizer, first, first_size, 0, -1, encoding);
    if (status == 0 && second)
        status = append(tokenizer, second, second_size, 1, -1, encoding);
    if (status != 0)
        orr_encoding_free(encoding);
    return status;
}

int orr_tokenizer_encode_words(const struct orr_tokenizer *tokenizer, const char *const *words, size_t count,
                               struct orr_encoding *encoding)
{
    int status = ORR_OK;

    *encoding = (struct orr_encoding){0};
    for (size_t w = 0; status == 0 && w < count; w++)
        status = append(tokenizer, words[w], strlen(words[w]), 0, (int32_t)w, encoding);
    if (status != 0)
        orr_encoding_free(encoding);
    return status;
}
