/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers: text to token ids and back. */
#ifndef ORRERY_TOKENIZER_H
#define ORRERY_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_tokenizer;

/* Opens a tokenizer. `name` is
 *   "bytes"   the id of a byte is its value; vocabulary 256; any text, valid UTF-8 or not;
 *   a file    tokenizer.json, in the format of Hugging Face's tokenizers; vocab.json or merges.txt, encoder.json or vocab.bpe
 *             (byte-level byte-pair encoding with GPT-2's pattern; the other one lies beside it); vocab.txt (WordPiece with
 *             BERT's normalizer);
 *   a folder  with such files, the first of these that is there, and special_tokens_map.json and tokenizer_config.json.
 * NULL with ORR_EINVAL for another name; ORR_ENOENT for a folder without; ORR_EFORMAT for a file that is damaged or has a component
 * that is not known, which the message names; ORR_ENOMEM. */
struct orr_tokenizer *orr_tokenizer_open(const char *name);

/* Whether a folder has files that orr_tokenizer_open() reads. */
bool orr_tokenizer_in(const char *directory);
void orr_tokenizer_destroy(struct orr_tokenizer *tokenizer);

/* Once created a tokenizer never changes: any thread may call the functions below. */

/* The name it was created by. Borrowed. */
const char *orr_tokenizer_name(const struct orr_tokenizer *tokenizer);

/* The number of ids V: ids are 0..V-1, though some of them may have no token. */
int orr_tokenizer_vocab_size(const struct orr_tokenizer *tokenizer);

/* Turns the `size` bytes of `text` (zero bytes are text too) into *count ids, without those that a template puts around them.
 * Where they are not UTF-8 they are read as U+FFFD, but by "bytes". *ids is malloc'ed, never NULL on success, and the caller's to
 * free(). ORR_EINVAL for a text of more than 1 GiB, but by "bytes"; ORR_EFORMAT where a regular expression of the tokenizer cannot
 * be matched; ORR_ENOMEM. */
int orr_tokenizer_encode(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                         size_t *count);

/* Turns `count` ids back into *size bytes. *text is malloc'ed, ended by a zero byte that *size does not
 * count, and the caller's to free(). decode(encode(text)) = text with "bytes", and of text that is UTF-8 with byte-level
 * vocabularies; tokens that end within a character give U+FFFD. ORR_EINVAL for an id outside the vocabulary (the message names it
 * and its position), ORR_ENOMEM. */
int orr_tokenizer_decode(const struct orr_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *size);

/* Writes the files that it was read from into a folder, byte for byte, under the names that orr_tokenizer_open() looks for; those
 * of "bytes" are none. ORR_EIO. */
int orr_tokenizer_save(const struct orr_tokenizer *tokenizer, const char *directory);

/* Makes a byte-level byte-pair encoding from the text of files, line by line, and writes it as the tokenizer.json `out`, whole or
 * not at all: the tokens of `special`, one for each byte, and merges, always of the commonest pair (of equals the one with the lowest
 * ids), until there are vocab_size tokens or no pairs left. ORR_EINVAL for a vocab_size that is too small, ORR_ENOENT, ORR_EIO,
 * ORR_ENOMEM. */
int orr_tokenizer_train(const char *const *paths, int count, int vocab_size, const char *const *special, int special_count,
                        const char *out);

/* ---- tokens with a meaning of their own --------------------------------------------------------------- */

enum orr_special {
    ORR_UNKNOWN,    /* what the vocabulary has no token for     */
    ORR_BEGIN,      /* begins a text: <s>, bos                  */
    ORR_END,        /* ends a text: </s>, eos                   */
    ORR_PAD,
    ORR_CLASS,      /* stands for a whole sequence: [CLS]       */
    ORR_SEPARATOR,  /* between and behind sequences: [SEP]      */
    ORR_MASK,       /* hides a token: [MASK]                    */
    ORR_SPECIALS
};

/* Its id, or -1 where the tokenizer has none. */
int32_t orr_tokenizer_special(const struct orr_tokenizer *tokenizer, enum orr_special special);

/* The id of the token that the vocabulary spells `token`, or -1; and the other way, NULL for no such id. Borrowed. */
int32_t orr_tokenizer_id(const struct orr_tokenizer *tokenizer, const char *token);
const char *orr_tokenizer_token(const struct orr_tokenizer *tokenizer, int32_t id);

/* ---- whole inputs, with the special tokens that the tokenizer's template puts around them ------------------ */

/* What a model is fed with: arrays of `count`, malloc'ed, the caller's to orr_encoding_free(). */
struct orr_encoding {
    size_t count;
    int32_t *ids;
    int32_t *types;     /* 0: of the first sequence, 1: of the second                                  */
    int32_t *words;     /* number of the word (of orr_tokenizer_encode_words()) that a token is part of; -1: of none */
};
void orr_encoding_free(struct orr_encoding *encoding);

/* One text, or, where `second` is not NULL, a pair. Without a template it is as orr_tokenizer_encode() of the one, then the
 * other. Errors of orr_tokenizer_encode(). */
int orr_tokenizer_encode_input(const struct orr_tokenizer *tokenizer, const char *first, size_t first_size, const char *second,
                               size_t second_size, struct orr_encoding *encoding);

/* A sequence given as words: each is encoded for itself, as a text of its own (so with a blank in front, where the tokenizer puts
 * one before every text), and keeps its number. Errors of orr_tokenizer_encode(). */
int orr_tokenizer_encode_words(const struct orr_tokenizer *tokenizer, const char *const *words, size_t count,
                               struct orr_encoding *encoding);

#ifdef __cplusplus
}
#endif
#endif
