/* SPDX-License-Identifier: Apache-2.0 */
/* One product and an activation, between the layers of a model and its head. */
#ifndef ORRERY_DENSE_H
#define ORRERY_DENSE_H

#include <orrery/model.h>

#include <codelets/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_dense {
    int width, out;             /* C, and that of y                                  */
    float eps;                  /* of the norm                                       */
    float dropout;              /* on y                                              */
    float std;                  /* of the random initialisation of weight            */
    int norm;                   /* enum orr_norm                                     */
    int activation;             /* enum orr_activation                               */
};

/* Appends y = dropout(act(norm(x) W^T + b)): BERT's pooler, and the transform before its masked tokens' logits (Devlin et al. 2019).
 * Group 0: norm.weight [C], norm.bias [C] as the norm has them, weight W [out,C], bias [out].
 * Errors: ORR_EINVAL (a size below 1, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_dense(struct orr_model *model, int layer, const struct orr_dense *config);

#ifdef __cplusplus
}
#endif
#endif
