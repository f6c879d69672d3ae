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

ORRI_SIMD void orri_bias_gelu(int rows, int width, float *u, const float *bias, float *h)
{
    for (int r = 0; r < rows; r++, u += width, h += width) {
        if (bias) {
#pragma omp simd
            for (int j = 0; j < width; j++) {
                float v = u[j] + bias[j];

                u[j] = v;
                h[j] = gelu(v);
            }
        } else {
#pragma omp simd
            for (int j = 0; j < width; j++)
                h[j] = gelu(u[j]);
        }
    }
}

ORRI_SIMD void orri_gelu_backward(size_t count, const float *dh, const float *u, float *du)
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
