/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers: text to token ids and back. */
#ifndef ORRERY_TOKENIZER_H
#define ORRERY_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_tokenizer;

/* The tokenizer called `name`:
 *   "bytes"   the id of a byte is its value; vocabulary 256; any text, valid UTF-8 or not.
 * NULL with ORR_EINVAL for another name (the remedy lists those that exist), ORR_ENOMEM. */
struct orr_tokenizer *orr_tokenizer_create(const char *name);
void orr_tokenizer_destroy(struct orr_tokenizer *tokenizer);

/* Once created a tokenizer never changes: any thread may call the functions below. */

/* The name it was created by. Borrowed. */
const char *orr_tokenizer_name(const struct orr_tokenizer *tokenizer);

/* The number of ids V: ids are 0..V-1. */
int orr_tokenizer_vocab_size(const struct orr_tokenizer *tokenizer);

/* Turns the `size` bytes of `text` (zero bytes are text too) into *count ids. *ids is malloc'ed, never
 * NULL on success, and the caller's to free(). ORR_ENOMEM. */
int orr_tokenizer_encode(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                         size_t *count);

/* Turns `count` ids back into *size bytes. *text is malloc'ed, ended by a zero byte that *size does not
 * count, and the caller's to free(). decode(encode(text)) = text with "bytes". ORR_EINVAL for an id
 * outside the vocabulary (the message names it and its position), ORR_ENOMEM. */
int orr_tokenizer_decode(const struct orr_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *size);

#ifdef __cplusplus
}
#endif
#endif
