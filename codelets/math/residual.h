/* SPDX-License-Identifier: Apache-2.0 */
/* Residual blocks of two products, whole and in shards: y = x + dropout(g(norm(x) Win + bin) Wout + bout).
 *
 * A block brings g and its geometry and has its passes from here. A shard has columns of Win and bin, those rows of
 * Wout that go with them, and a g of its own; norm, bout, dropout and x are the chunks'. */
#ifndef ORRI_RESIDUAL_H
#define ORRI_RESIDUAL_H

#include <orrery/block.h>

#include "codelets/math/operands.h"

/* The views of its one group; matrices are [in,out]. */
enum { ORRI_IN_WEIGHT = ORRI_NORM_BIAS + 1, ORRI_IN_BIAS, ORRI_OUT_WEIGHT, ORRI_OUT_BIAS, ORRI_RESIDUAL_VIEWS };

/* What F leaves for g, N = B T rows. B replaces u by its gradient. */
struct orri_inner {
    float *rest;        /* [N,rest] as g likes, fp32                 */
    void *u;            /* [N,in]   norm(x) Win + bin, or near it    */
    void *h;            /* [N,out]  g of that                        */
};

/* A block, or the shard of it that the operands are of. */
struct orri_residual {
    int width;                  /* C                                             */
    float eps, dropout;
    int place;                  /* of the dropout, see orr_dropout_stream()      */
    int rest, in, out;          /* columns of rest, u, h                         */
    size_t scratch;             /* bytes that the next two take for the microbatch, besides dh [N,out] */
    /* u and h from norm [N,C]; and from dout [N,C], the gradient of what Wout gave, that of norm(x) Win + bin, in u. */
    void (*forward)(const struct orr_operands *o, const void *norm, const struct orri_inner *s, void *scratch);
    void (*backward)(const struct orr_operands *o, const void *dout, const struct orri_inner *s, void *dh, void *scratch);
};

/* [N,n] = [N,k] op(W) + bias + add, then the epilogue, for the N rows of the operands; W is [k,n], or [n,k] where transposed. */
struct orri_product orri_row_product(const struct orr_operands *o, int n, int k, const void *x, const float *w, bool transposed,
                                     void *y);

/* What it saves; of it, without the norm's, a shard. */
struct orr_saved_size orri_residual_saved(const struct orri_residual *r, int batch, int seq);
struct orr_saved_size orri_residual_shard_saved(const struct orri_residual *r, int batch, int seq);

/* What the passes take of their rooms; r is of the first shard, which is the largest. */
size_t orri_residual_scratch(const struct orri_residual *r, const struct orr_shape *shape);

/* Bytes of the copies that they keep of the matrices of r. */
size_t orri_residual_kept(const struct orri_residual *r, const struct orr_shape *shape);

/* ---- the whole block -------------------------------------------------------------------------------- */

void orri_residual_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_weights(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);

/* ---- in shards; CHUNK_FORWARD is orri_norm_chunk_forward() ------------------------------------------ */

void orri_residual_shard_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_chunk_join(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_shard_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_shard_weights(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_chunk_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
#endif
