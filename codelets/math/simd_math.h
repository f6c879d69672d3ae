/* SPDX-License-Identifier: Apache-2.0 */
/* Elementary functions in plain C without branches or tables, so that loops that call them vectorise. */
#ifndef ORRI_SIMD_MATH_H
#define ORRI_SIMD_MATH_H

#include <stdint.h>
#include <string.h>

#define ORRI_INLINE static inline __attribute__((always_inline))

/* e^x to about 1 ulp; 0 below -86.5 (where the result would come near the subnormals), +inf on overflow,
 * NaN for NaN. x = n ln 2 + r, |r| <= ln 2 / 2, with the polynomial of Cephes' expf for e^r. */
ORRI_INLINE float orri_expf(float x)
{
    const float shift = 0x1.8p23f;     /* adding it rounds to an integer, left in the low bits */
    float c = x < -86.5f ? -86.5f : x; /* in this form a NaN stays */
    c = c > 89.0f ? 89.0f : c;

    float t = c * 0x1.715476p0f + shift;
    float n = t - shift;
    float r = c - n * 0x1.63p-1f;
    r = r + n * 0x1.bd0106p-13f;

    float e = 1.9875691500e-4f;
    e = e * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * (r * r) + r + 1.0f;

    /* 2^n in two steps, because n may be 128. */
    uint32_t bits;
    float half;
    memcpy(&bits, &t, sizeof(bits));
    bits = (bits + 126u) << 23;
    memcpy(&half, &bits, sizeof(half));
    e = e * half * 2.0f;
    return x < -86.5f ? 0.0f : e;
}

#endif
