/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based random numbers: every value is a pure function of a key and a counter. */
#ifndef ORRERY_RNG_H
#define ORRERY_RNG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11):
 * writes the four words of the block `counter` under `key`. Pure; any thread. */
void orr_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream of random numbers: the key is the seed; (stream, step) name the use, and the element
 * index is the position. Words 4i..4i+3 of a stream are Philox block i, with
 * counter = { i low, i high, stream, step }. */
struct orr_rng {
    uint64_t seed;
    uint32_t stream;
    uint32_t step;
};

/* out[k] = word first + k of the stream, k = 0..count-1: uniform in [0, 2^32). */
void orr_rng_words(const struct orr_rng *rng, uint64_t first, size_t count, uint32_t *out);

/* out[k] = element first + k, uniform in [0, 1): word / 2^32, rounded down to 24 bits. */
void orr_rng_uniform(const struct orr_rng *rng, uint64_t first, size_t count, float *out);

/* out[k] = element first + k of a normal distribution (Box-Muller; elements 2j and 2j+1 come from
 * words 2j and 2j+1, so that any range gives the same values as the whole). */
void orr_rng_normal(const struct orr_rng *rng, uint64_t first, size_t count, float mean, float std, float *out);

/* The image of `index` under a pseudo-random permutation of 0..n-1 chosen by the stream: a
 * 4-round Feistel network on the next even number of bits with cycle walking (Black and Rogaway,
 * "Ciphers with arbitrary finite domains", 2002). 0 <= index < n. Needs no memory. */
uint64_t orr_rng_permute(const struct orr_rng *rng, uint64_t n, uint64_t index);

#ifdef __cplusplus
}
#endif
#endif
