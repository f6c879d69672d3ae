/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <math.h>
#include <stdlib.h>

#include "core/core.h"

enum { SAMPLING_STREAM = 0x67656e };

struct candidate {
    float logit;
    int token;
};

/* By falling logit, then by token, so that equal logits give the same choice everywhere. */
static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token - y->token;
}

static int most_likely(const float *logits, int vocab)
{
    int best = 0;

    for (int v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

int orr_sample_token(const float *logits, int vocab, const struct orr_sampling *s, int sequence, uint64_t position)
{
    if (s->temperature <= 0)
        return most_likely(logits, vocab);
    struct candidate *c = orri_alloc((size_t)vocab * sizeof(*c));
    if (!c)
        return ORR_ENOMEM;
    for (int v = 0; v < vocab; v++)
        c[v] = (struct candidate){logits[v], v};
    qsort(c, (size_t)vocab, sizeof(*c), by_logit);

    int kept = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    double total = 0;
    for (int i = 0; i < kept; i++)
        total += exp(((double)c[i].logit - c[0].logit) / s->temperature);
    double reach = s->top_p < 1 ? s->top_p * total : total, sum = 0;
    int n = 0;
    while (n < kept && (n == 0 || sum < reach))
        sum += exp(((double)c[n++].logit - c[0].logit) / s->temperature);

    struct orr_rng rng = {s->seed, SAMPLING_STREAM, (uint32_t)sequence};
    float uniform;
    orr_rng_uniform(&rng, position, 1, &uniform);
    double left = (double)uniform * sum;
    int i = 0;
    while (i < n - 1) {
        left -= exp(((double)c[i].logit - c[0].logit) / s->temperature);
        if (left < 0)
            break;
        i++;
    }
    int token = c[i].token;
    free(c);
    return token;
}

/* A token for each sequence that goes on; how many those are then, or a negative code. */
static int append(struct orr_sequence *sequences, int count, const float *logits, int vocab, int32_t stop,
                  const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self)
{
    int left = 0;

    for (int s = 0; s < count; s++) {
        struct orr_sequence *sequence = &sequences[s];
        if (sequence->ended)
            continue;
        int token = orr_sample_token(logits + (size_t)s * (size_t)vocab, vocab, sampling, s, (uint64_t)sequence->count);
        if (token < 0)
            return token;
        sequence->tokens[sequence->count++] = token;
        sequence->ended = (emit && !emit(self, s, token)) || token == stop;
        left += !sequence->ended;
    }
    return left;
}

int orr_generate(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                 const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self)
{
    int vocab = orr_predictor_vocab(predictor);
    float *logits = orri_alloc((size_t)count * (size_t)vocab * sizeof(*logits));
    int status = logits ? count : ORR_ENOMEM;

    for (int n = 0; n < more && status > 0; n++) {
        status = orr_predict_next(predictor, sequences, count, logits);
        if (status == 0)
            status = append(sequences, count, logits, vocab, stop, sampling, emit, self);
    }
    free(logits);
    return status < 0 ? status : ORR_OK;
}
