/* SPDX-License-Identifier: Apache-2.0 */
/* Training of byte-level byte-pair encodings: what words there are and how often, then merges, always of the commonest pair. Pairs are
 * in a heap; one that has become rarer since is put back when it comes up. An entry knows the words in which its pair had appeared
 * when it was made, and merges it in those. */
#include "core/core.h"
#include "io/io.h"
#include "io/json.h"
#include "text/files.h"
#include "text/text.h"

#include <stdlib.h>

/* Numbers of words. */
struct places {
    int32_t *word;
    size_t count, capacity;
};

/* A pair of tokens and how often it was there. */
struct entry {
    int64_t count;
    uint64_t pair;
    struct places places;
};

struct word {
    int32_t *token;
    int64_t count;
    int32_t length;
};

struct trainer {
    struct orri_vocab seen;         /* the words' texts: id is the number of the word */
    int64_t *times;                 /* of each of them                                */
    size_t times_capacity;
    struct word *words;
    struct orri_vocab vocab;        /* what is made */
    struct merge {
        uint64_t pair;
    } *merges;
    size_t merge_count, merge_capacity;
    struct orri_pairs index;        /* pair -> place in `counts` */
    int64_t *counts;
    size_t count_count, count_capacity;
    struct orri_pairs fresh_index;  /* pair -> place in `fresh`: where pairs have newly appeared */
    struct entry *fresh;
    size_t fresh_count, fresh_capacity;
    struct entry *heap;
    size_t heap_count, heap_capacity;
};

/* ---- words -------------------------------------------------------------------------------------------------------- */

static int count_word(struct trainer *t, const char *word, size_t size)
{
    int32_t id = orri_vocab_id(&t->seen, word, size);

    if (id < 0) {
        if (t->seen.count == INT32_MAX)
            return orri_fail(ORR_EINVAL, "tokenizer", "more than %d different words", INT32_MAX);
        id = t->seen.count;
        ORR_TRY(orri_vocab_add(&t->seen, word, size, id, true));
        ORR_TRY(orri_grow(&t->times, &t->times_capacity, (size_t)id, 1, sizeof(*t->times)));
        t->times[id] = 0;
    }
    t->times[id]++;
    return ORR_OK;
}

/* A line for itself, with its end. */
static int count_lines(struct trainer *t, const char *text, size_t size, struct orri_text *copy)
{
    for (size_t from = 0, to; from < size; from = to) {
        const char *end = memchr(text + from, '\n', size - from), *line;
        size_t length;
        to = end ? (size_t)(end - text) + 1 : size;
        ORR_TRY(orri_text_repair(text + from, to - from, copy, &line, &length));
        for (size_t at = 0, next; at < length; at = next) {
            next = orri_gpt2_piece(line, length, at);
            ORR_TRY(count_word(t, line + at, next - at));
        }
    }
    return ORR_OK;
}

static int count_file(struct trainer *t, const char *path)
{
    struct orri_text copy = {0};
    struct orri_map map;

    ORR_TRY(orri_map_open(&map, path, true));
    int status = count_lines(t, (const char *)map.data, map.size, &copy);
    orri_text_free(&copy);
    orri_map_close(&map);
    return status;
}

/* ---- the first tokens ------------------------------------------------------------------------------------------------ */

static int add_special(struct trainer *t, const char *const *special, int count)
{
    for (int i = 0; i < count; i++) {
        const char *valid;
        size_t size;
        struct orri_text copy = {0};
        int status = orri_text_repair(special[i], strlen(special[i]), &copy, &valid, &size);
        if (status == 0 && (size == 0 || valid != special[i]))
            status = orri_remedy(orri_fail(ORR_EINVAL, "tokenizer", "special token %d is %s", i + 1, size ? "not UTF-8" : "empty"),
                                 "give another one");
        orri_text_free(&copy);
        ORR_TRY(status);
        if (orri_vocab_id(&t->vocab, special[i], strlen(special[i])) < 0)
            ORR_TRY(orri_vocab_add(&t->vocab, special[i], strlen(special[i]), t->vocab.count, true));
    }
    return ORR_OK;
}

