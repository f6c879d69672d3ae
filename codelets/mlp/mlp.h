/* SPDX-License-Identifier: Apache-2.0 */
/* The feed-forward half of a layer. */
#ifndef ORRERY_MLP_H
#define ORRERY_MLP_H

#include <orrery/model.h>

#include <codelets/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_mlp {
    int width, hidden;          /* C, usually 4C                                     */
    float eps;                  /* of the norm                                       */
    float dropout;              /* on what is added to the residual stream           */
    float std, projection_std;  /* of the random initialisation of fc, and of proj   */
    struct orr_style style;
    int activation;             /* enum orr_activation                               */
    int gated;                  /* 1: a second product gates it (Shazeer 2020); then matrices are ORR_OUT_IN    */
    float hidden_dropout;       /* on what goes into Wproj                           */
};

/* Appends y = x + dropout(act(n Wfc + bfc) Wproj + bproj), n = norm(x), or, gated, y = x + dropout((act(n Wgate) * n Wup) Wproj).
 * In the style of GPT-2 (Radford et al. 2019) group 0 is norm.weight [C], norm.bias [C], fc.weight [C,hidden], fc.bias [hidden],
 * proj.weight [hidden,C], proj.bias [C]. RMSNorm has no norm.bias; a gated block has gate and up instead of fc;
 * ORR_OUT_IN matrices are transposed.
 * Errors: ORR_EINVAL (a size below 1, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_mlp(struct orr_model *model, int layer, const struct orr_mlp *config);

#ifdef __cplusplus
}
#endif
#endif
