/* SPDX-License-Identifier: Apache-2.0 */
/* The object of a tokenizer.json to a tokenizer. */
#include "core/core.h"
#include "text/text.h"

#include <stdio.h>
#include <stdlib.h>

/* A table of tokens has a place for every id. */
enum { IDS = 1 << 24 };

/* ---- models ------------------------------------------------------------------------------------------------------ */

static int add_token(struct orri_files *t, const struct orri_component *c, const char *token, size_t size, int64_t id)
{
    if (id < t->vocab.count && t->vocab.token[id])
        return orri_component_fail(c, "vocab: id %lld is \"%.64s\" and \"%.64s\"", (long long)id, t->vocab.token[id], token);
    if (orri_vocab_id(&t->vocab, token, size) >= 0)
        return orri_component_fail(c, "vocab: \"%.64s\" is there twice", token);
    return orri_vocab_add(&t->vocab, token, size, (int32_t)id, true);
}

static int load_vocab(struct orri_files *t, const struct orri_component *c)
{
    json_t *vocab = json_object_get(c->json, "vocab"), *id;
    const char *token;

    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return orri_component_fail(c, "vocab is no object of tokens and ids");
    json_object_foreach(vocab, token, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= IDS)
            return orri_component_fail(c, "vocab: the id of \"%.64s\" is not an integer between 0 and %d", token, IDS - 1);
        ORR_TRY(add_token(t, c, token, strlen(token), json_integer_value(id)));
    }
    return ORR_OK;
}

/* The id of the token that stands for unknown ones. */
static int load_unknown(struct orri_files *t, const struct orri_component *c, bool needed)
{
    char *token;
    size_t size;

    t->model.unknown = -1;
    ORR_TRY(orri_component_text(c, "unk_token", needed, &token, &size));
    if (!token)
        return ORR_OK;
    t->model.unknown = orri_vocab_id(&t->vocab, token, size);
    int status = t->model.unknown >= 0 ? ORR_OK : orri_component_fail(c, "unk_token \"%.64s\" is not in the vocabulary", token);
    free(token);
    return status;
}

static int load_byte_fallback(struct orri_files *t, const struct orri_component *c)
{
    char token[8];

    for (int byte = 0; byte < 256; byte++) {
        snprintf(token, sizeof(token), "<0x%02X>", (unsigned)byte);
        t->model.byte[byte] = orri_vocab_id(&t->vocab, token, strlen(token));
    }
    return orri_component_bool(c, "byte_fallback", false, &t->model.byte_fallback);
}

/* "a b", or ["a", "b"]. */
static bool read_merge(const json_t *merge, const char **a, size_t *a_size, const char **b, size_t *b_size)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        *a = json_string_value(json_array_get(merge, 0));
        *b = json_string_value(json_array_get(merge, 1));
        if (!*a || !*b)
            return false;
        *a_size = strlen(*a);
    } else {
        *a = json_string_value(merge);
        const char *blank = *a ? strchr(*a, ' ') : NULL;
        if (!blank || strchr(blank + 1, ' '))
            return false;
        *a_size = (size_t)(blank - *a);
        *b = blank + 1;
    }
    *b_size = strlen(*b);
    return true;
}

/* What two tokens become; the second without the prefix of continuing parts. */
static int merged_id(const struct orri_files *t, struct orri_text *both, const char *a, size_t a_size, const char *b, size_t b_size,
                     int32_t *id)
{
    const size_t skipped = t->model.prefix_size < b_size ? t->model.prefix_size : b_size;

    both->size = 0;
    ORR_TRY(orri_text_add(both, a, a_size));
    ORR_TRY(orri_text_add(both, b + skipped, b_size - skipped));
    *id = orri_vocab_id(&t->vocab, both->data, both->size);
    return ORR_OK;
}

