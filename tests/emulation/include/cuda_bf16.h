/* SPDX-License-Identifier: Apache-2.0 */
/* The toolkit's cuda_bf16.h, which computes on the host too, and what it keeps for the device. */
#ifndef ORRI_EMULATED_CUDA_BF16_H
#define ORRI_EMULATED_CUDA_BF16_H

#include <cuda_runtime.h>

#include_next <cuda_bf16.h>

/* Computed in double, where the product is exact, and rounded once. */
static inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    return __double2bfloat16((double)__bfloat162float(a) * __bfloat162float(b) + __bfloat162float(c));
}

static inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
    return __nv_bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

#endif
