/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>
#include <sys/stat.h>

struct orr_tokenizer *orr_tokenizer_open(const char *name)
{
    struct stat st;

    if (strcmp(name, orri_tokenizer_bytes.name) == 0)
        return orri_tokenizer_bytes_create();
    if (stat(name, &st) == 0)
        return orri_files_open(name);
    orri_remedy(orri_fail(ORR_EINVAL, "tokenizer", "there is none called \"%s\", and no such file", name),
                "name a tokenizer.json, vocabulary files, their directory, or %s", orri_tokenizer_bytes.name);
    return NULL;
}

void orr_tokenizer_destroy(struct orr_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    if (tokenizer->class->destroy)
        tokenizer->class->destroy(tokenizer);
    free(tokenizer->one.part);
    free(tokenizer->two.part);
    free(tokenizer->name);
    free(tokenizer);
}

const char *orr_tokenizer_name(const struct orr_tokenizer *tokenizer)
{
    return tokenizer->name ? tokenizer->name : tokenizer->class->name;
}

int orr_tokenizer_vocab_size(const struct orr_tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

int orr_tokenizer_encode(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                         size_t *count)
{
    return tokenizer->class->encode(tokenizer, text, size, ids, count);
}

int orr_tokenizer_decode(const struct orr_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *size)
{
    return tokenizer->class->decode(tokenizer, ids, count, text, size);
}

int orr_tokenizer_save(const struct orr_tokenizer *tokenizer, const char *directory)
{
    return tokenizer->class->save ? tokenizer->class->save(tokenizer, directory) : ORR_OK;
}

/* ---- tokens with a meaning of their own ------------------------------------------------------------------- */

int32_t orr_tokenizer_special(const struct orr_tokenizer *tokenizer, enum orr_special special)
{
    return tokenizer->class->special ? tokenizer->class->special(tokenizer, special) : -1;
}

int32_t orr_tokenizer_id(const struct orr_tokenizer *tokenizer, const char *token)
{
    return tokenizer->class->id ? tokenizer->class->id(tokenizer, token) : -1;
}

const char *orr_tokenizer_token(const struct orr_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->class->token ? tokenizer->class->token(tokenizer, id) : NULL;
}

/* ---- whole inputs ------------------------------------------------------------------------------------------ */

void orr_encoding_free(struct orr_encoding *e)
{
    free(e->ids);
    free(e->types);
    free(e->words);
    *e = (struct orr_encoding){0};
}

/* Room for so many more, and at least one. */
static int make_room(struct orr_encoding *e, size_t more)
{
    size_t n = e->count + more, bytes = (n ? n : 1) * sizeof(int32_t);
    int32_t **arrays[] = {&e->ids, &e->types, &e->words};

    for (int i = 0; i < 3; i++) {
        int32_t *larger = realloc(*arrays[i], bytes);
        if (!larger)
            return orri_fail(ORR_ENOMEM, "tokenizer", "no room for %zu ids", n);
        *arrays[i] = larger;
    }
    return ORR_OK;
}

static int append_ids(struct orr_encoding *e, const int32_t *ids, size_t count, int32_t type, int32_t word)
{
    ORR_TRY(make_room(e, count));
    for (size_t i = 0; i < count; i++) {
        e->ids[e->count] = ids[i];
        e->types[e->count] = type;
        e->words[e->count++] = word;
    }
    return ORR_OK;
}

/* A sequence: a text, or words, which are encoded one by one. */
struct sequence {
    const char *text;
    size_t size;
    const char *const *words;
    size_t count;
};

static int append_text(const struct orr_tokenizer *tokenizer, const char *text, size_t size, int32_t type, int32_t word,
                       struct orr_encoding *e)
{
    int32_t *ids;
    size_t count;

    ORR_TRY(orr_tokenizer_encode(tokenizer, text, size, &ids, &count));
    int status = append_ids(e, ids, count, type, word);
    free(ids);
    return status;
}

static int append_sequence(const struct orr_tokenizer *tokenizer, const struct sequence *s, int32_t type, struct orr_encoding *e)
{
    if (!s->words)
        return append_text(tokenizer, s->text, s->size, type, -1, e);
    ORR_TRY(make_room(e, 0));
    for (size_t w = 0; w < s->count; w++)
        ORR_TRY(append_text(tokenizer, s->words[w], strlen(s->words[w]), type, (int32_t)w, e));
    return ORR_OK;
}

static int encode_input(const struct orr_tokenizer *tokenizer, const struct sequence *sequences, size_t count, struct orr_encoding *e)
{
    static const struct orri_part plain[] = {{0, -1, 0}, {1, -1, 1}};
    const struct orri_template *chosen = count == 2 ? &tokenizer->two : &tokenizer->one;
    const struct orri_part *parts = chosen->count ? chosen->part : plain;
    size_t n = chosen->count ? chosen->count : count;
    int status = ORR_OK;

    *e = (struct orr_encoding){0};
    for (size_t i = 0; status == 0 && i < n; i++)
        status = parts[i].sequence < 0 ? append_ids(e, &parts[i].id, 1, parts[i].type, -1)
                                       : append_sequence(tokenizer, &sequences[parts[i].sequence], parts[i].type, e);
    if (status != 0)
        orr_encoding_free(e);
    return status;
}

int orr_tokenizer_encode_input(const struct orr_tokenizer *tokenizer, const char *first, size_t first_size, const char *second,
                               size_t second_size, struct orr_encoding *encoding)
{
    const struct sequence sequences[] = {{.text = first, .size = first_size}, {.text = second, .size = second_size}};

    return encode_input(tokenizer, sequences, second ? 2 : 1, encoding);
}

int orr_tokenizer_encode_words(const struct orr_tokenizer *tokenizer, const char *const *words, size_t count,
                               struct orr_encoding *encoding)
{
    static const char *const none[] = {NULL};
    const struct sequence sequence = {.words = words ? words : none, .count = count};

    return encode_input(tokenizer, &sequence, 1, encoding);
}
