/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

#include <float.h>
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

static ORRI_SIMD double sum_of(int width, const float *x)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < width; j++)
        sum += (double)x[j];
    return sum;
}

static ORRI_SIMD void scale(int width, float factor, float less, float *x)
{
#pragma omp simd
    for (int j = 0; j < width; j++)
        x[j] = x[j] * factor - less;
}

/* Of a row, or a part of it, the sum of what is wanted times the logits. label: -1 where it is in another part. */
static double wanted(int width, const float *row, int64_t label, struct orri_smoothing smoothing)
{
    double sum = label >= 0 ? (double)smoothing.label * (double)row[label] : 0;

    return smoothing.each != 0 ? sum + (double)smoothing.each * sum_of(width, row) : sum;
}

void orri_softmax_cross_entropy(int rows, int width, float *logits, int ld, const int32_t *target, struct orri_smoothing smoothing,
                                float gradient, double *loss, int64_t *count)
{
    for (int r = 0; r < rows; r++) {
        float *row = logits + (size_t)r * (size_t)ld;

        if (target[r] == ORR_IGNORE) {
            if (gradient != 0)
                memset(row, 0, (size_t)width * sizeof(*row));
            continue;
        }
        float max = row_max(width, row);
        double picked = wanted(width, row, target[r], smoothing);
        double sum = gradient != 0 ? sum_exp_keep(width, row, max) : sum_exp(width, row, max);

        *loss += max + log(sum) - picked;
        *count += 1;
        if (gradient != 0) {
            scale(width, (float)(gradient / sum), gradient * smoothing.each, row);
            row[target[r]] -= gradient * smoothing.label;
        }
    }
}

/* ---- in parts ---------------------------------------------------------------------------------------------- */

void orri_cross_entropy_part(int rows, int width, const float *logits, int ld, const int32_t *target, int first,
                             struct orri_smoothing smoothing, float *part)
{
    for (int r = 0; r < rows; r++, part += ORRI_LOSS_PART) {
        const float *row = logits + (size_t)r * (size_t)ld;
        int64_t label = (int64_t)target[r] - first;

        /* The lower bound gives a part of -inf alone a sum of 0 instead of a NaN, which is for rows without another. */
        part[0] = fmaxf(row_max(width, row), -FLT_MAX);
        part[1] = (float)sum_exp(width, row, part[0]);
        part[2] = (float)wanted(width, row, label < width ? label : -1, smoothing);
    }
}

void orri_cross_entropy_join(int rows, int parts, const float *const part[], const int32_t *target, float *norm,
                             double *loss, int64_t *count)
{
    for (int r = 0; r < rows; r++, norm += ORRI_LOSS_NORM) {
        float max = -FLT_MAX;
        double sum = 0, picked = 0;

        for (int t = 0; t < parts; t++)
            max = fmaxf(max, part[t][r * ORRI_LOSS_PART]);
        for (int t = 0; t < parts; t++) {
            const float *p = part[t] + r * ORRI_LOSS_PART;

            sum += p[1] * exp((double)p[0] - max);
            picked += p[2];
        }
        norm[0] = max;
        norm[1] = (float)(1 / sum);
        if (target[r] == ORR_IGNORE)
            continue;
        *loss += max + log(sum) - picked;
        *count += 1;
    }
}

static ORRI_SIMD void scaled_exp(int width, float max, float factor, float less, float *x)
{
#pragma omp simd
    for (int j = 0; j < width; j++)
        x[j] = orri_expf(x[j] - max) * factor - less;
}

void orri_cross_entropy_part_gradient(int rows, int width, float *logits, int ld, const int32_t *target, int first,
                                      struct orri_smoothing smoothing, const float *norm, float gradient)
{
    for (int r = 0; r < rows; r++, norm += ORRI_LOSS_NORM) {
        float *row = logits + (size_t)r * (size_t)ld;
        int64_t label = (int64_t)target[r] - first;

        if (target[r] == ORR_IGNORE) {
            memset(row, 0, (size_t)width * sizeof(*row));
            continue;
        }
        scaled_exp(width, norm[0], norm[1] * gradient, gradient * smoothing.each, row);
        if (label >= 0 && label < width)
            row[label] -= gradient * smoothing.label;
    }
}
