/* SPDX-License-Identifier: Apache-2.0 */
/* How a kernel on a CPU computes in fp32 whatever the dtype: on fp32 where it lies, on other elements in a room, which they are
 * widened to and rounded from. */
#ifndef ORRI_ELEMENTS_H
#define ORRI_ELEMENTS_H

#include <stddef.h>

#include <orrery/dtype.h>

#include "core/core.h"

static inline int orri_least(int a, int b)
{
    return a < b ? a : b;
}

/* The address of element k. */
static inline void *orri_element(enum orr_dtype dtype, const void *x, size_t k)
{
    return (char *)x + k * orr_dtype_size(dtype);
}

/* The address of element [r][j] of a matrix of row stride ld. */
static inline void *orri_in_matrix(enum orr_dtype dtype, const void *x, int ld, int r, int j)
{
    return orri_element(dtype, x, (size_t)r * (size_t)ld + (size_t)j);
}

/* x[0..count-1] in fp32: themselves, or widened in `room`. */
static inline const float *orri_wide(enum orr_dtype dtype, size_t count, const void *x, float *room)
{
    if (dtype == ORR_F32)
        return x;
    orri_widen(dtype, count, x, room);
    return room;
}

/* Where to compute fp32 elements of y; the same, with what y holds; and how they get there. */
static inline float *orri_begin(enum orr_dtype dtype, void *y, float *room)
{
    return dtype == ORR_F32 ? y : room;
}

static inline float *orri_begin_with(enum orr_dtype dtype, size_t count, void *y, float *room)
{
    orri_wide(dtype, count, y, room);
    return orri_begin(dtype, y, room);
}

static inline void orri_end(enum orr_dtype dtype, size_t count, const float *room, void *y)
{
    if (dtype != ORR_F32)
        orri_round(dtype, count, room, y);
}

#endif
