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
    int source;                     /* 1: of an encoder's tokens beside the decoder's (struct orr_block_spec) */
};

/* Appends y[b,t] = dropout(wte[token[b,t]] + wpe[t]), the first block of a tape.
 * Groups: 0 token.weight [V,C], which a tied head shares; 1, where there are positions, position.weight [positions,C].
 * Dropout is inverted (divides by 1 - p). Token ids must be in 0..V-1.
 * Errors: ORR_EINVAL (V or C below 1, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_embedding(struct orr_model *model, const struct orr_embedding *config);

/* The same with group 0 of block `of`, an embedding of the same shape; it reads no value, wherever on the tape it is. */
int orr_shared_embedding(struct orr_model *model, const struct orr_embedding *config, struct orr_block *of);

#ifdef __cplusplus
}
#endif
#endif