/* In the order of the characters that stand for them. */
static int add_bytes(struct trainer *t, int32_t token[256])
{
    struct orri_text text = {0};
    int status = ORR_OK;

    for (UChar32 c = 0; status == 0 && c < 0x200; c++) {
        int byte = orri_character_byte(c);
        if (byte < 0)
            continue;
        text.size = 0;
        status = orri_text_add_character(&text, c);
        if (status == 0 && orri_vocab_id(&t->vocab, text.data, text.size) < 0)
            status = orri_vocab_add(&t->vocab, text.data, text.size, t->vocab.count, true);
        if (status == 0)
            token[byte] = orri_vocab_id(&t->vocab, text.data, text.size);
    }
    orri_text_free(&text);
    return status;
}

static int make_words(struct trainer *t, const int32_t token[256])
{
    t->words = orri_calloc((size_t)t->seen.count + 1, sizeof(*t->words));
    if (!t->words)
        return ORR_ENOMEM;
    for (int i = 0; i < t->seen.count; i++) {
        struct word *w = &t->words[i];
        w->length = (int32_t)t->seen.size[i];
        w->count = t->times[i];
        w->token = orri_alloc((size_t)w->length * sizeof(*w->token));
        if (!w->token)
            return ORR_ENOMEM;
        for (int32_t k = 0; k < w->length; k++)
            w->token[k] = token[(unsigned char)t->seen.token[i][k]];
    }
    return ORR_OK;
}

/* ---- pairs ------------------------------------------------------------------------------------------------------------ */

static int count_of(struct trainer *t, uint64_t pair, int64_t **count)
{
    struct orri_pair *known = orri_pairs_get(&t->index, pair);

    if (!known) {
        ORR_TRY(orri_grow(&t->counts, &t->count_capacity, t->count_count, 1, sizeof(*t->counts)));
        ORR_TRY(orri_pairs_put(&t->index, pair, (int32_t)t->count_count, 0));
        t->counts[t->count_count++] = 0;
        known = orri_pairs_get(&t->index, pair);
    }
    *count = &t->counts[known->first];
    return ORR_OK;
}

/* The pair is new in a word. Words come in order, so a word that is there already came last. */
static int note(struct trainer *t, uint64_t pair, int32_t word)
{
    struct orri_pair *known = orri_pairs_get(&t->fresh_index, pair);

    if (!known) {
        ORR_TRY(orri_grow(&t->fresh, &t->fresh_capacity, t->fresh_count, 1, sizeof(*t->fresh)));
        ORR_TRY(orri_pairs_put(&t->fresh_index, pair, (int32_t)t->fresh_count, 0));
        t->fresh[t->fresh_count++] = (struct entry){.pair = pair};
        known = orri_pairs_get(&t->fresh_index, pair);
    }
    struct places *p = &t->fresh[known->first].places;
    if (p->count > 0 && p->word[p->count - 1] == word)
        return ORR_OK;
    ORR_TRY(orri_grow(&p->word, &p->capacity, p->count, 1, sizeof(*p->word)));
    p->word[p->count++] = word;
    return ORR_OK;
}

static int change(struct trainer *t, int32_t a, int32_t b, int32_t word, int by)
{
    int64_t *count;

    ORR_TRY(count_of(t, ORRI_PAIR(a, b), &count));
    *count += by * t->words[word].count;
    return by > 0 ? note(t, ORRI_PAIR(a, b), word) : ORR_OK;
}

/* ---- the heap: the commonest pair is on top, of equals that with the lowest ids ----------------------------------------- */

static bool before(const struct entry *a, const struct entry *b)
{
    return a->count != b->count ? a->count > b->count : a->pair < b->pair;
}

static int push(struct trainer *t, struct entry entry)
{
    ORR_TRY(orri_grow(&t->heap, &t->heap_capacity, t->heap_count, 1, sizeof(*t->heap)));
    size_t at = t->heap_count++;
    for (size_t up; at > 0 && before(&entry, &t->heap[up = (at - 1) / 2]); at = up)
        t->heap[at] = t->heap[up];
    t->heap[at] = entry;
    return ORR_OK;
}

