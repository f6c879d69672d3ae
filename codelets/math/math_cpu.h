/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of math_cuda.h on a CPU, of the same names and arguments but for the device. They are done when they return, by the
 * calling thread and its team (core/team.h), with the bits of that thread alone, and need no alignment. What is computed in between is
 * fp32, and a result is rounded once, to nearest even; results are deterministic. Of bf16 and fp16 they widen what fits into the caches
 * at a time, into orri_kernel_scratch(). */
#ifndef ORRI_MATH_CPU_H
#define ORRI_MATH_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/block.h>
#include <orrery/dtype.h>

#include "codelets/math/math.h"

/* ---- products (gemm.c) ------------------------------------------------------------------------------------- */

/* By one of the ways of product_cpu.h, or orri_gemm(). */
void orri_cpu_gemm(const struct orri_product *product);

/* ---- norms, rows, elements (kernels_cpu.c) ------------------------------------------------------------------- */

void orri_cpu_layernorm(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta, float eps,
                        void *y, float *mean, float *rstd);
void orri_cpu_layernorm_again(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta,
                              const float *mean, const float *rstd, void *y);
static inline size_t orri_cpu_layernorm_backward_scratch(int rows, int width)
{
    (void)rows, (void)width;
    return 0;
}
void orri_cpu_layernorm_backward(enum orr_dtype dtype, int rows, int width, const void *dy, const void *x, const void *gamma,
                                 const float *mean, const float *rstd, const void *residual, void *dx, float *dgamma,
                                 float *dbeta, void *scratch);

void orri_cpu_bias_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *bias, void *y);
static inline size_t orri_cpu_bias_backward_scratch(int rows, int width)
{
    (void)rows, (void)width;
    return 0;
}
void orri_cpu_bias_backward(enum orr_dtype dtype, int rows, int width, const void *dy, int ld, float beta, float *db,
                            void *scratch);
void orri_cpu_sum(enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y);
void orri_cpu_dropout(enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count, uint64_t first, uint64_t stride,
                      const void *x, const void *residual, void *y);
void orri_cpu_add(enum orr_dtype dtype, size_t count, const void *x, void *y);
void orri_cpu_convert(size_t count, enum orr_dtype from_dtype, const void *from, enum orr_dtype to_dtype, void *to);
void orri_cpu_copy(size_t bytes, const void *from, void *to);
void orri_cpu_copy_rows(size_t rows, size_t row_bytes, const void *from, size_t from_stride, void *to, size_t to_stride);
void orri_cpu_zero(size_t bytes, void *to);

/* ---- gates and rotary positions ----------------------------------------------------------------------------------- */

void orri_cpu_activate_backward(enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *dh, const void *u, void *du);
void orri_cpu_gated(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *u, void *h);
void orri_cpu_gated_backward(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *dh, void *u);
void orri_cpu_rotate(enum orr_dtype dtype, const struct orri_rotary *rotary, int batch, int seq, int heads, int first,
                     const int32_t *places, bool inverse, void *x, int64_t ld);

/* ---- losses ----------------------------------------------------------------------------------------------------- */

void orri_cpu_softmax_cross_entropy(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                    struct orri_smoothing smoothing, bool gradient, const float *loss_scale, float *loss);
void orri_cpu_add_losses(int rows, const float *loss, const int32_t *target, bool first, struct orr_result *result);
void orri_cpu_cross_entropy_part(enum orr_dtype dtype, int rows, int width, const void *logits, int ld, const int32_t *target,
                                 int first, struct orri_smoothing smoothing, float *part);
void orri_cpu_cross_entropy_join(int rows, int parts, const float *const part[], const int32_t *target, float *norm, float *loss);
void orri_cpu_cross_entropy_part_gradient(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                          int first, struct orri_smoothing smoothing, const float *norm, const float *loss_scale);

/* ---- rows by number ----------------------------------------------------------------------------------------------- */

void orri_cpu_embed(enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width, const int32_t *ids, int64_t first,
                    int64_t count, const void *table, const void *position, void *y);
static inline size_t orri_cpu_embed_backward_scratch(int batch, int positions)
{
    (void)batch, (void)positions;
    return 0;
}
void orri_cpu_embed_backward(enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width, const int32_t *ids,
                             int64_t first, int64_t count, const void *dy, float *dtable, void *scratch);
void orri_cpu_position_backward(enum orr_dtype dtype, int batch, struct orr_part at, int width, const void *dy, float *dposition);

/* ---- attention ------------------------------------------------------------------------------------------------------ */

/* Bytes of scratch that the next two take, for all threads of a team. */
size_t orri_cpu_attention_forward_scratch(const struct orri_attention *a, enum orr_dtype dtype);
size_t orri_cpu_attention_backward_scratch(const struct orri_attention *a, enum orr_dtype dtype);

/* o = dropout(softmax(scale q k^T + mask)) v; lse[(b*H + h)*T + t] = log-sum-exp of the scaled row, of the keys that it sees. */
void orri_cpu_attention_forward(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const void *k, const void *v,
                                void *o, float *lse, void *scratch);

/* Replaces q, k, v by dq, dk, dv (of the loss, given d_o). o, lse as the forward pass left them. */
void orri_cpu_attention_backward(enum orr_dtype dtype, const struct orri_attention *a, void *q, void *k, void *v, const void *o,
                                 const void *d_o, const float *lse, void *scratch);

void orri_cpu_attention_next(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const struct orri_kept *kept,
                             void *o);
#endif
