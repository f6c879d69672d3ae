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
    float *u;           /* [N,in]   norm(x) Win + bin, or near it    */
    float *h;           /* [N,out]  g of that                        */
};

/* A block, or the shard of it that the operands are of. */
struct orri_residual {
    int width;                  /* C                                             */
    float eps, dropout;
    int place;                  /* of the dropout, see orr_dropout_stream()      */
    int rest, in, out;          /* columns of rest, u, h                         */
    size_t scratch;             /* bytes that g takes for the microbatch         */
    /* u and h from norm [N,C]; and from dh [N,out] the gradient of norm(x) Win + bin, in u. */
    void (*forward)(const struct orr_operands *o, const float *norm, const struct orri_inner *s, void *scratch);
    void (*backward)(const struct orr_operands *o, const float *dh, const struct orri_inner *s, void *scratch);
};

/* What it saves; of it, without the norm's, a shard. */
struct orr_saved_size orri_residual_saved(const struct orri_residual *r, int batch, int seq);
struct orr_saved_size orri_residual_shard_saved(const struct orri_residual *r, int batch, int seq);

/* ---- the whole block -------------------------------------------------------------------------------- */

size_t orri_residual_scratch_bytes(const struct orri_residual *r, int batch, int seq);
void orri_residual_forward(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_backward(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_weights(const struct orr_operands *o, const struct orri_residual *r);

/* ---- in shards; CHUNK_FORWARD is orri_norm_chunk_forward() ------------------------------------------ */

size_t orri_residual_shard_scratch_bytes(const struct orri_residual *r, int batch, int seq);
void orri_residual_shard_forward(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_chunk_join(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_shard_backward(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_shard_weights(const struct orr_operands *o, const struct orri_residual *r);
void orri_residual_chunk_backward(const struct orr_operands *o, const struct orri_residual *r);
#endif
