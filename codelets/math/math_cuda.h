/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA kernels that blocks share: what math.h and operands.h have for the CPU.
 *
 * Every function enqueues its work on cuda->stream and returns; after a failure (cuda->code) it does nothing. Pointers are
 * to device memory unless said otherwise. Matrices are row-major with a row stride ("ld", in elements). `void` arrays have
 * elements of `dtype` (ORR_F32, ORR_BF16 or ORR_F16), aligned to an element at least; what is computed in between is fp32,
 * and a result is rounded once, to nearest even. Results are deterministic: no sum depends on the order in which threads
 * run. Any size from 1 is legal; sizes and alignments that wide loads or tensor cores cannot take go by slower ways: rows whose
 * width is a multiple of 16 bytes, at addresses that are, are fast. Scratch is aligned to 16 bytes. */
#ifndef ORRI_MATH_CUDA_H
#define ORRI_MATH_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/block.h>
#include <orrery/cuda.h>
#include <orrery/dtype.h>

#include "codelets/math/math.h"
#include "core/vector_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- matrix products (gemm_cuda.c) ------------------------------------------------------------------------ */

/* By cuBLASLt, with sums in fp32 and the workspace of `cuda`. The algorithm is asked for once per worker and shape; where
 * the library has none for the epilogue (odd sizes, unaligned rows) the product and the rest are kernels of their own, and
 * what the epilogue is applied to is rounded before. */
void orri_cuda_gemm(struct orr_cuda *cuda, const struct orri_product *product);

/* ---- LayerNorm and RMSNorm (norm_cuda.cu); formulas in math.h. Where mean is NULL it is RMSNorm; beta and dbeta may be NULL -- */

void orri_cuda_layernorm(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                         const void *gamma, const void *beta, float eps, void *y, float *mean, float *rstd);
void orri_cuda_layernorm_again(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                               const void *gamma, const void *beta, const float *mean, const float *rstd, void *y);

/* Bytes of scratch that the next function takes. */
size_t orri_cuda_layernorm_backward_scratch(int rows, int width);
/* dx = [residual +] the gradient; residual may be NULL, dx, or dy; dx may equal dy. dgamma, dbeta: overwritten. */
void orri_cuda_layernorm_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *dy,
                                  const void *x, const void *gamma, const float *mean, const float *rstd,
                                  const void *residual, void *dx, float *dgamma, float *dbeta, void *scratch);

/* ---- rows and elements (rows_cuda.cu; more of them in core/vector_cuda.h) -------------------------------------- */

/* y[r][j] = (x ? x[r][j] : 0) + (bias ? bias[j] : 0). x may equal y. */
void orri_cuda_bias_rows(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                         const void *bias, void *y);

/* db[j] = beta db[j] + sum over rows of dy[r][j], beta 0 or 1. */
size_t orri_cuda_bias_backward_scratch(int rows, int width);
void orri_cuda_bias_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *dy, int ld,
                             float beta, float *db, void *scratch);

/* y = part[0] + part[1] + ..., in this order, the sum in fp32; part[] is a host array of `parts` <= ORR_MAX_SHARDS device
 * pointers, read before the function returns. */
void orri_cuda_sum(struct orr_cuda *cuda, enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y);

/* Dropout of `batch` stretches of `count` elements that lie behind each other: element k of stretch b of x is element
 * first + b stride + k of the stream of d; math.h tells which are kept. y = x dropped out; x may equal y. With `residual`
 * (or NULL), y = residual + that. */
void orri_cuda_dropout(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count,
                       uint64_t first, uint64_t stride, const void *x, const void *residual, void *y);

/* ---- activations, gates, rotary positions (activation_cuda.cu); formulas in math.h ------------------------------ */

/* h[k] = activation(u[k]), and du[k] = dh[k] activation'(u[k]); du may equal dh or u. */
void orri_cuda_activate(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *u, void *h);
void orri_cuda_activate_backward(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *dh,
                                 const void *u, void *du);

/* A row of u is gate, then up, [width] each: h[r][j] = activation(gate) up, and u becomes its gradient. */
void orri_cuda_gated(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *u,
                     void *h);
void orri_cuda_gated_backward(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, int rows, int width,
                              const void *dh, void *u);

/* In each of batch x seq rows, `ld` elements apart, `heads` heads are turned by the angles of their position: places[row], or, where
 * that is NULL, `first` and their number in the sequence; back where `inverse`. *rotary is the host's, read before it returns. */
void orri_cuda_rotate(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_rotary *rotary, int batch, int seq, int heads,
                      int first, const int32_t *places, bool inverse, void *x, int64_t ld);

/* ---- softmax cross-entropy (cross_entropy_cuda.cu) ------------------------------------------------------------ */

