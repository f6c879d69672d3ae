/* SPDX-License-Identifier: Apache-2.0 */
/* Models that look words up: WordPiece, the longest piece that there is, again and again (Wu et al. 2016, arXiv:1609.08144; as
 * in BERT), and WordLevel, the whole word. */
#include "core/core.h"
#include "text/text.h"

/* With `part` in front, the longest beginning of text that the vocabulary has: its id, or -1; *length: how long it is. */
static int longest(const struct orri_files *t, struct orri_encoder *e, const char *text, size_t size, bool first, size_t *length,
                   int32_t *id)
{
    const struct orri_model *m = &t->model;

    e->part.size = 0;
    if (!first)
        ORR_TRY(orri_text_add(&e->part, m->prefix, m->prefix_size));
    const size_t before = e->part.size;
    ORR_TRY(orri_text_add(&e->part, text, size));
    for (*length = size; *length > 0;) {
        *id = orri_vocab_id(&t->vocab, e->part.data, before + *length);
        if (*id >= 0)
            return ORR_OK;
        U8_BACK_1_UNSAFE((const uint8_t *)text, *length);
    }
    *id = -1;
    return ORR_OK;
}

static int64_t characters(const char *text, size_t size)
{
    int64_t count = 0;

    for (size_t i = 0; i < size; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* A word with a part that is not there is unknown as a whole. */
int orri_wordpiece_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size)
{
    const size_t before = e->count;

    if (characters(word, size) > t->model.longest)
        return orri_encoder_add(e, t->model.unknown);
    for (size_t at = 0, length; at < size; at += length) {
        int32_t id;
        ORR_TRY(longest(t, e, word + at, size - at, at == 0, &length, &id));
        if (id < 0) {
            e->count = before;
            return orri_encoder_add(e, t->model.unknown);
        }
        ORR_TRY(orri_encoder_add(e, id));
    }
    return ORR_OK;
}

int orri_wordlevel_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size)
{
    int32_t id = orri_vocab_id(&t->vocab, word, size);

    return orri_encoder_add(e, id >= 0 ? id : t->model.unknown);
}
