/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks do with their operands, on any device, whole or in shards and chunks: rooms, dropout, norms, and the way from chunks to
 * shards and back. A tile of positions `at` is [B,at.count,width]: those positions of every sequence. Elements are of o->dtype unless
 * their type says float. */
#ifndef ORRI_OPERANDS_H
#define ORRI_OPERANDS_H

#include <orrery/block.h>

#include <codelets/layer.h>

#include "codelets/math/kernels.h"

/* The positions that a pass of a chunk, or of a whole block, works on; and those of a pass of a shard: all. */
struct orr_part orri_positions(const struct orr_operands *o);
struct orr_part orri_all_positions(const struct orr_operands *o);

/* The rows of all positions of a microbatch, N = B T; and the bytes of so many rows of `width` elements. */
static inline size_t orri_all_rows(const struct orr_operands *o)
{
    return (size_t)o->batch * (size_t)o->seq;
}

static inline size_t orri_row_bytes(enum orr_dtype dtype, size_t rows, int64_t width)
{
    return rows * (size_t)width * orr_dtype_size(dtype);
}

/* ---- rooms in a worker's scratch ------------------------------------------------------------------------- */

/* Takes rooms from a base one after the other, each aligned to 256 bytes; without a base it only adds them up, which is how
 * a block finds what a pass will take. */
struct orri_rooms {
    char *base;
    size_t used;
};
void *orri_room(struct orri_rooms *rooms, size_t bytes);

/* The rooms of a pass of a class: all of its scratch. */
struct orri_rooms orri_rooms_of(const struct orr_operands *o, size_t (*scratch_bytes)(const void *, const struct orr_shape *));

/* Element `index` of an array of o->dtype. */
void *orri_at(const struct orr_operands *o, const void *array, int64_t index);

/* ---- dropout ------------------------------------------------------------------------------------- */

/* The dropout of rate p at a place of the block (orr_dropout_stream()); off outside training. */
struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place);

/* ORR_EINVAL, as an error of `block`, unless 0 <= p < 1. */
int orri_check_dropout(const char *block, float p);

/* y = [residual +] x dropped out, of positions `at`, with elements numbered as in the step's [samples,T,width]; x may be y. */
void orri_dropout_tile(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at, const void *x,
                       const void *residual, void *y);

/* dy, or, with dropout, dy through it, in `room`. */
const void *orri_dropout_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at,
                                  const void *dy, void *room);

/* ---- chunks and shards; `size` is the bytes of an element --------------------------------------------------- */

/* All positions of what lies in chunks: the only chunk as it is, or [B,T,width] put together in `room`. */
const void *orri_gather(const struct orr_operands *o, int width, size_t size, const float *const chunk[], void *room);

/* The other way: where to compute [B,T,width], in the only chunk or in `room`; then, from there into the chunks. */
void *orri_scatter_begin(const struct orr_operands *o, float *const chunk[], void *room);
void orri_scatter_end(const struct orr_operands *o, int width, size_t size, const void *all, float *const chunk[]);

/* sum = part[0] + part[1] + ... of all shards, in this order; count elements each. */
void orri_sum_shards(const struct orr_operands *o, size_t count, float *const part[], void *sum);

/* ---- the norm ------------------------------------------------------------------------------------------------ */

/* A norm, whose gain and, of LayerNorm, bias are the first views of group 0. Of RMSNorm there is no mean, and what is called mean and
 * dbeta below is left alone; without a norm so is all of it. */
struct orri_norm {
    enum orr_norm kind;
    float eps;
};
enum { ORRI_NORM_WEIGHT, ORRI_NORM_BIAS };
static inline int orri_norm_views(const struct orri_norm *norm)
{
    return norm->kind == ORR_LAYERNORM ? 2 : norm->kind == ORR_RMSNORM ? 1 : 0;
}

/* Of x[0], with statistics to mean and rstd; from those once more. And of any rows. */
void orri_norm(const struct orr_operands *o, const struct orri_norm *norm, int width, void *y, float *mean, float *rstd);
void orri_norm_again(const struct orr_operands *o, const struct orri_norm *norm, int width, const float *mean, const float *rstd,
                     void *y);
void orri_norm_rows(const struct orr_operands *o, const struct orri_norm *norm, int rows, int width, const void *x, void *y,
                    float *mean, float *rstd);

/* Floats that the next function saves: mean and rstd. */
int64_t orri_norm_saved_floats(int batch, int positions);

/* CHUNK_FORWARD: branch = norm(x). */
void orri_norm_chunk_forward(const struct orr_operands *o, const struct orri_norm *norm, int width, struct orri_rooms *rooms);

/* CHUNK_BACKWARD: the gradient of x, through the norm and, unless NULL, a dropout of norm(x) from the sum of all dpartial and `inner`,
 * plus dy, both unless NULL; and those of gain and bias. */
void orri_norm_chunk_backward(const struct orr_operands *o, const struct orri_norm *norm, const struct orri_dropout *dropout,
                              int width, const void *inner, const void *dy, struct orri_rooms *rooms);

/* dx = [dy +] layernorm_backward(dnorm), or added to dx where another reader was first. dnorm, of the positions of the
 * operands, is overwritten, and so are dgamma and dbeta. */
void orri_norm_input_gradient(const struct orr_operands *o, const struct orri_norm *norm, int width, const void *dy, void *dnorm,
                              const float *mean, const float *rstd, float *dgamma, float *dbeta, struct orri_rooms *rooms);

/* Adds dgamma and dbeta to the gradients, or writes them. */
void orri_norm_weights(const struct orr_operands *o, const struct orri_norm *norm, int width, const float *dgamma, const float *dbeta);

/* Bytes that these functions take of their rooms, for `rows` rows. */
size_t orri_norm_scratch(const struct orr_shape *shape, int width, int rows);
#endif
