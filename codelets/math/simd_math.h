/* SPDX-License-Identifier: Apache-2.0 */
/* Elementary functions in plain C without branches or tables, so that loops that call them vectorise. */
#ifndef ORRI_SIMD_MATH_H
#define ORRI_SIMD_MATH_H

#include <stdint.h>
#include <string.h>

#define ORRI_INLINE static inline __attribute__((always_inline))

/* e^r of x = n ln 2 + r, |r| <= ln 2 / 2, with the polynomial of Cephes' expf, and n in the low bits of *n. */
ORRI_INLINE float orri_exp_rest(float x, uint32_t *n)
{
    const float shift = 0x1.8p23f;     /* adding it rounds to an integer, left in the low bits */
    float t = x * 0x1.715476p0f + shift;
    float whole = t - shift;
    float r = x - whole * 0x1.63p-1f;
    r = r + whole * 0x1.bd0106p-13f;

    float e = 1.9875691500e-4f;
    e = e * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    memcpy(n, &t, sizeof(*n));
    return e * (r * r) + r + 1.0f;
}

/* 2^n, -127 < n < 128. */
ORRI_INLINE float orri_power_of_2(uint32_t n)
{
    uint32_t bits = (n + 127u) << 23;
    float power;

    memcpy(&power, &bits, sizeof(power));
    return power;
}

/* e^x to about 1 ulp; 0 below -86.5 (where the result would come near the subnormals), +inf on overflow,
 * NaN for NaN. */
ORRI_INLINE float orri_expf(float x)
{
    float c = x < -86.5f ? -86.5f : x; /* in this form a NaN stays */
    uint32_t n;

    c = c > 89.0f ? 89.0f : c;
    float e = orri_exp_rest(c, &n) * orri_power_of_2(n - 1) * 2.0f;     /* in two steps, because n may be 128 */
    return x < -86.5f ? 0.0f : e;
}

/* The same, in fewer instructions, for x < 88: of a softmax, whose exponents are not positive. */
ORRI_INLINE float orri_exp_bounded(float x)
{
    uint32_t n;
    float e = orri_exp_rest(x, &n);

    return x < -86.5f ? 0.0f : e * orri_power_of_2(n);
}

/* sin x and cos x to about 1 ulp of their largest value, |x| < 2^31: reduced in double to |r| <= pi / 4, for which Cephes' sinf and cosf
 * have polynomials. */
ORRI_INLINE void orri_sincosf(float x, float *sine, float *cosine)
{
    const double shift = 0x1.8p52;      /* adding it rounds to an integer, left in the low bits */
    double t = (double)x * 0.63661977236758134 + shift;
    float r = (float)((double)x - (t - shift) * 1.5707963267948966), z = r * r;
    uint64_t n;

    memcpy(&n, &t, sizeof(n));
    float s = -1.9515295891e-4f;
    s = s * z + 8.3321608736e-3f;
    s = s * z - 1.6666654611e-1f;
    s = s * (z * r) + r;
    float c = 2.443315711809948e-5f;
    c = c * z - 1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = c * (z * z) - 0.5f * z + 1.0f;
    float u = n & 1 ? c : s, v = n & 1 ? s : c;
    *sine = n & 2 ? -u : u;
    *cosine = (n + 1) & 2 ? -v : v;
}

#endif
