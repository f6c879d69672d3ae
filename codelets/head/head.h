/* SPDX-License-Identifier: Apache-2.0 */
/* The last block: norm, language-model head and cross-entropy. */
#ifndef ORRERY_HEAD_H
#define ORRERY_HEAD_H

#include <orrery/model.h>

#include <codelets/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_head {
    int vocab, width;       /* V, C                                              */
    float eps;              /* of the norm                                       */
    float std;              /* of the random initialisation of output.weight     */
    int norm;               /* enum orr_norm                                     */
};

/* Appends loss = sum over labels of -log softmax(norm(x) W^T)[label], the end of a tape. Labels are in 0..V-1, or
 * ORR_IGNORE: such rows count for nothing. Works in strips of rows: the logits of a whole microbatch are never stored.
 * Group 0: norm.weight [C], norm.bias [C] unless RMSNorm. Group 1, or 0 without a norm: output.weight W [V,C], or, when `tied` is not NULL, group 0 of
 * that block (an embedding's token.weight [V,C]).
 * ORR_PREDICT writes V logits and C values of norm(x) for each row asked for.
 * A loss that is not finite fails the run with ORR_ENONFINITE.
 * Errors: ORR_EINVAL (a size below 1; `tied` is of another shape), ORR_ENOMEM. */
int orr_head(struct orr_model *model, const struct orr_head *config, struct orr_block *tied);

#ifdef __cplusplus
}
#endif
#endif