static struct entry pop(struct trainer *t)
{
    struct entry top = t->heap[0], last = t->heap[--t->heap_count];
    size_t at = 0;

    for (size_t down; (down = 2 * at + 1) < t->heap_count; at = down) {
        if (down + 1 < t->heap_count && before(&t->heap[down + 1], &t->heap[down]))
            down++;
        if (!before(&t->heap[down], &last))
            break;
        t->heap[at] = t->heap[down];
    }
    t->heap[at] = last;
    return top;
}

/* The pairs that newly appeared go into the heap. */
static int push_fresh(struct trainer *t)
{
    int status = ORR_OK;

    for (size_t i = 0; i < t->fresh_count; i++) {
        struct entry *e = &t->fresh[i];
        int64_t *count;
        if (status == 0)
            status = count_of(t, e->pair, &count);
        if (status == 0)
            e->count = *count;
        if (status == 0 && e->count > 0)
            status = push(t, *e);
        else
            free(e->places.word);
    }
    t->fresh_count = 0;
    orri_pairs_free(&t->fresh_index);
    return status;
}

/* ---- merging ------------------------------------------------------------------------------------------------------------- */

/* In a word a pair becomes `token`, from left to right; its neighbours make other pairs. */
static int merge_in(struct trainer *t, int32_t word, int32_t a, int32_t b, int32_t token)
{
    struct word *w = &t->words[word];
    int32_t length = 0;

    for (int32_t i = 0; i < w->length; i++) {
        if (w->token[i] != a || i + 1 == w->length || w->token[i + 1] != b) {
            w->token[length++] = w->token[i];
            continue;
        }
        if (length > 0) {
            ORR_TRY(change(t, w->token[length - 1], a, word, -1));
            ORR_TRY(change(t, w->token[length - 1], token, word, 1));
        }
        w->token[length++] = token;
        i++;
        if (i + 1 < w->length) {
            ORR_TRY(change(t, b, w->token[i + 1], word, -1));
            ORR_TRY(change(t, token, w->token[i + 1], word, 1));
        }
    }
    w->length = length;
    return ORR_OK;
}

/* The token that two become: another pair may have become the same. */
static int join(struct trainer *t, int32_t a, int32_t b, int32_t *token)
{
    struct orri_text both = {0};
    int status = orri_text_add(&both, t->vocab.token[a], t->vocab.size[a]);

    if (status == 0)
        status = orri_text_add(&both, t->vocab.token[b], t->vocab.size[b]);
    if (status == 0) {
        *token = orri_vocab_id(&t->vocab, both.data, both.size);
        if (*token < 0)
            status = orri_vocab_add(&t->vocab, both.data, both.size, *token = t->vocab.count, true);
    }
    orri_text_free(&both);
    return status;
}

static int merge(struct trainer *t, const struct entry *top)
{
    const int32_t a = (int32_t)(top->pair >> 32), b = (int32_t)top->pair;
    int32_t token;

    ORR_TRY(join(t, a, b, &token));
    ORR_TRY(orri_grow(&t->merges, &t->merge_capacity, t->merge_count, 1, sizeof(*t->merges)));
    t->merges[t->merge_count++].pair = top->pair;
    for (size_t i = 0; i < top->places.count; i++)
        ORR_TRY(merge_in(t, top->places.word[i], a, b, token));
    return push_fresh(t);
}

static int merge_all(struct trainer *t, int vocab_size)
{
    for (int i = 0; i < t->seen.count; i++)
        for (int32_t k = 0; k + 1 < t->words[i].length; k++)
            ORR_TRY(change(t, t->words[i].token[k], t->words[i].token[k + 1], i, 1));
    ORR_TRY(push_fresh(t));
    while (t->vocab.count < vocab_size && t->heap_count > 0) {
        struct entry top = pop(t);
        int64_t *count;
        int status = count_of(t, top.pair, &count);
        if (status == 0 && *count != top.count) {
            top.count = *count;
            status = push(t, top);
            if (status == 0)
                continue;
        }
        bool done = status != 0 || top.count < 1;
        if (!done)
            status = merge(t, &top);
        free(top.places.word);
        ORR_TRY(status);
        if (done)
            break;
    }
    return ORR_OK;
}

