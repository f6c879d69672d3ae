/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"

#include <math.h>
#include <string.h>

/* Elements in files may lie at odd addresses: they are loaded and stored by memcpy(), which costs nothing. */

static ORRI_SIMD void widen_bf16(size_t count, const unsigned char *from, float *to)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        uint16_t upper;
        memcpy(&upper, from + 2 * k, sizeof(upper));
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(&to[k], &bits, sizeof(bits));
    }
}

static ORRI_SIMD void widen_f16(size_t count, const unsigned char *from, float *to)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        _Float16 half;
        memcpy(&half, from + 2 * k, sizeof(half));
        to[k] = (float)half;
    }
}

static ORRI_SIMD void round_bf16(size_t count, const float *from, unsigned char *to)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        uint32_t bits;
        memcpy(&bits, &from[k], sizeof(bits));
        uint32_t even = bits + 0x7fffu + (bits >> 16 & 1);
        uint32_t quiet = bits | 0x400000u;      /* a NaN whose low bits were carried would become an infinity */
        uint16_t upper = (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : even) >> 16);
        memcpy(to + 2 * k, &upper, sizeof(upper));
    }
}

static ORRI_SIMD void round_f16(size_t count, const float *from, unsigned char *to)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        _Float16 half = (_Float16)from[k];
        memcpy(to + 2 * k, &half, sizeof(half));
    }
}

void orri_widen(enum orr_dtype dtype, size_t count, const void *from, float *to)
{
    switch (dtype) {
    case ORR_BF16: widen_bf16(count, from, to); break;
    case ORR_F16: widen_f16(count, from, to); break;
    default:
        if (count)
            memcpy(to, from, count * sizeof(*to));
    }
}

void orri_round(enum orr_dtype dtype, size_t count, const float *from, void *to)
{
    switch (dtype) {
    case ORR_BF16: round_bf16(count, from, to); break;
    case ORR_F16: round_f16(count, from, to); break;
    default:
        if (count)
            memcpy(to, from, count * sizeof(*from));
    }
}

void orri_round_at_random(const struct orr_rng *rng, uint64_t first, size_t count, const float *from, void *to)
{
    uint32_t words[256];
    unsigned char *out = to;

    for (size_t done = 0; done < count; done += ORRI_COUNT(words)) {
        size_t n = count - done < ORRI_COUNT(words) ? count - done : ORRI_COUNT(words);
        orr_rng_words(rng, first + done, n, words);
        for (size_t k = done; k < done + n; k++) {
            uint32_t bits;
            memcpy(&bits, &from[k], sizeof(bits));
            uint16_t upper = (uint16_t)((bits + (words[k - done] >> 16)) >> 16);
            if (isfinite(from[k]))
                memcpy(out + 2 * k, &upper, sizeof(upper));
            else
                round_bf16(1, &from[k], out + 2 * k);
        }
    }
}

void orr_dtype_widen(enum orr_dtype dtype, size_t count, const void *from, float *to)
{
    orri_widen(dtype, count, from, to);
}

void orr_dtype_round(enum orr_dtype dtype, size_t count, const float *from, void *to)
{
    orri_round(dtype, count, from, to);
}
