/* SPDX-License-Identifier: Apache-2.0 */
/* The causal self-attention half of a layer. */
#ifndef ORRERY_ATTENTION_H
#define ORRERY_ATTENTION_H

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_attention {
    int width, heads;           /* C, H; H divides C                                     */
    float eps;                  /* of LayerNorm                                          */
    float attention_dropout;    /* on the attention probabilities                        */
    float dropout;              /* on what is added to the residual stream               */
    float std, projection_std;  /* of the random initialisation of qkv, and of proj      */
};

/* Appends y = x + dropout(concat_h(dropout(softmax(q_h k_h^T / sqrt(C/H) + causal mask)) v_h) Wproj + bproj), with
 * q, k, v = split(norm(x) Wqkv + bqkv), pre-norm as in GPT-2 (Vaswani et al. 2017, Radford et al. 2019). The
 * T x T matrix is never stored. Group 0: norm.weight [C], norm.bias [C], qkv.weight [C,3C], qkv.bias [3C],
 * proj.weight [C,C], proj.bias [C]; matrices are [in,out], q, k and v follow each other, each by heads.
 * Errors: ORR_EINVAL (H does not divide C, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_attention(struct orr_model *model, int layer, const struct orr_attention *config);

#ifdef __cplusplus
}
#endif
#endif
