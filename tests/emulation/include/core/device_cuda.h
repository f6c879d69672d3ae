/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of lib/core/device_cuda.h. */
#ifndef ORRI_DEVICE_CUDA_H
#define ORRI_DEVICE_CUDA_H

#include <cuda_runtime.h>

static inline unsigned char *orri_shared_memory(void)
{
    return emulated::shared_memory;
}

#endif
