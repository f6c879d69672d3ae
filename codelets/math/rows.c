/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "core/core.h"

#include <string.h>

ORRI_SIMD void orri_bias_rows(int rows, int width, const float *x, const float *bias, float *y)
{
    size_t bytes = (size_t)width * sizeof(*y);

    for (int r = 0; r < rows; r++, y += width) {
        if (x && bias) {
#pragma omp simd
            for (int j = 0; j < width; j++)
                y[j] = x[j] + bias[j];
        } else if (x || bias) {
            memmove(y, x ? x : bias, bytes);
        } else {
            memset(y, 0, bytes);
        }
        if (x)
            x += width;
    }
}

ORRI_SIMD void orri_bias_backward(int rows, int width, const float *dy, int ld, float beta, float *db)
{
    int r = 0;

    if (beta == 0)
        memset(db, 0, (size_t)width * sizeof(*db));
    for (; r + 4 <= rows; r += 4, dy += 4 * (size_t)ld) {
        const float *a = dy, *b = a + ld, *c = b + ld, *d = c + ld;

#pragma omp simd
        for (int j = 0; j < width; j++)
            db[j] += (a[j] + b[j]) + (c[j] + d[j]);
    }
    for (; r < rows; r++, dy += ld) {
#pragma omp simd
        for (int j = 0; j < width; j++)
            db[j] += dy[j];
    }
}
