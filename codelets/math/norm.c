/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "core/core.h"

#include <math.h>

#define ROWS 8      /* rows normalised while they are still in the first-level cache */

static ORRI_SIMD void statistics(int rows, int width, const float *x, float eps, float *mean, float *rstd)
{
    for (int r = 0; r < rows; r++, x += width) {
        float sum = 0, squares = 0, m = 0;

        if (mean) {
#pragma omp simd reduction(+ : sum)
            for (int j = 0; j < width; j++)
                sum += x[j];
            mean[r] = m = sum / (float)width;
        }
#pragma omp simd reduction(+ : squares)
        for (int j = 0; j < width; j++)
            squares += (x[j] - m) * (x[j] - m);
        rstd[r] = 1.0f / sqrtf(squares / (float)width + eps);
    }
}

ORRI_SIMD void orri_layernorm_again(int rows, int width, const float *x, const float *gamma, const float *beta,
                                    const float *mean, const float *rstd, float *y)
{
    for (int r = 0; r < rows; r++, x += width, y += width) {
        float m = mean ? mean[r] : 0, s = rstd[r];

        if (beta) {
#pragma omp simd
            for (int j = 0; j < width; j++)
                y[j] = (x[j] - m) * s * gamma[j] + beta[j];
        } else {
#pragma omp simd
            for (int j = 0; j < width; j++)
                y[j] = (x[j] - m) * s * gamma[j];
        }
    }
}

void orri_layernorm(int rows, int width, const float *x, const float *gamma, const float *beta, float eps, float *y,
                    float *mean, float *rstd)
{
    for (int r = 0; r < rows; r += ROWS) {
        int n = rows - r < ROWS ? rows - r : ROWS;
        size_t at = (size_t)r * (size_t)width;

        float *m = mean ? mean + r : NULL;

        statistics(n, width, x + at, eps, m, rstd + r);
        orri_layernorm_again(n, width, x + at, gamma, beta, m, rstd + r, y + at);
    }
}

ORRI_SIMD void orri_layernorm_weights(int width, const float *dy, const float *x, float mean, float rstd, float *dgamma, float *dbeta)
{
#pragma omp simd
    for (int j = 0; j < width; j++)
        dgamma[j] += dy[j] * ((x[j] - mean) * rstd);
    if (dbeta) {
#pragma omp simd
        for (int j = 0; j < width; j++)
            dbeta[j] += dy[j];
    }
}

ORRI_SIMD void orri_layernorm_backward(int rows, int width, const float *dy, const float *x, const float *gamma,
                                       const float *mean, const float *rstd, const float *residual, float *dx, float *dgamma,
                                       float *dbeta)
{
    for (int r = 0; r < rows; r++, dy += width, x += width, dx += width) {
        float m = mean ? mean[r] : 0, s = rstd[r];
        float sum_g = 0, sum_gx = 0;

        if (dgamma)
            orri_layernorm_weights(width, dy, x, m, s, dgamma, dbeta);
#pragma omp simd reduction(+ : sum_g, sum_gx)
        for (int j = 0; j < width; j++) {
            float xhat = (x[j] - m) * s;
            float g = dy[j] * gamma[j];

            sum_g += g;
            sum_gx += g * xhat;
        }
        float mean_g = mean ? sum_g / (float)width : 0, mean_gx = sum_gx / (float)width;

        if (residual) {
#pragma omp simd
            for (int j = 0; j < width; j++)
                dx[j] = residual[j] + s * (dy[j] * gamma[j] - mean_g - (x[j] - m) * s * mean_gx);
            residual += width;
        } else {
#pragma omp simd
            for (int j = 0; j < width; j++)
                dx[j] = s * (dy[j] * gamma[j] - mean_g - (x[j] - m) * s * mean_gx);
        }
    }
}
