/* SPDX-License-Identifier: Apache-2.0 */
#include <float.h>

#include <type_traits>

#include "codelets/math/math_cuda.h"
#include "core/kernel_cuda.h"

namespace {

/* ---- a row, which is a block's ------------------------------------------------------------------------------------ */

/* f(values) for all columns, of which a thread has packs where the row is aligned to them and single ones at its ends. What f
 * leaves is written, if T may be. */
template <int LANES, typename T, typename F> __device__ __forceinline__ void over_row(int width, T *row, F f)
{
    constexpr int N = orri_wide<T>;
    int ahead = (int)(-(uintptr_t)row % 16 / sizeof(T)), head = ahead < width ? ahead : width;
    int packs = (width - head) / N, tail = head + packs * N;
    int one = (int)threadIdx.x < head ? (int)threadIdx.x : tail + (int)threadIdx.x - head;

    for (int i = (int)threadIdx.x; i < packs; i += LANES) {
        int j = head + i * N;
        float x[N];

        orri_load<N>(row + j, x);
        f(x);
        if constexpr (!std::is_const<T>::value)
            orri_store<N>(row + j, x);
    }
    if ((int)threadIdx.x < head + width - tail) {
        float x[1];

        orri_load<1>(row + one, x);
        f(x);
        if constexpr (!std::is_const<T>::value)
            orri_store<1>(row + one, x);
    }
}

__device__ __forceinline__ float exponential(float x)
{
    return exp2f(x * 1.4426950408889634f);
}

struct softmax {
    float max, sum;         /* of exp(x - max) */
};

/* Both in one go (Milakov, Gimelshein 2018). From -FLT_MAX on, so that exp(-inf - max) is 0; a NaN is passed over by the
 * maximum and found in the sum. */
template <int LANES, typename T> __device__ __forceinline__ softmax statistics(int width, const T *row)
{
    float max = -FLT_MAX, sum = 0;

    over_row<LANES>(width, row, [&](auto &x) {
        float largest = max;

        for (float v : x)
            largest = fmaxf(largest, v);
        if (largest > max) {
            sum *= exponential(max - largest);
            max = largest;
        }
        for (float v : x)
            sum += exponential(v - max);
    });
    float all = orri_fold<LANES>(max, orri_larger());

    return {all, orri_fold<LANES>(sum * exponential(max - all), orri_plus())};
}

/* The sum of what is wanted of a row times its logits. label: -1 where it is no column of the row. */
template <int LANES, typename T> __device__ __forceinline__ double wanted(int width, const T *row, int label, orri_smoothing q)
{
    double sum = 0;

    if (q.each != 0) {
        over_row<LANES>(width, row, [&](auto &x) {
            for (float v : x)
                sum += (double)v;
        });
        sum = (double)q.each * orri_fold<LANES>(sum, orri_plus());
    }
    return label >= 0 ? sum + (double)q.label * (double)orri_to_float(row[label]) : sum;
}

/* row = factor (softmax - what is wanted), where `inverse` is 1 / sum. label as above. */
template <int LANES, typename T>
__device__ __forceinline__ void gradient(int width, T *row, float max, float inverse, int label, orri_smoothing q, float factor)
{
    float scaled = inverse * factor, less = q.each * factor, one = label >= 0 ? orri_to_float(row[label]) : 0;

    __syncthreads();    /* all have seen the label's */
    over_row<LANES>(width, row, [=](auto &x) {
        for (float &v : x)
            v = exponential(v - max) * scaled - less;
    });
    if (label < 0)
        return;
    __syncthreads();
    if (threadIdx.x == 0)
        row[label] = orri_from_float<T>((exponential(one - max) * inverse - (q.label + q.each)) * factor);
}

template <int LANES, typename T> __device__ __forceinline__ void clear(int width, T *row)
{
    over_row<LANES>(width, row, [](auto &x) {
        for (float &v : x)
            v = 0;
    });
}

__device__ __forceinline__ int label_of(int32_t target, int first, int width)
{
    int64_t label = (int64_t)target - first;

    return label >= 0 && label < width ? (int)label : -1;
}

/* ---- whole rows ------------------------------------------------------------------------------------------------------ */

template <int LANES, typename T>
__global__ void __launch_bounds__(LANES)
cross_entropy(int width, T *logits, int64_t ld, const int32_t *target, orri_smoothing q, bool with_gradient, const float *loss_scale,
              float *loss)
{
    size_t r = blockIdx.x;
    T *row = logits + r * ld;
    int label = target[r];

    if (label == ORR_IGNORE) {
        if (with_gradient)
            clear<LANES>(width, row);
        if (threadIdx.x == 0)
            loss[r] = 0;
        return;
    }
    softmax s = statistics<LANES>(width, row);
    double picked = wanted<LANES>(width, (const T *)row, label, q);

    if (threadIdx.x == 0)
        loss[r] = (float)((double)s.max + log((double)s.sum) - picked);
    if (with_gradient)
        gradient<LANES>(width, row, s.max, 1.0f / s.sum, label, q, loss_scale ? *loss_scale : 1.0f);
}

/* ---- in parts ----------------------------------------------------------------------------------------------------------- */

template <int LANES, typename T>
__global__ void __launch_bounds__(LANES)
cross_entropy_part(int width, const T *logits, int64_t ld, const int32_t *target, int first, orri_smoothing q, float *part)
{
    size_t r = blockIdx.x;
    const T *row = logits + r * ld;
    int label = label_of(target[r], first, width);
    softmax s = statistics<LANES>(width, row);
    double picked = wanted<LANES>(width, row, label, q);

    part += r * ORRI_LOSS_PART;
    if (threadIdx.x == 0) {
        part[0] = s.max;
        part[1] = s.sum;
        part[2] = (float)picked;
    }
}

struct parts {
    const float *part[ORR_MAX_SHARDS];
};

__global__ void cross_entropy_join(int rows, int count, struct parts all, const int32_t *target, float *norm, float *loss)
{
    size_t r = (size_t)blockIdx.x * ORRI_THREADS + threadIdx.x;
    float max = -FLT_MAX;
    double sum = 0, picked = 0;

    if (r >= (size_t)rows)
        return;
    for (int t = 0; t < count; t++)
        max = fmaxf(max, all.part[t][r * ORRI_LOSS_PART]);
    for (int t = 0; t < count; t++) {
        const float *p = all.part[t] + r * ORRI_LOSS_PART;

        sum += p[1] * exp((double)p[0] - max);
        picked += p[2];
    }
    norm[r * ORRI_LOSS_NORM] = max;
    norm[r * ORRI_LOSS_NORM + 1] = (float)(1 / sum);
    loss[r] = target[r] == ORR_IGNORE ? 0 : (float)(max + log(sum) - picked);
}

template <int LANES, typename T>
__global__ void __launch_bounds__(LANES)
cross_entropy_part_gradient(int width, T *logits, int64_t ld, const int32_t *target, int first, orri_smoothing q,
                            const float *norm, const float *loss_scale)
{
    size_t r = blockIdx.x;
    T *row = logits + r * ld;

    norm += r * ORRI_LOSS_NORM;
    if (target[r] == ORR_IGNORE)
        clear<LANES>(width, row);
    else
        gradient<LANES>(width, row, norm[0], norm[1], label_of(target[r], first, width), q, loss_scale ? *loss_scale : 1.0f);
}

/* ---- the sum of losses ------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(1024)
add_losses(int rows, const float *loss, const int32_t *target, bool first, struct orr_result *result)
{
    double sums[2] = {0, 0};    /* losses and labels, of which there are fewer than 2^53 */

