/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer without a vocabulary file: the id of a byte is its value. */
#include "core/core.h"
#include "text/text.h"

static int encode(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count)
{
    (void)t;
    if (size > SIZE_MAX / sizeof(**ids))
        return orri_fail(ORR_ENOMEM, "tokenizer bytes", "no room for %zu ids", size);
    *ids = orri_alloc(size * sizeof(**ids));
    if (!*ids)
        return ORR_ENOMEM;
    for (size_t i = 0; i < size; i++)
        (*ids)[i] = (unsigned char)text[i];
    *count = size;
    return 0;
}

static int decode(const struct orr_tokenizer *t, const int32_t *ids, size_t count, char **text, size_t *size)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t->vocab_size)
            return orri_fail(ORR_EINVAL, "tokenizer bytes", "id %d at position %zu is outside the vocabulary of %d",
                             (int)ids[i], i, t->vocab_size);
    *text = orri_alloc(count + 1);
    if (!*text)
        return ORR_ENOMEM;
    for (size_t i = 0; i < count; i++)
        (*text)[i] = (char)ids[i];
    (*text)[count] = '\0';
    *size = count;
    return 0;
}

const struct orri_tokenizer_class orri_tokenizer_bytes = {
    .name = "bytes",
    .ids_are_bytes = true,
    .encode = encode,
    .decode = decode,
};

struct orr_tokenizer *orri_tokenizer_bytes_create(void)
{
    struct orr_tokenizer *t = orri_calloc(1, sizeof(*t));

    if (t)
        *t = (struct orr_tokenizer){.class = &orri_tokenizer_bytes, .vocab_size = 256};
    return t;
}
