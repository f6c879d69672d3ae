/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout inside kernels: the decisions of codelets/math/dropout.c, bit for bit. */
#ifndef ORRI_PHILOX_CUDA_H
#define ORRI_PHILOX_CUDA_H

#include <math.h>

#include "codelets/math/math.h"
#include "core/philox_cuda.h"

/* A dropout as kernels take it. */
struct orri_device_dropout {
    struct orr_rng rng;
    uint32_t least;         /* an element is kept where its word is at least that; 0: all are  */
    float scale;            /* of what is kept                                                */
};

static inline struct orri_device_dropout orri_device_dropout(const struct orri_dropout *d)
{
    struct orri_device_dropout on = {d->rng, 0, 1};

    if (d->p > 0) {
        on.least = (uint32_t)ceil((double)d->p * 16777216.0) << 8;
        on.scale = 1.0f / (1.0f - d->p);
    }
    return on;
}

/* x dropped out, where `word` is its element's. */
static __device__ __forceinline__ float orri_drop(const struct orri_device_dropout &d, uint32_t word, float x)
{
    return word >= d.least ? x * d.scale : 0.0f;
}

#endif
