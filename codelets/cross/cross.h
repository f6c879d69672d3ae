/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a decoder's layer that attends to an encoder's output. */
#ifndef ORRERY_CROSS_H
#define ORRERY_CROSS_H

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_cross {
    int width, heads, head_dim;     /* C, H, D                                           */
    float eps;                      /* of the norm                                       */
    float scale;                    /* of q k^T; 0: 1/sqrt(D)                            */
    float attention_dropout;        /* on the attention probabilities                    */
    float dropout;                  /* on what is added to the residual stream           */
    float query_std, std, projection_std;       /* of the random initialisation of q, of k and v, and of proj   */
};

/* Appends y = x + dropout(concat_h(dropout(softmax(scale q_h k_h^T)) v_h) Wproj), q = RMSNorm(x) Wq, k = e Wk, v = e Wv (Vaswani et
 * al. 2017, section 3.2.3), of x on top of the tape and e, of the same width, what block `encoder` writes. In packed rows
 * (orr_model_pack()) the k-th sequence of x sees all of the k-th of e; without a partner it gets o = 0.
 * Group 0: norm.weight [C], q.weight [HD,C], k.weight [HD,C], v.weight [HD,C], proj.weight [C,HD]. It is whole, and runs on CPUs
 * alone.
 * Errors: ORR_EINVAL (a size below 1, a dropout not in 0 <= p < 1, e of another width), ORR_ENOMEM. */
int orr_cross(struct orr_model *model, int layer, const struct orr_cross *config, struct orr_block *encoder);

#ifdef __cplusplus
}
#endif
#endif
