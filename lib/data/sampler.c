/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/data.h>
#include <orrery/rng.h>

#include "core/core.h"
#include "data/rows.h"

static int check(const struct orr_corpus *corpus, struct orr_range range, int seq, int64_t needed)
{
    const int64_t size = range.last - range.first;

    if (seq < 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "sequences of %d tokens", seq), "give a length of 1 or more");
    if (range.first < 0 || range.last < range.first || range.last > orr_corpus_size(corpus))
        return orri_fail(ORR_EINVAL, "data", "tokens %lld to %lld of a corpus of %lld", (long long)range.first,
                         (long long)range.last, (long long)orr_corpus_size(corpus));
    if (size >= needed)
        return 0;
    int rc = orri_fail(ORR_EINVAL, "data", "%lld tokens are too few: a sequence of %d and its last target take %lld",
                       (long long)size, seq, (long long)needed);
    if (size < 2)
        return orri_remedy(rc, "give more data");
    return orri_remedy(rc, "give more data, or a sequence length of %lld or less", (long long)size - 1);
}

int orr_sampler_init(struct orr_sampler *sampler, const struct orr_corpus *corpus, struct orr_range range, int seq,
                     uint64_t seed)
{
    ORR_TRY(check(corpus, range, seq, (int64_t)seq + 1));
    const int64_t size = range.last - range.first;
    int64_t windows = (size - seq) / seq;
    if (windows < 1)
        windows = 1;
    const int64_t slack = size - seq * windows;
    *sampler = (struct orr_sampler){
        .corpus = corpus,
        .range = range,
        .seq = seq,
        .seed = seed,
        .windows = windows,
        .shifts = slack < seq ? (int)slack : seq,
    };
    return 0;
}

int orr_sampler_init_sequential(struct orr_sampler *sampler, const struct orr_corpus *corpus, struct orr_range range,
                                int seq)
{
    ORR_TRY(check(corpus, range, seq, 2));
    *sampler = (struct orr_sampler){
        .corpus = corpus,
        .range = range,
        .seq = seq,
        .sequential = true,
        .windows = (range.last - range.first - 2) / seq + 1,
        .shifts = 1,
    };
    return 0;
}

int64_t orri_sampler_begin(const struct orr_sampler *s, int64_t n)
{
    if (s->sequential)
        return n * s->seq;

    const uint32_t epoch = (uint32_t)(n / s->windows);
    const struct orr_rng shift = {s->seed, ORRI_STREAM_SHIFT, epoch}, order = {s->seed, ORRI_STREAM_ORDER, epoch};
    uint32_t word;
    orr_rng_words(&shift, 0, 1, &word);
    return (int64_t)((uint64_t)word * (uint64_t)s->shifts >> 32) +
           s->seq * (int64_t)orr_rng_permute(&order, (uint64_t)s->windows, (uint64_t)(n % s->windows));
}

int orr_sampler_read(const struct orr_sampler *sampler, int64_t n, int32_t *input, int32_t *target)
{
    const int64_t size = sampler->range.last - sampler->range.first;

    if (n < 0 || (sampler->sequential && n >= sampler->windows))
        return orri_fail(ORR_EINVAL, "data", "sample number %lld of %lld", (long long)n, (long long)sampler->windows);
    const int64_t begin = orri_sampler_begin(sampler, n);
    const int64_t whole = size - 1 - begin < sampler->seq ? size - 1 - begin : sampler->seq;
    ORR_TRY(orr_corpus_read(sampler->corpus, sampler->range.first + begin, whole, input));
    ORR_TRY(orr_corpus_read(sampler->corpus, sampler->range.first + begin + 1, whole, target));
    for (int64_t k = whole; k < sampler->seq; k++) {
        input[k] = 0;
        target[k] = ORR_IGNORE;
    }
    return 0;
}
