/* SPDX-License-Identifier: Apache-2.0 */
/* How kernels are launched and statuses checked. C++, for .cu files. */
#ifndef ORRI_LAUNCH_CUDA_H
#define ORRI_LAUNCH_CUDA_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <orrery/cuda.h>
#include <orrery/dtype.h>

/* True where `status` is a success. */
static inline bool orri_cuda_check(struct orr_cuda *cuda, cudaError_t status, const char *call)
{
    if (status != cudaSuccess)
        orr_cuda_fail(cuda, call, cudaGetErrorString(status));
    return status == cudaSuccess;
}

static inline cudaStream_t orri_stream(const struct orr_cuda *cuda)
{
    return static_cast<cudaStream_t>(cuda->stream);
}

/* Launches kernel(args...) on the worker's stream, with `shared` bytes of dynamic shared memory; an empty grid is none. All
 * kernels are launched here, never by <<<>>>, whose failures nobody would see. */
template <typename... P, typename... A>
static inline void orri_launch(struct orr_cuda *cuda, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                               size_t shared, A... args)
{
    cudaLaunchConfig_t config = {};

    if (cuda->code || grid.x == 0 || grid.y == 0 || grid.z == 0)
        return;
    if (shared > 48 << 10 &&
        !orri_cuda_check(cuda, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared), name))
        return;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = orri_stream(cuda);
    orri_cuda_check(cuda, cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), name);
}

/* The type of elements of a dtype, as T inside `...`. */
#define ORRI_WITH_TYPE(dtype, ...) \
    do { \
        switch (dtype) { \
        case ORR_BF16: { using T = __nv_bfloat16; __VA_ARGS__; break; } \
        case ORR_F16: { using T = __half; __VA_ARGS__; break; } \
        default: { using T = float; __VA_ARGS__; break; } \
        } \
    } while (0)

/* ---- inside kernels -------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float orri_to_float(float x) { return x; }
static __device__ __forceinline__ float orri_to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ float orri_to_float(__half x) { return __half2float(x); }

template <typename T> static __device__ __forceinline__ T orri_from_float(float x);
template <> __device__ __forceinline__ float orri_from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 orri_from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half orri_from_float<__half>(float x) { return __float2half_rn(x); }

#endif
