/* SPDX-License-Identifier: Apache-2.0 */
/* Text to ids: the chain from the text to the model. A piece goes through the whole chain before the next one is cut, so that
 * a long text needs no list of its words. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

int orri_encoder_add(struct orri_encoder *e, int32_t id)
{
    if (e->count == e->capacity)
        ORR_TRY(orri_grow(&e->ids, &e->capacity, e->count, 1, sizeof(*e->ids)));
    e->ids[e->count++] = id;
    return ORR_OK;
}

/* ---- encoders ------------------------------------------------------------------------------------------------------- */

void orri_encoder_free(struct orri_encoder *e)
{
    if (!e)
        return;
    orri_text_free(&e->valid);
    orri_text_free(&e->normal[0]);
    orri_text_free(&e->normal[1]);
    for (int i = 0; i < ORRI_STEPS; i++)
        orri_text_free(&e->step[i]);
    orri_text_free(&e->bytes);
    orri_text_free(&e->part);
    free(e->ids);
    free(e->symbols);
    free(e->heap);
    free(e->paths);
    free(e->cache);
    orri_matcher_destroy(e->matcher);
    ubrk_close(e->graphemes);
    free(e);
}

static struct orri_encoder *create(const struct orri_files *t)
{
    struct orri_encoder *e = orri_calloc(1, sizeof(*e));
    UErrorCode error = U_ZERO_ERROR;

    if (!e)
        return NULL;
    e->t = t;
    e->cache = orri_calloc(ORRI_CACHE, sizeof(*e->cache));
    e->matcher = orri_matcher_create();
    e->graphemes = t->graphemes ? ubrk_clone(t->graphemes, &error) : NULL;
    if (e->cache && e->matcher && U_SUCCESS(error))
        return e;
    orri_fail(ORR_ENOMEM, "tokenizer", "no room to encode with");
    orri_encoder_free(e);
    return NULL;
}

struct orri_encoder *orri_encoder_take(const struct orri_files *t)
{
    struct orri_files *owner = (struct orri_files *)t;      /* what is idle is no part of what a tokenizer is */

    pthread_mutex_lock(&owner->lock);
    struct orri_encoder *e = owner->idle;
    if (e)
        owner->idle = e->next;
    pthread_mutex_unlock(&owner->lock);
    e = e ? e : create(t);
    if (e)
        e->count = 0;
    return e;
}

void orri_encoder_give(struct orri_encoder *e)
{
    struct orri_files *owner = (struct orri_files *)e->t;

    pthread_mutex_lock(&owner->lock);
    e->next = owner->idle;
    owner->idle = e;
    pthread_mutex_unlock(&owner->lock);
}

/* ---- words ------------------------------------------------------------------------------------------------------------ */

/* Eight bytes at a time; xorshift-multiply as in Vigna's splitmix64. */
static inline struct orri_cached *place_of(struct orri_encoder *e, const char *word, size_t size)
{
    uint64_t hash = size, part;

    for (; size >= 8; size -= 8, word += 8) {
        memcpy(&part, word, 8);
        hash = (hash ^ part) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    for (part = 0; size > 0; size--)
        part = part << 8 | (unsigned char)*word++;
    hash = (hash ^ part) * UINT64_C(0x9e3779b97f4a7c15);
    return &e->cache[(hash >> 40 ^ hash >> 20) % ORRI_CACHE];
}

static int encode_word(struct orri_encoder *e, const char *word, size_t size)
{
    const struct orri_files *t = e->t;

    if (!t->byte_level)
        return t->model.encode(t, e, word, size);
    e->bytes.size = 0;
    ORR_TRY(orri_bytes_spell(word, size, &e->bytes));
    return t->model.encode(t, e, e->bytes.data, e->bytes.size);
}

/* Most words have been seen before. */
static int encode_cached(struct orri_encoder *e, const char *word, size_t size)
{
    if (size > sizeof(e->cache->word))
        return encode_word(e, word, size);
    struct orri_cached *c = place_of(e, word, size);
    const size_t before = e->count;
    if (c->size == size && memcmp(c->word, word, size) == 0) {
        ORR_TRY(orri_grow(&e->ids, &e->capacity, before, c->count, sizeof(*e->ids)));
        memcpy(e->ids + before, c->id, c->count * sizeof(*c->id));
        e->count += c->count;
        return ORR_OK;
    }
    ORR_TRY(encode_word(e, word, size));
    const size_t count = e->count - before;
    if (count > ORRI_COUNT(c->id))
        return ORR_OK;
    c->size = (uint8_t)size;
    c->count = (uint8_t)count;
    memcpy(c->word, word, size);
    memcpy(c->id, e->ids + before, count * sizeof(*c->id));
    return ORR_OK;
}

/* ---- the chain ---------------------------------------------------------------------------------------------------------- */

int orri_encode_piece(struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    const struct orri_split *step = &e->t->split[depth];

    if (piece->size == 0)
        return ORR_OK;
    return depth < e->t->split_count ? step->apply(step, e, piece, depth) : encode_cached(e, piece->text, piece->size);
}

static int split(struct orri_encoder *e, const struct orri_piece *piece)
{
    return orri_encode_piece(e, piece, 0);
}

static int normalize(struct orri_encoder *e, const struct orri_piece *piece)
{
    struct orri_piece normal = {.first = piece->first};

    ORR_TRY(orri_normalize(e, piece->text, piece->size, &normal.text, &normal.size));
    normal.first = normal.first && !e->moved;
    return orri_encode_added(e, &e->t->normalized, &normal, split);
}

static int encode(struct orri_encoder *e, const char *text, size_t size)
{
    struct orri_piece whole = {.first = true};

    ORR_TRY(orri_text_repair(text, size, &e->valid, &whole.text, &whole.size));
    return orri_encode_added(e, &e->t->raw, &whole, normalize);
}

int orri_files_encode(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids, size_t *count)
{
    enum { LARGEST = 1 << 30 };     /* what the Unicode library counts in 32 bits may grow */

    if (size > LARGEST)
        return orri_remedy(orri_fail(ORR_EINVAL, tokenizer->name, "a text of %zu bytes, which is more than 1 GiB", size),
                           "give it in parts");
    struct orri_encoder *e = orri_encoder_take((const struct orri_files *)tokenizer);
    if (!e)
        return ORR_ENOMEM;
    int status = encode(e, text, size);
    *ids = status == 0 ? orri_alloc((e->count ? e->count : 1) * sizeof(**ids)) : NULL;
    if (status == 0 && !*ids)
        status = ORR_ENOMEM;
    if (status == 0 && e->count)
        memcpy(*ids, e->ids, e->count * sizeof(**ids));
    *count = e->count;
    orri_encoder_give(e);
    return status;
}
