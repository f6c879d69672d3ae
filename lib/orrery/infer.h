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

/* What the encoder of a model that has one reads in every prediction from here on: `count` tokens, copied. The encoder is run anew by
 * each. Without this call it reads token 0. ORR_EINVAL where there is no encoder, count is not in 1..positions or a token is not in
 * the vocabulary, ORR_ENOMEM. */
int orr_predictor_source(struct orr_predictor *predictor, const int32_t *tokens, int count);

/* Runs one sequence of `count` tokens and gives, for its last `rows` positions, logits[rows][vocab] and, unless
 * NULL, hidden[rows][width] (behind the last norm). Waits. ORR_EINVAL where count is not in 1..positions, rows not in
 * 1..count or a token not in the vocabulary. */
int orr_predict(struct orr_predictor *predictor, const int32_t *tokens, int count, int rows, float *logits,
                float *hidden);

/* From here on up to `sequences` of them are continued (0: none, as at first), none of which has been seen: what attention needs of
 * their positions is kept, in pages that are made as they grow (struct orr_past), so that a further token costs one position's
 * work. The replicas share them out, each `together` that follow each other to one. ORR_EINVAL for a model whose sequences are cut
 * into chunks (sequence parallelism) or that has an encoder, ORR_ENOMEM. */
int orr_predictor_continue(struct orr_predictor *predictor, int sequences, int together);

/* A sequence as it is now. */
struct orr_sequence {
    int32_t *tokens;
    int count;
    bool ended;         /* nothing more is asked for                                        */
};

/* The logits of the token behind each of `count` sequences that has not ended: logits[count][vocab], of which rows of ended ones
 * are left alone. Those that are continued and have got exactly one token since the last call are computed from what is kept, all
 * of a replica's at once, and others whole, one by one; the tokens of a sequence number that were given before must be the same,
 * unless it has become shorter or at least two tokens longer. Of sequences of more than `positions` tokens the last ones are seen.
 * Waits. Errors as orr_predict(); ORR_EINVAL for more sequences than are continued, where any are. */
int orr_predict_next(struct orr_predictor *predictor, const struct orr_sequence *sequences, int count, float *logits);

/* Sequence s of `count`, which are all that are continued, becomes what sequence from[s] was: what is kept of that is kept of s.
 * Called when the caller's sequences change places so. from[s] and s are of the same `together`. Where none is continued it does
 * nothing. Returns at once. ORR_EINVAL, ORR_ENOMEM. */
int orr_predictor_rearrange(struct orr_predictor *predictor, const int *from, int count);

/* ---- choosing tokens --------------------------------------------------------------------------------------------- */

/* What changes the logits of a token before one is chosen, in this order; a struct of zeros changes nothing. */
struct orr_rules {
    double repetition_penalty;  /* P: logit x of a token that the sequence, prompt included, has already becomes x / P where x is
                                   positive, else x P (Keskar et al. 2019); 0 and 1: stays      */
    int no_repeat_ngram;        /* N: no N tokens in a row come twice; 0: they may              */
    int min_tokens;             /* the stop token is not among the first so many that are added */
};

/* Applies them to logits[vocab] (or log-probabilities) of the token behind a sequence of `count` tokens, of which `added` are not the
 * prompt's. What must not come gets minus infinity. ORR_ENOMEM. Any thread. */
int orr_apply_rules(const struct orr_rules *rules, const int32_t *tokens, int count, int added, int32_t stop, float *logits,
                    int vocab);

/* How the next token is chosen. temperature 0: the most likely one. Otherwise softmax(logits / temperature) is cut to
 * the top_k most likely (0: all), then to the fewest whose probabilities reach top_p (1: all; Holtzman et al. 2020),
 * and drawn from with element `position` of a Philox stream of the seed and of the sequence's number. */
struct orr_sampling {
    double temperature;
    int top_k;
    double top_p;
    uint64_t seed;
    int first;                  /* number of the first sequence                                  */
    struct orr_rules rules;
};

/* The token chosen from logits[vocab], or ORR_ENOMEM. The rules are left to the caller. Any thread. */
int orr_sample_token(const float *logits, int vocab, const struct orr_sampling *sampling, int sequence, uint64_t position);

/* Appends up to `more` tokens to each of `count` sequences, whose tokens[] have room for them; counts and `ended` are
 * brought up to date. A sequence ends with token `stop` (-1: never), or when emit, which unless NULL is called with each token
 * as it is chosen, returns false. Continues the sequences where the predictor does so, else computes them whole for every token:
 * the tokens are the same, but where rounding decides between two of them. 0 or a negative code. */
int orr_generate(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                 const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self);

/* Beam search: `width` texts grow at a time. A step adds the log-probability of every token, to which the rules have been applied, to
 * the sum of its text's, and looks at the 2 x width best. Of these the best `width` that have not ended go on; those among the
 * first `width` that have ended (with `stop`, because `ends` says so, or at their full length) are finished, with a score of
 *
 *     sum of log-probabilities / (tokens added)^length_penalty
 *
 * The search ends when `width` are finished and the best text that goes on, ended now, would score no more than the worst of
 * them (early_stopping=False of Hugging Face's generate(), whose results these are, but for rounding). */
struct orr_beams {
    int width;
    double length_penalty;
    struct orr_rules rules;
    /* Unless NULL: whether the tokens of a text, of which the last was added now, end it. */
    bool (*ends)(void *self, int sequence, const int32_t *tokens, int count);
    void *self;
};

/* As orr_generate(), by beam search for each of `count` sequences: appends the best. Of the predictor it asks the next logits of
 * sequences alone, count x width of them, which must be as many as are continued, `together` = width, where any are. score[count]
 * gets the scores, unless it is NULL. ORR_EINVAL for a vocabulary of fewer than 2 x width tokens, ORR_ENOMEM. */
int orr_generate_beams(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                       const struct orr_beams *beams, double *score);

#ifdef __cplusplus
}
#endif
#endif
