/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks do with their operands, whole or in shards and chunks: dropout, norms, and the way from chunks to
 * shards and back. A tile of positions `at` is [B,at.count,width]: those positions of every sequence. */
#ifndef ORRI_OPERANDS_H
#define ORRI_OPERANDS_H

#include <orrery/block.h>

#include "codelets/math/math.h"

/* The passes of a block on a CUDA device, where this build has them. */
#ifdef ORR_HAVE_CUDA
#define ORRI_CUDA(table) (&(table))
#else
#define ORRI_CUDA(table) NULL
#endif

/* The positions that a pass of a chunk, or of a whole block, works on; and those of a pass of a shard: all. */
struct orr_part orri_positions(const struct orr_operands *o);
struct orr_part orri_all_positions(const struct orr_operands *o);

/* ---- dropout ------------------------------------------------------------------------------------- */

/* The dropout of rate p at a place of the block (orr_dropout_stream()); off outside training. */
struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place);

/* ORR_EINVAL, as an error of `block`, unless 0 <= p < 1. */
int orri_check_dropout(const char *block, float p);

/* Applies it to a tile, in place, with elements numbered as in the step's [samples,T,width]. */
void orri_dropout_tile(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at,
                       float *x);

/* The gradient of what was dropped out: dy, or, with dropout, dy through it, in `room`, which may be dy. */
const float *orri_dropout_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width,
                                   struct orr_part at, const float *dy, float *room);

/* Rounds values that a pass keeps to itself as if they had been saved. */
void orri_round_as_saved(const struct orr_operands *o, size_t count, float *values);

/* ---- chunks and shards ---------------------------------------------------------------------------- */

/* All positions of what lies in chunks: the only chunk as it is, or [B,T,width] put together in `room`. */
const float *orri_gather(const struct orr_operands *o, int width, const float *const chunk[], float *room);

/* The other way: where to compute [B,T,width], in the only chunk or in `room`; then, from there into the chunks. */
float *orri_scatter_begin(const struct orr_operands *o, float *const chunk[], float *room);
void orri_scatter_end(const struct orr_operands *o, int width, const float *all, float *const chunk[]);

/* sum = part[0] + part[1] + ... of all shards, in this order; count floats each. */
void orri_sum_shards(const struct orr_operands *o, size_t count, float *const part[], float *sum);

/* ---- the norm of a chunk --------------------------------------------------------------------------- */

/* Where group 0 has its gain and bias. */
enum { ORRI_NORM_WEIGHT, ORRI_NORM_BIAS };

/* Floats that the next function saves: mean and rstd. */
int64_t orri_norm_saved_floats(int batch, int positions);

/* CHUNK_FORWARD: branch = norm(x). */
void orri_norm_chunk_forward(const struct orr_operands *o, int width, float eps);

/* CHUNK_BACKWARD: the gradient of x, through the norm from the sum of all dpartial, plus dy unless NULL; and those of
 * gain and bias. */
void orri_norm_chunk_backward(const struct orr_operands *o, int width, const float *dy, float *room);

/* Floats of scratch that the one takes and `room` of the other. */
size_t orri_norm_scratch_floats(int width, int rows);

/* dx = [dy +] layernorm_backward(dnorm), or added to dx where another reader was first. dnorm, of the positions of the
 * operands, is overwritten; dgamma, dbeta as orri_layernorm_backward(). */
void orri_norm_input_gradient(const struct orr_operands *o, int width, const float *dy, float *dnorm, const float *mean,
                              const float *rstd, float *dgamma, float *dbeta);

/* Adds dgamma and dbeta to the gradients, or writes them. */
void orri_norm_weights(const struct orr_operands *o, int width, const float *dgamma, const float *dbeta);
#endif
