/* SPDX-License-Identifier: Apache-2.0 */
/* The random words of lib/core/rng.c inside kernels, bit for bit. */
#ifndef ORRI_CORE_PHILOX_CUDA_H
#define ORRI_CORE_PHILOX_CUDA_H

#include <stdint.h>

#include <cuda_runtime.h>

#include <orrery/rng.h>

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

/* Word `element` of the stream. */
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

/* Words first .. first + N - 1, where N = 1 or both are multiples of four: then each block is computed once. */
template <int N> static __device__ __forceinline__ void orri_philox_words(const struct orr_rng &rng, uint64_t first,
                                                                          uint32_t (&word)[N])
{
    if constexpr (N == 1) {
        word[0] = orri_philox_word(rng, first);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            uint4 four = orri_philox(rng, (first + i) / 4);

            word[i] = four.x;
            word[i + 1] = four.y;
            word[i + 2] = four.z;
            word[i + 3] = four.w;
        }
    }
}

#endif