/* ---- the file --------------------------------------------------------------------------------------------------------------- */

/* A pair that was merged twice has the later rank. */
static json_t *merges_object(const struct trainer *t)
{
    struct orri_pairs last = {0};
    json_t *list = json_array();
    int status = list ? ORR_OK : ORR_ENOMEM;

    for (size_t i = 0; status == 0 && i < t->merge_count; i++)
        status = orri_pairs_put(&last, t->merges[i].pair, (int32_t)i, 0);
    for (size_t i = 0; status == 0 && i < t->merge_count; i++) {
        const uint64_t pair = t->merges[i].pair;
        if (orri_pairs_get(&last, pair)->first == (int32_t)i)
            status = json_array_append_new(list, json_pack("[s, s]", t->vocab.token[pair >> 32], t->vocab.token[(uint32_t)pair]));
    }
    orri_pairs_free(&last);
    if (status == 0)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *vocab_object(const struct trainer *t)
{
    json_t *vocab = json_object();

    for (int i = 0; vocab && i < t->vocab.count; i++)
        json_object_set_new(vocab, t->vocab.token[i], json_integer(i));
    return vocab;
}

static int write(const struct trainer *t, int special_count, const char *out)
{
    json_t *added = json_array();

    for (int i = 0; i < special_count; i++)
        json_array_append_new(added, orri_added_object(t->vocab.token[i], i, false));
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", false, "byte_fallback", false,
                              "ignore_merges", false, "vocab", vocab_object(t), "merges", merges_object(t));
    json_t *object = json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                               "added_tokens", added, "normalizer", "pre_tokenizer", orri_byte_level_object(false),
                               "post_processor", "decoder", orri_byte_level_object(true), "model", model);
    int status = object ? orri_json_save(out, object) : orri_fail(ORR_ENOMEM, out, "no room for its JSON text");
    json_decref(object);
    return status;
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------------- */

static void trainer_free(struct trainer *t)
{
    for (int i = 0; t->words && i < t->seen.count; i++)
        free(t->words[i].token);
    for (size_t i = 0; i < t->heap_count; i++)
        free(t->heap[i].places.word);
    for (size_t i = 0; i < t->fresh_count; i++)
        free(t->fresh[i].places.word);
    free(t->words);
    free(t->times);
    free(t->merges);
    free(t->counts);
    free(t->fresh);
    free(t->heap);
    orri_vocab_free(&t->seen);
    orri_vocab_free(&t->vocab);
    orri_pairs_free(&t->index);
    orri_pairs_free(&t->fresh_index);
}

static int train(struct trainer *t, const char *const *paths, int count, int vocab_size, const char *const *special, int special_count,
                 const char *out)
{
    int32_t token[256];

    ORR_TRY(add_special(t, special, special_count));
    special_count = t->vocab.count;
    ORR_TRY(add_bytes(t, token));
    if (vocab_size < t->vocab.count)
        return orri_remedy(orri_fail(ORR_EINVAL, "tokenizer", "a vocabulary of %d tokens has no room for every byte", vocab_size),
                           "choose %d tokens at least", t->vocab.count);
    for (int i = 0; i < count; i++)
        ORR_TRY(count_file(t, paths[i]));
    ORR_TRY(make_words(t, token));
    ORR_TRY(merge_all(t, vocab_size));
    return write(t, special_count, out);
}

int orr_tokenizer_train(const char *const *paths, int count, int vocab_size, const char *const *special, int special_count,
                        const char *out)
{
    struct trainer t = {0};
    int status = train(&t, paths, count, vocab_size, special, special_count, out);

    trainer_free(&t);
    return status;
}
