/* SPDX-License-Identifier: Apache-2.0 */
/* The feed-forward half of a layer. */
#ifndef ORRERY_MLP_H
#define ORRERY_MLP_H

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_mlp {
    int width, hidden;          /* C, usually 4C                                     */
    float eps;                  /* of LayerNorm                                      */
    float dropout;              /* on what is added to the residual stream           */
    float std, projection_std;  /* of the random initialisation of fc, and of proj   */
};

/* Appends y = x + dropout(gelu(norm(x) Wfc + bfc) Wproj + bproj), pre-norm as in GPT-2 (Radford et al. 2019),
 * gelu in its tanh form. Group 0: norm.weight [C], norm.bias [C], fc.weight [C,hidden], fc.bias [hidden],
 * proj.weight [hidden,C], proj.bias [C]; matrices are [in,out].
 * Errors: ORR_EINVAL (a size below 1, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_mlp(struct orr_model *model, int layer, const struct orr_mlp *config);

#ifdef __cplusplus
}
#endif
#endif
