/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math_cuda.h"
#include "codelets/math/philox_cuda.h"
#include "core/kernel_cuda.h"

namespace {

/* ---- rows with a bias ---------------------------------------------------------------------------------------- */

template <typename T> struct bias_rows {
    size_t width;
    const T *x, *bias;
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        size_t k = r * width + j;
        float sum[N] = {}, b[N];

        if (x)
            orri_load<N>(x + k, sum);
        if (bias) {
            orri_load<N>(bias + j, b);
            for (int i = 0; i < N; i++)
                sum[i] += b[i];
        }
        orri_store<N>(y + k, sum);
    }
};

enum {
    SUM_WARPS = 16,         /* of a block that sums up columns                         */
    SUM_ROWS = 512,         /* that it sums up by itself, most                         */
    SUM_LEAST = 64,         /* that make a block of their own where there are more     */
    SUM_PARTS = 128         /* of these, most                                          */
};

/* Sums of the columns of rows blockIdx.y `count` on, each lane N of them: a warp every SUM_WARPS-th row, then the warps one
 * after the other. */
template <int N, typename T>
__global__ void __launch_bounds__(32 * SUM_WARPS)
column_sums(int rows, int count, int width, const T *x, int ld, float beta, float *sums)
{
    __shared__ float part[SUM_WARPS][32 * N];
    int lane = (int)threadIdx.x, warp = (int)threadIdx.y, columns = (int)blockIdx.x * 32 * N, j = columns + lane * N;
    int from = (int)blockIdx.y * count, to = rows - from < count ? rows : from + count;
    float sum[N] = {};

    if (j < width) {
#pragma unroll 4
        for (int r = from + warp; r < to; r += SUM_WARPS) {
            float v[N];

            orri_load<N>(x + (size_t)r * ld + j, v);
            for (int i = 0; i < N; i++)
                sum[i] += v[i];
        }
    }
    for (int i = 0; i < N; i++)
        part[warp][i * 32 + lane] = sum[i];
    __syncthreads();
    sums += (size_t)blockIdx.y * width;
    for (int i = warp; i < N; i += SUM_WARPS) {
        int at = columns + lane * N + i;
        float total = 0;

        if (at >= width)
            break;
        for (int w = 0; w < SUM_WARPS; w++)
            total += part[w][i * 32 + lane];
        sums[at] = beta == 0 ? total : sums[at] + total;
    }
}

template <typename T>
void sum_columns(struct orr_cuda *cuda, int rows, int parts, int width, const T *x, int ld, float beta, float *sums)
{
    constexpr int WIDE = orri_wide<T>;
    bool wide = orri_is_wide(x) && width % WIDE == 0 && ld % WIDE == 0;
    int count = (rows + parts - 1) / parts;

    orri_launch(cuda, "column_sums", wide ? column_sums<WIDE, T> : column_sums<1, T>,
                dim3(orri_pieces((size_t)width, 32 * (wide ? WIDE : 1)), (unsigned)parts), dim3(32, SUM_WARPS), 0, rows, count,
                width, x, ld, beta, sums);
}

int sum_parts(int rows)
{
    int parts = (rows + SUM_LEAST - 1) / SUM_LEAST;

    return rows <= SUM_ROWS ? 1 : parts < SUM_PARTS ? parts : SUM_PARTS;
}

/* ---- elements ------------------------------------------------------------------------------------------------------ */

template <typename T> struct sum {
    int parts;
    const T *part[ORR_MAX_SHARDS];
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t k) const
    {
        float total[N], v[N];

        orri_load<N>(part[0] + k, total);
        for (int t = 1; t < parts; t++) {
            orri_load<N>(part[t] + k, v);
            for (int i = 0; i < N; i++)
                total[i] += v[i];
        }
        orri_store<N>(y + k, total);
    }
};

/* Rows are the stretches. */
template <typename T> struct dropout {
    struct orri_device_dropout d;
    size_t count;
    uint64_t first, stride;
    const T *x, *residual;
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t b, size_t k) const
    {
        size_t from = b * count + k;
        uint32_t word[N];
        float v[N], before[N];

        orri_philox_words<N>(d.rng, first + b * stride + k, word);
        orri_load<N>(x + from, v);
        for (int i = 0; i < N; i++)
            v[i] = orri_drop(d, word[i], v[i]);
        if (residual) {
            orri_load<N>(residual + from, before);
            for (int i = 0; i < N; i++)
                v[i] += before[i];
        }
        orri_store<N>(y + from, v);
    }
};

}

void orri_cuda_bias_rows(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *x,
                         const void *bias, void *y)
{
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "bias_rows", (size_t)rows, (size_t)width, orri_is_wide(x, bias, y),
                                    bias_rows<T>{(size_t)width, static_cast<const T *>(x), static_cast<const T *>(bias),
                                                 static_cast<T *>(y)}));
}

size_t orri_cuda_bias_backward_scratch(int rows, int width)
{
    int parts = sum_parts(rows);

    return parts > 1 ? (size_t)parts * (size_t)width * sizeof(float) : 0;
}

void orri_cuda_bias_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int rows, int width, const void *dy, int ld,
                             float beta, float *db, void *scratch)
{
    int parts = sum_parts(rows);
    float *part = static_cast<float *>(scratch);

    ORRI_WITH_TYPE(dtype, sum_columns(cuda, rows, parts, width, static_cast<const T *>(dy), ld, parts > 1 ? 0 : beta,
                                      parts > 1 ? part : db));
    if (parts > 1)
        sum_columns(cuda, parts, 1, width, part, width, beta, db);
}

template <typename T>
static void sum_parts_of(struct orr_cuda *cuda, size_t count, int parts, const void *const part[], T *y)
{
    struct sum<T> f = {};
    bool wide = orri_is_wide(y);

    f.parts = parts;
    f.y = y;
    for (int t = 0; t < parts; t++) {
        f.part[t] = static_cast<const T *>(part[t]);
        wide = wide && orri_is_wide(part[t]);
    }
    orri_each(cuda, "sum", count, wide, f);
}

void orri_cuda_sum(struct orr_cuda *cuda, enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y)
{
    ORRI_WITH_TYPE(dtype, sum_parts_of(cuda, count, parts, part, static_cast<T *>(y)));
}

/* Wide only where every pack begins with the first of four words. What goes on in the stream is one stretch. */
void orri_cuda_dropout(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count,
                       uint64_t first, uint64_t stride, const void *x, const void *residual, void *y)
{
    bool wide = orri_is_wide(x, residual, y) && first % 4 == 0 && stride % 4 == 0;

    if (stride == count) {
        count *= (size_t)batch;
        batch = 1;
    }
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "dropout", (size_t)batch, count, wide,
                                    dropout<T>{orri_device_dropout(d), count, first, stride, static_cast<const T *>(x),
                                               static_cast<const T *>(residual), static_cast<T *>(y)}));
}
