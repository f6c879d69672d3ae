/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909): a word is a list of symbols, at first its characters; of the pairs
 * that may be merged the one of lowest rank is, at first the leftmost of them, until there is none. The list is linked and the
 * pairs are in a heap, so that a word of n characters takes n log n steps. */
#include "core/core.h"
#include "text/text.h"

/* ---- the heap: the lowest rank, of equals the leftmost, is on top ----------------------------------------------- */

static bool before(const struct orri_merge *a, const struct orri_merge *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static int push(struct orri_encoder *e, struct orri_merge merge)
{
    ORR_TRY(orri_grow(&e->heap, &e->heap_capacity, e->heap_count, 1, sizeof(*e->heap)));
    size_t at = e->heap_count++;
    for (size_t up; at > 0 && before(&merge, &e->heap[up = (at - 1) / 2]); at = up)
        e->heap[at] = e->heap[up];
    e->heap[at] = merge;
    return ORR_OK;
}

static struct orri_merge pop(struct orri_encoder *e)
{
    struct orri_merge top = e->heap[0], last = e->heap[--e->heap_count];
    size_t at = 0;

    for (size_t down; (down = 2 * at + 1) < e->heap_count; at = down) {
        if (down + 1 < e->heap_count && before(&e->heap[down + 1], &e->heap[down]))
            down++;
        if (!before(&e->heap[down], &last))
            break;
        e->heap[at] = e->heap[down];
    }
    e->heap[at] = last;
    return top;
}

/* ---- symbols ------------------------------------------------------------------------------------------------------ */

static int add_symbol(struct orri_encoder *e, int32_t id)
{
    if (e->symbol_count >= INT32_MAX)
        return orri_fail(ORR_EINVAL, "tokenizer", "a word of more than %d characters", INT32_MAX);
    ORR_TRY(orri_grow(&e->symbols, &e->symbol_capacity, e->symbol_count, 1, sizeof(*e->symbols)));
    int32_t at = (int32_t)e->symbol_count++;
    e->symbols[at] = (struct orri_symbol){id, at - 1, -1};
    if (at > 0)
        e->symbols[at - 1].next = at;
    return ORR_OK;
}

/* The id of a character, with what continuing and last parts of a word have before and behind them; *text is it, spelled so. */
static int character_id(const struct orri_files *t, struct orri_encoder *e, const char *character, size_t size, bool first, bool last,
                        const char **text, size_t *text_size, int32_t *id)
{
    const struct orri_model *m = &t->model;

    *text = character;
    *text_size = size;
    if ((!first && m->prefix) || (last && m->suffix)) {
        e->part.size = 0;
        if (!first)
            ORR_TRY(orri_text_add(&e->part, m->prefix, m->prefix_size));
        ORR_TRY(orri_text_add(&e->part, character, size));
        if (last)
            ORR_TRY(orri_text_add(&e->part, m->suffix, m->suffix_size));
        *text = e->part.data;
        *text_size = e->part.size;
    } else if (size <= 2) {
        size_t at = 0;
        UChar32 c = orri_character(character, &at);
        if (c < (UChar32)ORRI_COUNT(m->character)) {
            *id = m->character[c];
            return ORR_OK;
        }
    }
    *id = orri_vocab_id(&t->vocab, *text, *text_size);
    return ORR_OK;
}

/* *fell: the bytes of an unknown character are in the vocabulary, and were added. */
static int add_bytes(const struct orri_model *m, struct orri_encoder *e, const char *text, size_t size, bool *fell)
{
    *fell = m->byte_fallback;
    for (size_t i = 0; *fell && i < size; i++)
        *fell = m->byte[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; *fell && i < size; i++)
        ORR_TRY(add_symbol(e, m->byte[(unsigned char)text[i]]));
    return ORR_OK;
}

/* An unknown character becomes the unknown token when the next known one comes, so that several can be one. */
static int add_characters(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size)
{
    const struct orri_model *m = &t->model;
    bool unknown = false;

    for (size_t at = 0, next = 0; at < size; at = next) {
        const char *text;
        size_t text_size;
        int32_t id;
        bool fell;

        U8_FWD_1_UNSAFE((const uint8_t *)word, next);
        ORR_TRY(character_id(t, e, word + at, next - at, at == 0, next == size, &text, &text_size, &id));
        if (id >= 0) {
            if (unknown)
                ORR_TRY(add_symbol(e, m->unknown));
            unknown = false;
            ORR_TRY(add_symbol(e, id));
            continue;
        }
        ORR_TRY(add_bytes(m, e, text, text_size, &fell));
        if (fell || m->unknown < 0)
            continue;
        if (unknown && !m->fuse_unknown)
            ORR_TRY(add_symbol(e, m->unknown));
        unknown = true;
    }
    return unknown ? add_symbol(e, m->unknown) : ORR_OK;
}

/* ---- merging ------------------------------------------------------------------------------------------------------- */

/* Symbol `at` and the next one, where they may be merged, go into the heap. */
static int consider(const struct orri_files *t, struct orri_encoder *e, int32_t at)
{
    int32_t next = at < 0 ? -1 : e->symbols[at].next;

    if (next < 0)
        return ORR_OK;
    const struct orri_pair *merge = orri_pairs_get(&t->model.merges, ORRI_PAIR(e->symbols[at].id, e->symbols[next].id));
    return merge ? push(e, (struct orri_merge){merge->first, at, merge->second}) : ORR_OK;
}

/* What is in the heap may be no longer so: the pair must still become this token. */
static bool is_valid(const struct orri_files *t, const struct orri_encoder *e, const struct orri_merge *top)
{
    const struct orri_symbol *s = &e->symbols[top->at];

    if (s->id < 0 || s->next < 0)
        return false;
    const struct orri_pair *merge = orri_pairs_get(&t->model.merges, ORRI_PAIR(s->id, e->symbols[s->next].id));
    return merge && merge->second == top->id;
}

static int merge_all(const struct orri_files *t, struct orri_encoder *e)
{
    e->heap_count = 0;
    for (size_t i = 0; i + 1 < e->symbol_count; i++)
        ORR_TRY(consider(t, e, (int32_t)i));
    while (e->heap_count > 0) {
        struct orri_merge top = pop(e);
        if (!is_valid(t, e, &top))
            continue;
        struct orri_symbol *s = &e->symbols[top.at], *right = &e->symbols[s->next];
        s->id = top.id;
        s->next = right->next;
        right->id = -1;
        if (s->next >= 0)
            e->symbols[s->next].previous = top.at;
        ORR_TRY(consider(t, e, s->previous));
        ORR_TRY(consider(t, e, top.at));
    }
    return ORR_OK;
}

int orri_bpe_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size)
{
    if (t->model.ignore_merges) {
        int32_t id = orri_vocab_id(&t->vocab, word, size);
        if (id >= 0)
            return orri_encoder_add(e, id);
    }
    e->symbol_count = 0;
    ORR_TRY(add_characters(t, e, word, size));
    ORR_TRY(merge_all(t, e));
    for (size_t i = 0; i < e->symbol_count; i++)
        if (e->symbols[i].id >= 0)
            ORR_TRY(orri_encoder_add(e, e->symbols[i].id));
    return ORR_OK;
}
