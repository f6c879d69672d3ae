/* SPDX-License-Identifier: Apache-2.0 */
/* Tables: strings and their ids, pairs of numbers, tries. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

/* Open addressing; a table is never more than half full. */
static size_t wanted_slots(size_t slots, size_t count)
{
    size_t wanted = slots ? slots : 64;

    while (wanted < 2 * (count + 1))
        wanted *= 2;
    return wanted;
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */

static size_t place(const struct orri_vocab *v, const char *token, size_t size)
{
    size_t at = orri_hash(ORRI_HASH, token, size) & (v->slots - 1);

    while (v->slot[at] >= 0) {
        int32_t id = v->slot[at];
        if (v->size[id] == size && memcmp(v->token[id], token, size) == 0)
            break;
        at = (at + 1) & (v->slots - 1);
    }
    return at;
}

static int widen(struct orri_vocab *v, size_t count)
{
    size_t old = (size_t)v->count, capacity = v->capacity;

    if (count <= old)
        return ORR_OK;
    ORR_TRY(orri_grow(&v->token, &capacity, old, count - old, sizeof(*v->token)));
    ORR_TRY(orri_grow(&v->size, &v->capacity, old, count - old, sizeof(*v->size)));
    memset(v->token + old, 0, (count - old) * sizeof(*v->token));
    memset(v->size + old, 0, (count - old) * sizeof(*v->size));
    v->count = (int)count;
    return ORR_OK;
}

/* Slots for all ids that there are. */
static int rehash(struct orri_vocab *v, size_t count)
{
    size_t slots = wanted_slots(v->slots, count);
    struct orri_vocab old = *v;

    if (slots == v->slots)
        return ORR_OK;
    v->slot = orri_alloc(slots * sizeof(*v->slot));
    if (!v->slot) {
        v->slot = old.slot;
        return ORR_ENOMEM;
    }
    v->slots = slots;
    memset(v->slot, 0xff, slots * sizeof(*v->slot));
    for (size_t i = 0; i < old.slots; i++)
        if (old.slot[i] >= 0)
            v->slot[place(v, v->token[old.slot[i]], v->size[old.slot[i]])] = old.slot[i];
    free(old.slot);
    return ORR_OK;
}

int orri_vocab_add(struct orri_vocab *v, const char *token, size_t size, int32_t id, bool find)
{
    if (id < v->count && v->token[id])
        return orri_fail(ORR_EINVAL, "tokenizer", "id %d is taken", (int)id);
    ORR_TRY(rehash(v, (size_t)(id < v->count ? v->count : id + 1)));
    size_t at = place(v, token, size);
    if (find && v->slot[at] >= 0)
        return orri_fail(ORR_EINVAL, "tokenizer", "a token is there twice");
    ORR_TRY(widen(v, (size_t)id + 1));
    char *copy = orri_alloc(size + 1);
    if (!copy)
        return ORR_ENOMEM;
    memcpy(copy, token, size);
    copy[size] = '\0';
    v->token[id] = copy;
    v->size[id] = (uint32_t)size;
    if (find)
        v->slot[at] = id;
    return ORR_OK;
}

int32_t orri_vocab_id(const struct orri_vocab *v, const char *token, size_t size)
{
    return v->slots ? v->slot[place(v, token, size)] : -1;
}

void orri_vocab_free(struct orri_vocab *v)
{
    for (int i = 0; i < v->count; i++)
        free(v->token[i]);
    free(v->token);
    free(v->size);
    free(v->slot);
    *v = (struct orri_vocab){0};
}

/* ---- pairs of numbers -------------------------------------------------------------------------------------------- */

#define NO_KEY UINT64_MAX

static size_t mix(uint64_t key)
{
    key *= UINT64_C(0x9e3779b97f4a7c15);    /* 2^64 over the golden ratio */
    return (size_t)(key ^ key >> 32);
}

static struct orri_pair *slot_of(const struct orri_pairs *p, uint64_t key)
{
    size_t at = mix(key) & (p->slots - 1);

    while (p->slot[at].key != NO_KEY && p->slot[at].key != key)
        at = (at + 1) & (p->slots - 1);
    return &p->slot[at];
}

static int make_room(struct orri_pairs *p)
{
    size_t slots = wanted_slots(p->slots, p->count);
    struct orri_pairs old = *p;

    if (slots == p->slots)
        return ORR_OK;
    p->slot = orri_alloc(slots * sizeof(*p->slot));
    if (!p->slot) {
        p->slot = old.slot;
        return ORR_ENOMEM;
    }
    p->slots = slots;
    memset(p->slot, 0xff, slots * sizeof(*p->slot));
    for (size_t i = 0; i < old.slots; i++)
        if (old.slot[i].key != NO_KEY)
            *slot_of(p, old.slot[i].key) = old.slot[i];
    free(old.slot);
    return ORR_OK;
}

int orri_pairs_put(struct orri_pairs *p, uint64_t key, int32_t first, int32_t second)
{
    ORR_TRY(make_room(p));
    struct orri_pair *slot = slot_of(p, key);
    p->count += slot->key == NO_KEY;
    *slot = (struct orri_pair){key, first, second};
    return ORR_OK;
}

struct orri_pair *orri_pairs_get(const struct orri_pairs *p, uint64_t key)
{
    if (!p->slots)
        return NULL;
    struct orri_pair *slot = slot_of(p, key);
    return slot->key == NO_KEY ? NULL : slot;
}

void orri_pairs_free(struct orri_pairs *p)
{
    free(p->slot);
    *p = (struct orri_pairs){0};
}

/* ---- tries -------------------------------------------------------------------------------------------------------- */

int orri_trie_add(struct orri_trie *trie, const char *text, size_t size, int32_t value)
{
    int32_t node = 0;

    if (size)
        trie->begins[(unsigned char)text[0]] = true;
    for (size_t i = 0; i < size; i++) {
        uint64_t key = ORRI_PAIR(node, (unsigned char)text[i]);
        struct orri_pair *edge = orri_pairs_get(&trie->edges, key);
        if (!edge) {
            ORR_TRY(orri_pairs_put(&trie->edges, key, ++trie->nodes, -1));
            edge = orri_pairs_get(&trie->edges, key);
        }
        node = edge->first;
        if (i + 1 == size)
            edge->second = value;
    }
    return ORR_OK;
}

void orri_trie_free(struct orri_trie *trie)
{
    orri_pairs_free(&trie->edges);
    *trie = (struct orri_trie){0};
}
