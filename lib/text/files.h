/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabulary files as the object that a tokenizer.json of them would hold. */
#ifndef ORRI_TEXT_FILES_H
#define ORRI_TEXT_FILES_H

#include "text/text.h"

/* special_tokens_map.json and tokenizer_config.json, where they are beside the vocabulary. */
struct orri_configs {
    json_t *map, *config;
};

const char *orri_special_name(const json_t *config, enum orr_special special);              /* NULL: none */

/* vocab.txt, a token per line, with what BERT does to text; vocab.json and merges.txt, byte-level with GPT-2's pattern, or as
 * RoBERTa where tokenizer_config.json names that class. NULL with ORR_EFORMAT or ORR_ENOMEM; the caller's to json_decref(). */
json_t *orri_wordpiece_object(const char *path, const struct orri_source *vocab, const struct orri_configs *configs);
json_t *orri_bpe_object(const char *path, const struct orri_source *vocab, const char *merges_path, const struct orri_source *merges,
                        const struct orri_configs *configs);

/* The pre-tokenizer and the decoder of byte-level vocabularies, and a token that is added to one. NULL with ORR_ENOMEM. */
json_t *orri_byte_level_object(bool add_prefix_space);
json_t *orri_added_object(const char *content, int64_t id, bool left);

#endif
