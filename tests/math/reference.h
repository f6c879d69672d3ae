/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of kernels share: data, and comparing with a reference in double. */
#ifndef TESTS_REFERENCE_H
#define TESTS_REFERENCE_H

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Rounding errors of a sum of n terms walk at random: sqrt(n) eps times the sum of the terms'
 * magnitudes. The factor leaves room for the few roundings around the sum. */
#define SUM_BOUND(n) (4 * FLT_EPSILON * sqrt((double)(n)))

#define assert_close(got, want, tolerance, ...) \
    do { \
        double got_ = (got), want_ = (want), tolerance_ = (tolerance); \
        if (!(fabs(got_ - want_) <= tolerance_)) { \
            char where_[128]; \
            snprintf(where_, sizeof(where_), __VA_ARGS__); \
            ck_abort_msg("%s: %s is %.9g, not %.9g (off by %.3g, allowed %.3g)", where_, #got, got_, want_, \
                         got_ - want_, tolerance_); \
        } \
    } while (0)

/* ck_assert() leaves a mark in a file each time: not for loops over elements. */
#define assert_that(condition) \
    do { \
        if (!(condition)) \
            ck_abort_msg("%s is not so", #condition); \
    } while (0)

/* Evenly spread over -range .. range; the same for the same seed. */
static inline float *random_floats(size_t count, float range, uint64_t seed)
{
    float *x = malloc((count ? count : 1) * sizeof(*x));

    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = range * ((float)(int32_t)(seed >> 32) * 0x1p-31f);
    }
    return x;
}

static inline double *to_double(size_t count, const float *x)
{
    double *d = malloc((count ? count : 1) * sizeof(*d));

    ck_assert_ptr_nonnull(d);
    for (size_t i = 0; i < count; i++)
        d[i] = x[i];
    return d;
}

static inline float *copy_floats(size_t count, const float *x)
{
    float *y = malloc((count ? count : 1) * sizeof(*y));

    ck_assert_ptr_nonnull(y);
    for (size_t i = 0; i < count; i++)
        y[i] = x[i];
    return y;
}
#endif
