/* SPDX-License-Identifier: Apache-2.0 */
/* Activations and their derivatives in double, from the formulas of codelets/layer.h. */
#ifndef TESTS_ACTIVATION_H
#define TESTS_ACTIVATION_H

#include <codelets/layer.h>

#include "tests/math/gelu.h"

static const enum orr_activation activations[] = {ORR_GELU_TANH, ORR_GELU, ORR_RELU, ORR_SILU};
enum { ACTIVATIONS = 4 };

static inline double activation(enum orr_activation kind, double u)
{
    switch (kind) {
    case ORR_GELU_TANH: return gelu(u);
    case ORR_GELU: return 0.5 * u * erfc(-u / sqrt(2));
    case ORR_RELU: return fmax(u, 0);
    default: return u / (1 + exp(-u));
    }
}

static inline double activation_slope(enum orr_activation kind, double u)
{
    double s = 1 / (1 + exp(-u));

    switch (kind) {
    case ORR_GELU_TANH: return gelu_slope(u);
    case ORR_GELU: return 0.5 * erfc(-u / sqrt(2)) + u * exp(-0.5 * u * u) / sqrt(2 * M_PI);
    case ORR_RELU: return u > 0;
    default: return s + u * s * (1 - s);
    }
}

/* What a function of u may be off by, of itself: its exponentials, whose argument, at most 36 for |u| <= 7, is rounded a few
 * times. */
#define ACTIVATION_BOUND (30 * FLT_EPSILON)

/* What a slope may be off by: it has terms of opposite sign, each below 1 + |u|. */
#define SLOPE_BOUND (8 * FLT_EPSILON)
#endif
