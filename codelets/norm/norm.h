/* SPDX-License-Identifier: Apache-2.0 */
/* The norm behind the last layer of an encoder, or of a decoder whose head has none. */
#ifndef ORRERY_NORM_H
#define ORRERY_NORM_H

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_last_norm {
    int width;              /* C                                                 */
    float eps;
    float dropout;          /* on what it gives                                  */
    float scale;            /* s                                                 */
    int source;             /* 1: of an encoder (struct orr_block_spec)          */
};

/* Appends y = dropout(s x / sqrt(mean of x^2 + eps) gain) (RMSNorm: Zhang, Sennrich 2019). Group 0: weight, the gain [C]. It is whole,
 * and runs on CPUs alone. Errors: ORR_EINVAL (C below 1, s not above 0, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_last_norm(struct orr_model *model, const struct orr_last_norm *config);

#ifdef __cplusplus
}
#endif
#endif
