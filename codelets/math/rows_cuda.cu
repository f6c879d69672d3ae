/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math_cuda.h"
#include "core/launch_cuda.h"

enum { THREADS = 256 };

template <typename From, typename To>
static __global__ void convert(size_t count, const From *from, To *to)
{
    size_t k = (size_t)blockIdx.x * THREADS + threadIdx.x;

    if (k < count)
        to[k] = orri_from_float<To>(orri_to_float(from[k]));
}

template <typename From>
static void convert_from(struct orr_cuda *cuda, size_t count, const From *from, enum orr_dtype to_dtype, void *to)
{
    ORRI_WITH_TYPE(to_dtype, orri_launch(cuda, "convert", convert<From, T>, dim3((unsigned)((count + THREADS - 1) / THREADS)),
                                         dim3(THREADS), 0, count, from, static_cast<T *>(to)));
}

void orri_cuda_convert(struct orr_cuda *cuda, size_t count, enum orr_dtype from_dtype, const void *from,
                       enum orr_dtype to_dtype, void *to)
{
    ORRI_WITH_TYPE(from_dtype, convert_from(cuda, count, static_cast<const T *>(from), to_dtype, to));
}
