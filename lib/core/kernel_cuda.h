/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels share: wide loads, loops over elements and rows, sums in an order that does not change. */
#ifndef ORRI_KERNEL_CUDA_H
#define ORRI_KERNEL_CUDA_H

#include <stdint.h>

#include "core/launch_cuda.h"

enum { ORRI_THREADS = 256 };    /* of a block, where nothing else is said */

/* ---- wide loads: 16 bytes at once ----------------------------------------------------------------------------- */

template <typename T> constexpr int orri_wide = 16 / (int)sizeof(T);

/* Are all of them, or NULL, at multiples of 16 bytes? */
template <typename... P> static inline bool orri_is_wide(const P *...pointer)
{
    return (... && ((uintptr_t)pointer % 16 == 0));
}

template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) orri_pack {
    T x[N];
};

template <int N, typename T> static __device__ __forceinline__ orri_pack<T, N> orri_load_pack(const T *from)
{
    return *reinterpret_cast<const orri_pack<T, N> *>(from);
}

template <int N, typename T> static __device__ __forceinline__ void orri_load(const T *from, float (&to)[N])
{
    orri_pack<T, N> pack = orri_load_pack<N>(from);

#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = orri_to_float(pack.x[i]);
}

template <int N, typename T> static __device__ __forceinline__ void orri_store(T *to, const float (&from)[N])
{
    orri_pack<T, N> pack;

#pragma unroll
    for (int i = 0; i < N; i++)
        pack.x[i] = orri_from_float<T>(from[i]);
    *reinterpret_cast<orri_pack<T, N> *>(to) = pack;
}

/* ---- loops ------------------------------------------------------------------------------------------------------ */

/* Of `size` in pieces of `piece`, the last a short one. */
static inline unsigned orri_pieces(size_t size, size_t piece)
{
    return (unsigned)((size + piece - 1) / piece);
}

template <int N, typename F> static __global__ void orri_each_kernel(size_t count, F f)
{
    size_t k = ((size_t)blockIdx.x * ORRI_THREADS + threadIdx.x) * N;

    if (k + N <= count)
        f.template at<N>(k);
    else
        for (; k < count; k++)
            f.template at<1>(k);
}

/* f.at<n>(k) for all elements 0 .. count - 1, n of them from k on at a time: F::wide or 1 where `wide`, else 1. */
template <typename F>
static inline void orri_each(struct orr_cuda *cuda, const char *name, size_t count, bool wide, const F &f)
{
    unsigned blocks = orri_pieces(count, (size_t)ORRI_THREADS * (wide ? F::wide : 1));

    orri_launch(cuda, name, wide ? orri_each_kernel<F::wide, F> : orri_each_kernel<1, F>, dim3(blocks), dim3(ORRI_THREADS), 0,
                count, f);
}

template <int N, typename F> static __global__ void orri_rows_kernel(size_t rows, size_t width, F f)
{
    size_t j = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N;

    if (j < width)
        for (size_t r = (size_t)blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += (size_t)gridDim.y * blockDim.y)
            f.template at<N>(r, j);
}

/* f.at<n>(r, j) for all rows r and columns j, n of these from j on at a time: F::wide where `wide` and they divide the width,
 * else 1. */
template <typename F>
static inline void orri_rows(struct orr_cuda *cuda, const char *name, size_t rows, size_t width, bool wide, const F &f)
{
    constexpr unsigned MOST = 65535;    /* of gridDim.y */
    bool whole = wide && width % F::wide == 0;
    size_t n = whole ? F::wide : 1, lanes = 32;

    while (lanes < ORRI_THREADS && lanes * n < width)
        lanes *= 2;
    unsigned deep = orri_pieces(rows, ORRI_THREADS / lanes);
    orri_launch(cuda, name, whole ? orri_rows_kernel<F::wide, F> : orri_rows_kernel<1, F>,
                dim3(orri_pieces(width, lanes * n), deep < MOST ? deep : MOST), dim3((unsigned)lanes, ORRI_THREADS / lanes), 0,
                rows, width, f);
}

/* ---- sums over threads ------------------------------------------------------------------------------------------- */

struct orri_plus {
    template <typename T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

struct orri_larger {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/* Each x[] becomes the fold of all that the LANES threads of a group have, the same bits in each of them. Called by all
 * threads of a block of LANES x groups, at most 1024. */
template <int LANES, typename T, int M, typename F> static __device__ __forceinline__ void orri_fold(T (&x)[M], F f)
{
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int lane = 16; lane > 0; lane /= 2)
            x[i] = f(x[i], __shfl_xor_sync(0xFFFFFFFFu, x[i], lane));
    if constexpr (LANES > 32) {
        __shared__ T part[32][M];
        int first = (int)threadIdx.y * (LANES / 32);

        __syncthreads();    /* the last call's are read */
#pragma unroll
        for (int i = 0; i < M; i++)
            if (threadIdx.x % 32 == 0)
                part[first + (int)threadIdx.x / 32][i] = x[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < M; i++) {
            x[i] = part[first][i];
            for (int w = 1; w < LANES / 32; w++)
                x[i] = f(x[i], part[first + w][i]);
        }
    }
}

template <int LANES, typename T, typename F> static __device__ __forceinline__ T orri_fold(T x, F f)
{
    T one[1] = {x};

    orri_fold<LANES>(one, f);
    return one[0];
}

#endif
