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

/* From here on up to `sequences` of them are continued (0: none, as at first): what attention needs of their positions is kept,
 * in pages that are made as they grow (struct orr_past), so that a further token costs one position's work. ORR_EINVAL for a model
 * whose sequences are cut into chunks (sequence parallelism), ORR_ENOMEM. */
int orr_predictor_continue(struct orr_predictor *predictor, int sequences);

/* A sequence as it is now. */
struct orr_sequence {
    int32_t *tokens;
    int count;
    bool ended;         /* nothing more is asked for                                        */
};

/* The logits of the token behind each of `count` sequences that has not ended: logits[count][vocab], of which rows of ended ones
 * are left alone. Those that are continued and have got exactly one token since the last call are computed from what is kept, all
 * of them at once, and others whole, one by one; the tokens of a sequence number that were given before must be the same, unless
 * it has become shorter or at least two tokens longer. Of sequences of more than `positions` tokens the last ones are seen. Waits.
 * Errors as orr_predict(); ORR_EINVAL for more sequences than are continued, where any are. */
int orr_predict_next(struct orr_predictor *predictor, const struct orr_sequence *sequences, int count, float *logits);

/* How the next token is chosen. temperature 0: the most likely one. Otherwise softmax(logits / temperature) is cut to
 * the top_k most likely (0: all), then to the fewest whose probabilities reach top_p (1: all; Holtzman et al. 2020),
 * and drawn from with element `position` of a Philox stream of the seed and of the sequence's number. */
struct orr_sampling {
    double temperature;
    int top_k;
    double top_p;
    uint64_t seed;
};

/* The token chosen from logits[vocab], or ORR_ENOMEM. Any thread. */
int orr_sample_token(const float *logits, int vocab, const struct orr_sampling *sampling, int sequence, uint64_t position);

/* Appends up to `more` tokens to each of `count` sequences, whose tokens[] have room for them; counts and `ended` are
 * brought up to date. A sequence ends with token `stop` (-1: never), or when emit, which unless NULL is called with each token
 * as it is chosen, returns false. Continues the sequences where the predictor does so, else computes them whole for every token:
 * the tokens are the same, but where rounding decides between two of them. 0 or a negative code. */
int orr_generate(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                 const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self);

#ifdef __cplusplus
}
#endif
#endif
