/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "infer/likely.h"

enum { SAMPLING_STREAM = 0x67656e };

/* ---- rules ------------------------------------------------------------------------------------------------------ */

static int penalize(double penalty, const int32_t *tokens, int count, float *logits, int vocab)
{
    bool *seen = orri_calloc((size_t)vocab, sizeof(*seen));

    if (!seen)
        return ORR_ENOMEM;
    for (int t = 0; t < count; t++) {
        float *logit = &logits[tokens[t]];
        if (!seen[tokens[t]])
            *logit = (float)(*logit > 0 ? *logit / penalty : *logit * penalty);
        seen[tokens[t]] = true;
    }
    free(seen);
    return ORR_OK;
}

/* Wherever the last n - 1 tokens have come before, what came behind them must not come now. */
static void forbid_repeats(int n, const int32_t *tokens, int count, float *logits)
{
    size_t before = (size_t)n - 1;

    for (int t = n - 1; t < count; t++)
        if (memcmp(tokens + t - before, tokens + count - before, before * sizeof(*tokens)) == 0)
            logits[tokens[t]] = -INFINITY;
}

int orr_apply_rules(const struct orr_rules *rules, const int32_t *tokens, int count, int added, int32_t stop, float *logits, int vocab)
{
    if (rules->repetition_penalty > 0 && rules->repetition_penalty != 1)
        ORR_TRY(penalize(rules->repetition_penalty, tokens, count, logits, vocab));
    if (rules->no_repeat_ngram > 0 && rules->no_repeat_ngram <= count)
        forbid_repeats(rules->no_repeat_ngram, tokens, count, logits);
    if (added < rules->min_tokens && stop >= 0 && stop < vocab)
        logits[stop] = -INFINITY;
    return ORR_OK;
}

/* ---- a token ------------------------------------------------------------------------------------------------------ */

static int most_likely(const float *logits, int vocab)
{
    int best = 0;

    for (int v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

/* What is drawn from: candidates in the order in which they were taken, and those that were not. */
struct draw {
    struct orri_likely rest;
    struct orri_candidate *taken;
    int count;                      /* taken so far */
    double temperature;
};

/* exp(logit / temperature), relative to the likeliest; of a token that must not come 0. */
static double weight(const struct draw *d, const struct orri_candidate *c)
{
    return c->score > -INFINITY ? exp((c->score - d->taken[0].score) / d->temperature) : 0;
}

/* The weight of candidate number n, by falling logit. */
static double weight_of(struct draw *d, int n)
{
    while (d->count <= n)
        d->taken[d->count++] = orri_likely_take(&d->rest);
    return weight(d, &d->taken[n]);
}

/* Of all, or of the first `kept`. */
static double total_weight(struct draw *d, int kept, bool all)
{
    double total = weight_of(d, 0);

    for (int i = 1; i < kept && !all; i++)
        total += weight_of(d, i);
    for (int i = 0; i < d->rest.count && all; i++)
        total += weight(d, &d->rest.candidate[i]);
    return total;
}

static int draw(struct draw *d, const struct orr_sampling *s, double uniform)
{
    int all = d->rest.count, kept = s->top_k > 0 && s->top_k < all ? s->top_k : all, n = 0;
    double sum = total_weight(d, kept, kept == all), reach = s->top_p * sum;

    if (s->top_p < 1) {
        for (sum = 0; n < kept && (n == 0 || sum < reach); n++)
            sum += weight_of(d, n);
        kept = n;
    }
    double left = uniform * sum;
    for (n = 0; n < kept - 1; n++) {
        left -= weight_of(d, n);
        if (left < 0)
            break;
    }
    weight_of(d, n);
    return d->taken[n].index;
}

int orr_sample_token(const float *logits, int vocab, const struct orr_sampling *s, int sequence, uint64_t position)
{
    struct orr_rng rng = {s->seed, SAMPLING_STREAM, (uint32_t)(s->first + sequence)};
    float uniform;

    if (s->temperature <= 0)
        return most_likely(logits, vocab);
    struct orri_candidate *c = orri_alloc(2 * (size_t)vocab * sizeof(*c));
    if (!c)
        return ORR_ENOMEM;
    for (int v = 0; v < vocab; v++)
        c[v] = (struct orri_candidate){(double)logits[v], v};
    struct draw d = {.taken = c + vocab, .temperature = s->temperature};
    orri_likely_make(&d.rest, c, vocab);
    orr_rng_uniform(&rng, position, 1, &uniform);
    int token = draw(&d, s, (double)uniform);
    free(c);
    return token;
}

/* ---- sequences ------------------------------------------------------------------------------------------------------ */

struct generation {
    struct orr_sequence *sequences;
    int count, vocab;
    int32_t stop;
    const struct orr_sampling *sampling;
    bool (*emit)(void *self, int sequence, int32_t token);
    void *self;
};

/* A token for sequence s, behind `added` others. */
static int append_one(const struct generation *g, int s, int added, float *logits)
{
    struct orr_sequence *sequence = &g->sequences[s];

    ORR_TRY(orr_apply_rules(&g->sampling->rules, sequence->tokens, sequence->count, added, g->stop, logits, g->vocab));
    int token = orr_sample_token(logits, g->vocab, g->sampling, s, (uint64_t)sequence->count);
    if (token < 0)
        return token;
    sequence->tokens[sequence->count++] = token;
    sequence->ended = (g->emit && !g->emit(g->self, s, token)) || token == g->stop;
    return ORR_OK;
}

/* A token for each sequence that goes on; how many those are then, or a negative code. */
static int append(const struct generation *g, int added, float *logits)
{
    int left = 0;

    for (int s = 0; s < g->count; s++) {
        if (g->sequences[s].ended)
            continue;
        ORR_TRY(append_one(g, s, added, logits + (size_t)s * (size_t)g->vocab));
        left += !g->sequences[s].ended;
    }
    return left;
}

int orr_generate(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                 const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self)
{
    const struct generation g = {sequences, count, orr_predictor_vocab(predictor), stop, sampling, emit, self};
    float *logits = orri_alloc((size_t)count * (size_t)g.vocab * sizeof(*logits));
    int status = logits ? count : ORR_ENOMEM;

    for (int n = 0; n < more && status > 0; n++) {
        status = orr_predict_next(predictor, sequences, count, logits);
        if (status == 0)
            status = append(&g, n, logits);
    }
    free(logits);
    return status < 0 ? status : ORR_OK;
}
