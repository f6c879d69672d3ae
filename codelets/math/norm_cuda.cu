/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math_cuda.h"
#include "core/kernel_cuda.h"

/* A row is a group of LANES threads', each of which keeps K packs of it in registers: pack k of lane l has the columns from
 * (k LANES + l) N on. Rows that are too wide for that, or not aligned, are a block's and are read again where they are needed
 * again.
 *
 * WHOLE: a LayerNorm with a bias, as the compiler knows then. Else what is NULL is asked for: without mean it is RMSNorm, and
 * without beta, or dbeta, there is no bias. */

namespace {

enum {
    PARTS = 264,            /* blocks that sum up dgamma and dbeta: two on each multiprocessor of an H100, and
                               few enough for orri_cuda_bias_backward() to need no scratch                 */
    MOST_PACKS = 2048       /* of a row in registers                                                       */
};

template <int LANES> constexpr int groups = LANES < ORRI_THREADS ? ORRI_THREADS / LANES : 1;

/* LANES and K for rows of so many packs, inside `...`. The backward pass keeps three rows and the sums, so that its K is
 * smaller. */
#define WITH_LANES(packs, ...) \
    do { \
        if ((packs) <= 64) { constexpr int LANES = 32, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 128) { constexpr int LANES = 32, K = 4; __VA_ARGS__; } \
        else if ((packs) <= 256) { constexpr int LANES = 128, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 512) { constexpr int LANES = 128, K = 4; __VA_ARGS__; } \
        else if ((packs) <= 1024) { constexpr int LANES = 512, K = 2; __VA_ARGS__; } \
        else { constexpr int LANES = 512, K = 4; __VA_ARGS__; } \
    } while (0)

#define WITH_LANES_BACKWARD(packs, ...) \
    do { \
        if ((packs) <= 64) { constexpr int LANES = 32, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 128) { constexpr int LANES = 64, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 256) { constexpr int LANES = 128, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 512) { constexpr int LANES = 256, K = 2; __VA_ARGS__; } \
        else if ((packs) <= 1024) { constexpr int LANES = 512, K = 2; __VA_ARGS__; } \
        else { constexpr int LANES = 512, K = 4; __VA_ARGS__; } \
    } while (0)

template <typename T> bool is_wide(int width)
{
    return width % orri_wide<T> == 0 && width / orri_wide<T> <= MOST_PACKS;
}

template <int LANES, int N> __device__ __forceinline__ int column(int k)
{
    return (k * LANES + (int)threadIdx.x) * N;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ float normalised(float x, float mean, float rstd, float gamma, float beta)
{
    return fmaf((x - mean) * rstd, gamma, beta);
}

/* Columns j .. of a row, of gamma, beta and y. */
template <bool WHOLE, int N, typename T>
__device__ __forceinline__ void normalise(float (&x)[N], float mean, float rstd, const T *gamma, const T *beta, size_t j, T *y)
{
    float g[N], b[N] = {};

    orri_load<N>(gamma + j, g);
    if (WHOLE || beta)
        orri_load<N>(beta + j, b);
    for (int i = 0; i < N; i++)
        x[i] = normalised(x[i], mean, rstd, g[i], b[i]);
    orri_store<N>(y + j, x);
}

template <bool WHOLE, int LANES, int K, typename T>
__global__ void __launch_bounds__(LANES * groups<LANES>)
layernorm(int rows, int width, const T *x, const T *gamma, const T *beta, float eps, T *y, float *mean, float *rstd)
{
    constexpr int N = orri_wide<T>;
    size_t r = (size_t)blockIdx.x * groups<LANES> + threadIdx.y;
    int end = r < (size_t)rows ? width : 0;
    float row[K][N], sum = 0, squares = 0;

    x += r * width;
    y += r * width;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int j = column<LANES, N>(k);

        if (j < end) {
            orri_load<N>(x + j, row[k]);
            for (int i = 0; i < N; i++)
                sum += row[k][i];
        }
    }
    float m = WHOLE || mean ? orri_fold<LANES>(sum, orri_plus()) / (float)width : 0.0f;

#pragma unroll
    for (int k = 0; k < K; k++)
        if (column<LANES, N>(k) < end)
            for (int i = 0; i < N; i++)
                squares += (row[k][i] - m) * (row[k][i] - m);
    float s = 1.0f / sqrtf(orri_fold<LANES>(squares, orri_plus()) / (float)width + eps);

#pragma unroll
    for (int k = 0; k < K; k++) {
        int j = column<LANES, N>(k);

        if (j < end)
            normalise<WHOLE, N>(row[k], m, s, gamma, beta, (size_t)j, y);
    }
    if (end && threadIdx.x == 0) {
        if (WHOLE || mean)
            mean[r] = m;
        rstd[r] = s;
    }
}

template <bool WHOLE, typename T>
__global__ void __launch_bounds__(ORRI_THREADS)
layernorm_any(int width, const T *x, const T *gamma, const T *beta, float eps, T *y, float *mean, float *rstd)
{
    size_t r = blockIdx.x;
    float sum = 0, squares = 0;

    x += r * width;
    y += r * width;
    if (WHOLE || mean)
        for (int j = (int)threadIdx.x; j < width; j += ORRI_THREADS)
            sum += orri_to_float(x[j]);
    float m = WHOLE || mean ? orri_fold<ORRI_THREADS>(sum, orri_plus()) / (float)width : 0.0f;

    for (int j = (int)threadIdx.x; j < width; j += ORRI_THREADS)
        squares += (orri_to_float(x[j]) - m) * (orri_to_float(x[j]) - m);
    float s = 1.0f / sqrtf(orri_fold<ORRI_THREADS>(squares, orri_plus()) / (float)width + eps);

    for (int j = (int)threadIdx.x; j < width; j += ORRI_THREADS) {
        float one[1] = {orri_to_float(x[j])};

        normalise<WHOLE, 1>(one, m, s, gamma, beta, (size_t)j, y);
    }
    if (threadIdx.x == 0) {
        if (WHOLE || mean)
            mean[r] = m;
        rstd[r] = s;
    }
}

template <bool WHOLE, typename T>
void forward(struct orr_cuda *cuda, int rows, int width, const T *x, const T *gamma, const T *beta, float eps, T *y,
             float *mean, float *rstd)
{
    if (is_wide<T>(width) && orri_is_wide(x, gamma, beta, y))
        WITH_LANES(width / orri_wide<T>,
                   orri_launch(cuda, "layernorm", layernorm<WHOLE, LANES, K, T>,
                               dim3(orri_pieces((size_t)rows, groups<LANES>)), dim3(LANES, groups<LANES>), 0, rows, width, x,
                               gamma, beta, eps, y, mean, rstd));
    else
        orri_launch(cuda, "layernorm", layernorm_any<WHOLE, T>, dim3((unsigned)rows), dim3(ORRI_THREADS), 0, width, x, gamma,
                    beta, eps, y, mean, rstd);
}

template <bool WHOLE, typename T> struct layernorm_again {
    size_t width;
    const T *x, *gamma, *beta;
    const float *mean, *rstd;
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        float v[N];

        orri_load<N>(x + r * width + j, v);
        normalise<WHOLE, N>(v, WHOLE || mean ? mean[r] : 0.0f, rstd[r], gamma, beta, j, y + r * width);
    }
};

