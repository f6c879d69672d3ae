/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

/* 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)): the logistic form needs no tanh and keeps its relative accuracy
 * where the result is small. */
#define TWO_ROOT 1.5957691216057308f   /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

ORRI_INLINE float gelu(float u)
{
    return u / (1.0f + orri_expf(-TWO_ROOT * (u + CUBIC * (u * u * u))));
}

static ORRI_SIMD void gelu_backward(size_t count, const float *dh, const float *u, float *du)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        /* Beyond 10 the derivative is 0 or 1 in fp32; clamping keeps u^2 and exp from overflowing to 0 times
         * inf. 1 - s is had as e s, which does not cancel. */
        float v = u[k] < -10.0f ? -10.0f : u[k];
        v = v > 10.0f ? 10.0f : v;
        float square = v * v;
        float e = orri_expf(-TWO_ROOT * v * (1.0f + CUBIC * square));
        float s = 1.0f / (1.0f + e);

        du[k] = dh[k] * (s + v * s * (e * s) * (TWO_ROOT * (1.0f + 3.0f * CUBIC * square)));
    }
}

/* ---- all of them ------------------------------------------------------------------------------------------------------ */

/* The normal distribution function of u, 0.5 erfc(-u / sqrt(2)), by the Chebyshev fit of erfc in Numerical Recipes (Press et al. 1992,
 * section 6.2), which is good to 1.2e-7 of the result. */
ORRI_INLINE float normal(float u)
{
    float z = (u < 0 ? -u : u) * 0.70710678f, t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f;

    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    float tail = 0.5f * t * orri_expf(-z * z - 1.26551223f + t * p);
    return u < 0 ? tail : 1.0f - tail;
}

ORRI_INLINE float logistic(float u)
{
    return 1.0f / (1.0f + orri_expf(-u));
}

/* Near 0, where 1 - e cancels, by its series. */
ORRI_INLINE float hyperbolic_tangent(float u)
{
    float e = orri_expf(-2.0f * (u < 0 ? -u : u)), t = (1.0f - e) / (1.0f + e), square = u * u;
    float series = u * (1.0f - square * (1.0f / 3.0f - square * (2.0f / 15.0f - square * (17.0f / 315.0f))));

    return square < 0.01f ? series : u < 0 ? -t : t;
}

#define ROOT_2_PI 0.39894228f       /* 1 / sqrt(2 pi) */

ORRI_SIMD void orri_activate(enum orr_activation kind, size_t count, const float *u, float *h)
{
    switch (kind) {
    case ORR_GELU_TANH:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            h[k] = gelu(u[k]);
        break;
    case ORR_GELU:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            h[k] = u[k] * normal(u[k]);
        break;
    case ORR_RELU:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            h[k] = u[k] < 0 ? 0 : u[k];     /* a NaN stays */
        break;
    case ORR_SILU:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            h[k] = u[k] * logistic(u[k]);
        break;
    case ORR_TANH:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            h[k] = hyperbolic_tangent(u[k]);
        break;
    }
}

ORRI_SIMD void orri_activate_backward(enum orr_activation kind, size_t count, const float *dh, const float *u, float *du)
{
    switch (kind) {
    case ORR_GELU_TANH:
        gelu_backward(count, dh, u, du);
        break;
    case ORR_GELU:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            du[k] = dh[k] * (normal(u[k]) + u[k] * (ROOT_2_PI * orri_expf(-0.5f * u[k] * u[k])));
        break;
    case ORR_RELU:
#pragma omp simd
        for (size_t k = 0; k < count; k++)
            du[k] = u[k] <= 0 ? 0 : dh[k];
        break;
    case ORR_SILU:
#pragma omp simd
        for (size_t k = 0; k < count; k++) {
            float s = logistic(u[k]);

            du[k] = dh[k] * (s * (1.0f + u[k] * (1.0f - s)));
        }
        break;
    case ORR_TANH:
#pragma omp simd
        for (size_t k = 0; k < count; k++) {
            float t = hyperbolic_tangent(u[k]);

            du[k] = dh[k] * (1.0f - t * t);
        }
        break;
    }
}

static ORRI_SIMD void multiply(size_t count, const float *x, float *y)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++)
        y[k] *= x[k];
}

void orri_gated(enum orr_activation kind, size_t count, const float *gate, const float *up, float *h)
{
    orri_activate(kind, count, gate, h);
    multiply(count, up, h);
}

/* What the activations of a strip take, which is read again at once. */
static ORRI_SIMD void split_gradient(size_t count, const float *dh, const float *active, float *up, float *dactive)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++) {
        dactive[k] = dh[k] * up[k];
        up[k] = dh[k] * active[k];
    }
}

void orri_gated_backward(enum orr_activation kind, size_t count, const float *dh, float *gate, float *up)
{
    enum { STRIP = 512 };
    float active[STRIP], dactive[STRIP];

    for (size_t k = 0, n; k < count; k += n) {
        n = count - k < STRIP ? count - k : STRIP;
        orri_activate(kind, n, gate + k, active);
        split_gradient(n, dh + k, active, up + k, dactive);
        orri_activate_backward(kind, n, dactive, gate + k, gate + k);
    }
}
