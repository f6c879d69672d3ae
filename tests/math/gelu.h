/* SPDX-License-Identifier: Apache-2.0 */
/* The GELU of GPT-2 and its derivative, in double, from the formula: 0.5 u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))). */
#ifndef TESTS_GELU_H
#define TESTS_GELU_H

#include <math.h>

static inline double gelu(double u)
{
    return 0.5 * u * (1 + tanh(sqrt(2 / M_PI) * (u + 0.044715 * u * u * u)));
}

static inline double gelu_slope(double u)
{
    double t = tanh(sqrt(2 / M_PI) * (u + 0.044715 * u * u * u));

    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * u * u);
}
#endif
