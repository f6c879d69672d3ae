/* SPDX-License-Identifier: Apache-2.0 */
/* A feed-forward half of a layer that is a mixture of experts. */
#ifndef ORRERY_MOE_H
#define ORRERY_MOE_H

#include <orrery/model.h>

#include <codelets/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_moe {
    int width, hidden;          /* C, F                                                       */
    int experts, chosen;        /* E, and k of them for each token                            */
    float eps;                  /* of the norm                                                */
    float std, projection_std;  /* of the random initialisation of router, gate and up, and of proj */
    int activation;             /* enum orr_activation                                        */
    float capacity;             /* in training an expert takes at most ceil(capacity k N / E) of a microbatch's N tokens; 0: all that
                                   choose it                                                  */
    float balance;              /* coefficient of the loss of balance                         */
};

/* Appends y = x + sum over the k chosen experts e of w_e (act(n Wgate_e^T) * n Wup_e^T) Wproj_e^T, n = RMSNorm(x) (Shazeer et al.
 * 2017; Mixtral: Jiang et al. 2024). p = softmax(n Wrouter^T) in fp32; the k experts with the largest p are chosen, of equal ones the
 * first, and w is p divided by the sum of theirs.
 * Capacity (GShard: Lepikhin et al. 2021; Switch: Fedus, Zoph, Shazeer 2022): an expert takes the first tokens that choose it, in the
 * order of the microbatch; for those behind it gives 0, while their other w stay as they are. Outside training it takes all.
 * Loss of balance (the same): balance times E sum_e f_e P_e, f_e the part of the tokens that choose e, P_e the mean of p_e, of a
 * microbatch. Its gradient is added, with the weight of N labels; the loss that a step tells is without it.
 * Group 0: norm.weight [C], router.weight [E,C], gate.weight and up.weight [E F,C], proj.weight [E C,F], those of the experts one
 * behind the other and E tensors in files. Computes in fp32, on the CPU alone. Shards have whole experts.
 * Errors: ORR_EINVAL (a size below 1, k not in 1..E, a negative capacity or balance), ORR_ENOMEM. */
int orr_moe(struct orr_model *model, int layer, const struct orr_moe *config);

#ifdef __cplusplus
}
#endif
#endif