    for (int r = (int)threadIdx.x; r < rows; r += 1024)
        if (target[r] != ORR_IGNORE) {
            sums[0] += (double)loss[r];
            sums[1] += 1;
        }
    orri_fold<1024>(sums, orri_plus());
    if (threadIdx.x == 0) {
        result->loss = (first ? 0 : result->loss) + sums[0];
        result->labels = (first ? 0 : result->labels) + (int64_t)sums[1];
    }
}

/* Threads of a row's block, inside `...`: many where rows are long, so that the rows in work stay in the second-level cache
 * until their gradient is made. */
#define WITH_LANES(width, ...) \
    do { \
        if ((width) <= 8192) { constexpr int LANES = 256; __VA_ARGS__; } \
        else { constexpr int LANES = 1024; __VA_ARGS__; } \
    } while (0)

}

void orri_cuda_softmax_cross_entropy(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, void *logits, int ld,
                                     const int32_t *target, struct orri_smoothing smoothing, bool gradient, const float *loss_scale,
                                     float *loss)
{
    ORRI_WITH_TYPE(dtype, WITH_LANES(width, orri_launch(cuda, "cross_entropy", cross_entropy<LANES, T>, dim3((unsigned)rows),
                                                        dim3(LANES), 0, width, static_cast<T *>(logits), ld, target, smoothing,
                                                        gradient, loss_scale, loss)));
}

void orri_cuda_add_losses(struct orr_cuda *cuda, int rows, const float *loss, const int32_t *target, bool first,
                          struct orr_result *result)
{
    orri_launch(cuda, "add_losses", add_losses, dim3(1), dim3(1024), 0, rows, loss, target, first, result);
}

void orri_cuda_cross_entropy_part(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *logits,
                                  int ld, const int32_t *target, int first, struct orri_smoothing smoothing, float *part)
{
    ORRI_WITH_TYPE(dtype, WITH_LANES(width, orri_launch(cuda, "cross_entropy_part", cross_entropy_part<LANES, T>,
                                                        dim3((unsigned)rows), dim3(LANES), 0, width,
                                                        static_cast<const T *>(logits), ld, target, first, smoothing,
                                                        part)));
}

void orri_cuda_cross_entropy_join(struct orr_cuda *cuda, int rows, int parts, const float *const part[],
                                  const int32_t *target, float *norm, float *loss)
{
    struct parts all = {};

    for (int t = 0; t < parts; t++)
        all.part[t] = part[t];
    orri_launch(cuda, "cross_entropy_join", cross_entropy_join, dim3(orri_pieces((size_t)rows, ORRI_THREADS)),
                dim3(ORRI_THREADS), 0, rows, parts, all, target, norm, loss);
}

void orri_cuda_cross_entropy_part_gradient(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, void *logits,
                                           int ld, const int32_t *target, int first, struct orri_smoothing smoothing,
                                           const float *norm, const float *loss_scale)
{
    ORRI_WITH_TYPE(dtype, WITH_LANES(width, orri_launch(cuda, "cross_entropy_part_gradient",
                                                        cross_entropy_part_gradient<LANES, T>, dim3((unsigned)rows), dim3(LANES),
                                                        0, width, static_cast<T *>(logits), ld, target, first, smoothing,
                                                        norm, loss_scale)));
}