/* ---- backward ------------------------------------------------------------------------------------------------------ */

template <int N> __device__ __forceinline__ void add(const float *from, float (&to)[N])
{
    float x[N];

    orri_load<N>(from, x);
    for (int i = 0; i < N; i++)
        to[i] += x[i];
}

/* Each block takes every gridDim.x-th set of rows, one for each group, and leaves its sums in its rows of dgamma and dbeta
 * [gridDim.x,width]. All that is read of a row is read before dx, which may be dy or the residual, is written. */
template <bool WHOLE, int LANES, int K, typename T>
__global__ void __launch_bounds__(LANES * groups<LANES>, 512 / (LANES * groups<LANES>))
layernorm_backward(int rows, int width, const T *dy, const T *x, const T *gamma, const float *mean, const float *rstd,
                   const T *residual, T *dx, float *dgamma, float *dbeta)
{
    constexpr int N = orri_wide<T>;
    float sum_gamma[K][N] = {}, sum_beta[K][N] = {};

    for (size_t first = (size_t)blockIdx.x * groups<LANES>; first < (size_t)rows;
         first += (size_t)gridDim.x * groups<LANES>) {
        size_t r = first + threadIdx.y, at = r * width;
        int end = r < (size_t)rows ? width : 0;
        float m = end && (WHOLE || mean) ? mean[r] : 0, s = end ? rstd[r] : 0, sums[2] = {0, 0};
        orri_pack<T, N> xs[K], ds[K], before[K];

#pragma unroll
        for (int k = 0; k < K; k++) {
            int j = column<LANES, N>(k);

            if (j < end) {
                xs[k] = orri_load_pack<N>(x + at + j);
                ds[k] = orri_load_pack<N>(dy + at + j);
                if (residual)
                    before[k] = orri_load_pack<N>(residual + at + j);
            }
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            int j = column<LANES, N>(k);
            float g[N];

            if (j < end) {
                orri_load<N>(gamma + j, g);
                for (int i = 0; i < N; i++) {
                    float xhat = (orri_to_float(xs[k].x[i]) - m) * s, d = orri_to_float(ds[k].x[i]);

                    sums[0] += d * g[i];
                    sums[1] += d * g[i] * xhat;
                    sum_gamma[k][i] += d * xhat;
                    sum_beta[k][i] += d;
                }
            }
        }
        orri_fold<LANES>(sums, orri_plus());
        float mean_g = WHOLE || mean ? sums[0] / (float)width : 0.0f, mean_gx = sums[1] / (float)width;

#pragma unroll
        for (int k = 0; k < K; k++) {
            int j = column<LANES, N>(k);
            float g[N];

            if (j < end) {
                orri_load<N>(gamma + j, g);
                for (int i = 0; i < N; i++) {
                    float xhat = (orri_to_float(xs[k].x[i]) - m) * s;

                    g[i] = s * (orri_to_float(ds[k].x[i]) * g[i] - mean_g - xhat * mean_gx);
                    if (residual)
                        g[i] += orri_to_float(before[k].x[i]);
                }
                orri_store<N>(dx + at + j, g);
            }
        }
    }

    /* The groups add theirs one after the other; the last has all. */
    __shared__ __align__(16) float so_far[groups<LANES> > 1 ? 2 * LANES * K * N : 1];

    for (int group = 0; group < groups<LANES>; group++) {
        bool first = group == 0, last = group + 1 == groups<LANES>;

        if ((int)threadIdx.y == group) {
#pragma unroll
            for (int k = 0; k < K; k++) {
                int j = column<LANES, N>(k);
                float *total = so_far + 2 * N * (k * LANES + (int)threadIdx.x);

                if (!first) {
                    add<N>(total, sum_gamma[k]);
                    add<N>(total + N, sum_beta[k]);
                }
                if (!last) {
                    orri_store<N>(total, sum_gamma[k]);
                    orri_store<N>(total + N, sum_beta[k]);
                } else if (j < width) {
                    orri_store<N>(dgamma + (size_t)blockIdx.x * width + j, sum_gamma[k]);
                    if (WHOLE || dbeta)
                        orri_store<N>(dbeta + (size_t)blockIdx.x * width + j, sum_beta[k]);
                }
            }
        }
        if (!last)
            __syncthreads();
    }
}

