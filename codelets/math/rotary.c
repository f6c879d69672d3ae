/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

ORRI_SIMD void orri_rotary_angles(const struct orri_rotary *rotary, int position, float *cosine, float *sine)
{
#pragma omp simd
    for (int d = 0; d < rotary->half; d++)
        orri_sincosf((float)position * rotary->frequency[d], &sine[d], &cosine[d]);
}

ORRI_SIMD void orri_rotate(int heads, int half, const float *cosine, const float *sine, bool inverse, float *x)
{
    float sign = inverse ? -1.0f : 1.0f;

    for (float *y = x + half; heads > 0; heads--, x += 2 * half, y += 2 * half) {
#pragma omp simd
        for (int d = 0; d < half; d++) {
            float a = x[d], b = y[d], c = cosine[d], s = sign * sine[d];

            x[d] = a * c - b * s;
            y[d] = b * c + a * s;
        }
    }
}
