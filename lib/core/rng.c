/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"

#include <math.h>
#include <orrery/rng.h>
#include <string.h>

#define CHUNK 1024      /* words made at a time on the stack */

static inline __attribute__((always_inline)) void philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                                         uint32_t k0, uint32_t k1, uint32_t *out)
{
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ (k0 + (uint32_t)round * 0x9E3779B9u);
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ (k1 + (uint32_t)round * 0xBB67AE85u);
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void orr_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1], out);
}

static ORRI_SIMD void blocks(uint32_t k0, uint32_t k1, uint32_t stream, uint32_t step, uint64_t first, size_t count,
                             uint32_t *out)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        philox((uint32_t)(first + i), (uint32_t)((first + i) >> 32), stream, step, k0, k1, out + 4 * i);
}

void orr_rng_words(const struct orr_rng *rng, uint64_t first, size_t count, uint32_t *out)
{
    uint32_t k0 = (uint32_t)rng->seed, k1 = (uint32_t)(rng->seed >> 32);
    uint32_t block[4];
    unsigned skip = first % 4;

    if (skip && count) {
        size_t n = count < 4 - skip ? count : 4 - skip;
        blocks(k0, k1, rng->stream, rng->step, first / 4, 1, block);
        memcpy(out, block + skip, n * sizeof(*out));
        first += n;
        count -= n;
        out += n;
    }
    blocks(k0, k1, rng->stream, rng->step, first / 4, count / 4, out);
    if (count % 4) {
        blocks(k0, k1, rng->stream, rng->step, first / 4 + count / 4, 1, block);
        memcpy(out + count / 4 * 4, block, count % 4 * sizeof(*out));
    }
}

static ORRI_SIMD void uniform(size_t count, const uint32_t *words, float *out)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++)
        out[k] = (float)(int32_t)(words[k] >> 8) * 0x1p-24f;
}

void orr_rng_uniform(const struct orr_rng *rng, uint64_t first, size_t count, float *out)
{
    uint32_t words[CHUNK];

    for (size_t done = 0; done < count; done += CHUNK) {
        size_t n = count - done < CHUNK ? count - done : CHUNK;
        orr_rng_words(rng, first + done, n, words);
        uniform(n, words, out + done);
    }
}

void orr_rng_normal(const struct orr_rng *rng, uint64_t first, size_t count, float mean, float std, float *out)
{
    const double two_pi = 6.283185307179586;
    uint32_t words[CHUNK];
    uint64_t end = first + count;

    for (uint64_t at = first & ~(uint64_t)1; at < end; at += CHUNK) {
        size_t n = end - at < CHUNK ? (size_t)(end - at + 1) & ~(size_t)1 : CHUNK;
        orr_rng_words(rng, at, n, words);
        for (size_t k = 0; k < n; k += 2) {
            double radius = std * sqrt(-2 * log((words[k] + 0.5) * 0x1p-32));
            double angle = two_pi * 0x1p-32 * words[k + 1];
            double s, c;

            sincos(angle, &s, &c);
            if (at + k >= first)
                out[at + k - first] = (float)(mean + radius * c);
            if (at + k + 1 < end)
                out[at + k + 1 - first] = (float)(mean + radius * s);
        }
    }
}

uint64_t orr_rng_permute(const struct orr_rng *rng, uint64_t n, uint64_t index)
{
    uint32_t key[2] = { (uint32_t)rng->seed, (uint32_t)(rng->seed >> 32) };
    int half = 1;

    while (half < 32 && ((n - 1) >> (2 * half)) != 0)
        half++;
    uint32_t mask = 0xFFFFFFFFu >> (32 - half);

    do {
        uint32_t left = (uint32_t)(index >> half), right = (uint32_t)index & mask;

        for (uint32_t round = 0; round < 4; round++) {
            /* The high bit keeps away from the blocks that orr_rng_words reads. */
            uint32_t counter[4] = { right, 0x80000000u | round, rng->stream, rng->step };
            uint32_t block[4];

            orr_philox(counter, key, block);
            uint32_t next = left ^ (block[0] & mask);
            left = right;
            right = next;
        }
        index = (uint64_t)left << half | right;
    } while (index >= n);
    return index;
}
