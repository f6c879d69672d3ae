/* SPDX-License-Identifier: Apache-2.0 */
#include "core/launch_cuda.h"

#include <cstdlib>

#include "triple.h"

static __global__ void triple_kernel(float *x, int count)
{
    int k = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    if (k < count)
        x[k] = x[k] * 3 + 1;
}

void triple(void *stream, float *x, int count)
{
    struct orr_cuda cuda = {};

    cuda.stream = stream;
    orri_launch(&cuda, "triple", triple_kernel, dim3((unsigned)(count + 127) / 128), dim3(128), 0, x, count);
    if (cuda.code)
        abort();
}
