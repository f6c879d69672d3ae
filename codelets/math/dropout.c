/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "core/core.h"

#include <math.h>

#define CHUNK 1024

static ORRI_SIMD void apply(size_t count, const uint32_t *words, uint32_t least, float scale, float *x)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++)
        x[k] = words[k] >= least ? x[k] * scale : 0.0f;
}

void orri_dropout_apply(const struct orri_dropout *d, uint64_t first, size_t count, float *x)
{
    uint32_t words[CHUNK];

    if (d->p <= 0)
        return;
    /* word >> 8 >= p 2^24, which is uniform >= p exactly, without going through floats. */
    uint32_t least = (uint32_t)ceil((double)d->p * 0x1p24) << 8;
    float scale = 1.0f / (1.0f - d->p);

    for (size_t done = 0; done < count; done += CHUNK) {
        size_t n = count - done < CHUNK ? count - done : CHUNK;
        orr_rng_words(&d->rng, first + done, n, words);
        apply(n, words, least, scale, x + done);
    }
}
