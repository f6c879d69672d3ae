/* SPDX-License-Identifier: Apache-2.0 */
/* Residual blocks of two products, whole and in shards: y = x + dropout(g(n Win + bin) Wout + bout), n = norm(x); or n in x's place,
 * which makes blocks of a model whose norms follow the sums (Vaswani et al. 2017) out of blocks that begin with them.
 *
 * A block brings g and its geometry and has its passes from here. A shard has columns of Win and bin, those rows of
 * Wout that go with them, and a g of its own; norm, bout, dropout and x are the chunks'. */
#ifndef ORRI_RESIDUAL_H
#define ORRI_RESIDUAL_H

#include <orrery/block.h>

#include <codelets/layer.h>

#include "codelets/math/operands.h"

/* What F leaves for g, N = B T rows. B replaces u by its gradient. */
struct orri_inner {
    float *rest;        /* [N,rest] as g likes, fp32                 */
    void *u;            /* [N,in]   n Win + bin, or near it          */
    void *h;            /* [N,out]  g of that                        */
};

/* A block, or the shard of it that the operands are of. */
struct orri_residual {
    int width;                  /* C                                             */
    struct orri_norm norm;      /* its views are the first of group 0            */
    bool of_norm;               /* n is added to, not x                          */
    bool out_in;                /* Win is [in,C], Wout [C,out], as nn.Linear has them; else [C,in] and [out,C] */
    /* The first view of each in group 0, of which those of Win, and of bin, follow each other there; 0: there is none. */
    int in_weight, in_bias, out_weight, out_bias;
    float dropout, norm_dropout, inner_dropout;         /* on what is added, on n, and on h */
    int place, norm_place, inner_place;         /* of these, see orr_dropout_stream() */
    int64_t inner_first, inner_all;     /* of all columns of h the first of this shard, and how many they are: for inner_dropout */
    int rest, in, out;          /* columns of rest, u, h                         */
    enum orr_activation activation;     /* g, where forward is NULL              */
    size_t scratch;             /* bytes that the next two take for the microbatch, besides dh [N,out] */
    /* h from u; and from dh [N,out], the gradient of h, that of u in its place. */
    void (*forward)(const struct orr_operands *o, const struct orri_inner *s, void *scratch);
    void (*backward)(const struct orr_operands *o, const struct orri_inner *s, void *dh, void *scratch);
};

/* Its style: norm, what is added to, how matrices lie and which biases there are, of a block whose Win, and bin, consist of `parts` views
 * each, from the style that its configuration has. */
struct orri_residual orri_residual_of(const struct orr_style *style, int parts, int width, float eps);

/* The views in that order: norm.weight, norm.bias unless RMSNorm, Win, bin, Wout, bout. The first puts those of the norm and returns how
 * many they are; the next puts one more, and the others give it: a matrix that takes x [in] to y [out], and a bias, divided among
 * shards, in multiples of `unit`, by their outputs where `columns`, else a matrix by its inputs and a bias not at all. */
int orri_norm_specify(const struct orr_style *style, int width, struct orr_view *view);
void orri_add_view(struct orr_view *view, int *count, const char *name, struct orr_view what);
struct orr_view orri_matrix_view(bool out_in, int in, int out, bool columns, int64_t unit, float std);
struct orr_view orri_bias_view(int width, bool columns, int64_t unit);

/* What F of a whole block left for g. */
struct orri_inner orri_residual_inner(const struct orr_operands *o, const struct orri_residual *r);

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

/* ---- in shards -------------------------------------------------------------------------------------- */

void orri_residual_chunk_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_shard_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_chunk_join(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_shard_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_shard_weights(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
void orri_residual_chunk_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms);
#endif
