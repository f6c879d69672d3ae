/* SPDX-License-Identifier: Apache-2.0 */
#include "data/rows.h"

#include "core/core.h"

#include <orrery/dtype.h>

static bool has(const struct orr_masking *m, enum orr_special special)
{
    return m->specials[special] >= 0;
}

/* The tokens of the corpus that a row takes. */
static int body_of(const struct orr_masking *m)
{
    return m->seq - has(m, ORR_CLASS) - has(m, ORR_SEPARATOR);
}

/* All but the sampler. */
static int prepare(struct orr_masking *m, const struct orr_tokenizer *tokenizer, int seq, double probability)
{
    *m = (struct orr_masking){.seq = seq, .probability = (float)probability, .vocab = orr_tokenizer_vocab_size(tokenizer)};
    for (int i = 0; i < ORR_SPECIALS; i++)
        m->specials[i] = orr_tokenizer_special(tokenizer, (enum orr_special)i);
    if (!has(m, ORR_MASK))
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "the tokenizer %s has no token that masks others",
                                     orr_tokenizer_name(tokenizer)), "give one with [MASK] with --tokenizer");
    if (!(probability > 0 && probability <= 1))
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "tokens masked with a probability of %g", probability),
                           "give one above 0, and not above 1");
    if (body_of(m) < 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "rows of %d tokens have no room for text", seq),
                           "give a length of %d or more", seq - body_of(m) + 1);
    return 0;
}

int orr_masking_init(struct orr_masking *masking, const struct orr_corpus *corpus, struct orr_range range,
                     const struct orr_tokenizer *tokenizer, int seq, double probability, uint64_t seed)
{
    ORR_TRY(prepare(masking, tokenizer, seq, probability));
    return orr_sampler_init(&masking->sampler, corpus, range, body_of(masking), seed);
}

int orr_masking_init_sequential(struct orr_masking *masking, const struct orr_corpus *corpus, struct orr_range range,
                                const struct orr_tokenizer *tokenizer, int seq, double probability, uint64_t seed)
{
    ORR_TRY(prepare(masking, tokenizer, seq, probability));
    const int body = body_of(masking);
    ORR_TRY(orr_sampler_init_sequential(&masking->sampler, corpus, range, body));
    masking->sampler.seed = seed;
    masking->sampler.windows = (range.last - range.first - 1) / body + 1;   /* no token needs a next one here */
    return 0;
}

static bool is_special(const struct orr_masking *m, int32_t token)
{
    for (int i = 0; i < ORR_SPECIALS; i++)
        if (i != ORR_UNKNOWN && token == m->specials[i])
            return true;
    return false;
}

/* A fraction of 2^32. */
static bool below(uint32_t word, double fraction)
{
    return (double)word < fraction * 4294967296.0;
}

/* The label of position t of row n, and what stands there: of the four words of the position one chooses it, one says what
 * becomes of it, one which token of the vocabulary it may be. */
static int32_t mask(const struct orr_masking *m, int64_t n, int t, int32_t *token)
{
    const struct orr_rng rng = {m->sampler.seed, ORRI_STREAM_MASK, 0};
    const int32_t label = *token;
    uint32_t words[4];

    if (is_special(m, label))
        return ORR_IGNORE;
    orr_rng_words(&rng, 4 * ((uint64_t)n * (uint64_t)m->seq + (uint64_t)t), 4, words);
    if (!below(words[0], m->probability))
        return ORR_IGNORE;
    if (below(words[1], 0.8))
        *token = m->specials[ORR_MASK];
    else if (below(words[1], 0.9))
        *token = (int32_t)((uint64_t)words[2] * (uint64_t)m->vocab >> 32);
    return label;
}

/* Puts the text of row n behind its [CLS], in front of its [SEP]: *size is where they end. */
static int put_text(const struct orr_masking *m, int64_t n, int32_t *tokens, int *size)
{
    const struct orr_sampler *s = &m->sampler;
    int at = 0;

    *size = 0;
    if (s->sequential && n >= s->windows)
        return 0;
    const int64_t begin = orri_sampler_begin(s, n), left = s->range.last - s->range.first - begin;
    const int64_t count = left < s->seq ? left : s->seq;
    if (has(m, ORR_CLASS))
        tokens[at++] = m->specials[ORR_CLASS];
    ORR_TRY(orr_corpus_read(s->corpus, s->range.first + begin, count, tokens + at));
    at += (int)count;
    if (has(m, ORR_SEPARATOR))
        tokens[at++] = m->specials[ORR_SEPARATOR];
    *size = at;
    return 0;
}

static int read_row(const struct orr_masking *m, int64_t n, const struct orr_row_arrays *row)
{
    int size;

    ORR_TRY(put_text(m, n, row->tokens, &size));
    for (int t = 0; t < size; t++) {
        int32_t label = mask(m, n, t, &row->tokens[t]);
        if (row->labels)
            row->labels[t] = label;
        if (row->places)
            row->places[t] = t;
        if (row->types)
            row->types[t] = 0;
    }
    orri_row_pad(row, m->seq, size, has(m, ORR_PAD) ? m->specials[ORR_PAD] : 0);
    return 0;
}

int orr_masking_read(const struct orr_masking *masking, int64_t first, int count, const struct orr_row_arrays *rows)
{
    if (first < 0)
        return orri_fail(ORR_EINVAL, "data", "row number %lld", (long long)first);
    if (rows->source || rows->source_places || !rows->tokens)
        return orri_fail(ORR_EINVAL, "data", rows->tokens ? "text has no source" : "rows without tokens");
    for (int i = 0; i < count; i++) {
        const struct orr_row_arrays row = orri_rows_at(rows, masking->seq, i);
        ORR_TRY(read_row(masking, first + i, &row));
    }
    return 0;
}

static int read_source(void *self, int64_t first, int count, const struct orr_row_arrays *rows)
{
    return orr_masking_read(self, first, count, rows);
}

struct orr_row_source orr_masking_source(struct orr_masking *masking)
{
    return (struct orr_row_source){read_source, masking, masking->seq, false};
}
