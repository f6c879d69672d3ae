/* SPDX-License-Identifier: Apache-2.0 */
/* The self-attention half of a layer. */
#ifndef ORRERY_ATTENTION_H
#define ORRERY_ATTENTION_H

#include <orrery/model.h>

#include <codelets/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How rotary positions (Su et al. 2021) go on beyond the positions that a model was trained with. */
enum orr_rotary_scaling {
    ORR_ROTARY_DEFAULT,         /* frequency[d] = theta^(-2d/D), d = 0..D/2-1                                       */
    ORR_ROTARY_LINEAR,          /* that / factor (Chen et al. 2023)                                                 */
    ORR_ROTARY_DYNAMIC,         /* for T > positions with theta (factor T / positions - factor + 1)^(D/(D-2)): "NTK-aware" */
    ORR_ROTARY_LLAMA3           /* Llama 3.1's: frequencies of wavelengths above positions / low are divided by factor, those below
                                   positions / high are kept, and between them it changes smoothly                 */
};

struct orr_rotary {
    float theta;                /* 0: there are none                                     */
    int scaling;                /* enum orr_rotary_scaling                               */
    float factor, low, high;
    int positions;              /* that the model was trained with                       */
};

struct orr_attention {
    int width, heads;           /* C, H                                                  */
    float eps;                  /* of the norm                                           */
    float attention_dropout;    /* on the attention probabilities                        */
    float dropout;              /* on what is added to the residual stream               */
    float std, projection_std;  /* of the random initialisation of qkv, and of proj      */
    float norm_dropout;         /* on norm(x)                                            */
    struct orr_style style;
    int kv_heads;               /* G, which share keys and values (Ainslie et al. 2023); 0: H. ORR_OUT_IN matrices alone */
    int head_dim;               /* D, at most 256; 0: C/H                                */
    int window;                 /* keys that a query sees (Beltagy et al. 2020); 0: all before it, and itself            */
    int bidirectional;          /* 1: it sees those behind it, too                       */
    struct orr_rotary rotary;   /* D is even                                             */
    float scale;                /* of q k^T; 0: 1/sqrt(D)                                */
    float query_std;            /* of the random initialisation of q; 0: std. ORR_OUT_IN matrices alone */
    /* Of orr_relative_attention(). */
    int buckets, distance;      /* of the bias; from this distance on all are in the last one                    */
    float bias_std;             /* of its random initialisation                          */
};

/* Appends y = x + dropout(concat_h(dropout(softmax(q_h k_g^T / sqrt(D) + mask)) v_g) Wproj + bproj), g = h / (H/G), with
 * q, k, v = split(norm(x) Wqkv + bqkv), q and k turned by their positions (Vaswani et al. 2017, Radford et al. 2019, Touvron et al. 2023).
 * The T x T matrix is never stored. In the style of GPT-2 group 0 is norm.weight [C], norm.bias [C], qkv.weight [C,3C], qkv.bias
 * [3C], proj.weight [C,C], proj.bias [C]; q, k and v follow each other, each by heads. With ORR_OUT_IN matrices it is q.weight [HD,C],
 * k.weight [GD,C], v.weight [GD,C], with biases q.bias, k.bias, v.bias, and proj.weight [C,HD]. RMSNorm has no norm.bias.
 * Errors: ORR_EINVAL (H does not divide C, nor G H, a dropout not in 0 <= p < 1), ORR_ENOMEM. */
int orr_attention(struct orr_model *model, int layer, const struct orr_attention *config);

/* The same with scores to which a bias is added that depends on the head and on how far key j is from query i (Raffel et al. 2020):
 * bias[bucket(j - i)][h]. Half of the buckets (of those of its direction, where both are seen: the first half is j <= i) is for a
 * distance each, the other for ranges that grow with its logarithm. Group 1: bias.weight [buckets,H], or, where `of` is not NULL, that
 * of this block. It is whole, keeps nothing of positions to continue from, and runs on CPUs alone.
 * Errors: as above, ORR_EINVAL (fewer than 4 buckets, an odd number of them, a distance that is none of the last one). */
int orr_relative_attention(struct orr_model *model, int layer, const struct orr_attention *config, struct orr_block *of);

#ifdef __cplusplus
}
#endif
#endif
