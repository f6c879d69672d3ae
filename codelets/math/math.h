/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels that blocks share. All matrices are row-major fp32 with a row stride ("ld", in
 * elements); sums that decide a result (norms, softmax, losses) accumulate in fp32 or better.
 * Every function runs on the calling thread alone, uses orri_scratch() of none (callers pass scratch
 * where it is needed), and is deterministic for equal arguments. */
#ifndef ORRI_MATH_H
#define ORRI_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/block.h>
#include <orrery/dtype.h>
#include <orrery/rng.h>

#include <codelets/layer.h>

/* C[m,n] = op(A)[m,k] op(B)[k,n] + beta C, op(X) = X or X^T (trans_a, trans_b).
 * beta = 0 overwrites C whatever it held. By oneDNN or, where that has no code for the processor, OpenBLAS; one thread. */
void orri_gemm(bool trans_a, bool trans_b, int m, int n, int k, const float *a, int lda, const float *b, int ldb,
               float beta, float *c, int ldc);

/* ---- matrix products as blocks want them, on any device: kernels.h ----------------------------- */

enum orri_epilogue {
    ORRI_EPILOGUE_NONE,
    ORRI_EPILOGUE_ACTIVATION,           /* aux = the product with bias and all; C = activation(aux)          */
    ORRI_EPILOGUE_ACTIVATION_BACKWARD   /* C = the product times activation'(aux)                             */
};

/* C[m,n] = op(A)[m,k] op(B)[k,n] + beta add[m,n] + bias[n], then the epilogue; op(X) = X or X^T. */
struct orri_product {
    bool trans_a, trans_b;
    int m, n, k;
    enum orr_dtype dtype;           /* of A, B, bias and aux                                           */
    const void *a, *b;
    int lda, ldb;
    uint64_t b_version;             /* of the parameters that B is (struct orr_operands), for copies of it that are kept; 0: none is */
    const void *bias;               /* NULL: none; only with c_dtype = dtype                           */
    const void *add;                /* of c_dtype, row stride ldc; may be C; NULL: nothing is added    */
    void *c;
    int ldc;
    enum orr_dtype c_dtype;         /* dtype or ORR_F32                                                */
    enum orri_epilogue epilogue;    /* only with c_dtype = dtype and without add                       */
    enum orr_activation activation;
    void *aux;                      /* [m,n], row stride ldc                                           */
};

/* ---- LayerNorm (Ba, Kiros, Hinton 2016), per row of `width` ----------------------------------
 * y = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(var + eps), var the biased variance.
 * Writes mean[rows], rstd[rows]. y may equal x. Without beta, which may be NULL, nothing is added. Where mean[] is NULL, here
 * and below, it is RMSNorm (Zhang, Sennrich 2019): mean = 0, and var the mean of the squares. */
void orri_layernorm(int rows, int width, const float *x, const float *gamma, const float *beta, float eps, float *y,
                    float *mean, float *rstd);

/* y as above from stored mean and rstd (bit-identical to what orri_layernorm wrote). */
void orri_layernorm_again(int rows, int width, const float *x, const float *gamma, const float *beta,
                          const float *mean, const float *rstd, float *y);

/* dx = [residual +] rstd (g - mean_row(g) - xhat mean_row(g xhat)),  g = dy gamma,  xhat = (x - mean) rstd.
 * residual may be NULL (term left out) and may equal dx or dy; dx may equal dy.
 * dgamma[width] += sum over rows of dy xhat, dbeta[width] += sum over rows of dy; either or both may be NULL.
 * Of RMSNorm mean_row(g) is left out. */
void orri_layernorm_backward(int rows, int width, const float *dy, const float *x, const float *gamma,
                             const float *mean, const float *rstd, const float *residual, float *dx, float *dgamma,
                             float *dbeta);

/* What one row, or some columns of it, adds to these. */
void orri_layernorm_weights(int width, const float *dy, const float *x, float mean, float rstd, float *dgamma, float *dbeta);

/* ---- rows with a bias ------------------------------------------------------------------------- */

/* y[r][j] = (x ? x[r][j] : 0) + (bias ? bias[j] : 0): prepares y for a GEMM with beta = 1. x may equal y. */
void orri_bias_rows(int rows, int width, const float *x, const float *bias, float *y);

/* db[j] = beta db[j] + sum over rows of dy[r][j], beta 0 or 1 (0 overwrites). dy has row stride ld. */
void orri_bias_backward(int rows, int width, const float *dy, int ld, float beta, float *db);

/* ---- GELU, tanh form (Hendrycks, Gimpel 2016): 0.5 u (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) ---- */

/* u[r][j] += bias[j] (bias may be NULL); h = gelu(u). */
void orri_bias_gelu(int rows, int width, float *u, const float *bias, float *h);

/* du[k] = dh[k] gelu'(u[k]). du may equal dh or u. */
void orri_gelu_backward(size_t count, const float *dh, const float *u, float *du);

/* ---- other activations, and gates ----------------------------------------------------------------- */

/* h[k] = activation(u[k]), and du[k] = dh[k] activation'(u[k]); of ReLU activation'(0) = 0. du may equal dh or u. */
void orri_activate(enum orr_activation kind, size_t count, const float *u, float *h);
void orri_activate_backward(enum orr_activation kind, size_t count, const float *dh, const float *u, float *du);

/* h[k] = activation(gate[k]) up[k] (Shazeer 2020), and gate, up become their gradients. */
void orri_gated(enum orr_activation kind, size_t count, const float *gate, const float *up, float *h);
void orri_gated_backward(enum orr_activation kind, size_t count, const float *dh, float *gate, float *up);