static int load_merge(struct orri_files *t, const struct orri_component *c, const json_t *merge, size_t rank, struct orri_text *both)
{
    const char *a, *b;
    size_t a_size, b_size;
    int32_t id;

    if (!read_merge(merge, &a, &a_size, &b, &b_size))
        return orri_component_fail(c, "merges[%zu] is not two tokens", rank);
    int32_t first = orri_vocab_id(&t->vocab, a, a_size), second = orri_vocab_id(&t->vocab, b, b_size);
    if (first < 0)
        return orri_component_fail(c, "merges[%zu]: \"%.*s\" is not in the vocabulary", rank, (int)(a_size < 64 ? a_size : 64), a);
    if (second < 0)
        return orri_component_fail(c, "merges[%zu]: \"%.64s\" is not in the vocabulary", rank, b);
    ORR_TRY(merged_id(t, both, a, a_size, b, b_size, &id));
    if (id < 0)
        return orri_component_fail(c, "merges[%zu]: the two tokens together are not in the vocabulary", rank);
    return orri_pairs_put(&t->model.merges, ORRI_PAIR(first, second), (int32_t)rank, id);
}

static int load_merges(struct orri_files *t, const struct orri_component *c)
{
    const json_t *merges = json_object_get(c->json, "merges");
    struct orri_text both = {0};
    int status = ORR_OK;

    if (!json_is_array(merges))
        return orri_component_fail(c, "merges is no list");
    for (size_t i = 0; status == 0 && i < json_array_size(merges); i++)
        status = load_merge(t, c, json_array_get(merges, i), i, &both);
    orri_text_free(&both);
    return status;
}

static int load_affix(const struct orri_component *c, const char *key, char **affix, size_t *size)
{
    ORR_TRY(orri_component_text(c, key, false, affix, size));
    if (*size == 0) {
        free(*affix);
        *affix = NULL;
    }
    return ORR_OK;
}

static int load_bpe(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                                       "byte_fallback", "ignore_merges", "vocab", "merges", NULL};
    struct orri_model *m = &t->model;
    const json_t *dropout = json_object_get(c->json, "dropout");
    char text[U8_MAX_LENGTH];

    m->encode = orri_bpe_encode;
    ORR_TRY(orri_component_keys(c, keys));
    if (dropout && !json_is_null(dropout))
        return orri_component_fail(c, "dropout is not null: merges are not left out at random here");
    ORR_TRY(load_vocab(t, c));
    ORR_TRY(load_unknown(t, c, false));
    ORR_TRY(load_byte_fallback(t, c));
    ORR_TRY(orri_component_bool(c, "fuse_unk", false, &m->fuse_unknown));
    ORR_TRY(orri_component_bool(c, "ignore_merges", false, &m->ignore_merges));
    ORR_TRY(load_affix(c, "continuing_subword_prefix", &m->prefix, &m->prefix_size));
    ORR_TRY(load_affix(c, "end_of_word_suffix", &m->suffix, &m->suffix_size));
    for (UChar32 i = 0; i < (UChar32)ORRI_COUNT(m->character); i++) {
        size_t size = 0;
        U8_APPEND_UNSAFE((uint8_t *)text, size, i);
        m->character[i] = orri_vocab_id(&t->vocab, text, size);
    }
    return load_merges(t, c);
}

static int load_wordpiece(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab", NULL};
    struct orri_model *m = &t->model;

    m->encode = orri_wordpiece_encode;
    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(load_vocab(t, c));
    ORR_TRY(load_unknown(t, c, true));
    ORR_TRY(orri_component_text(c, "continuing_subword_prefix", true, &m->prefix, &m->prefix_size));
    return orri_component_int(c, "max_input_chars_per_word", 0, INT64_MAX, &m->longest);
}

static int load_wordlevel(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"unk_token", "vocab", NULL};

    t->model.encode = orri_wordlevel_encode;
    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(load_vocab(t, c));
    return load_unknown(t, c, true);
}

/* A list of tokens and scores; a token's place is its id. */
static int load_scores(struct orri_files *t, const struct orri_component *c)
{
    const json_t *vocab = json_object_get(c->json, "vocab");
    struct orri_model *m = &t->model;
    double lowest = 0;

    if (!json_is_array(vocab) || json_array_size(vocab) == 0 || json_array_size(vocab) > IDS)
        return orri_component_fail(c, "vocab is no list of at most %d tokens and scores", IDS);
    m->score = orri_alloc(json_array_size(vocab) * sizeof(*m->score));
    if (!m->score)
        return ORR_ENOMEM;
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *pair = json_array_get(vocab, i), *token = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_string(token) || !json_is_number(score))
            return orri_component_fail(c, "vocab[%zu] is not [\"token\", score]", i);
        m->score[i] = json_number_value(score);
        lowest = i == 0 || m->score[i] < lowest ? m->score[i] : lowest;
        ORR_TRY(add_token(t, c, json_string_value(token), json_string_length(token), (int64_t)i));
        ORR_TRY(orri_trie_add(&m->pieces, json_string_value(token), json_string_length(token), (int32_t)i));
    }
    m->unknown_score = lowest - 10;
    return ORR_OK;
}