template <bool WHOLE, typename T>
__global__ void __launch_bounds__(ORRI_THREADS)
layernorm_backward_any(int rows, int width, const T *dy, const T *x, const T *gamma, const float *mean, const float *rstd,
                       const T *residual, T *dx, float *dgamma, float *dbeta)
{
    dgamma += (size_t)blockIdx.x * width;
    if (WHOLE || dbeta)
        dbeta += (size_t)blockIdx.x * width;
    for (size_t r = blockIdx.x; r < (size_t)rows; r += gridDim.x) {
        bool first = r == blockIdx.x;
        size_t at = r * width;
        float m = WHOLE || mean ? mean[r] : 0, s = rstd[r], sums[2] = {0, 0};

        for (int j = (int)threadIdx.x; j < width; j += ORRI_THREADS) {
            float xhat = (orri_to_float(x[at + j]) - m) * s, d = orri_to_float(dy[at + j]), g = orri_to_float(gamma[j]);

            sums[0] += d * g;
            sums[1] += d * g * xhat;
            dgamma[j] = first ? d * xhat : dgamma[j] + d * xhat;
            if (WHOLE || dbeta)
                dbeta[j] = first ? d : dbeta[j] + d;
        }
        orri_fold<ORRI_THREADS>(sums, orri_plus());
        float mean_g = WHOLE || mean ? sums[0] / (float)width : 0.0f, mean_gx = sums[1] / (float)width;

        for (int j = (int)threadIdx.x; j < width; j += ORRI_THREADS) {
            float xhat = (orri_to_float(x[at + j]) - m) * s;
            float g = s * (orri_to_float(dy[at + j]) * orri_to_float(gamma[j]) - mean_g - xhat * mean_gx);

            dx[at + j] = orri_from_float<T>(residual ? orri_to_float(residual[at + j]) + g : g);
        }
    }
}

