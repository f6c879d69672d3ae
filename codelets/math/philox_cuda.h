/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout inside kernels: the random words of lib/core/rng.c and the decisions of codelets/math/dropout.c, bit for bit. */
#ifndef ORRI_PHILOX_CUDA_H
#define ORRI_PHILOX_CUDA_H

#include <math.h>
#include <stdint.h>

#include <cuda_runtime.h>

#include "codelets/math/math.h"

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

/* Words 4 block .. 4 block + 3 of the stream. */
static __device__ __forceinline__ uint4 orri_philox(const struct orr_rng &rng, uint64_t block)
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = rng.stream, c3 = rng.step;
    uint32_t k0 = (uint32_t)rng.seed, k1 = (uint32_t)(rng.seed >> 32);

#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;

        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

/* Word `element` of the stream. Who needs neighbours too calls orri_philox() once for four of them. */
static __device__ __forceinline__ uint32_t orri_philox_word(const struct orr_rng &rng, uint64_t element)
{
    uint4 four = orri_philox(rng, element / 4);

    switch (element % 4) {
    case 0: return four.x;
    case 1: return four.y;
    case 2: return four.z;
    default: return four.w;
    }
}

/* x dropped out, where `word` is its element's. */
static __device__ __forceinline__ float orri_drop(const struct orri_device_dropout &d, uint32_t word, float x)
{
    return word >= d.least ? x * d.scale : 0.0f;
}

#endif
