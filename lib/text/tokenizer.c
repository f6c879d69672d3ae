/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

struct orr_tokenizer *orr_tokenizer_create(const char *name)
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