/* Returns how many rows of sums there are. */
template <bool WHOLE, typename T>
int backward(struct orr_cuda *cuda, int rows, int width, const T *dy, const T *x, const T *gamma, const float *mean,
             const float *rstd, const T *residual, T *dx, float *dgamma, float *dbeta, float *parts)
{
    int blocks = rows < PARTS ? rows : PARTS;

    if (blocks > 1) {
        dgamma = parts;
        dbeta = dbeta ? parts + (size_t)blocks * width : NULL;
    }
    if (is_wide<T>(width) && orri_is_wide(dy, x, gamma, residual, dx) && orri_is_wide(dgamma, dbeta))
        WITH_LANES_BACKWARD(width / orri_wide<T>,
                   orri_launch(cuda, "layernorm_backward", layernorm_backward<WHOLE, LANES, K, T>, dim3((unsigned)blocks),
                               dim3(LANES, groups<LANES>), 0, rows, width, dy, x, gamma, mean, rstd, residual, dx, dgamma,
                               dbeta));
    else
        orri_launch(cuda, "layernorm_backward", layernorm_backward_any<WHOLE, T>, dim3((unsigned)blocks), dim3(ORRI_THREADS), 0,
                    rows, width, dy, x, gamma, mean, rstd, residual, dx, dgamma, dbeta);
    return blocks;
}

}

/* WHOLE and the element type, inside `...`. */
#define WITH_NORM(whole, dtype, ...) \
    do { \
        if (whole) { constexpr bool WHOLE = true; ORRI_WITH_TYPE(dtype, __VA_ARGS__); } \
        else { constexpr bool WHOLE = false; ORRI_WITH_TYPE(dtype, __VA_ARGS__); } \
    } while (0)

void orri_cuda_layernorm(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                         const void *gamma, const void *beta, float eps, void *y, float *mean, float *rstd)
{
    WITH_NORM(mean && beta, dtype,
              forward<WHOLE>(cuda, rows, width, static_cast<const T *>(x), static_cast<const T *>(gamma),
                             static_cast<const T *>(beta), eps, static_cast<T *>(y), mean, rstd));
}

void orri_cuda_layernorm_again(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                               const void *gamma, const void *beta, const float *mean, const float *rstd, void *y)
{
    WITH_NORM(mean && beta, dtype,
              orri_rows(cuda, "layernorm_again", (size_t)rows, (size_t)width, orri_is_wide(x, gamma, beta, y),
                        layernorm_again<WHOLE, T>{(size_t)width, static_cast<const T *>(x), static_cast<const T *>(gamma),
                                                  static_cast<const T *>(beta), mean, rstd, static_cast<T *>(y)}));
}

size_t orri_cuda_layernorm_backward_scratch(int rows, int width)
{
    return 2 * (size_t)(rows < PARTS ? rows : PARTS) * (size_t)width * sizeof(float);
}

void orri_cuda_layernorm_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *dy,
                                  const void *x, const void *gamma, const float *mean, const float *rstd,
                                  const void *residual, void *dx, float *dgamma, float *dbeta, void *scratch)
{
    float *parts = static_cast<float *>(scratch);
    int blocks = 1;

    WITH_NORM(mean && dbeta, dtype,
              blocks = backward<WHOLE>(cuda, rows, width, static_cast<const T *>(dy), static_cast<const T *>(x),
                                       static_cast<const T *>(gamma), mean, rstd, static_cast<const T *>(residual),
                                       static_cast<T *>(dx), dgamma, dbeta, parts));
    if (blocks == 1)
        return;
    orri_cuda_bias_backward(cuda, ORR_F32, blocks, width, parts, width, 0, dgamma, NULL);
    if (dbeta)
        orri_cuda_bias_backward(cuda, ORR_F32, blocks, width, parts + (size_t)blocks * (size_t)width, width, 0, dbeta, NULL);
}
