/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"

ORRI_SIMD void orri_add(size_t count, const float *x, float *y)
{
#pragma omp simd
    for (size_t k = 0; k < count; k++)
        y[k] += x[k];
}