/* ---- rotary positions (Su et al. 2021) -------------------------------------------------------------- */

enum { ORRI_MOST_FREQUENCIES = 128 };   /* half of the largest head size */

/* Of a head's D = 2 `half` elements x, number d and d + half are turned by the angle a = position x frequency[d], rounded to fp32:
 * x[d] cos a - x[d + half] sin a and x[d + half] cos a + x[d] sin a. */
struct orri_rotary {
    int half;
    float frequency[ORRI_MOST_FREQUENCIES];
};

/* The cosines and sines of a position, [half] each; and `heads` heads, one behind the other, turned by them, back where `inverse`. */
void orri_rotary_angles(const struct orri_rotary *rotary, int position, float *cosine, float *sine);
void orri_rotate(int heads, int half, const float *cosine, const float *sine, bool inverse, float *x);

/* ---- dropout by counter: one stream per use, so it does not depend on layout or recomputation ---- */
struct orri_dropout {
    float p;                /* probability of zeroing, 0 <= p < 1; 0 = off            */
    struct orr_rng rng;     /* stream = use (layer and place), step = training step    */
};

/* x[k] = keep(first + k) ? x[k] / (1 - p) : 0, keep(e) = uniform element e of the stream >= p. In place. */
void orri_dropout_apply(const struct orri_dropout *d, uint64_t first, size_t count, float *x);

/* ---- attention (Vaswani et al. 2017; online softmax: Milakov, Gimelshein 2018; backward by recomputation: Dao et al. 2022; heads that
 * share keys and values: Ainslie et al. 2023; sliding window: Beltagy et al. 2020). Never holds a T x T matrix: works on blocks of 64
 * queries and at most 256 keys; blocks that nobody may see are left out, but for parts of blocks at the edge. ------------------ */

struct orri_attention {
    int batch, seq, heads, head_dim;    /* B, T, H, D                                        */
    int64_t ld;                         /* row stride of q, k, v: element (b, t, h, d) of q is
                                           q[(b*T + t)*ld + h*D + d]                          */
    int64_t ld_out;                     /* row stride of o and d_o, same indexing               */
    float scale;                        /* 1/sqrt(D)                                           */
    struct orri_dropout dropout;        /* on the probabilities; element index
                                           ((first_sample + b)*total_heads + first_head + h)*T*T + i*T + j */
    uint64_t first_sample;
    int total_heads, first_head;
    int kv_heads;                       /* of k and v, of which query head h has number h / (H / kv_heads); 0: H    */
    bool bidirectional;                 /* a query sees the keys behind it, too: there is no causal mask            */
    int window;                         /* of keys that lie before it it sees so many, itself counted; 0: all       */
    const int32_t *places;              /* [B,T] of each token in its own sequence, where several share a row: none sees
                                           another's; NULL: a row is one sequence                                   */
    /* On a CPU alone. */
    const int32_t *source_places;       /* [B,T] of the keys, which are another row's: the k-th sequence of the one sees all of the k-th
                                           of the other, or nothing where there is none; NULL: queries and keys are one row's */
    const float *bias;                  /* [H,2T]: score (i, j) has bias[h][j - i + T - 1] more; NULL: nothing       */
    float *dbias;                       /* [B,H,2T]: its gradient, sequence by sequence, written by the backward pass */
};

/* Query heads that share keys and values. */
static inline int orri_attention_group(const struct orri_attention *a)
{
    return a->kv_heads ? a->heads / a->kv_heads : 1;
}

/* What is kept of a sequence: row t % page of pages[t / page] has the keys of position t, of all heads, and behind them the values.
 * Rows have 2 D elements for each of these heads. */
struct orri_kept {
    int length;                         /* positions                                           */
    int page;                           /* of a page                                           */
    void *pages[ORR_MAX_PAGES];         /* the sequence's part of each                          */
};

/* ---- softmax cross-entropy over rows of logits -------------------------------------------------
 * For every row r with target[r] in 0..width-1: loss += logsumexp(row) - row[target]; count += 1; and, unless
 * gradient is 0, row = gradient (softmax(row) - onehot(target)). A row whose target is ORR_IGNORE counts for nothing
 * and its gradient is zero. loss and count are added to. Loss sums in double. */
void orri_softmax_cross_entropy(int rows, int width, float *logits, int ld, const int32_t *target, float gradient,
                                double *loss, int64_t *count);

/* The same where each of several parts has some of the columns: this one first .. first + width - 1. Targets are
 * columns of the whole row. */
enum {
    ORRI_LOSS_PART = 3,     /* floats of a row's part: max, sum of exp(logit - max), the target's logit or 0  */
    ORRI_LOSS_NORM = 2      /* of a row: max, 1 / sum of exp(logit - max)                                     */
};

/* part[rows][3] of a part's columns. */
void orri_cross_entropy_part(int rows, int width, const float *logits, int ld, const int32_t *target, int first,
                             float *part);

/* From part[0..parts-1] [rows][3] of all columns: norm[rows][2]; loss and count are added to, as above. */
void orri_cross_entropy_join(int rows, int parts, const float *const part[], const int32_t *target, float *norm,
                             double *loss, int64_t *count);

/* A part's logits = gradient (softmax(row) - onehot(target)), by norm; zero in rows to ignore. */
void orri_cross_entropy_part_gradient(int rows, int width, float *logits, int ld, const int32_t *target, int first,
                                      const float *norm, float gradient);
#endif
