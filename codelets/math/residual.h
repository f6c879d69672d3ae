/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout of a block's output, and the branch of a residual block, x + dropout(branch), seen from both ends. */
#ifndef ORRI_RESIDUAL_H
#define ORRI_RESIDUAL_H

#include <orrery/block.h>

#include "codelets/math/math.h"

/* The dropout of rate p at a place of the block (orr_dropout_stream()); off outside training. */
struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place);

/* ORR_EINVAL, as an error of `block`, unless 0 <= p < 1. */
int orri_check_dropout(const char *block, float p);

/* The number, in the step, of the first element of the microbatch's [B,T,width] activation. */
uint64_t orri_first_element(const struct orr_operands *o, int width);

/* Prepares y, [B*T,width], for the branch's last product, which the caller adds to it (beta = 1); bias[width]. */
void orri_branch_begin(const struct orr_operands *o, const struct orri_dropout *d, int width, const float *bias);

/* Makes y = x + dropout(branch) of what the product left there. */
void orri_branch_end(const struct orr_operands *o, const struct orri_dropout *d, int width);

/* The gradient of the branch: dy, or, with dropout, dy through it, in `room` [B*T,width]. */
const float *orri_branch_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width, float *room);

/* The end of B: dx = dy + layernorm_backward(dnorm), or added to dx where another reader was first.
 * dnorm [B*T,width] is overwritten; dgamma, dbeta as orri_layernorm_backward(). */
void orri_branch_input_gradient(const struct orr_operands *o, int width, float *dnorm, const float *gamma,
                                const float *mean, const float *rstd, float *dgamma, float *dbeta);
#endif
