/* SPDX-License-Identifier: Apache-2.0 */
/* operands.h on a CUDA device: what blocks do with their operands, whole or in shards and chunks. Elements are of o->dtype
 * unless their type says float. */
#ifndef ORRI_OPERANDS_CUDA_H
#define ORRI_OPERANDS_CUDA_H

#include <orrery/block.h>

#include "codelets/math/math_cuda.h"
#include "codelets/math/operands.h"

/* ---- rooms in a worker's scratch ------------------------------------------------------------------------- */

/* Takes rooms from a base one after the other, each aligned to 256 bytes; without a base it only adds them up, which is how
 * a block finds what a pass will take. */
struct orri_rooms {
    char *base;
    size_t used;
};
void *orri_room(struct orri_rooms *rooms, size_t bytes);

/* Element `index` of an array of o->dtype. */
void *orri_at(const struct orr_operands *o, const void *array, int64_t index);

/* ---- dropout --------------------------------------------------------------------------------------------- */

/* y = [residual +] x dropped out, of positions `at`; x may be y. */
void orri_cuda_dropout_tile(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at,
                            const void *x, const void *residual, void *y);

/* dy, or, with dropout, dy through it, in `room`. */
const void *orri_cuda_dropout_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width,
                                       struct orr_part at, const void *dy, void *room);

/* ---- chunks and shards; `size` is the bytes of an element --------------------------------------------------- */

const void *orri_cuda_gather(const struct orr_operands *o, int width, size_t size, const float *const chunk[], void *room);
void *orri_cuda_scatter_begin(const struct orr_operands *o, float *const chunk[], void *room);
void orri_cuda_scatter_end(const struct orr_operands *o, int width, size_t size, const void *all, float *const chunk[]);

/* sum = part[0] + part[1] + ... of all shards, in this order; count elements each. */
void orri_cuda_sum_shards(const struct orr_operands *o, size_t count, float *const part[], void *sum);

/* ---- the norm ------------------------------------------------------------------------------------------------ */

void orri_cuda_norm(const struct orr_operands *o, int width, float eps, void *y, float *mean, float *rstd);
void orri_cuda_norm_again(const struct orr_operands *o, int width, const float *mean, const float *rstd, void *y);
void orri_cuda_norm_chunk_forward(const struct orr_operands *o, int width, float eps);
void orri_cuda_norm_chunk_backward(const struct orr_operands *o, int width, const void *dy, struct orri_rooms *rooms);
void orri_cuda_norm_input_gradient(const struct orr_operands *o, int width, const void *dy, void *dnorm, const float *mean,
                                   const float *rstd, float *dgamma, float *dbeta, struct orri_rooms *rooms);
void orri_cuda_norm_weights(const struct orr_operands *o, int width, const float *dgamma, const float *dbeta);

/* Bytes that the functions above take of their rooms, for `rows` rows. */
size_t orri_cuda_norm_scratch(enum orr_dtype dtype, int width, int rows);
#endif
