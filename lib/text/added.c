/* SPDX-License-Identifier: Apache-2.0 */
/* Added tokens: looked for in the text before anything else, at each place the longest; some of them in the text as it is, others
 * in what the normalizer makes of it. */
#include "core/core.h"
#include "text/text.h"

/* The token that begins at `at`: its index, or -1. */
static int32_t match(const struct orri_trie *trie, const char *text, size_t size, size_t at, size_t *end)
{
    int32_t node = 0, found = -1;

    while (at < size) {
        const struct orri_pair *edge = orri_pairs_get(&trie->edges, ORRI_PAIR(node, (unsigned char)text[at++]));
        if (!edge)
            break;
        node = edge->first;
        if (edge->second >= 0) {
            found = edge->second;
            *end = at;
        }
    }
    return found;
}

static bool stands_alone(const char *text, size_t size, size_t begin, size_t end)
{
    size_t behind = end;

    return (begin == 0 || !orri_is_word(orri_character_before(text, begin))) &&
           (end == size || !orri_is_word(orri_character(text, &behind)));
}

/* What a token takes along of the blanks before, but not from before `from`, and behind it. */
static void widen(const struct orri_added *token, const char *text, size_t size, size_t from, size_t *begin, size_t *end)
{
    while (token->left && *begin > from && orri_is_space(orri_character_before(text, *begin)))
        U8_BACK_1_UNSAFE((const uint8_t *)text, *begin);
    for (size_t next = *end; token->right && *end < size && orri_is_space(orri_character(text, &next));)
        *end = next;
}

int orri_encode_added(struct orri_encoder *e, const struct orri_trie *trie, const struct orri_piece *piece,
                      int (*other)(struct orri_encoder *e, const struct orri_piece *piece))
{
    const char *text = piece->text;
    size_t from = 0, size = piece->size;

    for (size_t at = 0, end; trie->nodes > 0 && at < size;) {
        int32_t index = trie->begins[(unsigned char)text[at]] ? match(trie, text, size, at, &end) : -1;
        if (index < 0) {
            at++;
            continue;
        }
        const struct orri_added *token = &e->t->added[index];
        size_t begin = at;
        at = end;
        if (token->single_word && !stands_alone(text, size, begin, end))
            continue;
        widen(token, text, size, from, &begin, &end);
        if (begin > from)
            ORR_TRY(other(e, &(struct orri_piece){text + from, begin - from, piece->first && from == 0}));
        ORR_TRY(orri_encoder_add(e, token->id));
        from = end;
    }
    return from < size ? other(e, &(struct orri_piece){text + from, size - from, piece->first && from == 0}) : ORR_OK;
}
