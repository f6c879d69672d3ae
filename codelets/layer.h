/* SPDX-License-Identifier: Apache-2.0 */
/* What the blocks of a layer may differ in from model to model. 0 is GPT-2's way. */
#ifndef ORRERY_LAYER_H
#define ORRERY_LAYER_H

enum orr_norm {
    ORR_LAYERNORM,      /* (x - mean) / sqrt(var + eps) gain + bias (Ba, Kiros, Hinton 2016)             */
    ORR_RMSNORM,        /* x / sqrt(mean of x^2 + eps) gain (Zhang, Sennrich 2019)                       */
    ORR_NO_NORM         /* x                                                                             */
};

/* What is added to: a block gives y = x + f(norm(x)), or y = norm(x) + f(norm(x)), where the norms of the model follow its sums
 * (post-norm: Vaswani et al. 2017) and each is the first thing that the next block does. */
enum orr_residual {
    ORR_OF_INPUT,
    ORR_OF_NORM
};

/* How matrices lie. */
enum orr_matrices {
    ORR_IN_OUT,         /* [in,out], and q, k, v are one: GPT-2's Conv1D      */
    ORR_OUT_IN          /* [out,in], and q, k, v are apart: nn.Linear         */
};

enum orr_biases {
    ORR_BIASES,         /* both products have one                             */
    ORR_BIAS_IN,        /* the first: that of q, k, v                         */
    ORR_NO_BIASES
};

enum orr_activation {
    ORR_GELU_TANH,      /* 0.5 u (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) (Hendrycks, Gimpel 2016)     */
    ORR_GELU,           /* 0.5 u (1 + erf(u / sqrt(2)))                                                  */
    ORR_RELU,           /* max(u, 0)                                                                     */
    ORR_SILU,           /* u / (1 + exp(-u)), also called swish (Elfwing, Uchibe, Doya 2018)             */
    ORR_TANH
};

/* A layer's style: int for the enumerations above, since configurations may have no padding. */
struct orr_style {
    int norm, residual, matrices, biases;
    int source;         /* 1: of an encoder, whose tokens and places are the source's beside the decoder's (struct orr_block_spec) */
};

#endif
