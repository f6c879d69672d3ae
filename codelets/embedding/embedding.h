/* SPDX-License-Identifier: Apache-2.0 */
/* Token and position embedding. */
#ifndef ORRERY_EMBEDDING_H
#define ORRERY_EMBEDDING_H

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_embedding {
    int vocab, positions, width;    /* V, the longest T or 0: no table of positions, C */
    float dropout;                  /* on the sum                            */
    float std;                      /* of the random initialisation          */
    int types;                      /* of tokens' parts of a sequence (BERT's token types), with positions alone; 0: none */
    int first_position;             /* row of the table of positions that position 0 has (RoBERTa: 2) */
};

/* Appends y[b,t] = dropout(wte[token[b,t]] + wpe[t] + type[type[b,t]]), the first block of a tape. Where rows hold several sequences
 * t is the token's place in its own.
 * Groups: 0 token.weight [V,C], which a tied head shares; 1, where there are positions, position.weight [positions,C] and, where
 * there are types, type.weight [types,C].
 * Dropout is inverted (divides by 1 - p). Token ids must be in 0..V-1.
 * Errors: ORR_EINVAL (V or C below 1, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_embedding(struct orr_model *model, const struct orr_embedding *config);

#ifdef __cplusplus
}
#endif
#endif