static int load_unigram(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"unk_id", "vocab", "byte_fallback", NULL};
    int64_t unknown;

    t->model.encode = orri_unigram_encode;
    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(load_scores(t, c));
    ORR_TRY(load_byte_fallback(t, c));
    ORR_TRY(orri_component_int(c, "unk_id", 0, t->vocab.count - 1, &unknown));
    t->model.unknown = (int32_t)unknown;
    return ORR_OK;
}

int orri_load_model(struct orri_files *t, const struct orri_component *c)
{
    static const struct {
        const char *type;
        int (*load)(struct orri_files *t, const struct orri_component *c);
    } types[] = {{"BPE", load_bpe}, {"WordPiece", load_wordpiece}, {"WordLevel", load_wordlevel}, {"Unigram", load_unigram}};

    for (size_t i = 0; i < ORRI_COUNT(types); i++)
        if (strcmp(c->type, types[i].type) == 0)
            return types[i].load(t, c);
    return orri_component_unknown(c);
}

/* Files of early versions have models without a type. */
static int read_model(struct orri_component *c, const char *file, const json_t *json)
{
    if (!json_is_object(json) || json_object_get(json, "type"))
        return orri_component_read(c, file, "model", json);
    *c = (struct orri_component){.file = file, .name = "model", .json = json};
    c->type = json_object_get(json, "merges") ? "BPE" : json_object_get(json, "continuing_subword_prefix") ? "WordPiece"
              : json_is_array(json_object_get(json, "vocab")) ? "Unigram" : "WordLevel";
    return ORR_OK;
}

/* ---- added tokens ------------------------------------------------------------------------------------------------- */

/* Where the model knows the token it has the model's id, else one that is free. */
static int add_to_vocab(struct orri_files *t, const struct orri_component *c, const struct orri_added *a)
{
    int32_t known = orri_vocab_id(&t->vocab, a->text, a->size);

    if (known == a->id)
        return ORR_OK;
    if (known >= 0)
        return orri_component_fail(c, "\"%.64s\" has id %d, in the model's vocabulary %d", a->text, (int)a->id, (int)known);
    if (a->id < t->vocab.count && t->vocab.token[a->id])
        return orri_component_fail(c, "id %d is \"%.64s\" and \"%.64s\"", (int)a->id, t->vocab.token[a->id], a->text);
    return orri_vocab_add(&t->vocab, a->text, a->size, a->id, false);
}

static int add_to_trie(struct orri_files *t, struct orri_encoder *e, int index)
{
    struct orri_added *a = &t->added[index];
    struct orri_text copy = {0};
    const char *text;
    size_t size;

    if (!a->normalized)
        return orri_trie_add(&t->raw, a->text, a->size, index);
    ORR_TRY(orri_normalize(e, a->text, a->size, &text, &size));
    ORR_TRY(orri_trie_add(&t->normalized, text, size, index));
    if (size == a->size && memcmp(text, a->text, size) == 0)
        return ORR_OK;
    ORR_TRY(orri_text_add(&copy, text, size));
    a->normal = copy.data;
    a->normal_size = size;
    return orri_pairs_put(&t->respelled, (uint64_t)a->id, index, 0);
}

static int load_token(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", NULL};
    struct orri_added *a;
    int64_t id;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_int(c, "id", 0, IDS - 1, &id));
    ORR_TRY(orri_step_add(&t->added, &t->added_count, sizeof(*a), &a));
    a->id = (int32_t)id;
    ORR_TRY(orri_component_text(c, "content", true, &a->text, &a->size));
    if (a->size == 0)
        return orri_component_fail(c, "content is empty");
    ORR_TRY(orri_component_bool(c, "single_word", false, &a->single_word));
    ORR_TRY(orri_component_bool(c, "lstrip", false, &a->left));
    ORR_TRY(orri_component_bool(c, "rstrip", false, &a->right));
    ORR_TRY(orri_component_bool(c, "special", false, &a->special));
    ORR_TRY(orri_component_bool(c, "normalized", !a->special, &a->normalized));
    return add_to_vocab(t, c, a);
}

