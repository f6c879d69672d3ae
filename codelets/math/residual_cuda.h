/* SPDX-License-Identifier: Apache-2.0 */
/* residual.h on a CUDA device: y = x + dropout(g(norm(x) Win + bin) Wout + bout), whole and in shards. */
#ifndef ORRI_RESIDUAL_CUDA_H
#define ORRI_RESIDUAL_CUDA_H

#include "codelets/math/operands_cuda.h"
#include "codelets/math/residual.h"

/* struct orri_inner, with u and h of o->dtype. */
struct orri_cuda_inner {
    float *rest;
    void *u, *h;
};

struct orri_cuda_residual {
    struct orri_residual shape;     /* of the block, or the shard of it that the operands are of; its functions are the CPU's */
    size_t scratch;                 /* bytes that the next two take for the microbatch, besides dh [N,out]                    */
    /* u and h from norm [N,C]; and from dout [N,C], the gradient of what Wout gave, that of norm(x) Win + bin, in u. */
    void (*forward)(const struct orr_operands *o, const void *norm, const struct orri_cuda_inner *s, void *scratch);
    void (*backward)(const struct orr_operands *o, const void *dout, const struct orri_cuda_inner *s, void *dh, void *scratch);
};

/* [N,n] = [N,k] op(W) + bias + add, then the epilogue, for the N rows of the operands; W is [k,n], or [n,k] where transposed. */
struct orri_cuda_product orri_row_product(const struct orr_operands *o, int n, int k, const void *x, const float *w,
                                          bool transposed, void *y);

size_t orri_cuda_residual_scratch_bytes(const struct orri_cuda_residual *r, enum orr_dtype dtype, int batch, int seq);
void orri_cuda_residual_forward(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_backward(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_weights(const struct orr_operands *o, const struct orri_cuda_residual *r);

size_t orri_cuda_residual_shard_scratch_bytes(const struct orri_cuda_residual *r, enum orr_dtype dtype, int batch, int seq);
void orri_cuda_residual_shard_forward(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_chunk_join(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_shard_backward(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_shard_weights(const struct orr_operands *o, const struct orri_cuda_residual *r);
void orri_cuda_residual_chunk_backward(const struct orr_operands *o, const struct orri_cuda_residual *r);
#endif
