/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

#include <math.h>
#include <string.h>

#define CHUNK 1024      /* terms summed in fp32 before the sum goes on in double */

/* A NaN may be passed over here: the sum of exponentials finds it. */
static ORRI_SIMD float row_max(int width, const float *x)
{
    float max = -INFINITY;

#pragma omp simd reduction(max : max)
    for (int j = 0; j < width; j++)
        max = x[j] > max ? x[j] : max;
    return max;
}

static ORRI_SIMD double sum_exp(int width, const float *x, float max)
{
    double sum = 0;

    for (int from = 0; from < width; from += CHUNK) {
        int to = width - from < CHUNK ? width : from + CHUNK;
        float part = 0;

#pragma omp simd reduction(+ : part)
        for (int j = from; j < to; j++)
            part += orri_expf(x[j] - max);
        sum += part;
    }
    return sum;
}

/* The same, leaving the exponentials in x. */
static ORRI_SIMD double sum_exp_keep(int width, float *x, float max)
{
    double sum = 0;

    for (int from = 0; from < width; from += CHUNK) {
        int to = width - from < CHUNK ? width : from + CHUNK;
        float part = 0;

#pragma omp simd reduction(+ : part)
        for (int j = from; j < to; j++) {
            x[j] = orri_expf(x[j] - max);
            part += x[j];
        }
        sum += part;
    }
    return sum;
}

static ORRI_SIMD void scale(int width, float factor, float *x)
{
#pragma omp simd
    for (int j = 0; j < width; j++)
        x[j] *= factor;
}

void orri_softmax_cross_entropy(int rows, int width, float *logits, int ld, const int32_t *target, bool gradient,
                                double *loss, int64_t *count)
{
    for (int r = 0; r < rows; r++) {
        float *row = logits + (size_t)r * (size_t)ld;

        if (target[r] == ORR_IGNORE) {
            if (gradient)
                memset(row, 0, (size_t)width * sizeof(*row));
            continue;
        }
        float max = row_max(width, row);
        double picked = row[target[r]];
        double sum = gradient ? sum_exp_keep(width, row, max) : sum_exp(width, row, max);

        *loss += max + log(sum) - picked;
        *count += 1;
        if (gradient) {
            scale(width, (float)(1 / sum), row);
            row[target[r]] -= 1.0f;
        }
    }
}
