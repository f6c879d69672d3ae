/* SPDX-License-Identifier: Apache-2.0 */
/* The toolkit's cuda_fp16.h, which computes on the host too, and what it keeps for the device. */
#ifndef ORRI_EMULATED_CUDA_FP16_H
#define ORRI_EMULATED_CUDA_FP16_H

#include <cuda_runtime.h>

#include_next <cuda_fp16.h>

/* Computed in double, where the product is exact, and rounded once. */
static inline __half __hfma(__half a, __half b, __half c)
{
    return __double2half((double)__half2float(a) * __half2float(b) + __half2float(c));
}

static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

#endif