/* As orri_softmax_cross_entropy(). The gradient is multiplied by *loss_scale (NULL: 1). loss[r] (fp32, device) becomes the
 * loss of row r, 0 where its target is ORR_IGNORE. */
void orri_cuda_softmax_cross_entropy(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, void *logits, int ld,
                                     const int32_t *target, struct orri_smoothing smoothing, bool gradient,
                                     const float *loss_scale, float *loss);

/* result (device) += sum of loss[rows] in double, and how many targets were not ORR_IGNORE; overwritten where `first`. */
void orri_cuda_add_losses(struct orr_cuda *cuda, int rows, const float *loss, const int32_t *target, bool first,
                          struct orr_result *result);

/* In parts, as the functions without cuda. part[] of the second is a host array of device pointers, read before it
 * returns; loss as above. */
void orri_cuda_cross_entropy_part(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *logits,
                                  int ld, const int32_t *target, int first, struct orri_smoothing smoothing, float *part);
void orri_cuda_cross_entropy_join(struct orr_cuda *cuda, int rows, int parts, const float *const part[],
                                  const int32_t *target, float *norm, float *loss);
void orri_cuda_cross_entropy_part_gradient(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, void *logits,
                                           int ld, const int32_t *target, int first,
                                           struct orri_smoothing smoothing, const float *norm, const float *loss_scale);

/* ---- rows by number (gather_cuda.cu) --------------------------------------------------------------------------- */

/* Positions `at` of each of `batch` sequences of `seq`: ids is [batch,seq], y [batch,at.count,width].
 * y[b][t] = (table[ids - first] where 0 <= ids - first < count, else 0) + (position ? position[t] : 0); position is the
 * whole table, row 0 first. */
void orri_cuda_embed(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width,
                     const int32_t *ids, int64_t first, int64_t count, const void *table, const void *position, void *y);

/* dtable[row] += the sum of the rows of dy whose id - first is row (fp32; rows without an id are left alone), in an order that
 * follows from the positions alone: they are sorted by CUB, so that no sum needs an atomic. */
size_t orri_cuda_embed_backward_scratch(int batch, int positions);
void orri_cuda_embed_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width,
                              const int32_t *ids, int64_t first, int64_t count, const void *dy, float *dtable,
                              void *scratch);

/* dposition[at.first + t] += sum over b of dy[b][t] (fp32). */
void orri_cuda_position_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, struct orr_part at, int width,
                                 const void *dy, float *dposition);

/* ---- attention (attention_cuda.cu) --------------------------------------------------------------------------------- */

enum { ORRI_ATTENTION_DIM = 256 };  /* the largest head size */

enum orri_attention_path {
    ORRI_ATTENTION_PLAIN,           /* any head size, dtype and alignment                               */
    ORRI_ATTENTION_TENSOR,          /* head sizes 64 and 128, bf16 and fp16, every row 16-byte aligned  */
    ORRI_ATTENTION_CUDNN            /* where it is asked for: head sizes of multiples of 8 up to 128, the same types and
                                       alignment, no dropout (whose stream is the CPU's), from 2 positions on, queries that see
                                       all keys before them, of heads of their own; where the library has no plan for such a
                                       call after all, it goes one of the ways above */
};

/* Which way a call goes; cudnn: it may go to cuDNN; d_o NULL: a forward one. Pure: looks at the pointers alone. */
enum orri_attention_path orri_cuda_attention_path(bool cudnn, enum orr_dtype dtype, const struct orri_attention *a,
                                                  const void *q, const void *k, const void *v, const void *o,
                                                  const void *d_o);

/* As orri_cpu_attention_forward() and _backward(): q, k, v with row stride a->ld, o and d_o with
 * a->ld_out, lse fp32; scratch at a multiple of 16 bytes, which grows with T alone. Tensor cores take probabilities and the
 * gradients of scores rounded to dtype. */
size_t orri_cuda_attention_forward_scratch(const struct orri_attention *a, enum orr_dtype dtype);
size_t orri_cuda_attention_backward_scratch(const struct orri_attention *a, enum orr_dtype dtype);
void orri_cuda_attention_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, const void *q,
                                 const void *k, const void *v, void *o, float *lse, void *scratch);
void orri_cuda_attention_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, void *q,
                                  void *k, void *v, const void *o, const void *d_o, const float *lse, void *scratch);

/* One sequence's next position: of every head its query, q[h*D ...], over all that is kept, itself included:
 * o[h*D ...] = sum over t of softmax(scale q k_t) v_t. Of `a` it takes heads, kv_heads, head_dim, window and scale. */
void orri_cuda_attention_next(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, const void *q,
                              const struct orri_kept *kept, void *o);

#ifdef __cplusplus
}
#endif
#endif
