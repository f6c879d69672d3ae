/* SPDX-License-Identifier: Apache-2.0 */
/* Updates on a CUDA device: what optimizer.c has for the CPU.
 *
 * Every function enqueues its work on cuda->stream and returns; after a failure (cuda->code) it does nothing. Pointers are to
 * device memory unless said otherwise. Results are deterministic. Sums of gradients are orri_cuda_add()'s, means
 * orri_cuda_scale()'s (core/vector_cuda.h). */
#ifndef ORRI_OPTIMIZER_CUDA_H
#define ORRI_OPTIMIZER_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/block.h>
#include <orrery/cuda.h>
#include <orrery/dtype.h>
#include <orrery/rng.h>
#include <orrery/train.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One of the parameters of a tile. */
struct orri_update_view {
    int64_t offset, count;
    bool decay;                     /* it takes part in weight decay                                       */
    double rate;                    /* multiplies lr                                                       */
};

/* The optimizer's pass over a tile, with the formulas of orrery/train.h. The struct and its views are read before the function
 * returns; g, p, working and state are of the whole tile. */
struct orri_cuda_update {
    struct orr_optimizer optimizer;
    double lr;
    int64_t t;                      /* counts from 1                                                       */
    /* What the host need not know of. g is multiplied by *scale (NULL: 1). Nothing is done where *skip is not 0 (NULL: it is)
     * or *squares is not finite (NULL: it is); nor where g begins with NaN and is `pushed`, by orri_cuda_push(). */
    const double *scale;
    const double *correction;       /* 1 - beta1^t and 1 - beta2^t of the updates really made; NULL: those of t */
    const int *skip;
    const double *squares;
    bool pushed;
    int views;
    struct orri_update_view view[ORR_MAX_VIEWS];
    const float *g;
    float *p;                       /* NULL: working has the only ones there are                           */
    float *state;                   /* the optimizer's floats, each `stride` apart                         */
    int64_t stride;
    enum orr_dtype dtype;           /* of working                                                          */
    void *working;                  /* the parameters that blocks read, rounded from p; NULL: none         */
    /* NULL: they are rounded to the nearest. Else, where dtype is ORR_BF16: up or down at random, by element's word of this
     * stream, so that small updates are not lost where there is no p. Read before the function returns. */
    const struct orr_rng *rounding;
};
void orri_cuda_update(struct orr_cuda *cuda, const struct orri_cuda_update *update);

/* g[k] *= *scale; but where `stopped`, *skip is not 0 or *squares is not finite, g[0] = NaN and nothing else. */
void orri_cuda_push(struct orr_cuda *cuda, bool stopped, const double *scale, const int *skip, const double *squares,
                    size_t count, float *g);

/* *squares = sum of x[k]^2 in double: finite exactly where all elements are. */
size_t orri_cuda_sum_squares_scratch(size_t count);
void orri_cuda_sum_squares(struct orr_cuda *cuda, size_t count, const float *x, double *squares, void *scratch);

/* As orri_outer_update(). */
void orri_cuda_outer_update(struct orr_cuda *cuda, double lr, double momentum, float scale, size_t count, const float *sum,
                            float *p, float *m);

#ifdef __cplusplus
}
#endif
#endif
