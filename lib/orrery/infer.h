/* SPDX-License-Identifier: Apache-2.0 */
/* Running a model forward: logits and generated tokens. */
#ifndef ORRERY_INFER_H
#define ORRERY_INFER_H

#include <stdbool.h>
#include <stdint.h>

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_predictor;

/* Prepares predictions of a built model of `vocab` tokens, width C, for sequences of up to `positions` tokens. The
 * model is borrowed and must outlive it. */
struct orr_predictor *orr_predictor_create(struct orr_model *model, int vocab, int width, int positions);
void orr_predictor_destroy(struct orr_predictor *predictor);

/* What it was created with. */
int orr_predictor_vocab(const struct orr_predictor *predictor);
int orr_predictor_positions(const struct orr_predictor *predictor);

/* Runs one sequence of `count` tokens and gives, for its last `rows` positions, logits[rows][vocab] and, unless
 * NULL, hidden[rows][width] (behind the last norm). Waits. ORR_EINVAL where count is not in 1..positions, rows not in
 * 1..count or a token not in the vocabulary. */
int orr_predict(struct orr_predictor *predictor, const int32_t *tokens, int count, int rows, float *logits,
                float *hidden);

/* How the next token is chosen. temperature 0: the most likely one. Otherwise softmax(logits / temperature) is cut to
 * the top_k most likely (0: all), then to the fewest whose probabilities reach top_p (1: all; Holtzman et al. 2020),
 * and drawn from with element `position` of a Philox stream of the seed. */
struct orr_sampling {
    double temperature;
    int top_k;
    double top_p;
    uint64_t seed;
};

/* The token chosen from logits[vocab], or ORR_ENOMEM. Any thread. */
int orr_sample_token(const float *logits, int vocab, const struct orr_sampling *sampling, uint64_t position);

/* Appends up to `more` tokens to tokens[count], which has room for count + more. Sees the last `positions` tokens at
 * most; stops after token `stop` (-1: never). emit, unless NULL, is called with each token as it is chosen; it returns
 * false to stop. Returns the new count or a negative code. */
int orr_generate(struct orr_predictor *predictor, int32_t *tokens, int count, int more, int32_t stop,
                 const struct orr_sampling *sampling, bool (*emit)(void *self, int32_t token), void *self);

#ifdef __cplusplus
}
#endif
#endif