int orri_load_added(struct orri_files *t, const char *file, const json_t *list)
{
    struct orri_component c = {.file = file, .name = "added_tokens"};
    struct orri_encoder *e = NULL;
    int status = ORR_OK;

    if (list && !json_is_array(list))
        return orri_component_fail(&c, "is no list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        c.json = json_array_get(list, i);
        snprintf(c.name, sizeof(c.name), "added_tokens[%zu]", i);
        if (!json_is_object(c.json))
            return orri_component_fail(&c, "is no object");
        ORR_TRY(load_token(t, &c));
    }
    if (t->added_count > 0 && !(e = orri_encoder_take(t)))
        return ORR_ENOMEM;
    for (int i = 0; status == 0 && i < t->added_count; i++)
        status = add_to_trie(t, e, i);
    if (e)
        orri_encoder_give(e);
    return status;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------- */

static int load_part(struct orri_files *t, const char *file, const json_t *object, const char *key,
                     int (*load)(struct orri_files *t, const struct orri_component *c))
{
    const json_t *part = json_object_get(object, key);
    struct orri_component c;

    if (!part || json_is_null(part))
        return ORR_OK;
    ORR_TRY(orri_component_read(&c, file, key, part));
    return load(t, &c);
}

int orri_files_build(struct orri_files *t, const char *file, const json_t *object)
{
    static const char *const keys[] = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                       "post_processor", "decoder", "model", NULL};
    struct orri_component all = {.file = file, .name = "the file", .json = object}, model;

    ORR_TRY(orri_component_keys(&all, keys));
    ORR_TRY(read_model(&model, file, json_object_get(object, "model")));
    ORR_TRY(orri_load_model(t, &model));
    ORR_TRY(load_part(t, file, object, "normalizer", orri_load_normalizer));
    ORR_TRY(orri_load_added(t, file, json_object_get(object, "added_tokens")));
    ORR_TRY(load_part(t, file, object, "pre_tokenizer", orri_load_pre_tokenizer));
    orri_split_finish(t);
    ORR_TRY(load_part(t, file, object, "post_processor", orri_load_post_processor));
    ORR_TRY(load_part(t, file, object, "decoder", orri_load_decoder));
    t->base.vocab_size = t->vocab.count;
    return ORR_OK;
}

void orri_files_free(struct orri_files *t)
{
    for (struct orri_encoder *e; (e = t->idle) != NULL; orri_encoder_free(e))
        t->idle = e->next;
    for (int i = 0; i < t->added_count; i++) {
        free(t->added[i].text);
        free(t->added[i].normal);
    }
    for (int i = 0; i < t->normal_count; i++) {
        orri_pattern_free(&t->normal[i].pattern);
        free(t->normal[i].text);
        free(t->normal[i].units);
        unorm2_close(t->normal[i].form);
        uset_close(t->normal[i].known);
    }
    for (int i = 0; i < t->split_count; i++)
        orri_pattern_free(&t->split[i].pattern);
    for (int i = 0; i < t->decode_count; i++) {
        orri_pattern_free(&t->decode[i].pattern);
        free(t->decode[i].text);
    }
    for (int i = 0; i < t->source_count; i++) {
        free(t->source[i].name);
        free(t->source[i].data);
    }
    free(t->added);
    free(t->normal);
    free(t->split);
    free(t->decode);
    free(t->model.prefix);
    free(t->model.suffix);
    free(t->model.score);
    orri_pairs_free(&t->model.merges);
    orri_trie_free(&t->model.pieces);
    orri_trie_free(&t->raw);
    orri_pairs_free(&t->respelled);
    orri_trie_free(&t->normalized);
    orri_vocab_free(&t->vocab);
    ubrk_close(t->graphemes);
    pthread_mutex_destroy(&t->lock);
}
