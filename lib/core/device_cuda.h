/* SPDX-License-Identifier: Apache-2.0 */
/* What only the device compiler understands, apart from PTX (codelets/math/ptx_cuda.h): kernels ask for it here and nowhere
 * else, so that tests/emulation can put its own in place. */
#ifndef ORRI_DEVICE_CUDA_H
#define ORRI_DEVICE_CUDA_H

#include <cuda_runtime.h>

/* The dynamic shared memory of the block, aligned to 16 bytes. */
static __device__ __forceinline__ unsigned char *orri_shared_memory(void)
{
    extern __shared__ __align__(16) unsigned char orri_dynamic_shared_memory[];

    return orri_dynamic_shared_memory;
}

#endif
